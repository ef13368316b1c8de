//! Records and verdicts as a person reads them.

use std::fmt::Write as _;
use std::path::Path;

use serde_json::Value;

use crate::audit::{Record, Report, neutralise, neutralise_json};
use crate::cli::output;
use crate::event::Outcome;

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
pub(super) fn json_line(line: &[u8]) -> String {
    neutralise_json(&String::from_utf8_lossy(line)).into_owned()
}

/// One record, one field a line; without what only the chain needs.
pub(super) fn every_field(line: &[u8], paint: Paint) -> String {
    let Ok(Value::Object(fields)) = serde_json::from_slice(line) else {
        return human_line(line, paint) + "\n";
    };
    let mut text = format!("{}\n", human_line(line, paint));
    for (name, value) in fields {
        if !["v", "prev", "hash"].contains(&name.as_str()) {
            field(&mut text, &name, &value, paint);
        }
    }
    text.push('\n');
    text
}

fn field(text: &mut String, name: &str, value: &Value, paint: Paint) {
    if let Value::Object(inner) = value {
        for (inner_name, value) in inner {
            field(text, &format!("{name}.{inner_name}"), value, paint);
        }
        return;
    }
    let value = match value {
        Value::String(value) => value.clone(),
        other => other.to_string(),
    };
    let name = format!("{:<22}", neutralise(name));
    text.push_str(&format!(
        "    {} {}\n",
        paint.dim(&name),
        neutralise(&value)
    ));
}

pub(super) fn report(report: &Report, path: &Path, paint: Paint) -> String {
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

#[cfg(test)]
mod tests {
    use super::*;

    const LINE: &str = r#"{"v":1,"seq":3,"ts":"2026-01-01T00:00:00.123456Z","event":"tool","action":"invoke","outcome":"deny","reason":"tool_denied","rule":"tools.deny[0]","src":{"ip":"2001:db8::1","port":443},"principal":"phone","tool":{"name":"exec","args_bytes":3},"count":4,"prev":"0000000000000000000000000000000000000000000000000000000000000000","hash":"0000000000000000000000000000000000000000000000000000000000000000"}"#;
    const OFF: Paint = Paint { on: false };

    #[test]
    fn a_record_is_one_aligned_line() {
        let text = human_line(LINE.as_bytes(), OFF);
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
    fn every_field_is_shown_but_the_chain() {
        let text = every_field(LINE.as_bytes(), OFF);
        for (name, value) in [
            ("seq", "3"),
            ("src.ip", "2001:db8::1"),
            ("tool.args_bytes", "3"),
        ] {
            assert!(
                text.contains(&format!("    {name:<22} {value}\n")),
                "{text}"
            );
        }
        assert!(!text.contains("prev") && !text.contains("hash"), "{text}");
    }

    #[test]
    fn a_tampered_line_cannot_drive_the_terminal() {
        let safe = |text: &str| !text.replace('\n', "").contains(char::is_control);
        let escape = "{\"v\":1}\u{1b}[2J\u{9b}31m";
        let parsed = LINE.replace("phone", "ph\\u001b[31m\\u202eone");
        for line in [escape, &parsed] {
            for text in [
                human_line(line.as_bytes(), OFF),
                every_field(line.as_bytes(), OFF),
                json_line(line.as_bytes()),
            ] {
                assert!(safe(&text) && !text.contains('\u{202e}'), "{text:?}");
            }
        }
    }
}
