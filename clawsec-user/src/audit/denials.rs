//! Who was refused what, by which rule; what was lost; what the daemon said of itself.
//!
//! Constant memory, all cores. Kernel drops are not among the refusals: there are too many of them
//! and nobody is named, `stats` ranks them by source and reason.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::ops::ControlFlow;
use std::path::Path;

use super::blocks::{Blocks, lines};
use super::entry::{DROP, LOST};
use super::filter::Filter;
use super::glance::Glance;
use super::parts::ReadError;
use super::record::Record;
use super::scan::{OnProgress, Piece, scan};
use super::stamp::Stamp;
use crate::event::{EventKind, Outcome};

/// What was refused or failed, most frequent first, and how whole the log is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Denials {
    pub rows: Vec<(Denial, Times)>,
    /// Occurrences that no row has.
    pub others: u64,
    /// Whatever else was asked for, of all records of that time.
    pub losses: Losses,
}

/// The same thing refused to the same one.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Denial {
    pub event: EventKind,
    pub action: String,
    pub outcome: Outcome,
    pub reason: String,
    pub rule: Option<String>,
    pub source: Option<IpAddr>,
    pub principal: Option<String>,
    pub user: Option<String>,
    pub tool: Option<String>,
}

/// How often, from when to when.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Times {
    pub count: u64,
    pub first: Stamp,
    pub last: Stamp,
}

/// What the log does not have, as far as the log itself can say.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Losses {
    /// Events that never became records.
    pub lost: u64,
    /// Of them, by event, where that is known.
    pub lost_by_event: BTreeMap<String, u64>,
    /// Kernel drops that are counted without a source.
    pub not_attributed: u64,
    /// Lines that are no records.
    pub unreadable: u64,
    /// What went wrong with the daemon, by action and reason.
    pub notices: BTreeMap<(String, String), Times>,
}

/// Collects them; the second value names what could not be read.
///
/// # Errors
/// `Missing` when there is no log, and when a part cannot be read at all.
pub fn denials(
    log: &Path,
    filter: &Filter,
    top: usize,
    progress: OnProgress<'_>,
) -> Result<(Denials, Vec<ReadError>), ReadError> {
    let mut blocks = Blocks::open(log)?;
    let mut damages = Vec::new();
    let found = scan(
        &mut blocks,
        progress,
        Found::default,
        |found, block| {
            for (_, line, whole) in lines(&block.text) {
                if whole {
                    found.line(line, filter);
                }
            }
        },
        |piece| {
            if let Piece::Damage(error) = piece {
                damages.push(error);
            }
            ControlFlow::Continue(())
        },
    );
    let sum = found.into_iter().reduce(|mut sum, found| {
        sum.merge(found);
        sum
    });
    Ok((sum.unwrap_or_default().finish(top), damages))
}

/// What one worker has found.
#[derive(Debug, Default)]
struct Found {
    rows: HashMap<Denial, Times>,
    others: u64,
    unnamed: u64,
    settled: u64,
    losses: Losses,
}

impl Found {
    fn line(&mut self, line: &[u8], filter: &Filter) {
        let Ok(record) = Glance::parse(line) else {
            self.losses.unreadable += 1;
            return;
        };
        if !filter.takes_time(&record) {
            return;
        }
        let is_drop = record.event == EventKind::Network && record.action == DROP;
        if is_drop {
            add(&mut self.settled, record.settles);
            if record.src.is_none() {
                add(&mut self.unnamed, record.count);
            }
        } else if record.event == EventKind::System {
            self.notice(&record);
        } else if record.outcome != Outcome::Allow && filter.takes_all_but_time(&record) {
            // What a glance saw to be a record is one.
            let Ok(record) = Record::parse(line) else {
                return;
            };
            self.denial(record);
        }
    }

    fn notice(&mut self, record: &Glance<'_>) {
        if record.outcome == Outcome::Allow {
            return;
        }
        if record.action == LOST {
            add(&mut self.losses.lost, record.count);
            for (event, count) in record.totals.iter().flatten() {
                add(
                    self.losses.lost_by_event.entry(event.clone()).or_default(),
                    *count,
                );
            }
        }
        let key = (record.action.to_string(), record.reason.to_string());
        let times = Times {
            count: record.count,
            first: record.began(),
            last: record.ts,
        };
        // A tampered log must not fill memory.
        if self.losses.notices.len() < NOTICES_KEPT || self.losses.notices.contains_key(&key) {
            self.losses
                .notices
                .entry(key)
                .and_modify(|sum| sum.merge(times))
                .or_insert(times);
        }
    }

    fn denial(&mut self, record: Record) {
        let times = Times {
            count: record.occurrences(),
            first: record.first.unwrap_or(record.ts),
            last: record.ts,
        };
        let denial = Denial {
            event: record.event,
            action: record.action.into_owned(),
            outcome: record.outcome,
            reason: record.reason.into_owned(),
            rule: record.rule,
            source: record.src.map(|source| source.ip),
            principal: record.principal,
            user: record.user,
            tool: record.tool.map(|tool| tool.name),
        };
        self.add(denial, times);
    }

    fn add(&mut self, denial: Denial, times: Times) {
        self.rows
            .entry(denial)
            .and_modify(|sum| sum.merge(times))
            .or_insert(times);
        if self.rows.len() >= 2 * ROWS_KEPT {
            let rows = std::mem::take(&mut self.rows);
            let mut rows: Vec<_> = rows.into_iter().collect();
            rows.sort_unstable_by(most_first);
            self.give_up(rows.split_off(ROWS_KEPT));
            self.rows = rows.into_iter().collect();
        }
    }

    fn give_up(&mut self, rows: Vec<(Denial, Times)>) {
        for (_, times) in rows {
            add(&mut self.others, times.count);
        }
    }

    fn merge(&mut self, other: Self) {
        for (denial, times) in other.rows {
            self.add(denial, times);
        }
        add(&mut self.others, other.others);
        add(&mut self.unnamed, other.unnamed);
        add(&mut self.settled, other.settled);
        self.losses.unreadable += other.losses.unreadable;
        add(&mut self.losses.lost, other.losses.lost);
        for (event, count) in other.losses.lost_by_event {
            add(self.losses.lost_by_event.entry(event).or_default(), count);
        }
        for (key, times) in other.losses.notices {
            self.losses
                .notices
                .entry(key)
                .and_modify(|sum| sum.merge(times))
                .or_insert(times);
        }
    }

    fn finish(mut self, top: usize) -> Denials {
        let rows = std::mem::take(&mut self.rows);
        let mut rows: Vec<_> = rows.into_iter().collect();
        rows.sort_unstable_by(most_first);
        let rest = rows.split_off(rows.len().min(top));
        self.give_up(rest);
        Denials {
            rows,
            others: self.others,
            losses: Losses {
                not_attributed: self.unnamed.saturating_sub(self.settled),
                ..self.losses
            },
        }
    }
}

impl Times {
    fn merge(&mut self, other: Self) {
        add(&mut self.count, other.count);
        self.first = self.first.min(other.first);
        self.last = self.last.max(other.last);
    }
}

/// Ties go to the later one, then by name, so that the same log gives the same rows.
fn most_first((a, of_a): &(Denial, Times), (b, of_b): &(Denial, Times)) -> std::cmp::Ordering {
    (of_b.count, of_b.last)
        .cmp(&(of_a.count, of_a.last))
        .then_with(|| a.cmp(b))
}

fn add(sum: &mut u64, count: u64) {
    *sum = sum.saturating_add(count);
}

/// After rare ones were given up; before, twice as many: about 10 MiB a worker.
const ROWS_KEPT: usize = 16_384;
/// There are some thirty pairs of an action and a reason.
const NOTICES_KEPT: usize = 1_024;

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::audit::{Chain, Digest, Entry};
    use crate::event::{Event, ToolFact};

    fn line(at: i64, event: Event) -> Vec<u8> {
        let mut line = Vec::new();
        let entry = Entry::new(event, Stamp::from_micros(at));
        Record::new(&entry, 1, Digest::ZERO).encode(&Chain::new(None), &mut line);
        line
    }

    fn refused(tool: &str, count: u64) -> Event {
        let mut event = Event::new(EventKind::Tool, "invoke", Outcome::Deny, "tool_denied");
        event.principal = Some("phone".to_owned());
        event.count = count;
        event.tool = Some(ToolFact {
            name: tool.to_owned(),
            args_bytes: 0,
        });
        event
    }

    fn of(lines: &[Vec<u8>], filter: &Filter, top: usize) -> Denials {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("audit.log");
        fs::write(&log, lines.concat()).unwrap();
        denials(&log, filter, top, &mut |_| {}).unwrap().0
    }

    #[test]
    fn refusals_are_summed_by_what_and_whom_and_the_rest_is_counted() {
        let drop = || Event::new(EventKind::Network, "drop", Outcome::Deny, "banned");
        let lines = [
            line(1, refused("exec", 2)),
            line(9, refused("exec", 3)),
            line(5, refused("bash", 4)),
            line(6, refused("read", 1)),
            line(
                2,
                Event::new(EventKind::Auth, "connect", Outcome::Allow, "ok"),
            ),
            line(3, drop()),
        ];
        let found = of(&lines, &Filter::default(), 2);
        let rows: Vec<_> = found
            .rows
            .iter()
            .map(|(denial, times)| {
                let (first, last) = (times.first.micros(), times.last.micros());
                (denial.tool.as_deref().unwrap(), times.count, first, last)
            })
            .collect();
        assert_eq!(rows, [("exec", 5, 1, 9), ("bash", 4, 5, 5)]);
        assert_eq!((found.others, found.losses.not_attributed), (1, 1));
    }

    #[test]
    fn losses_are_those_of_the_time_whatever_else_is_asked_for() {
        let mut lost = Event::new(EventKind::System, "lost", Outcome::Error, "queue_full");
        lost.count = 7;
        let mut entry = Entry::new(lost.clone(), Stamp::from_micros(50));
        entry.totals = Some(BTreeMap::from([("auth".to_owned(), 7)]));
        let mut with_totals = Vec::new();
        Record::new(&entry, 1, Digest::ZERO).encode(&Chain::new(None), &mut with_totals);
        let lines = [
            line(10, lost),
            with_totals,
            line(60, refused("exec", 1)),
            b"not a record\n".to_vec(),
        ];
        let filter = Filter {
            since: Some(Stamp::from_micros(20)),
            users: vec!["nobody".to_owned()],
            ..Filter::default()
        };
        let found = of(&lines, &filter, 10);
        assert!(found.rows.is_empty());
        assert_eq!((found.losses.lost, found.losses.unreadable), (7, 1));
        assert_eq!(found.losses.lost_by_event["auth"], 7);
        let key = ("lost".to_owned(), "queue_full".to_owned());
        assert_eq!(found.losses.notices[&key].count, 7);
    }

    #[test]
    fn a_flood_of_names_takes_bounded_memory_and_keeps_the_frequent() {
        let mut found = Found::default();
        for number in 0..100_000_u64 {
            let event = refused(&number.to_string(), 1 + u64::from(number == 77));
            let entry = Entry::new(event, Stamp::from_micros(1));
            found.denial(Record::new(&entry, 1, Digest::ZERO));
        }
        assert!(found.rows.len() <= 2 * ROWS_KEPT);
        let found = found.finish(1);
        assert_eq!(found.rows[0].0.tool.as_deref(), Some("77"));
        assert_eq!(found.others, 99_999);
    }
}
