//! The `native` provider: namespaces, Landlock, seccomp and a cgroup, with no program to install.
//!
//! The supervisor starts clawsec once more as a launcher (`contain`), which builds the sandbox
//! around itself, is told what to run, and tells how the tool ended. Some launchers stand ready
//! before an execution wants one. Invariant: a launcher that cannot build every part runs nothing
//! and says which part, and none sees two executions.

use std::collections::HashMap;
use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustix::fs::MemfdFlags;
use seccompiler::BpfProgram;
use tokio_util::sync::CancellationToken;

use super::capture::Output;
use super::host_process::{Ended, Host, Streams, see_to_end};
use super::job::Mount;
use super::live::LiveIds;
use super::owner::Owner;
use super::pool::Pool;
use super::scratch::Scratches;
use super::{Job, JobCommand, SandboxError, seccomp};
use crate::causes;

pub(super) mod contain;
mod contain_root;
mod launcher;

use contain::Report;
use launcher::Launcher;

#[derive(Debug)]
pub(super) struct Native {
    host: Host,
    /// clawsec's own program.
    launcher: PathBuf,
    /// Any folder that root owns: the launcher hides it under the root it builds.
    base: PathBuf,
    /// The compiled filters, in memory that every launcher reads.
    filters: File,
    /// What those that stand ready have mounted.
    workspace: Option<Mount>,
    pub(super) pool: Pool<Launcher>,
    live: LiveIds,
    /// By execution: ended, to be removed after the answer.
    used: Mutex<HashMap<String, Launcher>>,
}

impl Native {
    /// Opens it and runs a tool that does nothing, so that a host without namespaces is found out
    /// now. `idle` launchers will stand ready once `keep_pool` runs.
    pub(super) async fn open(
        host: Host,
        scratches: &Scratches,
        launcher: &Path,
        owner: &Owner,
        live: LiveIds,
        (idle, workspace): (usize, Option<Mount>),
    ) -> Result<Self, SandboxError> {
        let native = Self {
            host,
            launcher: launcher.to_owned(),
            base: scratches.base().to_owned(),
            filters: shared(&seccomp::allow_filters()?)?,
            workspace,
            pool: Pool::new(idle),
            live,
            used: Mutex::default(),
        };
        native.check(owner).await?;
        Ok(native)
    }

    async fn check(&self, owner: &Owner) -> Result<(), SandboxError> {
        let job = Job {
            id: format!("check-{}", std::process::id()),
            agent: String::new(),
            // `contain` takes an empty program for "do everything but the last step".
            command: JobCommand::Argv(vec![String::new()]),
            env: std::collections::BTreeMap::new(),
            workdir: None,
            workspace: None,
            stdin: Vec::new(),
            timeout: CHECK,
        };
        let output = Output::new(1024);
        let ended = self
            .run(owner, &job, &CancellationToken::new(), &output)
            .await;
        self.clean(&job.id).await;
        let ended = ended?;
        if ended.exit_code == Some(0) {
            return Ok(());
        }
        Err(SandboxError::Native(format!(
            "a sandbox that runs nothing ended with {ended:?}: {}",
            output.so_far().1.text()
        )))
    }

    pub(super) fn user(&self) -> &str {
        &self.host.user.name
    }

    /// Keeps the pool full until `closing`, then removes what is idle.
    pub(super) async fn keep_pool(self: Arc<Self>, owner: Owner, closing: CancellationToken) {
        while self.pool.wants(&closing).await {
            let made = self.start_idle(&owner).await;
            self.pool.put(made, &closing).await;
        }
        while let Some(idle) = self.pool.take() {
            idle.remove().await;
        }
    }

    async fn start_idle(&self, owner: &Owner) -> Result<Launcher, SandboxError> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let id = format!("idle-{}-{number}", std::process::id());
        let live = self.live.enter(&id)?;
        let workspace = self.workspace.as_ref();
        let mut idle = Launcher::start(self, owner, &id, workspace, Some(live)).await?;
        match idle.ready().await {
            Ok(()) => Ok(idle),
            Err(error) => {
                idle.remove().await;
                Err(error)
            }
        }
    }

    /// One that has its order.
    async fn launched(&self, owner: &Owner, job: &Job) -> Result<Launcher, SandboxError> {
        while job.workspace == self.workspace
            && let Some(mut idle) = self.pool.take()
        {
            let is_fit = idle.is_alive() && idle.is_current(self.workspace.as_ref());
            if is_fit && idle.order(job).await.is_ok() {
                return Ok(idle);
            }
            // It was killed under us, or the host has changed; the next may be well.
            tracing::debug!("a native sandbox that stood ready is not fit any more");
            idle.remove().await;
        }
        let mut launcher =
            Launcher::start(self, owner, &job.id, job.workspace.as_ref(), None).await?;
        // One that cannot take it has a report that says why.
        if let Err(error) = launcher.order(job).await {
            tracing::debug!("give a native sandbox its order: {}", causes::chain(&error));
        }
        Ok(launcher)
    }

    /// When it returns everything of the execution is dead or dying; `clean` sees it gone.
    pub(super) async fn run(
        &self,
        owner: &Owner,
        job: &Job,
        cancel: &CancellationToken,
        output: &Output,
    ) -> Result<Ended, SandboxError> {
        let mut launcher = self.launched(owner, job).await?;
        let streams = Streams::of(&mut launcher.child, job, output);
        let over = launcher.told.report();
        let (mut ended, report) = see_to_end(&streams, &launcher.leaf, over, job, cancel).await;
        // The streams end when the last of its processes does: its init takes all along.
        streams.drain().await;
        ended.oom = launcher.leaf.oom_killed();
        self.used
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(job.id.clone(), launcher);
        match report {
            Some(Report::Ended { code, signal }) => {
                (ended.exit_code, ended.signal) = (code, signal);
                Ok(ended)
            }
            Some(Report::Workdir) => Err(SandboxError::InvalidJob {
                field: "workdir",
                problem: "cannot be entered by the sandbox user",
            }),
            Some(Report::Failed(step)) => Err(SandboxError::Native(step)),
            // Killed with the rest of the cgroup before it could say anything.
            None | Some(Report::Ready) if ended.timed_out || ended.cancelled || ended.oom => {
                (ended.exit_code, ended.signal) = (None, Some(libc::SIGKILL));
                Ok(ended)
            }
            None | Some(Report::Ready) => Err(SandboxError::Native(format!(
                "its launcher {} ended without a word ({ended:?})",
                self.launcher.display()
            ))),
        }
    }

    /// Removes what an execution has left, after its answer.
    pub(super) async fn clean(&self, id: &str) {
        let used = self
            .used
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(id);
        if let Some(launcher) = used
            && !launcher.remove().await
        {
            tracing::warn!(execution = id, "a sandbox cgroup could not be removed yet");
        }
    }
}

/// Filters as `contain` reads them back: for each its length and its instructions, native order.
fn shared(programs: &[BpfProgram]) -> Result<File, SandboxError> {
    let name = "clawsec-filters";
    let memory = rustix::fs::memfd_create(name, MemfdFlags::CLOEXEC)
        .map_err(|error| SandboxError::file("make the memory file", name)(error.into()))?;
    let mut file = File::from(memory);
    let mut bytes = Vec::new();
    for program in programs {
        bytes.extend((program.len() as u64).to_ne_bytes());
        for instruction in program {
            bytes.extend(instruction.code.to_ne_bytes());
            bytes.extend([instruction.jt, instruction.jf]);
            bytes.extend(instruction.k.to_ne_bytes());
        }
    }
    file.write_all(&bytes)
        .map_err(SandboxError::file("write the memory file", name))?;
    Ok(file)
}

/// For the execution that finds out whether the host can do it.
const CHECK: Duration = Duration::from_secs(10);
