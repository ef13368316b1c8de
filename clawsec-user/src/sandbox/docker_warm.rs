//! Started idle containers, so that an execution does not wait for one to start.
//!
//! An idle container sleeps, made from the same template as every other; one execution is put into
//! it, and then it is removed, used or not finished. Invariant: no container sees two executions,
//! and one whose settings are not exactly the execution's is not used.

use std::collections::HashMap;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bollard::exec::{StartExecOptions, StartExecResults};
use bollard::models::ExecConfig;
use bollard::query_parameters::{CreateContainerOptionsBuilder, KillContainerOptionsBuilder};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::capture::Output;
use super::docker::{DockerProvider, drain, feed};
use super::host_process::{Ended, GRACE};
use super::job::WORKSPACE;
use super::live::Live;
use super::oom;
use super::owner::Owner;
use super::{Job, JobCommand, SandboxError};
use crate::causes;

/// A container that sleeps.
#[derive(Debug)]
pub(super) struct Idle {
    name: String,
    /// As long as it is here it is no orphan.
    _live: Live,
}

/// Containers by the execution that is in them.
#[derive(Debug, Default)]
pub(super) struct Used(Mutex<HashMap<String, Idle>>);

impl Used {
    /// The container that this execution had, to be removed.
    pub(super) fn by(&self, id: &str) -> Option<String> {
        self.lock().get(id).map(|idle| idle.name.clone())
    }

    /// After the removal: nothing of it is an orphan any more.
    pub(super) fn forget(&self, id: &str) {
        self.lock().remove(id);
    }

    /// A panic while it is held cannot leave it in a state that matters.
    fn lock(&self) -> MutexGuard<'_, HashMap<String, Idle>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl DockerProvider {
    /// Keeps the pool full until `closing`, then removes what is idle.
    pub(super) async fn keep_pool(self: Arc<Self>, owner: Owner, closing: CancellationToken) {
        while self.pool.wants(&closing).await {
            let made = self.start_idle(&owner).await;
            self.pool.put(made, &closing).await;
        }
        while let Some(idle) = self.pool.take() {
            if let Err(error) = self.remove(&idle.name).await {
                tracing::warn!("remove an idle container: {}", causes::chain(&error));
            }
        }
    }

    async fn start_idle(&self, owner: &Owner) -> Result<Idle, SandboxError> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let id = format!("idle-{}-{number}", std::process::id());
        let idle = Idle {
            name: self.container_name(&id),
            _live: self.live.enter(&id)?,
        };
        let job = Job {
            id,
            agent: String::new(),
            command: JobCommand::Argv(SLEEP.iter().map(ToString::to_string).collect()),
            env: std::collections::BTreeMap::new(),
            workdir: None,
            workspace: self.template.workspace.clone(),
            stdin: Vec::new(),
            timeout: Duration::MAX,
        };
        let body = self.template.container(owner, &job)?;
        let options = CreateContainerOptionsBuilder::new()
            .name(&idle.name)
            .build();
        self.client
            .create_container(Some(options), body)
            .await
            .map_err(SandboxError::docker("create an idle container"))?;
        let started = self.client.start_container(&idle.name, None).await;
        if let Err(source) = started {
            self.remove(&idle.name).await?;
            return Err(SandboxError::Docker {
                operation: "start an idle container",
                source,
            });
        }
        Ok(idle)
    }

    /// Runs the job in an idle container; `None` where there is none that fits, and then nothing
    /// has run.
    pub(super) async fn run_warm(
        &self,
        job: &Job,
        cancel: &CancellationToken,
        output: &Output,
    ) -> Result<Option<Ended>, SandboxError> {
        let at_home = |workdir: &Path| workdir == Path::new(WORKSPACE);
        if job.workspace != self.template.workspace || !job.workdir.as_deref().is_none_or(at_home) {
            return Ok(None);
        }
        while let Some(idle) = self.pool.take() {
            let name = idle.name.clone();
            match self.prepare(&name, job).await {
                Ok(exec) => {
                    self.used.lock().insert(job.id.clone(), idle);
                    return self
                        .execute(&name, &exec, job, cancel, output)
                        .await
                        .map(Some);
                }
                // It has ended by itself, or was removed under us; the next may be well.
                Err(error) => {
                    tracing::debug!("an idle container is gone: {}", causes::chain(&error));
                    self.remove(&name).await?;
                }
            }
        }
        Ok(None)
    }

    async fn prepare(&self, name: &str, job: &Job) -> Result<String, SandboxError> {
        let variables = job
            .env
            .iter()
            .map(|(name, value)| format!("{name}={value}"));
        let config = ExecConfig {
            attach_stdin: Some(!job.stdin.is_empty()),
            attach_stdout: Some(true),
            attach_stderr: Some(true),
            cmd: Some(job.argv()),
            env: Some(variables.collect()),
            working_dir: Some(WORKSPACE.to_owned()),
            ..ExecConfig::default()
        };
        self.client
            .create_exec(name, config)
            .await
            .map(|made| made.id)
            .map_err(SandboxError::docker("prepare a command"))
    }

    async fn execute(
        &self,
        name: &str,
        exec: &str,
        job: &Job,
        cancel: &CancellationToken,
        output: &Output,
    ) -> Result<Ended, SandboxError> {
        let started = self
            .client
            .start_exec(exec, None::<StartExecOptions>)
            .await
            .map_err(SandboxError::docker("start a command"))?;
        let StartExecResults::Attached {
            output: stream,
            input,
        } = started
        else {
            return Err(SandboxError::TaskLost);
        };
        let feeding = tokio::spawn(feed(input, job.stdin.clone()));
        let mut draining = tokio::spawn(drain(stream, output.clone()));
        let mut ended = Ended::default();
        tokio::select! {
            // The streams' end is the command's, unless it left something that writes.
            _ = &mut draining => {}
            () = self.gone(exec, LOOK) => {}
            () = sleep(job.timeout) => ended.timed_out = true,
            () = cancel.cancelled() => ended.cancelled = true,
        }
        if ended.timed_out {
            self.ask_to_end(name).await;
            timeout(GRACE, self.gone(exec, FIRST)).await.ok();
        } else if !ended.cancelled {
            // Both streams may end a moment before it does.
            timeout(SETTLED, self.gone(exec, Duration::ZERO)).await.ok();
        }
        self.read_warm_end(name, exec, &mut ended, output).await?;
        // What is left in it ends when it is removed, after the answer; here only where it still
        // writes, so that the answer is whole.
        if !draining.is_finished() {
            let options = KillContainerOptionsBuilder::new().signal("SIGKILL").build();
            drop(self.client.kill_container(name, Some(options)).await);
            if timeout(SETTLED, &mut draining).await.is_err() {
                draining.abort();
            }
        }
        feeding.abort();
        Ok(ended)
    }

    /// Waits until the command does not run. Docker has no call that waits for one, so it is asked
    /// again, ever less often.
    async fn gone(&self, exec: &str, first: Duration) {
        sleep(first).await;
        let mut pause = FIRST;
        loop {
            match self.client.inspect_exec(exec).await {
                Ok(found) if found.running == Some(true) => {}
                _ => return,
            }
            sleep(pause).await;
            pause = (pause * 2).min(LOOK);
        }
    }

    /// The polite signal to everything in the container but its init.
    async fn ask_to_end(&self, name: &str) {
        let config = ExecConfig {
            cmd: Some(["kill", "-TERM", "-1"].map(str::to_owned).to_vec()),
            ..ExecConfig::default()
        };
        if let Ok(made) = self.client.create_exec(name, config).await {
            let detached = StartExecOptions {
                detach: true,
                ..StartExecOptions::default()
            };
            drop(self.client.start_exec(&made.id, Some(detached)).await);
        }
    }

    async fn read_warm_end(
        &self,
        name: &str,
        exec: &str,
        ended: &mut Ended,
        output: &Output,
    ) -> Result<(), SandboxError> {
        let found = self
            .client
            .inspect_exec(exec)
            .await
            .map_err(SandboxError::docker("inspect a command"))?;
        let code = found.exit_code.and_then(|code| i32::try_from(code).ok());
        match code {
            // As a shell says it.
            Some(code @ 129..=192) => ended.signal = Some(code - 128),
            code => ended.exit_code = code,
        }
        if matches!(ended.exit_code, Some(126 | 127)) && output.blame_daemon() {
            ended.exit_code = Some(127);
        }
        if ended.signal == Some(libc::SIGKILL) || ended.exit_code.is_some_and(|code| code != 0) {
            ended.oom = self.ran_out_of_memory(name).await;
        }
        Ok(())
    }

    /// By the container's own cgroup: docker notes it for a container's first process alone. Where
    /// the daemon is on another host nothing is found, and nothing is said.
    async fn ran_out_of_memory(&self, name: &str) -> bool {
        let Ok(found) = self.client.inspect_container(name, None).await else {
            return false;
        };
        let init = found.state.and_then(|state| state.pid);
        match (found.id, init.and_then(|pid| u32::try_from(pid).ok())) {
            (Some(id), Some(pid)) => oom::ran_out_of_memory(pid, &id),
            _ => false,
        }
    }
}

/// Of the image's own: longer than a daemon lives.
const SLEEP: [&str; 2] = ["sleep", "2147483647"];
/// Between two questions, at least and at most.
const FIRST: Duration = Duration::from_millis(2);
const LOOK: Duration = Duration::from_millis(100);
/// For what docker says of an end.
const SETTLED: Duration = Duration::from_millis(500);
