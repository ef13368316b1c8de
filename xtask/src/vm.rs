//! The kernel tier's rows on Linux 6.1, the oldest kernel that is supported: in qemu, emulated.
//!
//! Debian's kernel package is downloaded and unpacked, never installed. The initramfs holds what
//! the rows use and nothing else: busybox, the test binary and the programs it starts, each with
//! the libraries that `ldd` names, the BPF object, and the golden files. The kernel talks on the
//! first serial port (`target/vm/console.log`), the tests on the second.

mod image;

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use xtask::{root, say};

use crate::setup::run;
use crate::tiers::{Count, need, number_before};

/// Where what is repeated by the million is repeated less: an emulated CPU takes 20 times as long.
const RUNS_DIVIDED_BY: &str = "10";
/// Booting takes 5 seconds and the rows a minute where the machine has nothing else to do.
const DEADLINE: Duration = Duration::from_mins(8);
const MEMORY_MIB: &str = "4096";

/// Rows that the guest cannot run, and why not.
const NOT_THERE: &[(&str, &str)] = &[
    ("kernel::tcx::", "tcx is of Linux 6.6"),
    ("kernel::cost::", "an emulated CPU has no times"),
    ("kernel::prefixes::", "an emulated CPU has no times"),
];

/// Programs that the rows start, by where they are in the guest.
const PROGRAMS: &[(&str, &str)] = &[
    ("ip", "iproute2"),
    ("nsenter", "util-linux"),
    ("unshare", "util-linux"),
    ("bash", "bash"),
    ("timeout", "coreutils"),
];

/// What there is to boot.
pub(crate) struct Guest {
    kernel: PathBuf,
    initramfs: PathBuf,
    /// Names of the rows that run there.
    rows: Vec<String>,
    /// What does not run there, for the tier's line.
    not_there: Vec<String>,
}

/// Gathers everything; an error says why the tier cannot run here.
pub(crate) fn prepare(filter: Option<&str>) -> Result<Guest> {
    ensure!(
        std::env::consts::ARCH == "x86_64",
        "the guest's kernel is x86_64's"
    );
    need("qemu-system-x86_64", "qemu-system-x86")?;
    need("cpio", "cpio")?;
    need("busybox", "busybox-static")?;
    for (program, package) in PROGRAMS {
        need(program, package)?;
    }
    crate::build::build(false).context("needs the kernel half")?;
    let (kernel, veth) = linux()?;
    let tests = test_binary()?;
    let (rows, not_there) = listed(&tests, filter)?;
    let initramfs = image::initramfs(&tests, &veth)?;
    Ok(Guest {
        kernel,
        initramfs,
        rows,
        not_there,
    })
}

/// How many rows the tier has, without what it takes to run them.
pub(crate) fn count(filter: Option<&str>) -> Result<u64> {
    Ok(listed(&test_binary()?, filter)?.0.len() as u64)
}

impl Guest {
    /// Boots, relays what the tests print, and counts it; gives also what did not run there.
    pub(crate) fn run(&self, filter: Option<&str>) -> Result<(Count, String)> {
        let console = folder().join("console.log");
        let mut child = self.boot(filter, &console)?;
        let output = child.stdout.take().context("qemu has no output")?;
        let (sender, lines) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            let mut lines = BufReader::new(output).split(b'\n');
            while let Some(Ok(line)) = lines.next()
                && sender.send(line).is_ok()
            {}
        });
        let deadline = Instant::now() + DEADLINE;
        let mut told = Told::default();
        let hung = loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match lines.recv_timeout(left) {
                Ok(line) => told.line(String::from_utf8_lossy(&line).trim_end())?,
                Err(std::sync::mpsc::RecvTimeoutError::Disconnected) => break false,
                Err(std::sync::mpsc::RecvTimeoutError::Timeout) => break true,
            }
        };
        if hung {
            child.kill().context("stop qemu")?;
        }
        child.wait().context("wait for qemu")?;
        told.bless()?;
        let ran = told.count.passed + told.count.failed;
        if hung || told.release.is_empty() || ran != self.rows.len() as u64 {
            let what = if hung {
                format!("was stopped after {} s", DEADLINE.as_secs())
            } else {
                "ended before its tests had".to_owned()
            };
            bail!(
                "tier vm: the guest {what}: {ran} of {} tests ran; its console ends with\n{}",
                self.rows.len(),
                tail(&console)
            );
        }
        let mut note = format!(
            "Linux {} emulated, repeats divided by {RUNS_DIVIDED_BY}",
            told.release
        );
        if !self.not_there.is_empty() {
            note.push_str("; not run there: ");
            note.push_str(&self.not_there.join(", "));
        }
        Ok((told.count, note))
    }

    fn boot(&self, filter: Option<&str>, console: &Path) -> Result<Child> {
        let bless = std::env::var_os("CLAWSEC_BLESS").is_some();
        // To `init`, as its environment.
        let mut line = format!(
            "console=ttyS0 quiet rdinit=/init panic=-1 FILTER=kernel::{} SKIP={} CLAWSEC_RUNS_DIVIDED_BY={RUNS_DIVIDED_BY}",
            filter.unwrap_or_default(),
            NOT_THERE
                .iter()
                .map(|(prefix, _)| *prefix)
                .collect::<Vec<_>>()
                .join(","),
        );
        if bless {
            line.push_str(" CLAWSEC_BLESS=1");
        }
        let mut serial = std::ffi::OsString::from("file:");
        serial.push(console);
        Command::new("qemu-system-x86_64")
            .args([
                "-accel", "tcg", "-cpu", "max", "-smp", "2", "-m", MEMORY_MIB,
            ])
            .args([
                "-nodefaults",
                "-no-user-config",
                "-display",
                "none",
                "-no-reboot",
            ])
            .arg("-kernel")
            .arg(&self.kernel)
            .arg("-initrd")
            .arg(&self.initramfs)
            .args(["-append", &line, "-serial"])
            .arg(serial)
            .args(["-serial", "stdio"])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .context("start qemu")
    }
}

/// What the guest has said.
#[derive(Default)]
struct Told {
    count: Count,
    release: String,
    /// Golden files as its tests left them, where they were to write them.
    golden: Vec<(String, String)>,
}

impl Told {
    fn line(&mut self, line: &str) -> Result<()> {
        if let Some(release) = line.strip_prefix("guest: Linux ") {
            release.clone_into(&mut self.release);
        } else if let Some(name) = line.strip_prefix("guest: golden ") {
            self.golden.push((name.to_owned(), String::new()));
            return Ok(());
        } else if let (Some((_, text)), Some(line)) =
            (self.golden.last_mut(), line.strip_prefix("| "))
        {
            text.push_str(line);
            text.push('\n');
            return Ok(());
        } else if let Some(result) = line.strip_prefix("test result: ") {
            self.count.passed += number_before(result, " passed");
            self.count.failed += number_before(result, " failed");
        }
        writeln!(std::io::stdout(), "{line}").context("print the guest's output")
    }

    fn bless(&self) -> Result<()> {
        for (name, text) in &self.golden {
            let file = golden_folder().join(name);
            fs::write(&file, text).with_context(|| format!("write {}", file.display()))?;
        }
        Ok(())
    }
}

fn folder() -> PathBuf {
    root().join("target/vm")
}

fn golden_folder() -> PathBuf {
    root().join("tests/kernel/golden")
}

/// A folder with another kernel's packages, unpacked, to run the rows on.
const OTHER: &str = "CLAWSEC_VM_LINUX";

/// The kernel and its veth module: the newest 6.1 that Debian has, kept in `target/tools`.
pub(crate) fn linux() -> Result<(PathBuf, PathBuf)> {
    let folder = root().join("target/tools/linux-6.1");
    let found = |folder: &Path| {
        let kernel = first(&folder.join("boot"), "vmlinuz-")?;
        let modules = first(&folder.join("lib/modules"), "")?;
        let veth = modules.join("kernel/drivers/net/veth.ko");
        veth.is_file().then_some((kernel, veth))
    };
    if let Some(other) = std::env::var_os(OTHER) {
        let other = PathBuf::from(other);
        let missing = || {
            let folder = other.display();
            format!("{OTHER}: no boot/vmlinuz-* and veth.ko of its modules in {folder}")
        };
        return found(&other).with_context(missing);
    }
    if let Some(found) = found(&folder) {
        return Ok(found);
    }
    need("apt-get", "apt: the guest's kernel is Debian's")?;
    need("dpkg", "dpkg")?;
    let package = newest().or_else(|why| {
        say(&format!("{why:#}; asking for newer lists"));
        run(Command::new("apt-get").args(["update", "-qq"]))?;
        newest()
    })?;
    fs::create_dir_all(&folder).with_context(|| format!("make {}", folder.display()))?;
    run(Command::new("apt-get")
        .args(["download", "-qq", &package])
        .current_dir(&folder))?;
    let archive = first(&folder, &package).context("apt-get downloaded nothing")?;
    run(Command::new("dpkg").arg("-x").arg(&archive).arg(&folder))?;
    fs::remove_file(&archive).with_context(|| format!("remove {}", archive.display()))?;
    found(&folder).context("the kernel's package has not what it had")
}

/// The name of the newest package of a 6.1 kernel for virtual machines.
fn newest() -> Result<String> {
    let output = Command::new("apt-cache")
        .args([
            "search",
            "--names-only",
            r"^linux-image-6\.1\.0-[0-9]+-cloud-amd64$",
        ])
        .output()
        .context("run apt-cache")?;
    let text = String::from_utf8_lossy(&output.stdout);
    let abi = |name: &str| name.split('-').nth(3)?.parse::<u32>().ok();
    let names = text.lines().filter_map(|line| line.split(' ').next());
    names
        .max_by_key(|name| abi(name))
        .map(str::to_owned)
        .context("apt knows no linux-image-6.1.0-*-cloud-amd64 (Debian 12)")
}

fn first(folder: &Path, prefix: &str) -> Option<PathBuf> {
    let entries = fs::read_dir(folder).ok()?;
    entries
        .filter_map(Result::ok)
        .map(|entry| entry.path())
        .find(|path| {
            let name = path.file_name().and_then(|name| name.to_str());
            name.is_some_and(|name| name.starts_with(prefix))
        })
}

/// Builds the test binary and gives its path.
fn test_binary() -> Result<PathBuf> {
    let output = Command::new(env!("CARGO"))
        .args(["test", "--package", "clawsec-tests", "--test", "clawsec"])
        .args(["--no-run", "--message-format", "json"])
        .stderr(Stdio::inherit())
        .output()
        .context("run cargo test --no-run")?;
    ensure!(output.status.success(), "the tests do not build");
    let text = String::from_utf8_lossy(&output.stdout);
    text.lines()
        .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok())
        .filter(|message| {
            message["target"]["name"] == "clawsec" && message["profile"]["test"] == true
        })
        .find_map(|message| message["executable"].as_str().map(PathBuf::from))
        .context("cargo named no test binary")
}

/// The rows that run there, and for each reason what does not.
fn listed(tests: &Path, filter: Option<&str>) -> Result<(Vec<String>, Vec<String>)> {
    let output = Command::new(tests)
        .arg("--list")
        .output()
        .context("list the tests")?;
    let text = String::from_utf8_lossy(&output.stdout);
    let wanted = format!("kernel::{}", filter.unwrap_or_default());
    let rows = text
        .lines()
        .filter_map(|line| line.strip_suffix(": test"))
        .filter(|row| row.starts_with("kernel::") && row.contains(&wanted));
    let (there, not_there): (Vec<&str>, Vec<&str>) =
        rows.partition(|row| !NOT_THERE.iter().any(|(prefix, _)| row.contains(prefix)));
    let not_there = NOT_THERE.iter().filter_map(|(prefix, why)| {
        let rows = not_there.iter().filter(|row| row.contains(prefix)).count();
        (rows > 0).then(|| format!("{rows} of {} ({why})", prefix.trim_end_matches(':')))
    });
    let there = there.into_iter().map(str::to_owned).collect();
    Ok((there, not_there.collect()))
}

/// The end of the guest's console.
fn tail(console: &Path) -> String {
    let mut bytes = Vec::new();
    // Without a console there is nothing to show.
    let _unread = fs::File::open(console).and_then(|mut file| file.read_to_end(&mut bytes));
    let text = String::from_utf8_lossy(&bytes);
    let lines: Vec<&str> = text.lines().map(str::trim_end).collect();
    lines[lines.len().saturating_sub(30)..].join("\n")
}
