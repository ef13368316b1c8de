//! Every route of both gateways, asked by an administrator, by a reader, and by a key that is bound
//! to the agent `work` and writes.

use super::http::{ask, bearer};
use super::{ADMIN_KEY, READ_KEY, Rig, Rules, WORK_KEY};

/// Line, body, and the status for each of the three. 200 is the upstream's.
type Row = (&'static str, &'static str, [u16; 3]);

const ROWS: &[Row] = &[
    // Pages and what belongs to them.
    ("GET /", "", [200, 200, 200]),
    ("GET /assets/index.js", "", [200, 200, 200]),
    ("GET /avatar/work", "", [200, 200, 200]),
    ("GET /avatar/main", "", [200, 200, 403]),
    ("GET /health", "", [200, 200, 200]),
    ("GET /healthz", "", [200, 200, 200]),
    ("GET /ready", "", [200, 200, 200]),
    ("GET /readyz", "", [200, 200, 200]),
    ("GET /__clawdbot__/canvas/", "", [200, 200, 403]),
    ("GET /__clawdbot__/a2ui", "", [200, 200, 403]),
    ("GET /__moltbot__/canvas/", "", [200, 200, 403]),
    ("GET /__moltbot__/a2ui", "", [200, 200, 403]),
    ("GET /__openclaw__/a2ui", "", [200, 200, 403]),
    ("GET /__openclaw__/canvas/", "", [200, 200, 403]),
    ("GET /__openclaw__/board/x", "", [200, 200, 403]),
    ("GET /__openclaw__/cap/x", "", [200, 200, 403]),
    ("GET /oauth/mcp/callback", "", [200, 200, 200]),
    // Sessions by path.
    (
        "GET /sessions/agent%3Awork%3Amain/history",
        "",
        [200, 200, 200],
    ),
    (
        "GET /sessions/agent%3Amain%3Amain/history",
        "",
        [200, 200, 403],
    ),
    ("GET /sessions/main/history", "", [200, 200, 403]),
    (
        "POST /sessions/agent%3Awork%3Amain/kill",
        "{}",
        [200, 403, 403],
    ),
    // Models.
    ("GET /v1/models", "", [200, 200, 200]),
    ("GET /v1/models/openclaw", "", [200, 200, 200]),
    ("POST /v1/embeddings", "{}", [200, 403, 403]),
    ("POST /v1/other", "{}", [200, 403, 403]),
    (
        "POST /v1/chat/completions",
        r#"{"model":"openclaw/work"}"#,
        [200, 403, 200],
    ),
    (
        "POST /v1/chat/completions",
        r#"{"model":"clawdbot:work"}"#,
        [200, 403, 200],
    ),
    (
        "POST /v1/chat/completions",
        r#"{"model":"openclaw/main"}"#,
        [200, 403, 403],
    ),
    (
        "POST /v1/chat/completions",
        r#"{"model":"openclaw/default"}"#,
        [200, 403, 403],
    ),
    ("POST /v1/chat/completions", "{}", [200, 403, 403]),
    ("POST /v1/chat/completions", "[]", [200, 403, 403]),
    ("POST /v1/chat/completions", "nonsense", [400, 400, 400]),
    ("GET /v1/chat/completions", "", [405, 405, 405]),
    (
        "POST /v1/responses",
        r#"{"model":"agent:work","input":"x"}"#,
        [200, 403, 200],
    ),
    (
        "POST /v1/responses",
        r#"{"model":"agent:work","metadata":{"k":"agent:main:main"}}"#,
        [200, 403, 403],
    ),
    ("GET /v1/responses", "", [405, 405, 405]),
    // Hooks run as the default agent in one version at least.
    ("POST /hooks/wake", r#"{"text":"x"}"#, [200, 403, 403]),
    (
        "POST /hooks/agent",
        r#"{"message":"x","agentId":"work"}"#,
        [200, 403, 403],
    ),
    ("POST /hooks/gmail", "{}", [200, 403, 403]),
    ("POST /hooks", "{}", [200, 403, 403]),
    ("GET /hooks/wake", "", [405, 405, 405]),
    // Tools.
    (
        "POST /tools/invoke",
        r#"{"tool":"tts","sessionKey":"agent:work:main"}"#,
        [200, 403, 200],
    ),
    (
        "POST /tools/invoke",
        r#"{"name":"tts","sessionKey":"agent:work:main"}"#,
        [200, 403, 200],
    ),
    ("POST /tools/invoke", r#"{"tool":"tts"}"#, [200, 403, 403]),
    (
        "POST /tools/invoke",
        r#"{"tool":"tts","agentId":"work"}"#,
        [200, 403, 403],
    ),
    (
        "POST /tools/invoke",
        r#"{"tool":"sessions_history","sessionKey":"agent:work:main","args":{"sessionKey":"agent:main:main"}}"#,
        [200, 403, 403],
    ),
    (
        "POST /tools/invoke",
        r#"{"tool":"message","sessionKey":"agent:work:main","args":{"to":"+19999999999"}}"#,
        [403, 403, 403],
    ),
    (
        "POST /tools/invoke",
        r#"{"tool":"message","sessionKey":"agent:work:main","args":{"to":"+15551234567"}}"#,
        [200, 403, 200],
    ),
    (
        "POST /tools/invoke",
        r#"{"tool":" Browser ","sessionKey":"agent:work:main"}"#,
        [404, 403, 404],
    ),
    (
        "POST /tools/invoke",
        r#"{"tool":"tts","sessionKey":"AGENT:work:main"}"#,
        [400, 400, 400],
    ),
    (
        "POST /tools/invoke",
        r#"{"tool":"tts","tool":"exec"}"#,
        [400, 400, 400],
    ),
    ("GET /tools/invoke", "", [405, 405, 405]),
    // What changes things, and what clawsec does not know.
    ("GET /api/channels/x", "", [200, 403, 403]),
    ("POST /api/v1/admin/rpc", "{}", [200, 403, 403]),
    ("GET /api/artifacts/download/x", "", [200, 403, 403]),
    ("POST /plugins/x", "{}", [200, 403, 403]),
    ("POST /slack/events", "{}", [200, 403, 403]),
    ("POST /googlechat", "{}", [200, 403, 403]),
    ("POST /line/webhook", "{}", [200, 403, 403]),
    ("POST /webhooks/sms", "{}", [200, 403, 403]),
    ("POST /zalo-webhook", "{}", [200, 403, 403]),
    ("POST /bluebubbles-webhook", "{}", [200, 403, 403]),
    ("POST /webhook/synology", "{}", [200, 403, 403]),
    ("POST /voice/webhook", "{}", [200, 403, 403]),
    ("POST /brand/new", "{}", [200, 403, 403]),
    ("DELETE /brand/new", "", [200, 403, 403]),
];

#[tokio::test(flavor = "multi_thread")]
async fn every_route_is_for_whom_it_is() {
    let rig = Rig::start(Rules {
        keys: vec![ADMIN_KEY, READ_KEY, WORK_KEY],
        ..Rules::default()
    })
    .await;
    for (line, body, expected) in ROWS {
        for (key, status) in [ADMIN_KEY, READ_KEY, WORK_KEY].iter().zip(expected) {
            let before = rig.upstream.requests();
            let answer = ask(&rig, line, &[&bearer(key)], body).await;
            assert_eq!(
                answer.status, *status,
                "{line} {body} {key}: {}",
                answer.body
            );
            let reached = rig.upstream.requests() > before;
            assert_eq!(reached, *status == 200, "{line} {body} {key}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_channels_webhook_can_be_let_by_without_a_key() {
    let webhooks = [
        "/slack/events",
        "/googlechat",
        "/line/webhook",
        "/webhooks/sms",
        "/zalo-webhook",
        "/bluebubbles-webhook",
        "/webhook/synology",
        "/voice/webhook",
    ];
    let rig = Rig::start(Rules {
        listen: serde_json::json!({ "bypass": webhooks }),
        ..Rules::default()
    })
    .await;
    for path in webhooks {
        let rows = [("POST", 200), ("GET", 401), ("PUT", 401)];
        for (method, status) in rows {
            let answer = ask(&rig, &format!("{method} {path}"), &[], "{}").await;
            assert_eq!(answer.status, status, "{method} {path}: {}", answer.body);
        }
        let below = ask(&rig, &format!("POST {path}/x"), &[], "{}").await;
        assert_eq!(below.status, 401, "{path}/x");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn agents_and_sessions_are_said_in_every_spelling() {
    let rig = Rig::start(Rules::default()).await;
    let headers = [
        bearer(ADMIN_KEY),
        "x-moltbot-agent-id: Work".to_owned(),
        "x-openclaw-session-key: agent:work:x".to_owned(),
    ];
    let headers: Vec<&str> = headers.iter().map(String::as_str).collect();
    let answer = ask(&rig, "POST /v1/chat/completions", &headers, "{}").await;
    let seen: serde_json::Value = serde_json::from_str(&answer.body).unwrap();
    for product in ["clawdbot", "moltbot", "openclaw"] {
        let header = |name: &str| seen["headers"][format!("x-{product}-{name}")].clone();
        assert_eq!(header("agent-id"), "work", "{product}");
        assert_eq!(header("session-key"), "agent:work:x", "{product}");
    }
}
