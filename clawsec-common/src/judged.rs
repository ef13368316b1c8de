//! What a run of the clocked program returns: the action, and which counter the packet moved.
//!
//! Only `clawsec_xdp_clocked` returns it, and that program is run and never attached: a driver
//! would take such a value for an unknown action and drop the packet.

#![expect(
    clippy::inline_always,
    reason = "a function that is not inlined is a call in BPF, with the verifier's limits on it"
)]

/// `XDP_DROP` and `XDP_PASS` of `linux/bpf.h`; the lowest bits of the value.
pub const XDP_DROP: u32 = 1;
pub const XDP_PASS: u32 = 2;

const ACTION_BITS: u32 = 8;

/// One value of action and counter. The counter is kept plus one, so that a bare action (of an
/// object from before) is told from one that counted under counter 0.
#[must_use]
#[inline(always)]
pub const fn encode(action: u32, counter: u32) -> u32 {
    action | (counter + 1) << ACTION_BITS
}

/// Action and counter; `None` for a value that names no counter.
#[must_use]
pub const fn decode(value: u32) -> Option<(u32, u32)> {
    match (value >> ACTION_BITS).checked_sub(1) {
        Some(counter) => Some((value & ((1 << ACTION_BITS) - 1), counter)),
        None => None,
    }
}
