//! What `clawsec sandbox probe` runs inside the sandbox: every way out that is known, tried.
//!
//! The rows of `PROBES` are the table that docs/sandbox.md promises. Invariant: a probe is blocked
//! only by something that is in its way; what the host does not have at all turns the negative
//! control grey, not the sandbox green.

use std::fs::{self, File, OpenOptions};
use std::io::Write as _;
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::fs::{FileTypeExt as _, OpenOptionsExt as _};
use std::os::unix::net::{SocketAddr as UnixAddress, UnixStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{CWD, FileType, Mode, mknodat};

use super::probe_acts::{
    bpf, files, handle, memory, memory_of_process, output, perf, setns, wall_clock,
};
use super::probe_calls::{Outcome, address, apart, call, cloned, judged, processes, ptrace, room};

/// What was planted outside, and the limits to go beyond.
#[derive(Debug, Clone)]
pub struct Inside {
    /// A row's name, or every row that needs no execution of its own.
    pub only: Option<String>,
    /// A TCP port of the host's loopback where somebody listens.
    pub port: u16,
    /// An abstract Unix socket where somebody listens.
    pub socket: String,
    /// A file of the host's that anybody may read, outside the workspace.
    pub canary: PathBuf,
    /// A process of the host's, and its start time in ticks.
    pub process: u32,
    pub start_ticks: u64,
    /// Variables of the one who started all this.
    pub variables: Vec<String>,
    pub memory_bytes: u64,
    pub pids: u32,
    pub output_bytes: u64,
}

/// Runs the probes and prints a line for each: name, `blocked` or `open`, why.
pub fn inside(asked: &Inside) {
    for probe in PROBES {
        let wanted = match &asked.only {
            Some(name) => name == probe.name,
            None => !probe.alone,
        };
        if !wanted {
            continue;
        }
        let outcome = apart(|| (probe.run)(asked));
        let (word, detail) = match &outcome {
            Outcome::Blocked(detail) => ("blocked", detail),
            Outcome::Open(detail) => ("open", detail),
        };
        let line = format!("{}\t{word}\t{}\n", probe.name, detail.replace('\n', " "));
        std::io::stdout().write_all(line.as_bytes()).ok();
    }
}

pub(super) struct Probe {
    pub(super) name: &'static str,
    /// What a tool that got through could do.
    pub(super) threat: &'static str,
    /// In an execution of its own, which may not outlive it.
    pub(super) alone: bool,
    run: fn(&Inside) -> Outcome,
}

const fn row(name: &'static str, threat: &'static str, run: fn(&Inside) -> Outcome) -> Probe {
    Probe {
        name,
        threat,
        alone: false,
        run,
    }
}

const fn alone(name: &'static str, threat: &'static str, run: fn(&Inside) -> Outcome) -> Probe {
    Probe {
        name,
        threat,
        alone: true,
        run,
    }
}

#[rustfmt::skip]
pub(super) const PROBES: &[Probe] = &[
    row("net.host", "talk to services on the host's loopback", |asked| tcp(SocketAddr::from(([127, 0, 0, 1], asked.port)))),
    row("net.metadata", "ask the cloud's metadata address for keys", |_| tcp(SocketAddr::from(([169, 254, 169, 254], 80)))),
    row("net.route", "send anything anywhere", |_| Outcome::of(UdpSocket::bind("0.0.0.0:0").and_then(|s| s.connect("192.0.2.1:53")))),
    row("net.abstract", "reach abstract Unix sockets of the host", |asked| Outcome::of(UnixAddress::from_abstract_name(&asked.socket).and_then(|a| UnixStream::connect_addr(&a)))),
    row("net.raw", "forge packets", |_| family(libc::AF_INET, libc::SOCK_RAW, libc::IPPROTO_ICMP)),
    row("net.packet", "read and forge frames", |_| family(libc::AF_PACKET, libc::SOCK_DGRAM, 0)),
    row("net.vsock", "talk to the hypervisor", |_| family(libc::AF_VSOCK, libc::SOCK_STREAM, 0)),
    row("net.alg", "use the kernel's crypto sockets", |_| family(libc::AF_ALG, libc::SOCK_SEQPACKET, 0)),
    row("sock.docker", "start a container with the host inside", |_| unix(&["/run/docker.sock", "/var/run/docker.sock", "/run/podman/podman.sock"])),
    row("sock.containerd", "start a container with the host inside", |_| unix(&["/run/containerd/containerd.sock", "/run/crio/crio.sock"])),
    row("sock.system", "ask systemd to run something", |_| unix(&["/run/dbus/system_bus_socket", "/run/systemd/private"])),
    row("proc.sysctl", "change the kernel's settings", |_| writable(&["/proc/sys/vm/overcommit_memory", "/proc/sys/kernel/panic"])),
    row("proc.core_pattern", "run a program as root when another crashes", |_| writable(&["/proc/sys/kernel/core_pattern"])),
    row("proc.modprobe", "run a program as root when a module is missing", |_| writable(&["/proc/sys/kernel/modprobe", "/proc/sys/kernel/hotplug"])),
    row("proc.sysrq", "reboot or crash the machine", |_| writable(&["/proc/sysrq-trigger"])),
    row("proc.kmsg", "read the kernel's log", |_| readable(&["/proc/kmsg", "/dev/kmsg"])),
    row("proc.host", "see and read the host's processes", host_process),
    row("sys.write", "change devices and the kernel", |_| writable(SYS_FILES)),
    row("sys.cgroup", "run a program as root by release_agent, or leave the limits", |_| cgroup()),
    row("fs.mount", "mount a file system", |_| mount(c"tmpfs", 0)),
    row("fs.cgroup_mount", "mount the control groups anew", |_| mount(c"cgroup2", 0)),
    row("fs.remount", "make the root writable", |_| mount(c"none", libc::MS_REMOUNT | libc::MS_BIND)),
    row("fs.chroot", "change the root", |_| Outcome::of(rustix::process::chroot("/"))),
    row("fs.root", "write to the system", |_| created(&["/", "/etc", "/usr", "/usr/bin", "/var/lib"])),
    row("fs.workspace", "write to a workspace that is read-only", |_| created(&["."])),
    row("fs.shadow", "read the password hashes", |_| readable(&["/etc/shadow"])),
    row("fs.host_file", "read files of the host", |asked| Outcome::of(File::open(&asked.canary))),
    row("fs.symlink", "leave the workspace by a symbolic link", |_| Outcome::of(File::open("escape"))),
    row("fs.mknod", "make a device node", |_| Outcome::of(mknodat(CWD, "/tmp/clawsec-node", FileType::CharacterDevice, Mode::RUSR, rustix::fs::makedev(1, 3)).inspect(|()| drop(fs::remove_file("/tmp/clawsec-node"))))),
    row("fs.disk", "read the disk past every permission", |_| disk()),
    row("fs.handle", "open files by number, past every mount", |_| handle()),
    row("ns.user", "gain every capability in a namespace", |_| Outcome::of(call(libc::SYS_unshare, &[i64::from(libc::CLONE_NEWUSER)]))),
    row("ns.mount", "gain mounts of one's own", |_| Outcome::of(call(libc::SYS_unshare, &[i64::from(libc::CLONE_NEWNS)]))),
    row("ns.clone", "gain every capability in a child", |_| cloned(libc::SYS_clone)),
    row("ns.clone3", "the same, past filters of arguments", |_| cloned(libc::SYS_clone3)),
    row("ns.setns", "enter another namespace", |_| setns()),
    row("call.ptrace", "take over another process", |_| ptrace()),
    row("call.vm_readv", "read another process's memory", |_| memory_of_process()),
    row("call.bpf", "load a program into the kernel", |_| bpf()),
    row("call.perf", "watch the machine", |_| perf()),
    row("call.io_uring", "make calls that no filter sees", |_| Outcome::of(call(libc::SYS_io_uring_setup, &[1, room(&mut [0_u64; 16])]))),
    row("call.keyctl", "read keys of others", |_| Outcome::of(call(libc::SYS_keyctl, &[0, -3, 1]))),
    row("call.add_key", "fill the kernel's keyrings", |_| Outcome::of(call(libc::SYS_add_key, &[address(b"user\0"), address(b"clawsec\0"), address(b"x"), 1, -1]))),
    row("call.userfaultfd", "stop the kernel in the middle", |_| Outcome::of(call(libc::SYS_userfaultfd, &[0]))),
    row("call.module", "load a kernel module", |_| judged(libc::SYS_finit_module, &[-1, address(b"\0"), 0])),
    row("call.kexec", "start another kernel", |_| judged(libc::SYS_kexec_load, &[0, 0, 0, -1])),
    row("call.reboot", "reboot the machine", |_| judged(libc::SYS_reboot, &[0, 0, 0, 0])),
    row("call.swap", "change the swap", |_| judged(libc::SYS_swapoff, &[address(b"/nonexistent\0")])),
    row("call.clock", "set the clock", |_| judged(libc::SYS_settimeofday, &[0, 0])),
    row("call.syslog", "read the kernel's log", |_| Outcome::of(call(libc::SYS_syslog, &[3, room(&mut [0_u8; 4096]), 4096]))),
    row("id.root", "become root", |_| Outcome::of(call(libc::SYS_setresuid, &[0, 0, 0]))),
    row("id.capabilities", "use what root may do", |_| status("CapEff", "0000000000000000")),
    row("id.bounding", "gain capabilities by a program of root's", |_| status("CapBnd", "0000000000000000")),
    row("id.no_new_privs", "gain rights by a setuid program", |_| status("NoNewPrivs", "1")),
    row("id.hostname", "rename the machine", |_| Outcome::of(nix::unistd::sethostname("clawsec-probe"))),
    row("tty.inject", "type into the operator's terminal", |_| tiocsti()),
    row("leak.descriptors", "use what the daemon has open", |_| descriptors()),
    row("leak.environment", "read the daemon's secrets", environment),
    alone("bomb.memory", "take the machine's memory", |asked| memory(asked.memory_bytes + (64 << 20))),
    alone("bomb.processes", "take the machine's processes", |asked| processes(2 * asked.pids as usize + 64)),
    alone("bomb.files", "fill the disk", files),
    alone("bomb.output", "fill the daemon's memory", output),
    alone("time.wall", "run for ever", |_| wall_clock()),
];

/// Rows that only the one who runs them can judge: by what it kept, and how long it took.
pub(super) const OUTPUT: &str = "bomb.output";
pub(super) const TIME: &str = "time.wall";

fn tcp(address: SocketAddr) -> Outcome {
    Outcome::of(TcpStream::connect_timeout(
        &address,
        Duration::from_millis(500),
    ))
}

fn family(family: i32, kind: i32, protocol: i32) -> Outcome {
    let arguments = [family, kind, protocol].map(i64::from);
    Outcome::of(call(libc::SYS_socket, &arguments))
}

/// The first of `paths` that `open` takes is the way out.
fn any<T, E: std::fmt::Display>(
    paths: &[&str],
    mut open: impl FnMut(&Path) -> Result<T, E>,
) -> Outcome {
    let mut reasons = String::from("none is there");
    for path in paths {
        match open(Path::new(path)) {
            Ok(_) => return Outcome::Open((*path).to_owned()),
            Err(error) => reasons = format!("{path}: {error}"),
        }
    }
    Outcome::Blocked(reasons)
}

fn unix(paths: &[&str]) -> Outcome {
    any(paths, |path| UnixStream::connect(path))
}

fn readable(paths: &[&str]) -> Outcome {
    any(paths, |path| {
        let nonblocking = libc::O_NONBLOCK;
        OpenOptions::new()
            .read(true)
            .custom_flags(nonblocking)
            .open(path)
    })
}

fn writable(paths: &[&str]) -> Outcome {
    any(paths, |path| OpenOptions::new().write(true).open(path))
}

fn created(folders: &[&str]) -> Outcome {
    any(folders, |folder| {
        let path = folder.join(format!(".clawsec-probe-{}", std::process::id()));
        File::create_new(&path).inspect(|_| drop(fs::remove_file(&path)))
    })
}

fn cgroup() -> Outcome {
    let mut paths = vec!["/sys/fs/cgroup/cgroup.procs".to_owned()];
    for hierarchy in fs::read_dir("/sys/fs/cgroup")
        .into_iter()
        .flatten()
        .flatten()
    {
        for name in ["release_agent", "cgroup.procs"] {
            paths.push(hierarchy.path().join(name).display().to_string());
        }
    }
    let paths: Vec<&str> = paths.iter().map(String::as_str).collect();
    writable(&paths)
}

fn mount(kind: &std::ffi::CStr, flags: libc::c_ulong) -> Outcome {
    let target = if flags == 0 { c"/tmp" } else { c"/" };
    let at = |text: &std::ffi::CStr| address(text.to_bytes_with_nul());
    let arguments = [at(kind), at(target), at(kind), flags.cast_signed(), 0];
    let outcome = Outcome::of(call(libc::SYS_mount, &arguments));
    if flags == 0 && matches!(outcome, Outcome::Open(_)) {
        // The rows after it want the folder as it was.
        rustix::mount::unmount("/tmp", rustix::mount::UnmountFlags::DETACH).ok();
    }
    outcome
}

fn disk() -> Outcome {
    let mut disks = Vec::new();
    for entry in fs::read_dir("/dev").into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_block_device()) {
            disks.push(entry.path().display().to_string());
        }
    }
    disks.push("/dev/mem".to_owned());
    let disks: Vec<&str> = disks.iter().map(String::as_str).collect();
    readable(&disks)
}

fn status(field: &str, expected: &str) -> Outcome {
    let text = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let value = text
        .lines()
        .find_map(|line| line.strip_prefix(field)?.strip_prefix(':'))
        .map_or("", str::trim);
    if value == expected {
        Outcome::Blocked(format!("{field} is {value}"))
    } else {
        Outcome::Open(format!("{field} is {value:?}"))
    }
}

fn host_process(asked: &Inside) -> Outcome {
    let stat = fs::read_to_string(format!("/proc/{}/stat", asked.process)).unwrap_or_default();
    let ticks = stat
        .rsplit_once(") ")
        .and_then(|(_, rest)| rest.split(' ').nth(19));
    if ticks.and_then(|ticks| ticks.parse().ok()) == Some(asked.start_ticks) {
        return Outcome::Open(format!("process {} is seen", asked.process));
    }
    Outcome::Blocked("it is not there".into())
}

/// One character that the shell of the controlling terminal would read.
fn tiocsti() -> Outcome {
    let terminal = match OpenOptions::new().read(true).write(true).open("/dev/tty") {
        Ok(terminal) => terminal,
        Err(error) => return Outcome::Blocked(format!("no controlling terminal: {error}")),
    };
    let number = i64::from(std::os::fd::AsRawFd::as_raw_fd(&terminal));
    let tiocsti = 0x5412;
    Outcome::of(call(libc::SYS_ioctl, &[number, tiocsti, address(b" ")]))
}

/// Beside the three streams, only what lists the folder and the pipe to the parent are open.
fn descriptors() -> Outcome {
    let mut strangers = Vec::new();
    for entry in fs::read_dir("/proc/self/fd")
        .into_iter()
        .flatten()
        .flatten()
    {
        let number: u32 = entry.file_name().to_string_lossy().parse().unwrap_or(0);
        let target = fs::read_link(entry.path()).unwrap_or_default();
        let text = target.to_string_lossy();
        if number > 2 && !text.starts_with("pipe:") && !text.starts_with("/proc/") {
            strangers.push(text.into_owned());
        }
    }
    if strangers.is_empty() {
        Outcome::Blocked("nothing is inherited".into())
    } else {
        Outcome::Open(strangers.join(", "))
    }
}

fn environment(asked: &Inside) -> Outcome {
    let given = [
        "PATH", "HOME", "LANG", "HOSTNAME", "SHELL", "USER", "LOGNAME", "TERM",
    ];
    let leaked: Vec<String> = std::env::vars()
        .map(|(name, _)| name)
        .filter(|name| asked.variables.contains(name) && !given.contains(&name.as_str()))
        .collect();
    if leaked.is_empty() {
        Outcome::Blocked("none of the caller's variables is there".into())
    } else {
        Outcome::Open(leaked.join(", "))
    }
}

const SYS_FILES: &[&str] = &[
    "/sys/kernel/mm/transparent_hugepage/enabled",
    "/sys/kernel/mm/ksm/run",
    "/sys/power/state",
    "/sys/kernel/uevent_helper",
    "/sys/devices/system/cpu/online",
    "/sys/class/net/lo/mtu",
    "/sys/module/printk/parameters/time",
];
