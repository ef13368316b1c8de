//! The kernel, the clock, the users.

use super::super::registry::{Check, found};
use crate::counterpart::Severity;

pub(in crate::cli::check) const CHECKS: &[Check] = &[
    Check {
        id: "host.kernel_old",
        severity: Severity::Critical,
        title: "the kernel is older than the packet filter needs",
        remedy: "Linux 6.1 or newer; `--no-xdp` runs without the filter",
        judge: |facts| {
            let old = facts.host.kernel.filter(|version| *version < (6, 1));
            old.map(|(major, minor)| format!("Linux {major}.{minor}"))
                .into_iter()
                .collect()
        },
        says: &[],
    },
    Check {
        id: "host.no_btf",
        severity: Severity::Critical,
        title: "the kernel does not describe its types",
        remedy: "a kernel with CONFIG_DEBUG_INFO_BTF, as distributions ship it",
        judge: |facts| {
            found(!facts.host.has_btf, || {
                "/sys/kernel/btf/vmlinux is missing".to_owned()
            })
        },
        says: &[],
    },
    Check {
        id: "host.no_bpffs",
        severity: Severity::Critical,
        title: "there is nowhere to pin the packet filter",
        remedy: "mount -t bpf bpf /sys/fs/bpf",
        judge: |facts| {
            found(!facts.host.has_bpffs, || {
                "no BPF filesystem at /sys/fs/bpf".to_owned()
            })
        },
        says: &[],
    },
    Check {
        id: "host.no_tcx",
        severity: Severity::Info,
        title: "the kernel is older than tcx: a driver without XDP is filtered more slowly",
        remedy: "Linux 6.6 or newer",
        judge: |facts| {
            let old = facts
                .host
                .kernel
                .filter(|version| (6, 1) <= *version && *version < (6, 6));
            old.map(|(major, minor)| format!("Linux {major}.{minor}"))
                .into_iter()
                .collect()
        },
        says: &[],
    },
    Check {
        id: "host.bpf_for_everybody",
        severity: Severity::Warn,
        title: "everybody on this host may load BPF programs",
        remedy: "sysctl -w kernel.unprivileged_bpf_disabled=2",
        judge: |facts| {
            found(facts.host.unprivileged_bpf_disabled == Some(0), || {
                "kernel.unprivileged_bpf_disabled = 0".to_owned()
            })
        },
        says: &[],
    },
    Check {
        id: "host.bpf_interpreted",
        severity: Severity::Warn,
        title: "BPF programs are interpreted, which is many times slower",
        remedy: "sysctl -w net.core.bpf_jit_enable=1",
        judge: |facts| {
            found(facts.host.bpf_jit == Some(0), || {
                "net.core.bpf_jit_enable = 0".to_owned()
            })
        },
        says: &[],
    },
    Check {
        id: "host.no_landlock",
        severity: Severity::Warn,
        title: "the kernel cannot keep the gateway process from files",
        remedy: "boot with landlock among lsm=, and CONFIG_SECURITY_LANDLOCK",
        judge: |facts| {
            found(facts.host.has_landlock == Some(false), || {
                "no Landlock".to_owned()
            })
        },
        says: &[],
    },
    Check {
        id: "host.cgroup_v1",
        severity: Severity::Info,
        title: "control groups are of version 1: limits hold, but less exactly",
        remedy: "boot with systemd.unified_cgroup_hierarchy=1",
        judge: |facts| {
            found(!facts.host.has_cgroup_v2, || {
                "/sys/fs/cgroup is not cgroup2".to_owned()
            })
        },
        says: &[],
    },
    Check {
        id: "host.clock_free",
        severity: Severity::Info,
        title: "nothing keeps this host's clock right",
        remedy: "systemctl enable --now systemd-timesyncd, or chrony",
        judge: |facts| {
            found(facts.host.clock_is_synchronised == Some(false), || {
                "the kernel says that the clock is not synchronised".to_owned()
            })
        },
        says: &[],
    },
    Check {
        id: "host.clock_wrong",
        severity: Severity::Critical,
        title: "this host's clock is before the time of this program",
        remedy: "set the clock: keys and certificates are judged by it",
        judge: |facts| {
            found(facts.host.now < WRITTEN, || {
                format!("{} s since 1970", facts.host.now)
            })
        },
        says: &[],
    },
    Check {
        id: "host.user_missing",
        severity: Severity::Critical,
        title: "the user of the gateway process is not there",
        remedy: "`clawsec init` makes it; by hand: useradd --system --user-group clawsec",
        judge: |facts| {
            found(!facts.host.has_gateway_user, || {
                crate::supervisor::GATEWAY_USER.to_owned()
            })
        },
        says: &[],
    },
    Check {
        id: "host.core_files",
        severity: Severity::Warn,
        title: "processes that changed their user may leave core files for anybody",
        remedy: "sysctl -w fs.suid_dumpable=0",
        judge: |facts| {
            found(facts.host.suid_dumpable == Some(1), || {
                "fs.suid_dumpable = 1".to_owned()
            })
        },
        says: &[],
    },
];

/// 2026-01-01, in seconds since the Unix epoch.
const WRITTEN: i64 = 1_767_225_600;
