//! What a log amounts to: totals, who, what, why, and when. Constant memory.
//!
//! Counts are occurrences, not lines. Kernel drops that were settled later count for their source
//! and not twice for their reason.

use std::collections::{BTreeMap, HashMap};

use serde::Serialize;

use super::entry::{DROP, LOST};
use super::record::Record;
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
    pub sources: Vec<Ranked>,
    pub principals: Vec<Ranked>,
    pub users: Vec<Ranked>,
    pub tools: Vec<Ranked>,
    pub reasons: Vec<Ranked>,
    /// Kernel drops without a source.
    pub not_attributed: u64,
    /// Events that could not be written.
    pub lost: u64,
    pub bucket_seconds: u64,
    pub histogram: Vec<Bucket>,
}

/// A name and how often, denials apart.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Ranked {
    pub name: String,
    pub count: u64,
    pub denied: u64,
}

/// One stretch of time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Bucket {
    pub start: Stamp,
    pub allow: u64,
    pub deny: u64,
    pub error: u64,
}

/// Takes records one by one.
#[derive(Debug, Default)]
pub struct StatsBuilder {
    since: Option<Stamp>,
    records: u64,
    unreadable: u64,
    first: Option<Stamp>,
    last: Option<Stamp>,
    totals: BTreeMap<EventKind, BTreeMap<Outcome, u64>>,
    sources: Ranking,
    principals: Ranking,
    users: Ranking,
    tools: Ranking,
    reasons: Ranking,
    unnamed: u64,
    settled: u64,
    lost: u64,
    /// By minute since 1970; folded into hours when there are too many.
    buckets: BTreeMap<i64, [u64; 3]>,
    coarse: bool,
}

#[derive(Debug, Default)]
struct Ranking {
    counts: HashMap<String, [u64; 2]>,
    other: [u64; 2],
}

impl StatsBuilder {
    /// Leaves out what happened before `since`.
    pub fn since(since: Option<Stamp>) -> Self {
        Self {
            since,
            ..Self::default()
        }
    }

    /// Takes a line as it stands in the file.
    pub fn line(&mut self, line: &[u8]) {
        match Record::parse(line) {
            Ok(record) => self.record(&record),
            Err(_) => self.unreadable += 1,
        }
    }

    pub fn record(&mut self, record: &Record) {
        if self.since.is_some_and(|since| record.ts < since) {
            return;
        }
        self.records += 1;
        let first = record.first.unwrap_or(record.ts);
        self.first = Some(self.first.map_or(first, |earlier| earlier.min(first)));
        self.last = Some(self.last.map_or(record.ts, |later| later.max(record.ts)));
        if record.event == EventKind::System && record.action == LOST {
            self.lost = self.lost.saturating_add(record.count);
        }
        if record.count > 0 {
            let by_outcome = self.totals.entry(record.event).or_default();
            add(by_outcome.entry(record.outcome).or_default(), record.count);
            self.reasons
                .add(&record.reason, record.count, record.outcome);
            self.bucket(record);
        }
        let occurrences = record.occurrences();
        if record.event == EventKind::Network && record.action == DROP {
            add(&mut self.settled, record.settles);
            if record.src.is_none() {
                add(&mut self.unnamed, record.count);
            }
        }
        if occurrences == 0 {
            return;
        }
        if let Some(src) = record.src {
            self.sources
                .add(&src.ip.to_string(), occurrences, record.outcome);
        }
        for (ranking, name) in [
            (&mut self.principals, record.principal.as_deref()),
            (&mut self.users, record.user.as_deref()),
            (
                &mut self.tools,
                record.tool.as_ref().map(|tool| tool.name.as_str()),
            ),
        ] {
            if let Some(name) = name {
                ranking.add(name, occurrences, record.outcome);
            }
        }
    }

    /// `top` names of each kind.
    pub fn finish(self, top: usize) -> Stats {
        let width_minutes = if self.coarse { 60 } else { 1 };
        let bucket = |(minute, [allow, deny, error]): (i64, [u64; 3])| Bucket {
            start: Stamp::from_micros(minute * MINUTE_MICROS),
            allow,
            deny,
            error,
        };
        Stats {
            records: self.records,
            unreadable: self.unreadable,
            first: self.first,
            last: self.last,
            totals: self.totals,
            sources: self.sources.top(top),
            principals: self.principals.top(top),
            users: self.users.top(top),
            tools: self.tools.top(top),
            reasons: self.reasons.top(top),
            not_attributed: self.unnamed.saturating_sub(self.settled),
            lost: self.lost,
            bucket_seconds: width_minutes * 60,
            histogram: self.buckets.into_iter().map(bucket).collect(),
        }
    }

    fn bucket(&mut self, record: &Record) {
        let minute = |micros: i64| micros.div_euclid(MINUTE_MICROS);
        let hour = |minute: i64| minute.div_euclid(60) * 60;
        let mut at = minute(record.ts.micros());
        if self.coarse {
            at = hour(at);
        }
        let [allow, deny, error] = self.buckets.entry(at).or_default();
        match record.outcome {
            Outcome::Allow => add(allow, record.count),
            Outcome::Deny => add(deny, record.count),
            Outcome::Error => add(error, record.count),
        }
        if !self.coarse && self.buckets.len() > MINUTES_SHOWN {
            self.coarse = true;
            for (minute, counts) in std::mem::take(&mut self.buckets) {
                let sums = self.buckets.entry(hour(minute)).or_default();
                sums.iter_mut()
                    .zip(counts)
                    .for_each(|(sum, count)| add(sum, count));
            }
        }
        // Ten years of hours; a clock that was wrong must not fill memory.
        if self.buckets.len() > HOURS_KEPT {
            self.buckets.pop_first();
        }
    }
}

impl Ranking {
    fn add(&mut self, name: &str, count: u64, outcome: Outcome) {
        let counts = if let Some(counts) = self.counts.get_mut(name) {
            counts
        } else if self.counts.len() < NAMES_KEPT {
            self.counts.entry(name.to_owned()).or_default()
        } else {
            &mut self.other
        };
        add(&mut counts[0], count);
        if outcome != Outcome::Allow {
            add(&mut counts[1], count);
        }
    }

    fn top(self, top: usize) -> Vec<Ranked> {
        let ranked = |(name, [count, denied]): (String, [u64; 2])| Ranked {
            name,
            count,
            denied,
        };
        let mut all: Vec<_> = self.counts.into_iter().map(ranked).collect();
        all.sort_unstable_by(|a, b| b.count.cmp(&a.count).then_with(|| a.name.cmp(&b.name)));
        let rest = all.split_off(all.len().min(top));
        let fold = |[count, denied]: [u64; 2], next: &Ranked| {
            [
                count.saturating_add(next.count),
                denied.saturating_add(next.denied),
            ]
        };
        let [count, denied] = rest.iter().fold(self.other, fold);
        if count > 0 {
            let name = "(others)".to_owned();
            all.push(Ranked {
                name,
                count,
                denied,
            });
        }
        all
    }
}

fn add(sum: &mut u64, count: u64) {
    *sum = sum.saturating_add(count);
}

const MINUTE_MICROS: i64 = 60_000_000;
/// More than two hours are shown by the hour.
const MINUTES_SHOWN: usize = 120;
const HOURS_KEPT: usize = 87_600;
/// Names counted one by one; what comes later counts as others.
const NAMES_KEPT: usize = 50_000;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::audit::chain::{Chain, Digest};
    use crate::audit::entry::Entry;
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

    #[test]
    fn occurrences_are_counted_once_and_settled_drops_for_their_source() {
        let mut builder = StatsBuilder::since(None);
        let source = Some("192.0.2.1".parse().unwrap());
        builder.line(&line(EventKind::Network, "drop", 0, |e| {
            e.source = source;
            e.count = 5;
        }));
        builder.line(&line(EventKind::Network, "drop", 1, |e| e.count = 70));
        builder.line(&line(EventKind::Network, "drop", 2, |e| {
            e.source = source;
            e.count = 15;
            e.settles = 60;
        }));
        builder.line(&line(EventKind::System, "lost", 2, |e| {
            e.outcome = Outcome::Error;
            e.count = 9;
        }));
        builder.line(b"not a record");
        let stats = builder.finish(10);
        assert_eq!(stats.totals[&EventKind::Network][&Outcome::Deny], 90);
        assert_eq!(
            stats.sources,
            [Ranked {
                name: "192.0.2.1".to_owned(),
                count: 80,
                denied: 80
            }]
        );
        assert_eq!(
            (stats.not_attributed, stats.lost, stats.unreadable),
            (10, 9, 1)
        );
        assert_eq!(
            stats.histogram.iter().map(|b| b.deny).collect::<Vec<_>>(),
            [5, 70, 15]
        );
    }

    #[test]
    fn names_beyond_the_top_are_summed_and_long_spans_go_by_the_hour() {
        let mut builder = StatsBuilder::since(Some(Stamp::from_micros(10 * MINUTE_MICROS)));
        for minute in 0..310_u32 {
            builder.line(&line(EventKind::Auth, "connect", i64::from(minute), |e| {
                e.source = Some(std::net::Ipv4Addr::from_bits(minute).into());
            }));
        }
        let stats = builder.finish(3);
        assert_eq!(stats.records, 300);
        assert_eq!(stats.sources.len(), 4);
        assert_eq!(
            stats.sources.iter().map(|ranked| ranked.count).sum::<u64>(),
            300
        );
        assert_eq!(stats.bucket_seconds, 3600);
        let hours: Vec<_> = stats.histogram.iter().map(|bucket| bucket.deny).collect();
        assert_eq!(hours, [50, 60, 60, 60, 60, 10]);
    }
}
