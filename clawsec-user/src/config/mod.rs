//! The configuration file: text to checked values, every error at once.
//!
//! `load` reads a file, `compile` does the rest without IO: parse JSON5 with positions (`tree`),
//! substitute `${VAR}` (`substitute`), read field by field (`check`, with the field readers of
//! `reader`), and give `Config`. Nothing downstream sees an unchecked value.

mod model;

pub use model::{
    AuditConfig, AuditOnFailure, BanConfig, Config, Fsync, GatewayConfig, KernelConfig, Listen,
    OnExit, SandboxConfig, SandboxNetwork, SandboxProvider, Secret, TlsConfig, TlsVersion,
    Upstream, Warning, XdpMode,
};
