//! Who asks for what, and what each was told.

use std::collections::BTreeMap;
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::Scope;
use std::time::Duration;

use serde_json::{Value, json};
use xtask::lab::{GATEWAY_OUTSIDE, Host};

use crate::system::client::Client;
use crate::system::daemon::{Daemon, KEY, in_namespace};

/// What is counted on both sides.
pub(super) const KINDS: [&str; 6] = [
    "page",
    "tool denied",
    "tool allowed",
    "executed",
    "key unknown",
    "method",
];

/// What the clients were told, by kind.
#[derive(Debug, Default)]
pub(super) struct Seen([AtomicU64; 6]);

impl Seen {
    fn add(&self, kind: &str) {
        let place = KINDS.iter().position(|known| *known == kind);
        self.0[place.expect("a kind")].fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn counts(&self) -> BTreeMap<&'static str, u64> {
        let counts = self.0.iter().map(|count| count.load(Ordering::Relaxed));
        KINDS.into_iter().zip(counts).collect()
    }
}

/// The kind that a record belongs to.
pub(super) fn kind_of(record: &Value) -> Option<&'static str> {
    let is = |field: &str, text: &str| record[field] == text;
    let tool = record["tool"]["name"].as_str();
    match () {
        () if is("event", "message") && is("action", "request") && is("reason", "ok") => {
            Some("page")
        }
        () if is("event", "message") && is("action", "method") && is("reason", "ok") => {
            Some("method")
        }
        () if is("event", "tool") && is("reason", "tool_denied") => Some("tool denied"),
        () if is("event", "tool") && is("reason", "ok") && tool == Some("exec") => Some("executed"),
        () if is("event", "tool") && is("reason", "ok") => Some("tool allowed"),
        () if is("event", "auth") && is("reason", "credential_unknown") => Some("key unknown"),
        () => None,
    }
}

/// Starts every client; each ends when it is told to.
pub(super) fn start<'scope, 'env>(
    scope: &'scope Scope<'scope, 'env>,
    daemon: &'env Daemon,
    seen: &'env Seen,
    ended: &'env AtomicBool,
) {
    let client = Client::inside(&daemon.lab, &daemon.path("cert.pem"));
    let tool =
        |name: &str, arguments: Value| json!({ "tool": name, "args": arguments }).to_string();
    let denied = tool("browser", json!({}));
    let allowed = tool("message", json!({ "text": "hello" }));
    let run = tool("exec", json!({ "command": "echo one; ls / > /dev/null" }));
    let invoke = "POST /tools/invoke";
    // what, on a new connection each time, key, line, body, status, pause
    let rows: [(
        &'static str,
        bool,
        &'static str,
        &'static str,
        String,
        u16,
        u64,
    ); 7] = [
        ("page", false, KEY, "GET /", String::new(), 200, 4),
        ("page", true, KEY, "GET /", String::new(), 200, 40),
        ("tool denied", false, KEY, invoke, denied, 404, 50),
        ("tool allowed", false, KEY, invoke, allowed, 200, 50),
        ("executed", false, KEY, invoke, run, 200, 250),
        (
            "key unknown",
            true,
            "a-wrong-key-of-thirty-two-letters",
            "GET /",
            String::new(),
            401,
            200,
        ),
        (
            "key unknown",
            false,
            "a-wrong-key-of-thirty-two-letters",
            "GET /",
            String::new(),
            401,
            50,
        ),
    ];
    for (kind, is_new, key, line, body, status, pause_ms) in rows {
        let client = client.clone();
        scope.spawn(move || {
            client.enter();
            let mut kept = client.connect().expect("connect");
            while !ended.load(Ordering::Relaxed) {
                if is_new {
                    kept = client.connect().expect("connect");
                }
                let told = kept.ask(line, key, &body).expect("an answer");
                assert_eq!(told, status, "{kind}");
                seen.add(kind);
                std::thread::sleep(Duration::from_millis(pause_ms));
            }
        });
    }
    scope.spawn(move || sockets(&client, seen, ended));
    scope.spawn(move || strangers(daemon, ended));
}

/// WebSockets that are opened, asked a few things, and closed.
fn sockets(client: &Client, seen: &Seen, ended: &AtomicBool) {
    client.enter();
    while !ended.load(Ordering::Relaxed) {
        let mut socket = client.connect().expect("connect");
        socket.upgrade(KEY).expect("a hello");
        for _ in 0..5 {
            let answer = socket.call("health", &json!({})).expect("an answer");
            assert_eq!(answer["ok"], true, "{answer}");
            seen.add("method");
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

/// Whose packets are dropped.
fn strangers(daemon: &Daemon, ended: &AtomicBool) {
    in_namespace(&daemon.lab, Host::Outside, || {
        let address: SocketAddr = format!("{GATEWAY_OUTSIDE}:8443").parse().expect("parse");
        while !ended.load(Ordering::Relaxed) {
            let tried = TcpStream::connect_timeout(&address, Duration::from_millis(20));
            assert!(tried.is_err(), "a stranger got in");
        }
    });
}
