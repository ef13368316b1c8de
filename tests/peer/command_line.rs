//! Each gateway's own command line through clawsec: with clawsec's key it works, without it is
//! refused in its own words.

use serde_json::{Value, json};
use xtask::lab;

use super::gateway::{Protected, with_key};
use super::product::Product;
use crate::system::daemon::{KEY, UPSTREAM_TOKEN};

const APPROVER: &str = "approver-key-of-thirty-two-character";
const SPARE: &str = "spare-key-of-thirty-two-characters!";

#[test]
fn clawdbot_works_with_the_key_only() {
    works_with_the_key_only(Product::Clawdbot);
}

#[test]
fn openclaw_works_with_the_key_only() {
    works_with_the_key_only(Product::Openclaw);
}

/// openclaw's `trusted-proxy` mode: no token between the two, and each key by its name.
#[test]
fn openclaw_believes_the_proxy() {
    let product = Product::Openclaw;
    let token = r#"auth: { mode: "token", token: "${OPENCLAW_TEST_TOKEN}" },"#;
    let proxy = r#"trustedProxies: ["127.0.0.1"], auth: { mode: "trusted-proxy", password: "password-of-the-own-host-only",
        trustedProxy: { userHeader: "x-forwarded-user", allowLoopback: true } },"#;
    let configuration = product.configuration().replace(token, proxy);
    assert!(configuration.contains("trusted-proxy"));
    let protected = Protected::start_with(product, "proxy", &configuration, |config| {
        let gateway = config["gateway"].as_object_mut().expect("an object");
        gateway.remove("upstreamToken");
        gateway.insert("upstreamAuth".to_owned(), json!("trustedProxy"));
        gateway.remove("observe");
    });
    // To a gateway that knows clients by name, a new device is one to be approved, clawsec's own,
    // too: what it says to run is what helps.
    let observer = |reason: &'static str| {
        let is = move |record: &Value| record["action"] == "observer" && record["reason"] == reason;
        protected.daemon.await_record(reason, is)
    };
    let waits = observer("pairing_required");
    let command = waits["detail"].as_str().and_then(|d| d.split('`').nth(1));
    let command = command.expect("a command").strip_prefix("openclaw ");
    let words: Vec<&str> = command.expect("its own").split(' ').collect();
    let approved = protected.on_its_host(&words);
    assert!(approved.status.success(), "{approved:?}");
    observer("connected");
    let call = json!({ "tool": "sessions_list", "action": "json", "args": {} });
    let listed = protected.invoke(&call);
    assert_eq!(listed.status, 200, "{listed:?}\n{}", protected.logs());
    // A client's new device is one to be approved, once, as the gateway itself tells it.
    let connect = || protected.client(&with_key(KEY, &json!([["health", {}]])));
    let unpaired = connect();
    let error = &unpaired.hello()["error"];
    assert_eq!(error["code"], "NOT_PAIRED", "{unpaired:?}");
    assert_eq!(unpaired.close().0, 1008, "{unpaired:?}");
    let request = error["details"]["requestId"].as_str().expect("an id");
    let approved = protected.on_its_host(&["devices", "approve", request]);
    assert!(approved.status.success(), "{approved:?}");
    let heard = connect();
    assert_eq!(heard.hello()["ok"], true, "{heard:?}\n{}", protected.logs());
    let wrong = protected.client(&with_key("wrong", &json!([])));
    assert_eq!(wrong.close().0, 1008, "{wrong:?}");
}

fn works_with_the_key_only(product: Product) {
    let protected = Protected::start(product, "cli", |config| {
        config["security"]["auth"] = json!({ "type": "token", "tokens": [
            KEY, { "id": "spare", "token": SPARE },
            { "id": "approver", "token": APPROVER, "scopes": ["operator.approvals"] },
        ]});
    });
    let daemon = &protected.daemon;

    let rows: [(&str, Value, &str); 4] = [
        ("health", json!({}), "/ok"),
        ("sessions.list", json!({}), "/sessions"),
        ("config.get", json!({}), "/hash"),
        ("agents.list", json!({}), "/agents"),
    ];
    for (method, params, pointer) in rows {
        let answer = protected.answer(KEY, method, &params);
        assert!(answer.pointer(pointer).is_some(), "{method}: {answer}");
        daemon.await_record(method, |record| {
            record["outcome"] == "allow" && record["detail"] == method
        });
    }
    daemon.await_record("the connection", |record| {
        record["event"] == "auth" && record["outcome"] == "allow" && record["action"] == "connect"
    });

    let turn = [
        "agent",
        "--agent",
        "main",
        "--message",
        "say it",
        "--json",
        "--timeout",
        "60",
    ];
    let spoken = protected.remote(KEY, &turn);
    let stdout = String::from_utf8_lossy(&spoken.stdout);
    assert!(
        spoken.status.success() && stdout.contains("echo:"),
        "{stdout}\n{}\n{}",
        String::from_utf8_lossy(&spoken.stderr),
        protected.logs()
    );

    // What a key may not do is said in the command line's own words.
    for method in ["sessions.list", "config.get"] {
        let text = protected.refusal(APPROVER, method, &json!({}));
        assert!(text.contains("missing scope: operator."), "{text}");
        daemon.await_record(method, |record| {
            record["reason"] == "scope_missing" && record["detail"] == method
        });
    }
    // `sessions` and `config get` read files of their own host and ask no gateway: a wrong key is
    // none to them.
    for (words, shown) in [
        (["sessions", "--json"].as_slice(), "\"sessions\""),
        (["config", "get", "gateway.mode"].as_slice(), "remote"),
    ] {
        let local = protected.remote("wrong-key-of-thirty-two-characters", words);
        let stdout = String::from_utf8_lossy(&local.stdout);
        assert!(
            local.status.success() && stdout.contains(shown),
            "{words:?}: {local:?}"
        );
    }

    // A key that is taken out of the configuration ends its live connections.
    let live = protected.spawn_client(&with_key(SPARE, &json!([["health", {}]])));
    daemon.await_record("the spare key", |record| {
        record["principal"] == "spare" && record["detail"] == "health"
    });
    daemon.rewrite_config(|config| config["security"]["auth"]["tokens"] = json!([KEY]));
    let heard = live.until_closed();
    assert_eq!(heard.close().0, 1008, "{heard:?}");
    daemon.await_record("the revocation", |record| {
        record["action"] == "revoke" && record["principal"] == "spare"
    });

    // The upstream token opens nothing from outside: clients never learn it, nor may use it.
    for wrong in ["wrong-key-of-thirty-two-characters", UPSTREAM_TOKEN] {
        let text = protected.refusal(wrong, "health", &json!({}));
        assert!(
            text.contains("unauthorized: gateway token mismatch"),
            "{text}"
        );
        // The newer command line shows the answer and not the close code; the wire has both.
        let heard = protected.client(&with_key(wrong, &json!([])));
        assert_eq!(heard.hello()["ok"], false, "{heard:?}");
        assert_eq!(heard.close().0, 1008, "{heard:?}");
    }
    daemon.await_record("the wrong key", |record| {
        record["event"] == "auth"
            && record["outcome"] == "deny"
            && record["reason"] == "credential_unknown"
            && record["src"]["ip"] == lab::CLIENT_INSIDE
    });
}
