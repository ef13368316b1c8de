//! How often a source or a key may ask.

use super::super::registry::{Check, found};
use crate::counterpart::Severity;

pub(in crate::cli::check) const CHECKS: &[Check] = &[
    Check {
        id: "limits.off",
        severity: Severity::Critical,
        title: "nothing limits how often somebody asks",
        remedy: "security.rateLimit: { enabled: true, requests: 60, window: 60000 }",
        judge: |facts| {
            found(!facts.config.policy.limit.enabled, || {
                "security.rateLimit.enabled is false".to_owned()
            })
        },
        says: &["no limit on requests or connections"],
    },
    Check {
        id: "limits.wide",
        severity: Severity::Warn,
        title: "the limit lets somebody guess thousands of keys a minute",
        remedy: "security.rateLimit.requests: 60 or so in a window of 60000",
        judge: |facts| {
            let limit = facts.config.policy.limit;
            let a_minute = u64::from(limit.requests) * 60_000 / limit.window_ms.max(1);
            found(limit.enabled && a_minute > 6000, || {
                format!("{a_minute} a minute")
            })
        },
        says: &[],
    },
    Check {
        id: "limits.no_ban",
        severity: Severity::Info,
        title: "who is denied again and again is never banned",
        remedy: "security.rateLimit.ban: { after: 60, for: 60000 }",
        judge: |facts| {
            let none = facts.config.ban.is_none() && facts.config.policy.limit.enabled;
            found(none, || "security.rateLimit.ban is left out".to_owned())
        },
        says: &[],
    },
    Check {
        id: "limits.files",
        severity: Severity::Warn,
        title: "the process may not open as many files as maxConnections can take",
        remedy: "raise LimitNOFILE of the unit, or lower gateway.maxConnections",
        judge: |facts| {
            let needed = u64::from(facts.config.gateway.max_connections) * 2 + 8192;
            let most = facts.host.most_files;
            found(most < needed, || format!("{most} of {needed}"))
        },
        says: &[],
    },
];
