//! `clawsec audit`: reads the log and its rotated parts, without the daemon.
//!
//! Invariant: nothing here writes to the log. What a person sees is neutralised, so that a line
//! which was tampered with cannot drive the terminal.

mod alerts;
mod arguments;
mod export;
mod meter;
mod records;
mod report;
mod summary;
mod table;
mod text;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Subcommand};

use self::arguments::LogArgument;
use self::meter::Meter;
use self::text::Paint;
use super::{CommandResult, Exit, Failure, output};
use crate::audit::{Chain, HeadCheck, ReadError, neutralise, schema, verify};
use crate::config::Secret;

#[derive(Debug, Subcommand)]
pub(crate) enum AuditCommand {
    /// Show the last records, and what is added to them.
    Tail(records::TailArguments),
    /// Show the records that are asked for.
    Query(records::QueryArguments),
    /// Totals, top sources, users, tools and reasons, when, and whether it grows.
    Stats(summary::StatsArguments),
    /// Figures, charts, refusals and losses as one page to keep or send.
    Report(report::ReportArguments),
    /// All about an address or a prefix: what it did, as whom, and its last records.
    Who(summary::WhoArguments),
    /// Show a request from its first record to its last, with every field.
    Show(records::ShowArguments),
    /// Write records for other programs: OCSF events or CSV.
    Export(export::ExportArguments),
    /// Print the JSON Schema of a record.
    Schema,
    /// Check the hash chain and the sums; name the first bad record and what was done.
    Verify(VerifyArguments),
    /// Try the configuration's alerts on the records that are there.
    Alerts(alerts::AlertsArguments),
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
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Runs one of the audit commands.
pub(crate) fn run(command: AuditCommand) -> CommandResult {
    match command {
        AuditCommand::Tail(arguments) => records::tail(&arguments),
        AuditCommand::Query(arguments) => records::query(&arguments),
        AuditCommand::Stats(arguments) => summary::stats(&arguments),
        AuditCommand::Report(arguments) => report::report(&arguments),
        AuditCommand::Who(arguments) => summary::who(&arguments),
        AuditCommand::Show(arguments) => records::show(&arguments),
        AuditCommand::Export(arguments) => export::export(&arguments),
        AuditCommand::Schema => print_schema(),
        AuditCommand::Verify(arguments) => check(&arguments),
        AuditCommand::Alerts(arguments) => alerts::run(&arguments),
    }
}

fn print_schema() -> CommandResult {
    let text = serde_json::to_string_pretty(&schema()).map_err(Failure::other)?;
    output::print(&(text + "\n"));
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
        text::report(&report, &path, Paint::of_stdout())
    };
    output::print(&text);
    Ok(if report.ok {
        ExitCode::SUCCESS
    } else {
        ExitCode::from(Exit::Finding as u8)
    })
}

fn absent(error: ReadError) -> Failure {
    match error {
        ReadError::Missing { .. } => Failure::absent(error),
        other => Failure::other(other),
    }
}

/// Says what is missing from what was shown; the exit code says it again.
fn conclude(damages: Vec<ReadError>, unreadable: u64) -> ExitCode {
    if unreadable > 0 {
        let text =
            format!("{unreadable} lines are not records: `clawsec audit verify` names the first");
        output::error(&anyhow::anyhow!(text));
    }
    let code = if damages.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::from(Exit::Other as u8)
    };
    for damage in damages {
        let damage = anyhow::Error::new(damage).context("a part of the log was left out");
        let text = format!("{damage:#}");
        output::error(&anyhow::anyhow!(neutralise(&text).into_owned()));
    }
    code
}
