//! A start that comes to nothing, before and after the filter is attached.

use serde_json::json;
use xtask::lab::Host;

use super::daemon::Daemon;

#[test]
fn a_start_that_fails_under_the_filter_leaves_as_a_stop_does() {
    for (name, on_exit, stays) in [("failkeep", "enforce", true), ("failgo", "detach", false)] {
        let mut daemon = Daemon::start(name, |config| {
            config["security"]["network"]["onExit"] = json!(on_exit);
        });
        daemon.stop();
        assert_eq!(daemon.pin_dir.exists(), stays, "{on_exit}, after a stop");
        // No folder can be made under a file.
        let socket = daemon.path("cert.pem/admin.sock").display().to_string();
        daemon.rewrite_config(|config| config["gateway"]["admin"]["socket"] = json!(socket));
        daemon.spawn();
        assert_eq!(daemon.await_end(), Some(4), "{on_exit}: {}", daemon.log());
        assert!(
            daemon.log().contains("bind the admin socket"),
            "{}",
            daemon.log()
        );

        let records = daemon.audit();
        let last: Vec<_> = records.iter().rev().take(2).collect();
        assert_eq!(last[0]["action"], "stop", "{on_exit}: {last:?}");
        let said = last[0]["detail"].as_str().unwrap_or_default();
        let expected = if stays {
            "packet filter stays"
        } else {
            "packet filter removed (network.onExit)"
        };
        assert_eq!(said, expected, "{on_exit}");
        let start = records
            .iter()
            .rev()
            .find(|record| record["action"] == "start");
        let start = start.expect("a start's record");
        assert_eq!(
            (&start["outcome"], &start["reason"]),
            (&json!("error"), &json!("failed"))
        );
        let detail = start["detail"].as_str().unwrap_or_default();
        assert!(detail.contains("bind the admin socket"), "{detail}");
        let path = daemon.path("audit.log").display().to_string();
        let verified = daemon.clawsec(&["audit", "verify", "--path", &path]);
        assert!(
            verified.status.success(),
            "the log was closed well: {verified:?}"
        );

        assert_eq!(daemon.pin_dir.exists(), stays, "{on_exit}");
        // Nobody listens: a packet that passes is answered by a reset, one that is dropped by nothing.
        let answered = if stays { 28 } else { 7 };
        assert_eq!(daemon.get(Host::Outside, "/").exit, answered, "{on_exit}");
    }
}

#[test]
fn a_filter_that_cannot_be_attached_is_recorded() {
    let mut daemon = Daemon::start("noattach", |_| {});
    daemon.stop();
    daemon.rewrite_config(|config| {
        config["security"]["network"]["interfaces"] = json!(["inside", "no-such-device"]);
    });
    daemon.spawn();
    assert_eq!(daemon.await_end(), Some(3), "{}", daemon.log());
    let records = daemon.audit();
    let last = records.last().expect("a record");
    assert_eq!(
        (&last["action"], &last["outcome"]),
        (&json!("start"), &json!("error"))
    );
    let detail = last["detail"].as_str().unwrap_or_default();
    assert!(
        detail.contains("there is no interface no-such-device"),
        "{detail}"
    );
}
