//! Tool calls that the gateway passes on: judged again, then run.
//!
//! Invariant: the gateway's word is enough for who is calling, and for nothing else. The policy
//! here is the supervisor's own copy, and a call it does not permit never reaches a sandbox.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio_util::sync::CancellationToken;

use super::state::State;
use crate::config::AuditOnFailure;
use crate::event::{Event, EventKind, Outcome, SandboxFact, ToolFact};
use crate::ipc::{ExecCall, ToolAnswer, ToolCall, ToolCommand, ToolReply};
use crate::policy::{Denial, Permit, Reason, Request, RequestFacts, ToolName};
use crate::sandbox::{Execution, Job, JobCommand, SandboxError};

/// Judges, runs, records and answers one call.
pub(super) async fn answer(
    state: Arc<State>,
    call: ToolCall,
    cancel: CancellationToken,
) -> ToolAnswer {
    let permit = match judge(&state, &call) {
        Ok(permit) => permit,
        Err(denial) => {
            let mut event = event_of(&call, Outcome::Deny, denial.reason.as_str());
            event.rule = Some(denial.rule.clone());
            event.generation = state.config().policy.generation;
            state.records.report(event);
            return ToolAnswer::Denied {
                reason: denial.reason.as_str().to_owned(),
                message: format!("Tool not available: {}", call.tool),
            };
        }
    };
    match call.command.clone() {
        ToolCommand::Exec(exec) => execute(&state, &call, exec, permit, cancel).await,
        other => process(&state, &call, &other, &permit),
    }
}

/// The supervisor's own judgement, from nothing but the call's names.
fn judge(state: &State, call: &ToolCall) -> Result<Permit, Denial> {
    let config = state.config();
    let policy = &config.policy;
    policy.addresses.admit(call.source)?;
    let principal = policy.credentials.vouched(&call.principal, now_unix())?;
    let mut facts = RequestFacts::new(Request::Tool(ToolName::new(&call.tool)));
    facts.agent.clone_from(&call.agent);
    if let Some(session) = &call.session {
        facts.name_session(session);
    }
    let permit = policy.decide(&principal, facts)?;
    if !permit.is_sandboxed() {
        return Err(Denial::new(Reason::ToolDenied, "security.sandbox.tools"));
    }
    let audit = &config.audit;
    if audit.on_failure == AuditOnFailure::Deny && !state.records.is_writable() {
        return Err(Denial::new(Reason::AuditUnavailable, "security.audit.onFailure"));
    }
    Ok(permit)
}

async fn execute(
    state: &Arc<State>,
    call: &ToolCall,
    exec: ExecCall,
    permit: Permit,
    cancel: CancellationToken,
) -> ToolAnswer {
    let Some(sandbox) = state.sandbox() else {
        return unavailable(state, call, &permit, "the sandbox provider is not available");
    };
    let job = job_of(state, call, &exec);
    let generation = permit.generation();
    let rule = permit.rule().to_owned();
    if exec.background {
        let (principal, finished) = (call.principal.clone(), Arc::clone(state));
        let recorded = call.clone();
        let provider = sandbox.provider().as_str().to_owned();
        let done = move |result: &Result<Execution, SandboxError>| {
            record(&finished, &recorded, generation, &rule, &provider, result);
        };
        return match state.executions.start(sandbox, principal, permit, job, done) {
            Ok(session) => ToolAnswer::Done(ToolReply {
                text: format!("Command still running (session {session})."),
                details: serde_json::json!({ "status": "running", "sessionId": session }),
            }),
            Err(error) => {
                let mut event = event_of(call, Outcome::Error, Reason::SandboxUnavailable.as_str());
                event.generation = generation;
                event.detail = Some(error.to_string());
                state.records.report(event);
                ToolAnswer::Unavailable { message: error.to_string() }
            }
        };
    }
    let result = sandbox.run(permit, job, cancel).await;
    record(state, call, generation, &rule, sandbox.provider().as_str(), &result);
    match result {
        Ok(execution) => ToolAnswer::Done(reply(&execution)),
        Err(error) => ToolAnswer::Unavailable { message: error.to_string() },
    }
}

fn job_of(state: &State, call: &ToolCall, exec: &ExecCall) -> Job {
    let config = state.config();
    let timeout = exec
        .timeout_ms
        .map_or(config.sandbox.timeout, |ms| config.sandbox.timeout.min(Duration::from_millis(ms)));
    Job {
        id: call.request.clone(),
        agent: call.agent.clone(),
        command: JobCommand::Shell(exec.command.clone()),
        env: exec.env.clone(),
        workdir: exec.workdir.clone(),
        workspace: None,
        stdin: Vec::new(),
        timeout,
    }
}

/// `process`: what the calling principal itself has running.
fn process(state: &State, call: &ToolCall, command: &ToolCommand, permit: &Permit) -> ToolAnswer {
    let mut event = event_of(call, Outcome::Allow, Reason::Ok.as_str());
    event.rule = Some(permit.rule().to_owned());
    event.generation = permit.generation();
    state.records.report(event);
    let principal = call.principal.as_str();
    let missing = |session: &str| ToolAnswer::Done(ToolReply {
        text: format!("No session found for {session}"),
        details: serde_json::json!({ "status": "failed" }),
    });
    match command {
        ToolCommand::ProcessList => {
            let sessions = state.executions.list(principal);
            let lines: Vec<String> = sessions
                .iter()
                .map(|entry| format!("{} {}", entry.id, entry.status()))
                .collect();
            let listed: Vec<_> = sessions
                .iter()
                .map(|entry| serde_json::json!({ "sessionId": entry.id, "status": entry.status() }))
                .collect();
            let text = if lines.is_empty() {
                "No running or recent sessions.".to_owned()
            } else {
                lines.join("\n")
            };
            ToolAnswer::Done(ToolReply {
                text,
                details: serde_json::json!({ "status": "completed", "sessions": listed }),
            })
        }
        ToolCommand::ProcessPoll { session } => match state.executions.poll(principal, session) {
            Some(Some(Ok(execution))) => ToolAnswer::Done(reply(&execution)),
            Some(Some(Err(message))) => ToolAnswer::Unavailable { message },
            Some(None) => ToolAnswer::Done(ToolReply {
                text: "(no output yet)\n\nProcess still running.".into(),
                details: serde_json::json!({ "status": "running", "sessionId": session }),
            }),
            None => missing(session),
        },
        ToolCommand::ProcessKill { session } => {
            if state.executions.kill(principal, session) {
                ToolAnswer::Done(ToolReply {
                    text: format!("Killed session {session}."),
                    details: serde_json::json!({ "status": "killed" }),
                })
            } else {
                missing(session)
            }
        }
        ToolCommand::Exec(_) => missing("exec"),
    }
}

/// The result as the gateway's own `exec` words it.
fn reply(execution: &Execution) -> ToolReply {
    let mut text = execution.stdout.text();
    let stderr = execution.stderr.text();
    if !stderr.is_empty() {
        if !text.is_empty() && !text.ends_with('\n') {
            text.push('\n');
        }
        text.push_str(&stderr);
    }
    let failed = execution.exit_code != Some(0);
    if execution.timed_out {
        text.push_str("\n\nCommand timed out.");
    } else if execution.oom {
        text.push_str("\n\nCommand ran out of memory.");
    } else if let Some(code) = execution.exit_code.filter(|&code| code != 0) {
        text.push_str(&format!("\n\nCommand exited with code {code}"));
    } else if let Some(signal) = execution.signal {
        text.push_str(&format!("\n\nCommand aborted by signal {signal}"));
    }
    if text.is_empty() {
        text.push_str("(no output)");
    }
    let details = serde_json::json!({
        "status": if failed { "failed" } else { "completed" },
        "exitCode": execution.exit_code,
        "signal": execution.signal,
        "timedOut": execution.timed_out,
        "oom": execution.oom,
        "durationMs": millis(execution.duration),
        "truncated": execution.stdout.truncated || execution.stderr.truncated,
    });
    ToolReply { text, details }
}

fn unavailable(state: &State, call: &ToolCall, permit: &Permit, message: &str) -> ToolAnswer {
    let mut event = event_of(call, Outcome::Error, Reason::SandboxUnavailable.as_str());
    event.rule = Some("security.sandbox".into());
    event.generation = permit.generation();
    event.detail = Some(message.to_owned());
    state.records.report(event);
    ToolAnswer::Unavailable { message: message.to_owned() }
}

fn record(
    state: &State,
    call: &ToolCall,
    generation: u64,
    rule: &str,
    provider: &str,
    result: &Result<Execution, SandboxError>,
) {
    let mut event = match result {
        Ok(execution) => {
            let mut event = event_of(call, Outcome::Allow, Reason::Ok.as_str());
            event.sandbox = Some(fact_of(execution, provider));
            event
        }
        Err(error) => {
            let reason = Reason::SandboxUnavailable.as_str();
            let mut event = event_of(call, Outcome::Error, reason);
            event.detail = Some(error.to_string());
            event
        }
    };
    event.rule = Some(rule.to_owned());
    event.generation = generation;
    state.records.report(event);
}

/// How an execution ended, for the record.
pub(super) fn fact_of(execution: &Execution, provider: &str) -> SandboxFact {
    SandboxFact {
        provider: provider.to_owned(),
        exit: execution.exit_code,
        signal: execution.signal,
        oom: execution.oom,
        timed_out: execution.timed_out,
        duration_ms: millis(execution.duration),
        output_bytes: execution.stdout.total_bytes + execution.stderr.total_bytes,
        truncated: execution.stdout.truncated || execution.stderr.truncated,
    }
}

fn event_of(call: &ToolCall, outcome: Outcome, reason: &'static str) -> Event {
    let mut event = Event::new(EventKind::Tool, "invoke", outcome, reason);
    event.source = Some(call.source);
    event.port = Some(call.port);
    event.request = Some(call.request.clone());
    event.principal = Some(call.principal.clone());
    event.agent.clone_from(&call.agent);
    event.session.clone_from(&call.session);
    let name = ToolName::new(&call.tool);
    event.tool =
        Some(ToolFact { name: name.as_str().to_owned(), args_bytes: call.args_bytes });
    event
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// Seconds since the Unix epoch; a clock before it counts as the epoch.
pub(super) fn now_unix() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}
