//! The writing half, in a release build: the figures are of clawsec's own code.

use std::process::Command;

use anyhow::{Context as _, bail};

pub(super) fn run() -> anyhow::Result<()> {
    let folder = xtask::root().join("target/bench");
    std::fs::create_dir_all(&folder).context("make target/bench")?;
    let status = Command::new(env!("CARGO"))
        .args([
            "bench",
            "--package",
            "clawsec-tests",
            "--bench",
            "audit_writing",
        ])
        // On a disk, where temporary folders may be memory.
        .env("CLAWSEC_BENCH_FOLDER", &folder)
        .env("CLAWSEC_BENCH_OUT", folder.join("audit-writing.json"))
        .status()
        .context("run the benchmark")?;
    if !status.success() {
        bail!("the benchmark failed");
    }
    Ok(())
}
