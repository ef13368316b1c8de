//! Who or what was met most, in bounded memory.
//!
//! Names are counted one by one until there are too many; then the rarest half gives way, summed as
//! others, and the ranking says that it is no longer exact. What is frequent stays, whenever it
//! begins: a name that gave way comes back with its next occurrence.

use std::collections::HashMap;

use serde::Serialize;

/// A name and how often, denials and errors apart.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Ranked {
    pub name: String,
    pub count: u64,
    pub denied: u64,
    /// Of the trend's later and earlier span.
    pub now: u64,
    pub before: u64,
}

/// The most frequent names.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Top {
    pub names: Vec<Ranked>,
    /// How many different names there were; with `inexact`, at least.
    pub distinct: u64,
    /// So many names that rare ones were given up: counts may be too small by `inexact` at most.
    pub inexact: u64,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Counts {
    pub(super) count: u64,
    pub(super) denied: u64,
    pub(super) now: u64,
    pub(super) before: u64,
}

#[derive(Debug, Default)]
pub(super) struct Ranking {
    counts: HashMap<Box<str>, Counts>,
    /// Of the names that gave way.
    others: Counts,
    inexact: u64,
}

impl Counts {
    pub(super) fn add(&mut self, more: Self) {
        self.count = self.count.saturating_add(more.count);
        self.denied = self.denied.saturating_add(more.denied);
        self.now = self.now.saturating_add(more.now);
        self.before = self.before.saturating_add(more.before);
    }

    /// What decides who gives way.
    fn weight(self) -> u64 {
        self.count.max(self.before)
    }

    fn named(self, name: impl Into<String>) -> Ranked {
        Ranked {
            name: name.into(),
            count: self.count,
            denied: self.denied,
            now: self.now,
            before: self.before,
        }
    }
}

impl Ranking {
    pub(super) fn add(&mut self, name: &str, more: Counts) {
        if let Some(counts) = self.counts.get_mut(name) {
            counts.add(more);
            return;
        }
        self.counts.insert(name.into(), more);
        if self.counts.len() >= 2 * NAMES_KEPT {
            self.give_way();
        }
    }

    pub(super) fn merge(&mut self, other: Self) {
        self.others.add(other.others);
        self.inexact = self.inexact.saturating_add(other.inexact);
        for (name, counts) in other.counts {
            self.add(&name, counts);
        }
    }

    pub(super) fn top(self, top: usize) -> Top {
        let distinct = self.counts.values().filter(|counts| counts.count > 0);
        let distinct = distinct.count() as u64;
        let mut all: Vec<_> = self.counts.into_iter().collect();
        all.sort_unstable_by(|(a_name, a), (b_name, b)| {
            b.count.cmp(&a.count).then_with(|| a_name.cmp(b_name))
        });
        let mut rest = self.others;
        let unranked = all.split_off(all.len().min(top));
        for (_, counts) in unranked {
            rest.add(counts);
        }
        let mut names: Vec<_> = all
            .into_iter()
            .filter(|(_, counts)| counts.count > 0)
            .map(|(name, counts)| counts.named(name))
            .collect();
        if rest.count > 0 {
            names.push(rest.named(OTHERS));
        }
        Top {
            names,
            distinct,
            inexact: self.inexact,
        }
    }

    fn give_way(&mut self) {
        let mut weights: Vec<u64> = self.counts.values().map(|counts| counts.weight()).collect();
        let (_, least, _) = weights.select_nth_unstable(self.counts.len() - NAMES_KEPT);
        let least = *least;
        let above = weights.iter().filter(|weight| **weight > least).count();
        // Of those that weigh alike, as many as there is room for.
        let mut room = NAMES_KEPT - above;
        let others = &mut self.others;
        self.counts.retain(|_, counts| {
            let alike = counts.weight() == least && room > 0;
            room -= usize::from(alike);
            let stays = alike || counts.weight() > least;
            if !stays {
                others.add(*counts);
            }
            stays
        });
        self.inexact = self.inexact.saturating_add(least);
    }
}

/// What stands for all names that are not shown; no name of ours has parentheses.
pub const OTHERS: &str = "(others)";
/// After names gave way; before, twice as many: about 10 MiB.
const NAMES_KEPT: usize = 65_536;

#[cfg(test)]
mod tests {
    use super::*;

    fn count(count: u64) -> Counts {
        Counts {
            count,
            ..Counts::default()
        }
    }

    #[test]
    fn names_beyond_the_top_are_summed() {
        let mut ranking = Ranking::default();
        for (name, times) in [("a", 5), ("b", 9), ("c", 1), ("d", 1)] {
            ranking.add(name, count(times));
        }
        ranking.add(
            "before only",
            Counts {
                before: 3,
                ..Counts::default()
            },
        );
        let top = ranking.top(2);
        let rows: Vec<_> = top
            .names
            .iter()
            .map(|row| (row.name.as_str(), row.count))
            .collect();
        assert_eq!(rows, [("b", 9), ("a", 5), ("(others)", 2)]);
        assert_eq!((top.distinct, top.inexact), (4, 0));
    }

    #[test]
    fn a_flood_of_names_takes_bounded_memory_and_hides_nobody_frequent() {
        let mut ranking = Ranking::default();
        let mut total = 0;
        for number in 0..1_000_000_u64 {
            ranking.add(&number.to_string(), count(1));
            total += 1;
            // Begins when the table is long full.
            if number > 500_000 && number % 10 == 0 {
                ranking.add("late", count(1));
                total += 1;
            }
        }
        assert!(ranking.counts.len() <= 2 * NAMES_KEPT);
        let mut other = Ranking::default();
        other.add("late", count(7));
        ranking.merge(other);
        let top = ranking.top(1);
        assert_eq!(top.names[0].name, "late");
        assert!(top.inexact > 0 && top.names[0].count + top.inexact >= 50_006);
        let sum: u64 = top.names.iter().map(|row| row.count).sum();
        assert_eq!(sum, total + 7, "the sum stays exact");
    }
}
