//! Denied SYNs as live frames, at a bounded rate.

use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use aya::maps::{Array, ProgramArray};
use aya::programs::xdp::XdpMode;
use aya::{Ebpf, TestRun as _, TestRunAttrs, TestRunOptions};
use xtask::lab::{Host, Lab};

use crate::setup::{bench_object, inside, pin_to_cpu, program, run, syn};

/// From one packet to the next, in nanoseconds, besides what sending takes.
const GAP_NS: u64 = 500;
/// Handed over at once; the ring in between holds 256.
const BATCH: u32 = 128;
/// Of one call of the generator.
const FRAMES: u32 = 50_000;

/// Whose CPU takes the packets in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Receiver {
    /// The server's, as a card's interrupts would: a NAPI thread.
    OfTheServer,
    /// The sender's, as a veth does by itself.
    OfTheSender,
}

impl Receiver {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::OfTheServer => "denied SYNs, taken in on the server's CPU",
            Self::OfTheSender => "denied SYNs, taken in on the sender's CPU",
        }
    }

    /// Once the server, and its filter, are there.
    pub(crate) fn set_up(self, lab: &Lab) -> Result<()> {
        let namespace = lab.namespace(Host::Gateway);
        let threaded = u8::from(self == Self::OfTheServer);
        let write = format!("echo {threaded} > /sys/class/net/outside/threaded");
        // `ip netns exec` has the namespace's own /sys.
        let status = Command::new("ip")
            .args(["netns", "exec", &namespace, "sh", "-c", &write])
            .status()
            .context("run ip")?;
        ensure!(status.success(), "no NAPI thread for the flood's interface");
        if self == Self::OfTheSender {
            return Ok(());
        }
        let deadline = Instant::now() + Duration::from_secs(5);
        while Instant::now() < deadline {
            let found = napi_threads()?;
            if !found.is_empty() {
                for pid in found {
                    run(lab, Host::Gateway, "taskset", &["-pc", "0", &pid])?;
                    // Before every task, as an interrupt's work is; else its queue overflows
                    // while others have their turn, and what is lost there costs nobody anything.
                    run(lab, Host::Gateway, "chrt", &["-f", "-p", "1", &pid])?;
                }
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        bail!("the NAPI thread does not come")
    }
}

fn napi_threads() -> Result<Vec<String>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc")?.flatten() {
        let name = std::fs::read_to_string(entry.path().join("comm")).unwrap_or_default();
        if name.starts_with("napi/outside-") {
            found.push(entry.file_name().to_string_lossy().into_owned());
        }
    }
    Ok(found)
}

/// The generator: 24,576 sources, none of them allowed.
pub(crate) struct Flood {
    bench: Ebpf,
    /// Where it sends from.
    namespace: PathBuf,
}

impl Flood {
    pub(crate) fn new(lab: &Lab) -> Result<Self> {
        let mut bench = bench_object()?;
        program(&mut bench, "bench_random4")?;
        let next = program(&mut bench, "bench_paced")?.fd()?.try_clone()?;
        let mut table = ProgramArray::try_from(bench.map_mut("NEXT").context("NEXT")?)?;
        table.set(0, &next, 0)?;
        let mut pace: Array<_, u64> = bench.map_mut("PACE").context("PACE")?.try_into()?;
        pace.set(0, GAP_NS, 0)?;
        let map = bench.map_mut("SOURCES4").context("SOURCES4")?;
        let mut sources: Array<_, [[u8; 4]; 16]> = map.try_into()?;
        for line in 0..4_096_u32 {
            let held: [[u8; 4]; 16] =
                std::array::from_fn(|n| source(line * 16 + u32::try_from(n).unwrap_or(0)));
            sources.set(line, held, 0)?;
        }
        let mut target: Array<_, u32> = bench.map_mut("TARGET").context("TARGET")?.try_into()?;
        target.set(0, index_of_eth0(lab)?, 0)?;
        Ok(Self {
            bench,
            namespace: lab.path(Host::Outside),
        })
    }

    /// Floods from CPU 1 while `work` goes on; frames sent.
    pub(crate) fn during<T>(&mut self, work: impl FnOnce() -> T) -> Result<(u64, T)> {
        let stop = AtomicBool::new(false);
        let frame = syn(Ipv4Addr::from(source(0)).into());
        let sender = &*program(&mut self.bench, "bench_random4")?;
        let namespace = std::fs::File::open(&self.namespace).context("open the namespace")?;
        std::thread::scope(|scope| {
            let flooding = scope.spawn(|| {
                use std::os::fd::AsFd as _;
                rustix::thread::move_into_link_name_space(
                    namespace.as_fd(),
                    Some(rustix::thread::LinkNameSpaceType::Network),
                )?;
                pin_to_cpu(1)?;
                let mut sent = 0;
                while !stop.load(Ordering::Relaxed) {
                    let mut options = TestRunOptions::new();
                    options.data_in = Some(&frame);
                    options.repeat = FRAMES;
                    options.attrs = TestRunAttrs::new().xdp_live_frames(BATCH);
                    sender.test_run(options).context("send live frames")?;
                    sent += u64::from(FRAMES);
                }
                anyhow::Ok(sent)
            });
            let result = work();
            stop.store(true, Ordering::Relaxed);
            match flooding.join() {
                Ok(sent) => Ok((sent?, result)),
                Err(_panic) => bail!("the generator panicked"),
            }
        })
    }
}

/// A program that drops what comes, in the filter's place until this is dropped.
pub(crate) fn least_receiver(lab: &Lab) -> Result<Ebpf> {
    let mut bench = bench_object()?;
    inside(lab, Host::Gateway, || {
        let drop = program(&mut bench, "bench_drop")?;
        drop.attach("outside", XdpMode::Driver)?;
        Ok(())
    })?;
    Ok(bench)
}

/// Any of the unicast space but loopback and the allowed network. The sum of its two halves is the
/// same for each, so that the frame's checksum stays right: the stack drops others before nftables
/// sees them.
fn source(n: u32) -> [u8; 4] {
    const SUM: u32 = 0xffff;
    let high = 0x1000 + n % 0x6000;
    ((high << 16) + (SUM - high)).to_be_bytes()
}

fn index_of_eth0(lab: &Lab) -> Result<u32> {
    inside(lab, Host::Outside, || {
        Ok(nix::net::if_::if_nametoindex("eth0")?)
    })
}
