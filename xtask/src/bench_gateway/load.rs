//! What the servers are asked: pages by wrk; whole handshakes and WebSocket frames by `clawsec-load`.

use std::io::{BufRead as _, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use super::KEY;
use super::files::Folder;
use super::server::Server;

/// What is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Request,
    NewConnection,
    ResumedConnection,
    Frame(u32),
}

impl Kind {
    pub(super) const ALL: [Self; 6] = [
        Self::Request,
        Self::NewConnection,
        Self::ResumedConnection,
        Self::Frame(64),
        Self::Frame(1024),
        Self::Frame(65_536),
    ];

    pub(super) fn name(self) -> String {
        match self {
            Self::Request => "request, kept alive".into(),
            Self::NewConnection => "request on a new TLS connection, whole handshake".into(),
            Self::ResumedConnection => {
                "request on a new TLS connection, last session offered".into()
            }
            Self::Frame(bytes) => format!("WebSocket frame of {bytes} B, and its echo"),
        }
    }

    /// The part of the benchmark that it belongs to.
    pub(super) fn part(self) -> &'static str {
        match self {
            Self::Frame(_) => "frames",
            _ => "pages",
        }
    }
}

/// One round of one kind on one server.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sample {
    /// Of the server's CPU, for each answer.
    pub(super) cpu_us: f64,
    pub(super) answers: f64,
    pub(super) per_second: f64,
    pub(super) p50_us: f64,
    pub(super) p99_us: f64,
    pub(super) failed: f64,
}

pub(super) struct Load {
    generator: PathBuf,
    certificate: String,
    script: String,
}

/// WebSockets that are open; they are closed when this is dropped.
pub(super) struct Held(Child);

impl Load {
    pub(super) fn new(generator: PathBuf, folder: &Folder) -> Self {
        Self {
            generator,
            certificate: folder.path("cert.pem"),
            script: folder.path("report.lua"),
        }
    }

    /// The command that answers behind every server.
    pub(super) fn upstream(&self, port: u16) -> [String; 3] {
        let program = self.generator.display().to_string();
        [program, "upstream".into(), port.to_string()]
    }

    pub(super) fn measure(
        &self,
        kind: Kind,
        server: &Server,
        port: u16,
        seconds: u64,
    ) -> Result<Sample> {
        let before = server.cpu()?;
        let [answers, microseconds, p50_us, p99_us, failed] = match kind {
            Kind::Request => self.pages(port, seconds, &[])?,
            Kind::NewConnection => self.clients(port, seconds, "pages", &[])?,
            // wrk offers the last session again.
            Kind::ResumedConnection => self.pages(port, seconds, &["-H", "Connection: close"])?,
            Kind::Frame(bytes) => {
                self.clients(port, seconds, "frames", &["--bytes", &bytes.to_string()])?
            }
        };
        let spent = server.cpu()?.saturating_sub(before);
        Ok(Sample {
            cpu_us: spent.as_secs_f64() * 1e6 / answers.max(1.0),
            answers,
            per_second: answers * 1e6 / microseconds,
            p50_us,
            p99_us,
            failed,
        })
    }

    fn pages(&self, port: u16, seconds: u64, arguments: &[&str]) -> Result<[f64; 5]> {
        let output = Command::new("taskset")
            .args(["-c", "1", "wrk", "-t1", "-c32", "-s", &self.script])
            .arg(format!("-d{seconds}s"))
            .args(["-H", &format!("Authorization: Bearer {KEY}")])
            .args(arguments)
            .arg(format!("https://localhost:{port}/"))
            .output()
            .context("run wrk")?;
        let text = String::from_utf8_lossy(&output.stdout);
        let line = text
            .lines()
            .find_map(|line| line.strip_prefix("clawsec-bench "));
        let figures: Vec<f64> = line
            .with_context(|| format!("wrk said: {text}"))?
            .split(' ')
            .filter_map(|figure| figure.parse().ok())
            .collect();
        let Ok(figures) = figures.try_into() else {
            bail!("wrk said: {text}");
        };
        Ok(figures)
    }

    fn clients(&self, port: u16, seconds: u64, what: &str, arguments: &[&str]) -> Result<[f64; 5]> {
        let output = self
            .client(what, port)
            .args(arguments)
            .args(["--seconds", &seconds.to_string()])
            .output()
            .context("run clawsec-load")?;
        let said: Value = serde_json::from_slice(&output.stdout).with_context(|| {
            format!("clawsec-load: {}", String::from_utf8_lossy(&output.stderr))
        })?;
        let figure = |name: &str| {
            let figure = said.get(name).and_then(Value::as_f64);
            figure.with_context(|| format!("clawsec-load said: {said}"))
        };
        Ok([
            figure("answers")?,
            figure("microseconds")?,
            figure("p50Us")?,
            figure("p99Us")?,
            figure("failed")?,
        ])
    }

    /// Opens WebSockets and keeps them open.
    pub(super) fn hold_idle(&self, port: u16, count: u16) -> Result<Held> {
        let child = self
            .client("idle", port)
            .args(["--count", &count.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("run clawsec-load")?;
        let mut held = Held(child);
        let mut line = String::new();
        if let Some(stdout) = held.0.stdout.take() {
            BufReader::new(stdout)
                .read_line(&mut line)
                .context("read from clawsec-load")?;
        }
        if line.trim() != count.to_string() {
            bail!("not all of them are open");
        }
        Ok(held)
    }

    fn client(&self, what: &str, port: u16) -> Command {
        let mut command = Command::new("taskset");
        command
            .args(["-c", "1"])
            .arg(&self.generator)
            .args([what, &port.to_string()])
            .args(["--ca", &self.certificate, "--key", KEY]);
        command
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        // The end of its input is its sign to end.
        drop(self.0.stdin.take());
        let _reaped = self.0.wait();
    }
}
