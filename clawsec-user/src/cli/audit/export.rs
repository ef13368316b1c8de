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
    // Events of OCSF 1.6.0, one JSON object a line.
    Ocsf,
    // RFC 4180; texts that a spreadsheet would compute get a ' before them.
    Csv,
}

#[derive(Debug, Args)]
pub(crate) struct ExportArguments {
    #[command(flatten)]
    log: LogArgument,
    /// OCSF 1.6.0 events as JSON lines, or a table
    #[arg(long)]
    format: Format,
    #[command(flatten)]
    filter: FilterArguments,
}

pub(super) fn export(arguments: &ExportArguments) -> CommandResult {
    let (path, _) = arguments.log.find()?;
    let mut stdout = io::stdout().lock();
    if arguments.format == Format::Csv {
        // A pipe that is closed already is noticed below.
        let _closed = stdout.write_all(CSV_HEADER.as_bytes());
    }
    let format = arguments.format;
    // A glance takes less than the whole record: a field may be what it should not.
    let form = |line: &[u8], text: &mut Vec<u8>| {
        let Ok(record) = Record::parse(line) else {
            return false;
        };
        match format {
            Format::Csv => csv(&record, text),
            Format::Ocsf => {
                text.extend_from_slice(neutralise_json(&ocsf(&record).to_string()).as_bytes());
                text.push(b'\n');
            }
        }
        true
    };
    let mut meter = Meter::new();
    let filter = arguments.filter.filter();
    let found = audit::convert(&path, &filter, &mut |at| meter.at(at), form, |text| {
        // Nobody reads any more.
        match stdout.write_all(text) {
            Ok(()) => ControlFlow::Continue(()),
            Err(_closed) => ControlFlow::Break(()),
        }
    })
    .map_err(absent)?;
    drop(meter);
    let _closed = stdout.flush();
    Ok(conclude(found.damages, found.unreadable))
}
