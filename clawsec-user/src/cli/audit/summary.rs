//! `audit stats` and `audit who`: what records amount to.

use clap::Args;
use ipnet::IpNet;
use serde_json::{Value, json};

use super::arguments::{FilterArguments, LogArgument, TimeArguments, parse_network};
use super::meter::Meter;
use super::table::{stats_text, who_text};
use super::text::{HEADING, Paint, human_line, json_line};
use super::{absent, conclude};
use crate::audit::{Filter, last_lines, summarise};
use crate::cli::{CommandResult, Failure, output};

#[derive(Debug, Args)]
pub(crate) struct StatsArguments {
    #[command(flatten)]
    log: LogArgument,
    /// How many names of each kind
    #[arg(long, value_name = "N", default_value_t = 10)]
    top: usize,
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    filter: FilterArguments,
}

#[derive(Debug, Args)]
pub(crate) struct WhoArguments {
    #[command(flatten)]
    log: LogArgument,
    /// An address or a prefix
    #[arg(value_name = "IP|CIDR", value_parser = parse_network)]
    source: IpNet,
    #[command(flatten)]
    time: TimeArguments,
    /// How many names of each kind
    #[arg(long, value_name = "N", default_value_t = 5)]
    top: usize,
    /// How many of its last records
    #[arg(short = 'n', long, value_name = "N", default_value_t = 10)]
    lines: usize,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(super) fn stats(arguments: &StatsArguments) -> CommandResult {
    let (path, _) = arguments.log.find()?;
    let mut meter = Meter::new();
    let filter = arguments.filter.filter();
    let (stats, damages) =
        summarise(&path, &filter, arguments.top, &mut |at| meter.at(at)).map_err(absent)?;
    drop(meter);
    let text = if arguments.json {
        let text = serde_json::to_string(&stats).map_err(Failure::other)?;
        json_line(text.as_bytes()) + "\n"
    } else {
        stats_text(&stats, Paint::of_stdout())
    };
    output::print(&text);
    // Unreadable lines are among the figures.
    Ok(conclude(damages, 0))
}

pub(super) fn who(arguments: &WhoArguments) -> CommandResult {
    let (path, _) = arguments.log.find()?;
    let mut meter = Meter::new();
    let filter = Filter {
        sources: vec![arguments.source],
        ..arguments.time.filter()
    };
    let (stats, damages) =
        summarise(&path, &filter, arguments.top, &mut |at| meter.at(at)).map_err(absent)?;
    drop(meter);
    let lines = if stats.records == 0 {
        Vec::new()
    } else {
        let (lines, _) =
            last_lines(&path, arguments.lines, &|line| filter.takes_line(line)).map_err(absent)?;
        lines
    };
    let text = if arguments.json {
        let records: Vec<Value> = lines
            .iter()
            .filter_map(|line| serde_json::from_slice(line).ok())
            .collect();
        let who = json!({ "source": arguments.source, "stats": stats, "records": records });
        json_line(who.to_string().as_bytes()) + "\n"
    } else {
        let paint = Paint::of_stdout();
        let mut text = who_text(arguments.source, &stats, paint);
        if !lines.is_empty() {
            text.push_str(&format!("\n{}\n", paint.dim(HEADING)));
        }
        for line in &lines {
            text.push_str(&human_line(line, paint));
            text.push('\n');
        }
        text
    };
    output::print(&text);
    Ok(conclude(damages, 0))
}
