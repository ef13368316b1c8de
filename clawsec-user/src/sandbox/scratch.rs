//! A private directory for each execution on the host, gone when it ends.
//!
//! Under `/run/clawsec/sandbox`, whose folders root owns: under the tool user's own home a tool
//! could put a symbolic link where root is about to make or remove something. On most hosts
//! `/run` is a tmpfs, so that what a tool writes counts as its cgroup's memory.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use super::SandboxError;
use super::owner::Owner;
use super::user::ToolUser;

/// One instance's folder of private directories.
#[derive(Debug, Clone)]
pub(super) struct Scratches {
    base: PathBuf,
}

impl Scratches {
    pub(super) fn open(instance: &str) -> Result<Self, SandboxError> {
        let base = Path::new(ROOT).join(instance);
        fs::create_dir_all(&base).map_err(SandboxError::file("make the folder", &base))?;
        for dir in [Path::new(ROOT), base.as_path()] {
            // Passable but not readable: a tool cannot list its neighbours.
            fs::set_permissions(dir, fs::Permissions::from_mode(0o711))
                .map_err(SandboxError::file("set the mode of", dir))?;
        }
        Ok(Self { base })
    }

    pub(super) fn base(&self) -> &Path {
        &self.base
    }

    pub(super) fn make(
        &self,
        owner: &Owner,
        id: &str,
        user: &ToolUser,
    ) -> Result<PathBuf, SandboxError> {
        let path = self.base.join(format!("{}-{id}", owner.text()));
        fs::create_dir(&path).map_err(SandboxError::file("make the folder", &path))?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o700))
            .map_err(SandboxError::file("set the mode of", &path))?;
        chown(&path, Some(user.uid.as_raw()), Some(user.gid.as_raw()))
            .map_err(SandboxError::file("give away", &path))?;
        Ok(path)
    }

    /// Directories whose owner is gone, or that are the current owner's but not `live`.
    pub(super) fn orphans(&self, current: &Owner, live: impl Fn(&str) -> bool) -> Vec<PathBuf> {
        let Ok(entries) = fs::read_dir(&self.base) else {
            return Vec::new();
        };
        entries
            .flatten()
            .filter(|entry| match entry.file_name().to_str().map(Owner::parse) {
                Some(Some((owner, id))) if owner == *current => !live(id),
                Some(Some((owner, _))) => !owner.is_alive(),
                _ => false,
            })
            .map(|entry| entry.path())
            .collect()
    }
}

/// Writes a file that is the same for every instance, whole or not at all; returns its path.
pub(super) fn keep(name: &str, content: &[u8]) -> Result<String, SandboxError> {
    fs::create_dir_all(ROOT).map_err(SandboxError::file("make the folder", ROOT))?;
    let path = format!("{ROOT}/{name}");
    let new = format!("{path}.{}", std::process::id());
    fs::write(&new, content).map_err(SandboxError::file("write", &new))?;
    fs::rename(&new, &path).map_err(SandboxError::file("put in place", &path))?;
    Ok(path)
}

/// Removes a directory that a tool has filled as it liked. Nothing may run in it any more.
pub(super) async fn remove(path: PathBuf) -> bool {
    let target = path.clone();
    // std walks by descriptor and never follows a link, but gives up on very deep trees.
    let removed = tokio::task::spawn_blocking(move || fs::remove_dir_all(target)).await;
    match removed {
        Ok(Ok(())) => return true,
        Ok(Err(error)) if error.kind() == std::io::ErrorKind::NotFound => return true,
        _ => {}
    }
    let removal = tokio::process::Command::new("/bin/rm")
        .args(["-rf", "--one-file-system", "--"])
        .arg(&path)
        .env_clear()
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .status();
    let finished = tokio::time::timeout(REMOVAL, removal).await;
    matches!(finished, Ok(Ok(status)) if status.success())
}

const ROOT: &str = "/run/clawsec/sandbox";
const REMOVAL: Duration = Duration::from_secs(10);
