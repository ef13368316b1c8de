//! `clawsec render`: the gateway's settings that match clawsec's.

use std::process::ExitCode;

use super::{CommandResult, ConfigArgument, Failure, output};
use crate::counterpart::{self, Product};

#[derive(Debug, clap::Args)]
pub(crate) struct RenderArguments {
    /// The gateway that stands behind clawsec.
    #[arg(value_enum)]
    product: ProductArgument,
    /// Write this channel's lists, too (by default: those that the ids in the lists tell of).
    #[arg(long, value_name = "NAME")]
    channel: Vec<String>,
    #[command(flatten)]
    config: ConfigArgument,
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
    let text = counterpart::render(arguments.product.into(), &config, &arguments.channel)
        .map_err(Failure::usage)?;
    output::print(&text);
    Ok(ExitCode::SUCCESS)
}
