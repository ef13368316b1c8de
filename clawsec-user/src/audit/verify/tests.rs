//! Every kind of tampering, in every place where a file or a block may end.

mod beside;

use std::collections::BTreeMap;
use std::fs;

use super::ProblemKind::{
    Edited, Forked, Gap, Head as BadHead, Reordered, Swapped, Truncated, Unreadable,
};
use super::*;
use crate::audit::entry::Entry;
use crate::audit::record::Record;
use crate::config::Secret;
use crate::event::{Event, EventKind, Outcome};

fn keyed() -> Chain {
    Chain::new(Some(&Secret::new("a key".to_owned())))
}

fn plain() -> Chain {
    Chain::new(None)
}

/// Records `from..=to` of a log in which `who` did everything.
fn grow(chain: &Chain, mut prev: Digest, from: u64, to: u64, who: &str) -> Vec<Vec<u8>> {
    let mut lines = Vec::new();
    for seq in from..=to {
        let mut event = Event::new(EventKind::Auth, "connect", Outcome::Allow, "ok");
        if seq % PART == 1 && seq > 1 {
            event = Event::new(EventKind::System, "rotate", Outcome::Allow, "size");
        }
        event.user = Some(format!("{who}{seq}"));
        let mut line = Vec::new();
        let mut record = Record::new(&Entry::from(event), seq, prev);
        record.encode(chain, &mut line);
        prev = record.hash;
        lines.push(line);
    }
    lines
}

fn hash_of(line: &[u8]) -> Digest {
    Record::parse(line).unwrap().hash
}

fn write_head(log: &Path, chain: &Chain, last: &[u8]) {
    let record = Record::parse(last).unwrap();
    let head = Head {
        v: 1,
        seq: record.seq,
        hash: record.hash,
        file: "audit.log".to_owned(),
        offset: 0,
        chain: chain.name().to_owned(),
        epoch: 0,
        totals: BTreeMap::new(),
        seal: Digest::ZERO,
    };
    head.sealed(chain).replace(log, false).unwrap();
}

fn check(log: &Path, chain: &Chain, head: &HeadCheck) -> Report {
    verify(log, chain, head, &mut |_| {}).unwrap()
}

fn found(report: &Report) -> Option<(ProblemKind, u64)> {
    let problem = report.problem.as_ref();
    problem.map(|problem| (problem.kind, problem.seq.unwrap_or(0)))
}

fn forge(line: &[u8], from: &str, to: &str) -> Vec<u8> {
    let text = String::from_utf8(line.to_vec()).unwrap();
    assert!(text.contains(from));
    text.replace(from, to).into_bytes()
}

/// Changes a record and gives it a hash of its own, as one can who knows the key or needs none.
fn rehash(chain: &Chain, line: &[u8], from: &str, to: &str) -> Vec<u8> {
    let mut record = Record::parse(&forge(line, from, to)).unwrap();
    let mut line = Vec::new();
    record.encode(chain, &mut line);
    line
}

/// Records of a part in these tests, so that parts can be exchanged.
const PART: u64 = 4;

type Harm = fn(&Chain, &mut Vec<Vec<u8>>);

/// What was done, how, and what is found where.
type Row = (&'static str, Harm, Option<(ProblemKind, u64)>);

const ROWS: &[Row] = &[
    ("untouched", |_, _| {}, None),
    (
        "a torn tail is no finding",
        |_, lines| lines.push(b"{\"v\":1".to_vec()),
        None,
    ),
    (
        "edited",
        |_, lines| lines[5] = forge(&lines[5], "user6", "user7"),
        Some((Edited, 6)),
    ),
    (
        "another hash, well written",
        |_, lines| {
            let own = hash_of(&lines[5]).to_string();
            let other = hash_of(&lines[6]).to_string();
            lines[5] = forge(&lines[5], &own, &other);
        },
        Some((Edited, 6)),
    ),
    (
        "hash is no hash",
        |_, lines| lines[5] = forge(&lines[5], "\"hash\":\"", "\"hash\":\"0"),
        Some((Edited, 6)),
    ),
    (
        "not a record",
        |_, lines| lines[5] = b"hello\n".to_vec(),
        Some((Unreadable, 6)),
    ),
    (
        "one removed",
        |_, lines| drop(lines.remove(5)),
        Some((Gap, 6)),
    ),
    (
        "a whole part removed",
        |_, lines| drop(lines.drain(4..8)),
        Some((Gap, 5)),
    ),
    (
        "cut at the front, not where a file begins",
        |_, lines| drop(lines.drain(..2)),
        Some((Gap, 2)),
    ),
    (
        "cut at the front by rotation",
        |_, lines| drop(lines.drain(..4)),
        None,
    ),
    (
        "neighbours swapped",
        |_, lines| lines.swap(5, 6),
        Some((Swapped, 6)),
    ),
    (
        "the first two swapped",
        |_, lines| lines.swap(0, 1),
        Some((Swapped, 1)),
    ),
    (
        "two far apart swapped",
        |_, lines| lines.swap(1, 10),
        Some((Swapped, 2)),
    ),
    (
        "two parts swapped",
        |_, lines| {
            let part: Vec<_> = lines.drain(..4).collect();
            lines.splice(4..4, part);
        },
        Some((Swapped, 1)),
    ),
    (
        "moved to the end",
        |_, lines| {
            let line = lines.remove(5);
            lines.push(line);
        },
        Some((Reordered, 6)),
    ),
    (
        "moved to the front",
        |_, lines| {
            let line = lines.remove(8);
            lines.insert(2, line);
        },
        Some((Reordered, 3)),
    ),
    (
        "turned round",
        |_, lines| lines[2..9].reverse(),
        Some((Reordered, 3)),
    ),
    (
        "repeated",
        |_, lines| lines.insert(6, lines[5].clone()),
        Some((Reordered, 6)),
    ),
    (
        "repeated later",
        |_, lines| lines.push(lines[5].clone()),
        Some((Reordered, 6)),
    ),
    (
        "rewritten with a hash of its own",
        |chain, lines| lines[5] = rehash(chain, &lines[5], "user6", "user7"),
        Some((Forked, 7)),
    ),
    (
        "an older state went on growing beside it",
        |chain, lines| {
            let other = grow(chain, hash_of(&lines[5]), 7, 9, "other");
            lines.extend(other);
        },
        Some((Forked, 7)),
    ),
    (
        "the end comes from a fork",
        |chain, lines| {
            let other = grow(chain, hash_of(&lines[4]), 6, 12, "other");
            lines.splice(6.., other.into_iter().skip(1));
        },
        Some((Forked, 7)),
    ),
    (
        "made anew from some record on, as long as before",
        |chain, lines| {
            let other = grow(chain, hash_of(&lines[4]), 6, 12, "other");
            lines.splice(5.., other);
        },
        Some((Forked, 12)),
    ),
    (
        "cut at the end",
        |_, lines| lines.truncate(9),
        Some((Truncated, 10)),
    ),
    (
        "cut at the end, and the daemon noticed",
        |chain, lines| {
            let head = hash_of(&lines[11]);
            lines.truncate(9);
            let entry = Entry::system("chain", Outcome::Error, "tail_missing");
            let mut line = Vec::new();
            Record::new(&entry, 13, head).encode(chain, &mut line);
            lines.push(line);
        },
        Some((Truncated, 10)),
    ),
    ("emptied", |_, lines| lines.clear(), Some((Truncated, 1))),
];

#[test]
fn the_first_bad_record_is_named_with_what_was_done() {
    for (chain, name, harm, expected) in [plain(), keyed()].iter().flat_map(|chain| {
        ROWS.iter()
            .map(move |(name, harm, expected)| (chain, name, harm, expected))
    }) {
        for packed in [false, true] {
            let dir = tempfile::tempdir().unwrap();
            let log = dir.path().join("audit.log");
            let mut lines = grow(chain, Digest::ZERO, 1, 12, "user");
            write_head(&log, chain, &lines[11]);
            harm(chain, &mut lines);
            // In three parts: what is found does not depend on where files end.
            let cuts = [lines.len().min(4), lines.len().min(8)];
            let oldest = lines[..cuts[0]].concat();
            if packed {
                let text = zstd::stream::encode_all(&*oldest, 1).unwrap();
                fs::write(dir.path().join("audit.log.2.zst"), text).unwrap();
            } else {
                fs::write(dir.path().join("audit.log.2"), oldest).unwrap();
            }
            fs::write(
                dir.path().join("audit.log.1"),
                lines[cuts[0]..cuts[1]].concat(),
            )
            .unwrap();
            fs::write(&log, lines[cuts[1]..].concat()).unwrap();
            let report = check(&log, chain, &HeadCheck::Required);
            assert_eq!(found(&report), *expected, "{name}: {report:?}");
            assert_eq!(report.ok, expected.is_none(), "{name}");
        }
    }
}

#[test]
fn the_place_of_the_first_bad_record_is_given() {
    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join("audit.log");
    let mut lines = grow(&plain(), Digest::ZERO, 1, 12, "user");
    write_head(&log, &plain(), &lines[11]);
    lines[6] = forge(&lines[6], "user7", "user8");
    fs::write(dir.path().join("audit.log.1"), lines[..4].concat()).unwrap();
    fs::write(&log, lines[4..].concat()).unwrap();
    let problem = check(&log, &plain(), &HeadCheck::Required).problem.unwrap();
    let offset = lines[4..6].concat().len() as u64;
    assert_eq!(
        (problem.file, problem.line, problem.offset),
        (log, 3, offset)
    );
}

/// Blocks are checked apart: nothing may hide where they meet.
#[test]
fn harm_is_found_wherever_blocks_end() {
    let lines = grow(&plain(), Digest::ZERO, 1, 6_000, "user");
    let block = 512 * 1024;
    let mut ends = 0;
    let mut near: Vec<usize> = Vec::new();
    for (index, line) in lines.iter().enumerate() {
        if (ends + line.len()) / block > ends / block {
            near.extend([index - 2, index - 1, index, index + 1, index + 2]);
        }
        ends += line.len();
    }
    assert!(near.len() >= 15, "several blocks: {}", near.len());
    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join("audit.log");
    write_head(&log, &plain(), &lines[5_999]);
    fs::write(&log, lines.concat()).unwrap();
    let report = check(&log, &plain(), &HeadCheck::Required);
    assert_eq!((report.ok, report.records), (true, 6_000), "{report:?}");
    for index in near {
        let seq = index as u64 + 1;
        let rows: [(&str, Harm2, (ProblemKind, u64)); 5] = [
            (
                "edited",
                |lines, at| lines[at] = forge(&lines[at], "user", "usar"),
                (Edited, seq),
            ),
            ("removed", |lines, at| drop(lines.remove(at)), (Gap, seq)),
            (
                "swapped",
                |lines, at| lines.swap(at, at + 1),
                (Swapped, seq),
            ),
            (
                "repeated",
                |lines, at| lines.insert(at, lines[at].clone()),
                (Reordered, seq),
            ),
            (
                "forked",
                |lines, at| lines[at] = rehash(&plain(), &lines[at], "user", "usar"),
                (Forked, seq + 1),
            ),
        ];
        for (name, harm, expected) in rows {
            let mut lines = lines.clone();
            harm(&mut lines, index);
            fs::write(&log, lines.concat()).unwrap();
            let report = check(&log, &plain(), &HeadCheck::Required);
            assert_eq!(found(&report), Some(expected), "{name}: {report:?}");
            let problem = report.problem.unwrap();
            // What is repeated or forked is seen in the line after.
            let line = match problem.kind {
                Reordered | Forked => seq + 1,
                _ => seq,
            };
            assert_eq!(problem.line, line, "{name}: {problem:?}");
        }
    }
}

type Harm2 = fn(&mut Vec<Vec<u8>>, usize);
