//! Why an execution did not happen, or was not seen to its end.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

/// A tool that ran and failed is an `Execution`, never one of these.
#[derive(Debug, thiserror::Error)]
pub enum SandboxError {
    /// The caller's fault: it asked for what no provider may run.
    #[error("the permit is for {permitted}, the job is for {asked}")]
    PermitMismatch { permitted: String, asked: String },
    #[error("the job's {field} {problem}")]
    InvalidJob {
        field: &'static str,
        problem: &'static str,
    },
    #[error("the workspace {path} cannot be mounted: {problem}")]
    Workspace { path: PathBuf, problem: String },

    /// Too much work; nothing was started.
    #[error("all {slots} sandbox slots are taken and {waiting} executions are waiting")]
    Full { slots: usize, waiting: usize },
    #[error("no sandbox slot became free within {0:?}")]
    WaitedTooLong(Duration),
    #[error("cancelled before the execution started")]
    Cancelled,
    #[error("the sandbox is shutting down")]
    Closed,

    /// The host is not set up; each names the remedy.
    #[error("the sandbox is switched off (security.sandbox.enabled)")]
    Disabled,
    #[error("the {provider} provider cannot honour security.sandbox.{key}: {problem}")]
    Unsupported {
        provider: &'static str,
        key: &'static str,
        problem: String,
    },
    #[error("the sandbox of the agent {agent:?} is not available: {why}")]
    Agent { agent: String, why: String },
    #[error("this provider needs root to give up its rights before it runs a tool")]
    NotRoot,
    #[error("the user {name:?} cannot run tools: {problem}")]
    User { name: String, problem: String },
    #[error("the native provider does not work on this host: {0}")]
    Native(String),
    #[error("firejail is not usable: {0}")]
    Firejail(String),
    #[error("no usable cgroup for memory and process limits: {0}")]
    NoCgroup(String),
    #[error(
        "the image {image:?} is not on this host, and clawsec never pulls one; \
         build the default with `clawsec sandbox image --name {image}`, or load your own"
    )]
    ImageMissing { image: String },
    #[error(
        "no docker or podman daemon answers at {socket}: start it, correct \
         security.sandbox.dockerSocket, or choose the provider \"native\""
    )]
    DockerSilent {
        socket: PathBuf,
        #[source]
        source: bollard::errors::Error,
    },
    #[error("docker speaks API {found}; at least {needed} is needed")]
    DockerTooOld { found: String, needed: &'static str },

    /// The provider failed while working.
    #[error("docker: {operation}")]
    Docker {
        operation: &'static str,
        #[source]
        source: bollard::errors::Error,
    },
    #[error("docker did not {operation} within {deadline:?}")]
    DockerTimeout {
        operation: &'static str,
        deadline: Duration,
    },
    #[error("{operation} {path}")]
    File {
        operation: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("start {program}")]
    Spawn {
        program: String,
        #[source]
        source: io::Error,
    },
    #[error("wait for {program}")]
    Wait {
        program: String,
        #[source]
        source: io::Error,
    },
    #[error("build the system call filter")]
    Filter(#[source] seccompiler::BackendError),
    #[error("build the system call allow list")]
    Profile(#[source] seccompiler::Error),
    #[error("the task that ran the execution ended early")]
    TaskLost,
}

impl SandboxError {
    pub(super) fn file(
        operation: &'static str,
        path: impl Into<PathBuf>,
    ) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::File {
            operation,
            path,
            source,
        }
    }

    pub(super) fn docker(operation: &'static str) -> impl FnOnce(bollard::errors::Error) -> Self {
        move |source| Self::Docker { operation, source }
    }

    /// Trying again later may work without anybody changing anything.
    pub fn is_busy(&self) -> bool {
        matches!(self, Self::Full { .. } | Self::WaitedTooLong(_))
    }
}
