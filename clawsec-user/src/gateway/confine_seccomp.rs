//! The system calls of a process that reads and writes sockets, and no others.
//!
//! An allowlist: what a later kernel adds is denied without our knowing it. The answer is EPERM
//! rather than a kill: the C library probes (`rseq`, `clone3`, netlink in `getaddrinfo`) and
//! falls back, so that a kill would turn a harmless probe of an updated library into an outage,
//! while for a captured process either is the end of the road.

use std::collections::BTreeMap;

use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule,
};

use super::confine::ConfineError;

/// Installs the filter on every thread, and returns how many system calls it lets through.
pub(super) fn install() -> Result<usize, ConfineError> {
    // `clone3` hides its flags behind a pointer. The C library falls back to `clone` on ENOSYS
    // only, which has to come from a filter of its own: one filter has one answer. The kernel
    // takes the sterner of the two, so the second filter may let `clone3` through.
    let clone3 = Rules::from([(libc::SYS_clone3, Vec::new())]);
    let enosys = SeccompAction::Errno(libc::ENOSYS.unsigned_abs());
    apply(clone3, SeccompAction::Allow, enosys)?;
    let rules = rules().map_err(ConfineError::Filter)?;
    let count = rules.len();
    let eperm = SeccompAction::Errno(libc::EPERM.unsigned_abs());
    apply(rules, eperm, SeccompAction::Allow)?;
    Ok(count)
}

fn apply(
    rules: Rules,
    otherwise: SeccompAction,
    matched: SeccompAction,
) -> Result<(), ConfineError> {
    let arch = std::env::consts::ARCH
        .try_into()
        .map_err(ConfineError::Filter)?;
    let filter =
        SeccompFilter::new(rules, otherwise, matched, arch).map_err(ConfineError::Filter)?;
    let program: BpfProgram = filter.try_into().map_err(ConfineError::Filter)?;
    seccompiler::apply_filter_all_threads(&program).map_err(ConfineError::Seccomp)
}

type Rules = BTreeMap<i64, Vec<SeccompRule>>;

fn rules() -> Result<Rules, seccompiler::BackendError> {
    let mut rules: Rules = ALWAYS.iter().map(|&call| (call, Vec::new())).collect();
    #[cfg(target_arch = "x86_64")]
    rules.extend(X86_64.iter().map(|&call| (call, Vec::new())));

    // No AF_UNIX: not even a world-writable docker socket could be reached. What the process
    // has of that family it inherited, or makes in pairs.
    let families = [libc::AF_INET, libc::AF_INET6];
    let sockets = families
        .into_iter()
        .map(|family| when(&[equals(0, u64::from(family.unsigned_abs()))?]))
        .collect::<Result<_, _>>()?;
    rules.insert(libc::SYS_socket, sockets);

    // Neither writing nor making files: the access mode is the low two bits.
    let read_only = u64::from((libc::O_ACCMODE | libc::O_CREAT | libc::O_TRUNC).unsigned_abs());
    let reads = SeccompCondition::new(
        2,
        SeccompCmpArgLen::Dword,
        SeccompCmpOp::MaskedEq(read_only),
        u64::from(libc::O_RDONLY.unsigned_abs()),
    )?;
    rules.insert(libc::SYS_openat, vec![when(&[reads])?]);

    // Threads, not processes.
    let thread = u64::from(libc::CLONE_THREAD.unsigned_abs());
    let threads = SeccompCondition::new(
        0,
        SeccompCmpArgLen::Dword,
        SeccompCmpOp::MaskedEq(thread),
        thread,
    )?;
    rules.insert(libc::SYS_clone, vec![when(&[threads])?]);

    // Memory is writable or executable, never both, and never made executable later.
    let executable = u64::from(libc::PROT_EXEC.unsigned_abs());
    for call in [libc::SYS_mmap, libc::SYS_mprotect] {
        let plain = SeccompCondition::new(
            2,
            SeccompCmpArgLen::Dword,
            SeccompCmpOp::MaskedEq(executable),
            0,
        )?;
        rules.insert(call, vec![when(&[plain])?]);
    }

    // Naming threads, which the runtime and the allocator do.
    let names = [libc::PR_SET_NAME, libc::PR_SET_VMA]
        .into_iter()
        .map(|option| when(&[equals(0, u64::from(option.unsigned_abs()))?]))
        .collect::<Result<_, _>>()?;
    rules.insert(libc::SYS_prctl, names);
    Ok(rules)
}

fn equals(argument: u8, value: u64) -> Result<SeccompCondition, seccompiler::BackendError> {
    SeccompCondition::new(argument, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, value)
}

fn when(conditions: &[SeccompCondition]) -> Result<SeccompRule, seccompiler::BackendError> {
    SeccompRule::new(conditions.to_vec())
}

/// Whatever the arguments. Neither `bind` nor `listen`: listeners are inherited.
const ALWAYS: &[i64] = &[
    // Descriptors and sockets.
    libc::SYS_read,
    libc::SYS_readv,
    libc::SYS_write,
    libc::SYS_writev,
    libc::SYS_close,
    libc::SYS_dup,
    libc::SYS_fcntl,
    libc::SYS_ioctl,
    libc::SYS_lseek,
    libc::SYS_fstat,
    libc::SYS_newfstatat,
    libc::SYS_statx,
    libc::SYS_accept4,
    libc::SYS_connect,
    libc::SYS_getpeername,
    libc::SYS_getsockname,
    libc::SYS_getsockopt,
    libc::SYS_setsockopt,
    libc::SYS_recvfrom,
    libc::SYS_recvmsg,
    libc::SYS_sendto,
    libc::SYS_sendmsg,
    libc::SYS_sendmmsg,
    libc::SYS_shutdown,
    libc::SYS_socketpair,
    // Waiting.
    libc::SYS_epoll_create1,
    libc::SYS_epoll_ctl,
    libc::SYS_epoll_pwait,
    libc::SYS_eventfd2,
    libc::SYS_pipe2,
    libc::SYS_ppoll,
    libc::SYS_futex,
    libc::SYS_nanosleep,
    libc::SYS_clock_nanosleep,
    libc::SYS_clock_gettime,
    libc::SYS_clock_getres,
    libc::SYS_gettimeofday,
    libc::SYS_timerfd_create,
    libc::SYS_timerfd_settime,
    // Memory.
    libc::SYS_brk,
    libc::SYS_munmap,
    libc::SYS_mremap,
    libc::SYS_madvise,
    libc::SYS_membarrier,
    // Threads and signals of this process.
    // Answered with ENOSYS by the filter before this one.
    libc::SYS_clone3,
    libc::SYS_set_robust_list,
    libc::SYS_get_robust_list,
    libc::SYS_rseq,
    libc::SYS_sched_yield,
    libc::SYS_sched_getaffinity,
    libc::SYS_getpid,
    libc::SYS_gettid,
    libc::SYS_getuid,
    libc::SYS_geteuid,
    libc::SYS_getgid,
    libc::SYS_getegid,
    libc::SYS_tgkill,
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_sigaltstack,
    libc::SYS_restart_syscall,
    libc::SYS_exit,
    libc::SYS_exit_group,
    // The rest of what libraries ask.
    libc::SYS_getrandom,
    libc::SYS_prlimit64,
    libc::SYS_getrusage,
    libc::SYS_uname,
    libc::SYS_sysinfo,
];

/// Calls that newer architectures no longer have.
#[cfg(target_arch = "x86_64")]
const X86_64: &[i64] = &[libc::SYS_epoll_wait, libc::SYS_poll, libc::SYS_time];
