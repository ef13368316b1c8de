//! Bans and admissions for a time: in force at the card and at accept, until their ends.

use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use xtask::lab::{self, Host};

use super::daemon::{Daemon, in_namespace};

pub(super) const TIMED_OUT: i32 = 28;

/// Runs a command that must do well; what it printed, parsed.
pub(super) fn json_of(daemon: &Daemon, arguments: &[&str]) -> Value {
    let output = daemon.clawsec(&[arguments, &["--json"]].concat());
    assert!(output.status.success(), "{arguments:?}: {output:?}");
    serde_json::from_slice(&output.stdout).expect("parse the answer")
}

pub(super) fn well(daemon: &Daemon, arguments: &[&str]) -> String {
    let output = daemon.clawsec(arguments);
    assert!(output.status.success(), "{arguments:?}: {output:?}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Exit code and standard error.
pub(super) fn badly(daemon: &Daemon, arguments: &[&str]) -> (Option<i32>, String) {
    let output = daemon.clawsec(arguments);
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    (output.status.code(), text)
}

/// What an answer or a list says of an entry, its time left aside.
pub(super) fn gist(entry: &Value) -> Value {
    json!([entry["prefix"], entry["until"], entry["by"], entry["note"]])
}

pub(super) fn gists(daemon: &Daemon, of: &str) -> Vec<Value> {
    let list = json_of(daemon, &[of, "list"]);
    list.as_array().expect("a list").iter().map(gist).collect()
}

pub(super) fn await_that(what: &str, daemon: &Daemon, holds: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !holds() {
        assert!(Instant::now() < deadline, "not {what}:\n{}", daemon.log());
        std::thread::sleep(Duration::from_millis(50));
    }
}

pub(super) fn connects(daemon: &Daemon, from: Host, to: &str) -> bool {
    let address: SocketAddr = format!("[{to}]:8443").parse().expect("parse");
    in_namespace(&daemon.lab, from, || {
        TcpStream::connect_timeout(&address, Duration::from_millis(700)).is_ok()
    })
}

#[test]
fn an_admission_lets_a_stranger_in_until_it_ends() {
    let daemon = Daemon::start("allow", |_| {});
    assert_eq!(daemon.get(Host::Outside, "/").exit, TIMED_OUT);
    let add = ["allow", "add", lab::CLIENT_OUTSIDE, "--for", "8h"];
    let added = json_of(&daemon, &[&add[..], &["--note", "at the fair"]].concat());
    assert_eq!(added["prefix"], "198.51.100.2/32");
    assert_eq!(
        (&added["by"], &added["note"]),
        (&json!("operator"), &json!("at the fair"))
    );
    assert_eq!(
        daemon.get(Host::Outside, "/").status,
        200,
        "at the card and at accept"
    );
    assert_eq!(gists(&daemon, "allow"), [gist(&added)]);
    let shown = well(&daemon, &["allow", "list"]);
    assert!(
        shown.contains("198.51.100.2 ") && shown.contains("at the fair"),
        "{shown}"
    );
    assert_eq!(daemon.status()["admissions"], 1);
    let pin_dir = daemon.pin_dir.display().to_string();
    let explain = [
        "explain",
        "--live",
        "--pin-dir",
        &pin_dir,
        "--syn",
        "--json",
    ];
    let output = daemon.clawsec(&[&explain[..], &["--from", lab::CLIENT_OUTSIDE]].concat());
    let said: Value = serde_json::from_slice(&output.stdout).expect("parse");
    assert_eq!(
        said["packet"],
        json!({ "verdict": "pass", "reason": "allowed", "rule": "clawsec allow" })
    );
    assert_eq!(said["request"]["outcome"], "allow", "{said}");

    // A ban goes before it, on either level.
    well(&daemon, &["ban", "add", "198.51.100.0/24", "--for", "1h"]);
    assert_eq!(daemon.get(Host::Outside, "/").exit, TIMED_OUT);
    well(&daemon, &["ban", "remove", "198.51.100.0/24"]);
    assert_eq!(daemon.get(Host::Outside, "/").status, 200);

    well(&daemon, &["allow", "remove", lab::CLIENT_OUTSIDE]);
    assert_eq!(daemon.get(Host::Outside, "/").exit, TIMED_OUT);
    assert_eq!(well(&daemon, &["allow", "list"]), "no admissions\n");
    for (action, outcome, detail) in [
        ("admit", "allow", "198.51.100.2/32 for 28800 s: at the fair"),
        ("ban", "deny", "198.51.100.0/24 for 3600 s"),
        ("unban", "allow", "198.51.100.0/24"),
        ("unadmit", "deny", "198.51.100.2/32"),
    ] {
        daemon.await_record(action, |record| {
            record["event"] == "config"
                && record["action"] == action
                && record["outcome"] == outcome
                && record["reason"] == "operator"
                && record["detail"] == detail
        });
    }

    well(&daemon, &["allow", "add", "198.51.100.0/24", "--for", "3s"]);
    assert_eq!(daemon.get(Host::Outside, "/").status, 200);
    await_that("ended by the clock", &daemon, || {
        daemon.get(Host::Outside, "/").exit == TIMED_OUT
    });
    assert_eq!(json_of(&daemon, &["allow", "list"]), json!([]));
}

#[test]
fn a_prefix_is_banned_with_a_note_and_bad_input_is_refused() {
    let daemon = Daemon::start("bannet", |_| {});
    let add = [
        "ban",
        "add",
        "192.0.2.0/24",
        "--for",
        "2h",
        "--note",
        "a scan",
    ];
    let said = well(&daemon, &add);
    assert!(
        said.starts_with("192.0.2.0/24 is banned for 2h00m, until 20"),
        "{said}"
    );
    assert_eq!(daemon.get(Host::Inside, "/").exit, TIMED_OUT);
    assert!(
        connects(&daemon, Host::Inside, lab::GATEWAY_INSIDE_V6),
        "another family"
    );
    let v6 = json_of(&daemon, &["ban", "add", lab::CLIENT_INSIDE_V6]);
    assert_eq!(v6["prefix"], "2001:db8:1::/64", "one host owns a /64");
    assert!(!connects(&daemon, Host::Inside, lab::GATEWAY_INSIDE_V6));
    let list = json_of(&daemon, &["ban", "list"]);
    assert_eq!(list[0]["prefix"], "192.0.2.0/24");
    assert_eq!(list[0]["note"], "a scan");
    assert_eq!(list[1]["prefix"], "2001:db8:1::/64");
    assert_eq!(list[1]["note"], Value::Null);
    assert!(
        list[0]["seconds_left"].as_u64().expect("seconds") > 7000,
        "{list}"
    );

    let long = "x".repeat(201);
    for (arguments, exit, message) in [
        (
            &["ban", "add", "192.0.2.7/24"][..],
            2,
            "write 192.0.2.0/24 or 192.0.2.7",
        ),
        (
            &["ban", "add", "home"],
            2,
            "expected an address or a prefix",
        ),
        (
            &["ban", "add", "192.0.2.7", "--for", "soon"],
            2,
            "such as 90s or 1h",
        ),
        (&["allow", "add", "192.0.2.7"], 2, "--for"),
        (
            &["ban", "add", "192.0.2.7", "--note", "two\nlines"],
            1,
            "one line of at most 200 bytes",
        ),
        (
            &["ban", "add", "192.0.2.7", "--note", &long],
            1,
            "one line of at most 200 bytes",
        ),
        (
            &["ban", "remove", "192.0.2.7"],
            1,
            "192.0.2.7/32 is not banned",
        ),
        (
            &["allow", "remove", "192.0.2.7"],
            1,
            "192.0.2.7/32 is not admitted for a time",
        ),
    ] {
        let (found, text) = badly(&daemon, arguments);
        assert_eq!(found, Some(exit), "{arguments:?}: {text}");
        assert!(text.contains(message), "{arguments:?}: {text}");
    }
    well(&daemon, &["ban", "remove", "192.0.2.0/24"]);
    assert_eq!(daemon.get(Host::Inside, "/").status, 200);
}

#[test]
fn the_check_at_accept_knows_bans_and_admissions() {
    let daemon = Daemon::start_with("accept", &["--no-xdp"], |_| {});
    assert_eq!(daemon.get(Host::Inside, "/").status, 200);
    // Without the filter a stranger's connection is taken, and ended before a byte is read.
    assert_eq!(daemon.get(Host::Outside, "/").status, 0);
    let admits = |host| daemon.get(host, "/").status == 200;
    well(&daemon, &["allow", "add", "198.51.100.0/24", "--for", "1h"]);
    await_that("admitted", &daemon, || admits(Host::Outside));
    well(&daemon, &["ban", "add", lab::CLIENT_OUTSIDE, "--for", "1h"]);
    await_that("banned", &daemon, || !admits(Host::Outside));
    daemon.await_record("the refusal", |record| {
        record["event"] == "network"
            && record["action"] == "accept"
            && record["reason"] == "address_banned"
            && record["rule"] == "clawsec ban"
            && record["src"]["ip"] == lab::CLIENT_OUTSIDE
    });
    well(&daemon, &["ban", "remove", lab::CLIENT_OUTSIDE]);
    await_that("admitted again", &daemon, || admits(Host::Outside));
    well(&daemon, &["allow", "add", "198.51.100.0/24", "--for", "2s"]);
    await_that("ended by the clock", &daemon, || !admits(Host::Outside));
    well(&daemon, &["ban", "add", lab::CLIENT_INSIDE, "--for", "2s"]);
    await_that("banned", &daemon, || !admits(Host::Inside));
    await_that("ended by the clock", &daemon, || admits(Host::Inside));

    // A gateway process that is started again knows them from its first connection on.
    well(
        &daemon,
        &["allow", "add", lab::CLIENT_OUTSIDE, "--for", "1h"],
    );
    let pid = daemon.status()["gateway_pid"]
        .as_u64()
        .expect("a pid")
        .to_string();
    let killed = std::process::Command::new("kill")
        .args(["-KILL", &pid])
        .status();
    assert!(killed.expect("run kill").success());
    await_that("started again", &daemon, || {
        daemon.status()["gateway_pid"]
            .as_u64()
            .is_some_and(|new| new.to_string() != pid)
            && admits(Host::Outside)
    });
}
