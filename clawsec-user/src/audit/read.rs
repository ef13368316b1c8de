//! Lines of a log and its rotated parts, oldest first, in constant memory.
//!
//! Reads files only: works without the daemon, beside a running one, and on a copy. A torn last
//! line is given as such, never as an error.

use std::collections::HashSet;
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use thiserror::Error;

use super::head::with_suffix;

/// Reads line after line.
#[derive(Debug)]
pub struct LogReader {
    /// Oldest last, so that the next one is popped.
    parts: Vec<(PathBuf, File)>,
    current: Option<Part>,
    line: Vec<u8>,
}

#[derive(Debug)]
struct Part {
    path: PathBuf,
    reader: BufReader<File>,
    number: u64,
    line_offset: u64,
    /// Of what comes after the line.
    offset: u64,
}

/// One line, without its newline.
#[derive(Debug, Clone, Copy)]
pub struct Line<'a> {
    pub part: &'a Path,
    /// 1 for the first of the part.
    pub number: u64,
    /// Of its first byte in the part.
    pub offset: u64,
    /// At most 64 KiB; the rest of a longer line is skipped.
    pub text: &'a [u8],
    /// False for a last line without a newline: being written, or torn by a crash.
    pub complete: bool,
}

#[derive(Debug, Error)]
pub enum ReadError {
    #[error("there is no audit log at {}", path.display())]
    Missing { path: PathBuf },
    #[error("cannot open {}", path.display())]
    Open { path: PathBuf, source: io::Error },
    #[error("cannot list the folder of {}", path.display())]
    List { path: PathBuf, source: io::Error },
    #[error("cannot read {}", path.display())]
    Read { path: PathBuf, source: io::Error },
}

impl LogReader {
    /// Opens every part at once, so that a rotation meanwhile neither hides nor repeats a line.
    ///
    /// # Errors
    /// `Missing` when there is neither a log nor a part of one.
    pub fn open(log: &Path) -> Result<Self, ReadError> {
        let mut opened = Vec::new();
        let mut seen = HashSet::new();
        // Newest first: a part that is rotated between two opens is met again under its next
        // number and skipped, never missed.
        for path in newest_first(log)? {
            let file = match File::open(&path) {
                Ok(file) => file,
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(source) => return Err(ReadError::Open { path, source }),
            };
            let meta = match file.metadata() {
                Ok(meta) => meta,
                Err(source) => return Err(ReadError::Open { path, source }),
            };
            if seen.insert((meta.dev(), meta.ino())) {
                opened.push((path, file));
            }
        }
        if opened.is_empty() {
            return Err(ReadError::Missing {
                path: log.to_owned(),
            });
        }
        Ok(Self {
            parts: opened,
            current: None,
            line: Vec::new(),
        })
    }

    /// Reads one part alone.
    pub(super) fn of_part(path: &Path, file: File) -> Self {
        Self {
            parts: vec![(path.to_owned(), file)],
            current: None,
            line: Vec::new(),
        }
    }

    /// The next line; `None` at the end of the newest part.
    ///
    /// # Errors
    /// When a part cannot be read.
    pub fn next_line(&mut self) -> Result<Option<Line<'_>>, ReadError> {
        let complete = loop {
            match self.read_one()? {
                Some(complete) => break complete,
                None if self.begin_next_part() => {}
                None => return Ok(None),
            }
        };
        Ok(self.current.as_ref().map(|part| Line {
            part: &part.path,
            number: part.number,
            offset: part.line_offset,
            text: &self.line,
            complete,
        }))
    }

    /// Reads a line of the current part; `None` at its end.
    fn read_one(&mut self) -> Result<Option<bool>, ReadError> {
        let Some(part) = &mut self.current else {
            return Ok(None);
        };
        let (length, complete) = match read_line(&mut part.reader, &mut self.line) {
            Ok(read) => read,
            Err(source) => {
                let path = part.path.clone();
                return Err(ReadError::Read { path, source });
            }
        };
        part.line_offset = part.offset;
        part.offset += length;
        part.number += 1;
        Ok((length > 0).then_some(complete))
    }

    fn begin_next_part(&mut self) -> bool {
        self.current = self.parts.pop().map(|(path, file)| Part {
            path,
            reader: BufReader::with_capacity(128 * 1024, file),
            number: 0,
            line_offset: 0,
            offset: 0,
        });
        self.current.is_some()
    }
}

/// The log and its rotated parts that exist, oldest first.
///
/// # Errors
/// When the folder cannot be listed.
pub fn parts(log: &Path) -> Result<Vec<PathBuf>, ReadError> {
    let mut paths = newest_first(log)?;
    paths.reverse();
    paths.retain(|path| path.exists());
    Ok(paths)
}

/// Numbers of the rotated parts, newest first.
pub(super) fn rotated(log: &Path) -> io::Result<Vec<u32>> {
    let folder = match log.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let Some(name) = log.file_name().and_then(|name| name.to_str()) else {
        return Ok(Vec::new());
    };
    let mut numbers = Vec::new();
    for entry in fs::read_dir(folder)? {
        let file = entry?.file_name();
        let suffix = file
            .to_str()
            .and_then(|file| file.strip_prefix(name)?.strip_prefix('.'));
        // `.1` but not `.01`: each number has one name.
        if let Some(number) = suffix.and_then(|suffix| suffix.parse::<u32>().ok())
            && suffix == Some(number.to_string().as_str())
            && number > 0
        {
            numbers.push(number);
        }
    }
    numbers.sort_unstable();
    Ok(numbers)
}

fn newest_first(log: &Path) -> Result<Vec<PathBuf>, ReadError> {
    let numbers = match rotated(log) {
        Ok(numbers) => numbers,
        Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
        Err(source) => {
            let path = log.to_owned();
            return Err(ReadError::List { path, source });
        }
    };
    let rotated = numbers
        .into_iter()
        .map(|number| with_suffix(log, &format!(".{number}")));
    Ok([log.to_owned()].into_iter().chain(rotated).collect())
}

/// Bytes consumed, and whether a newline ended them.
fn read_line(reader: &mut impl BufRead, line: &mut Vec<u8>) -> io::Result<(u64, bool)> {
    line.clear();
    let mut length = 0;
    loop {
        let available = match reader.fill_buf() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            other => other?,
        };
        if available.is_empty() {
            return Ok((length, false));
        }
        let newline = available.iter().position(|byte| *byte == b'\n');
        let text = &available[..newline.unwrap_or(available.len())];
        let room = LINE_LIMIT.saturating_sub(line.len());
        line.extend_from_slice(&text[..text.len().min(room)]);
        let used = text.len() + usize::from(newline.is_some());
        reader.consume(used);
        length += used as u64;
        if newline.is_some() {
            return Ok((length, true));
        }
    }
}

/// Eight times the longest line that is ever written.
const LINE_LIMIT: usize = 64 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    fn read_all(log: &Path) -> Vec<(String, String, u64, bool)> {
        let mut reader = LogReader::open(log).unwrap();
        let mut lines = Vec::new();
        while let Some(line) = reader.next_line().unwrap() {
            let part = line
                .part
                .file_name()
                .unwrap()
                .to_string_lossy()
                .into_owned();
            let text = String::from_utf8_lossy(line.text).into_owned();
            lines.push((part, text, line.offset, line.complete));
        }
        lines
    }

    #[test]
    fn parts_are_read_oldest_first_and_a_torn_tail_is_marked() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("a.log");
        fs::write(&log, "five\nto").unwrap();
        fs::write(dir.path().join("a.log.1"), "three\nfour\n").unwrap();
        fs::write(dir.path().join("a.log.10"), "one\ntwo\n").unwrap();
        for other in ["a.log.head", "a.log.01", "a.log.1x", "b.log.2"] {
            fs::write(dir.path().join(other), "no\n").unwrap();
        }
        let row = |part: &str, text: &str, offset, complete| {
            (part.to_owned(), text.to_owned(), offset, complete)
        };
        assert_eq!(
            read_all(&log),
            [
                row("a.log.10", "one", 0, true),
                row("a.log.10", "two", 4, true),
                row("a.log.1", "three", 0, true),
                row("a.log.1", "four", 6, true),
                row("a.log", "five", 0, true),
                row("a.log", "to", 5, false),
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
    }

    #[test]
    fn no_log_is_an_error_that_names_it() {
        let missing = LogReader::open(Path::new("/nonexistent/a.log"));
        assert!(matches!(missing, Err(ReadError::Missing { .. })));
    }
}
