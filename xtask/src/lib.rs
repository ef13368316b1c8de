//! What the demo (`cargo xtask run`) and the tests share: a network and a stand-in gateway.

pub mod lab;
pub mod standin;
