//! A certificate from an authority: Let's Encrypt's own test server, pebble, outside the allowlist
//! as every authority is, with a DNS server of its own.

use std::process::{Child, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rcgen::{CertificateParams, KeyPair, date_time_ymd};
use serde_json::{Value, json};
use xtask::lab::{self, Host, Lab};

use super::daemon::{Daemon, KEY};

const NAME: &str = "claw.example.org";

/// The authority and its DNS; ended when dropped.
struct Authority {
    children: Vec<Child>,
    folder: tempfile::TempDir,
}

impl Authority {
    /// Starts both in the outside host.
    fn start(lab: &Lab) -> Self {
        let folder = tempfile::tempdir().expect("make a folder");
        let pair = rcgen::generate_simple_self_signed([lab::CLIENT_OUTSIDE.to_owned()])
            .expect("make the authority's own certificate");
        let path = |name: &str| folder.path().join(name).display().to_string();
        let write = |name: &str, text: &str| std::fs::write(path(name), text).expect("write");
        write("cert.pem", &pair.cert.pem());
        write("key.pem", &pair.signing_key.serialize_pem());
        let config = json!({ "pebble": {
            "listenAddress": "0.0.0.0:14000", "managementListenAddress": "0.0.0.0:15000",
            "certificate": path("cert.pem"), "privateKey": path("key.pem"),
            "httpPort": 80, "tlsPort": 8444, "ocspResponderURL": "",
            "externalAccountBindingRequired": false,
        }});
        write("pebble.json", &config.to_string());
        let dns = [
            "-dns01",
            "127.0.0.1:8053",
            "-management",
            "127.0.0.1:8055",
            "-http01",
            "",
            "-https01",
            "",
            "-tlsalpn01",
            "",
            "-defaultIPv6",
            "",
            "-defaultIPv4",
            "",
        ];
        let config = path("pebble.json");
        let pebble = [
            "-strict",
            "-config",
            &config,
            "-dnsserver",
            "127.0.0.1:8053",
        ];
        let start = |program: &str, arguments: &[&str]| {
            lab.command(Host::Outside, program)
                .args(arguments)
                .env("PEBBLE_VA_NOSLEEP", "1")
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()
                .unwrap_or_else(|error| panic!("start {program}: {error}"))
        };
        let authority = Self {
            children: vec![start("pebble-challtestsrv", &dns), start("pebble", &pebble)],
            folder,
        };
        let deadline = Instant::now() + Duration::from_secs(20);
        while Self::root(lab).is_none() {
            assert!(Instant::now() < deadline, "pebble does not answer");
            std::thread::sleep(Duration::from_millis(100));
        }
        authority
    }

    /// The root that its certificates are verified by.
    fn root(lab: &Lab) -> Option<String> {
        let output = lab
            .command(Host::Outside, "curl")
            .args(["-sfk", "--max-time", "5", "https://127.0.0.1:15000/roots/0"])
            .output()
            .expect("run curl");
        let root = String::from_utf8(output.stdout).expect("PEM is text");
        (output.status.success() && root.contains("BEGIN")).then_some(root)
    }

    /// Where `claw.example.org` leads from now on.
    fn point_to(lab: &Lab, address: &str) {
        for (what, change) in [
            ("clear-a", json!({ "host": NAME })),
            ("add-a", json!({ "host": NAME, "addresses": [address] })),
        ] {
            let status = lab
                .command(Host::Outside, "curl")
                .args([
                    "-sf",
                    "--max-time",
                    "5",
                    "--retry",
                    "20",
                    "--retry-connrefused",
                ])
                .args(["--retry-delay", "1", "-d"])
                .arg(change.to_string())
                .arg(format!("http://127.0.0.1:8055/{what}"))
                .status()
                .expect("run curl");
            assert!(status.success(), "the DNS server takes no change");
        }
    }
}

impl Drop for Authority {
    fn drop(&mut self) {
        for child in &mut self.children {
            // One that has ended already is as good.
            let _ended = child.kill();
            let _reaped = child.wait();
        }
    }
}

/// Says so where there is no such server.
fn lacks_pebble(test: &str) -> bool {
    let found = ["pebble", "pebble-challtestsrv"].iter().all(|program| {
        let path = std::env::var_os("PATH").unwrap_or_default();
        std::env::split_paths(&path).any(|folder| folder.join(program).exists())
    });
    if !found {
        println!("NOT RUN {test}: needs pebble (Debian: apt-get install pebble)");
    }
    !found
}

struct World {
    daemon: Daemon,
    /// Ended with it.
    _authority: Authority,
}

impl World {
    /// Starts a daemon whose name leads to it; `gateway` changes its configuration.
    fn new(name: &str, gateway: Value) -> Self {
        Self::leading_to(name, lab::GATEWAY_OUTSIDE, gateway)
    }

    fn leading_to(name: &str, address: &str, gateway: Value) -> Self {
        let lab = Lab::of_this_process(name).expect("make the lab's namespaces");
        let authority = Authority::start(&lab);
        Authority::point_to(&lab, address);
        let ca = authority.folder.path().join("cert.pem");
        let seen = Arc::default();
        super::daemon::serve_stand_in(&lab, &seen);
        let mut daemon = Daemon::prepare(lab, seen, |config| {
            config["gateway"]["tls"] = json!({ "acme": {
                "server": format!("https://{}:14000/dir", lab::CLIENT_OUTSIDE),
                "ca": ca, "names": [NAME], "agreeTos": true, "contact": ["mailto:op@example.org"],
            }});
            merge(&mut config["gateway"], gateway);
        });
        let dir = daemon.path("acme").display().to_string();
        daemon.rewrite_config(|config| config["gateway"]["tls"]["acme"]["dir"] = json!(dir));
        daemon.spawn();
        Self {
            daemon,
            _authority: authority,
        }
    }

    fn issued(&self) -> Value {
        self.daemon.await_record("a certificate", |record| {
            record["action"] == "certificate" && record["outcome"] == "allow"
        })
    }

    /// Asks by name, and believes the authority's root alone.
    fn ask(&self) -> (u16, String) {
        let root = Authority::root(&self.daemon.lab).expect("the root");
        std::fs::write(self.daemon.path("root.pem"), root).expect("write");
        let output = self
            .daemon
            .lab
            .command(Host::Inside, "curl")
            .args([
                "-sS",
                "--max-time",
                "10",
                "-o",
                "/dev/null",
                "-w",
                "%{http_code}",
            ])
            .args(["--resolve", &format!("{NAME}:8443:{}", lab::GATEWAY_INSIDE)])
            .args(["-H", &format!("X-API-Key: {KEY}"), "--cacert"])
            .arg(self.daemon.path("root.pem"))
            .arg(format!("https://{NAME}:8443/"))
            .output()
            .expect("run curl");
        let status = String::from_utf8_lossy(&output.stdout).parse().unwrap_or(0);
        (status, String::from_utf8_lossy(&output.stderr).into_owned())
    }

    /// The new certificate is a file, which a reload takes up.
    fn await_trust(&self) {
        let deadline = Instant::now() + Duration::from_secs(15);
        loop {
            match self.ask() {
                (200, _) => return,
                (status, why) => assert!(
                    Instant::now() < deadline,
                    "{status} {why}\n{}",
                    self.daemon.log()
                ),
            }
            std::thread::sleep(Duration::from_millis(200));
        }
    }
}

fn merge(into: &mut Value, more: Value) {
    match (into, more) {
        (Value::Object(into), Value::Object(more)) => {
            for (key, value) in more {
                merge(into.entry(key).or_insert(Value::Null), value);
            }
        }
        (into, more) => *into = more,
    }
}

#[test]
fn an_authority_certifies_over_http() {
    if lacks_pebble("an_authority_certifies_over_http") {
        return;
    }
    let world = World::new("acme-http", json!({}));
    let record = world.issued();
    assert_eq!(record["rule"], "gateway.tls.acme", "{record}");
    let detail = record["detail"].as_str().unwrap_or_default();
    assert!(
        detail.starts_with(NAME) && detail.contains(", until 20"),
        "{detail}"
    );
    world.await_trust();

    // Nothing but a challenge of the moment is answered at port 80, and nothing is redirected.
    let lab = &world.daemon.lab;
    for path in ["/", "/.well-known/acme-challenge/abc", "/health"] {
        let output = lab
            .command(Host::Outside, "curl")
            .args([
                "-sS",
                "--max-time",
                "5",
                "-o",
                "/dev/null",
                "-w",
                "%{http_code}%{redirect_url}",
            ])
            .arg(format!("http://{}{path}", lab::GATEWAY_OUTSIDE))
            .output()
            .expect("run curl");
        assert_eq!(String::from_utf8_lossy(&output.stdout), "404", "{path}");
    }
    // The port that clients use is not open to the authority.
    let refused = lab
        .command(Host::Outside, "curl")
        .args(["-sk", "--max-time", "2", "-o", "/dev/null"])
        .arg(format!("https://{}:8443/", lab::GATEWAY_OUTSIDE))
        .status()
        .expect("run curl");
    assert_eq!(refused.code(), Some(28), "the filter drops it");
}

#[test]
fn an_authority_certifies_over_tls() {
    if lacks_pebble("an_authority_certifies_over_tls") {
        return;
    }
    let open = json!({
        "listen": ["0.0.0.0:8443", { "address": "0.0.0.0:8444", "allowedIPs": ["0.0.0.0/0"] }],
        "tls": { "acme": { "challenge": "tls-alpn-01" } },
    });
    let world = World::new("acme-tls", open);
    world.issued();
    world.await_trust();
}

#[test]
fn it_is_renewed_in_the_last_third_of_its_life() {
    if lacks_pebble("it_is_renewed_in_the_last_third_of_its_life") {
        return;
    }
    let mut world = World::new("acme-renew", json!({}));
    world.issued();
    world.await_trust();
    let read = |world: &World, name: &str| std::fs::read(world.daemon.path(name)).expect("read");
    let account = read(&world, "acme/account.json");
    world.daemon.stop();
    let key = KeyPair::generate().expect("make a key");
    let mut params = CertificateParams::new([NAME.to_owned()]).expect("name the server");
    params.not_before = date_time_ymd(2020, 1, 1);
    params.not_after = (std::time::SystemTime::now() + Duration::from_hours(24)).into();
    let old = params.self_signed(&key).expect("sign");
    let text = format!("{}\n{}", old.pem(), key.serialize_pem());
    world.daemon.write("acme/certificate.pem", &text);
    world.daemon.spawn();
    world.await_trust();
    assert_ne!(read(&world, "acme/certificate.pem"), text.as_bytes());
    assert_eq!(
        read(&world, "acme/account.json"),
        account,
        "the account stays"
    );
    let issued = world.daemon.audit();
    let issued = issued
        .iter()
        .filter(|r| r["action"] == "certificate" && r["reason"] == "ok");
    assert_eq!(issued.count(), 2, "once at first, once again");
}

#[test]
fn a_name_that_is_not_proved_is_told_and_tried_again_after_a_reload() {
    if lacks_pebble("a_name_that_is_not_proved_is_told_and_tried_again_after_a_reload") {
        return;
    }
    let world = World::leading_to("acme-lost", "203.0.113.1", json!({}));
    let told = world.daemon.await_record("a failure", |record| {
        record["action"] == "certificate" && record["outcome"] == "error"
    });
    let detail = told["detail"].as_str().unwrap_or_default();
    assert!(
        detail.contains(NAME) && detail.contains("port 80"),
        "{detail}"
    );
    let (status, why) = world.ask();
    assert!(status == 0 && why.contains("certificate"), "{status} {why}");
    Authority::point_to(&world.daemon.lab, lab::GATEWAY_OUTSIDE);
    world.daemon.hang_up();
    world.issued();
    world.await_trust();
}
