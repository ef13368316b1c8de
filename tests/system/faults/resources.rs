//! Descriptors run out, memory runs out, certificates are broken.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::json;
use xtask::lab::Host;

use crate::system::client::Client;
use crate::system::daemon::{Daemon, KEY, in_namespace};

/// The gateway process may open no more: connections that are there go on, new ones wait, nothing
/// spins, and when there is room again they are served.
#[test]
fn without_descriptors_connections_go_on_and_new_ones_wait() {
    let daemon = Daemon::start("nofile", |_| {});
    let client = Client::inside(&daemon.lab, &daemon.path("cert.pem"));
    let pid = daemon.status()["gateway_pid"].as_u64().expect("a pid");
    let limit = |soft: u64| {
        // As its own user: that needs no capability, which root may lack in a container.
        let as_its_user = [
            "--reuid=clawsec",
            "--regid=clawsec",
            "--clear-groups",
            "prlimit",
        ];
        let arguments = [format!("--pid={pid}"), format!("--nofile={soft}:")];
        let status = Command::new("setpriv")
            .args(as_its_user)
            .args(arguments)
            .status();
        assert!(status.expect("run prlimit").success());
    };
    let before = soft_limit(pid);
    in_namespace(&daemon.lab, Host::Inside, || {
        let mut kept = client.connect().expect("connect");
        assert_eq!(kept.ask("GET /", KEY, "").expect("an answer"), 200);
        limit(next_descriptor(pid));
        let started = cpu_ticks(pid);
        let waiting = std::thread::scope(|scope| {
            let waiting: Vec<_> = (0..4)
                .map(|_| {
                    scope.spawn(|| {
                        client.enter();
                        client.ask("GET /", KEY, "")
                    })
                })
                .collect();
            for _ in 0..30 {
                assert_eq!(kept.ask("GET /", KEY, "").expect("an answer"), 200);
                std::thread::sleep(Duration::from_millis(100));
            }
            // USER_HZ is 100: three seconds are 300 ticks, a loop that spins takes them all.
            let spent = cpu_ticks(pid) - started;
            assert!(spent < 150, "{spent} ticks in three seconds: it spins");
            assert!(waiting.iter().all(|thread| !thread.is_finished()));
            limit(before);
            let waiting = waiting.into_iter();
            let answers = waiting.map(|thread| thread.join().expect("ends well"));
            answers.collect::<Vec<_>>()
        });
        for answer in waiting {
            assert_eq!(answer.expect("it waited, and was served"), 200);
        }
    });
    assert_eq!(daemon.status()["gateway_pid"], pid, "{}", daemon.log());
}

/// The gateway process is killed for want of memory: it is started again, with a record; the filter
/// stays meanwhile, and nobody gets in.
#[test]
fn without_memory_the_gateway_process_is_started_again() {
    let daemon = Daemon::start("nomem", |config| {
        config["security"]["rateLimit"] = json!({ "enabled": true, "requests": 100_000, "window": 60000, "connections": 100_000 });
    });
    let pid = daemon.status()["gateway_pid"].as_u64().expect("a pid");
    let group = MemoryGroup::new(&format!("clawsec-test-{pid}"));
    group.put(pid);
    // What it has, and next to nothing more.
    group.limit(group.used() + 2 * 1024 * 1024);
    let body = "x".repeat(1024 * 1024);
    daemon.write(
        "large.json",
        &json!({ "tool": "message", "args": { "text": body } }).to_string(),
    );
    let large = format!("@{}", daemon.path("large.json").display());
    let key = format!("X-API-Key: {KEY}");
    let deadline = Instant::now() + Duration::from_mins(1);
    let fallen = || daemon.status()["gateway_pid"].as_u64() != Some(pid);
    while !fallen() {
        assert!(
            Instant::now() < deadline,
            "it needs no memory:\n{}",
            daemon.log()
        );
        std::thread::scope(|scope| {
            for _ in 0..16 {
                scope.spawn(|| {
                    daemon.curl(
                        Host::Inside,
                        "/tools/invoke",
                        &[
                            "-H",
                            &key,
                            "-H",
                            "Content-Type: application/json",
                            "--data-binary",
                            &large,
                        ],
                    )
                });
            }
        });
        assert_eq!(
            daemon.get(Host::Outside, "/").exit,
            28,
            "a stranger stays out"
        );
    }
    let record = daemon.await_record("the end of the gateway process", |record| {
        record["event"] == "system" && record["outcome"] == "error"
    });
    println!("recorded: {} {}", record["action"], record["detail"]);
    let deadline = Instant::now() + Duration::from_secs(10);
    while daemon.get(Host::Inside, "/").status != 200 {
        assert!(Instant::now() < deadline, "{}", daemon.log());
    }
    assert_eq!(daemon.get(Host::Outside, "/").exit, 28);
}

/// A certificate that is broken, then one that is not of its key, then a good one: what is served
/// changes at the last alone, and nobody is turned away at any.
#[test]
fn a_broken_certificate_is_not_taken_up_and_the_next_good_one_is() {
    let daemon = Daemon::start("badcert", |_| {});
    let served = || {
        let client = Client::inside(&daemon.lab, &daemon.path("trusted.pem"));
        in_namespace(&daemon.lab, Host::Inside, || client.ask("GET /", KEY, ""))
    };
    let old = fs::read_to_string(daemon.path("cert.pem")).expect("read");
    daemon.write("trusted.pem", &old);
    let names = ["localhost", xtask::lab::GATEWAY_INSIDE].map(str::to_owned);
    let next = rcgen::generate_simple_self_signed(names).expect("make a certificate");
    let whole = next.cert.pem();
    let half = &whole[..whole.len() / 2];
    for (name, text) in [
        ("half of one", half),
        ("of another key", whole.as_str()),
        ("empty", ""),
    ] {
        daemon.write("cert.pem", text);
        daemon.hang_up();
        daemon.await_record(name, |record| {
            let detail = record["detail"].as_str().unwrap_or_default();
            record["outcome"] == "error" && detail.contains("gateway.tls")
        });
        assert_eq!(served().expect("the old one is served"), 200, "{name}");
    }
    daemon.write("key.pem", &next.signing_key.serialize_pem());
    daemon.write("cert.pem", &whole);
    daemon.hang_up();
    daemon.write("trusted.pem", &whole);
    let deadline = Instant::now() + Duration::from_secs(10);
    while !matches!(served(), Ok(200)) {
        assert!(Instant::now() < deadline, "{}", daemon.log());
        std::thread::sleep(Duration::from_millis(100));
    }
}

fn soft_limit(pid: u64) -> u64 {
    let text = fs::read_to_string(format!("/proc/{pid}/limits")).expect("read the limits");
    let line = text.lines().find(|line| line.starts_with("Max open files"));
    let word = line.expect("a limit").split_whitespace().nth(3);
    word.expect("a number").parse().expect("a number")
}

/// The number that the next descriptor would have.
fn next_descriptor(pid: u64) -> u64 {
    let entries = fs::read_dir(format!("/proc/{pid}/fd")).expect("list");
    let names = entries.flatten();
    let used: Vec<u64> = names
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .collect();
    (0..4096)
        .find(|number| !used.contains(number))
        .expect("a number")
}

fn cpu_ticks(pid: u64) -> u64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).expect("read a stat");
    let (_, fields) = stat.rsplit_once(')').expect("a name");
    let fields: Vec<&str> = fields.split_whitespace().collect();
    let tick = |index: usize| fields[index].parse::<u64>().expect("ticks");
    tick(11) + tick(12)
}

/// A control group of the memory controller, of either version; removed when dropped.
struct MemoryGroup {
    folder: std::path::PathBuf,
    is_v1: bool,
}

impl MemoryGroup {
    fn new(name: &str) -> Self {
        let v1 = Path::new("/sys/fs/cgroup/memory");
        let is_v1 = v1.is_dir();
        let root = if is_v1 {
            v1
        } else {
            Path::new("/sys/fs/cgroup")
        };
        let folder = root.join(name);
        fs::create_dir(&folder).expect("make a control group");
        Self { folder, is_v1 }
    }

    fn file(&self, v1: &str, v2: &str) -> std::path::PathBuf {
        self.folder.join(if self.is_v1 { v1 } else { v2 })
    }

    fn put(&self, pid: u64) {
        // What it has already is counted where it was: its pages move with it where they can.
        if self.is_v1 {
            fs::write(self.folder.join("memory.move_charge_at_immigrate"), "3").ok();
        }
        fs::write(self.folder.join("cgroup.procs"), pid.to_string()).expect("move a process");
    }

    fn used(&self) -> u64 {
        let file = self.file("memory.usage_in_bytes", "memory.current");
        let text = fs::read_to_string(file).expect("read the usage");
        text.trim().parse().expect("a number")
    }

    fn limit(&self, bytes: u64) {
        let file = self.file("memory.limit_in_bytes", "memory.max");
        fs::write(file, bytes.to_string()).expect("set the limit");
    }
}

impl Drop for MemoryGroup {
    fn drop(&mut self) {
        // Empty once its process is gone.
        let _removed = fs::remove_dir(&self.folder);
    }
}
