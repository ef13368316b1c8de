//! A configuration changed under a running daemon.

use serde_json::json;
use xtask::lab::Host;

use super::daemon::{Daemon, KEY};

#[test]
fn a_changed_file_switches_both_planes_at_once() {
    let daemon = Daemon::start("reload", |_| {});
    assert_eq!(daemon.get(Host::Outside, "/").exit, 28);
    let before = daemon.status()["generation"]
        .as_u64()
        .expect("a generation");
    daemon.rewrite_config(|config| {
        config["security"]["network"]["allowedIPs"] = json!(["192.0.2.0/24", "198.51.100.0/24"]);
        config["tools"]["deny"] = json!(["sessions_list"]);
    });
    daemon.await_record("the reload", |record| {
        record["action"] == "reload" && record["outcome"] == "allow"
    });
    assert_eq!(
        daemon.get(Host::Outside, "/").status,
        200,
        "the new prefix is allowed"
    );
    assert_eq!(
        daemon.invoke(&json!({ "tool": "sessions_list" })).status,
        404
    );
    assert_eq!(daemon.invoke(&json!({ "tool": "browser" })).status, 200);
    assert!(
        daemon.status()["generation"]
            .as_u64()
            .expect("a generation")
            > before
    );
}

#[test]
fn an_invalid_file_changes_nothing_and_is_recorded() {
    let daemon = Daemon::start("badload", |_| {});
    daemon.rewrite_config(|config| {
        config["security"]["network"]["allowedIPs"] = json!(["198.51.100.0/24"]);
        config["security"]["auth"]["type"] = json!("nothing");
    });
    daemon.await_record("the refused reload", |record| {
        record["action"] == "reload" && record["outcome"] == "error"
    });
    assert_eq!(
        daemon.get(Host::Inside, "/").status,
        200,
        "the old policy stays"
    );
    assert_eq!(daemon.get(Host::Outside, "/").exit, 28);

    // A certificate that does not fit is the gateway process's own refusal.
    let other = rcgen::generate_simple_self_signed(["other".to_owned()]).expect("a certificate");
    daemon.write("key.pem", &other.signing_key.serialize_pem());
    daemon.rewrite_config(|config| {
        config["security"]["auth"] = json!({ "type": "apiKey", "key": KEY });
    });
    daemon.await_record("the refused certificate", |record| {
        let detail = record["detail"].as_str().unwrap_or_default();
        record["action"] == "reload" && record["outcome"] == "error" && detail.contains("key")
    });
    assert_eq!(
        daemon.get(Host::Inside, "/").status,
        200,
        "the old certificate stays"
    );
    assert_eq!(daemon.get(Host::Outside, "/").exit, 28);
}

#[test]
fn a_removed_key_ends_at_the_reload() {
    let daemon = Daemon::start("rekey", |_| {});
    daemon.rewrite_config(|config| {
        let key = "another-key-of-thirty-two-letters";
        config["security"]["auth"] = json!({ "type": "apiKey", "key": key });
    });
    daemon.await_record("the reload", |record| {
        record["action"] == "reload" && record["outcome"] == "allow"
    });
    assert_eq!(daemon.get(Host::Inside, "/").status, 401);
}
