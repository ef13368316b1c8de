//! Connections that end before there is a request: each says so in its protocol's own form, is
//! recorded, and a flood of them is summed.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use rcgen::{BasicConstraints, CertificateParams, IsCa, KeyPair};
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::http::from;
use super::tls::{client, connect_over, material};
use super::{Rig, Rules};
use crate::event::{EventKind, Outcome};
use crate::gateway::shared::Deadlines;
use crate::ipc::TlsMaterial;

/// What a client does once it has said something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Then {
    Waits,
    Ends,
}

use Then::{Ends, Waits};

const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
const SOON: Duration = Duration::from_millis(300);

/// A hello of TLS 1.0, which is not spoken any more.
fn old_hello() -> Vec<u8> {
    let mut hello = b"\x16\x03\x01\x00\x2d\x01\x00\x00\x29\x03\x01".to_vec();
    hello.extend_from_slice(&[7; 32]);
    // No session, one cipher, no compression.
    hello.extend_from_slice(b"\x00\x00\x02\xc0\x2b\x01\x00");
    hello
}

#[tokio::test(flavor = "multi_thread")]
async fn a_handshake_that_fails_is_told_and_recorded() {
    let tls = material();
    let deadlines = Deadlines {
        tls: SOON,
        ..Deadlines::default()
    };
    let rules = Rules {
        tls: Some(tls.clone()),
        ..Rules::default()
    };
    let rig = Rig::start_with(rules, deadlines).await;
    // Whether an alert comes, and the record.
    let rows = [
        ("no hello", vec![], Waits, false, Outcome::Deny, "too_slow"),
        (
            "half a hello",
            b"\x16\x03\x01\x02".to_vec(),
            Waits,
            false,
            Outcome::Deny,
            "too_slow",
        ),
        ("nothing", vec![], Ends, false, Outcome::Error, "tls_ended"),
        (
            "half a hello, then no more",
            b"\x16\x03\x01\x02".to_vec(),
            Ends,
            false,
            Outcome::Error,
            "tls_ended",
        ),
        (
            "HTTP",
            b"GET / HTTP/1.1\r\nHost: a\r\n\r\n".to_vec(),
            Waits,
            true,
            Outcome::Error,
            "tls_failed",
        ),
        (
            "nonsense",
            vec![0xff; 64],
            Waits,
            true,
            Outcome::Error,
            "tls_failed",
        ),
        (
            "TLS 1.0",
            old_hello(),
            Waits,
            true,
            Outcome::Error,
            "tls_failed",
        ),
    ];
    for (number, (name, said, then, has_alert, outcome, reason)) in (1..).zip(rows) {
        let mut stream = from(&rig, number).await;
        stream.write_all(&said).await.unwrap();
        if then == Ends {
            stream.shutdown().await.unwrap();
        }
        let mut answer = Vec::new();
        let ended = tokio::time::timeout(Duration::from_secs(10), stream.read_to_end(&mut answer));
        let _reset = ended.await.unwrap_or_else(|_| panic!("{name}: still open"));
        let is_alert = matches!(answer[..], [0x15, 3, _, 0, 2, 2, _]);
        assert_eq!(is_alert, has_alert, "{name}: {answer:x?}");
        let source = IpAddr::from([127, 0, 7, number]);
        let event = rig.event_of("tls", reason, source).await;
        let told = (event.kind, event.outcome, event.count, event.generation);
        assert_eq!(told, (EventKind::Network, outcome, 1, 1), "{name}");
    }
    assert_eq!(rig.upstream.connections(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_speaks_something_else_is_told_which() {
    let ca_key = KeyPair::generate().unwrap();
    let mut ca = CertificateParams::new(Vec::new()).unwrap();
    ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let tls = TlsMaterial {
        client_ca_pem: Some(ca.self_signed(&ca_key).unwrap().pem()),
        ..material()
    };
    let foreign = material();
    let open = Rules {
        tls: Some(tls.clone()),
        ..Rules::default()
    };
    let elsewhere = Rules {
        hosts: vec!["a.example"],
        ..open.clone()
    };
    let (rig, elsewhere) = (Rig::start(open).await, Rig::start(elsewhere).await);
    let mut other = client(&tls, None);
    other.alpn_protocols = vec![b"h3".to_vec()];
    let rows = [
        (
            "another protocol",
            &rig,
            other,
            Outcome::Error,
            "tls_failed",
            "NoApplicationProtocol",
        ),
        (
            "another's certificate",
            &rig,
            client(&tls, Some(&foreign)),
            Outcome::Deny,
            "client_certificate_refused",
            "DecryptError",
        ),
        (
            "another host",
            &elsewhere,
            client(&tls, None),
            Outcome::Deny,
            "host_not_allowed",
            "AccessDenied",
        ),
    ];
    for (number, (name, rig, config, outcome, reason, alert)) in (1..).zip(rows) {
        let mut answer = Vec::new();
        let error = match connect_over(from(rig, number).await, &Arc::new(config)).await {
            // Of its certificate a client of TLS 1.3 hears after its own handshake.
            Ok(mut stream) => stream.read_to_end(&mut answer).await.unwrap_err(),
            Err(error) => error,
        };
        assert!(error.to_string().contains(alert), "{name}: {error}");
        let source = IpAddr::from([127, 0, 7, number]);
        let event = rig.event_of("tls", reason, source).await;
        assert_eq!(event.outcome, outcome, "{name}");
        assert!(event.detail.is_some(), "{name}");
        assert_eq!(rig.upstream.connections(), 0, "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proxys_header_is_right_and_soon_or_the_connection_ends() {
    let deadlines = Deadlines {
        tls: SOON,
        ..Deadlines::default()
    };
    let rules = Rules {
        listen: json!({"proxyFrom": ["127.0.0.0/8"]}),
        ..Rules::default()
    };
    let rig = Rig::start_with(rules, deadlines).await;
    let after = |rest: &[u8]| [SIGNATURE, rest].concat();
    let rows = [
        (
            "half a signature",
            SIGNATURE[..7].to_vec(),
            Waits,
            "too_slow",
        ),
        ("a signature", SIGNATURE.to_vec(), Waits, "too_slow"),
        (
            "half a header",
            after(b"\x21\x11\0\x0c\x01\x02"),
            Waits,
            "too_slow",
        ),
        ("nothing", vec![], Waits, "too_slow"),
        (
            "half a header, then no more",
            after(b"\x21\x11\0\x0c\x01\x02"),
            Ends,
            "proxy_malformed",
        ),
        (
            "another version",
            after(&[b"\x31\x11\0\x0c", &[1; 12][..]].concat()),
            Waits,
            "proxy_malformed",
        ),
        (
            "another family",
            after(&[b"\x21\x31\0\x0c", &[1; 12][..]].concat()),
            Waits,
            "proxy_malformed",
        ),
        (
            "too few addresses",
            after(&[b"\x21\x21\0\x0c", &[1; 12][..]].concat()),
            Waits,
            "proxy_malformed",
        ),
        (
            "too long",
            after(b"\x21\x11\xff\xff"),
            Waits,
            "proxy_malformed",
        ),
    ];
    for (number, (name, said, then, reason)) in (1..).zip(rows) {
        let mut stream = from(&rig, number).await;
        stream.write_all(&said).await.unwrap();
        if then == Ends {
            stream.shutdown().await.unwrap();
        }
        let mut answer = Vec::new();
        let ended = tokio::time::timeout(Duration::from_secs(10), stream.read_to_end(&mut answer));
        let _reset = ended.await.unwrap_or_else(|_| panic!("{name}: still open"));
        assert!(answer.is_empty(), "{name}: {answer:x?}");
        let source = IpAddr::from([127, 0, 7, number]);
        let event = rig.event_of("proxy", reason, source).await;
        let told = (event.kind, event.outcome, event.count);
        assert_eq!(told, (EventKind::Network, Outcome::Deny, 1), "{name}");
    }
    assert_eq!(rig.upstream.connections(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_failures_is_a_few_records_with_its_number() {
    let tls = material();
    let rig = Rig::start(Rules {
        tls: Some(tls.clone()),
        ..Rules::default()
    })
    .await;
    for _ in 0..300 {
        let mut stream = from(&rig, 1).await;
        stream.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
        let mut answer = Vec::new();
        let _reset = stream.read_to_end(&mut answer).await;
    }
    let records = rig.counted("tls", "tls_failed", 300).await.len();
    assert!(records < 100, "{records} records");
}
