//! The files of a package, where they are installed, with their modes.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result};
use xtask::root;

use super::printed;

/// From `packaging/` and the top: source, place, mode.
const FILES: [(&str, &str, u32); 10] = [
    (
        "packaging/systemd/clawsec.service",
        "usr/lib/systemd/system/clawsec.service",
        0o644,
    ),
    (
        "packaging/systemd/clawsec.socket",
        "usr/share/doc/clawsec/examples/clawsec.socket",
        0o644,
    ),
    (
        "packaging/lnav/clawsec.json",
        "etc/lnav/formats/clawsec/clawsec.json",
        0o644,
    ),
    (
        "packaging/clawsec.example.json5",
        "usr/share/doc/clawsec/examples/clawsec.example.json5",
        0o644,
    ),
    (
        "packaging/grafana/clawsec.json",
        "usr/share/doc/clawsec/examples/grafana.json",
        0o644,
    ),
    (
        "packaging/prometheus/clawsec.rules.yml",
        "usr/share/doc/clawsec/examples/prometheus.rules.yml",
        0o644,
    ),
    ("LICENSE-MIT", "usr/share/doc/clawsec/LICENSE-MIT", 0o644),
    (
        "LICENSE-APACHE",
        "usr/share/doc/clawsec/LICENSE-APACHE",
        0o644,
    ),
    ("README.md", "usr/share/doc/clawsec/README.md", 0o644),
    ("CHANGELOG.md", "usr/share/doc/clawsec/CHANGELOG.md", 0o644),
];

const COPYRIGHT: &str = "\
Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/
Upstream-Name: clawsec

Files: *
Copyright: the clawsec authors
License: MIT or Apache-2.0
 Both are in this folder: LICENSE-MIT, LICENSE-APACHE.
";

/// Makes the tree below `tree`; `clawsec` is the built program, `clawsec-top` stands beside it.
pub(super) fn make(tree: &Path, clawsec: &Path) -> Result<()> {
    let top = clawsec.with_file_name("clawsec-top");
    for program in [clawsec, &top] {
        let name = program.file_name().context("a program has a name")?;
        install(program, &tree.join("usr/sbin").join(name), 0o755)?;
    }
    for (from, to, mode) in FILES {
        install(&root().join(from), &tree.join(to), mode)?;
    }
    write(
        &tree.join("usr/share/doc/clawsec/copyright"),
        COPYRIGHT.as_bytes(),
    )?;
    for (shell, place) in [
        ("bash", "usr/share/bash-completion/completions/clawsec"),
        ("zsh", "usr/share/zsh/vendor-completions/_clawsec"),
        ("fish", "usr/share/fish/vendor_completions.d/clawsec.fish"),
    ] {
        let text = printed(Command::new(clawsec).args(["completions", shell]))?;
        write(&tree.join(place), &text)?;
    }
    let pages = tree.join("usr/share/man/man8");
    printed(Command::new(clawsec).args(["man", "--out"]).arg(&pages))?;
    for page in fs::read_dir(&pages).context("list the man pages")? {
        let page = page.context("list the man pages")?.path();
        // -n: no name and no time in it, so that two builds give the same bytes.
        printed(Command::new("gzip").args(["-9", "-n"]).arg(&page))?;
    }
    Ok(())
}

pub(super) fn install(from: &Path, to: &Path, mode: u32) -> Result<()> {
    let text = fs::read(from).with_context(|| format!("read {}", from.display()))?;
    write(to, &text)?;
    fs::set_permissions(to, fs::Permissions::from_mode(mode))
        .with_context(|| format!("set the mode of {}", to.display()))
}

fn write(path: &Path, text: &[u8]) -> Result<()> {
    let folder = path.parent().context("a file stands in a folder")?;
    fs::create_dir_all(folder).with_context(|| format!("make {}", folder.display()))?;
    fs::write(path, text).with_context(|| format!("write {}", path.display()))
}
