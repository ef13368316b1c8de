//! The file system that a native tool finds, and what else the kernel must be told in it.
//!
//! Built anew for each execution in its own mount namespace, so nothing of it can be left behind.
//! Invariant: the tool sees the host's programs and libraries read-only, a handful of files of
//! `/etc` that hold no secret, its workspace, and nothing else of the host.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use landlock::{
    ABI, Access as _, AccessFs, CompatLevel, Compatible as _, PathBeneath, PathFd, Ruleset,
    RulesetAttr as _, RulesetCreated, RulesetCreatedAttr as _, RulesetError, Scope,
};
use rustix::mount::{
    MountFlags, MountPropagationFlags, UnmountFlags, mount, mount_bind, mount_change,
    mount_remount, unmount,
};
use rustix::process::{chdir, pivot_root};

use super::super::step::{Step, step};

pub(super) struct Root<'a> {
    /// A folder to hide under the new root while it is built.
    pub(super) base: &'a Path,
    pub(super) workspace: Option<&'a Path>,
    pub(super) read_only: bool,
    pub(super) uid: u32,
    pub(super) gid: u32,
}

/// Builds the new root and makes it the only one.
pub(super) fn build(root: &Root<'_>) -> Step<()> {
    mount_change(
        "/",
        MountPropagationFlags::PRIVATE | MountPropagationFlags::REC,
    )
    .map_err(step("make the mounts private"))?;
    tmpfs(root.base, "mode=755,size=2m", LOCKED)?;
    for name in PROGRAMS {
        copy_of_host(root.base, name)?;
    }
    etc(root)?;
    devices(root.base)?;
    processes(root.base)?;
    for name in ["tmp", "run"] {
        tmpfs(&made(root.base, name)?, SCRATCH, LOCKED)?;
    }
    let workspace = made(root.base, "workspace")?;
    match root.workspace {
        Some(source) => {
            let mut flags = MountFlags::NOSUID | MountFlags::NODEV;
            flags.set(MountFlags::RDONLY, root.read_only);
            bind(source, &workspace, flags)?;
        }
        None => tmpfs(&workspace, SCRATCH, LOCKED)?,
    }
    enter(root.base)
}

/// Restricts what the mounts already do not show, and where the kernel knows it, abstract sockets
/// and signals out of the sandbox. Without Landlock in the kernel the mounts stand alone.
pub(super) fn landlock(workspace_is_writable: bool) -> Result<(), RulesetError> {
    let abi = ABI::V6;
    let read = AccessFs::from_read(abi);
    let write = AccessFs::from_all(abi);
    let mut ruleset = Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(write)?
        .scope(Scope::from_all(abi))?
        .create()?;
    ruleset = allow(ruleset, "/", read)?;
    for path in ["/tmp", "/run"] {
        ruleset = allow(ruleset, path, write)?;
    }
    if workspace_is_writable {
        ruleset = allow(ruleset, "/workspace", write)?;
    }
    for name in DEVICES {
        let file = AccessFs::ReadFile | AccessFs::WriteFile;
        ruleset = allow(ruleset, &format!("/dev/{name}"), file)?;
    }
    ruleset.restrict_self().map(drop)
}

fn allow<A>(ruleset: RulesetCreated, path: &str, access: A) -> Result<RulesetCreated, RulesetError>
where
    A: Into<landlock::BitFlags<AccessFs>>,
{
    match PathFd::new(path) {
        Ok(file) => ruleset.add_rule(PathBeneath::new(file, access)),
        // What is not there needs no permission.
        Err(_) => Ok(ruleset),
    }
}

/// What of the host is mounted, whoever asks.
pub(super) fn host_paths() -> impl Iterator<Item = PathBuf> {
    let programs = PROGRAMS.iter().map(|name| Path::new("/").join(name));
    programs.chain(HOST_ETC.iter().map(|name| Path::new("/etc").join(name)))
}

/// `/bin` of the host, which is a folder on some and a link to `usr/bin` on others.
fn copy_of_host(base: &Path, name: &str) -> Step<()> {
    let (host, here) = (Path::new("/").join(name), base.join(name));
    let Ok(found) = fs::symlink_metadata(&host) else {
        return Ok(());
    };
    if found.is_symlink() {
        let target = fs::read_link(&host).map_err(step("read a link of the host"))?;
        return symlink(target, here).map_err(step("copy a link of the host"));
    }
    if found.is_dir() {
        made(base, name)?;
        bind(&host, &here, PROTECTED)?;
    }
    Ok(())
}

fn etc(root: &Root<'_>) -> Step<()> {
    let etc = made(root.base, "etc")?;
    let (uid, gid) = (root.uid, root.gid);
    let passwd = format!(
        "root:x:0:0:root:/:/bin/false\n\
         sandbox:x:{uid}:{gid}:sandbox:/workspace:/bin/sh\n"
    );
    for (name, content) in [
        ("passwd", passwd.as_str()),
        ("group", &format!("root:x:0:\nsandbox:x:{gid}:\n")),
        ("hosts", "127.0.0.1 localhost sandbox\n::1 localhost\n"),
        (
            "nsswitch.conf",
            "passwd: files\ngroup: files\nhosts: files\n",
        ),
    ] {
        fs::write(etc.join(name), content).map_err(step("write a file of /etc"))?;
    }
    for name in HOST_ETC {
        let host = Path::new("/etc").join(name);
        let here = etc.join(name);
        match fs::metadata(&host) {
            Ok(found) if found.is_dir() => drop(made(&etc, name)?),
            Ok(_) => touch(&here)?,
            Err(_) => continue,
        }
        bind(&host, &here, PROTECTED)?;
    }
    Ok(())
}

fn devices(base: &Path) -> Step<()> {
    let dev = made(base, "dev")?;
    for name in DEVICES {
        let here = dev.join(name);
        touch(&here)?;
        // Not `nodev`: these are what that would forbid.
        let flags = MountFlags::NOSUID | MountFlags::NOEXEC;
        bind(&Path::new("/dev").join(name), &here, flags)?;
    }
    for (name, target) in [
        ("fd", "/proc/self/fd"),
        ("stdin", "/proc/self/fd/0"),
        ("stdout", "/proc/self/fd/1"),
        ("stderr", "/proc/self/fd/2"),
    ] {
        symlink(target, dev.join(name)).map_err(step("link the streams"))?;
    }
    Ok(())
}

/// The namespace's own `/proc`, without what tells of the whole machine or changes it. As docker
/// masks it; an ordinary user could do little with these anyway.
fn processes(base: &Path) -> Step<()> {
    let proc = made(base, "proc")?;
    mount("proc", &proc, "proc", LOCKED, None::<&std::ffi::CStr>).map_err(step("mount /proc"))?;
    for name in PROC_READ_ONLY {
        let here = proc.join(name);
        if here.exists() {
            bind(&here, &here, PROTECTED | MountFlags::NOEXEC)?;
        }
    }
    for name in PROC_MASKED {
        let here = proc.join(name);
        match fs::metadata(&here) {
            Ok(found) if found.is_dir() => {
                tmpfs(&here, "mode=555,size=0", LOCKED | MountFlags::RDONLY)?;
            }
            Ok(_) => bind(Path::new("/dev/null"), &here, PROTECTED)?,
            Err(_) => {}
        }
    }
    Ok(())
}

/// Changes to the new root and lets the old one go.
fn enter(base: &Path) -> Step<()> {
    chdir(base).map_err(step("enter the new root"))?;
    // Old over new in one place, then the upper one goes: pivot_root(2), "." twice.
    pivot_root(".", ".").map_err(step("change the root"))?;
    unmount(".", UnmountFlags::DETACH).map_err(step("let the old root go"))?;
    chdir("/").map_err(step("enter the new root"))?;
    let flags = MountFlags::BIND | MountFlags::RDONLY | LOCKED;
    mount_remount("/", flags, "").map_err(step("make the root read-only"))
}

fn tmpfs(target: &Path, options: &str, flags: MountFlags) -> Step<()> {
    let options = std::ffi::CString::new(options).map_err(step("name the options"))?;
    mount("tmpfs", target, "tmpfs", flags, Some(options.as_c_str()))
        .map_err(|error| format!("mount a tmpfs on {}: {error}", target.display()))
}

/// Mounts below `source` do not come along, so none stays writable in a read-only one.
fn bind(source: &Path, target: &Path, flags: MountFlags) -> Step<()> {
    let failed = |error| {
        format!(
            "mount {} on {}: {error}",
            source.display(),
            target.display()
        )
    };
    mount_bind(source, target).map_err(failed)?;
    mount_remount(target, MountFlags::BIND | flags, "").map_err(failed)
}

fn made(base: &Path, name: &str) -> Step<PathBuf> {
    let path = base.join(name);
    fs::create_dir(&path)
        .map(|()| path)
        .map_err(step("make a folder of the root"))
}

fn touch(path: &Path) -> Step<()> {
    fs::File::create(path)
        .map(drop)
        .map_err(step("make a file of the root"))
}

const LOCKED: MountFlags = MountFlags::NOSUID
    .union(MountFlags::NODEV)
    .union(MountFlags::NOEXEC);
const PROTECTED: MountFlags = MountFlags::NOSUID
    .union(MountFlags::NODEV)
    .union(MountFlags::RDONLY);
/// As docker's tmpfs; the pages count as the cgroup's memory.
const SCRATCH: &str = "mode=1777,size=64m";
const PROGRAMS: &[&str] = &["usr", "bin", "sbin", "lib", "lib32", "lib64", "libx32"];
/// What programs need to start, to find certificates and to tell the time.
const HOST_ETC: &[&str] = &[
    "alternatives",
    "ca-certificates.conf",
    "ld.so.cache",
    "ld.so.conf",
    "ld.so.conf.d",
    "localtime",
    "os-release",
    "pki",
    "ssl",
];
const DEVICES: &[&str] = &["null", "zero", "full", "random", "urandom"];
const PROC_READ_ONLY: &[&str] = &["bus", "fs", "irq", "sys", "sysrq-trigger"];
const PROC_MASKED: &[&str] = &[
    "acpi",
    "asound",
    "kallsyms",
    "kcore",
    "keys",
    "kmsg",
    "latency_stats",
    "sched_debug",
    "scsi",
    "timer_list",
];
