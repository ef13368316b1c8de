//! No packet is judged by no policy, nor by half of one: policies switched and daemons killed,
//! again and again, under traffic from an allowed and a denied host.
//!
//! `CLAWSEC_RELOADS` and `CLAWSEC_KILLS` set how often; `docs/reliability.md` has the full runs.

use std::time::{Duration, Instant};

use clawsec_user::supervisor::admin::{Answer, Question, ask};
use serde_json::{Value, json};

use super::daemon::Daemon;
use super::traffic::{self, Namespaces, under_traffic};

fn times(variable: &str, default: u64) -> u64 {
    std::env::var(variable).map_or(default, |text| text.parse().expect("a whole number"))
}

/// Few enough connections are a limit of their own, which is not what is tested here.
fn without_limits(config: &mut Value) {
    config["security"]["rateLimit"] = json!({ "enabled": true, "requests": 1_000_000, "window": 60_000, "connections": 1_000_000 });
}

/// The two hosts' verdicts are the same in each; all around them changes.
fn prefixes(round: u64) -> Value {
    let inside = match round % 3 {
        0 => vec!["192.0.2.0/24".to_owned()],
        1 => vec!["192.0.2.2".to_owned()],
        _ => vec!["192.0.0.0/16".to_owned(), "192.0.2.0/25".to_owned()],
    };
    let others = (0..round % 50).map(|n| format!("10.{n}.0.0/16"));
    let near = (0..round % 7).map(|n| format!("198.51.{n}.0/24"));
    let all: Vec<String> = inside.into_iter().chain(others).chain(near).collect();
    json!(all)
}

fn generation(daemon: &Daemon) -> u64 {
    match ask(&daemon.path("admin.sock"), &Question::Status) {
        Ok(Answer::Status(status)) => status.generation,
        other => panic!("no status: {other:?}"),
    }
}

#[test]
fn policies_are_switched_under_traffic_without_a_wrong_verdict() {
    let rounds = times("CLAWSEC_RELOADS", 100);
    let daemon = Daemon::start("reloads", without_limits);
    let hosts = Namespaces::of(&daemon.lab);
    let began = Instant::now();
    let outcome = under_traffic(&hosts, traffic::Daemon::Listens, || {
        for round in 1..=rounds {
            let before = generation(&daemon);
            daemon.rewrite_config(|config| {
                config["security"]["network"]["allowedIPs"] = prefixes(round);
            });
            daemon.hang_up();
            let deadline = Instant::now() + Duration::from_secs(20);
            while generation(&daemon) == before {
                assert!(Instant::now() < deadline, "round {round} is not in force");
                std::thread::sleep(Duration::from_millis(2));
            }
        }
    });
    println!(
        "{rounds} reloads in {:.1} s: {} tries allowed, {} denied, {} wrong",
        began.elapsed().as_secs_f64(),
        outcome.allowed_tries,
        outcome.denied_tries,
        outcome.wrong.len()
    );
    assert!(outcome.wrong.is_empty(), "{:?}", outcome.wrong);
    assert!(outcome.allowed_tries >= rounds && outcome.denied_tries >= rounds / 2);
}

#[test]
fn daemons_are_killed_under_traffic_without_a_wrong_verdict() {
    let rounds = times("CLAWSEC_KILLS", 10);
    let mut daemon = Daemon::start("kills", without_limits);
    let hosts = Namespaces::of(&daemon.lab);
    let began = Instant::now();
    let outcome = under_traffic(&hosts, traffic::Daemon::Restarts, || {
        for _ in 0..rounds {
            daemon.kill();
            daemon.launch();
        }
    });
    println!(
        "{rounds} kills in {:.1} s: {} tries allowed, {} denied, {} wrong",
        began.elapsed().as_secs_f64(),
        outcome.allowed_tries,
        outcome.denied_tries,
        outcome.wrong.len()
    );
    assert!(outcome.wrong.is_empty(), "{:?}", outcome.wrong);
    assert!(outcome.allowed_tries >= rounds && outcome.denied_tries >= rounds);
}
