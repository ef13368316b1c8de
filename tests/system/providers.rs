//! A provider that is missing or broken: every tool is denied with the reason, nothing runs outside,
//! and `clawsec check` names the remedy.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::daemon::Daemon;
use super::docker;

#[test]
fn a_broken_provider_denies_with_the_reason() {
    let runtime = tokio::runtime::Runtime::new().expect("start a runtime");
    let socket = runtime.block_on(docker::socket_with_image());
    // name, provider's settings, what the refusal and `check` must say
    let rows = [
        (
            "no docker",
            json!({ "provider": "docker", "dockerSocket": "/nonexistent/docker.sock" }),
            "no docker or podman daemon answers at /nonexistent/docker.sock",
        ),
        (
            "no image",
            json!({ "provider": "docker", "dockerSocket": socket, "image": "no/such:image" }),
            "clawsec sandbox image --name no/such:image",
        ),
        (
            "no user",
            json!({ "provider": "native", "user": "no-such-user" }),
            "\"no-such-user\" cannot run tools: it does not exist",
        ),
        (
            "no user for firejail",
            json!({ "provider": "firejail", "user": "no-such-user" }),
            "useradd --create-home --home-dir /home/no-such-user",
        ),
    ];
    let daemon = Daemon::start("broken", |config| {
        config["security"]["sandbox"] = json!({ "enabled": false });
    });
    let marker = daemon.path("outside");
    for (name, settings, expected) in &rows {
        put_in_force(&daemon, settings);
        let command = format!("touch {}", marker.display());
        let denied = daemon.invoke(&json!({ "tool": "exec", "args": { "command": command } }));
        assert_ne!(denied.status, 200, "{name}: {denied:?}");
        assert!(
            denied.body.contains(&expected.replace('"', "\\\"")),
            "{name}: {denied:?}"
        );
        assert!(!marker.exists(), "{name}: it ran outside");
        daemon.await_record("the refusal", |record| {
            record["event"] == "tool"
                && record["reason"] == "sandbox_unavailable"
                && record["detail"]
                    .as_str()
                    .is_some_and(|detail| detail.contains(expected))
        });
        let status = daemon.status();
        let said = status["sandbox"].as_str().unwrap_or_default();
        assert!(
            said.contains("NOT AVAILABLE") && said.contains(expected),
            "{name}: {said}"
        );
        let (code, text) = check(&daemon);
        assert_eq!(code, Some(1), "{name}: {text}");
        assert!(text.contains(expected), "{name}: {text}");
    }
    put_in_force(&daemon, &json!({ "provider": "native" }));
    let executed = daemon.invoke(&json!({ "tool": "exec", "args": { "command": "hostname" } }));
    let body: Value = serde_json::from_str(&executed.body).expect("a JSON body");
    assert_eq!(body["result"]["content"][0]["text"], "sandbox\n", "{body}");
    assert!(!check(&daemon).1.contains("would be denied"));
}

/// Rewrites the file and waits for the generation after.
fn put_in_force(daemon: &Daemon, sandbox: &Value) {
    let generation = || daemon.status()["generation"].as_u64().expect("a number");
    let before = generation();
    daemon.rewrite_config(|config| config["security"]["sandbox"] = sandbox.clone());
    let deadline = Instant::now() + Duration::from_secs(20);
    while generation() == before {
        assert!(Instant::now() < deadline, "no reload:\n{}", daemon.log());
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Exit code and output of `clawsec check` on the daemon's file.
fn check(daemon: &Daemon) -> (Option<i32>, String) {
    let output = daemon.clawsec(&["check"]);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    (output.status.code(), text)
}
