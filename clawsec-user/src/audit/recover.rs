//! Where an existing log ends, and whether that agrees with its head.
//!
//! Invariant: nothing here writes. What disagrees is returned as a record to be written; a log is
//! never silently continued.

use std::io;
use std::path::Path;

use super::chain::{Chain, Digest};
use super::entry::{CHAIN, Entry, REPAIR};
use super::head::Head;
use super::parts::{Packing, Part, ReadError, rotated};
use super::read::LogReader;
use super::record::{Record, split_hash};
use super::stamp::Stamp;
use super::sums::{Recovered, Sums};
use crate::event::Outcome;

/// What the writer goes on from.
#[derive(Debug)]
pub(super) struct Recovery {
    pub(super) seq: u64,
    pub(super) hash: Digest,
    /// Length of the whole lines of the current file; what is beyond is torn.
    pub(super) whole_bytes: u64,
    pub(super) records_in_file: u64,
    /// When the current file's first record happened.
    pub(super) begun: Option<Stamp>,
    pub(super) sums: Sums,
    /// To be written first.
    pub(super) notices: Vec<Entry>,
}

/// What one part says.
#[derive(Debug)]
struct Scan {
    last: Option<(u64, Digest)>,
    /// The last whole line is a record whose hash is right.
    sound: bool,
    /// Hash of the record with the head's number, if it is here.
    at_head: Option<Digest>,
    whole_bytes: u64,
    torn_bytes: u64,
    records: u64,
    begun: Option<Stamp>,
    sums: Sums,
}

/// Reads the end of the log and its head.
pub(super) fn recover(log: &Path, chain: &Chain) -> Result<Recovery, ReadError> {
    let (head, unreadable) = match Head::read(log) {
        Ok(head) => (head, false),
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            let path = super::head::head_path(log);
            return Err(ReadError::Read {
                path,
                source: error,
            });
        }
        Err(_) => (None, true),
    };
    // A head of number 0 names the beginning, which every log has.
    let head_seq = head.as_ref().map(|head| head.seq).filter(|seq| *seq > 0);
    let newest = Part {
        path: log.to_owned(),
        number: 0,
        packing: Packing::Plain,
    };
    let mut current = scan(&newest, head_seq, chain)?;
    // Older parts are needed only for what the newest does not say itself.
    if current.last.is_none() || !current.sums.is_anchored() || head_is_older(&current, head_seq) {
        for part in rotated(log).unwrap_or_default() {
            let older = scan(&part, head_seq, chain)?;
            current.take_older(older);
            let head_found = current.at_head.is_some() || head_seq.is_none();
            if current.last.is_some() && current.sums.is_anchored() && head_found {
                break;
            }
        }
    }

    let mut notices = Vec::new();
    if current.torn_bytes > 0 {
        let cut = format!("cut {} bytes of a line half written", current.torn_bytes);
        notices.push(Entry::system(REPAIR, Outcome::Error, "torn_line").detailed(cut));
    }
    let (mut seq, mut hash) = current.last.unwrap_or((0, Digest::ZERO));
    let mut sums = current.sums;
    let disagreement = match (&head, current.last) {
        (None, None) if !unreadable => None,
        (None, _) if unreadable => Some(("head_unreadable", "the head file is damaged".to_owned())),
        (None, _) => Some((
            "head_missing",
            format!("the log ends at {seq}, there is no head file"),
        )),
        // Nothing was written before the end of the last daemon.
        (Some(head), None) if head.seq == 0 => None,
        (Some(head), None) => {
            sums = Sums::resumed(Recovered {
                epoch: head.epoch,
                recorded: head.totals.clone(),
            });
            Some((
                "log_missing",
                format!("the head file says {}, the log is gone", head.seq),
            ))
        }
        (Some(head), Some((last, _))) if last < head.seq => Some((
            "tail_missing",
            format!("the head file says {}, the log ends at {last}", head.seq),
        )),
        (Some(head), Some(_)) if head.seq > 0 && current.at_head != Some(head.hash) => Some((
            "record_changed",
            format!("record {} is not the one the head file names", head.seq),
        )),
        (Some(head), Some(_)) if !head.is_sealed_by(chain) => Some((
            "head_unsealed",
            "the head file was written under another key or by someone else".to_owned(),
        )),
        (Some(_), Some((last, _))) if !current.sound => Some((
            "tail_changed",
            format!("the line after or at record {last} is not as written"),
        )),
        (Some(_), Some(_)) => None,
    };
    if let Some((reason, detail)) = disagreement {
        // Numbers go on after the larger of both, so that what is missing stays visible.
        if let Some(head) = head.filter(|head| head.seq > seq) {
            (seq, hash) = (head.seq, head.hash);
        }
        notices.push(Entry::system(CHAIN, Outcome::Error, reason).detailed(detail));
    }
    if !sums.is_anchored() {
        // Everything older is gone for every reader alike.
        sums = Sums::resumed(sums.into_recovered());
    }
    Ok(Recovery {
        seq,
        hash,
        whole_bytes: current.whole_bytes,
        records_in_file: current.records,
        begun: current.begun,
        sums,
        notices,
    })
}

fn head_is_older(current: &Scan, head_seq: Option<u64>) -> bool {
    match (head_seq, current.last) {
        (Some(head), Some((last, _))) => last >= head && current.at_head.is_none(),
        _ => false,
    }
}

impl Scan {
    fn take_older(&mut self, older: Self) {
        if self.last.is_none() {
            self.last = older.last;
            self.sound = older.sound;
        }
        self.at_head = self.at_head.or(older.at_head);
        if !self.sums.is_anchored() {
            let newer = std::mem::replace(&mut self.sums, older.sums);
            self.sums.followed_by(&newer);
        }
    }
}

fn scan(part: &Part, head_seq: Option<u64>, chain: &Chain) -> Result<Scan, ReadError> {
    let mut scan = Scan {
        last: None,
        sound: true,
        at_head: None,
        whole_bytes: 0,
        torn_bytes: 0,
        records: 0,
        begun: None,
        sums: Sums::unanchored(),
    };
    let Some(open) = part.open()? else {
        return Ok(scan);
    };
    let mut reader = LogReader::of_part(open);
    let mut canonical = Vec::new();
    while let Some(line) = reader.next_line()? {
        if !line.complete {
            scan.torn_bytes = line.text.len() as u64;
            break;
        }
        scan.whole_bytes = line.offset + line.text.len() as u64 + 1;
        scan.records += 1;
        let Ok(record) = Record::parse(line.text) else {
            scan.sound = false;
            continue;
        };
        scan.sound = split_hash(line.text, &mut canonical)
            .is_some_and(|claimed| chain.link(&record.prev, &canonical) == claimed);
        scan.begun.get_or_insert(record.ts);
        if record.seq == 1 {
            scan.sums = Sums::empty();
        }
        if head_seq == Some(record.seq) {
            scan.at_head = Some(record.hash);
        }
        // A mismatch is `verify`'s to report; here the stated totals are believed.
        let _believed = scan.sums.observe(record.fact());
        scan.last = Some((record.seq, record.hash));
    }
    Ok(scan)
}
