//! Tools that reach beyond the conversation.

use super::super::facts::Facts;
use super::super::registry::{Check, found};
use crate::counterpart::Severity;
use crate::policy::ToolName;

pub(in crate::cli::check) const CHECKS: &[Check] = &[
    Check {
        id: "tools.exec_uncontained",
        severity: Severity::Critical,
        title: "commands are allowed, and no sandbox runs them",
        remedy: "security.sandbox.enabled: true, or deny \"group:runtime\" in tools.deny",
        judge: |facts| {
            let open: Vec<&str> = ["exec", "process"]
                .into_iter()
                .filter(|tool| allows(facts, tool) && !contains(facts, tool))
                .collect();
            found(!open.is_empty(), || open.join(", "))
        },
        says: &[],
    },
    Check {
        id: "tools.gateway_allowed",
        severity: Severity::Warn,
        title: "the tool that changes the gateway's own settings is allowed",
        remedy: "tools.deny: [\"gateway\"]",
        judge: |facts| found(allows(facts, "gateway"), || "gateway".to_owned()),
        says: &[],
    },
    Check {
        id: "tools.nothing_denied",
        severity: Severity::Warn,
        title: "no tool is denied",
        remedy: "deny what nobody needs: tools.deny: [\"gateway\", \"browser\", \"nodes\", \"cron\"]",
        judge: |facts| {
            let tools = &facts.config.policy.tools;
            let narrowed = tools.denied().next().is_some()
                || tools.allowed().next().is_some()
                || tools.profile().is_some();
            found(!narrowed, || {
                "tools has no deny, no allow and no profile".to_owned()
            })
        },
        says: &[],
    },
    Check {
        id: "tools.far_reaching",
        severity: Severity::Info,
        title: "tools that act on other machines or later are allowed",
        remedy: "where nobody needs them, name them in tools.deny",
        judge: |facts| {
            let open: Vec<&str> = ["browser", "cron", "nodes"]
                .into_iter()
                .filter(|tool| allows(facts, tool))
                .collect();
            found(!open.is_empty(), || open.join(", "))
        },
        says: &[],
    },
];

pub(in crate::cli::check) fn allows(facts: &Facts, tool: &str) -> bool {
    facts
        .config
        .policy
        .tools
        .judge(&ToolName::new(tool))
        .is_ok()
}

pub(in crate::cli::check) fn contains(facts: &Facts, tool: &str) -> bool {
    facts.config.sandbox.enabled && facts.config.policy.sandboxed.names(&ToolName::new(tool))
}
