//! What the operator asks of the running daemon, and the gateway's bans.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use tokio_util::sync::CancellationToken;

use super::admin::Entry as Line;
use super::lockout;
use super::state::State;
use super::timed::{self, By, Entry};
use super::tools::fact_of;
use crate::causes::chain;
use crate::event::{Event, EventKind, Outcome, ToolFact};
use crate::policy::{Reason, TimedKind, ToolName};
use crate::sandbox::{Execution, Job, JobCommand};

/// What the operator wants banned or admitted.
#[derive(Debug)]
pub(super) struct Wish {
    pub(super) kind: TimedKind,
    pub(super) prefix: IpNet,
    pub(super) seconds: u64,
    pub(super) note: Option<String>,
    pub(super) yes: bool,
}

/// The longest note, in bytes.
const MAX_NOTE_BYTES: usize = 200;
/// Longer is for ever.
const CENTURY_SECONDS: u64 = 100 * 365 * 86_400;
/// Entries of one answer.
const PAGE: usize = 4_096;

/// Bans or admits by the operator's word. When it returns well, it also survives a crash.
pub(super) async fn add(state: &Arc<State>, wish: Wish) -> Result<Line, String> {
    let Wish { kind, prefix, .. } = wish;
    let prefix = kind.key(prefix);
    let note = wish.note.filter(|note| !note.is_empty());
    if let Some(note) = &note
        && (note.len() > MAX_NOTE_BYTES || note.chars().any(char::is_control))
    {
        return Err(format!(
            "a note is one line of at most {MAX_NOTE_BYTES} bytes"
        ));
    }
    if kind == TimedKind::Ban && !wish.yes && state.enforcer().is_some() {
        let sessions = lockout::sessions(None);
        if let Some(session) = lockout::cut_off_by_ban(&state.config(), &sessions, prefix) {
            return Err(format!(
                "this ban would cut off the SSH session from {}: port {} is protected. With --yes \
                 it is made all the same",
                session.peer, session.port
            ));
        }
    }
    if kind == TimedKind::Admission {
        refuse_unrecorded(state)?;
    }
    let seconds = wish.seconds.min(CENTURY_SECONDS);
    let entry = Entry {
        until_ms: timed::now_ms().saturating_add(seconds.saturating_mul(1000)),
        by: By::Operator,
        note: note.map(String::into_boxed_str),
    };
    let set = state.timed.set(
        state.enforcer().as_deref_mut(),
        (kind, prefix),
        entry.clone(),
    );
    set?;
    let event = timed_event(state, (kind, prefix), &entry, seconds);
    state.records.report(event);
    let line = line(prefix, entry);
    timed::write(state).await.map_err(|why| {
        format!(
            "{prefix} is in force until {}, and would not survive a restart: {why}",
            line.until
        )
    })?;
    Ok(line)
}

/// A ban that the gateway asks for. Its sources are peers of completed connections, which a
/// forged packet cannot make; a failure is said and does not stop the gateway's work.
pub(super) fn ban_for(state: &State, source: IpAddr, seconds: u64, reason: &str) {
    let prefix = TimedKind::Ban.key(IpNet::from(source));
    let entry = Entry {
        until_ms: timed::now_ms().saturating_add(seconds.saturating_mul(1000)),
        by: By::Gateway,
        note: Some(reason.into()),
    };
    let mut event = timed_event(state, (TimedKind::Ban, prefix), &entry, seconds);
    event.source = Some(source);
    let set = state.timed.set(
        state.enforcer().as_deref_mut(),
        (TimedKind::Ban, prefix),
        entry,
    );
    if let Err(message) = set {
        event.outcome = Outcome::Error;
        event.detail = Some(message);
    }
    state.records.report(event);
}

/// Ends a ban or an admission before its time.
pub(super) async fn remove(
    state: &Arc<State>,
    kind: TimedKind,
    prefix: IpNet,
) -> Result<(), String> {
    let prefix = kind.key(prefix);
    if kind == TimedKind::Ban {
        refuse_unrecorded(state)?;
    }
    let ended = state
        .timed
        .end(state.enforcer().as_deref_mut(), (kind, prefix))?;
    if !ended {
        return Err(match kind {
            TimedKind::Ban => format!("{prefix} is not banned"),
            TimedKind::Admission => format!("{prefix} is not admitted for a time"),
        });
    }
    let (action, outcome) = match kind {
        TimedKind::Ban => ("unban", Outcome::Allow),
        TimedKind::Admission => ("unadmit", Outcome::Deny),
    };
    let mut event = Event::new(EventKind::Config, action, outcome, "operator");
    event.source = Some(prefix.addr());
    event.generation = state.config().policy.generation;
    event.detail = Some(prefix.to_string());
    state.records.report(event);
    timed::write(state).await.map_err(|why| {
        format!("{prefix} is ended, and would be there again after a restart: {why}")
    })
}

/// One page of what is in force, and whether there is another.
pub(super) fn list(state: &State, kind: TimedKind, after: Option<IpNet>) -> (Vec<Line>, bool) {
    let (entries, more) = state.timed.page(kind, after, PAGE);
    let lines = entries
        .into_iter()
        .map(|(prefix, entry)| line(prefix, entry));
    (lines.collect(), more)
}

/// As for a tool run: what widens who may come in must leave its record.
fn refuse_unrecorded(state: &State) -> Result<(), String> {
    if state.records.refuses_work() {
        return Err(
            "the audit log cannot be written, and security.audit.onFailure is \"deny\"".into(),
        );
    }
    Ok(())
}

/// `clawsec sandbox exec`: as an agent's `exec` would run, by the same lists.
pub(super) async fn execute(
    state: &Arc<State>,
    agent: String,
    argv: Vec<String>,
    timeout_ms: Option<u64>,
    stdin: Vec<u8>,
    cancel: CancellationToken,
) -> Result<Execution, String> {
    let config = state.config();
    let tool = ToolName::new("exec");
    let mut event = Event::new(
        EventKind::Tool,
        "invoke",
        Outcome::Allow,
        Reason::Ok.as_str(),
    );
    event.generation = config.policy.generation;
    event.principal = Some("operator".into());
    event.agent = Some(agent.clone());
    let args_bytes = argv.iter().map(|argument| argument.len() as u64 + 1).sum();
    event.tool = Some(ToolFact {
        name: tool.as_str().to_owned(),
        args_bytes,
    });
    let permit = match config
        .policy
        .decide_for_operator(&tool, Some(agent.clone()))
    {
        Ok(permit) => permit,
        Err(denial) => {
            event.outcome = Outcome::Deny;
            event.reason = denial.reason.as_str().into();
            event.rule = Some(denial.rule.clone());
            state.records.report(event);
            return Err(format!("exec is denied by {}", denial.rule));
        }
    };
    event.rule = Some(permit.rule().to_owned());
    let tools = match state.tools() {
        Ok(tools) => tools,
        Err(why) => {
            event.outcome = Outcome::Error;
            event.reason = Reason::SandboxUnavailable.as_str().into();
            event.detail = Some(why.to_string());
            state.records.report(event);
            return Err(format!("the sandbox is not available: {why}"));
        }
    };
    let limit = config.sandbox.of(Some(&agent)).timeout;
    let timeout = timeout_ms.map_or(limit, |ms| limit.min(Duration::from_millis(ms)));
    let job = Job {
        id: format!("op-{:08x}", rand_u32()),
        agent,
        command: JobCommand::Argv(argv),
        env: BTreeMap::new(),
        workdir: None,
        workspace: None,
        stdin,
        timeout,
    };
    let provider = tools.sandbox.provider_of(&job.agent);
    let _running = state
        .seen
        .executions
        .begin(event.agent.as_deref(), "operator");
    let result = tools.sandbox.run(permit, job, cancel).await;
    match &result {
        Ok(execution) => {
            event.sandbox = Some(fact_of(execution, provider.as_str()));
        }
        Err(error) => {
            event.outcome = Outcome::Error;
            event.reason = Reason::SandboxUnavailable.as_str().into();
            event.detail = Some(chain(error));
        }
    }
    state.records.report(event);
    result.map_err(|error| chain(&error))
}

fn line(prefix: IpNet, entry: Entry) -> Line {
    let until = i64::try_from(entry.until_ms / 1000)
        .ok()
        .and_then(|seconds| jiff::Timestamp::from_second(seconds).ok());
    let left_ms = entry.until_ms.saturating_sub(timed::now_ms());
    Line {
        prefix,
        until: until.unwrap_or(jiff::Timestamp::MAX).to_string(),
        seconds_left: left_ms.div_ceil(1000),
        by: entry.by.as_str().to_owned(),
        note: entry.note.map(Into::into),
    }
}

/// The record of a ban or an admission that begins.
fn timed_event(
    state: &State,
    (kind, prefix): (TimedKind, IpNet),
    entry: &Entry,
    seconds: u64,
) -> Event {
    let (action, outcome) = match kind {
        TimedKind::Ban => ("ban", Outcome::Deny),
        TimedKind::Admission => ("admit", Outcome::Allow),
    };
    let reason = match entry.by {
        By::Gateway => "repeated_denials",
        By::Operator | By::Kernel => "operator",
    };
    let mut event = Event::new(EventKind::Config, action, outcome, reason);
    event.source = Some(prefix.addr());
    event.generation = state.config().policy.generation;
    let note = entry.note.as_deref();
    let note = note.map(|note| format!(": {note}")).unwrap_or_default();
    event.detail = Some(format!("{prefix} for {seconds} s{note}"));
    event
}

fn rand_u32() -> u32 {
    use aws_lc_rs::rand::{SecureRandom as _, SystemRandom};
    let mut bytes = [0; 4];
    // An id that is not random still names one execution among the operator's own.
    let _fallback = SystemRandom::new().fill(&mut bytes);
    u32::from_ne_bytes(bytes)
}
