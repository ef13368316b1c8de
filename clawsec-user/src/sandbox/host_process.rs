//! Seeing a process on the host to its end: input, output, deadline, and nothing left behind.
//!
//! Both providers that start processes themselves (firejail, bare) use it. Invariant: when `run`
//! returns, the cgroup is empty and gone, however the execution ended.

use std::collections::BTreeMap;
use std::ffi::CString;
use std::io;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::time::Duration;

use rustix::process::{Pid, Resource, Signal, kill_process_group};
use tokio::io::AsyncWriteExt;
use tokio::process::Child;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::capture::Output;
use super::cgroup::{Cgroups, Leaf};
use super::child::{Containment, Rights, spawn};
use super::limits::Limits;
use super::owner::Owner;
use super::user::ToolUser;
use super::{Job, SandboxError};

/// How it ended, before it becomes an `Execution`.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Ended {
    pub(super) exit_code: Option<i32>,
    pub(super) signal: Option<i32>,
    pub(super) oom: bool,
    pub(super) timed_out: bool,
    pub(super) cancelled: bool,
}

/// What both providers hold for the daemon's life.
#[derive(Debug)]
pub(super) struct Host {
    pub(super) user: ToolUser,
    pub(super) cgroups: Cgroups,
    pub(super) limits: Limits,
    /// All executions of all instances share one user, so this counts for all of them together;
    /// the cgroup's limit is the one that bounds an execution.
    pub(super) user_processes: u64,
}

pub(super) struct Launch<'a> {
    pub(super) argv: &'a [String],
    pub(super) environment: &'a BTreeMap<String, String>,
    pub(super) workdir: &'a Path,
    pub(super) rights: Rights,
}

impl Host {
    pub(super) async fn run(
        &self,
        owner: &Owner,
        job: &Job,
        launch: Launch<'_>,
        cancel: &CancellationToken,
        output: &Output,
    ) -> Result<Ended, SandboxError> {
        let leaf = self.cgroups.leaf(owner, &job.id, self.limits)?;
        let result = self.run_in(&leaf, job, launch, cancel, output).await;
        if !leaf.remove().await {
            tracing::warn!(execution = %job.id, "a sandbox cgroup could not be removed yet");
        }
        result
    }

    async fn run_in(
        &self,
        leaf: &Leaf,
        job: &Job,
        launch: Launch<'_>,
        cancel: &CancellationToken,
        output: &Output,
    ) -> Result<Ended, SandboxError> {
        let invalid_workdir = SandboxError::InvalidJob {
            field: "workdir",
            problem: "cannot be entered by the sandbox user",
        };
        let Ok(workdir) = CString::new(launch.workdir.as_os_str().as_encoded_bytes()) else {
            return Err(invalid_workdir);
        };
        // A launcher of ours that does not start is no failure of the tool's.
        let is_tool = !matches!(launch.rights, Rights::Launcher { .. });
        let containment = Containment {
            user: self.user.clone(),
            cgroup: leaf.entrances()?,
            limits: self.resource_limits(),
            workdir,
            rights: launch.rights,
        };
        let program = launch.argv.first().cloned().unwrap_or_default();
        let child = match spawn(launch.argv, launch.environment, containment) {
            Ok(child) => child,
            Err(error) => {
                return match error.kind() {
                    io::ErrorKind::NotADirectory => Err(invalid_workdir),
                    // As a shell would say it: the tool's failure, not the sandbox's.
                    io::ErrorKind::NotFound if is_tool => {
                        Ok(not_executable(output, &program, &error, 127))
                    }
                    _ if is_tool
                        && matches!(error.raw_os_error(), Some(libc::EACCES | libc::ENOEXEC)) =>
                    {
                        Ok(not_executable(output, &program, &error, 126))
                    }
                    _ => Err(SandboxError::Spawn {
                        program,
                        source: error,
                    }),
                };
            }
        };
        supervise(child, leaf, &program, job, cancel, output).await
    }

    fn resource_limits(&self) -> Vec<(Resource, u64)> {
        vec![
            (Resource::Nofile, NOFILE),
            (Resource::Core, 0),
            (Resource::Fsize, FSIZE_BYTES),
            (Resource::Nproc, self.user_processes),
        ]
    }
}

async fn supervise(
    mut child: Child,
    leaf: &Leaf,
    program: &str,
    job: &Job,
    cancel: &CancellationToken,
    output: &Output,
) -> Result<Ended, SandboxError> {
    let group = child
        .id()
        .and_then(|id| i32::try_from(id).ok())
        .and_then(Pid::from_raw);
    let stdin = child.stdin.take();
    let feeding = tokio::spawn(feed(stdin, job.stdin.clone()));
    let mut draining = tokio::task::JoinSet::new();
    if let Some(stdout) = child.stdout.take() {
        let capture = output.stdout.clone();
        draining.spawn(async move { capture.drain(stdout).await });
    }
    if let Some(stderr) = child.stderr.take() {
        let capture = output.stderr.clone();
        draining.spawn(async move { capture.drain(stderr).await });
    }

    let mut ended = Ended::default();
    let waited = tokio::select! {
        status = child.wait() => Some(status),
        () = tokio::time::sleep(job.timeout) => {
            ended.timed_out = true;
            None
        }
        () = cancel.cancelled() => {
            ended.cancelled = true;
            None
        }
    };
    let status = if let Some(status) = waited {
        status
    } else {
        if let Some(group) = group {
            // It may have ended this moment.
            kill_process_group(group, Signal::TERM).ok();
        }
        if let Ok(status) = timeout(GRACE, child.wait()).await {
            status
        } else {
            leaf.kill().await;
            child.wait().await
        }
    };
    // What the tool left in the background goes with it, as it would in a container.
    leaf.kill().await;
    feeding.abort();
    let drained = timeout(DRAIN, async {
        while draining.join_next().await.is_some() {}
    })
    .await;
    if drained.is_err() {
        draining.abort_all();
    }
    let status = status.map_err(|source| SandboxError::Wait {
        program: program.to_owned(),
        source,
    })?;
    ended.exit_code = status.code();
    ended.signal = status.signal();
    ended.oom = leaf.oom_killed();
    Ok(ended)
}

/// Writes the input and closes it. A tool that does not read ends this with a broken pipe.
async fn feed(stdin: Option<tokio::process::ChildStdin>, input: Vec<u8>) {
    if let Some(mut stdin) = stdin {
        drop(stdin.write_all(&input).await);
        drop(stdin.shutdown().await);
    }
}

fn not_executable(output: &Output, program: &str, error: &io::Error, code: i32) -> Ended {
    output
        .stderr
        .push(format!("{program}: {error}\n").as_bytes());
    Ended {
        exit_code: Some(code),
        ..Ended::default()
    }
}

/// The same numbers as the docker provider's ulimits.
pub(super) const NOFILE: u64 = 1024;
pub(super) const FSIZE_BYTES: u64 = 256 * 1024 * 1024;
/// Between a polite signal and the end.
pub(super) const GRACE: Duration = Duration::from_secs(1);
/// For output that is still in the pipe when everything that could write is dead.
pub(super) const DRAIN: Duration = Duration::from_secs(2);
