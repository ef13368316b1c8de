//! The contract between clawsec's kernel program and its daemon: the bytes both sides share.
//!
//! Invariant: nothing here depends on anything but `core` (and on `aya` for its `Pod` marker
//! under the feature `user`). `docs/kernel-abi.md` describes the same in prose.

#![no_std]
#![expect(
    clippy::inline_always,
    reason = "a function that is not inlined is a call in BPF, with the verifier's limits on it"
)]

pub mod abi;
pub mod judged;
pub mod reason;
pub mod tree;
