//! The JSON Schema of a line, made of the same sets that tests hold every written record against.
//!
//! The words are those of this version; a later one may add some, as it may add fields. What reads
//! a log of several versions takes the newest schema.

use serde_json::{Map, Value, json};

use crate::event::{EventKind, Outcome};
use crate::policy::Reason;

/// What an event's records may say.
struct Words {
    event: EventKind,
    actions: &'static [&'static str],
    /// Besides those of policy, where `of_policy` is set.
    reasons: &'static [&'static str],
    of_policy: bool,
}

const WORDS: [Words; 6] = [
    Words {
        event: EventKind::Auth,
        actions: &[
            "admin", "close", "connect", "login", "method", "request", "revoke", "sign_in",
            "sign_out", "upgrade", OTHER,
        ],
        reasons: &[OTHER],
        of_policy: true,
    },
    Words {
        event: EventKind::Message,
        actions: &[
            "close", "connect", "message", "method", "observed", "request", "revoke", "sign_in",
            "sign_out", "upgrade", "webhook", OTHER,
        ],
        reasons: &["aborted", "failed", "too_slow", "unfinished", OTHER],
        of_policy: true,
    },
    Words {
        event: EventKind::Tool,
        actions: &["invoke", "message", "method", "observed", "request", OTHER],
        reasons: &["aborted", "failed", "unfinished", OTHER],
        of_policy: true,
    },
    Words {
        event: EventKind::Config,
        actions: &[
            "admit", "ban", "confirm", "message", "method", "reload", "request", "unadmit", "unban",
        ],
        reasons: &[
            "configuration_refused",
            "confirmed",
            "operator",
            "repeated_denials",
            "unconfirmed",
        ],
        of_policy: true,
    },
    Words {
        event: EventKind::Network,
        actions: &[
            "accept",
            "checkpoint",
            "drop",
            "http2",
            "proxy",
            "tls",
            OTHER,
        ],
        reasons: &[
            "ok",
            "address_banned",
            "address_not_allowed",
            "bad_policy",
            "banned",
            "client_certificate_refused",
            "contended",
            "denied",
            "ext_header_depth",
            "fragment",
            "fragment_overlap",
            "guarded_port",
            "host_not_allowed",
            "http2_flood",
            "http2_head_too_large",
            "http2_protocol",
            "http2_stream_closed",
            "http2_streams",
            "malformed",
            "not_allowed",
            "packet_ceiling",
            "proxy_malformed",
            "rate_limited",
            "tiny_fragment",
            "tls_ended",
            "tls_failed",
            "too_slow",
            "vlan_depth",
            OTHER,
        ],
        of_policy: false,
    },
    Words {
        event: EventKind::System,
        actions: &[
            "alert",
            "certificate",
            "chain",
            "clock",
            "epoch",
            "gateway_exit",
            "interface",
            "keep",
            "lost",
            "node",
            "observer",
            "pack",
            "recovered",
            "reopen",
            "repair",
            "rotate",
            "sink",
            "space",
            "start",
            "stop",
        ],
        reasons: &[
            "ok",
            "age",
            "away",
            "connected",
            "damaged",
            "failed",
            "file_cut",
            "file_grown",
            "file_moved",
            "file_replaced",
            "gateway_process_ended",
            "head_missing",
            "head_unreadable",
            "head_unsealed",
            "interface_back",
            "interface_gone",
            "log_missing",
            "not_carried",
            "pairing_required",
            "queue_full",
            "record_changed",
            "refused",
            "set",
            "size",
            "space_low",
            "space_short",
            "tail_changed",
            "tail_missing",
            "torn_line",
            "unreachable",
            "unreadable",
            "unwritable",
        ],
        of_policy: false,
    },
];

/// What stands for sums that found no room.
const OTHER: &str = "other";

/// The schema of one line.
pub fn schema() -> Value {
    let events: Vec<_> = EventKind::ALL.iter().map(|event| event.as_str()).collect();
    let outcomes = [Outcome::Allow, Outcome::Deny, Outcome::Error].map(Outcome::as_str);
    json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "A record of clawsec's audit log",
        "description": "One line of the log. Readers accept fields they do not know.",
        "type": "object",
        "required": ["v", "seq", "ts", "event", "action", "outcome", "reason", "count", "prev", "hash"],
        "properties": properties(&events, &outcomes),
        "allOf": WORDS.iter().map(Words::rule).collect::<Vec<_>>(),
    })
}

fn properties(events: &[&str], outcomes: &[&str]) -> Value {
    let count = |about: &str| json!({ "type": "integer", "minimum": 0, "description": about });
    let stamp = |about: &str| {
        json!({
            "type": "string", "format": "date-time", "description": about,
            "pattern": r"^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}\.[0-9]{6}Z$",
        })
    };
    let text = |most: u64, about: &str| json!({ "type": "string", "maxLength": most, "description": about });
    let digest = |about: &str| json!({ "type": "string", "pattern": "^[0-9a-f]{64}$", "description": about });
    let totals = json!({
        "type": "object",
        "additionalProperties": { "type": "integer", "minimum": 0 },
        "description": "the kernel's counters by reason; of `lost`, events by kind",
    });
    json!({
        "v": { "const": 1, "description": "version of the schema" },
        "seq": { "type": "integer", "minimum": 1, "description": "grows by 1 across files and restarts" },
        "ts": stamp("when it happened; of a sum, its last occurrence"),
        "event": { "enum": events },
        "action": { "type": "string", "description": "what was tried or done" },
        "outcome": { "enum": outcomes },
        "reason": { "type": "string", "description": "why" },
        "rule": text(256, "the configuration path that decided"),
        "generation": count("the policy generation that decided"),
        "src": {
            "type": "object",
            "required": ["ip"],
            "properties": {
                "ip": { "type": "string", "description": "IPv4 or IPv6 address" },
                "port": { "type": "integer", "minimum": 0, "maximum": 65535 },
            },
        },
        "request": text(128, "ties the records of one request together"),
        "principal": text(128, "the id of the key"),
        "user": text(128, "as the request named it"),
        "group": text(128, "as the request named it"),
        "agent": text(128, "the agent's id"),
        "session": text(256, "the session's key"),
        "tool": {
            "type": "object",
            "required": ["name", "args_bytes"],
            "properties": {
                "name": text(128, "as policy judged it"),
                "args_bytes": count("length of the arguments as JSON"),
            },
        },
        "sandbox": {
            "type": "object",
            "required": ["provider", "oom", "timed_out", "duration_ms", "output_bytes", "truncated"],
            "properties": {
                "provider": text(64, "docker, firejail, native or none"),
                "exit": { "type": "integer" },
                "signal": { "type": "integer" },
                "oom": { "type": "boolean", "description": "killed for its memory" },
                "timed_out": { "type": "boolean" },
                "duration_ms": count("milliseconds"),
                "output_bytes": count("before the cap"),
                "truncated": { "type": "boolean", "description": "the output went over the cap" },
            },
        },
        "duration_ms": count("of `observed`: from its beginning to its end"),
        "count": count("occurrences this record adds to the sums"),
        "settles": count("occurrences named here that an earlier record counted without a source"),
        "sources": count("about how many different sources it tells of, where it names none"),
        "epoch": count("which life of the kernel's counters"),
        "totals": totals,
        "first": stamp("of a sum: its first occurrence"),
        "last": stamp("of a sum: its last occurrence"),
        "detail": text(1024, "free text for a person"),
        "prev": digest("the hash of the record before; zeros for the first"),
        "hash": digest("SHA-256, or HMAC-SHA256 with a chain key, of `prev` and the line without this field"),
    })
}

impl Words {
    /// An event has its own words.
    fn rule(&self) -> Value {
        let mut reasons: Vec<&str> = Vec::new();
        if self.of_policy {
            reasons.extend(Reason::ALL.iter().map(|reason| reason.as_str()));
        }
        reasons.extend(self.reasons);
        let mut rule = Map::new();
        let event = self.event.as_str();
        rule.insert(
            "if".into(),
            json!({ "properties": { "event": { "const": event } } }),
        );
        rule.insert(
            "then".into(),
            json!({ "properties": { "action": { "enum": self.actions }, "reason": { "enum": reasons } } }),
        );
        Value::Object(rule)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Set `BLESS=1` to rewrite the file after a deliberate change of the format.
    #[test]
    fn the_schema_in_the_docs_is_this_one() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/audit.schema.json");
        let schema = serde_json::to_string_pretty(&schema()).unwrap() + "\n";
        if std::env::var_os("BLESS").is_some() {
            std::fs::write(path, &schema).unwrap();
        }
        let documented = std::fs::read_to_string(path).unwrap();
        let differs = documented.lines().zip(schema.lines()).find(|(a, b)| a != b);
        assert_eq!(differs, None, "BLESS=1 rewrites docs/audit.schema.json");
        assert_eq!(documented.len(), schema.len(), "one is longer");
    }

    #[test]
    fn no_word_stands_twice() {
        for rule in WORDS.iter().map(Words::rule) {
            for field in ["action", "reason"] {
                let words = rule["then"]["properties"][field]["enum"]
                    .as_array()
                    .unwrap();
                let mut seen = std::collections::BTreeSet::new();
                for word in words {
                    assert!(seen.insert(word.as_str().unwrap()), "{word} in {rule}");
                }
            }
        }
    }

    #[test]
    fn every_action_of_the_log_itself_is_a_word_of_it() {
        let mut found = 0;
        for line in include_str!("entry.rs").lines() {
            let Some((_, word)) = line
                .strip_prefix("pub(super) const ")
                .and_then(|rest| rest.split_once(": &str = "))
            else {
                continue;
            };
            let word = word.trim_matches(['"', ';']);
            assert!(WORDS.iter().any(|of| of.actions.contains(&word)), "{word}");
            found += 1;
        }
        assert!(found > 10, "{found}");
    }
}
