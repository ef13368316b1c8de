//! Modes and owners of clawsec's own files.

use super::super::facts::{Facts, Role};
use super::super::registry::Check;
use crate::counterpart::Severity;

pub(in crate::cli::check) const CHECKS: &[Check] = &[
    Check {
        id: "files.changeable",
        severity: Severity::Critical,
        title: "somebody besides root can change a file of clawsec's",
        remedy: "chown root and chmod go-w what is named; the agent must not edit its guard",
        judge: |facts| {
            let files = facts.files.iter();
            let mut all: Vec<String> = files.flat_map(|file| file.changeable.clone()).collect();
            all.sort_unstable();
            all.dedup();
            all
        },
        says: &["so others can change it", "not to root or the running user"],
    },
    Check {
        id: "files.configuration_readable",
        severity: Severity::Warn,
        title: "others can read a configuration that holds secrets",
        remedy: "chmod 600 the file (`clawsec check --fix`), or write ${VAR} or sha256: instead",
        judge: |facts| {
            if facts.config.literal_secrets.is_empty() {
                return Vec::new();
            }
            readable(facts, Role::Configuration, 0o044)
        },
        says: &["a secret stands in a file that others can read"],
    },
    Check {
        id: "files.key_readable",
        severity: Severity::Critical,
        title: "others can read the certificate's private key",
        remedy: "chmod 600 the file (`clawsec check --fix`), and make a new key and certificate",
        judge: |facts| readable(facts, Role::CertificateKey, 0o007),
        says: &[],
    },
    Check {
        id: "files.secret_readable",
        severity: Severity::Critical,
        title: "others can read a file of secrets.dir",
        remedy: "chmod 600 the file (`clawsec check --fix`), and change the secret",
        judge: |facts| readable(facts, Role::Secret, 0o007),
        says: &[],
    },
    Check {
        id: "files.audit_readable",
        severity: Severity::Warn,
        title: "others can read the audit log",
        remedy: "chmod 600 the file (`clawsec check --fix`): it names people, tools and addresses",
        judge: |facts| readable(facts, Role::AuditLog, 0o007),
        says: &[],
    },
    Check {
        id: "files.state_readable",
        severity: Severity::Critical,
        title: "others can look into the daemon's state folder",
        remedy: "chmod 700 the folder (`clawsec check --fix`): it holds the device secret",
        judge: |facts| readable(facts, Role::State, 0o077),
        says: &[],
    },
];

fn readable(facts: &Facts, role: Role, bits: u32) -> Vec<String> {
    let files = facts.files.iter().filter(|file| file.role == role);
    files
        .filter(|file| file.mode & bits != 0)
        .map(|file| format!("{} has mode {:04o}", file.path.display(), file.mode))
        .collect()
}
