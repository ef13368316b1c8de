//! clawsec as the gateways' node: what their agents `exec` runs in clawsec's sandbox or nowhere.

use serde_json::{Value, json};
use xtask::lab::Host;

use super::gateway::Protected;
use super::product::Product;
use crate::system::daemon::{KEY, UPSTREAM_TOKEN};
use crate::system::docker;

const FRIEND: &str = "+15551234567";
const STRANGER: &str = "+15559999999";

#[test]
fn clawdbots_agent_runs_commands_in_the_sandbox() {
    runs_in_the_sandbox(Product::Clawdbot);
}

#[test]
fn openclaws_agent_runs_commands_in_the_sandbox() {
    runs_in_the_sandbox(Product::Openclaw);
}

fn runs_in_the_sandbox(product: Product) {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let socket = runtime.block_on(docker::socket_with_image());
    let configuration = product.configuration().replace("clawsec-test", "clawsec");
    let mut protected = Protected::start_with(product, "box", &configuration, |config| {
        config["security"]["sandbox"] = json!({ "enabled": true, "provider": "docker",
            "image": docker::IMAGE, "dockerSocket": socket, "nodeHost": { "enabled": true } });
        config["security"]["users"] = json!({ "allowList": [FRIEND] });
    });
    protected
        .daemon
        .await_record("the node", |record| record["action"] == "node");
    if product == Product::Openclaw {
        approve(&protected);
    }

    // A chat through clawsec; its answer shows where the command ran.
    let look = "echo user=$(id -u) host=$(hostname) net=$(ls /sys/class/net | tr '\\n' ,); \
                touch /etc/x 2>&1; echo wrote=$?";
    let answer = protected.post(
        KEY,
        "/v1/chat/completions",
        &question(product, FRIEND, look),
        &[],
    );
    let said = answer_of(&answer.body);
    let logs = || format!("{said}\n{}", protected.logs());
    assert!(said.contains("user=65534"), "{}", logs());
    assert!(said.contains("net=lo,"), "{}", logs());
    assert!(said.contains("Read-only file system"), "{}", logs());
    assert!(said.contains("wrote=1"), "{}", logs());
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").expect("the host's name");
    assert!(said.contains("host="), "{}", logs());
    assert!(
        !said.contains(&format!("host={}", host.trim())),
        "{}",
        logs()
    );
    let record = protected.daemon.await_record("the execution", |record| {
        record["action"] == "invoke" && record["sandbox"]["provider"] == "docker"
    });
    assert_eq!(record["principal"], "gateway", "{record}");
    assert_eq!(record["user"], FRIEND, "{record}");
    assert_eq!(record["agent"], "main", "{record}");
    assert_eq!(record["tool"]["name"], "exec", "{record}");

    // A user that a channel lets in and clawsec's list does not.
    let said = ask_past_clawsec(&protected, STRANGER, "echo $((40+2))-ran");
    assert!(!said.contains("42-ran"), "{said}");
    assert!(
        said.contains("clawsec's policy does not let this session run commands"),
        "{said}\n{}",
        protected.logs()
    );
    let denial = protected.daemon.await_record("the denial", |record| {
        record["action"] == "invoke" && record["outcome"] == "deny"
    });
    assert_eq!(denial["reason"], "user_not_allowed", "{denial}");
    assert_eq!(denial["user"], STRANGER, "{denial}");
    assert!(!said.contains("may have executed"), "{said}");
    let denials = protected.daemon.audit();
    let denials = denials.iter().filter(|r| r["reason"] == "user_not_allowed");
    assert_eq!(denials.count(), 1, "denied once, before it was to run");

    // More than a frame of the older gateway's holds, each character of which takes seven.
    let flood = "head -c 300000 /dev/zero | tr '\\000' '\\001'; echo end";
    ask_past_clawsec(&protected, FRIEND, flood);
    let away = |record: &Value| record["action"] == "node" && record["reason"] == "away";
    assert!(
        !protected.daemon.audit().iter().any(away),
        "{}",
        protected.logs()
    );

    // Past clawsec a friend's command still runs in the sandbox.
    let said = ask_past_clawsec(&protected, FRIEND, "echo $((40+2))-ran-$(id -u)");
    assert!(
        said.contains("42-ran-65534"),
        "{said}\n{}",
        protected.logs()
    );

    // Without clawsec it runs nowhere.
    protected.daemon.stop();
    let said = ask_past_clawsec(&protected, FRIEND, "echo $((40+2))-ran");
    assert!(!said.contains("42-ran"), "{said}");
    assert!(said.contains("node"), "the agent is told why: {said}");
}

fn question(product: Product, user: &str, command: &str) -> Value {
    json!({ "model": format!("{}/main", product.name()), "user": user,
        "messages": [{ "role": "user", "content": format!("run: {command}") }] })
}

/// What the agent said at last.
fn answer_of(body: &str) -> String {
    let body: Value = serde_json::from_str(body).unwrap_or_default();
    let said = &body["choices"][0]["message"]["content"];
    said.as_str()
        .map_or_else(|| body.to_string(), str::to_owned)
}

/// On the gateway's own host, as a channel's message would be.
fn ask_past_clawsec(protected: &Protected, user: &str, command: &str) -> String {
    let question = question(protected.product, user, command);
    let output = protected
        .daemon
        .lab
        .command(Host::Gateway, "curl")
        .args(["-sS", "--max-time", "60", "--json", &question.to_string()])
        .args(["-H", &format!("Authorization: Bearer {UPSTREAM_TOKEN}")])
        .arg("http://127.0.0.1:18789/v1/chat/completions")
        .output()
        .expect("run curl");
    answer_of(&String::from_utf8_lossy(&output.stdout))
}

/// Runs the very command that `status` prints.
fn approve(protected: &Protected) {
    let waits = protected.daemon.await_record("the approval", |record| {
        record["action"] == "node" && record["reason"] == "pairing_required"
    });
    let status = protected.daemon.status()["node"].to_string();
    let detail = waits["detail"].as_str().expect("a remedy");
    assert!(status.contains(detail), "{status}");
    let command = detail.split('`').nth(1).expect("a command");
    let words: Vec<&str> = command.split(' ').collect();
    assert_eq!(words[..3], ["openclaw", "nodes", "approve"], "{command}");
    let output = protected.on_its_host(&words[1..]);
    assert!(output.status.success(), "{output:?}\n{}", protected.logs());
    protected
        .daemon
        .await_record("the approved node", |record| {
            record["action"] == "node"
                && record["reason"] == "connected"
                && record["seq"].as_u64() > waits["seq"].as_u64()
        });
}
