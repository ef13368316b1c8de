//! `clawsec check --fix`: what can be mended without a decision of the operator's.
//!
//! Invariant: it takes permission bits away, from clawsec's own files alone, and nothing else.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;

use anyhow::Context as _;

use super::facts::{Facts, Role};

/// One change that is safe.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Fix {
    path: PathBuf,
    mode: u32,
}

impl Fix {
    pub(super) fn in_words(&self) -> String {
        format!("chmod {:o} {}", self.mode, self.path.display())
    }

    pub(super) fn apply(&self) -> anyhow::Result<()> {
        fs::set_permissions(&self.path, fs::Permissions::from_mode(self.mode))
            .with_context(|| format!("cannot {}; run it as root", self.in_words()))
    }
}

/// Whatever is wider than its role needs.
pub(super) fn all(facts: &Facts) -> Vec<Fix> {
    let narrowed = facts.files.iter().filter_map(|file| {
        let bits = match file.role {
            Role::Configuration if facts.config.literal_secrets.is_empty() => 0o022,
            Role::Configuration | Role::AuditLog | Role::State => 0o077,
            // A group such as ssl-cert may be meant to read it.
            Role::CertificateKey | Role::Secret => 0o037,
        };
        (file.mode & bits != 0).then(|| Fix {
            path: file.path.clone(),
            mode: file.mode & !bits,
        })
    });
    let mut fixes: Vec<Fix> = narrowed.collect();
    // With an authority the chain and the key are one file.
    fixes.dedup();
    fixes
}
