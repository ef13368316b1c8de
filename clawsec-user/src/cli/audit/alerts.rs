//! `clawsec audit alerts --test`: what the rules would have told, of records that are there.

use clap::Args;
use serde::Serialize;

use super::arguments::TimeArguments;
use super::meter::Meter;
use super::{absent, conclude};
use crate::audit::{Alert, neutralise, rehearse};
use crate::cli::{CommandResult, ConfigArgument, Failure, output};

#[derive(Debug, Args)]
pub(crate) struct AlertsArguments {
    #[command(flatten)]
    config: ConfigArgument,
    /// Tell nobody; show what would have been told, and whom
    #[arg(long, required = true)]
    test: bool,
    #[command(flatten)]
    time: TimeArguments,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Serialize)]
struct Told<'a> {
    #[serde(flatten)]
    alert: &'a Alert,
    to: String,
}

pub(super) fn run(arguments: &AlertsArguments) -> CommandResult {
    let audit = arguments.config.read()?.audit;
    if audit.alerts.is_empty() {
        let why = anyhow::anyhow!("security.audit.alerts: there are none to test");
        return Err(Failure::usage(why));
    }
    let mut told = vec![0_u64; audit.alerts.len()];
    let mut meter = Meter::new();
    let found = rehearse(
        &audit.path,
        &audit.alerts,
        &arguments.time.filter(),
        &mut |at| meter.at(at),
        |alert| {
            let Some(config) = audit.alerts.get(alert.index) else {
                return;
            };
            told[alert.index] += 1;
            let to = config.to.to_string();
            let text = if arguments.json {
                serde_json::to_string(&Told { alert, to }).unwrap_or_default()
            } else {
                let text = neutralise(&alert.text).into_owned();
                format!("{} {} to {to}: {text}", alert.ts, alert.rule)
            };
            output::print(&format!("{text}\n"));
        },
    );
    drop(meter);
    let found = found.map_err(absent)?;
    if !arguments.json {
        for (config, told) in audit.alerts.iter().zip(told) {
            let (rule, to) = (config.when.as_str(), &config.to);
            output::print(&format!(
                "{rule} to {to}: {told} of {} records\n",
                found.records
            ));
        }
    }
    Ok(conclude(found.damages, found.unreadable))
}
