//! `cargo xtask test`: the tiers, what each needs, and an honest count.
//!
//! A tier that cannot run here is named with its reason and the number of tests that did not
//! run; under `--strict` (as in CI) that is a failure.

use std::ffi::OsString;
use std::fmt;
use std::process::{Command, Stdio};

use anyhow::{Context as _, bail};
use clap::ValueEnum;

use xtask::lab::ensure_user;
use xtask::say;

use crate::{build, peer, vm};

/// What a test may touch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Tier {
    /// Values in, values out: anyone, seconds.
    Pure,
    /// The BPF object through BPF_PROG_TEST_RUN: root.
    Kernel,
    /// The kernel tier's rows on Linux 6.1, in qemu: nothing but its package is needed.
    Vm,
    /// Network namespaces, docker, firejail, a daemon killed and restarted: root.
    System,
    /// The real gateway from npm with its own clients: root, node.
    Peer,
    /// Mixed traffic with reloads, bans, sandbox runs and rotations, for --minutes: root.
    Soak,
}

impl fmt::Display for Tier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Pure => "pure",
            Self::Kernel => "kernel",
            Self::Vm => "vm",
            Self::System => "system",
            Self::Peer => "peer",
            Self::Soak => "soak",
        })
    }
}

#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Count {
    pub(crate) passed: u64,
    pub(crate) failed: u64,
    /// Tests that said themselves what they lack here.
    pub(crate) not_run: u64,
}

/// Which tests, and how.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Wanted<'a> {
    pub(crate) only: Option<Tier>,
    pub(crate) filter: Option<&'a str>,
    pub(crate) strict: bool,
    /// Of the soak tier.
    pub(crate) minutes: Option<u32>,
}

/// Runs the tiers and prints one line for each, then the sum.
pub(crate) fn run(wanted: Wanted<'_>) -> anyhow::Result<()> {
    let Wanted {
        only,
        filter,
        strict,
        minutes,
    } = wanted;
    if minutes.is_some() && only != Some(Tier::Soak) {
        bail!("--minutes is of the soak tier: say --tier soak, too");
    }
    let wanted = only.map_or_else(|| Tier::value_variants().to_vec(), |tier| vec![tier]);
    let mut lines = Vec::new();
    let mut total = Count::default();
    let mut not_run = 0;
    for tier in wanted {
        let ready = match prepare(tier, filter) {
            Ok(ready) => ready,
            Err(why) => {
                let count = listed(tier, filter)?;
                not_run += count;
                lines.push(format!(
                    "tier {tier}: cannot run here, {count} tests not run: {why:#}"
                ));
                continue;
            }
        };
        let (count, note) = match ready {
            Ready::Here(mut environment) => {
                let minutes = minutes.map(|minutes| minutes.to_string().into());
                environment.extend(minutes.map(|minutes| ("CLAWSEC_SOAK_MINUTES", minutes)));
                (run_tier(tier, filter, &environment)?, String::new())
            }
            Ready::Guest(guest) => {
                say(&format!("tier {tier}"));
                let (count, note) = guest.run(filter)?;
                (count, format!(" ({note})"))
            }
        };
        let lacking = match count.not_run {
            0 => String::new(),
            some => format!(", {some} not run: see NOT RUN above"),
        };
        lines.push(format!(
            "tier {tier}: {} passed, {} failed{lacking}{note}",
            count.passed, count.failed
        ));
        not_run += count.not_run;
        total.passed += count.passed;
        total.failed += count.failed;
    }
    say("");
    for line in &lines {
        say(line);
    }
    if not_run > 0 {
        say(&format!("{not_run} tests could not run here"));
    }
    {
        use std::io::Write as _;
        writeln!(
            std::io::stdout(),
            "{} passed, {} failed",
            total.passed,
            total.failed
        )?;
    }
    if total.failed > 0 {
        bail!("{} tests failed", total.failed);
    }
    if strict && not_run > 0 {
        bail!("{not_run} tests could not run, and --strict was given");
    }
    if total.passed == 0 {
        bail!("no test ran");
    }
    Ok(())
}

type Environment = Vec<(&'static str, OsString)>;

/// Where a tier runs.
enum Ready {
    Here(Environment),
    Guest(vm::Guest),
}

/// Checks what a tier needs and makes what can be made without asking.
fn prepare(tier: Tier, filter: Option<&str>) -> anyhow::Result<Ready> {
    match tier {
        Tier::Vm => vm::prepare(filter).map(Ready::Guest),
        _ => environment(tier).map(Ready::Here),
    }
}

fn environment(tier: Tier) -> anyhow::Result<Environment> {
    if tier == Tier::Pure {
        return Ok(Vec::new());
    }
    if !is_root()? {
        bail!("needs root");
    }
    let daemon = build::build(false).context("needs the kernel half")?;
    let object = xtask::root().join("target/bpf/clawsec.o");
    let mut environment = vec![
        ("CLAWSEC_BPF_OBJECT", object.into()),
        ("CLAWSEC_BIN", daemon.into()),
    ];
    if tier == Tier::Kernel {
        return Ok(environment);
    }
    need("ip", "iproute2")?;
    need("nsenter", "util-linux")?;
    need("curl", "curl")?;
    if tier == Tier::System {
        need("dockerd", "docker.io")?;
        need("firejail", "firejail")?;
        need("haproxy", "haproxy")?;
        need("busybox", "busybox-static")?;
        // The flood's generator.
        let bench = build::bench_object().context("needs the benchmark's programs")?;
        environment.push(("CLAWSEC_BENCH_OBJECT", bench.into()));
    }
    ensure_user("clawsec", None)?;
    ensure_user("clawsec-sbx", Some("/home/clawsec-sbx"))?;
    if tier == Tier::Peer {
        need("chromium", "chromium")?;
        environment.push(("CLAWSEC_PEER_DIR", peer::install()?.into()));
    }
    Ok(environment)
}

/// Whether this process is root.
pub(crate) fn is_root() -> anyhow::Result<bool> {
    let output = Command::new("id").arg("-u").output().context("run id")?;
    Ok(output.stdout.trim_ascii() == b"0")
}

pub(crate) fn need(program: &str, package: &str) -> anyhow::Result<()> {
    let found = std::env::var_os("PATH")
        .is_some_and(|path| std::env::split_paths(&path).any(|dir| dir.join(program).is_file()));
    if found {
        Ok(())
    } else {
        bail!("needs {program} (Debian: apt-get install {package})")
    }
}

/// The test commands of a tier: the pure tier also runs every crate's unit tests.
fn commands(tier: Tier, filter: Option<&str>) -> Vec<Command> {
    let mut commands = Vec::new();
    if tier == Tier::Pure {
        let mut units = Command::new(env!("CARGO"));
        units.args([
            "test",
            "--workspace",
            "--exclude",
            "clawsec-tests",
            "--lib",
            "--bins",
        ]);
        units.args(["--", "--quiet"]).args(filter);
        commands.push(units);
    }
    let mut tests = Command::new(env!("CARGO"));
    tests.args(["test", "--package", "clawsec-tests", "--"]);
    match filter {
        // libtest joins filters by «or», so a filter inside a tier names the tier itself.
        Some(filter) => tests.arg(format!("{tier}::{filter}")),
        None => tests.arg(format!("{tier}::")),
    };
    if matches!(tier, Tier::System | Tier::Peer) {
        // Each of these tests has a daemon and a network of its own on two cores.
        tests.arg("--test-threads=2");
    }
    if tier == Tier::Soak {
        // What was measured is as much its result as that it passed.
        tests.arg("--nocapture");
    }
    commands.push(tests);
    commands
}

fn run_tier(tier: Tier, filter: Option<&str>, environment: &Environment) -> anyhow::Result<Count> {
    say(&format!("tier {tier}"));
    let mut count = Count::default();
    for mut command in commands(tier, filter) {
        let command = command.envs(environment.iter().map(|(name, value)| (name, value)));
        let mut child = command
            .stdout(Stdio::piped())
            .spawn()
            .context("run cargo test")?;
        let (printed, complete) = relay(&mut child)?;
        count.passed += printed.passed;
        count.failed += printed.failed;
        count.not_run += printed.not_run;
        if !child.wait().context("wait for cargo test")?.success()
            && (printed.failed == 0 || !complete)
        {
            bail!("tier {tier}: cargo test failed before its tests had run");
        }
    }
    Ok(count)
}

/// Passes the output on and adds up libtest's closing lines.
fn relay(child: &mut std::process::Child) -> anyhow::Result<(Count, bool)> {
    use std::io::{BufRead as _, BufReader, Write as _};
    let output = child.stdout.take().context("cargo test has no output")?;
    let mut count = Count::default();
    let mut complete = false;
    for line in BufReader::new(output).lines() {
        let line = line.context("read the output of cargo test")?;
        writeln!(std::io::stdout(), "{line}")?;
        if line.contains("NOT RUN ") {
            count.not_run += 1;
        }
        if let Some(result) = line.strip_prefix("test result: ") {
            complete = true;
            count.passed += number_before(result, " passed");
            count.failed += number_before(result, " failed");
        }
    }
    // libtest takes them for passed.
    count.passed = count.passed.saturating_sub(count.not_run);
    Ok((count, complete))
}

pub(crate) fn number_before(text: &str, word: &str) -> u64 {
    text.split_once(word)
        .and_then(|(before, _)| before.rsplit(' ').next())
        .and_then(|number| number.parse().ok())
        .unwrap_or(0)
}

/// How many tests a tier has, without running them.
fn listed(tier: Tier, filter: Option<&str>) -> anyhow::Result<u64> {
    if tier == Tier::Vm {
        return vm::count(filter);
    }
    let mut count = 0;
    for mut command in commands(tier, filter) {
        let output = command
            .arg("--list")
            .output()
            .context("run cargo test --list")?;
        let text = String::from_utf8_lossy(&output.stdout);
        count += text.lines().filter(|line| line.ends_with(": test")).count() as u64;
    }
    Ok(count)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn closing_lines_are_read() {
        let line = "FAILED. 12 passed; 3 failed; 0 ignored; 0 measured; 7 filtered out";
        assert_eq!(number_before(line, " passed"), 12);
        assert_eq!(number_before(line, " failed"), 3);
        assert_eq!(number_before("nothing here", " passed"), 0);
    }
}
