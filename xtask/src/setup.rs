//! Finds what builds for the BPF target, and installs what is missing.
//!
//! No `core` is shipped for `bpfel-unknown-none`, so it is built from the standard library's
//! source, which must be the compiler's own. Two routes have both: rustup's toolchain with its
//! `rust-src`, and Debian's `rustc-web` with `rust-web-src`. What is there is used; nothing is
//! installed before that was looked at, and every step is printed.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail, ensure};
use xtask::{root, say};

/// Loads rustc's own LLVM when it runs; a newer line would want another LLVM.
const LINKER_VERSION: &str = "0.10.4";
const LINKER_LINE: &str = "bpf-linker 0.10.";
/// LLVM of the compilers this is tested with (rustc 1.95, 1.96). The linker reads what the
/// compiler wrote, so the two must be of one major version.
const LLVM_MAJOR: &str = "22";
const DEBIAN_PACKAGES: [&str; 4] = ["rustc-web", "cargo-web", "rust-web-src", "llvm-22"];

/// What the BPF build runs with.
pub(crate) struct Toolchain {
    pub(crate) cargo: PathBuf,
    pub(crate) rustc: PathBuf,
    pub(crate) linker: PathBuf,
    /// A folder that holds one library: the LLVM that `linker` is to load.
    pub(crate) llvm: PathBuf,
}

/// Makes the toolchain complete and gives it.
pub(crate) fn setup() -> Result<Toolchain> {
    let (cargo, rustc) = compiler()?;
    let llvm = llvm(&rustc)?;
    let linker = linker(&cargo)?;
    Ok(Toolchain {
        cargo,
        rustc,
        linker,
        llvm,
    })
}

/// Runs a command to its end; its own output is its message.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    let words = command_line(command);
    say(&words);
    let status = command
        .status()
        .with_context(|| format!("cannot start `{words}`"))?;
    ensure!(status.success(), "`{words}` failed: {status}");
    Ok(())
}

/// Cargo and rustc of one toolchain that has the standard library's source.
fn compiler() -> Result<(PathBuf, PathBuf)> {
    if let Some(found) = rustup() {
        return Ok(found);
    }
    if let Some(found) = debian() {
        return Ok(found);
    }
    if is_present("rustup") {
        say("the standard library's source is missing; asking rustup for it");
        let added = run(Command::new("rustup").args(["component", "add", "rust-src"]));
        match added.map(|()| rustup()) {
            Ok(Some(found)) => return Ok(found),
            Ok(None) => say("rustup added it, but for another toolchain"),
            Err(error) => say(&format!(
                "that did not work ({error}); trying Debian's packages"
            )),
        }
    }
    ensure!(
        is_present("apt-get"),
        "no source of the standard library: neither `rustup component add rust-src` nor Debian's \
         packages ({}) are to be had here",
        DEBIAN_PACKAGES.join(" ")
    );
    run(Command::new("apt-get").arg("update"))?;
    run(Command::new("apt-get")
        .args(["install", "--yes", "--no-install-recommends"])
        .args(DEBIAN_PACKAGES))?;
    debian().context("Debian's packages are installed, but /usr/bin/rustc has no source")
}

/// Debian's toolchain. PATH's cargo may be rustup's, which would run rustup's rustc.
fn debian() -> Option<(PathBuf, PathBuf)> {
    let (cargo, rustc) = (
        PathBuf::from("/usr/bin/cargo"),
        PathBuf::from("/usr/bin/rustc"),
    );
    usable(&cargo, &rustc, "Debian's packages").then_some((cargo, rustc))
}

/// The toolchain that rustup would run here.
fn rustup() -> Option<(PathBuf, PathBuf)> {
    let which = |tool: &str| output(Command::new("rustup").args(["which", tool]));
    let (cargo, rustc) = (
        PathBuf::from(which("cargo")?),
        PathBuf::from(which("rustc")?),
    );
    usable(&cargo, &rustc, "rustup").then_some((cargo, rustc))
}

/// Whether this compiler has its library's source and the LLVM the linker can read.
fn usable(cargo: &Path, rustc: &Path, whose: &str) -> bool {
    if !cargo.is_file() || !rustc.is_file() {
        return false;
    }
    let Some(sysroot) = output(Command::new(rustc).args(["--print", "sysroot"])) else {
        return false;
    };
    let source = Path::new(&sysroot).join("lib/rustlib/src/rust/library/core/Cargo.toml");
    let version = output(Command::new(rustc).arg("-vV")).unwrap_or_default();
    let llvm = version
        .lines()
        .find_map(|line| line.strip_prefix("LLVM version: "))
        .unwrap_or_default();
    let name = version.lines().next().unwrap_or("a compiler");
    if !source.is_file() {
        say(&format!("{name} ({whose}) has no library source"));
        return false;
    }
    if llvm.split('.').next() != Some(LLVM_MAJOR) {
        say(&format!(
            "{name} ({whose}) has LLVM {llvm}, the linker reads {LLVM_MAJOR}"
        ));
        return false;
    }
    say(&format!("using {name} ({whose}), LLVM {llvm}"));
    true
}

/// A folder with the compiler's LLVM and nothing else. The linker takes the first `libLLVM*` of
/// the folders in `LD_LIBRARY_PATH`, and a system's library folder may hold several.
fn llvm(rustc: &Path) -> Result<PathBuf> {
    let library = shared_llvm(rustc).with_context(|| {
        format!("no shared LLVM {LLVM_MAJOR}: install `llvm-22` or use rustup's toolchain")
    })?;
    let folder = root().join("target/tools/llvm");
    let link = folder.join("libLLVM.so");
    fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    if fs::read_link(&link).ok().as_deref() != Some(library.as_path()) {
        if link.is_symlink() {
            fs::remove_file(&link).with_context(|| format!("cannot remove {}", link.display()))?;
        }
        symlink(&library, &link).with_context(|| format!("cannot link {}", link.display()))?;
        say(&format!("the linker loads {}", library.display()));
    }
    Ok(folder)
}

/// `libLLVM.so.22…`: the compiler's own, or one that the dynamic linker knows.
fn shared_llvm(rustc: &Path) -> Option<PathBuf> {
    let sysroot = output(Command::new(rustc).args(["--print", "sysroot"]))?;
    let machine = std::env::consts::ARCH;
    let folders = [
        Path::new(&sysroot).join("lib"),
        PathBuf::from(format!("/usr/lib/llvm-{LLVM_MAJOR}/lib")),
        PathBuf::from(format!("/usr/lib/{machine}-linux-gnu")),
        PathBuf::from("/usr/lib64"),
    ];
    let prefix = format!("libLLVM.so.{LLVM_MAJOR}");
    folders.iter().find_map(|folder| {
        let entries = fs::read_dir(folder).ok()?;
        entries
            .filter_map(Result::ok)
            .map(|entry| entry.path())
            .find(|path| {
                let name = path.file_name().and_then(|name| name.to_str());
                name.is_some_and(|name| name.starts_with(&prefix))
            })
    })
}

/// `bpf-linker`: PATH's, or the one that was built into `target/tools`.
fn linker(cargo: &Path) -> Result<PathBuf> {
    let tools = root().join("target/tools");
    let own = tools.join("bin/bpf-linker");
    for candidate in [Path::new("bpf-linker"), &own] {
        match output(Command::new(candidate).arg("--version")) {
            Some(version) if version.starts_with(LINKER_LINE) => {
                say(&format!("using {version} ({})", candidate.display()));
                return Ok(candidate.to_owned());
            }
            Some(version) => {
                say(&format!("{} is {version}, not 0.10.x", candidate.display()));
            }
            None => {}
        }
    }
    say("building bpf-linker; once, and it takes a few minutes");
    run(Command::new(cargo)
        .args([
            "install",
            "bpf-linker",
            "--version",
            LINKER_VERSION,
            "--locked",
        ])
        .args([
            "--no-default-features",
            "--features",
            "rust-llvm-22",
            "--root",
        ])
        .arg(&tools)
        .env_remove("RUSTC")
        .env_remove("CARGO_TARGET_DIR"))?;
    if !own.is_file() {
        bail!("{} was not built", own.display());
    }
    Ok(own)
}

fn is_present(program: &str) -> bool {
    output(Command::new(program).arg("--version")).is_some()
}

/// What a command prints, if it can be run and succeeds.
pub(crate) fn output(command: &mut Command) -> Option<String> {
    let output = command
        .output()
        .ok()
        .filter(|output| output.status.success())?;
    Some(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

fn command_line(command: &Command) -> String {
    let mut words = vec![command.get_program().to_string_lossy()];
    words.extend(command.get_args().map(std::ffi::OsStr::to_string_lossy));
    words.join(" ")
}
