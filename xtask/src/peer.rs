//! The real gateways, installed from npm into a folder that git ignores.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, bail};

use xtask::say;

/// The gateway that the peer tier runs: protocol v3, Node 22.
const CLAWDBOT: &str = "2026.1.24-3";

/// Installs what is absent; returns the folder with `node22/` and `cb/`.
pub(crate) fn install() -> anyhow::Result<PathBuf> {
    let folder = match std::env::var_os("CLAWSEC_PEER_DIR") {
        Some(folder) => PathBuf::from(folder),
        None => xtask::root().join(".cache/peer"),
    };
    let node = folder.join("node22/node_modules/node/bin");
    if !node.join("node").is_file() {
        say("installing Node 22 from npm for the real gateway (.cache/peer)");
        npm(
            &folder.join("node22"),
            r#"{"private":true,"dependencies":{"node":"22"}}"#,
            None,
        )?;
    }
    if !folder.join("cb/node_modules/.bin/clawdbot").exists() {
        say(&format!(
            "installing clawdbot@{CLAWDBOT} from npm (about a minute)"
        ));
        // libsignal is a git dependency there; the package of the same name serves offline.
        let manifest = format!(
            r#"{{"private":true,"dependencies":{{"clawdbot":"{CLAWDBOT}"}},"overrides":{{"libsignal":"2.0.1"}}}}"#
        );
        npm(&folder.join("cb"), &manifest, Some(&node))?;
    }
    Ok(folder)
}

fn npm(folder: &Path, manifest: &str, node: Option<&Path>) -> anyhow::Result<()> {
    fs::create_dir_all(folder).with_context(|| format!("create {}", folder.display()))?;
    fs::write(folder.join("package.json"), manifest)
        .with_context(|| format!("write {}/package.json", folder.display()))?;
    let mut command = Command::new("npm");
    command.args([
        "install",
        "--omit=dev",
        "--no-audit",
        "--no-fund",
        "--loglevel=error",
    ]);
    command.args(["--fetch-retries=5", "--fetch-timeout=60000"]);
    let system = "/etc/ssl/certs/ca-certificates.crt";
    if std::env::var_os("NODE_EXTRA_CA_CERTS").is_none() && Path::new(system).exists() {
        // Node trusts its own list only; a registry behind the host's own authority needs this.
        command.env("NODE_EXTRA_CA_CERTS", system);
    }
    if let Some(node) = node {
        // Node itself comes with an install script that fetches its binary; the gateway's
        // dependencies need none of theirs.
        command.arg("--ignore-scripts");
        let path = std::env::var_os("PATH").unwrap_or_default();
        let paths = std::iter::once(node.to_owned()).chain(std::env::split_paths(&path));
        command.env("PATH", std::env::join_paths(paths)?);
    }
    let status = command
        .current_dir(folder)
        .status()
        .context("run npm (package npm)")?;
    if status.success() {
        Ok(())
    } else {
        bail!("npm install failed in {}", folder.display())
    }
}
