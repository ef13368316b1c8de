//! `audit export`: records for other programs, one by one, in constant memory.

use std::io::{self, Write as _};
use std::ops::ControlFlow;

use clap::{Args, ValueEnum};

use super::arguments::{FilterArguments, LogArgument};
use super::meter::Meter;
use super::{absent, conclude};
use crate::audit::{self, CSV_HEADER, Record, csv, neutralise_json, ocsf};
use crate::cli::CommandResult;

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Format {
    /// Events of OCSF 1.6.0, one JSON object a line
    Ocsf,
    /// RFC 4180; texts that a spreadsheet would compute get a ' before them
    Csv,
}

#[derive(Debug, Args)]
pub(crate) struct ExportArguments {
    #[command(flatten)]
    log: LogArgument,
    #[arg(long)]
    format: Format,
    #[command(flatten)]
    filter: FilterArguments,
}

pub(super) fn export(arguments: &ExportArguments) -> CommandResult {
    let (path, _) = arguments.log.find()?;
    let mut text = String::new();
    if arguments.format == Format::Csv {
        text.push_str(CSV_HEADER);
    }
    let mut stdout = io::stdout().lock();
    let mut meter = Meter::new();
    let filter = arguments.filter.filter();
    let mut damaged = 0;
    let found = audit::query(&path, &filter, &mut |at| meter.at(at), |line| {
        // A glance takes less than the whole record: a field that is not what it should be.
        let Ok(record) = Record::parse(line) else {
            damaged += 1;
            return ControlFlow::Continue(());
        };
        match arguments.format {
            Format::Csv => csv(&record, &mut text),
            Format::Ocsf => {
                text.push_str(&neutralise_json(&ocsf(&record).to_string()));
                text.push('\n');
            }
        }
        if text.len() < WRITE_BYTES {
            return ControlFlow::Continue(());
        }
        // Nobody reads any more.
        if stdout.write_all(text.as_bytes()).is_err() {
            return ControlFlow::Break(());
        }
        text.clear();
        ControlFlow::Continue(())
    })
    .map_err(absent)?;
    drop(meter);
    let _closed = stdout
        .write_all(text.as_bytes())
        .and_then(|()| stdout.flush());
    Ok(conclude(found.damages, found.unreadable + damaged))
}

const WRITE_BYTES: usize = 64 * 1024;
