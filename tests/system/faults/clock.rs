//! The wall clock jumps, by libfaketime in the daemon alone: what ends by the wall clock ends or
//! lasts by it, what is measured goes on, and the log stays whole.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use xtask::lab::{CLIENT_OUTSIDE, Host, Lab};
use xtask::standin::Seen;

use crate::system::daemon::{Daemon, serve_stand_in};

const LIBRARY: &str = "/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1";

#[test]
fn a_clock_that_jumps_breaks_nothing() {
    assert!(Path::new(LIBRARY).exists(), "needs faketime");
    let lab = Lab::of_this_process("clock").expect("make the lab's namespaces");
    let seen = Arc::new(Seen::default());
    serve_stand_in(&lab, &seen);
    let mut daemon = Daemon::prepare(lab, seen, |config| {
        let networks = serde_json::json!(["192.0.2.0/24", "198.51.100.0/24"]);
        config["security"]["network"]["allowedIPs"] = networks;
    });
    let step = |offset: &str| fs::write(daemon.path("clock"), offset).expect("step the clock");
    step("+0s");
    let file = daemon.path("clock").display().to_string();
    let variables = [
        ("LD_PRELOAD", LIBRARY),
        ("FAKETIME_TIMESTAMP_FILE", file.as_str()),
        ("FAKETIME_NO_CACHE", "1"),
        ("FAKETIME_DONT_FAKE_MONOTONIC", "1"),
    ];
    daemon.spawn_with(&[], &variables);
    await_that("an answer", || daemon.get(Host::Inside, "/").status == 200);
    let step = |offset: &str| fs::write(daemon.path("clock"), offset).expect("step the clock");
    let ban = |length: &str| {
        let done = daemon.clawsec(&["ban", "add", CLIENT_OUTSIDE, "--for", length]);
        assert!(done.status.success(), "{done:?}");
    };
    let is_served = || daemon.get(Host::Outside, "/").status == 200;

    ban("6h");
    assert!(!is_served(), "banned");
    // A day on: the ban is over.
    step("+1d");
    await_that("the end of the ban", is_served);
    daemon.await_record("the step", |record| record["action"] == "clock");
    assert_eq!(daemon.get(Host::Inside, "/").status, 200);

    // Two days back: a ban of an hour is made, and holds; nothing that was over comes back.
    step("-1d");
    assert_eq!(daemon.get(Host::Inside, "/").status, 200);
    assert!(is_served(), "what had ended does not come back");
    ban("1h");
    assert!(!is_served(), "banned");
    // And forward again: it ends.
    step("+0s");
    await_that("the end of the second ban", is_served);
    assert_eq!(daemon.get(Host::Inside, "/").status, 200);

    daemon.stop();
    let log = daemon.path("audit.log");
    let verified = daemon.clawsec(&["audit", "verify", "--path", &log.to_string_lossy()]);
    assert!(verified.status.success(), "{verified:?}");
    let stamps: Vec<String> = daemon
        .audit()
        .iter()
        .filter_map(|record| Some(record["ts"].as_str()?.get(..10)?.to_owned()))
        .collect();
    let mut days = stamps.clone();
    days.dedup();
    println!("the days of the records, in their order: {days:?}");
    assert!(
        days.len() >= 4,
        "the records have the clock's own time: {days:?}"
    );
}

fn await_that(what: &str, is_so: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while !is_so() {
        assert!(Instant::now() < deadline, "{what} does not come");
        std::thread::sleep(Duration::from_millis(200));
    }
}
