//! `explain` and `replay`: by a configuration alone, and asked of a filter in force.

use std::fs;
use std::process::Output;

use serde_json::{Value, json};
use xtask::lab::{CLIENT_INSIDE, CLIENT_OUTSIDE, Host};

use super::daemon::Daemon;

/// Exit code and standard output.
fn said(output: &Output) -> (Option<i32>, String) {
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    (output.status.code(), text)
}

fn answer(output: &Output) -> (Option<i32>, Value) {
    let (exit, text) = said(output);
    let value = serde_json::from_str(&text).unwrap_or_else(|error| {
        let stderr = String::from_utf8_lossy(&output.stderr);
        panic!("{error} in {text:?}, and on standard error {stderr}")
    });
    (exit, value)
}

/// A pcap of nanoseconds in this machine's order, one SYN each from the sources and times.
fn capture(frames: &[(&str, u64)]) -> Vec<u8> {
    let mut file = 0xa1b2_3c4d_u32.to_ne_bytes().to_vec();
    file.extend([2_u16.to_ne_bytes(), 4_u16.to_ne_bytes()].concat());
    file.extend([0; 8]);
    file.extend(65_535_u32.to_ne_bytes());
    file.extend(1_u32.to_ne_bytes());
    for (source, at_ns) in frames {
        let source: std::net::Ipv4Addr = source.parse().unwrap();
        let mut frame = vec![2; 12];
        frame.extend([8, 0, 0x45, 0, 0, 40, 0, 1, 0, 0, 64, 6, 0, 0]);
        frame.extend(source.octets());
        frame.extend([192, 0, 2, 1, 0x9c, 0x40]);
        frame.extend(8443_u16.to_be_bytes());
        frame.extend([0, 0, 0, 1, 0, 0, 0, 0, 0x50, 2, 0, 0, 0, 0, 0, 0]);
        let length = u32::try_from(frame.len()).unwrap().to_ne_bytes();
        file.extend(u32::try_from(at_ns / 1_000_000_000).unwrap().to_ne_bytes());
        file.extend(u32::try_from(at_ns % 1_000_000_000).unwrap().to_ne_bytes());
        file.extend([length, length].concat());
        file.extend(frame);
    }
    file
}

/// Packets counted at protected ports, by reason: neighbour discovery goes on meanwhile.
fn counted(daemon: &Daemon) -> Vec<(String, u64)> {
    let status = daemon.status();
    let reasons = status["reasons"].as_array().expect("reasons").clone();
    reasons
        .iter()
        .map(|total| {
            (
                total["name"].to_string(),
                total["packets"].as_u64().unwrap(),
            )
        })
        .filter(|(reason, _)| {
            ["not_allowed", "banned", "rate_limited", "denied"]
                .iter()
                .any(|word| reason.contains(word))
        })
        .collect()
}

/// What the program itself keeps: its buckets, its totals by source and its figures.
fn kept(daemon: &Daemon) -> Vec<String> {
    use aya::maps::{HashMap, Map, MapData, PerCpuArray};
    use clawsec_common::abi::{Bucket, SCHEMA, STATS, SourceKey, TALLY_SETS, TallySet, name};
    let folder = daemon.pin_dir.join(format!("v{SCHEMA}"));
    let pinned = |map: &str| MapData::from_pin(folder.join(map)).expect("open a pinned map");
    let mut kept = Vec::new();
    for map in [name::BUCKETS, name::CEILINGS] {
        let buckets: HashMap<_, SourceKey, Bucket> =
            Map::LruHashMap(pinned(map)).try_into().expect("buckets");
        kept.extend(buckets.iter().map(|entry| format!("{map}: {entry:?}")));
    }
    let tallies: PerCpuArray<_, TallySet> = Map::PerCpuArray(pinned(name::TALLIES))
        .try_into()
        .expect("tallies");
    kept.extend((0..TALLY_SETS).map(|set| format!("{set}: {:?}", tallies.get(&set, 0))));
    let stats: PerCpuArray<_, u64> = Map::PerCpuArray(pinned(name::STATS))
        .try_into()
        .expect("figures");
    kept.extend((0..STATS).map(|stat| format!("{:?}", stats.get(&stat, 0))));
    kept.sort();
    kept
}

#[test]
fn a_filter_in_force_is_asked_and_not_touched() {
    let daemon = Daemon::start("judge", |config| {
        config["security"]["rateLimit"]["connections"] = json!(50);
    });
    let pin_dir = daemon.pin_dir.display().to_string();
    let banned = "192.0.2.66";
    assert!(daemon.clawsec(&["ban", "add", banned]).status.success());
    assert_eq!(daemon.get(Host::Outside, "/").exit, 28);
    let admit = ["allow", "add", "203.0.113.0/24", "--for", "1h"];
    assert!(daemon.clawsec(&admit).status.success());
    let before = counted(&daemon);
    assert!(!before.is_empty(), "the filter has counted its drop");
    let kept_before = kept(&daemon);
    let buckets = kept_before
        .iter()
        .filter(|line| line.starts_with("BUCKETS"));
    assert_ne!(
        buckets.count(),
        0,
        "the daemon was asked from inside: {kept_before:?}"
    );
    let explain = |from: &str| {
        let live = [
            "explain",
            "--live",
            "--pin-dir",
            &pin_dir,
            "--json",
            "--syn",
        ];
        answer(&daemon.clawsec(&[&live[..], &["--from", from]].concat()))
    };
    let allowed =
        json!({ "verdict": "pass", "reason": "allowed", "rule": "security.network.allowedIPs[0]" });
    let rows = [
        (CLIENT_INSIDE, 0, allowed, "allow"),
        (
            CLIENT_OUTSIDE,
            1,
            json!({ "verdict": "drop", "reason": "not_allowed", "rule": "security.network.allowedIPs" }),
            "deny",
        ),
        (
            banned,
            1,
            json!({ "verdict": "drop", "reason": "banned", "rule": null }),
            "not_reached",
        ),
        (
            "203.0.113.7",
            0,
            json!({ "verdict": "pass", "reason": "allowed", "rule": "clawsec allow" }),
            "allow",
        ),
    ];
    for (from, exit, packet, outcome) in rows {
        let (code, found) = explain(from);
        assert_eq!(code, Some(exit), "{from}: {found}");
        assert_eq!(found["packet"], packet, "{from}");
        assert_eq!(found["request"]["outcome"], outcome, "{from}: {found}");
        let joined = &found["answer"];
        let expected = if exit == 0 { "allow" } else { "deny" };
        assert_eq!(joined["outcome"], expected, "{from}: {found}");
        // The tests' configuration is one line.
        let is_in_the_file = joined["rule"]
            .as_str()
            .is_some_and(|rule| rule.starts_with("security."));
        let line = if is_in_the_file {
            json!(1)
        } else {
            Value::Null
        };
        assert_eq!(joined["line"], line, "{from}: {found}");
    }

    // More connections than the limit admits, of a source that is asked for again below.
    let path = daemon.path("many.pcap");
    let frames: Vec<_> = (0..200_u64).map(|n| (CLIENT_INSIDE, n)).collect();
    fs::write(&path, capture(&frames)).expect("write the capture");
    let path = path.display().to_string();
    let output = daemon.clawsec(&["replay", &path, "--live", "--pin-dir", &pin_dir, "--json"]);
    let (exit, text) = said(&output);
    assert_eq!(exit, Some(0));
    let passes = text
        .lines()
        .filter(|line| line.contains("\"pass\""))
        .count();
    assert_eq!((text.lines().count(), passes), (200, 50));

    assert_eq!(counted(&daemon), before, "no counter of the filter moved");
    assert_eq!(kept(&daemon), kept_before, "no bucket nor total either");
    assert_eq!(
        daemon.get(Host::Inside, "/").status,
        200,
        "no token was spent"
    );
}

#[test]
fn a_capture_is_judged_by_its_own_clock() {
    let folder = tempfile::tempdir().expect("make a folder");
    let path = |name: &str| folder.path().join(name).display().to_string();
    let config = json!({
        "gateway": { "listen": ["192.0.2.1:8443"], "tls": { "enabled": false } },
        "security": {
            "auth": { "type": "apiKey", "key": "test-key-of-thirty-two-characters" },
            "network": { "allowedIPs": ["192.0.2.0/24"] },
            "rateLimit": { "enabled": true, "requests": 2, "window": 2000, "connections": 2 },
            "audit": { "path": path("audit.log") },
        },
    });
    fs::write(path("clawsec.json"), config.to_string()).unwrap();
    let second = 1_000_000_000;
    let (inside, outside) = ("192.0.2.7", "9.9.9.9");
    let whole = capture(&[
        (inside, 0),
        (outside, 1),
        (inside, 2),
        (inside, 3),
        (inside, second + 4_000_000),
        (inside, second + 5_000_000),
    ]);
    fs::write(path("a.pcap"), &whole).unwrap();
    fs::write(path("cut.pcap"), &whole[..whole.len() - 1]).unwrap();
    fs::write(path("text.pcap"), "not a capture").unwrap();
    let mut cooked = whole.clone();
    cooked[20..24].copy_from_slice(&113_u32.to_ne_bytes());
    fs::write(path("cooked.pcap"), &cooked).unwrap();

    let run = |name: &str, more: &[&str]| {
        let (file, config) = (path(name), path("clawsec.json"));
        let arguments = [&["replay", &file, "--config", &config][..], more].concat();
        std::process::Command::new(super::daemon::clawsec())
            .args(arguments)
            .output()
            .expect("run clawsec")
    };
    let (exit, text) = said(&run("a.pcap", &["--json"]));
    let expected = [
        ("pass", "allowed"),
        ("drop", "not_allowed"),
        ("pass", "allowed"),
        ("drop", "rate_limited"),
        ("pass", "allowed"),
        ("drop", "rate_limited"),
    ];
    let expected =
        expected
            .iter()
            .zip(1..)
            .fold(String::new(), |text, ((verdict, reason), number)| {
                let line =
                    format!(r#"{{"frame":{number},"verdict":"{verdict}","reason":"{reason}"}}"#);
                text + &line + "\n"
            });
    assert_eq!((exit, text.as_str()), (Some(0), expected.as_str()));

    for (name, lines, message) in [
        ("cut.pcap", 5, "byte 443: the file ends inside a frame"),
        (
            "text.pcap",
            0,
            "this is neither pcap nor pcapng: it begins with 6e 6f 74 20",
        ),
        ("cooked.pcap", 0, "frames of link type 113, Linux cooked"),
        ("absent.pcap", 0, "cannot open"),
    ] {
        let output = run(name, &[]);
        let (exit, text) = said(&output);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(
            (exit, text.lines().count()),
            (Some(2), lines),
            "{name}: {stderr}"
        );
        assert!(stderr.contains(message), "{name}: {stderr}");
    }
}
