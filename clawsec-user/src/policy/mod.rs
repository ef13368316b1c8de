//! What is allowed, as pure functions of values.
//!
//! Invariant: nothing here does IO, knows a clock (time is an argument), or imports anything of
//! ours; std and a CIDR crate only. The gateway judges each request by it, and the supervisor
//! judges each tool call again by its own copy.

mod address;
mod credential;
mod limit;
mod method;
mod naming;
mod packet;
mod people;
mod reason;
mod request;
mod timed;
mod tool;
mod tool_catalog;

pub use address::{AddressPolicy, AddressRule, PrefixRule};
pub use credential::{Credentials, KeyDigest, Principal, PrincipalSpec, Scope, UnixSeconds};
pub use limit::{Admission, Gcra, Limiter, RequestLimit};
pub use method::{Method, MethodClass, Protocol, Reach, UnknownMethods, classify_method};
pub use naming::{SessionKey, agent_id};
pub use packet::{PacketPolicy, PacketRule, RateClass};
pub use people::{GroupId, People, UserId};
pub use reason::Reason;
pub use request::{Bound, Denial, Permit, Request, RequestFacts};
pub use timed::{
    ADMISSION_RULE, TimedAddresses, TimedKind, UnixMillis, decide as decide_address, prefixes_of,
    unmapped,
};
pub use tool::{ToolName, ToolRules, ToolSelector, js_trim};
pub use tool_catalog::Reading;

/// Everything that one configuration decides, under one number.
#[derive(Debug, Clone)]
pub struct Policy {
    pub generation: u64,
    pub addresses: AddressPolicy,
    pub credentials: Credentials,
    pub people: People,
    /// `tools` of the configuration.
    pub tools: ToolRules,
    /// `security.sandbox.tools`: which of the allowed tools clawsec answers from its sandbox.
    pub sandboxed: ToolRules,
    pub agents: Vec<Agent>,
    /// The agent that a request goes to where none is named: `default: true` of `agents.list`.
    pub default_agent: String,
    /// Methods that the gateway's table does not have.
    pub unknown_methods: UnknownMethods,
    pub limit: RequestLimit,
}

/// One entry of `agents.list`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Agent {
    pub id: String,
    pub workspace: Option<String>,
    pub tools: ToolRules,
}
