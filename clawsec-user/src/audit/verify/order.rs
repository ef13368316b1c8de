//! Records that do not follow one another: what was done to them.
//!
//! A misfit is found by its neighbour alone. Whether its predecessor is missing, stands elsewhere,
//! changed places with another, or grew two successors is told by a second reading of the log,
//! which happens only then.

use std::ops::ControlFlow;
use std::path::Path;

use super::ProblemKind;
use crate::audit::blocks::{Block, Blocks, lines};
use crate::audit::chain::Digest;
use crate::audit::entry::{CHAIN, REOPEN, ROTATE};
use crate::audit::glance::Glance;
use crate::audit::parts::ReadError;
use crate::audit::record::split_hash;
use crate::audit::scan::{Piece, scan};
use crate::event::EventKind;

/// What of a sound record says where it belongs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Order {
    pub(super) seq: u64,
    prev: Digest,
    pub(super) hash: Digest,
    role: Role,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Role {
    Any,
    /// First of its file: older files may have been removed.
    BeginsFile,
    /// The daemon found at its start that the records before were gone.
    SaysTailMissing,
    SaysLogMissing,
}

/// A sound record that does not belong behind the one before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Misfit {
    /// `None`: it is the log's first line.
    before: Option<u64>,
    found: Order,
}

impl Order {
    pub(super) fn of(record: &Glance<'_>, prev: Digest, hash: Digest) -> Self {
        let role = match (record.event, record.action.as_ref(), record.reason.as_ref()) {
            (EventKind::System, CHAIN, "tail_missing") => Role::SaysTailMissing,
            (EventKind::System, CHAIN, "log_missing") => Role::SaysLogMissing,
            (EventKind::System, ROTATE | REOPEN | CHAIN, _) => Role::BeginsFile,
            _ => Role::Any,
        };
        Self {
            seq: record.seq,
            prev,
            hash,
            role,
        }
    }

    pub(super) fn misfit_after(self, before: Option<(u64, Digest)>) -> Option<Misfit> {
        let fits = match before {
            // Older parts are removed by rotation: then the first line begins a file.
            None => self.role == Role::BeginsFile || (self.seq == 1 && self.prev == Digest::ZERO),
            Some((seq, hash)) => seq.checked_add(1) == Some(self.seq) && self.prev == hash,
        };
        (!fits).then_some(Misfit {
            before: before.map(|(seq, _)| seq),
            found: self,
        })
    }
}

/// Says what was done: the kind, the number of the first bad record, and a sentence.
pub(super) fn explain(log: &Path, misfit: Misfit) -> Result<(ProblemKind, u64, String), ReadError> {
    let found = misfit.found;
    let expected = misfit
        .before
        .map_or(found.seq.saturating_sub(1), |seq| seq + 1);
    let after = match misfit.before {
        Some(before) => format!("{before} is followed by {}", found.seq),
        None => format!("the log begins at {}", found.seq),
    };
    if found.role == Role::SaysTailMissing && found.seq > expected {
        let detail = format!("{after}, with which the daemon says that the end was cut off");
        return Ok((ProblemKind::Truncated, expected, detail));
    }
    if found.role == Role::SaysLogMissing {
        let detail = format!("{after}, with which the daemon says that the log was gone");
        return Ok((ProblemKind::Truncated, expected, detail));
    }
    if misfit.before.is_none() && found.seq == 1 {
        let detail = "the first record follows another one".to_owned();
        return Ok((ProblemKind::Forked, 1, detail));
    }
    if misfit.before.is_some() && found.seq == expected {
        let detail = format!(
            "it is sound, but follows another record {} than the one that stands before it",
            expected - 1
        );
        return Ok((ProblemKind::Forked, expected, detail));
    }
    let survey = Survey::of(log, expected, found.seq)?;
    let first_bad = expected.min(found.seq);
    if let Some((one, other)) = survey.swapped() {
        let detail = if one.first == one.last && other.first == other.last {
            format!(
                "records {} and {} stand in each other's place",
                one.first, other.first
            )
        } else {
            format!(
                "the files of records {} to {} and {} to {} stand in each other's place",
                one.first, one.last, other.first, other.last
            )
        };
        return Ok((ProblemKind::Swapped, first_bad, detail));
    }
    if found.seq < expected {
        // Its number was there before, or belongs before everything that is.
        let twins = survey.found.iter().filter(|hash| **hash != found.hash);
        return Ok(if twins.count() > 0 {
            let detail = format!("{after}, and there is another record {}", found.seq);
            (ProblemKind::Forked, found.seq, detail)
        } else if survey.found.len() > 1 {
            let detail = format!("{after}, which stands there twice");
            (ProblemKind::Reordered, found.seq, detail)
        } else {
            (ProblemKind::Reordered, found.seq, after)
        });
    }
    Ok(if survey.expected {
        let detail = format!("{after}; {expected} stands elsewhere");
        (ProblemKind::Reordered, expected, detail)
    } else {
        (ProblemKind::Gap, expected, after)
    })
}

/// The numbers of the whole log, as they stand.
#[derive(Debug, Default)]
struct Survey {
    runs: Vec<Run>,
    /// There are more runs than are kept.
    many: bool,
    /// The record that was expected stands somewhere.
    expected: bool,
    /// Hashes of sound records with the number that was found instead; a few.
    found: Vec<Digest>,
}

/// Records that follow one another by number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Run {
    first: u64,
    last: u64,
    /// It begins with a file.
    begins_part: bool,
}

impl Survey {
    fn of(log: &Path, expected: u64, found: u64) -> Result<Self, ReadError> {
        let mut blocks = Blocks::open(log)?;
        let mut survey = Self::default();
        let mut failure = None;
        scan(
            &mut blocks,
            &mut |_| {},
            || (),
            |(), block| Self::of_block(block, expected, found),
            |piece| match piece {
                Piece::Made(part) => {
                    survey.join(part);
                    ControlFlow::Continue(())
                }
                // What it held is not known; what is known is still true.
                Piece::Damage(ReadError::Damaged { .. }) => ControlFlow::Continue(()),
                Piece::Damage(error) => {
                    failure = Some(error);
                    ControlFlow::Break(())
                }
            },
        );
        failure.map_or(Ok(survey), Err)
    }

    fn of_block(block: &Block, expected: u64, found: u64) -> Self {
        let mut survey = Self::default();
        for (at, line, _) in lines(&block.text) {
            let Ok(record) = Glance::parse(line) else {
                continue;
            };
            survey.expected |= record.seq == expected;
            if record.seq == found
                && survey.found.len() < TWINS_KEPT
                && let Some(hash) = split_hash(line, &mut Vec::new())
            {
                survey.found.push(hash);
            }
            survey.add(Run {
                first: record.seq,
                last: record.seq,
                begins_part: block.offset == 0 && at == 0,
            });
        }
        survey
    }

    fn join(&mut self, next: Self) {
        self.expected |= next.expected;
        self.many |= next.many;
        let room = TWINS_KEPT - self.found.len();
        self.found.extend(next.found.into_iter().take(room));
        next.runs.into_iter().for_each(|run| self.add(run));
    }

    fn add(&mut self, run: Run) {
        let room = self.runs.len() < RUNS_KEPT;
        match self.runs.last_mut() {
            Some(last) if last.last.checked_add(1) == Some(run.first) => last.last = run.last,
            _ if room => self.runs.push(run),
            _ => self.many = true,
        }
    }

    /// Two runs which, exchanged, make the log whole: single records, or whole files.
    fn swapped(&self) -> Option<(Run, Run)> {
        let mut sorted = self.runs.clone();
        sorted.sort_unstable_by_key(|run| run.first);
        let whole = sorted
            .windows(2)
            .all(|pair| pair[0].last.checked_add(1) == Some(pair[1].first));
        let differ: Vec<usize> = (0..sorted.len())
            .filter(|index| sorted[*index] != self.runs[*index])
            .collect();
        let [one, other] = differ[..] else {
            return None;
        };
        let is_file = |index: usize| {
            let ends = self.runs.get(index + 1).is_none_or(|next| next.begins_part);
            self.runs[index].begins_part && ends
        };
        let single = |index: usize| self.runs[index].first == self.runs[index].last;
        let alike = (single(one) && single(other)) || (is_file(one) && is_file(other));
        (whole && !self.many && alike).then(|| (sorted[one], sorted[other]))
    }
}

/// Enough for any two exchanged records or files; with more, records were moved about.
const RUNS_KEPT: usize = 16;
const TWINS_KEPT: usize = 4;
