//! The `firejail` provider: firejail's namespaces and filters, our user and cgroup around them.
//!
//! Invariant: firejail is never executed as uid 0. As root it ignores `--noroot`, and a tool then
//! reads `/etc/shadow` in spite of every other option (0.9.72).

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::bare::workdir_in;
use super::capture::Output;
use super::child::Rights;
use super::host_process::{Ended, FSIZE_BYTES, Host, Launch, NOFILE};
use super::job::{Mount, MountAccess};
use super::owner::Owner;
use super::scratch::{self, Scratches};
use super::{Job, SandboxError, seccomp};

#[derive(Debug)]
pub(super) struct Firejail {
    program: PathBuf,
    pub(super) version: String,
    pub(super) host: Host,
    pub(super) scratches: Scratches,
}

impl Firejail {
    pub(super) async fn open(host: Host, scratches: Scratches) -> Result<Self, SandboxError> {
        let program = find_program()?;
        let version = version(&program).await?;
        let firejail = Self {
            program,
            version,
            host,
            scratches,
        };
        firejail.refused_users()?;
        Ok(firejail)
    }

    /// `/etc/firejail/firejail.users`, where it exists, lists who may run firejail.
    fn refused_users(&self) -> Result<(), SandboxError> {
        let Ok(users) = std::fs::read_to_string("/etc/firejail/firejail.users") else {
            return Ok(());
        };
        if users.lines().any(|line| line.trim() == self.host.user.name) {
            return Ok(());
        }
        Err(SandboxError::Firejail(format!(
            "/etc/firejail/firejail.users does not list {}; add it with `firecfg --add-users {}`",
            self.host.user.name, self.host.user.name
        )))
    }

    pub(super) async fn run(
        &self,
        owner: &Owner,
        job: &Job,
        cancel: &CancellationToken,
        output: &Output,
    ) -> Result<Ended, SandboxError> {
        let workspace = job.workspace.as_ref();
        let mount = workspace.map(Mount::resolve).transpose()?;
        let private = self.scratches.make(owner, &job.id, &self.host.user)?;
        let home = mount.unwrap_or_else(|| private.clone());
        let read_only = workspace.is_some_and(|mount| mount.access == MountAccess::ReadOnly);
        let result = self
            .run_at(&home, read_only, owner, job, cancel, output)
            .await;
        if !scratch::remove(private).await {
            tracing::warn!(execution = %job.id, "a sandbox directory could not be removed yet");
        }
        result
    }

    async fn run_at(
        &self,
        private: &Path,
        read_only: bool,
        owner: &Owner,
        job: &Job,
        cancel: &CancellationToken,
        output: &Output,
    ) -> Result<Ended, SandboxError> {
        let home = &self.host.user.home;
        let tool = job.argv();
        // 0.9.72 does not honour `--`: it starts the login shell instead. So the program's name
        // must not look like an option of firejail's; what follows it is not read as one.
        if tool.first().is_none_or(|program| program.starts_with('-')) {
            return Err(SandboxError::InvalidJob {
                field: "command",
                problem: "names a program that starts with `-`",
            });
        }
        let mut argv = vec![self.program.to_string_lossy().into_owned()];
        argv.extend(self.options(private, &workdir_in(home, job), read_only));
        argv.extend(tool);
        let environment = job.environment(&home.to_string_lossy());
        let launch = Launch {
            argv: &argv,
            environment: &environment,
            workdir: Path::new("/"),
            rights: Rights::Setuid,
        };
        let mut ended = self.host.run(owner, job, launch, cancel, output).await?;
        // firejail itself exits with 128 + n when a signal ended the tool.
        if let Some(code @ 129..=192) = ended.exit_code {
            ended.exit_code = None;
            ended.signal = Some(code - 128);
        }
        Ok(ended)
    }

    fn options(&self, private: &Path, workdir: &Path, read_only: bool) -> Vec<String> {
        let mut options: Vec<String> = FIXED.iter().map(ToString::to_string).collect();
        // Numbers, since 0.9.72 does not know every name.
        let denied: Vec<String> = seccomp::denied_numbers()
            .iter()
            .map(|number| format!("${number}"))
            .collect();
        options.extend([
            format!("--seccomp={}", denied.join(",")),
            format!("--private={}", private.display()),
            format!("--private-cwd={}", workdir.display()),
            format!("--rlimit-nofile={NOFILE}"),
            format!("--rlimit-fsize={FSIZE_BYTES}"),
            format!("--rlimit-nproc={}", self.host.user_processes),
        ]);
        if read_only {
            options.push(format!("--read-only={}", self.host.user.home.display()));
        }
        options
    }
}

/// Only where root alone can put a program: firejail is setuid, and its path decides what runs.
fn find_program() -> Result<PathBuf, SandboxError> {
    let mut programs = PROGRAMS.iter().map(PathBuf::from);
    programs.find(|path| path.is_file()).ok_or_else(|| {
        SandboxError::Firejail("it is not installed; `apt-get install firejail`".into())
    })
}

pub(super) fn is_installed() -> bool {
    PROGRAMS.iter().any(|path| Path::new(path).is_file())
}

async fn version(program: &Path) -> Result<String, SandboxError> {
    let query = tokio::process::Command::new(program)
        .arg("--version")
        .env_clear()
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .output();
    let answer = tokio::time::timeout(QUERY, query)
        .await
        .map_err(|_elapsed| SandboxError::Firejail(format!("it did not answer within {QUERY:?}")))?
        .map_err(|source| SandboxError::Spawn {
            program: program.to_string_lossy().into_owned(),
            source,
        })?;
    let text = String::from_utf8_lossy(&answer.stdout);
    text.lines()
        .next()
        .and_then(|line| line.strip_prefix("firejail version "))
        .map(str::to_owned)
        .ok_or_else(|| SandboxError::Firejail("it does not tell its version".into()))
}

/// No profile of the distribution's is read: these are all that is in force. `--timeout` is not
/// among them: with it 0.9.72 takes two seconds longer to end, however soon the tool does.
const FIXED: &[&str] = &[
    "--quiet",
    "--noprofile",
    "--net=none",
    "--hostname=sandbox",
    "--caps.drop=all",
    "--nonewprivs",
    "--noroot",
    "--nogroups",
    "--ipc-namespace",
    "--seccomp.block-secondary",
    "--protocol=unix,inet,inet6,netlink",
    "--restrict-namespaces",
    "--private-dev",
    "--private-tmp",
    "--private-etc=alternatives,group,hosts,ld.so.cache,ld.so.conf,ld.so.conf.d,localtime,\
     nsswitch.conf,passwd,ssl",
    "--disable-mnt",
    "--blacklist=/root",
    "--blacklist=/srv",
    "--blacklist=/run/clawsec",
    "--blacklist=/run/docker.sock",
    "--blacklist=/run/containerd",
    "--blacklist=/run/dbus",
    "--blacklist=/run/user",
    "--blacklist=/var/lib",
    "--blacklist=/var/log",
    "--blacklist=/sys/fs/bpf",
    "--blacklist=/sys/kernel/debug",
    "--blacklist=/sys/kernel/tracing",
    "--x11=none",
    "--dbus-user=none",
    "--dbus-system=none",
    "--deterministic-exit-code",
    "--deterministic-shutdown",
];
const PROGRAMS: &[&str] = &["/usr/bin/firejail", "/usr/local/bin/firejail"];
const QUERY: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_hold_no_blank_and_never_join_lines() {
        for option in FIXED {
            assert!(
                option.starts_with("--") && !option.contains(' '),
                "{option}"
            );
        }
    }
}
