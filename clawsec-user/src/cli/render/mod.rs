//! `clawsec render`: what stands beside clawsec, made to match its configuration.

mod systemd;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;

use super::run::DEFAULT_STATE_DIR;
use super::{CommandResult, ConfigArgument, Failure, output};
use crate::config::Config;
use crate::counterpart::{self, Product};

#[derive(Debug, clap::Args)]
pub(crate) struct RenderArguments {
    /// The gateway's settings, or clawsec's own unit
    #[arg(value_enum)]
    what: What,
    /// Write this channel's lists, too [default: those the ids tell of]
    #[arg(long, value_name = "NAME")]
    channel: Vec<String>,
    /// systemd: the socket unit, by which restarts refuse nobody
    #[arg(long)]
    socket: bool,
    /// systemd: the program [default: this one]
    #[arg(long, value_name = "FILE")]
    program: Option<PathBuf>,
    /// systemd: where the daemon keeps its own state
    #[arg(long, value_name = "DIR", default_value = DEFAULT_STATE_DIR)]
    state_dir: PathBuf,
    #[command(flatten)]
    config: ConfigArgument,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum What {
    Openclaw,
    Clawdbot,
    Systemd,
}

/// A gateway by name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum ProductArgument {
    Openclaw,
    Clawdbot,
}

impl From<ProductArgument> for Product {
    fn from(argument: ProductArgument) -> Self {
        match argument {
            ProductArgument::Openclaw => Self::Openclaw,
            ProductArgument::Clawdbot => Self::Clawdbot,
        }
    }
}

pub(crate) fn render(arguments: &RenderArguments) -> CommandResult {
    let config = arguments.config.read()?;
    let text = match arguments.what {
        What::Openclaw => settings(Product::Openclaw, &config, arguments)?,
        What::Clawdbot => settings(Product::Clawdbot, &config, arguments)?,
        What::Systemd if arguments.socket => systemd::socket(&config),
        What::Systemd => {
            let own = || std::env::current_exe().context("find this program's own file");
            let program = match &arguments.program {
                Some(program) => program.clone(),
                None => own().map_err(Failure::other)?,
            };
            let place = systemd::Place {
                program: &program,
                state_dir: &arguments.state_dir,
            };
            systemd::unit(&config, &place)
        }
    };
    output::print(&text);
    Ok(ExitCode::SUCCESS)
}

fn settings(
    product: Product,
    config: &Config,
    arguments: &RenderArguments,
) -> Result<String, Failure> {
    counterpart::render(product, config, &arguments.channel).map_err(Failure::usage)
}
