//! The BPF binary: XDP and tcx programs around one decision.
//!
//! On any other target this is an empty program, so that the whole workspace builds with stable
//! Rust; the BPF half builds with `cargo xtask build`.

#![cfg_attr(target_arch = "bpf", no_std, no_main)]
// Atomics for the BPF target: see `bpf::atomic`.
#![cfg_attr(target_arch = "bpf", feature(core_intrinsics, asm_experimental_arch))]
#![cfg_attr(
    target_arch = "bpf",
    expect(
        internal_features,
        reason = "the target declares no compare-and-swap, so `core::sync::atomic` has none"
    )
)]

#[cfg(not(target_arch = "bpf"))]
fn main() {}

#[cfg(target_arch = "bpf")]
mod bpf;
