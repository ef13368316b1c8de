//! A log as a stream of blocks of whole lines, oldest first: what every reader reads.
//!
//! Invariant: memory is bounded by the block, whatever the files hold. A line that outgrows a block
//! is cut; a compressed part that is damaged gives what comes before the damage, then its error.

use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::parts::{OpenPart, Packing, ReadError, open_all};

/// Whole lines of one part.
#[derive(Debug, Default)]
pub(super) struct Block {
    /// Which part, counted from the oldest.
    pub(super) part: usize,
    /// Of its first byte in the part's text.
    pub(super) offset: u64,
    pub(super) text: Vec<u8>,
    /// Bytes that were cut out of the only line, because it was too long.
    pub(super) cut: u64,
}

/// Gives block after block.
pub(super) struct Blocks {
    /// Oldest last, so that the next one is popped.
    waiting: Vec<OpenPart>,
    current: Option<Current>,
    names: Vec<PathBuf>,
    consumed: Arc<AtomicU64>,
    total: u64,
    block_bytes: usize,
}

struct Current {
    index: usize,
    packing: Packing,
    text: Box<dyn Read + Send>,
    /// What was read of a line whose end was not.
    rest: Vec<u8>,
    /// Of the first byte of `rest` in the part's text.
    offset: u64,
    ended: bool,
    failure: Option<io::Error>,
}

/// How far a scan is, in bytes of the files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    pub done: u64,
    pub total: u64,
}

impl Blocks {
    pub(super) fn open(log: &Path) -> Result<Self, ReadError> {
        Ok(Self::of_parts(open_all(log)?))
    }

    /// Oldest first.
    pub(super) fn of_parts(mut parts: Vec<OpenPart>) -> Self {
        let names = parts.iter().map(|part| part.path.clone()).collect();
        let total = parts.iter().map(|part| part.length).sum();
        parts.reverse();
        Self {
            waiting: parts,
            current: None,
            names,
            consumed: Arc::default(),
            total,
            block_bytes: BLOCK_BYTES,
        }
    }

    /// At least `LINE_LIMIT`.
    #[cfg(test)]
    pub(super) fn with_block_bytes(mut self, bytes: usize) -> Self {
        self.block_bytes = bytes;
        self
    }

    /// The parts' paths, oldest first.
    pub(super) fn names(&self) -> &[PathBuf] {
        &self.names
    }

    pub(super) fn progress(&self) -> Progress {
        let done = self.consumed.load(Ordering::Relaxed);
        Progress {
            done: done.min(self.total),
            total: self.total,
        }
    }

    /// The next block, in `buffer`, whose content is given up; `None` at the end.
    ///
    /// # Errors
    /// When a part cannot be read to its end; the next call goes on with the next part.
    pub(super) fn next(&mut self, mut buffer: Vec<u8>) -> Result<Option<Block>, ReadError> {
        loop {
            let Some(current) = &mut self.current else {
                if self.begin_next_part()? {
                    continue;
                }
                return Ok(None);
            };
            if let Some(source) = current.failure.take() {
                let path = self.names[current.index].clone();
                let (packing, at) = (current.packing, current.offset);
                self.current = None;
                return Err(match packing {
                    Packing::Plain => ReadError::Read { path, source },
                    Packing::Zstd | Packing::Gzip => ReadError::Damaged { path, at, source },
                });
            }
            match current.fill(&mut buffer, self.block_bytes) {
                Some(block) => return Ok(Some(block)),
                None if current.failure.is_none() => self.current = None,
                None => {}
            }
        }
    }

    fn begin_next_part(&mut self) -> Result<bool, ReadError> {
        let Some(part) = self.waiting.pop() else {
            return Ok(false);
        };
        let packing = part.packing;
        self.current = Some(Current {
            index: self.names.len() - 1 - self.waiting.len(),
            packing,
            text: part.text(&self.consumed)?,
            rest: Vec::new(),
            offset: 0,
            ended: false,
            failure: None,
        });
        Ok(true)
    }
}

impl Current {
    /// `None` at the end, and at a failure that comes before another whole line.
    fn fill(&mut self, buffer: &mut Vec<u8>, block_bytes: usize) -> Option<Block> {
        buffer.clear();
        buffer.append(&mut self.rest);
        self.read_up_to(buffer, block_bytes);
        let whole = memchr::memrchr(b'\n', buffer).map_or(0, |last| last + 1);
        let mut cut = 0;
        if self.failure.is_some() {
            // What follows the last newline ends at the damage.
            buffer.truncate(whole);
        } else if whole == 0 && !self.ended {
            cut = self.skip_line(buffer);
        } else if !self.ended {
            self.rest.extend_from_slice(&buffer[whole..]);
            buffer.truncate(whole);
        }
        let offset = self.offset;
        self.offset += buffer.len() as u64 + cut;
        (!buffer.is_empty()).then(|| Block {
            part: self.index,
            offset,
            text: std::mem::take(buffer),
            cut,
        })
    }

    /// Until the buffer holds a block, the text ends, or reading fails.
    fn read_up_to(&mut self, buffer: &mut Vec<u8>, block_bytes: usize) {
        let mut filled = buffer.len();
        buffer.resize(block_bytes.max(filled), 0);
        while filled < buffer.len() && !self.ended {
            filled += self.read_some(&mut buffer[filled..]);
        }
        buffer.truncate(filled);
    }

    /// 0 when the text has ended or reading fails. What is appended later is not read: the line
    /// it would end has been given as a torn one.
    fn read_some(&mut self, into: &mut [u8]) -> usize {
        loop {
            match self.text.read(into) {
                Ok(0) => self.ended = true,
                Ok(read) => return read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => {
                    self.failure = Some(error);
                    self.ended = true;
                }
            }
            return 0;
        }
    }

    /// Cuts a line without end, and passes over the rest of it: how many bytes were cut.
    fn skip_line(&mut self, line: &mut Vec<u8>) -> u64 {
        let mut cut = line.len().saturating_sub(LINE_LIMIT) as u64;
        line.truncate(LINE_LIMIT);
        let mut chunk = vec![0; LINE_LIMIT];
        while !self.ended {
            let read = self.read_some(&mut chunk);
            match memchr::memchr(b'\n', &chunk[..read]) {
                Some(newline) => {
                    line.push(b'\n');
                    self.rest.extend_from_slice(&chunk[newline + 1..read]);
                    return cut + newline as u64;
                }
                None => cut += read as u64,
            }
        }
        cut
    }
}

/// The lines of a block, with their offsets in it; the last one of a part may lack its newline.
pub(super) fn lines(text: &[u8]) -> impl Iterator<Item = (usize, &[u8], bool)> {
    let mut start = 0;
    std::iter::from_fn(move || {
        let rest = text.get(start..).filter(|rest| !rest.is_empty())?;
        let newline = memchr::memchr(b'\n', rest);
        let line = &rest[..newline.unwrap_or(rest.len())];
        let at = start;
        start += line.len() + 1;
        Some((at, line, newline.is_some()))
    })
}

/// Eight times the longest line that is ever written.
pub(super) const LINE_LIMIT: usize = 64 * 1024;
/// Enough that the work on a block outweighs handing it over; little beside the machine's cache.
const BLOCK_BYTES: usize = 512 * 1024;

#[cfg(test)]
mod tests {
    use std::fs::{self, File};
    use std::io::Write as _;

    use super::*;
    use crate::audit::read::LogReader;

    fn read_all(log: &Path) -> Vec<(String, String, u64, bool)> {
        let mut reader = LogReader::open(log).unwrap();
        let mut lines = Vec::new();
        while let Some(line) = reader.next_line().unwrap() {
            let part = line.part.file_name().unwrap().to_string_lossy();
            let text = String::from_utf8_lossy(line.text).into_owned();
            lines.push((part.into_owned(), text, line.offset, line.complete));
        }
        lines
    }

    fn zstd(text: &[u8]) -> Vec<u8> {
        zstd::stream::encode_all(text, 3).unwrap()
    }

    fn gzip(text: &[u8]) -> Vec<u8> {
        let mut packer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        packer.write_all(text).unwrap();
        packer.finish().unwrap()
    }

    #[test]
    fn parts_are_read_oldest_first_whatever_their_packing() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("a.log");
        fs::write(&log, "seven\nto").unwrap();
        fs::write(dir.path().join("a.log.1"), "five\nsix\n").unwrap();
        fs::write(dir.path().join("a.log.2.zst"), zstd(b"three\nfour\n")).unwrap();
        // Two members, as `cat` of two makes.
        let members = [gzip(b"one\n"), gzip(b"two\n")].concat();
        fs::write(dir.path().join("a.log.10.gz"), members).unwrap();
        let row = |part: &str, text: &str, offset, complete| {
            (part.to_owned(), text.to_owned(), offset, complete)
        };
        assert_eq!(
            read_all(&log),
            [
                row("a.log.10.gz", "one", 0, true),
                row("a.log.10.gz", "two", 4, true),
                row("a.log.2.zst", "three", 0, true),
                row("a.log.2.zst", "four", 6, true),
                row("a.log.1", "five", 0, true),
                row("a.log.1", "six", 5, true),
                row("a.log", "seven", 0, true),
                row("a.log", "to", 6, false),
            ]
        );
    }

    #[test]
    fn an_endless_line_takes_bounded_memory() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("a.log");
        fs::write(&log, [vec![b'x'; 1 << 20], b"\nnext\n".to_vec()].concat()).unwrap();
        let lines = read_all(&log);
        assert_eq!(lines[0].1.len(), LINE_LIMIT);
        assert_eq!((lines[1].1.as_str(), lines[1].2), ("next", (1 << 20) + 1));
        fs::write(&log, vec![b'x'; 2 << 20]).unwrap();
        let lines = read_all(&log);
        assert_eq!(
            (lines.len(), lines[0].1.len(), lines[0].3),
            (1, LINE_LIMIT, false)
        );
    }

    #[test]
    fn blocks_hold_every_line_once_wherever_they_end() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("a.log");
        let mut text = String::new();
        for n in 0..20_000 {
            text.push_str(&format!("{n} {}\n", "y".repeat(n % 37)));
        }
        fs::write(&log, &text).unwrap();
        for bytes in [0, 1, 2, 40, 41, 1000].map(|more| LINE_LIMIT + more) {
            let mut blocks = Blocks::open(&log).unwrap().with_block_bytes(bytes);
            let mut read = Vec::new();
            while let Some(block) = blocks.next(Vec::new()).unwrap() {
                assert_eq!(block.offset, read.len() as u64, "{bytes}");
                read.extend_from_slice(&block.text);
            }
            assert_eq!(String::from_utf8(read).unwrap(), text, "{bytes}");
            let Progress { done, total } = blocks.progress();
            assert_eq!((done, total), (text.len() as u64, text.len() as u64));
        }
    }

    #[test]
    fn what_is_appended_after_a_torn_line_was_given_is_no_line() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("a.log");
        fs::write(&log, "one\ntw").unwrap();
        let mut reader = LogReader::open(&log).unwrap();
        for expected in [("one", true), ("tw", false)] {
            let line = reader.next_line().unwrap().unwrap();
            assert_eq!(
                (line.text, line.complete),
                (expected.0.as_bytes(), expected.1)
            );
        }
        let mut file = File::options().append(true).open(&log).unwrap();
        file.write_all(b"o\nthree\n").unwrap();
        assert!(reader.next_line().unwrap().is_none());
    }

    #[test]
    fn a_damaged_part_gives_what_it_holds_and_then_its_error() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("a.log");
        let mut text = String::new();
        for n in 0..40_000_u32 {
            text.push_str(&format!("{}\n", n.wrapping_mul(2_654_435_761)));
        }
        for (name, packed) in [
            ("a.log.1.zst", zstd(text.as_bytes())),
            ("a.log.1.gz", gzip(text.as_bytes())),
        ] {
            fs::write(&log, "last\n").unwrap();
            let part = dir.path().join(name);
            fs::write(&part, &packed[..packed.len() - 40_000]).unwrap();
            let mut reader = LogReader::open(&log).unwrap();
            let mut read = String::new();
            let error = loop {
                match reader.next_line() {
                    Ok(line) => read.push_str(&format!(
                        "{}\n",
                        String::from_utf8_lossy(line.unwrap().text)
                    )),
                    Err(error) => break error,
                }
            };
            assert!(!read.is_empty() && text.starts_with(&read), "{name}");
            let ReadError::Damaged { path, at, .. } = error else {
                panic!("{error}");
            };
            assert_eq!((path, at), (part.clone(), read.len() as u64));
            let line = reader.next_line().unwrap().unwrap();
            assert_eq!(line.text, b"last", "the parts after it are read");
            fs::remove_file(part).unwrap();
        }
    }
}
