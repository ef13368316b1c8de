//! Rows to a table and JSON, each aim beside what was reached.

use std::fs;

use anyhow::{Context as _, Result};
use serde_json::json;
use xtask::say;

use super::measure::Measured;
use super::{Aim, REPEATS, Wanted};

/// What was asked of whom.
pub(super) struct Row {
    what: &'static str,
    program: &'static str,
    /// `None` when the program is not installed.
    pub(super) measured: Option<Measured>,
}

impl Row {
    pub(super) fn new(what: &'static str, program: &'static str, measured: Measured) -> Self {
        let seconds = measured.seconds();
        say(&format!("measured: {what}, {program}: {seconds:.2} s"));
        Self {
            what,
            program,
            measured: Some(measured),
        }
    }

    pub(super) fn absent(what: &'static str, program: &'static str) -> Self {
        Self {
            what,
            program,
            measured: None,
        }
    }

    pub(super) fn is(&self, what: &str, program: &str) -> bool {
        self.what == what && self.program == program
    }
}

/// Prints the tables and writes the JSON.
pub(super) fn write(rows: &[Row], aims: &[Aim]) -> Result<()> {
    say("\n| aim | wanted | reached | |\n|---|---|---|---|");
    let mut judged = Vec::new();
    for Aim {
        what,
        wanted,
        reached,
    } in aims
    {
        let (bound, met) = match *wanted {
            Wanted::AtMost(most) => (format!("at most {most}"), *reached <= most),
            Wanted::AtLeast(least) => (format!("at least {least}"), *reached >= least),
        };
        let verdict = match met {
            true => "met",
            false if reached.is_nan() => "not measured",
            false => "**missed**",
        };
        say(&format!("| {what} | {bound} | {reached:.2} | {verdict} |"));
        judged
            .push(json!({ "aim": what, "wanted": bound, "reached": number(*reached), "met": met }));
    }
    say("\n| asked | program | seconds | CPU seconds | resident, MiB |\n|---|---|---|---|---|");
    let mut told = Vec::new();
    for Row {
        what,
        program,
        measured,
    } in rows
    {
        let Some(measured) = measured else {
            say(&format!("| {what} | {program} | not installed | | |"));
            continue;
        };
        let (seconds, cpu) = (measured.seconds(), measured.cpu.as_secs_f64());
        let mib = measured.resident_kib / 1024;
        say(&format!(
            "| {what} | {program} | {seconds:.2} | {cpu:.2} | {mib} |"
        ));
        told.push(json!({
            "asked": what, "program": program, "seconds": seconds, "cpuSeconds": cpu,
            "residentKib": measured.resident_kib,
        }));
    }
    let text = json!({ "repeats": REPEATS, "rows": told, "aims": judged });
    let out = xtask::root().join("target/bench/audit-reading.json");
    fs::write(&out, serde_json::to_string_pretty(&text)?)
        .with_context(|| format!("write {}", out.display()))
}

/// JSON has no number for what was not measured.
fn number(figure: f64) -> Option<f64> {
    figure.is_finite().then_some(figure)
}
