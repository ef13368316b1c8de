//! The container of one execution, as a value: everything that contains a tool under docker is
//! decided here and nowhere else.
//!
//! Invariant: no field of a job can widen it. A job gives the command, environment variables, a
//! working directory and a workspace; the rest is fixed or comes from the checked configuration.

use std::collections::HashMap;

use bollard::models::{
    ContainerCreateBody, HostConfig, HostConfigCgroupnsModeEnum, HostConfigLogConfig,
    Mount as DockerMount, MountBindOptions, MountBindOptionsPropagationEnum, MountType,
    ResourcesUlimits,
};

use super::host_process::{FSIZE_BYTES, NOFILE};
use super::job::{MountAccess, WORKSPACE};
use super::limits::Limits;
use super::owner::Owner;
use super::{Job, Mount, SandboxError, seccomp};

/// What every container of this daemon has in common.
#[derive(Debug)]
pub(super) struct Template {
    pub(super) instance: String,
    /// The image's id, not its name: what was checked at start is what runs.
    pub(super) image_id: String,
    pub(super) runtime: Option<String>,
    /// The folder that idle containers have, and an execution must want to use one.
    pub(super) workspace: Option<Mount>,
    pub(super) limits: Limits,
    /// Shared by all containers: the kernel counts processes of one user.
    pub(super) user_processes: u64,
    /// `none`, or a network the operator made.
    pub(super) network: String,
    pub(super) seccomp: String,
}

impl Template {
    pub(super) fn new(
        instance: &str,
        limits: Limits,
        user_processes: u64,
        network: Option<&str>,
    ) -> Result<Self, SandboxError> {
        let network = network.unwrap_or("none");
        let shared = matches!(network, "host" | "bridge" | "default" | "");
        if shared || network.contains(':') {
            return Err(SandboxError::Unsupported {
                provider: "docker",
                key: "network",
                problem: format!("{network:?} is not a network made for tools"),
            });
        }
        Ok(Self {
            instance: instance.to_owned(),
            image_id: String::new(),
            runtime: None,
            workspace: None,
            limits,
            user_processes,
            network: network.to_owned(),
            seccomp: seccomp::docker_profile(),
        })
    }

    pub(super) fn container(
        &self,
        owner: &Owner,
        job: &Job,
    ) -> Result<ContainerCreateBody, SandboxError> {
        let mut argv = job.argv();
        let program = argv.drain(..1).collect();
        let has_input = !job.stdin.is_empty();
        let workdir = job.workdir.as_ref().map_or_else(
            || WORKSPACE.to_owned(),
            |workdir| workdir.to_string_lossy().into_owned(),
        );
        let environment = job.environment(WORKSPACE);
        Ok(ContainerCreateBody {
            hostname: Some("sandbox".into()),
            user: Some(USER.into()),
            attach_stdin: Some(has_input),
            attach_stdout: Some(true),
            attach_stderr: Some(true),
            open_stdin: Some(has_input),
            stdin_once: Some(has_input),
            tty: Some(false),
            env: Some(
                environment
                    .iter()
                    .map(|(name, value)| format!("{name}={value}"))
                    .collect(),
            ),
            // Both, so that an image's own entry point never runs.
            entrypoint: Some(program),
            cmd: Some(argv),
            image: Some(self.image_id.clone()),
            working_dir: Some(workdir),
            network_disabled: Some(self.network == "none"),
            labels: Some(self.labels(owner, job)),
            stop_signal: Some("SIGTERM".into()),
            stop_timeout: Some(1),
            host_config: Some(self.host_config(job)?),
            ..ContainerCreateBody::default()
        })
    }

    fn labels(&self, owner: &Owner, job: &Job) -> HashMap<String, String> {
        [
            (LABEL_MANAGED, "1".to_owned()),
            (LABEL_INSTANCE, self.instance.clone()),
            (LABEL_OWNER, owner.text()),
            (LABEL_EXEC, job.id.clone()),
            (LABEL_AGENT, job.agent.clone()),
        ]
        .into_iter()
        .map(|(name, value)| (name.to_owned(), value))
        .collect()
    }

    fn host_config(&self, job: &Job) -> Result<HostConfig, SandboxError> {
        let memory = i64::try_from(self.limits.memory_bytes).unwrap_or(i64::MAX);
        let mut tmpfs: HashMap<String, String> = ["/tmp", "/run"]
            .into_iter()
            .map(|path| (path.to_owned(), TMPFS.to_owned()))
            .collect();
        let mut mounts = Vec::new();
        match &job.workspace {
            None => drop(tmpfs.insert(WORKSPACE.to_owned(), TMPFS.to_owned())),
            Some(mount) => {
                let source = mount.resolve()?;
                mounts.push(DockerMount {
                    target: Some(WORKSPACE.to_owned()),
                    source: Some(source.to_string_lossy().into_owned()),
                    typ: Some(MountType::BIND),
                    read_only: Some(mount.access == MountAccess::ReadOnly),
                    bind_options: Some(MountBindOptions {
                        propagation: Some(MountBindOptionsPropagationEnum::RPRIVATE),
                        // A mount below the workspace is not part of it, and would stay writable
                        // in a read-only one before Docker 25.
                        non_recursive: Some(true),
                        ..MountBindOptions::default()
                    }),
                    ..DockerMount::default()
                });
            }
        }
        Ok(HostConfig {
            network_mode: Some(self.network.clone()),
            runtime: self.runtime.clone(),
            cap_drop: Some(vec!["ALL".into()]),
            security_opt: Some(vec![
                "no-new-privileges".into(),
                format!("seccomp={}", self.seccomp),
            ]),
            readonly_rootfs: Some(true),
            privileged: Some(false),
            tmpfs: Some(tmpfs),
            mounts: Some(mounts),
            memory: Some(memory),
            // Equal to memory: no swap on top.
            memory_swap: Some(memory),
            nano_cpus: Some(i64::from(self.limits.cpu_millis) * 1_000_000),
            pids_limit: Some(i64::from(self.limits.pids)),
            ulimits: Some(vec![
                ulimit("nofile", NOFILE),
                ulimit("nproc", self.user_processes),
                ulimit("core", 0),
                ulimit("fsize", FSIZE_BYTES),
            ]),
            // No shared memory with anyone, and no /dev/shm outside the tmpfs accounts.
            ipc_mode: Some("none".into()),
            cgroupns_mode: Some(HostConfigCgroupnsModeEnum::PRIVATE),
            // Reaps, and turns a missing program into exit code 127.
            init: Some(true),
            log_config: Some(HostConfigLogConfig {
                typ: Some("none".into()),
                config: None,
            }),
            // The flags of the end are read after it; `Docker::remove` follows every execution.
            auto_remove: Some(false),
            oom_score_adj: Some(500),
            ..HostConfig::default()
        })
    }
}

fn ulimit(name: &str, limit: u64) -> ResourcesUlimits {
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    ResourcesUlimits {
        name: Some(name.to_owned()),
        soft: Some(limit),
        hard: Some(limit),
    }
}

pub(super) const LABEL_MANAGED: &str = "clawsec.managed";
pub(super) const LABEL_INSTANCE: &str = "clawsec.instance";
pub(super) const LABEL_OWNER: &str = "clawsec.owner";
pub(super) const LABEL_EXEC: &str = "clawsec.exec";
const LABEL_AGENT: &str = "clawsec.agent";
/// `nobody`, by number: the image need not know the name.
const USER: &str = "65534:65534";
const TMPFS: &str = "rw,noexec,nosuid,nodev,size=64m,mode=1777";

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::time::Duration;

    use super::super::JobCommand;
    use super::*;

    const LIMITS: Limits = Limits {
        memory_bytes: 1 << 29,
        pids: 128,
        cpu_millis: 1500,
    };

    fn template(network: Option<&str>) -> Result<Template, SandboxError> {
        Template::new("t", LIMITS, 512, network)
    }

    fn job(workspace: Option<Mount>) -> Job {
        Job {
            id: "e1".into(),
            agent: "main".into(),
            command: JobCommand::Argv(vec!["a".into(), "b c".into()]),
            env: BTreeMap::new(),
            workdir: None,
            workspace,
            stdin: Vec::new(),
            timeout: Duration::from_secs(1),
        }
    }

    #[test]
    fn the_whole_hardened_set_is_asked_for() {
        let owner = Owner::current().unwrap();
        let body = template(None)
            .unwrap()
            .container(&owner, &job(None))
            .unwrap();
        let host = body.host_config.unwrap();
        assert_eq!(body.user.as_deref(), Some("65534:65534"));
        assert_eq!(body.entrypoint, Some(vec!["a".into()]));
        assert_eq!(body.cmd, Some(vec!["b c".into()]));
        assert_eq!(host.network_mode.as_deref(), Some("none"));
        assert_eq!((host.privileged, host.init), (Some(false), Some(true)));
        assert_eq!(host.ipc_mode.as_deref(), Some("none"));
        assert_eq!(host.cap_drop, Some(vec!["ALL".into()]));
        assert_eq!(host.cap_add, None);
        assert_eq!(host.readonly_rootfs, Some(true));
        assert_eq!(host.memory, host.memory_swap);
        assert_eq!(host.nano_cpus, Some(1_500_000_000));
        assert_eq!(host.pids_limit, Some(128));
        assert_eq!((host.binds, host.devices), (None, None));
        let options = host.security_opt.unwrap();
        assert!(options.contains(&"no-new-privileges".to_owned()));
        assert!(options.iter().any(|option| option.starts_with("seccomp={")));
        for options in host.tmpfs.unwrap().values() {
            assert!(options.contains("noexec,nosuid,nodev"), "{options}");
        }
    }

    #[test]
    fn networks_that_tools_would_share_with_others_are_refused() {
        let rows = [
            (None, true),
            (Some("tools"), true),
            (Some("host"), false),
            (Some("bridge"), false),
            (Some("container:db"), false),
            (Some(""), false),
        ];
        for (network, expected) in rows {
            assert_eq!(template(network).is_ok(), expected, "{network:?}");
        }
    }

    #[test]
    fn a_workspace_replaces_the_tmpfs_and_keeps_its_access() {
        let owner = Owner::current().unwrap();
        for access in [MountAccess::ReadOnly, MountAccess::ReadWrite] {
            let mount = Mount {
                source: "/tmp".into(),
                access,
            };
            let body = template(None)
                .unwrap()
                .container(&owner, &job(Some(mount)))
                .unwrap();
            let host = body.host_config.unwrap();
            let mounts = host.mounts.unwrap();
            assert_eq!(mounts[0].read_only, Some(access == MountAccess::ReadOnly));
            assert!(!host.tmpfs.unwrap().contains_key(WORKSPACE));
        }
    }
}
