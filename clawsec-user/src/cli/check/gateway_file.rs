//! The gateway's own file beside clawsec's: where it is, and how the two differ.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use anyhow::Context as _;

use crate::cli::Failure;
use crate::cli::machine::gateways;
use crate::cli::render::ProductArgument;
use crate::config::{Config, FileTrust, ProcessSources, Sources as _};
use crate::counterpart::{self, Drift, Product};

#[derive(Debug, clap::Args)]
pub(crate) struct GatewayFileArguments {
    /// The gateway's own configuration, to compare with [default: where the products have it, if
    /// it can be read]
    #[arg(long, value_name = "FILE")]
    gateway_file: Option<PathBuf>,
    /// Whose file it is [default: by its name]
    #[arg(long, value_enum, requires = "gateway_file")]
    product: Option<ProductArgument>,
}

/// One file that was compared.
#[derive(Debug)]
pub(crate) struct Compared {
    pub(crate) path: PathBuf,
    pub(crate) product: Product,
    pub(crate) drifts: Vec<Drift>,
}

impl GatewayFileArguments {
    /// Compares the file that was named, or each that is found.
    pub(crate) fn compare(&self, config: &Config) -> Result<Vec<Compared>, Failure> {
        let Some(path) = &self.gateway_file else {
            let found = places().into_iter();
            return found
                .filter_map(|(product, path)| {
                    Some((product, fs::read_to_string(&path).ok()?, path))
                })
                .map(|(product, text, path)| compare(config, product, &text, &path))
                .collect();
        };
        let product = self
            .product
            .map(Product::from)
            .or_else(|| Product::of_file(path));
        let product = product.ok_or_else(|| {
            let name = path.display();
            Failure::usage(anyhow::anyhow!(
                "{name}: whose file is it? Say --product openclaw or --product clawdbot"
            ))
        })?;
        let text = fs::read_to_string(path)
            .with_context(|| format!("read {}", path.display()))
            .map_err(Failure::usage)?;
        Ok(vec![compare(config, product, &text, path)?])
    }
}

fn compare(
    config: &Config,
    product: Product,
    text: &str,
    path: &Path,
) -> Result<Compared, Failure> {
    let document = counterpart::read(text).map_err(|why| {
        Failure::usage(
            anyhow::Error::from(io::Error::other(why)).context(format!("read {}", path.display())),
        )
    })?;
    let drifts = counterpart::drift(product, config, &document).map_err(Failure::usage)?;
    Ok(Compared {
        path: path.to_owned(),
        product,
        drifts,
    })
}

/// The files of gateways that run here, and where the products have theirs for the one who runs
/// this.
fn places() -> Vec<(Product, PathBuf)> {
    let running = gateways::running(Path::new("/proc")).into_iter();
    let mut places: Vec<(Product, PathBuf)> = running
        .filter(|running| !running.is_apart)
        .filter_map(|running| Some((running.product, running.file()?)))
        .collect();
    let home = ProcessSources::new(FileTrust::Read).home();
    let own = |product: Product| {
        let named = std::env::var_os(product.path_variable()).filter(|path| !path.is_empty());
        let path = named
            .map(PathBuf::from)
            .or_else(|| Some(product.file(home.as_deref()?)));
        Some((product, path?))
    };
    places.extend(Product::BOTH.into_iter().filter_map(own));
    let mut known = std::collections::HashSet::new();
    places.retain(|(_, path)| known.insert(path.clone()));
    places
}
