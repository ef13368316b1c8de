//! An event on its way to becoming a record, with what only the audit plane adds.

use std::collections::BTreeMap;

use super::stamp::Stamp;
use crate::event::{Event, EventKind, Outcome};

/// One record before it is numbered and chained.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    pub event: Event,
    /// When it happened, or when the sum was closed.
    pub at: Stamp,
    /// First and last occurrence, where `event.count` sums several.
    pub span: Option<Span>,
    /// The kernel's counters by reason (checkpoints), or lost events by kind (`system`/`lost`).
    pub totals: Option<BTreeMap<String, u64>>,
    /// About how many different sources there were, where they are not named each.
    pub sources: Option<u64>,
    /// Which life of the kernel's counters `totals` belongs to.
    pub epoch: Option<u64>,
}

/// When the first and the last of several occurrences happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    pub first: Stamp,
    pub last: Stamp,
}

impl Entry {
    pub fn new(event: Event, at: Stamp) -> Self {
        Self {
            event,
            at,
            span: None,
            totals: None,
            sources: None,
            epoch: None,
        }
    }

    /// Starts one of the log's own records.
    pub(super) fn system(action: &'static str, outcome: Outcome, reason: &'static str) -> Self {
        Self::new(
            Event::new(EventKind::System, action, outcome, reason),
            Stamp::now(),
        )
    }

    pub(super) fn detailed(mut self, detail: String) -> Self {
        self.event.detail = Some(detail);
        self
    }

    /// A drop by the kernel, whose `count` belongs to the sums that checkpoints state.
    pub(super) fn is_kernel_drop(&self) -> bool {
        self.event.kind == EventKind::Network && self.event.action == DROP
    }

    /// States the kernel's counters.
    pub(super) fn is_checkpoint(&self) -> bool {
        self.event.kind == EventKind::Network && self.event.action == CHECKPOINT
    }
}

impl From<Event> for Entry {
    fn from(event: Event) -> Self {
        Self::new(event, Stamp::now())
    }
}

/// Reserved for the ledger: `network` records with this action sum to the kernel's counters.
pub(super) const DROP: &str = "drop";
/// States the kernel's counters, and so the sums up to here.
pub(super) const CHECKPOINT: &str = "checkpoint";
/// New counters: the sums start again at 0.
pub(super) const EPOCH: &str = "epoch";
/// First record of the next file; repeats the sums so that each file can be read alone.
pub(super) const ROTATE: &str = "rotate";
/// First record after the file was replaced from outside; repeats the sums too.
pub(super) const REOPEN: &str = "reopen";
/// The log and its head disagree, or someone else changed the file.
pub(super) const CHAIN: &str = "chain";
/// Events that could not be written, with their number.
pub(super) const LOST: &str = "lost";
/// A line half written by a crash was cut off.
pub(super) const REPAIR: &str = "repair";
/// Writing works again.
pub(super) const RECOVERED: &str = "recovered";
/// The disk has little room, or has room again.
pub(super) const SPACE: &str = "space";
/// A rotated part could not be compressed.
pub(super) const PACK: &str = "pack";
/// A sink besides the file cannot be reached, lost records, or works again.
pub(super) const SINK: &str = "sink";
/// An alert was told, or could not be.
pub(super) const ALERT: &str = "alert";
