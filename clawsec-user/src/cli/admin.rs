//! How every command asks the running daemon.

use std::path::PathBuf;

use super::{ConfigArgument, Exit, Failure, output};
pub(crate) use crate::ops::words;
use crate::supervisor::admin::{Answer, Question, ask};

/// Which daemon to ask.
#[derive(Debug, clap::Args)]
pub(crate) struct SocketArguments {
    /// The daemon's admin socket [default: `gateway.admin.socket` of the configuration]
    #[arg(long, value_name = "PATH")]
    socket: Option<PathBuf>,
    #[command(flatten)]
    config: ConfigArgument,
}

impl SocketArguments {
    pub(crate) fn path(&self) -> Result<PathBuf, Failure> {
        match &self.socket {
            Some(path) => Ok(path.clone()),
            None => Ok(self.config.read()?.gateway.admin_socket),
        }
    }
}

/// Asks; the daemon's own «no» becomes exit code 1.
pub(crate) fn exchange(socket: &SocketArguments, question: &Question) -> Result<Answer, Failure> {
    let path = socket.path()?;
    match ask(&path, question) {
        Ok(Answer::Refused { message }) => {
            Err(Failure::new(Exit::Finding, anyhow::anyhow!(message)))
        }
        Ok(answer) => Ok(answer),
        Err(error) => Err(Failure::absent(error)),
    }
}

pub(crate) fn unexpected(answer: &Answer) -> Failure {
    Failure::other(anyhow::anyhow!(
        "the daemon answered another question: {answer:?}"
    ))
}

pub(crate) fn print_json(value: &impl serde::Serialize) -> Result<(), Failure> {
    let text = serde_json::to_string_pretty(value).map_err(Failure::other)?;
    output::print(&format!("{text}\n"));
    Ok(())
}
