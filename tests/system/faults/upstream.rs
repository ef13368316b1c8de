//! The gateway behind clawsec stalls, resets, floods, and lies about where its answers end.

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::json;
use xtask::lab::{Host, Lab};
use xtask::standin::Seen;

use super::liar;
use crate::system::client::Client;
use crate::system::daemon::{Daemon, KEY};
use crate::system::traffic::Stopper;

/// What a client is told for each of the gateway's faults: a status, and whether curl took the
/// answer for whole (0) or saw it cut (18 and 56 are its codes for that, 92 of HTTP/2, 28 that it
/// had enough). Over HTTP/2 a reset may overtake the head: then there is no status at all.
const ROWS: &[(&str, &[u16], &[i32])] = &[
    ("/stall", &[504], &[0]),
    ("/closes", &[502], &[0]),
    ("/half-a-head", &[502], &[0]),
    ("/garbage", &[502], &[0]),
    ("/no-status", &[502], &[0]),
    ("/short", &[200, 0], &[18, 56, 92]),
    ("/long", &[200], &[0]),
    ("/two-answers", &[200], &[0]),
    ("/length-and-chunks", &[200, 502, 0], &[0, 18, 56, 92]),
    ("/two-lengths", &[502], &[0]),
    ("/bad-chunks", &[200, 0], &[18, 56, 92]),
    ("/endless-informational", &[502, 504], &[0]),
    ("/endless-head", &[502], &[0]),
    ("/endless-body", &[200], &[28]),
    ("/switches", &[502], &[0]),
];

/// Every fault at once, and a client beside them whose answers are its own: none of them is the rest
/// of somebody else's, however the pool of connections is shared.
#[test]
fn a_gateway_that_lies_hurts_only_those_who_asked_it_to() {
    let lab = Lab::of_this_process("liar").expect("make the lab's namespaces");
    liar::serve(&lab);
    let mut daemon = Daemon::prepare(lab, Arc::new(Seen::default()), |config| {
        config["security"]["rateLimit"] = json!({ "enabled": true, "requests": 100_000, "window": 60000, "connections": 100_000 });
    });
    daemon.launch();
    let pid = daemon.status()["gateway_pid"].as_u64().expect("a pid");
    let client = Client::inside(&daemon.lab, &daemon.path("cert.pem"));
    let ended = AtomicBool::new(false);
    let asked = std::thread::scope(|scope| {
        let beside = scope.spawn(|| own_answers(&client, &ended));
        let stopper = Stopper(&ended);
        let mut faults = Vec::new();
        for round in 0..3 {
            for (path, statuses, exits) in ROWS {
                let daemon = &daemon;
                // The slow ones once.
                if round > 0 && (*path == "/stall" || path.starts_with("/endless")) {
                    continue;
                }
                faults.push(scope.spawn(move || {
                    // What never ends is read slowly, and for so long.
                    let endless = ["--max-time", "5", "--limit-rate", "1M"];
                    let patient = ["--max-time", "60"];
                    let how = if *path == "/endless-body" {
                        &endless[..]
                    } else {
                        &patient
                    };
                    let key = format!("X-API-Key: {KEY}");
                    let answer = daemon.curl(Host::Inside, path, &[how, &["-H", &key]].concat());
                    let is_right =
                        statuses.contains(&answer.status) && exits.contains(&answer.exit);
                    assert!(is_right, "{path}: {} {}", answer.status, answer.exit);
                    assert!(!answer.body.contains("poison"), "{path}: {}", answer.body);
                }));
            }
        }
        for fault in faults {
            fault.join().expect("each fault has its answer");
        }
        drop(stopper);
        beside.join().expect("the client beside is served")
    });
    println!("{asked} answers beside the faults, each its own");
    assert!(asked > 100, "{asked}");
    assert_eq!(daemon.status()["gateway_pid"], pid, "{}", daemon.log());
    assert!(!daemon.log().contains("panicked"), "{}", daemon.log());
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("read the status");
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let peak = peak.expect("VmHWM").split_whitespace().next();
    let peak: u64 = peak.expect("a number").parse().expect("a number");
    assert!(
        peak < 192 * 1024,
        "{peak} KiB at most, endless answers and all"
    );
}

/// Asks for one page after the other; each answer names its question.
fn own_answers(client: &Client, ended: &AtomicBool) -> u64 {
    client.enter();
    let mut kept = client.connect().expect("connect");
    let mut asked = 0_u64;
    while !ended.load(Ordering::Relaxed) {
        let line = format!("GET /page/{asked}");
        let (status, body) = kept.ask_for_text(&line, KEY).expect("an answer");
        assert_eq!((status, body), (200, format!("/page/{asked}")));
        asked += 1;
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    asked
}
