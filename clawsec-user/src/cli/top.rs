//! `clawsec top`: found beside this program, since it is one of its own.

use std::os::unix::process::CommandExt as _;
use std::process::Command;

use anyhow::Context as _;

use super::admin::SocketArguments;
use super::{CommandResult, Failure};

#[derive(Debug, clap::Args)]
pub(crate) struct TopArguments {
    #[command(flatten)]
    socket: SocketArguments,
    /// Print one screen as text and end
    #[arg(long)]
    once: bool,
}

pub(crate) fn top(arguments: &TopArguments) -> CommandResult {
    let beside = std::env::current_exe()
        .context("find this program")
        .map_err(Failure::other)?
        .with_file_name(PROGRAM);
    let mut command = Command::new(&beside);
    command.arg("--socket").arg(arguments.socket.path()?);
    if arguments.once {
        command.arg("--once");
    }
    let error = command.exec();
    Err(Failure::other(anyhow::Error::new(error).context(format!(
        "run {}, which `clawsec top` is: install it beside clawsec (cargo build -p {PROGRAM})",
        beside.display()
    ))))
}

const PROGRAM: &str = "clawsec-top";
