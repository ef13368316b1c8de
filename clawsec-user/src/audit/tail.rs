//! The end of a log: its last lines, and what is added to it, across rotations.

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use super::glance::Glance;
use super::parts::{Packing, Part, ReadError, id, identity, parts};
use super::read::LogReader;

/// The last `count` whole lines that `wanted` takes, oldest first, and a follower from there.
///
/// # Errors
/// `Missing` when there is no log.
pub fn last_lines(
    log: &Path,
    count: usize,
    wanted: &dyn Fn(&[u8]) -> bool,
) -> Result<(Vec<Vec<u8>>, Follower), ReadError> {
    let mut lines = VecDeque::new();
    let mut follower = None;
    for part in parts(log)?.into_iter().rev() {
        if lines.len() >= count && follower.is_some() {
            break;
        }
        let Some(mut source) = Source::open(&part)? else {
            continue;
        };
        let found = source.last_lines(count - lines.len(), wanted)?;
        for line in found.into_iter().rev() {
            lines.push_front(line);
        }
        follower.get_or_insert_with(|| Follower {
            log: log.to_owned(),
            source,
            seen: 0,
        });
    }
    match follower {
        Some(mut follower) => {
            let lines = Vec::from(lines);
            follower.see(&lines);
            Ok((lines, follower))
        }
        None => Err(ReadError::Missing {
            path: log.to_owned(),
        }),
    }
}

/// Gives what is added, when asked; the caller waits between two askings.
pub struct Follower {
    log: PathBuf,
    source: Source,
    /// Number of the last record that was given.
    seen: u64,
}

/// The part that is being read.
struct Source {
    path: PathBuf,
    id: (u64, u64),
    text: Text,
}

enum Text {
    /// Can grow.
    Plain {
        file: File,
        position: u64,
        /// A line whose end is not written yet.
        pending: Vec<u8>,
    },
    Packed(LogReader),
}

impl Follower {
    /// Whole lines added since the last asking, at most about 1 MiB of them.
    ///
    /// # Errors
    /// When the file cannot be read; a log that is away for a moment is no error.
    pub fn poll(&mut self) -> Result<Vec<Vec<u8>>, ReadError> {
        let mut lines = self.source.added()?;
        if lines.is_empty()
            && let Some(next) = self.next_part()?
        {
            // What was added between the last read and the rotation comes first.
            lines = self.source.added()?;
            self.source = next;
            lines.extend(self.source.added()?);
        }
        self.see(&lines);
        Ok(lines)
    }

    fn see(&mut self, lines: &[Vec<u8>]) {
        let last = lines.iter().rev().find_map(|line| Glance::parse(line).ok());
        self.seen = last.map_or(self.seen, |record| record.seq);
    }

    /// The part after ours, when ours has been rotated.
    fn next_part(&self) -> Result<Option<Source>, ReadError> {
        if identity(&self.log) == Some(self.source.id) {
            return Ok(None);
        }
        let parts = parts(&self.log)?;
        let ours = parts
            .iter()
            .position(|part| identity(&part.path) == Some(self.source.id));
        let next = match ours {
            Some(index) => parts.get(index + 1),
            // Compressed meanwhile, moved elsewhere or removed: what follows it is told by number.
            None => match self.first_after(&parts)? {
                Some(part) => Some(part),
                None => parts.last().filter(|part| part.number == 0),
            },
        };
        next.map_or(Ok(None), Source::open)
    }

    fn first_after<'a>(&self, parts: &'a [Part]) -> Result<Option<&'a Part>, ReadError> {
        for part in parts {
            let Some(open) = part.open()? else {
                continue;
            };
            let mut reader = LogReader::of_part(open);
            // A damaged part is `verify`'s to name; here it has no number.
            let first = reader.next_line().ok().flatten();
            let first = first.and_then(|line| Glance::parse(line.text).ok());
            if first.is_some_and(|record| record.seq > self.seen) {
                return Ok(Some(part));
            }
        }
        Ok(None)
    }
}

impl Source {
    fn open(part: &Part) -> Result<Option<Self>, ReadError> {
        let Some(open) = part.open()? else {
            return Ok(None);
        };
        let fail = |source| ReadError::Open {
            path: part.path.clone(),
            source,
        };
        Ok(Some(Self {
            path: part.path.clone(),
            id: id(open.file.metadata().map_err(fail)?),
            text: match part.packing {
                Packing::Plain => Text::Plain {
                    file: open.file,
                    position: 0,
                    pending: Vec::new(),
                },
                Packing::Zstd | Packing::Gzip => Text::Packed(LogReader::of_part(open)),
            },
        }))
    }

    /// Leaves the source behind the last whole line.
    fn last_lines(
        &mut self,
        count: usize,
        wanted: &dyn Fn(&[u8]) -> bool,
    ) -> Result<VecDeque<Vec<u8>>, ReadError> {
        let mut found = VecDeque::new();
        match &mut self.text {
            Text::Plain { file, position, .. } => {
                let fail = |source| ReadError::Read {
                    path: self.path.clone(),
                    source,
                };
                *position = lines_from_end(file, count, wanted, &mut found).map_err(fail)?;
            }
            // Packed text can only be read from its start.
            Text::Packed(reader) => {
                while let Some(line) = reader.next_line()? {
                    if line.complete && wanted(line.text) {
                        found.push_back(line.text.to_vec());
                    }
                    if found.len() > count {
                        found.pop_front();
                    }
                }
            }
        }
        Ok(found)
    }

    fn added(&mut self) -> Result<Vec<Vec<u8>>, ReadError> {
        let mut lines = Vec::new();
        match &mut self.text {
            Text::Plain {
                file,
                position,
                pending,
            } => {
                let fail = |source| ReadError::Read {
                    path: self.path.clone(),
                    source,
                };
                lines_added(file, position, pending, &mut lines).map_err(fail)?;
            }
            Text::Packed(reader) => {
                let mut bytes = 0;
                while bytes < STEP_BYTES
                    && let Some(line) = reader.next_line()?
                {
                    bytes += line.text.len();
                    lines.push(line.text.to_vec());
                }
            }
        }
        Ok(lines)
    }
}

fn lines_added(
    file: &File,
    position: &mut u64,
    pending: &mut Vec<u8>,
    lines: &mut Vec<Vec<u8>>,
) -> io::Result<()> {
    let length = file.metadata()?.len();
    if length < *position {
        *position = 0;
        pending.clear();
    }
    let room = usize::try_from(length - *position).unwrap_or(usize::MAX);
    let mut added = vec![0; room.min(STEP_BYTES)];
    let read = file.read_at(&mut added, *position)?;
    *position += read as u64;
    for piece in added[..read].split_inclusive(|byte| *byte == b'\n') {
        pending.extend_from_slice(piece);
        if pending.last() == Some(&b'\n') {
            pending.pop();
            lines.push(std::mem::take(pending));
        } else if pending.len() > STEP_BYTES {
            pending.clear();
        }
    }
    Ok(())
}

/// Finds the last `count` wanted lines; gives where the last whole line ends.
fn lines_from_end(
    file: &File,
    count: usize,
    wanted: &dyn Fn(&[u8]) -> bool,
    found: &mut VecDeque<Vec<u8>>,
) -> io::Result<u64> {
    let mut start = file.metadata()?.len();
    let mut end = None;
    // The end of a line whose beginning is not read yet.
    let mut rest: Vec<u8> = Vec::new();
    while start > 0 && (end.is_none() || found.len() < count) {
        let step = start.min(BACK_BYTES);
        start -= step;
        let mut text = vec![0; usize::try_from(step).unwrap_or(0)];
        file.read_exact_at(&mut text, start)?;
        if end.is_none() {
            let Some(last) = memchr::memrchr(b'\n', &text) else {
                continue;
            };
            end = Some(start + last as u64 + 1);
            text.truncate(last);
        }
        text.append(&mut rest);
        let newline = memchr::memchr(b'\n', &text).filter(|_| start > 0);
        let whole = match newline {
            _ if start == 0 => &text[..],
            Some(newline) => &text[newline + 1..],
            None => {
                // A line without end is not kept whole.
                rest = text;
                rest.truncate(STEP_BYTES);
                continue;
            }
        };
        let lines = whole.rsplit(|byte| *byte == b'\n');
        for line in lines.filter(|line| wanted(line)).take(count - found.len()) {
            found.push_front(line.to_vec());
        }
        text.truncate(newline.unwrap_or(0));
        rest = text;
    }
    Ok(end.unwrap_or(0))
}

/// At most this much is taken at once.
const STEP_BYTES: usize = 1 << 20;
const BACK_BYTES: u64 = 64 * 1024;

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::Write as _;

    use super::*;
    use crate::audit::entry::Entry;
    use crate::audit::{Chain, Digest, Record};
    use crate::event::{Event, EventKind, Outcome};

    fn text(lines: Vec<Vec<u8>>) -> Vec<String> {
        lines
            .into_iter()
            .map(|line| String::from_utf8(line).unwrap())
            .collect()
    }

    fn append(path: &Path, text: &str) {
        let mut file = File::options()
            .append(true)
            .create(true)
            .open(path)
            .unwrap();
        file.write_all(text.as_bytes()).unwrap();
    }

    #[test]
    fn the_last_lines_reach_back_into_rotated_parts() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("a.log");
        fs::write(dir.path().join("a.log.2"), "1\n2\n").unwrap();
        fs::write(dir.path().join("a.log.1"), "3\n4\n").unwrap();
        fs::write(&log, "5\n6\ntorn").unwrap();
        for (count, expected) in [
            (0, vec![]),
            (1, vec!["6"]),
            (3, vec!["4", "5", "6"]),
            (5, vec!["2", "3", "4", "5", "6"]),
            (99, vec!["1", "2", "3", "4", "5", "6"]),
        ] {
            assert_eq!(
                text(last_lines(&log, count, &|_| true).unwrap().0),
                expected,
                "{count}"
            );
        }
        fs::remove_file(dir.path().join("a.log.2")).unwrap();
        pack(&dir.path().join("a.log.2.zst"), "1\n2\n");
        let (lines, _) = last_lines(&log, 5, &|_| true).unwrap();
        assert_eq!(text(lines), ["2", "3", "4", "5", "6"]);
        let odd = |line: &[u8]| matches!(line, b"1" | b"3" | b"5");
        let (lines, _) = last_lines(&log, 2, &odd).unwrap();
        assert_eq!(text(lines), ["3", "5"]);
        let (lines, _) = last_lines(&log, 9, &odd).unwrap();
        assert_eq!(text(lines), ["1", "3", "5"]);
        let long = format!("{}\n{}\n", "x".repeat(200_000), "y".repeat(200_000));
        fs::write(&log, long).unwrap();
        let (lines, _) = last_lines(&log, 1, &|_| true).unwrap();
        assert_eq!(text(lines), ["y".repeat(200_000)]);
    }

    #[test]
    fn following_misses_and_repeats_nothing_across_rotations() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("a.log");
        let part = |number: u32| with(&log, number);
        append(&log, "1\n2");
        let (lines, mut follower) = last_lines(&log, 10, &|_| true).unwrap();
        assert_eq!(text(lines), ["1"]);
        append(&log, "two\n3\n");
        assert_eq!(text(follower.poll().unwrap()), ["2two", "3"]);
        assert_eq!(text(follower.poll().unwrap()), Vec::<String>::new());
        // Two rotations between two askings.
        append(&log, "4\n");
        fs::rename(&log, part(1)).unwrap();
        append(&log, "5\n");
        fs::rename(part(1), part(2)).unwrap();
        fs::rename(&log, part(1)).unwrap();
        append(&log, "6\n");
        let mut seen = Vec::new();
        for _ in 0..5 {
            seen.extend(text(follower.poll().unwrap()));
        }
        assert_eq!(seen, ["4", "5", "6"]);
        fs::write(&log, "").unwrap();
        assert_eq!(text(follower.poll().unwrap()), Vec::<String>::new());
        append(&log, "7\n");
        assert_eq!(text(follower.poll().unwrap()), ["7"]);
    }

    #[test]
    fn following_goes_on_behind_parts_that_were_compressed() {
        let record = |seq: u64| {
            let event = Event::new(EventKind::Auth, "connect", Outcome::Allow, "ok");
            let mut line = Vec::new();
            Record::new(&Entry::from(event), seq, Digest::ZERO)
                .encode(&Chain::new(None), &mut line);
            String::from_utf8(line).unwrap()
        };
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("a.log");
        append(&log, &record(1));
        let (lines, mut follower) = last_lines(&log, 10, &|_| true).unwrap();
        assert_eq!(lines.len(), 1);
        append(&log, &record(2));
        // Rotated twice and compressed both times between two askings.
        fs::remove_file(&log).unwrap();
        pack(&dir.path().join("a.log.2.zst"), &(record(1) + &record(2)));
        pack(&dir.path().join("a.log.1.zst"), &record(3));
        append(&log, &record(4));
        let mut seen = Vec::new();
        for _ in 0..5 {
            for line in follower.poll().unwrap() {
                seen.push(Glance::parse(&line).unwrap().seq);
            }
        }
        assert_eq!(seen, [2, 3, 4]);
        append(&log, &record(5));
        assert_eq!(follower.poll().unwrap().len(), 1);
    }

    fn pack(path: &Path, text: &str) {
        fs::write(path, zstd::stream::encode_all(text.as_bytes(), 1).unwrap()).unwrap();
    }

    fn with(log: &Path, number: u32) -> PathBuf {
        crate::audit::head::with_suffix(log, &format!(".{number}"))
    }
}
