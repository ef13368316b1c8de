//! The client who only wants to be served.

use anyhow::{Context as _, Result, ensure};
use xtask::lab::{GATEWAY_INSIDE, Host};

use super::servers::{KEY, World};

/// Of one measurement.
pub(crate) const SECONDS: u64 = 3;

/// Answers a second, without and with the attack.
#[derive(Debug, Default, Clone)]
pub(crate) struct Goodput {
    pub(crate) quiet: Vec<f64>,
    pub(crate) under: Vec<f64>,
}

impl Goodput {
    pub(crate) fn quiet(&self) -> f64 {
        median(&self.quiet)
    }

    pub(crate) fn under(&self) -> f64 {
        median(&self.under)
    }

    pub(crate) fn share(&self) -> f64 {
        self.under() / self.quiet()
    }
}

fn median(samples: &[f64]) -> f64 {
    let mut samples = samples.to_vec();
    samples.sort_by(f64::total_cmp);
    samples.get(samples.len() / 2).copied().unwrap_or(f64::NAN)
}

/// wrk on CPU 0, eight connections that are kept.
pub(crate) fn answers_a_second(world: &World) -> Result<f64> {
    let output = world
        .lab
        .command(Host::Inside, "taskset")
        .args(["-c", "0", "wrk", "-t1", "-c8", "--timeout", "5s"])
        .arg(format!("-d{SECONDS}s"))
        .args(["-H", &format!("X-API-Key: {KEY}")])
        .arg(format!("https://{GATEWAY_INSIDE}:8443/"))
        .output()
        .context("run wrk")?;
    let said = String::from_utf8_lossy(&output.stdout);
    ensure!(output.status.success(), "wrk: {said}");
    ensure!(!said.contains("Non-2xx"), "the client was refused: {said}");
    let rate = said
        .lines()
        .find_map(|line| line.strip_prefix("Requests/sec:"));
    let rate = rate.context("wrk says no rate")?.trim().parse();
    rate.context("read wrk's rate")
}
