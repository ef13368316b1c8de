//! The contract between clawsec's kernel program and its daemon: the bytes both sides share.
//!
//! Invariant: nothing here depends on anything but `core` (and on `aya` for its `Pod` marker
//! under the feature `user`). `docs/kernel-abi.md` describes the same in prose.

#![no_std]

pub mod abi;
pub mod judged;
pub mod reason;
