//! The two real gateways: what each is called and how it is started.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use xtask::lab::{Host, Lab};

use super::gateway::driver;
use crate::system::daemon::UPSTREAM_TOKEN;

/// A gateway as its publisher ships it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Product {
    /// npm `clawdbot@2026.1.24-3`, protocol v3.
    Clawdbot,
    /// npm `openclaw@2026.9.6`, protocol v4.
    Openclaw,
}

impl Product {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Clawdbot => "clawdbot",
            Self::Openclaw => "openclaw",
        }
    }

    /// The prefix of its environment variables.
    pub(super) fn variable(self, name: &str) -> String {
        format!("{}_{name}", self.name().to_uppercase())
    }

    pub(super) fn configuration(self) -> &'static str {
        match self {
            Self::Clawdbot => include_str!("clawdbot.json5"),
            Self::Openclaw => include_str!("openclaw.json5"),
        }
    }

    /// The folder it is installed in, with `node_modules/`.
    pub(super) fn folder(self) -> PathBuf {
        peer_dir().join(match self {
            Self::Clawdbot => "cb",
            Self::Openclaw => "oc",
        })
    }

    /// Its package.
    pub(super) fn package(self) -> PathBuf {
        self.folder().join("node_modules").join(self.name())
    }

    /// The page that answers 200 once it is up.
    pub(super) fn ready_path(self) -> &'static str {
        match self {
            Self::Clawdbot => "/",
            Self::Openclaw => "/readyz",
        }
    }

    /// The folder of the Node it wants.
    pub(super) fn node_bin(self) -> PathBuf {
        let node = match self {
            Self::Clawdbot => "node22",
            Self::Openclaw => "node24",
        };
        peer_dir().join(node).join("node_modules/node/bin")
    }

    /// What a script of these tests prints when its Node runs it over these files.
    pub(super) fn driven(self, script: &str, files: &[&Path]) -> Vec<u8> {
        let home = tempfile::tempdir().expect("make a home for the script");
        let output = Command::new(self.node_bin().join("node"))
            .arg(driver(script))
            .args(files)
            .env("HOME", home.path())
            .stdin(Stdio::null())
            .output()
            .expect("run node");
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{script}: {errors}");
        output.stdout
    }

    /// Its own program, on a host of the lab.
    pub(super) fn command(self, lab: &Lab, host: Host, home: &tempfile::TempDir) -> Command {
        let mut command = self.node(lab, host, home);
        command.arg(self.folder().join("node_modules/.bin").join(self.name()));
        command
    }

    /// Its Node, on a host of the lab, with its environment.
    pub(super) fn node(self, lab: &Lab, host: Host, home: &tempfile::TempDir) -> Command {
        let node = self.node_bin();
        let mut command = lab.command(host, &node.join("node").to_string_lossy());
        let path = std::env::var_os("PATH").unwrap_or_default();
        let paths = std::iter::once(node).chain(std::env::split_paths(&path));
        command
            .env("PATH", std::env::join_paths(paths).expect("join PATH"))
            .env("HOME", home.path())
            .env(self.variable("DISABLE_BONJOUR"), "1")
            .env(self.variable("TEST_TOKEN"), UPSTREAM_TOKEN)
            .env("NO_COLOR", "1")
            .current_dir(home.path())
            .stdin(Stdio::null());
        command
    }
}

fn peer_dir() -> PathBuf {
    let folder = std::env::var_os("CLAWSEC_PEER_DIR").map_or_else(
        || PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../.cache/peer"),
        PathBuf::from,
    );
    assert!(
        folder.join("oc").exists(),
        "no gateways in {}: run cargo xtask test",
        folder.display()
    );
    folder
}
