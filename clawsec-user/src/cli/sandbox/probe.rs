//! `clawsec sandbox probe`: the table of ways out, in the sandbox and without it.

use std::path::PathBuf;
use std::process::ExitCode;

use serde::Serialize;

use super::super::{CommandResult, ConfigArgument, Exit, Failure, output};
use super::runtime;
use crate::causes::chain;
use crate::policy::ToolName;
use crate::sandbox::{
    Control, Finding, Inside, SandboxError, Verdict, control as sandbox_control,
    inside as sandbox_inside, probe,
};

#[derive(Debug, clap::Args)]
pub(crate) struct ProbeArguments {
    #[command(flatten)]
    config: ConfigArgument,
    /// The agent whose sandbox is probed
    #[arg(long, default_value = "main", value_name = "A")]
    agent: String,
    /// Leave the negative control out
    #[arg(long)]
    no_control: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, clap::Args)]
pub(crate) struct InsideArguments {
    #[arg(long)]
    only: Option<String>,
    #[arg(long)]
    port: u16,
    #[arg(long)]
    socket: String,
    #[arg(long)]
    canary: PathBuf,
    #[arg(long)]
    process: u32,
    #[arg(long)]
    start_ticks: u64,
    #[arg(long, value_delimiter = ',')]
    variables: Vec<String>,
    #[arg(long)]
    memory_bytes: u64,
    #[arg(long)]
    pids: u32,
    #[arg(long)]
    output_bytes: u64,
}

#[derive(Debug, clap::Args)]
pub(crate) struct ControlArguments {
    #[arg(long)]
    port: u16,
    #[arg(long)]
    socket: String,
    #[arg(long)]
    workspace: PathBuf,
    #[arg(required = true, last = true)]
    argv: Vec<String>,
}

/// The whole report; a format that is promised.
#[derive(Debug, Serialize)]
struct Report {
    provider: &'static str,
    probes: Vec<Row>,
    blocked: usize,
    open: usize,
    /// Blocked, and open without a sandbox: what the table proves.
    proved: Option<usize>,
}

#[derive(Debug, Serialize)]
struct Row {
    name: &'static str,
    threat: &'static str,
    sandbox: &'static str,
    detail: String,
    /// `open` is what it must be; `null` where it was left out.
    control: Option<&'static str>,
    control_detail: Option<String>,
}

/// Exits 1 where a way out is open.
pub(super) fn run(arguments: &ProbeArguments) -> CommandResult {
    let config = arguments.config.read()?;
    let permit = || {
        let agent = Some(arguments.agent.clone());
        config
            .policy
            .decide_for_operator(&ToolName::new("exec"), agent)
            .ok()
    };
    if permit().is_none() {
        let message = format!("exec is denied for the agent {:?}", arguments.agent);
        return Err(Failure::new(Exit::Finding, anyhow::anyhow!(message)));
    }
    let absent = |error: SandboxError| Failure::absent(anyhow::anyhow!(chain(&error)));
    let (provider, findings, control) = runtime()?
        .block_on(async {
            let agent = arguments.agent.as_str();
            let (sandbox, findings) = probe(&config.sandbox, INSTANCE, agent, permit).await?;
            let control = if arguments.no_control {
                None
            } else {
                Some(sandbox.negative_control(agent)?)
            };
            let provider = sandbox.provider_of(agent).as_str();
            sandbox.close(CLOSE).await;
            Ok((provider, findings, control))
        })
        .map_err(absent)?;
    let report = report(provider, findings, control.as_deref());
    if arguments.json {
        let text = serde_json::to_string_pretty(&report).map_err(Failure::other)?;
        output::print(&format!("{text}\n"));
    } else {
        output::print(&table(&report));
    }
    Ok(if report.open == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::from(Exit::Finding as u8)
    })
}

fn report(provider: &'static str, findings: Vec<Finding>, control: Option<&[Finding]>) -> Report {
    let open = |finding: &Finding| finding.verdict == Verdict::Open;
    let opened = findings.iter().filter(|finding| open(finding)).count();
    let rows: Vec<Row> = findings
        .into_iter()
        .map(|finding| {
            let other = control.and_then(|rows| rows.iter().find(|row| row.name == finding.name));
            Row {
                name: finding.name,
                threat: finding.threat,
                sandbox: finding.verdict.as_str(),
                detail: finding.detail,
                control: other.map(|row| row.verdict.as_str()),
                control_detail: other.map(|row| row.detail.clone()),
            }
        })
        .collect();
    let proved = rows
        .iter()
        .filter(|row| row.sandbox == "blocked" && row.control == Some("open"))
        .count();
    Report {
        provider,
        blocked: rows.len() - opened,
        open: opened,
        proved: control.map(|_| proved),
        probes: rows,
    }
}

fn table(report: &Report) -> String {
    let mut text = format!(
        "{:<20} {:<8} {:<8} what it would give\n",
        "probe", report.provider, "control"
    );
    for row in &report.probes {
        let control = row.control.unwrap_or("-");
        text.push_str(&format!(
            "{:<20} {:<8} {control:<8} {}\n",
            row.name, row.sandbox, row.threat
        ));
        if row.sandbox == "open" {
            text.push_str(&format!("{:<20} OPEN: {}\n", "", row.detail));
        }
        if row.control == Some("blocked") {
            let detail = row.control_detail.as_deref().unwrap_or_default();
            text.push_str(&format!(
                "{:<20} not proved, this host has no such way: {detail}\n",
                ""
            ));
        }
    }
    text.push_str(&format!(
        "{} of {} ways out are blocked",
        report.blocked,
        report.probes.len()
    ));
    if let Some(proved) = report.proved {
        text.push_str(&format!("; {proved} of them are open without the sandbox"));
    }
    text.push('\n');
    text
}

pub(super) fn inside(arguments: InsideArguments) -> ExitCode {
    sandbox_inside(&Inside {
        only: arguments.only,
        port: arguments.port,
        socket: arguments.socket,
        canary: arguments.canary,
        process: arguments.process,
        start_ticks: arguments.start_ticks,
        variables: arguments.variables,
        memory_bytes: arguments.memory_bytes,
        pids: arguments.pids,
        output_bytes: arguments.output_bytes,
    });
    ExitCode::SUCCESS
}

pub(super) fn control(arguments: ControlArguments) -> ExitCode {
    output::start_log();
    sandbox_control(&Control {
        port: arguments.port,
        socket: arguments.socket,
        workspace: arguments.workspace,
        argv: arguments.argv,
    })
}

/// Not the daemon's, and not that of `sandbox exec`.
const INSTANCE: &str = "probe";
const CLOSE: std::time::Duration = std::time::Duration::from_secs(15);
