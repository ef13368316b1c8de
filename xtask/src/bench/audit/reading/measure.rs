//! A command, run several times: how long, how much CPU, how much memory, what it printed.

use std::fs;
use std::process::{Command, Stdio};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};

/// The run with the median time.
pub(super) struct Measured {
    pub(super) time: Duration,
    /// User and system time of all its threads.
    pub(super) cpu: Duration,
    /// The most it had resident, as far as was seen.
    pub(super) resident_kib: u64,
    pub(super) output: Vec<u8>,
}

impl Measured {
    pub(super) fn seconds(&self) -> f64 {
        self.time.as_secs_f64()
    }
}

/// Runs it as often as said.
pub(super) fn measure(command: &mut Command, repeats: usize) -> Result<Measured> {
    let mut runs = Vec::new();
    for _ in 0..repeats {
        runs.push(once(command)?);
    }
    runs.sort_by_key(|run| run.time);
    let middle = runs.len() / 2;
    ensure!(middle < runs.len(), "nothing was run");
    Ok(runs.swap_remove(middle))
}

fn once(command: &mut Command) -> Result<Measured> {
    let cpu_before = children_cpu()?;
    let begun = Instant::now();
    let child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit())
        .spawn()
        .context("start it")?;
    let pid = child.id();
    let (end, ended) = channel::<()>();
    let watcher = thread::spawn(move || {
        let mut most = 0;
        // The process is gone when the other end is.
        while ended.recv_timeout(LOOK_EVERY) == Err(RecvTimeoutError::Timeout) {
            most = most.max(resident_kib(pid).unwrap_or(0));
        }
        most
    });
    let output = child.wait_with_output().context("wait for it")?;
    let time = begun.elapsed();
    drop(end);
    let resident_kib = watcher.join().unwrap_or(0);
    ensure!(output.status.success(), "it ended with {}", output.status);
    Ok(Measured {
        time,
        cpu: children_cpu()?.saturating_sub(cpu_before),
        resident_kib,
        output: output.stdout,
    })
}

/// User and system time of the children that were waited for: proc(5), the 16th and 17th field.
fn children_cpu() -> Result<Duration> {
    let stat = fs::read_to_string("/proc/self/stat").context("read /proc/self/stat")?;
    let (_, after) = stat.rsplit_once(')').context("/proc/self/stat")?;
    let ticks = |index: usize| after.split_whitespace().nth(index)?.parse::<u64>().ok();
    let ticks = ticks(13).zip(ticks(14)).context("/proc/self/stat")?;
    // USER_HZ is 100 on every architecture that Linux still has.
    Ok(Duration::from_millis((ticks.0 + ticks.1) * 10))
}

fn resident_kib(pid: u32) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find(|line| line.starts_with("VmHWM:"))?;
    line.split_whitespace().nth(1)?.parse().ok()
}

/// What a program says of itself; `None` when it is not there.
pub(super) fn version(program: &str) -> Option<String> {
    let output = Command::new(program).arg("--version").output().ok()?;
    let said = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    output.status.success().then_some(said)
}

const LOOK_EVERY: Duration = Duration::from_millis(20);
