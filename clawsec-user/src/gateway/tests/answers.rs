//! What a key that is bound to an agent is shown of answers that are large, endless or unreadable:
//! bounded memory, and filtered or refused.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use super::http::{Answer, ask, bearer};
use super::{ADMIN_KEY, Rig, Rules, WORK_KEY};
use crate::event::Outcome;

const MIB: usize = 1024 * 1024;

/// An upstream that gives one answer: a head, a beginning, and a piece over and over.
struct Upstream {
    port: u16,
    /// Bytes that it could get rid of.
    sent: Arc<AtomicUsize>,
}

async fn upstream(
    head: &'static str,
    first: &'static str,
    piece: &'static str,
    most: usize,
) -> Upstream {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let sent = Arc::<AtomicUsize>::default();
    let counter = Arc::clone(&sent);
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let counter = Arc::clone(&counter);
            tokio::spawn(async move {
                let mut request = vec![0; 4096];
                let _request = stream.read(&mut request).await;
                let answer =
                    format!("HTTP/1.1 200 OK\r\n{head}\r\nConnection: close\r\n\r\n{first}");
                stream.write_all(answer.as_bytes()).await?;
                let pieces = piece.repeat(64 * 1024 / piece.len().max(1));
                while counter.load(Ordering::Relaxed) < most {
                    stream.write_all(pieces.as_bytes()).await?;
                    counter.fetch_add(pieces.len(), Ordering::Relaxed);
                }
                stream.shutdown().await
            });
        }
    });
    Upstream { port, sent }
}

async fn rig(upstream: &Upstream) -> Rig {
    Rig::start(Rules {
        keys: vec![ADMIN_KEY, WORK_KEY],
        upstream_port: Some(upstream.port),
        ..Rules::default()
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_cannot_be_filtered_is_refused_without_reading_it_all() {
    let kind = "Content-Type: application/json";
    let rows = [
        (
            "endless JSON",
            kind,
            "[",
            "\"agent:main:main\",",
            usize::MAX,
        ),
        ("JSON that is too large", kind, "[", "\"x\",", 9 * MIB),
        (
            "encoded JSON",
            "Content-Type: application/json\r\nContent-Encoding: gzip",
            "",
            "x",
            usize::MAX,
        ),
        ("no JSON", kind, "agent:main:main", "", 0),
    ];
    for (name, head, first, piece, most) in rows {
        let upstream = upstream(head, first, piece, most).await;
        let rig = rig(&upstream).await;
        let answer = ask(&rig, "GET /v1/models", &[&bearer(WORK_KEY)], "").await;
        assert_eq!(answer.status, 403, "{name}: {}", answer.body);
        assert_eq!(answer.json()["error"]["type"], "forbidden", "{name}");
        assert!(
            !answer.body.contains("agent:main"),
            "{name}: {}",
            answer.body
        );
        let event = rig
            .event("request", Outcome::Deny, "agent_not_allowed")
            .await;
        assert!(
            event.detail.unwrap().contains("cannot be filtered"),
            "{name}"
        );
        // What is held, and what sockets hold.
        let sent = upstream.sent.load(Ordering::Relaxed);
        assert!(sent < 24 * MIB, "{name}: {sent} bytes were read");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bound_keys_answers_are_asked_for_as_they_are() {
    let rig = Rig::start(Rules {
        keys: vec![ADMIN_KEY, WORK_KEY],
        ..Rules::default()
    })
    .await;
    for (key, encoding) in [(ADMIN_KEY, json!("gzip")), (WORK_KEY, json!(null))] {
        let headers = [&*bearer(key), "Accept-Encoding: gzip"];
        let answer = ask(&rig, "GET /v1/models", &headers, "").await;
        assert_eq!(
            answer.json()["headers"]["accept-encoding"],
            encoding,
            "{key}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn large_pages_and_a_free_keys_answers_stream() {
    let rows = [
        ("a page", "Content-Type: text/html", WORK_KEY),
        (
            "JSON of a key that is not bound",
            "Content-Type: application/json",
            ADMIN_KEY,
        ),
    ];
    for (name, head, key) in rows {
        let upstream = upstream(head, "", "x", 12 * MIB).await;
        let rig = rig(&upstream).await;
        let answer = ask(&rig, "GET /v1/models", &[&bearer(key)], "").await;
        assert_eq!(answer.status, 200, "{name}");
        assert!(
            answer.body.len() > 12 * MIB,
            "{name}: {}",
            answer.body.len()
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_stream_is_filtered_as_it_comes() {
    let head = "Content-Type: text/event-stream";
    let first = "data: {\"key\":\"agent:main:a\"}\n\ndata: {\"key\":\"agent:work:b\"}\n\n";
    let upstream = upstream(head, first, "", 0).await;
    let rig = rig(&upstream).await;
    let line = "GET /sessions/agent%3Awork%3Amain/history";
    let answer: Answer = ask(&rig, line, &[&bearer(WORK_KEY)], "").await;
    assert_eq!(answer.status, 200, "{}", answer.body);
    assert!(answer.body.contains("agent:work:b"), "{}", answer.body);
    assert!(!answer.body.contains("agent:main:a"), "{}", answer.body);

    // One that goes on for ever: what is the key's own comes at once, and no more is held than
    // the sockets hold.
    let endless = self::upstream(
        head,
        first,
        "data: {\"key\":\"agent:work:c\"}\n\n",
        usize::MAX,
    )
    .await;
    let rig = self::rig(&endless).await;
    let mut stream = TcpStream::connect(rig.address).await.unwrap();
    let request = format!("{line} HTTP/1.1\r\nHost: a\r\n{}\r\n\r\n", bearer(WORK_KEY));
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut text = String::new();
    while !text.contains("agent:work:b") {
        let mut piece = vec![0; 4096];
        let read = tokio::time::timeout(Duration::from_secs(10), stream.read(&mut piece));
        let length = read.await.unwrap().unwrap();
        assert!(length > 0, "{text}");
        text.push_str(std::str::from_utf8(&piece[..length]).unwrap());
    }
    assert!(!text.contains("agent:main:a"), "{text}");
    // The client reads no more: the upstream soon cannot write more either.
    let mut before = usize::MAX;
    for _ in 0..100 {
        let sent = endless.sent.load(Ordering::Relaxed);
        if sent == before {
            break;
        }
        before = sent;
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    let sent = endless.sent.load(Ordering::Relaxed);
    assert!(sent == before && sent < 24 * MIB, "{sent} bytes were read");

    let huge = self::upstream(head, "data: ", "agent:main:a ", usize::MAX).await;
    let rig = self::rig(&huge).await;
    let cut = ask(&rig, line, &[&bearer(WORK_KEY)], "").await;
    assert!(
        !cut.body.contains("agent:main"),
        "an event too large ends the stream"
    );
    let sent = huge.sent.load(Ordering::Relaxed);
    assert!(sent < 24 * MIB, "{sent} bytes were read");
}
