//! Attackers that the packet filter lets in, beside a client who only wants to be served.

use std::collections::BTreeMap;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde_json::json;
use xtask::lab::{GATEWAY_INSIDE, GATEWAY_INSIDE_V6, Host};

use super::client::Client;
use super::daemon::{Daemon, KEY};
use super::traffic::Stopper;
use crate::attack::{self, Attack, Tally, Target};

/// Of each attack. A deadline of clawsec's that is longer is waited for at the end.
const SECONDS: u64 = 3;

/// Every attack in turn on one daemon: a client on a kept connection and on new ones gets every
/// answer; the attackers get only answers that this attack may get; afterwards nothing is left.
#[test]
fn under_every_attack_others_are_served() {
    let daemon = Daemon::start("attacks", |config| {
        config["security"]["rateLimit"] = json!({ "enabled": true, "requests": 100_000, "window": 60000, "connections": 100_000 });
    });
    let target = target(&daemon, &sources4(4));
    let client = Client::inside(&daemon.lab, &daemon.path("cert.pem"));
    let pid = daemon.status()["gateway_pid"].as_u64().expect("a pid");
    let before = usage(pid);
    for attack in Attack::ALL {
        let (tally, served) = during(&daemon, &client, attack, &target);
        println!("{}: {tally:?}; {served} answers beside it", attack.name());
        assert!(tally.tries > 0, "{}", attack.name());
        let may = may_get(attack);
        let wrong: BTreeMap<_, _> = tally
            .answers
            .iter()
            .filter(|(answer, _)| !may.contains(&answer.as_str()))
            .collect();
        assert!(
            wrong.is_empty(),
            "{}: {wrong:?}\n{}",
            attack.name(),
            daemon.log()
        );
        assert!(served > 0, "{}", attack.name());
    }
    assert_eq!(daemon.status()["gateway_pid"], pid, "{}", daemon.log());
    assert!(!daemon.log().contains("panicked"), "{}", daemon.log());
    let smuggled = daemon.audit().into_iter().find(|record| {
        let detail = record["detail"].as_str().unwrap_or_default();
        detail.contains("/smuggled")
    });
    assert_eq!(smuggled, None);
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        let after = usage(pid);
        // The client's own connection, and what the daemon opens now and then.
        if after.descriptors <= before.descriptors + 8 {
            let grown = after.resident_kib.saturating_sub(before.resident_kib);
            println!("{grown} KiB more resident than before");
            assert!(grown < 64 * 1024, "{grown} KiB more than before");
            break;
        }
        assert!(
            Instant::now() < deadline,
            "{} descriptors, {} before",
            after.descriptors,
            before.descriptors
        );
        std::thread::sleep(Duration::from_millis(200));
    }
    let log = daemon.path("audit.log");
    let verified = daemon.clawsec(&["audit", "verify", "--path", &log.to_string_lossy()]);
    assert!(verified.status.success(), "{verified:?}");
}

/// What a guesser learns in a minute: as many answers as the limit lets through, for each address,
/// and for each /64 however many addresses of it he uses.
#[test]
fn guesses_are_as_many_as_the_limit() {
    const LIMIT: u64 = 60;
    let rows: [(&str, Vec<IpAddr>, u64); 3] = [
        ("one address", sources4(1), 1),
        ("eight addresses", sources4(8), 8),
        ("sixteen addresses of one /64", sources6(16), 1),
    ];
    for (row, (name, sources, units)) in rows.into_iter().enumerate() {
        let daemon = Daemon::start(&format!("guess{row}"), |config| {
            config["security"]["rateLimit"] = json!({ "enabled": true, "requests": LIMIT, "window": 60000, "connections": 10_000 });
        });
        let target = target(&daemon, &sources);
        let began = Instant::now();
        let tally = attack_for(&daemon, Attack::Guesses, &target);
        let refilled = LIMIT * (began.elapsed().as_secs() + 1) / 60;
        println!(
            "guesses from {name}: {tally:?} in {} s",
            began.elapsed().as_secs()
        );
        let judged = tally.count("401");
        assert!(
            judged >= LIMIT * units,
            "{name}: the limit is not reached: {tally:?}"
        );
        assert!(
            judged <= (LIMIT + refilled) * units,
            "{name}: {judged} were judged, {LIMIT} a minute may be: {tally:?}"
        );
        assert!(tally.count("429") > 0, "{name}: {tally:?}");
    }
}

/// Connections that get through in a minute: as many as the limit, for each address, and for each
/// /64 however many addresses of it are used.
#[test]
fn many_connections_and_rotating_addresses_do_not_evade_the_bucket() {
    const LIMIT: u64 = 40;
    let rows: [(&str, Vec<IpAddr>); 2] = [
        ("one address", sources4(1)),
        ("thirty-two addresses of one /64", sources6(32)),
    ];
    for (row, (name, sources)) in rows.into_iter().enumerate() {
        let daemon = Daemon::start(&format!("evade{row}"), |config| {
            config["security"]["rateLimit"] =
                json!({ "enabled": true, "requests": 1000, "window": 60000, "connections": LIMIT });
        });
        let mut target = target(&daemon, &sources);
        target.lanes = 8;
        let began = Instant::now();
        let tally = attack_for(&daemon, Attack::Churn, &target);
        let refilled = LIMIT * (began.elapsed().as_secs() + 1) / 60;
        println!("connections from {name}: {tally:?}");
        let through = tally.count("kept");
        assert!(
            through > 0 && tally.count("refused") > 0,
            "{name}: {tally:?}"
        );
        assert!(
            through <= LIMIT + refilled,
            "{name}: {through} came through, {LIMIT} a minute may"
        );
    }
}

/// What an attacker may be told; everything else is a fault.
fn may_get(attack: Attack) -> &'static [&'static str] {
    match attack {
        Attack::SlowHeads => &["kept", "closed", "408", "refused"],
        Attack::HeaderBombs => &["431", "closed", "refused"],
        Attack::Smuggling => &["400", "refused"],
        Attack::Guesses => &["401", "429", "closed", "refused"],
        // Nobody is over a limit here; `refused` is a queue that was full for a second, where the
        // machine has other work, too.
        _ => &["kept", "closed", "refused"],
    }
}

/// The attack, while a client asks; what the attackers saw, and the answers the client got.
fn during(daemon: &Daemon, client: &Client, attack: Attack, target: &Target) -> (Tally, u64) {
    let ended = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let asking = scope.spawn(|| {
            client.enter();
            let mut kept = client.connect().expect("connect");
            let mut served = 0;
            while !ended.load(Ordering::Relaxed) {
                for (how, answer) in [
                    ("kept", kept.ask("GET /", KEY, "")),
                    ("new", client.ask("GET /", KEY, "")),
                ] {
                    let status = answer.unwrap_or_else(|error| {
                        panic!("{}, a {how} connection: {error}", attack.name())
                    });
                    assert_eq!(status, 200, "{}, a {how} connection", attack.name());
                    served += 1;
                }
                std::thread::sleep(Duration::from_millis(20));
            }
            served
        });
        let stopper = Stopper(&ended);
        let tally = attack_for(daemon, attack, target);
        drop(stopper);
        (tally, asking.join().expect("the client is served"))
    })
}

fn attack_for(daemon: &Daemon, attack: Attack, target: &Target) -> Tally {
    let stop = Arc::new(AtomicBool::new(false));
    std::thread::scope(|scope| {
        let attackers =
            scope.spawn(|| attack::run(attack, target, &daemon.lab, Host::Inside, &stop));
        std::thread::sleep(Duration::from_secs(SECONDS));
        stop.store(true, Ordering::Relaxed);
        attackers.join().expect("the attackers end well")
    })
}

/// The gateway, from addresses that the inside host is given.
fn target(daemon: &Daemon, sources: &[IpAddr]) -> Target {
    for source in sources {
        let (length, more) = if source.is_ipv4() {
            (24, None)
        } else {
            (64, Some("nodad"))
        };
        let added = daemon
            .lab
            .command(Host::Inside, "ip")
            .args(["addr", "add", &format!("{source}/{length}"), "dev", "eth0"])
            .args(more)
            .status();
        assert!(added.expect("run ip").success(), "add {source}");
    }
    let gateway = if sources.iter().all(IpAddr::is_ipv4) {
        GATEWAY_INSIDE
    } else {
        GATEWAY_INSIDE_V6
    };
    let address = (gateway.parse::<IpAddr>().expect("parse"), 8443).into();
    let mut target = Target::new(address, &daemon.path("cert.pem"), KEY);
    target.sources = sources.to_vec();
    target
}

fn sources4(count: u8) -> Vec<IpAddr> {
    let address = |n| Ipv4Addr::new(192, 0, 2, 100 + n).into();
    (0..count).map(address).collect()
}

fn sources6(count: u16) -> Vec<IpAddr> {
    let address = |n| Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0xa, 0, 0, 0x100 + n).into();
    (0..count).map(address).collect()
}

struct Usage {
    descriptors: usize,
    resident_kib: u64,
}

fn usage(pid: u64) -> Usage {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("read the status");
    let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let words = resident.expect("VmRSS").split_whitespace().next();
    Usage {
        descriptors: fs::read_dir(format!("/proc/{pid}/fd"))
            .expect("list")
            .count(),
        resident_kib: words.expect("a number").parse().expect("a number"),
    }
}
