//! Records, totals and verdicts as a person reads them.

use std::fmt::Write as _;
use std::path::Path;

use crate::audit::{Ranked, Record, Report, Stats, neutralise};
use crate::cli::output;
use crate::event::{EventKind, Outcome};

/// One record, one line, columns aligned.
pub(super) fn human_line(line: &[u8], paint: Paint) -> String {
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

pub(super) fn details(record: &Record) -> String {
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
pub(super) fn cell(text: &str, width: usize) -> String {
    let text = if text.is_empty() { "-" } else { text };
    format!("{:<width$}", neutralise(text))
}

/// A line of the file; what is no record could hold anything, so it is neutralised.
pub(super) fn raw_line(line: &[u8]) -> String {
    let text = String::from_utf8_lossy(line);
    neutralise(&text).into_owned()
}

pub(super) fn stats_text(stats: &Stats, paint: Paint) -> String {
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

pub(super) fn ranking_text(text: &mut String, title: &str, ranking: &[Ranked], paint: Paint) {
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

pub(super) fn histogram_text(text: &mut String, stats: &Stats, paint: Paint) {
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

pub(super) fn report_text(report: &Report, path: &Path, paint: Paint) -> String {
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
            let at = match problem.seq {
                Some(seq) => format!(" at record {seq}"),
                None => String::new(),
            };
            let _written = writeln!(
                text,
                "{}  {}: {}{at}, {}",
                paint.red("BAD"),
                path.display(),
                kind.as_str().unwrap_or("problem"),
                neutralise(&problem.detail)
            );
            let file = problem.file.display();
            if problem.line > 0 {
                let (line, offset) = (problem.line, problem.offset);
                let _written = writeln!(text, "     {file}, line {line}, byte {offset}");
            } else {
                let _written = writeln!(text, "     {file}");
            }
            let _written = writeln!(text, "     good before it: {range}");
        }
    }
    if report.chain_notices > 0 {
        let _written = writeln!(
            text,
            "     {} times the daemon itself found the log changed: clawsec audit query --action chain",
            report.chain_notices
        );
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

/// Colour, or none.
#[derive(Debug, Clone, Copy)]
pub(super) struct Paint {
    pub(super) on: bool,
}

impl Paint {
    pub(super) fn of_stdout() -> Self {
        Self {
            on: output::colour(),
        }
    }

    pub(super) fn outcome(self, outcome: Outcome, text: &str) -> String {
        match outcome {
            Outcome::Allow => self.green(text),
            Outcome::Deny => self.red(text),
            Outcome::Error => self.with("33", text),
        }
    }

    pub(super) fn green(self, text: &str) -> String {
        self.with("32", text)
    }

    pub(super) fn red(self, text: &str) -> String {
        self.with("31", text)
    }

    pub(super) fn dim(self, text: &str) -> String {
        self.with("2", text)
    }

    pub(super) fn with(self, code: &str, text: &str) -> String {
        if self.on && !text.is_empty() {
            format!("\u{1b}[{code}m{text}\u{1b}[0m")
        } else {
            text.to_owned()
        }
    }
}

pub(super) const HEADING: &str = "time (UTC)               what  event              reason               source                who            tool         count  detail";
pub(super) const BUCKETS_SHOWN: usize = 48;
pub(super) const BAR_WIDTH: u128 = 40;
