//! What the issue of the spine promises of the real gateway.

use serde_json::{Value, json};
use xtask::lab::{self, Host};

use super::gateway::Protected;
use crate::system::daemon::{KEY, in_namespace};

#[test]
fn its_own_command_line_works_through_clawsec_and_only_with_the_key() {
    let protected = Protected::start("peer", |_| {});
    let daemon = &protected.daemon;

    let healthy = protected.health(KEY);
    let stdout = String::from_utf8_lossy(&healthy.stdout);
    let stderr = String::from_utf8_lossy(&healthy.stderr);
    assert!(
        healthy.status.success(),
        "{stdout}\n{stderr}\n{}",
        daemon.log()
    );
    let start = stdout.find('{').expect("a JSON answer");
    let health: Value = serde_json::from_str(&stdout[start..]).expect("parse the answer");
    assert_eq!(health["ok"], true, "{health}");
    daemon.await_record("the connection", |record| {
        record["event"] == "auth" && record["outcome"] == "allow" && record["action"] == "connect"
    });
    daemon.await_record("the method", |record| {
        record["outcome"] == "allow"
            && record["detail"]
                .as_str()
                .is_some_and(|detail| detail.contains("health"))
    });

    let refused = protected.health("wrong-key-of-thirty-two-characters");
    let text = format!(
        "{}{}",
        String::from_utf8_lossy(&refused.stdout),
        String::from_utf8_lossy(&refused.stderr)
    );
    assert!(!refused.status.success(), "{text}");
    assert!(text.contains("1008"), "closed with 1008: {text}");
    assert!(text.contains("unauthorized"), "{text}");
    daemon.await_record("the wrong key", |record| {
        record["event"] == "auth"
            && record["outcome"] == "deny"
            && record["reason"] == "credential_unknown"
            && record["src"]["ip"] == lab::CLIENT_INSIDE
    });

    // The upstream token opens nothing from outside: clients never learn it, nor may use it.
    assert!(
        !protected
            .health(crate::system::daemon::UPSTREAM_TOKEN)
            .status
            .success()
    );

    let allowed =
        protected.invoke(&json!({ "tool": "sessions_list", "action": "json", "args": {} }));
    assert_eq!(allowed.status, 200, "{allowed:?}");
    let body: Value = serde_json::from_str(&allowed.body).expect("a JSON body");
    assert_eq!(body["ok"], true, "the gateway's own answer: {body}");
    assert_eq!(
        body["result"]["details"]["count"], 0,
        "the gateway's own answer: {body}"
    );

    let denied = protected.invoke(&json!({ "tool": "browser", "args": {} }));
    assert_eq!(denied.status, 404, "{denied:?}");
    let ours: Value = serde_json::from_str(&denied.body).expect("a JSON body");
    let unknown = protected.invoke(&json!({ "tool": "no_such_tool", "args": {} }));
    assert_eq!(unknown.status, 404, "{unknown:?}");
    let theirs = unknown.body.replace("no_such_tool", "browser");
    let theirs: Value = serde_json::from_str(&theirs).expect("a JSON body");
    assert_eq!(
        ours, theirs,
        "a denied tool looks exactly like one that does not exist"
    );
    daemon.await_record("the denied tool", |record| {
        record["event"] == "tool" && record["reason"] == "tool_denied"
    });
    daemon.await_record("the allowed tool", |record| {
        record["event"] == "tool"
            && record["outcome"] == "allow"
            && record["tool"]["name"] == "sessions_list"
    });

    let address = format!("{}:8443", lab::GATEWAY_OUTSIDE)
        .parse()
        .expect("parse");
    let never = in_namespace(&daemon.lab, Host::Outside, || {
        std::net::TcpStream::connect_timeout(&address, std::time::Duration::from_secs(2)).map(drop)
    });
    assert!(never.is_err(), "{address} answers a stranger");
    daemon.await_record("the stranger's drop", |record| {
        record["event"] == "network" && record["src"]["ip"] == lab::CLIENT_OUTSIDE
    });
}
