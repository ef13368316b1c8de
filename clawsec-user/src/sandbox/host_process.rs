//! Seeing a process on the host to its end: input, output, deadline, and nothing left behind.
//!
//! Invariant: when `Host::run` returns, the cgroup is empty and gone, however the execution ended.
//! `native` uses the parts, and removes its cgroup after the answer.

use std::collections::BTreeMap;
use std::ffi::CString;
use std::io;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::time::Duration;

use rustix::process::{Pid, Resource, Signal, kill_process_group};
use tokio::io::AsyncWriteExt;
use tokio::process::Child;
use tokio::task::{JoinHandle, JoinSet};
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

/// What the providers that start processes themselves hold for the daemon's life.
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
    /// Runs the process to its end and the end of everything it started.
    pub(super) async fn run(
        &self,
        owner: &Owner,
        job: &Job,
        launch: Launch<'_>,
        cancel: &CancellationToken,
        output: &Output,
    ) -> Result<Ended, SandboxError> {
        let leaf = self.leaf(owner, &job.id)?;
        let result = self.run_in(&leaf, job, launch, cancel, output).await;
        if !leaf.remove().await {
            tracing::warn!(execution = %job.id, "a sandbox cgroup could not be removed yet");
        }
        result
    }

    pub(super) fn leaf(&self, owner: &Owner, id: &str) -> Result<Leaf, SandboxError> {
        self.cgroups.leaf(owner, id, self.limits)
    }

    async fn run_in(
        &self,
        leaf: &Leaf,
        job: &Job,
        launch: Launch<'_>,
        cancel: &CancellationToken,
        output: &Output,
    ) -> Result<Ended, SandboxError> {
        let program = launch.argv.first().cloned().unwrap_or_default();
        let mut child = match self.spawn(leaf, launch) {
            Ok(child) => child,
            Err(source) => return not_started(program, source, output),
        };
        let streams = Streams::of(&mut child, job, output);
        let (mut ended, status) = see_to_end(&streams, leaf, child.wait(), job, cancel).await;
        // What the tool left in the background goes with it, as it would in a container.
        leaf.kill().await;
        streams.drain().await;
        let status = status.map_err(|source| SandboxError::Wait { program, source })?;
        ended.exit_code = status.code();
        ended.signal = status.signal();
        ended.oom = leaf.oom_killed();
        Ok(ended)
    }

    /// Starts it in the cgroup, with the user, limits and rights it is to have.
    pub(super) fn spawn(&self, leaf: &Leaf, launch: Launch<'_>) -> io::Result<Child> {
        let workdir = CString::new(launch.workdir.as_os_str().as_encoded_bytes())
            .map_err(|_nul| io::ErrorKind::NotADirectory)?;
        let containment = Containment {
            user: self.user.clone(),
            cgroup: leaf.entrances().map_err(io::Error::other)?,
            limits: self.resource_limits(),
            workdir,
            rights: launch.rights,
        };
        spawn(launch.argv, launch.environment, containment)
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

fn not_started(program: String, error: io::Error, output: &Output) -> Result<Ended, SandboxError> {
    match (error.kind(), error.raw_os_error()) {
        (io::ErrorKind::NotADirectory, _) => Err(SandboxError::InvalidJob {
            field: "workdir",
            problem: "cannot be entered by the sandbox user",
        }),
        // As a shell would say it: the tool's failure, not the sandbox's.
        (io::ErrorKind::NotFound, _) => Ok(not_executable(output, &program, &error, 127)),
        (_, Some(libc::EACCES | libc::ENOEXEC)) => {
            Ok(not_executable(output, &program, &error, 126))
        }
        _ => Err(SandboxError::Spawn {
            program,
            source: error,
        }),
    }
}

/// A started process's three streams, served from here on.
pub(super) struct Streams {
    group: Option<Pid>,
    feeding: JoinHandle<()>,
    draining: JoinSet<()>,
}

impl Streams {
    pub(super) fn of(child: &mut Child, job: &Job, output: &Output) -> Self {
        let group = child
            .id()
            .and_then(|id| i32::try_from(id).ok())
            .and_then(Pid::from_raw);
        let feeding = tokio::spawn(feed(child.stdin.take(), job.stdin.clone()));
        let mut draining = JoinSet::new();
        if let Some(stdout) = child.stdout.take() {
            let capture = output.stdout.clone();
            draining.spawn(async move { capture.drain(stdout).await });
        }
        if let Some(stderr) = child.stderr.take() {
            let capture = output.stderr.clone();
            draining.spawn(async move { capture.drain(stderr).await });
        }
        Self {
            group,
            feeding,
            draining,
        }
    }

    /// Takes the output that is still in the pipes when everything that writes is dead.
    pub(super) async fn drain(mut self) {
        self.feeding.abort();
        let drained = timeout(DRAIN, async {
            while self.draining.join_next().await.is_some() {}
        });
        if drained.await.is_err() {
            self.draining.abort_all();
        }
    }
}

/// Waits until `over`; a deadline or a cancel makes it so: politely, then by the cgroup.
pub(super) async fn see_to_end<T>(
    streams: &Streams,
    leaf: &Leaf,
    over: impl Future<Output = T>,
    job: &Job,
    cancel: &CancellationToken,
) -> (Ended, T) {
    let mut ended = Ended::default();
    tokio::pin!(over);
    tokio::select! {
        end = &mut over => return (ended, end),
        () = tokio::time::sleep(job.timeout) => ended.timed_out = true,
        () = cancel.cancelled() => ended.cancelled = true,
    }
    if let Some(group) = streams.group {
        // It may have ended this moment.
        kill_process_group(group, Signal::TERM).ok();
    }
    if let Ok(end) = timeout(GRACE, &mut over).await {
        return (ended, end);
    }
    leaf.kill().await;
    (ended, over.await)
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
