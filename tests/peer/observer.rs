//! What happens past clawsec is recorded: a run that never crossed it, told by the gateway itself.

use serde_json::json;
use xtask::lab::Host;

use super::gateway::Protected;
use super::product::Product;
use crate::system::daemon::UPSTREAM_TOKEN;

const USER: &str = "+15551234567";

#[test]
fn what_reaches_clawdbot_past_clawsec_is_recorded() {
    // The older one tells tool calls only where it is talkative.
    let defaults = "agents: { defaults: { verboseDefault: \"on\",";
    let configuration = Product::Clawdbot.configuration();
    is_recorded(
        Product::Clawdbot,
        &configuration.replace("agents: { defaults: {", defaults),
    );
}

#[test]
fn what_reaches_openclaw_past_clawsec_is_recorded() {
    is_recorded(Product::Openclaw, Product::Openclaw.configuration());
}

fn is_recorded(product: Product, configuration: &str) {
    let mut protected = Protected::start_with(product, "observe", configuration, |config| {
        config["gateway"]
            .as_object_mut()
            .expect("an object")
            .remove("observe");
    });
    let daemon = &protected.daemon;
    daemon.await_record("the observer", |record| {
        record["action"] == "observer" && record["reason"] == "connected"
    });
    let state = daemon.status()["observer"].to_string();
    assert!(state.contains("connected, protocol"), "{state}");

    // On the gateway's own host, past clawsec, as a channel's message would be.
    let model = format!("{}/main", product.name());
    let question = json!({ "model": model, "user": USER,
        "messages": [{ "role": "user", "content": "secret tool: session_status {}" }] });
    let output = daemon
        .lab
        .command(Host::Gateway, "curl")
        .args(["-sS", "--max-time", "60", "--json", &question.to_string()])
        .args(["-H", &format!("Authorization: Bearer {UPSTREAM_TOKEN}")])
        .arg("http://127.0.0.1:18789/v1/chat/completions")
        .output()
        .expect("run curl");
    let answer = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(answer.contains("\"choices\""), "{answer}");

    let call = daemon.await_record("the tool call", |record| {
        record["event"] == "tool" && record["action"] == "observed"
    });
    assert_eq!(call["tool"]["name"], "session_status", "{call}");
    assert_eq!(call["user"], USER, "{call}");
    assert_eq!(call["agent"], "main", "{call}");
    assert!(call["duration_ms"].is_u64(), "{call}");
    let run = daemon.await_record("the run", |record| {
        record["event"] == "message" && record["action"] == "observed"
    });
    assert_eq!(run["outcome"], "allow", "{run}");
    assert_eq!(run["user"], USER, "{run}");
    assert_eq!(run["request"], call["request"], "one run's records");
    let audit = daemon.audit();
    assert!(
        !audit.iter().any(|r| r.to_string().contains("secret")),
        "what is said is not recorded: {audit:?}"
    );
    let observed = audit.iter().filter(|r| r["action"] == "observed");
    assert_eq!(observed.count(), 2, "{audit:?}");
    let through = audit
        .iter()
        .filter(|r| r["user"] == USER && r["action"] != "observed");
    assert_eq!(through.count(), 0, "nothing of it crossed clawsec");

    // Without the gateway it says so.
    protected.kill_gateway();
    let daemon = &protected.daemon;
    daemon.await_record("the loss", |record| {
        record["action"] == "observer" && record["reason"] == "away"
    });
    let state = daemon.status()["observer"].to_string();
    assert!(state.contains("NOT CONNECTED"), "{state}");
}
