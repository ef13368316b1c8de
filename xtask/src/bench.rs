//! `cargo xtask bench`: builds what is measured and what it is measured against, and runs it.
//!
//! The kernel half is measured by `tests/bench/kernel.rs`, which may name the enforcer and aya, the
//! gateway by `bench_gateway`.

mod audit;

use std::process::Command;

use anyhow::{Context as _, bail};
use clap::ValueEnum;

use crate::{bench_gateway, build, tiers};

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum What {
    /// The packet filter: root, xdp-tools, nftables, ethtool.
    Kernel,
    /// The gateway beside nginx: root, nginx-light, wrk.
    Gateway,
    /// One execution beside docker exec, docker run and bwrap: root, dockerd, busybox-static,
    /// bubblewrap.
    Sandbox,
    /// What is left for an allowed client while others attack, beside nginx behind nftables: root,
    /// nginx-light, nftables, ethtool, wrk.
    Attack,
    /// The audit log: records a second, the cost of a record, and the reading commands beside jq
    /// and DuckDB.
    Audit,
}

pub(crate) fn run(what: What) -> anyhow::Result<()> {
    if what != What::Audit && !tiers::is_root()? {
        bail!("needs root");
    }
    match what {
        What::Kernel => kernel(),
        What::Gateway => bench_gateway::run(),
        What::Sandbox => sandbox(),
        What::Attack => attack(),
        What::Audit => audit::run(),
    }
}

fn sandbox() -> anyhow::Result<()> {
    let program = build::build(true).context("build the daemon")?;
    let root = xtask::root();
    let status = Command::new(env!("CARGO"))
        .args(["test", "--package", "clawsec-tests", "--bench", "sandbox"])
        .env("CLAWSEC_BIN", program)
        .env("CLAWSEC_BENCH_OUT", root.join("target/bench/sandbox.json"))
        .status()
        .context("run the benchmark")?;
    if !status.success() {
        bail!("the benchmark failed");
    }
    Ok(())
}

fn attack() -> anyhow::Result<()> {
    for (program, package) in [
        ("nginx", "nginx-light"),
        ("nft", "nftables"),
        ("ethtool", "ethtool"),
        ("wrk", "wrk"),
        ("curl", "curl"),
    ] {
        tiers::need(program, package)?;
    }
    let program = build::build(true).context("build the daemon")?;
    let load = build::load_generator().context("build what is behind")?;
    let bench = build::bench_object().context("build the benchmark's programs")?;
    let status = Command::new(env!("CARGO"))
        .args(["test", "--package", "clawsec-tests", "--bench", "kernel"])
        .env("CLAWSEC_BIN", program)
        .env("CLAWSEC_LOAD", load)
        .env("CLAWSEC_BENCH_OBJECT", bench)
        .env(
            "CLAWSEC_BENCH_OUT",
            xtask::root().join("target/bench/attack.json"),
        )
        .status()
        .context("run the benchmark")?;
    if !status.success() {
        bail!("the benchmark failed");
    }
    Ok(())
}

fn kernel() -> anyhow::Result<()> {
    build::build(false).context("build the kernel half")?;
    let bench = build::bench_object().context("build the benchmark's programs")?;
    let root = xtask::root();
    let status = Command::new(env!("CARGO"))
        .args(["test", "--package", "clawsec-tests", "--bench", "kernel"])
        .env("CLAWSEC_BPF_OBJECT", root.join("target/bpf/clawsec.o"))
        .env("CLAWSEC_BENCH_OBJECT", bench)
        .env("CLAWSEC_BENCH_OUT", root.join("target/bench/kernel.json"))
        .status()
        .context("run the benchmark")?;
    if !status.success() {
        bail!("the benchmark failed");
    }
    Ok(())
}
