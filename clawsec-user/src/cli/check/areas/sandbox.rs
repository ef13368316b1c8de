//! What tools run in.

use super::super::facts::Facts;
use super::super::registry::{Check, found};
use crate::config::{SandboxConfig, SandboxNetwork, SandboxProvider, WorkspaceAccess};
use crate::counterpart::Severity;

pub(in crate::cli::check) const CHECKS: &[Check] = &[
    Check {
        id: "sandbox.off",
        severity: Severity::Warn,
        title: "the sandbox is off",
        remedy: "security.sandbox.enabled: true",
        judge: |facts| {
            found(!facts.config.sandbox.enabled, || {
                "security.sandbox.enabled is false: its tools go to the gateway".to_owned()
            })
        },
        says: &[],
    },
    Check {
        id: "sandbox.none",
        severity: Severity::Critical,
        title: "the provider contains nothing",
        remedy: "leave security.sandbox.provider out: \"native\" needs nothing installed",
        judge: |facts| {
            let none = facts.provider() == SandboxProvider::None && facts.config.sandbox.enabled;
            found(none, || {
                "tools run on this host as an ordinary user".to_owned()
            })
        },
        says: &["\"none\" contains nothing"],
    },
    Check {
        id: "sandbox.broken",
        severity: Severity::Critical,
        title: "the provider does not work, so its tools are denied",
        remedy: "do what the reason says, then `clawsec sandbox exec -- id`",
        judge: |facts| facts.sandbox.problem.iter().cloned().collect(),
        says: &["tools would be denied"],
    },
    Check {
        id: "sandbox.user_missing",
        severity: Severity::Critical,
        title: "the user that tools run as is not there",
        remedy: "`clawsec init` makes it; by hand: useradd, as docs/sandbox.md says",
        judge: |facts| {
            let is_wanted =
                facts.config.sandbox.enabled && facts.provider() != SandboxProvider::Docker;
            found(is_wanted && !facts.host.has_sandbox_user, || {
                facts.config.sandbox.user.clone()
            })
        },
        says: &[],
    },
    Check {
        id: "sandbox.network",
        severity: Severity::Warn,
        title: "tools in the sandbox can reach a network",
        remedy: "security.sandbox.network: \"none\", or a network that leads to one proxy",
        judge: |facts| {
            each(facts, |sandbox| match &sandbox.network {
                SandboxNetwork::Named(name) => Some(name.clone()),
                SandboxNetwork::None => None,
            })
        },
        says: &["sandboxed tools can reach this network"],
    },
    Check {
        id: "sandbox.workspace_writable",
        severity: Severity::Info,
        title: "tools can write to a folder of this host",
        remedy: "security.sandbox.workspace: \"ro\" or \"none\" where they need not",
        judge: |facts| {
            each(facts, |sandbox| {
                let writes = sandbox.workspace_access == WorkspaceAccess::ReadWrite;
                let folder = sandbox.workspace.as_ref().filter(|_| writes)?;
                Some(folder.display().to_string())
            })
        },
        says: &[],
    },
    Check {
        id: "sandbox.image_unpinned",
        severity: Severity::Info,
        title: "the image is named by a tag, which can be moved",
        remedy: "write it with its digest: security.sandbox.image: \"name@sha256:…\"",
        judge: |facts| {
            if facts.provider() != SandboxProvider::Docker || !facts.config.sandbox.enabled {
                return Vec::new();
            }
            each(facts, |sandbox| {
                sandbox
                    .image
                    .clone()
                    .filter(|image| !image.contains("sha256:"))
            })
        },
        says: &[],
    },
];

/// Of the common settings and each agent's own.
fn each(facts: &Facts, look: impl Fn(&SandboxConfig) -> Option<String>) -> Vec<String> {
    let common = &facts.config.sandbox;
    if !common.enabled {
        return Vec::new();
    }
    let own = common.agents.iter();
    let own = own.filter_map(|(id, sandbox)| Some(format!("agent {id}: {}", look(sandbox)?)));
    look(common).into_iter().chain(own).collect()
}
