//! The reading commands as an operator runs them: on files alone, with nothing that ever wrote there
//! running, and with a terminal or without.

use std::fs::{self, File};
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use clawsec_user::audit::{Chain, Digest, Entry, Record, Stamp};
use clawsec_user::event::{Event, EventKind, Outcome};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use serde_json::Value;

use super::daemon::clawsec;

const RECORDS: u64 = 900;

/// Three parts of one chain: the oldest gzipped, as logrotate does, the newest plain.
fn log_in_parts(folder: &Path) -> PathBuf {
    let log = folder.join("audit.log");
    let mut prev = Digest::ZERO;
    let mut seq = 0;
    for name in ["audit.log.2", "audit.log.1", "audit.log"] {
        let mut text = Vec::new();
        for _ in 0..RECORDS / 3 {
            seq += 1;
            let mut event = Event::new(EventKind::Auth, "connect", Outcome::Deny, "rate_limited");
            event.source = Some("192.0.2.7".parse().unwrap());
            event.request = Some(format!("request-{seq}"));
            let at = Stamp::from_micros(1_767_225_600_000_000 + i64::try_from(seq).unwrap());
            let mut record = Record::new(&Entry::new(event, at), seq, prev);
            record.encode(&Chain::new(None), &mut text);
            prev = record.hash;
        }
        fs::write(folder.join(name), text).unwrap();
    }
    gzip(&folder.join("audit.log.2"));
    gzip(&folder.join("audit.log.1"));
    log
}

fn gzip(file: &Path) {
    let status = Command::new("gzip").arg("-1").arg(file).status();
    assert!(status.expect("run gzip").success());
}

fn audit(arguments: &[&str], log: &Path) -> Command {
    let mut command = Command::new(clawsec());
    command.arg("audit").args(arguments).arg("--path").arg(log);
    command
}

fn output(arguments: &[&str], log: &Path) -> String {
    let output: Output = audit(arguments, log).output().expect("run clawsec");
    assert!(output.status.success(), "{arguments:?}: {output:?}");
    assert!(output.stderr.is_empty(), "{arguments:?}: {output:?}");
    String::from_utf8(output.stdout).expect("UTF-8")
}

#[test]
fn every_command_reads_rotated_and_compressed_parts_without_a_daemon() {
    let folder = tempfile::tempdir().unwrap();
    let log = log_in_parts(folder.path());
    let before: Vec<_> = fs::read_dir(folder.path()).unwrap().flatten().collect();
    let lines = |text: &str| text.lines().count() as u64;
    let json = |text: &str| serde_json::from_str::<Value>(text).expect("JSON");

    assert_eq!(lines(&output(&["query", "--json"], &log)), RECORDS);
    let oldest = output(&["query", "--json", "--request", "request-1"], &log);
    assert_eq!(json(&oldest)["seq"], 1, "of the oldest part");
    let tail = output(&["tail", "--json", "-n", "650"], &log);
    assert_eq!(lines(&tail), 650, "over two parts' ends");
    assert_eq!(json(tail.lines().next().unwrap())["seq"], RECORDS - 649);
    let stats = json(&output(&["stats", "--json"], &log));
    assert_eq!(stats["records"], RECORDS);
    let who = json(&output(&["who", "192.0.2.7", "--json"], &log));
    assert_eq!(who["stats"]["records"], RECORDS);
    let show = output(&["show", "request-301", "--json"], &log);
    assert_eq!(json(&show)["seq"], 301);
    let verified = json(&output(&["verify", "--no-head", "--json"], &log));
    assert_eq!(
        (&verified["ok"], &verified["records"]),
        (&Value::Bool(true), &RECORDS.into())
    );
    assert_eq!(
        lines(&output(&["export", "--format", "ocsf"], &log)),
        RECORDS
    );
    let csv = output(&["export", "--format", "csv"], &log);
    assert_eq!(lines(&csv), RECORDS + 1, "and a heading");
    assert!(output(&["report", "--html"], &log).contains("900 records"));

    let after: Vec<_> = fs::read_dir(folder.path()).unwrap().flatten().collect();
    assert_eq!(before.len(), after.len(), "nothing is left beside the log");
}

/// Takes a debug build seconds, and no disk.
fn long_log(folder: &Path) -> PathBuf {
    let log = log_in_parts(folder);
    let line = fs::read(&log).unwrap();
    let text = line.repeat((160 << 20) / line.len());
    fs::write(folder.join("audit.log.3"), text).unwrap();
    gzip(&folder.join("audit.log.3"));
    log
}

#[test]
fn a_long_scan_shows_how_far_it_is_on_a_terminal_alone() {
    let folder = tempfile::tempdir().unwrap();
    let log = long_log(folder.path());
    let asked = ["stats", "--json"];
    // What is collected and what is piped stay as they are.
    let quiet = output(&asked, &log);

    let terminal = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).expect("open a terminal");
    grantpt(&terminal).expect("grant it");
    unlockpt(&terminal).expect("unlock it");
    let name = ptsname(&terminal, Vec::new()).expect("its name");
    let other_end = File::options()
        .read(true)
        .write(true)
        .open(name.to_str().expect("a path"))
        .expect("open its other end");
    let child = audit(&asked, &log)
        .stdout(Stdio::piped())
        .stderr(other_end)
        .spawn()
        .expect("run clawsec");
    let reader = std::thread::spawn(move || {
        let mut shown = Vec::new();
        // The end is an error: nobody holds the other end any more.
        let _gone = File::from(terminal).read_to_end(&mut shown);
        String::from_utf8_lossy(&shown).into_owned()
    });
    let output = child.wait_with_output().expect("wait for clawsec");
    assert!(output.status.success(), "{output:?}");
    assert_eq!(String::from_utf8_lossy(&output.stdout), quiet);
    let shown = reader.join().expect("read the terminal");
    assert!(shown.contains(" MiB") && shown.contains(" %"), "{shown:?}");
    assert!(
        shown.ends_with("\r\u{1b}[K"),
        "its line is taken away: {shown:?}"
    );
}
