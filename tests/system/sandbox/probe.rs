//! The test binary itself as a tool: system calls that no shell applet makes, and workspaces.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;
use std::process::Command;

use clawsec_user::config::SandboxProvider;
use clawsec_user::sandbox::{CancellationToken, JobCommand, Mount, MountAccess, SandboxError};

use super::{USER, chain, finish, job, open, permit};

/// Calls, and the errors they may end with when the filter works. Without it, as this user:
/// most succeed, or fail otherwise (EFAULT, EINVAL, EBADF), since the arguments are nonsense.
const CALLS: &[(&str, libc::c_long, [libc::c_long; 3])] = &[
    ("io_uring_setup", libc::SYS_io_uring_setup, [1, 0, 0]),
    ("socket AF_VSOCK", libc::SYS_socket, [40, 1, 0]),
    ("socket AF_ALG", libc::SYS_socket, [38, 5, 0]),
    ("socket AF_PACKET", libc::SYS_socket, [17, 3, 0]),
    ("keyctl", libc::SYS_keyctl, [0, -3, 0]),
    ("add_key", libc::SYS_add_key, [0, 0, 0]),
    ("bpf", libc::SYS_bpf, [0, 0, 0]),
    ("perf_event_open", libc::SYS_perf_event_open, [0, 0, 0]),
    ("userfaultfd", libc::SYS_userfaultfd, [0, 0, 0]),
    ("ptrace", libc::SYS_ptrace, [0, 0, 0]),
    ("unshare user", libc::SYS_unshare, [0x1000_0000, 0, 0]),
    ("clone user", libc::SYS_clone, [0x1000_0011, 0, 0]),
    ("clone3", libc::SYS_clone3, [0, 0, 0]),
    ("setns", libc::SYS_setns, [-1, 0, 0]),
    ("process_vm_readv", libc::SYS_process_vm_readv, [1, 0, 0]),
];

pub(super) async fn system_calls_are_filtered(provider: SandboxProvider) {
    let sandbox = open(provider).await;
    let workspace = workspace_with_this_binary();
    let mut job = job(JobCommand::Argv(vec![
        "./ld.so".into(),
        "--library-path".into(),
        ".".into(),
        "./probe".into(),
        "--exact".into(),
        "system::sandbox::probe::from_inside".into(),
        "--nocapture".into(),
        "--test-threads=1".into(),
    ]));
    job.env = BTreeMap::from([("PROBE".to_owned(), "1".to_owned())]);
    job.workspace = Some(Mount {
        source: workspace.path().to_owned(),
        access: MountAccess::ReadWrite,
    });
    let execution = super::run(&sandbox, job).await;
    let text = execution.stdout.text();
    for (name, ..) in CALLS {
        let result = text
            .lines()
            .find_map(|line| line.strip_prefix(&format!("{name}: ")));
        let blocked = match *name {
            "clone3" => matches!(result, Some("38")),
            // firejail's filter of families answers EAFNOSUPPORT, of namespaces ENOSYS or EPERM.
            _ => matches!(result, Some("1" | "97" | "95" | "38")),
        };
        assert!(blocked, "{name}: {result:?} in {execution:?}\n{text}");
    }
    finish(sandbox).await;
}

/// What `system_calls_are_filtered` runs inside; as a test of its own it is nothing.
#[test]
fn from_inside() {
    if std::env::var_os("PROBE").is_none() {
        return;
    }
    let mut lines = String::from("\n");
    for (name, number, [a, b, c]) in CALLS {
        // SAFETY: every pointer argument is null or a length is zero, so the kernel writes to no
        // memory of ours; a clone that succeeds has its own copy of it, and exits at once.
        let result = unsafe { libc::syscall(*number, *a, *b, *c, 0, 0) };
        let errno = std::io::Error::last_os_error().raw_os_error().unwrap_or(0);
        if result == 0 && name.starts_with("clone") {
            std::process::abort();
        }
        let outcome = if result < 0 { errno } else { 0 };
        writeln!(lines, "{name}: {outcome}").unwrap();
    }
    std::io::Write::write_all(&mut std::io::stdout(), lines.as_bytes()).unwrap();
}

pub(super) async fn workspaces_keep_their_access(provider: SandboxProvider) {
    let sandbox = open(provider).await;
    for access in [MountAccess::ReadWrite, MountAccess::ReadOnly] {
        let workspace = workspace();
        std::fs::write(workspace.path().join("given"), "from the host\n").unwrap();
        let mut job = job(JobCommand::Shell("cat given; echo made > made".into()));
        job.workdir = Some("/workspace".into());
        job.workspace = Some(Mount {
            source: workspace.path().to_owned(),
            access,
        });
        match sandbox.run(permit(), job, CancellationToken::new()).await {
            Ok(execution) => {
                assert_eq!(execution.stdout.text(), "from the host\n", "{execution:?}");
                let made = workspace.path().join("made").exists();
                assert_eq!(made, access == MountAccess::ReadWrite, "{execution:?}");
            }
            // It says what it cannot do, instead of doing something else.
            Err(SandboxError::Unsupported { .. }) => {
                assert_eq!(
                    (provider, access),
                    (SandboxProvider::None, MountAccess::ReadOnly)
                );
            }
            Err(error) => panic!("{}", chain(&error)),
        }
    }
    finish(sandbox).await;
}

/// A directory that both the tool user and docker's nobody may write.
pub(crate) fn workspace() -> tempfile::TempDir {
    let dir = tempfile::Builder::new()
        .prefix("clawsec-ws-")
        .tempdir_in("/tmp")
        .unwrap();
    let changed = Command::new("chown")
        .arg(USER)
        .arg(dir.path())
        .status()
        .unwrap();
    assert!(changed.success());
    let changed = Command::new("chmod")
        .arg("0777")
        .arg(dir.path())
        .status()
        .unwrap();
    assert!(changed.success());
    dir
}

/// This binary with its loader and libraries, so that it runs where there are none.
fn workspace_with_this_binary() -> tempfile::TempDir {
    super::make_user();
    let dir = workspace();
    let binary = std::env::current_exe().unwrap();
    let copy = |from: &Path, name: &str| {
        let to = dir.path().join(name);
        std::fs::copy(from, &to).unwrap();
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(to, mode).unwrap();
    };
    copy(&binary, "probe");
    let listing = Command::new("ldd").arg(&binary).output().unwrap();
    for word in String::from_utf8(listing.stdout)
        .unwrap()
        .split_whitespace()
    {
        let path = Path::new(word);
        if path.is_absolute() {
            let name = path.file_name().unwrap().to_str().unwrap();
            copy(
                path,
                if name.starts_with("ld-") {
                    "ld.so"
                } else {
                    name
                },
            );
        }
    }
    dir
}
