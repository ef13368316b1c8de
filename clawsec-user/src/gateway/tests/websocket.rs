//! WebSocket through the whole gateway.

use std::time::Duration;

use aws_lc_rs::digest;
use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair as _};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use fastwebsockets::{FragmentCollector, Frame, OpCode, Payload, WebSocketError, handshake};
use http_body_util::Empty;
use hyper::Request;
use hyper::upgrade::Upgraded;
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::{Value, json};
use tokio::net::TcpStream;

use super::{ADMIN_KEY, READ_KEY, Rig, Rules, UPSTREAM_TOKEN};
use crate::event::{EventKind, Outcome};
use crate::gateway::shared::hex;
use crate::ipc::ToGateway;

/// Name, `auth`, token and nonce that the device signs, message.
type FailureRow = (
    &'static str,
    Value,
    Option<(&'static str, &'static str)>,
    &'static str,
);

/// Name, headers, status when refused.
type UpgradeRow<'a> = (&'a str, &'a [(&'a str, &'a str)], Option<u16>);

struct Client {
    socket: FragmentCollector<TokioIo<Upgraded>>,
    nonce: String,
    signed_at: u64,
}

#[derive(Debug, PartialEq)]
enum Heard {
    Frame(Value),
    Close(u16, String),
}

impl Client {
    /// Upgrades and takes the challenge.
    async fn open(rig: &Rig, headers: &[(&str, &str)]) -> Result<Self, WebSocketError> {
        let stream = TcpStream::connect(rig.address).await.unwrap();
        let mut request = Request::get("/")
            .header("Host", rig.address.to_string())
            .header("Upgrade", "websocket")
            .header("Connection", "upgrade")
            .header("Sec-WebSocket-Key", handshake::generate_key())
            .header("Sec-WebSocket-Version", "13")
            .header("Sec-WebSocket-Extensions", "permessage-deflate")
            .header("X-Forwarded-For", "6.6.6.6");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Empty::<Bytes>::new()).unwrap();
        let (socket, response) = handshake::client(&TokioExecutor::new(), request, stream).await?;
        assert!(!response.headers().contains_key("sec-websocket-extensions"));
        let mut client = Self {
            socket: FragmentCollector::new(socket),
            nonce: String::new(),
            signed_at: 0,
        };
        let Heard::Frame(challenge) = client.hear().await else {
            panic!("no challenge");
        };
        assert_eq!(challenge["event"], "connect.challenge");
        client.nonce = challenge["payload"]["nonce"].as_str().unwrap().to_owned();
        client.signed_at = challenge["payload"]["ts"].as_u64().unwrap();
        Ok(client)
    }

    async fn connected(rig: &Rig, key: &str) -> Self {
        let mut client = Self::open(rig, &[]).await.unwrap();
        let hello = client
            .connect(json!({"token": key}), &["operator.admin"], None)
            .await;
        assert!(
            matches!(&hello, Heard::Frame(frame) if frame["ok"] == true),
            "{hello:?}"
        );
        client
    }

    async fn connect(&mut self, auth: Value, scopes: &[&str], device: Option<Value>) -> Heard {
        let mut params = json!({
            "minProtocol": 3, "maxProtocol": 4, "role": "operator", "scopes": scopes, "auth": auth,
            "client": {"id": "cli", "version": "1", "platform": "linux", "mode": "cli"},
        });
        if let Some(device) = device {
            params["device"] = device;
        }
        self.request("c1", "connect", params).await
    }

    fn device(&self, token: &str, scopes: &str, nonce: &str) -> Value {
        let key = Ed25519KeyPair::from_seed_unchecked(&[9; 32]).unwrap();
        let public = key.public_key().as_ref();
        let id = hex(digest::digest(&digest::SHA256, public).as_ref());
        let signed = format!(
            "v2|{id}|cli|cli|operator|{scopes}|{}|{token}|{nonce}",
            self.signed_at
        );
        json!({
            "id": id, "publicKey": URL_SAFE_NO_PAD.encode(public), "nonce": nonce,
            "signature": URL_SAFE_NO_PAD.encode(key.sign(signed.as_bytes()).as_ref()),
            "signedAt": self.signed_at,
        })
    }

    async fn say(&mut self, text: &str) {
        let payload = Payload::Owned(text.as_bytes().to_vec());
        self.socket.write_frame(Frame::text(payload)).await.unwrap();
    }

    async fn request(&mut self, id: &str, method: &str, params: Value) -> Heard {
        let frame = json!({"type": "req", "id": id, "method": method, "params": params});
        self.say(&frame.to_string()).await;
        self.hear().await
    }

    async fn hear(&mut self) -> Heard {
        let frame = tokio::time::timeout(Duration::from_secs(5), self.socket.read_frame());
        let frame = frame.await.expect("a frame in time").expect("a frame");
        if frame.opcode == OpCode::Close {
            let (code, reason) = frame.payload.split_first_chunk::<2>().unwrap();
            let reason = String::from_utf8(reason.to_vec()).unwrap();
            return Heard::Close(u16::from_be_bytes(*code), reason);
        }
        Heard::Frame(serde_json::from_slice(&frame.payload).unwrap())
    }

    async fn code(&mut self) -> u16 {
        match self.hear().await {
            Heard::Close(code, _) => code,
            heard @ Heard::Frame(_) => panic!("{heard:?}"),
        }
    }
}

fn message(heard: &Heard) -> &str {
    match heard {
        Heard::Frame(frame) => frame["error"]["message"].as_str().unwrap_or("ok"),
        Heard::Close(..) => "closed",
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connect_is_re_originated() {
    let rig = Rig::start(Rules::default()).await;
    let mut client = Client::open(&rig, &[]).await.unwrap();
    let device = client.device(ADMIN_KEY, "operator.admin", &client.nonce);
    let hello = client
        .connect(
            json!({"token": ADMIN_KEY}),
            &["operator.admin"],
            Some(device.clone()),
        )
        .await;
    let Heard::Frame(hello) = hello else {
        panic!("{hello:?}");
    };
    assert_eq!(hello["id"], "c1");
    assert_eq!(
        hello["payload"]["auth"],
        json!({"role": "operator"}),
        "no device token"
    );
    {
        let frames = rig.upstream.frames.lock().unwrap();
        let params = &frames[0]["params"];
        assert_eq!(params["auth"], json!({"token": UPSTREAM_TOKEN}));
        assert_ne!(params["device"]["id"], device["id"]);
        assert_eq!(params["client"]["id"], "cli");
        let upgrade = rig.upstream.upgrade.lock().unwrap();
        for absent in [
            "x-forwarded-for",
            "origin",
            "sec-websocket-extensions",
            "authorization",
        ] {
            assert_eq!(upgrade[absent], Value::Null, "{absent}");
        }
    }
    let health = client.request("2", "health", json!({})).await;
    assert!(
        matches!(&health, Heard::Frame(f) if f["payload"]["did"] == "health"),
        "{health:?}"
    );
    let event = rig.event("connect", Outcome::Allow, "ok").await;
    assert_eq!(
        (event.kind, event.principal.as_deref()),
        (EventKind::Auth, Some("admin"))
    );
    let again = client.request("3", "connect", json!({})).await;
    assert_eq!(
        message(&again),
        "connect is only valid as the first request"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn scopes_are_narrowed_to_the_principals() {
    let rig = Rig::start(Rules::default()).await;
    let rows: [(&str, &[&str], &[&str]); 4] = [
        (
            READ_KEY,
            &["operator.admin", "operator.pairing"],
            &["operator.read"],
        ),
        (READ_KEY, &[], &["operator.read"]),
        (
            READ_KEY,
            &["operator.read", "operator.write"],
            &["operator.read"],
        ),
        (ADMIN_KEY, &["operator.read"], &["operator.read"]),
    ];
    for (index, (key, requested, granted)) in rows.into_iter().enumerate() {
        let mut client = Client::open(&rig, &[]).await.unwrap();
        client.connect(json!({"token": key}), requested, None).await;
        let scopes = rig.upstream.frames.lock().unwrap()[index]["params"]["scopes"].clone();
        assert_eq!(scopes, json!(granted), "{requested:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn handshakes_fail_as_the_gateways_do() {
    let rig = Rig::start(Rules::default()).await;
    let mismatch = "unauthorized: gateway token mismatch (set gateway.remote.token to match gateway.auth.token)";
    let missing = "unauthorized: gateway token missing (set gateway.remote.token to match gateway.auth.token)";
    let rows: &[FailureRow] = &[
        ("wrong token", json!({"token": "wrong"}), None, mismatch),
        (
            "the upstream's",
            json!({"token": UPSTREAM_TOKEN}),
            None,
            mismatch,
        ),
        ("none", json!({}), None, missing),
        (
            "another nonce",
            json!({"token": ADMIN_KEY}),
            Some((ADMIN_KEY, "n")),
            "device nonce mismatch",
        ),
        (
            "signed for another",
            json!({"token": ADMIN_KEY}),
            Some(("other", "")),
            "device signature invalid",
        ),
    ];
    for (name, auth, device, expected) in rows {
        let mut client = Client::open(&rig, &[]).await.unwrap();
        let device = device.map(|(token, nonce)| {
            let nonce = if nonce.is_empty() {
                client.nonce.clone()
            } else {
                nonce.to_owned()
            };
            client.device(token, "operator.admin", &nonce)
        });
        let heard = client
            .connect(auth.clone(), &["operator.admin"], device)
            .await;
        assert_eq!(message(&heard), *expected, "{name}");
        assert_eq!(
            client.hear().await,
            Heard::Close(1008, (*expected).to_owned()),
            "{name}"
        );
    }
    let mut client = Client::open(&rig, &[]).await.unwrap();
    let heard = client.request("1", "health", json!({})).await;
    assert_eq!(
        message(&heard),
        "invalid handshake: first request must be connect"
    );
    assert_eq!(client.code().await, 1008);
    assert_eq!(rig.upstream.connections(), 0);
    let event = rig
        .event("connect", Outcome::Deny, "credential_unknown")
        .await;
    assert_eq!(event.kind, EventKind::Auth);
    rig.event("connect", Outcome::Deny, "device_invalid").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn upgrades_are_judged_before_101() {
    let rig = Rig::start(Rules::default()).await;
    let own = format!("http://{}", rig.address);
    let good = format!("Bearer {ADMIN_KEY}");
    let rows: [UpgradeRow<'_>; 4] = [
        ("own origin", &[("Origin", &own)], None),
        (
            "foreign origin",
            &[("Origin", "https://evil.example")],
            Some(403),
        ),
        (
            "wrong bearer",
            &[("Authorization", "Bearer wrong")],
            Some(401),
        ),
        ("good bearer", &[("Authorization", &good)], None),
    ];
    for (name, headers, refused) in rows {
        let status = match Client::open(&rig, headers).await {
            Err(WebSocketError::InvalidStatusCode(status)) => Some(status),
            Err(error) => panic!("{name}: {error}"),
            Ok(_) => None,
        };
        assert_eq!(status, refused, "{name}");
    }
    let mut client = Client::open(&rig, &[("Authorization", &good)])
        .await
        .unwrap();
    let hello = client.connect(json!({}), &[], None).await;
    assert_eq!(message(&hello), "ok", "the header's key is enough");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_denied_method_leaves_the_connection_usable() {
    let rig = Rig::start(Rules::default()).await;
    let mut reader = Client::connected(&rig, READ_KEY).await;
    let mut admin = Client::connected(&rig, ADMIN_KEY).await;
    let rows = [
        ("config.apply", json!({}), "missing scope: operator.admin"),
        (
            "chat.send",
            json!({"message": "x"}),
            "missing scope: operator.write",
        ),
        ("brand.new", json!({}), "missing scope: operator.admin"),
        ("node.event", json!({}), "unauthorized role: operator"),
        ("health", json!({}), "ok"),
    ];
    for (method, params, expected) in rows {
        assert_eq!(
            message(&reader.request("r", method, params).await),
            expected,
            "{method}"
        );
    }
    let rows = [
        (
            "tools.invoke",
            json!({"name": "Browser"}),
            "Tool not available: Browser",
        ),
        (
            "tools.invoke",
            json!({"name": "exec"}),
            "Tool not available: exec",
        ),
        (
            "node.invoke",
            json!({"command": "system.run"}),
            "Tool not available: exec",
        ),
        ("terminal.open", json!({}), "Tool not available: exec"),
        ("agent", json!({"to": "+15550000000"}), "user not allowed"),
        (
            "agent",
            json!({"agentId": "a", "sessionKey": "agent:b:main"}),
            "invalid agent params: two different agents are named",
        ),
        ("agent", json!({"to": "+15551234567"}), "ok"),
        ("config.get", json!({}), "ok"),
    ];
    for (method, params, expected) in rows {
        assert_eq!(
            message(&admin.request("a", method, params).await),
            expected,
            "{method}"
        );
    }
    let seen: Vec<String> = rig
        .upstream
        .frames
        .lock()
        .unwrap()
        .iter()
        .map(|frame| frame["method"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(
        seen,
        ["connect", "connect", "health", "agent", "config.get"]
    );
    let event = rig.event("method", Outcome::Deny, "scope_missing").await;
    assert_eq!(event.detail.as_deref(), Some("config.apply"));
}

#[tokio::test(flavor = "multi_thread")]
async fn frames_with_two_readings_end_the_connection() {
    let rig = Rig::start(Rules::default()).await;
    let rows = [
        r#"{"type":"req","id":"1","method":"health","method":"config.apply"}"#,
        r#"{"type":"res","id":"1","ok":true}"#,
        "nonsense",
    ];
    for text in rows {
        let mut client = Client::connected(&rig, ADMIN_KEY).await;
        client.say(text).await;
        assert_eq!(client.code().await, 1008, "{text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn frames_over_the_limit_are_told_when_to_come_back() {
    let rules = Rules {
        requests: 3,
        ..Rules::default()
    };
    let rig = Rig::start(rules).await;
    let mut client = Client::connected(&rig, ADMIN_KEY).await;
    for _ in 0..2 {
        assert_eq!(
            message(&client.request("1", "health", json!({})).await),
            "ok"
        );
    }
    let Heard::Frame(frame) = client.request("2", "health", json!({})).await else {
        panic!("closed");
    };
    assert_eq!(
        (&frame["ok"], &frame["error"]["retryable"]),
        (&json!(false), &json!(true))
    );
    assert!(frame["error"]["retryAfterMs"].as_u64().unwrap() > 10_000);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_removed_key_ends_its_connections_within_a_second() {
    let mut rig = Rig::start(Rules::default()).await;
    let mut reader = Client::connected(&rig, READ_KEY).await;
    let mut admin = Client::connected(&rig, ADMIN_KEY).await;
    let started = std::time::Instant::now();
    rig.install(Rules {
        generation: 2,
        keys: vec![ADMIN_KEY],
        ..Rules::default()
    })
    .await;
    assert_eq!(reader.code().await, 1008);
    assert!(started.elapsed() < Duration::from_secs(1));
    assert_eq!(
        message(&admin.request("1", "health", json!({})).await),
        "ok"
    );
    rig.event("revoke", Outcome::Deny, "credential_expired")
        .await;

    rig.install(Rules {
        generation: 3,
        allowed: "192.0.2.0/24",
        ..Rules::default()
    })
    .await;
    assert_eq!(admin.code().await, 1008, "and with its address");
}

#[tokio::test(flavor = "multi_thread")]
async fn close_codes_and_pings_pass_both_ways() {
    let rig = Rig::start(Rules::default()).await;
    let mut client = Client::connected(&rig, ADMIN_KEY).await;
    assert_eq!(
        client.request("1", "status", json!({})).await,
        Heard::Close(1013, "starting".into())
    );
    let mut client = Client::connected(&rig, ADMIN_KEY).await;
    rig.send(ToGateway::Drain { deadline_ms: 3000 }).await;
    assert_eq!(
        client.hear().await,
        Heard::Close(1012, "service restart".into())
    );
}
