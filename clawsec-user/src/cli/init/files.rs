//! The files and folders that `init` writes: each new, or none of them.
//!
//! Invariant: nothing that exists is opened for writing, and what was written is removed again
//! when a later step fails.

use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use anyhow::Context as _;

/// Where everything goes.
#[derive(Debug, Clone)]
pub(super) struct Layout {
    pub(super) config: PathBuf,
    pub(super) cert: PathBuf,
    pub(super) key: PathBuf,
    pub(super) secrets: PathBuf,
    pub(super) token: PathBuf,
    pub(super) audit: PathBuf,
    pub(super) state: PathBuf,
    /// `None` is the default socket.
    pub(super) socket: Option<PathBuf>,
    /// Folders with their modes, parents first.
    pub(super) folders: Vec<(PathBuf, u32)>,
}

impl Layout {
    /// The places of a system's own daemon, as the package has them; below `root`, if one is named.
    pub(super) fn new(root: Option<&Path>) -> Self {
        let at = |place: &str| root.unwrap_or(Path::new("/")).join(place);
        let etc = at("etc/clawsec");
        let (log, state, run) = (
            at("var/log/clawsec"),
            at("var/lib/clawsec"),
            at("run/clawsec"),
        );
        let secrets = etc.join("secrets");
        let mut folders = vec![
            (etc.clone(), 0o755),
            (secrets.clone(), 0o700),
            (log.clone(), 0o700),
            (state.clone(), 0o700),
        ];
        // The daemon makes its own, where it is none of a root's.
        let socket = root.map(|_| {
            folders.push((run.clone(), 0o700));
            run.join("admin.sock")
        });
        Self {
            config: etc.join("clawsec.json"),
            cert: etc.join("cert.pem"),
            key: etc.join("key.pem"),
            token: secrets.join(TOKEN),
            audit: log.join("audit.log"),
            secrets,
            state,
            socket,
            folders,
        }
    }
}

/// The file of the gateway's token, as `${secret:…}` names it.
pub(super) const TOKEN: &str = "gateway-token";

/// What was made so far; removed when dropped, unless it was kept.
#[derive(Default)]
pub(super) struct Written {
    paths: Vec<PathBuf>,
    folders: Vec<PathBuf>,
}

impl Written {
    /// Makes a folder with this mode, whatever the umask; one that exists stays as it is.
    pub(super) fn folder(&mut self, path: &Path, mode: u32) -> anyhow::Result<()> {
        if path.is_dir() {
            return Ok(());
        }
        if let Some(parent) = path.parent() {
            self.folder(parent, 0o755)?;
        }
        let named = || format!("make the folder {}", path.display());
        DirBuilder::new()
            .mode(mode)
            .create(path)
            .with_context(named)?;
        self.folders.push(path.to_owned());
        set_mode(path, mode).with_context(named)
    }

    /// Writes a new file.
    pub(super) fn file(&mut self, path: &Path, mode: u32, text: &str) -> anyhow::Result<()> {
        let named = || format!("write {}", path.display());
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(mode)
            .open(path)
            .with_context(named)?;
        self.paths.push(path.to_owned());
        file.write_all(text.as_bytes())
            .and_then(|()| file.sync_all())
            .and_then(|()| set_mode(path, mode))
            .with_context(named)
    }

    pub(super) fn keep(mut self) {
        self.paths.clear();
        self.folders.clear();
    }
}

impl Drop for Written {
    fn drop(&mut self) {
        for path in self.paths.iter().rev() {
            // What cannot be removed is found, and named, by the next run.
            let _left = fs::remove_file(path);
        }
        for folder in self.folders.iter().rev() {
            let _in_use = fs::remove_dir(folder);
        }
    }
}

fn set_mode(path: &Path, mode: u32) -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    fs::set_permissions(path, fs::Permissions::from_mode(mode))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_exists_is_never_written_and_a_failure_leaves_nothing() {
        let root = tempfile::tempdir().unwrap();
        let mine = root.path().join("mine");
        fs::write(&mine, "mine").unwrap();
        let dir = root.path().join("a/b");
        let mut written = Written::default();
        written.folder(&dir, 0o700).unwrap();
        written.file(&dir.join("new"), 0o600, "text").unwrap();
        let error = written.file(&mine, 0o600, "theirs").unwrap_err();
        assert!(error.to_string().contains("mine"), "{error}");
        drop(written);
        assert_eq!(fs::read_to_string(&mine).unwrap(), "mine");
        let left: Vec<_> = fs::read_dir(root.path()).unwrap().flatten().collect();
        assert_eq!(left.len(), 1, "{left:?}");
    }
}
