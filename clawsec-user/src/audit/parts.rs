//! The files of a log: the one being written and its rotated parts, plain or compressed.
//!
//! Invariant: of each number one file is read. While a part is being compressed both stand there;
//! the plain one is then the original, and it alone counts.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, BufReader, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use thiserror::Error;

use super::head::with_suffix;

/// One file of a log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part {
    pub path: PathBuf,
    /// 0 for the log itself, 1 for the newest rotated part.
    pub number: u32,
    pub packing: Packing,
}

/// How a part is compressed: told by its name's end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Packing {
    Plain,
    Zstd,
    Gzip,
}

/// A part that is open for reading.
#[derive(Debug)]
pub(super) struct OpenPart {
    pub(super) path: PathBuf,
    pub(super) packing: Packing,
    pub(super) file: File,
    /// Bytes of the file, as far as it was when it was opened.
    pub(super) length: u64,
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
    /// A compressed part whose end cannot be had; what comes before it can.
    #[error("{} cannot be unpacked beyond byte {at} of its text", path.display())]
    Damaged {
        path: PathBuf,
        at: u64,
        source: io::Error,
    },
}

/// The log and its rotated parts that exist, oldest first.
///
/// # Errors
/// When the folder cannot be listed.
pub fn parts(log: &Path) -> Result<Vec<Part>, ReadError> {
    let mut parts = match rotated(log) {
        Ok(parts) => parts,
        Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
        Err(source) => {
            let path = log.to_owned();
            return Err(ReadError::List { path, source });
        }
    };
    parts.reverse();
    if log.exists() {
        parts.push(Part {
            path: log.to_owned(),
            number: 0,
            packing: Packing::Plain,
        });
    }
    Ok(parts)
}

/// The rotated parts, newest first.
pub(super) fn rotated(log: &Path) -> io::Result<Vec<Part>> {
    let folder = match log.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let Some(name) = log.file_name().and_then(|name| name.to_str()) else {
        return Ok(Vec::new());
    };
    let mut found: BTreeMap<u32, Packing> = BTreeMap::new();
    for entry in fs::read_dir(folder)? {
        let file = entry?.file_name();
        let suffix = file
            .to_str()
            .and_then(|file| file.strip_prefix(name)?.strip_prefix('.'));
        let Some((number, packing)) = suffix.and_then(Packing::of_suffix) else {
            continue;
        };
        let best = found.entry(number).or_insert(packing);
        *best = packing.min(*best);
    }
    let part = |(number, packing): (u32, Packing)| Part {
        path: with_suffix(log, &format!(".{number}{}", packing.suffix())),
        number,
        packing,
    };
    Ok(found.into_iter().map(part).collect())
}

/// Opens every part at once, oldest first, so that a rotation meanwhile neither hides nor repeats
/// a line.
pub(super) fn open_all(log: &Path) -> Result<Vec<OpenPart>, ReadError> {
    let mut tries = 0;
    loop {
        let listed = parts(log)?;
        let opened = listed
            .iter()
            .map(Part::open)
            .collect::<Result<Option<Vec<_>>, _>>()?;
        tries += 1;
        match opened {
            // A rotation or a compression came in between: names then stand for other files.
            Some(opened) if tries > SETTLE_TRIES || still_named(log, &opened)? => {
                if opened.is_empty() {
                    let path = log.to_owned();
                    return Err(ReadError::Missing { path });
                }
                return Ok(opened);
            }
            None if tries > SETTLE_TRIES => {
                let source = io::Error::from(io::ErrorKind::NotFound);
                let path = log.to_owned();
                return Err(ReadError::Open { path, source });
            }
            _ => {}
        }
    }
}

fn still_named(log: &Path, opened: &[OpenPart]) -> Result<bool, ReadError> {
    let now = parts(log)?;
    Ok(now.len() == opened.len()
        && now.iter().zip(opened).all(|(part, open)| {
            part.path == open.path && identity(&part.path) == open.file.metadata().ok().map(id)
        }))
}

/// Which file stands at a path.
pub(super) fn identity(path: &Path) -> Option<(u64, u64)> {
    fs::metadata(path).ok().map(id)
}

#[expect(clippy::needless_pass_by_value, reason = "used as a function value")]
pub(super) fn id(meta: fs::Metadata) -> (u64, u64) {
    (meta.dev(), meta.ino())
}

impl Part {
    /// `None` when it is gone.
    pub(super) fn open(&self) -> Result<Option<OpenPart>, ReadError> {
        let fail = |source| ReadError::Open {
            path: self.path.clone(),
            source,
        };
        let file = match File::open(&self.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            other => other.map_err(fail)?,
        };
        Ok(Some(OpenPart {
            path: self.path.clone(),
            packing: self.packing,
            length: file.metadata().map_err(fail)?.len(),
            file,
        }))
    }
}

impl OpenPart {
    /// Its text from the start; adds to `consumed` the file's bytes as they are taken.
    pub(super) fn text(self, consumed: &Arc<AtomicU64>) -> Result<Box<dyn Read + Send>, ReadError> {
        let file = Counted {
            file: self.file,
            consumed: Arc::clone(consumed),
        };
        Ok(match self.packing {
            Packing::Plain => Box::new(file),
            Packing::Gzip => Box::new(flate2::bufread::MultiGzDecoder::new(
                BufReader::with_capacity(PACKED_BUFFER, file),
            )),
            Packing::Zstd => {
                let decoder = zstd::stream::read::Decoder::new(file);
                Box::new(decoder.map_err(|source| ReadError::Open {
                    path: self.path,
                    source,
                })?)
            }
        })
    }
}

impl Packing {
    pub(super) fn suffix(self) -> &'static str {
        match self {
            Self::Plain => "",
            Self::Zstd => ".zst",
            Self::Gzip => ".gz",
        }
    }

    /// Reads what follows `audit.log.`: `1`, `1.zst`, but not `01`: each number has one name.
    fn of_suffix(suffix: &str) -> Option<(u32, Self)> {
        [Self::Zstd, Self::Gzip, Self::Plain]
            .into_iter()
            .find_map(|packing| {
                let digits = suffix.strip_suffix(packing.suffix())?;
                let number = digits.parse::<u32>().ok().filter(|number| *number > 0)?;
                (number.to_string() == digits).then_some((number, packing))
            })
    }
}

struct Counted {
    file: File,
    consumed: Arc<AtomicU64>,
}

impl Read for Counted {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.file.read(buffer)?;
        self.consumed.fetch_add(read as u64, Ordering::Relaxed);
        Ok(read)
    }
}

/// How often a listing is repeated when files move under it.
const SETTLE_TRIES: u32 = 8;
const PACKED_BUFFER: usize = 128 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_listed_oldest_first_and_each_number_once() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("a.log");
        for name in [
            "a.log",
            "a.log.1",
            // Being compressed: the original counts.
            "a.log.1.zst",
            "a.log.2.zst",
            "a.log.10.gz",
            "a.log.head",
            "a.log.lock",
            "a.log.01",
            "a.log.0",
            "a.log.3.zst.new",
            "a.log.4.xz",
            "b.log.5",
        ] {
            fs::write(dir.path().join(name), "").unwrap();
        }
        let names: Vec<_> = parts(&log)
            .unwrap()
            .into_iter()
            .map(|part| {
                let name = part
                    .path
                    .file_name()
                    .unwrap()
                    .to_string_lossy()
                    .into_owned();
                (name, part.number, part.packing)
            })
            .collect();
        let row = |name: &str, number, packing| (name.to_owned(), number, packing);
        assert_eq!(
            names,
            [
                row("a.log.10.gz", 10, Packing::Gzip),
                row("a.log.2.zst", 2, Packing::Zstd),
                row("a.log.1", 1, Packing::Plain),
                row("a.log", 0, Packing::Plain),
            ]
        );
    }

    #[test]
    fn no_log_is_an_error_that_names_it() {
        let missing = open_all(Path::new("/nonexistent/a.log"));
        assert!(matches!(missing, Err(ReadError::Missing { .. })));
    }
}
