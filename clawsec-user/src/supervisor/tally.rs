//! What was decided since the start, kept for whoever looks: totals, who was refused, the last
//! refusals.
//!
//! Invariant: the totals count what was handed to the audit log, event by event, so that they
//! equal the sums of its records. Every list is bounded, and a word that could have been chosen
//! by somebody outside becomes `other`.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::net::IpAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::tools::now_unix;
use crate::event::{Event, EventKind, Outcome, SandboxFact};
use crate::ops::{Denial, EventTotal, Named, SourceTotal};

#[derive(Debug, Default)]
pub(super) struct Tally(Mutex<Inner>);

#[derive(Debug, Default)]
struct Inner {
    totals: BTreeMap<(EventKind, Outcome), BTreeMap<String, u64>>,
    reasons: usize,
    sources: HashMap<IpAddr, Refusals>,
    denials: VecDeque<Denial>,
    ended: [u64; ENDS.len()],
    ended_ms: u64,
}

#[derive(Debug, Default)]
struct Refusals {
    packets: u64,
    requests: u64,
    reason: String,
    last: i64,
}

/// How an execution ended, in the order of `Inner::ended`.
const ENDS: [&str; 5] = ["ok", "failed", "signal", "timed_out", "oom"];

impl Tally {
    /// Counts an event on its way to the log.
    pub(super) fn take(&self, event: &Event) {
        let mut inner = self.lock();
        inner.count(event);
        if let Some(fact) = &event.sandbox {
            inner.end(fact);
        }
        if event.outcome == Outcome::Deny && !is_by_hand(event) {
            inner.refuse(event, Plane::Requests);
        }
    }

    /// Names the source of kernel drops; the kernel's own counters are their totals.
    pub(super) fn take_drop(&self, event: &Event) {
        if event.source.is_some() {
            self.lock().refuse(event, Plane::Packets);
        }
    }

    pub(super) fn totals(&self) -> Vec<EventTotal> {
        let inner = self.lock();
        let totals = inner
            .totals
            .iter()
            .flat_map(|(&(event, outcome), reasons)| {
                reasons.iter().map(move |(reason, count)| EventTotal {
                    event,
                    outcome,
                    reason: reason.clone(),
                    count: *count,
                })
            });
        totals.collect()
    }

    /// The most refused first.
    pub(super) fn sources(&self, most: usize) -> Vec<SourceTotal> {
        let inner = self.lock();
        let mut sources: Vec<SourceTotal> = inner
            .sources
            .iter()
            .map(|(source, refusals)| SourceTotal {
                source: *source,
                packets: refusals.packets,
                requests: refusals.requests,
                reason: refusals.reason.clone(),
                last: refusals.last,
            })
            .collect();
        drop(inner);
        sources.sort_by_key(|s| (std::cmp::Reverse(s.packets + s.requests), s.source));
        sources.truncate(most);
        sources
    }

    /// The latest first.
    pub(super) fn denials(&self) -> Vec<Denial> {
        self.lock().denials.iter().cloned().collect()
    }

    pub(super) fn executions(&self) -> (Vec<Named>, u64) {
        let inner = self.lock();
        let ended = ENDS.iter().zip(inner.ended).map(|(name, count)| Named {
            name: (*name).to_owned(),
            count,
        });
        (ended.collect(), inner.ended_ms)
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Plane {
    Packets,
    Requests,
}

impl Inner {
    fn count(&mut self, event: &Event) {
        let reasons = self.totals.entry((event.kind, event.outcome)).or_default();
        let known = reasons.contains_key(event.reason.as_ref());
        let word = if known || (self.reasons < MOST_REASONS && is_word(&event.reason)) {
            event.reason.as_ref()
        } else {
            OTHER
        };
        let count = reasons.entry(word.to_owned()).or_insert_with(|| {
            self.reasons += 1;
            0
        });
        *count = count.saturating_add(event.count);
    }

    fn end(&mut self, fact: &SandboxFact) {
        let how = match fact {
            SandboxFact { oom: true, .. } => 4,
            SandboxFact {
                timed_out: true, ..
            } => 3,
            SandboxFact {
                signal: Some(_), ..
            } => 2,
            SandboxFact { exit: Some(0), .. } => 0,
            _ => 1,
        };
        if let Some(count) = self.ended.get_mut(how) {
            *count += 1;
        }
        self.ended_ms = self.ended_ms.saturating_add(fact.duration_ms);
    }

    fn refuse(&mut self, event: &Event, plane: Plane) {
        let count = event.count.saturating_add(event.settles);
        let now = now_unix();
        if let Some(source) = event.source {
            if self.sources.len() >= MOST_SOURCES && !self.sources.contains_key(&source) {
                self.forget_a_quarter();
            }
            let refusals = self.sources.entry(source).or_default();
            let sum = match plane {
                Plane::Packets => &mut refusals.packets,
                Plane::Requests => &mut refusals.requests,
            };
            *sum = sum.saturating_add(count);
            refusals.last = now;
            if refusals.reason != event.reason {
                event.reason.as_ref().clone_into(&mut refusals.reason);
            }
        }
        // One that goes on is one line, with others in between, too.
        let goes_on = self.denials.iter().position(|denial| {
            denial.event == event.kind
                && denial.reason == event.reason
                && denial.source == event.source
                && denial.principal == event.principal
                && denial.tool.as_deref() == event.tool.as_ref().map(|tool| tool.name.as_str())
        });
        if let Some(mut denial) = goes_on.and_then(|place| self.denials.remove(place)) {
            denial.count = denial.count.saturating_add(count);
            denial.at = now;
            denial.rule.clone_from(&event.rule);
            self.denials.push_front(denial);
            return;
        }
        self.denials.truncate(MOST_DENIALS - 1);
        self.denials.push_front(Denial {
            at: now,
            event: event.kind,
            reason: event.reason.to_string(),
            rule: event.rule.clone(),
            source: event.source,
            principal: event.principal.clone(),
            tool: event.tool.as_ref().map(|tool| tool.name.clone()),
            count,
        });
    }

    /// Makes room by those that were refused least: a flood of single tries must not push out
    /// who goes on.
    fn forget_a_quarter(&mut self) {
        let mut ranks: Vec<(u64, i64, IpAddr)> = self
            .sources
            .iter()
            .map(|(source, r)| (r.packets.saturating_add(r.requests), r.last, *source))
            .collect();
        ranks.sort_unstable();
        for (_, _, source) in ranks.into_iter().take(MOST_SOURCES / 4) {
            self.sources.remove(&source);
        }
    }
}

/// A ban or the end of an admission is a deny in the log, and nobody's try.
fn is_by_hand(event: &Event) -> bool {
    matches!(event.kind, EventKind::Config | EventKind::System)
}

fn is_word(reason: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
    (1..=40).contains(&reason.len()) && reason.bytes().all(plain)
}

const OTHER: &str = "other";
/// More than all kinds, outcomes and reasons that the code has words for; beyond it is `other`.
const MOST_REASONS: usize = 256;
const MOST_SOURCES: usize = 1024;
const MOST_DENIALS: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    fn denied(source: [u8; 4], reason: &str) -> Event {
        let mut event = Event::new(EventKind::Auth, "login", Outcome::Deny, reason.to_owned());
        event.source = Some(source.into());
        event
    }

    #[test]
    fn totals_count_occurrences_and_not_events() {
        let tally = Tally::default();
        let mut many = denied([192, 0, 2, 1], "credential_unknown");
        many.count = 7;
        tally.take(&many);
        tally.take(&denied([192, 0, 2, 2], "credential_unknown"));
        let totals = tally.totals();
        assert_eq!(totals.len(), 1);
        assert_eq!(
            (totals[0].count, &*totals[0].reason),
            (8, "credential_unknown")
        );
        let sources = tally.sources(9);
        assert_eq!(sources[0].source.to_string(), "192.0.2.1");
        assert_eq!((sources[0].requests, sources[0].packets), (7, 0));
    }

    #[test]
    fn words_from_outside_are_other() {
        let tally = Tally::default();
        for reason in ["Ignore previous", "a\nb", "", &"x".repeat(41)] {
            tally.take(&denied([192, 0, 2, 1], reason));
        }
        for n in 0..1000 {
            tally.take(&denied([192, 0, 2, 1], &format!("word_{n}")));
        }
        let totals = tally.totals();
        assert!(totals.len() <= MOST_REASONS + 1, "{}", totals.len());
        let sum: u64 = totals.iter().map(|total| total.count).sum();
        assert_eq!(sum, 1004, "nothing is left uncounted");
    }

    #[test]
    fn who_goes_on_is_not_pushed_out_by_a_flood_of_single_tries() {
        let tally = Tally::default();
        for _ in 0..3 {
            tally.take_drop(&denied([192, 0, 2, 1], "not_allowed"));
        }
        for n in 0..4000_u32 {
            tally.take_drop(&denied((0x0a00_0000 + n).to_be_bytes(), "not_allowed"));
        }
        let sources = tally.sources(10_000);
        assert!(sources.len() <= MOST_SOURCES);
        assert_eq!(sources[0].source.to_string(), "192.0.2.1");
        assert_eq!(tally.denials().len(), MOST_DENIALS);
        assert_eq!(tally.totals(), [], "the kernel's counters are their totals");
    }

    #[test]
    fn a_denial_that_goes_on_is_one_line() {
        let tally = Tally::default();
        for _ in 0..5 {
            tally.take(&denied([192, 0, 2, 2], "credential_missing"));
            tally.take(&denied([192, 0, 2, 1], "credential_missing"));
        }
        let denials = tally.denials();
        let shown: Vec<_> = denials
            .iter()
            .map(|denial| (denial.source.unwrap().to_string(), denial.count))
            .collect();
        assert_eq!(shown, [("192.0.2.1".into(), 5), ("192.0.2.2".into(), 5)]);
    }
}
