//! `cargo xtask reproduce`: the BPF object, built a second time from a copy of the source in
//! another folder, has the same bytes.
//!
//! Who audits the object may build it on another machine with the same compiler and linker and
//! compare its checksum (SHA256SUMS of a release names it).

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use xtask::{root, say};

use crate::build;
use crate::setup::{output, setup};

/// Builds twice and compares; a difference is an error that names both files.
pub(crate) fn run() -> Result<()> {
    let toolchain = setup()?;
    let first = build::kernel_half(&toolchain, &root())?;
    // Its name is longer than the source's own folder, and not below the same parent: a path that
    // slips into the object changes its size, not only its letters.
    let copy = root().join("target/reproduce/another-place-for-the-same-source");
    copy_source(&copy)?;
    let second = build::kernel_half(&toolchain, &copy)?;
    let read = |path: &Path| fs::read(path).with_context(|| format!("read {}", path.display()));
    let (one, other) = (read(&first)?, read(&second)?);
    ensure!(
        one == other,
        "the BPF object differs from one folder to another: {} ({} bytes), {} ({} bytes); \
         `diff <(readelf -a A) <(readelf -a B)` shows where",
        first.display(),
        one.len(),
        second.display(),
        other.len(),
    );
    fs::remove_dir_all(&copy).with_context(|| format!("remove {}", copy.display()))?;
    say(&format!(
        "the BPF object is the same from two folders: {} bytes",
        one.len()
    ));
    Ok(())
}

/// What git keeps, as it stands in the working tree, in an empty folder.
fn copy_source(to: &Path) -> Result<()> {
    if to.exists() {
        fs::remove_dir_all(to).with_context(|| format!("remove {}", to.display()))?;
    }
    let files = output(
        Command::new("git")
            .args(["ls-files", "--cached", "--others", "--exclude-standard"])
            .current_dir(root()),
    )
    .context("ask git which files there are")?;
    for file in files.lines() {
        let (from, to) = (root().join(file), to.join(file));
        // Deleted, and not yet committed.
        if !from.is_file() {
            continue;
        }
        if let Some(folder) = to.parent() {
            fs::create_dir_all(folder).with_context(|| format!("make {}", folder.display()))?;
        }
        fs::copy(&from, &to).with_context(|| format!("copy {}", from.display()))?;
    }
    Ok(())
}
