//! Is the log what was written? Names the first record that says no, and what was done to it.
//!
//! Reads files only. Each line must carry the hash of its own bytes, the number after, and the
//! hash of, the line before; totals must be the sums of the lines before; and the head's record
//! must be there. A running daemon may append meanwhile: the head is read first. Blocks are checked
//! in parallel (`block`), what joins them in order here, and what misplaced records mean is looked
//! into only when there are some (`order`).

mod block;
mod order;
#[cfg(test)]
mod tests;

use std::io;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use serde::Serialize;

use self::block::{Checked, Finding, Place, Step};
use self::order::Misfit;
use super::blocks::Blocks;
use super::chain::{Chain, Digest};
use super::head::{Head, head_path};
use super::parts::ReadError;
use super::scan::{OnProgress, Piece, scan};
use super::sums::Sums;

/// Which head file the log is held against.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HeadCheck {
    /// The one beside the log; that it is missing is a finding.
    Required,
    /// A copy that was kept elsewhere.
    Copy(PathBuf),
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
    /// `system`/`chain` records: what the daemon itself found to have been changed.
    pub chain_notices: u64,
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
    /// Of the line's first byte; in a compressed part, of its text.
    pub offset: u64,
    pub detail: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ProblemKind {
    /// Not a record, or a compressed part that cannot be unpacked.
    Unreadable,
    /// The line's hash is not of its text.
    Edited,
    /// Records are missing before this one.
    Gap,
    /// Records stand elsewhere than their numbers say, or twice.
    Reordered,
    /// Two records, or two files, stand in each other's place.
    Swapped,
    /// A sound record that follows another than the one before it: two logs grow from one.
    Forked,
    /// Records at the end are missing.
    Truncated,
    /// The head file is missing, damaged, or not of this log.
    Head,
    /// Totals are not the sums of the records before.
    Sums,
}

/// Checks a whole log.
///
/// # Errors
/// Only when the files cannot be read; whatever they hold is a `Report`.
pub fn verify(
    log: &Path,
    chain: &Chain,
    head_check: &HeadCheck,
    progress: OnProgress<'_>,
) -> Result<Report, ReadError> {
    let head_file = match head_check {
        HeadCheck::Copy(path) => path.clone(),
        HeadCheck::Required | HeadCheck::Skipped => head_path(log),
    };
    let head = Head::read_file(&head_file);
    let head_seq = match &head {
        Ok(Some(head)) => Some(head.seq),
        _ => None,
    };
    let mut blocks = Blocks::open(log)?;
    let mut checker = Checker::new(blocks.names().to_vec());
    if *head_check != HeadCheck::Skipped {
        checker.other_chain(&head, &head_file, chain);
    }
    let mut failure = None;
    if checker.report.problem.is_none() {
        scan(
            &mut blocks,
            progress,
            Vec::new,
            |canonical, block| block::check(block, chain, head_seq, canonical),
            |piece| match piece {
                Piece::Made(checked) => checker.take(checked),
                Piece::Damage(ReadError::Damaged { path, at, source }) => {
                    checker.damage(path, at, &source);
                    ControlFlow::Break(())
                }
                Piece::Damage(error) => {
                    failure = Some(error);
                    ControlFlow::Break(())
                }
            },
        );
    }
    if let Some(error) = failure {
        return Err(error);
    }
    if let Some((misfit, place)) = checker.misfit.take() {
        let (kind, seq, detail) = order::explain(log, misfit)?;
        checker.problem(kind, Some(seq), place, detail);
    }
    if *head_check != HeadCheck::Skipped {
        checker.head(&head, &head_file, chain);
    }
    Ok(checker.finish())
}

struct Checker {
    names: Vec<PathBuf>,
    /// The part that is being read, and how many of its lines were.
    part: usize,
    lines: u64,
    last: Option<(u64, Digest)>,
    at_head: Option<Digest>,
    sums: Sums,
    misfit: Option<(Misfit, Place)>,
    report: Report,
}

impl Checker {
    fn new(names: Vec<PathBuf>) -> Self {
        Self {
            names,
            part: 0,
            lines: 0,
            last: None,
            at_head: None,
            sums: Sums::unanchored(),
            misfit: None,
            report: Report {
                ok: true,
                records: 0,
                first_seq: None,
                last_seq: None,
                checkpoints: 0,
                chain_notices: 0,
                torn_bytes: 0,
                problem: None,
            },
        }
    }

    /// Takes the blocks in the order of the log.
    fn take(&mut self, checked: Checked) -> ControlFlow<()> {
        if checked.part != self.part {
            (self.part, self.lines) = (checked.part, 0);
        }
        if let Some((record, place)) = &checked.first
            && let Some(misfit) = record.misfit_after(self.last)
        {
            self.misfit = Some((misfit, *place));
            return ControlFlow::Break(());
        }
        for (step, place) in checked.steps {
            self.step(&step, place)?;
        }
        self.last = checked.last.or(self.last);
        self.at_head = checked.at_head.or(self.at_head);
        self.report.records += checked.records;
        self.report.first_seq = self
            .report
            .first_seq
            .or(checked.first.map(|(record, _)| record.seq));
        self.report.last_seq = self.last.map(|(seq, _)| seq);
        self.report.torn_bytes += checked.torn_bytes;
        if let Some((finding, place)) = checked.finding {
            match finding {
                Finding::Misfit(misfit) => self.misfit = Some((misfit, place)),
                Finding::Unreadable(detail) => {
                    let expected = self.last.map(|(seq, _)| seq + 1);
                    self.problem(ProblemKind::Unreadable, expected, place, detail);
                }
                Finding::Edited { seq, chain } => {
                    let mut detail = format!("its hash is not the {chain} of its text");
                    if self.last.is_none() {
                        detail.push_str("; with the first record, the key may be another one");
                    }
                    self.problem(ProblemKind::Edited, Some(seq), place, detail);
                }
            }
            return ControlFlow::Break(());
        }
        self.lines += checked.lines;
        ControlFlow::Continue(())
    }

    fn step(&mut self, step: &Step, place: Place) -> ControlFlow<()> {
        match step {
            Step::Begin => self.sums = Sums::empty(),
            Step::ChainNotice => self.report.chain_notices += 1,
            Step::Fact(fact) => {
                if let Err(mismatch) = self.sums.observe(fact.borrow()) {
                    let detail = format!(
                        "{}: the records say {}, the totals {}",
                        mismatch.reason, mismatch.recorded, mismatch.stated
                    );
                    self.problem(ProblemKind::Sums, Some(fact.seq), place, detail);
                    return ControlFlow::Break(());
                }
                self.report.checkpoints += u64::from(fact.is_checkpoint());
            }
        }
        ControlFlow::Continue(())
    }

    fn damage(&mut self, path: PathBuf, at: u64, source: &io::Error) {
        let known = self.names.get(self.part) == Some(&path);
        self.report.problem = Some(Problem {
            kind: ProblemKind::Unreadable,
            seq: self.last.map(|(seq, _)| seq + 1),
            file: path,
            line: 1 + if known { self.lines } else { 0 },
            offset: at,
            detail: format!("it cannot be unpacked from here on: {source}"),
        });
    }

    /// With another kind of hash each line would look edited.
    fn other_chain(&mut self, head: &io::Result<Option<Head>>, file: &Path, chain: &Chain) {
        if let Ok(Some(head)) = head
            && head.chain != chain.name()
        {
            let hint = if head.chain == Chain::KEYED {
                "; give the key (--key-file, or the configuration's chainKey)"
            } else {
                ""
            };
            let detail = format!(
                "written with {}, checked with {}{hint}",
                head.chain,
                chain.name()
            );
            self.head_problem(file, (ProblemKind::Head, None, detail));
        }
    }

    fn head(&mut self, head: &io::Result<Option<Head>>, file: &Path, chain: &Chain) {
        if self.report.problem.is_some() {
            return;
        }
        let first = self.report.first_seq.unwrap_or(1);
        let last = self.report.last_seq.unwrap_or(0);
        let wrong = |detail: String| (ProblemKind::Head, None, detail);
        let found = match head {
            Err(error) => Some(wrong(format!("damaged: {error}"))),
            Ok(None) => Some(wrong("there is no head file".to_owned())),
            Ok(Some(head)) if !head.is_sealed_by(chain) => {
                Some(wrong("its seal is not of its text".to_owned()))
            }
            Ok(Some(head)) if last < head.seq => {
                let detail = format!("the head file says {}, the log ends at {last}", head.seq);
                Some((ProblemKind::Truncated, Some(last + 1), detail))
            }
            // Killed in its first moments: the head still names the beginning.
            Ok(Some(head)) if head.seq == 0 && first == 1 => None,
            Ok(Some(head)) if head.seq < first => Some(wrong(format!(
                "it names {}, which is older than the log's first record, {first}",
                head.seq
            ))),
            Ok(Some(head)) if self.at_head != Some(head.hash) => {
                let detail = format!(
                    "the log's record {} is sound, but not the one that the head file names: \
                     the log was made anew, or the head is another log's",
                    head.seq
                );
                Some((ProblemKind::Forked, Some(head.seq), detail))
            }
            Ok(Some(_)) => None,
        };
        if let Some(found) = found {
            self.head_problem(file, found);
        }
    }

    fn head_problem(
        &mut self,
        file: &Path,
        (kind, seq, detail): (ProblemKind, Option<u64>, String),
    ) {
        self.report.problem = Some(Problem {
            kind,
            seq,
            file: file.to_owned(),
            line: 0,
            offset: 0,
            detail,
        });
    }

    fn problem(&mut self, kind: ProblemKind, seq: Option<u64>, place: Place, detail: String) {
        self.report.problem = Some(Problem {
            kind,
            seq,
            file: self.names.get(self.part).cloned().unwrap_or_default(),
            line: self.lines + place.line,
            offset: place.offset,
            detail,
        });
    }

    fn finish(mut self) -> Report {
        self.report.ok = self.report.problem.is_none();
        self.report
    }
}
