//! Everything that a reload can change, changed under load: no request fails for it.
//!
//! `CLAWSEC_RENEWALS` sets how often; `docs/reliability.md` has the full run.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use clawsec_user::supervisor::admin::{Answer, Question, ask};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use serde_json::json;
use xtask::lab;

use super::client::{Client, Connection};
use super::daemon::{Daemon, KEY};
use super::traffic::Stopper;

/// What the clients saw, by what they do.
#[derive(Default)]
struct Seen {
    stop: AtomicBool,
    done: [AtomicU64; 4],
    failed: Mutex<Vec<String>>,
}

impl Seen {
    /// Works until told to stop; each failure is kept, and its work begun anew.
    fn keep<T>(
        &self,
        kind: usize,
        begin: impl Fn() -> std::io::Result<T>,
        work: impl Fn(&mut T) -> std::io::Result<()>,
    ) {
        while !self.stop.load(Ordering::Relaxed) {
            let outcome = begin().and_then(|mut kept| {
                while !self.stop.load(Ordering::Relaxed) {
                    work(&mut kept)?;
                    self.done[kind].fetch_add(1, Ordering::Relaxed);
                }
                Ok(())
            });
            if let Err(error) = outcome {
                let told = format!("{}: {error}", KINDS[kind]);
                self.failed.lock().expect("lock").push(told);
            }
        }
    }
}

const KINDS: [&str; 4] = ["kept alive", "new each time", "a tool", "a WebSocket"];

fn is_200(status: u16) -> std::io::Result<()> {
    match status {
        200 => Ok(()),
        other => Err(std::io::Error::other(format!("answered {other}"))),
    }
}

fn generation(daemon: &Daemon) -> u64 {
    match ask(&daemon.path("admin.sock"), &Question::Status) {
        Ok(Answer::Status(status)) => status.generation,
        other => panic!("no status: {other:?}"),
    }
}

/// Another certificate of the same authority.
fn renew(daemon: &Daemon, authority: &Issuer<'_, KeyPair>) {
    let key = KeyPair::generate().expect("make a key");
    let names = vec!["localhost".to_owned(), lab::GATEWAY_INSIDE.to_owned()];
    let params = CertificateParams::new(names).expect("name the server");
    let certificate = params.signed_by(&key, authority).expect("sign");
    daemon.write("cert.pem", &certificate.pem());
    daemon.write("key.pem", &key.serialize_pem());
}

#[test]
fn no_request_fails_for_a_reload() {
    let rounds: u64 =
        std::env::var("CLAWSEC_RENEWALS").map_or(12, |text| text.parse().expect("a whole number"));
    let authority_key = KeyPair::generate().expect("make a key");
    let mut params = CertificateParams::new(Vec::new()).expect("an authority");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority_pem = params.self_signed(&authority_key).expect("sign").pem();
    let authority = Issuer::new(params, authority_key);

    let daemon = Daemon::start("renewals", |config| {
        config["security"]["rateLimit"] = json!({ "enabled": true, "requests": 1_000_000, "window": 60_000, "connections": 1_000_000 });
    });
    daemon.write("authority.pem", &authority_pem);
    let client = Client::inside(&daemon.lab, &daemon.path("authority.pem"));
    let change = |round: u64| {
        let before = generation(&daemon);
        renew(&daemon, &authority);
        daemon.rewrite_config(|config| {
            let next = format!("key-number-{round}-of-thirty-two-letters");
            config["security"]["auth"] = json!({ "type": "token", "tokens": [KEY, next] });
            config["security"]["network"]["allowedIPs"] = json!([
                "192.0.2.0/24",
                "2001:db8:1::/64",
                format!("10.{}.0.0/16", round % 200)
            ]);
            config["security"]["users"] = json!({ "allowList": [format!("+1555123{round:04}")] });
            config["security"]["rateLimit"]["requests"] = json!(1_000_000 - round);
            config["tools"]["deny"] = json!(["browser", format!("tool_{round}")]);
        });
        daemon.hang_up();
        let deadline = Instant::now() + Duration::from_secs(20);
        while generation(&daemon) == before {
            assert!(
                Instant::now() < deadline,
                "{round}: not in force\n{}",
                daemon.log()
            );
            std::thread::sleep(Duration::from_millis(5));
        }
    };
    // From here on the authority's certificates are served.
    change(0);
    let seen = Seen::default();
    let tool = json!({ "tool": "sessions_list" }).to_string();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            client.enter();
            let ask = |kept: &mut Connection| is_200(kept.ask("GET /", KEY, "")?);
            seen.keep(0, || client.connect(), ask);
        });
        scope.spawn(|| {
            client.enter();
            let ask = |(): &mut ()| is_200(client.ask("GET /", KEY, "")?);
            seen.keep(1, || Ok(()), ask);
        });
        scope.spawn(|| {
            client.enter();
            let ask = |kept: &mut Connection| is_200(kept.ask("POST /tools/invoke", KEY, &tool)?);
            seen.keep(2, || client.connect(), ask);
        });
        scope.spawn(|| {
            client.enter();
            let open = || {
                let mut socket = client.connect()?;
                socket.upgrade(KEY)?;
                Ok(socket)
            };
            let ask = |socket: &mut Connection| {
                let answer = socket.call("health", &json!({}))?;
                is_200(if answer["ok"] == true { 200 } else { 0 })
            };
            seen.keep(3, open, ask);
        });
        scope.spawn(|| {
            let _stopper = Stopper(&seen.stop);
            client.enter();
            for round in 1..=rounds {
                change(round);
                // A key that was just added opens, the one before no longer.
                let key = |round| format!("key-number-{round}-of-thirty-two-letters");
                let told = [round, round - 1].map(|round| client.ask("GET /", &key(round), ""));
                if !matches!(told, [Ok(200), Ok(401)]) {
                    let told = format!("keys of round {round}: {told:?}");
                    seen.failed.lock().expect("lock").push(told);
                }
                // Each kind is under way between any two reloads.
                let counts = || {
                    seen.done
                        .each_ref()
                        .map(|done| done.load(Ordering::Relaxed))
                };
                let before = counts();
                let deadline = Instant::now() + Duration::from_secs(30);
                while counts()
                    .iter()
                    .zip(before)
                    .any(|(now, before)| *now == before)
                {
                    if Instant::now() > deadline {
                        seen.failed
                            .lock()
                            .expect("lock")
                            .push(format!("stuck: {before:?}"));
                        break;
                    }
                    std::thread::sleep(Duration::from_millis(2));
                }
            }
        });
    });
    let done = seen.done.map(AtomicU64::into_inner);
    let failed = seen.failed.into_inner().expect("lock");
    println!(
        "{rounds} reloads: {KINDS:?} {done:?}, {} failed",
        failed.len()
    );
    assert!(failed.is_empty(), "{failed:?}");
    let refused =
        |record: &&serde_json::Value| record["action"] == "reload" && record["outcome"] != "allow";
    assert_eq!(daemon.audit().iter().find(refused), None);
}
