//! What is asked both ways.

use serde_json::{Value, json};

use crate::peer::product::Product;

pub(super) struct Request {
    pub(super) name: &'static str,
    pub(super) method: &'static str,
    pub(super) path: &'static str,
    pub(super) arguments: Vec<String>,
    pub(super) body: Option<Vec<u8>>,
    pub(super) with_key: bool,
    /// HTTP/2 through clawsec says the same as HTTP/1.1 through it.
    pub(super) both_protocols: bool,
}

impl Request {
    fn of(name: &'static str, method: &'static str, path: &'static str) -> Self {
        Self {
            name,
            method,
            path,
            arguments: Vec::new(),
            body: None,
            with_key: true,
            both_protocols: true,
        }
    }

    fn header(mut self, line: &str) -> Self {
        self.arguments.extend(["-H".to_owned(), line.to_owned()]);
        self
    }

    fn json(self, body: &Value) -> Self {
        self.bytes(body.to_string().into_bytes())
            .header("Content-Type: application/json")
    }

    fn bytes(mut self, body: Vec<u8>) -> Self {
        self.body = Some(body);
        self
    }
}

pub(super) fn requests(product: Product) -> Vec<Request> {
    let model = format!("{}/main", product.name());
    let question = |stream: bool| {
        json!({ "model": model, "stream": stream, "user": "same",
                "messages": [{ "role": "user", "content": "say it" }] })
    };
    let tool = |name: &str, arguments: Value| json!({ "tool": name, "args": arguments });
    let invoke = "/tools/invoke";
    let chat = "/v1/chat/completions";
    let mut all = vec![
        Request::of("the page", "GET", "/"),
        Request::of("the page's head", "HEAD", "/"),
        Request::of("the page, compressed", "GET", "/").header("Accept-Encoding: gzip, br"),
        Request::of("the page by another method", "DELETE", "/"),
        Request::of("the page's options", "OPTIONS", "/"),
        Request::of("a page of the Control UI", "GET", "/chat"),
        Request::of("a page with a question", "GET", "/?a=1&b=%20x"),
        Request::of("an asset that is not there", "GET", "/assets/none.js"),
        Request::of("an icon", "GET", "/favicon.svg"),
        Request::of("a part of an icon", "GET", "/favicon.svg").header("Range: bytes=0-9"),
        Request::of("an icon that is known", "GET", "/favicon.svg").header("If-None-Match: \"x\""),
        Request::of("an encoded path", "GET", "/no%20such%2Dpage"),
        Request::of("no such path", "GET", "/no/such/path"),
        Request::of("no such path, posted", "POST", "/no/such/path").json(&json!({})),
        Request::of("models", "GET", "/v1/models"),
        Request::of("one model", "GET", "/v1/models/none"),
        Request::of("a chat", "POST", chat).json(&question(false)),
        Request::of("a chat in parts", "POST", chat).json(&question(true)),
        Request::of("a chat without messages", "POST", chat).json(&json!({ "model": model })),
        Request::of("a chat by GET", "GET", chat),
        Request::of("a chat that is no JSON", "POST", chat)
            .bytes(b"{".to_vec())
            .header("Content-Type: application/json"),
        Request::of("a response", "POST", "/v1/responses")
            .json(&json!({ "model": model, "user": "same", "input": "hello" })),
        Request::of("a response without input", "POST", "/v1/responses")
            .json(&json!({ "model": model })),
        Request::of("a tool", "POST", invoke).json(&tool("sessions_list", json!({}))),
        Request::of("a tool with arguments", "POST", invoke)
            .json(&tool("sessions_list", json!({ "limit": 3 }))),
        Request::of("a tool with wrong arguments", "POST", invoke)
            .json(&tool("sessions_history", json!({ "limit": "x" }))),
        Request::of("a tool of another session", "POST", invoke).json(
            &json!({ "tool": "session_status", "args": {}, "sessionKey": "agent:main:none" }),
        ),
        Request::of("an agent's list", "POST", invoke).json(&tool("agents_list", json!({}))),
        Request::of("an unknown tool", "POST", invoke).json(&tool("no_such_tool", json!({}))),
        Request::of("a tool without a name", "POST", invoke).json(&json!({ "args": {} })),
        Request::of("a tool by GET", "GET", invoke),
        Request::of("a tool that is no JSON", "POST", invoke)
            .bytes(b"not JSON".to_vec())
            .header("Content-Type: application/json"),
        Request::of("a tool of another type", "POST", invoke)
            .bytes(tool("sessions_list", json!({})).to_string().into_bytes())
            .header("Content-Type: text/plain"),
        Request::of("a tool without a body", "POST", invoke),
        Request::of("a large tool call", "POST", invoke).json(&tool(
            "no_such_tool",
            json!({ "text": "x".repeat(1_900_000) }),
        )),
        Request::of("a hook with a wrong token", "POST", "/hooks/wake")
            .json(&json!({ "text": "x" }))
            .header("X-OpenClaw-Token: wrong"),
        Request::of("an avatar", "GET", "/avatar/main"),
        Request::of(
            "the Control UI's configuration",
            "GET",
            "/__openclaw/control-ui-config.json",
        ),
        Request::of("a wrong method of models", "PUT", "/v1/models").json(&json!({})),
        Request::of("embeddings", "POST", "/v1/embeddings").json(&json!({ "input": "x" })),
    ];
    for request in &mut all {
        // Told apart by time: what a model says twice is another answer.
        request.both_protocols = !request.path.starts_with("/v1/")
            && request.body.as_ref().is_none_or(|body| body.len() < 10_000);
    }
    let mut without =
        Request::of("a tool without a key", "POST", invoke).json(&tool("sessions_list", json!({})));
    without.with_key = false;
    let mut models = Request::of("models without a key", "GET", "/v1/models");
    models.with_key = false;
    all.extend([without, models]);
    all
}

/// Methods with parameters, right and wrong ones. Those that tell of who asks, or of the moment
/// (`device.pair.list`, `logs.tail`, `sessions.usage`), are not among them.
pub(super) fn calls(product: Product) -> Vec<(&'static str, Value)> {
    let mut calls: Vec<(&str, Value)> = [
        "agents.list",
        "channels.status",
        "config.get",
        "config.schema",
        "cron.list",
        "cron.status",
        "exec.approvals.get",
        "last-heartbeat",
        "models.list",
        "node.list",
        "node.pair.list",
        "sessions.list",
        "skills.status",
        "talk.config",
        "tts.providers",
        "tts.status",
        "update.status",
        "voicewake.get",
        "wizard.status",
        "commands.list",
        "tools.catalog",
        "no.such.method",
        "agent.identity.get",
        "skills.bins",
        "usage.status",
        "tasks.list",
        "secrets.list",
        "doctor.memory.status",
    ]
    .into_iter()
    .map(|method| (method, json!({})))
    .collect();
    calls.extend([
        ("sessions.list", json!({ "limit": 2 })),
        ("sessions.list", json!({ "limit": "two" })),
        ("sessions.list", json!({ "unknown": true })),
        ("sessions.preview", json!({ "keys": ["agent:main:none"] })),
        ("sessions.preview", json!({})),
        ("sessions.patch", json!({ "key": "" })),
        (
            "sessions.patch",
            json!({ "key": "agent:main:same", "label": "same" }),
        ),
        (
            "sessions.patch",
            json!({ "key": "agent:main:same", "thinkingLevel": "none such" }),
        ),
        ("sessions.reset", json!({})),
        ("sessions.delete", json!({ "key": "agent:main:none" })),
        ("sessions.resolve", json!({ "key": "agent:main:same" })),
        ("chat.history", json!({ "sessionKey": "agent:main:same" })),
        ("chat.history", json!({ "limit": -1 })),
        ("chat.history", json!({})),
        ("chat.abort", json!({ "sessionKey": "agent:main:none" })),
        ("chat.send", json!({})),
        ("config.set", json!({ "raw": 1 })),
        ("config.patch", json!({})),
        ("cron.add", json!({ "name": 1 })),
        ("cron.remove", json!({ "id": "none" })),
        ("cron.runs", json!({ "id": "none" })),
        ("cron.runs", json!({})),
        ("models.list", json!({ "x": 1 })),
        ("node.describe", json!({ "nodeId": "none" })),
        ("node.invoke", json!({})),
        ("agents.files.list", json!({ "agentId": "none" })),
        (
            "agents.files.get",
            json!({ "agentId": "main", "name": "none" }),
        ),
        ("agent.wait", json!({ "runId": "none", "timeoutMs": 1 })),
        ("agent.wait", json!({})),
        ("wake", json!({})),
        ("system-event", json!({})),
        ("skills.update", json!({})),
        ("web.login.start", json!({ "x": 1 })),
        ("send", json!({})),
    ]);
    if product == Product::Openclaw {
        calls.push(("sessions.describe", json!({ "key": "agent:main:same" })));
    }
    calls
}
