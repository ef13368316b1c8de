//! The `native` provider: namespaces, Landlock, seccomp and a cgroup, with no program to install.
//!
//! The supervisor starts clawsec once more as the launcher (`contain`), which builds the sandbox
//! around itself and tells by a pipe how the tool ended. Invariant: a launcher that cannot build
//! every part runs nothing and says which part.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::MemfdFlags;
use rustix::pipe::PipeFlags;
use seccompiler::BpfProgram;
use tokio_util::sync::CancellationToken;

use super::capture::Output;
use super::child::Rights;
use super::contain::Report;
use super::host_process::{Ended, Host, Launch};
use super::job::{Mount, MountAccess, WORKSPACE};
use super::owner::Owner;
use super::scratch::Scratches;
use super::{Job, JobCommand, SandboxError, seccomp};

#[derive(Debug)]
pub(super) struct Native {
    host: Host,
    /// clawsec's own program.
    launcher: PathBuf,
    /// Any folder that root owns: the launcher hides it under the root it builds.
    base: PathBuf,
    /// The compiled filters, in memory that every launcher reads.
    filters: File,
}

impl Native {
    /// Opens it and runs a tool that does nothing, so that a host without namespaces is found out
    /// now.
    pub(super) async fn open(
        host: Host,
        scratches: &Scratches,
        launcher: &Path,
        owner: &Owner,
    ) -> Result<Self, SandboxError> {
        let native = Self {
            host,
            launcher: launcher.to_owned(),
            base: scratches.base().to_owned(),
            filters: shared(&seccomp::allow_filters()?)?,
        };
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
        let ended = native
            .run(owner, &job, &CancellationToken::new(), &output)
            .await?;
        if ended.exit_code == Some(0) {
            return Ok(native);
        }
        Err(SandboxError::Native(format!(
            "a sandbox that runs nothing ended with {ended:?}: {}",
            output.so_far().1.text()
        )))
    }

    pub(super) fn user(&self) -> &str {
        &self.host.user.name
    }

    pub(super) async fn run(
        &self,
        owner: &Owner,
        job: &Job,
        cancel: &CancellationToken,
        output: &Output,
    ) -> Result<Ended, SandboxError> {
        let (told, telling) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC)
            .map_err(|error| SandboxError::file("make a pipe for", &self.launcher)(error.into()))?;
        let filters = self
            .filters
            .try_clone()
            .map_err(SandboxError::file("share the filters with", &self.launcher))?;
        let argv = self.argv(job, &telling, &filters)?;
        let environment = job.environment(WORKSPACE);
        let launch = Launch {
            argv: &argv,
            environment: &environment,
            workdir: Path::new("/"),
            rights: Rights::Launcher {
                keep: vec![telling, filters.into()],
            },
        };
        let mut ended = self.host.run(owner, job, launch, cancel, output).await?;
        // Every writer is dead, so this ends.
        let mut report = Vec::new();
        File::from(told)
            .read_to_end(&mut report)
            .map_err(SandboxError::file("read the end of", &self.launcher))?;
        match Report::parse(&report) {
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
            None if ended.timed_out || ended.cancelled || ended.oom => {
                (ended.exit_code, ended.signal) = (None, Some(libc::SIGKILL));
                Ok(ended)
            }
            None => Err(SandboxError::Native(format!(
                "its launcher {} ended without a word ({ended:?})",
                self.launcher.display()
            ))),
        }
    }

    fn argv(
        &self,
        job: &Job,
        telling: &OwnedFd,
        filters: &File,
    ) -> Result<Vec<String>, SandboxError> {
        let user = &self.host.user;
        let workdir = job.workdir.as_deref().unwrap_or(Path::new(WORKSPACE));
        let mut argv = vec![
            self.launcher.to_string_lossy().into_owned(),
            "contain".into(),
            format!("--tell={}", telling.as_raw_fd()),
            format!("--filters={}", filters.as_raw_fd()),
            format!("--uid={}", user.uid),
            format!("--gid={}", user.gid),
            format!("--base={}", self.base.display()),
            format!("--workdir={}", workdir.display()),
        ];
        if let Some(mount) = &job.workspace {
            argv.push(format!("--workspace={}", text(mount)?));
            if mount.access == MountAccess::ReadOnly {
                argv.push("--read-only".into());
            }
        }
        argv.push("--".into());
        argv.extend(job.argv());
        Ok(argv)
    }
}

fn text(mount: &Mount) -> Result<String, SandboxError> {
    let path = mount.resolve()?;
    let refuse = || SandboxError::Workspace {
        path: path.clone(),
        problem: "its path is not plain text".into(),
    };
    path.to_str().map(str::to_owned).ok_or_else(refuse)
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
