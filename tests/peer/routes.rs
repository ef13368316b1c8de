//! The HTTP API of both gateways through clawsec: tools, model calls streamed, hooks; and the
//! same denied.

use serde_json::{Value, json};

use super::gateway::Protected;
use super::product::Product;
use crate::system::daemon::{KEY, UPSTREAM_TOKEN};

const READER: &str = "reader-key-of-thirty-two-characters";
const PHONE: &str = "phone-key-of-thirty-two-characters!";
const HOOK: &str = "hook-token-of-thirty-two-characters";
const NUMBER: &str = "+15551234567";

#[test]
fn clawdbots_answer_and_are_denied() {
    answer_and_are_denied(Product::Clawdbot);
}

#[test]
fn openclaws_answer_and_are_denied() {
    answer_and_are_denied(Product::Openclaw);
}

fn answer_and_are_denied(product: Product) {
    let protected = Protected::start(product, "routes", |config| {
        config["security"]["auth"] = json!({ "type": "token", "tokens": [
            KEY,
            { "id": "reader", "token": READER, "scopes": ["operator.read"] },
            { "id": "phone", "token": PHONE, "user": NUMBER, "groups": ["1@g.us"],
              "tools": { "deny": ["group:sessions"] } },
        ]});
        config["security"]["users"] = json!({ "allowList": [NUMBER, "+15550000001"] });
    });
    let model = format!("{}/main", product.name());
    let question = |text: &str, stream: bool| {
        json!({ "model": model, "user": NUMBER, "stream": stream,
                "messages": [{ "role": "user", "content": text }] })
    };

    let streamed = protected.post(
        KEY,
        "/v1/chat/completions",
        &question("say it", true),
        &["-N"],
    );
    assert_eq!(streamed.status, 200, "{streamed:?}");
    assert!(streamed.body.contains("data: "), "{streamed:?}");
    assert!(streamed.body.contains("echo:"), "{streamed:?}");
    assert!(
        streamed.body.trim_end().ends_with("data: [DONE]"),
        "{streamed:?}"
    );

    let whole = protected.post(
        PHONE,
        "/v1/responses",
        &json!({ "model": model, "user": NUMBER, "input": "hello" }),
        &[],
    );
    assert_eq!(whole.status, 200, "{whole:?}");
    assert!(whole.body.contains("echo:"), "{whole:?}");

    let forbidden = json!({ "error": { "message": "Forbidden", "type": "forbidden" } });
    let unauthorized = json!({ "error": { "message": "Unauthorized", "type": "unauthorized" } });
    let chat = "/v1/chat/completions";
    let other = |user: &str| {
        let mut body = question("x", false);
        body["user"] = json!(user);
        body
    };
    let response = |user: &str| json!({ "model": model, "user": user, "input": "x" });
    let rows: [(&str, &str, &str, Value, u16, &Value, &str); 9] = [
        (
            "a response without a key of clawsec's",
            UPSTREAM_TOKEN,
            "/v1/responses",
            response(NUMBER),
            401,
            &unauthorized,
            "credential_unknown",
        ),
        (
            "a reader's response",
            READER,
            "/v1/responses",
            response(NUMBER),
            403,
            &forbidden,
            "scope_missing",
        ),
        (
            "a response for another's number",
            PHONE,
            "/v1/responses",
            response("+15550000001"),
            403,
            &forbidden,
            "user_not_allowed",
        ),
        (
            "the upstream's own",
            UPSTREAM_TOKEN,
            chat,
            question("x", false),
            401,
            &unauthorized,
            "credential_unknown",
        ),
        (
            "a reader",
            READER,
            chat,
            question("x", false),
            403,
            &forbidden,
            "scope_missing",
        ),
        (
            "another's number",
            PHONE,
            chat,
            other("+15550000001"),
            403,
            &forbidden,
            "user_not_allowed",
        ),
        (
            "a stranger's number",
            KEY,
            chat,
            other("+19999999999"),
            403,
            &forbidden,
            "user_not_allowed",
        ),
        (
            "another group",
            PHONE,
            "/hooks/agent",
            json!({ "message": "x", "sessionKey": "agent:main:whatsapp:group:2@g.us" }),
            403,
            &forbidden,
            "group_not_allowed",
        ),
        (
            "a reader's hook",
            READER,
            "/hooks/wake",
            json!({ "text": "x" }),
            403,
            &forbidden,
            "scope_missing",
        ),
    ];
    for (name, key, path, body, status, expected, reason) in rows {
        let denied = protected.post(key, path, &body, &[]);
        assert_eq!(denied.status, status, "{name}: {denied:?}");
        let body: Value = serde_json::from_str(&denied.body).expect("a JSON body");
        assert_eq!(&body, expected, "{name}");
        protected.daemon.await_record(name, |record| {
            record["outcome"] == "deny" && record["reason"] == reason
        });
    }

    // Hooks have a token of their own, which goes through beside clawsec's key.
    let token = format!("x-{}-token: {HOOK}", product.name());
    let x_api_key = format!("x-api-key: {KEY}");
    let hook = |body: &Value, path: &str, token: &str| {
        let body = body.to_string();
        let arguments = ["-H", token, "-H", &x_api_key, "--json", &body];
        protected
            .daemon
            .curl(xtask::lab::Host::Inside, path, &arguments)
    };
    let woken = hook(&json!({ "text": "wake up" }), "/hooks/wake", &token);
    assert_eq!(woken.status, 200, "{woken:?}");
    let ran = hook(
        &json!({ "message": "hi", "deliver": false }),
        "/hooks/agent",
        &token,
    );
    assert!(matches!(ran.status, 200 | 202), "{ran:?}");
    let wrong = format!("x-{}-token: wrong", product.name());
    assert_eq!(
        hook(&json!({ "text": "x" }), "/hooks/wake", &wrong).status,
        401,
        "the gateway's own word"
    );

    let call = json!({ "tool": "sessions_list", "action": "json", "args": {} });
    let listed = protected.invoke(&call);
    assert_eq!(listed.status, 200, "{listed:?}");
    let denied = protected.post(PHONE, "/tools/invoke", &call, &[]);
    assert_eq!(denied.status, 404, "{denied:?}");
    let body: Value = serde_json::from_str(&denied.body).expect("a JSON body");
    assert_eq!(
        body,
        json!({ "ok": false, "error": { "type": "not_found", "message": "Tool not available: sessions_list" } })
    );
    protected.daemon.await_record("the tool", |record| {
        record["event"] == "tool"
            && record["principal"] == "phone"
            && record["reason"] == "tool_denied"
    });
}
