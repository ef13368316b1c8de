//! The end of a log: its last lines, and what is added to it, across rotations.

use std::collections::VecDeque;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use super::read::{ReadError, parts};

/// The last `count` whole lines, oldest first, and a follower from there.
///
/// # Errors
/// `Missing` when there is no log.
pub fn last_lines(log: &Path, count: usize) -> Result<(Vec<Vec<u8>>, Follower), ReadError> {
    let mut lines = VecDeque::new();
    let mut follower = None;
    for path in parts(log)?.into_iter().rev() {
        if lines.len() >= count && follower.is_some() {
            break;
        }
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(source) => return Err(ReadError::Open { path, source }),
        };
        let fail = |source| ReadError::Read {
            path: path.clone(),
            source,
        };
        let meta = file.metadata().map_err(fail)?;
        let (end, found) = lines_from_end(&file, meta.len(), count - lines.len()).map_err(fail)?;
        found
            .into_iter()
            .rev()
            .for_each(|line| lines.push_front(line));
        follower.get_or_insert_with(|| Follower {
            log: log.to_owned(),
            id: (meta.dev(), meta.ino()),
            file,
            position: end,
            pending: Vec::new(),
        });
    }
    match follower {
        Some(follower) => Ok((lines.into(), follower)),
        None => Err(ReadError::Missing {
            path: log.to_owned(),
        }),
    }
}

/// Gives what is added, when asked; the caller waits between two askings.
#[derive(Debug)]
pub struct Follower {
    log: PathBuf,
    file: File,
    id: (u64, u64),
    position: u64,
    /// A line whose end is not written yet.
    pending: Vec<u8>,
}

impl Follower {
    /// Whole lines added since the last asking, at most about 1 MiB of them.
    ///
    /// # Errors
    /// When the file cannot be read; a log that is away for a moment is no error.
    pub fn poll(&mut self) -> Result<Vec<Vec<u8>>, ReadError> {
        let mut lines = Vec::new();
        self.read_added(&mut lines)?;
        if lines.is_empty()
            && let Some((path, file)) = self.next_part()?
        {
            // What was added between the last read and the rotation comes first.
            self.read_added(&mut lines)?;
            let fail = |source| ReadError::Open {
                path: path.clone(),
                source,
            };
            let meta = file.metadata().map_err(fail)?;
            self.id = (meta.dev(), meta.ino());
            self.file = file;
            self.position = 0;
            self.pending.clear();
            self.read_added(&mut lines)?;
        }
        Ok(lines)
    }

    fn read_added(&mut self, lines: &mut Vec<Vec<u8>>) -> Result<(), ReadError> {
        let fail = |source| ReadError::Read {
            path: self.log.clone(),
            source,
        };
        let length = self.file.metadata().map_err(fail)?.len();
        if length < self.position {
            self.position = 0;
            self.pending.clear();
        }
        let room = usize::try_from(length - self.position)
            .unwrap_or(usize::MAX)
            .min(1 << 20);
        let mut added = vec![0; room];
        let read = self.file.read_at(&mut added, self.position).map_err(fail)?;
        self.position += read as u64;
        for piece in added[..read].split_inclusive(|byte| *byte == b'\n') {
            self.pending.extend_from_slice(piece);
            if self.pending.last() == Some(&b'\n') {
                self.pending.pop();
                lines.push(std::mem::take(&mut self.pending));
            } else if self.pending.len() > (1 << 20) {
                self.pending.clear();
            }
        }
        Ok(())
    }

    /// The part after ours, when ours has been rotated.
    fn next_part(&self) -> Result<Option<(PathBuf, File)>, ReadError> {
        let id_of = |path: &Path| fs::metadata(path).ok().map(|meta| (meta.dev(), meta.ino()));
        if id_of(&self.log) == Some(self.id) {
            return Ok(None);
        }
        let parts = parts(&self.log)?;
        let ours = parts.iter().position(|path| id_of(path) == Some(self.id));
        // Moved elsewhere or removed: go on with the log itself.
        let next = match ours {
            Some(index) => parts.get(index + 1),
            None => parts.last(),
        };
        let opened = next.and_then(|path| Some((path.clone(), File::open(path).ok()?)));
        Ok(opened)
    }
}

/// Where the last whole line ends, and the last `count` whole lines up to there.
fn lines_from_end(file: &File, length: u64, count: usize) -> io::Result<(u64, Vec<Vec<u8>>)> {
    let mut tail = Vec::new();
    let mut start = length;
    // One newline more than lines: the one that ends the line before the first.
    let mut newlines = 0;
    while start > 0 && newlines <= count {
        let step = start.min(64 * 1024);
        start -= step;
        let mut chunk = vec![0; usize::try_from(step).unwrap_or(0)];
        file.read_exact_at(&mut chunk, start)?;
        newlines += chunk.split(|byte| *byte == b'\n').count() - 1;
        chunk.extend_from_slice(&tail);
        tail = chunk;
    }
    let whole = tail
        .iter()
        .rposition(|byte| *byte == b'\n')
        .map_or(0, |last| last + 1);
    let end = start + whole as u64;
    let lines: Vec<_> = tail[..whole]
        .split_inclusive(|byte| *byte == b'\n')
        .collect();
    let skip = lines.len().saturating_sub(count);
    let kept = lines[skip..]
        .iter()
        .map(|line| line[..line.len() - 1].to_vec());
    Ok((end, kept.collect()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

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
                text(last_lines(&log, count).unwrap().0),
                expected,
                "{count}"
            );
        }
        let long = format!("{}\n{}\n", "x".repeat(200_000), "y".repeat(200_000));
        fs::write(&log, long).unwrap();
        assert_eq!(text(last_lines(&log, 1).unwrap().0), ["y".repeat(200_000)]);
    }

    #[test]
    fn following_misses_and_repeats_nothing_across_rotations() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("a.log");
        let part = |number: u32| with(&log, number);
        append(&log, "1\n2");
        let (lines, mut follower) = last_lines(&log, 10).unwrap();
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

    fn with(log: &Path, number: u32) -> PathBuf {
        crate::audit::head::with_suffix(log, &format!(".{number}"))
    }
}
