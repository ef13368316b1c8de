//! The pin folder: `<pin_dir>/v<SCHEMA>/`, with the maps by name, `link-<interface>` (XDP)
//! and `tcx-<interface>`.
//!
//! What is pinned there outlives the daemon; `detach` alone ends it.

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clawsec_common::abi::SCHEMA;
use rustix::fs::{FlockOperation, Mode, OFlags, flock, statfs};
use rustix::mount::{MountFlags, mount};

use super::error::EnforcerError;

/// `BPF_FS_MAGIC` of `linux/magic.h`.
const BPF_FS_MAGIC: u64 = 0xcafe_4a11;

/// The hook that a link is at; both may be pinned for a moment, while a mode changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Xdp,
    Tcx,
}

impl Kind {
    pub(super) const ALL: [Self; 2] = [Self::Xdp, Self::Tcx];

    fn prefix(self) -> &'static str {
        match self {
            Self::Xdp => "link-",
            Self::Tcx => "tcx-",
        }
    }
}

/// This schema's folder, and the lock that keeps a second daemon out.
pub(super) struct Folder {
    pub(super) path: PathBuf,
    pub(super) lock: OwnedFd,
}

/// Makes the folder; mounts a BPF filesystem on the parent of `pin_dir` if there is none.
pub(super) fn open(pin_dir: &Path) -> Result<Folder, EnforcerError> {
    if !is_bpffs(pin_dir) {
        let root = pin_dir.parent().unwrap_or(pin_dir);
        fs::create_dir_all(root).map_err(pin_error("make", root))?;
        let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
        mount("bpf", root, "bpf", flags, Some(c"mode=0700"))
            .map_err(|errno| pin_error("mount a BPF filesystem on", root)(errno.into()))?;
        tracing::info!(path = %root.display(), "mounted a BPF filesystem");
    }
    let path = pin_dir.join(format!("v{SCHEMA}"));
    fs::create_dir_all(&path).map_err(pin_error("make", &path))?;

    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let lock = rustix::fs::open(pin_dir, flags, Mode::empty())
        .map_err(|errno| pin_error("open", pin_dir)(errno.into()))?;
    // A child that is being started holds a copy of every descriptor until its exec, the lock of
    // a daemon that has just ended included.
    for _ in 0..20 {
        match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(Folder { path, lock }),
            Err(rustix::io::Errno::WOULDBLOCK) => std::thread::sleep(Duration::from_millis(10)),
            Err(errno) => return Err(pin_error("lock", pin_dir)(errno.into())),
        }
    }
    Err(EnforcerError::Locked {
        path: pin_dir.to_owned(),
    })
}

/// Where this interface's link is pinned.
pub(super) fn link_path(folder: &Path, kind: Kind, interface: &str) -> PathBuf {
    folder.join(format!("{}{interface}", kind.prefix()))
}

/// Links of this interface that another schema pinned, to be taken over.
pub(super) fn foreign_links(folder: &Path, kind: Kind, interface: &str) -> Vec<PathBuf> {
    let name = format!("{}{interface}", kind.prefix());
    let schemas = folder
        .parent()
        .and_then(|pin_dir| fs::read_dir(pin_dir).ok());
    schemas
        .into_iter()
        .flatten()
        .filter_map(Result::ok)
        .map(|schema| schema.path())
        .filter(|schema| schema != folder)
        .map(|schema| schema.join(&name))
        .filter(|path| path.exists())
        .collect()
}

/// The interfaces with a pinned link.
pub(super) fn linked(folder: &Path) -> Result<Vec<String>, EnforcerError> {
    let names = fs::read_dir(folder)
        .and_then(|entries| {
            entries
                .map(|entry| entry.map(|entry| entry.file_name()))
                .collect::<io::Result<Vec<_>>>()
        })
        .map_err(pin_error("read", folder))?;
    let mut interfaces: Vec<String> = names
        .iter()
        .filter_map(|name| interface_of(name))
        .map(str::to_owned)
        .collect();
    interfaces.sort_unstable();
    interfaces.dedup();
    Ok(interfaces)
}

/// Removes an interface's pins of either kind.
pub(super) fn remove_links(folder: &Path, interface: &str) -> Result<(), EnforcerError> {
    for kind in Kind::ALL {
        remove(&link_path(folder, kind, interface))?;
    }
    Ok(())
}

/// Removes a pin; one that is gone is as good.
pub(super) fn remove(path: &Path) -> Result<(), EnforcerError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(pin_error("remove", path)(error))
        }
        _ => Ok(()),
    }
}

/// Removes what other schemas left, once every link is this one's.
pub(super) fn remove_other_schemas(pin_dir: &Path, keep: &Path) -> Result<(), EnforcerError> {
    for schema in schemas(pin_dir)? {
        if schema != keep {
            remove_schema(&schema)?;
        }
    }
    Ok(())
}

/// Unpins every link, then every map. The kernel detaches a link when its last pin goes, since
/// no daemon keeps a descriptor of one.
pub(super) fn detach(pin_dir: &Path) -> Result<Vec<String>, EnforcerError> {
    let mut interfaces = Vec::new();
    if !is_bpffs(pin_dir) || !pin_dir.exists() {
        return Ok(interfaces);
    }
    for schema in schemas(pin_dir)? {
        interfaces.extend(remove_schema(&schema)?);
    }
    interfaces.sort_unstable();
    interfaces.dedup();
    // Held open by a daemon's lock it may stay, empty.
    match fs::remove_dir(pin_dir) {
        // A service that sees the rest of /sys read-only has this folder as a mount of its own.
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::ResourceBusy | io::ErrorKind::ReadOnlyFilesystem
            ) => {}
        removed => removed.map_err(pin_error("remove", pin_dir))?,
    }
    Ok(interfaces)
}

/// The schema folders, `v1` and the like.
fn schemas(pin_dir: &Path) -> Result<Vec<PathBuf>, EnforcerError> {
    let entries = fs::read_dir(pin_dir).map_err(pin_error("read", pin_dir))?;
    let mut found = Vec::new();
    for entry in entries {
        let path = entry.map_err(pin_error("read", pin_dir))?.path();
        let name = path.file_name().and_then(OsStr::to_str).unwrap_or_default();
        if path.is_dir()
            && name
                .strip_prefix('v')
                .is_some_and(|n| n.parse::<u32>().is_ok())
        {
            found.push(path);
        }
    }
    Ok(found)
}

fn remove_schema(schema: &Path) -> Result<Vec<String>, EnforcerError> {
    let interfaces = linked(schema)?;
    for interface in &interfaces {
        remove_links(schema, interface)?;
    }
    for entry in fs::read_dir(schema).map_err(pin_error("read", schema))? {
        remove(&entry.map_err(pin_error("read", schema))?.path())?;
    }
    fs::remove_dir(schema).map_err(pin_error("remove", schema))?;
    Ok(interfaces)
}

fn interface_of(name: &OsStr) -> Option<&str> {
    let name = name.to_str()?;
    Kind::ALL
        .iter()
        .find_map(|kind| name.strip_prefix(kind.prefix()))
}

/// Whether the path, or the nearest folder above it that exists, is on a BPF filesystem.
fn is_bpffs(path: &Path) -> bool {
    path.ancestors()
        .find(|ancestor| ancestor.exists())
        .and_then(|ancestor| statfs(ancestor).ok())
        .is_some_and(|found| u64::try_from(found.f_type).is_ok_and(|kind| kind == BPF_FS_MAGIC))
}

/// For `map_err`.
fn pin_error(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> EnforcerError {
    let path = path.to_owned();
    move |source| EnforcerError::Pin { what, path, source }
}
