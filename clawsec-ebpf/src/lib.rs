//! The decision about one packet, as it runs in the kernel and, the very same code, on the host.
//!
//! Invariant: nothing here names a BPF helper, a map or a clock. The packet and everything the
//! decision looks up come through the traits of `packet` and `kernel`, which the thin BPF binary
//! implements with maps and the tests with plain values.

#![cfg_attr(not(test), no_std)]
#![expect(
    clippy::inline_always,
    reason = "a function that is not inlined is a call in BPF, with the verifier's limits on it"
)]

pub mod decide;
pub mod gcra;
pub mod kernel;
pub mod packet;
pub mod parse;
pub mod report;
