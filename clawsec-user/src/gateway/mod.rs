//! The gateway process: everything that strangers can talk to.
//!
//! It runs as an ordinary user without capabilities, behind Landlock and seccomp (`confine`), on
//! listeners it was given. Every request goes through the one sequence of `connection`; what acts
//! consumes a `policy::Permit`. The supervisor is known only as messages on a socketpair.

mod confine;
mod confine_seccomp;

mod serve;
mod shared;
mod snapshot;
mod timed;

mod listener;
mod proxy;
mod tls;

mod connection;
mod failure;
mod frames_h2;
mod head;
mod http;
mod progress;
mod route;
mod watched;

mod auth;
mod limits;
mod origin;
mod ui;

mod facts;
mod isolate;
mod json;
mod messages;
mod tools_invoke;

mod body;
mod pool;
mod upstream;

mod own;
mod websocket;

mod admin;
mod challenges;
mod figures;
mod link;
mod received;
mod record;
mod refusal;
mod repeats;
mod small;

#[doc(hidden)]
pub mod probe;

#[cfg(test)]
mod tests;

pub(crate) use listener::{Reach, reach_of};

pub use confine::{ConfineError, Confinement, IdentityChange, LandlockState, confine};
pub use serve::{GatewayError, run};
pub use snapshot::SnapshotError;
pub use tls::TlsError;
