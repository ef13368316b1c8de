//! What is allowed, as pure functions of values.
//!
//! Invariant: nothing here does IO, knows a clock (time is an argument), or imports anything of
//! ours; std and a CIDR crate only. The gateway judges each request by it, and the supervisor
//! judges each tool call again by its own copy.

mod address;
mod credential;
mod limit;
mod method;
mod packet;
mod people;
mod reason;
mod request;
mod timed;
mod tool;

pub use address::{AddressPolicy, AddressRule, PrefixRule};
pub use credential::{Credentials, KeyDigest, Principal, PrincipalSpec, Scope, UnixSeconds};
pub use limit::{Admission, Gcra, Limiter, RequestLimit};
pub use method::{Method, MethodClass, classify_method};
pub use packet::{PacketPolicy, PacketRule, RateClass};
pub use people::{GroupId, People, UserId};
pub use reason::Reason;
pub use request::{Denial, Permit, Request, RequestFacts};
pub use timed::{
    ADMISSION_RULE, TimedAddresses, TimedKind, UnixMillis, decide as decide_address, prefixes_of,
    unmapped,
};
pub use tool::{ToolName, ToolRules, ToolSelector};

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
    pub limit: RequestLimit,
}

/// One entry of `agents.list`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Agent {
    pub id: String,
    pub workspace: Option<String>,
    pub tools: ToolRules,
}
