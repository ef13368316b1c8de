//! The configuration of the gateway behind, as far as clawsec's own decides it.
//!
//! `settings` says what should stand there, `render` writes it, `drift` compares it with what does.
//! Invariant: values in, values out; no IO, and no secret of clawsec's in what comes out.

mod channels;
mod drift;
mod render;
mod settings;
#[cfg(test)]
mod tests;
mod tools;

use std::path::{Path, PathBuf};

use jsonc_parser::ParseOptions;
use serde_json::Value;

pub use drift::{Drift, Severity, drift};
pub use render::{missing, render};
pub use settings::Unsupported;

use crate::policy::Reading;

/// Reads a gateway's file: JSON5.
///
/// # Errors
/// What is wrong with it, and where.
pub fn read(text: &str) -> Result<Value, String> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let read = jsonc_parser::parse_to_serde_value(text, &ParseOptions::default());
    let read: Option<Value> = read.map_err(|error| error.to_string())?;
    match read {
        Some(document @ Value::Object(_)) => Ok(document),
        _ => Err("not a configuration; expected an object".to_owned()),
    }
}

/// A gateway that stands behind clawsec.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Product {
    /// Protocol v3.
    Clawdbot,
    /// Protocol v4.
    Openclaw,
}

impl Product {
    pub const BOTH: [Self; 2] = [Self::Openclaw, Self::Clawdbot];

    pub fn name(self) -> &'static str {
        match self {
            Self::Clawdbot => "clawdbot",
            Self::Openclaw => "openclaw",
        }
    }

    /// Whose file this is, by its name.
    pub fn of_file(path: &Path) -> Option<Self> {
        let name = path.file_name()?.to_str()?.to_lowercase();
        match () {
            () if name.contains("openclaw") => Some(Self::Openclaw),
            () if name.contains("clawdbot") || name.contains("moltbot") => Some(Self::Clawdbot),
            () => None,
        }
    }

    /// How it reads tool names and lists.
    pub fn reading(self) -> Reading {
        match self {
            Self::Clawdbot => Reading::V3,
            Self::Openclaw => Reading::V4,
        }
    }

    /// The variable that names its configuration file.
    pub fn path_variable(self) -> &'static str {
        match self {
            Self::Clawdbot => "CLAWDBOT_CONFIG_PATH",
            Self::Openclaw => "OPENCLAW_CONFIG_PATH",
        }
    }

    /// The variable that names the folder which holds that file, otherwise in the home folder.
    pub fn state_variable(self) -> &'static str {
        match self {
            Self::Clawdbot => "CLAWDBOT_STATE_DIR",
            Self::Openclaw => "OPENCLAW_STATE_DIR",
        }
    }

    /// The variable that each reads its token from by itself.
    pub fn token_variable(self) -> &'static str {
        match self {
            Self::Clawdbot => "CLAWDBOT_GATEWAY_TOKEN",
            Self::Openclaw => "OPENCLAW_GATEWAY_TOKEN",
        }
    }

    /// Its configuration file in a home folder.
    pub fn file(self, home: &Path) -> PathBuf {
        let name = self.name();
        home.join(format!(".{name}")).join(format!("{name}.json"))
    }
}
