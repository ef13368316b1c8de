//! This host as it is found; changes nothing. What cannot be read is not known, and no finding.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use nix::unistd::User;
use rustix::fs::{statfs, statvfs};
use rustix::time::ClockId;

use super::certificate;
use super::facts::{
    DaemonFact, Facts, FileFact, GatewayFact, HostFacts, InterfaceFact, Published, Role,
    SandboxFact,
};
use crate::cli::Failure;
use crate::cli::machine::gateways;
use crate::cli::sandbox as provider;
use crate::config::{self, Config};
use crate::enforcer;
use crate::sandbox;
use crate::supervisor::admin::{Answer, Question, ask};
use crate::supervisor::{self, GATEWAY_USER, sockets};

pub(super) fn gather(config: Config) -> Result<Facts, Failure> {
    let proc = Path::new("/proc");
    let gateways = gateways::running(proc).into_iter();
    let upstream = &config.gateway.upstream;
    let upstream_listens = config::is_local(upstream).then(|| {
        let table = sockets::table(proc);
        let mut listening = table.iter().filter(|socket| socket.is_listening());
        listening.any(|socket| socket.local.port() == upstream.port)
    });
    Ok(Facts {
        files: files(&config),
        certificate: certificate::look(&config),
        gateways: gateways
            .filter(|running| !running.is_apart)
            .map(|running| GatewayFact {
                product: running.product,
                pid: running.pid,
                uid: running.uid,
                listening: running.listening,
            })
            .collect(),
        upstream_listens,
        published: published(&config)?,
        interfaces: interfaces(&config),
        daemon: daemon(&config.gateway.admin_socket),
        sandbox: SandboxFact {
            provider: sandbox::settled(&config.sandbox),
            problem: provider::problem(&config.sandbox)?,
        },
        host: host(&config),
        config,
    })
}

fn files(config: &Config) -> Vec<FileFact> {
    let mut places: Vec<(Role, PathBuf)> = vec![
        (Role::Configuration, config.path.clone()),
        (Role::AuditLog, config.audit.path.clone()),
        (
            Role::State,
            PathBuf::from(crate::cli::run::DEFAULT_STATE_DIR),
        ),
    ];
    if let Some(tls) = &config.gateway.tls {
        places.push((Role::CertificateKey, tls.key.clone()));
    }
    let secrets = config.secret_files.iter().cloned();
    places.extend(secrets.map(|path| (Role::Secret, path)));
    let look = |(role, path): (Role, PathBuf)| {
        let metadata = fs::metadata(&path).ok()?;
        Some(FileFact {
            role,
            mode: metadata.mode() & 0o7777,
            changeable: config::changeable_by_others(&path).unwrap_or_default(),
            path,
        })
    };
    places.into_iter().filter_map(look).collect()
}

fn published(config: &Config) -> Result<Vec<Published>, Failure> {
    let socket = &config.sandbox.docker_socket;
    if !socket.exists() {
        return Ok(Vec::new());
    }
    // A docker that does not answer, or not to this user, is the sandbox's matter.
    let found = provider::runtime()?.block_on(sandbox::published_ports(socket));
    let found = found.unwrap_or_default().into_iter();
    Ok(found
        .map(|(container, address, port, inner)| Published {
            container,
            address,
            port,
            inner,
        })
        .collect())
}

fn interfaces(config: &Config) -> Vec<InterfaceFact> {
    let names = supervisor::filtered_interfaces(config).unwrap_or_default();
    let look = |name: String| InterfaceFact {
        others: enforcer::others_at(&name),
        name,
    };
    names.into_iter().map(look).collect()
}

fn daemon(socket: &Path) -> Option<DaemonFact> {
    let Ok(Answer::Status(status)) = ask(socket, &Question::Status) else {
        return None;
    };
    let slower = status.interfaces.iter();
    Some(DaemonFact {
        filters: status.filter.is_some(),
        slower: slower
            .filter(|interface| !interface.steps_down.is_empty())
            .map(|one| {
                (
                    one.name.clone(),
                    one.mode.clone(),
                    one.steps_down.join("; "),
                )
            })
            .collect(),
        audit_writable: status.audit_writable,
    })
}

fn host(config: &Config) -> HostFacts {
    let number = |path: &str| {
        let text = fs::read_to_string(Path::new("/proc/sys").join(path)).ok()?;
        text.trim().parse().ok()
    };
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let mut parts = release
        .split(['.', '-'])
        .map_while(|part| part.parse().ok());
    let is_there = |name: &str| User::from_name(name).is_ok_and(|user| user.is_some());
    // The folder is made at the first start: the disk is that of the nearest one there is.
    let folder = config
        .audit
        .path
        .ancestors()
        .skip(1)
        .find(|path| path.exists());
    let disk = folder.and_then(|folder| statvfs(folder).ok());
    let security = fs::read_to_string("/sys/kernel/security/lsm").ok();
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    HostFacts {
        kernel: parts.next().zip(parts.next()),
        has_btf: Path::new("/sys/kernel/btf/vmlinux").exists(),
        has_bpffs: statfs("/sys/fs/bpf").is_ok_and(|found| found.f_type == BPF_FS_MAGIC),
        unprivileged_bpf_disabled: number("kernel/unprivileged_bpf_disabled"),
        bpf_jit: number("net/core/bpf_jit_enable"),
        has_landlock: security.map(|list| list.split(',').any(|name| name.trim() == "landlock")),
        has_cgroup_v2: Path::new("/sys/fs/cgroup/cgroup.controllers").exists(),
        clock_is_synchronised: clock_is_synchronised(),
        now: rustix::time::clock_gettime(ClockId::Realtime).tv_sec,
        has_gateway_user: is_there(GATEWAY_USER),
        has_sandbox_user: is_there(&config.sandbox.user),
        free_bytes: disk.as_ref().map(|disk| disk.f_bavail * disk.f_frsize),
        // Some file systems have no table of inodes, and say 0 of 0.
        free_inodes: disk
            .as_ref()
            .filter(|disk| disk.f_files > 0)
            .map(|disk| disk.f_favail),
        suid_dumpable: number("fs/suid_dumpable"),
        most_files: limit.maximum.unwrap_or(u64::MAX),
    }
}

/// As `timedatectl` finds out: the kernel's own state of its clock.
fn clock_is_synchronised() -> Option<bool> {
    // systemd and chrony both leave this mark beside what they tell the kernel.
    let marked = Path::new("/run/systemd/timesync/synchronized").exists();
    if marked {
        return Some(true);
    }
    let known = ["/run/systemd/timesync", "/run/chrony", "/run/ntpd.pid"];
    if known.iter().any(|path| Path::new(path).exists()) {
        return None;
    }
    Path::new("/run/systemd/system").exists().then_some(false)
}

/// `linux/magic.h`.
const BPF_FS_MAGIC: rustix::fs::FsWord = 0xcafe_4a11;
