//! The canvas and its live reload, and what a page's WebSocket says of its origin.

use bytes::Bytes;
use fastwebsockets::{FragmentCollector, Frame, OpCode, Payload, WebSocketError, handshake};
use http_body_util::Empty;
use hyper::Request;
use hyper::upgrade::Upgraded;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpStream;

use super::http::{ask, bearer};
use super::ui::{HTML, header, signed_in};
use super::{ADMIN_KEY, READ_KEY, Rig, Rules, WORK_KEY};
use crate::event::Outcome;

type Socket = FragmentCollector<TokioIo<Upgraded>>;

async fn live_reload(
    rig: &Rig,
    path: &str,
    headers: &[(&str, &str)],
) -> Result<Socket, WebSocketError> {
    let stream = TcpStream::connect(rig.address).await.unwrap();
    let mut request = Request::get(path)
        .header("Host", rig.address.to_string())
        .header("Upgrade", "websocket")
        .header("Connection", "upgrade")
        .header("Sec-WebSocket-Key", handshake::generate_key())
        .header("Sec-WebSocket-Version", "13");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let request = request.body(Empty::<Bytes>::new()).unwrap();
    let opened = handshake::client(&TokioExecutor::new(), request, stream).await;
    opened.map(|(socket, _)| FragmentCollector::new(socket))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_canvas_has_a_place_of_its_own() {
    let mut rig = Rig::start(Rules {
        keys: vec![ADMIN_KEY, READ_KEY, WORK_KEY],
        ..Rules::default()
    })
    .await;
    let canvas = "/__clawdbot__/canvas/x.html";
    let get = format!("GET {canvas}?a=1");
    assert_eq!(ask(&rig, &get, &[HTML], "").await.status, 401);
    let cookie = signed_in(&rig, READ_KEY).await;
    let moved = ask(&rig, &get, &[HTML, &cookie], "").await;
    assert_eq!(moved.status, 302, "{}", moved.head);
    let place = header(&moved, "location").to_owned();
    assert!(
        place.ends_with("/__clawdbot__/canvas/x.html?a=1"),
        "{place}"
    );
    let (seat, _) = place.split_once("/__clawdbot__").unwrap();

    let page = ask(&rig, &format!("GET {place}"), &[HTML], "").await;
    assert_eq!(page.status, 200, "{}", page.body);
    assert!(
        page.head
            .contains("content-security-policy: sandbox allow-scripts"),
        "{}",
        page.head
    );
    assert!(
        page.body.contains(&format!("\"{seat}/__clawdbot/ws\"")),
        "{}",
        page.body
    );
    let part = ask(
        &rig,
        &format!("GET {seat}/__clawdbot__/canvas/data.json"),
        &[],
        "",
    )
    .await;
    assert_eq!(part.json()["path"], "/__clawdbot__/canvas/data.json");
    assert_eq!(header(&part, "access-control-allow-origin"), "*");
    let direct = ask(&rig, &get, &[&bearer(READ_KEY)], "").await;
    assert_eq!(direct.status, 200, "with a key in a header");
    assert_eq!(header(&direct, "access-control-allow-origin"), "");
    // It opens nothing else.
    for line in [
        format!("GET {seat}/v1/models"),
        format!("GET {seat}/"),
        format!("POST {seat}/__clawdbot__/canvas/x"),
        format!(
            "GET {}/__clawdbot__/canvas/x",
            seat.replace("reader", "admin")
        ),
    ] {
        let body = if line.starts_with("POST") { "{}" } else { "" };
        let denied = ask(&rig, &line, &[], body).await;
        assert!(
            matches!(denied.status, 401 | 404),
            "{line}: {}",
            denied.status
        );
    }
    for event in rig.seen("request", "ok") {
        let detail = event.detail.unwrap_or_default();
        assert!(
            !detail.contains("__clawsec"),
            "a seal in a record: {detail}"
        );
    }
    // The canvas is the default agent's.
    let work = signed_in(&rig, WORK_KEY).await;
    let moved = ask(&rig, &get, &[HTML, &work], "").await;
    let place = header(&moved, "location").to_owned();
    assert_eq!(
        ask(&rig, &format!("GET {place}"), &[], "").await.status,
        403
    );

    // Live reload: from the page without origin, with its seal.
    let ws = format!("{seat}/__clawdbot/ws");
    for (path, headers) in [
        ("/__clawdbot/ws", vec![("Origin", "null")]),
        ("/__clawdbot/ws", vec![]),
        (ws.as_str(), vec![("Origin", "https://evil.example")]),
    ] {
        assert!(
            live_reload(&rig, path, &headers).await.is_err(),
            "{path} {headers:?}"
        );
    }
    let mut socket = live_reload(&rig, &ws, &[("Origin", "null")]).await.unwrap();
    let frame = socket.read_frame().await.unwrap();
    assert_eq!(&*frame.payload, b"reload", "and no other word");
    let said = Frame::text(Payload::Borrowed(b"let me in"));
    socket.write_frame(said).await.unwrap();
    rig.install(Rules {
        generation: 2,
        keys: vec![ADMIN_KEY],
        ..Rules::default()
    })
    .await;
    let frame = socket.read_frame().await.unwrap();
    assert_eq!(
        (frame.opcode, &frame.payload[..2]),
        (OpCode::Close, &1008_u16.to_be_bytes()[..])
    );
    rig.event("revoke", Outcome::Deny, "credential_expired")
        .await;
    assert!(
        rig.upstream.frames.lock().unwrap().is_empty(),
        "nothing of the client's goes on"
    );
}

/// openclaw takes its Control UI from pages of its own host only.
#[tokio::test(flavor = "multi_thread")]
async fn a_page_comes_to_the_upstream_as_one_of_its_own() {
    let rig = Rig::start(Rules::default()).await;
    let own = format!("http://{}", rig.address);
    let upstream = format!("http://127.0.0.1:{}", rig.upstream.port);
    for (headers, expected) in [
        (vec![("Origin", own.as_str())], serde_json::json!(upstream)),
        (vec![], serde_json::Value::Null),
    ] {
        let mut socket = live_reload(&rig, "/", &headers).await.unwrap();
        socket.read_frame().await.unwrap();
        let connect = serde_json::json!({"type": "req", "id": "1", "method": "connect", "params": {
            "minProtocol": 3, "maxProtocol": 4, "role": "operator", "scopes": ["operator.read"],
            "client": {"id": "cli", "version": "1", "platform": "linux", "mode": "cli"},
            "auth": {"token": READ_KEY}}})
        .to_string();
        let connect = Frame::text(Payload::Owned(connect.into_bytes()));
        socket.write_frame(connect).await.unwrap();
        socket.read_frame().await.unwrap();
        assert_eq!(rig.upstream.upgrade.lock().unwrap()["origin"], expected);
    }
}
