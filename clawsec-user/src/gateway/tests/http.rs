//! HTTP through the whole gateway.

use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

pub(super) use super::client::{Answer, ask, bearer, from, over, raw};
use super::{ADMIN_KEY, READ_KEY, Rig, Rules, UPSTREAM_TOKEN};
use crate::event::{EventKind, Outcome};
use crate::gateway::shared::Deadlines;
use crate::ipc::{ToGateway, ToSupervisor};

#[tokio::test(flavor = "multi_thread")]
async fn a_key_opens_and_nothing_else_does() {
    let rig = Rig::start(Rules::default()).await;
    let rows = [
        ("bearer", bearer(ADMIN_KEY), 200),
        ("api key", format!("X-API-Key: {ADMIN_KEY}"), 200),
        ("wrong", bearer("wrong"), 401),
        ("upstream's own", bearer(UPSTREAM_TOKEN), 401),
        ("none", "X-Other: 1".to_owned(), 401),
    ];
    for (name, header, status) in rows {
        for line in ["GET /v1/models", "GET /", "POST /tools/invoke"] {
            let body = if line.starts_with("POST") {
                r#"{"tool":"agents_list"}"#
            } else {
                ""
            };
            let answer = ask(&rig, line, &[&header], body).await;
            assert_eq!(answer.status, status, "{name} {line}: {}", answer.body);
            if status == 401 {
                assert_eq!(
                    answer.body,
                    r#"{"error":{"message":"Unauthorized","type":"unauthorized"}}"#
                );
            }
        }
    }
    let event = rig
        .event("request", Outcome::Deny, "credential_unknown")
        .await;
    assert_eq!(event.kind, EventKind::Auth);
    let event = rig.event("login", Outcome::Allow, "ok").await;
    assert_eq!(event.principal.as_deref(), Some("admin"));
    assert_eq!(event.generation, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_upstream_sees_its_own_token_and_no_forwarded_header() {
    let rig = Rig::start(Rules::default()).await;
    let answer = ask(
        &rig,
        "GET /v1/models?x=1",
        &[
            &bearer(ADMIN_KEY),
            "X-Forwarded-For: 6.6.6.6",
            "X-Forwarded-User: root",
            "Forwarded: for=6.6.6.6",
            "X-Real-IP: 6.6.6.6",
            "Tailscale-User-Login: root",
            "Connection: x-hop",
            "X-Hop: 1",
            "Keep-Alive: 1",
            "X-Kept: yes",
        ],
        "",
    )
    .await;
    let told = answer.json();
    assert_eq!(told["path"], "/v1/models?x=1");
    let headers = told["headers"].as_object().unwrap();
    let mut names: Vec<&str> = headers.keys().map(String::as_str).collect();
    names.sort_unstable();
    assert_eq!(names, ["authorization", "host", "x-kept"]);
    assert_eq!(headers["authorization"], format!("Bearer {UPSTREAM_TOKEN}"));
    assert_eq!(headers["host"], format!("127.0.0.1:{}", rig.upstream.port));
    assert!(answer.head.contains("x-request-id: "), "{}", answer.head);
    assert!(!answer.head.contains("x-secret-hop"), "{}", answer.head);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_denied_tool_is_one_that_does_not_exist() {
    let mut rig = Rig::start(Rules::default()).await;
    let admin = bearer(ADMIN_KEY);
    let rows = [
        (
            "denied",
            r#"{"tool":"browser"}"#,
            404,
            r#"{"ok":false,"error":{"type":"not_found","message":"Tool not available: browser"}}"#,
        ),
        (
            "denied in disguise",
            r#"{"tool":" Browser "}"#,
            404,
            r#"{"ok":false,"error":{"type":"not_found","message":"Tool not available: Browser"}}"#,
        ),
        (
            "twice",
            r#"{"tool":"sessions_list","t\u006fol":"browser"}"#,
            400,
            "",
        ),
        (
            "two names",
            r#"{"tool":"sessions_list","name":"browser"}"#,
            400,
            "",
        ),
        ("no JSON", "tool=exec", 400, ""),
        (
            "denied by the supervisor",
            r#"{"tool":"exec","args":{"command":"denied"}}"#,
            404,
            r#"{"ok":false,"error":{"type":"not_found","message":"Tool not available: exec"}}"#,
        ),
    ];
    for (name, body, status, expected) in rows {
        let answer = ask(&rig, "POST /tools/invoke", &[&admin], body).await;
        assert_eq!(answer.status, status, "{name}: {}", answer.body);
        assert!(
            expected.is_empty() || answer.body == expected,
            "{name}: {}",
            answer.body
        );
    }
    assert_eq!(rig.upstream.connections(), 0);
    let event = rig.event("invoke", Outcome::Deny, "tool_denied").await;
    assert_eq!(event.kind, EventKind::Tool);
    assert_eq!(event.rule.as_deref(), Some("tools.deny[0]"));
    assert!(matches!(rig.told().await, ToSupervisor::Tool { .. }));

    let body = r#"{"tool": "sessions_list",  "args": {"limit": 1e2}}"#;
    let answer = ask(&rig, "POST /tools/invoke", &[&admin], body).await;
    assert_eq!(
        answer.json()["body"],
        body,
        "the very bytes that were judged"
    );
    let answer = ask(&rig, "GET /tools/invoke", &[&admin], "").await;
    assert_eq!(answer.status, 405);
    assert!(answer.head.contains("allow: post"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sandboxed_tool_is_answered_without_the_upstream() {
    let mut rig = Rig::start(Rules::default()).await;
    let body = r#"{"tool":"bash","args":{"command":"id"},"sessionKey":"agent:main:main"}"#;
    let answer = ask(&rig, "POST /tools/invoke", &[&bearer(ADMIN_KEY)], body).await;
    assert_eq!(
        answer.body,
        r#"{"ok":true,"result":{"content":[{"type":"text","text":"ran id"}],"details":{"exitCode":0}}}"#
    );
    assert_eq!(rig.upstream.connections(), 0);
    let ToSupervisor::Tool { call, .. } = rig.told().await else {
        panic!("no call");
    };
    assert_eq!(
        (call.principal.as_str(), call.tool.as_str()),
        ("admin", "bash")
    );
    assert_eq!(call.agent.as_deref(), Some("main"));
    let answer = ask(&rig, "POST /tools/invoke", &[&bearer(READ_KEY)], body).await;
    assert_eq!(answer.status, 403, "read is not enough: {}", answer.body);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_goes_away_cancels_its_tool() {
    let mut rig = Rig::start(Rules::default()).await;
    let body = r#"{"tool":"exec","args":{"command":"hang"}}"#;
    let request = format!(
        "POST /tools/invoke HTTP/1.1\r\nHost: a\r\nX-API-Key: {ADMIN_KEY}\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    let mut stream = TcpStream::connect(rig.address).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let ToSupervisor::Tool { id, .. } = rig.told().await else {
        panic!("no call");
    };
    drop(stream);
    assert!(matches!(rig.told().await, ToSupervisor::Cancel { id: other } if other == id));
}

#[tokio::test(flavor = "multi_thread")]
async fn ambiguous_requests_never_reach_the_upstream() {
    let rig = Rig::start(Rules::default()).await;
    let auth = format!("X-API-Key: {ADMIN_KEY}\r\nConnection: close");
    let rows = [
        (
            "two hosts",
            format!("GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n{auth}\r\n\r\n"),
        ),
        ("no host", format!("GET / HTTP/1.1\r\n{auth}\r\n\r\n")),
        (
            "connect",
            format!("CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\n{auth}\r\n\r\n"),
        ),
        (
            "another authority",
            format!("GET http://b/ HTTP/1.1\r\nHost: a\r\n{auth}\r\n\r\n"),
        ),
        (
            "absolute form",
            format!("GET http://a/ HTTP/1.1\r\nHost: a\r\n{auth}\r\n\r\n"),
        ),
        (
            "bad chunk",
            format!(
                "POST /tools/invoke HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n{auth}\r\n\r\nzz\r\n\r\n"
            ),
        ),
        (
            "chunk over its length",
            format!(
                "POST /tools/invoke HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n{auth}\r\n\r\n1\r\nab\r\n0\r\n\r\n"
            ),
        ),
        (
            "folded header",
            format!("GET / HTTP/1.1\r\nHost: a\r\nX-A: b\r\n c\r\n{auth}\r\n\r\n"),
        ),
        (
            "nul in a header",
            format!("GET / HTTP/1.1\r\nHost: a\r\nX-A: b\0c\r\n{auth}\r\n\r\n"),
        ),
        (
            "nul in the path",
            format!("GET /a\0b HTTP/1.1\r\nHost: a\r\n{auth}\r\n\r\n"),
        ),
        (
            "escaped nul",
            format!("GET /a%00b HTTP/1.1\r\nHost: a\r\n{auth}\r\n\r\n"),
        ),
        (
            "backslash",
            format!("GET /a\\b HTTP/1.1\r\nHost: a\r\n{auth}\r\n\r\n"),
        ),
        (
            "identity",
            format!(
                "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: identity, chunked\r\n{auth}\r\n\r\n0\r\n\r\n"
            ),
        ),
        (
            "gzip",
            format!(
                "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n{auth}\r\n\r\n0\r\n\r\n"
            ),
        ),
        (
            "both lengths",
            format!(
                "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n{auth}\r\n\r\n0\r\n\r\n"
            ),
        ),
        (
            "two lengths",
            format!(
                "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\nContent-Length: 2\r\n{auth}\r\n\r\nab"
            ),
        ),
        (
            "bare line feeds",
            format!(
                "GET / HTTP/1.1\nHost: a\n{}\n\n",
                auth.replace("\r\n", "\n")
            ),
        ),
        (
            "h2c",
            format!(
                "GET / HTTP/1.1\r\nHost: a\r\nUpgrade: h2c\r\nConnection: Upgrade\r\nX-API-Key: {ADMIN_KEY}\r\n\r\n"
            ),
        ),
        (
            "post upgrade",
            format!(
                "POST / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nX-API-Key: {ADMIN_KEY}\r\n\r\n"
            ),
        ),
        (
            "dot segments",
            format!("GET /x/../v1/models HTTP/1.1\r\nHost: a\r\n{auth}\r\n\r\n"),
        ),
        (
            "escaped slash",
            format!("GET /v1%2fmodels HTTP/1.1\r\nHost: a\r\n{auth}\r\n\r\n"),
        ),
        (
            "double slash",
            format!("GET //v1/models HTTP/1.1\r\nHost: a\r\n{auth}\r\n\r\n"),
        ),
        (
            "gateway url",
            format!("GET /?gatewayUrl=wss://evil HTTP/1.1\r\nHost: a\r\n{auth}\r\n\r\n"),
        ),
        (
            "two keys",
            format!("GET / HTTP/1.1\r\nHost: a\r\nX-API-Key: {ADMIN_KEY}\r\n{auth}\r\n\r\n"),
        ),
        (
            "space before colon",
            format!("GET / HTTP/1.1\r\nHost : a\r\n{auth}\r\n\r\n"),
        ),
        ("nonsense", "\u{16}\u{3}\u{1} hello\r\n\r\n".to_owned()),
    ];
    for (name, request) in rows {
        let answer = raw(&rig, &request).await;
        assert_eq!(
            answer.status, 400,
            "{name}: {} {}",
            answer.head, answer.body
        );
        assert_eq!(
            answer.json()["error"]["type"],
            "invalid_request_error",
            "{name}"
        );
        assert!(answer.head.contains("x-request-id: "), "{name}");
    }
    let many = "X-A: b\r\n".repeat(70);
    let long = "b".repeat(70_000);
    let path = "b".repeat(70_000);
    let rows = [
        (
            "many headers",
            format!("GET / HTTP/1.1\r\nHost: a\r\n{many}{auth}\r\n\r\n"),
            431,
        ),
        (
            "a long header",
            format!("GET / HTTP/1.1\r\nHost: a\r\nX-A: {long}\r\n{auth}\r\n\r\n"),
            431,
        ),
        (
            "a long path",
            format!("GET /{path} HTTP/1.1\r\nHost: a\r\n{auth}\r\n\r\n"),
            431,
        ),
    ];
    for (name, request, status) in rows {
        let answer = raw(&rig, &request).await;
        let told = (answer.status, answer.json()["error"]["type"].clone());
        assert_eq!(told, (status, "invalid_request_error".into()), "{name}");
    }
    assert_eq!(rig.upstream.connections(), 0);
    rig.event("request", Outcome::Deny, "request_malformed")
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn over_the_limit_is_429_with_retry_after_and_pages_are_free() {
    let rules = Rules {
        requests: 3,
        ..Rules::default()
    };
    let rig = Rig::start(rules).await;
    let admin = bearer(ADMIN_KEY);
    for _ in 0..3 {
        assert_eq!(ask(&rig, "GET /v1/models", &[&admin], "").await.status, 200);
    }
    let answer = ask(&rig, "GET /v1/models", &[&admin], "").await;
    assert_eq!(answer.status, 429);
    assert!(answer.head.contains("retry-after: 20"), "{}", answer.head);
    assert_eq!(answer.json()["error"]["type"], "rate_limited");
    for _ in 0..5 {
        assert_eq!(
            ask(&rig, "GET /assets/a.js", &[&admin], "").await.status,
            200
        );
    }
    // The key was shown once before it was known.
    for status in [401, 401, 429] {
        let guess = ask(&rig, "GET /assets/a.js", &[&bearer("guess")], "").await;
        assert_eq!(guess.status, status, "guessing on a page is counted");
    }
    rig.event("request", Outcome::Deny, "rate_limited").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn people_and_hosts_are_judged() {
    let rules = Rules {
        hosts: vec!["a.example", "127.0.0.1"],
        ..Rules::default()
    };
    let rig = Rig::start(rules).await;
    let admin = bearer(ADMIN_KEY);
    let rows = [
        ("allowed user", r#"{"user":"+15551234567"}"#, 200),
        ("another user", r#"{"user":"+15550000000"}"#, 403),
    ];
    for (name, body, status) in rows {
        let answer = ask(&rig, "POST /v1/chat/completions", &[&admin], body).await;
        assert_eq!(answer.status, status, "{name}: {}", answer.body);
    }
    let other =
        format!("GET / HTTP/1.1\r\nHost: b.example\r\n{admin}\r\nConnection: close\r\n\r\n");
    assert_eq!(raw(&rig, &other).await.status, 403);
    rig.event("message", Outcome::Deny, "user_not_allowed")
        .await;
    rig.event("request", Outcome::Deny, "host_not_allowed")
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upstream_that_is_away_or_slow_is_told_apart() {
    let deadlines = Deadlines {
        upstream_head: Duration::from_millis(200),
        ..Deadlines::default()
    };
    let mut rig = Rig::start_with(Rules::default(), deadlines).await;
    let admin = bearer(ADMIN_KEY);
    let slow = ask(&rig, "GET /slow", &[&admin], "").await;
    assert_eq!(slow.status, 504, "{}", slow.body);
    // Port 1 of loopback: nobody listens there.
    rig.install(Rules {
        generation: 2,
        upstream_port: Some(1),
        ..Rules::default()
    })
    .await;
    let away = ask(&rig, "GET /", &[&admin], "").await;
    assert_eq!(away.status, 502, "{}", away.body);
    assert!(away.head.contains("x-request-id"));
    rig.event("request", Outcome::Error, "upstream_unreachable")
        .await;
    rig.event("request", Outcome::Error, "upstream_timeout")
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_outside_the_list_gets_no_byte() {
    let rules = Rules {
        allowed: "192.0.2.0/24",
        ..Rules::default()
    };
    let rig = Rig::start(rules).await;
    let mut stream = TcpStream::connect(rig.address).await.unwrap();
    let mut answer = Vec::new();
    let _reset = stream.read_to_end(&mut answer).await;
    assert_eq!(answer, b"");
    let event = rig
        .event("accept", Outcome::Deny, "address_not_allowed")
        .await;
    assert_eq!(event.kind, EventKind::Network);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_ends_the_gateway_with_its_last_word() {
    let mut rig = Rig::start(Rules::default()).await;
    let _idle = TcpStream::connect(rig.address).await.unwrap();
    assert_eq!(
        ask(&rig, "GET /", &[&bearer(ADMIN_KEY)], "").await.status,
        200
    );
    rig.send(ToGateway::Drain { deadline_ms: 1000 }).await;
    assert!(matches!(rig.told().await, ToSupervisor::Drained));
    let ended = tokio::time::timeout(Duration::from_secs(5), &mut rig.gateway).await;
    assert!(ended.unwrap().unwrap().is_ok());
}
