//! Builds the kernel half into `target/bpf/clawsec.o`, then the daemon with it inside.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};

use xtask::{root, say};

use crate::setup::{Toolchain, run, setup};

const TARGET: &str = "bpfel-unknown-none";
/// Tells the daemon's build where the BPF object is.
pub(crate) const OBJECT: &str = "CLAWSEC_BPF_OBJECT";

/// Builds both halves; the path of the daemon.
pub(crate) fn build(release: bool) -> Result<PathBuf> {
    let root = root();
    let object = kernel_half(&setup()?, &root)?;
    let mut cargo = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo
        .current_dir(&root)
        .args(["build", "--package", "clawsec-user", "--bin", "clawsec"])
        // `clawsec top`, which is looked for beside it.
        .args(["--package", "clawsec-top", "--bin", "clawsec-top"])
        .env(OBJECT, &object);
    if release {
        cargo.arg("--release");
    }
    run(&mut cargo)?;
    let daemon = target()
        .join(if release { "release" } else { "debug" })
        .join("clawsec");
    say(&format!("built {}", daemon.display()));
    Ok(daemon)
}

/// Builds the load of the gateway's benchmark; its path.
pub(crate) fn load_generator() -> Result<PathBuf> {
    let mut cargo = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.current_dir(root());
    run(cargo.args(["build", "--release", "--package", "clawsec-load"]))?;
    Ok(target().join("release/clawsec-load"))
}

fn target() -> PathBuf {
    env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from)
}

/// Builds the BPF object from the source in a folder; its path, below that folder.
pub(crate) fn kernel_half(toolchain: &Toolchain, source: &Path) -> Result<PathBuf> {
    object(toolchain, source, "clawsec-ebpf", "clawsec.o")
}

/// Builds the benchmark's own BPF programs; the object's path.
pub(crate) fn bench_object() -> Result<PathBuf> {
    object(&setup()?, &root(), "clawsec-bench", "bench.o")
}

fn object(toolchain: &Toolchain, source: &Path, program: &str, name: &str) -> Result<PathBuf> {
    let mut cargo = kernel_cargo(toolchain, source, "build");
    run(cargo.args(["--package", "clawsec-ebpf", "--bin", program]))?;
    let object = source.join("target/bpf").join(name);
    let built = build_folder(source)
        .join(TARGET)
        .join("release")
        .join(program);
    publish(&built, &object)?;
    say(&format!("built {}", object.display()));
    Ok(object)
}

/// Clippy over the kernel half as it is built for BPF. Needs the same toolchain's clippy
/// (Debian: `rust-web-clippy`).
pub(crate) fn lint_kernel_half() -> Result<()> {
    let toolchain = setup()?;
    let mut cargo = kernel_cargo(&toolchain, &root(), "clippy");
    // Cargo takes `cargo-clippy` from PATH, where rustup's would come first.
    let folder = toolchain.cargo.parent().map(PathBuf::from);
    let path = env::var_os("PATH").unwrap_or_default();
    let paths = folder.into_iter().chain(env::split_paths(&path));
    cargo.env("PATH", env::join_paths(paths).context("join PATH")?);
    run(cargo
        .args(["--package", "clawsec-ebpf", "--lib"])
        .args(["--bin", "clawsec-ebpf", "--bin", "clawsec-bench"])
        .args(["--", "-D", "warnings"]))
}

/// Apart from the host's, so that neither build undoes the other.
fn build_folder(source: &Path) -> PathBuf {
    source.join("target/bpf-build")
}

/// Cargo for the BPF target.
fn kernel_cargo(toolchain: &Toolchain, source: &Path, verb: &str) -> Command {
    let mut flags = vec![
        // 64-bit compare-and-swap, kernel 5.12. `-Clink-arg=--cpu=v3` would be given twice.
        "-Ctarget-cpu=v3".to_owned(),
        format!("--cfg=bpf_target_arch=\"{}\"", env::consts::ARCH),
        // BTF is made from debug info.
        "-Cdebuginfo=2".to_owned(),
        "-Clink-arg=--btf".to_owned(),
        format!("-Clinker={}", toolchain.linker.display()),
    ];
    // The same object wherever it is built: no path of this machine in its BTF.
    flags.push(format!("--remap-path-prefix={}=clawsec", source.display()));
    let cargo_home = env::var_os("CARGO_HOME").map(PathBuf::from);
    let home = env::var_os("HOME").map(|home| PathBuf::from(home).join(".cargo"));
    if let Some(cargo_home) = cargo_home.or(home) {
        let sources = cargo_home.join("registry/src");
        flags.push(format!(
            "--remap-path-prefix={}=registry",
            sources.display()
        ));
    }

    let mut cargo = Command::new(&toolchain.cargo);
    cargo
        .current_dir(source)
        .args([verb, "--release", "-Zbuild-std=core", "--target", TARGET])
        // The daemon's release profile strips; here that would strip BTF's source.
        .args(["--config", "profile.release.strip=false"])
        .args(["--config", "profile.release.lto=false"])
        .arg("--target-dir")
        .arg(build_folder(source))
        .env("RUSTC", &toolchain.rustc)
        // `-Z` and the intrinsics, on a stable compiler, for this one crate.
        .env("RUSTC_BOOTSTRAP", "1")
        .env("CARGO_ENCODED_RUSTFLAGS", flags.join("\x1f"))
        .env("LD_LIBRARY_PATH", &toolchain.llvm);
    // Set by the cargo and rustup that run xtask: they would choose another compiler here.
    for inherited in [
        "CARGO",
        "RUSTUP_TOOLCHAIN",
        "RUSTC_WRAPPER",
        "RUSTFLAGS",
        "CARGO_TARGET_DIR",
    ] {
        cargo.env_remove(inherited);
    }
    cargo
}

/// Copies only what changed: the daemon is built again whenever this file is written.
fn publish(built: &PathBuf, object: &PathBuf) -> Result<()> {
    let new = fs::read(built).with_context(|| format!("cannot read {}", built.display()))?;
    if fs::read(object).is_ok_and(|old| old == new) {
        return Ok(());
    }
    if let Some(folder) = object.parent() {
        fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    }
    fs::write(object, new).with_context(|| format!("cannot write {}", object.display()))
}
