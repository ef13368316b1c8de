//! The deployments of docs/deploy.md, as far as namespaces can play them.

use std::fs;
use std::net::TcpStream;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use serde_json::json;
use xtask::lab::{CLIENT_OUTSIDE, GATEWAY_OUTSIDE, Host};

use super::daemon::{Daemon, KEY, in_namespace};

/// How the proxy on the host says whom it speaks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    /// A tunnel's agent or a web server: it ends TLS and adds `X-Forwarded-For`.
    Forwarded,
    /// A relay that passes TLS through, after a PROXY protocol v2 header.
    Proxy,
}

/// A client that comes by a proxy on the same host, from loopback, is judged as itself: by the
/// listener's list, in records, and by what the proxy was told is not believed.
#[test]
fn behind_a_proxy_the_client_is_the_one_it_names() {
    for form in [Form::Forwarded, Form::Proxy] {
        let daemon = start("proxied", form, CLIENT_OUTSIDE);
        let _proxy = haproxy(&daemon, form);
        let told = ["-H", "X-Forwarded-For: 192.0.2.2"];
        let key = format!("X-API-Key: {KEY}");
        let answer = by_proxy(&daemon, form, &[&told[..], &["-H", &key]].concat());
        assert_eq!(answer, 200, "{form:?}: {}", daemon.log());
        let record = daemon.await_record("the login", |record| {
            record["event"] == "auth"
                && record["outcome"] == "allow"
                && record["src"]["ip"] == CLIENT_OUTSIDE
        });
        assert_eq!(record["reason"], "ok", "{form:?}");
        assert_eq!(by_proxy(&daemon, form, &told), 401, "{form:?}, no key");
        daemon.await_record("the refusal", |record| {
            record["reason"] == "credential_missing" && record["src"]["ip"] == CLIENT_OUTSIDE
        });
    }
}

/// The proxy's own address is believed, its client's is not on the list.
#[test]
fn behind_a_proxy_a_stranger_stays_a_stranger() {
    for form in [Form::Forwarded, Form::Proxy] {
        let daemon = start("proxystr", form, "203.0.113.9");
        let _proxy = haproxy(&daemon, form);
        let key = format!("X-API-Key: {KEY}");
        let told = ["-H", "X-Forwarded-For: 203.0.113.9", "-H", &key];
        let answer = by_proxy(&daemon, form, &told);
        let refused = match form {
            Form::Forwarded => 403,
            // Refused by its header, before TLS.
            Form::Proxy => 0,
        };
        assert_eq!(answer, refused, "{form:?}: {}", daemon.log());
        daemon.await_record("the refusal", |record| {
            record["reason"] == "address_not_allowed" && record["src"]["ip"] == CLIENT_OUTSIDE
        });
        // Directly, the card drops it.
        assert_eq!(daemon.get(Host::Outside, "/").exit, 28, "{form:?}");
    }
}

/// A locked-out operator at the console has one command, and without the program, none of clawsec.
#[test]
fn who_locked_himself_out_gets_back_in() {
    let mut daemon = Daemon::start("lockout", |config| {
        config["security"]["network"]["allowedIPs"] = json!(["192.0.2.0/24"]);
    });
    let reaches = |daemon: &Daemon| {
        in_namespace(&daemon.lab, Host::Outside, || {
            let address = format!("{GATEWAY_OUTSIDE}:8443").parse().expect("parse");
            let result = TcpStream::connect_timeout(&address, Duration::from_millis(500));
            result.err().map(|error| error.kind())
        })
    };
    let silence = Some(std::io::ErrorKind::TimedOut);
    assert_eq!(reaches(&daemon), silence);
    // The filter stays when the daemon is stopped: that alone lets nobody in.
    daemon.stop();
    assert_eq!(reaches(&daemon), silence, "onExit: enforce");
    let pins = daemon.pin_dir.to_string_lossy().into_owned();
    let detached = daemon.clawsec(&["detach", "--pin-dir", &pins]);
    assert!(detached.status.success(), "{detached:?}");
    let refused = Some(std::io::ErrorKind::ConnectionRefused);
    assert_eq!(reaches(&daemon), refused, "the packets arrive again");
    // Without the program: the pins are all that holds the filter.
    daemon.launch();
    assert_eq!(reaches(&daemon), silence);
    daemon.stop();
    fs::remove_dir_all(&daemon.pin_dir).expect("remove the pins");
    let deadline = Instant::now() + Duration::from_secs(10);
    // The kernel takes a link apart a moment after its last holder.
    while reaches(&daemon) != refused {
        assert!(Instant::now() < deadline, "the filter is still there");
    }
}

/// A daemon with one listener for the proxy alone, which admits one client.
fn start(name: &str, form: Form, client: &str) -> Daemon {
    let name = format!("{name}{}", u8::from(form == Form::Proxy));
    Daemon::start(&name, |config| {
        config["gateway"]["listen"] = json!([
            "0.0.0.0:8443",
            { "address": "127.0.0.1:9444", "proxyFrom": ["127.0.0.1"], "allowedIPs": ["127.0.0.1", client] },
        ]);
    })
}

/// HAProxy on the gateway's host, at port 9000, which clawsec does not guard.
fn haproxy(daemon: &Daemon, form: Form) -> Proxy {
    let rest = match form {
        Form::Forwarded => {
            "  mode http\n  option forwardfor\n  server clawsec 127.0.0.1:9444 ssl verify none\n"
        }
        Form::Proxy => "  mode tcp\n  server clawsec 127.0.0.1:9444 send-proxy-v2\n",
    };
    let text = format!(
        "global\n  maxconn 100\ndefaults\n  timeout connect 5s\n  timeout client 20s\n  \
         timeout server 20s\nlisten front\n  bind {GATEWAY_OUTSIDE}:9000\n{rest}"
    );
    daemon.write("haproxy.cfg", &text);
    let mut command = daemon.lab.command(Host::Gateway, "haproxy");
    let child = command
        .args(["-db", "-q", "-f"])
        .arg(daemon.path("haproxy.cfg"))
        .stdin(Stdio::null())
        .spawn()
        .expect("start haproxy (package haproxy)");
    let proxy = Proxy(child);
    let deadline = Instant::now() + Duration::from_secs(10);
    let is_up = || {
        in_namespace(&daemon.lab, Host::Outside, || {
            TcpStream::connect((GATEWAY_OUTSIDE, 9000)).is_ok()
        })
    };
    while !is_up() {
        assert!(Instant::now() < deadline, "haproxy does not listen");
        std::thread::sleep(Duration::from_millis(50));
    }
    proxy
}

/// The status that the outside client gets by the proxy; 0 for none.
fn by_proxy(daemon: &Daemon, form: Form, arguments: &[&str]) -> u16 {
    let scheme = if form == Form::Proxy { "https" } else { "http" };
    let output = daemon
        .lab
        .command(Host::Outside, "curl")
        .args(["-sS", "--max-time", "10", "--output", "/dev/null"])
        .args(["--write-out", "%{http_code}", "--cacert"])
        .arg(daemon.path("cert.pem"))
        .args(arguments)
        .arg(format!("{scheme}://{GATEWAY_OUTSIDE}:9000/"))
        .output()
        .expect("run curl");
    String::from_utf8_lossy(&output.stdout).parse().unwrap_or(0)
}

struct Proxy(Child);

impl Drop for Proxy {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _gone = self.0.kill();
        let _reaped = self.0.wait();
    }
}
