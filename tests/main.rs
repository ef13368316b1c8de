//! clawsec's tests, one binary. A module is a tier's part: `kernel` needs root and the object
//! that `cargo xtask build` makes.

#[cfg(test)]
mod kernel;
