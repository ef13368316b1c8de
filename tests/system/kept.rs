//! Bans and admissions kept over whatever happens to the daemon and to the kernel's maps.

use std::fs;
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::MetadataExt as _;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use clawsec_common::abi::SCHEMA;
use serde_json::json;
use xtask::lab::{self, Host};

use super::daemon::Daemon;
use super::timed::{TIMED_OUT, await_that, badly, connects, gist, gists, json_of, well};
use super::traffic::{self, Namespaces, under_traffic};

/// What happens between two daemons.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Between {
    Restart,
    Kill,
    /// The pins are gone, as after a boot.
    Reboot,
    /// The pins are another schema's.
    Schema,
}

impl Between {
    fn happens(self, daemon: &mut Daemon) {
        match self {
            Self::Restart => daemon.stop(),
            Self::Kill | Self::Reboot | Self::Schema => daemon.kill(),
        }
        match self {
            Self::Restart | Self::Kill => {}
            Self::Reboot => daemon.detach(),
            Self::Schema => {
                let own = daemon.pin_dir.join(format!("v{SCHEMA}"));
                fs::rename(own, daemon.pin_dir.join("v0")).expect("rename the pins");
            }
        }
    }
}

#[test]
fn bans_and_admissions_survive_with_their_ends_and_notes() {
    let mut daemon = Daemon::start("survive", |_| {});
    let add = [
        "ban",
        "add",
        "2001:db8:1::/48",
        "--for",
        "1h",
        "--note",
        "no IPv6",
    ];
    let mut bans = vec![gist(&json_of(&daemon, &add))];
    let add = [
        "allow",
        "add",
        "198.51.100.0/24",
        "--for",
        "1d",
        "--note",
        "the fair",
    ];
    let admissions = [gist(&json_of(&daemon, &add))];
    for (between, number) in [
        Between::Restart,
        Between::Kill,
        Between::Reboot,
        Between::Schema,
        Between::Reboot,
    ]
    .into_iter()
    .zip(1..)
    {
        // The last change before the end is kept too, and what was ended stays so.
        well(&daemon, &["ban", "add", "203.0.113.99"]);
        let one = format!("203.0.113.{number}");
        bans.push(gist(&json_of(
            &daemon,
            &["ban", "add", &one, "--for", "2h", "--note", &one],
        )));
        bans.sort_by_key(|ban| ban[0].as_str().map(|text| text.contains(':')));
        well(&daemon, &["ban", "remove", "203.0.113.99"]);
        between.happens(&mut daemon);
        daemon.launch();
        assert_eq!(gists(&daemon, "ban"), bans, "{between:?}");
        assert_eq!(gists(&daemon, "allow"), admissions, "{between:?}");
        assert!(
            !connects(&daemon, Host::Inside, lab::GATEWAY_INSIDE_V6),
            "{between:?}"
        );
        assert_eq!(daemon.get(Host::Outside, "/").status, 200, "{between:?}");
    }
    // Ended while the filter is not kept in step: it must not come back with the old maps.
    daemon.stop();
    daemon.launch_with(&["--no-xdp"]);
    well(&daemon, &["ban", "remove", "2001:db8:1::/48"]);
    well(&daemon, &["allow", "remove", "198.51.100.0/24"]);
    daemon.stop();
    daemon.launch();
    assert_eq!(gists(&daemon, "ban").len(), bans.len() - 1);
    assert!(connects(&daemon, Host::Inside, lab::GATEWAY_INSIDE_V6));
    assert_eq!(daemon.get(Host::Outside, "/").exit, TIMED_OUT);
}

#[test]
fn a_ban_by_the_gateway_survives_a_kill_and_a_reboot() {
    let mut daemon = Daemon::start("autoban", |config| {
        config["security"]["network"]["allowedIPs"] = json!(["192.0.2.0/24", "198.51.100.0/24"]);
        config["security"]["rateLimit"]["ban"] = json!({ "after": 3, "for": 3_600_000 });
    });
    for _ in 0..6 {
        daemon.curl(Host::Outside, "/tools/invoke", &["--json", "{}"]);
    }
    daemon.await_record("the ban", |record| {
        record["action"] == "ban" && record["reason"] == "repeated_denials"
    });
    // At once: the kernel's maps know it, whether the file does or not.
    daemon.kill();
    daemon.launch();
    assert_eq!(
        daemon.get(Host::Outside, "/").exit,
        TIMED_OUT,
        "after a kill"
    );
    let state = daemon.path("state/timed");
    await_that("written", &daemon, || {
        fs::read_to_string(&state).is_ok_and(|text| text.contains("ban 198.51.100.2/32 "))
    });
    daemon.kill();
    daemon.detach();
    daemon.launch();
    assert_eq!(
        daemon.get(Host::Outside, "/").exit,
        TIMED_OUT,
        "after a reboot"
    );
    let list = json_of(&daemon, &["ban", "list"]);
    assert_eq!(list[0]["prefix"], "198.51.100.2/32", "{list}");
}

#[test]
fn another_schema_s_pins_are_taken_over_without_a_wrong_verdict() {
    let mut daemon = Daemon::start("schema", |config| {
        config["security"]["rateLimit"]["connections"] = json!(1_000_000);
    });
    well(&daemon, &["ban", "add", "2001:db8:1::/64", "--for", "1h"]);
    well(
        &daemon,
        &["allow", "add", lab::CLIENT_OUTSIDE_V6, "--for", "1h"],
    );
    let hosts = Namespaces::of(&daemon.lab);
    let stop = AtomicBool::new(false);
    let tries = [AtomicU64::new(0), AtomicU64::new(0)];
    let files = [Host::Inside, Host::Outside]
        .map(|host| fs::File::open(daemon.lab.path(host)).expect("open the namespace"));
    let outcome = std::thread::scope(|scope| {
        let banned = scope
            .spawn(|| wrong_answers(&files[0], lab::GATEWAY_INSIDE_V6, false, &stop, &tries[0]));
        let admitted = scope
            .spawn(|| wrong_answers(&files[1], lab::GATEWAY_OUTSIDE_V6, true, &stop, &tries[1]));
        let mut outcome = under_traffic(&hosts, traffic::Daemon::Restarts, || {
            for round in 0..4 {
                if round % 2 == 0 {
                    daemon.stop();
                } else {
                    daemon.kill();
                }
                let own = daemon.pin_dir.join(format!("v{SCHEMA}"));
                fs::rename(own, daemon.pin_dir.join("v0")).expect("rename the pins");
                daemon.launch();
                assert!(
                    !daemon.pin_dir.join("v0").exists(),
                    "what the old schema left is gone"
                );
            }
        });
        stop.store(true, Ordering::Relaxed);
        outcome.wrong.extend(banned.join().expect("the banned"));
        outcome.wrong.extend(admitted.join().expect("the admitted"));
        outcome
    });
    assert!(outcome.wrong.is_empty(), "{:?}", outcome.wrong);
    let [banned, admitted] = tries.map(AtomicU64::into_inner);
    assert!(
        outcome.allowed_tries > 50 && outcome.denied_tries > 20 && banned > 20 && admitted > 50,
        "{outcome:?}, banned {banned}, admitted {admitted}"
    );
}

/// Connects without end; an answer to the banned, or silence to the admitted, is wrong.
fn wrong_answers(
    namespace: &fs::File,
    to: &str,
    answered: bool,
    stop: &AtomicBool,
    tries: &AtomicU64,
) -> Vec<String> {
    use std::io::ErrorKind::{ConnectionRefused, ConnectionReset, TimedOut};
    use std::os::fd::AsFd as _;

    use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
    move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))
        .expect("enter the namespace");
    let address: SocketAddr = format!("[{to}]:8443").parse().expect("parse");
    let patience = Duration::from_millis(if answered { 3000 } else { 40 });
    let mut wrong = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        let kind = TcpStream::connect_timeout(&address, patience)
            .map(drop)
            .map_err(|error| error.kind());
        let right = match kind {
            Ok(()) | Err(ConnectionRefused | ConnectionReset) => answered,
            Err(TimedOut) => !answered,
            Err(_) => false,
        };
        if !right {
            wrong.push(format!("{address}: {kind:?}"));
        }
        tries.fetch_add(1, Ordering::Relaxed);
        std::thread::sleep(Duration::from_millis(2));
    }
    wrong
}

#[test]
fn a_damaged_state_file_is_one_warning_and_loses_no_ban() {
    let mut daemon = Daemon::start("damaged", |_| {});
    well(&daemon, &["ban", "add", "2001:db8:1::/64", "--for", "1h"]);
    well(
        &daemon,
        &["allow", "add", lab::CLIENT_OUTSIDE, "--for", "1h"],
    );
    let path = daemon.path("state/timed");
    let damage = || {
        let mut bytes = fs::read(&path).expect("read the state");
        bytes.extend(b"allow everybody\n\xff\xfe\0 2\n");
        fs::write(&path, bytes).expect("damage the state");
    };
    daemon.kill();
    damage();
    daemon.launch();
    let warnings = daemon
        .log()
        .matches("2 of its lines cannot be read, line 4 first")
        .count();
    assert_eq!(warnings, 1, "{}", daemon.log());
    daemon.await_record("the damage", |record| {
        record["event"] == "system" && record["action"] == "keep" && record["reason"] == "damaged"
    });
    assert!(daemon.path("state/timed.damaged").exists());
    assert!(!connects(&daemon, Host::Inside, lab::GATEWAY_INSIDE_V6));
    assert_eq!(
        daemon.get(Host::Outside, "/").status,
        200,
        "the kernel holds it too"
    );

    // After a boot nothing vouches for an admission in a damaged file.
    daemon.kill();
    daemon.detach();
    damage();
    daemon.launch();
    assert!(!connects(&daemon, Host::Inside, lab::GATEWAY_INSIDE_V6));
    assert_eq!(daemon.get(Host::Outside, "/").exit, TIMED_OUT);
    assert_eq!(json_of(&daemon, &["allow", "list"]), json!([]));
}

#[test]
fn a_million_bans_are_carried_listed_and_added_to() {
    let mut daemon = Daemon::start("million", |_| {});
    daemon.stop();
    daemon.detach();
    let mut text = String::from("clawsec-timed 1 filter\n");
    for n in 0..1_000_000_u32 {
        let source = std::net::Ipv4Addr::from_bits(0x1000_0000 + n);
        text.push_str(&format!(
            "ban {source}/32 99999999999999 gateway rate_limited\n"
        ));
    }
    let path = daemon.path("state/timed");
    fs::write(&path, text).expect("write the state");
    daemon.spawn();
    // A debug build on a busy machine takes its time over a million lines.
    let deadline = Instant::now() + Duration::from_mins(3);
    while daemon.get(Host::Inside, "/").status != 200 {
        assert!(Instant::now() < deadline, "{}", daemon.log());
        std::thread::sleep(Duration::from_millis(200));
    }
    let status = daemon.status();
    assert_eq!(status["bans"], 1_000_000);
    let memory = &status["kernel_memory"];
    assert!(
        memory["used_bytes"].as_u64() <= memory["bound_bytes"].as_u64(),
        "{memory}"
    );
    assert!(memory["used_bytes"].as_u64() > Some(64 << 20), "{memory}");

    let file = || fs::metadata(&path).expect("look at the state");
    let before = file();
    let (exit, text) = badly(&daemon, &["ban", "add", "203.0.113.1"]);
    assert_eq!(exit, Some(1), "{text}");
    assert!(text.contains("all 1000000 timed bans are taken"), "{text}");
    well(&daemon, &["ban", "remove", "16.0.0.1"]);
    well(&daemon, &["ban", "add", "203.0.113.1"]);
    well(&daemon, &["ban", "add", "203.0.113.0/24"]);
    let after = file();
    assert_eq!(after.ino(), before.ino(), "appended, not written anew");
    assert!(
        after.len() - before.len() < 500,
        "{} bytes",
        after.len() - before.len()
    );
    let listed = well(&daemon, &["ban", "list"]);
    assert_eq!(listed.lines().count(), 1_000_001);
    assert!(!listed.contains("16.0.0.1 "), "it was removed");
    assert!(listed.contains("203.0.113.1 ") && listed.contains("203.0.113.0/24 "));
}
