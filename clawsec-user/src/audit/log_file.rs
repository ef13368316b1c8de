//! The files: lines appended, rotated and made durable. Blocking; runs on its own thread.
//!
//! Invariant: number, hash and sums move on only with bytes that are in the file. A write that
//! fails half-way is cut back before the next, so the file holds whole records only.

use std::collections::VecDeque;
use std::fs::{self, DirBuilder, File};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::PathBuf;

use super::chain::{Chain, Digest};
use super::entry::{CHAIN, Entry, REOPEN, ROTATE};
use super::files::{ends_in_newline, length_of, lock, open_log};
use super::head::{Echo, Head};
use super::record::Record;
use super::recover::recover;
use super::rotation::Rotation;
use super::sinks::{Tap, offer};
use super::space::Space;
use super::stamp::Stamp;
use super::sums::{Recovered, Sums};
use super::writer::AuditError;
use crate::config::{AuditConfig, Fsync};
use crate::event::{EventKind, Outcome};

/// The one writer of a log.
#[derive(Debug)]
pub(super) struct LogFile {
    path: PathBuf,
    file: File,
    /// Bytes of whole records in the file.
    offset: u64,
    records_in_file: u64,
    state: State,
    chain: Chain,
    fsync: Fsync,
    rotation: Rotation,
    /// When the file's first record happened; decides its age.
    begun: Option<Stamp>,
    /// After a rotation that failed: no further attempt before the file is this long.
    rotate_after: u64,
    space: Space,
    taps: Vec<Tap>,
    echo: Echo,
    /// The log's own records, written before anything else.
    notices: VecDeque<Entry>,
    buffer: Vec<u8>,
    /// Bytes of a failed write may lie beyond `offset`.
    torn: bool,
    /// Another's half line ends the file: a newline goes before our first byte.
    needs_newline: bool,
    /// Held for as long as this lives; closing releases it.
    _lock: File,
}

#[derive(Debug, Clone)]
struct State {
    seq: u64,
    hash: Digest,
    sums: Sums,
}

impl LogFile {
    pub(super) fn open(config: &AuditConfig, taps: Vec<Tap>) -> Result<Self, AuditError> {
        let path = config.path.clone();
        if let Some(folder) = path
            .parent()
            .filter(|folder| !folder.as_os_str().is_empty())
        {
            DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(folder)
                .map_err(|source| AuditError::Folder {
                    path: folder.to_owned(),
                    source,
                })?;
        }
        let lock = lock(&path)?;
        let chain = Chain::new(config.chain_key.as_ref());
        let recovery = recover(&path, &chain).map_err(|source| AuditError::Recover {
            path: path.clone(),
            source,
        })?;
        let file = open_log(&path)?;
        let length = length_of(&file, &path)?;
        if length > recovery.whole_bytes {
            file.set_len(recovery.whole_bytes)
                .map_err(|source| AuditError::Write {
                    path: path.clone(),
                    source,
                })?;
        }
        let mut rotation = Rotation::new(config);
        rotation.clean_up();
        let is_new = recovery.seq == 0 && recovery.notices.is_empty();
        let mut log = Self {
            path,
            file,
            offset: recovery.whole_bytes,
            records_in_file: recovery.records_in_file,
            state: State {
                seq: recovery.seq,
                hash: recovery.hash,
                sums: recovery.sums,
            },
            chain,
            fsync: config.fsync,
            rotation,
            begun: recovery.begun,
            rotate_after: 0,
            space: Space::new(config.space),
            taps,
            echo: Echo::default(),
            notices: recovery.notices.into(),
            buffer: Vec::new(),
            torn: false,
            needs_newline: false,
            _lock: lock,
        };
        if is_new {
            // No record is ever without a head. What hinders it hinders the first record, too.
            let _told_there = log.sync();
        }
        Ok(log)
    }

    pub(super) fn seq(&self) -> u64 {
        self.state.seq
    }

    pub(super) fn has_notices(&self) -> bool {
        !self.notices.is_empty()
    }

    /// No record goes anywhere else any more.
    pub(super) fn close_taps(&mut self) {
        self.taps.clear();
    }

    /// The disk has less room than `audit.space.refuse`.
    pub(super) fn is_short_of_space(&self) -> bool {
        self.space.is_short()
    }

    pub(super) fn recovered(&self) -> Recovered {
        self.state.sums.clone().into_recovered()
    }

    /// Writes from the front of `entries`; what is written is taken out.
    ///
    /// # Errors
    /// What is still in `entries` was not written, and can be given again.
    pub(super) fn write(&mut self, entries: &mut VecDeque<Entry>) -> Result<(), AuditError> {
        loop {
            self.inspect()?;
            if self.is_too_old() {
                self.try_rotation("age");
            }
            if self.notices.is_empty() && entries.is_empty() {
                return Ok(());
            }
            let mut state = self.state.clone();
            let (mut noticed, mut taken, mut full) = (0, 0, false);
            let mut first = self.begun;
            self.buffer.clear();
            if self.needs_newline {
                self.buffer.push(b'\n');
            }
            while self.buffer.len() < WRITE_BYTES {
                let notice = self
                    .notices
                    .get(noticed)
                    .cloned()
                    .map(|notice| state.tell(notice));
                let Some(entry) = notice.as_ref().or_else(|| entries.get(taken)) else {
                    break;
                };
                let start = self.buffer.len();
                let mut record = Record::new(entry, state.seq + 1, state.hash);
                record.encode(&self.chain, &mut self.buffer);
                let end = self.offset + self.buffer.len() as u64;
                let in_file = self.records_in_file + (noticed + taken) as u64;
                // A file holds at least its own first record and one more, however small the
                // limit, or rotation would never end.
                if end > self.rotation.bytes && in_file > 1 && end > self.rotate_after {
                    self.buffer.truncate(start);
                    full = true;
                    break;
                }
                first.get_or_insert(record.ts);
                state.follow(&record);
                if notice.is_some() {
                    noticed += 1;
                } else {
                    taken += 1;
                }
            }
            self.append()?;
            offer(&self.taps, &self.buffer);
            self.state = state;
            self.begun = first;
            self.records_in_file += (noticed + taken) as u64;
            self.notices.drain(..noticed);
            entries.drain(..taken);
            if full {
                self.try_rotation("size");
            }
        }
    }

    /// Makes everything written so far durable, and moves the head there.
    pub(super) fn sync(&mut self) -> Result<(), AuditError> {
        let durable = self.fsync != Fsync::Never;
        if durable {
            self.file.sync_data().map_err(|source| AuditError::Sync {
                path: self.path.clone(),
                source,
            })?;
        }
        let name = self.path.file_name().unwrap_or_default();
        let head = Head {
            v: 1,
            seq: self.state.seq,
            hash: self.state.hash,
            file: name.to_string_lossy().into_owned(),
            offset: self.offset,
            chain: self.chain.name().to_owned(),
            epoch: self.state.sums.epoch(),
            totals: self.state.sums.recorded().clone(),
            seal: Digest::ZERO,
        };
        self.echo.tell(&head);
        head.sealed(&self.chain)
            .replace(&self.path, durable)
            .map_err(|source| AuditError::Head {
                path: self.path.clone(),
                source,
            })
    }

    /// Sees whether the file is still the one at the path, and still as long as it was left.
    pub(super) fn inspect(&mut self) -> Result<(), AuditError> {
        let fail = |source| AuditError::Write {
            path: self.path.clone(),
            source,
        };
        self.notices.extend(self.rotation.advance());
        self.notices.extend(self.space.look(&self.file));
        let ours = self.file.metadata().map_err(fail)?;
        let there = match fs::symlink_metadata(&self.path) {
            Ok(there) => Some((there.dev(), there.ino())),
            Err(error) if error.kind() == ErrorKind::NotFound => None,
            Err(source) => return Err(fail(source)),
        };
        if there != Some((ours.dev(), ours.ino())) {
            return self.reopen(there.is_some());
        }
        // After the look at the path: a disk that stays read-only is left by moving the log.
        if self.torn {
            self.file.set_len(self.offset).map_err(fail)?;
            self.torn = false;
        }
        let ours = self.file.metadata().map_err(fail)?;
        if ours.len() != self.offset {
            let (reason, what) = if ours.len() < self.offset {
                ("file_cut", "shorter")
            } else {
                ("file_grown", "longer")
            };
            let detail = format!(
                "the file is {what} than left: {}, not {}",
                ours.len(),
                self.offset
            );
            self.notices
                .push_back(Entry::system(CHAIN, Outcome::Error, reason).detailed(detail));
            self.offset = ours.len();
            self.needs_newline = !ends_in_newline(&self.file, ours.len()).map_err(fail)?;
        }
        Ok(())
    }

    fn append(&mut self) -> Result<(), AuditError> {
        if let Err(source) = self.file.write_all(&self.buffer) {
            self.torn = self.file.set_len(self.offset).is_err();
            return Err(AuditError::Write {
                path: self.path.clone(),
                source,
            });
        }
        self.offset += self.buffer.len() as u64;
        self.needs_newline = false;
        Ok(())
    }

    /// Someone moved or removed the file, as logrotate does.
    fn reopen(&mut self, replaced: bool) -> Result<(), AuditError> {
        let file = open_log(&self.path)?;
        let length = length_of(&file, &self.path)?;
        // The old file may be gone from the folder, yet its last records must reach the disk.
        if self.fsync != Fsync::Never
            && let Err(error) = self.file.sync_data()
        {
            tracing::warn!(%error, "the replaced audit file did not sync");
        }
        self.needs_newline =
            !ends_in_newline(&file, length).map_err(|source| AuditError::Write {
                path: self.path.clone(),
                source,
            })?;
        if self.torn {
            let _best_effort = self.file.set_len(self.offset);
            self.torn = false;
        }
        self.file = file;
        self.offset = length;
        self.records_in_file = u64::from(length > 0);
        self.begun = None;
        self.rotate_after = 0;
        let (reason, detail) = if replaced {
            ("file_replaced", "another file stands at the log's path")
        } else {
            ("file_moved", "the file was moved or removed")
        };
        self.notices
            .push_front(Entry::system(REOPEN, Outcome::Allow, reason).detailed(detail.to_owned()));
        Ok(())
    }

    fn is_too_old(&self) -> bool {
        self.records_in_file > 1
            && self.offset > self.rotate_after
            && self
                .begun
                .is_some_and(|begun| self.rotation.is_over(begun, Stamp::now()))
    }

    fn try_rotation(&mut self, reason: &'static str) {
        if let Err(error) = self.rotate(reason) {
            // Better a long file than none.
            tracing::error!(error = &error as &dyn std::error::Error, "rotation failed");
            self.rotate_after = self.offset + (self.rotation.bytes / 8).max(65_536);
        }
    }

    fn rotate(&mut self, reason: &'static str) -> Result<(), AuditError> {
        let fail = |source| AuditError::Rotate {
            path: self.path.clone(),
            source,
        };
        let durable = self.fsync != Fsync::Never;
        if durable {
            self.file.sync_data().map_err(fail)?;
        }
        let (file, removed) = self.rotation.rotate(durable).map_err(fail)?;
        let mut detail = format!("after {} bytes", self.offset);
        if removed > 0 {
            detail.push_str(&format!("; {removed} older parts removed"));
        }
        self.file = file;
        self.offset = 0;
        self.records_in_file = 0;
        self.begun = None;
        self.rotate_after = 0;
        self.notices
            .push_front(Entry::system(ROTATE, Outcome::Allow, reason).detailed(detail));
        Ok(())
    }
}

impl State {
    /// The log's own records that begin a stretch repeat the sums up to there.
    fn tell(&self, mut notice: Entry) -> Entry {
        let action = notice.event.action.as_ref();
        if notice.event.kind == EventKind::System && [ROTATE, REOPEN, CHAIN].contains(&action) {
            notice.totals = Some(self.sums.recorded().clone());
            notice.epoch = Some(self.sums.epoch());
        }
        notice
    }

    fn follow(&mut self, record: &Record) {
        self.seq = record.seq;
        self.hash = record.hash;
        if let Err(mismatch) = self.sums.observe(record.fact()) {
            tracing::error!(
                ?mismatch,
                seq = record.seq,
                "audit totals are not the sums written"
            );
        }
    }
}

/// One write is at most about this long.
const WRITE_BYTES: usize = 1 << 20;
