//! `clawsec check`: is the file valid, what should not stay as it is, and what to do about it.
//!
//! `registry` has every check; each judges the `Facts` that `gather` finds. The reader's own
//! warnings and the gateway's file beside ours are findings too.

mod areas;
mod certificate;
mod checklist;
mod facts;
mod fix;
mod gateway_file;
mod gather;
mod print;
mod registry;
#[cfg(test)]
mod tests;

use std::process::ExitCode;

use serde::Serialize;

pub(crate) use self::checklist::Point;
use self::facts::Facts;
use self::gateway_file::{Compared, GatewayFileArguments};
use super::{CommandResult, ConfigArgument, Exit, Failure, output};
use crate::config::Config;
use crate::counterpart::Severity;

#[derive(Debug, clap::Args)]
pub(crate) struct CheckArguments {
    #[command(flatten)]
    config: ConfigArgument,
    #[command(flatten)]
    gateway: GatewayFileArguments,
    /// One JSON object, as the gateways' own `security audit --json`
    #[arg(long)]
    json: bool,
    /// Take away permissions that nobody needs on clawsec's own files
    #[arg(long)]
    fix: bool,
}

/// The findings, as the gateways' own audit prints them.
#[derive(Debug, Serialize)]
pub(crate) struct Audit {
    /// Milliseconds since the Unix epoch.
    ts: i64,
    summary: Summary,
    /// The worst first.
    pub(crate) findings: Vec<Finding>,
    pub(crate) checklist: Vec<Point>,
}

#[derive(Debug, Default, Serialize)]
struct Summary {
    critical: usize,
    warn: usize,
    info: usize,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Finding {
    pub(crate) check_id: String,
    #[serde(serialize_with = "word")]
    pub(crate) severity: Severity,
    pub(crate) title: String,
    pub(crate) detail: String,
    pub(crate) remediation: String,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
fn word<S: serde::Serializer>(severity: &Severity, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_str(severity.as_str())
}

/// Exits 0 when nothing is critical or to be warned of, 1 when something is, 2 for a file that is
/// not valid.
pub(crate) fn check(arguments: &CheckArguments) -> CommandResult {
    let mut facts = gather::gather(arguments.config.read()?)?;
    let compared = arguments.gateway.compare(&facts.config)?;
    let mut fixed = Vec::new();
    if arguments.fix {
        for fix in fix::all(&facts) {
            fix.apply()
                .map_err(|error| Failure::new(Exit::Other, error))?;
            fixed.push(fix.in_words());
        }
        facts = gather::gather(arguments.config.read()?)?;
    }
    let audit = judge(&facts, &compared);
    let text = if arguments.json {
        serde_json::to_string(&audit).map_err(Failure::other)? + "\n"
    } else {
        print::text(&facts, &audit, &compared, &fixed)
    };
    output::print(&text);
    let quiet = audit.summary.critical + audit.summary.warn == 0;
    Ok(if quiet {
        ExitCode::SUCCESS
    } else {
        ExitCode::from(Exit::Finding as u8)
    })
}

/// What `check` finds, for a report.
pub(crate) fn audit(config: &Config) -> Result<Audit, Failure> {
    Ok(judge(&gather::gather(config.clone())?, &[]))
}

fn judge(facts: &Facts, compared: &[Compared]) -> Audit {
    let mut findings = Vec::new();
    let mut said: Vec<&str> = Vec::new();
    for check in registry::all() {
        for detail in (check.judge)(facts) {
            said.extend(check.says);
            findings.push(Finding {
                check_id: check.id.to_owned(),
                severity: check.severity,
                title: check.title.to_owned(),
                detail,
                remediation: check.remedy.to_owned(),
            });
        }
    }
    for warning in &facts.config.warnings {
        if said.iter().any(|part| warning.message.contains(part)) {
            continue;
        }
        findings.push(Finding {
            check_id: "configuration.warning".to_owned(),
            severity: Severity::Warn,
            title: warning.path.clone(),
            detail: warning.message.clone(),
            remediation: String::new(),
        });
    }
    for compared in compared {
        let path = compared.path.display();
        findings.extend(compared.drifts.iter().map(|drift| Finding {
            check_id: drift.id.clone(),
            severity: drift.severity,
            title: format!("{path}: {}", drift.path),
            detail: drift.detail.clone(),
            remediation: drift.remediation.clone(),
        }));
    }
    findings.sort_by_key(|finding| finding.severity);
    let mut summary = Summary::default();
    for finding in &findings {
        match finding.severity {
            Severity::Critical => summary.critical += 1,
            Severity::Warn => summary.warn += 1,
            Severity::Info => summary.info += 1,
        }
    }
    Audit {
        ts: jiff::Timestamp::now().as_millisecond(),
        summary,
        findings,
        checklist: checklist::points(facts),
    }
}
