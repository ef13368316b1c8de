//! HTTP/2 from clients: the same policy, streams both ways, and floods that end alone.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use h2::client::SendRequest;
use hyper::{Method, Request};
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

use super::http::from;
use super::tls::{client, connect_over, material};
use super::{ADMIN_KEY, READ_KEY, Rig, Rules};
use crate::event::Outcome;
use crate::gateway::shared::Deadlines;
use crate::ipc::TlsMaterial;

async fn start(deadlines: Deadlines) -> (Rig, TlsMaterial) {
    let tls = material();
    let rules = Rules {
        tls: Some(tls.clone()),
        ..Rules::default()
    };
    (Rig::start_with(rules, deadlines).await, tls)
}

async fn stream(rig: &Rig, tls: &TlsMaterial) -> TlsStream<TcpStream> {
    stream_from(TcpStream::connect(rig.address).await.unwrap(), tls).await
}

async fn stream_from(stream: TcpStream, tls: &TlsMaterial) -> TlsStream<TcpStream> {
    let mut config = client(tls, None);
    config.alpn_protocols = vec![b"h2".to_vec()];
    let stream = connect_over(stream, &Arc::new(config)).await.unwrap();
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
    stream
}

async fn h2(rig: &Rig, tls: &TlsMaterial) -> SendRequest<Bytes> {
    let (sender, connection) = h2::client::handshake(stream(rig, tls).await).await.unwrap();
    tokio::spawn(connection);
    sender
}

/// The status, or 0 where the stream was reset, and the body.
async fn ask(
    sender: &SendRequest<Bytes>,
    request: Request<()>,
    body: &'static str,
) -> (u16, String) {
    let mut sender = sender.clone().ready().await.unwrap();
    let Ok((response, mut send)) = sender.send_request(request, body.is_empty()) else {
        return (0, "refused by the client".into());
    };
    if !body.is_empty() {
        send.send_data(body.into(), true).unwrap();
    }
    let Ok(response) = response.await else {
        return (0, String::new());
    };
    let status = response.status().as_u16();
    let mut stream = response.into_body();
    let mut text = Vec::new();
    while let Some(Ok(chunk)) = stream.data().await {
        stream.flow_control().release_capacity(chunk.len()).unwrap();
        text.extend_from_slice(&chunk);
    }
    (status, String::from_utf8(text).unwrap())
}

fn get(uri: &str, headers: &[(&str, &str)]) -> Request<()> {
    let mut request = Request::builder().uri(uri);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.body(()).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_policy_holds_and_the_upstream_sees_http_1() {
    let (rig, tls) = start(Deadlines::default()).await;
    let sender = h2(&rig, &tls).await;
    let key = ("x-api-key", ADMIN_KEY);
    let cookies = [
        key,
        ("cookie", "a=1"),
        ("cookie", "b=2"),
        ("x-forwarded-for", "6.6.6.6"),
    ];
    let (status, body) = ask(
        &sender,
        get("https://localhost/v1/models?x=1", &cookies),
        "",
    )
    .await;
    assert_eq!(status, 200, "{body}");
    let told: Value = serde_json::from_str(&body).unwrap();
    assert_eq!(told["path"], "/v1/models?x=1");
    assert_eq!(told["headers"]["cookie"], "a=1; b=2");
    assert_eq!(
        told["headers"]["host"],
        format!("127.0.0.1:{}", rig.upstream.port)
    );
    assert!(told["headers"].get("x-forwarded-for").is_none());

    let post = |path: &str, key| {
        let uri = format!("https://localhost{path}");
        Request::post(uri)
            .header("x-api-key", key)
            .body(())
            .unwrap()
    };
    let rows = [
        (
            "denied",
            post("/tools/invoke", ADMIN_KEY),
            r#"{"tool":"browser"}"#,
            404,
        ),
        (
            "read only",
            post("/tools/invoke", READ_KEY),
            r#"{"tool":"agents_list"}"#,
            403,
        ),
        (
            "judged",
            post("/tools/invoke", ADMIN_KEY),
            r#"{"tool":"agents_list"}"#,
            200,
        ),
        (
            "streamed",
            post("/v1/embeddings", ADMIN_KEY),
            r#"{"input":"x"}"#,
            200,
        ),
        ("no key", get("https://localhost/", &[]), "", 401),
    ];
    for (name, request, body, status) in rows {
        let answer = ask(&sender, request, body).await;
        assert_eq!(answer.0, status, "{name}: {}", answer.1);
    }
    rig.event("invoke", Outcome::Deny, "tool_denied").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_early_refusal_does_not_reset_a_body_on_its_way() {
    let (rig, tls) = start(Deadlines::default()).await;
    let sender = h2(&rig, &tls).await;
    let mut request = get("https://a/tools/invoke", &[]);
    *request.method_mut() = Method::POST;
    let mut sender = sender.ready().await.unwrap();
    let (response, mut send) = sender.send_request(request, false).unwrap();
    // The whole answer is here before the first byte of the body is sent.
    let response = response.await.unwrap();
    assert_eq!(response.status(), 401);
    let mut body = response.into_body();
    while let Some(chunk) = body.data().await {
        let chunk = chunk.unwrap();
        body.flow_control().release_capacity(chunk.len()).unwrap();
    }
    send.send_data("{}".into(), false).unwrap();
    // A reset would come before the answer to a ping of a later stream's request.
    assert_eq!(ask(&sender, get("https://a/", &[]), "").await.0, 401);
    send.send_data("{}".into(), true).expect("no reset came");
}

#[tokio::test(flavor = "multi_thread")]
async fn inconsistent_requests_never_reach_the_upstream() {
    let (rig, tls) = start(Deadlines::default()).await;
    let key = ("x-api-key", ADMIN_KEY);
    let many: Vec<(String, &str)> = (0..70).map(|i| (format!("x-{i}"), "1")).collect();
    let mut many: Vec<(&str, &str)> = many.iter().map(|(n, v)| (n.as_str(), *v)).collect();
    many.push(key);
    let connect = Request::builder()
        .method(Method::CONNECT)
        .uri("localhost:443")
        .header("x-api-key", ADMIN_KEY)
        .body(())
        .unwrap();
    // 0: the library resets the stream itself.
    let rows = [
        (
            "another host",
            get("https://localhost/", &[key, ("host", "evil")]),
            &[400][..],
        ),
        (
            "two hosts",
            get(
                "https://localhost/",
                &[key, ("host", "localhost"), ("host", "localhost")],
            ),
            &[400],
        ),
        ("no https", get("http://localhost/", &[key]), &[400]),
        (
            "user in the authority",
            get("https://u@localhost/", &[key]),
            &[0, 400],
        ),
        (
            "dot segments",
            get("https://localhost/x/../y", &[key]),
            &[400],
        ),
        (
            "escaped slash",
            get("https://localhost/v1%2fmodels", &[key]),
            &[400],
        ),
        (
            "gateway url",
            get("https://localhost/?gatewayUrl=x", &[key]),
            &[400],
        ),
        (
            "te",
            get("https://localhost/", &[key, ("te", "gzip")]),
            &[0, 400],
        ),
        ("connect", connect, &[400]),
        ("many headers", get("https://localhost/", &many), &[431]),
    ];
    let sender = h2(&rig, &tls).await;
    for (name, request, statuses) in rows {
        let answer = ask(&sender, request, "").await;
        assert!(statuses.contains(&answer.0), "{name}: {answer:?}");
    }
    assert_eq!(rig.upstream.connections(), 0);
    rig.event("request", Outcome::Deny, "request_malformed")
        .await;
}

/// A frame: 24 bits of length, type, flags, stream.
fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let mut frame = length[1..].to_vec();
    frame.extend_from_slice(&[kind, flags]);
    frame.extend_from_slice(&stream.to_be_bytes());
    frame.extend_from_slice(payload);
    frame
}

/// `GET https://localhost/` by HPACK's static table, with a literal authority.
fn head() -> Vec<u8> {
    let mut head = vec![0x82, 0x87, 0x84, 0x41, 9];
    head.extend_from_slice(b"localhost");
    head
}

const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const CONTINUATION: u8 = 9;
/// `ENHANCE_YOUR_CALM`.
const CALM: u8 = 11;
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

fn streams() -> impl Iterator<Item = u32> {
    (1..).step_by(2)
}

#[tokio::test(flavor = "multi_thread")]
async fn floods_end_their_own_connection_and_no_other() {
    let (rig, tls) = start(Deadlines::default()).await;
    let neighbour = h2(&rig, &tls).await;
    let resets: Vec<u8> = streams()
        .take(5000)
        .flat_map(|id| {
            [
                frame(HEADERS, 5, id, &head()),
                frame(RST_STREAM, 0, id, &[0, 0, 0, 8]),
            ]
        })
        .flatten()
        .collect();
    let mut continuations = frame(HEADERS, 1, 1, &head());
    for _ in 0..5000 {
        // A literal header that is never indexed, the same over and over.
        continuations.extend(frame(
            CONTINUATION,
            0,
            1,
            b"\x10\x01a\x40aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
        ));
    }
    let empty: Vec<u8> = std::iter::once(frame(HEADERS, 1, 1, &head()))
        .chain((0..20_000).map(|_| frame(CONTINUATION, 0, 1, b"")))
        .flatten()
        .collect();
    let opened: Vec<u8> = streams()
        .take(2000)
        .flat_map(|id| frame(HEADERS, 4, id, &head()))
        .collect();
    let settings: Vec<u8> = (0..20_000)
        .flat_map(|_| frame(SETTINGS, 0, 0, b""))
        .collect();
    let pings: Vec<u8> = (0..20_000)
        .flat_map(|_| frame(PING, 0, 0, b"12345678"))
        .collect();
    let named = frame(HEADERS, 5, 1, &[&head()[..], b"\x10\x01A\x01b"].concat());
    let large = [b"\x10\x01a\x7f\x81\x7c", &[b'b'; 16_000][..]].concat();
    let large: Vec<u8> = [
        frame(HEADERS, 1, 1, &head()),
        frame(CONTINUATION, 0, 1, &large),
    ]
    .into_iter()
    .chain((0..2).map(|_| frame(CONTINUATION, 0, 1, &large)))
    .chain([frame(CONTINUATION, 4, 1, b"")])
    .flatten()
    .collect();
    // The code of the GOAWAY that ends the connection, and the record's reason.
    let rows = [
        ("rapid reset", resets, Some(CALM), "http2_flood"),
        ("continuations", continuations, Some(CALM), "http2_flood"),
        ("empty continuations", empty, Some(CALM), "http2_flood"),
        ("settings", settings, Some(CALM), "http2_flood"),
        ("pings", pings, Some(CALM), "http2_flood"),
        ("no frames", b"\xff".repeat(64), Some(6), "http2_protocol"),
        (
            "no headers",
            frame(HEADERS, 5, 1, b"\xff\xff\xff"),
            Some(1),
            "http2_protocol",
        ),
        ("a name in capitals", named, None, "http2_protocol"),
        ("a large head", large, None, "http2_head_too_large"),
        ("streams over the limit", opened, None, "http2_streams"),
    ];
    for (number, (name, bytes, code, reason)) in (1..).zip(rows) {
        let connected = stream_from(from(&rig, number).await, &tls).await;
        let (mut reader, mut writer) = tokio::io::split(connected);
        let flood = tokio::spawn(async move {
            writer.write_all(PREFACE).await?;
            writer.write_all(&frame(SETTINGS, 0, 0, b"")).await?;
            writer.write_all(&bytes).await?;
            writer.flush().await?;
            // Held open by the caller, who decides how this ends.
            Ok::<_, std::io::Error>(writer)
        });
        let mut said = Vec::new();
        if code.is_some() {
            let ended =
                tokio::time::timeout(Duration::from_secs(10), reader.read_to_end(&mut said));
            assert!(ended.await.is_ok(), "{name}: still open");
            assert_eq!(goodbye(&said), code, "{name}");
        }
        let source = IpAddr::from([127, 0, 7, number]);
        let event = rig.event_of("http2", reason, source).await;
        assert_eq!(event.outcome, Outcome::Deny, "{name}");
        let answer = ask(
            &neighbour,
            get("https://localhost/", &[("x-api-key", ADMIN_KEY)]),
            "",
        )
        .await;
        assert_eq!(answer.0, 200, "{name}: the neighbour");
        flood.abort();
    }
    // The few that every connection's end may have done, and the neighbour's.
    assert!(rig.upstream.requests() < 200, "{}", rig.upstream.requests());
}

/// The code of the last GOAWAY in what a server said.
fn goodbye(mut said: &[u8]) -> Option<u8> {
    let mut code = None;
    while let Some((head, rest)) = said.split_at_checked(9) {
        let length = usize::from(head[0]) << 16 | usize::from(head[1]) << 8 | usize::from(head[2]);
        let Some((payload, rest)) = rest.split_at_checked(length) else {
            return code;
        };
        if head[3] == GOAWAY {
            code = Some(payload[7]);
        }
        said = rest;
    }
    code
}

#[tokio::test(flavor = "multi_thread")]
async fn idle_and_stalled_connections_are_ended() {
    let deadlines = Deadlines {
        head: Duration::from_millis(300),
        stall: Duration::from_millis(300),
        ..Deadlines::default()
    };
    let (rig, tls) = start(deadlines).await;
    let mut silent = stream(&rig, &tls).await;
    silent.write_all(PREFACE).await.unwrap();
    silent.write_all(&frame(SETTINGS, 0, 0, b"")).await.unwrap();
    let mut rest = Vec::new();
    let ended = tokio::time::timeout(Duration::from_secs(10), silent.read_to_end(&mut rest));
    assert!(ended.await.is_ok(), "nothing was asked");

    // A window of nothing: the answer can never be sent.
    let (mut sender, mut connection) = h2::client::Builder::new()
        .initial_window_size(0)
        .handshake::<_, Bytes>(stream(&rig, &tls).await)
        .await
        .unwrap();
    let mut ping = connection.ping_pong().unwrap();
    let connection = tokio::spawn(connection);
    let request = get("https://localhost/", &[("x-api-key", ADMIN_KEY)]);
    let (_response, _send) = sender.send_request(request, true).unwrap();
    let pings = async { while ping.ping(h2::Ping::opaque()).await.is_ok() {} };
    let ended = tokio::time::timeout(Duration::from_secs(10), pings).await;
    assert!(ended.is_ok(), "pings do not keep what takes no answer");
    connection.abort();
    rig.event("request", Outcome::Deny, "too_slow").await;
}
