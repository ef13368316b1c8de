//! What a principal that is bound to agents is shown of the others: nothing.
//!
//! Invariant: an object that belongs to another agent (by its id, its session's key, or a file of
//! its own) does not pass, nor a text that names another agent's session. What has no name of an
//! agent passes only where it cannot hold one.

mod events;

use futures_util::FutureExt as _;
use http_body_util::{BodyExt as _, Limited};
use hyper::Response;
use hyper::header::{CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE};
use serde_json::{Map, Value};

use self::events::Events;
use super::body::{self, Body};
use super::refusal::Refusal;
use crate::policy::{Bound, SessionKey, agent_id};

/// One connection's view: frames of the upstream come in, what is left goes on.
#[derive(Debug)]
pub(super) struct Isolation<'a> {
    view: View<'a>,
    /// Events held back; what follows is numbered as if they had never been.
    held_back: u64,
}

impl<'a> Isolation<'a> {
    pub(super) fn new(bound: &'a [String], default: Option<&'a str>) -> Self {
        Self {
            view: View { bound, default },
            held_back: 0,
        }
    }

    /// A frame for the client, or nothing where it is another's or cannot be read.
    pub(super) fn frame(&mut self, frame: &[u8]) -> Option<String> {
        let mut frame: Value = serde_json::from_slice(frame).ok()?;
        match frame.get("type").and_then(Value::as_str) {
            Some("event") => {
                let passes = self.event(&mut frame);
                let seq = frame.get("seq").and_then(Value::as_u64);
                if !passes {
                    self.held_back += u64::from(seq.is_some());
                    return None;
                }
                if let Some(seq) = seq {
                    frame["seq"] = seq.saturating_sub(self.held_back).into();
                }
            }
            Some("res") => {
                for part in ["payload", "error"] {
                    let is_ours = frame.get_mut(part).is_none_or(|part| self.view.keep(part));
                    if !is_ours {
                        frame["ok"] = false.into();
                        frame["error"] =
                            serde_json::json!({"code": "INVALID_REQUEST", "message": "not found"});
                        frame.as_object_mut()?.remove("payload");
                        break;
                    }
                }
            }
            _ => return None,
        }
        Some(frame.to_string())
    }

    fn event(&self, frame: &mut Value) -> bool {
        let name = frame
            .get("event")
            .and_then(Value::as_str)
            .unwrap_or_default();
        let of_an_agent = OF_AN_AGENT.iter().any(|family| name.starts_with(family));
        if !of_an_agent && !OF_NO_AGENT.contains(&name) {
            return false;
        }
        let Some(payload) = frame.get_mut("payload") else {
            return !of_an_agent;
        };
        (!of_an_agent || self.view.names_own(payload)) && self.view.keep(payload)
    }
}

/// Events that say whose they are.
const OF_AN_AGENT: &[&str] = &[
    "agent",
    "chat",
    "session.",
    "sessions.",
    "exec.approval.",
    "question.",
    "progressCard.",
];
/// Events that concern everybody.
const OF_NO_AGENT: &[&str] = &[
    "connect.challenge",
    "tick",
    "health",
    "shutdown",
    "gateway.suspension",
    "models.snapshot",
    "voicewake.changed",
];

/// Prepares a `hello-ok`: other agents and other clients are not in it.
pub(super) fn hello(hello: &mut Value, bound: &[String], default: Option<&str>) {
    let view = View { bound, default };
    if let Some(payload) = hello.get_mut("payload")
        && !view.keep(payload)
    {
        *payload = Value::Null;
    }
    // The folders of the gateway's host are nobody's who is bound to a part of it.
    if let Some(snapshot) = hello.pointer_mut("/payload/snapshot")
        && let Some(snapshot) = snapshot.as_object_mut()
    {
        snapshot.shift_remove("configPath");
        snapshot.shift_remove("stateDir");
    }
}

/// An answer over HTTP as a bound principal may see it: JSON filtered whole, event streams event
/// by event, pages as they are.
pub(super) async fn answer(
    bound: Bound,
    response: Response<Body>,
) -> Result<Response<Body>, Refusal> {
    let kind = response.headers().get(CONTENT_TYPE);
    let kind = kind.and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    let is_stream = kind.contains("event-stream");
    if !is_stream && !kind.contains("json") {
        return Ok(response);
    }
    if response.headers().contains_key(CONTENT_ENCODING) {
        return Err(Refusal::unfilterable("it is encoded"));
    }
    let (mut parts, body) = response.into_parts();
    parts.headers.remove(CONTENT_LENGTH);
    if is_stream {
        let events = Events::new(body, bound).boxed_unsync();
        return Ok(Response::from_parts(parts, events));
    }
    // Boxed, since the compiler does not see that the future of a boxed body can be sent.
    let whole = Limited::new(body, FILTERED_BYTES).collect().boxed().await;
    let whole = whole.map_err(|error| Refusal::unfilterable(&error.to_string()))?;
    let view = View {
        bound: &bound.agents,
        default: Some(&bound.default_agent),
    };
    let mut value: Value = serde_json::from_slice(&whole.to_bytes())
        .map_err(|error| Refusal::unfilterable(&error.to_string()))?;
    if !view.keep(&mut value) {
        return Err(Refusal::not_found().ruled("security.auth"));
    }
    Ok(Response::from_parts(parts, body::full(value.to_string())))
}

/// The largest answer that is read whole to be filtered.
const FILTERED_BYTES: usize = 8 * 1024 * 1024;

#[derive(Debug, Clone, Copy)]
struct View<'a> {
    bound: &'a [String],
    default: Option<&'a str>,
}

impl View<'_> {
    /// Removes what is another agent's; false when the whole of it is.
    fn keep(&self, value: &mut Value) -> bool {
        match value {
            Value::Array(items) => {
                items.retain_mut(|item| self.keep(item));
                true
            }
            Value::Object(members) => self.keep_object(members),
            Value::String(text) => self.keep_text(text),
            _ => true,
        }
    }

    fn keep_object(&self, members: &mut Map<String, Value>) -> bool {
        if members
            .iter()
            .any(|(key, value)| self.is_anothers(key, value))
        {
            return false;
        }
        let mut shortened = None;
        members.retain(|key, value| {
            if key == "presence" {
                // Other clients are other people.
                *value = Value::Array(Vec::new());
                return true;
            }
            if DEFAULTS.contains(&key.as_str()) {
                self.stand_in(key, value);
                return true;
            }
            let before = value.as_array().map(Vec::len);
            if key == "agents" {
                self.keep_agents(value);
            }
            if self.session_is_anothers(key) || !self.keep(value) {
                return false;
            }
            let after = value.as_array().map(Vec::len);
            if before != after {
                shortened = after;
            }
            true
        });
        if let Some(length) = shortened {
            for key in ["count", "total", "totalCount"] {
                if members.get(key).is_some_and(Value::is_number) {
                    members.insert(key.to_owned(), length.into());
                }
            }
        }
        true
    }

    /// The list or the map of agents itself, whose entries' `id` is an agent's.
    fn keep_agents(&self, agents: &mut Value) {
        match agents {
            Value::Array(agents) => agents.retain(|agent| {
                let id = agent.get("id").or(Some(agent)).and_then(Value::as_str);
                id.is_none_or(|id| self.is_own(id))
            }),
            Value::Object(agents) => agents.retain(|id, _| self.is_own(id)),
            _ => {}
        }
    }

    /// Whether one member of an object says that the object is another agent's.
    fn is_anothers(&self, key: &str, value: &Value) -> bool {
        let Some(text) = value.as_str() else {
            return false;
        };
        match key {
            "defaultAgentId" => false,
            "id" | "root" | "model" => self.is_anothers_model(text),
            _ if key == "agent" || key.ends_with("gentId") => !self.is_own(text),
            "sessionKey" | "childSessionKey" | "requesterSessionKey" => {
                !self.is_own_session(text, true)
            }
            "key" => !self.is_own_session(text, matches!(text, "global" | "unknown" | "main")),
            _ => false,
        }
    }

    /// `openclaw/<agent>`: agents stand in the list of models.
    fn is_anothers_model(&self, text: &str) -> bool {
        match text.split_once('/') {
            Some(("openclaw", "default")) => {
                self.default.is_none_or(|default| !self.is_own(default))
            }
            Some(("openclaw", agent)) => !self.is_own(agent),
            _ => false,
        }
    }

    fn keep_text(&self, text: &mut String) -> bool {
        if self.session_is_anothers(text) || self.is_in_anothers_folder(text) {
            return false;
        }
        // A tool's answer stands as JSON inside a text.
        let looks_like_json = text.trim_start().starts_with(['{', '[']);
        if looks_like_json && let Ok(mut inner) = serde_json::from_str::<Value>(text) {
            let before = inner.clone();
            if !self.keep(&mut inner) {
                return false;
            }
            if inner != before {
                *text = inner.to_string();
            }
        }
        true
    }

    /// `/agents/<id>/` in a path: `…/agents/main/sessions/sessions.json`.
    fn is_in_anothers_folder(&self, text: &str) -> bool {
        let mut rest = text;
        while let Some((_, after)) = rest.split_once("/agents/") {
            let id = after.split('/').next().unwrap_or_default();
            if !self.is_own(id) {
                return true;
            }
            rest = after;
        }
        false
    }

    fn session_is_anothers(&self, text: &str) -> bool {
        text.get(..6)
            .is_some_and(|prefix| prefix.eq_ignore_ascii_case("agent:"))
            && !self.is_own_session(text, true)
    }

    /// Whether a session's key is of an own agent; one that names no agent is of the default's,
    /// where it `counts` as a key at all.
    fn is_own_session(&self, key: &str, counts: bool) -> bool {
        match SessionKey::read(key) {
            Ok(SessionKey {
                agent: Some(agent), ..
            }) => self.is_own(&agent),
            Ok(_) => !counts || self.default.is_some_and(|default| self.is_own(default)),
            Err(_two_readings) => false,
        }
    }

    /// Whether a payload says that it is of an own agent.
    fn names_own(&self, payload: &Value) -> bool {
        let text = |key: &str| payload.get(key).and_then(Value::as_str);
        let request = |key: &str| {
            let request = payload.get("request").and_then(|request| request.get(key));
            request.and_then(Value::as_str)
        };
        let session = text("sessionKey").or(text("key")).or(request("sessionKey"));
        let agent = text("agentId").or(request("agentId"));
        match (session, agent) {
            (Some(session), _) => self.is_own_session(session, true),
            (None, Some(agent)) => self.is_own(agent),
            (None, None) => false,
        }
    }

    fn is_own(&self, agent: &str) -> bool {
        agent_id(agent).is_ok_and(|agent| {
            self.bound
                .iter()
                .any(|own| own.eq_ignore_ascii_case(&agent))
        })
    }

    /// Puts an own agent where another would stand as the default.
    fn stand_in(&self, key: &str, value: &mut Value) {
        let Some(own) = self.bound.first() else {
            *value = Value::Null;
            return;
        };
        let keeps = match value.as_str() {
            Some(text) if key == "mainSessionKey" => self.is_own_session(text, true),
            Some(text) => self.is_own(text),
            None => true,
        };
        if !keeps {
            *value = match key {
                "mainSessionKey" => format!("agent:{own}:main").into(),
                _ => own.as_str().into(),
            };
        }
    }
}

/// Members that name the default agent.
const DEFAULTS: [&str; 3] = ["defaultAgentId", "defaultId", "mainSessionKey"];

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn kept(frame: &Value) -> Option<Value> {
        let bound = ["work".to_owned()];
        let mut isolation = Isolation::new(&bound, Some("main"));
        let text = isolation.frame(frame.to_string().as_bytes())?;
        Some(serde_json::from_str(&text).unwrap())
    }

    #[test]
    fn lists_hold_only_own_sessions_and_agents() {
        let res =
            |payload: Value| json!({"type": "res", "id": "1", "ok": true, "payload": payload});
        let rows = [
            (
                "sessions",
                json!({"count": 3, "path": "/h/.clawdbot/x.json", "sessions": [
                    {"key": "agent:main:main"}, {"key": "agent:work:main", "spawnedBy": "agent:main:main"},
                    {"key": "global"}]}),
                json!({"count": 1, "path": "/h/.clawdbot/x.json", "sessions": [{"key": "agent:work:main"}]}),
            ),
            (
                "agents",
                json!({"defaultId": "main", "agents": [{"id": "main"}, {"id": "work"}]}),
                json!({"defaultId": "work", "agents": [{"id": "work"}]}),
            ),
            (
                "health",
                json!({"ok": true, "defaultAgentId": "main", "agents": [{"agentId": "main"}, {"agentId": "work"}],
                    "sessions": {"path": "/h/agents/main/sessions/sessions.json", "count": 1}}),
                json!({"ok": true, "defaultAgentId": "work", "agents": [{"agentId": "work"}],
                    "sessions": {"count": 1}}),
            ),
            (
                "a map by session",
                json!({"agent:main:main": 1, "agent:work:x": 2}),
                json!({"agent:work:x": 2}),
            ),
            (
                "JSON in a text",
                json!({"content": [{"type": "text", "text": "{\"sessions\":[{\"key\":\"agent:main:main\"}]}"}]}),
                json!({"content": [{"type": "text", "text": "{\"sessions\":[]}"}]}),
            ),
            (
                "models",
                json!({"data": [{"id": "openclaw/main"}, {"id": "openclaw/work"}, {"id": "gpt/x"}]}),
                json!({"data": [{"id": "openclaw/work"}, {"id": "gpt/x"}]}),
            ),
            (
                "words",
                json!({"text": "the agent: main", "n": [1, null]}),
                json!({"text": "the agent: main", "n": [1, null]}),
            ),
        ];
        for (name, payload, expected) in rows {
            assert_eq!(kept(&res(payload)), Some(res(expected)), "{name}");
        }
        let anothers = kept(&res(json!({"key": "agent:main:main", "messages": []}))).unwrap();
        assert_eq!(
            (&anothers["ok"], &anothers["payload"]),
            (&json!(false), &Value::Null)
        );
    }

    #[test]
    fn events_of_others_are_held_back_and_leave_no_gap() {
        let bound = ["work".to_owned()];
        let mut isolation = Isolation::new(&bound, Some("main"));
        let rows = [
            ("tick", json!({"ts": 1}), 1, Some(1)),
            ("chat", json!({"sessionKey": "agent:main:main"}), 2, None),
            ("chat", json!({"sessionKey": "main"}), 3, None),
            ("chat", json!({"runId": "r"}), 4, None),
            (
                "agent",
                json!({"sessionKey": "agent:work:main"}),
                5,
                Some(2),
            ),
            ("presence", json!({"presence": []}), 6, None),
            ("cron", json!({"jobId": "j"}), 7, None),
            ("brand.new", json!({}), 8, None),
            (
                "exec.approval.requested",
                json!({"id": "1", "request": {"agentId": "work"}}),
                9,
                Some(3),
            ),
            (
                "exec.approval.requested",
                json!({"id": "1", "request": {"agentId": "main"}}),
                10,
                None,
            ),
            ("tick", json!({"ts": 2}), 11, Some(4)),
        ];
        for (event, payload, seq, expected) in rows {
            let frame = json!({"type": "event", "event": event, "payload": payload, "seq": seq});
            let kept = isolation.frame(frame.to_string().as_bytes());
            let seq =
                kept.map(|text| serde_json::from_str::<Value>(&text).unwrap()["seq"].as_u64());
            assert_eq!(seq, expected.map(Some), "{frame}");
        }
    }

    #[test]
    fn a_hello_shows_nobody_else() {
        let mut frame = json!({"payload": {"snapshot": {
            "presence": [{"ip": "192.0.2.9"}], "configPath": "/h/x.json", "stateDir": "/h",
            "sessionDefaults": {"defaultAgentId": "main", "mainKey": "main", "mainSessionKey": "agent:main:main"},
        }}});
        hello(&mut frame, &["work".to_owned()], Some("main"));
        assert_eq!(
            frame["payload"]["snapshot"],
            json!({"presence": [], "sessionDefaults": {
                "defaultAgentId": "work", "mainKey": "main", "mainSessionKey": "agent:work:main"}})
        );
    }
}
