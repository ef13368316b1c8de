//! WebSocket frames and the requests in them.

use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::{holds_nothing_of_others, refusal_of};
use crate::gateway::tests::http::from;
use crate::gateway::tests::{ADMIN_KEY, READ_KEY, Rig, Rules, WORK_KEY};

/// Name, the key that is connected with, what is said, the close code, the reason.
type FrameRow = (
    &'static str,
    Option<&'static str>,
    Vec<u8>,
    u16,
    &'static str,
);

/// A frame of a client's, its head as it is told.
fn frame(first: u8, is_masked: bool, payload: &[u8]) -> Vec<u8> {
    let mask = if is_masked { 0x80 } else { 0 };
    let mut frame = vec![first];
    if let Ok(length @ 0..126) = u8::try_from(payload.len()) {
        frame.push(mask | length);
    } else {
        // Two bytes of length follow.
        frame.push(mask | 0x7e);
        frame.extend_from_slice(&u16::try_from(payload.len()).unwrap().to_be_bytes());
    }
    if is_masked {
        // A mask of nothing: the payload as it is.
        frame.extend_from_slice(&[0; 4]);
    }
    frame.extend_from_slice(payload);
    frame
}

/// The head of a text that is so long.
fn announced(length: u64) -> Vec<u8> {
    [&[0x81, 0xff][..], &length.to_be_bytes(), &[0; 4]].concat()
}

fn text(payload: &str) -> Vec<u8> {
    frame(0x81, true, payload.as_bytes())
}

/// Reads frames until the server closes; the texts, and the code.
async fn rest(stream: &mut TcpStream, until: &str) -> (String, Option<u16>) {
    let mut texts = String::new();
    let reading = async {
        loop {
            let mut head = [0; 2];
            if stream.read_exact(&mut head).await.is_err() {
                return None;
            }
            let length = match head[1] {
                126 => usize::from(stream.read_u16().await.unwrap()),
                127 => usize::try_from(stream.read_u64().await.unwrap()).unwrap(),
                length => usize::from(length),
            };
            let mut payload = vec![0; length];
            stream.read_exact(&mut payload).await.unwrap();
            if head[0] == 0x88 {
                return payload.first_chunk().map(|code| u16::from_be_bytes(*code));
            }
            texts.push_str(&String::from_utf8_lossy(&payload));
            if texts.contains(until) {
                return None;
            }
        }
    };
    let read = tokio::time::timeout(Duration::from_secs(10), reading).await;
    let code = read.unwrap_or_else(|_| panic!("still open"));
    (texts, code)
}

/// Upgrades, and connects with a key if there is one.
async fn upgraded(rig: &Rig, host: u8, key: Option<&str>) -> TcpStream {
    let mut stream = from(rig, host).await;
    let request = "GET / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
                   Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n";
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.unwrap());
    }
    assert!(
        head.starts_with(b"HTTP/1.1 101"),
        "{}",
        String::from_utf8_lossy(&head)
    );
    rest(&mut stream, "connect.challenge").await;
    if let Some(key) = key {
        let connect = serde_json::json!({"type": "req", "id": "c", "method": "connect", "params": {
            "minProtocol": 3, "maxProtocol": 4, "role": "operator", "scopes": ["operator.admin"],
            "client": {"id": "cli", "version": "1", "platform": "linux", "mode": "cli"},
            "auth": {"token": key},
        }});
        stream.write_all(&text(&connect.to_string())).await.unwrap();
        rest(&mut stream, "hello-ok").await;
    }
    stream
}

#[tokio::test(flavor = "multi_thread")]
async fn over_websocket_it_is_answered_or_closed_with_its_code() {
    let rig = Rig::start(Rules {
        keys: vec![ADMIN_KEY, READ_KEY, WORK_KEY],
        ..Rules::default()
    })
    .await;
    let key = Some(ADMIN_KEY);
    let rows: Vec<FrameRow> = vec![
        (
            "no JSON first",
            None,
            text("nonsense"),
            1008,
            "handshake_invalid",
        ),
        (
            "another method first",
            None,
            text(r#"{"type":"req","id":"1","method":"health"}"#),
            1008,
            "handshake_invalid",
        ),
        (
            "no client",
            None,
            text(r#"{"type":"req","id":"1","method":"connect","params":{}}"#),
            1008,
            "handshake_invalid",
        ),
        (
            "a first frame of a megabyte",
            None,
            announced(1 << 20),
            1009,
            "handshake_invalid",
        ),
        (
            "a wrong key",
            None,
            text(
                r#"{"type":"req","id":"1","method":"connect","params":{"client":{"id":"cli","mode":"cli"},"auth":{"token":"wrong"}}}"#,
            ),
            1008,
            "credential_unknown",
        ),
        ("no JSON", key, text("nonsense"), 1008, "request_malformed"),
        (
            "half a JSON",
            key,
            text(r#"{"type":"req","#),
            1008,
            "request_malformed",
        ),
        ("a list", key, text("[]"), 1008, "request_malformed"),
        (
            "a key twice",
            key,
            text(r#"{"type":"req","id":"1","method":"health","m\u0065thod":"x"}"#),
            1008,
            "request_malformed",
        ),
        (
            "no id",
            key,
            text(r#"{"type":"req","method":"health"}"#),
            1008,
            "request_malformed",
        ),
        (
            "a method of no text",
            key,
            text(r#"{"type":"req","id":"1","method":7}"#),
            1008,
            "request_malformed",
        ),
        (
            "a method of no name",
            key,
            text(r#"{"type":"req","id":"1","method":""}"#),
            1008,
            "request_malformed",
        ),
        (
            "an id of no name",
            key,
            text(r#"{"type":"req","id":"","method":"health"}"#),
            1008,
            "request_malformed",
        ),
        (
            "an answer",
            key,
            text(r#"{"type":"res","id":"1","ok":true}"#),
            1008,
            "request_malformed",
        ),
        (
            "nested without end",
            key,
            text(&"[".repeat(60_000)),
            1008,
            "request_malformed",
        ),
        (
            "binary",
            key,
            frame(0x82, true, b"\x01\x02"),
            1003,
            "request_malformed",
        ),
        (
            "no UTF-8",
            key,
            frame(0x81, true, b"\xff\xfe"),
            1007,
            "request_malformed",
        ),
        (
            "no mask",
            key,
            frame(0x81, false, b"{}"),
            1002,
            "request_malformed",
        ),
        (
            "a reserved bit",
            key,
            frame(0xc1, true, b"{}"),
            1002,
            "request_malformed",
        ),
        (
            "a reserved opcode",
            key,
            frame(0x83, true, b"{}"),
            1002,
            "request_malformed",
        ),
        (
            "a continuation of nothing",
            key,
            frame(0x80, true, b"{}"),
            1002,
            "request_malformed",
        ),
        (
            "a control frame in parts",
            key,
            frame(0x09, true, b"x"),
            1002,
            "request_malformed",
        ),
        (
            "a long control frame",
            key,
            frame(0x89, true, &[b'x'; 126]),
            1002,
            "request_malformed",
        ),
        (
            "a frame over the limit",
            key,
            announced(26 << 20),
            1009,
            "request_malformed",
        ),
        (
            "a close of one byte",
            key,
            frame(0x88, true, b"\x03"),
            1002,
            "request_malformed",
        ),
    ];
    for (host, (name, key, said, expected, reason)) in (1..).zip(rows) {
        let mut stream = upgraded(&rig, host, key).await;
        let asked = rig.upstream.frames.lock().unwrap().len();
        stream.write_all(&said).await.unwrap();
        let (texts, code) = rest(&mut stream, "no such text").await;
        assert_eq!(code, Some(expected), "{name}: {texts}");
        holds_nothing_of_others(name, &texts);
        refusal_of(&rig, name, host, reason).await;
        assert_eq!(
            rig.upstream.frames.lock().unwrap().len(),
            asked,
            "{name}: it went on"
        );
    }

    // What is a request is answered, and the connection lives.
    let rows = [
        (
            "no such agent",
            r#"{"type":"req","id":"7","method":"agent","params":{"agentId":"a","sessionKey":"agent:b:c"}}"#,
            "invalid agent params",
            "request_malformed",
        ),
        (
            "a tool twice",
            r#"{"type":"req","id":"7","method":"tools.invoke","params":{"name":"tts","tool":"exec"}}"#,
            "two fields name the tool",
            "request_malformed",
        ),
        (
            "a denied tool",
            r#"{"type":"req","id":"7","method":"tools.invoke","params":{"name":" BROWSER "}}"#,
            "Tool not available: BROWSER",
            "tool_denied",
        ),
        (
            "a node's method",
            r#"{"type":"req","id":"7","method":"node.event","params":{}}"#,
            "unauthorized role: operator",
            "method_not_allowed",
        ),
        (
            "another user",
            r#"{"type":"req","id":"7","method":"agent","params":{"to":"+19999999999"}}"#,
            "user not allowed",
            "user_not_allowed",
        ),
        (
            "a second connect",
            r#"{"type":"req","id":"7","method":"connect","params":{}}"#,
            "connect is only valid as the first request",
            "handshake_invalid",
        ),
    ];
    for (host, (name, said, message, reason)) in (101..).zip(rows) {
        let mut stream = upgraded(&rig, host, key).await;
        let asked = rig.upstream.frames.lock().unwrap().len();
        stream.write_all(&text(said)).await.unwrap();
        let (answer, code) = rest(&mut stream, "}}").await;
        assert_eq!(code, None, "{name}: {answer}");
        let answer: serde_json::Value = serde_json::from_str(&answer).unwrap();
        let told = (&answer["type"], &answer["id"], &answer["ok"]);
        assert_eq!(
            told,
            (&"res".into(), &"7".into(), &false.into()),
            "{name}: {answer}"
        );
        assert_eq!(answer["error"]["code"], "INVALID_REQUEST", "{name}");
        let said = answer["error"]["message"].as_str().unwrap();
        assert!(said.contains(message), "{name}: {said}");
        holds_nothing_of_others(name, &answer.to_string());
        refusal_of(&rig, name, host, reason).await;
        assert_eq!(
            rig.upstream.frames.lock().unwrap().len(),
            asked,
            "{name}: it went on"
        );
        let health = text(r#"{"type":"req","id":"8","method":"health","params":{}}"#);
        stream.write_all(&health).await.unwrap();
        rest(&mut stream, r#""did":"health""#).await;
    }
}
