//! HTTP/2 by hand-made frames: floods, resets and stalls end their own connection and no other.

use std::net::IpAddr;
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::ADMIN_KEY;
use super::http::from;
use super::http2::{ask, get, h2, start, stream, stream_from};
use crate::event::Outcome;
use crate::gateway::shared::Deadlines;

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
