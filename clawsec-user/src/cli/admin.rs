//! `clawsec status` and `clawsec ban`: questions to the running daemon.

use std::net::IpAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use super::{CommandResult, ConfigArgument, Exit, Failure, output};
use crate::supervisor::admin::{Answer, Question, Status, ask};

#[derive(Debug, clap::Args)]
pub(crate) struct StatusArguments {
    #[command(flatten)]
    socket: SocketArguments,
    #[arg(long)]
    json: bool,
}

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

#[derive(Debug, clap::Subcommand)]
pub(crate) enum BanCommand {
    /// Drop every packet of a source to protected ports.
    Add {
        source: IpAddr,
        /// Such as 90s, 10m, 1h, 7d.
        #[arg(long = "for", value_name = "TIME", default_value = "1h", value_parser = duration)]
        duration: Duration,
        #[command(flatten)]
        socket: SocketArguments,
    },
    /// End a ban.
    Remove {
        source: IpAddr,
        #[command(flatten)]
        socket: SocketArguments,
    },
    /// List bans and what is left of them.
    List {
        #[command(flatten)]
        socket: SocketArguments,
        #[arg(long)]
        json: bool,
    },
}

pub(crate) fn ban(command: BanCommand) -> CommandResult {
    match command {
        BanCommand::Add {
            source,
            duration,
            socket,
        } => {
            let question = Question::BanAdd {
                source,
                seconds: duration.as_secs(),
            };
            expect_done(&socket, &question)?;
            output::print(&format!(
                "{source} is banned for {}\n",
                words(duration.as_secs())
            ));
        }
        BanCommand::Remove { source, socket } => {
            expect_done(&socket, &Question::BanRemove { source })?;
            output::print(&format!("{source} is no longer banned\n"));
        }
        BanCommand::List { socket, json } => match exchange(&socket, &Question::BanList)? {
            Answer::Bans(bans) if json => print_json(&bans)?,
            Answer::Bans(bans) if bans.is_empty() => output::print("no bans\n"),
            Answer::Bans(bans) => {
                for ban in bans {
                    let left = words(ban.seconds_left);
                    output::print(&format!("{:<40} {left} left\n", ban.source.to_string()));
                }
            }
            other => return Err(unexpected(&other)),
        },
    }
    Ok(ExitCode::SUCCESS)
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
    text.push_str(&format!("bans      {}\n", status.bans));
    text.push_str(&format!(
        "gateway   {}\n",
        status
            .gateway_pid
            .map_or("not running".into(), |pid| format!("running, pid {pid}"))
    ));
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
    text
}

fn expect_done(socket: &SocketArguments, question: &Question) -> Result<(), Failure> {
    match exchange(socket, question)? {
        Answer::Done => Ok(()),
        other => Err(unexpected(&other)),
    }
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

fn print_json(value: &impl serde::Serialize) -> Result<(), Failure> {
    let text = serde_json::to_string_pretty(value).map_err(Failure::other)?;
    output::print(&format!("{text}\n"));
    Ok(())
}

/// Reads `90s`, `10m`, `1h`, `7d`.
fn duration(text: &str) -> Result<Duration, String> {
    let (number, unit) = text.split_at(text.len() - text.chars().last().map_or(0, char::len_utf8));
    let factor = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3600,
        "d" => 86_400,
        _ => return Err("a time is a number and s, m, h or d, such as 90s or 1h".into()),
    };
    let number: u64 = number
        .parse()
        .map_err(|error| format!("{number:?} is no whole number: {error}"))?;
    let seconds = number.checked_mul(factor).filter(|&seconds| seconds > 0);
    seconds
        .map(Duration::from_secs)
        .ok_or_else(|| "a time must be at least 1s".into())
}

fn words(seconds: u64) -> String {
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3600 => format!("{}m{:02}s", seconds / 60, seconds % 60),
        3600..86_400 => format!("{}h{:02}m", seconds / 3600, seconds % 3600 / 60),
        _ => format!("{}d{:02}h", seconds / 86_400, seconds % 86_400 / 3600),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_and_written() {
        let rows = [
            ("90s", Some(90)),
            ("10m", Some(600)),
            ("1h", Some(3600)),
            ("2d", Some(172_800)),
        ];
        for (text, expected) in rows {
            assert_eq!(duration(text).ok().map(|d| d.as_secs()), expected, "{text}");
        }
        for text in [
            "",
            "h",
            "1",
            "-1h",
            "0s",
            "1w",
            "99999999999999999999d",
            "1µ",
        ] {
            assert!(duration(text).is_err(), "{text}");
        }
        assert_eq!(words(59), "59s");
        assert_eq!(words(3661), "1h01m");
    }
}
