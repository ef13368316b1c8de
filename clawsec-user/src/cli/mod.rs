//! The command line: arguments to calls, errors to exit codes.
//!
//! Exit codes: 0 good, 1 a finding or a denial, 2 bad usage or configuration, 3 the daemon or
//! kernel is not there, 4 anything else.

mod admin;
mod audit;
mod check;
mod confirm;
mod contain;
mod explain;
mod gateway;
mod help;
mod init;
mod key;
mod machine;
mod output;
mod render;
mod replay;
mod run;
mod sandbox;
mod status;
mod timed;
mod top;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{FromArgMatches as _, Parser, Subcommand};

use crate::config;

/// A security enforcer in front of an OpenClaw / Clawdbot gateway.
#[derive(Debug, Parser)]
#[command(
    name = "clawsec",
    version,
    about,
    max_term_width = 100,
    disable_help_subcommand = true
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Write a first configuration, a key and a certificate.
    Init(init::InitArguments),
    /// Run the daemon in the foreground.
    Run(run::RunArguments),
    /// Keep the policy that `run --confirm` has put on probation.
    Confirm(confirm::ConfirmArguments),
    /// Validate the configuration and print what it would enforce.
    Check(check::CheckArguments),
    /// Say what would happen to a packet and its request, and why.
    Explain(explain::ExplainArguments),
    /// Judge each frame of a capture by the packet filter's program.
    Replay(replay::ReplayArguments),
    /// Show what the running daemon enforces.
    Status(status::StatusArguments),
    /// Watch it live in the terminal; a key bans a source.
    Top(top::TopArguments),
    /// Drop a source or a prefix at the NIC for a while.
    #[command(subcommand)]
    Ban(timed::BanCommand),
    /// Admit a source or a prefix for a while.
    #[command(subcommand)]
    Allow(timed::AllowCommand),
    /// Read the audit log; needs no daemon.
    #[command(subcommand)]
    Audit(audit::AuditCommand),
    /// Run a command as an agent's tool would; make its image.
    #[command(subcommand)]
    Sandbox(sandbox::SandboxCommand),
    /// Make and hash keys.
    #[command(subcommand)]
    Key(key::KeyCommand),
    /// Print the gateway's settings that match this configuration.
    Render(render::RenderArguments),
    /// Remove the packet filter: its program and its pinned maps.
    Detach(run::DetachArguments),
    /// Print what completes this command line in a shell.
    Completions(help::CompletionsArguments),
    /// Print this page for `man`, or write one for each command.
    Man(help::ManArguments),
    /// The gateway process; started by `run`, never by hand.
    #[command(hide = true)]
    Gateway { uid: u32, gid: u32 },
    /// The launcher of a native sandbox; started for each execution, never by hand.
    #[command(hide = true)]
    Contain(contain::ContainArguments),
}

/// Parses the arguments, runs the command, prints its error.
pub fn main() -> ExitCode {
    let cli =
        Cli::from_arg_matches(&help::command().get_matches()).unwrap_or_else(|error| error.exit());
    let result = match cli.command {
        Command::Init(arguments) => init::init(&arguments),
        Command::Run(arguments) => run::run(arguments),
        Command::Confirm(arguments) => confirm::confirm(&arguments),
        Command::Check(arguments) => check::check(&arguments),
        Command::Explain(arguments) => explain::explain(&arguments),
        Command::Replay(arguments) => replay::replay(&arguments),
        Command::Status(arguments) => status::status(&arguments),
        Command::Top(arguments) => top::top(&arguments),
        Command::Ban(command) => timed::ban(command),
        Command::Allow(command) => timed::allow(command),
        Command::Audit(command) => audit::run(command),
        Command::Sandbox(command) => sandbox::run(command),
        Command::Key(command) => key::run(&command),
        Command::Render(arguments) => render::render(&arguments),
        Command::Detach(arguments) => run::detach(&arguments),
        Command::Completions(arguments) => Ok(help::completions(&arguments)),
        Command::Man(arguments) => help::man(&arguments),
        Command::Gateway { uid, gid } => gateway::run(uid, gid),
        Command::Contain(arguments) => Ok(contain::run(arguments)),
    };
    result.unwrap_or_else(|failure| {
        output::error(&failure.error);
        ExitCode::from(failure.exit as u8)
    })
}

/// Where the configuration is; the same four places for every command.
#[derive(Debug, clap::Args)]
pub(crate) struct ConfigArgument {
    /// Configuration [default: /etc/clawsec/clawsec.json]
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
}

impl ConfigArgument {
    /// Loads it for a command that changes nothing.
    pub(crate) fn read(&self) -> Result<config::Config, Failure> {
        self.load(config::FileTrust::Read)
    }

    pub(crate) fn load(&self, trust: config::FileTrust) -> Result<config::Config, Failure> {
        let path = config::find(self.config.as_deref()).map_err(Failure::usage)?;
        config::load(&path, trust).map_err(Failure::usage)
    }
}

/// Exit codes other than success; see the module's head.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Exit {
    Finding = 1,
    Usage = 2,
    Absent = 3,
    Other = 4,
}

/// An error and the exit code it becomes.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) exit: Exit,
    pub(crate) error: anyhow::Error,
}

impl Failure {
    pub(crate) fn new(exit: Exit, error: impl Into<anyhow::Error>) -> Self {
        Self {
            exit,
            error: error.into(),
        }
    }

    pub(crate) fn usage(error: impl Into<anyhow::Error>) -> Self {
        Self::new(Exit::Usage, error)
    }

    pub(crate) fn absent(error: impl Into<anyhow::Error>) -> Self {
        Self::new(Exit::Absent, error)
    }

    pub(crate) fn other(error: impl Into<anyhow::Error>) -> Self {
        Self::new(Exit::Other, error)
    }
}

type CommandResult = Result<ExitCode, Failure>;
