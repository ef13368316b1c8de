//! Repeats summed: the first occurrence at once, the rest as one record when its interval ends.
//!
//! Pure: time is an argument. Every occurrence taken in leaves again in exactly one entry, so the
//! sum of `count` over what leaves is the number of occurrences. Summed are denials and errors of
//! authentication, messages and tools, and every `network` event that is not the ledger's. Written
//! one by one are whatever was allowed, configuration changes, executions in a sandbox, and
//! `system` records: each of those is something an operator may be asked about singly.
//!
//! What a flood of sources can make written is bounded too: in each interval so many first
//! occurrences, and so many sums, those that count most. What is beyond that keeps its count and
//! its kind, and the number of its sources is estimated.

use std::borrow::Cow;
use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::mem;
use std::net::{IpAddr, Ipv6Addr};
use std::time::Duration;

use super::distinct::Distinct;
use super::entry::{CHECKPOINT, DROP, Entry, Span};
use super::stamp::Stamp;
use crate::event::{Event, EventKind, Outcome};

/// The table of what is being summed.
#[derive(Debug)]
pub struct Aggregator {
    interval_ms: u64,
    capacity: usize,
    /// Sums whose interval runs. The first occurrence has been written.
    open: HashMap<Key, Sum>,
    /// Keys in the order in which their intervals end.
    ends: VecDeque<(u64, Key)>,
    /// Occurrences that found the table full, by what they were but not by whom.
    other: BTreeMap<OtherKey, Other>,
    other_ends_ms: u64,
    /// Records that this interval may still have.
    firsts_left: usize,
    sums_left: usize,
    budget: usize,
    refilled_ms: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Key {
    kind: EventKind,
    action: Cow<'static, str>,
    outcome: Outcome,
    reason: Cow<'static, str>,
    network: Option<IpAddr>,
    principal: Option<String>,
    tool: Option<String>,
}

type OtherKey = (EventKind, Cow<'static, str>, Outcome, Cow<'static, str>);

#[derive(Debug)]
struct Other {
    sum: Sum,
    sources: Distinct,
}

/// What has not been written yet.
#[derive(Debug, Default)]
struct Sum {
    pending: Option<(Event, Span)>,
}

impl Aggregator {
    /// Room for 4096 sums at once.
    pub fn new(interval: Duration) -> Self {
        Self::with_capacity(interval, 4096)
    }

    fn with_capacity(interval: Duration, capacity: usize) -> Self {
        let interval_ms = u64::try_from(interval.as_millis())
            .unwrap_or(u64::MAX)
            .max(1);
        let budget = interval_ms.saturating_mul(NAMED_PER_SECOND) / 1000;
        let budget = usize::try_from(budget).unwrap_or(capacity).max(1);
        Self {
            interval_ms,
            firsts_left: budget,
            sums_left: budget,
            budget,
            refilled_ms: 0,
            capacity,
            open: HashMap::new(),
            ends: VecDeque::new(),
            other: BTreeMap::new(),
            other_ends_ms: 0,
        }
    }

    /// Takes an entry; gives it back when it is to be written now. `now_ms` never goes back.
    pub fn offer(&mut self, entry: Entry, now_ms: u64) -> Option<Entry> {
        if !is_summed(&entry) {
            return Some(entry);
        }
        self.refill(now_ms);
        let key = Key::of(&entry.event);
        if let Some(sum) = self.open.get_mut(&key) {
            sum.add(entry.event, entry.at, entry.span);
            return None;
        }
        if self.open.len() >= self.capacity {
            self.add_other(entry.event, entry.at, entry.span, now_ms);
            return None;
        }
        let end = now_ms.saturating_add(self.interval_ms);
        self.ends.push_back((end, key.clone()));
        let sum = self.open.entry(key).or_default();
        if self.firsts_left == 0 {
            sum.add(entry.event, entry.at, entry.span);
            return None;
        }
        self.firsts_left -= 1;
        Some(entry)
    }

    /// When `due` has something to give or to forget.
    pub fn next_due_ms(&self) -> Option<u64> {
        let first = self.ends.front().map(|(end, _)| *end);
        let other = (!self.other.is_empty()).then_some(self.other_ends_ms);
        first.into_iter().chain(other).min()
    }

    /// Closes the intervals that have ended.
    pub fn due(&mut self, now_ms: u64) -> Vec<Entry> {
        self.refill(now_ms);
        let mut sums = Vec::new();
        while self.ends.front().is_some_and(|(end, _)| *end <= now_ms) {
            let Some((_, key)) = self.ends.pop_front() else {
                break;
            };
            sums.extend(
                self.open
                    .remove(&key)
                    .and_then(|mut sum| sum.pending.take()),
            );
        }
        let others = !self.other.is_empty() && self.other_ends_ms <= now_ms;
        let mut entries = self.named(sums, now_ms);
        if others {
            entries.extend(self.take_others());
        }
        entries
    }

    /// Gives every sum so far without ending any interval: at stop, and before a flush.
    pub fn drain(&mut self) -> Vec<Entry> {
        let mut sums = Vec::new();
        for (_, key) in &self.ends {
            let open = self.open.get_mut(key);
            sums.extend(open.and_then(|sum| sum.pending.take()));
        }
        let mut entries = self.named(sums, 0);
        entries.extend(self.take_others());
        entries
    }

    /// Those that count most, each as a record; the rest goes to the others.
    fn named(&mut self, mut sums: Vec<(Event, Span)>, now_ms: u64) -> Vec<Entry> {
        if sums.len() > self.sums_left {
            sums.sort_by_key(|(event, _)| Reverse(event.count));
        }
        let rest = sums.split_off(sums.len().min(self.sums_left));
        self.sums_left -= sums.len();
        for (event, span) in rest {
            self.add_other(event, span.last, Some(span), now_ms);
        }
        sums.into_iter().map(summed).collect()
    }

    fn add_other(&mut self, mut event: Event, at: Stamp, span: Option<Span>, now_ms: u64) {
        if self.other.is_empty() {
            self.other_ends_ms = now_ms.saturating_add(self.interval_ms);
        }
        let word = |word: &Cow<'static, str>| word.clone();
        let mut key = (
            event.kind,
            word(&event.action),
            event.outcome,
            word(&event.reason),
        );
        if self.other.len() >= OTHER_CAPACITY && !self.other.contains_key(&key) {
            key.1 = Cow::Borrowed("other");
            key.3 = Cow::Borrowed("other");
        }
        event.action.clone_from(&key.1);
        event.reason.clone_from(&key.3);
        let other = self.other.entry(key).or_insert_with(|| Other {
            sum: Sum::default(),
            sources: Distinct::new(),
        });
        if let Some(source) = event.source {
            other.sources.add(&network(source).0);
        }
        other.sum.add(anonymous(event), at, span);
    }

    fn take_others(&mut self) -> Vec<Entry> {
        let others = mem::take(&mut self.other).into_values();
        let entry = |mut other: Other| {
            let entry = summed(other.sum.pending.take()?);
            let sources = Some(other.sources.estimate()).filter(|number| *number > 0);
            Some(Entry { sources, ..entry })
        };
        others.filter_map(entry).collect()
    }

    fn refill(&mut self, now_ms: u64) {
        if now_ms.saturating_sub(self.refilled_ms) >= self.interval_ms {
            self.refilled_ms = now_ms;
            self.firsts_left = self.budget;
            self.sums_left = self.budget;
        }
    }
}

impl Key {
    fn of(event: &Event) -> Self {
        Self {
            kind: event.kind,
            action: event.action.clone(),
            outcome: event.outcome,
            reason: event.reason.clone(),
            network: event.source.map(|source| network(source).0),
            principal: event.principal.clone(),
            tool: event.tool.as_ref().map(|tool| tool.name.clone()),
        }
    }
}

impl Sum {
    fn add(&mut self, event: Event, at: Stamp, span: Option<Span>) {
        let Span { first, last } = span.unwrap_or(Span {
            first: at,
            last: at,
        });
        match &mut self.pending {
            None => self.pending = Some((event, Span { first, last })),
            Some((sum, span)) => {
                merge(sum, event);
                span.first = span.first.min(first);
                span.last = span.last.max(last);
            }
        }
    }
}

fn summed((event, span): (Event, Span)) -> Entry {
    Entry {
        span: Some(span),
        ..Entry::new(event, span.last)
    }
}

fn is_summed(entry: &Entry) -> bool {
    let event = &entry.event;
    match event.kind {
        EventKind::Auth | EventKind::Message => event.outcome != Outcome::Allow,
        EventKind::Tool => event.outcome != Outcome::Allow && event.sandbox.is_none(),
        // The ledger's are sums already, and checkpoints depend on their place.
        EventKind::Network => event.action != DROP && event.action != CHECKPOINT,
        EventKind::Config | EventKind::System => false,
    }
}

/// Adds `next` to `sum`; a field in which they differ is left out, it would be true of one only.
fn merge(sum: &mut Event, next: Event) {
    fn agree<T: PartialEq>(sum: &mut Option<T>, next: Option<&T>) {
        if sum.as_ref() != next {
            *sum = None;
        }
    }
    sum.count = sum.count.saturating_add(next.count);
    sum.settles = sum.settles.saturating_add(next.settles);
    if let (Some(ours), Some(theirs)) = (sum.source, next.source) {
        if ours == theirs {
            agree(&mut sum.detail, next.detail.as_ref());
        } else {
            // Same /64 by the key, different hosts: the network's address, and the detail says so.
            let (address, length) = network(theirs);
            sum.source = Some(address);
            sum.detail = Some(format!("sources in {address}/{length}"));
        }
    } else {
        agree(&mut sum.detail, next.detail.as_ref());
    }
    sum.generation = sum.generation.max(next.generation);
    agree(&mut sum.rule, next.rule.as_ref());
    agree(&mut sum.port, next.port.as_ref());
    agree(&mut sum.request, next.request.as_ref());
    agree(&mut sum.user, next.user.as_ref());
    agree(&mut sum.group, next.group.as_ref());
    agree(&mut sum.agent, next.agent.as_ref());
    agree(&mut sum.session, next.session.as_ref());
    agree(&mut sum.duration_ms, next.duration_ms.as_ref());
    if let (Some(ours), Some(theirs)) = (&mut sum.tool, next.tool) {
        ours.args_bytes = ours.args_bytes.saturating_add(theirs.args_bytes);
    }
}

/// Leaves only what the overflow bucket can say truly of all in it.
fn anonymous(event: Event) -> Event {
    Event {
        rule: None,
        generation: event.generation,
        source: None,
        port: None,
        request: None,
        principal: None,
        user: None,
        group: None,
        agent: None,
        session: None,
        tool: None,
        sandbox: None,
        detail: Some("beyond the table of sources".to_owned()),
        ..event
    }
}

/// The address that stands for a source: /32 for IPv4, /64 for IPv6.
pub(super) fn network(source: IpAddr) -> (IpAddr, u8) {
    match source.to_canonical() {
        IpAddr::V4(address) => (IpAddr::V4(address), 32),
        IpAddr::V6(address) => {
            let prefix = address.to_bits() & !u128::from(u64::MAX);
            (IpAddr::V6(Ipv6Addr::from_bits(prefix)), 64)
        }
    }
}

/// First occurrences, and as many sums, that are written on average. Beside the ledger's records
/// this keeps any flood below 200 a second.
const NAMED_PER_SECOND: u64 = 40;
/// Distinct (kind, action, outcome, reason) in the overflow: all are words of closed sets.
const OTHER_CAPACITY: usize = 256;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{SandboxFact, ToolFact};

    fn denied(source: &str) -> Entry {
        let mut event = Event::new(
            EventKind::Auth,
            "connect",
            Outcome::Deny,
            "credential_unknown",
        );
        event.source = Some(source.parse().unwrap());
        Entry::new(event, Stamp::from_micros(0))
    }

    fn at(mut entry: Entry, micros: i64) -> Entry {
        entry.at = Stamp::from_micros(micros);
        entry
    }

    const TEN_SECONDS: Duration = Duration::from_secs(10);

    #[test]
    fn the_first_is_written_at_once_and_the_rest_when_the_interval_ends() {
        let mut aggregator = Aggregator::new(TEN_SECONDS);
        assert!(aggregator.offer(at(denied("192.0.2.1"), 5), 1000).is_some());
        for micros in [10, 20, 30] {
            assert!(
                aggregator
                    .offer(at(denied("192.0.2.1"), micros), 2000)
                    .is_none()
            );
        }
        assert_eq!(aggregator.next_due_ms(), Some(11_000));
        assert_eq!(aggregator.due(10_999), vec![]);
        let due = aggregator.due(11_000);
        assert_eq!(due.len(), 1);
        assert_eq!(due[0].event.count, 3);
        let span = due[0].span.unwrap();
        assert_eq!((span.first.micros(), span.last.micros()), (10, 30));
        assert!(
            aggregator.offer(denied("192.0.2.1"), 11_001).is_some(),
            "a new interval"
        );
    }

    #[test]
    fn a_single_occurrence_leaves_no_second_record() {
        let mut aggregator = Aggregator::new(TEN_SECONDS);
        assert!(aggregator.offer(denied("192.0.2.1"), 0).is_some());
        assert_eq!(aggregator.due(20_000), vec![]);
        assert_eq!(aggregator.next_due_ms(), None);
    }

    #[test]
    fn what_must_stand_alone_is_never_summed() {
        let event = |kind, outcome| Event::new(kind, "x", outcome, "y");
        let mut ran = event(EventKind::Tool, Outcome::Error);
        ran.sandbox = Some(SandboxFact {
            provider: "none".to_owned(),
            exit: Some(1),
            signal: None,
            oom: false,
            timed_out: false,
            duration_ms: 1,
            output_bytes: 0,
            truncated: false,
        });
        let mut drop = event(EventKind::Network, Outcome::Deny);
        drop.action = Cow::Borrowed(DROP);
        for (name, event) in [
            ("allowed auth", event(EventKind::Auth, Outcome::Allow)),
            ("allowed message", event(EventKind::Message, Outcome::Allow)),
            ("allowed tool", event(EventKind::Tool, Outcome::Allow)),
            ("config denied", event(EventKind::Config, Outcome::Deny)),
            ("system", event(EventKind::System, Outcome::Error)),
            ("failed execution", ran),
            ("ledger's drop", drop),
        ] {
            let mut aggregator = Aggregator::new(TEN_SECONDS);
            for _ in 0..2 {
                assert!(
                    aggregator.offer(event.clone().into(), 0).is_some(),
                    "{name}"
                );
            }
        }
        let mut aggregator = Aggregator::new(TEN_SECONDS);
        let network = event(EventKind::Network, Outcome::Allow);
        assert!(aggregator.offer(network.clone().into(), 0).is_some());
        assert!(
            aggregator.offer(network.into(), 0).is_none(),
            "network is summed"
        );
    }

    #[test]
    fn each_part_of_the_key_separates() {
        let mut variants = vec![denied("192.0.2.1"), denied("192.0.2.2")];
        let mut vary = |change: fn(&mut Event)| {
            let mut entry = denied("192.0.2.1");
            change(&mut entry.event);
            variants.push(entry);
        };
        vary(|e| e.reason = "other".into());
        vary(|e| e.action = "other".into());
        vary(|e| e.outcome = Outcome::Error);
        vary(|e| e.principal = Some("phone".to_owned()));
        vary(|e| {
            e.tool = Some(ToolFact {
                name: "exec".to_owned(),
                args_bytes: 1,
            });
        });
        let mut aggregator = Aggregator::new(TEN_SECONDS);
        for entry in variants {
            assert!(aggregator.offer(entry.clone(), 0).is_some(), "{entry:?}");
        }
    }

    #[test]
    fn an_ipv6_64_is_one_source_and_the_sum_names_the_network() {
        let mut aggregator = Aggregator::new(TEN_SECONDS);
        assert!(aggregator.offer(denied("2001:db8:0:1::1"), 0).is_some());
        assert!(aggregator.offer(denied("2001:db8:0:1::2"), 0).is_none());
        assert!(aggregator.offer(denied("2001:db8:0:1::3"), 0).is_none());
        assert!(aggregator.offer(denied("2001:db8:0:2::1"), 0).is_some());
        let sum = aggregator.drain().remove(0).event;
        assert_eq!(sum.source, Some("2001:db8:0:1::".parse().unwrap()));
        assert_eq!(sum.detail.as_deref(), Some("sources in 2001:db8:0:1::/64"));
    }

    #[test]
    fn counts_stay_exact_when_the_table_overflows() {
        let mut aggregator = Aggregator::with_capacity(TEN_SECONDS, 8);
        let mut written = 0;
        for round in 0..5_u64 {
            for host in 0..100 {
                let entry = denied(&format!("192.0.2.{host}"));
                written += aggregator
                    .offer(entry, round)
                    .map_or(0, |entry| entry.event.count);
            }
        }
        assert!(aggregator.open.len() <= 8 && aggregator.other.len() <= 1);
        let others: Vec<_> = aggregator.other.values().collect();
        let estimate = others[0].sources.estimate();
        assert!((90..=94).contains(&estimate), "{estimate} for 92");
        let drained: u64 = aggregator
            .drain()
            .iter()
            .map(|entry| entry.event.count)
            .sum();
        assert_eq!(written + drained, 500);
        let left: u64 = aggregator
            .due(u64::MAX)
            .iter()
            .map(|entry| entry.event.count)
            .sum();
        assert_eq!(left, 0, "drained sums are not given twice");
    }

    #[test]
    fn a_flood_of_sources_makes_few_records_and_the_heavy_ones_are_named() {
        let mut aggregator = Aggregator::new(TEN_SECONDS);
        let (mut records, mut count, mut named) = (0, 0, Vec::new());
        let mut written = |entries: Vec<Entry>, named: &mut Vec<(IpAddr, u64)>| {
            for entry in entries {
                (records, count) = (records + 1, count + entry.event.count);
                named.extend(entry.event.source.map(|source| (source, entry.event.count)));
            }
            (records, count)
        };
        // A minute: in each second 3000 sources, each once, and ten that never rest.
        let mut offered = 0;
        for second in 0..60_u32 {
            let now_ms = u64::from(second) * 1000;
            for number in 0..3000 + 500 {
                let host = if number < 3000 {
                    0x0a00_0000 + second * 3000 + number
                } else {
                    0xc000_0200 + number % 10
                };
                let entry = denied(&std::net::Ipv4Addr::from_bits(host).to_string());
                offered += 1;
                let at_once = aggregator.offer(entry, now_ms);
                written(at_once.into_iter().collect(), &mut named);
            }
            let due = aggregator.due(now_ms);
            let (records, _) = written(due, &mut named);
            assert!(records <= 2 * 400 * (second as usize / 10 + 1) + 6);
            assert!(aggregator.open.len() <= 4096 && aggregator.other.len() <= 1);
        }
        let rest = aggregator.drain();
        assert!(
            rest.last().unwrap().sources > Some(10_000),
            "{:?}",
            rest.last()
        );
        let (_, count) = written(rest, &mut named);
        assert_eq!(count, offered);
        for host in 0..10 {
            let source = IpAddr::from([192, 0, 2, host]);
            let named = named
                .iter()
                .filter(|(named, count)| *named == source && *count > 100);
            assert!(named.count() >= 4, "{source}");
        }
    }

    #[test]
    fn many_reasons_in_the_overflow_stay_bounded_and_exact() {
        let mut aggregator = Aggregator::with_capacity(TEN_SECONDS, 0);
        for reason in 0..1000 {
            let mut entry = denied("192.0.2.1");
            entry.event.reason = format!("r{reason}").into();
            assert!(aggregator.offer(entry, 0).is_none());
        }
        assert!(aggregator.other.len() <= OTHER_CAPACITY + 6);
        let due = aggregator.due(10_000);
        assert_eq!(due.iter().map(|entry| entry.event.count).sum::<u64>(), 1000);
    }
}
