//! Programs found, loaded and run; namespaces entered.

use std::net::IpAddr;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use aya::programs::{Xdp, loaded_programs};
use aya::{Ebpf, EbpfLoader, TestRun as _, TestRunOptions};
use aya_obj::programs::XdpAttachType;
use clawsec_user::config::XdpMode;
use clawsec_user::enforcer::{Enforcer, EnforcerPlan, detach};
use clawsec_user::policy::{PacketPolicy, PacketRule, RateClass};
use ipnet::IpNet;
use rustix::thread::{CpuSet, LinkNameSpaceType, move_into_link_name_space, sched_setaffinity};
use xtask::lab::{Host, Lab};

pub(crate) const PORT: u16 = 8443;
pub(crate) const REPEATS: usize = 7;
pub(crate) const SYN: u8 = 0x02;
pub(crate) const ACK: u8 = 0x10;

pub(crate) fn pin_to_cpu(cpu: usize) -> Result<()> {
    let mut set = CpuSet::new();
    set.set(cpu);
    sched_setaffinity(None, &set).context("pin to a CPU")
}

/// xdp-filter pins what it loads.
pub(crate) fn mount_bpffs() -> Result<()> {
    let mounts = std::fs::read_to_string("/proc/self/mounts").context("read the mounts")?;
    if mounts
        .lines()
        .any(|line| line.contains(" /sys/fs/bpf bpf "))
    {
        return Ok(());
    }
    let mounted = Command::new("mount")
        .args(["-t", "bpf", "bpf", "/sys/fs/bpf"])
        .status()
        .context("run mount")?;
    anyhow::ensure!(mounted.success(), "no BPF filesystem at /sys/fs/bpf");
    Ok(())
}

/// Runs `work` in a host's network namespace, on a thread of its own on CPU 0.
pub(crate) fn inside<T: Send>(
    lab: &Lab,
    host: Host,
    work: impl FnOnce() -> Result<T> + Send,
) -> Result<T> {
    use std::os::fd::AsFd as _;
    let namespace = std::fs::File::open(lab.path(host)).context("open the namespace")?;
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))
                .context("enter the namespace")?;
            work()
        });
        match thread.join() {
            Ok(result) => result,
            Err(_panic) => bail!("the thread in the namespace panicked"),
        }
    })
}

/// The benchmark's own programs.
pub(crate) fn bench_object() -> Result<Ebpf> {
    let path = std::env::var_os("CLAWSEC_BENCH_OBJECT").context("CLAWSEC_BENCH_OBJECT is unset")?;
    EbpfLoader::new()
        .load_file(PathBuf::from(path))
        .context("load the benchmark's programs")
}

pub(crate) fn program<'a>(bench: &'a mut Ebpf, name: &str) -> Result<&'a mut Xdp> {
    let program: &mut Xdp = bench
        .program_mut(name)
        .context("no such program")?
        .try_into()?;
    if program.fd().is_err() {
        program.load().with_context(|| format!("load {name}"))?;
    }
    Ok(program)
}

/// A program that someone else loaded, by its number.
pub(crate) fn by_id(id: u32) -> Result<Xdp> {
    let info = loaded_programs()
        .filter_map(Result::ok)
        .find(|info| info.id() == id)
        .with_context(|| format!("there is no program {id}"))?;
    Ok(Xdp::from_program_info(
        info,
        "measured".into(),
        XdpAttachType::Interface,
    )?)
}

/// Nanoseconds a run, `REPEATS` times.
pub(crate) fn time(program: &Xdp, frame: &[u8], runs: u32) -> Result<Vec<f64>> {
    let once = |runs| {
        let mut options = TestRunOptions::new();
        options.data_in = Some(frame);
        options.repeat = runs;
        let result = program.test_run(options)?;
        anyhow::Ok((result.return_value, nanos(result.duration)))
    };
    once(runs / 10)?;
    (0..REPEATS).map(|_| Ok(once(runs)?.1)).collect()
}

/// The verdict of one run.
pub(crate) fn verdict(program: &Xdp, frame: &[u8]) -> Result<u32> {
    let mut options = TestRunOptions::new();
    options.data_in = Some(frame);
    Ok(program.test_run(options)?.return_value)
}

#[expect(clippy::cast_precision_loss, reason = "far below 2^52 ns")]
pub(crate) fn nanos(duration: Duration) -> f64 {
    duration.as_nanos() as f64
}

/// A SYN from `source` to the protected port.
pub(crate) fn syn(source: IpAddr) -> Vec<u8> {
    segment(source, SYN)
}

/// A segment with these flags from `source` to the protected port.
pub(crate) fn segment(source: IpAddr, flags: u8) -> Vec<u8> {
    let mut tcp = vec![0x9c, 0x40];
    tcp.extend(PORT.to_be_bytes());
    tcp.extend([0, 0, 0, 1, 0, 0, 0, 0, 0x50, flags, 0xff, 0xff, 0, 0, 0, 0]);
    // To everyone, with a right checksum: the stack, unlike XDP, drops what is not for it.
    let mut frame = vec![0xff; 6];
    frame.extend([2; 6]);
    match source {
        IpAddr::V4(source) => {
            let mut header = vec![0x45, 0, 0, 40, 0, 1, 0, 0, 64, 6, 0, 0];
            header.extend(source.octets());
            header.extend([198, 51, 100, 1]);
            let sum: u32 = header
                .chunks_exact(2)
                .map(|word| u32::from(word[0]) << 8 | u32::from(word[1]))
                .sum();
            let folded = (sum & 0xffff) + (sum >> 16);
            let [_, _, high, low] = (!((folded & 0xffff) + (folded >> 16))).to_be_bytes();
            header[10] = high;
            header[11] = low;
            frame.extend([8, 0]);
            frame.extend(header);
        }
        IpAddr::V6(source) => {
            frame.extend([0x86, 0xdd, 0x60, 0, 0, 0, 0, 20, 6, 64]);
            frame.extend(source.octets());
            frame.extend([0x20, 1, 0xd, 0xb8, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
        }
    }
    frame.extend(tcp);
    // The least that a wire carries.
    frame.resize(frame.len().max(60), 0);
    frame
}

/// The n-th network that is allowed: a /24 of 16.0.0.0/4, a /48 of 2001::/16; scattered, so that
/// neighbours in number are not neighbours in memory.
pub(crate) fn network(n: u32, v6: bool) -> IpNet {
    let scattered = n.wrapping_mul(0x9e_3779) & 0x000f_ffff;
    if v6 {
        let bits = (0x2001_u128 << 112) | (u128::from(scattered) << 80);
        IpNet::V6(ipnet::Ipv6Net::new_assert(bits.into(), 48))
    } else {
        let bits = 0x1000_0000 | (scattered << 8);
        IpNet::V4(ipnet::Ipv4Net::new_assert(bits.into(), 24))
    }
}

/// `count` allowed networks of each family, without a limit that would be reached.
pub(crate) fn policy(generation: u64, count: u32) -> PacketPolicy {
    let networks = (0..count).flat_map(|n| [network(n, false), network(n, true)]);
    policy_of(generation, networks.collect())
}

/// These networks allowed, without a limit that would be reached.
pub(crate) fn policy_of(generation: u64, networks: Vec<IpNet>) -> PacketPolicy {
    let allowed = networks
        .into_iter()
        .map(|network| (network, PacketRule::Allow { class: 0 }));
    PacketPolicy {
        generation,
        prefixes: allowed.collect(),
        classes: vec![RateClass {
            burst: 1_000_000_000,
            per_window: 1_000_000_000,
            window_ms: 1_000,
        }],
        tcp_ports: vec![PORT],
        udp_ports: Vec::new(),
        guarded_tcp_ports: Vec::new(),
        ..PacketPolicy::default()
    }
}

/// The enforcer on the gateway host's outer interface.
pub(crate) fn enforcer(mode: XdpMode, policy: &PacketPolicy) -> Result<Enforcer> {
    let plan = EnforcerPlan {
        interfaces: vec!["outside".to_owned()],
        mode,
        pin_dir: PathBuf::from("/sys/fs/bpf/clawsec-bench"),
        bpf_log: false,
    };
    remove_enforcer();
    Ok(Enforcer::start(&plan, policy)?)
}

pub(crate) fn remove_enforcer() {
    // Nothing pinned is the usual case.
    let _nothing = detach(std::path::Path::new("/sys/fs/bpf/clawsec-bench"));
}

/// Runs a command in a host's namespace; its error output is the error.
pub(crate) fn run(lab: &Lab, host: Host, program: &str, arguments: &[&str]) -> Result<String> {
    let output = lab
        .command(host, program)
        .args(arguments)
        .output()
        .with_context(|| format!("run {program}"))?;
    finished(program, &output)
}

fn finished(program: &str, output: &std::process::Output) -> Result<String> {
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let errors = String::from_utf8_lossy(&output.stderr);
    bail!("{program}: {}", errors.trim().replace('\n', "; "))
}

/// The version of a Debian package, for the table.
pub(crate) fn version(package: &str) -> String {
    let output = Command::new("dpkg-query")
        .args(["--show", "--showformat=${Version}", package])
        .output();
    output.map_or_else(
        |_absent| "unknown".to_owned(),
        |output| String::from_utf8_lossy(&output.stdout).into_owned(),
    )
}
