//! Tools run here, contained: docker, firejail, or a bare ordinary user.
//!
//! `Sandbox::run` consumes a `Permit`, so nothing runs that policy did not let through. It lives
//! in the supervisor (root). Invariant: no shell of ours ever sees a tool's command, and no
//! `unsafe` stands outside `child.rs`.
//!
//! Reading order: `job` (what to run and what came of it), `dispatch` (slots, queue, one execution
//! from start to removal), the providers `docker`, `firejail`, `bare`, and what they share.

mod capture;
mod dispatch;
mod error;
mod job;

mod docker;
mod docker_spec;
mod image;
mod seccomp;

mod bare;
mod firejail;

mod cgroup;
mod child;
mod host_process;
mod owner;
mod scratch;
mod user;

mod registry;

pub use tokio_util::sync::CancellationToken;

pub use capture::{Captured, Output};
pub use dispatch::{Health, Sandbox};
pub use error::SandboxError;
pub use image::build as build_image;
pub use job::{Execution, Job, JobCommand, Mount, MountAccess};
pub use registry::{Entry, EntryState, Registry, RegistryError};
