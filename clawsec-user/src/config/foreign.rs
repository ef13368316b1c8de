//! The parts of a merged file that belong to the gateway: left out, with one warning.
//!
//! Invariant: only names on these lists, and top-level sections that are no near miss of ours,
//! are left out. Everything else inside clawsec's sections is clawsec's to know, or an error.

use super::near;
use super::report::Report;
use super::tree::{Member, Node, Value, join};

/// The sections clawsec reads.
const OURS: &[&str] = &["gateway", "security", "tools", "secrets", "agents"];

/// The gateway's own keys inside sections that both read (`src/config/zod-schema.*` of clawdbot
/// 2026.1.24, and the additions of openclaw 2026.9 that were seen).
pub(super) const FOREIGN: &[(&str, &[&str])] = &[
    (
        "gateway",
        &[
            "mode",
            "bind",
            "port",
            "auth",
            "customBindHost",
            "controlUi",
            "trustedProxies",
            "allowRealIpFallback",
            "http",
            "remote",
            "reload",
            "tailscale",
            "nodes",
            "tools",
            "push",
            "webchat",
            "handshakeTimeoutMs",
            "channelHealthCheckMinutes",
        ],
    ),
    ("gateway.tls", &["autoGenerate"]),
    (
        "tools",
        &[
            "exec",
            "elevated",
            "byProvider",
            "alsoAllow",
            "web",
            "media",
            "links",
            "message",
            "agentToAgent",
            "subagents",
            "sandbox",
            "sessions",
            "toolsBySender",
            "fs",
            "loopDetection",
            "codeMode",
            "experimental",
            "audio",
        ],
    ),
    ("secrets", &["providers", "defaults", "resolution"]),
    ("agents", &["defaults", "entries"]),
    (
        "agents.list[]",
        &[
            "name",
            "agentDir",
            "model",
            "skills",
            "memorySearch",
            "humanDelay",
            "heartbeat",
            "identity",
            "groupChat",
            "subagents",
            "params",
            "runtime",
            "thinkingDefault",
            "verboseDefault",
        ],
    ),
    (
        "agents.list[].tools",
        &[
            "exec",
            "elevated",
            "byProvider",
            "alsoAllow",
            "fs",
            "loopDetection",
            "sandbox",
            "message",
            "toolsBySender",
        ],
    ),
    (
        "agents.list[].sandbox",
        &[
            "mode",
            "backend",
            "scope",
            "perSession",
            "workspaceAccess",
            "workspaceRoot",
            "docker",
            "ssh",
            "browser",
            "prune",
            "sessionToolsVisibility",
        ],
    ),
];

/// Top-level sections of the gateway that might look like a slip of one of ours.
const FOREIGN_TOP: &[&str] = &[
    "channels",
    "models",
    "session",
    "env",
    "messages",
    "hooks",
    "logging",
    "meta",
    "wizard",
    "auth",
    "bindings",
    "broadcast",
    "audio",
    "media",
    "commands",
    "cron",
    "web",
    "discovery",
    "canvasHost",
    "talk",
    "skills",
    "plugins",
    "browser",
    "ui",
    "update",
    "diagnostics",
    "nodeHost",
    "approvals",
    "memory",
    "acp",
    "mcp",
    "cli",
    "$schema",
];

/// Takes out what belongs to the gateway.
pub(super) fn prune(root: &mut Node, report: &mut Report) {
    let mut left_out = Vec::new();
    if let Value::Object(members) = &mut root.value {
        members.retain(|member| {
            let ours = OURS.contains(&member.key.as_str());
            let slip = !FOREIGN_TOP.contains(&member.key.as_str())
                && near::nearest(&member.key, OURS.iter().copied()).is_some();
            let include = member.key == "$include";
            if !ours && !slip && !include && member.key != "$schema" {
                left_out.push(member.key.clone());
            }
            ours || slip || include
        });
    }
    refuse_includes(root, "", report);
    inside(root, "", "", &mut left_out);
    if !left_out.is_empty() {
        report.warn(
            &left_out.join(", "),
            "the gateway's own settings; clawsec does not read them",
        );
    }
}

fn inside(node: &mut Node, path: &str, pattern: &str, left_out: &mut Vec<String>) {
    match &mut node.value {
        Value::Object(members) => {
            let foreign = FOREIGN.iter().find(|(at, _)| *at == pattern);
            members.retain(|member| {
                let known = foreign.is_some_and(|(_, keys)| keys.contains(&member.key.as_str()));
                if known {
                    left_out.push(join(path, &member.key));
                }
                !known
            });
            for Member { key, node, .. } in members {
                inside(node, &join(path, key), &join(pattern, key), left_out);
            }
        }
        Value::List(nodes) => {
            for (index, node) in nodes.iter_mut().enumerate() {
                inside(
                    node,
                    &format!("{path}[{index}]"),
                    &format!("{pattern}[]"),
                    left_out,
                );
            }
        }
        _ => {}
    }
}

/// The gateway merges other files by `$include`. What clawsec would not see it cannot enforce, so
/// inside its sections, and at the top, the key is refused rather than left out.
fn refuse_includes(node: &mut Node, path: &str, report: &mut Report) {
    match &mut node.value {
        Value::Object(members) => {
            members.retain(|member| {
                if member.key == "$include" {
                    report.problem(
                        member.offset,
                        &join(path, "$include"),
                        "clawsec does not follow $include; write the section here",
                    );
                }
                member.key != "$include"
            });
            for Member { key, node, .. } in members {
                refuse_includes(node, &join(path, key), report);
            }
        }
        Value::List(nodes) => {
            for (index, node) in nodes.iter_mut().enumerate() {
                refuse_includes(node, &format!("{path}[{index}]"), report);
            }
        }
        _ => {}
    }
}
