//! clawsec's tests in tiers; `cargo xtask test` says which can run here, and runs them.
//!
//! pure: values only. kernel: the BPF object through BPF_PROG_TEST_RUN. system: a real daemon in
//! network namespaces of its own. peer: the real gateways and their own clients behind it. soak:
//! mixed traffic for as long as one likes.

// `cfg(test)` says to the lints what is true of the whole binary: tests may panic.
#[cfg(test)]
mod attack;
#[cfg(test)]
mod kernel;
#[cfg(test)]
mod openmetrics;
#[cfg(test)]
mod peer;
#[cfg(test)]
mod pure;
#[cfg(test)]
mod schema;
#[cfg(test)]
mod soak;
#[cfg(test)]
mod system;
