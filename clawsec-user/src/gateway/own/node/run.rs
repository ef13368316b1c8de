//! One call: judged, passed to the supervisor, answered, and recorded where it goes no further.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::answer::{self, Answer};
use super::call::{self, Invoke, Run};
use crate::event::{Event, EventKind, Outcome, ToolFact};
use crate::gateway::shared::{Gateway, random_id};
use crate::gateway::snapshot::Snapshot;
use crate::gateway::websocket::own::{OwnConnection, Sender};
use crate::ipc::{Caller, ExecCall, ToolAnswer, ToolCall, ToolCommand};
use crate::policy::{Admission, Denial, Limiter, Permit, Protocol, Reason, RequestFacts, ToolName};

/// What the calls of one connection share.
pub(super) struct Node {
    gateway: Arc<Gateway>,
    sender: Sender,
    protocol: Protocol,
    max_frame_bytes: usize,
    /// Numbers of requests on this connection.
    next: AtomicU64,
    started: Instant,
    /// By agent: preparations and runs, each by the numbers of `security.rateLimit`.
    prepares: Mutex<Limiter<String>>,
    runs: Mutex<Limiter<String>>,
}

/// Agents whose calls are counted at once.
const TRACKED_AGENTS: usize = 1024;
/// Beyond the tool's own timeout: the wait for a place in the sandbox, its start and its end.
const ANSWER_SLACK: Duration = Duration::from_mins(1);
/// What a node's calls are by name, to policy and in records.
const TOOL: &str = "exec";
const PRINCIPAL: &str = "gateway";

impl Node {
    pub(super) fn new(gateway: &Arc<Gateway>, connection: &OwnConnection) -> Self {
        let limit = gateway.snapshot.load().policy().limit;
        let limiter = || Mutex::new(Limiter::new(limit, TRACKED_AGENTS));
        Self {
            gateway: Arc::clone(gateway),
            sender: connection.sender(),
            protocol: connection.terms.protocol,
            max_frame_bytes: connection.max_frame_bytes,
            next: AtomicU64::new(1),
            started: Instant::now(),
            prepares: limiter(),
            runs: limiter(),
        }
    }

    pub(super) async fn answer(&self, invoke: &Invoke, answer: Answer) {
        let result = answer.result(&invoke.id, &invoke.node_id, self.max_frame_bytes);
        self.send("node.invoke.result", &result).await;
    }

    async fn send(&self, method: &str, params: &Value) {
        let id = self.next.fetch_add(1, Ordering::Relaxed).to_string();
        // Whoever reads the connection finds out that it is gone.
        let _gone = self.sender.request(&id, method, params).await;
    }

    /// `system.run.prepare`: the newer gateway asks first, and a denial is best said here.
    pub(super) fn prepare(&self, invoke: &Invoke) -> Answer {
        let run = match invoke.params().and_then(|params| Run::read(&params)) {
            Ok(run) => run,
            Err(why) => return answer::error("INVALID_REQUEST", why),
        };
        let judging = Judging::new(self, invoke, &run);
        if let Err(denial) = judging.judge(&self.prepares) {
            return judging.refuse(&denial);
        }
        answer::done(json!({
            "plan": {
                "argv": run.argv, "cwd": run.cwd, "commandText": run.text, "commandPreview": null,
                "agentId": run.agent, "sessionKey": run.session,
            },
            "execPolicy": {"security": "full", "ask": "off"},
        }))
    }

    /// `system.run`.
    pub(super) async fn run(&self, invoke: &Invoke) -> Answer {
        let run = match invoke.params().and_then(|params| Run::read(&params)) {
            Ok(run) => run,
            Err(why) => return answer::error("INVALID_REQUEST", why),
        };
        // The older gateway names a run only after asking a person; without an answer it leaves
        // it to the node what to do.
        if self.protocol == Protocol::V3 && run.id.is_some() && !run.approved {
            let judging = Judging::new(self, invoke, &run);
            let denial = Denial::new(Reason::ToolDenied, "tools.exec.ask");
            let answer = judging.refuse(&denial);
            self.tell(&run, &answer).await;
            return answer;
        }
        let answer = self.execute(invoke, &run, run.line()).await;
        self.tell(&run, &answer).await;
        answer
    }

    /// `system.which`: where the sandbox has these programs.
    pub(super) async fn which(&self, invoke: &Invoke) -> Answer {
        let params = match invoke.params() {
            Ok(params) => params,
            Err(why) => return answer::error("INVALID_REQUEST", why),
        };
        let bins: Option<Vec<String>> = params
            .get("bins")
            .and_then(Value::as_array)
            .filter(|bins| (1..=MAX_BINS).contains(&bins.len()))
            .and_then(|bins| {
                bins.iter()
                    .map(|bin| bin.as_str().map(str::to_owned))
                    .collect()
            });
        let Some(bins) = bins else {
            return answer::error("INVALID_REQUEST", "bins required");
        };
        let line = call::which(&bins);
        let run = match Run::read(&json!({"command": ["sh", "-c", line]})) {
            Ok(run) => run,
            Err(why) => return answer::error("INVALID_REQUEST", why),
        };
        let answer = self.execute(invoke, &run, run.line()).await;
        let Some(payload) = answer.payload() else {
            return answer;
        };
        let stdout = payload.get("stdout").and_then(Value::as_str);
        let found = call::found(stdout.unwrap_or_default());
        answer::done(json!({ "bins": found }))
    }

    async fn execute(&self, invoke: &Invoke, run: &Run, line: String) -> Answer {
        let judging = Judging::new(self, invoke, run);
        let permit = match judging.judge(&self.runs) {
            Ok(permit) => permit,
            Err(denial) => return judging.refuse(&denial),
        };
        let timeout_ms = match (run.timeout_ms, invoke.timeout_ms) {
            (Some(run), Some(wait)) => Some(run.min(wait)),
            (run, wait) => run.or(wait),
        };
        let call = judging.call(
            permit,
            ExecCall {
                command: line,
                workdir: run.workdir(),
                env: run.env.clone(),
                timeout_ms,
                background: false,
            },
        );
        let sandbox = &judging.snapshot.config.sandbox;
        let deadline = sandbox.of(call.agent.as_deref()).timeout + ANSWER_SLACK;
        match self.gateway.link.run_tool(call, deadline).await {
            Ok(ToolAnswer::Done(reply)) => answer::done(reply.details),
            // The supervisor has recorded these.
            Ok(ToolAnswer::Denied { reason, .. }) => answer::denied(&denial_words(&reason)),
            Ok(ToolAnswer::Unavailable { message }) => {
                answer::denied(&format!("the sandbox cannot run it: {message}"))
            }
            Err(error) => {
                judging.report(
                    Outcome::Error,
                    Reason::SandboxUnavailable,
                    "security.sandbox",
                    Some(error.to_string()),
                );
                answer::error("UNAVAILABLE", "the sandbox did not answer")
            }
        }
    }

    /// The older gateway does not read the answer to a run that a person had to approve: its agent
    /// hears of the end by an event.
    async fn tell(&self, run: &Run, answer: &Answer) {
        let Some(id) = run.id.as_deref().filter(|_| self.protocol == Protocol::V3) else {
            return;
        };
        let mut told = json!({
            "sessionKey": run.session, "runId": id, "host": "node", "command": run.text,
        });
        let name = if let Some(payload) = answer.payload() {
            for key in ["exitCode", "timedOut", "success"] {
                told[key] = payload[key].clone();
            }
            let streams = ["stdout", "stderr", "error"].map(|key| payload[key].as_str());
            let output: Vec<&str> = streams.into_iter().flatten().collect();
            let output = output.join("\n");
            let start = output.ceil_char_boundary(output.len().saturating_sub(MAX_TOLD_BYTES));
            told["output"] = output.get(start..).into();
            "exec.finished"
        } else {
            told["reason"] = answer.message().into();
            "exec.denied"
        };
        let event = json!({"event": name, "payloadJSON": told.to_string()});
        self.send("node.event", &event).await;
    }
}

/// Programs that are looked for at once.
const MAX_BINS: usize = 256;
/// Of the output, in an event; the end is kept, as by the gateway's own node.
const MAX_TOLD_BYTES: usize = 20_000;

/// One call, and the policy it is judged by from its first line to its last.
struct Judging<'a> {
    node: &'a Node,
    run: &'a Run,
    snapshot: Arc<Snapshot>,
    request: String,
    args_bytes: u64,
}

impl<'a> Judging<'a> {
    fn new(node: &'a Node, invoke: &Invoke, run: &'a Run) -> Self {
        Self {
            node,
            run,
            snapshot: node.gateway.snapshot.load_full(),
            request: random_id().unwrap_or_default(),
            args_bytes: invoke.params_bytes(),
        }
    }

    fn judge(&self, limiter: &Mutex<Limiter<String>>) -> Result<Permit, Denial> {
        let policy = self.snapshot.policy();
        let facts = self
            .run
            .facts()
            .map_err(|_two_readings| Denial::new(Reason::RequestMalformed, "session"))?;
        let agent = facts.agent.clone().unwrap_or_default();
        let permit = policy.decide_for_agent(&ToolName::new(TOOL), facts)?;
        let now_ns = u64::try_from(self.node.started.elapsed().as_nanos()).unwrap_or(u64::MAX);
        let mut limiter = limiter.lock().unwrap_or_else(PoisonError::into_inner);
        limiter.reconfigure(policy.limit);
        match limiter.admit(agent, now_ns) {
            Admission::Admitted => Ok(permit),
            Admission::Refused { .. } => {
                Err(Denial::new(Reason::RateLimited, "security.rateLimit"))
            }
        }
    }

    /// What the supervisor is asked for.
    #[expect(
        clippy::needless_pass_by_value,
        reason = "what acts consumes the permit"
    )]
    fn call(&self, permit: Permit, exec: ExecCall) -> ToolCall {
        let facts = permit.facts();
        ToolCall {
            principal: permit.principal().to_owned(),
            source: IpAddr::V4(Ipv4Addr::LOCALHOST),
            port: 0,
            request: self.request.clone(),
            agent: facts.agent.clone(),
            session: facts.session.clone(),
            caller: Caller::Agent {
                peer: self.run.peer.clone(),
            },
            tool: TOOL.to_owned(),
            args_bytes: self.args_bytes,
            command: ToolCommand::Exec(exec),
        }
    }

    /// Records a denial and words it.
    fn refuse(&self, denial: &Denial) -> Answer {
        self.report(Outcome::Deny, denial.reason, &denial.rule, None);
        answer::denied(&denial_words(denial.reason.as_str()))
    }

    fn report(&self, outcome: Outcome, reason: Reason, rule: &str, detail: Option<String>) {
        let facts = self
            .run
            .facts()
            .unwrap_or_else(|_two_readings| RequestFacts::new(crate::policy::Request::Route));
        let mut event = Event::new(EventKind::Tool, "invoke", outcome, reason.as_str());
        event.rule = Some(rule.to_owned());
        event.generation = self.snapshot.generation();
        event.request = Some(self.request.clone());
        event.principal = Some(PRINCIPAL.to_owned());
        event.user = facts.users.first().map(|user| user.as_str().to_owned());
        event.group = facts.groups.first().map(|group| group.as_str().to_owned());
        event.agent = facts.agent;
        event.session = facts.session;
        event.tool = Some(ToolFact {
            name: TOOL.to_owned(),
            args_bytes: self.args_bytes,
        });
        event.detail = detail;
        self.node.gateway.link.report(event);
    }
}

/// What the agent is told, which it may repeat to whoever asked it.
fn denial_words(reason: &str) -> String {
    format!("clawsec's policy does not let this session run commands ({reason})")
}
