//! The kernel tier: the very object that is attached, run through `BPF_PROG_TEST_RUN`.
//!
//! Needs root and `target/bpf/clawsec.o`. Nothing here skips: without either a test fails and
//! says what is missing; `xtask test` decides whether the tier can run.

mod abi;
mod contention;
mod cost;
mod enforcer;
mod frame;
mod golden;
mod load;
mod mock;
mod prefixes;
mod program;
mod property;
pub(crate) mod random;
mod rows;
mod tcx;
mod verdict;
