//! Listeners with rules of their own: allowlists, webhooks, proxies that speak for others.

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::http::{Answer, ask, bearer, raw};
use super::{ADMIN_KEY, Rig, Rules, UPSTREAM_TOKEN};
use crate::config::Listen;
use crate::event::Outcome;

async fn start(allowed: &'static str, listen: Value) -> Rig {
    Rig::start(Rules {
        allowed,
        listen,
        ..Rules::default()
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_listener_has_its_own_list() {
    let key = bearer(ADMIN_KEY);
    let rows = [
        (
            "wider",
            "192.0.2.0/24",
            json!({"allowedIPs": ["127.0.0.0/8"]}),
            200,
        ),
        (
            "narrower",
            "127.0.0.0/8",
            json!({"allowedIPs": ["192.0.2.0/24"]}),
            0,
        ),
        ("the common one", "127.0.0.0/8", json!({}), 200),
        ("outside the common one", "192.0.2.0/24", json!({}), 0),
    ];
    for (name, allowed, listen, status) in rows {
        let rig = start(allowed, listen).await;
        let mut stream = TcpStream::connect(rig.address).await.unwrap();
        let request = format!("GET / HTTP/1.1\r\nHost: a\r\n{key}\r\nConnection: close\r\n\r\n");
        let mut text = Vec::new();
        // A refused address may see a reset.
        let _sent = stream.write_all(request.as_bytes()).await;
        let _read = stream.read_to_end(&mut text).await;
        let seen = text
            .get(9..12)
            .map_or(0, |s| String::from_utf8_lossy(s).parse().unwrap());
        assert_eq!(seen, status, "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn webhooks_pass_and_open_nothing_else() {
    let listen = json!({"allowedIPs": ["127.0.0.0/8"], "bypass": ["/slack/events"]});
    let strangers = start("192.0.2.0/24", listen.clone()).await;
    let key = bearer(ADMIN_KEY);
    let signed = "X-Slack-Signature: v0=1";
    let own = "Authorization: Bearer the-senders-own";
    let rows: [(&str, &str, &[&str], u16); 7] = [
        ("webhook", "POST /slack/events", &[signed], 200),
        ("with its own bearer", "POST /slack/events", &[own], 200),
        ("by GET", "GET /slack/events", &[signed], 403),
        ("below it", "POST /slack/events/x", &[signed], 403),
        ("in another case", "POST /Slack/events", &[signed], 403),
        ("a page", "GET /", &[&key], 403),
        ("a tool", "POST /tools/invoke", &[&key], 403),
    ];
    for (name, line, headers, status) in rows {
        let answer = ask(&strangers, line, headers, r#"{"a":1}"#).await;
        assert_eq!(answer.status, status, "{name}: {}", answer.body);
        assert!(!answer.body.contains(UPSTREAM_TOKEN), "{name}");
        if status == 200 {
            let told = answer.json();
            assert_eq!(told["body"], r#"{"a":1}"#, "{name}");
            let bearer = &told["headers"]["authorization"];
            assert!(
                bearer.is_null() || bearer == "Bearer the-senders-own",
                "{name}"
            );
        }
    }
    let event = strangers.event("webhook", Outcome::Allow, "ok").await;
    assert_eq!(event.rule.as_deref(), Some("gateway.listen[0].bypass"));
    strangers
        .event("request", Outcome::Deny, "address_not_allowed")
        .await;
    let large = "x".repeat(1024 * 1024 + 1);
    assert_eq!(
        ask(&strangers, "POST /slack/events", &[], &large)
            .await
            .status,
        413
    );

    let known = start("127.0.0.0/8", listen).await;
    assert_eq!(ask(&known, "GET /", &[&key], "").await.status, 200);
    assert_eq!(ask(&known, "GET /", &[], "").await.status, 401);
    assert_eq!(
        ask(&known, "POST /slack/events", &[], "{}").await.status,
        200
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_vouches_for_a_webhook() {
    let rig = Rig::start(Rules {
        listen: json!({"bypass": ["/slack/events"]}),
        vouches: true,
        ..Rules::default()
    })
    .await;
    let key = bearer(ADMIN_KEY);
    let claim = "X-Forwarded-User: admin";
    for (name, line, headers, user) in [
        ("a key", "GET /v1/models", [&*key, claim], json!("admin")),
        (
            "a webhook",
            "POST /slack/events",
            ["A: b", claim],
            json!(null),
        ),
    ] {
        let answer = ask(&rig, line, &headers, "").await;
        assert_eq!(answer.status, 200, "{name}: {}", answer.body);
        assert_eq!(answer.json()["headers"]["x-forwarded-user"], user, "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn webhooks_have_a_limit_of_their_own() {
    let rig = Rig::start(Rules {
        requests: 2,
        listen: json!({"bypass": ["/slack/events"]}),
        ..Rules::default()
    })
    .await;
    let statuses = async |line: &str, header: &str| {
        let mut seen = Vec::new();
        for _ in 0..3 {
            seen.push(ask(&rig, line, &[header], "{}").await.status);
        }
        seen
    };
    assert_eq!(
        statuses("POST /slack/events", "X-A: b").await,
        [200, 200, 429]
    );
    let key = bearer(ADMIN_KEY);
    assert_eq!(statuses("GET /v1/models", &key).await, [200, 200, 429]);
}

/// Sends a PROXY v2 header for an IPv4 client, then a request.
async fn proxied(rig: &Rig, client: [u8; 4], request: &str) -> Option<Answer> {
    let mut bytes = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c".to_vec();
    bytes.extend_from_slice(&client);
    bytes.extend_from_slice(&[127, 0, 0, 1, 0x12, 0x67, 0x20, 0xfb]);
    bytes.extend_from_slice(request.as_bytes());
    let mut stream = TcpStream::connect(rig.address).await.unwrap();
    let _sent = stream.write_all(&bytes).await;
    let mut text = Vec::new();
    let _read = stream.read_to_end(&mut text).await;
    let text = String::from_utf8(text).unwrap();
    let (head, body) = text.split_once("\r\n\r\n")?;
    Some(Answer {
        status: head.get(9..12)?.parse().ok()?,
        head: head.to_lowercase(),
        raw_head: head.to_owned(),
        body: body.to_owned(),
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn only_a_named_proxy_speaks_for_others() {
    let request = |forwarded: &str| {
        format!(
            "GET / HTTP/1.1\r\nHost: a\r\n{forwarded}Connection: close\r\nX-API-Key: {ADMIN_KEY}\r\n\r\n"
        )
    };
    let rig = start("203.0.113.0/24", json!({"proxyFrom": ["127.0.0.0/8"]})).await;
    let rows = [
        ("X-Forwarded-For: 203.0.113.7\r\n", 200),
        ("X-Forwarded-For: 192.0.2.1, 203.0.113.7\r\n", 200),
        ("X-Forwarded-For: 203.0.113.7, 192.0.2.1\r\n", 403),
        ("X-Forwarded-For: 192.0.2.1\r\n", 403),
        ("X-Forwarded-For: unknown\r\n", 400),
        ("", 403),
    ];
    for (forwarded, status) in rows {
        let answer = raw(&rig, &request(forwarded)).await;
        assert_eq!(answer.status, status, "{forwarded:?}");
    }
    let event = rig.event("login", Outcome::Allow, "ok").await;
    assert_eq!(event.source, Some("203.0.113.7".parse().unwrap()));

    let seen = proxied(&rig, [203, 0, 113, 9], &request("")).await;
    assert_eq!(seen.map(|answer| answer.status), Some(200));
    // After a PROXY header, what the client says about itself is not believed.
    let lies = request("X-Forwarded-For: 203.0.113.7\r\n");
    let seen = proxied(&rig, [192, 0, 2, 9], &lies).await;
    assert!(seen.is_none(), "a client outside the list gets no byte");
    let event = rig
        .event("accept", Outcome::Deny, "address_not_allowed")
        .await;
    assert_eq!(event.source, Some("192.0.2.9".parse().unwrap()));

    let unnamed = start("127.0.0.0/8", json!({})).await;
    let answer = raw(&unnamed, &request("X-Forwarded-For: 203.0.113.7\r\n")).await;
    assert_eq!(answer.status, 200);
    let event = unnamed.event("login", Outcome::Allow, "ok").await;
    assert_eq!(event.source, Some("127.0.0.1".parse().unwrap()));
    let seen = proxied(&unnamed, [203, 0, 113, 9], &request("")).await;
    assert_eq!(seen.map(|answer| answer.status), Some(400));
}

/// The one listener, as a test's rules describe it.
pub(super) fn listen(rules: &Value) -> Vec<Listen> {
    if rules.is_null() {
        return Vec::new();
    }
    let texts = |key: &str| -> Vec<String> {
        serde_json::from_value(rules[key].clone()).unwrap_or_default()
    };
    let prefixes = |key: &str| texts(key).iter().map(|p| p.parse().unwrap()).collect();
    vec![Listen {
        path: "gateway.listen[0]".into(),
        allowed: rules.get("allowedIPs").map(|_| prefixes("allowedIPs")),
        bypass: texts("bypass"),
        proxy_from: prefixes("proxyFrom"),
        ..Listen::plain("127.0.0.1:0".parse().unwrap())
    }]
}
