//! The host's side of the same decision: plain values for maps.

use std::cell::{Cell as StdCell, RefCell};
use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::rc::Rc;

use clawsec_common::abi::{
    Budget, PacketRecord, PortWord, PrefixRule, RateClass, SourceKey, TallySet, TimedCounts,
};
use clawsec_common::reason::Stat;
use clawsec_ebpf::kernel::{Cell, Kernel, Slot};
use clawsec_ebpf::parse::Facts;
use ipnet::IpNet;

/// Everything the decision looks up.
#[derive(Default)]
pub(crate) struct Mock {
    pub(crate) now_ns: StdCell<u64>,
    pub(crate) observe: StdCell<bool>,
    pub(crate) ports: HashMap<u16, PortWord>,
    pub(crate) prefixes4: Vec<(u32, [u8; 4], PrefixRule)>,
    pub(crate) prefixes6: Vec<(u32, [u8; 16], PrefixRule)>,
    pub(crate) classes: Vec<RateClass>,
    pub(crate) bans: HashMap<SourceKey, u64>,
    /// Each the only one that holds its sources.
    pub(crate) ban_prefixes: Vec<(IpNet, u64)>,
    pub(crate) admissions: Vec<(IpNet, u64)>,
    pub(crate) drop_fragments: StdCell<bool>,
    pub(crate) ceiling: StdCell<RateClass>,
    pub(crate) counters: RefCell<HashMap<u32, u64>>,
    pub(crate) records: RefCell<Vec<PacketRecord>>,
    ceilings: RefCell<HashMap<SourceKey, HostCell>>,
    buckets: RefCell<HashMap<SourceKey, HostCell>>,
    tallies: RefCell<HashMap<u32, TallySet>>,
    budget: RefCell<Budget>,
}

/// A cell of one thread.
#[derive(Clone, Default)]
pub(crate) struct HostCell(Rc<StdCell<u64>>);

impl HostCell {
    fn holding(value: u64) -> Self {
        Self(Rc::new(StdCell::new(value)))
    }
}

impl Cell for HostCell {
    fn load(&self) -> u64 {
        self.0.get()
    }

    fn compare_exchange(&self, old: u64, new: u64) -> Result<(), u64> {
        let seen = self.0.get();
        if seen != old {
            return Err(seen);
        }
        self.0.set(new);
        Ok(())
    }
}

impl Kernel for Mock {
    type Cell = HostCell;

    fn now_ns(&self) -> u64 {
        self.now_ns.get()
    }

    fn tick_ns(&self) -> u64 {
        self.now_ns.get()
    }

    fn slot(&self) -> Slot {
        Slot {
            index: 0,
            generation: 1,
            observe: self.observe.get(),
            drop_fragments: self.drop_fragments.get(),
            ceiling: self.ceiling.get(),
        }
    }

    fn ports(&self, _: &Slot, port: u16) -> PortWord {
        self.ports.get(&(port >> 6)).copied().unwrap_or_default()
    }

    fn rule(&self, _: &Slot, facts: &Facts) -> Option<PrefixRule> {
        let bits = u128::from_be_bytes(facts.source.address_be());
        if facts.family == 4 {
            let bits = u32::try_from(bits & 0xffff_ffff).unwrap();
            let holds = |(length, network, _): &&(u32, [u8; 4], PrefixRule)| {
                let mask = u32::MAX.checked_shl(32 - length).unwrap_or(0);
                bits & mask == u32::from_be_bytes(*network)
            };
            let longest = self
                .prefixes4
                .iter()
                .filter(holds)
                .max_by_key(|prefix| prefix.0);
            longest.map(|prefix| prefix.2)
        } else {
            let holds = |(length, network, _): &&(u32, [u8; 16], PrefixRule)| {
                let mask = u128::MAX.checked_shl(128 - length).unwrap_or(0);
                bits & mask == u128::from_be_bytes(*network)
            };
            let longest = self
                .prefixes6
                .iter()
                .filter(holds)
                .max_by_key(|prefix| prefix.0);
            longest.map(|prefix| prefix.2)
        }
    }

    fn class(&self, _: &Slot, class: u16) -> Option<RateClass> {
        self.classes
            .get(usize::from(class))
            .copied()
            .filter(|class| class.kind != 0)
    }

    fn timed(&self) -> TimedCounts {
        TimedCounts {
            bans: 1,
            ban_prefixes: 1,
            admissions: 1,
            reserved: 0,
        }
    }

    fn ban_expires_ns(&self, source: &SourceKey) -> u64 {
        self.bans.get(source).copied().unwrap_or(0)
    }

    fn ban_prefix_expires_ns(&self, facts: &Facts) -> u64 {
        longest(&self.ban_prefixes, facts)
    }

    fn admission_expires_ns(&self, facts: &Facts) -> u64 {
        longest(&self.admissions, facts)
    }

    fn ceiling(&self, source: &SourceKey) -> Option<HostCell> {
        self.ceilings.borrow().get(source).cloned()
    }

    fn make_ceiling(&self, source: &SourceKey, arrival_ns: u64) -> bool {
        let bucket = HostCell::holding(arrival_ns);
        self.ceilings.borrow_mut().insert(*source, bucket).is_none()
    }

    fn bucket(&self, source: &SourceKey) -> Option<HostCell> {
        self.buckets.borrow().get(source).cloned()
    }

    fn make_bucket(&self, source: &SourceKey, arrival_ns: u64) -> bool {
        let bucket = HostCell::holding(arrival_ns);
        self.buckets.borrow_mut().insert(*source, bucket).is_none()
    }

    fn count(&self, counter: u32) {
        *self.counters.borrow_mut().entry(counter).or_default() += 1;
    }

    fn stat(&self, _: Stat) {}

    fn with_tallies<T>(&self, set: u32, judge: impl FnOnce(&mut TallySet) -> T) -> Option<T> {
        Some(judge(self.tallies.borrow_mut().entry(set).or_default()))
    }

    fn with_budget<T>(&self, judge: impl FnOnce(&mut Budget) -> T) -> Option<T> {
        Some(judge(&mut self.budget.borrow_mut()))
    }

    fn emit(&self, record: &PacketRecord) -> bool {
        self.records.borrow_mut().push(*record);
        true
    }

    fn ifindex(&self) -> u32 {
        1
    }

    fn cpu(&self) -> u32 {
        0
    }
}

fn longest(prefixes: &[(IpNet, u64)], facts: &Facts) -> u64 {
    let source = Ipv6Addr::from(facts.source.address_be());
    let source = match (facts.family, source.to_ipv4_mapped()) {
        (4, Some(v4)) => IpAddr::V4(v4),
        _ => IpAddr::V6(source),
    };
    let mut holding = prefixes
        .iter()
        .filter(|(prefix, _)| prefix.contains(&source));
    holding.next().map_or(0, |(_, expires_ns)| *expires_ns)
}
