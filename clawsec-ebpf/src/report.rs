//! Drops named to their sources, limited where they arise.
//!
//! The first drop of a source and reason is an event at once, then at most one a second, each
//! with the running total, so that a lost event loses nothing. A flood of forged sources spends
//! one CPU's budget and is then only counted: it costs neither evictions nor events.

use clawsec_common::abi::{
    Budget, EVENT_INTERVAL_NS, NEW_THROTTLES_PER_SECOND, PacketRecord, ThrottleKey,
};
use clawsec_common::reason::{Reason, Stat};

use crate::kernel::{Cell, Kernel, Slot, ThrottleCells};
use crate::parse::Facts;

/// Adds one to the total of this source and reason, and tells the daemon when it is time.
#[inline(always)]
pub fn dropped<K: Kernel>(reason: Reason, facts: &Facts, slot: &Slot, kernel: &K) {
    let now_ns = kernel.now_ns();
    let key = ThrottleKey {
        source: facts.source_key(),
        reason: reason as u8,
        observed: u8::from(slot.observe),
        reserved: [0; 6],
    };
    let (total, created_ns) = match kernel.throttle(&key) {
        Some(cells) => match add(&cells, now_ns) {
            Some(total) => (total, cells.created_ns),
            None => return,
        },
        None if !kernel
            .with_budget(|budget| spend(budget, now_ns))
            .unwrap_or(false) =>
        {
            kernel.stat(Stat::Unattributed);
            return;
        }
        None if kernel.make_throttle(&key, now_ns) => (1, now_ns),
        // Another CPU made it between the two lookups; its event stands for this drop too.
        None => {
            match kernel.throttle(&key) {
                Some(cells) => cells.total.add(1),
                None => kernel.stat(Stat::Unattributed),
            }
            return;
        }
    };
    let record = PacketRecord {
        at_ns: now_ns,
        generation: slot.generation,
        total,
        created_ns,
        source_be: facts.source_be,
        ifindex: kernel.ifindex(),
        source_port_be: facts.source_port_be,
        dest_port_be: facts.dest_port_be,
        reason: reason as u8,
        observed: u8::from(slot.observe),
        family: facts.family,
        protocol: facts.protocol as u8,
        reserved: [0; 4],
    };
    if !kernel.emit(&record) {
        kernel.stat(Stat::EventNotSent);
    }
}

/// Adds one; the total if this CPU is the one to report it.
#[inline(always)]
fn add<C: Cell>(cells: &ThrottleCells<C>, now_ns: u64) -> Option<u64> {
    cells.total.add(1);
    let emitted_ns = cells.emitted_ns.load();
    if now_ns.saturating_sub(emitted_ns) < EVENT_INTERVAL_NS {
        return None;
    }
    let won = cells
        .emitted_ns
        .compare_exchange(emitted_ns, now_ns)
        .is_ok();
    won.then(|| cells.total.load())
}

/// Whether this CPU may begin another entry in this second.
#[inline(always)]
fn spend(budget: &mut Budget, now_ns: u64) -> bool {
    if now_ns.saturating_sub(budget.second_ns) >= 1_000_000_000 {
        budget.second_ns = now_ns;
        budget.used = 0;
    }
    if budget.used >= NEW_THROTTLES_PER_SECOND {
        return false;
    }
    budget.used += 1;
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_budget_lasts_one_second() {
        let mut budget = Budget::default();
        let second = 1_000_000_000;
        let mut spent = |now_ns, tries| (0..tries).filter(|_| spend(&mut budget, now_ns)).count();
        for (row, now_ns, tries, expected) in [
            ("all of it", 5 * second, 1500, 1000),
            ("nothing left", 6 * second - 1, 10, 0),
            ("the next second", 6 * second, 1500, 1000),
            ("a clock that steps back gives nothing", second, 10, 0),
        ] {
            assert_eq!(spent(now_ns, tries), expected, "{row}");
        }
    }
}
