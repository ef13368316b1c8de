//! The kernel tier: the very object that is attached, run through `BPF_PROG_TEST_RUN`.
//!
//! Needs root and `target/bpf/clawsec.o`. Nothing here skips: without either a test fails and
//! says what is missing; `xtask test` decides whether the tier can run.

mod abi;
mod both;
mod contention;
mod cost;
mod edges;
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

/// So many runs, or fewer where the CPU is emulated: `CLAWSEC_RUNS_DIVIDED_BY`.
fn runs(full: u32) -> u32 {
    let by = std::env::var("CLAWSEC_RUNS_DIVIDED_BY").ok();
    full / by.map_or(1, |by| by.parse().expect("a number"))
}
