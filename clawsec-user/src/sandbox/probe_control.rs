//! The negative control: the same probes with nothing in their way, so that each must turn red.
//!
//! They run as root, in namespaces that keep the host out of reach of the few that change
//! something, with what they look for planted there. Invariant: a row that stays green here proves
//! nothing in the sandbox either, and is shown as such.

use std::fs;
use std::net::{Ipv4Addr, TcpListener};
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use nix::sched::{CloneFlags, unshare};
use rustix::mount::{MountFlags, MountPropagationFlags, mount, mount_change};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};

use super::netdevice::{loopback_also, loopback_up};
use super::probe::{Finding, LIMIT, Stage, Verdict, arguments, finding, judge_alone, rows_of};
use super::probe_inside::{OUTPUT, PROBES, TIME};
use super::step::{Step, step};
use super::{Captured, Execution, SandboxError};

/// What the hidden command is given: where the listeners must be, and what to run there.
#[derive(Debug)]
pub struct Control {
    pub port: u16,
    pub socket: String,
    pub workspace: PathBuf,
    pub argv: Vec<String>,
}

/// Runs every probe uncontained. The limits are those a sandbox would have had.
pub(super) fn findings(
    memory_bytes: u64,
    pids: u32,
    output: usize,
) -> Result<Vec<Finding>, SandboxError> {
    let stage = Stage::build(None)?;
    let asked = stage.asked(memory_bytes, pids, output as u64);
    let run = |only: Option<&'static str>| {
        let mut argv = stage.argv();
        let mut control = vec![
            "probe-control".to_owned(),
            format!("--port={}", asked.port),
            format!("--socket={}", asked.socket),
            format!("--workspace={}", stage.workspace().display()),
            "--".to_owned(),
        ];
        control.extend(stage.argv());
        let mut asked = asked.clone();
        asked.variables.push(CANARY.to_owned());
        control.extend(arguments(&asked, only));
        argv.extend(control);
        uncontained(&argv, &stage.workspace())
    };
    let mut findings = rows_of(&run(None)?);
    for probe in PROBES.iter().filter(|probe| probe.alone) {
        let execution = run(Some(probe.name))?;
        let verdict = match probe.name {
            // Nobody cuts the output, and nobody ends it: it says itself that it came through.
            OUTPUT => judge_alone(OUTPUT, &execution, output),
            TIME if execution.duration > LIMIT => (Verdict::Open, "nobody ended it".to_owned()),
            name => judge_alone(name, &execution, output),
        };
        findings.push(finding(probe.name, verdict));
    }
    Ok(findings)
}

fn uncontained(argv: &[String], workspace: &Path) -> Result<Execution, SandboxError> {
    let started = Instant::now();
    let [program, arguments @ ..] = argv else {
        return Err(SandboxError::TaskLost);
    };
    let output = Command::new(program)
        .args(arguments)
        .current_dir(workspace)
        .env(CANARY, "a secret")
        .stdin(Stdio::null())
        .output()
        .map_err(|source| SandboxError::Spawn {
            program: program.clone(),
            source,
        })?;
    let kept = |bytes: Vec<u8>| Captured {
        total_bytes: bytes.len() as u64,
        head: bytes,
        tail: Vec::new(),
        truncated: false,
    };
    Ok(Execution {
        exit_code: output.status.code(),
        signal: None,
        oom: false,
        timed_out: false,
        cancelled: false,
        duration: started.elapsed(),
        stdout: kept(output.stdout),
        stderr: kept(output.stderr),
    })
}

/// The hidden command: makes the place without walls, and runs the probes there.
pub fn control(asked: &Control) -> ExitCode {
    match place(asked) {
        Ok(code) => code,
        Err(error) => {
            tracing::error!("the negative control: {error}");
            ExitCode::FAILURE
        }
    }
}

fn place(asked: &Control) -> Step<ExitCode> {
    unshare(
        CloneFlags::CLONE_NEWNS
            | CloneFlags::CLONE_NEWNET
            | CloneFlags::CLONE_NEWUTS
            | CloneFlags::CLONE_NEWIPC,
    )
    .map_err(step("make namespaces"))?;
    mount_change(
        "/",
        MountPropagationFlags::PRIVATE | MountPropagationFlags::REC,
    )
    .map_err(step("make the mounts private"))?;
    // The host's own /run is not to be written to.
    mount(
        "tmpfs",
        "/run",
        "tmpfs",
        MountFlags::NOSUID,
        Some(c"mode=755"),
    )
    .map_err(step("mount a tmpfs on /run"))?;
    loopback_up()?;
    loopback_also("lo:1", Ipv4Addr::new(169, 254, 169, 254))?;
    loopback_also("lo:2", Ipv4Addr::new(192, 0, 2, 1))?;
    let listen = |port| TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).map_err(step("listen"));
    let _planted = (listen(asked.port)?, listen(80)?);
    let address = SocketAddr::from_abstract_name(&asked.socket).map_err(step("name a socket"))?;
    let _abstract = UnixListener::bind_addr(&address).map_err(step("listen"))?;
    let mut sockets = Vec::new();
    for path in SOCKETS {
        let path = Path::new(path);
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder).map_err(step("make a folder in /run"))?;
        }
        sockets.push(UnixListener::bind(path).map_err(step("listen"))?);
    }
    let terminal = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).map_err(step("make a pty"))?;
    grantpt(&terminal).map_err(step("make a pty"))?;
    unlockpt(&terminal).map_err(step("make a pty"))?;
    let slave = ptsname(&terminal, Vec::new()).map_err(step("make a pty"))?;
    // A session leader's first terminal becomes its controlling one.
    rustix::process::setsid().map_err(step("begin a session"))?;
    let path = slave.to_string_lossy().into_owned();
    let controlling = fs::File::options()
        .read(true)
        .write(true)
        .open(&path)
        .map_err(step("open a pty"))?;
    rustix::io::fcntl_setfd(&controlling, rustix::io::FdFlags::empty())
        .map_err(step("leave a descriptor open"))?;
    let [program, arguments @ ..] = asked.argv.as_slice() else {
        return Err("no program".into());
    };
    let mut child = Command::new(program)
        .args(arguments)
        .current_dir(&asked.workspace)
        .stdin(Stdio::null())
        .spawn()
        .map_err(step("start the probes"))?;
    let deadline = Instant::now() + DEADLINE;
    loop {
        if let Some(status) = child.try_wait().map_err(step("wait for the probes"))? {
            return Ok(if status.success() {
                ExitCode::SUCCESS
            } else {
                ExitCode::FAILURE
            });
        }
        if Instant::now() > deadline {
            child.kill().ok();
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

const CANARY: &str = "CLAWSEC_PROBE_SECRET";
const DEADLINE: Duration = Duration::from_mins(1);
const SOCKETS: &[&str] = &[
    "/run/docker.sock",
    "/run/containerd/containerd.sock",
    "/run/dbus/system_bus_socket",
];
