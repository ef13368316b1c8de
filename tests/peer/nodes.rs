//! A node connects through clawsec with clawsec's key, and the agent's `exec` runs on it.

use serde_json::json;

use super::gateway::{Protected, with_key};
use super::product::Product;
use crate::system::daemon::KEY;

const READER: &str = "reader-key-of-thirty-two-characters";

#[test]
fn clawdbots_node_serves_through_clawsec() {
    serves_through_clawsec(Product::Clawdbot);
}

#[test]
fn openclaws_node_serves_through_clawsec() {
    serves_through_clawsec(Product::Openclaw);
}

fn serves_through_clawsec(product: Product) {
    let protected = Protected::start(product, "nodes", |config| {
        config["security"]["auth"] = json!({ "type": "token", "tokens": [
            KEY, { "id": "reader", "token": READER, "scopes": ["operator.read"] },
        ]});
    });
    let mut node = with_key(KEY, &json!([]));
    node["role"] = json!("node");
    node["scopes"] = json!([]);
    node["client"] = json!({ "id": "node-host", "displayName": "clawsec-test", "mode": "node" });
    node["caps"] = json!(["system"]);
    node["commands"] = json!([
        "system.run",
        "system.run.prepare",
        "system.which",
        "system.execApprovals.get",
        "system.execApprovals.set"
    ]);
    node["deviceFile"] = json!(protected.file("node.pem"));
    let serving = protected.spawn_client(&node);
    protected.daemon.await_record("the node", |record| {
        record["action"] == "connect"
            && record["outcome"] == "allow"
            && record["detail"]
                .as_str()
                .is_some_and(|detail| detail.contains("node-host"))
    });
    if product == Product::Openclaw {
        approve_the_node(&protected);
    }
    let model = format!("{}/main", product.name());
    let question =
        json!({ "model": model, "messages": [{ "role": "user", "content": "run: uname -s" }] });
    let answer = protected.post(KEY, "/v1/chat/completions", &question, &[]);
    assert!(
        answer.body.contains("node ran uname -s"),
        "{answer:?}\n{}",
        protected.logs()
    );

    // A key that is no administrator's brings no node.
    node["auth"] = json!({ "token": READER });
    let refused = protected.client(&node);
    assert_eq!(
        refused.hello()["error"]["message"],
        "unauthorized role: node",
        "{refused:?}"
    );
    assert_eq!(refused.close().0, 1008);
    serving.end();
}

/// The newer gateway asks an operator first.
fn approve_the_node(protected: &Protected) {
    let asks = |calls: &serde_json::Value| {
        let mut options = with_key(KEY, calls);
        options["scopes"] = json!(["operator.admin"]);
        protected.client(&options)
    };
    let pending = asks(&json!([["node.pair.list", {}]]));
    assert_eq!(pending.answers().len(), 1, "{pending:?}");
    let request = pending.answers()[0]["payload"]["pending"][0]["requestId"].clone();
    assert!(request.is_string(), "{pending:?}");
    let approved = asks(&json!([["node.pair.approve", { "requestId": request }]]));
    assert_eq!(approved.answers()[0]["ok"], true, "{approved:?}");
}
