//! Rows to tables and JSON, each aim beside what was reached.

use std::fs;

use anyhow::{Context as _, Result};
use serde_json::json;
use xtask::say;

use super::load::{Kind, Sample};
use super::servers::{CLAWSEC, NGINX, NGINX_KEEPALIVE};
use super::{ROUNDS, SECONDS};

/// One kind of load on one server.
pub(super) struct Row {
    kind: Kind,
    server: &'static str,
    /// The round with the median CPU time, with the median p99 of all.
    sample: Sample,
}

/// A server's memory with and without idle WebSockets.
pub(super) struct Memory {
    pub(super) server: &'static str,
    pub(super) empty_kib: u64,
    pub(super) full_kib: u64,
    pub(super) websockets: u16,
}

impl Row {
    pub(super) fn median(kind: Kind, server: &'static str, mut samples: Vec<Sample>) -> Self {
        let middle = samples.len() / 2;
        let mut p99s: Vec<f64> = samples.iter().map(|sample| sample.p99_us).collect();
        p99s.sort_by(f64::total_cmp);
        let p99_us = p99s.get(middle).copied().unwrap_or(f64::NAN);
        let failed = samples.iter().map(|sample| sample.failed).sum();
        samples.sort_by(|a, b| a.cpu_us.total_cmp(&b.cpu_us));
        let sample = Sample {
            p99_us,
            failed,
            ..samples.swap_remove(middle)
        };
        Self {
            kind,
            server,
            sample,
        }
    }
}

impl Memory {
    fn kb_each(&self) -> f64 {
        let grown = self.full_kib.saturating_sub(self.empty_kib);
        #[expect(clippy::cast_precision_loss, reason = "kibibytes of a process")]
        let grown_bytes = grown as f64 * 1024.0;
        grown_bytes / 1000.0 / f64::from(self.websockets)
    }
}

/// Prints the tables and writes the JSON.
pub(super) fn write(rows: &[Row], memory: &[Memory]) -> Result<()> {
    let find = |kind: Kind, server: &str| {
        let found = rows
            .iter()
            .find(|row| row.kind == kind && row.server == server);
        found.map(|row| row.sample)
    };
    say("\n| measured | server | CPU µs | of nginx's | answers/s | p50 µs | p99 µs | failed |");
    say("|---|---|---|---|---|---|---|---|");
    let mut told = Vec::new();
    for Row {
        kind,
        server,
        sample,
    } in rows
    {
        let nginx = find(*kind, NGINX).map_or(f64::NAN, |nginx| nginx.cpu_us);
        let ratio = sample.cpu_us / nginx;
        let kind = kind.name();
        say(&format!(
            "| {kind} | {server} | {:.1} | {ratio:.2} | {:.0} | {:.0} | {:.0} | {:.0} |",
            sample.cpu_us, sample.per_second, sample.p50_us, sample.p99_us, sample.failed
        ));
        told.push(json!({
            "measured": kind, "server": server, "cpuUs": sample.cpu_us, "ofNginx": number(ratio),
            "perSecond": sample.per_second, "p50Us": sample.p50_us, "p99Us": sample.p99_us,
            "failed": sample.failed,
        }));
    }
    say("\n| resident, all processes | at rest, KiB | with WebSockets | of them | kB each |");
    say("|---|---|---|---|---|");
    let mut resident = Vec::new();
    for Memory {
        server,
        empty_kib,
        full_kib,
        websockets,
    } in memory
    {
        let kb_each = memory
            .iter()
            .find(|memory| memory.server == *server)
            .map_or(f64::NAN, Memory::kb_each);
        say(&format!(
            "| {server} | {empty_kib} | {full_kib} | {websockets} | {kb_each:.1} |"
        ));
        resident.push(json!({
            "server": server, "emptyKib": empty_kib, "fullKib": full_kib,
            "websockets": websockets, "kbEach": number(kb_each),
        }));
    }
    say("\n| aim | wanted | reached | |\n|---|---|---|---|");
    let mut judged = Vec::new();
    for (what, most, reached) in aims(&find, memory) {
        let verdict = if reached <= most {
            "met"
        } else if reached.is_nan() {
            "not measured"
        } else {
            "**missed**"
        };
        say(&format!(
            "| {what} | at most {most} | {reached:.2} | {verdict} |"
        ));
        judged.push(json!({ "aim": what, "most": most, "reached": number(reached) }));
    }
    let text = json!({
        "seconds": SECONDS, "rounds": ROUNDS, "rows": told, "resident": resident, "aims": judged,
    });
    let out = xtask::root().join("target/bench/gateway.json");
    if let Some(parent) = out.parent() {
        fs::create_dir_all(parent).context("make the output's folder")?;
    }
    fs::write(&out, serde_json::to_string_pretty(&text)?)
        .with_context(|| format!("write {}", out.display()))
}

/// What the gateway is held to: name, most, reached.
fn aims(find: &dyn Fn(Kind, &str) -> Option<Sample>, memory: &[Memory]) -> Vec<(String, f64, f64)> {
    let ratio =
        |kind, nginx: &str, of: fn(Sample) -> f64| match (find(kind, CLAWSEC), find(kind, nginx)) {
            (Some(ours), Some(theirs)) => of(ours) / of(theirs),
            _ => f64::NAN,
        };
    let cpu: fn(Sample) -> f64 = |sample| sample.cpu_us;
    let p99: fn(Sample) -> f64 = |sample| sample.p99_us;
    let frame = Kind::Frame(1024);
    let each = memory.iter().find(|memory| memory.server == CLAWSEC);
    let mut aims = Vec::new();
    for nginx in [NGINX, NGINX_KEEPALIVE] {
        let mut aim = |what: &str, most, reached| {
            aims.push((format!("{what}, of: {nginx}"), most, reached));
        };
        let (request, new) = (Kind::Request, Kind::NewConnection);
        aim(
            "CPU of a kept-alive request",
            1.0,
            ratio(request, nginx, cpu),
        );
        aim(
            "p99 of a kept-alive request",
            1.25,
            ratio(request, nginx, p99),
        );
        aim("CPU of a new TLS connection", 0.7, ratio(new, nginx, cpu));
        aim("p99 of a new TLS connection", 1.25, ratio(new, nginx, p99));
    }
    aims.push((
        "CPU of a WebSocket frame of 1 kB, judged and recorded, and its echo; of nginx's relay"
            .into(),
        1.5,
        ratio(frame, NGINX, cpu),
    ));
    aims.push((
        "resident for an idle WebSocket, kB".into(),
        20.0,
        each.map_or(f64::NAN, Memory::kb_each),
    ));
    aims
}

/// JSON has no number for what was not measured.
fn number(figure: f64) -> Option<f64> {
    figure.is_finite().then_some(figure)
}
