//! Keys that are exchanged under a running daemon.

use std::fs;
use std::time::{Duration, Instant};

use serde_json::Value;
use xtask::lab::Host;

use super::daemon::{Daemon, KEY};

#[test]
fn a_rotated_key_opens_at_once_and_the_one_before_it_for_a_while() {
    let daemon = Daemon::start("rotate", |_| {});
    let text = fs::read_to_string(daemon.path("clawsec.json")).unwrap();
    daemon.write("clawsec.json", &format!("// mine\n{text}"));
    let id = keys(&daemon)[0]["id"].as_str().unwrap().to_owned();

    let output = daemon.clawsec(&["key", "rotate", &id, "--overlap", "6s"]);
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{output:?}");
    let new = said.lines().nth(1).unwrap().trim().to_owned();
    let text = fs::read_to_string(daemon.path("clawsec.json")).unwrap();
    assert!(
        text.starts_with("// mine\n") && !text.contains(&new),
        "{text}"
    );

    await_status(&daemon, &new, 200);
    assert_eq!(status(&daemon, KEY), 200, "both open");
    let listed = keys(&daemon);
    let states: Vec<_> = listed
        .iter()
        .map(|key| key["state"].as_str().unwrap())
        .collect();
    assert_eq!(states, ["valid", "being replaced"], "{listed:?}");
    assert!(
        listed.iter().all(|key| key["id"] == *id),
        "one principal: {listed:?}"
    );
    await_status(&daemon, KEY, 401);
    assert_eq!(status(&daemon, &new), 200);

    let output = daemon.clawsec(&["key", "rotate", &id, "--now"]);
    let said = String::from_utf8_lossy(&output.stdout);
    let newest = said.lines().nth(1).unwrap().trim().to_owned();
    await_status(&daemon, &newest, 200);
    assert_eq!(status(&daemon, &new), 401, "it ended with the same change");

    let output = daemon.clawsec(&["key", "rotate", "nobody"]);
    assert_eq!(output.status.code(), Some(2));
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(error.contains(&format!("there are: {id}")), "{error}");
}

fn keys(daemon: &Daemon) -> Vec<Value> {
    let output = daemon.clawsec(&["key", "list", "--json"]);
    assert!(output.status.success(), "{output:?}");
    serde_json::from_slice(&output.stdout).expect("a list")
}

fn status(daemon: &Daemon, key: &str) -> u16 {
    let header = format!("X-API-Key: {key}");
    daemon.curl(Host::Inside, "/", &["-H", &header]).status
}

fn await_status(daemon: &Daemon, key: &str, wanted: u16) {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        let found = status(daemon, key);
        if found == wanted {
            return;
        }
        assert!(
            Instant::now() < deadline,
            "{found}, not {wanted}:\n{}",
            daemon.log()
        );
        std::thread::sleep(Duration::from_millis(100));
    }
}
