//! Rows to JSON and to a table.

use std::io::Write as _;
use std::path::Path;

use anyhow::Context as _;
use serde_json::json;

/// One thing measured: nanoseconds a packet over several repeats, floor included.
#[derive(Debug, Clone)]
pub(crate) struct Row {
    pub(crate) group: &'static str,
    pub(crate) name: String,
    /// Sorted.
    samples: Vec<f64>,
    /// What the measuring itself costs; subtracted in `net`.
    pub(crate) floor: f64,
    pub(crate) note: String,
}

impl Row {
    pub(crate) fn new(
        group: &'static str,
        name: impl Into<String>,
        mut samples: Vec<f64>,
        floor: f64,
    ) -> Self {
        samples.sort_by(f64::total_cmp);
        Self {
            group,
            name: name.into(),
            samples,
            floor,
            note: String::new(),
        }
    }

    /// A row without figures: why there are none.
    pub(crate) fn absent(group: &'static str, name: impl Into<String>, note: String) -> Self {
        Self {
            note,
            ..Self::new(group, name, Vec::new(), 0.0)
        }
    }

    pub(crate) fn noted(mut self, note: impl Into<String>) -> Self {
        self.note = note.into();
        self
    }

    pub(crate) fn median(&self) -> f64 {
        self.samples
            .get(self.samples.len() / 2)
            .copied()
            .unwrap_or(f64::NAN)
    }

    /// The median without the floor.
    pub(crate) fn net(&self) -> f64 {
        self.median() - self.floor
    }

    fn spread(&self) -> (f64, f64) {
        let first = self.samples.first().copied().unwrap_or(f64::NAN);
        let last = self.samples.last().copied().unwrap_or(f64::NAN);
        (first, last)
    }
}

pub(crate) fn say(text: &str) {
    // A closed pipe has no reader.
    let _closed = writeln!(std::io::stdout(), "{text}");
}

/// Writes the JSON and prints the table.
pub(crate) fn write(rows: &[Row], out: &Path) -> anyhow::Result<()> {
    say("\n| measured | median ns | floor | net | least – most | |\n|---|---|---|---|---|---|");
    let mut group = "";
    for row in rows {
        if row.group != group {
            group = row.group;
            say(&format!("| **{group}** | | | | | |"));
        }
        if row.samples.is_empty() {
            say(&format!("| {} | | | | | {} |", row.name, row.note));
            continue;
        }
        let (least, most) = row.spread();
        say(&format!(
            "| {} | {:.0} | {:.0} | **{:.0}** | {least:.0} – {most:.0} | {} |",
            row.name,
            row.median(),
            row.floor,
            row.net(),
            row.note
        ));
    }
    let rows: Vec<_> = rows
        .iter()
        .map(|row| {
            let (least, most) = row.spread();
            json!({
                "group": row.group, "name": row.name, "medianNs": number(row.median()),
                "floorNs": row.floor, "netNs": number(row.net()), "leastNs": number(least),
                "mostNs": number(most), "repeats": row.samples.len(), "note": row.note,
            })
        })
        .collect();
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let text = serde_json::to_string_pretty(&json!({ "kernel": kernel.trim(), "rows": rows }))?;
    if let Some(folder) = out.parent() {
        std::fs::create_dir_all(folder).context("make the output's folder")?;
    }
    std::fs::write(out, text).with_context(|| format!("write {}", out.display()))
}

/// JSON has no NaN.
fn number(value: f64) -> Option<f64> {
    value.is_finite().then_some(value)
}
