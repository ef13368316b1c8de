//! `cargo xtask dist`: a Debian package and an archive, with what is in them and how hard they are.
//!
//! Both hold the same tree. Everything in it is made here: the programs by a release build, the
//! completions and man pages by the program itself, the rest from `packaging/`.

mod elf;
mod guest;
mod sbom;
mod tree;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail, ensure};
use xtask::{root, say};

use crate::build;
use crate::setup::run as step;
use crate::tiers::need;

/// The version of all that is shipped.
pub(super) const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Builds everything into `target/dist`; `debug` takes the programs as they are for tests, `tried`
/// has the package installed, started, upgraded and removed on a Debian of its own.
pub(crate) fn dist(debug: bool, tried: bool) -> Result<()> {
    need("dpkg-deb", "dpkg")?;
    need("tar", "tar")?;
    need("readelf", "binutils")?;
    let clawsec = build::build(!debug)?;
    let folder = folder();
    if folder.exists() {
        fs::remove_dir_all(&folder).context("empty target/dist")?;
    }
    let tree = folder.join("tree");
    tree::make(&tree, &clawsec)?;

    let programs = ["clawsec", "clawsec-top"].map(|name| tree.join("usr/sbin").join(name));
    let hardening = elf::describe(&programs)?;
    if !debug {
        elf::hold_against_golden(&hardening)?;
    }
    let sbom = folder.join(format!("clawsec-{VERSION}.cdx.json"));
    fs::write(&sbom, sbom::cyclonedx()?).context("write the SBOM")?;

    let package = package(&folder, &tree, &programs)?;
    let archive = archive(&folder, &tree)?;
    let sums = sums(&folder, &[&package, &archive, &sbom])?;
    for file in [&package, &archive, &sbom, &sums] {
        let bytes = fs::metadata(file).context("look at what was made")?.len();
        say(&format!("{} ({} kB)", file.display(), bytes / 1024));
    }
    if tried {
        guest::try_package(&package)?;
    }
    Ok(())
}

pub(crate) fn folder() -> PathBuf {
    root().join("target/dist")
}

/// The Debian package: the tree, its control file and the maintainer scripts.
fn package(folder: &Path, tree: &Path, programs: &[PathBuf]) -> Result<PathBuf> {
    let control = tree.join("DEBIAN");
    fs::create_dir_all(&control).context("make DEBIAN")?;
    let libc = elf::newest_glibc(programs)?;
    let text = format!(
        "Package: clawsec\nVersion: {VERSION}\nArchitecture: amd64\nSection: admin\nPriority: optional\n\
         Maintainer: clawsec maintainers <maintainers@clawsec.invalid>\n\
         Depends: libc6 (>= {libc}), libgcc-s1, passwd\n\
         Recommends: docker.io | firejail\n\
         Description: kernel-assisted security enforcer for an OpenClaw / Clawdbot gateway\n \
         An XDP program drops strangers and floods at the network card; a daemon checks keys,\n \
         users, groups, agents and tools on every request, runs dangerous tools in a sandbox,\n \
         and writes every decision to a log that shows if it was changed.\n"
    );
    fs::write(control.join("control"), text).context("write DEBIAN/control")?;
    fs::write(
        control.join("conffiles"),
        "/etc/lnav/formats/clawsec/clawsec.json\n",
    )
    .context("write DEBIAN/conffiles")?;
    for script in ["postinst", "prerm", "postrm"] {
        let from = root().join("packaging/debian").join(script);
        tree::install(&from, &control.join(script), 0o755)?;
    }
    let package = folder.join(format!("clawsec_{VERSION}_amd64.deb"));
    step(
        Command::new("dpkg-deb")
            .args(["--root-owner-group", "-Zxz", "--build"])
            .args([tree, package.as_path()]),
    )?;
    fs::remove_dir_all(&control).context("remove DEBIAN")?;
    Ok(package)
}

fn archive(folder: &Path, tree: &Path) -> Result<PathBuf> {
    let name = format!("clawsec-{VERSION}-x86_64-linux");
    let archive = folder.join(format!("{name}.tar.gz"));
    step(
        Command::new("tar")
            .args([
                "--create",
                "--gzip",
                "--sort=name",
                "--owner=0",
                "--group=0",
            ])
            .args(["--numeric-owner", "--mtime=@0"])
            .arg(format!("--transform=s,^\\.,{name},"))
            .arg("--file")
            .arg(&archive)
            .arg("--directory")
            .arg(tree)
            .arg("."),
    )?;
    Ok(archive)
}

fn sums(folder: &Path, files: &[&PathBuf]) -> Result<PathBuf> {
    let names = files.iter().filter_map(|file| file.file_name());
    let output = Command::new("sha256sum")
        .args(names)
        .current_dir(folder)
        .output()
        .context("run sha256sum")?;
    ensure!(output.status.success(), "sha256sum failed");
    let sums = folder.join("SHA256SUMS");
    fs::write(&sums, output.stdout).context("write SHA256SUMS")?;
    Ok(sums)
}

/// What a program printed; an error if it failed.
fn printed(command: &mut Command) -> Result<Vec<u8>> {
    let output = command
        .output()
        .with_context(|| format!("run {}", command.get_program().display()))?;
    if !output.status.success() {
        let why = String::from_utf8_lossy(&output.stderr);
        bail!("{}: {}", command.get_program().display(), why.trim());
    }
    Ok(output.stdout)
}
