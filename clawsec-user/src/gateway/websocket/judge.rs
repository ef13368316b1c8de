//! What a client's frame asks for, and the answer when it may not.
//!
//! Invariant: a frame is forwarded only with the `Permit` for everything it names, and as the
//! very bytes that were parsed here.

use serde_json::{Value, json};

use super::handshake::{Role, error_frame};
use crate::event::{EventKind, ToolFact};
use crate::gateway::facts::{name_agent, name_peer, name_session};
use crate::gateway::json;
use crate::gateway::limits;
use crate::gateway::record::Exchange;
use crate::policy::{
    Denial, Method, MethodClass, Permit, Principal, Reason, Request, RequestFacts, Scope, ToolName,
    UserId, classify_method,
};

/// What becomes of a frame.
#[derive(Debug)]
pub(super) enum Ruling {
    Forward(Permit),
    /// Denied; the connection stays usable.
    Answer(String),
    /// Not a frame of this protocol: the connection ends.
    Close(&'static str),
}

/// Judges one text frame, and records what was decided.
pub(super) fn judge(
    exchange: &mut Exchange,
    principal: &Principal,
    role: Role,
    frame: &[u8],
) -> Ruling {
    let frame = match json::parse(frame) {
        Ok(frame) => frame,
        Err(error) => {
            exchange.note.detail = Some(error.to_string());
            exchange.denied(&Denial::new(Reason::RequestMalformed, "frame"));
            return Ruling::Close("invalid request frame");
        }
    };
    let text = |key: &str| frame.get(key).and_then(Value::as_str);
    let (Some("req"), Some(id), Some(method)) = (text("type"), text("id"), text("method")) else {
        exchange.denied(&Denial::new(Reason::RequestMalformed, "frame"));
        return Ruling::Close("invalid request frame");
    };
    exchange.note.detail = Some(method.to_owned());
    let class = classify_method(method);
    exchange.note.kind = kind(class.class);
    // A node answers what the gateway asked of it; that is not a request of its own.
    if class.class != MethodClass::Node
        && let Err(refusal) = limits::spend(exchange)
    {
        exchange.refused(&refusal);
        return Ruling::Answer(error_frame(
            id,
            &json!({
                "code": "UNAVAILABLE",
                "message": "rate limit exceeded",
                "details": {"code": "RATE_LIMITED"},
                "retryable": true,
                "retryAfterMs": refusal.retry_after_ms,
            }),
        ));
    }
    let params = frame.get("params").unwrap_or(&Value::Null);
    match decide(exchange, principal, role, method, class, params) {
        Ok(permit) => {
            exchange.allowed(permit.rule());
            Ruling::Forward(permit)
        }
        Err(denied) => {
            exchange.denied(&denied.denial);
            Ruling::Answer(error_frame(
                id,
                &json!({"code": "INVALID_REQUEST", "message": denied.message}),
            ))
        }
    }
}

struct Denied {
    denial: Denial,
    /// In the gateway's own words.
    message: String,
}

impl Denied {
    fn new(reason: Reason, rule: &str, message: impl Into<String>) -> Self {
        Self {
            denial: Denial::new(reason, rule),
            message: message.into(),
        }
    }
}

fn decide(
    exchange: &mut Exchange,
    principal: &Principal,
    role: Role,
    method: &str,
    class: Method,
    params: &Value,
) -> Result<Permit, Denied> {
    let path = principal.path();
    if method == "connect" {
        let message = "connect is only valid as the first request";
        return Err(Denied::new(Reason::HandshakeInvalid, path, message));
    }
    if (class.class == MethodClass::Node) != (role == Role::Node) {
        let message = format!("unauthorized role: {}", role.as_str());
        return Err(Denied::new(Reason::MethodNotAllowed, path, message));
    }
    let malformed = |why: &str| {
        Denied::new(
            Reason::RequestMalformed,
            "frame",
            format!("invalid {method} params: {why}"),
        )
    };
    // A node's methods have no operator scope; the role itself was tied to administrators.
    let scope = class.scope.or(Some(Scope::Admin));
    let asks = Request::Method {
        name: method.to_owned(),
        class: class.class,
        scope,
    };
    let mut facts = RequestFacts::new(asks);
    name_all(&mut facts, params).map_err(malformed)?;
    for key in strings(params, "keys") {
        let mut other = RequestFacts::new(facts.request.clone());
        name_session(&mut other, key).map_err(malformed)?;
        let also = exchange
            .decide(principal, other)
            .map_err(|denial| told(denial, scope))?;
        drop(also);
    }
    let tool = tool(method, params).map_err(malformed)?;
    let permit = exchange
        .decide(principal, facts.clone())
        .map_err(|denial| told(denial, scope))?;
    let Some(tool) = tool else {
        return Ok(permit);
    };
    drop(permit);
    facts.request = Request::Tool(ToolName::new(tool));
    exchange.note.tool = Some(ToolFact {
        name: ToolName::new(tool).as_str().to_owned(),
        args_bytes: params.to_string().len() as u64,
    });
    let not_available = || format!("Tool not available: {}", tool.trim());
    let permit = exchange
        .decide(principal, facts)
        .map_err(|denial| match denial.reason {
            Reason::ToolDenied => Denied {
                denial,
                message: not_available(),
            },
            _ => told(denial, scope),
        })?;
    if permit.is_sandboxed() {
        // It would run on the gateway's side, outside the sandbox. `/tools/invoke` runs it inside.
        return Err(Denied::new(
            Reason::ToolDenied,
            "security.sandbox.tools",
            not_available(),
        ));
    }
    Ok(permit)
}

fn told(denial: Denial, scope: Option<Scope>) -> Denied {
    let message = match (denial.reason, scope) {
        (Reason::ScopeMissing, Some(scope)) => format!("missing scope: {}", scope.as_str()),
        (Reason::UserNotAllowed, _) => "user not allowed".to_owned(),
        (Reason::GroupNotAllowed, _) => "group not allowed".to_owned(),
        (Reason::AgentNotAllowed, _) => "agent not allowed".to_owned(),
        _ => "not allowed".to_owned(),
    };
    Denied { denial, message }
}

/// Every field of the protocol's methods that names somebody.
pub(super) fn name_all(facts: &mut RequestFacts, params: &Value) -> Result<(), &'static str> {
    for key in ["agentId"] {
        if let Some(agent) = json::text(params, key) {
            name_agent(facts, agent)?;
        }
    }
    for key in ["sessionKey", "key"] {
        if let Some(session) = json::text(params, key) {
            name_session(facts, session)?;
        }
    }
    for key in ["to", "originatingTo", "groupId"] {
        if let Some(peer) = json::text(params, key) {
            if key == "groupId" {
                facts.groups.push(crate::policy::GroupId::new(peer));
            } else {
                name_peer(facts, peer);
            }
        }
    }
    if let Some(user) = json::text(params, "user") {
        facts.users.push(UserId::new(user));
    }
    Ok(())
}

fn strings<'a>(params: &'a Value, key: &str) -> impl Iterator<Item = &'a str> {
    let list = params.get(key).and_then(Value::as_array);
    list.into_iter().flatten().filter_map(Value::as_str)
}

/// The tool that a method runs, by the name the tool lists know.
pub(super) fn tool<'a>(method: &str, params: &'a Value) -> Result<Option<&'a str>, &'static str> {
    match method {
        "tools.invoke" | "mcp.app.callTool" => {
            let keys = ["name", "tool", "toolName"];
            let mut named = keys.iter().filter_map(|key| params.get(*key));
            match (named.next(), named.next()) {
                (Some(_), Some(_)) => Err("two fields name the tool"),
                (Some(name), None) => match name.as_str() {
                    Some(name) if !name.trim().is_empty() => Ok(Some(name)),
                    _ => Err("the tool's name is not a string"),
                },
                (None, _) => Err("no tool is named"),
            }
        }
        // A node's `system.run` is what `exec` becomes there, whoever asks for it.
        "node.invoke" => match json::text(params, "command") {
            Some(command) if command.to_lowercase().starts_with("system.run") => Ok(Some("exec")),
            Some(command) if command.to_lowercase().starts_with("browser") => Ok(Some("browser")),
            Some(_) => Ok(Some("nodes")),
            None => Err("no command is named"),
        },
        "browser.request" => Ok(Some("browser")),
        // A terminal on the gateway's host is `exec` with a keyboard.
        _ if method.starts_with("terminal.") => Ok(Some("exec")),
        _ => Ok(None),
    }
}

fn kind(class: MethodClass) -> EventKind {
    match class {
        MethodClass::Tool => EventKind::Tool,
        MethodClass::Config => EventKind::Config,
        MethodClass::Read | MethodClass::Message | MethodClass::Manage | MethodClass::Node => {
            EventKind::Message
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn methods_that_run_tools_name_them() {
        let rows = [
            ("tools.invoke", r#"{"name":"Bash "}"#, Ok(Some("Bash "))),
            ("tools.invoke", r#"{"name":"x","tool":"exec"}"#, Err(())),
            ("tools.invoke", r#"{"name":7}"#, Err(())),
            ("tools.invoke", "{}", Err(())),
            (
                "node.invoke",
                r#"{"command":"system.run"}"#,
                Ok(Some("exec")),
            ),
            (
                "node.invoke",
                r#"{"command":" System.Run.prepare"}"#,
                Ok(Some("exec")),
            ),
            (
                "node.invoke",
                r#"{"command":"camera.snap"}"#,
                Ok(Some("nodes")),
            ),
            ("terminal.open", "{}", Ok(Some("exec"))),
            ("browser.request", "{}", Ok(Some("browser"))),
            ("health", "{}", Ok(None)),
        ];
        for (method, params, expected) in rows {
            let params = json::parse(params.as_bytes()).unwrap();
            assert_eq!(
                tool(method, &params).map_err(|_why| ()),
                expected,
                "{method} {params}"
            );
        }
    }
}
