//! The sums that records promise: for each reason, counts of kernel drops against its counter.
//!
//! The same state machine runs in the writer (what has been written), at start (what had been
//! written), in `verify` (is it true?) and in the ledger's tests. Pure.

use std::collections::BTreeMap;

use super::entry::{CHAIN, CHECKPOINT, DROP, EPOCH, REOPEN, ROTATE};
use crate::event::EventKind;

/// Per-reason sums of `count` over `network`/`drop` records, since the last `system`/`epoch`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Sums {
    epoch: u64,
    recorded: BTreeMap<String, u64>,
    /// False while records older than any seen may have added to the sums.
    anchored: bool,
}

/// What the log says has been recorded: where a ledger goes on.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Recovered {
    /// 0: no epoch was ever begun.
    pub epoch: u64,
    pub recorded: BTreeMap<String, u64>,
}

/// A record whose totals are not the sums of the records before it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SumMismatch {
    pub reason: String,
    pub recorded: u64,
    pub stated: u64,
}

/// The fields of a record that sums depend on.
#[derive(Debug, Clone, Copy)]
pub(super) struct Fact<'a> {
    pub(super) kind: EventKind,
    pub(super) action: &'a str,
    pub(super) reason: &'a str,
    pub(super) count: u64,
    pub(super) totals: Option<&'a BTreeMap<String, u64>>,
    pub(super) epoch: Option<u64>,
}

impl Sums {
    /// Starts with nothing recorded, as a new log does.
    pub(super) fn empty() -> Self {
        Self {
            anchored: true,
            ..Self::default()
        }
    }

    /// Starts in the middle of a log.
    pub(super) fn unanchored() -> Self {
        Self::default()
    }

    pub(super) fn resumed(recovered: Recovered) -> Self {
        Self {
            epoch: recovered.epoch,
            recorded: recovered.recorded,
            anchored: true,
        }
    }

    /// Takes one record, in the order of the log; totals are compared and then believed.
    pub(super) fn observe(&mut self, fact: Fact<'_>) -> Result<(), SumMismatch> {
        match (fact.kind, fact.action) {
            (EventKind::Network, DROP) => {
                if fact.count > 0 {
                    let sum = self.recorded.entry(fact.reason.to_owned()).or_default();
                    *sum = sum.saturating_add(fact.count);
                }
                Ok(())
            }
            (EventKind::System, EPOCH) => {
                self.epoch = fact.epoch.unwrap_or(self.epoch + 1);
                self.recorded.clear();
                self.anchored = true;
                Ok(())
            }
            (EventKind::Network, CHECKPOINT) | (EventKind::System, ROTATE | REOPEN) => {
                let compared = self.compare(fact.totals);
                self.adopt(fact);
                compared
            }
            // The log before it may be gone: nothing to compare with.
            (EventKind::System, CHAIN) => {
                self.adopt(fact);
                Ok(())
            }
            _ => Ok(()),
        }
    }

    pub(super) fn is_anchored(&self) -> bool {
        self.anchored
    }

    pub(super) fn epoch(&self) -> u64 {
        self.epoch
    }

    pub(super) fn recorded(&self) -> &BTreeMap<String, u64> {
        &self.recorded
    }

    /// Adds what a newer part of the log recorded, none of which anchored itself.
    pub(super) fn followed_by(&mut self, newer: &Self) {
        for (reason, count) in &newer.recorded {
            let sum = self.recorded.entry(reason.clone()).or_default();
            *sum = sum.saturating_add(*count);
        }
    }

    pub(super) fn into_recovered(self) -> Recovered {
        Recovered {
            epoch: self.epoch,
            recorded: self.recorded,
        }
    }

    fn compare(&self, totals: Option<&BTreeMap<String, u64>>) -> Result<(), SumMismatch> {
        let Some(totals) = totals.filter(|_| self.anchored) else {
            return Ok(());
        };
        for reason in self.recorded.keys().chain(totals.keys()) {
            let recorded = self.recorded.get(reason).copied().unwrap_or(0);
            let stated = totals.get(reason).copied().unwrap_or(0);
            if recorded != stated {
                return Err(SumMismatch {
                    reason: reason.clone(),
                    recorded,
                    stated,
                });
            }
        }
        Ok(())
    }

    fn adopt(&mut self, fact: Fact<'_>) {
        if let Some(totals) = fact.totals {
            self.recorded.clone_from(totals);
            self.epoch = fact.epoch.unwrap_or(self.epoch);
            self.anchored = true;
        }
    }
}
