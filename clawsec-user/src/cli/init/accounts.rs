//! The two users that clawsec works as: one for the gateway process, one for tools.

use std::process::Command;

use anyhow::{Context as _, bail};
use nix::unistd::User;

use crate::config::SANDBOX_USER;
use crate::supervisor::GATEWAY_USER;

/// An account, and `useradd`'s arguments for it.
pub(super) struct Account {
    pub(super) name: &'static str,
    arguments: &'static [&'static str],
}

pub(super) const ACCOUNTS: [Account; 2] = [
    Account {
        name: GATEWAY_USER,
        arguments: &["--system", "--no-create-home", "--home-dir", "/nonexistent"],
    },
    Account {
        name: SANDBOX_USER,
        // firejail builds a private home only below /home.
        arguments: &["--create-home", "--home-dir", "/home/clawsec-sbx"],
    },
];

impl Account {
    pub(super) fn exists(&self) -> bool {
        User::from_name(self.name).is_ok_and(|user| user.is_some())
    }

    pub(super) fn make(&self) -> anyhow::Result<()> {
        let output = Command::new("useradd")
            .args(["--user-group", "--shell", "/usr/sbin/nologin"])
            .args(self.arguments)
            .arg(self.name)
            .output()
            .context("run useradd (package passwd); --no-users leaves the users to you")?;
        if !output.status.success() {
            let why = String::from_utf8_lossy(&output.stderr);
            bail!("useradd {}: {}", self.name, why.trim());
        }
        Ok(())
    }
}
