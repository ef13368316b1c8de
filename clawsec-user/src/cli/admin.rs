//! How every command asks the running daemon.

use std::path::PathBuf;

use super::{ConfigArgument, Exit, Failure, output};
pub(crate) use crate::ops::words;
use crate::supervisor::admin::{Answer, Question, ask};

/// Which daemon to ask.
#[derive(Debug, clap::Args)]
pub(crate) struct SocketArguments {
    /// The daemon's admin socket [default: `gateway.admin.socket` of the configuration]
    #[arg(long, value_name = "PATH")]
    socket: Option<PathBuf>,
    #[command(flatten)]
    config: ConfigArgument,
}

impl SocketArguments {
    pub(crate) fn path(&self) -> Result<PathBuf, Failure> {
        match &self.socket {
            Some(path) => Ok(path.clone()),
            None => Ok(self.config.read()?.gateway.admin_socket),
        }
    }
}

pub(crate) fn status(arguments: &StatusArguments) -> CommandResult {
    match exchange(&arguments.socket, &Question::Status)? {
        Answer::Status(status) if arguments.json => print_json(&status)?,
        Answer::Status(status) => output::print(&describe(&status)),
        other => return Err(unexpected(&other)),
    }
    Ok(ExitCode::SUCCESS)
}

fn describe(status: &Status) -> String {
    let mut text = format!(
        "clawsec {}  up {}  policy generation {}\n\n",
        status.version,
        words(status.uptime_seconds),
        status.generation
    );
    if status.interfaces.is_empty() {
        text.push_str("packets   not filtered (no XDP); addresses are checked at accept\n");
    }
    for interface in &status.interfaces {
        let line = format!("packets   {:<12} {}\n", interface.name, interface.mode);
        text.push_str(&line);
        for step in &interface.steps_down {
            text.push_str(&format!("          {step}\n"));
        }
    }
    for reason in status.reasons.iter().filter(|reason| reason.packets > 0) {
        let verdict = if reason.drop { "dropped" } else { "passed" };
        let line = format!(
            "  {verdict:<8}{:<24}{:>14} packets\n",
            reason.name, reason.packets
        );
        text.push_str(&line);
    }
    text.push_str(&format!(
        "timed     {} bans, {} admissions\n",
        status.bans, status.admissions
    ));
    if let Some(memory) = status.kernel_memory {
        let mib = |bytes: u64| bytes.div_ceil(1 << 20);
        text.push_str(&format!(
            "memory    {} MiB of kernel maps, {} MiB at most\n",
            mib(memory.used_bytes),
            mib(memory.bound_bytes)
        ));
    }
    text.push_str(&format!(
        "gateway   {}\n",
        status
            .gateway_pid
            .map_or("not running".into(), |pid| format!("running, pid {pid}"))
    ));
    text.push_str(&format!("observer  {}\n", status.observer));
    text.push_str(&format!("node      {}\n", status.node));
    text.push_str(&format!("sandbox   {}\n", status.sandbox));
    let audit = if status.audit_writable {
        "writing"
    } else {
        "NOT WRITABLE"
    };
    text.push_str(&format!(
        "audit     {audit}, {} records, {} lost\n",
        status.audit_records, status.audit_lost
    ));
    for sink in &status.audit_sinks {
        let state = if sink.connected {
            ""
        } else {
            "NOT CONNECTED, "
        };
        let (name, sent, lost) = (&sink.name, sink.sent, sink.lost);
        text.push_str(&format!(
            "  sink    {name}: {state}{sent} sent, {lost} lost\n"
        ));
    }
    text
}

/// Asks; the daemon's own «no» becomes exit code 1.
pub(crate) fn exchange(socket: &SocketArguments, question: &Question) -> Result<Answer, Failure> {
    let path = socket.path()?;
    match ask(&path, question) {
        Ok(Answer::Refused { message }) => {
            Err(Failure::new(Exit::Finding, anyhow::anyhow!(message)))
        }
        Ok(answer) => Ok(answer),
        Err(error) => Err(Failure::absent(error)),
    }
}

pub(crate) fn unexpected(answer: &Answer) -> Failure {
    Failure::other(anyhow::anyhow!(
        "the daemon answered another question: {answer:?}"
    ))
}

pub(crate) fn print_json(value: &impl serde::Serialize) -> Result<(), Failure> {
    let text = serde_json::to_string_pretty(value).map_err(Failure::other)?;
    output::print(&format!("{text}\n"));
    Ok(())
}
