//! clawsec's one entry for building, running, testing and shipping: `cargo xtask <what>`.
//!
//! A command is a module with one function; this file only says which there are.

#![expect(
    clippy::print_stdout,
    reason = "a build tool talks to the person who runs it"
)]

mod build;
mod setup;

use anyhow::Result;
use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(
    name = "cargo xtask",
    about = "Builds, runs, tests and ships clawsec",
    version
)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Installs what building the kernel half needs; changes nothing that is there already
    Setup,
    /// Builds the kernel half, then the daemon with it inside
    Build {
        /// Optimises the daemon; the kernel half always is
        #[arg(long)]
        release: bool,
    },
}

fn main() -> Result<()> {
    match Arguments::parse().command {
        Command::Setup => setup::setup().map(|_| ()),
        Command::Build { release } => build::build(release).map(|_| ()),
    }
}
