//! `clawsec sandbox exec` and `clawsec sandbox image`: presentation only.
//!
//! Invariant: `exec` runs nothing that the configured policy does not permit; the judge is the
//! caller's, and what it answers is consumed by the sandbox.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand};

use crate::config::SandboxConfig;
use crate::policy::{Denial, Permit, Request, RequestFacts, ToolName};
use crate::sandbox::{
    CancellationToken, Captured, Job, JobCommand, Sandbox, SandboxError, build_image,
};

#[derive(Debug, Subcommand)]
pub enum SandboxCommand {
    /// Run a command as an agent's tool would run
    Exec(ExecArgs),
    /// Build the default image on this host, without any registry
    Image(ImageArgs),
}

#[derive(Debug, Args)]
pub struct ExecArgs {
    /// The agent whose rules apply
    #[arg(long, default_value = "main", value_name = "A")]
    pub agent: String,
    /// Stop the command after this many milliseconds; never longer than configured
    #[arg(long, value_name = "MS")]
    pub timeout: Option<u64>,
    /// Pass standard input to the command
    #[arg(short = 'i', long)]
    pub stdin: bool,
    /// The directory inside the sandbox
    #[arg(long, value_name = "DIR")]
    pub workdir: Option<PathBuf>,
    /// The command and its arguments
    #[arg(required = true, last = true, value_name = "CMD")]
    pub command: Vec<String>,
}

#[derive(Debug, Args)]
pub struct ImageArgs {
    /// What to call it; the configured image if left out
    #[arg(long, value_name = "N")]
    pub name: Option<String>,
}

/// Runs the command and returns the process's exit code.
///
/// `judge` decides by the loaded policy, as the local operator.
pub async fn run(
    command: SandboxCommand,
    config: &SandboxConfig,
    judge: impl FnOnce(RequestFacts) -> Result<Permit, Denial>,
) -> u8 {
    match command {
        SandboxCommand::Exec(args) => exec(args, config, judge).await,
        SandboxCommand::Image(args) => image(args, config).await,
    }
}

async fn exec(
    args: ExecArgs,
    config: &SandboxConfig,
    judge: impl FnOnce(RequestFacts) -> Result<Permit, Denial>,
) -> u8 {
    let mut facts = RequestFacts::new(Request::Tool(ToolName::new("exec")));
    facts.agent = Some(args.agent.clone());
    let permit = match judge(facts) {
        Ok(permit) => permit,
        Err(denial) => {
            say(&format!(
                "refused: {} ({})",
                denial.reason.as_str(),
                denial.rule
            ));
            return REFUSED;
        }
    };
    let mut stdin = Vec::new();
    if args.stdin
        && let Err(error) = std::io::stdin()
            .lock()
            .take(MAX_STDIN)
            .read_to_end(&mut stdin)
    {
        say(&format!("read standard input: {error}"));
        return FAILED;
    }
    let sandbox = match Sandbox::open(config, INSTANCE).await {
        Ok(sandbox) => sandbox,
        Err(error) => return fail(&error),
    };
    // What an earlier run of this command left when it was killed.
    if let Err(error) = sandbox.remove_orphans().await {
        say(&describe(&error));
    }
    let job = Job {
        id: format!("cli-{}", std::process::id()),
        agent: args.agent,
        command: JobCommand::Argv(args.command),
        env: BTreeMap::new(),
        workdir: args.workdir,
        workspace: None,
        stdin,
        timeout: args.timeout.map_or(config.timeout, Duration::from_millis),
    };
    let cancel = CancellationToken::new();
    let interrupted = cancel.clone();
    let listener = tokio::spawn(async move {
        if tokio::signal::ctrl_c().await.is_ok() {
            interrupted.cancel();
        }
    });
    let result = sandbox.run(permit, job, cancel).await;
    listener.abort();
    let code = match result {
        Ok(execution) => {
            show(&mut std::io::stdout(), &content(&execution.stdout));
            show(&mut std::io::stderr(), &content(&execution.stderr));
            if execution.oom {
                say("out of memory");
            }
            if execution.timed_out {
                say(&format!(
                    "timed out after {} ms",
                    execution.duration.as_millis()
                ));
            }
            u8::try_from(execution.status()).unwrap_or(FAILED)
        }
        Err(error) => fail(&error),
    };
    if !sandbox.close(CLOSE).await {
        say("the execution is not removed yet; the next start does it");
    }
    code
}

async fn image(args: ImageArgs, config: &SandboxConfig) -> u8 {
    let Some(name) = args.name.or_else(|| config.image.clone()) else {
        say("no image is configured (security.sandbox.image); give --name");
        return USAGE;
    };
    match build_image(&config.docker_socket, &name).await {
        Ok(id) => {
            show(&mut std::io::stdout(), format!("{name} {id}\n").as_bytes());
            0
        }
        Err(error) => {
            say(&describe(&error));
            UNAVAILABLE
        }
    }
}

/// The bytes as they are where nothing was left out; else the text that says what was.
fn content(captured: &Captured) -> Vec<u8> {
    if captured.truncated {
        captured.text().into_bytes()
    } else {
        captured.bytes()
    }
}

fn show(stream: &mut impl Write, bytes: &[u8]) {
    // Whoever reads has gone: nobody is left to tell.
    drop(stream.write_all(bytes).and_then(|()| stream.flush()));
}

fn fail(error: &SandboxError) -> u8 {
    say(&describe(error));
    match error {
        SandboxError::PermitMismatch { .. } | SandboxError::InvalidJob { .. } => REFUSED,
        _ => FAILED,
    }
}

/// The error and its causes on one line.
fn describe(error: &SandboxError) -> String {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}

fn say(message: &str) {
    let line = format!("clawsec: {message}\n");
    drop(std::io::stderr().write_all(line.as_bytes()));
}

/// Not the daemon's: each has its own executions, and orphans are told by their owner.
const INSTANCE: &str = "cli";
const MAX_STDIN: u64 = 25 * 1024 * 1024;
const CLOSE: Duration = Duration::from_secs(15);
/// As `timeout` and `docker run` use them: 124 is a timeout, 125 a refusal or failure of ours.
const REFUSED: u8 = 125;
const FAILED: u8 = 125;
const USAGE: u8 = 2;
const UNAVAILABLE: u8 = 3;
