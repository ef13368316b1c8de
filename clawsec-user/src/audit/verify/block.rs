//! One block of lines, checked alone: hashes, and how each line follows the one before it.
//!
//! What depends on the blocks before (the first line's place, the sums) is handed on in order.

use std::collections::BTreeMap;

use super::order::{Misfit, Order};
use crate::audit::blocks::{Block, lines};
use crate::audit::chain::{Chain, Digest};
use crate::audit::entry::{CHAIN, CHECKPOINT, DROP, EPOCH, REOPEN, ROTATE};
use crate::audit::glance::Glance;
use crate::audit::record::split_hash;
use crate::audit::sums::Fact;
use crate::event::EventKind;

/// What one block says.
#[derive(Debug, Default)]
pub(super) struct Checked {
    pub(super) part: usize,
    /// Whole lines.
    pub(super) lines: u64,
    /// Sound records before the finding, if there is one.
    pub(super) records: u64,
    pub(super) first: Option<(Order, Place)>,
    pub(super) last: Option<(u64, Digest)>,
    /// Hash of the record that the head names, if it is here.
    pub(super) at_head: Option<Digest>,
    pub(super) steps: Vec<(Step, Place)>,
    pub(super) torn_bytes: u64,
    /// The first bad line; what comes after it was not looked at.
    pub(super) finding: Option<(Finding, Place)>,
}

/// Where a line stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place {
    /// 1 for the first of the block.
    pub(super) line: u64,
    /// Of its first byte in the part.
    pub(super) offset: u64,
}

#[derive(Debug)]
pub(super) enum Finding {
    Unreadable(String),
    Edited { seq: u64, chain: &'static str },
    Misfit(Misfit),
}

/// What the sums depend on, in the order of the block.
#[derive(Debug)]
pub(super) enum Step {
    /// The log's very first record.
    Begin,
    ChainNotice,
    Fact(OwnedFact),
}

#[derive(Debug)]
pub(super) struct OwnedFact {
    pub(super) seq: u64,
    kind: EventKind,
    action: &'static str,
    reason: String,
    count: u64,
    totals: Option<BTreeMap<String, u64>>,
    epoch: Option<u64>,
}

/// Checks the block up to its first bad line. `canonical` is working room.
pub(super) fn check(
    block: &Block,
    chain: &Chain,
    head_seq: Option<u64>,
    canonical: &mut Vec<u8>,
) -> Checked {
    let mut checked = Checked {
        part: block.part,
        ..Checked::default()
    };
    // Drops between two statements of the sums: added up, by reason.
    let mut drops = BTreeMap::new();
    for (at, line, whole) in lines(&block.text) {
        if !whole {
            checked.torn_bytes = line.len() as u64 + block.cut;
            break;
        }
        let place = Place {
            line: checked.lines + 1,
            offset: block.offset + at as u64,
        };
        match check_line(line, chain, canonical, checked.last) {
            Err(finding) => {
                checked.finding = Some((finding, place));
                break;
            }
            Ok((record, order)) => {
                checked.sums(&record, place, &mut drops);
                if checked.first.is_none() {
                    checked.first = Some((order, place));
                }
                if head_seq == Some(record.seq) {
                    checked.at_head = Some(order.hash);
                }
                checked.last = Some((record.seq, order.hash));
                checked.records += 1;
                checked.lines += 1;
            }
        }
    }
    checked.flush(&mut drops);
    checked
}

/// Without a line before it, whether it follows is left to who knows the block before.
fn check_line<'a>(
    line: &'a [u8],
    chain: &Chain,
    canonical: &mut Vec<u8>,
    before: Option<(u64, Digest)>,
) -> Result<(Glance<'a>, Order), Finding> {
    let record = Glance::parse(line).map_err(|error| Finding::Unreadable(error.to_string()))?;
    let edited = Finding::Edited {
        seq: record.seq,
        chain: chain.name(),
    };
    let (Some(prev), Some(claimed)) = (record.prev(), split_hash(line, canonical)) else {
        return Err(edited);
    };
    if claimed != chain.link(&prev, canonical) {
        return Err(edited);
    }
    let order = Order::of(&record, prev, claimed);
    match before.and_then(|before| order.misfit_after(Some(before))) {
        Some(misfit) => Err(Finding::Misfit(misfit)),
        None => Ok((record, order)),
    }
}

impl Checked {
    fn sums(&mut self, record: &Glance<'_>, place: Place, drops: &mut BTreeMap<String, u64>) {
        if record.seq == 1 {
            self.flush(drops);
            self.steps.push((Step::Begin, place));
        }
        let action = match (record.event, record.action.as_ref()) {
            (EventKind::Network, DROP) => {
                match drops.get_mut(record.reason.as_ref()) {
                    Some(sum) => *sum = u64::saturating_add(*sum, record.count),
                    None => drop(drops.insert(record.reason.clone().into_owned(), record.count)),
                }
                return;
            }
            (EventKind::Network, CHECKPOINT) => CHECKPOINT,
            (EventKind::System, EPOCH) => EPOCH,
            (EventKind::System, ROTATE) => ROTATE,
            (EventKind::System, REOPEN) => REOPEN,
            (EventKind::System, CHAIN) => {
                self.steps.push((Step::ChainNotice, place));
                CHAIN
            }
            _ => return,
        };
        self.flush(drops);
        let fact = OwnedFact {
            seq: record.seq,
            kind: record.event,
            action,
            reason: String::new(),
            count: record.count,
            totals: record.totals.clone(),
            epoch: record.epoch,
        };
        self.steps.push((Step::Fact(fact), place));
    }

    fn flush(&mut self, drops: &mut BTreeMap<String, u64>) {
        for (reason, count) in std::mem::take(drops) {
            let fact = OwnedFact {
                seq: 0,
                kind: EventKind::Network,
                action: DROP,
                reason,
                count,
                totals: None,
                epoch: None,
            };
            // Drops are never a mismatch themselves: their place is not asked for.
            let place = Place { line: 0, offset: 0 };
            self.steps.push((Step::Fact(fact), place));
        }
    }
}

impl OwnedFact {
    pub(super) fn borrow(&self) -> Fact<'_> {
        Fact {
            kind: self.kind,
            action: self.action,
            reason: &self.reason,
            count: self.count,
            totals: self.totals.as_ref(),
            epoch: self.epoch,
        }
    }

    /// Of the kernel's sums.
    pub(super) fn is_checkpoint(&self) -> bool {
        self.kind == EventKind::Network && self.totals.is_some()
    }
}
