//! The state file of bans and admissions: what survives a reboot and another schema of maps.
//!
//! Lines of text, appended as entries change, written anew when most of them are out of date:
//! its cost follows the changes, not the number of entries. Only whole lines count: one that a
//! crash cut off ends the file.
//!
//! ```text
//! clawsec-timed 1 filter
//! ban 203.0.113.7/32 1790000000000 gateway rate_limited
//! allow 198.51.100.0/24 1790000000000 operator the fair's network
//! unban 203.0.113.7/32
//! ```

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use ipnet::IpNet;

use super::book::{Book, By, Entry, Key, Since};
use crate::policy::TimedKind;

const MAGIC: &str = "clawsec-timed 1 ";
/// Entries that are written between two moments in which the book is free.
const PAGE: usize = 8_192;
/// Lines beyond twice the entries, before the file is written anew.
const SLACK: usize = 10_000;

/// Whether the daemon that wrote a file kept the kernel's maps in step with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Plane {
    Filter,
    AcceptOnly,
}

impl Plane {
    fn word(self) -> &'static str {
        match self {
            Self::Filter => "filter",
            Self::AcceptOnly => "accept-only",
        }
    }
}

/// What was read.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Loaded {
    Missing,
    Sound {
        plane: Plane,
        entries: BTreeMap<Key, Entry>,
    },
    /// With what could be read, and what is wrong.
    Damaged {
        entries: BTreeMap<Key, Entry>,
        why: String,
    },
}

/// Reads a file. Never fails: what cannot be read is said.
pub(super) fn load(path: &Path) -> Loaded {
    let bytes = match fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Loaded::Missing,
        Err(error) => {
            return Loaded::Damaged {
                entries: BTreeMap::new(),
                why: format!("it cannot be read: {error}"),
            };
        }
    };
    parse(&String::from_utf8_lossy(&bytes))
}

fn parse(text: &str) -> Loaded {
    let mut entries = BTreeMap::new();
    // What follows the last line feed was cut off by a crash, and nobody was told of it.
    let whole = text.rfind('\n').map_or("", |end| &text[..end]);
    let mut lines = whole.split('\n').zip(1..);
    let plane = lines.next().and_then(|(line, _)| {
        let word = line.strip_prefix(MAGIC)?;
        [Plane::Filter, Plane::AcceptOnly]
            .into_iter()
            .find(|plane| plane.word() == word)
    });
    let mut wrong = plane.is_none().then_some((1, 1_usize));
    for (line, number) in lines {
        if parse_line(line, &mut entries).is_none() {
            wrong = wrong.map_or(Some((number, 1)), |(first, count)| Some((first, count + 1)));
        }
    }
    match (wrong, plane) {
        (None, Some(plane)) => Loaded::Sound { plane, entries },
        (wrong, _) => {
            let (first, count) = wrong.unwrap_or((1, 1));
            Loaded::Damaged {
                entries,
                why: format!("{count} of its lines cannot be read, line {first} first"),
            }
        }
    }
}

fn parse_line(line: &str, entries: &mut BTreeMap<Key, Entry>) -> Option<()> {
    let (verb, rest) = line.split_once(' ')?;
    let (kind, ended) = match verb {
        "ban" => (TimedKind::Ban, false),
        "allow" => (TimedKind::Admission, false),
        "unban" => (TimedKind::Ban, true),
        "unallow" => (TimedKind::Admission, true),
        _ => return None,
    };
    if ended {
        entries.remove(&(kind, rest.parse().ok()?));
        return Some(());
    }
    let mut words = rest.splitn(4, ' ');
    let prefix: IpNet = words.next()?.parse().ok()?;
    let entry = Entry {
        until_ms: words.next()?.parse().ok()?,
        by: By::from_word(words.next()?)?,
        note: words.next().map(Into::into),
    };
    entries.insert((kind, kind.key(prefix)), entry);
    Some(())
}

/// The file as one daemon writes it.
#[derive(Debug)]
pub(super) struct Journal {
    path: PathBuf,
    plane: Plane,
    /// Open for appending; `None` before the first writing and after one that failed.
    file: Option<File>,
    /// Changes of the book up to here are in the file.
    written: u64,
    lines: usize,
}

impl Journal {
    pub(super) fn new(path: PathBuf, plane: Plane) -> Self {
        Self {
            path,
            plane,
            file: None,
            written: 0,
            lines: 0,
        }
    }

    /// From here on the file says so of the maps.
    pub(super) fn keep_with(&mut self, plane: Plane) {
        self.plane = plane;
        self.file = None;
    }

    /// Makes the file hold what the book holds, durably: by appending, or all of it anew.
    pub(super) fn catch_up(&mut self, book: &Mutex<Book>) -> io::Result<()> {
        let (since, held) = {
            let book = lock(book);
            (book.since(self.written), book.len())
        };
        let Some(mut file) = self.file.take() else {
            return self.write_anew(book);
        };
        let (changes, next) = match since {
            Since::Changes(changes, next) if self.lines + changes.len() <= 2 * held + SLACK => {
                (changes, next)
            }
            _ => return self.write_anew(book),
        };
        if !changes.is_empty() {
            let mut text = String::new();
            for (key, entry) in &changes {
                line(&mut text, *key, entry.as_ref());
            }
            // After an error half a line may stand there: the file stays taken, and is written
            // anew the next time.
            file.write_all(text.as_bytes())?;
            file.sync_data()?;
            self.lines += changes.len();
            self.written = next;
        }
        self.file = Some(file);
        Ok(())
    }

    fn write_anew(&mut self, book: &Mutex<Book>) -> io::Result<()> {
        let new = self.path.with_extension("new");
        // Changes from here on are appended, those in the pages a second time.
        let written = lock(book).end();
        let mut lines = 1;
        let mut file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&new)?;
        let mut text = format!("{MAGIC}{}\n", self.plane.word());
        for kind in TimedKind::ALL {
            let mut after = None;
            loop {
                let page = lock(book).page(kind, after, PAGE);
                for (prefix, entry) in &page {
                    line(&mut text, (kind, *prefix), Some(entry));
                }
                file.write_all(text.as_bytes())?;
                text.clear();
                lines += page.len();
                match page.last() {
                    Some((prefix, _)) => after = Some(*prefix),
                    None => break,
                }
            }
        }
        file.sync_all()?;
        drop(file);
        fs::rename(&new, &self.path)?;
        if let Some(folder) = self.path.parent() {
            File::open(folder)?.sync_all()?;
        }
        self.file = Some(OpenOptions::new().append(true).open(&self.path)?);
        self.written = written;
        self.lines = lines;
        Ok(())
    }
}

fn line(text: &mut String, (kind, prefix): Key, entry: Option<&Entry>) {
    let verb = match kind {
        TimedKind::Ban => "ban",
        TimedKind::Admission => "allow",
    };
    // Writing to a String cannot fail.
    let _written = match entry {
        None => writeln!(text, "un{verb} {prefix}"),
        Some(Entry { until_ms, by, note }) => {
            let by = by.as_str();
            match note {
                Some(note) => writeln!(text, "{verb} {prefix} {until_ms} {by} {note}"),
                None => writeln!(text, "{verb} {prefix} {until_ms} {by}"),
            }
        }
    };
}

fn lock(book: &Mutex<Book>) -> MutexGuard<'_, Book> {
    book.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn key(kind: TimedKind, prefix: &str) -> Key {
        (kind, prefix.parse().unwrap())
    }

    fn entry(until_ms: u64, by: By, note: Option<&str>) -> Entry {
        Entry {
            until_ms,
            by,
            note: note.map(Into::into),
        }
    }

    fn book_of(entries: &BTreeMap<Key, Entry>) -> Mutex<Book> {
        let mut book = Book::default();
        for (key, entry) in entries {
            book.set(*key, entry.clone());
        }
        Mutex::new(book)
    }

    fn sound(path: &Path) -> BTreeMap<Key, Entry> {
        match load(path) {
            Loaded::Sound { entries, .. } => entries,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn what_is_written_is_read_again() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("timed");
        assert_eq!(load(&path), Loaded::Missing);
        let mut expected = BTreeMap::from([
            (
                key(TimedKind::Ban, "203.0.113.7/32"),
                entry(7, By::Gateway, Some("rate_limited, and more")),
            ),
            (
                key(TimedKind::Ban, "2001:db8::/64"),
                entry(8, By::Kernel, None),
            ),
            (
                key(TimedKind::Admission, "198.51.100.0/24"),
                entry(9, By::Operator, Some("für die Messe")),
            ),
        ]);
        let book = book_of(&expected);
        let mut journal = Journal::new(path.clone(), Plane::Filter);
        journal.catch_up(&book).unwrap();
        assert_eq!(sound(&path), expected);
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);

        let banned = key(TimedKind::Ban, "203.0.113.7/32");
        lock(&book).remove(banned);
        lock(&book).set(
            key(TimedKind::Ban, "10.0.0.0/8"),
            entry(5, By::Operator, None),
        );
        journal.catch_up(&book).unwrap();
        expected.remove(&banned);
        expected.insert(
            key(TimedKind::Ban, "10.0.0.0/8"),
            entry(5, By::Operator, None),
        );
        assert_eq!(sound(&path), expected);
        let text = fs::read_to_string(&path).unwrap();
        assert!(
            text.ends_with("unban 203.0.113.7/32\nban 10.0.0.0/8 5 operator\n"),
            "appended: {text}"
        );
    }

    #[test]
    fn the_file_grows_with_the_changes_and_not_without_end() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("timed");
        let book = Mutex::new(Book::default());
        let mut journal = Journal::new(path.clone(), Plane::AcceptOnly);
        let size = || fs::metadata(&path).unwrap().len();
        for round in 0..20_u64 {
            for n in 0..1_000_u32 {
                let net = IpNet::from(std::net::IpAddr::from(std::net::Ipv4Addr::from_bits(n)));
                lock(&book).set((TimedKind::Ban, net), entry(round + 1, By::Gateway, None));
            }
            journal.catch_up(&book).unwrap();
            assert!(size() < 14_000 * 40, "round {round}: {} bytes", size());
        }
        assert_eq!(sound(&path).len(), 1_000);
        let before = size();
        journal.catch_up(&book).unwrap();
        assert_eq!(size(), before, "nothing changed");
        for n in 0..100_000_u32 {
            let net = IpNet::from(std::net::IpAddr::from(std::net::Ipv4Addr::from_bits(n)));
            lock(&book).set((TimedKind::Ban, net), entry(99, By::Gateway, None));
        }
        journal.catch_up(&book).unwrap();
        assert_eq!(sound(&path).len(), 100_000, "more than is remembered");
    }

    #[test]
    fn a_file_that_cannot_be_written_is_written_anew_later() {
        let folder = tempfile::tempdir().unwrap();
        let state = folder.path().join("state");
        let path = state.join("timed");
        let book = book_of(&BTreeMap::from([(
            key(TimedKind::Ban, "10.0.0.1/32"),
            entry(9, By::Operator, None),
        )]));
        let mut journal = Journal::new(path.clone(), Plane::Filter);
        assert!(journal.catch_up(&book).is_err(), "there is no such folder");
        fs::create_dir(&state).unwrap();
        journal.catch_up(&book).unwrap();
        assert_eq!(sound(&path).len(), 1);
    }

    #[test]
    fn damage_is_said_and_the_rest_is_read() {
        let line = "ban 10.0.0.1/32 9 operator\n";
        for (row, text, sound, held) in [
            (
                "cut off",
                format!("clawsec-timed 1 filter\n{line}ban 10.0.0.2/3"),
                true,
                1,
            ),
            (
                "no entries",
                "clawsec-timed 1 accept-only\n".to_owned(),
                true,
                0,
            ),
            ("empty", String::new(), false, 0),
            (
                "another version",
                format!("clawsec-timed 2 filter\n{line}"),
                false,
                1,
            ),
            ("another file", "PNG\n\u{0}\u{1}\n".to_owned(), false, 0),
            (
                "a line of nonsense",
                format!("clawsec-timed 1 filter\n{line}ban x 9 operator\n"),
                false,
                1,
            ),
            (
                "no number",
                format!("clawsec-timed 1 filter\nban 10.0.0.9/32 -1 operator\n{line}"),
                false,
                1,
            ),
            (
                "nobody",
                format!("clawsec-timed 1 filter\nban 10.0.0.9/32 9 root\n{line}"),
                false,
                1,
            ),
            (
                "too long",
                format!("clawsec-timed 1 filter\nban 10.0.0.9/33 9 operator\n{line}"),
                false,
                1,
            ),
        ] {
            let (is_sound, entries, why) = match parse(&text) {
                Loaded::Sound { entries, .. } => (true, entries, String::new()),
                Loaded::Damaged { entries, why } => (false, entries, why),
                Loaded::Missing => panic!("{row}"),
            };
            assert_eq!((is_sound, entries.len()), (sound, held), "{row}: {why}");
        }
        let Loaded::Damaged { why, .. } = parse(&format!("clawsec-timed 1 filter\n{line}x\ny\n"))
        else {
            panic!("two lines are damaged")
        };
        assert_eq!(why, "2 of its lines cannot be read, line 3 first");
    }
}
