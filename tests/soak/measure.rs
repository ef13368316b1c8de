//! What the daemon takes of the machine, seen from outside, and what its log holds.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use serde_json::Value;

use crate::system::daemon::Daemon;

/// Allocators give back late and in steps: a leak is what goes on growing beyond this.
const SLACK_KIB: u64 = 6 * 1024;
/// Connections that are on their way in or out at a sample.
const SLACK_DESCRIPTORS: usize = 24;
/// Threads of the blocking pool end ten seconds after their work.
const SLACK_THREADS: usize = 12;

/// Of the supervisor, then of the gateway process.
#[derive(Debug, Clone)]
pub(super) struct Sample {
    pub(super) gateway_pid: u64,
    resident_kib: [u64; 2],
    descriptors: [usize; 2],
    threads: [usize; 2],
    bans: u64,
    admissions: u64,
}

impl Sample {
    pub(super) fn take(daemon: &Daemon) -> Self {
        let status = daemon.status();
        let gateway_pid = status["gateway_pid"].as_u64().expect("a pid");
        let pids = [daemon.pid(), gateway_pid];
        let count = |pid: u64, folder: &str| {
            let entries = fs::read_dir(format!("/proc/{pid}/{folder}"));
            entries.expect("list").count()
        };
        Self {
            gateway_pid,
            resident_kib: pids.map(anonymous_kib),
            descriptors: pids.map(|pid| count(pid, "fd")),
            threads: pids.map(|pid| count(pid, "task")),
            bans: status["bans"].as_u64().expect("bans"),
            admissions: status["admissions"].as_u64().expect("admissions"),
        }
    }
}

/// The last third is no larger than the first, but for the slack. Thirds and not samples, so that one
/// moment decides nothing.
pub(super) fn steady(samples: &[Sample]) {
    let third = samples.len() / 3;
    assert!(third > 0, "too few samples: {}", samples.len());
    let (first, last) = (&samples[..third], &samples[samples.len() - third..]);
    for (place, whose) in ["supervisor", "gateway process"].into_iter().enumerate() {
        let grown = |of: fn(&Sample, usize) -> u64, slack: u64, what: &str| {
            let mean = |part: &[Sample]| {
                let sum: u64 = part.iter().map(|sample| of(sample, place)).sum();
                sum / part.len() as u64
            };
            let (before, after) = (mean(first), mean(last));
            assert!(
                after <= before + slack,
                "{what} of the {whose}: {before} at first, {after} at last\n{samples:#?}"
            );
        };
        grown(|sample, place| sample.resident_kib[place], SLACK_KIB, "KiB");
        grown(
            |sample, place| sample.descriptors[place] as u64,
            SLACK_DESCRIPTORS as u64,
            "descriptors",
        );
        grown(
            |sample, place| sample.threads[place] as u64,
            SLACK_THREADS as u64,
            "threads",
        );
    }
    // A ban of three seconds is made every one and a half, and the book is looked through once a
    // minute at the latest.
    let bans = samples.iter().map(|sample| sample.bans).max();
    assert!(
        bans.is_some_and(|bans| bans <= 4),
        "{bans:?} bans in force at once"
    );
    let admissions = samples.iter().map(|sample| sample.admissions).max();
    assert!(
        admissions.is_some_and(|most| most <= 1),
        "{admissions:?} admissions"
    );
}

/// What is its own, not what it shares with its file.
fn anonymous_kib(pid: u64) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("read the status");
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("RssAnon:"));
    let word = line.expect("RssAnon").split_whitespace().next();
    word.expect("a number").parse().expect("a number")
}

/// Processes of the tools' user: none once the daemon has ended, those that stood ready included.
pub(super) fn left_behind() -> Vec<String> {
    let output = Command::new("pgrep")
        .args(["-a", "-u", "clawsec-sbx"])
        .output();
    let text = String::from_utf8_lossy(&output.expect("run pgrep").stdout).into_owned();
    // What has ended, and waits for somebody to ask how, holds nothing.
    let alive = text.lines().filter(|line| !line.ends_with("<defunct>"));
    alive.map(str::to_owned).collect()
}

/// The log's files, the oldest first.
pub(super) fn logs(daemon: &Daemon) -> Vec<PathBuf> {
    let entries = fs::read_dir(daemon.folder.path()).expect("list the folder");
    let mut files: Vec<PathBuf> = entries
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| {
            let name = path.file_name().and_then(|name| name.to_str());
            name.is_some_and(|name| name.starts_with("audit.log") && !name.contains("head"))
        })
        .collect();
    files.sort();
    files
}

pub(super) fn records(daemon: &Daemon) -> Vec<Value> {
    let files = logs(daemon);
    let texts = files
        .iter()
        .map(|file| fs::read_to_string(file).expect("read a log"));
    let texts: Vec<String> = texts.collect();
    let lines = texts.iter().flat_map(|text| text.lines());
    lines
        .map(|line| serde_json::from_str(line).expect("a record"))
        .collect()
}
