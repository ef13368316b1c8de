//! clawsec's tests in four tiers; `cargo xtask test` says which can run here, and runs them.
//!
//! pure: values only. kernel: the BPF object through BPF_PROG_TEST_RUN. system: a real daemon in
//! network namespaces of its own. peer: the real gateways and their own clients behind it.

#[cfg(test)]
mod kernel;
mod peer;
mod pure;
mod system;
