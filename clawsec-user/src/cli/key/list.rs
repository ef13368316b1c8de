//! `clawsec key list`: whose keys there are.
//!
//! Invariant: no key and no hash of one is printed.

use std::process::ExitCode;

use jiff::Timestamp;
use serde::Serialize;

use crate::cli::{CommandResult, ConfigArgument, admin, output};
use crate::config;
use crate::policy::{PrincipalSpec, UnixSeconds};

#[derive(Debug, clap::Args)]
pub(crate) struct ListArguments {
    #[command(flatten)]
    config: ConfigArgument,
    /// Print a JSON list.
    #[arg(long)]
    json: bool,
}

/// One key.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Row {
    id: String,
    state: &'static str,
    scopes: Vec<&'static str>,
    /// `null` may speak for any allowed user, group or agent.
    user: Option<String>,
    groups: Option<Vec<String>>,
    agents: Option<Vec<String>>,
    not_before: Option<String>,
    not_after: Option<String>,
    /// Where it stands in the file.
    path: String,
    line: Option<usize>,
}

pub(super) fn list(arguments: &ListArguments) -> CommandResult {
    let config = arguments.config.read()?;
    let text = std::fs::read_to_string(&config.path).unwrap_or_default();
    let now = Timestamp::now().as_second();
    let specs = config.policy.credentials.specs();
    let mut rows: Vec<Row> = specs.map(|spec| Row::of(spec, &text, now)).collect();
    rows.sort_by(|a, b| (a.line, &a.path).cmp(&(b.line, &b.path)));
    if arguments.json {
        admin::print_json(&rows)?;
    } else {
        output::print(&table(&rows));
    }
    Ok(ExitCode::SUCCESS)
}

impl Row {
    fn of(spec: &PrincipalSpec, text: &str, now: UnixSeconds) -> Self {
        let state = match (spec.not_before, spec.not_after) {
            (Some(start), _) if now < start => "not yet valid",
            (_, Some(end)) if now >= end => "expired",
            _ if spec.path.ends_with(".previous") => "being replaced",
            _ => "valid",
        };
        let groups = spec.groups.as_ref();
        Self {
            id: spec.id.clone(),
            state,
            scopes: spec.scopes.iter().map(|scope| scope.as_str()).collect(),
            user: spec.user.as_ref().map(|user| user.as_str().to_owned()),
            groups: groups.map(|groups| {
                groups
                    .iter()
                    .map(|group| group.as_str().to_owned())
                    .collect()
            }),
            agents: spec.agents.clone(),
            not_before: spec.not_before.map(time),
            not_after: spec.not_after.map(time),
            path: spec.path.clone(),
            line: config::line_of(text, &spec.path),
        }
    }

    fn cells(&self) -> [String; 6] {
        let short = self
            .scopes
            .iter()
            .map(|scope| scope.trim_start_matches("operator."));
        let some = |list: &Option<Vec<String>>| list.as_ref().map(|list| list.join(","));
        let bound = [
            self.user.clone(),
            some(&self.groups),
            some(&self.agents).map(|agents| format!("agent {agents}")),
        ];
        let bound: Vec<String> = bound.into_iter().flatten().collect();
        let validity = match (&self.not_before, &self.not_after) {
            (None, None) => "always".to_owned(),
            (Some(start), None) => format!("from {start}"),
            (None, Some(end)) => format!("until {end}"),
            (Some(start), Some(end)) => format!("{start} to {end}"),
        };
        [
            self.id.clone(),
            self.state.to_owned(),
            short.collect::<Vec<_>>().join(","),
            if bound.is_empty() {
                "anybody".to_owned()
            } else {
                bound.join(" ")
            },
            validity,
            self.line
                .map_or(String::new(), |line| format!("line {line}")),
        ]
    }
}

fn table(rows: &[Row]) -> String {
    let head = ["id", "state", "scopes", "speaks for", "valid", ""].map(str::to_owned);
    let cells: Vec<[String; 6]> = [head]
        .into_iter()
        .chain(rows.iter().map(Row::cells))
        .collect();
    let widths: [usize; 6] = std::array::from_fn(|column| {
        let lengths = cells.iter().map(|row| row[column].chars().count());
        lengths.max().unwrap_or(0)
    });
    let line = |row: &[String; 6]| {
        let padded = row
            .iter()
            .zip(widths)
            .map(|(cell, width)| format!("{cell:width$}"));
        let mut line = padded.collect::<Vec<_>>().join("  ");
        // Names are the file's own words; a terminal is worth a second look.
        line.retain(|c| !c.is_control());
        format!("{}\n", line.trim_end())
    };
    cells.iter().map(line).collect()
}

/// In UTC, as the configuration has it.
pub(super) fn time(seconds: UnixSeconds) -> String {
    let time = Timestamp::from_second(seconds);
    time.map_or_else(|_out_of_range| seconds.to_string(), |time| time.to_string())
}
