//! `clawsec run` and `clawsec detach`.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use super::{CommandResult, ConfigArgument, Exit, Failure, output};
use crate::supervisor::lockout;
use crate::{config, enforcer, supervisor};

pub(super) const DEFAULT_PIN_DIR: &str = "/sys/fs/bpf/clawsec";
pub(super) const DEFAULT_STATE_DIR: &str = "/var/lib/clawsec";

#[derive(Debug, clap::Args)]
pub(crate) struct RunArguments {
    #[command(flatten)]
    config: ConfigArgument,
    /// Filter packets on this interface [default: those that carry the listen addresses]
    #[arg(long, value_name = "IF")]
    interface: Vec<String>,
    /// Run without the packet filter; the address check at accept stays.
    #[arg(long)]
    no_xdp: bool,
    /// Log what the BPF program says of each packet it judges, for diagnosis.
    #[arg(long)]
    bpf_log: bool,
    /// Take each new policy back unless `clawsec confirm` arrives within this many seconds
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..=86_400))]
    confirm: Option<u64>,
    /// Put the policy in force even if it cuts off your own SSH session.
    #[arg(long)]
    yes: bool,
    /// Where the packet filter is pinned, on a bpffs.
    #[arg(long, value_name = "DIR", default_value = DEFAULT_PIN_DIR)]
    pin_dir: PathBuf,
    /// Where the daemon keeps its own state.
    #[arg(long, value_name = "DIR", default_value = DEFAULT_STATE_DIR)]
    state_dir: PathBuf,
}

#[derive(Debug, clap::Args)]
pub(crate) struct DetachArguments {
    /// Where it is pinned
    #[arg(long, value_name = "DIR", default_value = DEFAULT_PIN_DIR)]
    pin_dir: PathBuf,
}

pub(crate) fn run(arguments: RunArguments) -> CommandResult {
    output::start_log();
    let config = arguments.config.load(config::FileTrust::Run)?;
    let options = supervisor::Options {
        interfaces: arguments.interface,
        no_xdp: arguments.no_xdp,
        bpf_log: arguments.bpf_log,
        pin_dir: arguments.pin_dir,
        state_dir: arguments.state_dir,
        confirm: arguments.confirm.map(Duration::from_secs),
        yes: arguments.yes,
    };
    refuse_a_lockout(&config, &options)?;
    supervisor::privileges::narrow().map_err(Failure::other)?;
    // The supervisor waits for few things and computes little: one thread is enough, and keeps
    // it easy to reason about.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(Failure::other)?;
    runtime
        .block_on(supervisor::run(config, options))
        .map_err(|error| {
            let exit = match error.blame() {
                supervisor::Blame::Configuration => Exit::Usage,
                supervisor::Blame::Kernel => Exit::Absent,
                supervisor::Blame::Unconfirmed => Exit::Finding,
                supervisor::Blame::System => Exit::Other,
            };
            Failure::new(exit, error)
        })?;
    Ok(ExitCode::SUCCESS)
}

/// The session that this very command is typed in must outlive it.
fn refuse_a_lockout(config: &config::Config, options: &supervisor::Options) -> Result<(), Failure> {
    if options.no_xdp || options.yes || options.confirm.is_some() {
        return Ok(());
    }
    let shell = std::env::var("SSH_CONNECTION").ok();
    let sessions = lockout::sessions(shell.as_deref());
    match lockout::locked_out(config, &sessions) {
        None => Ok(()),
        Some(session) => Err(Failure::usage(anyhow::anyhow!(lockout::remedy(session)))),
    }
}

pub(crate) fn detach(arguments: &DetachArguments) -> CommandResult {
    let removed = enforcer::detach(&arguments.pin_dir).map_err(Failure::absent)?;
    if removed.is_empty() {
        let nothing = format!("nothing is pinned under {}", arguments.pin_dir.display());
        return Err(Failure::absent(anyhow::anyhow!(nothing)));
    }
    for name in removed {
        output::print(&format!("removed {name}\n"));
    }
    Ok(ExitCode::SUCCESS)
}
