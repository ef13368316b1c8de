//! What every plane reports: one thing that happened, before it becomes a line of the audit log.
//!
//! An `Event` has no sequence number, time or hash: the audit writer alone adds them. It never
//! carries a secret, a message body or a tool's arguments; sizes and keyed hashes only.

use std::borrow::Cow;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

/// The class of an event. The first four are the configuration's `audit.events`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum EventKind {
    /// Authentication attempts.
    Auth,
    /// Messages to or from the assistant, and every other request that is not one of the below.
    Message,
    /// Tool executions.
    Tool,
    /// Configuration changes, of clawsec's own and of the gateway behind it.
    Config,
    /// Decisions of the packet plane and of the address check at accept.
    Network,
    /// The daemon's own life: start, stop, loss, rotation, checkpoints.
    System,
}

impl EventKind {
    pub const ALL: [Self; 6] = [
        Self::Auth,
        Self::Message,
        Self::Tool,
        Self::Config,
        Self::Network,
        Self::System,
    ];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Auth => "auth",
            Self::Message => "message",
            Self::Tool => "tool",
            Self::Config => "config",
            Self::Network => "network",
            Self::System => "system",
        }
    }
}

/// What became of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    Allow,
    Deny,
    Error,
}

impl Outcome {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Allow => "allow",
            Self::Deny => "deny",
            Self::Error => "error",
        }
    }
}

/// A tool call, without its arguments.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ToolFact {
    /// The canonical name, as policy judged it.
    pub name: String,
    /// Length of the arguments as JSON text, in bytes.
    pub args_bytes: u64,
}

/// How a sandboxed execution ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SandboxFact {
    pub provider: String,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub exit: Option<i32>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub signal: Option<i32>,
    pub oom: bool,
    pub timed_out: bool,
    pub duration_ms: u64,
    /// Bytes the tool wrote, before the cap.
    pub output_bytes: u64,
    pub truncated: bool,
}

/// One thing that happened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    pub kind: EventKind,
    /// A verb of the closed set in `docs/audit.md`, such as `connect`, `invoke`, `drop`.
    pub action: Cow<'static, str>,
    pub outcome: Outcome,
    /// A word of the closed set in `docs/audit.md`, such as `ok`, `tool_denied`, `not_allowed`.
    pub reason: Cow<'static, str>,
    /// The configuration path that decided, such as `tools.deny[0]`.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub rule: Option<String>,
    /// The policy generation that decided; 0 where no policy was involved.
    pub generation: u64,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub source: Option<IpAddr>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub port: Option<u16>,
    /// Ties the events of one request together.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub request: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub principal: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub user: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub group: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub agent: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub session: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub tool: Option<ToolFact>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub sandbox: Option<SandboxFact>,
    /// How long it took, where somebody else ran it and clawsec saw beginning and end.
    #[serde(default)]
    pub duration_ms: Option<u64>,
    /// How many occurrences this stands for; at least 1, except for kernel attributions that
    /// an earlier checkpoint has already counted (see `settles`).
    pub count: u64,
    /// Occurrences named here that an earlier checkpoint counted as not attributed. They are
    /// not part of `count`, so that the sum of counts stays the counter.
    pub settles: u64,
    /// Free text for a person: a route, a method, an error. Never a secret.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub detail: Option<String>,
}

impl Event {
    /// Starts an event; the caller fills in what it knows.
    pub fn new(
        kind: EventKind,
        action: &'static str,
        outcome: Outcome,
        reason: impl Into<Cow<'static, str>>,
    ) -> Self {
        Self {
            kind,
            action: Cow::Borrowed(action),
            outcome,
            reason: reason.into(),
            rule: None,
            generation: 0,
            source: None,
            port: None,
            request: None,
            principal: None,
            user: None,
            group: None,
            agent: None,
            session: None,
            tool: None,
            sandbox: None,
            duration_ms: None,
            count: 1,
            settles: 0,
            detail: None,
        }
    }
}
