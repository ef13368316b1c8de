//! What the issue of the spine promises of the real gateway.

use serde_json::{Value, json};
use xtask::lab::{self, Host};

use super::gateway::Protected;
use super::product::Product;
use crate::system::daemon::in_namespace;

#[test]
fn tools_are_invoked_and_strangers_are_not_answered() {
    let protected = Protected::start(Product::Clawdbot, "peer", |_| {});
    let daemon = &protected.daemon;

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
