//! Tools run here, contained: docker, firejail, native, or a bare ordinary user.
//!
//! `Sandbox::run` consumes a `Permit`, so nothing runs that policy did not let through. It lives
//! in the supervisor (root). Invariant: no shell of ours ever sees a tool's command, and no
//! `unsafe` stands outside `child.rs`, `native/contain.rs`, `netdevice.rs` and `probe_calls.rs`.
//!
//! Reading order: `job` (what to run and what came of it), `dispatch` (slots, queue, one execution
//! from start to removal), `provider`, then `docker`, `firejail`, `native`, `bare`, and what they share.

mod capture;
mod dispatch;
mod error;
mod job;
mod live;
mod provider;

mod docker;
mod docker_ports;
mod docker_spec;
mod docker_warm;
mod image;
mod pool;
mod seccomp;

mod bare;
mod firejail;

mod native;
mod netdevice;

mod probe;
mod probe_acts;
mod probe_calls;
mod probe_control;
mod probe_inside;

mod cgroup;
mod child;
mod host_process;
mod limits;
mod oom;
mod owner;
mod scratch;
mod step;
mod user;

mod registry;

pub use tokio_util::sync::CancellationToken;

pub use capture::{Captured, Output};
pub use dispatch::{Health, Load, Sandbox};
pub use docker_ports::published_ports;
pub use error::SandboxError;
pub use image::build as build_image;
pub use job::{Execution, Job, JobCommand, Mount, MountAccess};
pub use native::contain::{Containment, contain};
pub use probe::{Finding, Verdict, probe};
pub use probe_control::{Control, control};
pub use probe_inside::{Inside, inside};
pub use provider::settled;
pub use registry::{Entry, EntryState, Registry, RegistryError};
