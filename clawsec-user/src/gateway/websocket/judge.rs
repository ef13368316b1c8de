//! What a client's frame asks for, and the answer when it may not.
//!
//! Invariant: a frame is forwarded only with the `Permit` for everything it names, and as the
//! very bytes that were parsed here.

use serde_json::{Value, json};

use super::Session;
use super::handshake::{Role, error_frame, limited};
use crate::event::{EventKind, ToolFact};
use crate::gateway::facts::{name_all, name_deeply, strings};
use crate::gateway::json;
use crate::gateway::limits;
use crate::gateway::record::Exchange;
use crate::policy::{
    Denial, Method, MethodClass, Permit, Reason, Request, RequestFacts, Scope, ToolName,
    classify_method,
};

/// What becomes of a frame.
#[derive(Debug)]
pub(super) enum Ruling {
    Forward(Box<Permit>),
    /// Denied; the connection stays usable.
    Answer(String),
    /// Not a frame of this protocol: the connection ends.
    Close(&'static str),
}

/// Judges one text frame, and records what was decided.
pub(super) fn judge(exchange: &mut Exchange, session: &Session, frame: &[u8]) -> Ruling {
    let frame = match json::parse(frame) {
        Ok(frame) => frame,
        Err(error) => {
            exchange.note.detail = Some(error.to_string());
            exchange.denied(&Denial::new(Reason::RequestMalformed, "frame"));
            return Ruling::Close("invalid request frame");
        }
    };
    // The gateway's own schema wants an id and a method that are not empty.
    let text = |key: &str| {
        let text = frame.get(key).and_then(Value::as_str);
        text.filter(|text| !text.is_empty())
    };
    let (Some("req"), Some(id), Some(method)) = (text("type"), text("id"), text("method")) else {
        exchange.denied(&Denial::new(Reason::RequestMalformed, "frame"));
        return Ruling::Close("invalid request frame");
    };
    exchange.note.detail = Some(method.to_owned());
    let class = classify_method(session.terms.protocol, method);
    exchange.note.kind = kind(class.class);
    // A node answers what the gateway asked of it; that is not a request of its own.
    if class.class != MethodClass::Node
        && let Err(refusal) = limits::spend_for(exchange, &session.principal)
    {
        exchange.refused(&refusal);
        return Ruling::Answer(limited(id, &refusal));
    }
    let params = frame.get("params").unwrap_or(&Value::Null);
    match decide(exchange, session, method, class, params) {
        Ok(permit) => {
            exchange.allowed(permit.rule());
            Ruling::Forward(Box::new(permit))
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
    session: &Session,
    method: &str,
    class: Method,
    params: &Value,
) -> Result<Permit, Denied> {
    let Session {
        principal,
        role,
        terms,
    } = session;
    let path = principal.path();
    if method == "connect" {
        let message = "connect is only valid as the first request";
        return Err(Denied::new(Reason::HandshakeInvalid, path, message));
    }
    if (class.class == MethodClass::Node) != (*role == Role::Node) {
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
    let scope = class.scope;
    let mut facts = RequestFacts::new(Request::Method {
        name: method.to_owned(),
        method: class,
    });
    facts.default_agent.clone_from(&terms.default_agent);
    name_all(&mut facts, params).map_err(malformed)?;
    if method.starts_with("session") {
        if let Some(key) = json::text(params, "key") {
            facts.name_session(key).map_err(malformed)?;
        }
        for key in strings(params, "keys") {
            facts.name_other_session(key).map_err(malformed)?;
        }
        // Each of these names is the request's own: the default agent is not meant beside them.
        if params.get("keys").is_some() && facts.agent.is_none() {
            facts.agent = facts.also_agents.first().cloned();
        }
    }
    if principal.agents().is_some() {
        name_deeply(&mut facts, params).map_err(malformed)?;
    }
    let Some(tool) = tool(method, params).map_err(malformed)? else {
        return exchange
            .decide(principal, facts)
            .map_err(|denial| told(denial, scope));
    };
    let as_method = exchange
        .decide(principal, facts.clone())
        .map_err(|denial| told(denial, scope))?;
    drop(as_method);
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

/// The tool that a method runs, by the name the tool lists know.
pub(super) fn tool<'a>(method: &str, params: &'a Value) -> Result<Option<&'a str>, &'static str> {
    match method {
        "tools.invoke" | "mcp.app.callTool" | "talk.client.toolCall" => {
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
        "node.invoke" => match json::text(params, "command") {
            Some(command) => Ok(Some(node_command(command))),
            None => Err("no command is named"),
        },
        "node.pending.enqueue" => Ok(Some("nodes")),
        "browser.request" => Ok(Some("browser")),
        "computer.invoke" => Ok(Some("computer")),
        // A terminal or a process on the gateway's side is `exec` with a keyboard.
        "sessions.catalog.startTerminal" | "environments.session.exec" | "attach.grant" => {
            Ok(Some("exec"))
        }
        _ if method.starts_with("terminal.") => Ok(Some("exec")),
        _ if method.starts_with("desktop.") || method.starts_with("worker.desktop.") => {
            Ok(Some("computer"))
        }
        _ => Ok(None),
    }
}

/// A node's `system.run` is what `exec` becomes there, whoever asks for it.
fn node_command(command: &str) -> &'static str {
    let command = command.to_lowercase();
    let begins = |prefixes: &[&str]| prefixes.iter().any(|prefix| command.starts_with(prefix));
    if begins(&["system.run", "terminal.", "agent.cli.", "worker."]) {
        "exec"
    } else if begins(&["browser"]) {
        "browser"
    } else {
        "nodes"
    }
}

fn kind(class: MethodClass) -> EventKind {
    match class {
        MethodClass::Tool => EventKind::Tool,
        MethodClass::Config => EventKind::Config,
        MethodClass::Auth => EventKind::Auth,
        MethodClass::Read | MethodClass::Message | MethodClass::Admin | MethodClass::Node => {
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
