//! The daemon's front door: HTTP/2, a renewed certificate, a listener with rules of its own.

use std::time::{Duration, Instant};

use serde_json::json;
use xtask::lab::{self, Host};

use super::daemon::{Daemon, KEY};

#[test]
fn a_webhook_listener_opens_one_path_to_strangers_and_no_other_port() {
    let daemon = Daemon::start("webhooks", |config| {
        config["gateway"]["listen"] = json!([
            "0.0.0.0:8443",
            { "address": "0.0.0.0:9443", "allowedIPs": [lab::CLIENT_OUTSIDE], "bypass": ["/echo"] },
        ]);
    });
    let key = format!("X-API-Key: {KEY}");
    let other_port = format!("::{}:9443", lab::GATEWAY_OUTSIDE);
    let at = |path: &str, more: &[&str]| {
        let mut arguments = vec!["--connect-to", other_port.as_str()];
        arguments.extend_from_slice(more);
        daemon.curl(Host::Outside, path, &arguments)
    };
    // The stand-in refuses what comes without the upstream token: none was added.
    assert_eq!(at("/echo", &["--json", "{}"]).status, 401);
    daemon.await_record("the webhook", |record| {
        record["action"] == "webhook"
            && record["outcome"] == "allow"
            && record["src"]["ip"] == lab::CLIENT_OUTSIDE
    });
    assert_eq!(
        at("/", &["-H", &key]).status,
        403,
        "a key opens no page here"
    );
    assert_eq!(at("/echo", &["-H", &key]).status, 403, "by GET");
    let main = daemon.curl(Host::Outside, "/echo", &["--json", "{}"]);
    assert_eq!(main.status, 0, "the other listener sends it no byte");
    daemon.await_record("the refusal at accept", |record| {
        record["action"] == "accept"
            && record["reason"] == "address_not_allowed"
            && record["src"]["ip"] == lab::CLIENT_OUTSIDE
    });
    assert_eq!(daemon.get(Host::Inside, "/").status, 200);
}

#[test]
fn http_2_is_spoken_and_a_renewed_certificate_is_noticed() {
    let daemon = Daemon::start("renewal", |_| {});
    for version in ["--http2", "--http1.1"] {
        let key = format!("X-API-Key: {KEY}");
        let answer = daemon.curl(Host::Inside, "/", &[version, "-H", &key]);
        assert_eq!(answer.status, 200, "{version}: {answer:?}");
    }
    let names = ["localhost", lab::GATEWAY_INSIDE].map(str::to_owned);
    let renewed = rcgen::generate_simple_self_signed(names).expect("make a certificate");
    daemon.write("cert.pem", &renewed.cert.pem());
    daemon.write("key.pem", &renewed.signing_key.serialize_pem());
    // curl trusts the file that was just written, so it fails until it is served.
    let deadline = Instant::now() + Duration::from_secs(20);
    while daemon.get(Host::Inside, "/").status != 200 {
        assert!(
            Instant::now() < deadline,
            "the new certificate is not served"
        );
    }
}
