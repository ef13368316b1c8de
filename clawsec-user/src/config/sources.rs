//! Where the texts of `${VAR}`, `${secret:NAME}` and `~` come from.

use std::io;
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

use super::trust::{self, FileTrust};

/// What `compile` asks for; it does no IO of its own.
pub trait Sources {
    /// An environment variable, if it is set and is text.
    fn variable(&self, name: &str) -> Option<Zeroizing<String>>;

    /// The file `name` in the folder `dir` of the secrets provider `file`.
    fn secret_file(&self, dir: &Path, name: &str) -> io::Result<Zeroizing<String>>;

    /// The home folder of the daemon's user, for `~`.
    fn home(&self) -> Option<PathBuf>;
}

/// The process environment and file system.
#[derive(Debug, Clone, Copy)]
pub struct ProcessSources {
    trust: FileTrust,
}

impl ProcessSources {
    /// `trust` says how strictly a secret's file and the folders above it are judged.
    pub fn new(trust: FileTrust) -> Self {
        Self { trust }
    }
}

impl Sources for ProcessSources {
    fn variable(&self, name: &str) -> Option<Zeroizing<String>> {
        std::env::var(name).ok().map(Zeroizing::new)
    }

    fn secret_file(&self, dir: &Path, name: &str) -> io::Result<Zeroizing<String>> {
        // What systemd loads for this service (`LoadCredential=`) goes before the folder.
        let loaded = std::env::var_os("CREDENTIALS_DIRECTORY").map(PathBuf::from);
        let loaded = loaded.map(|folder| folder.join(name));
        let path = loaded
            .filter(|path| path.exists())
            .unwrap_or_else(|| dir.join(name));
        let (text, problems) = trust::read(&path, MAX_SECRET_BYTES)?;
        match (self.trust, problems.first()) {
            (FileTrust::Run, Some(problem)) => Err(io::Error::new(
                io::ErrorKind::PermissionDenied,
                problem.to_string(),
            )),
            _ => Ok(text),
        }
    }

    /// By the user database: `sudo` may keep somebody else's `HOME`. `HOME` serves where the user
    /// has no entry, as in many containers.
    fn home(&self) -> Option<PathBuf> {
        let user = nix::unistd::User::from_uid(nix::unistd::geteuid());
        let listed = user.ok().flatten().map(|user| user.dir);
        listed
            .or_else(|| std::env::var_os("HOME").map(PathBuf::from))
            .filter(|home| home.is_absolute())
    }
}

/// Nothing to look up: for `Config::redacted_document`, which has no reference left.
#[derive(Debug, Clone, Copy)]
pub struct NoSources;

impl Sources for NoSources {
    fn variable(&self, _name: &str) -> Option<Zeroizing<String>> {
        None
    }

    fn secret_file(&self, _dir: &Path, _name: &str) -> io::Result<Zeroizing<String>> {
        Err(io::ErrorKind::NotFound.into())
    }

    fn home(&self) -> Option<PathBuf> {
        None
    }
}

/// Keys are short; a larger file is not a secret but a mistake.
const MAX_SECRET_BYTES: u64 = 64 * 1024;
