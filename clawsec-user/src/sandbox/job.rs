//! What to run, and what came of it.

use std::collections::BTreeMap;
use std::path::{Component, Path, PathBuf};
use std::time::Duration;

use super::{Captured, SandboxError};

/// One execution, as a request asked for it.
#[derive(Debug, Clone)]
pub struct Job {
    /// Unique for this daemon; `[A-Za-z0-9_-]`, at most 64. It names the container or cgroup.
    pub id: String,
    pub agent: String,
    pub command: JobCommand,
    /// Added to the fixed environment; names that steer the loader or the shell are refused.
    pub env: BTreeMap<String, String>,
    /// Inside the sandbox; the workspace if left out.
    pub workdir: Option<PathBuf>,
    pub workspace: Option<Mount>,
    pub stdin: Vec<u8>,
    /// Narrows the configured timeout, never widens it.
    pub timeout: Duration,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum JobCommand {
    Argv(Vec<String>),
    /// A line for the sandbox's own `sh -c`.
    Shell(String),
}

/// A directory of the host that the tool sees as its workspace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    pub source: PathBuf,
    pub access: MountAccess,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MountAccess {
    ReadOnly,
    ReadWrite,
}

/// How an execution ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Execution {
    /// `None` when a signal ended it.
    pub exit_code: Option<i32>,
    pub signal: Option<i32>,
    /// The kernel killed something in it for want of memory.
    pub oom: bool,
    pub timed_out: bool,
    /// Stopped because the caller went away or asked for it.
    pub cancelled: bool,
    pub duration: Duration,
    pub stdout: Captured,
    pub stderr: Captured,
}

impl Execution {
    /// One number, as a shell would give it: 124 for a timeout, 128 + n for a signal.
    pub fn status(&self) -> i32 {
        if self.timed_out {
            return 124;
        }
        match (self.exit_code, self.signal) {
            (Some(code), _) => code,
            (None, Some(signal)) => 128 + signal,
            (None, None) => 255,
        }
    }
}

impl Job {
    /// The argument vector, with `sh -c` where the command is a line of text.
    pub(super) fn argv(&self) -> Vec<String> {
        match &self.command {
            JobCommand::Argv(argv) => argv.clone(),
            JobCommand::Shell(line) => vec!["sh".into(), "-c".into(), line.clone()],
        }
    }

    /// Refuses what no provider may be handed.
    pub(super) fn validate(&self) -> Result<(), SandboxError> {
        let invalid = |field, problem| Err(SandboxError::InvalidJob { field, problem });
        if !is_id(&self.id) {
            return invalid("id", "is not 1 to 64 of [A-Za-z0-9_-]");
        }
        let argv = self.argv();
        if argv.first().is_none_or(String::is_empty) {
            return invalid("command", "is empty");
        }
        if argv.iter().any(|argument| argument.contains('\0')) {
            return invalid("command", "holds a NUL byte");
        }
        // Linux refuses a single argument over 128 KiB (MAX_ARG_STRLEN) with a puzzling error.
        if argv.iter().any(|argument| argument.len() >= MAX_ARG_BYTES) {
            return invalid("command", "has an argument of 128 KiB or more; use stdin");
        }
        for (name, value) in &self.env {
            if !is_variable_name(name) {
                return invalid("env", "has a name that is not [A-Za-z_][A-Za-z0-9_]*");
            }
            if is_steering(name) {
                return invalid("env", "sets a variable that steers the loader or the shell");
            }
            if value.contains('\0') || value.len() >= MAX_ARG_BYTES {
                return invalid("env", "has a value with a NUL byte or of 128 KiB or more");
            }
        }
        if self.env.len() > MAX_VARIABLES {
            return invalid("env", "has more than 128 variables");
        }
        if let Some(workdir) = &self.workdir {
            let is_plain = |part| matches!(part, Component::RootDir | Component::Normal(_));
            if !workdir.is_absolute() || !workdir.components().all(is_plain) {
                return invalid("workdir", "is not an absolute path without `..`");
            }
            if workdir.to_str().is_none_or(|text| text.contains('\0')) {
                return invalid("workdir", "is not plain text");
            }
        }
        if self.stdin.len() > MAX_STDIN_BYTES {
            return invalid("stdin", "is over 25 MiB");
        }
        Ok(())
    }

    /// The whole environment of the tool: nothing of the daemon's own.
    pub(super) fn environment(&self, home: &str) -> BTreeMap<String, String> {
        let mut environment: BTreeMap<String, String> = [
            ("PATH", "/usr/local/bin:/usr/bin:/bin"),
            ("LANG", "C.UTF-8"),
            ("HOME", home),
        ]
        .into_iter()
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect();
        environment.extend(self.env.clone());
        environment
    }
}

impl Mount {
    /// The real path, if it is a directory that a tool may be given.
    pub(super) fn resolve(&self) -> Result<PathBuf, SandboxError> {
        let refuse = |problem: String| SandboxError::Workspace {
            path: self.source.clone(),
            problem,
        };
        if !self.source.is_absolute() {
            return Err(refuse("it is not an absolute path".into()));
        }
        let real = self
            .source
            .canonicalize()
            .map_err(|error| refuse(error.to_string()))?;
        if !real.is_dir() {
            return Err(refuse("it is not a directory".into()));
        }
        match forbidden_ancestor(&real) {
            Some(system) => Err(refuse(format!("it is, lies under or holds {system}"))),
            None => Ok(real),
        }
    }
}

pub(super) fn is_id(text: &str) -> bool {
    (1..=64).contains(&text.len())
        && text
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-'))
}

fn is_variable_name(name: &str) -> bool {
    name.len() <= 128
        && name.starts_with(|first: char| first.is_ascii_alphabetic() || first == '_')
        && name
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}

/// Variables by which a program other than the one asked for would run, or ours would be lost.
fn is_steering(name: &str) -> bool {
    const NAMES: &[&str] = &[
        "PATH",
        "HOME",
        "IFS",
        "ENV",
        "BASH_ENV",
        "SHELLOPTS",
        "BASHOPTS",
        "PS4",
        "PROMPT_COMMAND",
        "GCONV_PATH",
        "GLIBC_TUNABLES",
        "HOSTALIASES",
        "LOCPATH",
        "MALLOC_TRACE",
        "NLSPATH",
        "TZDIR",
        "NODE_OPTIONS",
        "PYTHONSTARTUP",
        "PERL5OPT",
        "RUBYOPT",
    ];
    NAMES.contains(&name)
        || name.starts_with("LD_")
        || name.starts_with("DYLD_")
        || name.starts_with("BASH_FUNC")
        || name.starts_with("FIREJAIL")
}

/// A system directory that `path` is, lies under, or holds.
fn forbidden_ancestor(path: &Path) -> Option<&'static str> {
    const SYSTEM: &[&str] = &[
        "/bin",
        "/boot",
        "/dev",
        "/etc",
        "/lib",
        "/lib64",
        "/proc",
        "/root",
        "/run",
        "/sbin",
        "/sys",
        "/usr",
        "/var/lib/docker",
        "/var/lib/containerd",
        "/var/run",
    ];
    SYSTEM
        .iter()
        .copied()
        .find(|system| path.starts_with(system) || Path::new(system).starts_with(path))
}

/// Where every caller says the workspace is, whatever the provider calls it.
pub(super) const WORKSPACE: &str = "/workspace";
const MAX_ARG_BYTES: usize = 128 * 1024;
const MAX_VARIABLES: usize = 128;
/// The gateway's own frame limit.
const MAX_STDIN_BYTES: usize = 25 * 1024 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    fn job(change: impl FnOnce(&mut Job)) -> Job {
        let mut job = Job {
            id: "a-1".into(),
            agent: "main".into(),
            command: JobCommand::Shell("true".into()),
            env: BTreeMap::new(),
            workdir: None,
            workspace: None,
            stdin: Vec::new(),
            timeout: Duration::from_secs(1),
        };
        change(&mut job);
        job
    }

    #[test]
    fn jobs_that_could_confuse_a_provider_are_refused() {
        type Change = fn(&mut Job);
        let rows: &[(&str, Change, Option<&str>)] = &[
            ("plain", |_| {}, None),
            ("path in id", |job| job.id = "../x".into(), Some("id")),
            ("empty id", |job| job.id = String::new(), Some("id")),
            (
                "no argv",
                |job| job.command = JobCommand::Argv(vec![]),
                Some("command"),
            ),
            (
                "empty program",
                |job| job.command = JobCommand::Argv(vec![String::new()]),
                Some("command"),
            ),
            (
                "NUL",
                |job| job.command = JobCommand::Shell("a\0b".into()),
                Some("command"),
            ),
            (
                "loader",
                |job| drop(job.env.insert("LD_PRELOAD".into(), "x".into())),
                Some("env"),
            ),
            (
                "shell",
                |job| drop(job.env.insert("BASH_ENV".into(), "x".into())),
                Some("env"),
            ),
            (
                "search path",
                |job| drop(job.env.insert("PATH".into(), "x".into())),
                Some("env"),
            ),
            (
                "equals sign",
                |job| drop(job.env.insert("A=B".into(), "x".into())),
                Some("env"),
            ),
            (
                "variable",
                |job| drop(job.env.insert("MY_VAR".into(), "x".into())),
                None,
            ),
            (
                "relative",
                |job| job.workdir = Some("src".into()),
                Some("workdir"),
            ),
            (
                "parent",
                |job| job.workdir = Some("/workspace/../etc".into()),
                Some("workdir"),
            ),
            (
                "absolute",
                |job| job.workdir = Some("/workspace/src".into()),
                None,
            ),
        ];
        for (name, change, expected) in rows {
            let field = match job(change).validate() {
                Err(SandboxError::InvalidJob { field, .. }) => Some(field),
                Ok(()) => None,
                Err(other) => unreachable!("{name}: {other}"),
            };
            assert_eq!(field, *expected, "{name}");
        }
    }

    #[test]
    fn workspaces_never_hold_the_system() {
        let rows = [
            ("/", false),
            ("/etc", false),
            ("/etc/ssl", false),
            ("/var", false),
            ("/var/run", false),
            ("/proc/self", false),
            ("/usr", false),
            ("relative", false),
            ("/does/not/exist", false),
            ("/tmp", true),
        ];
        for (source, expected) in rows {
            let mount = Mount {
                source: source.into(),
                access: MountAccess::ReadOnly,
            };
            assert_eq!(mount.resolve().is_ok(), expected, "{source}");
        }
    }

    #[test]
    fn the_environment_holds_nothing_of_ours() {
        let names: Vec<String> = job(|job| drop(job.env.insert("A".into(), "1".into())))
            .environment("/workspace")
            .into_keys()
            .collect();
        assert_eq!(names, ["A", "HOME", "LANG", "PATH"]);
    }

    #[test]
    fn status_is_what_a_shell_would_say() {
        let execution = |exit_code, signal, timed_out| Execution {
            exit_code,
            signal,
            oom: false,
            timed_out,
            cancelled: false,
            duration: Duration::ZERO,
            stdout: Captured::default(),
            stderr: Captured::default(),
        };
        let rows = [
            (execution(Some(3), None, false), 3),
            (execution(None, Some(9), false), 137),
            (execution(None, Some(9), true), 124),
            (execution(None, None, false), 255),
        ];
        for (execution, expected) in rows {
            assert_eq!(execution.status(), expected, "{execution:?}");
        }
    }
}
