//! When an alert is due. Pure: time is that of the records, so a rehearsal over a log and the
//! daemon at work come to the same.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::time::Duration;

use serde::Serialize;

use crate::audit::aggregate::network;
use crate::audit::entry::{CHAIN, LOST, RECOVERED};
use crate::audit::record::Record;
use crate::audit::stamp::Stamp;
use crate::config::{AlertConfig, AlertRule};
use crate::event::{EventKind, Outcome};

/// What is told, as JSON to webhooks and programs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Alert {
    pub rule: &'static str,
    pub ts: Stamp,
    pub text: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source: Option<IpAddr>,
    /// The record that made it due.
    pub seq: u64,
    /// Times that this rule was due since its last alert and told nothing.
    pub held_back: u64,
    /// Of the rule in the configuration.
    #[serde(skip)]
    pub index: usize,
}

/// The state of all rules.
#[derive(Debug)]
pub struct Watch {
    rules: Vec<Rule>,
}

#[derive(Debug)]
struct Rule {
    when: AlertRule,
    every_micros: i64,
    told: Option<i64>,
    held_back: u64,
    /// Failed logins by source: the window's beginning, how many since.
    failures: HashMap<Option<IpAddr>, (i64, u64)>,
    seen: HashSet<IpAddr>,
}

impl Watch {
    pub fn new(configs: &[AlertConfig]) -> Self {
        let rule = |config: &AlertConfig| Rule {
            when: config.when,
            every_micros: micros(config.every),
            told: None,
            held_back: 0,
            failures: HashMap::new(),
            seen: HashSet::new(),
        };
        Self {
            rules: configs.iter().map(rule).collect(),
        }
    }

    pub(super) fn needs_history(&self) -> bool {
        let is_new_source = |rule: &Rule| rule.when == AlertRule::NewSource;
        self.rules.iter().any(is_new_source)
    }

    /// Takes a record of the past: it makes nothing due.
    pub fn learn(&mut self, record: &Record) {
        for rule in &mut self.rules {
            if rule.when == AlertRule::NewSource {
                rule.due(record);
            }
        }
    }

    /// Gives what is to be told of this record.
    pub fn observe(&mut self, record: &Record) -> Vec<Alert> {
        let rules = self.rules.iter_mut().enumerate();
        rules
            .filter_map(|(index, rule)| rule.tell(record, index))
            .collect()
    }
}

impl Rule {
    fn tell(&mut self, record: &Record, index: usize) -> Option<Alert> {
        let text = self.due(record)?;
        let now = record.ts.micros();
        if self
            .told
            .is_some_and(|told| now < told.saturating_add(self.every_micros))
        {
            self.held_back += 1;
            return None;
        }
        self.told = Some(now);
        Some(Alert {
            rule: self.when.as_str(),
            ts: record.ts,
            text,
            source: record.src.map(|source| source.ip),
            seq: record.seq,
            held_back: std::mem::take(&mut self.held_back),
            index,
        })
    }

    /// What there is to say, if anything.
    fn due(&mut self, record: &Record) -> Option<String> {
        let source = record.src.map(|source| source.ip);
        let from = source.map_or_else(String::new, |source| format!(" from {source}"));
        let detail = record.detail.as_deref().unwrap_or_default();
        match (self.when, record.event) {
            (AlertRule::FailedLogins { count, window }, EventKind::Auth)
                if record.outcome == Outcome::Deny =>
            {
                let now = record.ts.micros();
                let failures = self.failures_of(source, now, micros(window))?;
                *failures = failures.saturating_add(record.count);
                if *failures < count {
                    return None;
                }
                let many = std::mem::take(failures);
                Some(format!(
                    "{many} failed logins{from}, the last: {}",
                    record.reason
                ))
            }
            (AlertRule::NewSource, EventKind::Auth) if record.outcome == Outcome::Allow => {
                // Beyond that no source counts as new: better silent than wrong each time.
                let is_new = self.seen.len() < SEEN && self.seen.insert(network(source?).0);
                let who = record.principal.as_deref().unwrap_or("somebody");
                is_new.then(|| format!("{who} signed in{from} for the first time"))
            }
            (AlertRule::ToolDenied, EventKind::Tool) if record.outcome == Outcome::Deny => {
                let tool = record
                    .tool
                    .as_ref()
                    .map_or("a tool", |tool| tool.name.as_str());
                let who = record.principal.as_deref().unwrap_or("somebody");
                Some(format!("{tool} denied to {who}{from}: {}", record.reason))
            }
            (AlertRule::ChainBroken, EventKind::System) if record.action == CHAIN => Some(format!(
                "the audit log is not as it was left: {}, {detail}",
                record.reason
            )),
            (AlertRule::EventsLost, EventKind::System) if record.action == LOST => Some(format!(
                "{} events were lost: {}",
                record.count, record.reason
            )),
            (AlertRule::EventsLost, EventKind::System) if record.action == RECOVERED => {
                Some(format!("the audit log could not be written, {detail}"))
            }
            _ => None,
        }
    }

    fn failures_of(&mut self, source: Option<IpAddr>, now: i64, window: i64) -> Option<&mut u64> {
        let source = source.map(|source| network(source).0);
        let is_over = |begun: i64| now.saturating_sub(begun) > window;
        if self.failures.len() >= SOURCES && !self.failures.contains_key(&source) {
            self.failures.retain(|_, (begun, _)| !is_over(*begun));
            if self.failures.len() >= SOURCES {
                return None;
            }
        }
        let (begun, failures) = self.failures.entry(source).or_insert((now, 0));
        if is_over(*begun) {
            (*begun, *failures) = (now, 0);
        }
        Some(failures)
    }
}

fn micros(time: Duration) -> i64 {
    i64::try_from(time.as_micros()).unwrap_or(i64::MAX)
}

/// Sources whose failed logins are counted at once.
const SOURCES: usize = 4096;
/// Sources that are remembered for `newSource`.
const SEEN: usize = 65_536;
