//! What the operator asks of the running daemon, and the gateway's bans.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use tokio_util::sync::CancellationToken;

use super::admin::Ban;
use super::state::State;
use super::tools::fact_of;
use crate::causes::chain;
use crate::enforcer::TimedEntry;
use crate::event::{Event, EventKind, Outcome, ToolFact};
use crate::policy::{Reason, ToolName};
use crate::sandbox::{Execution, Job, JobCommand};

const NO_XDP: &str = "the packet filter is not running (--no-xdp), so nothing can be banned";

/// A ban by hand.
pub(super) fn ban(state: &State, source: IpAddr, seconds: u64) -> Result<(), String> {
    set_ban(state, source, seconds)?;
    state
        .records
        .report(ban_event(state, "ban", source, "operator", seconds));
    Ok(())
}

/// A ban that the gateway asks for. Its sources are peers of completed connections, which a
/// forged packet cannot make; a failure is said and does not stop the gateway's work.
pub(super) fn ban_for(state: &State, source: IpAddr, seconds: u64, reason: &str) {
    let mut event = ban_event(state, "ban", source, "repeated_denials", seconds);
    event.detail = Some(format!("{reason}, for {seconds} s"));
    if let Err(message) = set_ban(state, source, seconds) {
        event.outcome = Outcome::Error;
        event.detail = Some(message);
    }
    state.records.report(event);
}

pub(super) fn unban(state: &State, source: IpAddr) -> Result<(), String> {
    let mut enforcer = state.enforcer().ok_or(NO_XDP)?;
    match enforcer.unban(IpNet::from(source)) {
        Ok(true) => {}
        Ok(false) => return Err(format!("{source} is not banned")),
        Err(error) => return Err(chain(&error)),
    }
    drop(enforcer);
    let mut event = ban_event(state, "unban", source, "operator", 0);
    event.outcome = Outcome::Allow;
    event.detail = None;
    state.records.report(event);
    Ok(())
}

pub(super) fn bans(state: &State) -> Result<Vec<Ban>, String> {
    let mut enforcer = state.enforcer().ok_or(NO_XDP)?;
    let bans = enforcer.bans().map_err(|error| chain(&error))?;
    let ban = |ban: TimedEntry| Ban {
        source: ban.prefix.addr(),
        seconds_left: ban.remaining.as_secs(),
    };
    Ok(bans.into_iter().map(ban).collect())
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
    let Some(tools) = state.tools() else {
        return Err("the sandbox is off or its provider is not available".into());
    };
    let timeout = timeout_ms.map_or(config.sandbox.timeout, |ms| {
        config.sandbox.timeout.min(Duration::from_millis(ms))
    });
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
    let result = tools.sandbox.run(permit, job, cancel).await;
    match &result {
        Ok(execution) => {
            event.sandbox = Some(fact_of(execution, tools.sandbox.provider().as_str()));
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

fn set_ban(state: &State, source: IpAddr, seconds: u64) -> Result<(), String> {
    let mut enforcer = state.enforcer().ok_or(NO_XDP)?;
    enforcer
        .ban(IpNet::from(source), Duration::from_secs(seconds))
        .map_err(|error| chain(&error))
}

fn ban_event(
    state: &State,
    action: &'static str,
    source: IpAddr,
    reason: &'static str,
    seconds: u64,
) -> Event {
    let mut event = Event::new(EventKind::Config, action, Outcome::Deny, reason);
    event.source = Some(source);
    event.generation = state.config().policy.generation;
    event.detail = Some(format!("for {seconds} s"));
    event
}

fn rand_u32() -> u32 {
    use aws_lc_rs::rand::{SecureRandom as _, SystemRandom};
    let mut bytes = [0; 4];
    // An id that is not random still names one execution among the operator's own.
    let _fallback = SystemRandom::new().fill(&mut bytes);
    u32::from_ne_bytes(bytes)
}
