//! The reading commands over one log of 1 GB, beside jq and DuckDB asked for the same.
//!
//! A figure counts only if all of them find the same: each summary is compared row by row, each
//! search line by line. The log is in the page cache; no root.

mod measure;
mod table;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use xtask::{root, say};

use self::measure::{Measured, measure, version};
use self::table::Row;
use crate::build;

/// The log's size in bytes.
const LOG_BYTES: &str = "1000000000";
/// Names of each kind in a summary.
const TOP: usize = 10;
const REPEATS: usize = 5;
/// One user's denials: a line in thirteen hundred.
const USER: &str = "+15550007919";
const SUMMARY_JQ: &str = include_str!("reading/summary.jq");
const SUMMARY_SQL: &str = include_str!("reading/summary.sql");
const SELECT_SQL: &str = include_str!("reading/select.sql");
/// Where the queries find the log.
const LOG: &str = "CLAWSEC_BENCH_LOG";

pub(super) fn run() -> Result<()> {
    let clawsec = build::build(true)?;
    let log = Log::generate()?;
    let clawsec = |arguments: &[&str]| {
        let mut command = Command::new(&clawsec);
        command.args(["audit"]).args(arguments);
        command.arg("--path").arg(&log.0);
        command
    };
    let mut rows = Vec::new();
    let verify = measure(&mut clawsec(&["verify", "--no-head"]), REPEATS).context("verify")?;
    rows.push(Row::new("verify: every hash and sum", "clawsec", verify));

    let stats = measure(&mut clawsec(&["stats", "--json"]), REPEATS).context("stats")?;
    let expected = Summary::of_stats(&stats.output)?;
    rows.push(Row::new(SUMMARY, "clawsec", stats));
    let select = ["query", "--json", "--outcome", "deny", "--user", USER];
    let query = measure(&mut clawsec(&select), REPEATS).context("query")?;
    let lines = query.output.clone();
    rows.push(Row::new(SEARCH, "clawsec", query));

    for peer in [jq(&log.0), duckdb(&log.0)] {
        let Some(version) = version(peer.program) else {
            say(&format!("{}: not installed, not measured", peer.program));
            rows.push(Row::absent(SUMMARY, peer.program));
            rows.push(Row::absent(SEARCH, peer.program));
            continue;
        };
        say(&format!("{} {version}", peer.program));
        let Peer {
            program,
            mut summary,
            mut search,
            repeats,
        } = peer;
        let summary = measure(&mut summary, repeats).context(program)?;
        Summary::of_rows(&summary.output)?
            .agrees_with(&expected)
            .with_context(|| format!("{program}'s summary"))?;
        rows.push(Row::new(SUMMARY, program, summary));
        let search = measure(&mut search, repeats).context(program)?;
        ensure!(search.output == lines, "{program} finds other lines");
        rows.push(Row::new(SEARCH, program, search));
    }
    let aims = aims(&rows);
    table::write(&rows, &aims)
}

/// A program that is asked for the same.
struct Peer {
    program: &'static str,
    summary: Command,
    search: Command,
    repeats: usize,
}

fn jq(log: &Path) -> Peer {
    let asked = |arguments: &[&str], text: &str| {
        let mut command = Command::new("jq");
        command.args(arguments).arg(text).arg(log);
        command
    };
    let select = format!(r#"select(.user == "{USER}" and .outcome == "deny")"#);
    Peer {
        program: "jq",
        summary: asked(&["-n", "-r"], SUMMARY_JQ),
        search: asked(&["-c"], &select),
        // Most of a minute.
        repeats: 1,
    }
}

fn duckdb(log: &Path) -> Peer {
    let asked = |form: &str, text: &str| {
        let mut command = Command::new("duckdb");
        command.args([form, "-noheader", "-c", text]).env(LOG, log);
        command
    };
    Peer {
        program: "duckdb",
        summary: asked("-csv", SUMMARY_SQL),
        search: asked("-list", SELECT_SQL),
        repeats: REPEATS,
    }
}

/// The most frequent of each kind, as `kind name` and how often, sorted.
#[derive(Debug, PartialEq, Eq)]
struct Summary(Vec<(String, u64)>);

impl Summary {
    /// What `clawsec audit stats --json` prints.
    fn of_stats(json: &[u8]) -> Result<Self> {
        let stats: Value = serde_json::from_slice(json).context("read the stats")?;
        let mut rows = Vec::new();
        for (event, outcomes) in stats["totals"].as_object().context("the totals")? {
            for (outcome, count) in outcomes.as_object().context("a total")? {
                let count = count.as_u64().context("a count")?;
                rows.push((format!("totals {event}.{outcome}"), count));
            }
        }
        for kind in ["reasons", "sources", "users", "tools"] {
            let names = stats[kind]["names"].as_array().context("the names")?;
            ensure!(stats[kind]["inexact"] == 0, "{kind} are not exact");
            // What follows the top stands for all others.
            for row in names.iter().take(TOP) {
                let name = row["name"].as_str().context("a name")?;
                let count = row["count"].as_u64().context("a count")?;
                rows.push((format!("{kind} {name}"), count));
            }
        }
        rows.sort();
        Ok(Self(rows))
    }

    /// `kind,name,count`, each with quotes or without; no name of this log has either.
    fn of_rows(csv: &[u8]) -> Result<Self> {
        let text = String::from_utf8_lossy(csv).replace('"', "");
        let row = |line: &str| {
            let (kind, rest) = line.split_once(',')?;
            let (name, count) = rest.rsplit_once(',')?;
            Some((format!("{kind} {name}"), count.trim().parse().ok()?))
        };
        let rows: Option<Vec<_>> = text.lines().map(row).collect();
        let mut rows = rows.context("not rows of kind, name and count")?;
        rows.sort();
        Ok(Self(rows))
    }

    fn agrees_with(&self, expected: &Self) -> Result<()> {
        for (found, expected) in self.0.iter().zip(&expected.0) {
            ensure!(found == expected, "says {found:?}, clawsec {expected:?}");
        }
        let (found, expected) = (self.0.len(), expected.0.len());
        ensure!(found == expected, "has {found} rows, clawsec {expected}");
        Ok(())
    }
}

/// The same bytes every time; removed at the end.
struct Log(PathBuf);

impl Log {
    fn generate() -> Result<Self> {
        let mut cargo = Command::new(env!("CARGO"));
        cargo.current_dir(root()).args(["run", "--release"]);
        cargo.args(["--package", "clawsec-user", "--example", "audit_log"]);
        // As the daemon was built, or its library would be built again.
        cargo.env(build::OBJECT, root().join("target/bpf/clawsec.o"));
        let log = Self(root().join("target/bench/audit.log"));
        fs::create_dir_all(root().join("target/bench")).context("make target/bench")?;
        let status = cargo
            .arg("--")
            .arg(&log.0)
            .arg(LOG_BYTES)
            .status()
            .context("run the example audit_log")?;
        ensure!(status.success(), "the log could not be made");
        Ok(log)
    }
}

impl Drop for Log {
    fn drop(&mut self) {
        // What cannot be removed is written anew by the next run.
        let _kept = fs::remove_file(&self.0);
    }
}

/// Name, bound, what was reached.
struct Aim {
    what: &'static str,
    wanted: Wanted,
    reached: f64,
}

#[derive(Clone, Copy)]
enum Wanted {
    AtMost(f64),
    AtLeast(f64),
}

fn aims(rows: &[Row]) -> Vec<Aim> {
    let seconds = |what: &str, program: &str| {
        let row = rows.iter().find(|row| row.is(what, program));
        let measured = row.and_then(|row| row.measured.as_ref());
        measured.map_or(f64::NAN, Measured::seconds)
    };
    vec![
        Aim {
            what: "verify, seconds",
            wanted: Wanted::AtMost(5.0),
            reached: seconds("verify: every hash and sum", "clawsec"),
        },
        Aim {
            what: "stats, seconds",
            wanted: Wanted::AtMost(3.0),
            reached: seconds(SUMMARY, "clawsec"),
        },
        Aim {
            what: "jq's summary, of stats",
            wanted: Wanted::AtLeast(15.0),
            reached: seconds(SUMMARY, "jq") / seconds(SUMMARY, "clawsec"),
        },
    ]
}

const SUMMARY: &str = "summary: top sources, users, tools, reasons; counts by event and outcome";
const SEARCH: &str = "search: one user's denials";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn summaries_agree_only_when_every_row_does() {
        let stats = br#"{"totals":{"auth":{"deny":7}},
            "reasons":{"inexact":0,"names":[{"name":"banned","count":7}]},
            "sources":{"inexact":0,"names":[]}, "users":{"inexact":0,"names":[]},
            "tools":{"inexact":0,"names":[{"name":"exec","count":2}]}}"#;
        let stats = Summary::of_stats(stats).unwrap();
        for (csv, agrees) in [
            ("totals,auth.deny,7\nreasons,banned,7\ntools,exec,2\n", true),
            (
                "\"tools\",\"exec\",2\n\"reasons\",\"banned\",7\n\"totals\",\"auth.deny\",7",
                true,
            ),
            (
                "totals,auth.deny,7\nreasons,banned,6\ntools,exec,2\n",
                false,
            ),
            ("totals,auth.deny,7\nreasons,banned,7\n", false),
            ("", false),
        ] {
            let rows = Summary::of_rows(csv.as_bytes()).unwrap();
            assert_eq!(rows.agrees_with(&stats).is_ok(), agrees, "{csv}");
        }
        assert!(Summary::of_rows(b"an error message").is_err());
    }
}
