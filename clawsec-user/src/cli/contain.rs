//! `clawsec contain`: the other end of the sandbox's `native` provider.

use std::path::PathBuf;
use std::process::ExitCode;

use crate::sandbox::{Containment, contain};

#[derive(Debug, clap::Args)]
pub(crate) struct ContainArguments {
    #[arg(long)]
    tell: i32,
    #[arg(long)]
    order: i32,
    #[arg(long)]
    filters: i32,
    #[arg(long)]
    uid: u32,
    #[arg(long)]
    gid: u32,
    #[arg(long)]
    base: PathBuf,
    #[arg(long)]
    workspace: Option<PathBuf>,
    #[arg(long)]
    read_only: bool,
}

pub(crate) fn run(arguments: ContainArguments) -> ExitCode {
    contain(&Containment {
        tell: arguments.tell,
        order: arguments.order,
        filters: arguments.filters,
        uid: arguments.uid,
        gid: arguments.gid,
        base: arguments.base,
        workspace: arguments.workspace,
        read_only: arguments.read_only,
    })
}
