//! A provider that is missing or broken: every tool is denied with the reason, nothing runs outside,
//! and `clawsec check` names the remedy.

use std::time::{Duration, Instant};

use clawsec_user::sandbox::build_image;
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
            "no runtime",
            json!({ "provider": "docker", "dockerSocket": socket, "image": docker::IMAGE, "runtime": "runsc" }),
            "register it in /etc/docker/daemon.json",
        ),
        (
            "no network",
            json!({ "provider": "docker", "dockerSocket": socket, "image": docker::IMAGE, "network": "nowhere" }),
            "docker network create --internal nowhere",
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
        assert!(
            text.contains(expected) && text.contains("sandbox.broken"),
            "{name}: {text}"
        );
    }
    put_in_force(&daemon, &json!({ "provider": "native" }));
    let executed = daemon.invoke(&json!({ "tool": "exec", "args": { "command": "hostname" } }));
    let body: Value = serde_json::from_str(&executed.body).expect("a JSON body");
    assert_eq!(body["result"]["content"][0]["text"], "sandbox\n", "{body}");
    assert!(!check(&daemon).1.contains("sandbox.broken"));
}

/// Each agent's calls run in its own sandbox: provider, folder, limits; a broken one denies its own
/// agent and no other.
#[test]
fn each_agent_has_its_own_sandbox() {
    let runtime = tokio::runtime::Runtime::new().expect("start a runtime");
    let socket = runtime.block_on(docker::socket_with_image());
    super::sandbox::make_user();
    let folder = super::sandbox::workspace();
    std::fs::write(folder.path().join("given"), "the agent's\n").expect("write");
    let daemon = Daemon::start("agents", |config| {
        config["security"]["sandbox"] = json!({
            "provider": "native", "image": docker::IMAGE, "dockerSocket": socket,
        });
        config["agents"] = json!({ "list": [
            { "id": "work", "workspace": folder.path(), "sandbox": { "provider": "docker", "workspace": "ro", "pool": 1 } },
            { "id": "desk", "workspace": folder.path(), "sandbox": { "workspace": "rw", "timeout": 500 } },
            { "id": "lost", "sandbox": { "provider": "docker", "image": "no/such:image" } },
        ]});
    });
    let run = |agent: &str, command: &str| {
        let session = format!("agent:{agent}:main");
        let call = json!({ "tool": "exec", "sessionKey": session, "args": { "command": command } });
        daemon.invoke(&call)
    };
    let text = |agent: &str, command: &str| {
        let answer = run(agent, command);
        let body: Value = serde_json::from_str(&answer.body).expect("a JSON body");
        body["result"]["content"][0]["text"]
            .as_str()
            .unwrap_or(&answer.body)
            .to_owned()
    };
    let look = "cat given 2>/dev/null; touch made 2>/dev/null && echo written; id -u";
    let uid = text("main", "id -u");
    // Twice: with a container that stands ready, and perhaps without.
    for _ in 0..2 {
        assert_eq!(text("work", look), "the agent's\n65534\n");
    }
    assert_eq!(text("desk", look), format!("the agent's\nwritten\n{uid}"));
    assert_eq!(
        text("main", look),
        format!("written\n{uid}"),
        "a folder of its own"
    );
    assert!(text("desk", "sleep 20").contains("timed out"));
    let lost = run("lost", "id -u");
    assert!(
        lost.body
            .contains("clawsec sandbox image --name no/such:image"),
        "{lost:?}"
    );
    let status = daemon.status();
    let said = status["sandbox"].as_str().unwrap_or_default();
    for expected in ["native", "work: docker", "lost: NOT AVAILABLE"] {
        assert!(said.contains(expected), "{said}");
    }
    assert!(
        check(&daemon).1.contains("agent lost: the image"),
        "{}",
        check(&daemon).1
    );
    let fits = |agent: &'static str, provider: &'static str| {
        move |record: &Value| record["agent"] == agent && record["sandbox"]["provider"] == provider
    };
    daemon.await_record("work's execution", fits("work", "docker"));
    daemon.await_record("desk's execution", fits("desk", "native"));
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

/// An image of a folder, and one that is pinned by its id.
#[test]
fn an_image_is_made_of_a_folder_and_pinned() {
    let runtime = tokio::runtime::Runtime::new().expect("start a runtime");
    let socket = runtime.block_on(docker::socket_with_image());
    let folder = tempfile::tempdir().expect("make a folder");
    let name = "clawsec-test/folder";
    let build = || runtime.block_on(build_image(&socket, name, Some(folder.path())));
    assert!(build().is_err(), "no root file system");
    std::fs::create_dir(folder.path().join("bin")).expect("make bin");
    for applet in ["sh", "sleep", "cat"] {
        std::fs::copy("/bin/busybox", folder.path().join("bin").join(applet)).expect("copy");
    }
    std::fs::write(folder.path().join("mark"), "of the folder\n").expect("write");
    let id = build().unwrap_or_else(|error| panic!("{}", docker::chain(&error)));
    assert!(id.starts_with("sha256:"), "{id}");
    let daemon = Daemon::start("folder", |config| {
        config["security"]["sandbox"] = json!({
            "provider": "docker", "dockerSocket": socket, "image": id, "pool": 0,
        });
    });
    let answer = daemon.invoke(&json!({ "tool": "exec", "args": { "command": "cat /mark" } }));
    let body: Value = serde_json::from_str(&answer.body).expect("a JSON body");
    assert_eq!(
        body["result"]["content"][0]["text"], "of the folder\n",
        "{body}"
    );
}
