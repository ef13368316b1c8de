//! `clawsec audit`: reads the log and its rotated parts, without the daemon.
//!
//! Invariant: nothing here writes to the log. What a person sees is neutralised, so that a line
//! which was tampered with cannot drive the terminal.

mod meter;
mod text;

use std::io::{self, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Subcommand};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use self::meter::Meter;
use self::text::{HEADING, Paint, human_line, raw_line, report_text, stats_text};
use super::{CommandResult, ConfigArgument, Exit, Failure, output};
use crate::audit::{
    Chain, HeadCheck, LogReader, ReadError, Stamp, StatsBuilder, last_lines, verify,
};
use crate::config::Secret;

#[derive(Debug, Subcommand)]
pub(crate) enum AuditCommand {
    /// Show the last records, and what is added to them.
    Tail(TailArguments),
    /// Totals, top sources, users, tools and reasons, and when.
    Stats(StatsArguments),
    /// Check the hash chain and the sums; name the first bad record.
    Verify(VerifyArguments),
}

/// Which log; by default the one the configuration names.
#[derive(Debug, Args)]
pub(crate) struct LogArgument {
    #[command(flatten)]
    config: ConfigArgument,
    /// The log itself, without a configuration
    #[arg(long, value_name = "FILE", conflicts_with = "config")]
    path: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct TailArguments {
    #[command(flatten)]
    log: LogArgument,
    /// Go on showing what is added
    #[arg(short, long)]
    follow: bool,
    /// How many records to begin with
    #[arg(short = 'n', long, value_name = "N", default_value_t = 20)]
    lines: usize,
    /// The lines as they stand in the file
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct StatsArguments {
    #[command(flatten)]
    log: LogArgument,
    /// Only records from then on: `90s`, `30m`, `6h`, `7d` ago, or an RFC 3339 time
    #[arg(long, value_name = "WHEN", value_parser = parse_since)]
    since: Option<Stamp>,
    /// How many names of each kind
    #[arg(long, value_name = "N", default_value_t = 10)]
    top: usize,
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct VerifyArguments {
    #[command(flatten)]
    log: LogArgument,
    /// A file holding the chain key, when there is no configuration at hand
    #[arg(long, value_name = "FILE")]
    key_file: Option<PathBuf>,
    /// Hold the log against this copy of its head file, which was kept elsewhere
    #[arg(long, value_name = "FILE")]
    head: Option<PathBuf>,
    /// Check a copy that lacks its head file; a cut tail cannot be seen then
    #[arg(long, conflicts_with = "head")]
    no_head: bool,
    #[arg(long)]
    json: bool,
}

/// Runs one of the audit commands.
pub(crate) fn run(command: AuditCommand) -> CommandResult {
    match command {
        AuditCommand::Tail(arguments) => tail(&arguments),
        AuditCommand::Stats(arguments) => stats(&arguments),
        AuditCommand::Verify(arguments) => check(&arguments),
    }
}

fn tail(arguments: &TailArguments) -> CommandResult {
    let (path, _) = arguments.log.find()?;
    let (lines, mut follower) = last_lines(&path, arguments.lines, &|_| true).map_err(absent)?;
    let paint = Paint::of_stdout();
    if !arguments.json && paint.on {
        output::print(&format!("{}\n", paint.dim(HEADING)));
    }
    let show = |lines: &[Vec<u8>]| {
        let mut text = String::new();
        for line in lines {
            if arguments.json {
                text.push_str(&raw_line(line));
            } else {
                text.push_str(&human_line(line, paint));
            }
            text.push('\n');
        }
        print_to_reader(&text)
    };
    let mut open = show(&lines);
    while arguments.follow && open {
        let lines = follower.poll().map_err(Failure::other)?;
        if lines.is_empty() {
            open = wait_for_more();
        } else {
            open = show(&lines);
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn stats(arguments: &StatsArguments) -> CommandResult {
    let (path, _) = arguments.log.find()?;
    let mut reader = LogReader::open(&path).map_err(absent)?;
    let mut builder = StatsBuilder::since(arguments.since);
    while let Some(line) = reader.next_line().map_err(Failure::other)? {
        if line.complete {
            builder.line(line.text);
        }
    }
    let stats = builder.finish(arguments.top);
    let text = if arguments.json {
        serde_json::to_string(&stats).map_err(Failure::other)? + "\n"
    } else {
        stats_text(&stats, Paint::of_stdout())
    };
    output::print(&text);
    Ok(ExitCode::SUCCESS)
}

fn check(arguments: &VerifyArguments) -> CommandResult {
    let (path, configured) = arguments.log.find()?;
    let key = match &arguments.key_file {
        None => configured,
        Some(file) => {
            let text = std::fs::read_to_string(file).map_err(|error| {
                let context = format!("cannot read the chain key in {}", file.display());
                Failure::usage(anyhow::Error::new(error).context(context))
            })?;
            Some(Secret::new(text.trim_end().to_owned()))
        }
    };
    let head = match &arguments.head {
        Some(copy) => HeadCheck::Copy(copy.clone()),
        None if arguments.no_head => HeadCheck::Skipped,
        None => HeadCheck::Required,
    };
    let chain = Chain::new(key.as_ref());
    let mut meter = Meter::new();
    let report = verify(&path, &chain, &head, &mut |at| meter.at(at)).map_err(absent)?;
    drop(meter);
    let text = if arguments.json {
        serde_json::to_string(&report).map_err(Failure::other)? + "\n"
    } else {
        report_text(&report, &path, Paint::of_stdout())
    };
    output::print(&text);
    Ok(if report.ok {
        ExitCode::SUCCESS
    } else {
        ExitCode::from(Exit::Finding as u8)
    })
}

impl LogArgument {
    fn find(&self) -> Result<(PathBuf, Option<Secret>), Failure> {
        if let Some(path) = &self.path {
            return Ok((path.clone(), None));
        }
        let audit = self.config.read()?.audit;
        Ok((audit.path, audit.chain_key))
    }
}

/// `90s`, `30m`, `6h`, `7d`, or a time.
fn parse_since(text: &str) -> Result<Stamp, String> {
    let unit_seconds = match text.as_bytes().last() {
        Some(b's') => Some(1),
        Some(b'm') => Some(60),
        Some(b'h') => Some(3600),
        Some(b'd') => Some(86_400),
        _ => None,
    };
    if let Some(unit) = unit_seconds
        && let Ok(number) = text[..text.len() - 1].parse::<u32>()
    {
        let micros = i64::from(number) * unit * 1_000_000;
        return Ok(Stamp::from_micros(Stamp::now().micros() - micros));
    }
    Stamp::parse(text).ok_or_else(|| "not like 90s, 30m, 6h, 7d or 2026-01-31T12:00:00Z".to_owned())
}

fn absent(error: ReadError) -> Failure {
    match error {
        ReadError::Missing { .. } => Failure::absent(error),
        other => Failure::other(other),
    }
}

/// Prints; false when nobody reads any more, which ends a `tail -f`.
fn print_to_reader(text: &str) -> bool {
    let mut stdout = io::stdout().lock();
    stdout
        .write_all(text.as_bytes())
        .and_then(|()| stdout.flush())
        .is_ok()
}

/// Waits a little; false at once when the reader of standard output has gone away.
fn wait_for_more() -> bool {
    let stdout = io::stdout();
    // No event is asked for: only errors and hang-ups, which are always given, end the wait.
    let mut descriptors = [PollFd::new(&stdout, PollFlags::empty())];
    match poll(&mut descriptors, Some(&POLL)) {
        Ok(0) => true,
        Ok(_) => false,
        // Interrupted by a signal that did not end us.
        Err(_) => {
            std::thread::sleep(Duration::from_millis(10));
            true
        }
    }
}

/// How long a follower waits before it looks again: 200 ms.
const POLL: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: 200_000_000,
};

#[cfg(test)]
mod tests {
    use super::*;

    const LINE: &str = r#"{"v":1,"seq":3,"ts":"2026-01-01T00:00:00.123456Z","event":"tool","action":"invoke","outcome":"deny","reason":"tool_denied","rule":"tools.deny[0]","src":{"ip":"2001:db8::1","port":443},"principal":"phone","tool":{"name":"exec","args_bytes":3},"count":4,"prev":"0000000000000000000000000000000000000000000000000000000000000000","hash":"0000000000000000000000000000000000000000000000000000000000000000"}"#;

    #[test]
    fn a_record_is_one_aligned_line() {
        let text = human_line(LINE.as_bytes(), Paint { on: false });
        assert_eq!(
            text,
            "2026-01-01 00:00:00.123  deny  tool.invoke        tool_denied          \
             [2001:db8::1]:443     phone          exec            ×4  by tools.deny[0]"
        );
        let heading: Vec<_> = ["what", "event", "reason", "source", "who", "tool"]
            .map(|name| HEADING.find(name))
            .into();
        let row: Vec<_> = ["deny", "tool.inv", "tool_denied", "[2001", "phone", "exec"]
            .map(|name| text.find(name))
            .into();
        assert_eq!(heading, row, "the heading stands over its columns");
    }

    #[test]
    fn a_tampered_line_cannot_drive_the_terminal() {
        let escape = "{\"v\":1}\u{1b}[2J\u{9b}31m";
        for text in [
            human_line(escape.as_bytes(), Paint { on: false }),
            raw_line(escape.as_bytes()),
        ] {
            assert!(!text.contains(char::is_control), "{text:?}");
        }
        let parsed = LINE.replace("phone", "ph\\u001b[31mone");
        let text = human_line(parsed.as_bytes(), Paint { on: false });
        assert!(!text.contains(char::is_control), "{text:?}");
    }

    #[test]
    fn since_takes_spans_and_times() {
        let now = Stamp::now().micros();
        let hour = parse_since("1h").unwrap().micros();
        assert!((now - 3_600_000_000 - hour).abs() < 60_000_000);
        assert_eq!(
            parse_since("2026-01-01T00:00:00Z"),
            Ok(Stamp::from_micros(1_767_225_600_000_000))
        );
        for bad in ["", "h", "-1h", "soon", "1w", "é"] {
            assert!(parse_since(bad).is_err(), "{bad:?}");
        }
    }
}
