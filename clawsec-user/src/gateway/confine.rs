//! What the gateway process gives up before it reads a byte of anybody's.
//!
//! Called single-threaded, before any runtime: Landlock and the identity calls are per thread,
//! and threads started later inherit them. The order matters: the bounding set needs
//! `CAP_SETPCAP`, the death signal is cleared by a change of identity, and the seccomp filter
//! forbids what the steps before it do.

use landlock::{
    ABI, Access as _, AccessFs, AccessNet, CompatLevel, Compatible as _, PathBeneath, PathFd,
    Ruleset, RulesetAttr as _, RulesetCreatedAttr as _, RulesetStatus, Scope,
};
use nix::sys::prctl;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::Signal;
use nix::unistd::{Gid, Uid, geteuid, setgroups, setresgid, setresuid};
use rustix::thread::{
    CapabilitySet, CapabilitySets, capability_is_in_bounding_set, clear_ambient_capability_set,
    remove_capability_from_bounding_set, set_capabilities,
};

use super::confine_seccomp as seccomp;

/// Two for each connection at the most that `gateway.maxConnections` can ask for, one for each
/// request upstream (`MAX_FORWARDS`), and some for the process itself.
const MAX_DESCRIPTORS: u64 = 40_960;

/// What a resolver reads when `gateway.upstream` is a name; none of it is secret.
const RESOLVER_FILES: [&str; 5] = [
    "/etc/hosts",
    "/etc/resolv.conf",
    "/etc/nsswitch.conf",
    "/etc/host.conf",
    "/etc/gai.conf",
];

/// What was achieved, for the start record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Confinement {
    pub identity: IdentityChange,
    pub landlock: LandlockState,
    /// System calls that the filter lets through.
    pub syscalls: usize,
    pub descriptors: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IdentityChange {
    Dropped {
        uid: u32,
        gid: u32,
    },
    /// Not started as root: the process keeps the identity it has.
    Skipped {
        uid: u32,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LandlockState {
    /// Everything asked for.
    Full,
    /// What this kernel's Landlock knows of it.
    Partial,
    /// The kernel has none; the other layers stand alone.
    Absent,
}

#[derive(Debug, thiserror::Error)]
pub enum ConfineError {
    #[error("drop supplementary groups")]
    Groups(#[source] nix::Error),
    #[error("become group {gid}")]
    Gid {
        gid: u32,
        #[source]
        source: nix::Error,
    },
    #[error("become user {uid}")]
    Uid {
        uid: u32,
        #[source]
        source: nix::Error,
    },
    #[error("the gateway may not run as uid 0")]
    StillRoot,
    #[error("empty the capability bounding set")]
    Bounding(#[source] rustix::io::Errno),
    #[error("drop all capabilities")]
    Capabilities(#[source] rustix::io::Errno),
    #[error("set {what}")]
    Prctl {
        what: &'static str,
        #[source]
        source: nix::Error,
    },
    #[error("limit {what}")]
    Limit {
        what: &'static str,
        #[source]
        source: nix::Error,
    },
    #[error("restrict the file system by Landlock")]
    Landlock(#[source] landlock::RulesetError),
    #[error("build the seccomp filter")]
    Filter(#[source] seccompiler::BackendError),
    #[error("install the seccomp filter")]
    Seccomp(#[source] seccompiler::Error),
}

/// Drops everything this process does not need. As root it becomes `uid` and `gid`; else it
/// keeps its identity and says so.
pub fn confine(uid: u32, gid: u32) -> Result<Confinement, ConfineError> {
    let identity = if geteuid().is_root() {
        empty_bounding_set()?;
        become_user(uid, gid)?;
        IdentityChange::Dropped { uid, gid }
    } else {
        IdentityChange::Skipped {
            uid: geteuid().as_raw(),
        }
    };
    drop_capabilities()?;
    let set = |what| move |source| ConfineError::Prctl { what, source };
    prctl::set_no_new_privs().map_err(set("no_new_privs"))?;
    // After the change of identity, which clears it: the gateway does not outlive its supervisor.
    prctl::set_pdeathsig(Signal::SIGKILL).map_err(set("the parent death signal"))?;
    prctl::set_dumpable(false).map_err(set("not dumpable"))?;
    let descriptors = limit_resources()?;
    let landlock = restrict_files()?;
    let syscalls = seccomp::install()?;
    Ok(Confinement {
        identity,
        landlock,
        syscalls,
        descriptors,
    })
}

fn empty_bounding_set() -> Result<(), ConfineError> {
    for number in 0..64u32 {
        // The numbers end at the kernel's last capability with EINVAL.
        let Some(bit) = CapabilitySet::from_bits(1 << number) else {
            continue;
        };
        match capability_is_in_bounding_set(bit) {
            Ok(true) => {
                remove_capability_from_bounding_set(bit).map_err(ConfineError::Bounding)?;
            }
            Ok(false) => {}
            Err(rustix::io::Errno::INVAL) => break,
            Err(errno) => return Err(ConfineError::Bounding(errno)),
        }
    }
    Ok(())
}

fn become_user(uid: u32, gid: u32) -> Result<(), ConfineError> {
    if uid == 0 || gid == 0 {
        return Err(ConfineError::StillRoot);
    }
    setgroups(&[]).map_err(ConfineError::Groups)?;
    let group = Gid::from_raw(gid);
    setresgid(group, group, group).map_err(|source| ConfineError::Gid { gid, source })?;
    let user = Uid::from_raw(uid);
    setresuid(user, user, user).map_err(|source| ConfineError::Uid { uid, source })
}

fn drop_capabilities() -> Result<(), ConfineError> {
    clear_ambient_capability_set().map_err(ConfineError::Capabilities)?;
    let none = CapabilitySet::empty();
    let sets = CapabilitySets {
        effective: none,
        permitted: none,
        inheritable: none,
    };
    set_capabilities(None, sets).map_err(ConfineError::Capabilities)
}

fn limit_resources() -> Result<u64, ConfineError> {
    let limit = |what| move |source| ConfineError::Limit { what, source };
    // A core file would hold every client's traffic and the upstream's token.
    setrlimit(Resource::RLIMIT_CORE, 0, 0).map_err(limit("core files"))?;
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).map_err(limit("open files"))?;
    let descriptors = hard.min(MAX_DESCRIPTORS);
    setrlimit(Resource::RLIMIT_NOFILE, descriptors, descriptors).map_err(limit("open files"))?;
    Ok(descriptors)
}

/// Denies the whole file system except what a resolver reads, binding any TCP port, and (where
/// the kernel knows scopes) abstract sockets and signals to other processes. TCP connect is left
/// to policy: the upstream's port comes with the first policy and may change with a reload.
fn restrict_files() -> Result<LandlockState, ConfineError> {
    let abi = ABI::V6;
    let read = AccessFs::ReadFile;
    let build = || {
        let mut ruleset = Ruleset::default()
            .set_compatibility(CompatLevel::BestEffort)
            .handle_access(AccessFs::from_all(abi))?
            .handle_access(AccessNet::BindTcp)?
            .scope(Scope::from_all(abi))?
            .create()?;
        for path in RESOLVER_FILES {
            // A file that is not there needs no permission.
            if let Ok(file) = PathFd::new(path) {
                ruleset = ruleset.add_rule(PathBeneath::new(file, read))?;
            }
        }
        ruleset.restrict_self()
    };
    let status = build().map_err(ConfineError::Landlock)?;
    Ok(match status.ruleset {
        RulesetStatus::FullyEnforced => LandlockState::Full,
        RulesetStatus::PartiallyEnforced => LandlockState::Partial,
        RulesetStatus::NotEnforced => LandlockState::Absent,
    })
}

#[cfg(test)]
#[path = "confine_tests.rs"]
mod tests;
