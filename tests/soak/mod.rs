//! The soak tier: mixed traffic at about half load, with reloads, bans, sandbox runs and rotations.
//! What grows is a leak, and at the end counters, records and what the clients saw must agree.
//!
//! `cargo xtask test --tier soak --minutes N`; one minute without a number.

mod load;
mod measure;

use std::collections::BTreeMap;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use self::load::Seen;
use self::measure::{Sample, steady};
use crate::system::daemon::Daemon;
use crate::system::sandbox::make_user;
use crate::system::traffic::Stopper;

#[test]
fn mixed_traffic_leaves_nothing_behind() {
    let minutes = std::env::var("CLAWSEC_SOAK_MINUTES").ok();
    let minutes = minutes.map_or(1, |text| text.parse().expect("a number of minutes"));
    let length = Duration::from_mins(minutes);
    make_user();
    let mut daemon = Daemon::start("soak", |config| {
        config["security"]["rateLimit"] = json!({ "enabled": true, "requests": 1_000_000,
            "window": 60000, "connections": 1_000_000 });
        config["security"]["sandbox"] = json!({ "enabled": true, "provider": "native" });
        config["security"]["audit"]["rotate"] =
            json!({ "size": "256k", "keep": 10_000, "compress": false });
    });
    // The harness's own first request is on record, too.
    std::thread::sleep(Duration::from_secs(2));
    let before = sums(&daemon);
    let ended = AtomicBool::new(false);
    let seen = Seen::default();
    let (samples, reloads) = std::thread::scope(|scope| {
        load::start(scope, &daemon, &seen, &ended);
        let stopper = Stopper(&ended);
        let watched = watch(&daemon, length);
        drop(stopper);
        watched
    });
    let seen = seen.counts();
    std::thread::sleep(Duration::from_secs(3));

    let status = daemon.status();
    let log = daemon.log();
    assert!(!log.contains("panicked"), "{log}");
    let strange = |line: &&str| {
        let expected = [
            "a plain key carries operator.admin",
            "the new policy is in force",
        ];
        (line.contains(" WARN ") || line.contains(" ERROR "))
            && !expected.iter().any(|text| line.contains(text))
    };
    let strange: Vec<&str> = log.lines().filter(strange).collect();
    assert!(strange.is_empty(), "{strange:#?}");
    assert_eq!(
        status["gateway_pid"],
        json!(samples[0].gateway_pid),
        "{log}"
    );
    steady(&samples);

    daemon.stop();
    assert_eq!(measure::left_behind(), Vec::<String>::new());
    let after = sums(&daemon);
    let recorded: BTreeMap<&str, u64> = load::KINDS
        .iter()
        .map(|kind| {
            (
                *kind,
                after.get(*kind).unwrap_or(&0) - before.get(*kind).unwrap_or(&0),
            )
        })
        .collect();
    let asked: BTreeMap<&str, u64> = seen.clone();
    assert_eq!(
        recorded, asked,
        "what is recorded is what the clients were told"
    );
    assert_eq!(
        drops_recorded(&daemon),
        drops(&status),
        "the kernel's counters"
    );
    let path = daemon.path("audit.log");
    let verified = daemon.clawsec(&["audit", "verify", "--path", &path.to_string_lossy()]);
    assert!(verified.status.success(), "{verified:?}");
    println!(
        "soak, {minutes} min: {seen:?}; {reloads} reloads; {} rotations; drops {:?}",
        measure::logs(&daemon).len() - 1,
        drops(&status)
    );
    let (first, last) = (
        samples.first().expect("a sample"),
        samples.last().expect("a sample"),
    );
    println!("first {first:?}\nlast  {last:?}");
}

/// Changes the policy, bans and admits, and takes a sample now and then.
fn watch(daemon: &Daemon, length: Duration) -> (Vec<Sample>, u64) {
    let began = Instant::now();
    let mut samples = Vec::new();
    let mut reloads = 0;
    while began.elapsed() < length {
        reloads += 1;
        daemon.rewrite_config(|config| {
            let network = format!("10.{}.0.0/16", reloads % 200);
            config["security"]["network"]["allowedIPs"] =
                json!(["192.0.2.0/24", "2001:db8:1::/64", network]);
            let denied = format!("denied_{}", reloads % 10);
            config["tools"]["deny"] = json!(["browser", denied]);
        });
        let banned = format!("203.0.113.{}", reloads % 250);
        for arguments in [
            ["ban", "add", &banned, "--for", "3s"],
            ["allow", "add", "10.250.0.0/24", "--for", "2s"],
        ] {
            let done = daemon.clawsec(&arguments);
            assert!(done.status.success(), "{done:?}");
        }
        std::thread::sleep(Duration::from_millis(1500));
        // What is allocated once, caches and pools, is there after a quarter of the time.
        if began.elapsed() * 4 > length {
            samples.push(Sample::take(daemon));
        }
    }
    (samples, reloads)
}

/// Records by what the clients count.
fn sums(daemon: &Daemon) -> BTreeMap<&'static str, u64> {
    let mut sums = BTreeMap::new();
    for record in measure::records(daemon) {
        if let Some(kind) = load::kind_of(&record) {
            *sums.entry(kind).or_default() += record["count"].as_u64().unwrap_or(1);
        }
    }
    sums
}

fn drops(status: &Value) -> BTreeMap<String, u64> {
    crate::system::spine::dropped(status)
}

fn drops_recorded(daemon: &Daemon) -> BTreeMap<String, u64> {
    crate::system::spine::recorded(&measure::records(daemon))
}
