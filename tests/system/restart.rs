//! A daemon stopped and started again while clients work: what is under way gets its end, and
//! with sockets that systemd holds nobody is refused.

use std::net::TcpListener;
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use xtask::lab::{Host, Lab};

use super::client::{Client, Heard};
use super::daemon::{Daemon, KEY, in_namespace};
use super::timed::await_that;
use super::traffic::Stopper;

fn without_limits(config: &mut Value) {
    config["security"]["rateLimit"] = json!({ "enabled": true, "requests": 1_000_000, "window": 60_000, "connections": 1_000_000 });
}

/// Listens on the gateway host, as a socket unit does.
fn listen(lab: &Lab, address: &str) -> TcpListener {
    in_namespace(lab, Host::Gateway, || {
        TcpListener::bind(address).expect("bind a socket of the unit")
    })
}

#[test]
fn a_stop_lets_what_is_under_way_end() {
    let mut daemon = Daemon::start("drain", |_| {});
    let client = Client::inside(&daemon.lab, &daemon.path("cert.pem"));
    let asked = daemon.seen.requests.load(Ordering::Relaxed);
    let (mut slow, mut socket) = in_namespace(&daemon.lab, Host::Inside, || {
        let mut slow = client.connect().expect("connect");
        slow.begin("GET /v1/slow", KEY, "").expect("ask");
        let mut socket = client.connect().expect("connect");
        socket.upgrade(KEY).expect("open a WebSocket");
        let answer = socket.call("health", &json!({})).expect("an answer");
        assert_eq!(answer["payload"]["ok"], true, "{answer}");
        (slow, socket)
    });
    // The slow request and the upgrade.
    await_that("the gateway was asked", &daemon, || {
        daemon.seen.requests.load(Ordering::Relaxed) >= asked + 2
    });
    Command::new("kill")
        .args(["-TERM", &daemon.pid().to_string()])
        .status()
        .expect("run kill");
    assert_eq!(socket.hear().expect("a close"), Heard::Close(Some(1012)));
    assert_eq!(slow.answer().expect("the slow answer"), 200);
    assert_eq!(daemon.await_end(), Some(0));
    daemon.await_record("the close", |record| {
        record["action"] == "close" && record["detail"] == "service restart"
    });
    daemon.await_record("the slow request", |record| {
        record["outcome"] == "allow" && record["detail"] == "GET /v1/slow"
    });
}

#[test]
fn a_restart_with_inherited_sockets_refuses_no_connection() {
    let rounds = 5;
    let mut daemon = Daemon::start("activate", without_limits);
    daemon.stop();
    let sockets = [listen(&daemon.lab, "0.0.0.0:8443")];
    daemon.launch_activated(&sockets);
    let client = Client::inside(&daemon.lab, &daemon.path("cert.pem"));
    let stop = AtomicBool::new(false);
    let answered = AtomicU64::new(0);
    let failed = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                client.enter();
                while !stop.load(Ordering::Relaxed) {
                    match client.ask("GET /", KEY, "") {
                        Ok(200) => {
                            answered.fetch_add(1, Ordering::Relaxed);
                        }
                        other => failed.lock().expect("lock").push(format!("{other:?}")),
                    }
                }
            });
        }
        let stopper = Stopper(&stop);
        for round in 0..rounds {
            let before = answered.load(Ordering::Relaxed);
            await_count(&answered, before + 20, &failed);
            daemon.stop();
            // What comes now waits; the kernel answers for a daemon that is not there.
            let waiting = in_namespace(&daemon.lab, Host::Inside, || client.connect().map(drop));
            assert!(waiting.is_ok(), "round {round}: {waiting:?}");
            daemon.launch_activated(&sockets);
        }
        drop(stopper);
    });
    let failed = failed.into_inner().expect("lock");
    println!(
        "{rounds} restarts: {} answered, {} not",
        answered.load(Ordering::Relaxed),
        failed.len()
    );
    assert!(failed.is_empty(), "{failed:?}");
}

fn await_count(count: &AtomicU64, wanted: u64, failed: &Mutex<Vec<String>>) {
    let deadline = Instant::now() + Duration::from_mins(1);
    while count.load(Ordering::Relaxed) < wanted {
        let failed = failed.lock().expect("lock").clone();
        assert!(Instant::now() < deadline, "{failed:?}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn a_socket_that_the_configuration_does_not_name_ends_the_start() {
    let mut daemon = Daemon::start("unnamed", |_| {});
    daemon.stop();
    // Held all the time, so that a daemon that ignored it would serve.
    let sockets = [
        listen(&daemon.lab, "0.0.0.0:8443"),
        listen(&daemon.lab, "0.0.0.0:9443"),
    ];
    daemon.spawn_activated(&sockets);
    assert_eq!(daemon.await_end(), Some(2));
    let log = daemon.log();
    let told =
        "\"second\" (descriptor 4) listens on 0.0.0.0:9443, which gateway.listen does not name";
    assert!(log.contains(told), "{log}");
    daemon.launch_activated(&sockets[..1]);
}
