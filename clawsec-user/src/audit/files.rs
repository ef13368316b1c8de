//! Files opened so that nothing but a regular file of the log's can be behind a name.

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{FileExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;

use rustix::fs::{FlockOperation, flock};

use super::head::with_suffix;
use super::writer::AuditError;

pub(super) fn options() -> OpenOptions {
    let mut options = OpenOptions::new();
    options
        .read(true)
        .append(true)
        .mode(0o600)
        // O_NONBLOCK: a FIFO put there must not hang the daemon; regular files ignore it.
        .custom_flags(libc::O_NOFOLLOW | libc::O_CLOEXEC | libc::O_NONBLOCK);
    options
}

pub(super) fn open_log(path: &Path) -> Result<File, AuditError> {
    let fail = |source| AuditError::Open {
        path: path.to_owned(),
        source,
    };
    let file = options().create(true).open(path).map_err(fail)?;
    let meta = file.metadata().map_err(fail)?;
    if !meta.is_file() {
        return Err(AuditError::NotAFile {
            path: path.to_owned(),
        });
    }
    if meta.permissions().mode() & 0o077 != 0 {
        file.set_permissions(fs::Permissions::from_mode(0o600))
            .map_err(fail)?;
    }
    Ok(file)
}

pub(super) fn lock(log: &Path) -> Result<File, AuditError> {
    let path = with_suffix(log, ".lock");
    let file = match options().create(true).open(&path) {
        Ok(file) => file,
        Err(source) => return Err(AuditError::Lock { path, source }),
    };
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(file),
        Err(rustix::io::Errno::WOULDBLOCK) => Err(AuditError::Locked {
            path: log.to_owned(),
        }),
        Err(errno) => Err(AuditError::Lock {
            path,
            source: errno.into(),
        }),
    }
}

pub(super) fn length_of(file: &File, path: &Path) -> Result<u64, AuditError> {
    match file.metadata() {
        Ok(meta) => Ok(meta.len()),
        Err(source) => Err(AuditError::Open {
            path: path.to_owned(),
            source,
        }),
    }
}

pub(super) fn ends_in_newline(file: &File, length: u64) -> io::Result<bool> {
    let Some(last) = length.checked_sub(1) else {
        return Ok(true);
    };
    let mut byte = [0];
    file.read_exact_at(&mut byte, last)?;
    Ok(byte[0] == b'\n')
}

pub(super) fn ignore_missing(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        other => other,
    }
}
