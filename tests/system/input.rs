//! Bad input: every error at once, exit code 2, nothing half applied.

use std::os::unix::fs::PermissionsExt as _;
use std::process::Command;

use serde_json::json;

use super::daemon::clawsec;

fn run_with(text: &str, mode: u32) -> (i32, String) {
    let folder = tempfile::tempdir().expect("make a folder");
    let path = folder.path().join("clawsec.json");
    std::fs::write(&path, text).expect("write");
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).expect("chmod");
    let output = Command::new(clawsec())
        .args(["run", "--no-xdp", "--config"])
        .arg(&path)
        .arg("--state-dir")
        .arg(folder.path().join("state"))
        .output()
        .expect("run clawsec");
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        !folder.path().join("state").exists(),
        "nothing is made before the file is valid"
    );
    (output.status.code().unwrap_or(-1), text)
}

#[test]
fn an_invalid_file_prints_every_error() {
    let config = json!({
        "gateway": { "listen": ["nonsense"], "upstreem": "http://127.0.0.1:18789" },
        "security": {
            "auth": { "type": "apiKey", "key": "${CLAWSEC_TEST_UNSET}" },
            "network": { "allowedIPs": ["10.0.0.0/64"] },
            "rateLimit": { "requests": -5 },
        },
    });
    let (exit, text) = run_with(&config.to_string(), 0o600);
    assert_eq!(exit, 2, "{text}");
    let expected = [
        "gateway.listen[0]",
        "gateway.upstreem",
        "upstream",
        "CLAWSEC_TEST_UNSET",
        "security.network.allowedIPs[0]",
        "security.rateLimit.requests",
    ];
    for part in expected {
        assert!(text.contains(part), "no {part} in:\n{text}");
    }
}

#[test]
fn a_file_without_auth_is_refused() {
    let config = json!({ "security": { "network": { "allowedIPs": ["10.0.0.0/8"] } } });
    let (exit, text) = run_with(&config.to_string(), 0o600);
    assert_eq!(exit, 2, "{text}");
    assert!(text.contains("security.auth"), "{text}");
}

#[test]
fn a_file_that_others_can_write_is_refused() {
    let config = json!({ "security": { "auth": { "type": "apiKey", "key": "k".repeat(32) } } });
    let (exit, text) = run_with(&config.to_string(), 0o666);
    assert_eq!(exit, 2, "{text}");
    assert!(text.contains("chmod"), "the remedy is named: {text}");
}
