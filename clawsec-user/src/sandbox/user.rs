//! The ordinary user that firejail and the bare provider run tools as.
//!
//! Invariant: a `ToolUser` is never uid 0 or gid 0, and owns a home that a tool may be given.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::unistd::{Gid, Uid, User};

use super::SandboxError;

#[derive(Debug, Clone)]
pub(super) struct ToolUser {
    pub(super) name: String,
    pub(super) uid: Uid,
    pub(super) gid: Gid,
    pub(super) home: PathBuf,
}

impl ToolUser {
    /// For `native`, which needs no home. Where the operator has not made the account of the
    /// default name, it is 65534 by number, as under docker: nothing has to be set up.
    pub(super) fn find_for_native(name: &str) -> Result<Self, SandboxError> {
        let refuse = |problem: String| SandboxError::User {
            name: name.to_owned(),
            problem,
        };
        if !Uid::effective().is_root() {
            return Err(SandboxError::NotRoot);
        }
        match User::from_name(name).map_err(|error| refuse(error.to_string()))? {
            Some(user) if user.uid.is_root() || user.gid.as_raw() == 0 => {
                Err(refuse("it is root or in root's group".into()))
            }
            Some(user) => Ok(Self {
                name: user.name,
                uid: user.uid,
                gid: user.gid,
                home: user.dir,
            }),
            None if name == DEFAULT_USER => Ok(Self {
                name: "65534".into(),
                uid: Uid::from_raw(NOBODY),
                gid: Gid::from_raw(NOBODY),
                home: PathBuf::from("/"),
            }),
            None => Err(refuse("it does not exist".into())),
        }
    }

    /// Looks the user up, and refuses one that would give a tool rights or somebody else's files.
    pub(super) fn find(name: &str) -> Result<Self, SandboxError> {
        let refuse = |problem: String| SandboxError::User {
            name: name.to_owned(),
            problem,
        };
        if !Uid::effective().is_root() {
            return Err(SandboxError::NotRoot);
        }
        let user = User::from_name(name)
            .map_err(|error| refuse(error.to_string()))?
            .ok_or_else(|| {
                refuse(format!(
                    "it does not exist; make it with `useradd --create-home --home-dir \
                     /home/{name} --shell /usr/sbin/nologin {name}`"
                ))
            })?;
        if user.uid.is_root() || user.gid.as_raw() == 0 {
            return Err(refuse("it is root or in root's group".into()));
        }
        let home = user
            .dir
            .canonicalize()
            .map_err(|error| refuse(format!("its home {}: {error}", user.dir.display())))?;
        // firejail 0.9.72 cannot build a private home anywhere else (read-only file system).
        if !home.starts_with("/home") || home.parent().is_none_or(|parent| parent == Path::new("/"))
        {
            return Err(refuse(format!(
                "its home {} is not under /home",
                home.display()
            )));
        }
        let owner = home
            .metadata()
            .map_err(|error| refuse(format!("its home {}: {error}", home.display())))?
            .uid();
        if owner != user.uid.as_raw() {
            return Err(refuse(format!(
                "it does not own its home {}",
                home.display()
            )));
        }
        Ok(Self {
            name: user.name,
            uid: user.uid,
            gid: user.gid,
            home,
        })
    }
}

/// The configuration's own default.
const DEFAULT_USER: &str = "clawsec-sbx";
const NOBODY: u32 = 65_534;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn root_nobody_and_strangers_run_no_tools() {
        for name in ["root", "nobody", "no-such-user-here"] {
            assert!(ToolUser::find(name).is_err(), "{name}");
        }
        for name in ["root", "no-such-user-here"] {
            assert!(ToolUser::find_for_native(name).is_err(), "{name}");
        }
    }
}
