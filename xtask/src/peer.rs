//! The real gateways, installed from npm into a folder that git ignores.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, bail};

use xtask::say;

/// A gateway that the peer tier runs, and the Node it wants.
struct Peer {
    package: &'static str,
    version: &'static str,
    folder: &'static str,
    node: &'static str,
    /// npm's `overrides`, as JSON.
    overrides: &'static str,
}

/// Protocol v3 and protocol v4.
const PEERS: [Peer; 2] = [
    Peer {
        package: "clawdbot",
        version: "2026.1.24-3",
        folder: "cb",
        node: "22",
        // libsignal is a git dependency there; the package of the same name serves offline.
        overrides: r#"{"libsignal":"2.0.1"}"#,
    },
    Peer {
        package: "openclaw",
        version: "2026.9.6",
        folder: "oc",
        node: "24",
        overrides: "{}",
    },
];

/// Installs what is absent; returns the folder with `node22/`, `node24/`, `cb/` and `oc/`.
pub(crate) fn install() -> anyhow::Result<PathBuf> {
    let folder = match std::env::var_os("CLAWSEC_PEER_DIR") {
        Some(folder) => PathBuf::from(folder),
        None => xtask::root().join(".cache/peer"),
    };
    for peer in &PEERS {
        install_one(&folder, peer)?;
    }
    Ok(folder)
}

fn install_one(folder: &Path, peer: &Peer) -> anyhow::Result<()> {
    let Peer {
        package,
        version,
        node,
        overrides,
        ..
    } = peer;
    let node_folder = folder.join(format!("node{node}"));
    let node_bin = node_folder.join("node_modules/node/bin");
    if !node_bin.join("node").is_file() {
        say(&format!(
            "installing Node {node} from npm for {package} (.cache/peer)"
        ));
        let manifest = format!(r#"{{"private":true,"dependencies":{{"node":"{node}"}}}}"#);
        npm(&node_folder, &manifest, None)?;
    }
    let home = folder.join(peer.folder);
    if !home.join("node_modules/.bin").join(package).exists() {
        say(&format!(
            "installing {package}@{version} from npm (about a minute)"
        ));
        let manifest = format!(
            r#"{{"private":true,"dependencies":{{"{package}":"{version}"}},"overrides":{overrides}}}"#
        );
        npm(&home, &manifest, Some(&node_bin))?;
    }
    Ok(())
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
