//! The admin listener of a real daemon: figures that equal the log, and who may read what.

use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use xtask::lab::{self, Host};

use super::daemon::{Daemon, Response, in_namespace};
use crate::openmetrics::{Read, read_strictly};

const TOKEN: &str = "page-token-of-thirty-two-letters";

fn start(name: &str) -> Daemon {
    Daemon::start(name, |config| {
        config["gateway"]["admin"]["metrics"] = json!("127.0.0.1:9464");
        config["gateway"]["admin"]["token"] = json!(TOKEN);
    })
}

/// Asks on the gateway host's loopback.
fn ask(daemon: &Daemon, path: &str, arguments: &[&str]) -> Response {
    let output = daemon
        .lab
        .command(Host::Gateway, "curl")
        .args(["-sS", "--max-time", "10", "--write-out", "\n%{http_code}"])
        .args(arguments)
        .arg(format!("http://127.0.0.1:9464{path}"))
        .output()
        .expect("run curl");
    let text = String::from_utf8_lossy(&output.stdout);
    let (body, status) = text.rsplit_once('\n').unwrap_or_default();
    Response {
        status: status.parse().unwrap_or(0),
        body: body.to_owned(),
        exit: output.status.code().unwrap_or(-1),
    }
}

fn figures(daemon: &Daemon) -> Read {
    let answered = ask(daemon, "/metrics", &[]);
    assert_eq!(answered.status, 200, "{answered:?}");
    read_strictly(&answered.body).unwrap_or_else(|why| panic!("{why}\n{}", answered.body))
}

/// The sum of `count` over the records that fit.
fn recorded(daemon: &Daemon, fits: impl Fn(&Value) -> bool) -> f64 {
    let records = daemon.audit();
    let counts = records.iter().filter(|record| fits(record));
    counts
        .map(|record| record["count"].as_f64().unwrap_or(1.0))
        .sum()
}

#[test]
fn figures_are_openmetrics_and_sum_to_the_log() {
    let daemon = start("figures");
    for _ in 0..5 {
        assert_eq!(daemon.get(Host::Inside, "/").status, 200);
        assert_eq!(
            daemon
                .curl(Host::Inside, "/", &["-H", "X-API-Key: wrong"])
                .status,
            401
        );
    }
    for _ in 0..3 {
        assert_eq!(daemon.invoke(&json!({ "tool": "browser" })).status, 404);
        assert_eq!(
            daemon.invoke(&json!({ "tool": "sessions_list" })).status,
            200
        );
    }
    let outside: SocketAddr = format!("{}:8443", lab::GATEWAY_OUTSIDE)
        .parse()
        .expect("parse");
    for _ in 0..3 {
        let refused = in_namespace(&daemon.lab, Host::Outside, || {
            TcpStream::connect_timeout(&outside, Duration::from_millis(300))
        });
        assert!(refused.is_err());
    }

    // Sums that are still being added up are written within the interval.
    let deadline = Instant::now() + Duration::from_secs(15);
    loop {
        let read = figures(&daemon);
        let differ = differences(&daemon, &read);
        if differ.is_empty() {
            break;
        }
        assert!(Instant::now() < deadline, "{}", differ.join("\n"));
        std::thread::sleep(Duration::from_millis(200));
    }

    let read = figures(&daemon);
    let at = |name: &str, labels: &[&str]| read.sum(name, labels);
    assert!(at("clawsec_events_total", &["reason=\"credential_unknown\""]) >= 5.0);
    assert!((at("clawsec_events_total", &["reason=\"tool_denied\""]) - 3.0).abs() < 0.1);
    assert!(
        at(
            "clawsec_packets_total",
            &["verdict=\"drop\"", "reason=\"not_allowed\""]
        ) >= 3.0
    );
    assert!(at("clawsec_tls_handshakes_total", &["result=\"ok\""]) >= 16.0);
    assert!(
        at(
            "clawsec_request_duration_seconds_count",
            &["outcome=\"deny\""]
        ) >= 8.0
    );
    assert!(
        at(
            "clawsec_request_duration_seconds_count",
            &["outcome=\"allow\""]
        ) >= 8.0
    );
    assert!((at("clawsec_interface_info", &[]) - 2.0).abs() < 0.1);
    assert!(at("clawsec_certificate_not_after_seconds", &[]) > 0.0);
    let text = ask(&daemon, "/metrics", &[]).body;
    for secret in [
        super::daemon::KEY,
        super::daemon::UPSTREAM_TOKEN,
        TOKEN,
        lab::CLIENT_INSIDE,
    ] {
        assert!(!text.contains(secret), "{secret}");
    }
}

/// Where figures and log disagree, by kind, outcome and reason, and by the kernel's reason.
fn differences(daemon: &Daemon, read: &Read) -> Vec<String> {
    let mut differ = Vec::new();
    for event in ["auth", "message", "tool", "config"] {
        for outcome in ["allow", "deny", "error"] {
            let labels = [
                &*format!("event=\"{event}\""),
                &*format!("outcome=\"{outcome}\""),
            ];
            let figure = read.sum("clawsec_events_total", &labels);
            let logged = recorded(daemon, |record| {
                record["event"] == event && record["outcome"] == outcome
            });
            if (figure - logged).abs() > 0.1 {
                differ.push(format!("{event} {outcome}: figure {figure}, log {logged}"));
            }
        }
    }
    let dropped = read.sum("clawsec_packets_total", &["verdict=\"drop\""]);
    let logged = recorded(daemon, |record| {
        record["event"] == "network" && record["action"] == "drop"
    });
    if (dropped - logged).abs() > 0.1 {
        differ.push(format!("packets: figure {dropped}, log {logged}"));
    }
    differ
}

#[test]
fn the_page_opens_by_its_token_alone_and_figures_by_the_address() {
    let daemon = start("page");
    let basic = format!("operator:{TOKEN}");
    let bearer = format!("Authorization: Bearer {TOKEN}");
    let rows: &[(&str, &str, &[&str], u16)] = &[
        ("no token", "/", &[], 401),
        ("another token", "/", &["-u", "operator:another"], 401),
        (
            "a client's key",
            "/",
            &[
                "-H",
                "Authorization: Bearer test-key-of-thirty-two-characters",
            ],
            401,
        ),
        ("the password", "/", &["-u", &basic], 200),
        ("the bearer's", "/", &["-H", &bearer], 200),
        ("figures", "/metrics", &[], 200),
        ("alive", "/healthz", &[], 200),
        ("ready", "/readyz", &[], 200),
        (
            "a site's name for this host",
            "/metrics",
            &["-H", "Host: rebound.example:9464"],
            403,
        ),
        (
            "that with a wrong token",
            "/metrics",
            &["-u", "x:y", "-H", "Host: rebound.example"],
            401,
        ),
        ("something else", "/state.json", &["-u", &basic], 404),
        ("another method", "/", &["-X", "POST", "-u", &basic], 405),
    ];
    for (name, path, arguments, expected) in rows {
        let answered = ask(&daemon, path, arguments);
        assert_eq!(answered.status, *expected, "{name}: {answered:?}");
    }
    for reason in [
        "credential_missing",
        "credential_unknown",
        "host_not_allowed",
    ] {
        daemon.await_record(reason, |record| {
            record["event"] == "auth" && record["action"] == "admin" && record["reason"] == reason
        });
    }
    let page = ask(&daemon, "/", &["-u", &basic, "--dump-header", "-"]).body;
    let head = page.to_lowercase();
    for part in [
        "content-security-policy: default-src 'none'; style-src 'sha256-",
        "cache-control: no-store",
        "clawsec is",
        "enforcing",
    ] {
        assert!(head.contains(part), "{part} in:\n{page}");
    }
    assert!(!page.contains("<script"), "{page}");

    // From outside the host nothing answers at that port, and root needs no token at the socket.
    let inside: SocketAddr = format!("{}:9464", lab::GATEWAY_INSIDE)
        .parse()
        .expect("parse");
    let refused = in_namespace(&daemon.lab, Host::Inside, || {
        TcpStream::connect_timeout(&inside, Duration::from_secs(2)).map(drop)
    });
    assert_eq!(
        refused.map_err(|e| e.kind()),
        Err(std::io::ErrorKind::ConnectionRefused)
    );
    let socket = daemon.path("admin.sock").display().to_string();
    for (path, part) in [
        ("/", "clawsec is"),
        ("/metrics", "# EOF"),
        ("/readyz", "ready"),
        ("/x", "/metrics"),
    ] {
        let output = std::process::Command::new("curl")
            .args([
                "-sS",
                "--unix-socket",
                &socket,
                &format!("http://clawsec{path}"),
            ])
            .output()
            .expect("run curl");
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(text.contains(part), "{path}: {text}");
    }
}

#[test]
fn an_address_that_others_reach_needs_the_token_there() {
    let daemon = Daemon::start("remote", |config| {
        config["gateway"]["admin"]["metrics"] = json!(format!("{}:9464", lab::GATEWAY_INSIDE));
        config["gateway"]["admin"]["token"] = json!(TOKEN);
        config["gateway"]["admin"]["remote"] = json!(true);
    });
    let ask = |from, arguments: &[&str]| {
        let output = daemon
            .lab
            .command(from, "curl")
            .args([
                "-sS",
                "--max-time",
                "3",
                "-o",
                "/dev/null",
                "--write-out",
                "%{http_code}",
            ])
            .args(arguments)
            .arg(format!("http://{}:9464/metrics", lab::GATEWAY_INSIDE))
            .output()
            .expect("run curl");
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    let bearer = format!("Authorization: Bearer {TOKEN}");
    assert_eq!(ask(Host::Inside, &["-H", &bearer]), "200");
    assert_eq!(ask(Host::Inside, &[]), "401");
    // The packet filter protects the port, so that a stranger gets no answer at all.
    assert_eq!(ask(Host::Outside, &["-H", &bearer]), "000");
}

#[test]
fn readiness_says_what_stands_against_it() {
    let daemon = start("ready");
    assert_eq!(ask(&daemon, "/readyz", &[]).body, "ready\n");
    let pid = daemon.status()["gateway_pid"].to_string();
    let killed = std::process::Command::new("kill")
        .args(["-STOP", &pid])
        .status()
        .expect("run kill");
    assert!(killed.success());
    // Nobody answers for a gateway process that hangs; root's own door does.
    assert_eq!(ask(&daemon, "/healthz", &["--max-time", "1"]).exit, 28);
    let text = String::from_utf8(daemon.clawsec(&["status"]).stdout).expect("text");
    assert!(text.starts_with("clawsec   enforcing"), "{text}");
    let woken = std::process::Command::new("kill")
        .args(["-CONT", &pid])
        .status()
        .expect("run kill");
    assert!(woken.success());
    assert_eq!(ask(&daemon, "/healthz", &[]).body, "ok\n");
}
