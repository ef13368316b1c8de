//! Starting a process on the host that has nothing of the supervisor's.
//!
//! The only `unsafe` of the sandbox is here: `pre_exec`, since a child must enter its cgroup and
//! drop root between fork and exec, in that order. Invariant: what is executed runs as the tool
//! user with no group of root's (but for clawsec's own launcher, which does so itself), in its own session, with no descriptor but 0, 1 and 2.

use std::collections::BTreeMap;
use std::ffi::CString;
use std::io;
use std::os::fd::OwnedFd;
use std::process::Stdio;

use rustix::mount::{MountPropagationFlags, mount_change};
use rustix::process::{Resource, Rlimit, chdir, setrlimit, setsid, umask};
use rustix::thread::{
    UnshareFlags, set_thread_groups, set_thread_res_gid, set_thread_res_uid, unshare_unsafe,
};
use seccompiler::BpfProgram;
use tokio::process::{Child, Command};

use super::user::ToolUser;

pub(super) struct Containment {
    pub(super) user: ToolUser,
    /// `cgroup.procs` files, opened by root.
    pub(super) cgroup: Vec<OwnedFd>,
    pub(super) limits: Vec<(Resource, u64)>,
    pub(super) workdir: CString,
    pub(super) rights: Rights,
}

/// What the child keeps beside its user.
pub(super) enum Rights {
    /// clawsec itself, which builds the native sandbox around it as root and then drops everything
    /// (`contain`); these descriptors stay open in it.
    Launcher { keep: Vec<OwnedFd> },
    /// firejail is setuid root: it cannot start under NoNewPrivs, and makes its own namespaces, in a
    /// mount namespace that no mount of the host's comes into.
    Setuid,
    /// NoNewPrivs, these filters, and network and IPC namespaces of its own, the former empty.
    Locked { filters: Vec<BpfProgram> },
}

/// Starts `argv` with exactly `environment`, all three streams piped.
///
/// `ENOTDIR` means the working directory, whatever was wrong with it; other errors are of the
/// program itself or of the containment.
pub(super) fn spawn(
    argv: &[String],
    environment: &BTreeMap<String, String>,
    containment: Containment,
) -> io::Result<Child> {
    let [program, arguments @ ..] = argv else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    let mut command = Command::new(program);
    command
        .args(arguments)
        .env_clear()
        .envs(environment)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    let enter = move || containment.enter();
    // SAFETY: `enter` runs in the forked child of a process with other threads, so it must only
    // do what is async-signal-safe: it makes system calls on values prepared before the fork,
    // takes no lock and does not allocate (errors are plain error numbers). It touches no memory
    // that another thread of the parent may have left half written.
    unsafe {
        command.pre_exec(enter);
    }
    command.spawn()
}

impl Containment {
    fn enter(&self) -> io::Result<()> {
        for procs in &self.cgroup {
            rustix::io::write(procs, b"0")?;
        }
        match &self.rights {
            Rights::Locked { .. } => unshare(UnshareFlags::NEWIPC | UnshareFlags::NEWNET)?,
            // firejail takes the newest mount for its own and gives up where it is another's: with
            // docker at work beside it, it often was.
            Rights::Setuid => {
                unshare(UnshareFlags::NEWNS)?;
                let alone = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
                mount_change(c"/", alone)?;
            }
            Rights::Launcher { .. } => {}
        }
        setsid()?;
        for &(resource, limit) in &self.limits {
            let limit = Rlimit {
                current: Some(limit),
                maximum: Some(limit),
            };
            setrlimit(resource, limit)?;
        }
        hide_descriptors()?;
        if let Rights::Launcher { keep } = &self.rights {
            for descriptor in keep {
                rustix::io::fcntl_setfd(descriptor, rustix::io::FdFlags::empty())?;
            }
            chdir(c"/")?;
            return Ok(());
        }
        let uid = rustix::fs::Uid::from_raw(self.user.uid.as_raw());
        let gid = rustix::fs::Gid::from_raw(self.user.gid.as_raw());
        // Raw system calls for this thread: the child has no other.
        set_thread_groups(&[])?;
        set_thread_res_gid(gid, gid, gid)?;
        set_thread_res_uid(uid, uid, uid)?;
        umask(rustix::fs::Mode::from_raw_mode(0o077));
        // After the drop, so that it is the tool user who must be able to enter it.
        chdir(self.workdir.as_c_str()).map_err(|_any| rustix::io::Errno::NOTDIR)?;
        if let Rights::Locked { filters } = &self.rights {
            // Sets NoNewPrivs as well. Its error would allocate on the way up; the number says it.
            for filter in filters {
                seccompiler::apply_filter(filter).map_err(|_any| rustix::io::Errno::PERM)?;
            }
        }
        Ok(())
    }
}

/// Leaves the supervisor's namespaces; safe here because none of these flags unshares memory or
/// descriptors.
fn unshare(namespaces: UnshareFlags) -> io::Result<()> {
    // SAFETY: `unshare_unsafe` is unsafe for CLONE_FILES alone, which takes descriptors away from
    // code that relies on them; `namespaces` never holds it.
    unsafe { unshare_unsafe(namespaces) }.map_err(Into::into)
}

/// Marks every descriptor above 2 close-on-exec: those of the daemon already are, but sockets
/// handed in by systemd are not. Linux 5.11.
fn hide_descriptors() -> io::Result<()> {
    // SAFETY: close_range with CLOEXEC takes three integers and changes flags only.
    let result = unsafe {
        libc::syscall(
            libc::SYS_close_range,
            3,
            libc::c_uint::MAX,
            libc::CLOSE_RANGE_CLOEXEC,
        )
    };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}
