//! Slow clients of every kind, a thousand of each: each ends by a deadline, and a normal one works beside them.

use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::http::{ask, bearer, from, raw};
use super::tls::{client, connect, material};
use super::{ADMIN_KEY, Rig, Rules};
use crate::event::Outcome;
use crate::gateway::shared::Deadlines;

#[tokio::test(flavor = "multi_thread")]
async fn a_silent_client_is_ended() {
    let deadlines = Deadlines {
        head: Duration::from_millis(200),
        ..Deadlines::default()
    };
    let rig = Rig::start_with(Rules::default(), deadlines).await;
    for said in ["", "GET / HT", "GET / HTTP/1.1\r\nHost: a\r\n"] {
        let answer = tokio::time::timeout(Duration::from_secs(3), raw(&rig, said)).await;
        assert!(answer.is_ok(), "{said:?}");
    }
}

/// What a slow client says before it says nothing more.
const SLOW: [(&str, &str); 6] = [
    ("no hello", ""),
    ("half a hello", "\x16\x03\x01\x02"),
    ("half a head", "GET / HTTP/1.1\r\nHost: a\r\n"),
    (
        "half a body",
        "POST /tools/invoke HTTP/1.1\r\nHost: a\r\nX-API-Key: admin-key-0123456789\r\n\
         Content-Length: 99\r\n\r\n{",
    ),
    (
        "half a streamed body",
        "POST /v1/embeddings HTTP/1.1\r\nHost: a\r\nX-API-Key: admin-key-0123456789\r\n\
         Content-Length: 99\r\n\r\n{",
    ),
    (
        "no connect",
        "GET / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n",
    ),
];

/// Of each kind, one kind after the other: both ends of each are descriptors of this process.
const CLIENTS: u16 = 1000;

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_slow_clients_do_not_keep_a_normal_one_waiting() {
    // None is ended while the others come, however slow this machine is.
    let long = Duration::from_mins(5);
    let deadlines = Deadlines {
        tls: long,
        head: long,
        body: long,
        body_idle: long,
        stall: long,
        handshake: long,
        ..Deadlines::default()
    };
    let plain = Rules {
        requests: 100_000,
        ..Rules::default()
    };
    let tls = material();
    let with_tls = Rules {
        tls: Some(tls.clone()),
        ..plain.clone()
    };
    let rig = Rig::start_with(plain, deadlines).await;
    let secure = Rig::start_with(with_tls, deadlines).await;
    let config = Arc::new(client(&tls, None));
    let reader = format!("GET /large HTTP/1.1\r\nHost: a\r\nX-API-Key: {ADMIN_KEY}\r\n\r\n");
    let kinds = SLOW.into_iter().chain([("slow reader", reader.as_str())]);
    for (number, (kind, said)) in (0..).zip(kinds) {
        let target = if kind.ends_with("hello") {
            &secure
        } else {
            &rig
        };
        let mut slow = Vec::new();
        for client in 0..CLIENTS {
            // Five sources for each kind; one has 256 places.
            let source = 10 * (number + 1) + u8::try_from(client / 200).unwrap();
            let mut stream = from(target, source).await;
            stream.write_all(said.as_bytes()).await.unwrap();
            slow.push(stream);
        }
        for _ in 0..20 {
            let answer = ask(&rig, "GET /v1/models", &[&bearer(ADMIN_KEY)], "").await;
            assert_eq!(answer.status, 200, "{kind}: {}", answer.body);
            assert!(connect(&secure, &config).await.is_ok(), "{kind}");
        }
        // None was turned away: they were all there meanwhile.
        assert!(target.seen("accept", "rate_limited").is_empty(), "{kind}");
        let mut byte = [0; 1];
        let gone = slow
            .iter_mut()
            .filter(|stream| matches!(stream.try_read(&mut byte), Ok(0)))
            .count();
        assert_eq!(gone, 0, "{kind}: ended");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_slow_client_is_ended_by_a_deadline() {
    let soon = Duration::from_millis(300);
    let deadlines = Deadlines {
        tls: soon,
        head: soon,
        body: soon,
        body_idle: soon,
        stall: soon,
        handshake: soon,
        ..Deadlines::default()
    };
    let tls = material();
    let secure = Rules {
        tls: Some(tls.clone()),
        ..Rules::default()
    };
    let secure = Rig::start_with(secure, deadlines).await;
    let rig = Rig::start_with(Rules::default(), deadlines).await;
    for (kind, said) in SLOW {
        let target = if kind.ends_with("hello") {
            &secure
        } else {
            &rig
        };
        let mut stream = TcpStream::connect(target.address).await.unwrap();
        stream.write_all(said.as_bytes()).await.unwrap();
        let mut text = Vec::new();
        let ended = tokio::time::timeout(Duration::from_secs(10), stream.read_to_end(&mut text));
        assert!(ended.await.is_ok(), "{kind}");
        if kind.ends_with("body") {
            assert!(
                text.starts_with(b"HTTP/1.1 408"),
                "{kind}: {}",
                String::from_utf8_lossy(&text)
            );
        }
    }
    let event = rig.event("request", Outcome::Deny, "too_slow").await;
    assert_eq!(event.detail.as_deref(), Some("half a request"));

    let mut stream = TcpStream::connect(rig.address).await.unwrap();
    let request = format!("GET /large HTTP/1.1\r\nHost: a\r\nX-API-Key: {ADMIN_KEY}\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    for _ in 0..500 {
        let known = rig.seen("request", "too_slow");
        if known
            .iter()
            .any(|event| event.detail.as_deref() == Some("the client takes no answer"))
        {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("the slow reader was not ended");
}
