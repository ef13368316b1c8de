//! dockerd is killed while a tool runs in one of its containers.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use clawsec_user::sandbox::build_image;
use serde_json::json;

use crate::system::daemon::Daemon;
use crate::system::docker::{self, IMAGE};

/// The call that is under way ends with an error, long before its own time-out; others are denied
/// with the reason; once docker is back tools run again, and nothing is left of the first.
#[test]
fn a_docker_that_is_killed_ends_the_call_and_is_used_again() {
    let runtime = tokio::runtime::Runtime::new().expect("start a runtime");
    let dir = docker::folder("-killed");
    let socket = runtime.block_on(docker::start_in(&dir));
    runtime
        .block_on(build_image(&socket, IMAGE, None))
        .expect("build the image");
    let daemon = Daemon::start("nodocker", |config| {
        config["security"]["sandbox"] = json!({
            "enabled": true, "provider": "docker", "image": IMAGE, "dockerSocket": socket,
            "timeout": 60_000, "pool": 0,
        });
    });
    let exec =
        |command: &str| daemon.invoke(&json!({ "tool": "exec", "args": { "command": command } }));
    assert_eq!(exec("true").status, 200, "{}", daemon.log());
    let (answer, took) = std::thread::scope(|scope| {
        let call = scope.spawn(|| {
            let began = Instant::now();
            (exec("sleep 40"), began.elapsed())
        });
        await_container(&socket);
        kill(&dir);
        call.join().expect("the call ends")
    });
    assert_ne!(answer.exit, 28, "the call hangs: {answer:?}");
    assert!(!answer.body.contains("\"exitCode\":0"), "{answer:?}");
    println!("the call ended after {} s: {}", took.as_secs(), answer.body);
    let denied = exec("true");
    assert_ne!(denied.status, 200, "{denied:?}");
    assert!(
        denied.body.contains("docker"),
        "the reason is said: {denied:?}"
    );
    daemon.await_record("the refusal", |record| {
        record["reason"] == "sandbox_unavailable"
    });

    runtime.block_on(docker::start_in(&dir));
    let deadline = Instant::now() + Duration::from_mins(1);
    while exec("true").status != 200 {
        assert!(
            Instant::now() < deadline,
            "docker is not used again:\n{}",
            daemon.log()
        );
        std::thread::sleep(Duration::from_millis(500));
    }
    while !containers(&socket).is_empty() {
        assert!(
            Instant::now() < deadline,
            "left behind: {}\n{}",
            containers(&socket),
            daemon.log()
        );
        std::thread::sleep(Duration::from_millis(500));
    }
    drop(daemon);
    kill(&dir);
}

fn containers(socket: &Path) -> String {
    docker::docker(socket, &["ps", "--all", "--quiet"])
}

fn await_container(socket: &Path) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while docker::docker(socket, &["ps", "--quiet"]).is_empty() {
        assert!(Instant::now() < deadline, "no container runs");
        std::thread::sleep(Duration::from_millis(100));
    }
    // It sleeps by now.
    std::thread::sleep(Duration::from_millis(500));
}

/// SIGKILL to dockerd and its containerd, and the files that say they run; containers stay.
fn kill(dir: &Path) {
    for file in ["pid", "exec/containerd/containerd.pid"] {
        let file = dir.join(file);
        let pid = fs::read_to_string(&file).expect("read its number");
        // containerd may have gone with dockerd.
        let _gone = Command::new("kill").args(["-KILL", pid.trim()]).status();
        fs::remove_file(file).expect("remove its number");
    }
    let socket = dir.join("docker.sock");
    while std::os::unix::net::UnixStream::connect(&socket).is_ok() {
        std::thread::sleep(Duration::from_millis(20));
    }
}
