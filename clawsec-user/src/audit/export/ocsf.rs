//! Events of the Open Cybersecurity Schema Framework, <https://schema.ocsf.io/1.6.0>.
//!
//! What a record has and the class has no place for is in `unmapped`, by the record's own names.
//! `docs/audit.md` has the table of classes.

use serde_json::{Map, Value, json};

use super::super::record::Record;
use super::super::stamp::Stamp;
use crate::event::{EventKind, Outcome};

/// The version of the framework.
pub const VERSION: &str = "1.6.0";

/// A class and what of it happened.
struct Class {
    uid: u32,
    name: &'static str,
    category: u32,
    activity: u32,
}

impl Class {
    /// Something was let through or not: the profile `security_control`.
    fn has_control(&self) -> bool {
        [AUTHENTICATION, API_ACTIVITY, NETWORK_ACTIVITY].contains(&self.uid)
    }
}

/// One event of one record.
pub fn ocsf(record: &Record) -> Value {
    let class = class(record);
    let mut event = Map::new();
    let mut put = |name: &str, value: Value| {
        event.insert(name.to_owned(), value);
    };
    put("class_uid", class.uid.into());
    put("class_name", class.name.into());
    put("category_uid", class.category.into());
    put("activity_id", class.activity.into());
    put("activity_name", record.action.as_ref().into());
    put("type_uid", (class.uid * 100 + class.activity).into());
    put("time", millis(record.ts));
    put("severity_id", severity(record).into());
    let status = match record.outcome {
        Outcome::Allow => 1,
        Outcome::Deny | Outcome::Error => 2,
    };
    put("status_id", status.into());
    put("status_code", record.reason.as_ref().into());
    if let Some(detail) = &record.detail {
        put("status_detail", detail.as_str().into());
    }
    put("message", message(record).into());
    // What a record names later than it counts it (`settles`) is not counted twice.
    put("count", record.count.into());
    if let (Some(first), Some(last)) = (record.first, record.last) {
        put("start_time", millis(first));
        put("end_time", millis(last));
    }
    put("metadata", metadata(&class, record));
    if class.has_control() {
        let (action, disposition) = match record.outcome {
            Outcome::Allow => (1, 1),
            Outcome::Deny if record.event == EventKind::Network => (2, 6),
            Outcome::Deny => (2, 2),
            Outcome::Error => (99, 27),
        };
        put("action_id", action.into());
        put("disposition_id", disposition.into());
        if let Some(rule) = &record.rule {
            let version = record.generation.to_string();
            put("policy", json!({ "name": rule, "version": version }));
        }
    }
    for (name, value) in parts_of(&class, record) {
        put(name, value);
    }
    put("unmapped", unmapped(&class, record));
    Value::Object(event)
}

fn class(record: &Record) -> Class {
    let (uid, name, category, activity) = match record.event {
        EventKind::Auth => {
            let activity = match record.action.as_ref() {
                "connect" | "login" | "sign_in" | "admin" => 1,
                "close" | "revoke" | "sign_out" => 2,
                _ => OTHER,
            };
            (AUTHENTICATION, "Authentication", 3, activity)
        }
        EventKind::Message | EventKind::Tool | EventKind::Config => {
            let activity = match record.action.as_ref() {
                "admit" | "ban" => 1,
                "observed" => 2,
                "confirm" | "reload" => 3,
                "unadmit" | "unban" => 4,
                _ => OTHER,
            };
            (API_ACTIVITY, "API Activity", 6, activity)
        }
        EventKind::Network if record.action != "checkpoint" => {
            let activity = match record.outcome {
                Outcome::Allow => 1,
                Outcome::Deny => 5,
                Outcome::Error => 4,
            };
            (NETWORK_ACTIVITY, "Network Activity", 4, activity)
        }
        EventKind::System if record.outcome != Outcome::Allow => {
            (DETECTION_FINDING, "Detection Finding", 2, 1)
        }
        EventKind::Network | EventKind::System => {
            let activity = match record.action.as_ref() {
                "start" => 3,
                "stop" => 4,
                _ => OTHER,
            };
            (APPLICATION_LIFECYCLE, "Application Lifecycle", 6, activity)
        }
    };
    Class {
        uid,
        name,
        category,
        activity,
    }
}

/// What only this class has.
fn parts_of(class: &Class, record: &Record) -> Vec<(&'static str, Value)> {
    let ours = || json!({ "name": "clawsec" });
    match class.uid {
        AUTHENTICATION => {
            let mut parts = vec![
                (
                    "user",
                    user(record).unwrap_or_else(|| json!({ "name": "unknown" })),
                ),
                ("service", ours()),
                ("is_remote", true.into()),
            ];
            parts.extend(source(record).map(|source| ("src_endpoint", source)));
            parts.extend(session(record).map(|session| ("session", session)));
            parts
        }
        API_ACTIVITY => {
            let mut actor = Map::new();
            actor.extend(user(record).map(|user| ("user".to_owned(), user)));
            actor.extend(session(record).map(|session| ("session".to_owned(), session)));
            if actor.is_empty() {
                actor.insert("app_name".to_owned(), "clawsec".into());
            }
            let operation = format!("{}.{}", record.event.as_str(), record.action);
            let mut api = json!({ "operation": operation, "service": ours() });
            if let Some(request) = &record.request {
                api["request"] = json!({ "uid": request });
            }
            // Required; what has no address was done on this host.
            let source = source(record).unwrap_or_else(|| json!({ "name": "localhost" }));
            let mut parts = vec![
                ("actor", Value::Object(actor)),
                ("api", api),
                ("src_endpoint", source),
            ];
            let mut resources = Vec::new();
            if let Some(tool) = &record.tool {
                resources.push(json!({ "name": tool.name, "type": "tool" }));
            }
            if let Some(agent) = &record.agent {
                resources.push(json!({ "name": agent, "type": "agent" }));
            }
            if !resources.is_empty() {
                parts.push(("resources", resources.into()));
            }
            parts
        }
        NETWORK_ACTIVITY => {
            let mut parts = vec![(
                "dst_endpoint",
                json!({ "svc_name": "clawsec" , "name": "clawsec" }),
            )];
            parts.extend(source(record).map(|source| ("src_endpoint", source)));
            parts
        }
        DETECTION_FINDING => vec![
            (
                "finding_info",
                json!({
                    "uid": record.hash.to_string(),
                    "title": message(record),
                    "created_time": millis(record.ts),
                }),
            ),
            ("is_alert", true.into()),
        ],
        _ => vec![("app", product())],
    }
}

fn metadata(class: &Class, record: &Record) -> Value {
    let mut metadata = json!({
        "version": VERSION,
        "product": product(),
        "log_name": "audit",
        "log_version": record.v.to_string(),
        "uid": record.hash.to_string(),
        "sequence": record.seq,
        "original_time": record.ts.to_string(),
        "event_code": format!("{}.{}", record.event.as_str(), record.action),
    });
    if class.has_control() {
        metadata["profiles"] = json!(["security_control"]);
    }
    if let Some(request) = &record.request {
        metadata["correlation_uid"] = request.as_str().into();
    }
    metadata
}

fn product() -> Value {
    json!({ "name": "clawsec", "vendor_name": "clawsec", "version": env!("CARGO_PKG_VERSION") })
}

/// The user that the request named, by the key that it used.
fn user(record: &Record) -> Option<Value> {
    let mut user = Map::new();
    if let Some(name) = &record.user {
        user.insert("name".into(), name.as_str().into());
    }
    if let Some(key) = &record.principal {
        user.insert("uid".into(), key.as_str().into());
    }
    if user.is_empty() {
        return None;
    }
    if let Some(group) = &record.group {
        user.insert("groups".into(), json!([{ "name": group }]));
    }
    Some(Value::Object(user))
}

fn session(record: &Record) -> Option<Value> {
    let session = record.session.as_ref()?;
    Some(json!({ "uid": session }))
}

fn source(record: &Record) -> Option<Value> {
    let src = record.src?;
    Some(match src.port {
        Some(port) => json!({ "ip": src.ip, "port": port }),
        None => json!({ "ip": src.ip }),
    })
}

fn severity(record: &Record) -> u8 {
    match (record.event, record.action.as_ref(), record.outcome) {
        (_, _, Outcome::Allow) => 1,
        (EventKind::System, "chain", _) => 5,
        (EventKind::System, ..) => 4,
        (_, _, Outcome::Deny) => 2,
        (_, _, Outcome::Error) => 3,
    }
}

/// For a person.
fn message(record: &Record) -> String {
    let mut text = format!(
        "{}.{} {}: {}",
        record.event.as_str(),
        record.action,
        record.outcome.as_str(),
        record.reason
    );
    if let Some(tool) = &record.tool {
        text.push_str(&format!(", tool {}", tool.name));
    }
    text
}

fn unmapped(class: &Class, record: &Record) -> Value {
    let mut rest = Map::new();
    rest.insert("generation".into(), record.generation.into());
    if let Some(tool) = &record.tool {
        rest.insert("tool".into(), json!(tool));
    }
    if let Some(sandbox) = &record.sandbox {
        rest.insert("sandbox".into(), json!(sandbox));
    }
    for (name, value) in [
        ("duration_ms", record.duration_ms),
        (
            "settles",
            Some(record.settles).filter(|settles| *settles > 0),
        ),
        ("sources", record.sources),
        ("epoch", record.epoch),
    ] {
        if let Some(value) = value {
            rest.insert(name.into(), value.into());
        }
    }
    if let Some(totals) = &record.totals {
        rest.insert("totals".into(), json!(totals));
    }
    let has_actor = [AUTHENTICATION, API_ACTIVITY].contains(&class.uid);
    let has_user = has_actor && user(record).is_some();
    for (name, text, is_placed) in [
        ("rule", &record.rule, class.has_control()),
        ("principal", &record.principal, has_actor),
        ("user", &record.user, has_actor),
        ("group", &record.group, has_user),
        ("agent", &record.agent, class.uid == API_ACTIVITY),
        ("session", &record.session, has_actor),
    ] {
        if let (Some(text), false) = (text, is_placed) {
            rest.insert(name.into(), text.as_str().into());
        }
    }
    if let (Some(src), false) = (record.src, class.has_control()) {
        rest.insert("src".into(), json!(src));
    }
    rest.insert("prev".into(), record.prev.to_string().into());
    Value::Object(rest)
}

fn millis(stamp: Stamp) -> Value {
    stamp.micros().div_euclid(1_000).into()
}

const AUTHENTICATION: u32 = 3002;
const API_ACTIVITY: u32 = 6003;
const NETWORK_ACTIVITY: u32 = 4001;
const DETECTION_FINDING: u32 = 2004;
const APPLICATION_LIFECYCLE: u32 = 6002;
/// The activity is the record's own: `activity_name` has it.
const OTHER: u32 = 99;

#[cfg(test)]
mod tests {
    use super::*;

    const GOLDEN: &str = include_str!("../golden.jsonl");

    fn records() -> Vec<Record> {
        let more = [
            r#""event":"auth","action":"connect","outcome":"allow","reason":"ok","count":1"#,
            r#""event":"config","action":"reload","outcome":"allow","reason":"ok","count":1"#,
            r#""event":"message","action":"observed","outcome":"error","reason":"unfinished","group":"g","duration_ms":7,"count":1"#,
            r#""event":"network","action":"drop","outcome":"deny","reason":"banned","count":9"#,
            r#""event":"system","action":"chain","outcome":"error","reason":"file_cut","count":1"#,
            r#""event":"system","action":"start","outcome":"allow","reason":"ok","count":1"#,
        ];
        let line = |body: &str| {
            let hash = "5".repeat(64);
            format!(
                r#"{{"v":1,"seq":9,"ts":"2026-01-01T00:00:00.000001Z",{body},"prev":"{hash}","hash":"{hash}"}}"#
            )
        };
        let more = more.into_iter().map(line);
        let lines = GOLDEN.lines().map(str::to_owned).chain(more);
        lines
            .map(|line| Record::parse(line.as_bytes()).unwrap())
            .collect()
    }

    /// What schema.ocsf.io says must be there: of each class, and of each object that is used.
    #[test]
    fn each_event_has_what_its_class_requires() {
        let mut seen = std::collections::BTreeSet::new();
        for record in records() {
            let event = ocsf(&record);
            let uid = event["class_uid"].as_u64().unwrap();
            seen.insert(uid);
            let required: &[&str] = match uid {
                3002 => &["/user", "/service/name", "/is_remote"],
                6003 => &["/actor", "/api/operation", "/src_endpoint"],
                4001 => &["/dst_endpoint/name"],
                2004 => &["/finding_info/uid", "/finding_info/title"],
                6002 => &["/app/name", "/app/vendor_name"],
                other => panic!("{other}"),
            };
            let base = [
                "/activity_id",
                "/category_uid",
                "/metadata/product/name",
                "/metadata/version",
                "/severity_id",
                "/time",
                "/type_uid",
            ];
            for pointer in base.iter().chain(required) {
                assert!(event.pointer(pointer).is_some(), "{pointer} in {event}");
            }
            for (object, one_of) in [
                ("/user", &["name", "uid"][..]),
                ("/actor", &["user", "session", "app_name"]),
                ("/src_endpoint", &["ip", "name"]),
                ("/policy", &["name"]),
            ] {
                if let Some(found) = event.pointer(object) {
                    let has = one_of.iter().any(|name| !found[*name].is_null());
                    assert!(has, "{object} in {event}");
                }
            }
            assert_eq!(event["category_uid"].as_u64(), Some(uid / 1000));
            let activity = event["activity_id"].as_u64().unwrap();
            assert_eq!(event["type_uid"].as_u64(), Some(uid * 100 + activity));
            assert_eq!(event["time"], 1_767_225_600_000_u64);
        }
        assert_eq!(
            seen.into_iter().collect::<Vec<_>>(),
            [2004, 3002, 4001, 6002, 6003]
        );
    }

    #[test]
    fn nothing_of_a_record_is_left_out() {
        let every = r#""generation":70071,"src":{"ip":"192.0.2.99","port":50505},"request":"a request","principal":"a key","user":"a user","group":"a group","agent":"an agent","session":"a session","rule":"a rule","tool":{"name":"a tool","args_bytes":31013},"sandbox":{"provider":"a provider","exit":-41,"signal":43,"oom":true,"timed_out":true,"duration_ms":47047,"output_bytes":53053,"truncated":true},"duration_ms":59059,"settles":61061,"sources":63063,"epoch":67067,"totals":{"a total":71071},"detail":"a detail""#;
        for kind in EventKind::ALL {
            for outcome in ["allow", "deny"] {
                let (event, hash) = (kind.as_str(), "5".repeat(64));
                let line = format!(
                    r#"{{"v":1,"seq":73073,"ts":"2026-01-01T00:00:00.000001Z","event":"{event}","action":"an action","outcome":"{outcome}","reason":"a reason",{every},"count":79079,"prev":"{hash}","hash":"{hash}"}}"#
                );
                let event = ocsf(&Record::parse(line.as_bytes()).unwrap());
                let mut found = Vec::new();
                leaves(&event, &mut |leaf| found.push(leaf.clone()));
                let mut line: Value = serde_json::from_str(&line).unwrap();
                // As numbers there.
                for name in ["v", "event", "outcome"] {
                    line.as_object_mut().unwrap().shift_remove(name);
                }
                leaves(&line, &mut |leaf| {
                    assert!(found.contains(leaf), "{leaf} is not in {event}");
                });
            }
        }
    }

    fn leaves(value: &Value, see: &mut impl FnMut(&Value)) {
        match value {
            Value::Object(fields) => fields.values().for_each(|value| leaves(value, see)),
            Value::Array(items) => items.iter().for_each(|value| leaves(value, see)),
            leaf => see(leaf),
        }
    }

    #[test]
    fn what_was_decided_is_said_in_their_words() {
        let rows: Vec<_> = records()
            .iter()
            .map(|record| {
                let event = ocsf(record);
                let number = |name: &str| event[name].as_u64();
                (
                    format!("{}.{}", record.event.as_str(), record.action),
                    event["type_uid"].as_u64().unwrap(),
                    number("status_id").unwrap(),
                    number("severity_id").unwrap(),
                    number("disposition_id"),
                )
            })
            .collect();
        let expected = [
            ("auth.connect", 300_201, 2, 2, Some(2)),
            ("message.send", 600_399, 1, 1, Some(1)),
            ("tool.invoke", 600_399, 1, 1, Some(1)),
            ("config.reload", 600_303, 2, 3, Some(27)),
            ("network.drop", 400_105, 2, 2, Some(6)),
            ("network.checkpoint", 600_299, 1, 1, None),
            ("system.lost", 200_401, 2, 4, None),
            ("auth.connect", 300_201, 1, 1, Some(1)),
            ("config.reload", 600_303, 1, 1, Some(1)),
            ("message.observed", 600_302, 2, 3, Some(27)),
            ("network.drop", 400_105, 2, 2, Some(6)),
            ("system.chain", 200_401, 2, 5, None),
            ("system.start", 600_203, 1, 1, None),
        ];
        let expected = expected.map(|(name, a, b, c, d)| (name.to_owned(), a, b, c, d));
        assert_eq!(rows, expected);
    }
}
