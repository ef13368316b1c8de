//! What is told of drops: running totals by source, and the event.

use super::{SourceKey, TALLY_WAYS};

/// Whose drops, and why. An unknown source (no IP header was read) is all zeros.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[repr(C)]
pub struct TallyKey {
    pub source: SourceKey,
    /// A `Reason`'s number, and `TallyKey::OBSERVED` where the policy only observed.
    pub reason: u64,
}

/// Drops of one source and reason on one CPU since `created_ns`. The time tells a new entry from
/// the one that stood in its place before, so that totals are compared within one life only.
/// Only that CPU writes, without atomics; a reader on another reads twice (`figures`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(C)]
pub struct Tally {
    /// 0 while the place is empty. Monotonic.
    pub created_ns: u64,
    pub key: TallyKey,
    pub total: u64,
    /// When the last event was sent, by ticks.
    pub emitted_ns: u64,
    /// When the last drop was, by ticks.
    pub seen_ns: u64,
    /// The CPU that counts. Its place among the values of a map is another where the numbers of
    /// possible CPUs have gaps.
    pub cpu: u32,
    pub reserved: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(C)]
pub struct TallySet {
    pub ways: [Tally; TALLY_WAYS],
}

/// Budget of new tallies, one for each CPU.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(C)]
pub struct Budget {
    /// By ticks.
    pub second_ns: u64,
    pub used: u64,
}

/// The one event record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub struct PacketRecord {
    /// When this packet was judged. Monotonic.
    pub at_ns: u64,
    /// Generation of the slot that judged.
    pub generation: u64,
    /// `Tally::total` just after this packet.
    pub total: u64,
    /// `Tally::created_ns`.
    pub created_ns: u64,
    /// The packet's own source, IPv4 in mapped form; zeros where none was read.
    pub source_be: [u8; 16],
    pub ifindex: u32,
    pub source_port_be: [u8; 2],
    pub dest_port_be: [u8; 2],
    pub reason: u8,
    pub observed: u8,
    /// 4, 6, or 0 where no IP header was read.
    pub family: u8,
    /// 6 TCP, 17 UDP, 0 not known.
    pub protocol: u8,
    /// Whose tally it is.
    pub cpu: u32,
}

impl TallyKey {
    /// Beside a reason's number.
    pub const OBSERVED: u64 = 1 << 8;
}
