//! `clawsec check`: is the file valid, and what should not stay as it is?

use std::process::ExitCode;

use serde::Serialize;

use super::check_gateway::{Compared, GatewayFileArguments};
use super::{CommandResult, ConfigArgument, Failure, output};
use crate::config::{Config, Warning};
use crate::counterpart::Severity;

#[derive(Debug, clap::Args)]
pub(crate) struct CheckArguments {
    #[command(flatten)]
    config: ConfigArgument,
    #[command(flatten)]
    gateway: GatewayFileArguments,
    /// Print one JSON object, shaped as the gateways' own `security audit --json`.
    #[arg(long)]
    json: bool,
}

/// The findings, as the gateways' own audit prints them.
#[derive(Debug, Serialize)]
struct Audit {
    /// Milliseconds since the Unix epoch.
    ts: i64,
    summary: Summary,
    findings: Vec<Finding>,
}

#[derive(Debug, Default, Serialize)]
struct Summary {
    critical: usize,
    warn: usize,
    info: usize,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Finding {
    check_id: String,
    severity: &'static str,
    title: String,
    detail: String,
    remediation: String,
}

/// Exits 0 when there is nothing to say, 1 with warnings, 2 with errors.
pub(crate) fn check(arguments: &CheckArguments) -> CommandResult {
    let config = arguments.config.read()?;
    let compared = arguments.gateway.compare(&config)?;
    let warnings = warnings(&config)?;
    if arguments.json {
        let text =
            serde_json::to_string(&findings(&warnings, &compared)).map_err(Failure::other)?;
        output::print(&(text + "\n"));
    } else {
        output::print(&describe(&config));
        for warning in &warnings {
            output::print(&format!("warning  {}: {}\n", warning.path, warning.message));
        }
        output::print(&compared.iter().map(describe_drift).collect::<String>());
    }
    let no_drift = compared.iter().all(|compared| compared.drifts.is_empty());
    Ok(if warnings.is_empty() && no_drift {
        ExitCode::SUCCESS
    } else {
        ExitCode::from(1)
    })
}

/// What should not stay as it is, of the file and of this host.
pub(crate) fn warnings(config: &Config) -> Result<Vec<Warning>, Failure> {
    let broken = super::sandbox::problem(&config.sandbox)?;
    let broken = broken.map(|problem| Warning {
        path: "security.sandbox".to_owned(),
        message: format!("tools would be denied: {problem}"),
    });
    Ok(config.warnings.iter().cloned().chain(broken).collect())
}

fn findings(warnings: &[Warning], compared: &[Compared]) -> Audit {
    let mut found = Audit {
        ts: jiff::Timestamp::now().as_millisecond(),
        summary: Summary::default(),
        findings: Vec::new(),
    };
    for warning in warnings {
        found.summary.warn += 1;
        found.findings.push(Finding {
            check_id: "config.warning".to_owned(),
            severity: Severity::Warn.as_str(),
            title: warning.path.clone(),
            detail: warning.message.clone(),
            remediation: String::new(),
        });
    }
    for (compared, drift) in compared
        .iter()
        .flat_map(|compared| compared.drifts.iter().map(move |drift| (compared, drift)))
    {
        match drift.severity {
            Severity::Critical => found.summary.critical += 1,
            Severity::Warn => found.summary.warn += 1,
        }
        found.findings.push(Finding {
            check_id: drift.id.clone(),
            severity: drift.severity.as_str(),
            title: format!("{}: {}", compared.path.display(), drift.path),
            detail: drift.detail.clone(),
            remediation: drift.remediation.clone(),
        });
    }
    found
}

fn describe_drift(compared: &Compared) -> String {
    let Compared {
        path,
        product,
        drifts,
    } = compared;
    let mut text = match drifts.len() {
        0 => format!("gateway  {} ({}) matches\n", path.display(), product.name()),
        many => format!(
            "gateway  {} ({}): {many} differ\n",
            path.display(),
            product.name()
        ),
    };
    for drift in drifts {
        text.push_str(&format!(
            "{:8} {}: {}\n         -> {}\n",
            drift.severity.as_str(),
            drift.path,
            drift.detail,
            drift.remediation
        ));
    }
    text
}

fn describe(config: &Config) -> String {
    let scheme = if config.gateway.tls.is_some() {
        "https"
    } else {
        "http, no TLS"
    };
    let listen: Vec<String> = config
        .gateway
        .listen
        .iter()
        .map(|listen| listen.address.to_string())
        .collect();
    let sandbox = if config.sandbox.enabled {
        config.sandbox.provider.as_str()
    } else {
        "off"
    };
    let limit = if config.policy.limit.enabled {
        let limit = config.policy.limit;
        format!(
            "{} requests in {} ms per address",
            limit.requests, limit.window_ms
        )
    } else {
        "off".to_owned()
    };
    format!(
        "{} is valid\n\
         listen   {} ({scheme})\n\
         upstream {}\n\
         keys     {}\n\
         prefixes {}\n\
         limit    {limit}\n\
         sandbox  {sandbox}\n\
         audit    {}\n",
        config.path.display(),
        listen.join(", "),
        config.gateway.upstream.authority(),
        config.policy.credentials.len(),
        config.policy.addresses.rules().len(),
        if config.audit.enabled {
            config.audit.path.display().to_string()
        } else {
            "off".into()
        },
    )
}
