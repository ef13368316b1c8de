//! A server as processes: pinned, its CPU time and memory, its end.

use std::fs;
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use super::KEY;
use super::files::Folder;

/// A server and all the processes it starts; stopped when dropped.
pub(super) struct Server {
    child: Child,
}

impl Server {
    /// `command` is a program and its arguments.
    pub(super) fn start(cpu: &str, command: &[String], folder: &Folder) -> Result<Self> {
        let log = |name| {
            fs::OpenOptions::new()
                .create(true)
                .append(true)
                .open(folder.0.join(name))
                .with_context(|| format!("open {name}"))
        };
        let child = Command::new("taskset")
            .args(["-c", cpu])
            .args(command)
            // Where Caddy keeps its state.
            .env("HOME", &folder.0)
            .env("XDG_DATA_HOME", &folder.0)
            .stdin(Stdio::null())
            // HAProxy's access log.
            .stdout(log("stdout.log")?)
            .stderr(log("servers.log")?)
            .spawn()
            .with_context(|| format!("start {command:?}"))?;
        Ok(Self { child })
    }

    /// Waits until an authenticated page is answered over TLS.
    pub(super) fn await_ready(&mut self, port: u16) -> Result<()> {
        self.await_that(|| {
            Command::new("curl")
                .args(["-skf", "-o", "/dev/null", "-H"])
                .arg(format!("X-API-Key: {KEY}"))
                .arg(format!("https://localhost:{port}/"))
                .status()
                .is_ok_and(|status| status.success())
        })
    }

    /// Waits until a port takes connections.
    pub(super) fn await_port(&mut self, port: u16) -> Result<()> {
        self.await_that(|| TcpStream::connect(("127.0.0.1", port)).is_ok())
    }

    fn await_that(&mut self, is_so: impl Fn() -> bool) -> Result<()> {
        let deadline = Instant::now() + Duration::from_secs(20);
        while Instant::now() < deadline {
            if let Some(status) = self.child.try_wait().context("look at a server")? {
                bail!("it ended: {status}");
            }
            if is_so() {
                return Ok(());
            }
            sleep(Duration::from_millis(100));
        }
        bail!("it does not answer")
    }

    /// User and system time of all its living processes.
    pub(super) fn cpu(&self) -> Result<Duration> {
        let processes = self.processes();
        if processes.is_empty() {
            bail!("a server's processes are gone");
        }
        let ticks: u64 = processes.iter().map(|stat| stat.ticks).sum();
        // USER_HZ is 100 on every architecture that Linux still has.
        Ok(Duration::from_millis(ticks * 10))
    }

    pub(super) fn resident_kib(&self) -> u64 {
        let processes = self.processes();
        processes.iter().map(|stat| stat.resident_pages * 4).sum()
    }

    fn processes(&self) -> Vec<Stat> {
        let Ok(entries) = fs::read_dir("/proc") else {
            return Vec::new();
        };
        let all: Vec<Stat> = entries
            .flatten()
            .filter_map(|entry| Stat::parse(&fs::read_to_string(entry.path().join("stat")).ok()?))
            .collect();
        let mut found = vec![u64::from(self.child.id())];
        let mut next = 0;
        while let Some(parent) = found.get(next).copied() {
            let children = all.iter().filter(|stat| stat.parent == parent);
            found.extend(children.map(|stat| stat.pid));
            next += 1;
        }
        all.into_iter()
            .filter(|stat| found.contains(&stat.pid))
            .collect()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _gone = Command::new("kill")
            .args(["-TERM", &self.child.id().to_string()])
            .status();
        let _reaped = self.child.wait();
    }
}

struct Stat {
    pid: u64,
    parent: u64,
    ticks: u64,
    resident_pages: u64,
}

impl Stat {
    /// proc(5): the name in parentheses may hold anything, so fields count from its end.
    fn parse(text: &str) -> Option<Self> {
        let (before, after) = text.rsplit_once(')')?;
        let fields: Vec<&str> = after.split_whitespace().collect();
        let number = |index: usize| fields.get(index)?.parse::<u64>().ok();
        Some(Self {
            pid: before.split(' ').next()?.parse().ok()?,
            parent: number(1)?,
            ticks: number(11)? + number(12)?,
            resident_pages: number(21)?,
        })
    }
}

/// The first line that a program says of itself; `None` when it is not there.
pub(super) fn version(program: &str, argument: &str) -> Option<String> {
    let output = Command::new(program).arg(argument).output().ok()?;
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said);
    Some(said.lines().next().unwrap_or_default().to_owned())
}

/// That one process may have.
pub(super) fn descriptors() -> u64 {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    limit.maximum.unwrap_or(u64::MAX).min(MOST_DESCRIPTORS)
}

/// More than any server needs here.
const MOST_DESCRIPTORS: u64 = 24_000;

pub(super) fn free_port() -> Result<u16> {
    let listener = TcpListener::bind("127.0.0.1:0").context("find a free port")?;
    Ok(listener.local_addr()?.port())
}
