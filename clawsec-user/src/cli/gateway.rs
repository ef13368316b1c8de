//! `clawsec gateway`: the other end of `supervisor::child`.

use std::io::IsTerminal as _;
use std::os::fd::AsFd as _;
use std::os::unix::net::UnixStream;
use std::process::ExitCode;

use anyhow::Context as _;

use super::{CommandResult, Failure, output};
use crate::{gateway, ipc};

/// Takes the listeners, drops every privilege, then serves.
pub(crate) fn run(uid: u32, gid: u32) -> CommandResult {
    if std::io::stdin().is_terminal() {
        let hint = "`clawsec gateway` is started by `clawsec run`, which hands it its sockets";
        return Err(Failure::usage(anyhow::anyhow!(hint)));
    }
    output::start_log();
    serve(uid, gid).map_err(Failure::other)?;
    Ok(ExitCode::SUCCESS)
}

fn serve(uid: u32, gid: u32) -> anyhow::Result<()> {
    let stdin = std::io::stdin()
        .as_fd()
        .try_clone_to_owned()
        .context("take the socketpair")?;
    let supervisor = UnixStream::from(stdin);
    let listeners = ipc::receive_listeners(&supervisor).context("receive the listeners")?;
    // Nothing from outside has been read, and no thread started, before this line.
    let confinement = gateway::confine(uid, gid).context("drop privileges")?;
    tracing::debug!(?confinement, "the gateway process is confined");
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("start the async runtime")?;
    runtime
        .block_on(gateway::run(listeners, supervisor))
        .context("serve")
}
