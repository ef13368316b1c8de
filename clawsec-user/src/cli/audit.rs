//! `clawsec audit`: reads the log and its rotated parts, without the daemon.
//!
//! Invariant: nothing here writes to the log. What a person sees is neutralised, so that a line
//! which was tampered with cannot drive the terminal.

use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Subcommand};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::{CommandResult, ConfigArgument, Exit, Failure, output};
use crate::audit::{
    Chain, HeadCheck, LogReader, Ranked, ReadError, Record, Report, Stamp, Stats, StatsBuilder,
    last_lines, neutralise, verify,
};
use crate::config::Secret;
use crate::event::{EventKind, Outcome};

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
    /// Check a copy that lacks its head file; a cut tail cannot be seen then
    #[arg(long)]
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
    let (lines, mut follower) = last_lines(&path, arguments.lines).map_err(absent)?;
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
    let head = if arguments.no_head {
        HeadCheck::Skipped
    } else {
        HeadCheck::Required
    };
    let report = verify(&path, &Chain::new(key.as_ref()), head).map_err(absent)?;
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

/// One record, one line, columns aligned.
fn human_line(line: &[u8], paint: Paint) -> String {
    let Ok(record) = Record::parse(line) else {
        let text = String::from_utf8_lossy(line);
        let start = &text[..text.floor_char_boundary(120)];
        return format!("{}  {}", paint.red("not a record"), neutralise(start));
    };
    let time = record.ts.to_string();
    // `2026-01-31 23:59:59.123`: microseconds are in the JSON.
    let time = time.get(..23).unwrap_or(&time).replace('T', " ");
    let source = record
        .src
        .map_or_else(String::new, |src| match (src.ip, src.port) {
            (std::net::IpAddr::V6(ip), Some(port)) => format!("[{ip}]:{port}"),
            (ip, Some(port)) => format!("{ip}:{port}"),
            (ip, None) => ip.to_string(),
        });
    let who = match (&record.principal, &record.user) {
        (Some(principal), Some(user)) => format!("{principal}/{user}"),
        (principal, user) => principal
            .clone()
            .or_else(|| user.clone())
            .unwrap_or_default(),
    };
    let event = format!("{}.{}", record.event.as_str(), record.action);
    let tool = record.tool.as_ref().map_or("", |tool| tool.name.as_str());
    let count = match record.occurrences() {
        0 | 1 => String::new(),
        many => format!("×{many}"),
    };
    let outcome = paint.outcome(record.outcome, &format!("{:<5}", record.outcome.as_str()));
    let row = format!(
        "{}  {outcome} {} {} {} {} {} {:>7}  {}",
        paint.dim(&time),
        cell(&event, 18),
        cell(&record.reason, 20),
        cell(&source, 21),
        cell(&who, 14),
        cell(tool, 10),
        count,
        details(&record),
    );
    row.trim_end().to_owned()
}

fn details(record: &Record) -> String {
    let mut parts = Vec::new();
    if let Some(rule) = &record.rule {
        parts.push(format!("by {}", neutralise(rule)));
    }
    if let Some(sandbox) = &record.sandbox {
        let end = match (sandbox.exit, sandbox.signal) {
            _ if sandbox.timed_out => "timed out".to_owned(),
            _ if sandbox.oom => "out of memory".to_owned(),
            (Some(exit), _) => format!("exit {exit}"),
            (None, Some(signal)) => format!("signal {signal}"),
            (None, None) => "not run".to_owned(),
        };
        parts.push(format!(
            "{} {end} {} ms",
            neutralise(&sandbox.provider),
            sandbox.duration_ms
        ));
    }
    if let Some(totals) = record.totals.as_ref().filter(|totals| !totals.is_empty()) {
        let total = |(reason, total): (&String, &u64)| format!("{}={total}", neutralise(reason));
        parts.push(totals.iter().map(total).collect::<Vec<_>>().join(" "));
    }
    if let Some(detail) = &record.detail {
        parts.push(neutralise(detail).into_owned());
    }
    parts.join(" · ")
}

/// Neutralised, padded, and longer than its column only when it must be read whole.
fn cell(text: &str, width: usize) -> String {
    let text = if text.is_empty() { "-" } else { text };
    format!("{:<width$}", neutralise(text))
}

/// A line of the file; what is no record could hold anything, so it is neutralised.
fn raw_line(line: &[u8]) -> String {
    let text = String::from_utf8_lossy(line);
    neutralise(&text).into_owned()
}

fn stats_text(stats: &Stats, paint: Paint) -> String {
    let mut text = String::new();
    let span = match (stats.first, stats.last) {
        (Some(first), Some(last)) => format!("{first} to {last}"),
        _ => "nothing recorded".to_owned(),
    };
    // Writing to a String cannot fail.
    let _written = writeln!(text, "{} records, {span}\n", stats.records);
    let _written = writeln!(
        text,
        "{}",
        paint.dim("event          allow       deny      error")
    );
    for kind in EventKind::ALL {
        let Some(outcomes) = stats.totals.get(&kind) else {
            continue;
        };
        let _written = write!(text, "{:<10}", kind.as_str());
        for outcome in [Outcome::Allow, Outcome::Deny, Outcome::Error] {
            let count = outcomes.get(&outcome).copied().unwrap_or(0);
            let padded = format!("{count:>10}");
            let shown = if count == 0 {
                paint.dim(&padded)
            } else {
                paint.outcome(outcome, &padded)
            };
            let _written = write!(text, " {shown}");
        }
        text.push('\n');
    }
    for (title, ranking) in [
        ("reasons", &stats.reasons),
        ("sources", &stats.sources),
        ("principals", &stats.principals),
        ("users", &stats.users),
        ("tools", &stats.tools),
    ] {
        ranking_text(&mut text, title, ranking, paint);
    }
    if stats.not_attributed > 0 {
        let _written = writeln!(
            text,
            "\n{} kernel drops without a source",
            stats.not_attributed
        );
    }
    for (count, what) in [
        (stats.lost, "events could not be written"),
        (stats.unreadable, "lines are not records"),
    ] {
        if count > 0 {
            let _written = writeln!(text, "\n{}", paint.red(&format!("{count} {what}")));
        }
    }
    histogram_text(&mut text, stats, paint);
    text
}

fn ranking_text(text: &mut String, title: &str, ranking: &[Ranked], paint: Paint) {
    if ranking.is_empty() {
        return;
    }
    let heading = format!("{title:<42} {:>10} {:>10}", "count", "denied");
    let _written = writeln!(text, "\n{}", paint.dim(&heading));
    for row in ranking {
        let denied = format!("{:>10}", row.denied);
        let denied = if row.denied == 0 {
            paint.dim(&denied)
        } else {
            paint.red(&denied)
        };
        let _written = writeln!(text, "{} {:>10} {denied}", cell(&row.name, 42), row.count);
    }
}

fn histogram_text(text: &mut String, stats: &Stats, paint: Paint) {
    let most = stats
        .histogram
        .iter()
        .map(|b| b.allow + b.deny + b.error)
        .max()
        .unwrap_or(0);
    if most == 0 {
        return;
    }
    let width = if stats.bucket_seconds == 60 {
        "minute"
    } else {
        "hour"
    };
    let heading = format!(
        "per {width:<12} {:>10} {:>10} {:>10}",
        "allow", "deny", "error"
    );
    let _written = writeln!(text, "\n{}", paint.dim(&heading));
    let skipped = stats.histogram.len().saturating_sub(BUCKETS_SHOWN);
    for bucket in &stats.histogram[skipped..] {
        let start = bucket.start.to_string();
        let start = start.get(..16).unwrap_or(&start).replace('T', " ");
        let bar = |count: u64| {
            let share = u128::from(count) * BAR_WIDTH / u128::from(most);
            // Whatever happened is seen, however little beside the rest.
            let cells = usize::try_from(share)
                .unwrap_or(0)
                .max(usize::from(count > 0));
            "█".repeat(cells)
        };
        let _written = writeln!(
            text,
            "{start} {:>10} {:>10} {:>10}  {}{}{}",
            bucket.allow,
            bucket.deny,
            bucket.error,
            paint.outcome(Outcome::Allow, &bar(bucket.allow)),
            paint.outcome(Outcome::Deny, &bar(bucket.deny)),
            paint.outcome(Outcome::Error, &bar(bucket.error)),
        );
    }
}

fn report_text(report: &Report, path: &Path, paint: Paint) -> String {
    let mut text = String::new();
    let range = match (report.first_seq, report.last_seq) {
        (Some(first), Some(last)) => format!("records {first} to {last}"),
        _ => "no records".to_owned(),
    };
    match &report.problem {
        None => {
            let _written = writeln!(
                text,
                "{}  {}: {range}, chain whole, {} checkpoints agree with the sums",
                paint.green("ok"),
                path.display(),
                report.checkpoints
            );
        }
        Some(problem) => {
            let kind = serde_json::to_value(problem.kind).unwrap_or_default();
            let _written = writeln!(
                text,
                "{}  {}: {} at record {}, {}",
                paint.red("BAD"),
                path.display(),
                kind.as_str().unwrap_or("problem"),
                problem
                    .seq
                    .map_or_else(|| "?".to_owned(), |seq| seq.to_string()),
                neutralise(&problem.detail)
            );
            if problem.line > 0 {
                let file = problem.file.display();
                let (line, offset) = (problem.line, problem.offset);
                let _written = writeln!(text, "     {file}, line {line}, byte {offset}");
            }
            let _written = writeln!(text, "     good before it: {range}");
        }
    }
    if report.torn_bytes > 0 {
        let _written = writeln!(
            text,
            "     {} bytes after the last whole line",
            report.torn_bytes
        );
    }
    text
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

/// Colour, or none.
#[derive(Debug, Clone, Copy)]
struct Paint {
    on: bool,
}

impl Paint {
    fn of_stdout() -> Self {
        Self {
            on: output::colour(),
        }
    }

    fn outcome(self, outcome: Outcome, text: &str) -> String {
        match outcome {
            Outcome::Allow => self.green(text),
            Outcome::Deny => self.red(text),
            Outcome::Error => self.with("33", text),
        }
    }

    fn green(self, text: &str) -> String {
        self.with("32", text)
    }

    fn red(self, text: &str) -> String {
        self.with("31", text)
    }

    fn dim(self, text: &str) -> String {
        self.with("2", text)
    }

    fn with(self, code: &str, text: &str) -> String {
        if self.on && !text.is_empty() {
            format!("\u{1b}[{code}m{text}\u{1b}[0m")
        } else {
            text.to_owned()
        }
    }
}

const HEADING: &str = "time (UTC)               what  event              reason               source                who            tool         count  detail";
/// How long a follower waits before it looks again: 200 ms.
const POLL: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: 200_000_000,
};
const BUCKETS_SHOWN: usize = 48;
const BAR_WIDTH: u128 = 40;

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
