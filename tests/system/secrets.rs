//! No command prints a secret, nor does the daemon's log, its page or a record.

use serde_json::json;

use super::daemon::{Daemon, KEY, UPSTREAM_TOKEN};
use xtask::lab::Host;

const CHAIN_KEY: &str = "chain-key-of-the-tests-0123456789";
const ADMIN_TOKEN: &str = "admin-token-of-the-tests-0123456789";
const SINK: &str = "authorization-of-a-sink-0123456789";

/// Each command that shows something, by words.
const COMMANDS: [&str; 24] = [
    "check",
    "check --json",
    "explain --live --from 192.0.2.2 --syn --tool exec",
    "explain --live --from 192.0.2.2 --syn --json",
    "status",
    "status --json",
    "top --once",
    "key list",
    "key list --json",
    "render openclaw",
    "render clawdbot",
    "ban list",
    "allow list --json",
    "audit tail",
    "audit query --json",
    "audit stats",
    "audit who 192.0.2.2",
    "audit report --html",
    "audit export --format csv",
    "audit export --format ocsf",
    "audit verify",
    "audit alerts --test",
    "audit schema",
    "sandbox exec -- env",
];

#[test]
fn no_command_prints_a_secret() {
    let daemon = Daemon::start("secrets", |config| {
        config["security"]["audit"]["chainKey"] = json!(CHAIN_KEY);
        config["security"]["audit"]["sinks"] = json!([{ "type": "otlp",
            "endpoint": "http://127.0.0.1:4318/v1/logs", "authorization": format!("Bearer {SINK}") }]);
        config["security"]["sandbox"] = json!({ "enabled": true, "provider": "native" });
        config["gateway"]["admin"]["metrics"] = json!("127.0.0.1:9464");
        config["gateway"]["admin"]["token"] = json!(ADMIN_TOKEN);
    });
    let wrong = "a-wrong-key-that-somebody-else-has";
    assert_eq!(daemon.get(Host::Inside, "/").status, 200);
    let header = format!("Authorization: Bearer {wrong}");
    let refused = daemon.curl(Host::Inside, "/v1/models", &["-H", &header]);
    assert_eq!(refused.status, 401);
    daemon.await_record("the refusal", |record| {
        record["reason"] == "credential_unknown"
    });

    let certificate_key = std::fs::read_to_string(daemon.path("key.pem")).expect("read the key");
    let certificate_key = certificate_key
        .lines()
        .nth(1)
        .expect("a line of it")
        .to_owned();
    let secrets = [
        KEY,
        UPSTREAM_TOKEN,
        CHAIN_KEY,
        ADMIN_TOKEN,
        SINK,
        wrong,
        &certificate_key,
    ];
    let told = |what: &str, text: &str| {
        for secret in secrets {
            assert!(!text.contains(secret), "{what} prints {secret}:\n{text}");
        }
    };
    let pin_dir = daemon.pin_dir.display().to_string();
    for command in COMMANDS {
        let mut words: Vec<&str> = command.split_whitespace().collect();
        if words.contains(&"--live") {
            words.extend(["--pin-dir", &pin_dir]);
        }
        let output = daemon.clawsec(&words);
        let text = [output.stdout, output.stderr].concat();
        let text = String::from_utf8_lossy(&text);
        assert!(!text.is_empty(), "{command} says nothing");
        told(command, &text);
        assert!(
            !text.contains("panicked") && output.status.code().is_some_and(|code| code <= 2),
            "{command}: {:?} {text}",
            output.status
        );
    }
    let page = daemon
        .lab
        .command(Host::Gateway, "curl")
        .args(["-sS", "--max-time", "5", "-H"])
        .arg(format!("Authorization: Bearer {ADMIN_TOKEN}"))
        .args(["http://127.0.0.1:9464/", "http://127.0.0.1:9464/metrics"])
        .output()
        .expect("run curl");
    let page = String::from_utf8_lossy(&page.stdout);
    assert!(
        page.contains("<html") && page.contains("clawsec_"),
        "{page}"
    );
    told("the page", &page);
    told("the daemon's log", &daemon.log());
    let log = std::fs::read_to_string(daemon.path("audit.log")).expect("read the log");
    told("the audit log", &log);
}
