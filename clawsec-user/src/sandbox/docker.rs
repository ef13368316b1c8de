//! The `docker` provider: one hardened container for each execution, through the daemon's socket.
//!
//! Invariant: an image is never pulled. What is created is removed by `clean`, by name, whatever
//! became of it; what a killed daemon left is found by label.

use std::collections::HashMap;
use std::path::Path;
use std::pin::Pin;
use std::time::Duration;

use bollard::Docker;
use bollard::container::{AttachContainerResults, LogOutput};
use bollard::errors::Error as DockerError;
use bollard::query_parameters::{
    AttachContainerOptionsBuilder, CreateContainerOptionsBuilder, KillContainerOptionsBuilder,
    ListContainersOptionsBuilder, RemoveContainerOptionsBuilder, StopContainerOptionsBuilder,
};
use futures_util::{Stream, StreamExt};
use tokio::io::{AsyncWrite, AsyncWriteExt};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::capture::Output;
use super::docker_spec::{LABEL_EXEC, LABEL_INSTANCE, LABEL_MANAGED, LABEL_OWNER, Template};
use super::docker_warm::{Idle, Used};
use super::host_process::{DRAIN, Ended};
use super::live::LiveIds;
use super::owner::Owner;
use super::pool::Pool;
use super::provider::workspace;
use super::scratch;
use super::{Job, SandboxError};
use crate::config::SandboxConfig;

#[derive(Debug)]
pub(super) struct DockerProvider {
    pub(super) client: Docker,
    pub(super) api: String,
    pub(super) image: String,
    pub(super) template: Template,
    pub(super) pool: Pool<Idle>,
    pub(super) used: Used,
    pub(super) live: LiveIds,
}

/// Connects, asks whether anybody answers, and settles on an API version both speak.
pub(super) async fn connect(socket: &Path) -> Result<Docker, SandboxError> {
    let client = Docker::connect_with_unix(
        &socket.to_string_lossy(),
        ANSWER.as_secs(),
        bollard::API_DEFAULT_VERSION,
    )
    .map(|client| client.with_timeout(ANSWER))
    .map_err(silent(socket))?;
    let client = client.negotiate_version().await.map_err(silent(socket))?;
    let version = client.client_version();
    if (version.major_version, version.minor_version) < OLDEST_API {
        return Err(SandboxError::DockerTooOld {
            found: version.to_string(),
            needed: "1.40",
        });
    }
    Ok(client)
}

/// podman takes a seccomp profile by its path on the host where docker takes its text (4.3).
async fn is_podman(client: &Docker) -> Result<bool, SandboxError> {
    let version = client.version().await;
    let version = version.map_err(SandboxError::docker("tell its version"))?;
    let mut components = version.components.into_iter().flatten();
    Ok(components.any(|component| component.name == "Podman Engine"))
}

impl DockerProvider {
    /// Completes `template` with what has to be asked of docker: is the image there, and the
    /// runtime, and the network?
    pub(super) async fn open(
        config: &SandboxConfig,
        mut template: Template,
        live: LiveIds,
    ) -> Result<Self, SandboxError> {
        let client = connect(&config.docker_socket).await?;
        let image = config.image.clone().unwrap_or_default();
        template.image_id = image_id(&client, &image).await?;
        if let Some(runtime) = &config.runtime {
            has_runtime(&client, runtime).await?;
        }
        template.runtime.clone_from(&config.runtime);
        has_network(&client, &template.network).await?;
        template.workspace = workspace(config);
        if is_podman(&client).await? {
            template.seccomp = scratch::keep("podman-seccomp.json", template.seccomp.as_bytes())?;
        }
        Ok(Self {
            api: client.client_version().to_string(),
            client,
            image,
            template,
            pool: Pool::new(config.pool),
            used: Used::default(),
            live,
        })
    }

    /// The daemon answers and the image is still there.
    pub(super) async fn check(&self) -> Result<(), SandboxError> {
        self.client
            .ping()
            .await
            .map_err(SandboxError::docker("ping"))?;
        image_id(&self.client, &self.template.image_id)
            .await
            .map(drop)
    }

    pub(super) async fn run(
        &self,
        owner: &Owner,
        job: &Job,
        cancel: &CancellationToken,
        output: &Output,
    ) -> Result<Ended, SandboxError> {
        if let Some(ended) = self.run_warm(job, cancel, output).await? {
            return Ok(ended);
        }
        let name = self.container_name(job.id.as_str());
        let body = self.template.container(owner, job)?;
        let options = CreateContainerOptionsBuilder::new().name(&name).build();
        self.client
            .create_container(Some(options), body)
            .await
            .map_err(SandboxError::docker("create a container"))?;
        // Before the start, so that nothing it says is missed.
        let options = AttachContainerOptionsBuilder::new()
            .stream(true)
            .stdin(!job.stdin.is_empty())
            .stdout(true)
            .stderr(true)
            .build();
        let AttachContainerResults {
            output: stream,
            input,
        } = self
            .client
            .attach_container(&name, Some(options))
            .await
            .map_err(SandboxError::docker("attach to a container"))?;
        self.client
            .start_container(&name, None)
            .await
            .map_err(SandboxError::docker("start a container"))?;

        let feeding = tokio::spawn(feed(input, job.stdin.clone()));
        let mut draining = tokio::spawn(drain(stream, output.clone()));
        let ended = self.see_to_its_end(&name, job, cancel).await;
        if timeout(DRAIN, &mut draining).await.is_err() {
            draining.abort();
        }
        feeding.abort();
        let mut ended = ended?;
        self.read_end(&name, &mut ended).await?;
        Ok(ended)
    }

    /// Removes the container of an execution; it is no error if there is none.
    pub(super) async fn clean(&self, id: &str) -> Result<(), SandboxError> {
        match self.used.by(id) {
            Some(warm) => {
                self.remove(&warm).await?;
                self.used.forget(id);
                Ok(())
            }
            None => self.remove(&self.container_name(id)).await,
        }
    }

    /// Containers of this instance whose owner is gone, or that are ours but not `live`.
    pub(super) async fn remove_orphans(
        &self,
        current: &Owner,
        live: impl Fn(&str) -> bool,
    ) -> Result<usize, SandboxError> {
        let labels = vec![
            format!("{LABEL_MANAGED}=1"),
            format!("{LABEL_INSTANCE}={}", self.template.instance),
        ];
        let options = ListContainersOptionsBuilder::new()
            .all(true)
            .filters(&HashMap::from([("label", labels)]))
            .build();
        let containers = self
            .client
            .list_containers(Some(options))
            .await
            .map_err(SandboxError::docker("list containers"))?;
        let mut removed = 0;
        for container in containers {
            let labels = container.labels.unwrap_or_default();
            let label = |name: &str| labels.get(name).map_or("", String::as_str);
            let orphaned = match Owner::parse(label(LABEL_OWNER)) {
                Some((owner, _)) if owner == *current => !live(label(LABEL_EXEC)),
                Some((owner, _)) => !owner.is_alive(),
                // Ours by its labels, but of nobody: no daemon will ever remove it.
                None => true,
            };
            if orphaned && let Some(id) = container.id {
                self.remove(&id).await?;
                removed += 1;
            }
        }
        Ok(removed)
    }

    async fn see_to_its_end(
        &self,
        name: &str,
        job: &Job,
        cancel: &CancellationToken,
    ) -> Result<Ended, SandboxError> {
        let mut ended = Ended::default();
        let exit = self.exit(name);
        tokio::pin!(exit);
        tokio::select! {
            result = &mut exit => return result.map(|()| ended),
            () = tokio::time::sleep(job.timeout) => ended.timed_out = true,
            () = cancel.cancelled() => ended.cancelled = true,
        }
        // It may have ended this moment; then both calls fail, and the wait tells.
        if ended.timed_out {
            let options = StopContainerOptionsBuilder::new().t(1).build();
            drop(self.client.stop_container(name, Some(options)).await);
        } else {
            let options = KillContainerOptionsBuilder::new().signal("SIGKILL").build();
            drop(self.client.kill_container(name, Some(options)).await);
        }
        timeout(STOPPED, exit)
            .await
            .map_err(|_elapsed| SandboxError::DockerTimeout {
                operation: "end a container",
                deadline: STOPPED,
            })??;
        Ok(ended)
    }

    /// Waits until the container does not run; one that has already ended answers at once.
    async fn exit(&self, name: &str) -> Result<(), SandboxError> {
        match self.client.wait_container(name, None).next().await {
            // A code other than zero comes as an error of the client; `read_end` has the facts.
            Some(Ok(_) | Err(DockerError::DockerContainerWaitError { .. })) => Ok(()),
            Some(Err(source)) => Err(SandboxError::Docker {
                operation: "wait for a container",
                source,
            }),
            None => Err(SandboxError::TaskLost),
        }
    }

    async fn read_end(&self, name: &str, ended: &mut Ended) -> Result<(), SandboxError> {
        let state = self
            .client
            .inspect_container(name, None)
            .await
            .map_err(SandboxError::docker("inspect a container"))?
            .state
            .unwrap_or_default();
        ended.oom = state.oom_killed.unwrap_or(false);
        let code = state.exit_code.and_then(|code| i32::try_from(code).ok());
        match code {
            // The container's init passes a signal on as 128 + n, as a shell does.
            Some(code @ 129..=192) => ended.signal = Some(code - 128),
            code => ended.exit_code = code,
        }
        Ok(())
    }

    pub(super) async fn remove(&self, name: &str) -> Result<(), SandboxError> {
        let options = RemoveContainerOptionsBuilder::new()
            .force(true)
            .v(true)
            .build();
        match self.client.remove_container(name, Some(options)).await {
            // 404: gone. 409: somebody else is removing it.
            Ok(())
            | Err(DockerError::DockerResponseServerError {
                status_code: 404 | 409,
                ..
            }) => Ok(()),
            Err(source) => Err(SandboxError::Docker {
                operation: "remove a container",
                source,
            }),
        }
    }

    pub(super) fn container_name(&self, id: &str) -> String {
        format!("clawsec-{}-{id}", self.template.instance)
    }
}

/// A runtime is registered with the daemon or it is not; docker says so only when a container starts.
async fn has_runtime(client: &Docker, runtime: &str) -> Result<(), SandboxError> {
    let info = client
        .info()
        .await
        .map_err(SandboxError::docker("ask for its runtimes"))?;
    let mut known: Vec<String> = info.runtimes.unwrap_or_default().into_keys().collect();
    if known.iter().any(|name| name == runtime) {
        return Ok(());
    }
    known.sort();
    Err(SandboxError::Unsupported {
        provider: "docker",
        key: "runtime",
        problem: format!(
            "it knows {}; install {runtime:?} and register it in /etc/docker/daemon.json",
            known.join(", ")
        ),
    })
}

async fn has_network(client: &Docker, network: &str) -> Result<(), SandboxError> {
    if network == "none" {
        return Ok(());
    }
    let refuse = |problem: String| SandboxError::Unsupported {
        provider: "docker",
        key: "network",
        problem,
    };
    match client.inspect_network(network, None).await {
        Ok(found) if matches!(found.driver.as_deref(), Some("host" | "null")) => {
            Err(refuse(format!("{network:?} is a network of the host")))
        }
        Ok(_) => Ok(()),
        Err(DockerError::DockerResponseServerError {
            status_code: 404, ..
        }) => Err(refuse(format!(
            "there is no {network:?}; make it with `docker network create --internal {network}`"
        ))),
        Err(source) => Err(SandboxError::Docker {
            operation: "look for the network",
            source,
        }),
    }
}

fn silent(socket: &Path) -> impl FnOnce(DockerError) -> SandboxError {
    move |source| SandboxError::DockerSilent {
        socket: socket.to_owned(),
        source,
    }
}

async fn image_id(client: &Docker, image: &str) -> Result<String, SandboxError> {
    let missing = || SandboxError::ImageMissing {
        image: image.to_owned(),
    };
    match client.inspect_image(image).await {
        Ok(found) => found.id.ok_or_else(missing),
        Err(DockerError::DockerResponseServerError {
            status_code: 404, ..
        }) => Err(missing()),
        Err(source) => Err(SandboxError::Docker {
            operation: "look for the image",
            source,
        }),
    }
}

/// Writes the input and closes that direction. A tool that does not read ends this early.
pub(super) async fn feed(mut input: Pin<Box<dyn AsyncWrite + Send>>, bytes: Vec<u8>) {
    if bytes.is_empty() {
        return;
    }
    drop(input.write_all(&bytes).await);
    drop(input.shutdown().await);
}

/// Reads on past the cap, so that the tool never blocks; the end of the stream is the container's.
pub(super) async fn drain(
    mut stream: Pin<Box<dyn Stream<Item = Result<LogOutput, DockerError>> + Send>>,
    output: Output,
) {
    while let Some(Ok(chunk)) = stream.next().await {
        match chunk {
            LogOutput::StdErr { message } => output.stderr.push(&message),
            LogOutput::StdOut { message } | LogOutput::Console { message } => {
                output.stdout.push(&message);
            }
            LogOutput::StdIn { .. } => {}
        }
    }
}

/// 1.40 is Docker 19.03: the first with private cgroup namespaces in its API.
const OLDEST_API: (usize, usize) = (1, 40);
/// For the head of any single answer; the body of a wait may take as long as the tool.
const ANSWER: Duration = Duration::from_secs(30);
const STOPPED: Duration = Duration::from_secs(15);
