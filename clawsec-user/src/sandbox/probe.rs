//! `clawsec sandbox probe` seen from outside: what is planted, what is run, how it is judged.
//!
//! The probes run as a tool would: this program, with its loader and libraries, lies in a read-only
//! workspace, and the provider starts it as the tool's own user. Invariant: a row counts as blocked
//! only when the probe has said so, or when the execution was ended by the limit it went beyond.

use std::collections::BTreeMap;
use std::fs;
use std::net::TcpListener;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::owner::start_ticks;
use super::probe_inside::{Inside, OUTPUT, PROBES, TIME};
use super::user::ToolUser;
use super::{Execution, Job, JobCommand, Sandbox, SandboxError};
use crate::config::{SandboxConfig, SandboxProvider, WorkspaceAccess};
use crate::policy::Permit;

/// One row of the table.
#[derive(Debug, Clone)]
pub struct Finding {
    pub name: &'static str,
    /// What a tool that got through could do.
    pub threat: &'static str,
    pub verdict: Verdict,
    pub detail: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    Blocked,
    Open,
}

impl Verdict {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Blocked => "blocked",
            Self::Open => "open",
        }
    }
}

/// Runs every probe in the sandbox of `agent`, as the daemon would: out of the pool where there is
/// one. `permit` gives a permit for each execution. The sandbox comes back, to be closed.
pub async fn probe(
    config: &SandboxConfig,
    instance: &str,
    agent: &str,
    permit: impl Fn() -> Option<Permit>,
) -> Result<(Sandbox, Vec<Finding>), SandboxError> {
    let user = ToolUser::find_for_native(&config.user).ok();
    let stage = Stage::build(user.as_ref())?;
    let mut own = SandboxConfig {
        agents: BTreeMap::new(),
        workspace: Some(stage.workspace()),
        workspace_access: WorkspaceAccess::ReadOnly,
        ..config.of(Some(agent)).clone()
    };
    if own.provider == SandboxProvider::None {
        // It cannot make one read-only; the row says so.
        own.workspace_access = WorkspaceAccess::ReadWrite;
    }
    let sandbox = Sandbox::open(&own, instance).await?;
    // What an earlier run left when it was killed.
    sandbox.remove_orphans().await?;
    sandbox.warm_up(ROOM).await;
    let (kept, limits) = (sandbox.output_bytes(agent), sandbox.limits(agent));
    let asked = stage.asked(limits.memory_bytes, limits.pids, kept as u64);
    let run = async |only: Option<&'static str>| {
        let mut argv = stage.argv();
        argv.extend(arguments(&asked, only));
        let job = Job {
            id: format!("probe-{}", only.unwrap_or("all").replace('.', "-")),
            agent: agent.to_owned(),
            command: JobCommand::Argv(argv),
            env: BTreeMap::new(),
            workdir: None,
            workspace: None,
            stdin: Vec::new(),
            timeout: if only == Some(TIME) { LIMIT } else { ROOM },
        };
        let permit = permit().ok_or(SandboxError::Cancelled)?;
        sandbox.run(permit, job, CancellationToken::new()).await
    };
    let mut findings = rows_of(&run(None).await?);
    for probe in PROBES.iter().filter(|probe| probe.alone) {
        let execution = run(Some(probe.name)).await?;
        let verdict = judge_alone(probe.name, &execution, kept);
        findings.push(finding(probe.name, verdict));
    }
    Ok((sandbox, findings))
}

/// What the rows that run together have said; one that has said nothing counts as open.
pub(super) fn rows_of(execution: &Execution) -> Vec<Finding> {
    let (text, errors) = (execution.stdout.text(), execution.stderr.text());
    let said: BTreeMap<&str, (&str, &str)> = text
        .lines()
        .filter_map(|line| {
            let mut parts = line.splitn(3, '\t');
            Some((parts.next()?, (parts.next()?, parts.next()?)))
        })
        .collect();
    let together = PROBES.iter().filter(|probe| !probe.alone);
    together
        .map(|probe| {
            let verdict = match said.get(probe.name) {
                Some(("blocked", detail)) => (Verdict::Blocked, (*detail).to_owned()),
                Some((_, detail)) => (Verdict::Open, (*detail).to_owned()),
                None => (
                    Verdict::Open,
                    format!("it said nothing: {} {errors}", execution.status()),
                ),
            };
            finding(probe.name, verdict)
        })
        .collect()
}

/// A row with an execution of its own: by its word, or by the limit that ended it.
pub(super) fn judge_alone(
    name: &str,
    execution: &Execution,
    output_bytes: usize,
) -> (Verdict, String) {
    let text = execution.stdout.text();
    let kept = execution.stdout.bytes().len();
    match name {
        OUTPUT if execution.stdout.truncated && kept <= output_bytes => (
            Verdict::Blocked,
            format!("{kept} of {} bytes are kept", execution.stdout.total_bytes),
        ),
        OUTPUT => (Verdict::Open, format!("{kept} bytes are kept")),
        TIME if execution.timed_out => (
            Verdict::Blocked,
            format!("ended after {} ms", execution.duration.as_millis()),
        ),
        TIME => (Verdict::Open, text.trim().to_owned()),
        _ if execution.oom => (Verdict::Blocked, "ended: out of memory".to_owned()),
        _ => match text.lines().find_map(|line| line.strip_prefix(name)) {
            Some(said) => match said.strip_prefix("\tblocked\t") {
                Some(detail) => (Verdict::Blocked, detail.to_owned()),
                None => (
                    Verdict::Open,
                    said.trim_start_matches("\topen\t").to_owned(),
                ),
            },
            None => (
                Verdict::Open,
                format!(
                    "it said nothing: {} {}",
                    execution.status(),
                    execution.stderr.text()
                ),
            ),
        },
    }
}

pub(super) fn finding(name: &'static str, (verdict, detail): (Verdict, String)) -> Finding {
    let row = PROBES.iter().find(|probe| probe.name == name);
    Finding {
        name,
        threat: row.map_or("", |probe| probe.threat),
        verdict,
        detail,
    }
}

/// What the hidden command is called with.
pub(super) fn arguments(asked: &Inside, only: Option<&str>) -> Vec<String> {
    let mut arguments = vec![
        "probe-inside".to_owned(),
        format!("--port={}", asked.port),
        format!("--socket={}", asked.socket),
        format!("--canary={}", asked.canary.display()),
        format!("--process={}", asked.process),
        format!("--start-ticks={}", asked.start_ticks),
        format!("--variables={}", asked.variables.join(",")),
        format!("--memory-bytes={}", asked.memory_bytes),
        format!("--pids={}", asked.pids),
        format!("--output-bytes={}", asked.output_bytes),
    ];
    arguments.extend(only.map(|name| format!("--only={name}")));
    arguments
}

/// Folders and listeners that last as long as the probes do.
pub(super) struct Stage {
    folder: PathBuf,
    listener: TcpListener,
    socket: String,
    _socket: UnixListener,
}

impl Stage {
    pub(super) fn build(user: Option<&ToolUser>) -> Result<Self, SandboxError> {
        let failed = |what: &'static str| SandboxError::file(what, "/tmp");
        let folder = nix::unistd::mkdtemp("/tmp/clawsec-probe-XXXXXX")
            .map_err(|error| failed("make a folder in")(error.into()))?;
        let listener = TcpListener::bind("127.0.0.1:0").map_err(failed("listen for"))?;
        let socket = format!("clawsec-probe-{}", std::process::id());
        let address =
            SocketAddr::from_abstract_name(&socket).map_err(failed("name a socket for"))?;
        let stage = Self {
            folder,
            listener,
            socket,
            _socket: UnixListener::bind_addr(&address).map_err(failed("listen for"))?,
        };
        stage.fill(user)?;
        Ok(stage)
    }

    fn fill(&self, user: Option<&ToolUser>) -> Result<(), SandboxError> {
        let workspace = self.workspace();
        let readable = |path: &Path| {
            fs::set_permissions(path, fs::Permissions::from_mode(0o755))
                .map_err(SandboxError::file("set the mode of", path))
        };
        fs::create_dir(&workspace).map_err(SandboxError::file("make the folder", &workspace))?;
        readable(&self.folder)?;
        readable(&workspace)?;
        let canary = self.canary();
        fs::write(&canary, "the host's\n").map_err(SandboxError::file("write", &canary))?;
        readable(&canary)?;
        let link = workspace.join("escape");
        std::os::unix::fs::symlink(&canary, &link).map_err(SandboxError::file("make", &link))?;
        for (from, name) in own_files()? {
            let to = workspace.join(name);
            fs::copy(&from, &to).map_err(SandboxError::file("copy to", &to))?;
            readable(&to)?;
        }
        if let Some(user) = user {
            std::os::unix::fs::chown(&workspace, Some(user.uid.as_raw()), Some(user.gid.as_raw()))
                .map_err(SandboxError::file("give away", &workspace))?;
        }
        Ok(())
    }

    pub(super) fn workspace(&self) -> PathBuf {
        self.folder.join("workspace")
    }

    fn canary(&self) -> PathBuf {
        self.folder.join("canary")
    }

    /// This program in the workspace, by its own loader.
    pub(super) fn argv(&self) -> Vec<String> {
        let mut argv = Vec::new();
        if self.workspace().join("ld.so").exists() {
            argv.extend(["./ld.so", "--library-path", "."].map(str::to_owned));
        }
        argv.extend(["./clawsec", "sandbox"].map(str::to_owned));
        argv
    }

    pub(super) fn asked(&self, memory_bytes: u64, pids: u32, output_bytes: u64) -> Inside {
        let process = std::process::id();
        let port = self
            .listener
            .local_addr()
            .map_or(0, |address| address.port());
        Inside {
            only: None,
            port,
            socket: self.socket.clone(),
            canary: self.canary(),
            process,
            start_ticks: start_ticks(process).unwrap_or_default(),
            variables: std::env::vars_os()
                .filter_map(|(name, _)| name.into_string().ok())
                .filter(|name| !name.contains(','))
                .collect(),
            memory_bytes,
            pids,
            output_bytes,
        }
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        // A file left in /tmp harms nobody.
        fs::remove_dir_all(&self.folder).ok();
    }
}

/// This program, its loader and its libraries: what is mapped into this very process.
fn own_files() -> Result<Vec<(PathBuf, String)>, SandboxError> {
    let maps = "/proc/self/maps";
    let text = fs::read_to_string(maps).map_err(SandboxError::file("read", maps))?;
    let mut files = BTreeMap::from([(PathBuf::from("/proc/self/exe"), "clawsec".to_owned())]);
    for path in text
        .lines()
        .filter_map(|line| line.find('/').map(|at| &line[at..]))
    {
        let Some(name) = Path::new(path).file_name().and_then(|name| name.to_str()) else {
            continue;
        };
        if name.starts_with("ld-") {
            files.insert(path.into(), "ld.so".to_owned());
        } else if name.contains(".so") {
            files.insert(path.into(), name.to_owned());
        }
    }
    Ok(files.into_iter().collect())
}

/// For the row that runs past its time, and for all others.
pub(super) const LIMIT: Duration = Duration::from_secs(1);
const ROOM: Duration = Duration::from_mins(1);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_are_enough_rows_and_each_has_one_name() {
        let mut names: Vec<_> = PROBES.iter().map(|probe| probe.name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), PROBES.len());
        assert!(names.len() >= 30, "{}", names.len());
    }

    #[test]
    fn silence_is_no_block() {
        let mut execution = Execution {
            exit_code: Some(0),
            signal: None,
            oom: false,
            timed_out: false,
            cancelled: false,
            duration: Duration::ZERO,
            stdout: super::super::Captured::default(),
            stderr: super::super::Captured::default(),
        };
        assert!(
            rows_of(&execution)
                .iter()
                .all(|row| row.verdict == Verdict::Open)
        );
        for (name, oom, timed_out, expected) in [
            ("bomb.memory", false, false, Verdict::Open),
            ("bomb.memory", true, false, Verdict::Blocked),
            (TIME, false, false, Verdict::Open),
            (TIME, false, true, Verdict::Blocked),
            (OUTPUT, false, false, Verdict::Open),
        ] {
            (execution.oom, execution.timed_out) = (oom, timed_out);
            assert_eq!(judge_alone(name, &execution, 1).0, expected, "{name}");
        }
    }
}
