//! A flood of dropped packets from tens of thousands of sources: what it costs the daemon, and
//! that its sums stay exact when events are lost.

use std::net::IpAddr;
use std::os::fd::AsFd as _;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use aya::maps::{Array, ProgramArray};
use aya::programs::Xdp;
use aya::{Ebpf, EbpfLoader, TestRun as _, TestRunAttrs, TestRunOptions};
use rustix::thread::{CpuSet, LinkNameSpaceType, move_into_link_name_space, sched_setaffinity};
use xtask::lab::{CLIENT_OUTSIDE, Host};

use super::daemon::Daemon;
use super::spine::{assert_sums_agree, dropped, recorded};

/// One flood at a time: two would share what is measured.
static ALONE: Mutex<()> = Mutex::new(());

/// Frames of one call of the generator.
const FRAMES: u32 = 100_000;

/// The benchmark's generator, its frames from 65,536 sources that no policy here admits.
struct Generator {
    bench: Ebpf,
    frame: Vec<u8>,
}

impl Generator {
    fn new(daemon: &Daemon) -> Self {
        let path = std::env::var_os("CLAWSEC_BENCH_OBJECT").expect("CLAWSEC_BENCH_OBJECT");
        let mut bench = EbpfLoader::new()
            .load_file(PathBuf::from(path))
            .expect("load the generator");
        for name in ["bench_random4", "bench_send"] {
            program(&mut bench, name).load().expect("load a program");
        }
        let next = program(&mut bench, "bench_send").fd().expect("loaded");
        let next = next.try_clone().expect("another descriptor");
        let map = bench.map_mut("NEXT").expect("NEXT");
        let mut table = ProgramArray::try_from(map).expect("a table");
        table.set(0, &next, 0).expect("choose the sender");
        let map = bench.map_mut("SOURCES4").expect("SOURCES4");
        let mut sources: Array<_, [[u8; 4]; 16]> = map.try_into().expect("an array");
        for line in 0..4_096_u32 {
            let source = |n: u32| (0x0a00_0000 + (line * 16 + n) * 7).to_be_bytes();
            let held: [[u8; 4]; 16] =
                std::array::from_fn(|n| source(u32::try_from(n).expect("16")));
            sources.set(line, held, 0).expect("set sources");
        }
        let index = interface_index(daemon);
        let mut target: Array<_, u32> = bench
            .map_mut("TARGET")
            .expect("TARGET")
            .try_into()
            .expect("an array");
        target.set(0, index, 0).expect("set the target");
        Self {
            bench,
            frame: syn(CLIENT_OUTSIDE.parse().expect("parse")),
        }
    }

    /// Sends without end from the outer host, on CPU 0 alone, until told to stop; frames sent.
    fn run(&mut self, daemon: &Daemon, stop: &AtomicBool) -> u64 {
        let namespace = std::fs::File::open(daemon.lab.path(Host::Outside)).expect("open");
        let frame = &self.frame;
        let sender: &Xdp = program(&mut self.bench, "bench_random4");
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))
                    .expect("enter the namespace");
                let mut set = CpuSet::new();
                set.set(0);
                sched_setaffinity(None, &set).expect("pin to a CPU");
                let mut sent = 0;
                while !stop.load(Ordering::Relaxed) {
                    let mut options = TestRunOptions::new();
                    options.data_in = Some(frame);
                    options.repeat = FRAMES;
                    options.attrs = TestRunAttrs::new().xdp_live_frames(256);
                    sender.test_run(options).expect("send live frames");
                    sent += u64::from(FRAMES);
                }
                sent
            });
            thread.join().expect("the generator ends well")
        })
    }

    /// Runs `work` while the flood goes on.
    fn during<T>(&mut self, daemon: &Daemon, work: impl FnOnce() -> T) -> T {
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let generator = scope.spawn(|| self.run(daemon, &stop));
            let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work));
            stop.store(true, Ordering::Relaxed);
            let sent = generator.join().expect("the generator ends well");
            assert_ne!(sent, 0, "frames were sent");
            result.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }
}

fn program<'a>(bench: &'a mut Ebpf, name: &str) -> &'a mut Xdp {
    let program = bench.program_mut(name).expect("a program");
    program.try_into().expect("an XDP program")
}

fn interface_index(daemon: &Daemon) -> u32 {
    let output = daemon
        .lab
        .command(Host::Outside, "cat")
        .arg("/proc/net/dev_mcast")
        .output()
        .expect("run cat");
    let shown = String::from_utf8_lossy(&output.stdout).into_owned();
    let index = shown.lines().find_map(|line| {
        let mut words = line.split_whitespace();
        let index = words.next()?.parse().ok()?;
        (words.next()? == "eth0").then_some(index)
    });
    index.expect("eth0 has an index")
}

/// A SYN to the protected port; its checksum is nobody's business before the stack.
fn syn(source: IpAddr) -> Vec<u8> {
    let IpAddr::V4(source) = source else {
        panic!("IPv4 here")
    };
    let mut frame = vec![0xff; 6];
    frame.extend([2; 6]);
    frame.extend([8, 0, 0x45, 0, 0, 40, 0, 1, 0, 0, 64, 6, 0, 0]);
    frame.extend(source.octets());
    frame.extend([198, 51, 100, 1, 0x9c, 0x40]);
    frame.extend(8443_u16.to_be_bytes());
    frame.extend([0, 0, 0, 1, 0, 0, 0, 0, 0x50, 2, 0xff, 0xff, 0, 0, 0, 0]);
    frame.resize(60, 0);
    frame
}

/// The time that a process has had on a CPU.
fn cpu_time(pid: u64) -> Duration {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).expect("read a stat");
    // After the name, which may hold anything: the fields from the third on.
    let (_, fields) = stat.rsplit_once(')').expect("a name");
    let fields: Vec<&str> = fields.split_whitespace().collect();
    let ticks: u64 = [fields[11], fields[12]]
        .iter()
        .map(|text| text.parse::<u64>().expect("ticks"))
        .sum();
    // USER_HZ, 100 on every architecture that clawsec runs on.
    Duration::from_millis(ticks * 10)
}

#[test]
fn a_flood_costs_the_daemon_less_than_a_fiftieth_of_a_core() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let mut daemon = Daemon::start("flood", |config| {
        // As it comes: a short interval costs more.
        let audit = config["security"]["audit"]
            .as_object_mut()
            .expect("an object");
        audit.remove("interval");
    });
    let mut generator = Generator::new(&daemon);
    let gateway = daemon.status()["gateway_pid"].as_u64().expect("a pid");
    let pids = [daemon.pid(), gateway];
    let total = |daemon: &Daemon| dropped(&daemon.status()).values().sum::<u64>();
    let (share, rate) = generator.during(&daemon, || {
        // From its beginning on: the first second is the one with the new sources.
        let (began, before) = (Instant::now(), total(&daemon));
        let spent: Duration = pids.iter().map(|pid| cpu_time(*pid)).sum();
        // Longer than two intervals, so that checkpoints are part of it.
        std::thread::sleep(Duration::from_secs(25));
        let after: Duration = pids.iter().map(|pid| cpu_time(*pid)).sum();
        let spent = after.saturating_sub(spent);
        let elapsed = began.elapsed().as_secs_f64();
        let drops = u32::try_from(total(&daemon) - before).expect("below 4 billion");
        (spent.as_secs_f64() / elapsed, f64::from(drops) / elapsed)
    });
    println!(
        "{rate:.0} drops a second cost the daemon {:.2} % of a core",
        share * 100.0
    );
    assert!(
        share < 0.02,
        "{:.2} % of a core at {rate:.0} drops a second",
        share * 100.0
    );

    let counters = dropped(&daemon.status());
    daemon.stop();
    assert_eq!(
        recorded(&daemon.audit()),
        counters,
        "the last checkpoint is exact"
    );
}

#[test]
fn lost_events_are_recorded_and_the_sums_stay_exact() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let daemon = Daemon::start("starve", |_| {});
    let mut generator = Generator::new(&daemon);
    let signal = |name: &str| {
        let pid = daemon.pid().to_string();
        let status = std::process::Command::new("kill")
            .args([name, &pid])
            .status();
        assert!(status.expect("run kill").success());
    };
    generator.during(&daemon, || {
        for _ in 0..3 {
            // Nobody reads: the buffers hold some 650 events each.
            signal("-STOP");
            std::thread::sleep(Duration::from_secs(3));
            signal("-CONT");
            daemon.status();
        }
    });
    let lost = daemon.await_record("the loss", |record| {
        let detail = record["detail"].as_str().unwrap_or_default();
        record["event"] == "system"
            && record["action"] == "lost"
            && detail.contains("packet events that found their buffer full")
    });
    assert!(lost["count"].as_u64() > Some(0), "{lost}");
    assert_sums_agree(&daemon);
    let records = daemon.audit();
    let sources = records
        .iter()
        .filter(|record| record["action"] == "drop" && record["src"]["ip"].is_string());
    // Eighty a second may be.
    assert!(sources.count() > 200, "many are named all the same");
}
