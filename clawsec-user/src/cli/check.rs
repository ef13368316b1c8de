//! `clawsec check`: is the file valid, and what should not stay as it is?

use std::process::ExitCode;

use super::{CommandResult, ConfigArgument, output};
use crate::config::Config;

#[derive(Debug, clap::Args)]
pub(crate) struct CheckArguments {
    #[command(flatten)]
    config: ConfigArgument,
}

/// Exits 0 when there is nothing to say, 1 with warnings, 2 with errors.
pub(crate) fn check(arguments: &CheckArguments) -> CommandResult {
    let config = arguments.config.read()?;
    output::print(&describe(&config));
    for warning in &config.warnings {
        output::print(&format!("warning  {}: {}\n", warning.path, warning.message));
    }
    Ok(if config.warnings.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::from(1)
    })
}

fn describe(config: &Config) -> String {
    let scheme = if config.gateway.tls.is_some() {
        "https"
    } else {
        "http, no TLS"
    };
    let listen: Vec<String> = config
        .gateway
        .listen
        .iter()
        .map(|listen| listen.address.to_string())
        .collect();
    let sandbox = if config.sandbox.enabled {
        config.sandbox.provider.as_str()
    } else {
        "off"
    };
    let limit = if config.policy.limit.enabled {
        let limit = config.policy.limit;
        format!(
            "{} requests in {} ms per address",
            limit.requests, limit.window_ms
        )
    } else {
        "off".to_owned()
    };
    format!(
        "{} is valid\n\
         listen   {} ({scheme})\n\
         upstream {}\n\
         keys     {}\n\
         prefixes {}\n\
         limit    {limit}\n\
         sandbox  {sandbox}\n\
         audit    {}\n",
        config.path.display(),
        listen.join(", "),
        config.gateway.upstream.authority(),
        config.policy.credentials.len(),
        config.policy.addresses.rules().len(),
        if config.audit.enabled {
            config.audit.path.display().to_string()
        } else {
            "off".into()
        },
    )
}
