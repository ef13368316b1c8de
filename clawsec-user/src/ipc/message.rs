//! Message types. serde derives are here because this is a format between two processes; both
//! are always the same binary, so it carries no version.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::figures::{Document, GatewayFigures, Present, Written};
use crate::event::Event;

/// What the supervisor tells the gateway.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ToGateway {
    /// A new policy; the first message ever sent, then one for each reload.
    Policy(Box<PolicyUpdate>),
    /// Bans and admissions; what was there at the start comes before the first policy.
    Timed(TimedUpdate),
    /// The answer to `ToSupervisor::Tool` with the same id.
    Answer { id: u64, answer: ToolAnswer },
    /// The answer to `ToSupervisor::Document` with the same id.
    Document { id: u64, written: Written },
    /// All that authorities may ask for now, in place of what there was.
    Challenges {
        serial: u64,
        challenges: Vec<Challenge>,
    },
    /// Stop accepting, finish what runs, answer `Drained`, exit.
    Drain { deadline_ms: u64 },
}

/// What an authority that issues certificates tries a name by.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Challenge {
    /// What `/.well-known/acme-challenge/<token>` says (RFC 8555, 8.3).
    Http { token: String, answer: String },
    /// The certificate for a hello that offers nothing but `acme-tls/1` (RFC 8737).
    Tls {
        name: String,
        cert_pem: String,
        key_pem: String,
    },
}

/// Bans and admissions as the check at accept knows them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TimedUpdate {
    /// A part of all there are; they take the old ones' place with the last part.
    Whole {
        part: Vec<TimedEntry>,
        last: bool,
    },
    Changed(Vec<TimedEntry>),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct TimedEntry {
    /// A ban, else an admission.
    pub ban: bool,
    pub prefix: IpNet,
    /// Milliseconds since the Unix epoch; 0 when it was ended before its time.
    pub until_ms: u64,
}

/// Everything the gateway needs to judge and to forward. Keys are present as hashes only.
#[derive(Serialize, Deserialize)]
pub struct PolicyUpdate {
    pub generation: u64,
    /// The configuration after substitution, every client secret replaced by its `sha256:` form
    /// (`Config::redacted_document`), as JSON. The gateway compiles it by the same code.
    pub document: String,
    /// Where the document came from, for messages.
    pub path: String,
    pub tls: Option<TlsMaterial>,
    pub upstream_token: Option<String>,
    /// Seeds of the Ed25519 device keys clawsec presents upstream, by principal id.
    pub device_seeds: BTreeMap<String, [u8; 32]>,
}

/// PEM text, read by the supervisor since the gateway cannot read root's files.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TlsMaterial {
    pub cert_pem: String,
    pub key_pem: String,
    /// Authorities of client certificates.
    pub client_ca_pem: Option<String>,
}

/// What the gateway tells the supervisor.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ToSupervisor {
    /// The policy of this generation is in force in the gateway.
    Ready { generation: u64 },
    /// The policy could not be applied; the one before stays.
    Refused { generation: u64, why: String },
    /// Something happened.
    Event(Box<Event>),
    /// Events that found the queue full and are lost.
    EventsLost { count: u64 },
    /// Run a tool. The supervisor judges again by its own policy before it runs anything.
    Tool { id: u64, call: Box<ToolCall> },
    /// The client went away: stop the call.
    Cancel { id: u64 },
    /// A source of completed connections that goes on after denials: drop it at the NIC.
    Ban {
        source: IpAddr,
        seconds: u64,
        reason: String,
    },
    /// A connection of clawsec's own to the protected gateway is in another state.
    Own { role: OwnRole, state: OwnState },
    /// What the gateway counts, and who is connected: the first of them, the most busy.
    Figures {
        figures: Box<GatewayFigures>,
        present: Vec<Present>,
    },
    /// Somebody asks for a document over the admin listener; `Figures` went before.
    Document { id: u64, document: Document },
    /// The challenges of this serial are answered.
    Challenged { serial: u64 },
    /// The last message after `Drain`.
    Drained,
}

/// What clawsec is to the protected gateway, where it connects for itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OwnRole {
    /// Reads what the gateway tells its operators.
    Observer,
    /// Runs what the gateway's agents ask for in the sandbox.
    Node,
}

impl OwnRole {
    pub const ALL: [Self; 2] = [Self::Observer, Self::Node];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Observer => "observer",
            Self::Node => "node",
        }
    }

    /// Its device seed among those of the principals, whose ids have no colon.
    pub fn seed_id(self) -> &'static str {
        match self {
            Self::Observer => ":observer",
            Self::Node => ":node",
        }
    }
}

/// Where such a connection stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OwnState {
    /// Not wanted, and why.
    Off { why: String },
    Connected {
        /// The gateway's protocol.
        protocol: u64,
    },
    /// Somebody has to approve it on the gateway's host.
    Unpaired { remedy: String },
    /// The gateway said no.
    Refused { why: String },
    /// It could not be reached, or the connection ended.
    Away { why: String },
}

impl OwnState {
    /// In words, for a person.
    pub fn in_words(&self) -> String {
        match self {
            Self::Off { why } => format!("off: {why}"),
            Self::Connected { protocol } => format!("connected, protocol {protocol}"),
            Self::Unpaired { remedy } => format!("WAITS FOR APPROVAL: {remedy}"),
            Self::Refused { why } => format!("REFUSED by the gateway: {why}"),
            Self::Away { why } => format!("NOT CONNECTED: {why}"),
        }
    }
}

/// One call of a sandboxed tool, as the gateway's policy let it through.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ToolCall {
    pub principal: String,
    pub source: IpAddr,
    pub port: u16,
    pub request: String,
    pub agent: Option<String>,
    pub session: Option<String>,
    /// Who asks; the names above are a client's only where it says so.
    pub caller: Caller,
    /// The name as the client wrote it; the supervisor normalises it itself.
    pub tool: String,
    pub args_bytes: u64,
    pub command: ToolCommand,
}

/// Who asks for a tool.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Caller {
    /// A client with a key of clawsec's.
    Client,
    /// An agent of the protected gateway, which asks clawsec as its node.
    Agent {
        /// The other end of the channel that the agent answers to.
        peer: Option<String>,
    },
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ToolCommand {
    /// `exec` and `bash`.
    Exec(ExecCall),
    /// `process`: only the calling principal's own executions are ever named.
    ProcessList,
    ProcessPoll {
        session: String,
    },
    ProcessKill {
        session: String,
    },
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ExecCall {
    /// Run as `sh -c <command>` inside the sandbox, never by a shell of ours.
    pub command: String,
    pub workdir: Option<String>,
    pub env: BTreeMap<String, String>,
    /// Narrows the configured timeout; it can never widen it.
    pub timeout_ms: Option<u64>,
    /// Answer at once with a session to `poll`.
    pub background: bool,
}

/// What became of a `ToolCall`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ToolAnswer {
    Done(ToolReply),
    /// The supervisor's own policy said no.
    Denied {
        reason: String,
        message: String,
    },
    /// The sandbox could not run it, or is full.
    Unavailable {
        message: String,
    },
}

/// The gateway's result shape: `{content:[{type:"text",text}],details}`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ToolReply {
    pub text: String,
    pub details: serde_json::Value,
}

impl std::fmt::Debug for PolicyUpdate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PolicyUpdate")
            .field("generation", &self.generation)
            .finish_non_exhaustive()
    }
}
