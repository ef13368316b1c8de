//! What a request names that policy has a say in: people, agents, sessions, tools.
//!
//! All of it is claimed by the client. Two claims that contradict each other are refused, because
//! the gateway behind would believe only one of them, and which one differs by version.

use super::received::Received;
use hyper::HeaderMap;
use hyper::http::request::Parts;
use serde_json::Value;

use super::body::{Held, hold};
use super::limits::Counted;
use super::record::Exchange;
use super::refusal::Refusal;
use super::route::Route;
use super::{json, messages, tools_invoke};
use crate::policy::{
    self, Denial, GroupId, MethodClass, Reach, Reason, Request, RequestFacts, Scope, UserId,
};

/// What is asked, and what is needed to do it.
#[derive(Debug)]
pub(super) struct Asked {
    pub(super) facts: RequestFacts,
    pub(super) order: Order,
}

/// A request apart from its facts.
#[derive(Debug)]
pub(super) struct Order {
    pub(super) cargo: Cargo,
    /// Set for `/tools/invoke`.
    pub(super) call: Option<tools_invoke::Call>,
}

impl Order {
    pub(super) fn new(parts: Parts, load: Load) -> Self {
        Self {
            cargo: Cargo { parts, load },
            call: None,
        }
    }

    /// The answer to a denial: a tool is denied as if it did not exist.
    pub(super) fn denied(&self, denial: Denial) -> Refusal {
        match &self.call {
            Some(call) if denial.reason == Reason::ToolDenied => {
                Refusal::tool_not_available(&call.tool, &denial)
            }
            _ => denial.into(),
        }
    }
}

/// The request as it would go upstream.
#[derive(Debug)]
pub(super) struct Cargo {
    pub(super) parts: Parts,
    pub(super) load: Load,
}

#[derive(Debug)]
pub(super) enum Load {
    /// The very bytes that were judged.
    Held(Held),
    /// Streamed through, not judged.
    Streamed(Received),
}

/// Reads as much of a request as its route needs to be judged.
pub(super) async fn gather(exchange: &mut Exchange, counted: Counted) -> Result<Asked, Refusal> {
    let Counted { request, route, .. } = counted;
    match route {
        Route::ToolsInvoke => tools_invoke::gather(exchange, request).await,
        Route::ChatCompletions | Route::Responses | Route::Hooks => {
            messages::gather(exchange, request, route).await
        }
        Route::ApiRead
        | Route::ApiWrite
        | Route::Manage
        | Route::Page
        | Route::SignIn
        | Route::WebSocket
        | Route::Webhook => {
            let (parts, body) = request.into_parts();
            let name = format!("{} {}", parts.method, parts.uri.path());
            let method = |class, scope| Request::Method {
                name,
                method: policy::Method {
                    class,
                    scope: Some(scope),
                    // No agent's own; a model without tools, an administrator's route.
                    reach: Reach::None,
                    known: true,
                },
            };
            let asks = match route {
                Route::ApiWrite => method(MethodClass::Message, Scope::Write),
                Route::Manage => method(MethodClass::Admin, Scope::Admin),
                _ => Request::Route,
            };
            let mut facts = RequestFacts::new(asks);
            name_by_path(&mut facts, parts.uri.path()).map_err(Refusal::malformed)?;
            Ok(Asked {
                facts,
                order: Order::new(parts, Load::Streamed(body)),
            })
        }
    }
}

/// Reads a body that policy judges.
pub(super) async fn hold_body(
    exchange: &Exchange,
    body: Received,
    limit: usize,
) -> Result<Held, Refusal> {
    let gateway = exchange.gateway();
    let held = hold(body, limit, &gateway.budget, gateway.deadlines.body).await?;
    exchange.connection.head.expect_next();
    Ok(held)
}

/// Whom a path names: `/avatar/<agent>`, `/sessions/<key>/history`; the canvas is the default
/// agent's.
fn name_by_path(facts: &mut RequestFacts, path: &str) -> Result<(), &'static str> {
    facts.names_default = path.starts_with("/__");
    let mut before = "";
    for segment in path.split('/') {
        let text = percent_decoded(segment).ok_or("a path is not UTF-8")?;
        if before == "sessions" || begins_like_a_session(&text) {
            facts.name_session(&text)?;
        } else if before == "avatar" {
            facts.name_agent(&text)?;
        }
        before = segment;
    }
    Ok(())
}

fn percent_decoded(segment: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(segment.len());
    let mut rest = segment.as_bytes();
    while let Some((&byte, tail)) = rest.split_first() {
        rest = tail;
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let (digits, tail) = rest.split_at_checked(2)?;
        let digits = std::str::from_utf8(digits).ok()?;
        bytes.push(u8::from_str_radix(digits, 16).ok()?);
        rest = tail;
    }
    String::from_utf8(bytes).ok()
}

/// Every member of an object that names somebody, as the protocol's methods and bodies have them.
pub(super) fn name_all(facts: &mut RequestFacts, object: &Value) -> Result<(), &'static str> {
    for key in ["agentId", "agent"] {
        if let Some(agent) = json::text(object, key) {
            facts.name_agent(agent)?;
        }
    }
    if let Some(session) = json::text(object, "sessionKey") {
        facts.name_session(session)?;
    }
    name_people(facts, object);
    for key in ["params", "args", "arguments"] {
        if let Some(inner) = object.get(key) {
            name_people(facts, inner);
        }
    }
    Ok(())
}

/// The people whom an object's members name.
fn name_people(facts: &mut RequestFacts, object: &Value) {
    for key in ["to", "originatingTo", "replyTo", "target", "recipient"] {
        if let Some(peer) = json::text(object, key) {
            facts.name_peer(peer);
        }
    }
    for peer in strings(object, "targets") {
        facts.name_peer(peer);
    }
    if let Some(group) = json::text(object, "groupId") {
        facts.groups.push(GroupId::new(group));
    }
    if let Some(user) = json::text(object, "user") {
        facts.users.push(UserId::new(user));
    }
}

/// The same for a request of which the principal is not known yet: what cannot be read names an
/// agent that is nobody's.
pub(super) fn note_deeply(facts: &mut RequestFacts, value: &Value) {
    if name_deeply(facts, value).is_err() {
        facts.also_agents.push(String::new());
    }
}

/// Agents that are named anywhere in a request of a principal that is bound to some: by id, or in
/// a session key however deep. What people say to each other is not looked at.
pub(super) fn name_deeply(facts: &mut RequestFacts, value: &Value) -> Result<(), &'static str> {
    match value {
        Value::Array(items) => items.iter().try_for_each(|item| name_deeply(facts, item)),
        Value::Object(members) => members.iter().try_for_each(|(key, value)| {
            if SPEECH.contains(&key.as_str()) {
                return Ok(());
            }
            if begins_like_a_session(key) {
                facts.name_other_session(key)?;
            }
            match value {
                Value::String(text) if key.ends_with("gentId") => {
                    facts.also_agents.push(policy::agent_id(text)?);
                    Ok(())
                }
                // An id of a session names its agent to whoever can look it up; clawsec cannot.
                Value::String(_) if key == "sessionId" => Err("name the session by its key"),
                value => name_deeply(facts, value),
            }
        }),
        Value::String(text) if begins_like_a_session(text) => facts.name_other_session(text),
        _ => Ok(()),
    }
}

/// Members that hold what somebody says, and no name; `model` is read by `messages`.
const SPEECH: &[&str] = &[
    "model",
    "message",
    "messages",
    "text",
    "content",
    "input",
    "instructions",
    "extraSystemPrompt",
    "label",
    "prompt",
];

fn begins_like_a_session(text: &str) -> bool {
    let text = policy::js_trim(text).trim_start_matches(':');
    text.get(..6)
        .is_some_and(|prefix| prefix.eq_ignore_ascii_case("agent:"))
}

/// The strings of a list.
pub(super) fn strings<'a>(object: &'a Value, key: &str) -> impl Iterator<Item = &'a str> {
    let list = object.get(key).and_then(Value::as_array);
    list.into_iter().flatten().filter_map(Value::as_str)
}

/// What the gateway has been called.
pub(super) const PRODUCTS: [&str; 3] = ["clawdbot", "moltbot", "openclaw"];

/// The value of `x-<product>-<name>` in every product's spelling; they have to agree.
pub(super) fn product_header<'a>(
    headers: &'a HeaderMap,
    name: &str,
) -> Result<Option<&'a str>, Refusal> {
    let mut found = None;
    for product in PRODUCTS {
        for value in headers.get_all(format!("x-{product}-{name}")) {
            let value = value
                .to_str()
                .map_err(|_not_ascii| Refusal::malformed("a header that names is not ASCII"))?
                .trim();
            match found {
                _ if value.is_empty() => {}
                Some(other) if other != value => {
                    return Err(Refusal::malformed("two headers name different things"));
                }
                _ => found = Some(value),
            }
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_name_agents_and_sessions() {
        let rows = [
            ("/avatar/Work", Some("work"), false),
            ("/base/avatar/work", Some("work"), false),
            ("/sessions/agent%3Awork%3Amain/history", Some("work"), false),
            ("/sessions/main/history", None, true),
            ("/__openclaw__/canvas/", None, true),
            ("/assets/app.js", None, false),
        ];
        for (path, agent, names_default) in rows {
            let mut facts = RequestFacts::new(Request::Route);
            assert_eq!(name_by_path(&mut facts, path), Ok(()), "{path}");
            assert_eq!(facts.agent.as_deref(), agent, "{path}");
            assert_eq!(facts.names_default, names_default, "{path}");
        }
        let mut facts = RequestFacts::new(Request::Route);
        assert!(name_by_path(&mut facts, "/x/%ff").is_err());
    }

    #[test]
    fn agents_are_found_however_deep() {
        let rows = [
            (r#"{"keys":["agent:work:main"]}"#, Ok(vec!["work"])),
            (r#"{"a":{"b":[{"agentId":"Other"}]}}"#, Ok(vec!["other"])),
            (r#"{"patch":{"spawnedBy":"agent:x:main"}}"#, Ok(vec!["x"])),
            (r#"{"agent:x:main":1}"#, Ok(vec!["x"])),
            (r#"{"requesterAgentId":"x"}"#, Ok(vec!["x"])),
            (r#"{"message":"agent:x:main"}"#, Ok(vec![])),
            (r#"{"a":"Agent:x:main"}"#, Err(())),
            (r#"{"sessionId":"s"}"#, Err(())),
        ];
        for (text, expected) in rows {
            let mut facts = RequestFacts::new(Request::Message);
            let value = json::parse(text.as_bytes()).unwrap();
            let found = name_deeply(&mut facts, &value).map_err(|_why| ());
            let found = found.map(|()| facts.also_agents.iter().map(String::as_str).collect());
            assert_eq!(found, expected, "{text}");
        }
    }
}
