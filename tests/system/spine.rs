//! The whole way through: a packet dropped, a request judged, a tool sandboxed, each recorded.

use std::collections::BTreeMap;
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::Ordering;
use std::time::Duration;

use serde_json::{Value, json};
use xtask::lab::{self, Host};

use super::daemon::{Daemon, in_namespace};
use super::docker;
use super::timed::await_that;

#[test]
fn each_decision_is_enforced_and_recorded() {
    let runtime = tokio::runtime::Runtime::new().expect("start a runtime");
    let socket = runtime.block_on(docker::socket_with_image());
    let daemon = Daemon::start("spine", |config| {
        config["security"]["sandbox"] = json!({
            "enabled": true, "provider": "docker", "image": docker::IMAGE, "dockerSocket": socket,
        });
    });

    let answered = daemon.get(Host::Inside, "/");
    assert_eq!(answered.status, 200, "{answered:?}");
    assert!(answered.body.contains("stand-in gateway"), "{answered:?}");

    let refused = daemon.curl(Host::Inside, "/tools/invoke", &["--json", "{}"]);
    assert_eq!(refused.status, 401, "{refused:?}");
    assert_eq!(
        refused.body, r#"{"error":{"message":"Unauthorized","type":"unauthorized"}}"#,
        "the gateway's own words"
    );
    daemon.await_record("the refusal", |record| {
        record["event"] == "auth"
            && record["outcome"] == "deny"
            && record["reason"] == "credential_missing"
            && record["src"]["ip"] == lab::CLIENT_INSIDE
    });

    let forwarded = daemon.invoke(&json!({ "tool": "sessions_list" }));
    assert_eq!(forwarded.status, 200, "{forwarded:?}");
    assert!(
        forwarded
            .body
            .contains("stand-in gateway ran sessions_list"),
        "{forwarded:?}"
    );

    let requests = daemon.seen.requests.load(Ordering::Relaxed);
    let denied = daemon.invoke(&json!({ "tool": " Browser " }));
    assert_eq!(denied.status, 404, "{denied:?}");
    let body: Value = serde_json::from_str(&denied.body).expect("a JSON body");
    assert_eq!(body["error"]["type"], "not_found");
    daemon.await_record("the denied tool", |record| {
        record["event"] == "tool"
            && record["reason"] == "tool_denied"
            && record["rule"] == "tools.deny[0]"
            && record["tool"]["name"] == "browser"
    });

    let executed =
        daemon.invoke(&json!({ "tool": "bash", "args": { "command": "echo $((6*7)); id -u" } }));
    assert_eq!(executed.status, 200, "{executed:?}");
    let body: Value = serde_json::from_str(&executed.body).expect("a JSON body");
    assert_eq!(
        body["result"]["content"][0]["text"], "42\n65534\n",
        "{body}"
    );
    assert_eq!(body["result"]["details"]["exitCode"], 0, "{body}");
    daemon.await_record("the execution", |record| {
        record["event"] == "tool"
            && record["outcome"] == "allow"
            && record["tool"]["name"] == "exec"
            && record["sandbox"]["provider"] == "docker"
            && record["sandbox"]["exit"] == 0
    });
    let executions = daemon
        .audit()
        .into_iter()
        .filter(|record| record["action"] == "invoke" && record["tool"]["name"] == "exec");
    assert_eq!(executions.count(), 1, "one execution, one record");
    let after = daemon.seen.requests.load(Ordering::Relaxed);
    assert_eq!(
        after, requests,
        "neither a denied nor a sandboxed tool reaches the gateway"
    );
}

#[test]
fn no_packet_of_a_stranger_reaches_the_host() {
    let daemon = Daemon::start("stranger", |_| {});
    // The connection to the upstream by which the start was awaited ends by itself.
    await_that("every connection ended", &daemon, || {
        tcp_counter(&daemon, "CurrEstab") == 0
    });
    let before = segments(&daemon);
    let refused = daemon.get(Host::Outside, "/");
    assert_eq!(
        refused.exit, 28,
        "a stranger's connection times out: {refused:?}"
    );
    let v6: SocketAddr = format!("[{}]:8443", lab::GATEWAY_OUTSIDE_V6)
        .parse()
        .expect("parse");
    let over_v6 = in_namespace(&daemon.lab, Host::Outside, || {
        TcpStream::connect_timeout(&v6, Duration::from_secs(2)).map(drop)
    });
    assert_eq!(
        over_v6.map_err(|e| e.kind()),
        Err(std::io::ErrorKind::TimedOut)
    );
    assert_eq!(segments(&daemon), before, "TCP saw no segment");

    // Only TCP to protected ports is judged: neighbours, ping and other ports live on.
    in_namespace(&daemon.lab, Host::Outside, ping);
    let other: SocketAddr = format!("{}:9", lab::GATEWAY_OUTSIDE)
        .parse()
        .expect("parse");
    let closed = in_namespace(&daemon.lab, Host::Outside, || {
        TcpStream::connect_timeout(&other, Duration::from_secs(2)).map(drop)
    });
    assert_eq!(
        closed.map_err(|e| e.kind()),
        Err(std::io::ErrorKind::ConnectionRefused)
    );

    // An IPv6 source is counted by its /64, since one host may have all of it.
    for address in [lab::CLIENT_OUTSIDE, "2001:db8:2::"] {
        daemon.await_record("the drop", |record| {
            record["event"] == "network"
                && record["outcome"] == "deny"
                && record["reason"] == "not_allowed"
                && record["src"]["ip"] == address
        });
    }
}

#[test]
fn recorded_counts_equal_the_kernels_counters() {
    let mut daemon = Daemon::start("sums", |_| {});
    let address: SocketAddr = format!("{}:8443", lab::GATEWAY_OUTSIDE)
        .parse()
        .expect("parse");
    in_namespace(&daemon.lab, Host::Outside, || {
        for _ in 0..300 {
            // Each try is one SYN and at most one more; none is answered.
            let _timed_out = TcpStream::connect_timeout(&address, Duration::from_millis(5));
        }
    });
    assert_sums_agree(&daemon);
    daemon.kill();
    in_namespace(&daemon.lab, Host::Outside, || {
        for _ in 0..100 {
            let _timed_out = TcpStream::connect_timeout(&address, Duration::from_millis(5));
        }
    });
    daemon.launch();
    assert_sums_agree(&daemon);
}

/// Compares at a moment when the counters stand still and a checkpoint has passed.
pub(super) fn assert_sums_agree(daemon: &Daemon) {
    let deadline = std::time::Instant::now() + Duration::from_secs(15);
    loop {
        std::thread::sleep(Duration::from_millis(1200));
        let counters = dropped(&daemon.status());
        let sums = recorded(&daemon.audit());
        if counters == sums && !sums.is_empty() && counters == dropped(&daemon.status()) {
            assert!(counters.values().sum::<u64>() >= 100, "{counters:?}");
            return;
        }
        assert!(
            std::time::Instant::now() < deadline,
            "kernel {counters:?}, recorded {sums:?}\n{}",
            std::fs::read_to_string(daemon.path("audit.log")).unwrap_or_default()
        );
    }
}

pub(crate) fn dropped(status: &Value) -> BTreeMap<String, u64> {
    let reasons = status["reasons"].as_array().expect("reasons").iter();
    reasons
        .filter(|reason| reason["drop"] == true && reason["packets"] != 0)
        .map(|reason| {
            let name = reason["name"].as_str().expect("a name").to_owned();
            (name, reason["packets"].as_u64().expect("a count"))
        })
        .collect()
}

pub(crate) fn recorded(records: &[Value]) -> BTreeMap<String, u64> {
    let mut sums = BTreeMap::new();
    for record in records {
        if record["event"] == "network" && record["action"] == "drop" {
            let reason = record["reason"].as_str().expect("a reason").to_owned();
            *sums.entry(reason).or_insert(0) += record["count"].as_u64().unwrap_or(1);
        }
    }
    sums
}

/// One ICMP echo to the gateway host, and its reply.
fn ping() {
    use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketType, ipproto, sockopt};
    let socket = rustix::net::socket(AddressFamily::INET, SocketType::RAW, Some(ipproto::ICMP))
        .expect("a raw socket");
    let timeout = Some(Duration::from_secs(2));
    sockopt::set_socket_timeout(&socket, sockopt::Timeout::Recv, timeout).expect("a time limit");
    // Type 8, code 0, checksum of the rest (one's complement), identifier 1, sequence 1.
    let echo = [8, 0, 0xf7, 0xfd, 0, 1, 0, 1];
    let address: SocketAddr = format!("{}:0", lab::GATEWAY_OUTSIDE)
        .parse()
        .expect("parse");
    rustix::net::sendto(&socket, &echo, SendFlags::empty(), &address).expect("send an echo");
    let mut reply = [0; 128];
    let (length, _) =
        rustix::net::recv(&socket, &mut reply[..], RecvFlags::empty()).expect("ICMP passes");
    assert_eq!(reply[..length][20], 0, "an echo reply");
}

/// TCP segments that the gateway host's kernel has received.
fn segments(daemon: &Daemon) -> u64 {
    tcp_counter(daemon, "InSegs")
}

fn tcp_counter(daemon: &Daemon, counter: &str) -> u64 {
    let output = daemon
        .lab
        .command(Host::Gateway, "cat")
        .arg("/proc/net/snmp")
        .output()
        .expect("read /proc/net/snmp");
    let text = String::from_utf8_lossy(&output.stdout);
    let mut lines = text.lines().filter(|line| line.starts_with("Tcp:"));
    let names: Vec<&str> = lines.next().unwrap_or_default().split(' ').collect();
    let values: Vec<&str> = lines.next().unwrap_or_default().split(' ').collect();
    let index = names
        .iter()
        .position(|&name| name == counter)
        .expect("a counter of TCP");
    values[index].parse().expect("a number")
}

#[test]
fn the_bpf_programs_own_lines_come_out_through_tracing() {
    let daemon = Daemon::start_with("bpflog", &["--bpf-log"], |_| {});
    assert_eq!(daemon.get(Host::Outside, "/").exit, 28);
    let deadline = std::time::Instant::now() + Duration::from_secs(5);
    let is_drop = |line: &str| line.contains("not_allowed") || line.contains(lab::CLIENT_OUTSIDE);
    while !daemon.log().lines().any(is_drop) {
        assert!(
            std::time::Instant::now() < deadline,
            "no line of the BPF program in:\n{}",
            daemon.log()
        );
        std::thread::sleep(Duration::from_millis(100));
    }
}
