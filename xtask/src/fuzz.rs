//! `cargo xtask fuzz`: every target of `fuzz/` by libFuzzer, for a bounded time.
//!
//! What is fuzzed has no `unsafe` of ours in it, so no sanitizer is asked for: a broken promise is
//! a panic. That needs no nightly compiler; coverage comes from the stable one's own passes. For
//! the `unsafe` of crates, and where a nightly is to be had: `cargo +nightly fuzz run frames`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail, ensure};
use xtask::{root, say};

use crate::setup::{output, run as step};

/// For each target, where nobody says otherwise.
pub(crate) const SECONDS: u32 = 20;

const CARGO_FUZZ_VERSION: &str = "0.13.2";

/// Runs one target or each of them; a crash is an error that names the input.
pub(crate) fn run(only: Option<&str>, seconds: u32) -> Result<()> {
    let all = targets()?;
    let wanted: Vec<&String> = match only {
        None => all.iter().collect(),
        Some(name) => {
            let known = all.iter().find(|target| *target == name);
            let known = known
                .with_context(|| format!("no fuzz target {name}; there are {}", all.join(", ")))?;
            vec![known]
        }
    };
    let tools = cargo_fuzz().context("the fuzz targets cannot run here: needs cargo-fuzz")?;
    step(
        cargo(&tools)
            .args(["fuzz", "build", "--sanitizer", "none"])
            .args(only),
    )
    .context("build the fuzz targets")?;
    let mut crashed = Vec::new();
    for target in &wanted {
        say(&format!("fuzz {target}, {seconds} s"));
        let corpus = folder().join("corpus").join(target);
        fs::create_dir_all(&corpus).with_context(|| format!("make {}", corpus.display()))?;
        let status = cargo(&tools)
            .args(["fuzz", "run", "--sanitizer", "none", target.as_str()])
            // New inputs go to the first folder; the seeds are only read.
            .arg(&corpus)
            .arg(folder().join("seeds").join(target))
            .arg("--")
            .arg(format!("-max_total_time={seconds}"))
            .args(["-max_len=16384", "-timeout=30", "-rss_limit_mb=2048"])
            .args(["-print_final_stats=1", "-verbosity=0", "-close_fd_mask=1"])
            .status()
            .context("run cargo fuzz")?;
        if status.success() {
            continue;
        }
        match newest(&folder().join("artifacts").join(target)) {
            None => crashed.push(format!("{target}: no input was kept")),
            Some(input) if was_slow_once(&tools, target, &input)? => say(&format!(
                "fuzz {target}: one input took over 30 s once and none alone: the machine stood still"
            )),
            Some(input) => crashed.push(format!("{target}: the input is {}", input.display())),
        }
    }
    if crashed.is_empty() {
        say(&format!(
            "{} fuzz targets, {seconds} s each: no crash",
            wanted.len()
        ));
        Ok(())
    } else {
        bail!("fuzz targets crashed: {}", crashed.join("; "))
    }
}

/// Whether this is an input that took too long, and ends in time when it is run alone. libFuzzer
/// goes by the wall clock, which runs on while the machine is suspended.
fn was_slow_once(tools: &Path, target: &str, input: &Path) -> Result<bool> {
    let name = input.file_name().and_then(|name| name.to_str());
    if !name.is_some_and(|name| name.starts_with("timeout-")) {
        return Ok(false);
    }
    let alone = cargo(tools)
        .args(["fuzz", "run", "--sanitizer", "none", target])
        .arg(input)
        .args(["--", "-timeout=30"])
        .status()
        .context("run cargo fuzz")?;
    if alone.success() {
        fs::remove_file(input).with_context(|| format!("remove {}", input.display()))?;
    }
    Ok(alone.success())
}

fn folder() -> PathBuf {
    root().join("fuzz")
}

/// The names of the targets, in order.
fn targets() -> Result<Vec<String>> {
    let files = fs::read_dir(folder().join("fuzz_targets")).context("read fuzz/fuzz_targets")?;
    let mut names: Vec<String> = files
        .filter_map(|file| {
            let path = file.ok()?.path();
            Some(path.file_stem()?.to_str()?.to_owned())
        })
        .collect();
    names.sort();
    ensure!(!names.is_empty(), "fuzz/fuzz_targets is empty");
    Ok(names)
}

/// The folder that holds `cargo-fuzz`, which is built once into `target/tools`.
fn cargo_fuzz() -> Result<PathBuf> {
    let tools = root().join("target/tools");
    let own = tools.join("bin/cargo-fuzz");
    let found = output(Command::new(&own).args(["fuzz", "--version"]));
    if found.is_none_or(|version| !version.ends_with(CARGO_FUZZ_VERSION)) {
        say("building cargo-fuzz; once");
        step(
            Command::new(env!("CARGO"))
                .args([
                    "install",
                    "cargo-fuzz",
                    "--locked",
                    "--version",
                    CARGO_FUZZ_VERSION,
                ])
                .arg("--root")
                .arg(&tools)
                .env_remove("CARGO_TARGET_DIR"),
        )?;
    }
    Ok(tools.join("bin"))
}

/// Cargo in the fuzz crate's folder, with cargo-fuzz to be found.
fn cargo(tools: &Path) -> Command {
    let mut cargo = Command::new(env!("CARGO"));
    let path = std::env::var_os("PATH").unwrap_or_default();
    let paths = std::iter::once(tools.to_owned()).chain(std::env::split_paths(&path));
    if let Ok(paths) = std::env::join_paths(paths) {
        cargo.env("PATH", paths);
    }
    // What a panic says first is enough.
    cargo.current_dir(folder()).env("RUST_BACKTRACE", "0");
    cargo
}

fn newest(folder: &Path) -> Option<PathBuf> {
    let entries = fs::read_dir(folder).ok()?.filter_map(Result::ok);
    entries
        .max_by_key(|entry| entry.metadata().and_then(|meta| meta.modified()).ok())
        .map(|entry| entry.path())
}
