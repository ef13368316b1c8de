//! `cargo xtask bench gateway`: clawsec and nginx in one run, the same certificate and upstream.
//!
//! Both serve on CPU 0; wrk and the upstream run on CPU 1. What counts is CPU time by the kernel's
//! own account, over all processes of a server, divided by what wrk was answered. nginx writes its
//! access log; clawsec authenticates, judges, counts against limits and writes its audit log.
//! Loopback only, no packet filter.

mod files;

use std::fs;
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use serde_json::{Value, json};
use xtask::lab::ensure_user;
use xtask::say;

use self::files::{Folder, config, nginx, upstream};
use crate::build;

const SECONDS: u64 = 5;
const ROUNDS: usize = 3;
const KEY: &str = "bench-key-of-thirty-two-characters";

/// What wrk is told to do.
const KINDS: [(&str, &[&str]); 2] = [
    ("request, kept alive", &[]),
    (
        "request on a new TLS connection",
        &["-H", "Connection: close"],
    ),
];

pub(crate) fn run() -> Result<()> {
    for program in ["nginx", "wrk", "taskset"] {
        let found = Command::new("which")
            .arg(program)
            .stdout(Stdio::null())
            .status();
        if !found.is_ok_and(|status| status.success()) {
            bail!("needs nginx, wrk and taskset: apt-get install nginx-light wrk util-linux");
        }
    }
    let clawsec = build::build(true)?;
    ensure_user("clawsec", None)?;
    ensure_user("clawsec-sbx", Some("/home/clawsec-sbx"))?;
    let folder = Folder::new()?;
    let [upstream_port, nginx_port, clawsec_port] = free_ports()?;
    folder.certificate()?;
    folder.write("upstream.conf", &upstream(&folder, upstream_port))?;
    folder.write("nginx.conf", &nginx(&folder, nginx_port, upstream_port))?;
    folder.write(
        "clawsec.json",
        &config(&folder, clawsec_port, upstream_port).to_string(),
    )?;

    let _upstream = Server::start(
        "1",
        "nginx",
        &["-c", &folder.path("upstream.conf")],
        &folder,
    )?;
    let mut servers = [
        (
            "nginx",
            nginx_port,
            Server::start("0", "nginx", &["-c", &folder.path("nginx.conf")], &folder)?,
        ),
        (
            "clawsec",
            clawsec_port,
            Server::start(
                "0",
                &clawsec.display().to_string(),
                &[
                    "run",
                    "--no-xdp",
                    "--config",
                    &folder.path("clawsec.json"),
                    "--state-dir",
                    &folder.path("state"),
                ],
                &folder,
            )?,
        ),
    ];
    for (name, port, server) in &mut servers {
        server.await_ready(name, *port)?;
    }
    let mut rows = Vec::new();
    for (kind, arguments) in KINDS {
        // Rounds of one after the other: what else the machine does hits both.
        let mut samples = [Vec::new(), Vec::new()];
        for _ in 0..ROUNDS {
            for ((_, port, server), samples) in servers.iter().zip(&mut samples) {
                samples.push(measure(server, *port, arguments)?);
            }
        }
        for ((name, ..), mut samples) in servers.iter().zip(samples) {
            samples.sort_by(|a, b| a.cpu_us.total_cmp(&b.cpu_us));
            let median = samples.swap_remove(samples.len() / 2);
            rows.push((kind, *name, median));
        }
    }
    let resident: Vec<(&str, u64)> = servers
        .iter()
        .map(|(name, _, server)| (*name, server.resident_kib()))
        .collect();
    report(&rows, &resident)
}

#[derive(Debug)]
struct Sample {
    /// Of the server's CPU, for each answer.
    cpu_us: f64,
    per_second: f64,
    p99_us: f64,
    errors: u64,
}

fn measure(server: &Server, port: u16, arguments: &[&str]) -> Result<Sample> {
    let before = server.cpu()?;
    let output = Command::new("taskset")
        .args(["-c", "1", "wrk", "-t1", "-c32", "-s"])
        .arg(server.script.as_os_str())
        .arg(format!("-d{SECONDS}s"))
        .args(["-H", &format!("Authorization: Bearer {KEY}")])
        .args(arguments)
        .arg(format!("https://127.0.0.1:{port}/"))
        .output()
        .context("run wrk")?;
    let spent = server.cpu()?.saturating_sub(before);
    let text = String::from_utf8_lossy(&output.stdout);
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("clawsec-bench "));
    let figures: Vec<f64> = line
        .with_context(|| format!("wrk said: {text}"))?
        .split(' ')
        .filter_map(|figure| figure.parse().ok())
        .collect();
    let [answers, microseconds, p99_us, errors] = figures[..] else {
        bail!("wrk said: {text}");
    };
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a count"
    )]
    Ok(Sample {
        cpu_us: spent.as_secs_f64() * 1e6 / answers.max(1.0),
        per_second: answers * 1e6 / microseconds,
        p99_us,
        errors: errors as u64,
    })
}

fn report(rows: &[(&str, &str, Sample)], resident: &[(&str, u64)]) -> Result<()> {
    say(
        "\n| measured | server | CPU µs | answers/s | p99 µs | of nginx's CPU | failed |\n|---|---|---|---|---|---|---|",
    );
    let mut told = Vec::new();
    for (kind, name, sample) in rows {
        let nginx = rows
            .iter()
            .find(|(other, by, _)| other == kind && *by == "nginx");
        let ratio = nginx.map_or(f64::NAN, |(_, _, nginx)| sample.cpu_us / nginx.cpu_us);
        say(&format!(
            "| {kind} | {name} | {:.0} | {:.0} | {:.0} | {ratio:.2} | {} |",
            sample.cpu_us, sample.per_second, sample.p99_us, sample.errors
        ));
        told.push(json!({
            "measured": kind, "server": name, "cpuUs": sample.cpu_us,
            "perSecond": sample.per_second, "p99Us": sample.p99_us, "ofNginx": ratio,
            "failed": sample.errors,
        }));
    }
    for (name, kib) in resident {
        say(&format!(
            "| resident afterwards, all processes | {name} | {kib} KiB | | | | |"
        ));
    }
    let out = xtask::root().join("target/bench/gateway.json");
    if let Some(parent) = out.parent() {
        fs::create_dir_all(parent).context("make the output's folder")?;
    }
    let resident: Value = resident
        .iter()
        .map(|(name, kib)| ((*name).to_owned(), json!(kib)))
        .collect::<serde_json::Map<_, _>>()
        .into();
    let text =
        json!({ "seconds": SECONDS, "rounds": ROUNDS, "rows": told, "residentKib": resident });
    fs::write(&out, serde_json::to_string_pretty(&text)?)
        .with_context(|| format!("write {}", out.display()))
}

/// A server and all the processes it starts; stopped when dropped.
struct Server {
    child: Child,
    script: PathBuf,
}

impl Server {
    fn start(cpu: &str, program: &str, arguments: &[&str], folder: &Folder) -> Result<Self> {
        let log = fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(folder.0.join("servers.log"))
            .context("open the servers' log")?;
        let child = Command::new("taskset")
            .args(["-c", cpu, program])
            .args(arguments)
            .stdin(Stdio::null())
            .stderr(log)
            .spawn()
            .with_context(|| format!("start {program}"))?;
        Ok(Self {
            child,
            script: folder.0.join("report.lua"),
        })
    }

    fn await_ready(&mut self, name: &str, port: u16) -> Result<()> {
        let deadline = Instant::now() + Duration::from_secs(20);
        while Instant::now() < deadline {
            if let Some(status) = self.child.try_wait().context("look at a server")? {
                bail!("{name} ended: {status}");
            }
            let answered = Command::new("curl")
                .args([
                    "-skf",
                    "-o",
                    "/dev/null",
                    "-H",
                    &format!("X-API-Key: {KEY}"),
                ])
                .arg(format!("https://127.0.0.1:{port}/"))
                .status();
            if answered.is_ok_and(|status| status.success()) {
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        bail!("{name} does not answer")
    }

    /// User and system time of all its living processes.
    fn cpu(&self) -> Result<Duration> {
        let processes = self.processes();
        let ticks: u64 = processes.iter().map(|stat| stat.ticks).sum();
        if processes.is_empty() {
            bail!("a server's processes are gone");
        }
        // USER_HZ is 100 on every architecture that Linux still has.
        Ok(Duration::from_millis(ticks * 10))
    }

    fn resident_kib(&self) -> u64 {
        self.processes()
            .iter()
            .map(|stat| stat.resident_pages * 4)
            .sum()
    }

    fn processes(&self) -> Vec<Stat> {
        let Ok(entries) = fs::read_dir("/proc") else {
            return Vec::new();
        };
        let all: Vec<Stat> = entries
            .flatten()
            .filter_map(|entry| Stat::parse(&fs::read_to_string(entry.path().join("stat")).ok()?))
            .collect();
        let mut found = vec![u64::from(self.child.id())];
        let mut next = 0;
        while let Some(parent) = found.get(next).copied() {
            found.extend(
                all.iter()
                    .filter(|stat| stat.parent == parent)
                    .map(|stat| stat.pid),
            );
            next += 1;
        }
        all.into_iter()
            .filter(|stat| found.contains(&stat.pid))
            .collect()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _gone = Command::new("kill")
            .args(["-TERM", &self.child.id().to_string()])
            .status();
        let _reaped = self.child.wait();
    }
}

struct Stat {
    pid: u64,
    parent: u64,
    ticks: u64,
    resident_pages: u64,
}

impl Stat {
    /// proc(5): the name in parentheses may hold anything, so fields count from its end.
    fn parse(text: &str) -> Option<Self> {
        let (before, after) = text.rsplit_once(')')?;
        let fields: Vec<&str> = after.split_whitespace().collect();
        let number = |index: usize| fields.get(index)?.parse::<u64>().ok();
        Some(Self {
            pid: before.split(' ').next()?.parse().ok()?,
            parent: number(1)?,
            ticks: number(11)? + number(12)?,
            resident_pages: number(21)?,
        })
    }
}

fn free_ports() -> Result<[u16; 3]> {
    let bind = || TcpListener::bind("127.0.0.1:0").context("find a free port");
    let bound = [bind()?, bind()?, bind()?];
    let port = |listener: &TcpListener| anyhow::Ok(listener.local_addr()?.port());
    Ok([port(&bound[0])?, port(&bound[1])?, port(&bound[2])?])
}
