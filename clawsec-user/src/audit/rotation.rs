//! Rotated parts: numbered, compressed, and removed when there are too many or too much of them.
//!
//! Invariant: one thread at a time changes names, the one that writes the log; the packer only
//! fills a file of its own. A part is removed only after its compressed copy is whole, durable and
//! in its place, so a crash at any moment leaves each line readable once: where both stand, the
//! plain one counts (`parts`), and `clean_up` makes the copy anew.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::entry::{Entry, PACK};
use super::files::{ignore_missing, options};
use super::head::{sync_folder, with_suffix};
use super::packer::Packer;
use super::parts::{Packing, Part, identity, rotated};
use super::stamp::Stamp;
use crate::config::{AuditConfig, Fsync};
use crate::event::Outcome;

#[derive(Debug)]
pub(super) struct Rotation {
    path: PathBuf,
    /// A file does not grow beyond this.
    pub(super) bytes: u64,
    age: Option<Duration>,
    keep: u32,
    total_bytes: Option<u64>,
    compress: bool,
    durable: bool,
    packer: Option<Packer>,
    /// There may be parts that are not compressed yet.
    look: bool,
}

impl Rotation {
    pub(super) fn new(config: &AuditConfig) -> Self {
        Self {
            path: config.path.clone(),
            bytes: config.rotate_bytes,
            age: config.rotate_age,
            keep: config.rotate_keep,
            total_bytes: config.rotate_total_bytes,
            compress: config.rotate_compress,
            durable: config.fsync != Fsync::Never,
            packer: None,
            look: config.rotate_compress,
        }
    }

    /// A file that began at `begun` is too old at `now`.
    pub(super) fn is_over(&self, begun: Stamp, now: Stamp) -> bool {
        self.age.is_some_and(|age| {
            let old = now.micros().saturating_sub(begun.micros());
            u128::try_from(old).is_ok_and(|old| old >= age.as_micros())
        })
    }

    /// Removes what an earlier writer left half done.
    pub(super) fn clean_up(&mut self) {
        let result = ignore_missing(fs::remove_file(self.packing_path())).and_then(|()| {
            for part in rotated(&self.path)? {
                if part.packing == Packing::Plain {
                    // Were the copy whole, this would cost making it again, and nothing else.
                    let copy = with_suffix(&part.path, Packing::Zstd.suffix());
                    ignore_missing(fs::remove_file(copy))?;
                }
            }
            Ok(())
        });
        if let Err(error) = result {
            tracing::warn!(%error, "leftovers of a compression could not be removed");
        }
    }

    /// `path` becomes `path.1`, and so on; the new file is there before the old one moves. Gives
    /// it, and how many parts were removed.
    pub(super) fn rotate(&mut self, durable: bool) -> io::Result<(File, u32)> {
        self.finish_packing();
        let fresh = with_suffix(&self.path, ".new");
        ignore_missing(fs::remove_file(&fresh))?;
        let file = options().create_new(true).open(&fresh)?;
        let removed = self.prune()?;
        if self.keep > 0 {
            // From the oldest on, so that none is written over.
            for part in rotated(&self.path)?.into_iter().rev() {
                let to = self.numbered(part.number.saturating_add(1), part.packing);
                ignore_missing(fs::rename(part.path, to))?;
            }
            fs::rename(&self.path, self.numbered(1, Packing::Plain))?;
        }
        fs::rename(&fresh, &self.path)?;
        if durable {
            sync_folder(&self.path)?;
        }
        self.look = self.compress;
        Ok((file, removed))
    }

    /// Goes on with compressing; gives a record of what failed.
    pub(super) fn advance(&mut self) -> Option<Entry> {
        let failed = self.finish_packing();
        if self.look && self.packer.is_none() {
            self.begin_packing();
        }
        failed
    }

    /// Makes room for one part more.
    fn prune(&self) -> io::Result<u32> {
        let mut removed = 0;
        let mut left = self.total_bytes.unwrap_or(u64::MAX);
        let size = |path: &Path| fs::metadata(path).map_or(0, |meta| meta.len());
        left = left.saturating_sub(size(&self.path));
        // The newest first: once one does not fit, neither does anything older.
        let mut full = false;
        for part in rotated(&self.path)? {
            let length = size(&part.path);
            full |= part.number >= self.keep || length > left;
            if full {
                ignore_missing(fs::remove_file(&part.path))?;
                removed += 1;
            } else {
                left -= length;
            }
        }
        Ok(removed)
    }

    fn begin_packing(&mut self) {
        let plain = |part: &Part| part.packing == Packing::Plain;
        let begun = rotated(&self.path).and_then(|parts| {
            // The oldest first: it is the next to go, and packed parts let more of them stay.
            let Some(part) = parts.into_iter().rev().find(plain) else {
                return Ok(None);
            };
            let source = File::open(&part.path)?;
            let target = self.packing_path();
            ignore_missing(fs::remove_file(&target))?;
            let target = options().create_new(true).open(&target)?;
            Packer::start(source, target, self.durable).map(Some)
        });
        match begun {
            Ok(Some(packer)) => self.packer = Some(packer),
            Ok(None) => self.look = false,
            Err(error) => {
                tracing::error!(%error, "compressing a rotated part cannot begin");
                self.look = false;
            }
        }
    }

    /// Puts a copy that is whole in its place.
    fn finish_packing(&mut self) -> Option<Entry> {
        let result = self.packer.as_mut()?.result()?;
        let source = self.packer.take()?.source();
        let placed = result.and_then(|()| self.place(source));
        let error = placed.err()?;
        tracing::error!(%error, "a rotated part was not compressed");
        // Not again before the next rotation: a full disk would make this a loop.
        self.look = false;
        let _best_effort = fs::remove_file(self.packing_path());
        let detail = format!("a rotated part stays as it is: {error}");
        Some(Entry::system(PACK, Outcome::Error, "failed").detailed(detail))
    }

    fn place(&self, source: (u64, u64)) -> io::Result<()> {
        let packed = self.packing_path();
        let parts = rotated(&self.path)?;
        let found = parts
            .into_iter()
            .find(|part| part.packing == Packing::Plain && identity(&part.path) == Some(source));
        let Some(part) = found else {
            // Removed meanwhile, being the oldest.
            return fs::remove_file(packed);
        };
        fs::rename(packed, self.numbered(part.number, Packing::Zstd))?;
        if self.durable {
            sync_folder(&self.path)?;
        }
        fs::remove_file(part.path)
    }

    fn packing_path(&self) -> PathBuf {
        with_suffix(&self.path, ".packing")
    }

    fn numbered(&self, number: u32, packing: Packing) -> PathBuf {
        with_suffix(&self.path, &format!(".{number}{}", packing.suffix()))
    }
}

/// Which file this is, whatever its name becomes.
pub(super) fn identity_of(file: &File) -> io::Result<(u64, u64)> {
    file.metadata().map(|meta| (meta.dev(), meta.ino()))
}
