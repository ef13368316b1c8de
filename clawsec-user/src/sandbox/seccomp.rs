//! Which system calls a tool may make.
//!
//! Docker and native get an allow list of ours: the default of Docker 20.10 lets io_uring and
//! AF_VSOCK through, and ptrace on newer kernels. firejail and the bare provider get a deny list on top of
//! what they have. Invariant: only the native architecture is let in, since a 32-bit call would
//! pass `socket` rules by way of `socketcall`.

use std::collections::BTreeMap;

use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, TargetArch,
};
use serde_json::{Value, json};

use super::SandboxError;

/// The profile as Docker reads it, inline in `SecurityOpt`. What is not named fails with EPERM.
pub(super) fn docker_profile() -> String {
    let mut rules = vec![json!({ "names": ALLOWED, "action": "SCMP_ACT_ALLOW" })];
    // Unix, IPv4, IPv6, netlink (getaddrinfo and `ip addr` need it); so no AF_VSOCK, AF_PACKET,
    // AF_ALG and the rest.
    for family in SOCKET_FAMILIES {
        rules.push(allow_if("socket", 0, *family, "SCMP_CMP_EQ"));
    }
    // Threads and processes, but no new namespace: none of the CLONE_NEW* bits. clone3 passes its
    // flags in memory where no filter sees them; ENOSYS makes libc fall back to clone.
    rules.push(json!({
        "names": ["clone"],
        "action": "SCMP_ACT_ALLOW",
        "args": [{ "index": 0, "value": NAMESPACE_FLAGS, "valueTwo": 0, "op": "SCMP_CMP_MASKED_EQ" }],
    }));
    rules
        .push(json!({ "names": ["clone3"], "action": "SCMP_ACT_ERRNO", "errnoRet": libc::ENOSYS }));
    // Plain Linux, 32-bit addresses, and the question for the current value; not the ones that
    // switch off address randomisation or make every mapping executable.
    for persona in PERSONAS {
        rules.push(allow_if("personality", 0, *persona, "SCMP_CMP_EQ"));
    }
    let profile = json!({
        "defaultAction": "SCMP_ACT_ERRNO",
        "defaultErrnoRet": libc::EPERM,
        "architectures": [NATIVE],
        "syscalls": rules,
    });
    profile.to_string()
}

/// The allow list of `docker_profile` as programs for `native`, all to be applied.
pub(super) fn allow_filters() -> Result<Vec<BpfProgram>, SandboxError> {
    let clone3 = BTreeMap::from([(libc::SYS_clone3, vec![])]);
    let mut rules: Vec<Value> = ALLOWED
        .iter()
        // As runc does: a name that this architecture does not have is left out.
        .filter(|name| compile_json(&[json!({ "syscall": name })]).is_ok())
        .map(|name| json!({ "syscall": name }))
        .collect();
    // The program before it has answered clone3 already; the stricter answer counts.
    rules.push(json!({ "syscall": "clone3" }));
    let when = |name: &str, kind: &str, op: Value, value: u64| {
        let argument = json!({ "index": 0, "type": kind, "op": op, "val": value });
        json!({ "syscall": name, "args": [argument] })
    };
    for family in SOCKET_FAMILIES {
        rules.push(when("socket", "dword", json!("eq"), *family));
    }
    for persona in PERSONAS {
        rules.push(when("personality", "dword", json!("eq"), *persona));
    }
    let masked = json!({ "masked_eq": NAMESPACE_FLAGS });
    rules.push(when("clone", "qword", masked, 0));
    Ok(vec![compile(clone3, libc::ENOSYS)?, compile_json(&rules)?])
}

/// What `rules` do not name fails with EPERM.
fn compile_json(rules: &[Value]) -> Result<BpfProgram, SandboxError> {
    let filter = json!({ "main": {
        "mismatch_action": { "errno": libc::EPERM },
        "match_action": "allow",
        "filter": rules,
    }});
    seccompiler::compile_from_json(filter.to_string().as_bytes(), TARGET)
        .map(|mut programs| programs.remove("main").unwrap_or_default())
        .map_err(SandboxError::Profile)
}

/// The deny list as programs for `none`, all to be applied: everything else stays allowed there.
/// Two, since a program of seccompiler has one error number.
pub(super) fn deny_filters() -> Result<Vec<BpfProgram>, SandboxError> {
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> = denied_numbers()
        .into_iter()
        .map(|number| (number, vec![]))
        .collect();
    // Every family that is not one of the allowed: one rule, all conditions must hold.
    let conditions = SOCKET_FAMILIES
        .iter()
        .map(|family| SeccompCondition::new(0, SeccompCmpArgLen::Dword, SeccompCmpOp::Ne, *family))
        .collect::<Result<Vec<_>, _>>()
        .and_then(SeccompRule::new)
        .map_err(SandboxError::Filter)?;
    rules.insert(libc::SYS_socket, vec![conditions]);
    // One rule for each namespace bit.
    let namespaces = (0..64)
        .map(|bit| 1_u64 << bit)
        .filter(|flag| NAMESPACE_FLAGS & flag != 0)
        .map(|flag| {
            let any = SeccompCmpOp::MaskedEq(flag);
            SeccompCondition::new(0, SeccompCmpArgLen::Qword, any, flag)
                .and_then(|condition| SeccompRule::new(vec![condition]))
        })
        .collect::<Result<Vec<_>, _>>()
        .map_err(SandboxError::Filter)?;
    rules.insert(libc::SYS_clone, namespaces);
    let clone3 = BTreeMap::from([(libc::SYS_clone3, vec![])]);
    Ok(vec![
        compile(clone3, libc::ENOSYS)?,
        compile(rules, libc::EPERM)?,
    ])
}

fn compile(rules: BTreeMap<i64, Vec<SeccompRule>>, error: i32) -> Result<BpfProgram, SandboxError> {
    let denied = SeccompAction::Errno(error.unsigned_abs());
    SeccompFilter::new(rules, SeccompAction::Allow, denied, TARGET)
        .and_then(BpfProgram::try_from)
        .map_err(SandboxError::Filter)
}

/// Numbers of the deny list on this architecture.
pub(super) fn denied_numbers() -> Vec<i64> {
    DENIED.to_vec()
}

fn allow_if(name: &str, index: u32, value: u64, op: &str) -> Value {
    json!({
        "names": [name],
        "action": "SCMP_ACT_ALLOW",
        "args": [{ "index": index, "value": value, "valueTwo": 0, "op": op }],
    })
}

#[cfg(target_arch = "x86_64")]
const NATIVE: &str = "SCMP_ARCH_X86_64";
#[cfg(target_arch = "x86_64")]
const TARGET: TargetArch = TargetArch::x86_64;
#[cfg(target_arch = "aarch64")]
const NATIVE: &str = "SCMP_ARCH_AARCH64";
#[cfg(target_arch = "aarch64")]
const TARGET: TargetArch = TargetArch::aarch64;

const SOCKET_FAMILIES: &[u64] = &[
    libc::AF_UNIX.unsigned_abs() as u64,
    libc::AF_INET.unsigned_abs() as u64,
    libc::AF_INET6.unsigned_abs() as u64,
    libc::AF_NETLINK.unsigned_abs() as u64,
];

const PERSONAS: &[u64] = &[0, 0x8, 0xffff_ffff];

/// CLONE_NEW{CGROUP,UTS,IPC,USER,PID,NET,NS}. CLONE_NEWTIME shares its bit with the exit signal
/// and is only for unshare and clone3, which are denied whole.
const NAMESPACE_FLAGS: u64 = 0x7e02_0000;

/// What no tool needs and exploits like. `clone3` is not here: libc falls back on ENOSYS alone; `unshare` and the mount calls need rights a tool does not have,
/// and are listed because user namespaces would give them.
const DENIED: &[i64] = &[
    libc::SYS_add_key,
    libc::SYS_bpf,
    libc::SYS_delete_module,
    libc::SYS_fanotify_init,
    libc::SYS_finit_module,
    libc::SYS_fsopen,
    libc::SYS_fsmount,
    libc::SYS_fspick,
    libc::SYS_init_module,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
    libc::SYS_io_uring_setup,
    libc::SYS_kcmp,
    libc::SYS_kexec_file_load,
    libc::SYS_kexec_load,
    libc::SYS_keyctl,
    libc::SYS_mount,
    libc::SYS_mount_setattr,
    libc::SYS_move_mount,
    libc::SYS_open_by_handle_at,
    libc::SYS_open_tree,
    libc::SYS_perf_event_open,
    libc::SYS_pidfd_getfd,
    libc::SYS_pivot_root,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_ptrace,
    libc::SYS_quotactl,
    libc::SYS_reboot,
    libc::SYS_request_key,
    libc::SYS_setns,
    libc::SYS_swapoff,
    libc::SYS_swapon,
    libc::SYS_syslog,
    libc::SYS_umount2,
    libc::SYS_unshare,
    libc::SYS_userfaultfd,
    libc::SYS_vmsplice,
];

/// By purpose. Names libseccomp does not know on this architecture are skipped by runc.
#[rustfmt::skip]
const ALLOWED: &[&str] = &[
    // Files by path.
    "access", "chdir", "chmod", "chown", "creat", "faccessat", "faccessat2", "fchdir", "fchmod",
    "fchmodat", "fchmodat2", "fchown", "fchownat", "futimesat", "getcwd", "inotify_add_watch",
    "inotify_init", "inotify_init1", "inotify_rm_watch", "lchown", "link", "linkat", "lstat",
    "mkdir", "mkdirat", "mknod", "mknodat", "newfstatat", "open", "openat", "openat2", "readlink",
    "readlinkat", "rename", "renameat", "renameat2", "rmdir", "stat", "statfs", "statx", "symlink",
    "symlinkat", "truncate", "umask", "unlink", "unlinkat", "utime", "utimensat", "utimes",
    // Extended attributes.
    "fgetxattr", "flistxattr", "fremovexattr", "fsetxattr", "getxattr", "lgetxattr", "listxattr",
    "llistxattr", "lremovexattr", "lsetxattr", "removexattr", "setxattr",
    // Files by descriptor.
    "close", "close_range", "copy_file_range", "dup", "dup2", "dup3", "fadvise64", "fallocate",
    "fcntl", "fdatasync", "flock", "fstat", "fstatfs", "fsync", "ftruncate", "getdents",
    "getdents64", "ioctl", "lseek", "pipe", "pipe2", "pread64", "preadv", "preadv2", "pwrite64",
    "pwritev", "pwritev2", "read", "readahead", "readv", "sendfile", "splice", "sync",
    "sync_file_range", "syncfs", "tee", "write", "writev",
    // Waiting.
    "epoll_create", "epoll_create1", "epoll_ctl", "epoll_pwait", "epoll_pwait2", "epoll_wait",
    "eventfd", "eventfd2", "pause", "poll", "ppoll", "pselect6", "select", "signalfd",
    "signalfd4", "timerfd_create", "timerfd_gettime", "timerfd_settime",
    // The older asynchronous IO, which databases use. io_uring is left out.
    "io_cancel", "io_destroy", "io_getevents", "io_pgetevents", "io_setup", "io_submit",
    // Memory.
    "brk", "madvise", "membarrier", "memfd_create", "mincore", "mlock", "mlock2", "mlockall",
    "mmap", "mprotect", "mremap", "msync", "munlock", "munlockall", "munmap", "pkey_alloc",
    "pkey_free", "pkey_mprotect",
    // Processes and threads.
    "arch_prctl", "execve", "execveat", "exit", "exit_group", "fork", "futex", "futex_requeue",
    "futex_wait", "futex_waitv", "futex_wake", "get_robust_list", "get_thread_area", "getcpu",
    "getpgid", "getpgrp", "getpid", "getppid", "getpriority", "getrlimit", "getrusage", "getsid",
    "gettid", "ioprio_get", "ioprio_set", "kill", "pidfd_open", "pidfd_send_signal", "prctl",
    "prlimit64", "restart_syscall", "rseq", "rt_sigaction", "rt_sigpending", "rt_sigprocmask",
    "rt_sigqueueinfo", "rt_sigreturn", "rt_sigsuspend", "rt_sigtimedwait", "rt_tgsigqueueinfo",
    "sched_get_priority_max", "sched_get_priority_min", "sched_getaffinity", "sched_getattr",
    "sched_getparam", "sched_getscheduler", "sched_rr_get_interval", "sched_setaffinity",
    "sched_setattr", "sched_setparam", "sched_setscheduler", "sched_yield", "set_robust_list",
    "set_thread_area", "set_tid_address", "setpgid", "setpriority", "setrlimit", "setsid",
    "sigaltstack", "tgkill", "tkill", "vfork", "wait4", "waitid",
    // Identity. Without capabilities these change nothing; runc itself needs some of them.
    "capget", "capset", "getegid", "geteuid", "getgid", "getgroups", "getresgid", "getresuid",
    "getuid", "setfsgid", "setfsuid", "setgid", "setgroups", "setregid", "setresgid", "setresuid",
    "setreuid", "setuid",
    // Narrowing oneself further.
    "landlock_add_rule", "landlock_create_ruleset", "landlock_restrict_self", "seccomp",
    // Time and the machine.
    "alarm", "clock_getres", "clock_gettime", "clock_nanosleep", "getitimer", "getrandom",
    "gettimeofday", "nanosleep", "setitimer", "sysinfo", "time", "timer_create", "timer_delete",
    "timer_getoverrun", "timer_gettime", "timer_settime", "times", "uname",
    // Sockets that exist; `socket` itself is by family.
    "accept", "accept4", "bind", "connect", "getpeername", "getsockname", "getsockopt", "listen",
    "recvfrom", "recvmmsg", "recvmsg", "sendmmsg", "sendmsg", "sendto", "setsockopt", "shutdown",
    "socketpair",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_profile_lets_nothing_dangerous_through() {
        let profile: Value = serde_json::from_str(&docker_profile()).unwrap();
        assert_eq!(profile["defaultAction"], "SCMP_ACT_ERRNO");
        let unconditional: Vec<&str> = profile["syscalls"][0]["names"]
            .as_array()
            .unwrap()
            .iter()
            .filter_map(Value::as_str)
            .collect();
        for name in [
            "add_key",
            "bpf",
            "chroot",
            "clone",
            "clone3",
            "io_uring_enter",
            "io_uring_register",
            "io_uring_setup",
            "ioperm",
            "iopl",
            "kexec_load",
            "keyctl",
            "mbind",
            "modify_ldt",
            "mount",
            "name_to_handle_at",
            "open_by_handle_at",
            "perf_event_open",
            "personality",
            "pivot_root",
            "process_vm_readv",
            "ptrace",
            "request_key",
            "setns",
            "sethostname",
            "socket",
            "syslog",
            "umount2",
            "unshare",
            "userfaultfd",
            "vmsplice",
        ] {
            assert!(!unconditional.contains(&name), "{name}");
        }
        for name in ["read", "execve", "futex", "openat"] {
            assert!(unconditional.contains(&name), "{name}");
        }
        let mut sorted = unconditional.clone();
        sorted.sort_unstable();
        sorted.dedup();
        assert_eq!(sorted.len(), unconditional.len(), "a name stands twice");
    }

    #[test]
    fn the_deny_list_compiles() {
        assert!(
            deny_filters()
                .unwrap()
                .iter()
                .all(|program| !program.is_empty())
        );
    }

    #[test]
    fn the_allow_list_compiles_with_all_that_programs_need() {
        let programs = allow_filters().unwrap();
        // Each name is two instructions at least; the kernel takes 4096.
        let length = programs[1].len();
        assert!(length > 2 * 250 && length < 4096, "{length}");
        for name in ["read", "execve", "openat", "clone", "futex"] {
            assert!(
                compile_json(&[json!({ "syscall": name })]).is_ok(),
                "{name}"
            );
        }
        assert!(compile_json(&[json!({ "syscall": "no_such_call" })]).is_err());
    }
}
