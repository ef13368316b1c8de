//! `clawsec sandbox exec` and `clawsec sandbox image`: presentation only.
//!
//! Invariant: `exec` runs nothing that the configured policy does not permit; the judge is the
//! caller's, and what it answers is consumed by the sandbox.

mod probe;

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use clap::{Args, Subcommand};

use self::probe::{ControlArguments, InsideArguments, ProbeArguments};
use super::{CommandResult, ConfigArgument, Failure};
use crate::causes::chain;
use crate::config::{self, Config, SandboxConfig};
use crate::policy::ToolName;
use crate::sandbox::{
    CancellationToken, Captured, Job, JobCommand, Sandbox, SandboxError, build_image,
};
use crate::supervisor::admin::{Answer, Executed, Question, ask};

#[derive(Debug, Subcommand)]
pub(crate) enum SandboxCommand {
    /// Run a command as an agent's tool would run
    Exec(ExecArgs),
    /// Build the default image on this host, without any registry
    Image(ImageArgs),
    /// Try every known way out of the configured provider, and show that each would be one
    Probe(ProbeArguments),
    /// The probes themselves; run in the sandbox, never by hand
    #[command(hide = true)]
    ProbeInside(InsideArguments),
    /// The place without walls; run by `probe`, never by hand
    #[command(hide = true)]
    ProbeControl(ControlArguments),
}

#[derive(Debug, Args)]
pub(crate) struct ExecArgs {
    #[command(flatten)]
    config: ConfigArgument,
    /// The agent whose rules apply
    #[arg(long, default_value = "main", value_name = "A")]
    agent: String,
    /// Stop the command after this many milliseconds; never longer than configured
    #[arg(long, value_name = "MS")]
    timeout: Option<u64>,
    /// Pass standard input to the command
    #[arg(short = 'i', long)]
    stdin: bool,
    /// The directory inside the sandbox
    #[arg(long, value_name = "DIR")]
    workdir: Option<PathBuf>,
    /// The command and its arguments
    #[arg(required = true, last = true, value_name = "CMD")]
    command: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct ImageArgs {
    #[command(flatten)]
    config: ConfigArgument,
    /// Make it of this folder, a root file system, in place of this host's busybox
    #[arg(long, value_name = "DIR")]
    from: Option<PathBuf>,
    /// What to call it; the configured image if left out
    #[arg(long, value_name = "N")]
    name: Option<String>,
}

/// Runs the command; its exit code becomes ours.
pub(crate) fn run(command: SandboxCommand) -> CommandResult {
    let command = match command {
        SandboxCommand::ProbeInside(arguments) => return Ok(probe::inside(arguments)),
        SandboxCommand::ProbeControl(arguments) => return Ok(probe::control(arguments)),
        SandboxCommand::Probe(arguments) => return probe::run(&arguments),
        command => command,
    };
    let runtime = runtime()?;
    let code = match command {
        SandboxCommand::Exec(args) => {
            let config = args.config.read()?;
            runtime.block_on(exec(args, &config))
        }
        SandboxCommand::Image(args) => {
            let config = sandbox_config(&args.config)?;
            runtime.block_on(image(args, config.as_ref()))
        }
        SandboxCommand::Probe(_)
        | SandboxCommand::ProbeInside(_)
        | SandboxCommand::ProbeControl(_) => 0,
    };
    Ok(code.into())
}

/// Why sandboxed tools would be denied, found out by opening the provider as the daemon does. Who
/// is not root cannot try.
pub(crate) fn problem(config: &SandboxConfig) -> Result<Option<String>, Failure> {
    if !config.enabled || !rustix::process::geteuid().is_root() {
        return Ok(None);
    }
    match runtime()?.block_on(Sandbox::open(&without_pool(config), INSTANCE)) {
        Ok(sandbox) => {
            let broken = sandbox.broken().into_iter();
            let lines: Vec<_> = broken
                .map(|(id, why)| format!("agent {id}: {why}"))
                .collect();
            Ok((!lines.is_empty()).then(|| lines.join("; ")))
        }
        Err(error) => Ok(Some(chain(&error))),
    }
}

/// One execution, or none, needs no containers that stand ready.
fn without_pool(config: &SandboxConfig) -> SandboxConfig {
    let mut config = config.clone();
    config.pool = 0;
    for own in config.agents.values_mut() {
        own.pool = 0;
    }
    config
}

pub(crate) fn runtime() -> Result<tokio::runtime::Runtime, Failure> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(Failure::other)
}

/// The image can be made before there is a configuration.
fn sandbox_config(argument: &ConfigArgument) -> Result<Option<SandboxConfig>, Failure> {
    if argument.config.is_none() && config::find(None).is_err() {
        return Ok(None);
    }
    argument.read().map(|config| Some(config.sandbox))
}

async fn exec(args: ExecArgs, config: &Config) -> u8 {
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
    let question = Question::SandboxExec {
        agent: args.agent.clone(),
        argv: args.command.clone(),
        timeout_ms: args.timeout,
        stdin: STANDARD.encode(&stdin),
    };
    // The running daemon's own sandbox, with its record; without a daemon, one of our own.
    match ask(&config.gateway.admin_socket, &question) {
        Ok(Answer::Executed(executed)) if args.workdir.is_none() => {
            return show_executed(&executed);
        }
        Ok(Answer::Refused { message }) => {
            say(&message);
            return REFUSED;
        }
        _ => say("no daemon is running: this execution is not recorded"),
    }
    alone(args, stdin, config).await
}

fn show_executed(executed: &Executed) -> u8 {
    for (stream, text) in [
        (&mut std::io::stdout() as &mut dyn Write, &executed.stdout),
        (&mut std::io::stderr(), &executed.stderr),
    ] {
        match STANDARD.decode(text) {
            Ok(bytes) => show(stream, &bytes),
            Err(_) => say("the daemon's answer is damaged"),
        }
    }
    if executed.oom {
        say("out of memory");
    }
    match (executed.exit_code, executed.signal) {
        _ if executed.timed_out => {
            say("timed out");
            TIMED_OUT
        }
        (Some(code), _) => u8::try_from(code).unwrap_or(FAILED),
        (None, Some(signal)) => u8::try_from(128 + signal).unwrap_or(FAILED),
        (None, None) => FAILED,
    }
}

async fn alone(args: ExecArgs, stdin: Vec<u8>, config: &Config) -> u8 {
    let agent = Some(args.agent.clone());
    let permit = match config
        .policy
        .decide_for_operator(&ToolName::new("exec"), agent)
    {
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
    let config = without_pool(&config.sandbox);
    let sandbox = match Sandbox::open(&config, INSTANCE).await {
        Ok(sandbox) => sandbox,
        Err(error) => return fail(&error),
    };
    // What an earlier run of this command left when it was killed.
    if let Err(error) = sandbox.remove_orphans().await {
        say(&chain(&error));
    }
    let limit = config.of(Some(&args.agent)).timeout;
    let job = Job {
        id: format!("cli-{}", std::process::id()),
        agent: args.agent,
        command: JobCommand::Argv(args.command),
        env: BTreeMap::new(),
        workdir: args.workdir,
        workspace: None,
        stdin,
        timeout: args.timeout.map_or(limit, Duration::from_millis),
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

async fn image(args: ImageArgs, config: Option<&SandboxConfig>) -> u8 {
    let name = args
        .name
        .or_else(|| config.and_then(|config| config.image.clone()))
        .unwrap_or_else(|| DEFAULT_IMAGE.to_owned());
    let socket = config.map_or(Path::new(DEFAULT_SOCKET), |config| &config.docker_socket);
    match build_image(socket, &name, args.from.as_deref()).await {
        Ok(id) => {
            show(&mut std::io::stdout(), format!("{name} {id}\n").as_bytes());
            0
        }
        Err(error) => {
            say(&chain(&error));
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

fn show(stream: &mut dyn Write, bytes: &[u8]) {
    // Whoever reads has gone: nobody is left to tell.
    drop(stream.write_all(bytes).and_then(|()| stream.flush()));
}

fn fail(error: &SandboxError) -> u8 {
    say(&chain(error));
    match error {
        SandboxError::PermitMismatch { .. } | SandboxError::InvalidJob { .. } => REFUSED,
        _ => FAILED,
    }
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
const TIMED_OUT: u8 = 124;
/// As the configuration's own defaults.
const DEFAULT_IMAGE: &str = "clawsec-sandbox:latest";
const DEFAULT_SOCKET: &str = "/var/run/docker.sock";
const UNAVAILABLE: u8 = 3;
