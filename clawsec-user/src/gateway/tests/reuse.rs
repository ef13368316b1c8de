//! Connections to the upstream that are used again: for whom, and never after an unclear end.

use std::collections::BTreeSet;

use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};

use super::http::{Answer, ask, bearer};
use super::{ADMIN_KEY, READ_KEY, Rig, Rules};
use crate::ipc::{ToGateway, ToSupervisor};

/// An upstream whose pages are the number of the connection that they come over.
async fn numbered() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        for number in 1_u32.. {
            let (stream, _) = listener.accept().await.unwrap();
            tokio::spawn(speak(BufReader::new(stream), number));
        }
    });
    port
}

async fn speak(mut stream: BufReader<TcpStream>, number: u32) {
    let page = |header: &str| {
        let body = number.to_string();
        format!(
            "HTTP/1.1 200 OK\r\n{header}content-length: {}\r\n\r\n{body}",
            body.len()
        )
    };
    while let Some(path) = read_request(&mut stream).await {
        let (answer, ends) = match path.as_str() {
            "/more" => (
                page("") + "HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\nstolen",
                false,
            ),
            "/last" => (page(""), true),
            "/announced" => (page("connection: close\r\n"), false),
            "/cut" => (
                "HTTP/1.1 200 OK\r\ncontent-length: 99\r\n\r\n1".to_owned(),
                true,
            ),
            "/endless" => (format!("HTTP/1.1 200 OK\r\n\r\n{number}"), true),
            "/chunked" => (
                format!(
                    "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1\r\n{number}\r\n0\r\n\r\n"
                ),
                false,
            ),
            _ => (page(""), false),
        };
        stream.write_all(answer.as_bytes()).await.unwrap();
        if ends {
            return;
        }
    }
}

/// The path of the next request, its body skipped.
async fn read_request(stream: &mut BufReader<TcpStream>) -> Option<String> {
    let mut first = String::new();
    stream.read_line(&mut first).await.ok()?;
    let path = first.split(' ').nth(1)?.to_owned();
    let mut length = 0;
    loop {
        let mut line = String::new();
        stream.read_line(&mut line).await.ok()?;
        let line = line.to_lowercase();
        if let Some(value) = line.strip_prefix("content-length:") {
            length = value.trim().parse().unwrap();
        }
        if line.trim().is_empty() {
            break;
        }
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await.ok()?;
    Some(path)
}

async fn rig() -> Rig {
    Rig::start(Rules {
        upstream_port: Some(numbered().await),
        ..Rules::default()
    })
    .await
}

async fn page(rig: &Rig, line: &str, key: &str, body: &str) -> Answer {
    ask(rig, line, &[&bearer(key)], body).await
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_of_one_principal_share_a_connection() {
    for line in ["GET /", "GET /chunked"] {
        let rig = rig().await;
        let mut seen = BTreeSet::new();
        // A connection is back a moment after its answer; how soon is the scheduler's matter.
        let is_shared = async {
            while seen.insert(page(&rig, line, ADMIN_KEY, "").await.body) {
                tokio::task::yield_now().await;
            }
        };
        let shared = tokio::time::timeout(std::time::Duration::from_secs(10), is_shared).await;
        assert!(shared.is_ok(), "{line}: {seen:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_is_not_shared_where_that_could_mix_answers_up() {
    type Ask = (&'static str, &'static str, &'static str);
    const PAGE: Ask = ("GET /", ADMIN_KEY, "");
    let rows: [(&str, Ask, Ask); 11] = [
        (
            "more than was asked for",
            ("GET /more", ADMIN_KEY, ""),
            PAGE,
        ),
        ("ended", ("GET /last", ADMIN_KEY, ""), PAGE),
        ("its end announced", ("GET /announced", ADMIN_KEY, ""), PAGE),
        ("cut short", ("GET /cut", ADMIN_KEY, ""), PAGE),
        ("without a length", ("GET /endless", ADMIN_KEY, ""), PAGE),
        ("a head alone", ("HEAD /", ADMIN_KEY, ""), PAGE),
        ("a page with a body", ("GET /", ADMIN_KEY, "x"), PAGE),
        ("after an effect", ("POST /new", ADMIN_KEY, "{}"), PAGE),
        ("an effect", PAGE, ("POST /new", ADMIN_KEY, "{}")),
        ("another principal", PAGE, ("GET /", READ_KEY, "")),
        ("a page before a head", PAGE, ("HEAD /", ADMIN_KEY, "")),
    ];
    for (name, (line, key, body), second) in rows {
        let rig = rig().await;
        page(&rig, line, key, body).await;
        let (line, key, body) = second;
        // Whatever the scheduler makes of it, the first connection is never seen again.
        let answer = page(&rig, line, key, body).await;
        assert_eq!(answer.status, 200, "{name}: {}", answer.body);
        let expected = if line.starts_with("HEAD") { "" } else { "2" };
        assert_eq!(answer.body, expected, "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn another_policy_makes_its_own_connections() {
    let port = numbered().await;
    let rules = |generation| Rules {
        generation,
        upstream_port: Some(port),
        ..Rules::default()
    };
    let mut rig = Rig::start(rules(1)).await;
    let before = page(&rig, "GET /", ADMIN_KEY, "").await.body;
    rig.install(rules(2)).await;
    let after = page(&rig, "GET /", ADMIN_KEY, "").await.body;
    assert_ne!(before, after);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_waits_holds_no_drain_up() {
    let mut rig = rig().await;
    page(&rig, "GET /", ADMIN_KEY, "").await;
    // Longer than the test waits for it.
    let deadline_ms = 60_000;
    rig.send(ToGateway::Drain { deadline_ms }).await;
    assert!(matches!(rig.told().await, ToSupervisor::Drained));
    assert_eq!(rig.seen("request", "ok").len(), 1, "before the last word");
}
