//! `clawsec ban` and `clawsec allow`: sources that are dropped or admitted for a time.

use std::net::IpAddr;
use std::process::ExitCode;
use std::time::Duration;

use ipnet::IpNet;

use super::admin::{SocketArguments, exchange, print_json, unexpected, words};
use super::{CommandResult, Failure, output};
use crate::supervisor::admin::{Answer, Entry, Kind, Question};

#[derive(Debug, clap::Subcommand)]
pub(crate) enum BanCommand {
    /// Drop every packet of a source to protected ports.
    Add {
        #[command(flatten)]
        add: AddArguments,
        /// Such as 90s, 10m, 1h, 7d.
        #[arg(long = "for", value_name = "TIME", default_value = "1h", value_parser = duration)]
        duration: Duration,
        /// Even if it cuts off an SSH session to this machine.
        #[arg(long)]
        yes: bool,
    },
    /// End a ban.
    Remove(RemoveArguments),
    /// List bans, their ends and notes.
    List(ListArguments),
}

#[derive(Debug, clap::Subcommand)]
pub(crate) enum AllowCommand {
    /// Admit a source that no rule of the configuration admits.
    Add {
        #[command(flatten)]
        add: AddArguments,
        /// Such as 90s, 10m, 8h, 7d.
        #[arg(long = "for", value_name = "TIME", value_parser = duration)]
        duration: Duration,
    },
    /// End an admission.
    Remove(RemoveArguments),
    /// List admissions, their ends and notes.
    List(ListArguments),
}

#[derive(Debug, clap::Args)]
pub(crate) struct AddArguments {
    /// An address or a prefix.
    #[arg(value_name = "IP|CIDR", value_parser = prefix)]
    prefix: IpNet,
    /// Why: kept with it, shown by `list`, and recorded.
    #[arg(long, value_name = "TEXT")]
    note: Option<String>,
    #[command(flatten)]
    socket: SocketArguments,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, clap::Args)]
pub(crate) struct RemoveArguments {
    /// As it was added.
    #[arg(value_name = "IP|CIDR", value_parser = prefix)]
    prefix: IpNet,
    #[command(flatten)]
    socket: SocketArguments,
}

#[derive(Debug, clap::Args)]
pub(crate) struct ListArguments {
    #[command(flatten)]
    socket: SocketArguments,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(crate) fn ban(command: BanCommand) -> CommandResult {
    match command {
        BanCommand::Add { add, duration, yes } => self::add(Kind::Ban, add, duration, yes),
        BanCommand::Remove(arguments) => remove(Kind::Ban, &arguments),
        BanCommand::List(arguments) => list(Kind::Ban, &arguments),
    }
}

pub(crate) fn allow(command: AllowCommand) -> CommandResult {
    match command {
        AllowCommand::Add { add, duration } => self::add(Kind::Allow, add, duration, false),
        AllowCommand::Remove(arguments) => remove(Kind::Allow, &arguments),
        AllowCommand::List(arguments) => list(Kind::Allow, &arguments),
    }
}

fn add(kind: Kind, arguments: AddArguments, duration: Duration, yes: bool) -> CommandResult {
    let question = Question::TimedAdd {
        kind,
        prefix: arguments.prefix,
        seconds: duration.as_secs(),
        note: arguments.note,
        yes,
    };
    match exchange(&arguments.socket, &question)? {
        Answer::Added(entry) if arguments.json => print_json(&entry)?,
        Answer::Added(entry) => output::print(&format!(
            "{} is {} for {}, until {}\n",
            name(entry.prefix),
            done(kind),
            words(entry.seconds_left),
            entry.until
        )),
        other => return Err(unexpected(&other)),
    }
    Ok(ExitCode::SUCCESS)
}

fn remove(kind: Kind, arguments: &RemoveArguments) -> CommandResult {
    let prefix = arguments.prefix;
    match exchange(&arguments.socket, &Question::TimedRemove { kind, prefix })? {
        Answer::Done => {
            let done = done(kind);
            output::print(&format!("{} is no longer {done}\n", name(prefix)));
            Ok(ExitCode::SUCCESS)
        }
        other => Err(unexpected(&other)),
    }
}

/// Prints page by page: there may be a million.
fn list(kind: Kind, arguments: &ListArguments) -> CommandResult {
    let mut after = None;
    let mut is_first = true;
    loop {
        let question = Question::TimedList { kind, after };
        let (entries, more) = match exchange(&arguments.socket, &question)? {
            Answer::Entries { entries, more } => (entries, more),
            other => return Err(unexpected(&other)),
        };
        after = entries.last().map(|entry| entry.prefix).or(after);
        let mut text = String::new();
        for entry in entries.iter().filter(|entry| entry.seconds_left > 0) {
            if arguments.json {
                let entry = serde_json::to_string(entry).map_err(Failure::other)?;
                text.push_str(if is_first { "[\n  " } else { ",\n  " });
                text.push_str(&entry);
            } else {
                text.push_str(&row(entry));
            }
            is_first = false;
        }
        output::print(&text);
        if !more {
            break;
        }
    }
    match (arguments.json, is_first) {
        (true, true) => output::print("[]\n"),
        (true, false) => output::print("\n]\n"),
        (false, true) if kind == Kind::Ban => output::print("no bans\n"),
        (false, true) => output::print("no admissions\n"),
        (false, false) => {}
    }
    Ok(ExitCode::SUCCESS)
}

fn row(entry: &Entry) -> String {
    let mut text = format!(
        "{:<40} {:>8} left, until {}  {}",
        name(entry.prefix),
        words(entry.seconds_left),
        entry.until,
        entry.by
    );
    if let Some(note) = &entry.note {
        // It was judged when it was taken in; a terminal is worth a second look.
        text.push_str("  ");
        text.extend(note.chars().filter(|c| !c.is_control()));
    }
    text.push('\n');
    text
}

fn done(kind: Kind) -> &'static str {
    match kind {
        Kind::Ban => "banned",
        Kind::Allow => "admitted",
    }
}

/// A host without its length.
fn name(prefix: IpNet) -> String {
    if prefix.prefix_len() == prefix.max_prefix_len() {
        prefix.addr().to_string()
    } else {
        prefix.to_string()
    }
}

/// An address, or a prefix without bits after its length.
fn prefix(text: &str) -> Result<IpNet, String> {
    if let Ok(address) = text.parse::<IpAddr>() {
        return Ok(IpNet::from(address));
    }
    let net: IpNet = text.parse().map_err(|_not_a_prefix| {
        "expected an address or a prefix, such as 192.0.2.7 or 192.0.2.0/24".to_owned()
    })?;
    if net.trunc() != net {
        return Err(format!(
            "{net} has bits set after its length: write {} or {}",
            net.trunc(),
            net.addr()
        ));
    }
    Ok(net)
}

/// Reads `90s`, `10m`, `1h`, `7d`.
pub(super) fn duration(text: &str) -> Result<Duration, String> {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read() {
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
    }

    #[test]
    fn a_prefix_is_an_address_or_has_no_bits_after_its_length() {
        for (text, expected) in [
            ("192.0.2.7", Ok("192.0.2.7/32")),
            ("192.0.2.0/24", Ok("192.0.2.0/24")),
            ("2001:db8::/32", Ok("2001:db8::/32")),
            ("0.0.0.0/0", Ok("0.0.0.0/0")),
            (
                "192.0.2.7/24",
                Err("192.0.2.7/24 has bits set after its length: write 192.0.2.0/24 or 192.0.2.7"),
            ),
            (
                "home",
                Err("expected an address or a prefix, such as 192.0.2.7 or 192.0.2.0/24"),
            ),
        ] {
            let found = prefix(text).map(|net| net.to_string());
            let expected = expected.map(str::to_owned).map_err(str::to_owned);
            assert_eq!(found, expected, "{text}");
        }
    }
}
