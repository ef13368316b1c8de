//! `POST /tools/invoke`: which tool, and either forwarded or run in the sandbox.
//!
//! Invariant: a tool that is sandboxed never reaches the gateway behind, whatever goes wrong.

use std::collections::BTreeMap;
use std::time::Duration;

use super::received::Received;
use hyper::{Method, Request, Response, StatusCode};
use serde_json::{Map, Value, json};

use super::body::{self, Body};
use super::facts::{Asked, Load, Order, hold_body, name_all, note_deeply, product_header};
use super::json as strict;
use super::record::Exchange;
use super::refusal::Refusal;
use crate::event::{EventKind, ToolFact};
use crate::ipc::{Caller, ExecCall, ToolAnswer, ToolCall, ToolCommand};
use crate::policy::{self, Permit, RequestFacts, ToolName};

/// The gateway's own limit.
const BODY_BYTES: usize = 2 * 1024 * 1024;
/// Beyond the tool's own timeout: the wait for a place in the sandbox, its start and its end.
const ANSWER_SLACK: Duration = Duration::from_mins(1);

/// A tool call as its body says it.
#[derive(Debug)]
pub(super) struct Call {
    /// As the client wrote it, trimmed.
    pub(super) tool: String,
    args: Map<String, Value>,
    dry_run: bool,
}

/// Reads a call whole and finds what it names.
pub(super) async fn gather(
    exchange: &mut Exchange,
    request: Request<Received>,
) -> Result<Asked, Refusal> {
    exchange.note.kind = EventKind::Tool;
    exchange.note.action = "invoke";
    if *request.method() != Method::POST {
        return Err(Refusal::method("POST"));
    }
    let (parts, body) = request.into_parts();
    let held = hold_body(exchange, body, BODY_BYTES).await?;
    let invocation = strict::parse(&held.bytes)
        .map_err(|error| Refusal::malformed("the body is not JSON").detailed(error.to_string()))?;
    let call = read(&invocation)?;
    let mut facts = RequestFacts::new(policy::Request::Tool(ToolName::new(&call.tool)));
    for name in ["agent-id", "agent"] {
        if let Some(agent) = product_header(&parts.headers, name)? {
            facts.name_agent(agent).map_err(Refusal::malformed)?;
        }
    }
    if let Some(session) = product_header(&parts.headers, "session-key")? {
        facts.name_session(session).map_err(Refusal::malformed)?;
    }
    if let Some(to) = product_header(&parts.headers, "message-to")? {
        facts.name_peer(to);
    }
    name_all(&mut facts, &invocation).map_err(Refusal::malformed)?;
    note_deeply(&mut facts, &invocation);
    // The older gateway goes by the session alone.
    facts.names_default |= facts.session.is_none();
    exchange.note.tool = Some(ToolFact {
        name: ToolName::new(&call.tool).as_str().to_owned(),
        args_bytes: args_bytes(&call.args),
    });
    let mut order = Order::new(parts, Load::Held(held));
    order.call = Some(call);
    Ok(Asked { facts, order })
}

/// Runs a permitted call in the sandbox and answers in the gateway's result shape.
pub(super) async fn run(
    exchange: &mut Exchange,
    permit: Permit,
    order: Order,
) -> Result<Response<Body>, Refusal> {
    let call = order
        .call
        .ok_or_else(|| Refusal::sandbox_unavailable("this route runs no sandboxed tool"))?;
    if call.dry_run {
        return Err(Refusal::tool_error(
            "dryRun is not offered for sandboxed tools",
        ));
    }
    let facts = permit.facts();
    let tool_call = ToolCall {
        principal: permit.principal().to_owned(),
        source: exchange.peer().ip,
        port: exchange.peer().port,
        request: exchange.id.clone(),
        agent: facts.agent.clone(),
        session: facts.session.clone(),
        caller: Caller::Client,
        args_bytes: args_bytes(&call.args),
        command: command(&call)?,
        tool: call.tool.clone(),
    };
    let sandbox = &exchange.snapshot.config.sandbox;
    let deadline = sandbox.of(tool_call.agent.as_deref()).timeout + ANSWER_SLACK;
    let answer = exchange
        .gateway()
        .link
        .run_tool(tool_call, deadline)
        .await
        .map_err(|error| {
            Refusal::sandbox_unavailable("the sandbox did not answer").detailed(error.to_string())
        })?;
    // The supervisor has recorded what it answered, with what the sandbox made of it.
    exchange.note.recorded = true;
    match answer {
        ToolAnswer::Done(reply) => {
            let result = json!({
                "ok": true,
                "result": {
                    "content": [{"type": "text", "text": reply.text}],
                    "details": reply.details,
                },
            });
            Ok(body::response(
                StatusCode::OK,
                result.to_string(),
                &exchange.id,
            ))
        }
        ToolAnswer::Denied { reason, message } => {
            let denial = policy::Denial::new(policy::Reason::ToolDenied, "supervisor");
            let refusal = Refusal::tool_not_available(&call.tool, &denial);
            Err(refusal.detailed(format!("{reason}: {message}")))
        }
        ToolAnswer::Unavailable { message } => Err(Refusal::sandbox_unavailable(message)),
    }
}

fn read(invocation: &Value) -> Result<Call, Refusal> {
    let object = invocation
        .as_object()
        .ok_or_else(|| Refusal::malformed("the body is not an object"))?;
    // Versions read one or the other; a call with both could be judged as one and run as the other.
    if object.contains_key("tool") && object.contains_key("name") {
        return Err(Refusal::malformed("both tool and name are given"));
    }
    let tool = strict::text(invocation, "tool")
        .or_else(|| strict::text(invocation, "name"))
        .ok_or_else(|| Refusal::malformed("tools.invoke requires body.tool"))?
        .to_owned();
    let mut args = match object.get("args") {
        Some(Value::Object(args)) => args.clone(),
        _ => Map::new(),
    };
    if let Some(action) = strict::text(invocation, "action") {
        args.entry("action").or_insert_with(|| action.into());
    }
    Ok(Call {
        tool,
        args,
        dry_run: object.get("dryRun") == Some(&Value::Bool(true)),
    })
}

/// What the sandbox is to do; the parameters are those of the gateway's own `exec` and `process`.
fn command(call: &Call) -> Result<ToolCommand, Refusal> {
    let text = |key: &str| call.args.get(key).and_then(Value::as_str);
    match ToolName::new(&call.tool).as_str() {
        "exec" => {
            let command = text("command")
                .filter(|command| !command.trim().is_empty())
                .ok_or_else(|| Refusal::tool_error("command required"))?;
            Ok(ToolCommand::Exec(ExecCall {
                command: command.to_owned(),
                workdir: text("workdir").or_else(|| text("cwd")).map(str::to_owned),
                env: env(call.args.get("env"))?,
                timeout_ms: timeout_ms(call.args.get("timeout"))?,
                background: call.args.get("background") == Some(&Value::Bool(true)),
            }))
        }
        "process" => {
            let session = || {
                text("sessionId")
                    .or_else(|| text("session"))
                    .map(str::to_owned)
                    .ok_or_else(|| Refusal::tool_error("sessionId required"))
            };
            match text("action").map(str::trim) {
                Some("list") => Ok(ToolCommand::ProcessList),
                Some("poll" | "log") => Ok(ToolCommand::ProcessPoll {
                    session: session()?,
                }),
                Some("kill") => Ok(ToolCommand::ProcessKill {
                    session: session()?,
                }),
                Some(_) => Err(Refusal::tool_error("action not offered in the sandbox")),
                None => Err(Refusal::tool_error("action required")),
            }
        }
        _ => Err(Refusal::sandbox_unavailable(
            "this tool cannot be run in the sandbox",
        )),
    }
}

fn env(value: Option<&Value>) -> Result<BTreeMap<String, String>, Refusal> {
    let entries = match value {
        None | Some(Value::Null) => return Ok(BTreeMap::new()),
        Some(Value::Object(entries)) => entries,
        Some(_) => return Err(Refusal::tool_error("env is not an object")),
    };
    entries
        .iter()
        .map(|(name, value)| {
            let value = value
                .as_str()
                .ok_or_else(|| Refusal::tool_error("env holds a value that is not a string"))?;
            Ok((name.clone(), value.to_owned()))
        })
        .collect()
}

/// The gateway's `timeout` is in seconds, and may be a fraction.
fn timeout_ms(value: Option<&Value>) -> Result<Option<u64>, Refusal> {
    let Some(value) = value.filter(|value| !value.is_null()) else {
        return Ok(None);
    };
    value
        .as_f64()
        .and_then(|seconds| Duration::try_from_secs_f64(seconds).ok())
        .and_then(|timeout| u64::try_from(timeout.as_millis()).ok())
        .map(Some)
        .ok_or_else(|| Refusal::tool_error("timeout is not a number of seconds"))
}

fn args_bytes(args: &Map<String, Value>) -> u64 {
    serde_json::to_string(args).map_or(0, |text| text.len() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(body: &str) -> Result<ToolCommand, ()> {
        let body = strict::parse(body.as_bytes()).unwrap();
        command(&read(&body).map_err(|_refusal| ())?).map_err(|_refusal| ())
    }

    #[test]
    fn exec_and_process_are_read_as_the_gateway_reads_them() {
        let exec = |body: &str| match call(body) {
            Ok(ToolCommand::Exec(exec)) => Some((exec.command, exec.timeout_ms, exec.background)),
            _ => None,
        };
        assert_eq!(
            exec(r#"{"tool":" Bash ","args":{"command":"id","timeout":1.5,"background":true}}"#),
            Some(("id".into(), Some(1500), true))
        );
        let refused = [
            r#"{"tool":"exec","name":"exec","args":{"command":"id"}}"#,
            r#"{"tool":"exec","args":{}}"#,
            r#"{"tool":"exec","args":{"command":"id","env":{"A":1}}}"#,
            r#"{"tool":"exec","args":{"command":"id","timeout":-1}}"#,
            r#"{"tool":7}"#,
            r#"{"tool":"process","args":{}}"#,
            r#"{"tool":"process","args":{"action":"write"}}"#,
            r#"{"tool":"read","args":{"path":"/etc/shadow"}}"#,
            "[]",
        ];
        for body in refused {
            assert!(call(body).is_err(), "{body}");
        }
        assert!(matches!(
            call(r#"{"tool":"process","action":"list"}"#),
            Ok(ToolCommand::ProcessList)
        ));
        assert!(matches!(
            call(r#"{"tool":"process","args":{"action":"kill","sessionId":"s"}}"#),
            Ok(ToolCommand::ProcessKill { session }) if session == "s"
        ));
    }
}
