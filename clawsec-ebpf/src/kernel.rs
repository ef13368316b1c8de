//! What the decision asks of the kernel: clock, policy, buckets, counters.
//!
//! The BPF binary answers from maps, tests from plain values. The policy's structure is hidden
//! here, so that another one can take its place without a change in `decide`.

use clawsec_common::abi::{
    Budget, PacketRecord, PortWord, PrefixRule, RateClass, SourceKey, TallySet, TimedCounts,
};
use clawsec_common::reason::Stat;

use crate::parse::Facts;

/// 64 bits in memory that other CPUs change too.
pub trait Cell {
    fn load(&self) -> u64;

    /// Writes `new` if the cell holds `old`; otherwise gives what it holds.
    fn compare_exchange(&self, old: u64, new: u64) -> Result<(), u64>;
}

/// The policy in force for one packet. It is read once, so that no packet is judged by two.
#[derive(Debug, Clone, Copy)]
pub struct Slot {
    pub index: u32,
    pub generation: u64,
    pub observe: bool,
    pub drop_fragments: bool,
    /// The limit on packets of any kind.
    pub ceiling: RateClass,
}

pub trait Kernel {
    type Cell: Cell;

    /// Nanoseconds of the monotonic clock, by which the daemon writes ends of bans.
    fn now_ns(&self) -> u64;
    /// Nanoseconds by ticks: costs nothing, begins at another time.
    fn tick_ns(&self) -> u64;

    fn slot(&self) -> Slot;
    fn ports(&self, slot: &Slot, port: u16) -> PortWord;
    /// The rule of the longest prefix that holds the source.
    fn rule(&self, slot: &Slot, facts: &Facts) -> Option<PrefixRule>;
    fn class(&self, slot: &Slot, class: u16) -> Option<RateClass>;

    /// Which maps of timed entries are worth a look.
    fn timed(&self) -> TimedCounts;
    /// When the source's ban ends; 0 for none. Not an `Option`, half of which would be a register
    /// that was never written when there is none: the verifier (6.18) refuses its comparison.
    fn ban_expires_ns(&self, source: &SourceKey) -> u64;
    /// When the last ends of the bans of prefixes that hold the source; 0 for none.
    fn ban_prefix_expires_ns(&self, facts: &Facts) -> u64;
    /// When the last ends of the timed admissions that hold the source; 0 for none.
    fn admission_expires_ns(&self, facts: &Facts) -> u64;

    fn bucket(&self, source: &SourceKey) -> Option<Self::Cell>;
    /// Makes the source's bucket; false if another CPU just did, or there is no room.
    fn make_bucket(&self, source: &SourceKey, arrival_ns: u64) -> bool;
    /// The source's bucket for packets of any kind.
    fn ceiling(&self, source: &SourceKey) -> Option<Self::Cell>;
    fn make_ceiling(&self, source: &SourceKey, arrival_ns: u64) -> bool;

    /// Counts this packet and its bytes under the counter of this index.
    fn count(&self, counter: u32);
    fn stat(&self, stat: Stat);

    /// This CPU's set of this number, which no other CPU writes.
    fn with_tallies<T>(&self, set: u32, judge: impl FnOnce(&mut TallySet) -> T) -> Option<T>;
    /// This CPU's budget, which no other CPU touches.
    fn with_budget<T>(&self, judge: impl FnOnce(&mut Budget) -> T) -> Option<T>;
    /// Hands an event to the daemon; false if it could not be.
    fn emit(&self, record: &PacketRecord) -> bool;
    fn ifindex(&self) -> u32;
    fn cpu(&self) -> u32;
}
