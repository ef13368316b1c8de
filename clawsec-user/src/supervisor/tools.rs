//! Tool calls that the gateway passes on: judged again, then run.
//!
//! Invariant: the gateway's word is enough for who is calling, and for nothing else. The policy
//! here is the supervisor's own copy, and a call it does not permit never reaches a sandbox.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio_util::sync::CancellationToken;

use super::seen::Running;
use super::state::State;
use crate::causes;
use crate::event::{Event, EventKind, Outcome, SandboxFact, ToolFact};
use crate::ipc::{Caller, ExecCall, ToolAnswer, ToolCall, ToolCommand, ToolReply};
use crate::policy::{Denial, Permit, Reason, Request, RequestFacts, SessionKey, ToolName};
use crate::sandbox::{Entry, EntryState, Execution, Job, JobCommand, SandboxError};

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
        _ => process(&state, &call, &permit),
    }
}

/// The supervisor's own judgement, from nothing but the call's names.
fn judge(state: &State, call: &ToolCall) -> Result<Permit, Denial> {
    let config = state.config();
    let policy = &config.policy;
    let mut facts = RequestFacts::new(Request::Tool(ToolName::new(&call.tool)));
    facts.agent.clone_from(&call.agent);
    if let Some(session) = &call.session {
        facts
            .name_session(session)
            .map_err(|_two_readings| Denial::new(Reason::RequestMalformed, "session"))?;
    }
    let permit = match &call.caller {
        Caller::Client => {
            state.timed.admit(&policy.addresses, call.source)?;
            let principal = policy.credentials.vouched(&call.principal, now_unix())?;
            policy.decide(&principal, facts)?
        }
        Caller::Agent { .. } if config.node_host.is_none() => {
            return Err(Denial::new(Reason::ToolDenied, "security.sandbox.nodeHost"));
        }
        Caller::Agent { peer } => {
            if let Some(peer) = peer {
                facts.name_peer(peer);
            }
            policy.decide_for_agent(&ToolName::new(&call.tool), facts)?
        }
    };
    if !permit.is_sandboxed() {
        return Err(Denial::new(Reason::ToolDenied, "security.sandbox.tools"));
    }
    if state.records.refuses_work() {
        return Err(Denial::new(
            Reason::AuditUnavailable,
            "security.audit.onFailure",
        ));
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
    let tools = match state.tools() {
        Ok(tools) => tools,
        Err(why) => return unavailable(state, call, &permit, &why),
    };
    let job = job_of(state, call, exec);
    let running = state
        .seen
        .executions
        .begin(call.agent.as_deref(), &call.principal);
    let record = Ended {
        _running: running,
        state: Arc::clone(state),
        call: call.clone(),
        generation: permit.generation(),
        rule: permit.rule().to_owned(),
        provider: tools.sandbox.provider_of(&job.agent).as_str(),
    };
    if exec_in_background(call) {
        let session = job.id.clone();
        let started = tools
            .executions
            .start(permit, job, move |result| record.report(result));
        return match started {
            Ok(()) => ToolAnswer::Done(ToolReply {
                text: format!("Command still running (session {session})."),
                details: serde_json::json!({ "status": "running", "sessionId": session }),
            }),
            Err(error) => {
                let mut event = event_of(call, Outcome::Error, Reason::SandboxUnavailable.as_str());
                event.detail = Some(error.to_string());
                state.records.report(event);
                ToolAnswer::Unavailable {
                    message: error.to_string(),
                }
            }
        };
    }
    let result = tools.sandbox.run(permit, job, cancel).await;
    record.report(&result);
    match result {
        Ok(execution) => ToolAnswer::Done(match call.caller {
            Caller::Client => reply(&execution),
            Caller::Agent { .. } => node_reply(&execution),
        }),
        Err(error) => ToolAnswer::Unavailable {
            message: error.to_string(),
        },
    }
}

fn exec_in_background(call: &ToolCall) -> bool {
    matches!(&call.command, ToolCommand::Exec(exec) if exec.background)
}

fn job_of(state: &State, call: &ToolCall, exec: ExecCall) -> Job {
    let limit = state.config().sandbox.of(call.agent.as_deref()).timeout;
    Job {
        id: call.request.clone(),
        agent: call.agent.clone().unwrap_or_else(|| "main".into()),
        command: JobCommand::Shell(exec.command),
        env: exec.env,
        workdir: exec.workdir.map(Into::into),
        workspace: None,
        stdin: Vec::new(),
        timeout: exec.timeout_ms.map_or(limit, Duration::from_millis),
    }
}

/// `process`: what the calling principal itself has running.
fn process(state: &State, call: &ToolCall, permit: &Permit) -> ToolAnswer {
    let tools = match state.tools() {
        Ok(tools) => tools,
        Err(why) => return unavailable(state, call, permit, &why),
    };
    let mut event = event_of(call, Outcome::Allow, Reason::Ok.as_str());
    event.rule = Some(permit.rule().to_owned());
    event.generation = permit.generation();
    state.records.report(event);
    let principal = call.principal.as_str();
    let reply = match &call.command {
        ToolCommand::ProcessPoll { session } => {
            tools.executions.poll(principal, session).map(polled)
        }
        ToolCommand::ProcessKill { session } => {
            tools
                .executions
                .kill(principal, session)
                .map(|()| ToolReply {
                    text: format!("Killed session {session}."),
                    details: serde_json::json!({ "status": "killed", "sessionId": session }),
                })
        }
        ToolCommand::ProcessList | ToolCommand::Exec(_) => {
            Ok(listed(&tools.executions.list(principal)))
        }
    };
    ToolAnswer::Done(reply.unwrap_or_else(|error| ToolReply {
        text: error.to_string(),
        details: serde_json::json!({ "status": "failed" }),
    }))
}

fn listed(entries: &[Entry]) -> ToolReply {
    let state = |entry: &Entry| match entry.state {
        EntryState::Running => "running",
        EntryState::Finished(_) => "completed",
    };
    let lines: Vec<String> = entries
        .iter()
        .map(|entry| format!("{} {} {}s", entry.id, state(entry), entry.elapsed.as_secs()))
        .collect();
    let sessions: Vec<_> = entries
        .iter()
        .map(|entry| serde_json::json!({ "sessionId": entry.id, "status": state(entry) }))
        .collect();
    let text = if lines.is_empty() {
        "No running or recent sessions.".to_owned()
    } else {
        lines.join("\n")
    };
    ToolReply {
        text,
        details: serde_json::json!({ "status": "completed", "sessions": sessions }),
    }
}

fn polled(entry: Entry) -> ToolReply {
    match entry.state {
        EntryState::Running => ToolReply {
            text: format!(
                "{}{}\n\nProcess still running.",
                entry.stdout.text(),
                entry.stderr.text()
            ),
            details: serde_json::json!({ "status": "running", "sessionId": entry.id }),
        },
        EntryState::Finished(result) => match result.as_ref() {
            Ok(execution) => reply(execution),
            Err(error) => ToolReply {
                text: error.to_string(),
                details: serde_json::json!({ "status": "failed", "sessionId": entry.id }),
            },
        },
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

/// The result as the gateway's protocol has it of a node.
fn node_reply(execution: &Execution) -> ToolReply {
    let error = match execution {
        Execution { oom: true, .. } => Some("the command ran out of memory".to_owned()),
        Execution {
            timed_out: true, ..
        } => Some("the command timed out".to_owned()),
        Execution {
            signal: Some(signal),
            ..
        } => Some(format!("the command was ended by signal {signal}")),
        _ => None,
    };
    let details = serde_json::json!({
        "exitCode": execution.exit_code,
        "timedOut": execution.timed_out,
        "success": execution.exit_code == Some(0) && !execution.timed_out,
        "stdout": execution.stdout.text(),
        "stderr": execution.stderr.text(),
        "error": error,
    });
    ToolReply {
        text: String::new(),
        details,
    }
}

fn unavailable(state: &State, call: &ToolCall, permit: &Permit, why: &str) -> ToolAnswer {
    let message = format!("the sandbox is not available: {why}");
    let mut event = event_of(call, Outcome::Error, Reason::SandboxUnavailable.as_str());
    event.rule = Some("security.sandbox".into());
    event.generation = permit.generation();
    event.detail = Some(why.to_owned());
    state.records.report(event);
    ToolAnswer::Unavailable { message }
}

/// What is known of an execution before it ends, for the record after.
struct Ended {
    state: Arc<State>,
    call: ToolCall,
    generation: u64,
    rule: String,
    provider: &'static str,
    _running: Running,
}

impl Ended {
    fn report(&self, result: &Result<Execution, SandboxError>) {
        let mut event = match result {
            Ok(execution) => {
                let mut event = event_of(&self.call, Outcome::Allow, Reason::Ok.as_str());
                event.sandbox = Some(fact_of(execution, self.provider));
                event
            }
            Err(error) => {
                let reason = Reason::SandboxUnavailable.as_str();
                let mut event = event_of(&self.call, Outcome::Error, reason);
                event.detail = Some(causes::chain(error));
                event
            }
        };
        event.rule = Some(self.rule.clone());
        event.generation = self.generation;
        self.state.records.report(event);
    }
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
    if call.caller == Caller::Client {
        event.source = Some(call.source);
        event.port = Some(call.port);
    }
    let session = call.session.as_deref().map(SessionKey::read);
    let session = session.and_then(Result::ok).unwrap_or_default();
    event.user = session.user.map(|user| user.as_str().to_owned());
    event.group = session.group.map(|group| group.as_str().to_owned());
    event.request = Some(call.request.clone());
    event.principal = Some(call.principal.clone());
    event.agent.clone_from(&call.agent);
    event.session.clone_from(&call.session);
    let name = ToolName::new(&call.tool);
    event.tool = Some(ToolFact {
        name: name.as_str().to_owned(),
        args_bytes: call.args_bytes,
    });
    event
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// Seconds since the Unix epoch; a clock before it counts as the epoch.
pub(super) fn now_unix() -> i64 {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}
