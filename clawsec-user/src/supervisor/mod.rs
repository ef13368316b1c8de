//! The supervisor: root, small, no network input.
//!
//! It owns what is dangerous: BPF objects and links, listening sockets, the docker socket and
//! tool spawning, the audit writer, secrets at rest. It reads nothing that strangers send; the
//! gateway process does, and each of that process's requests is judged here again.

mod acme;
pub mod admin;
mod announce;
pub mod certificate;
mod child;
mod confirm;
mod documents;
mod inherited;
mod interfaces;
mod kernel;
mod link;
mod listen;
mod local;
pub mod lockout;
mod presence;
pub mod privileges;
mod records;
mod reload;
mod secrets;
mod seen;
mod service;
mod signals;
pub mod sockets;
mod start;
mod state;
mod tally;
mod timed;
mod tools;

pub use child::GATEWAY_USER;
pub use interfaces::filtered as filtered_interfaces;
pub use start::{Blame, StartError, run};
pub use state::Options;
