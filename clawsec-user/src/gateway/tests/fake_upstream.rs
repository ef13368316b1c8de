//! A stand-in for the gateway behind: it tells what it was sent.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock, Mutex};
use std::time::Duration;

use aws_lc_rs::signature::{ED25519, UnparsedPublicKey};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use fastwebsockets::{FragmentCollector, Frame, OpCode, Payload, upgrade};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::upgrade::Upgraded;
use hyper::{Request, Response, header};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::TcpListener;

/// One for everybody who asks.
static LARGE: LazyLock<Bytes> = LazyLock::new(|| vec![b'x'; 16 * 1024 * 1024].into());
const NONCE: &str = "upstream-nonce";

pub(in crate::gateway) struct FakeUpstream {
    pub(in crate::gateway) port: u16,
    /// Connections ever made to it: none means not a byte was sent.
    pub(in crate::gateway) connections: Arc<AtomicUsize>,
    /// Requests over all of them.
    requests: Arc<AtomicUsize>,
    /// Every `connect` and every later frame, as they came.
    pub(in crate::gateway) frames: Arc<Mutex<Vec<Value>>>,
    /// Headers of the last WebSocket upgrade.
    pub(in crate::gateway) upgrade: Arc<Mutex<Value>>,
    /// How it treats a connection of clawsec's own.
    pub(in crate::gateway) script: Arc<Mutex<Script>>,
}

/// What a connection of clawsec's own is told.
#[derive(Debug, Clone, Default)]
pub(in crate::gateway) struct Script {
    /// The error that answers its `sessions.subscribe`.
    pub(in crate::gateway) unsubscribed: Option<Value>,
    /// The error that answers its `connect`.
    pub(in crate::gateway) refusal: Option<Value>,
    /// Of the hello; 3 if left out.
    pub(in crate::gateway) protocol: Option<u64>,
    /// Events, sent after the hello.
    pub(in crate::gateway) events: Vec<Value>,
    /// Events, sent after the first answer of a node's.
    pub(in crate::gateway) then: Vec<Value>,
    /// Close after them.
    pub(in crate::gateway) closes: bool,
    /// Nodes that wait for approval.
    pub(in crate::gateway) pending: Vec<Value>,
}

impl FakeUpstream {
    pub(in crate::gateway) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let upstream = Self {
            port: listener.local_addr().unwrap().port(),
            connections: Arc::default(),
            requests: Arc::default(),
            frames: Arc::default(),
            upgrade: Arc::default(),
            script: Arc::default(),
        };
        let connections = Arc::clone(&upstream.connections);
        let requests = Arc::clone(&upstream.requests);
        let frames = Arc::clone(&upstream.frames);
        let upgrade = Arc::clone(&upstream.upgrade);
        let script = Arc::clone(&upstream.script);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                connections.fetch_add(1, Ordering::SeqCst);
                let frames = Arc::clone(&frames);
                let upgrade = Arc::clone(&upgrade);
                let script = Arc::clone(&script);
                let requests = Arc::clone(&requests);
                let service = service_fn(move |request| {
                    requests.fetch_add(1, Ordering::SeqCst);
                    let script = Arc::clone(&script);
                    answer(request, Arc::clone(&frames), Arc::clone(&upgrade), script)
                });
                tokio::spawn(
                    http1::Builder::new()
                        .serve_connection(TokioIo::new(stream), service)
                        .with_upgrades(),
                );
            }
        });
        upstream
    }

    pub(in crate::gateway) fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }

    pub(in crate::gateway) fn requests(&self) -> usize {
        self.requests.load(Ordering::SeqCst)
    }
}

async fn answer(
    mut request: Request<Incoming>,
    frames: Arc<Mutex<Vec<Value>>>,
    last_upgrade: Arc<Mutex<Value>>,
    script: Arc<Mutex<Script>>,
) -> Result<Response<Full<Bytes>>, hyper::Error> {
    let headers: serde_json::Map<String, Value> = request
        .headers()
        .iter()
        .map(|(name, value)| (name.to_string(), value.to_str().unwrap().into()))
        .collect();
    if upgrade::is_upgrade_request(&request) {
        *last_upgrade.lock().unwrap() = headers.into();
        let is_reload = request.uri().path() == "/__clawdbot/ws";
        let (response, socket) = upgrade::upgrade(&mut request).unwrap();
        tokio::spawn(async move {
            let mut socket = FragmentCollector::new(socket.await.unwrap());
            if is_reload {
                return reload(&mut socket, &frames).await;
            }
            serve(socket, frames, script).await;
        });
        return Ok(response.map(|_| Full::default()));
    }
    if request.uri().path() == "/slow" {
        tokio::time::sleep(Duration::from_mins(1)).await;
    }
    if request.uri().path() == "/large" {
        return Ok(Response::new(Full::new(LARGE.clone())));
    }
    if request.uri().path().ends_with("/x.html") {
        let page = r#"<script>new WebSocket("wss://" + location.host + "/__clawdbot/ws")</script>"#;
        let response = Response::builder().header(header::CONTENT_TYPE, "text/html; charset=utf-8");
        return Ok(response.body(Full::new(page.into())).unwrap());
    }
    let path = request.uri().to_string();
    let method = request.method().to_string();
    let body = request.into_body().collect().await?.to_bytes();
    let told = json!({
        "method": method, "path": path, "headers": headers,
        "body": String::from_utf8_lossy(&body),
    });
    Ok(Response::builder()
        .header(header::CONNECTION, "keep-alive, x-secret-hop")
        .header("x-secret-hop", "1")
        .body(Full::new(told.to_string().into()))
        .unwrap())
}

type Socket = FragmentCollector<TokioIo<Upgraded>>;

async fn send(socket: &mut Socket, frame: &Value) {
    let text = frame.to_string().into_bytes();
    socket
        .write_frame(Frame::text(Payload::Owned(text)))
        .await
        .unwrap();
}

/// The canvas' live reload: its word, and another that nobody knows.
async fn reload(socket: &mut Socket, frames: &Mutex<Vec<Value>>) {
    for word in ["secret", "reload"] {
        let word = Payload::Borrowed(word.as_bytes());
        socket.write_frame(Frame::text(word)).await.unwrap();
    }
    while let Ok(frame) = socket.read_frame().await {
        if frame.opcode == OpCode::Text {
            frames.lock().unwrap().push(json!("heard"));
        }
    }
}

/// Challenge, `connect`, hello, then an echo of every request.
async fn serve(mut socket: Socket, frames: Arc<Mutex<Vec<Value>>>, script: Arc<Mutex<Script>>) {
    let challenge = json!({"type": "event", "event": "connect.challenge", "payload": {"nonce": NONCE, "ts": 1}});
    send(&mut socket, &challenge).await;
    while let Ok(frame) = socket.read_frame().await {
        if frame.opcode != OpCode::Text {
            continue;
        }
        let frame: Value = serde_json::from_slice(&frame.payload).unwrap();
        frames.lock().unwrap().push(frame.clone());
        let id = &frame["id"];
        match frame["method"].as_str().unwrap_or_default() {
            "connect" => {
                assert!(signature_is_good(&frame["params"]), "{frame}");
                let is_own = frame["params"]["client"]["displayName"] == "clawsec";
                let mut script = if is_own {
                    script.lock().unwrap().clone()
                } else {
                    Script::default()
                };
                if frame["params"]["scopes"] == json!(["operator.read", "operator.pairing"]) {
                    script.events.clear();
                }
                if let Some(error) = script.refusal {
                    let no = json!({"type": "res", "id": id, "ok": false, "error": error});
                    send(&mut socket, &no).await;
                    let close = Frame::close(1008, b"no");
                    socket.write_frame(close).await.unwrap();
                    continue;
                }
                let protocol = script.protocol.unwrap_or(3);
                let hello = json!({"type": "res", "id": id, "ok": true, "payload": {
                    "type": "hello-ok", "protocol": protocol,
                    "auth": {"deviceToken": "secret", "role": "operator"},
                }});
                send(&mut socket, &hello).await;
                for event in &script.events {
                    send(&mut socket, event).await;
                }
                if script.closes {
                    let close = Frame::close(1012, b"restart");
                    socket.write_frame(close).await.unwrap();
                }
            }
            "status" => {
                let close = Frame::close(1013, b"starting");
                socket.write_frame(close).await.unwrap();
            }
            "node.invoke.result" => {
                let then = std::mem::take(&mut script.lock().unwrap().then);
                for event in &then {
                    send(&mut socket, event).await;
                }
            }
            "sessions.subscribe" => {
                let answer = match script.lock().unwrap().unsubscribed.clone() {
                    None => json!({"type": "res", "id": id, "ok": true, "payload": {}}),
                    Some(error) => json!({"type": "res", "id": id, "ok": false, "error": error}),
                };
                send(&mut socket, &answer).await;
            }
            "node.pair.list" => {
                let pending = script.lock().unwrap().pending.clone();
                let list =
                    json!({"type": "res", "id": id, "ok": true, "payload": {"pending": pending}});
                send(&mut socket, &list).await;
            }
            method => {
                let echo = json!({"type": "res", "id": id, "ok": true, "payload": {"did": method}});
                send(&mut socket, &echo).await;
            }
        }
    }
}

/// Verifies a v2 device signature by itself, not by the code under test.
fn signature_is_good(params: &Value) -> bool {
    let device = &params["device"];
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let scopes: Vec<String> = params["scopes"]
        .as_array()
        .unwrap()
        .iter()
        .map(text)
        .collect();
    let signed = [
        "v2".to_owned(),
        text(&device["id"]),
        text(&params["client"]["id"]),
        text(&params["client"]["mode"]),
        text(&params["role"]),
        scopes.join(","),
        device["signedAt"].to_string(),
        text(&params["auth"]["token"]),
        NONCE.to_owned(),
    ]
    .join("|");
    let decode = |value: &Value| URL_SAFE_NO_PAD.decode(text(value)).unwrap();
    UnparsedPublicKey::new(&ED25519, decode(&device["publicKey"]))
        .verify(signed.as_bytes(), &decode(&device["signature"]))
        .is_ok()
}
