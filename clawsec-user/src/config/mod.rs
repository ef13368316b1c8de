//! The configuration file: text to checked values, every error at once.
//!
//! `load` reads a file and judges who could change it, `compile` does the rest without IO: parse
//! JSON5 with positions (`tree`), leave out what is the gateway's (`foreign`), substitute `${VAR}`
//! (`substitute`), read field by field (`check`, with the field readers of `reader`), and give
//! `Config`. Nothing downstream sees an unchecked value.

mod audit;
mod check;
mod compile;
mod foreign;
mod load;
mod locate;
mod model;
mod near;
mod outlet;
mod problem;
mod reader;
mod redact;
mod report;
mod sources;
mod substitute;
mod tree;
mod trust;

pub use audit::{AuditConfig, AuditOnFailure, Fsync, SpaceLimits};
pub use check::{certificate_digest, is_local};
pub use compile::compile;
pub use load::{find, load};
pub use locate::line_of;
pub use model::{
    AcmeChallenge, AcmeConfig, BanConfig, Config, GatewayConfig, KernelConfig, Listen,
    MetricsConfig, OnExit, SANDBOX_USER, SandboxConfig, SandboxNetwork, SandboxProvider, Secret,
    TlsConfig, TlsVersion, UiAccess, Upstream, UpstreamAuth, Warning, WorkspaceAccess, XdpMode,
    holds,
};
pub use outlet::{
    AlertConfig, AlertRule, AlertTarget, Endpoint, SinkConfig, SinkTarget, WebTarget,
};
pub use problem::{ConfigError, Problem};
pub use sources::{NoSources, ProcessSources, Sources};
pub use trust::{FileTrust, changeable_by_others};
