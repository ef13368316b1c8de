//! The head file: where the log ends, kept apart so that a cut tail can be seen.
//!
//! `<path>.head` is replaced whole (write, sync, rename) after the records it names are durable,
//! so it never runs ahead of them. Its seal is a link of the chain: under a chain key only the
//! key's holder can write one that verifies.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::chain::{Chain, Digest};

/// The last durable record, and the sums up to it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Head {
    pub v: u8,
    pub seq: u64,
    pub hash: Digest,
    /// The file's name, without its folder.
    pub file: String,
    /// Bytes of the file up to the end of that record.
    pub offset: u64,
    /// How links are made: `sha256` or `hmac-sha256`.
    pub chain: String,
    pub epoch: u64,
    pub totals: BTreeMap<String, u64>,
    /// A link from `hash` over the other fields.
    pub seal: Digest,
}

impl Head {
    /// Fills in the seal.
    pub(super) fn sealed(mut self, chain: &Chain) -> Self {
        self.seal = self.compute_seal(chain);
        self
    }

    pub(super) fn is_sealed_by(&self, chain: &Chain) -> bool {
        self.seal == self.compute_seal(chain)
    }

    /// `None` when there is no head file.
    ///
    /// # Errors
    /// When it cannot be read, or holds something else.
    pub(super) fn read(log: &Path) -> io::Result<Option<Self>> {
        Self::read_file(&head_path(log))
    }

    /// Reads a head file wherever it is.
    pub(super) fn read_file(path: &Path) -> io::Result<Option<Self>> {
        let text = match fs::read(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            other => other?,
        };
        let head = serde_json::from_slice(&text)?;
        Ok(Some(head))
    }

    pub(super) fn replace(&self, log: &Path, durable: bool) -> io::Result<()> {
        let path = head_path(log);
        let temporary = with_suffix(log, ".head.new");
        // What a crash left; a link planted here is removed, not followed.
        match fs::remove_file(&temporary) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .custom_flags(libc::O_NOFOLLOW | libc::O_CLOEXEC)
            .open(&temporary)?;
        let mut text = serde_json::to_vec(self)?;
        text.push(b'\n');
        file.write_all(&text)?;
        if durable {
            file.sync_data()?;
        }
        fs::rename(&temporary, &path)
    }

    fn compute_seal(&self, chain: &Chain) -> Digest {
        let unsealed = Self {
            seal: Digest::ZERO,
            ..self.clone()
        };
        chain.link(
            &self.hash,
            &serde_json::to_vec(&unsealed).unwrap_or_default(),
        )
    }
}

/// Says the head in the daemon's own log, which systemd keeps in the journal: a witness that
/// whoever rewrites log and head has to find as well.
#[derive(Debug, Default)]
pub(super) struct Echo {
    told: Option<(Instant, u64)>,
}

impl Echo {
    pub(super) fn tell(&mut self, head: &Head) {
        let is_due = |(at, seq): (Instant, u64)| at.elapsed() >= ECHO && seq != head.seq;
        if head.seq > 0 && self.told.is_none_or(is_due) {
            self.told = Some((Instant::now(), head.seq));
            tracing::info!(seq = head.seq, hash = %head.hash, "audit head");
        }
    }
}

const ECHO: Duration = Duration::from_mins(10);

/// Where the head of the log at `log` is.
pub fn head_path(log: &Path) -> PathBuf {
    with_suffix(log, ".head")
}

/// `audit.log` and `.1` give `audit.log.1`.
pub(super) fn with_suffix(log: &Path, suffix: &str) -> PathBuf {
    let mut name = log.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

/// Makes renames and creations in the log's folder durable.
pub(super) fn sync_folder(log: &Path) -> io::Result<()> {
    match log.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        Some(parent) => File::open(parent)?.sync_all(),
        None => File::open(".")?.sync_all(),
    }
}
