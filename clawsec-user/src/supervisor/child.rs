//! The gateway process: started with nothing but a socketpair, and started again when it dies.

use std::io;
use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::process::Stdio;

use nix::unistd::{Group, User};
use tokio::process::{Child, Command};

use crate::ipc;

/// The unprivileged account of the gateway process.
pub const GATEWAY_USER: &str = "clawsec";

#[derive(Debug, thiserror::Error)]
pub enum ChildError {
    #[error(
        "there is no user {GATEWAY_USER:?} for the gateway process; make one: useradd --system --user-group --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin {GATEWAY_USER}"
    )]
    NoUser,
    #[error("the user {GATEWAY_USER:?} has uid 0; the gateway process must not be root")]
    UserIsRoot,
    #[error("look up the user {GATEWAY_USER:?}")]
    Lookup(#[source] nix::Error),
    #[error("make the socketpair of the gateway process")]
    Socketpair(#[source] io::Error),
    #[error("start the gateway process")]
    Spawn(#[source] io::Error),
    #[error("hand the listening sockets to the gateway process")]
    Handover(#[source] io::Error),
}

/// Whom the gateway process becomes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Account {
    uid: u32,
    gid: u32,
}

/// Looks up the gateway's account. A supervisor that is not root keeps its own.
pub(super) fn account() -> Result<Account, ChildError> {
    if !rustix::process::geteuid().is_root() {
        let uid = rustix::process::geteuid().as_raw();
        return Ok(Account {
            uid,
            gid: rustix::process::getegid().as_raw(),
        });
    }
    let user = User::from_name(GATEWAY_USER)
        .map_err(ChildError::Lookup)?
        .ok_or(ChildError::NoUser)?;
    if user.uid.is_root() {
        return Err(ChildError::UserIsRoot);
    }
    let group = Group::from_name(GATEWAY_USER).map_err(ChildError::Lookup)?;
    let gid = group.map_or(user.gid, |group| group.gid);
    Ok(Account {
        uid: user.uid.as_raw(),
        gid: gid.as_raw(),
    })
}

/// Starts the gateway process; returns it with the supervisor's end of the socketpair.
///
/// The child's end is its standard input, so nothing else is inherited: all other descriptors
/// are close-on-exec, the environment is empty but for the log's settings, and standard output
/// goes nowhere.
pub(super) fn spawn(
    account: Account,
    listeners: &[TcpListener],
) -> Result<(Child, UnixStream), ChildError> {
    let (ours, theirs) = UnixStream::pair().map_err(ChildError::Socketpair)?;
    let mut command = Command::new("/proc/self/exe");
    command
        .arg0("clawsec-gateway")
        .arg("gateway")
        .arg(account.uid.to_string())
        .arg(account.gid.to_string())
        .stdin(Stdio::from(OwnedFd::from(theirs)))
        .stdout(Stdio::null())
        .stderr(Stdio::inherit())
        .current_dir("/")
        .env_clear()
        .kill_on_drop(true)
        // A terminal's Ctrl-C reaches the whole foreground group: the supervisor alone answers
        // it, by draining the gateway.
        .process_group(0);
    for name in ["RUST_LOG", "NO_COLOR", "RUST_BACKTRACE"] {
        if let Some(value) = std::env::var_os(name) {
            command.env(name, value);
        }
    }
    let child = command.spawn().map_err(ChildError::Spawn)?;
    ipc::send_listeners(&ours, listeners).map_err(ChildError::Handover)?;
    Ok((child, ours))
}
