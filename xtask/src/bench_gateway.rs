//! `cargo xtask bench gateway`: clawsec beside nginx, HAProxy and Caddy, in one run.
//!
//! One certificate, one upstream. Each server has CPU 0; what asks and what is behind have CPU 1.
//! What counts is CPU time by the kernel's own account, over all processes of a server, divided by
//! what was answered. The servers write their access logs; clawsec authenticates, judges, counts
//! against limits and writes its audit log. Loopback only, no packet filter.

mod files;
mod load;
mod report;
mod server;
mod servers;

use std::env;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;
use xtask::lab::ensure_user;
use xtask::say;

use self::files::Folder;
use self::load::{Kind, Load, Sample};
use self::report::{Memory, Row};
use self::server::Server;
use self::servers::{CLAWSEC, Contestant, contestants};
use crate::build;

const KEY: &str = "bench-key-of-thirty-two-characters";
/// A round of one kind on one server.
const SECONDS: u64 = 2;
const ROUNDS: usize = 3;
const IDLE_WEBSOCKETS: u16 = 10_000;
/// Descriptors of a server that are no client's.
const OWN_DESCRIPTORS: u64 = 400;
/// Measures one part: `pages`, `frames` or `memory`.
const ONLY: &str = "CLAWSEC_BENCH_ONLY";

pub(crate) fn run() -> Result<()> {
    let only = env::var(ONLY).ok();
    let is_asked = |part: &str| only.as_deref().is_none_or(|only| only == part);
    let kinds: Vec<Kind> = Kind::ALL
        .into_iter()
        .filter(|kind| is_asked(kind.part()))
        .collect();
    ensure!(
        !kinds.is_empty() || is_asked("memory"),
        "{ONLY} is pages, frames or memory"
    );
    for (program, package) in [("wrk", "wrk"), ("taskset", "util-linux"), ("curl", "curl")] {
        if server::version(program, "--version").is_none() {
            bail!("needs {program}: apt-get install {package}");
        }
    }
    let clawsec = build::build(true)?;
    let generator = build::load_generator()?;
    ensure_user("clawsec", None)?;
    ensure_user("clawsec-sbx", Some("/home/clawsec-sbx"))?;
    let folder = Folder::new()?;
    folder.certificate()?;
    let load = Load::new(generator, &folder);

    let upstream_port = server::free_port()?;
    let mut upstream = Server::start("1", &load.upstream(upstream_port), &folder)?;
    upstream.await_port(upstream_port)?;
    let mut found = Vec::new();
    for contestant in contestants(&clawsec, &folder, upstream_port)? {
        match contestant.version() {
            Some(version) => {
                say(&format!("{}: {version}", contestant.name));
                found.push(contestant);
            }
            None => say(&format!(
                "{}: SKIPPED, not installed (apt-get install {})",
                contestant.name, contestant.package
            )),
        }
    }
    let rows = measure_all(&found, &kinds, &load, &folder)?;
    let mut memory = Vec::new();
    if is_asked("memory") {
        let count = idle_websockets();
        for contestant in &found {
            memory.push(idle(contestant, count, &load, &folder)?);
        }
    }
    report::write(&rows, &memory)
}

/// As many as the machine lets one process have: each takes two descriptors of its server.
fn idle_websockets() -> u16 {
    let fit = server::descriptors().saturating_sub(OWN_DESCRIPTORS) / 2;
    u16::try_from(fit).map_or(IDLE_WEBSOCKETS, |fit| fit.min(IDLE_WEBSOCKETS))
}

/// Every kind of load on every server: rounds of one after the other, so that what else the
/// machine does hits all of them.
fn measure_all(
    found: &[Contestant],
    kinds: &[Kind],
    load: &Load,
    folder: &Folder,
) -> Result<Vec<Row>> {
    if kinds.is_empty() {
        return Ok(Vec::new());
    }
    let mut running = Vec::new();
    for contestant in found {
        running.push((contestant, contestant.start(folder)?));
    }
    let mut rows = Vec::new();
    let mut answered = 0.0;
    for &kind in kinds {
        let mut samples: Vec<Vec<Sample>> = running.iter().map(|_| Vec::new()).collect();
        for _ in 0..ROUNDS {
            for ((contestant, server), samples) in running.iter().zip(&mut samples) {
                let sample = load
                    .measure(kind, server, contestant.port, SECONDS)
                    .with_context(|| format!("{}: {}", contestant.name, kind.name()))?;
                samples.push(sample);
                if contestant.name == CLAWSEC {
                    answered += sample.answers;
                }
            }
        }
        for ((contestant, _), samples) in running.iter().zip(samples) {
            say(&format!("measured: {}, {}", kind.name(), contestant.name));
            rows.push(Row::median(kind, contestant.name, samples));
        }
    }
    for contestant in found.iter().filter(|found| found.name == CLAWSEC) {
        check_records(contestant.program(), answered, folder)?;
    }
    Ok(rows)
}

/// The figures count only if each answer left its record.
fn check_records(clawsec: &Path, answered: f64, folder: &Folder) -> Result<()> {
    let output = Command::new(clawsec)
        .args(["status", "--json", "--socket", &folder.path("admin.sock")])
        .output()
        .context("ask clawsec for its status")?;
    let status: Value = serde_json::from_slice(&output.stdout).context("read its status")?;
    let count = |name: &str| {
        status
            .get(name)
            .and_then(Value::as_f64)
            .context("its counts")
    };
    let (records, lost) = (count("audit_records")?, count("audit_lost")?);
    say(&format!(
        "clawsec: {answered} answers, {records} records, {lost} lost"
    ));
    ensure!(lost == 0.0 && records >= answered, "records are missing");
    Ok(())
}

/// A server's memory, just started and asked once, then with WebSockets that nobody uses.
fn idle(contestant: &Contestant, count: u16, load: &Load, folder: &Folder) -> Result<Memory> {
    let server = contestant.start(folder)?;
    let empty_kib = server.resident_kib();
    let held = load
        .hold_idle(contestant.port, count)
        .with_context(|| format!("{}: open WebSockets", contestant.name))?;
    let full_kib = server.resident_kib();
    drop(held);
    say(&format!("measured: memory, {}", contestant.name));
    Ok(Memory {
        server: contestant.name,
        empty_kib,
        full_kib,
        websockets: count,
    })
}
