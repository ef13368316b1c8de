//! From permit to execution: slots, queue, provider, and the certainty that it is removed.
//!
//! Invariant: an execution runs in a task of its own. A caller that goes away cancels it, and the
//! task still kills and removes what it started.

mod load;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};
use tokio::time::timeout;
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

pub use self::load::Load;
use self::load::{Place, QUEUE};
use super::capture::Output;
use super::cgroup::Cgroups;
use super::job::is_id;
use super::limits::Limits;
use super::live::LiveIds;
use super::owner::Owner;
use super::provider::Setting;
use super::scratch::{self, Scratches};
use super::{Execution, Finding, Job, SandboxError, probe_control};
use crate::causes;
use crate::config::{SandboxConfig, SandboxProvider};
use crate::policy::{Permit, Request};

/// The configured provider, open and checked. Clones share everything.
#[derive(Debug, Clone)]
pub struct Sandbox {
    inner: Arc<Inner>,
}

/// What `status` and `check` show.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Health {
    pub provider: SandboxProvider,
    /// Such as `docker API 1.41, image clawsec/sandbox`.
    pub detail: String,
    pub running: usize,
    pub waiting: usize,
    pub slots: usize,
}

#[derive(Debug)]
struct Inner {
    /// Of every agent that has none of its own.
    common: Setting,
    /// By lower-case id. One that does not work denies its agent alone.
    agents: HashMap<String, Result<Setting, String>>,
    instance: String,
    owner: Owner,
    concurrency: usize,
    slots: Arc<Semaphore>,
    waiting: AtomicUsize,
    live: LiveIds,
    tasks: TaskTracker,
    closing: CancellationToken,
    /// A sandbox that is let go without being closed keeps no pool.
    _closing: DropGuard,
}

impl Sandbox {
    /// Opens the configured provider after checking that it can really contain a tool.
    ///
    /// `instance` names this daemon among those of the host (`[A-Za-z0-9_-]`); executions of
    /// other instances are never touched.
    pub async fn open(config: &SandboxConfig, instance: &str) -> Result<Self, SandboxError> {
        if !config.enabled {
            return Err(SandboxError::Disabled);
        }
        if !is_id(instance) {
            return Err(SandboxError::InvalidJob {
                field: "instance",
                problem: "is not 1 to 64 of [A-Za-z0-9_-]",
            });
        }
        let owner = Owner::current()?;
        let concurrency = config.concurrency.clamp(1, Semaphore::MAX_PERMITS);
        let live = LiveIds::default();
        let common = Setting::open(config, instance, &owner, &live).await?;
        let mut agents = HashMap::new();
        for (id, own) in &config.agents {
            let setting = Setting::open(own, instance, &owner, &live).await;
            let setting = setting.map_err(|error| {
                let why = causes::chain(&error);
                tracing::error!(agent = %id, "sandboxed tools of this agent are denied: {why}");
                why
            });
            agents.insert(id.clone(), setting);
        }
        let (tasks, closing) = (TaskTracker::new(), CancellationToken::new());
        for setting in agents.values().flatten().chain([&common]) {
            setting.keep_pool(&tasks, &owner, &closing);
        }
        Ok(Self {
            inner: Arc::new(Inner {
                common,
                agents,
                instance: instance.to_owned(),
                owner,
                concurrency,
                slots: Arc::new(Semaphore::new(concurrency)),
                waiting: AtomicUsize::new(0),
                live,
                tasks,
                _closing: closing.clone().drop_guard(),
                closing,
            }),
        })
    }

    /// Runs one job to its end. Waits for a slot first, within bounds.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future cancels the execution; it is killed and removed in the background.
    pub async fn run(
        &self,
        permit: Permit,
        job: Job,
        cancel: CancellationToken,
    ) -> Result<Execution, SandboxError> {
        let output = Output::new(self.output_bytes(&job.agent));
        self.run_into(permit, job, cancel, output).await
    }

    /// As `run`, with the output readable in `output` while it comes.
    pub async fn run_into(
        &self,
        permit: Permit,
        mut job: Job,
        cancel: CancellationToken,
        output: Output,
    ) -> Result<Execution, SandboxError> {
        check_permit(&permit, &job)?;
        job.validate()?;
        let setting = self.inner.setting(&job.agent)?;
        job.timeout = job.timeout.min(setting.timeout);
        if job.workspace.is_none() {
            job.workspace.clone_from(&setting.workspace);
        }
        let slot = self.inner.slot(&cancel).await?;
        let live = self.inner.live.enter(&job.id)?;
        // The guard cancels when this future is dropped; the task sees to the rest.
        let stop = cancel.child_token();
        let guard = stop.clone().drop_guard();
        let (reply, answer) = oneshot::channel();
        let inner = Arc::clone(&self.inner);
        self.inner.tasks.spawn(async move {
            let result = inner.execute(&job, &stop, &output).await;
            // The container is removed after the answer: nobody needs to wait for that.
            drop(reply.send(result));
            if let Ok(setting) = inner.setting(&job.agent) {
                setting.provider.clean(&job.id).await;
            }
            drop((live, slot));
        });
        let result = answer.await.unwrap_or(Err(SandboxError::TaskLost));
        drop(guard);
        result
    }

    /// Removes what a killed daemon of this instance left: containers by label, cgroups with
    /// their processes, private directories. Call it at start and now and then.
    pub async fn remove_orphans(&self) -> Result<usize, SandboxError> {
        let inner = &self.inner;
        let is_live = |id: &str| inner.live.contains(id);
        let mut removed = 0;
        for setting in inner.agents.values().flatten().chain([&inner.common]) {
            let orphans = setting.provider.remove_orphans(&inner.owner, is_live);
            removed += orphans.await?;
        }
        // Whatever the provider is now: it may have been another before the restart.
        if let Ok(cgroups) = Cgroups::open(&inner.instance) {
            for leaf in cgroups.orphans(&inner.owner, is_live) {
                removed += usize::from(leaf.remove().await);
            }
        }
        if let Ok(scratches) = Scratches::open(&inner.instance) {
            for path in scratches.orphans(&inner.owner, is_live) {
                scratch::remove(path).await;
            }
        }
        Ok(removed)
    }

    /// Of the agents that have no sandbox of their own.
    pub fn provider(&self) -> SandboxProvider {
        self.inner.common.provider.kind()
    }

    pub fn provider_of(&self, agent: &str) -> SandboxProvider {
        match self.inner.agents.get(&agent.to_lowercase()) {
            Some(Ok(setting)) => setting.provider.kind(),
            _ => self.provider(),
        }
    }

    /// For a person: the provider, and what it is worth where that is little.
    pub fn in_words(&self) -> String {
        let mut text = in_words(self.provider());
        let mut own: Vec<_> = self.inner.agents.iter().collect();
        own.sort_by_key(|(id, _)| *id);
        for (id, setting) in own {
            text.push_str(&match setting {
                Ok(setting) => format!("; {id}: {}", in_words(setting.provider.kind())),
                Err(why) => format!("; {id}: NOT AVAILABLE, its tools are denied: {why}"),
            });
        }
        text
    }

    /// Agents whose own sandbox does not work, and why.
    pub fn broken(&self) -> Vec<(String, String)> {
        let agents = self.inner.agents.iter();
        let mut broken: Vec<_> = agents
            .filter_map(|(id, setting)| Some((id.clone(), setting.as_ref().err()?.clone())))
            .collect();
        broken.sort();
        broken
    }

    /// The name of this daemon among those of the host.
    pub fn instance(&self) -> &str {
        &self.inner.instance
    }

    /// Asks the provider whether it still works.
    pub async fn health(&self) -> Result<Health, SandboxError> {
        let inner = &self.inner;
        let detail = inner.common.provider.health().await?;
        Ok(Health {
            provider: self.provider(),
            detail,
            running: inner.concurrency - inner.slots.available_permits(),
            waiting: inner.waiting.load(Ordering::Relaxed),
            slots: inner.concurrency,
        })
    }

    /// Waits until the pools are full; false if `deadline` passed first.
    pub async fn warm_up(&self, deadline: Duration) -> bool {
        let settings = || {
            self.inner
                .agents
                .values()
                .flatten()
                .chain([&self.inner.common])
        };
        let full = async {
            while !settings().all(Setting::is_warm) {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        timeout(deadline, full).await.is_ok()
    }

    /// Refuses new executions, cancels the running and waits until all are removed; false if
    /// `deadline` passed first. Without it, a runtime that ends leaves the last containers to the
    /// next start's `remove_orphans`.
    pub async fn close(&self, deadline: Duration) -> bool {
        self.inner.closing.cancel();
        self.inner.tasks.close();
        timeout(deadline, self.inner.tasks.wait()).await.is_ok()
    }

    /// Runs every escape probe without any containment, in namespaces of its own: each must find
    /// its way out.
    pub fn negative_control(&self, agent: &str) -> Result<Vec<Finding>, SandboxError> {
        let limits = self.limits(agent);
        probe_control::findings(limits.memory_bytes, limits.pids, self.output_bytes(agent))
    }

    pub(super) fn limits(&self, agent: &str) -> Limits {
        self.inner
            .setting(agent)
            .unwrap_or(&self.inner.common)
            .limits
    }

    /// Kept bytes per stream, as configured.
    pub fn output_bytes(&self, agent: &str) -> usize {
        let setting = self.inner.setting(agent);
        setting.unwrap_or(&self.inner.common).output_bytes
    }
}

impl Inner {
    fn setting(&self, agent: &str) -> Result<&Setting, SandboxError> {
        match self.agents.get(&agent.to_lowercase()) {
            None => Ok(&self.common),
            Some(Ok(setting)) => Ok(setting),
            Some(Err(why)) => Err(SandboxError::Agent {
                agent: agent.to_owned(),
                why: why.clone(),
            }),
        }
    }

    async fn slot(&self, cancel: &CancellationToken) -> Result<OwnedSemaphorePermit, SandboxError> {
        if self.closing.is_cancelled() {
            return Err(SandboxError::Closed);
        }
        if let Ok(slot) = Arc::clone(&self.slots).try_acquire_owned() {
            return Ok(slot);
        }
        let _place = Place::take(&self.waiting).ok_or(SandboxError::Full {
            slots: self.concurrency,
            waiting: QUEUE,
        })?;
        tokio::select! {
            slot = Arc::clone(&self.slots).acquire_owned() => {
                slot.map_err(|_closed| SandboxError::Closed)
            }
            () = cancel.cancelled() => Err(SandboxError::Cancelled),
            () = self.closing.cancelled() => Err(SandboxError::Closed),
            () = tokio::time::sleep(QUEUE_WAIT) => Err(SandboxError::WaitedTooLong(QUEUE_WAIT)),
        }
    }

    async fn execute(
        &self,
        job: &Job,
        stop: &CancellationToken,
        output: &Output,
    ) -> Result<Execution, SandboxError> {
        let started = Instant::now();
        let provider = &self.setting(&job.agent)?.provider;
        let run = provider.run(&self.owner, job, stop, output);
        tokio::pin!(run);
        let ended = loop {
            tokio::select! {
                ended = &mut run => break ended?,
                () = self.closing.cancelled(), if !stop.is_cancelled() => stop.cancel(),
            }
        };
        let (stdout, stderr) = output.so_far();
        Ok(Execution {
            exit_code: ended.exit_code,
            signal: ended.signal,
            oom: ended.oom,
            timed_out: ended.timed_out,
            cancelled: ended.cancelled,
            duration: started.elapsed(),
            stdout,
            stderr,
        })
    }
}

fn in_words(provider: SandboxProvider) -> String {
    match provider {
        SandboxProvider::None => "none: NOTHING IS CONTAINED, tools run on this host".into(),
        provider => provider.as_str().to_owned(),
    }
}

/// A permit is for one tool call of one agent: it cannot carry another's job.
fn check_permit(permit: &Permit, job: &Job) -> Result<(), SandboxError> {
    let permitted = permit.facts().agent.as_deref().unwrap_or("main");
    let mismatch = |permitted: String| {
        Err(SandboxError::PermitMismatch {
            permitted,
            asked: format!("a tool of agent {:?}", job.agent),
        })
    };
    match &permit.facts().request {
        Request::Tool(_) if permitted.eq_ignore_ascii_case(&job.agent) => Ok(()),
        Request::Tool(_) => mismatch(format!("a tool of agent {permitted:?}")),
        _ => mismatch("a request that is no tool call".into()),
    }
}

const QUEUE_WAIT: Duration = Duration::from_mins(1);
