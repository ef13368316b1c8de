//! `clawsec sandbox probe` in each provider: every way out is blocked, and would be one.

use std::os::unix::fs::PermissionsExt as _;
use std::process::Command;

use serde_json::{Value, json};

use super::daemon::clawsec;
use super::docker;

#[test]
fn docker_blocks_every_way_out() {
    let runtime = tokio::runtime::Runtime::new().expect("start a runtime");
    let socket = runtime.block_on(docker::socket_with_image());
    let report = probe(&json!({
        "provider": "docker", "image": docker::IMAGE, "dockerSocket": socket,
    }));
    all_blocked_and_proved(&report);
}

#[test]
fn firejail_blocks_every_way_out() {
    super::sandbox::make_user();
    all_blocked_and_proved(&probe(&json!({ "provider": "firejail" })));
}

#[test]
fn native_blocks_every_way_out() {
    super::sandbox::make_user();
    all_blocked_and_proved(&probe(&json!({ "provider": "native" })));
}

/// A table that can only say «blocked» would be worth nothing: `none` contains little, and says so.
#[test]
fn none_shows_what_it_leaves_open() {
    super::sandbox::make_user();
    let report = probe(&json!({ "provider": "none" }));
    for name in ["proc.host", "fs.host_file", "fs.symlink", "bomb.files"] {
        assert_eq!(row(&report, name)["sandbox"], "open", "{report:#}");
    }
    for name in [
        "net.host",
        "id.root",
        "call.bpf",
        "bomb.memory",
        "time.wall",
    ] {
        assert_eq!(row(&report, name)["sandbox"], "blocked", "{report:#}");
    }
    assert_eq!(report["exit"], 1);
}

fn all_blocked_and_proved(report: &Value) {
    let rows = report["probes"].as_array().expect("rows");
    assert!(rows.len() >= 30, "{}", rows.len());
    for row in rows {
        assert_eq!(row["sandbox"], "blocked", "{row:#}");
        // Not every kernel has every way.
        let absent = ABSENT.iter().any(|name| row["name"] == *name);
        assert!(absent || row["control"] == "open", "{row:#}");
    }
    assert_eq!(report["open"], 0);
    assert_eq!(report["exit"], 0);
}

fn row<'a>(report: &'a Value, name: &str) -> &'a Value {
    let mut rows = report["probes"].as_array().expect("rows").iter();
    rows.find(|row| row["name"] == name).expect("the row")
}

/// The report, with the command's exit code.
fn probe(sandbox: &Value) -> Value {
    let folder = tempfile::tempdir().expect("make a folder");
    let mut sandbox = sandbox.clone();
    for (key, value) in [
        ("memory", json!("64m")),
        ("pids", json!(32)),
        ("output", json!(65536)),
    ] {
        sandbox[key] = value;
    }
    let config = json!({
        "gateway": { "listen": ["127.0.0.1:8443"], "tls": { "enabled": false } },
        "security": {
            "auth": { "type": "apiKey", "key": super::daemon::KEY },
            "network": { "allowedIPs": ["127.0.0.0/8"] },
            "sandbox": sandbox,
        },
    });
    let path = folder.path().join("clawsec.json");
    std::fs::write(&path, config.to_string()).expect("write the configuration");
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).expect("set its mode");
    let output = Command::new(clawsec())
        .args(["sandbox", "probe", "--json", "--config"])
        .arg(&path)
        .output()
        .expect("run the probes");
    let errors = String::from_utf8_lossy(&output.stderr);
    let mut report: Value =
        serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {errors}"));
    report["exit"] = json!(output.status.code());
    report
}

/// Ways that a kernel without modules, kexec, SysRq or the crypto sockets has not.
const ABSENT: &[&str] = &[
    "net.alg",
    "proc.modprobe",
    "proc.sysrq",
    "call.module",
    "call.kexec",
];
