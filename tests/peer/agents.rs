//! Two keys, each bound to an agent of its own: neither names nor sees what is the other's.

use serde_json::{Value, json};

use super::gateway::{Protected, with_key};
use super::product::Product;
use crate::system::daemon::KEY;

const WORK: &str = "work-key-of-thirty-two-characters!!";
const MAIN: &str = "main-key-of-thirty-two-characters!!";

#[test]
fn clawdbots_agents_do_not_see_each_other() {
    do_not_see_each_other(Product::Clawdbot);
}

#[test]
fn openclaws_agents_do_not_see_each_other() {
    do_not_see_each_other(Product::Openclaw);
}

fn do_not_see_each_other(product: Product) {
    let protected = Protected::start(product, "agents", |config| {
        config["security"]["auth"] = json!({ "type": "token", "tokens": [
            KEY, { "id": "work", "token": WORK }, { "id": "main", "token": MAIN },
        ]});
        config["agents"] = json!({ "list": [
            { "id": "main", "default": true, "tokens": ["main"] },
            { "id": "work", "tokens": ["work"] },
        ]});
    });
    let session = |agent: &str| format!("agent:{agent}:main");
    let say = |agent: &str, text: &str| {
        json!(["agent", { "message": text, "sessionKey": session(agent), "deliver": false,
                          "idempotencyKey": format!("{agent}-{text}") }])
    };

    // One connection watches while the other agent works.
    let subscribe = json!(["sessions.subscribe", {}]);
    let calls = match product {
        Product::Clawdbot => json!([["health", {}]]),
        Product::Openclaw => json!([["health", {}], subscribe]),
    };
    let watcher = protected.spawn_client(&with_key(WORK, &calls));
    protected.daemon.await_record("the watcher", |record| {
        record["principal"] == "work" && record["detail"] == "health"
    });
    let spoken = protected.client(&with_key(MAIN, &json!([say("main", "secret of main")])));
    let last = spoken
        .answers()
        .last()
        .copied()
        .cloned()
        .unwrap_or_default();
    assert_eq!(last["ok"], true, "{spoken:?}\n{}", protected.logs());
    let own = protected.client(&with_key(WORK, &json!([say("work", "secret of work")])));
    assert_eq!(
        own.answers().last().expect("an answer")["ok"],
        true,
        "{own:?}"
    );

    let names = json!([
        ["chat.history", { "sessionKey": session("main") }],
        ["chat.history", { "sessionKey": "main" }],
        ["chat.send", { "sessionKey": session("main"), "message": "x", "idempotencyKey": "a" }],
        ["agent", { "agentId": "main", "message": "x", "idempotencyKey": "b" }],
        ["agent", { "message": "x", "idempotencyKey": "c" }],
        ["agent", { "agentId": "work", "spawnedBy": session("main"), "message": "x", "idempotencyKey": "d" }],
        ["sessions.list", { "agentId": "main" }],
        ["sessions.preview", { "keys": [session("work"), session("main")] }],
        ["logs.tail", {}],
        ["cron.list", {}],
    ]);
    let denied = protected.client(&with_key(WORK, &names));
    let answers = denied.answers();
    assert_eq!(answers.len(), 10, "{denied:?}");
    for (call, answer) in names.as_array().into_iter().flatten().zip(&answers) {
        assert_eq!(
            answer["error"]["message"], "agent not allowed",
            "{call}: {answer}"
        );
    }

    let shown = json!([
        ["health", {}],
        ["status", {}],
        ["agents.list", {}],
        ["sessions.list", {}],
        ["chat.history", { "sessionKey": session("work") }],
        ["sessions.preview", { "keys": [session("work")] }],
    ]);
    let work = protected.client(&with_key(WORK, &shown));
    assert!(
        work.answers().iter().all(|answer| answer["ok"] == true),
        "{work:?}"
    );
    let sessions = &work.answers()[3]["payload"];
    let keys: Vec<&Value> = sessions["sessions"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|s| &s["key"])
        .collect();
    assert_eq!(keys, ["agent:work:main"], "{sessions}");
    assert_eq!(sessions["count"], 1, "{sessions}");
    let agents = &work.answers()[2]["payload"]["agents"];
    assert_eq!(agents.as_array().map(Vec::len), Some(1), "{agents}");
    assert!(
        format!("{:?}", work.answers()[4]).contains("secret of work"),
        "{work:?}"
    );

    // The same over HTTP: a tool's list, by text and by details.
    let call = |agent: &str| json!({ "tool": "sessions_list", "sessionKey": session(agent), "action": "json", "args": {} });
    let listed = protected.post(WORK, "/tools/invoke", &call("work"), &[]);
    assert_eq!(listed.status, 200, "{listed:?}");
    let others = protected.post(WORK, "/tools/invoke", &call("main"), &[]);
    assert_eq!(others.status, 403, "{others:?}");
    let history = json!({ "tool": "sessions_history", "sessionKey": session("work"), "args": { "sessionKey": session("main") } });
    assert_eq!(
        protected.post(WORK, "/tools/invoke", &history, &[]).status,
        403
    );
    // Only the headers of the gateway's own spelling are read by it: clawsec says all of them.
    let answered = protected.post(
        WORK,
        "/v1/chat/completions",
        &json!({ "messages": [{ "role": "user", "content": "over http" }] }),
        &["-H", "x-moltbot-agent-id: work"],
    );
    assert_eq!(answered.status, 200, "{answered:?}");
    let unnamed = json!({ "messages": [{ "role": "user", "content": "x" }] });
    assert_eq!(
        protected
            .post(WORK, "/v1/chat/completions", &unnamed, &[])
            .status,
        403
    );
    let all = protected.client(&with_key(KEY, &json!([["sessions.list", {}]])));
    let all = format!("{:?}", all.answers());
    assert!(all.contains("agent:work:openai"), "{all}");
    assert!(!all.contains("agent:main:openai"), "{all}");

    let watched = watcher.end();
    let is_own = |event: &&&Value| event["event"] == "agent";
    assert!(
        own.events().iter().any(|event| is_own(&event)),
        "its own events: {own:?}"
    );
    for (what, text) in [
        ("hello and events", &*watched),
        ("answers", &format!("{work:?}")),
        ("tools", &listed.body),
    ] {
        for name in [
            "agent:main",
            "secret of main",
            "/agents/main",
            "\"main\"},",
            "192.0.2.2",
        ] {
            assert!(!text.contains(name), "{what}: {name} in {text}");
        }
    }
    protected.daemon.await_record("the denials", |record| {
        record["principal"] == "work" && record["reason"] == "agent_not_allowed"
    });
}
