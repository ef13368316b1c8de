//! Keys and values of the maps, and the event record: fixed size, no padding, asserted.
//!
//! Addresses and ports cross in network order as byte arrays; counts, times and numbers in the
//! host's order. Times are nanoseconds of one of two clocks. `CLOCK_MONOTONIC`, read coarsely in the
//! kernel (a tick behind at most), stands where the daemon writes or reads a time. The other counts
//! the kernel's ticks (`bpf_jiffies64`), whose reading costs nothing: buckets and whatever else only
//! the program compares. The two begin at different times. No `bool`, reference, `usize` or enum crosses. A change here needs a new
//! `SCHEMA`, which makes a daemon start fresh maps in a folder of their own.

mod report;
mod source;

use crate::reason::{Reason, Stat};
use crate::tree::{COMPACT_KEYS, LEAF_KEYS, NODE_ENTRIES, TreeNode};

pub use report::{Budget, PacketRecord, Tally, TallyKey, TallySet};
pub use source::SourceKey;

/// The version of everything below; the name of the folder that maps and links are pinned in.
pub const SCHEMA: u32 = 3;

/// Policies held at once: the one in force and the idle one that the next is written to.
pub const SLOTS: u32 = 2;
/// Prefixes of one address family in one slot; see `tree` for what a lookup costs.
pub const MAX_PREFIXES: u32 = 100_000;
/// Nodes of one slot, 19 MiB: whole pages of 4 and of 64 KiB, since it is mapped. As many prefixes
/// of both families fit, whatever they are: two tables of 4,096 nodes, and behind them one node
/// for each prefix at the worst, or two for an IPv6 host in a /64 of its own.
pub const MAX_NODES: u32 = 309_248;
/// Rate classes of one slot; the highest bit of a leaf's value is not a class's (`tree::DEEPER`).
pub const MAX_CLASSES: u32 = 256;
/// Words of 64 ports each in one slot.
pub const PORT_WORDS: u32 = 1_024;
/// Timed bans of single sources; the map is not an LRU, so that a full one is an error that is
/// said. Memory is taken as bans are made, about 100 bytes each, beside 16 MiB of hash buckets.
pub const MAX_BANS: u32 = 1_000_000;
/// Timed bans of prefixes, and timed admissions.
pub const MAX_TIMED_PREFIXES: u32 = 4_096;
/// Sources with a bucket. Beyond it the least recently used is forgotten and starts anew.
pub const MAX_BUCKETS: u32 = 65_536;
/// Drops are counted by source and reason on each CPU apart: in sets of a few places, of which
/// hashing chooses one. 256 KiB for each CPU.
pub const TALLY_SETS: u32 = 2_048;
pub const TALLY_WAYS: usize = 2;
/// Sources and reasons that one CPU may begin to count in one second: each is an event, and a
/// flood of forged sources must not make the daemon work.
pub const NEW_TALLIES_PER_SECOND: u64 = 256;
/// How long a place's source must have been silent before another may take it.
pub const TALLY_IDLE_NS: u64 = 1_000_000_000;
/// Time between two events of one source and reason.
pub const EVENT_INTERVAL_NS: u64 = 1_000_000_000;
/// Tries to change a bucket before the packet is refused as contended.
pub const CAS_TRIES: u32 = 4;

/// Counters: one of each reason enforced, then one of each only observed.
pub const REASONS: u32 = 19;
pub const COUNTERS: u32 = 2 * REASONS;
pub const STATS: u32 = 4;

/// Names of maps and globals, as they stand in the object.
pub mod name {
    pub const ACTIVE: &str = "ACTIVE";
    pub const SLOTS: &str = "SLOTS";
    pub const PORTS: &str = "PORTS";
    pub const CLASSES: &str = "CLASSES";
    pub const NODES: &str = "NODES";
    pub const BANS: &str = "BANS";
    pub const BAN_PREFIXES: &str = "BAN_PREFIXES";
    pub const ADMISSIONS: &str = "ADMISSIONS";
    pub const TIMED: &str = "TIMED";
    pub const CEILINGS: &str = "CEILINGS";
    pub const BUCKETS: &str = "BUCKETS";
    pub const COUNTERS: &str = "COUNTERS";
    pub const STATS: &str = "STATS";
    pub const TALLIES: &str = "TALLIES";
    pub const EVENTS: &str = "EVENTS";
    pub const CLOCK: &str = "CLOCK";
    /// A `u8` global; 0 lets the verifier remove every log line.
    pub const BPF_LOG: &str = "BPF_LOG";
    /// A `u64` global: nanoseconds of one tick of this kernel (`CONFIG_HZ`).
    pub const TICK_NS: &str = "TICK_NS";
    pub const PROGRAM: &str = "clawsec_xdp";
    /// The same decision at the tcx hook (kernel 6.6).
    pub const PROGRAM_TCX: &str = "clawsec_tcx";
    /// The same decision, with the time read from `CLOCK`.
    pub const PROGRAM_CLOCKED: &str = "clawsec_xdp_clocked";
}

/// What a pinned map must look like before it is believed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MapSpec {
    pub name: &'static str,
    pub key_bytes: u32,
    pub value_bytes: u32,
    pub max_entries: u32,
}

/// The maps that outlive a daemon. `EVENTS` is not among them: each daemon's program gets its
/// own, so that buffers of a dead daemon cannot matter.
pub const PINNED: [MapSpec; 14] = [
    MapSpec::of::<u32, u32>(name::ACTIVE, 1),
    MapSpec::of::<u32, SlotHeader>(name::SLOTS, SLOTS),
    MapSpec::of::<u32, PortWord>(name::PORTS, SLOTS * PORT_WORDS),
    MapSpec::of::<u32, RateClass>(name::CLASSES, SLOTS * MAX_CLASSES),
    MapSpec::of::<u32, TreeNode>(name::NODES, SLOTS * MAX_NODES),
    MapSpec::of::<SourceKey, Expiry>(name::BANS, MAX_BANS),
    MapSpec::of::<LpmKey, Expiry>(name::BAN_PREFIXES, MAX_TIMED_PREFIXES),
    MapSpec::of::<LpmKey, Expiry>(name::ADMISSIONS, MAX_TIMED_PREFIXES),
    MapSpec::of::<u32, TimedCounts>(name::TIMED, 1),
    MapSpec::of::<SourceKey, Bucket>(name::CEILINGS, MAX_BUCKETS),
    MapSpec::of::<SourceKey, Bucket>(name::BUCKETS, MAX_BUCKETS),
    MapSpec::of::<u32, Counter>(name::COUNTERS, COUNTERS),
    MapSpec::of::<u32, u64>(name::STATS, STATS),
    MapSpec::of::<u32, TallySet>(name::TALLIES, TALLY_SETS),
];

/// One policy slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(C)]
pub struct SlotHeader {
    pub generation: u64,
    /// `SlotHeader::OBSERVE` and `SlotHeader::DROP_FRAGMENTS`.
    pub flags: u32,
    /// 1 once the slot has been filled.
    pub filled: u32,
    /// The packet ceiling: time that one packet costs; 0 for none.
    pub packet_interval_ns: u64,
    /// How far a source's packets may run ahead of it.
    pub packet_tolerance_ns: u64,
}

/// 64 ports, the lowest bit the lowest port; index `slot * PORT_WORDS + port / 64`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(C)]
pub struct PortWord {
    pub tcp: u64,
    pub udp: u64,
    pub guarded_tcp: u64,
}

/// One limit on new connections; index `slot * MAX_CLASSES + class`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(C)]
pub struct RateClass {
    /// Time that one new connection costs.
    pub interval_ns: u64,
    /// How far a bucket may run ahead: `(burst - 1) * interval_ns`.
    pub tolerance_ns: u64,
    /// One of the constants; 0 where the policy holds no such class.
    pub kind: u32,
    pub reserved: u32,
}

/// What the longest prefix says; `bits` is how a leaf of the tree holds it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(C)]
pub struct PrefixRule {
    /// `PrefixRule::ALLOW` or `PrefixRule::DENY`.
    pub action: u16,
    /// Index of the rate class.
    pub class: u16,
}

/// When a ban or an admission ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(C)]
pub struct Expiry {
    /// By the program's clock. Of a prefix: the latest end of all that hold it, so that the
    /// longest match alone decides.
    pub expires_ns: u64,
    /// Its own end, as milliseconds since the Unix epoch: what is kept over a restart. 0 where
    /// none was set.
    pub until_ms: u64,
}

/// A prefix of a trie of timed entries: the family and three zeros, then the address, of which
/// IPv4 fills the first four bytes. The length counts from the family on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
#[repr(C)]
pub struct TimedPrefix {
    pub family_be: [u8; 4],
    pub address_be: [u8; 16],
}

/// The kernel's own key of a trie, for its size.
#[repr(C)]
struct LpmKey {
    length: u32,
    prefix: TimedPrefix,
}

/// How many entries the maps of timed entries hold, at least; a lookup in an empty one is saved.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(C)]
pub struct TimedCounts {
    pub bans: u32,
    pub ban_prefixes: u32,
    pub admissions: u32,
    pub reserved: u32,
}

/// A source's bucket: the theoretical arrival time of its next new connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(C)]
pub struct Bucket {
    pub arrival_ns: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(C)]
pub struct Counter {
    pub packets: u64,
    pub bytes: u64,
}

impl SlotHeader {
    /// Count and report, drop nothing.
    pub const OBSERVE: u32 = 1;
    /// Drop every fragment, to whatever port.
    pub const DROP_FRAGMENTS: u32 = 2;
}

impl TimedPrefix {
    /// Bits before the address.
    pub const FAMILY_BITS: u32 = 32;

    #[must_use]
    #[inline(always)]
    pub const fn v4([a, b, c, d]: [u8; 4]) -> Self {
        Self {
            family_be: [4, 0, 0, 0],
            address_be: [a, b, c, d, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
        }
    }

    #[must_use]
    #[inline(always)]
    pub const fn v6(address_be: [u8; 16]) -> Self {
        Self {
            family_be: [6, 0, 0, 0],
            address_be,
        }
    }
}

impl RateClass {
    pub const LIMITED: u32 = 1;
    pub const UNLIMITED: u32 = 2;
}

impl PrefixRule {
    pub const ALLOW: u16 = 1;
    pub const DENY: u16 = 2;

    /// As a leaf of the tree holds it: the action in the lower half, never 0.
    #[must_use]
    #[inline(always)]
    pub const fn bits(self) -> u32 {
        self.action as u32 | (self.class as u32) << 16
    }

    /// As a compact leaf holds it, in 16 bits: neither half of `bits` is above 255.
    #[must_use]
    #[inline(always)]
    #[expect(clippy::cast_possible_truncation, reason = "see above")]
    pub const fn compact(bits: u32) -> u16 {
        (bits as u8 as u16) | ((bits >> 16) as u8 as u16) << 8
    }

    /// The `bits` that `compact` was made from.
    #[must_use]
    #[inline(always)]
    pub const fn of_compact(value: u16) -> u32 {
        (value & 0xff) as u32 | ((value >> 8) as u32) << 16
    }

    /// `None` for 0, the value where no prefix is.
    #[must_use]
    #[inline(always)]
    #[expect(clippy::cast_possible_truncation, reason = "the two halves are meant")]
    pub const fn from_bits(bits: u32) -> Option<Self> {
        match bits {
            0 => None,
            _ => Some(Self {
                action: bits as u16,
                class: (bits >> 16) as u16,
            }),
        }
    }
}

impl MapSpec {
    const fn of<K, V>(name: &'static str, max_entries: u32) -> Self {
        Self {
            name,
            key_bytes: bytes_of::<K>(),
            value_bytes: bytes_of::<V>(),
            max_entries,
        }
    }
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "a const evaluation; no type here is near 4 GiB"
)]
const fn bytes_of<T>() -> u32 {
    size_of::<T>() as u32
}

/// A type whose size is the sum of its fields has no padding.
macro_rules! sized {
    ($($type:ty = $bytes:expr,)*) => {
        $(const _: () = assert!(size_of::<$type>() == $bytes, stringify!($type));)*
        #[cfg(feature = "user")]
        mod pod {
            use super::*;
            $(
                // SAFETY: `repr(C)`, integers and byte arrays only, and the assertion above says
                // that the size is the sum of the fields, so that no byte is padding.
                unsafe impl aya::Pod for $type {}
            )*
        }
    };
}

sized! {
    SourceKey = 16,
    SlotHeader = 8 + 4 + 4 + 8 + 8,
    PortWord = 8 + 8 + 8,
    RateClass = 8 + 8 + 4 + 4,
    TreeNode = 8 * 8,
    Expiry = 8 + 8,
    TimedPrefix = 4 + 16,
    TimedCounts = 4 * 4,
    Bucket = 8,
    Counter = 8 + 8,
    TallyKey = 16 + 8,
    Tally = 8 + 24 + 3 * 8 + 4 + 4,
    TallySet = 2 * 64,
    Budget = 8 + 8,
    PacketRecord = 4 * 8 + 16 + 4 + 2 + 2 + 4 + 4,
}

const _: () = assert!(Reason::ALL.len() == REASONS as usize);
const _: () = assert!(Stat::ALL.len() == STATS as usize);
const _: () = assert!(MAX_CLASSES <= 256, "a class has 8 bits in a compact leaf");

const _: () = assert!(
    cfg!(target_endian = "little"),
    "a leaf's values are read by halves"
);

impl TreeNode {
    /// The entries of a part of a table.
    #[must_use]
    #[inline(always)]
    pub const fn entries(&self) -> &[u32; NODE_ENTRIES] {
        // SAFETY: all of the node's 64 bytes, which integers of 4 bytes may be read from.
        unsafe { &*self.words.as_ptr().cast() }
    }

    /// The values of a compact leaf; the last 2 bytes of the node are none.
    #[must_use]
    #[inline(always)]
    pub const fn compact_values(&self) -> &[u16; COMPACT_KEYS + 1] {
        let values = self.words.as_ptr().wrapping_add(COMPACT_KEYS / 2).cast();
        // SAFETY: 22 of the node's 64 bytes, from byte 40 on, which integers of 2 bytes may be
        // read from.
        unsafe { &*values }
    }

    /// The values of a leaf: the last three words, the lower half of each first. The verifier
    /// (6.18) follows an index of 4 bytes, and not one of whole words with a shift after it.
    #[must_use]
    #[inline(always)]
    pub const fn values(&self) -> &[u32; LEAF_KEYS + 1] {
        let values = self.words.as_ptr().wrapping_add(LEAF_KEYS).cast();
        // SAFETY: 24 of the node's 64 bytes, from byte 40 on, which integers of 4 bytes may be
        // read from.
        unsafe { &*values }
    }
}

#[cfg(feature = "user")]
impl PacketRecord {
    /// Reads a record as the kernel wrote it, from any alignment.
    #[must_use]
    pub fn from_bytes(bytes: &[u8; size_of::<Self>()]) -> Self {
        // SAFETY: the array has the record's size, any bit pattern is a record (integers and
        // byte arrays only), and the read needs no alignment.
        unsafe { bytes.as_ptr().cast::<Self>().read_unaligned() }
    }
}
