//! What the guest sees: an initramfs of the test binary and what it starts.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};
use xtask::root;

use super::{PROGRAMS, folder, golden_folder};
use crate::setup::run;

/// Packs the guest's files.
pub(super) fn initramfs(tests: &Path, veth: &Path) -> Result<PathBuf> {
    let tree = folder().join("root");
    if tree.exists() {
        fs::remove_dir_all(&tree).with_context(|| format!("remove {}", tree.display()))?;
    }
    for name in ["bin", "dev", "proc", "sys", "tmp", "run", "golden"] {
        let name = tree.join(name);
        fs::create_dir_all(&name).with_context(|| format!("make {}", name.display()))?;
    }
    let busybox = which("busybox")?;
    copy(&busybox, &tree.join("bin/busybox"))?;
    let mut binaries = vec![tree.join("tests")];
    copy(tests, &tree.join("tests"))?;
    for (program, _) in PROGRAMS {
        let place = tree.join("bin").join(program);
        copy(&which(program)?, &place)?;
        binaries.push(place);
    }
    for library in libraries(&binaries)? {
        let place = tree.join(library.strip_prefix("/").unwrap_or(&library));
        if let Some(folder) = place.parent() {
            fs::create_dir_all(folder).with_context(|| format!("make {}", folder.display()))?;
        }
        copy(&library, &place)?;
    }
    copy(veth, &tree.join("veth.ko"))?;
    copy(
        &root().join("target/bpf/clawsec.o"),
        &tree.join("clawsec.o"),
    )?;
    for file in fs::read_dir(golden_folder()).context("read the golden files")? {
        let file = file.context("read the golden files")?;
        copy(&file.path(), &tree.join("golden").join(file.file_name()))?;
    }
    symlink("busybox", tree.join("bin/sh")).context("link the guest's shell")?;
    let init = tree.join("init");
    fs::write(&init, include_str!("init.sh")).context("write the guest's init")?;
    fs::set_permissions(&init, fs::Permissions::from_mode(0o755)).context("make init run")?;
    let archive = folder().join("initramfs");
    run(Command::new("sh")
        .args(["-ec", "find . | cpio --quiet -o -H newc >../initramfs"])
        .current_dir(&tree))?;
    Ok(archive)
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    fs::copy(from, to)
        .map(|_bytes| ())
        .with_context(|| format!("copy {} to {}", from.display(), to.display()))
}

fn which(program: &str) -> Result<PathBuf> {
    std::env::var_os("PATH")
        .and_then(|path| {
            std::env::split_paths(&path)
                .map(|folder| folder.join(program))
                .find(|file| file.is_file())
        })
        .with_context(|| format!("no {program} in PATH"))
}

/// The shared libraries of these, the dynamic linker among them.
fn libraries(binaries: &[PathBuf]) -> Result<std::collections::BTreeSet<PathBuf>> {
    let output = Command::new("ldd")
        .args(binaries)
        .output()
        .context("run ldd")?;
    let text = String::from_utf8_lossy(&output.stdout);
    let named = text.lines().filter(|line| line.starts_with('\t'));
    Ok(named
        .filter_map(|line| line.split_whitespace().find(|word| word.starts_with('/')))
        .map(PathBuf::from)
        .collect())
}
