//! Drops named to their sources, limited where they arise.
//!
//! Each CPU counts drops by source and reason in places of its own, without a lock or an atomic
//! operation. The first drop of a source and reason is an event at once, then at most one a
//! second, each with the running total, so that a lost event loses nothing. A flood of forged
//! sources finds the places taken and the budget spent, and is then only counted: it costs one
//! look into a set and no event.

use clawsec_common::abi::{
    Budget, EVENT_INTERVAL_NS, NEW_TALLIES_PER_SECOND, PacketRecord, TALLY_IDLE_NS, TALLY_SETS,
    Tally, TallyKey, TallySet,
};
use clawsec_common::reason::{Reason, Stat};

use crate::kernel::{Kernel, Slot};
use crate::parse::Facts;

/// Adds one to the total of this source and reason, and tells the daemon when it is time.
#[inline(always)]
pub fn dropped<K: Kernel>(reason: Reason, facts: &Facts, slot: &Slot, kernel: &K) {
    let tick_ns = kernel.tick_ns();
    let key = TallyKey {
        source: facts.source_key(),
        reason: reason as u64 | if slot.observe { TallyKey::OBSERVED } else { 0 },
    };
    let set = set_of(&key);
    let found = kernel.with_tallies(set, |set| count(set, &key, tick_ns));
    let due = match found {
        Some(Found::Counted) => return,
        Some(Found::Due(due)) => Some(due),
        Some(Found::Idle) => begin(kernel, set, &key, tick_ns),
        Some(Found::Full) | None => None,
    };
    let Some(Due { total, created_ns }) = due else {
        kernel.stat(Stat::Unattributed);
        return;
    };
    let [source_port_be, dest_port_be] = facts.ports_be();
    let record = PacketRecord {
        at_ns: kernel.now_ns(),
        generation: slot.generation,
        total,
        created_ns,
        source_be: facts.source.address_be(),
        ifindex: kernel.ifindex(),
        source_port_be,
        dest_port_be,
        reason: reason as u8,
        observed: u8::from(slot.observe),
        family: facts.family,
        protocol: facts.protocol as u8,
        cpu: kernel.cpu(),
    };
    if !kernel.emit(&record) {
        kernel.stat(Stat::EventNotSent);
    }
}

/// What an event says of its tally.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Due {
    total: u64,
    created_ns: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Found {
    /// Counted, and the second since the last event runs.
    Counted,
    /// Counted, and it is time for an event.
    Due(Due),
    /// Not counted: not held, and a place is empty or its source has been silent.
    Idle,
    /// Not counted, and no place is to be had.
    Full,
}

/// Adds one if the set holds the key.
#[inline(always)]
fn count(set: &mut TallySet, key: &TallyKey, tick_ns: u64) -> Found {
    let mut idle = false;
    for tally in &mut set.ways {
        if tally.key == *key && tally.created_ns != 0 {
            tally.total += 1;
            tally.seen_ns = tick_ns;
            if tick_ns.saturating_sub(tally.emitted_ns) < EVENT_INTERVAL_NS {
                return Found::Counted;
            }
            tally.emitted_ns = tick_ns;
            return Found::Due(Due {
                total: tally.total,
                created_ns: tally.created_ns,
            });
        }
        idle |= is_idle(tally, tick_ns);
    }
    if idle { Found::Idle } else { Found::Full }
}

/// Takes an idle place for the key, if this CPU's budget allows.
#[inline(always)]
fn begin<K: Kernel>(kernel: &K, set: u32, key: &TallyKey, tick_ns: u64) -> Option<Due> {
    if !kernel.with_budget(|budget| spend(budget, tick_ns))? {
        return None;
    }
    let created_ns = kernel.now_ns().max(1);
    let cpu = kernel.cpu();
    kernel.with_tallies(set, |set| {
        for tally in &mut set.ways {
            if is_idle(tally, tick_ns) {
                *tally = Tally {
                    created_ns,
                    key: *key,
                    total: 1,
                    emitted_ns: tick_ns,
                    seen_ns: tick_ns,
                    cpu,
                    reserved: 0,
                };
                return Some(Due {
                    total: 1,
                    created_ns,
                });
            }
        }
        None
    })?
}

/// Whether the place is empty, or its source has been silent for long enough.
#[inline(always)]
fn is_idle(tally: &Tally, tick_ns: u64) -> bool {
    tally.created_ns == 0 || tick_ns.saturating_sub(tally.seen_ns) >= TALLY_IDLE_NS
}

/// The set that a source and reason are counted in. Who may forge sources can crowd a set on
/// purpose; what that hides is a name, never a drop.
#[inline(always)]
#[expect(
    clippy::cast_possible_truncation,
    reason = "the highest bits are meant"
)]
fn set_of(key: &TallyKey) -> u32 {
    const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;
    let [first, second] = key.source.words;
    let mixed = first ^ second.rotate_left(29) ^ key.reason << 17;
    (mixed.wrapping_mul(GOLDEN) >> (64 - TALLY_SETS.ilog2())) as u32
}

/// Whether this CPU may begin another tally in this second.
#[inline(always)]
fn spend(budget: &mut Budget, tick_ns: u64) -> bool {
    if tick_ns.saturating_sub(budget.second_ns) >= 1_000_000_000 {
        budget.second_ns = tick_ns;
        budget.used = 0;
    }
    if budget.used >= NEW_TALLIES_PER_SECOND {
        return false;
    }
    budget.used += 1;
    true
}

#[cfg(test)]
mod tests {
    use clawsec_common::abi::SourceKey;

    use super::*;

    #[test]
    fn a_budget_lasts_one_second() {
        let mut budget = Budget::default();
        let second = 1_000_000_000;
        let mut spent = |now_ns, tries| (0..tries).filter(|_| spend(&mut budget, now_ns)).count();
        for (row, now_ns, tries, expected) in [
            ("all of it", 5 * second, 1500, 256),
            ("nothing left", 6 * second - 1, 10, 0),
            ("the next second", 6 * second, 1500, 256),
            ("a clock that steps back gives nothing", second, 10, 0),
        ] {
            assert_eq!(spent(now_ns, tries), expected, "{row}");
        }
    }

    fn key(last: u8) -> TallyKey {
        TallyKey {
            source: SourceKey::v4([192, 0, 2, last]),
            reason: 5,
        }
    }

    fn held(last: u8, seen_ns: u64) -> Tally {
        Tally {
            created_ns: 1,
            key: key(last),
            total: 7,
            emitted_ns: 4 * SECOND_NS,
            seen_ns,
            cpu: 0,
            reserved: 0,
        }
    }

    const SECOND_NS: u64 = 1_000_000_000;

    #[test]
    fn a_place_is_kept_while_its_source_goes_on() {
        let now_ns = 5 * SECOND_NS;
        let due = Found::Due(Due {
            total: 8,
            created_ns: 1,
        });
        let empty = Tally::default();
        for (row, ways, expected) in [
            ("nothing held", [empty, empty], Found::Idle),
            ("held, a second since", [held(1, 0), empty], due),
            (
                "held in the other place",
                [held(2, now_ns), held(1, 0)],
                due,
            ),
            (
                "two that go on",
                [held(2, now_ns), held(3, now_ns)],
                Found::Full,
            ),
            (
                "one that is silent",
                [held(2, now_ns), held(3, 0)],
                Found::Idle,
            ),
        ] {
            let mut set = TallySet { ways };
            assert_eq!(count(&mut set, &key(1), now_ns), expected, "{row}");
        }
        let mut set = TallySet {
            ways: [held(1, 0), empty],
        };
        let early = 4 * SECOND_NS + 1;
        assert_eq!(count(&mut set, &key(1), early), Found::Counted);
        assert_eq!(set.ways[0].total, 8);
        let unknown = TallyKey::default();
        let mut set = TallySet::default();
        assert_eq!(count(&mut set, &unknown, now_ns), Found::Idle, "all zeros");
    }

    #[test]
    fn sources_spread_over_all_sets() {
        let mut sets = std::collections::HashSet::new();
        for last in 0..=255 {
            sets.insert(set_of(&key(last)));
        }
        assert!(sets.iter().all(|set| *set < TALLY_SETS));
        assert!(sets.len() > 200, "{}", sets.len());
    }
}
