//! The providers behind one face: opened from the configuration, run, asked, cleaned up after.
//!
//! Invariant: what is opened is what was asked for. No provider stands in for another that does
//! not work.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::bare::Bare;
use super::capture::Output;
use super::cgroup::Cgroups;
use super::docker::DockerProvider;
use super::docker_spec::Template;
use super::firejail::{self, Firejail};
use super::host_process::{Ended, Host};
use super::limits::Limits;
use super::live::LiveIds;
use super::native::Native;
use super::owner::Owner;
use super::scratch::Scratches;
use super::user::ToolUser;
use super::{Job, Mount, MountAccess, SandboxError};
use crate::config::{SandboxConfig, SandboxNetwork, SandboxProvider, WorkspaceAccess};

/// A provider with what else holds for the agents it is for.
#[derive(Debug)]
pub(super) struct Setting {
    pub(super) provider: Provider,
    pub(super) timeout: Duration,
    pub(super) limits: Limits,
    pub(super) output_bytes: usize,
    pub(super) workspace: Option<Mount>,
}

impl Setting {
    pub(super) async fn open(
        config: &SandboxConfig,
        instance: &str,
        owner: &Owner,
        live: &LiveIds,
    ) -> Result<Self, SandboxError> {
        Ok(Self {
            provider: Provider::open(config, instance, owner, live).await?,
            timeout: config.timeout,
            limits: Limits::of(config),
            output_bytes: config.output_bytes,
            workspace: workspace(config),
        })
    }

    /// Whether as many sandboxes stand ready as were asked for.
    pub(super) fn is_warm(&self) -> bool {
        match &self.provider {
            Provider::Docker(docker) => !docker.pool.lacks(),
            Provider::Native(native) => !native.pool.lacks(),
            Provider::Firejail(_) | Provider::Bare(_) => true,
        }
    }

    /// Keeps sandboxes ready until `closing`.
    pub(super) fn keep_pool(
        &self,
        tasks: &TaskTracker,
        owner: &Owner,
        closing: &CancellationToken,
    ) {
        let (owner, closing) = (owner.clone(), closing.clone());
        match &self.provider {
            Provider::Docker(docker) => {
                tasks.spawn(Arc::clone(docker).keep_pool(owner, closing));
            }
            Provider::Native(native) => {
                tasks.spawn(Arc::clone(native).keep_pool(owner, closing));
            }
            Provider::Firejail(_) | Provider::Bare(_) => {}
        }
    }
}

#[derive(Debug)]
pub(super) enum Provider {
    Docker(Arc<DockerProvider>),
    Firejail(Firejail),
    Native(Arc<Native>),
    Bare(Bare),
}

impl Provider {
    /// Opens it after checking that it can really contain a tool.
    pub(super) async fn open(
        config: &SandboxConfig,
        instance: &str,
        owner: &Owner,
        live: &LiveIds,
    ) -> Result<Self, SandboxError> {
        let limits = Limits::of(config);
        // The kernel counts by user over all executions at once: room for every slot, and for a
        // second instance beside the daemon.
        let executions = u64::try_from(config.concurrency).unwrap_or(u64::MAX);
        let user_processes = u64::from(config.pids).saturating_mul(executions.saturating_add(8));
        let named = match &config.network {
            SandboxNetwork::None => None,
            SandboxNetwork::Named(name) => Some(name.as_str()),
        };
        if let Some(name) = named
            && settled(config) != SandboxProvider::Docker
        {
            return Err(SandboxError::Unsupported {
                provider: settled(config).as_str(),
                key: "network",
                problem: format!("only docker can join {name:?}"),
            });
        }
        let host = |user: fn(&str) -> Result<ToolUser, SandboxError>| {
            Ok::<_, SandboxError>(Host {
                user: user(&config.user)?,
                cgroups: Cgroups::open(instance)?,
                limits,
                user_processes,
            })
        };
        Ok(match settled(config) {
            SandboxProvider::Auto | SandboxProvider::Docker => {
                let template = Template::new(instance, limits, user_processes, named)?;
                let docker = DockerProvider::open(config, template, live.clone()).await?;
                Self::Docker(Arc::new(docker))
            }
            SandboxProvider::Firejail => Self::Firejail(
                Firejail::open(host(ToolUser::find)?, Scratches::open(instance)?).await?,
            ),
            SandboxProvider::Native => {
                let host = host(ToolUser::find_for_native)?;
                let scratches = Scratches::open(instance)?;
                let ready = (config.pool, workspace(config));
                let launcher = &config.launcher;
                let native =
                    Native::open(host, &scratches, launcher, owner, live.clone(), ready).await?;
                Self::Native(Arc::new(native))
            }
            SandboxProvider::None => {
                let bare = Bare {
                    host: host(ToolUser::find)?,
                    scratches: Scratches::open(instance)?,
                };
                bare.warn();
                Self::Bare(bare)
            }
        })
    }

    pub(super) async fn run(
        &self,
        owner: &Owner,
        job: &Job,
        cancel: &CancellationToken,
        output: &Output,
    ) -> Result<Ended, SandboxError> {
        match self {
            Self::Docker(docker) => docker.run(owner, job, cancel, output).await,
            Self::Firejail(firejail) => firejail.run(owner, job, cancel, output).await,
            Self::Native(native) => native.run(owner, job, cancel, output).await,
            Self::Bare(bare) => bare.run(owner, job, cancel, output).await,
        }
    }

    pub(super) fn kind(&self) -> SandboxProvider {
        match self {
            Self::Docker(_) => SandboxProvider::Docker,
            Self::Firejail(_) => SandboxProvider::Firejail,
            Self::Native(_) => SandboxProvider::Native,
            Self::Bare(_) => SandboxProvider::None,
        }
    }

    /// Asks whether it still works; says what it is.
    pub(super) async fn health(&self) -> Result<String, SandboxError> {
        Ok(match self {
            Self::Docker(docker) => {
                docker.check().await?;
                format!("docker API {}, image {}", docker.api, docker.image)
            }
            Self::Firejail(firejail) => {
                let user = ToolUser::find(&firejail.host.user.name)?;
                format!("firejail {}, user {}", firejail.version, user.name)
            }
            Self::Native(native) => {
                format!("namespaces, Landlock and seccomp, user {}", native.user())
            }
            Self::Bare(bare) => {
                let user = ToolUser::find(&bare.host.user.name)?;
                format!("no containment but the user {}", user.name)
            }
        })
    }

    /// Removes what outlives the answer. firejail and none have removed what they made before it.
    pub(super) async fn clean(&self, id: &str) {
        let docker = match self {
            Self::Docker(docker) => docker,
            Self::Native(native) => return native.clean(id).await,
            Self::Firejail(_) | Self::Bare(_) => return,
        };
        for attempt in 1..=3 {
            match docker.clean(id).await {
                Ok(()) => return,
                Err(error) => {
                    tracing::warn!(
                        execution = id,
                        attempt,
                        error = &error as &dyn std::error::Error,
                        "a container is not removed yet"
                    );
                    tokio::time::sleep(Duration::from_millis(200) * attempt).await;
                }
            }
        }
    }

    /// Containers of dead owners; what the other providers leave is found on the host.
    pub(super) async fn remove_orphans(
        &self,
        current: &Owner,
        is_live: impl Fn(&str) -> bool,
    ) -> Result<usize, SandboxError> {
        match self {
            Self::Docker(docker) => docker.remove_orphans(current, is_live).await,
            Self::Firejail(_) | Self::Native(_) | Self::Bare(_) => Ok(0),
        }
    }
}

/// The agent's folder, where tools may see it.
pub(super) fn workspace(config: &SandboxConfig) -> Option<Mount> {
    let access = match config.workspace_access {
        WorkspaceAccess::None => return None,
        WorkspaceAccess::ReadOnly => MountAccess::ReadOnly,
        WorkspaceAccess::ReadWrite => MountAccess::ReadWrite,
    };
    let source = config.workspace.clone()?;
    Some(Mount { source, access })
}

/// Where the configuration leaves it open: what is installed, in this order; `native` needs
/// nothing. What is installed and broken is not passed over: its error says what to mend.
pub fn settled(config: &SandboxConfig) -> SandboxProvider {
    match config.provider {
        SandboxProvider::Auto if config.docker_socket.exists() => SandboxProvider::Docker,
        SandboxProvider::Auto if firejail::is_installed() => SandboxProvider::Firejail,
        SandboxProvider::Auto => SandboxProvider::Native,
        named => named,
    }
}
