//! `clawsec key`: keys for clients.

mod list;
mod rotate;

use std::io::Read as _;
use std::process::ExitCode;

use aws_lc_rs::digest;
use aws_lc_rs::rand::{SecureRandom as _, SystemRandom};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use zeroize::Zeroizing;

use super::{CommandResult, Failure, output};

#[derive(Debug, clap::Subcommand)]
pub(crate) enum KeyCommand {
    /// Make a key: prints it once, and the line to put in the configuration.
    New {
        /// The name that stands in the audit log.
        #[arg(long)]
        id: Option<String>,
    },
    /// Hash a key read from standard input.
    Hash,
    /// Show whose keys there are and what they may do; never a key.
    List(list::ListArguments),
    /// Put a new key in the place of one, which goes on opening for a while.
    Rotate(rotate::RotateArguments),
}

pub(crate) fn run(command: &KeyCommand) -> CommandResult {
    match command {
        KeyCommand::New { id } => {
            let key = new_key()?;
            let hash = hash(key.as_bytes());
            let id = id.clone().unwrap_or_else(|| "my-device".into());
            let entry = serde_json::json!({ "id": id, "token": hash });
            output::print(&format!(
                "key (shown once, give it to the client):\n  {}\n\n\
                 line for security.auth.tokens in the configuration:\n  {entry}\n",
                key.as_str()
            ));
        }
        KeyCommand::Hash => {
            let mut key = Zeroizing::new(String::new());
            std::io::stdin()
                .read_to_string(&mut key)
                .map_err(Failure::other)?;
            let key = key.trim_end_matches(['\r', '\n']);
            if key.is_empty() {
                return Err(Failure::usage(anyhow::anyhow!("no key on standard input")));
            }
            output::print(&format!("{}\n", hash(key.as_bytes())));
        }
        KeyCommand::List(arguments) => return list::list(arguments),
        KeyCommand::Rotate(arguments) => return rotate::rotate(arguments),
    }
    Ok(ExitCode::SUCCESS)
}

/// 32 random bytes in URL-safe base64, with a prefix that secret scanners can know.
pub(super) fn new_key() -> Result<Zeroizing<String>, Failure> {
    let mut bytes = Zeroizing::new([0; 32]);
    SystemRandom::new()
        .fill(bytes.as_mut_slice())
        .map_err(|_unspecified| Failure::other(anyhow::anyhow!("the random source failed")))?;
    Ok(Zeroizing::new(format!(
        "clawsec_{}",
        URL_SAFE_NO_PAD.encode(bytes.as_slice())
    )))
}

pub(super) fn hash(key: &[u8]) -> String {
    let digest = digest::digest(&digest::SHA256, key);
    let hex = digest.as_ref().iter().map(|byte| format!("{byte:02x}"));
    format!("sha256:{}", hex.collect::<String>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_differ_and_hash_as_sha256_does() {
        assert_ne!(new_key().unwrap(), new_key().unwrap());
        assert_eq!(
            hash(b"abc"),
            "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
        );
    }
}
