//! What the writer writes is what the schema promises, for every event.

use std::collections::BTreeSet;
use std::path::Path;

use clawsec_common::reason::{Reason as Why, Verdict};
use clawsec_user::audit::{self, LogReader, Recorded};
use clawsec_user::config::{AuditConfig, Fsync};
use clawsec_user::event::{Event, EventKind, Outcome, SandboxFact, ToolFact};
use clawsec_user::policy::Reason;
use serde_json::{Value, json};

use crate::schema::breach;

fn config(path: &Path) -> AuditConfig {
    let mut config = AuditConfig::at(path.to_owned());
    config.fsync = Fsync::Never;
    // Rotates on the way.
    config.rotate_bytes = 16 << 10;
    config.rotate_keep = 100;
    config
}

/// Every field that an event has, each text longer than a record holds.
fn full(kind: EventKind, action: &'static str, outcome: Outcome, reason: &'static str) -> Event {
    let long = || Some("é\u{1b}\"".repeat(4_000));
    let mut event = Event::new(kind, action, outcome, reason);
    event.rule = long();
    event.generation = 7;
    event.source = Some("2001:db8::1".parse().unwrap());
    event.port = Some(51_234);
    event.request = long();
    event.principal = long();
    event.user = long();
    event.group = long();
    event.agent = long();
    event.session = long();
    event.tool = Some(ToolFact {
        name: "x".repeat(1_000),
        args_bytes: u64::MAX,
    });
    event.sandbox = Some(SandboxFact {
        provider: "docker".to_owned(),
        exit: Some(-1),
        signal: Some(9),
        oom: true,
        timed_out: true,
        duration_ms: 1,
        output_bytes: u64::MAX,
        truncated: true,
    });
    event.duration_ms = Some(1);
    event.detail = long();
    event
}

#[tokio::test]
async fn every_record_that_is_written_fits_it() {
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("audit.log");
    let (handle, task) = audit::open(&config(&log)).unwrap();
    let writing = tokio::spawn(task.run());
    for (kind, action, reason) in [
        (EventKind::Auth, "connect", "credential_unknown"),
        (EventKind::Message, "method", "ok"),
        (EventKind::Message, "observed", "unfinished"),
        (EventKind::Tool, "invoke", "tool_denied"),
        (EventKind::Config, "reload", "configuration_refused"),
        (EventKind::Network, "accept", "address_banned"),
        (EventKind::System, "start", "ok"),
    ] {
        for outcome in [Outcome::Allow, Outcome::Deny, Outcome::Error] {
            // Repeats are summed.
            for _ in 0..3 {
                let event = full(kind, action, outcome, reason);
                assert_eq!(handle.submit(event).await, Recorded::Queued);
            }
        }
    }
    for reason in Reason::ALL {
        let event = Event::new(EventKind::Auth, "connect", Outcome::Deny, reason.as_str());
        assert_eq!(handle.submit(event).await, Recorded::Queued);
    }
    handle.flush().await.unwrap();
    handle.stop().await;
    writing.await.unwrap();

    let mut reader = LogReader::open(&log).unwrap();
    let mut seen = BTreeSet::new();
    while let Some(line) = reader.next_line().unwrap() {
        let record: Value = serde_json::from_slice(line.text).unwrap();
        assert_eq!(breach(&record), None, "{record}");
        seen.insert(format!(
            "{}.{}{}",
            record["event"].as_str().unwrap(),
            record["action"].as_str().unwrap(),
            if record["first"].is_null() {
                ""
            } else {
                " summed"
            }
        ));
    }
    for expected in [
        "auth.connect",
        "auth.connect summed",
        "config.reload",
        "message.method",
        "network.accept",
        "system.rotate",
        "system.start",
        "tool.invoke",
    ] {
        assert!(seen.contains(expected), "{expected} is not among {seen:?}");
    }
}

#[test]
fn every_reason_of_the_kernel_to_drop_is_a_word_of_it() {
    let schema = audit::schema();
    let rules = schema["allOf"].as_array().unwrap();
    let network = rules
        .iter()
        .find(|rule| rule["if"]["properties"]["event"]["const"] == "network")
        .unwrap();
    let words = network["then"]["properties"]["reason"]["enum"]
        .as_array()
        .unwrap();
    for reason in Why::ALL {
        if reason.verdict() == Verdict::Drop {
            let word = Value::from(reason.as_str());
            assert!(words.contains(&word), "{word}");
        }
    }
}

#[test]
fn each_part_of_the_schema_is_held_to() {
    let golden = include_str!("../../clawsec-user/src/audit/golden.jsonl");
    let tool: Value = serde_json::from_str(golden.lines().nth(2).unwrap()).unwrap();
    assert_eq!(breach(&tool), None);
    let with = |pointer: &str, value: Value| {
        let mut changed = tool.clone();
        let (parent, name) = pointer.rsplit_once('/').unwrap();
        let parent = changed.pointer_mut(parent).unwrap();
        match value {
            Value::Null => drop(parent.as_object_mut().unwrap().shift_remove(name)),
            value => parent[name] = value,
        }
        changed
    };
    for (pointer, value) in [
        ("/v", json!(2)),
        ("/seq", json!(0)),
        ("/seq", Value::Null),
        ("/ts", json!("2026-01-01T00:00:00Z")),
        ("/event", json!("tools")),
        ("/action", json!("invoked")),
        ("/reason", json!("not_allowed")),
        ("/outcome", json!("denied")),
        ("/count", json!(-1)),
        ("/generation", json!("7")),
        ("/src/port", json!(65_536)),
        ("/src/ip", Value::Null),
        ("/tool/name", json!("x".repeat(129))),
        ("/tool/arguments", json!("{}")),
        ("/sandbox/oom", json!("no")),
        ("/prev", json!("ABCD")),
        ("/totals", json!({ "not_allowed": "many" })),
        ("/unknown", json!(1)),
        ("/hash", Value::Null),
    ] {
        let changed = with(pointer, value);
        assert!(breach(&changed).is_some(), "{pointer}: {changed}");
    }
    // An event has its own words.
    let mut drop = with("/event", json!("network"));
    drop["action"] = json!("drop");
    drop["reason"] = json!("not_allowed");
    assert_eq!(breach(&drop), None);
}

/// `packaging/lnav/clawsec.json`; that lnav takes it was seen with lnav 0.11.1.
#[test]
fn the_lnav_format_has_the_fields_of_a_record() {
    let format = include_str!("../../packaging/lnav/clawsec.json");
    let format: Value = serde_json::from_str(format).unwrap();
    let format = &format["clawsec_log"];
    let names = |fields: &Value| -> BTreeSet<String> {
        fields.as_object().unwrap().keys().cloned().collect()
    };
    let mut expected = BTreeSet::new();
    let schema = audit::schema();
    for (name, field) in schema["properties"].as_object().unwrap() {
        if field["properties"].is_null() {
            expected.insert(name.clone());
        } else {
            let inner = names(&field["properties"]).into_iter();
            expected.extend(inner.map(|inner| format!("{name}/{inner}")));
        }
    }
    // A word of SQL: lnav 0.11 makes no table when a field is called so.
    expected.remove("group");
    assert_eq!(names(&format["value"]), expected);
    let parts = format["line-format"].as_array().unwrap().iter();
    let shown = parts.filter_map(|part| part["field"].as_str());
    let read = ["timestamp-field", "level-field", "body-field", "opid-field"];
    for name in shown.chain(read.iter().map(|name| format[name].as_str().unwrap())) {
        assert!(expected.contains(name), "{name}");
    }
    let levels = format["level"].as_object().unwrap().values();
    let levels: BTreeSet<_> = levels.map(|level| level.as_str().unwrap()).collect();
    assert_eq!(levels, BTreeSet::from(["^allow$", "^deny$", "^error$"]));
}
