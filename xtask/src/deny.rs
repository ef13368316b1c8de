//! `cargo xtask deny`: the dependencies held against `deny.toml`.
//!
//! Licences, sources and duplicates need nothing from outside. Advisories need the RustSec
//! database; where it is not to be had, that is said, and the rest still holds.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use xtask::{root, say};

use crate::setup::{output, run as step};

const VERSION: &str = "0.20.2";

/// Both workspaces: what is shipped with what tests it, and the fuzz targets.
pub(crate) fn run() -> Result<()> {
    let tools = cargo_deny().context("the dependencies cannot be checked: needs cargo-deny")?;
    let manifests = [root().join("Cargo.toml"), root().join("fuzz/Cargo.toml")];
    for manifest in &manifests {
        step(
            deny(&tools, manifest)
                .args(["check", "licenses", "bans", "sources"])
                // Each workspace has one that the other has not.
                .args(["--allow", "license-exception-not-encountered"]),
        )
        .context("a dependency is not as deny.toml wants it")?;
    }
    let fetched = output(deny(&tools, &manifests[0]).args(["fetch", "db"])).is_some();
    if !fetched && !is_kept() {
        say("advisories NOT CHECKED: the RustSec database is not to be had here");
        return Ok(());
    }
    if !fetched {
        say("the RustSec database is not to be had here; taking the one that was last fetched");
    }
    for manifest in &manifests {
        step(deny(&tools, manifest).args(["--offline", "check", "advisories"]))
            .context("a dependency has an advisory")?;
    }
    Ok(())
}

/// Whether an earlier run left the database where cargo-deny keeps it.
fn is_kept() -> bool {
    let home = std::env::var_os("CARGO_HOME").map(PathBuf::from);
    let home = home.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cargo")));
    let entries = home.and_then(|home| fs::read_dir(home.join("advisory-dbs")).ok());
    entries.is_some_and(|entries| {
        let mut folders = entries.filter_map(Result::ok).map(|entry| entry.path());
        folders.any(|folder| folder.join(".git").exists())
    })
}

fn deny(program: &Path, manifest: &Path) -> Command {
    let mut command = Command::new(program);
    command
        .args(["--log-level", "warn", "--manifest-path"])
        .arg(manifest)
        .args(["--config"])
        .arg(root().join("deny.toml"))
        .current_dir(root());
    command
}

/// `cargo-deny`, which is built once into `target/tools`.
fn cargo_deny() -> Result<PathBuf> {
    let tools = root().join("target/tools");
    let own = tools.join("bin/cargo-deny");
    let is_it = |version: String| version.ends_with(VERSION);
    if !output(Command::new(&own).arg("--version")).is_some_and(is_it) {
        say("building cargo-deny; once, and it takes a few minutes");
        step(
            Command::new(env!("CARGO"))
                .args(["install", "cargo-deny", "--locked", "--version", VERSION])
                .arg("--root")
                .arg(&tools)
                .env_remove("CARGO_TARGET_DIR"),
        )?;
    }
    let built = output(Command::new(&own).arg("--version"));
    ensure!(built.is_some_and(is_it), "{} was not built", own.display());
    Ok(own)
}
