//! `clawsec confirm`: the new policy is good, since this command got through to say so.

use std::process::ExitCode;

use super::admin::{SocketArguments, exchange, unexpected};
use super::{CommandResult, output};
use crate::supervisor::admin::{Answer, Question};

#[derive(Debug, clap::Args)]
pub(crate) struct ConfirmArguments {
    #[command(flatten)]
    socket: SocketArguments,
}

pub(crate) fn confirm(arguments: &ConfirmArguments) -> CommandResult {
    match exchange(&arguments.socket, &Question::Confirm)? {
        Answer::Confirmed { generation } => {
            output::print(&format!("policy generation {generation} stays in force\n"));
            Ok(ExitCode::SUCCESS)
        }
        other => Err(unexpected(&other)),
    }
}
