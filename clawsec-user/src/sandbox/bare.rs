//! The `none` provider: no file system of its own, but an ordinary user, limits, a clean
//! environment, NoNewPrivs, a system call filter and no network.
//!
//! Invariant: it never runs anything as root. What the tool user may read on this host, a tool can
//! read; `open` says so loudly.

use std::path::{Path, PathBuf};

use tokio_util::sync::CancellationToken;

use super::capture::Output;
use super::child::Rights;
use super::host_process::{Ended, Host, Launch};
use super::job::{MountAccess, WORKSPACE};
use super::owner::Owner;
use super::scratch::{self, Scratches};
use super::{Job, SandboxError, seccomp};

#[derive(Debug)]
pub(super) struct Bare {
    pub(super) host: Host,
    pub(super) scratches: Scratches,
}

impl Bare {
    pub(super) fn warn(&self) {
        tracing::warn!(
            user = %self.host.user.name,
            "security.sandbox.provider is \"none\": tools run on this host without a file system \
             of their own; they can read whatever this user can. Use docker or firejail."
        );
    }

    pub(super) async fn run(
        &self,
        owner: &Owner,
        job: &Job,
        cancel: &CancellationToken,
        output: &Output,
    ) -> Result<Ended, SandboxError> {
        let workspace = match &job.workspace {
            Some(mount) if mount.access == MountAccess::ReadOnly => {
                return Err(SandboxError::Unsupported {
                    provider: "none",
                    key: "workspace",
                    problem: "it cannot make a workspace read-only".into(),
                });
            }
            Some(mount) => Some(mount.resolve()?),
            None => None,
        };
        let private = self.scratches.make(owner, &job.id, &self.host.user)?;
        let home = workspace.unwrap_or_else(|| private.clone());
        let result = self.run_at(&home, owner, job, cancel, output).await;
        if !scratch::remove(private).await {
            tracing::warn!(execution = %job.id, "a sandbox directory could not be removed yet");
        }
        result
    }

    async fn run_at(
        &self,
        home: &Path,
        owner: &Owner,
        job: &Job,
        cancel: &CancellationToken,
        output: &Output,
    ) -> Result<Ended, SandboxError> {
        let environment = job.environment(&home.to_string_lossy());
        let launch = Launch {
            argv: &job.argv(),
            environment: &environment,
            workdir: &workdir_in(home, job),
            rights: Rights::Locked {
                filters: seccomp::deny_filters()?,
            },
        };
        self.host.run(owner, job, launch, cancel, output).await
    }
}

/// Where callers say `/workspace`, this provider means `home`.
pub(super) fn workdir_in(home: &Path, job: &Job) -> PathBuf {
    match &job.workdir {
        None => home.to_owned(),
        Some(workdir) => match workdir.strip_prefix(WORKSPACE) {
            Ok(below) if below.as_os_str().is_empty() => home.to_owned(),
            Ok(below) => home.join(below),
            Err(_) => workdir.clone(),
        },
    }
}
