//! `cargo xtask ci`: the whole gate, the same for a person and for CI.

use std::process::Command;

use anyhow::{Context as _, bail};

use crate::{build, deny, fuzz, reproduce, tidy, tiers};
use xtask::say;

/// Format, lints on the host and BPF crates, tidy, dependencies, the BPF object a second time, docs,
/// the fuzz targets, then every tier.
pub(crate) fn run(skip_tests: bool) -> anyhow::Result<()> {
    step("format", &["fmt", "--all", "--check"], &[])?;
    tidy::run()?;
    step(
        "lints",
        &[
            "clippy",
            "--workspace",
            "--all-targets",
            "--",
            "-D",
            "warnings",
        ],
        &[],
    )?;
    build::lint_kernel_half()?;
    deny::run()?;
    reproduce::run()?;
    step(
        "docs",
        &["doc", "--workspace", "--no-deps", "--quiet"],
        &[("RUSTDOCFLAGS", "-D warnings")],
    )?;
    if skip_tests {
        return Ok(());
    }
    fuzz::run(None, fuzz::SECONDS)?;
    tiers::run(tiers::Wanted {
        strict: true,
        ..tiers::Wanted::default()
    })
}

fn step(name: &str, arguments: &[&str], environment: &[(&str, &str)]) -> anyhow::Result<()> {
    say(name);
    let status = Command::new(env!("CARGO"))
        .args(arguments)
        .envs(environment.iter().copied())
        .current_dir(xtask::root())
        .status()
        .with_context(|| format!("run cargo {}", arguments.join(" ")))?;
    if status.success() {
        Ok(())
    } else {
        bail!("{name}: cargo {} failed", arguments.join(" "))
    }
}
