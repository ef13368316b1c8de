//! Rows to JSON and to a table.

use std::io::Write as _;
use std::path::Path;

use anyhow::Context as _;
use serde_json::json;

use super::loading;
use super::lookups::{self, Line};

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

    /// One more note.
    pub(crate) fn noted_too(mut self, note: impl AsRef<str>) -> Self {
        self.note = format!("{}; {}", self.note, note.as_ref());
        self
    }

    pub(crate) fn median(&self) -> f64 {
        self.samples
            .get(self.samples.len() / 2)
            .copied()
            .unwrap_or(f64::NAN)
    }

    /// The repeat that was disturbed least.
    pub(crate) fn least(&self) -> f64 {
        self.spread().0
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

/// Writes the JSON and prints the tables.
pub(crate) fn write(rows: &[Row], out: &Path) -> anyhow::Result<()> {
    let lines = lookups::table(rows);
    if !lines.is_empty() {
        say_lookups(&lines);
    }
    say("\n| measured | median ns | floor | net | least – most | |\n|---|---|---|---|---|---|");
    let mut group = "";
    for row in rows.iter().filter(|row| row.group != lookups::GROUP) {
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
    say("\n| aim | wanted | reached | |\n|---|---|---|---|");
    for aim in aims(rows, &lines) {
        let (sign, met) = match aim.wanted {
            Wanted::AtMost(limit) => (format!("at most {limit}"), aim.reached <= limit),
            Wanted::AtLeast(limit) => (format!("at least {limit}"), aim.reached >= limit),
        };
        let verdict = if met { "met" } else { "**missed**" };
        say(&format!(
            "| {} | {sign} | {:.2} | {verdict} |",
            aim.what, aim.reached
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

fn say_lookups(lines: &[Line]) {
    let sizes: Vec<String> = lookups::SIZES.iter().map(u32::to_string).collect();
    say(&format!(
        "\n| least net ns by prefixes | {} | last : first |\n|{}",
        sizes.join(" | "),
        "---|".repeat(sizes.len() + 2)
    ));
    for line in lines {
        let cells: Vec<String> = line.net_ns.iter().map(|net| format!("{net:.0}")).collect();
        let (name, growth) = (&line.name, line.growth());
        say(&format!("| {name} | {} | {growth:.1} |", cells.join(" | ")));
    }
}

/// What the kernel half is held to, as far as it was measured.
struct Aim {
    what: String,
    wanted: Wanted,
    reached: f64,
}

enum Wanted {
    AtMost(f64),
    AtLeast(f64),
}

fn aims(rows: &[Row], lines: &[Line]) -> Vec<Aim> {
    let net = |name: &str| {
        let found = rows.iter().find(|row| row.name.starts_with(name));
        found.map(Row::net)
    };
    let mut aims = Vec::new();
    let mut ratio =
        |what: &str, ours: &str, theirs: &str, wanted: fn(f64, f64) -> (f64, Wanted)| {
            if let (Some(ours), Some(theirs)) = (net(ours), net(theirs)) {
                let (reached, wanted) = wanted(ours, theirs);
                let what = what.to_owned();
                aims.push(Aim {
                    what,
                    wanted,
                    reached,
                });
            }
        };
    ratio(
        "denied packet, of xdp-filter's",
        "clawsec, denied",
        "xdp-filter, denied",
        |ours, theirs| (ours / theirs, Wanted::AtMost(0.45)),
    );
    ratio(
        "allowed new connection with its bucket, of xdp-filter's denied packet",
        "clawsec, allowed new connection",
        "xdp-filter, denied",
        |ours, theirs| (ours / theirs, Wanted::AtMost(0.9)),
    );
    ratio(
        "flood, nftables raw of clawsec native",
        "clawsec, native",
        "nftables, raw prerouting, not in a set",
        |ours, theirs| (theirs / ours, Wanted::AtLeast(6.0)),
    );
    for what in [loading::PREFIXES, loading::BANS] {
        if let Some(ns) = net(what) {
            aims.push(Aim {
                what: format!("{what}, seconds"),
                wanted: Wanted::AtMost(2.0),
                reached: ns / 1e9,
            });
        }
    }
    for line in lines {
        if line.is_verdict() {
            let limit = if line.name.contains("one source") {
                2.0
            } else {
                3.0
            };
            aims.push(Aim {
                what: format!("{}, from 10 to 100,000 prefixes", line.name),
                wanted: Wanted::AtMost(limit),
                reached: line.growth(),
            });
        }
        if let Some(trie) = line.in_the_trie(lines) {
            let worst = line.net_ns.iter().zip(&trie.net_ns);
            aims.push(Aim {
                what: format!("{}, of the trie's at the worst size", line.name),
                wanted: Wanted::AtMost(1.0),
                reached: worst
                    .map(|(ours, theirs)| ours / theirs)
                    .fold(0.0, f64::max),
            });
        }
    }
    aims
}

/// JSON has no NaN.
fn number(value: f64) -> Option<f64> {
    value.is_finite().then_some(value)
}
