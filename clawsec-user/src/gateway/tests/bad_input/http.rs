//! Requests.

use super::{holds_nothing_of_others, neighbour, refusal_of};
use crate::gateway::tests::http::{from, over};
use crate::gateway::tests::{ADMIN_KEY, READ_KEY, Rig, Rules, WORK_KEY};

/// Name, line, further headers, body, status, type of the error, reason.
type Row = (
    &'static str,
    &'static str,
    &'static str,
    String,
    u16,
    &'static str,
    &'static str,
);

fn http_rows() -> Vec<Row> {
    const MALFORMED: (u16, &str, &str) = (400, "invalid_request_error", "request_malformed");
    let row = |name, line, headers, body: &str, (status, kind, reason)| {
        (name, line, headers, body.to_owned(), status, kind, reason)
    };
    let invoke = "POST /tools/invoke HTTP/1.1";
    let chat = "POST /v1/chat/completions HTTP/1.1";
    let page = "GET / HTTP/1.1";
    vec![
        // Request lines and versions.
        row("no version", "GET /", "", "", MALFORMED),
        row("another version", "GET / HTTP/3.0", "", "", MALFORMED),
        row("a method of nothing", " / HTTP/1.1", "", "", MALFORMED),
        row(
            "a method with a control",
            "G\x01T / HTTP/1.1",
            "",
            "",
            MALFORMED,
        ),
        row("TRACE", "TRACE / HTTP/1.1", "", "", MALFORMED),
        row("CONNECT", "CONNECT a:1 HTTP/1.1", "", "", MALFORMED),
        row(
            "OPTIONS of everything",
            "OPTIONS * HTTP/1.1",
            "",
            "",
            MALFORMED,
        ),
        // Headers.
        row("a name with a space", page, "X A: b\r\n", "", MALFORMED),
        row("no name", page, ": b\r\n", "", MALFORMED),
        row("no colon", page, "nonsense\r\n", "", MALFORMED),
        row("a value with a nul", page, "X-A: \0\r\n", "", MALFORMED),
        row("a folded value", page, "X-A: b\r\n c\r\n", "", MALFORMED),
        row("a second Host", page, "Host: b\r\n", "", MALFORMED),
        row(
            "another Upgrade",
            page,
            "Upgrade: h2c\r\nConnection: Upgrade\r\n",
            "",
            MALFORMED,
        ),
        row("two keys", page, "X-API-Key: other\r\n", "", MALFORMED),
        row(
            "a key twice",
            page,
            "Authorization: Bearer x\r\n",
            "",
            MALFORMED,
        ),
        row(
            "a length that is none",
            invoke,
            "Content-Length: x\r\n",
            "",
            MALFORMED,
        ),
        row(
            "a negative length",
            invoke,
            "Content-Length: -1\r\n",
            "",
            MALFORMED,
        ),
        row(
            "two lengths",
            invoke,
            "Content-Length: 1\r\nContent-Length: 2\r\n",
            "{}",
            MALFORMED,
        ),
        row(
            "both framings",
            invoke,
            "Content-Length: 2\r\nTransfer-Encoding: chunked\r\n",
            "0\r\n\r\n",
            MALFORMED,
        ),
        row(
            "another coding",
            invoke,
            "Transfer-Encoding: gzip, chunked\r\n",
            "0\r\n\r\n",
            MALFORMED,
        ),
        row(
            "a chunk of no size",
            invoke,
            "Transfer-Encoding: chunked\r\n",
            "z\r\n",
            MALFORMED,
        ),
        row(
            "a chunk too long",
            invoke,
            "Transfer-Encoding: chunked\r\n",
            "1\r\nab\r\n0\r\n\r\n",
            MALFORMED,
        ),
        // Paths.
        row("dot segments", "GET /a/../b HTTP/1.1", "", "", MALFORMED),
        row(
            "escaped dots",
            "GET /a/%2e%2E/b HTTP/1.1",
            "",
            "",
            MALFORMED,
        ),
        row("an escaped slash", "GET /a%2Fb HTTP/1.1", "", "", MALFORMED),
        row("escaped twice", "GET /a%252Fb HTTP/1.1", "", "", MALFORMED),
        row("an empty segment", "GET /a//b HTTP/1.1", "", "", MALFORMED),
        row("a backslash", "GET /a\\b HTTP/1.1", "", "", MALFORMED),
        row("parameters", "GET /a;b HTTP/1.1", "", "", MALFORMED),
        row("half an escape", "GET /a%2 HTTP/1.1", "", "", MALFORMED),
        row(
            "an escaped control",
            "GET /a%0d%0ab HTTP/1.1",
            "",
            "",
            MALFORMED,
        ),
        row(
            "an escaped letter",
            "GET /%74ools/invoke HTTP/1.1",
            "",
            "",
            MALFORMED,
        ),
        row(
            "gatewayUrl",
            "GET /?gateway%55rl=wss://x HTTP/1.1",
            "",
            "",
            MALFORMED,
        ),
        row("absolute form", "GET http://a/ HTTP/1.1", "", "", MALFORMED),
        // JSON bodies.
        row("no JSON", invoke, "", "tool=tts", MALFORMED),
        row("half a JSON", invoke, "", "{\"tool\":", MALFORMED),
        row("two JSONs", invoke, "", "{\"tool\":\"tts\"}{}", MALFORMED),
        row("no object", invoke, "", "[]", MALFORMED),
        row("no tool", invoke, "", "{}", MALFORMED),
        row("a tool of no text", invoke, "", "{\"tool\":1}", MALFORMED),
        row(
            "a key twice over",
            invoke,
            "",
            "{\"tool\":\"tts\",\"t\\u006fol\":\"exec\"}",
            MALFORMED,
        ),
        row(
            "two names",
            invoke,
            "",
            "{\"tool\":\"tts\",\"name\":\"exec\"}",
            MALFORMED,
        ),
        row(
            "half a surrogate",
            invoke,
            "",
            "{\"tool\":\"\\ud800\"}",
            MALFORMED,
        ),
        row(
            "nested without end",
            invoke,
            "",
            &"[".repeat(100_000),
            MALFORMED,
        ),
        row(
            "a number beyond",
            invoke,
            "",
            "{\"tool\":\"tts\",\"args\":1e999}",
            MALFORMED,
        ),
        row(
            "two agents",
            chat,
            "x-openclaw-agent-id: a\r\n",
            "{\"model\":\"openclaw/b\"}",
            MALFORMED,
        ),
        row(
            "a session of two readings",
            invoke,
            "",
            "{\"tool\":\"tts\",\"sessionKey\":\"AGENT:a:b\"}",
            MALFORMED,
        ),
        // Too much of something.
        row(
            "many headers",
            page,
            MANY_HEADERS,
            "",
            (431, "invalid_request_error", "request_malformed"),
        ),
        row(
            "a large body",
            "POST /hooks/wake HTTP/1.1",
            "",
            &"x".repeat(257 * 1024),
            (413, "invalid_request_error", "body_too_large"),
        ),
    ]
}

const MANY_HEADERS: &str = "A: b\r\nA: b\r\nA: b\r\nA: b\r\nA: b\r\nA: b\r\nA: b\r\nA: b\r\nA: b\r\nA: b\r\n\
A: b\r\nA: b\r\nA: b\r\nA: b\r\nA: b\r\nA: b\r\nA: b\r\nA: b\r\nA: b\r\nA: b\r\nA: b\r\nA: b\r\nA: b\r\n\
A: b\r\nA: b\r\nA: b\r\nA: b\r\nA: b\r\nA: b\r\nA: b\r\nA: b\r\nA: b\r\nA: b\r\nA: b\r\nA: b\r\nA: b\r\n\
A: b\r\nA: b\r\nA: b\r\nA: b\r\nA: b\r\nA: b\r\nA: b\r\nA: b\r\nA: b\r\nA: b\r\nA: b\r\nA: b\r\nA: b\r\n\
A: b\r\nA: b\r\nA: b\r\nA: b\r\nA: b\r\nA: b\r\nA: b\r\nA: b\r\nA: b\r\nA: b\r\nA: b\r\nA: b\r\nA: b\r\n";

#[tokio::test(flavor = "multi_thread")]
async fn over_http_it_is_answered_in_the_gateways_shape() {
    let rig = Rig::start(Rules {
        keys: vec![ADMIN_KEY, READ_KEY, WORK_KEY],
        ..Rules::default()
    })
    .await;
    assert_eq!(neighbour(&rig).await, 200);
    let before = rig.upstream.requests();
    for (host, (name, line, headers, body, status, kind, reason)) in (1..).zip(http_rows()) {
        let mut request = format!(
            "{line}\r\nHost: a\r\nConnection: close\r\nAuthorization: Bearer {ADMIN_KEY}\r\n{headers}"
        );
        if !headers.contains("Content-Length") && !headers.contains("Transfer") && !body.is_empty()
        {
            request.push_str(&format!("Content-Length: {}\r\n", body.len()));
        }
        request.push_str("\r\n");
        request.push_str(&body);
        let answer = over(from(&rig, host).await, &request).await;
        assert_eq!(
            answer.status, status,
            "{name}: {} {}",
            answer.head, answer.body
        );
        assert_eq!(
            answer.json()["error"]["type"],
            kind,
            "{name}: {}",
            answer.body
        );
        holds_nothing_of_others(name, &answer.body);
        let event = refusal_of(&rig, name, host, reason).await;
        let id = event.request.unwrap_or_default();
        assert!(
            answer.head.contains(&format!("x-request-id: {id}")),
            "{name}: {}",
            answer.head
        );
        assert!(!id.is_empty(), "{name}");
    }
    assert_eq!(rig.upstream.requests(), before, "nothing of it went on");
    assert_eq!(neighbour(&rig).await, 200);
}
