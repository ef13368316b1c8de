//! What a log amounts to: totals, who, what, why, when, and whether it grows.
//!
//! Counts are occurrences, not lines. Kernel drops that were settled later count for their source
//! and not twice for their reason. Constant memory; all cores.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::Path;

use serde::Serialize;

use super::blocks::{Blocks, lines};
use super::entry::{DROP, LOST};
use super::filter::Filter;
use super::glance::{Glance, Text};
use super::parts::ReadError;
use super::ranking::{Counts, Ranking, Top};
use super::scan::{OnProgress, Piece, scan};
use super::span::{MINUTE_MICROS, Period, Stretch};
use super::stamp::Stamp;
use crate::event::{EventKind, Outcome};

/// The aggregate that `audit stats` prints.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Stats {
    pub records: u64,
    pub unreadable: u64,
    pub first: Option<Stamp>,
    pub last: Option<Stamp>,
    /// By event, then by outcome.
    pub totals: BTreeMap<EventKind, BTreeMap<Outcome, u64>>,
    pub sums: Sum,
    pub reasons: Top,
    pub sources: Top,
    pub principals: Top,
    pub users: Top,
    pub agents: Top,
    pub tools: Top,
    /// Kernel drops without a source.
    pub not_attributed: u64,
    /// Events that could not be written.
    pub lost: u64,
    pub bucket_seconds: u64,
    pub histogram: Vec<Bucket>,
    pub trend: Option<Trend>,
}

/// One stretch of time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Bucket {
    pub start: Stamp,
    #[serde(flatten)]
    pub sums: Sum,
}

/// Occurrences by outcome.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Sum {
    pub allow: u64,
    pub deny: u64,
    pub error: u64,
    /// Of the denied, those that the packet filter dropped.
    pub dropped: u64,
}

/// A span of time and the one of the same length before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Trend {
    pub now: Stretch,
    pub before: Stretch,
    pub now_sums: Sum,
    pub before_sums: Sum,
}

/// Sums a log up; the second value names what could not be read.
///
/// # Errors
/// `Missing` when there is no log, and when a part cannot be read at all.
pub fn summarise(
    log: &Path,
    filter: &Filter,
    top: usize,
    progress: OnProgress<'_>,
) -> Result<(Stats, Vec<ReadError>), ReadError> {
    let period = Period::of(log, filter)?;
    let mut blocks = Blocks::open(log)?;
    let mut damages = Vec::new();
    let tallies = scan(
        &mut blocks,
        progress,
        || Tally::new(period),
        |tally, block| {
            for (_, line, whole) in lines(&block.text) {
                if whole {
                    tally.line(line, filter);
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
    let sum = tallies.into_iter().reduce(|mut sum, tally| {
        sum.merge(tally);
        sum
    });
    Ok((
        sum.unwrap_or_else(|| Tally::new(period)).finish(top),
        damages,
    ))
}

/// What one worker has counted.
#[derive(Debug)]
struct Tally {
    period: Period,
    records: u64,
    unreadable: u64,
    first: Option<Stamp>,
    last: Option<Stamp>,
    totals: BTreeMap<EventKind, BTreeMap<Outcome, u64>>,
    sums: Sum,
    reasons: Ranking,
    sources: Ranking,
    principals: Ranking,
    users: Ranking,
    agents: Ranking,
    tools: Ranking,
    unnamed: u64,
    settled: u64,
    lost: u64,
    /// By the number of the bucket since 1970.
    buckets: BTreeMap<i64, Sum>,
    now: Sum,
    before: Sum,
}

impl Tally {
    fn new(period: Period) -> Self {
        Self {
            period,
            records: 0,
            unreadable: 0,
            first: None,
            last: None,
            totals: BTreeMap::new(),
            sums: Sum::default(),
            reasons: Ranking::default(),
            sources: Ranking::default(),
            principals: Ranking::default(),
            users: Ranking::default(),
            agents: Ranking::default(),
            tools: Ranking::default(),
            unnamed: 0,
            settled: 0,
            lost: 0,
            buckets: BTreeMap::new(),
            now: Sum::default(),
            before: Sum::default(),
        }
    }

    fn line(&mut self, line: &[u8], filter: &Filter) {
        match Glance::parse(line) {
            Ok(record) if filter.takes_all_but_time(&record) => {
                self.record(&record, filter.takes_time(&record));
            }
            Ok(_) => {}
            Err(_) => self.unreadable += 1,
        }
    }

    /// Records outside the period are looked at for the trend alone.
    fn record(&mut self, record: &Glance<'_>, counts: bool) {
        let now = self.period.is_now(record.ts);
        let before = self.period.is_before(record.ts);
        if counts {
            self.totals(record);
        } else if !before {
            return;
        }
        if now {
            self.now.add_record(record);
        }
        if before {
            self.before.add_record(record);
        }
        let of = |times: u64| {
            let when = |yes: bool| if yes { times } else { 0 };
            Counts {
                count: when(counts),
                denied: when(counts && record.outcome != Outcome::Allow),
                now: when(now),
                before: when(before),
            }
        };
        if record.count > 0 {
            self.reasons.add(&record.reason, of(record.count));
        }
        let occurrences = record.occurrences();
        if occurrences == 0 {
            return;
        }
        let occurrences = of(occurrences);
        if let Some(src) = &record.src {
            self.sources.add(&src.ip, occurrences);
        }
        for (ranking, name) in [
            (&mut self.principals, &record.principal),
            (&mut self.users, &record.user),
            (&mut self.agents, &record.agent),
        ] {
            if let Some(name) = name.as_ref().map(Text::as_str) {
                ranking.add(name, occurrences);
            }
        }
        if let Some(name) = record.tool_name() {
            self.tools.add(name, occurrences);
        }
    }

    fn totals(&mut self, record: &Glance<'_>) {
        self.records += 1;
        self.first = earlier(self.first, Some(record.began()));
        self.last = self.last.max(Some(record.ts));
        if record.event == EventKind::System && record.action == LOST {
            add(&mut self.lost, record.count);
        }
        if record.event == EventKind::Network && record.action == DROP {
            add(&mut self.settled, record.settles);
            if record.src.is_none() {
                add(&mut self.unnamed, record.count);
            }
        }
        if record.count > 0 {
            let by_outcome = self.totals.entry(record.event).or_default();
            add(by_outcome.entry(record.outcome).or_default(), record.count);
            self.sums.add_record(record);
            let bucket = record.ts.micros().div_euclid(self.period.bucket_micros);
            self.buckets.entry(bucket).or_default().add_record(record);
            // A clock that was wrong must not fill memory.
            if self.buckets.len() > BUCKETS_KEPT {
                self.buckets.pop_first();
            }
        }
    }

    fn merge(&mut self, other: Self) {
        self.records += other.records;
        self.unreadable += other.unreadable;
        self.first = earlier(self.first, other.first);
        self.last = self.last.max(other.last);
        for (kind, outcomes) in other.totals {
            let sums = self.totals.entry(kind).or_default();
            for (outcome, count) in outcomes {
                add(sums.entry(outcome).or_default(), count);
            }
        }
        self.sums.merge(other.sums);
        self.reasons.merge(other.reasons);
        self.sources.merge(other.sources);
        self.principals.merge(other.principals);
        self.users.merge(other.users);
        self.agents.merge(other.agents);
        self.tools.merge(other.tools);
        add(&mut self.unnamed, other.unnamed);
        add(&mut self.settled, other.settled);
        add(&mut self.lost, other.lost);
        for (bucket, sums) in other.buckets {
            self.buckets.entry(bucket).or_default().merge(sums);
        }
        self.now.merge(other.now);
        self.before.merge(other.before);
    }

    fn finish(self, top: usize) -> Stats {
        let micros = self.period.bucket_micros;
        let bucket = |(number, sums): (i64, Sum)| Bucket {
            start: Stamp::from_micros(number.saturating_mul(micros)),
            sums,
        };
        Stats {
            records: self.records,
            unreadable: self.unreadable,
            first: self.first,
            last: self.last,
            totals: self.totals,
            sums: self.sums,
            reasons: self.reasons.top(top),
            sources: self.sources.top(top),
            principals: self.principals.top(top),
            users: self.users.top(top),
            agents: self.agents.top(top),
            tools: self.tools.top(top),
            not_attributed: self.unnamed.saturating_sub(self.settled),
            lost: self.lost,
            bucket_seconds: (micros / MINUTE_MICROS * 60).unsigned_abs(),
            histogram: self.buckets.into_iter().map(bucket).collect(),
            trend: self.period.trend.map(|(before, now)| Trend {
                now,
                before,
                now_sums: self.now,
                before_sums: self.before,
            }),
        }
    }
}

impl Stats {
    /// The bucket in which most happened.
    pub fn peak(&self) -> Option<&Bucket> {
        self.histogram.iter().max_by_key(|bucket| bucket.sums.all())
    }
}

impl Sum {
    pub fn all(self) -> u64 {
        self.allow
            .saturating_add(self.deny)
            .saturating_add(self.error)
    }

    fn add(&mut self, outcome: Outcome, count: u64) {
        add(
            match outcome {
                Outcome::Allow => &mut self.allow,
                Outcome::Deny => &mut self.deny,
                Outcome::Error => &mut self.error,
            },
            count,
        );
    }

    fn add_record(&mut self, record: &Glance<'_>) {
        self.add(record.outcome, record.count);
        if record.event == EventKind::Network && record.action == DROP {
            add(&mut self.dropped, record.count);
        }
    }

    fn merge(&mut self, other: Self) {
        add(&mut self.allow, other.allow);
        add(&mut self.deny, other.deny);
        add(&mut self.error, other.error);
        add(&mut self.dropped, other.dropped);
    }
}

fn add(sum: &mut u64, count: u64) {
    *sum = sum.saturating_add(count);
}

fn earlier(one: Option<Stamp>, other: Option<Stamp>) -> Option<Stamp> {
    one.into_iter().chain(other).min()
}

const BUCKETS_KEPT: usize = 4_096;

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::audit::chain::{Chain, Digest};
    use crate::audit::entry::Entry;
    use crate::audit::ranking::Ranked;
    use crate::audit::record::Record;
    use crate::event::Event;

    fn line(
        kind: EventKind,
        action: &'static str,
        at_minute: i64,
        fill: impl Fn(&mut Event),
    ) -> Vec<u8> {
        let mut event = Event::new(kind, action, Outcome::Deny, "banned");
        fill(&mut event);
        let entry = Entry::new(event, Stamp::from_micros(at_minute * MINUTE_MICROS));
        let mut line = Vec::new();
        Record::new(&entry, 1, Digest::ZERO).encode(&Chain::new(None), &mut line);
        line
    }

    fn stats(lines: &[Vec<u8>], filter: &Filter, top: usize) -> Stats {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("audit.log");
        fs::write(&log, lines.concat()).unwrap();
        let (stats, damages) = summarise(&log, filter, top, &mut |_| {}).unwrap();
        assert!(damages.is_empty());
        stats
    }

    #[test]
    fn occurrences_are_counted_once_and_settled_drops_for_their_source() {
        let source = Some("192.0.2.1".parse().unwrap());
        let lines = [
            line(EventKind::Network, "drop", 0, |e| {
                e.source = source;
                e.count = 5;
            }),
            line(EventKind::Network, "drop", 1, |e| e.count = 70),
            line(EventKind::Network, "drop", 2, |e| {
                e.source = source;
                e.count = 15;
                e.settles = 60;
            }),
            line(EventKind::System, "lost", 2, |e| {
                e.outcome = Outcome::Error;
                e.count = 9;
            }),
            b"not a record\n".to_vec(),
        ];
        let stats = stats(&lines, &Filter::default(), 10);
        assert_eq!(stats.totals[&EventKind::Network][&Outcome::Deny], 90);
        assert_eq!(
            stats.sources.names,
            [Ranked {
                name: "192.0.2.1".to_owned(),
                count: 80,
                denied: 80,
                now: 75,
                before: 5,
            }]
        );
        assert_eq!(
            (stats.not_attributed, stats.lost, stats.unreadable),
            (10, 9, 1)
        );
        assert_eq!(
            stats
                .histogram
                .iter()
                .map(|b| b.sums.deny)
                .collect::<Vec<_>>(),
            [5, 70, 15]
        );
        assert_eq!(stats.peak().unwrap().sums.all(), 70);
    }

    fn a_connect_each_minute(minutes: u32) -> Vec<Vec<u8>> {
        let connect = |minute: u32| {
            line(EventKind::Auth, "connect", i64::from(minute), |e| {
                e.source = Some(std::net::Ipv4Addr::from_bits(minute).into());
            })
        };
        (0..minutes).map(connect).collect()
    }

    #[test]
    fn long_spans_go_by_the_hour_and_names_beyond_the_top_are_summed() {
        let since = Some(Stamp::from_micros(10 * MINUTE_MICROS));
        let filter = Filter {
            since,
            ..Filter::default()
        };
        let stats = stats(&a_connect_each_minute(310), &filter, 3);
        assert_eq!(stats.records, 300);
        let counts: Vec<_> = stats.sources.names.iter().map(|row| row.count).collect();
        assert_eq!(counts, [1, 1, 1, 297]);
        assert_eq!(stats.sources.distinct, 300);
        assert_eq!(stats.bucket_seconds, 3600);
        let hours: Vec<_> = stats
            .histogram
            .iter()
            .map(|bucket| bucket.sums.deny)
            .collect();
        assert_eq!(hours, [50, 60, 60, 60, 60, 10]);
    }

    #[test]
    fn the_trend_is_against_the_span_before() {
        let stamp = |minute| Some(Stamp::from_micros(minute * MINUTE_MICROS));
        let rows = [
            // The whole log: its later half against its earlier one.
            ((None, None), (100, 50, 50)),
            // Up to the last record, which is not a whole minute.
            ((stamp(80), None), (20, 20, 19)),
            ((stamp(80), stamp(90)), (10, 10, 10)),
            // What came before the log is nothing.
            ((stamp(40), None), (60, 60, 40)),
        ];
        for ((since, until), expected) in rows {
            let filter = Filter {
                since,
                until,
                ..Filter::default()
            };
            let stats = stats(&a_connect_each_minute(100), &filter, 3);
            let trend = stats.trend.unwrap();
            let found = (stats.records, trend.now_sums.deny, trend.before_sums.deny);
            assert_eq!(found, expected, "{since:?} {until:?}: {trend:?}");
        }
    }

    /// However blocks fall to the workers, the sums are those of one that reads alone.
    #[test]
    fn many_blocks_amount_to_what_one_reader_counts() {
        let mut lines = Vec::new();
        for number in 0..8_000_u32 {
            lines.push(line(EventKind::Tool, "invoke", i64::from(number), |e| {
                e.user = Some(format!("user{}", number % 7));
                e.count = u64::from(number % 3);
            }));
        }
        let stats = stats(&lines, &Filter::default(), 10);
        let mut alone = Tally::new(Period::whole());
        for line in &lines {
            alone.line(line, &Filter::default());
        }
        let mut alone = alone.finish(10);
        // The span is the log's own, which one that reads line by line does not know.
        alone.trend = stats.trend;
        (alone.bucket_seconds, alone.histogram) = (stats.bucket_seconds, stats.histogram.clone());
        let mut seen = stats.clone();
        for top in [&mut seen.reasons, &mut seen.users] {
            for name in &mut top.names {
                (name.now, name.before) = (0, 0);
            }
        }
        assert_eq!(seen, alone);
        assert_eq!(stats.sums.all(), 7_999);
    }
}
