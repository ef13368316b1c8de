//! Is the log what was written? Names the first record that says no.
//!
//! Reads files only. Each line must carry the hash of its own bytes, the number after, and the
//! hash of, the line before; totals must be the sums of the lines before; and the head's record
//! must be there. A running daemon may append meanwhile: the head is read first.

use std::io;
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::chain::{Chain, Digest};
use super::entry::{CHAIN, REOPEN, ROTATE};
use super::head::{Head, head_path};
use super::parts::ReadError;
use super::read::{Line, LogReader};
use super::record::{Record, split_hash};
use super::sums::Sums;
use crate::event::EventKind;

/// Whether a missing head file is a finding.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HeadCheck {
    Required,
    /// For a copy of the log without its head: a cut tail cannot be seen.
    Skipped,
}

/// What was found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Report {
    pub ok: bool,
    pub records: u64,
    pub first_seq: Option<u64>,
    pub last_seq: Option<u64>,
    /// Records with totals that were compared with the sums before them.
    pub checkpoints: u64,
    /// Bytes after the last whole line: being written, or torn by a crash.
    pub torn_bytes: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub problem: Option<Problem>,
}

/// The first bad record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Problem {
    pub kind: ProblemKind,
    /// The record's number as it stands there, or the number that is missing.
    pub seq: Option<u64>,
    pub file: PathBuf,
    /// 1 for the file's first line; 0 for the head file.
    pub line: u64,
    /// Of the line's first byte.
    pub offset: u64,
    pub detail: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ProblemKind {
    /// Not a record.
    Unreadable,
    /// The line's hash is not of its text.
    Edited,
    /// Records are missing before this one.
    Gap,
    /// A record stands elsewhere than its number says.
    Reordered,
    /// The line is sound and rightly numbered, but follows another record than the one before.
    Unlinked,
    /// Records at the end are missing.
    Truncated,
    /// The head file is missing or not ours.
    Head,
    /// Totals are not the sums of the records before.
    Sums,
}

/// Checks a whole log.
///
/// # Errors
/// Only when the files cannot be read; whatever they hold is a `Report`.
pub fn verify(log: &Path, chain: &Chain, head_check: HeadCheck) -> Result<Report, ReadError> {
    let head = Head::read(log);
    let mut reader = LogReader::open(log)?;
    let mut checker = Checker::new(chain, head.as_ref().ok().and_then(Option::as_ref));
    while let Some(line) = reader.next_line()? {
        if line.complete {
            checker.line(&line);
        } else {
            checker.report.torn_bytes += line.text.len() as u64;
        }
        if checker.is_decided() {
            break;
        }
    }
    if head_check == HeadCheck::Required {
        checker.head(&head, log);
    }
    Ok(checker.finish())
}

struct Checker<'a> {
    chain: &'a Chain,
    head_seq: Option<u64>,
    at_head: Option<Digest>,
    last: Option<(u64, Digest)>,
    sums: Sums,
    canonical: Vec<u8>,
    report: Report,
}

impl<'a> Checker<'a> {
    fn new(chain: &'a Chain, head: Option<&Head>) -> Self {
        Self {
            chain,
            head_seq: head.map(|head| head.seq),
            at_head: None,
            last: None,
            sums: Sums::unanchored(),
            canonical: Vec::new(),
            report: Report {
                ok: true,
                records: 0,
                first_seq: None,
                last_seq: None,
                checkpoints: 0,
                torn_bytes: 0,
                problem: None,
            },
        }
    }

    /// After a gap, reading goes on: a missing record found later was moved, not removed.
    fn is_decided(&self) -> bool {
        let problem = self.report.problem.as_ref();
        problem.is_some_and(|problem| problem.kind != ProblemKind::Gap)
    }

    fn line(&mut self, line: &Line<'_>) {
        let parsed = Record::parse(line.text);
        if let Some(gap) = &mut self.report.problem {
            if parsed.is_ok_and(|record| Some(record.seq) == gap.seq) {
                gap.kind = ProblemKind::Reordered;
                gap.detail = format!(
                    "the record stands later, in line {} of {}",
                    line.number,
                    line.part.display()
                );
            }
            return;
        }
        let record = match parsed {
            Ok(record) => record,
            Err(error) => {
                let expected = self.last.map(|(seq, _)| seq + 1);
                return self.problem(ProblemKind::Unreadable, expected, line, error.to_string());
            }
        };
        let seq = Some(record.seq);
        let claimed = split_hash(line.text, &mut self.canonical);
        if claimed != Some(self.chain.link(&record.prev, &self.canonical)) {
            let detail = format!("its hash is not the {} of its text", self.chain.name());
            return self.problem(ProblemKind::Edited, seq, line, detail);
        }
        if let Some((kind, seq, detail)) = self.misplaced(&record) {
            return self.problem(kind, Some(seq), line, detail);
        }
        if record.seq == 1 {
            self.sums = Sums::empty();
        }
        if let Err(mismatch) = self.sums.observe(record.fact()) {
            let detail = format!(
                "{}: the records say {}, the totals {}",
                mismatch.reason, mismatch.recorded, mismatch.stated
            );
            return self.problem(ProblemKind::Sums, seq, line, detail);
        }
        if record.event == EventKind::Network && record.totals.is_some() {
            self.report.checkpoints += 1;
        }
        if self.head_seq == seq {
            self.at_head = Some(record.hash);
        }
        self.last = Some((record.seq, record.hash));
        self.report.records += 1;
        self.report.first_seq = self.report.first_seq.or(seq);
        self.report.last_seq = seq;
    }

    fn misplaced(&self, record: &Record) -> Option<(ProblemKind, u64, String)> {
        let Some((last, hash)) = self.last else {
            // Older parts are removed by rotation: then the first line begins a file.
            let action = record.action.as_ref();
            let begins =
                record.event == EventKind::System && [ROTATE, REOPEN, CHAIN].contains(&action);
            let first = record.seq == 1 && record.prev == Digest::ZERO;
            return (!first && !begins).then(|| {
                let missing = record.seq.saturating_sub(1);
                (
                    ProblemKind::Gap,
                    missing,
                    format!("the log begins at {}", record.seq),
                )
            });
        };
        let expected = last + 1;
        if record.seq > expected {
            let detail = format!("{last} is followed by {}", record.seq);
            return Some((ProblemKind::Gap, expected, detail));
        }
        if record.seq < expected {
            let detail = format!("it stands after {last}");
            return Some((ProblemKind::Reordered, record.seq, detail));
        }
        let detail = || format!("it does not follow the record {last} that stands before it");
        (record.prev != hash).then(|| (ProblemKind::Unlinked, record.seq, detail()))
    }

    fn head(&mut self, head: &io::Result<Option<Head>>, log: &Path) {
        if self.report.problem.is_some() {
            return;
        }
        let last = self.report.last_seq.unwrap_or(0);
        let found = match head {
            Err(error) => Some((ProblemKind::Head, None, format!("damaged: {error}"))),
            Ok(None) => Some((ProblemKind::Head, None, "there is no head file".to_owned())),
            Ok(Some(head)) if head.chain != self.chain.name() => {
                let detail = format!(
                    "written with {}, checked with {}",
                    head.chain,
                    self.chain.name()
                );
                Some((ProblemKind::Head, None, detail))
            }
            Ok(Some(head)) if !head.is_sealed_by(self.chain) => Some((
                ProblemKind::Head,
                None,
                "its seal is not of its text".to_owned(),
            )),
            Ok(Some(head)) if last < head.seq => {
                let detail = format!("the head file says {}, the log ends at {last}", head.seq);
                Some((ProblemKind::Truncated, Some(last + 1), detail))
            }
            // The head's record may have been rotated away only if it is older than the first.
            Ok(Some(head)) if self.at_head != Some(head.hash) => {
                let detail = "the head file names another record of this number".to_owned();
                Some((ProblemKind::Edited, Some(head.seq), detail))
            }
            Ok(Some(_)) => None,
        };
        self.report.problem = found.map(|(kind, seq, detail)| Problem {
            kind,
            seq,
            file: head_path(log),
            line: 0,
            offset: 0,
            detail,
        });
    }

    fn problem(&mut self, kind: ProblemKind, seq: Option<u64>, line: &Line<'_>, detail: String) {
        self.report.problem = Some(Problem {
            kind,
            seq,
            file: line.part.to_owned(),
            line: line.number,
            offset: line.offset,
            detail,
        });
    }

    fn finish(mut self) -> Report {
        self.report.ok = self.report.problem.is_none();
        self.report
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::audit::entry::Entry;
    use crate::event::{Event, Outcome};

    fn write_log(path: &Path) -> Vec<Vec<u8>> {
        let chain = Chain::new(None);
        let mut prev = Digest::ZERO;
        let mut lines = Vec::new();
        for seq in 1..=9 {
            let mut event = Event::new(EventKind::Auth, "connect", Outcome::Allow, "ok");
            event.user = Some(format!("user{seq}"));
            let mut line = Vec::new();
            let mut record = Record::new(&Entry::from(event), seq, prev);
            record.encode(&chain, &mut line);
            prev = record.hash;
            lines.push(line);
        }
        let head = Head {
            v: 1,
            seq: 9,
            hash: prev,
            file: "audit.log".to_owned(),
            offset: 0,
            chain: "sha256".to_owned(),
            epoch: 0,
            totals: std::collections::BTreeMap::new(),
            seal: Digest::ZERO,
        };
        head.sealed(&chain).replace(path, false).unwrap();
        lines
    }

    fn forge(line: &[u8], from: &str, to: &str) -> Vec<u8> {
        let text = String::from_utf8(line.to_vec()).unwrap();
        assert!(text.contains(from));
        text.replace(from, to).into_bytes()
    }

    #[test]
    fn the_first_bad_record_is_named() {
        use ProblemKind::{Edited, Gap, Reordered, Truncated, Unlinked, Unreadable};
        type Harm = fn(&mut Vec<Vec<u8>>);
        type Found = Option<(ProblemKind, u64)>;
        let rows: [(&str, Harm, Found); 12] = [
            ("untouched", |_| {}, None),
            (
                "a torn tail is no finding",
                |lines| lines.push(b"{\"v\":1".to_vec()),
                None,
            ),
            (
                "edited",
                |lines| lines[4] = forge(&lines[4], "user5", "user6"),
                Some((Edited, 5)),
            ),
            (
                "hash is no hash",
                |lines| lines[4] = forge(&lines[4], "\"hash\":\"", "\"hash\":\"0"),
                Some((Unreadable, 5)),
            ),
            ("removed", |lines| drop(lines.remove(4)), Some((Gap, 5))),
            ("swapped", |lines| lines.swap(4, 5), Some((Reordered, 5))),
            (
                "moved to the end",
                |lines| {
                    let line = lines.remove(4);
                    lines.push(line);
                },
                Some((Reordered, 5)),
            ),
            (
                "repeated",
                |lines| lines.insert(5, lines[4].clone()),
                Some((Reordered, 5)),
            ),
            (
                "cut at the end",
                |lines| lines.truncate(7),
                Some((Truncated, 8)),
            ),
            (
                "cut at the front",
                |lines| drop(lines.drain(..2)),
                Some((Gap, 2)),
            ),
            (
                "not a record",
                |lines| lines[4] = b"hello\n".to_vec(),
                Some((Unreadable, 5)),
            ),
            (
                "forged with its own hash",
                |lines| {
                    let mut record = Record::parse(&forge(&lines[4], "user5", "user6")).unwrap();
                    lines[4].clear();
                    record.encode(&Chain::new(None), &mut lines[4]);
                },
                Some((Unlinked, 6)),
            ),
        ];
        for (name, harm, expected) in rows {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("audit.log");
            let mut lines = write_log(&path);
            harm(&mut lines);
            // Split over two parts: what is found does not depend on where files end.
            let cut = lines.len().min(3);
            fs::write(dir.path().join("audit.log.1"), lines[..cut].concat()).unwrap();
            fs::write(&path, lines[cut..].concat()).unwrap();
            let report = verify(&path, &Chain::new(None), HeadCheck::Required).unwrap();
            let found = report
                .problem
                .as_ref()
                .map(|p| (p.kind, p.seq.unwrap_or(0)));
            assert_eq!(found, expected, "{name}: {report:?}");
            assert_eq!(report.ok, expected.is_none(), "{name}");
        }
    }

    #[test]
    fn the_head_is_needed_unless_it_is_waived() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("audit.log");
        fs::write(&path, write_log(&path).concat()).unwrap();
        let chain = Chain::new(None);
        let kind = |check| {
            verify(&path, &chain, check)
                .unwrap()
                .problem
                .map(|p| p.kind)
        };
        assert_eq!(kind(HeadCheck::Required), None);
        let head = fs::read_to_string(head_path(&path)).unwrap();
        fs::write(head_path(&path), head.replace("\"seq\":9", "\"seq\":8")).unwrap();
        assert_eq!(kind(HeadCheck::Required), Some(ProblemKind::Head));
        fs::remove_file(head_path(&path)).unwrap();
        assert_eq!(kind(HeadCheck::Required), Some(ProblemKind::Head));
        assert_eq!(kind(HeadCheck::Skipped), None);
    }

    #[test]
    fn totals_that_are_not_the_sums_are_found() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("audit.log");
        let mut log = Vec::new();
        let mut prev = Digest::ZERO;
        for (seq, total) in [(1, None), (2, Some(1)), (3, None), (4, Some(3))] {
            let action = if total.is_some() {
                "checkpoint"
            } else {
                "drop"
            };
            let mut event = Event::new(EventKind::Network, action, Outcome::Deny, "banned");
            event.count = u64::from(total.is_none());
            let mut entry = Entry::from(event);
            entry.totals = total.map(|total| [("banned".to_owned(), total)].into());
            let mut record = Record::new(&entry, seq, prev);
            record.encode(&Chain::new(None), &mut log);
            prev = record.hash;
        }
        fs::write(&path, log).unwrap();
        let report = verify(&path, &Chain::new(None), HeadCheck::Skipped).unwrap();
        let problem = report.problem.unwrap();
        assert_eq!((problem.kind, problem.seq), (ProblemKind::Sums, Some(4)));
        assert_eq!(report.checkpoints, 1);
    }
}
