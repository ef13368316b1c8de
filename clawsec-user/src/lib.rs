//! clawsec's daemon and command line.
//!
//! `cli` starts either half of the daemon: the `supervisor` (root, no network input) or the
//! `gateway` (unprivileged, all network input). Read `docs/architecture.md` for who may call whom.

mod causes;
mod dial;
pub mod event;
pub mod ipc;

pub mod policy;

pub mod config;
pub mod counterpart;

pub mod audit;
pub mod capture;
pub mod enforcer;
pub mod gateway;
pub mod ops;
pub mod sandbox;

pub mod supervisor;

pub mod cli;
