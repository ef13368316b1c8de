//! The log, and whether anybody hears of what is in it.

use super::super::registry::{Check, found};
use crate::config::{AuditOnFailure, Fsync};
use crate::counterpart::Severity;
use crate::event::EventKind;

pub(in crate::cli::check) const CHECKS: &[Check] = &[
    Check {
        id: "audit.off",
        severity: Severity::Critical,
        title: "nothing that clawsec does is recorded",
        remedy: "security.audit: { enabled: true }",
        judge: |facts| {
            found(!facts.config.audit.enabled, || {
                "security.audit.enabled is false".to_owned()
            })
        },
        says: &["nothing that clawsec does is recorded"],
    },
    Check {
        id: "audit.not_everything",
        severity: Severity::Warn,
        title: "some kinds of decisions are not recorded",
        remedy: "security.audit.events: [\"auth\", \"message\", \"tool\", \"config\"]",
        judge: |facts| {
            let audit = &facts.config.audit;
            let kinds = [EventKind::Auth, EventKind::Tool, EventKind::Config];
            let missing: Vec<&str> = kinds
                .into_iter()
                .filter(|kind| !audit.events.contains(kind))
                .map(EventKind::as_str)
                .collect();
            found(audit.enabled && !missing.is_empty(), || missing.join(", "))
        },
        says: &["only `network` and `system` are recorded"],
    },
    Check {
        id: "audit.no_key",
        severity: Severity::Info,
        title: "who may write both the log and its head could make both anew",
        remedy: "security.audit.chainKey: \"${secret:chain}\", or send records elsewhere: sinks",
        judge: |facts| {
            let audit = &facts.config.audit;
            let open = audit.chain_key.is_none() && audit.sinks.is_empty();
            found(audit.enabled && open, || {
                "neither chainKey nor sinks".to_owned()
            })
        },
        says: &[],
    },
    Check {
        id: "audit.short_key",
        severity: Severity::Warn,
        title: "the chain's key is short enough to be guessed",
        remedy: "security.audit.chainKey of 32 bytes: `openssl rand -hex 32`",
        judge: |facts| {
            let key = facts.config.audit.chain_key.as_ref();
            let short = key.map(|key| key.reveal().len()).filter(|len| *len < 16);
            short
                .map(|len| format!("{len} bytes"))
                .into_iter()
                .collect()
        },
        says: &["can be guessed, and the chain forged"],
    },
    Check {
        id: "audit.never_synced",
        severity: Severity::Warn,
        title: "a power failure may cost any number of records",
        remedy: "security.audit.fsync: \"interval\"",
        judge: |facts| {
            let never = facts.config.audit.fsync == Fsync::Never;
            found(never, || "security.audit.fsync is \"never\"".to_owned())
        },
        says: &[],
    },
    Check {
        id: "audit.goes_on_without",
        severity: Severity::Warn,
        title: "tools run on when they cannot be recorded",
        remedy: "security.audit.onFailure: \"deny\"",
        judge: |facts| {
            let goes_on = facts.config.audit.on_failure == AuditOnFailure::Continue;
            found(goes_on, || {
                "security.audit.onFailure is \"continue\"".to_owned()
            })
        },
        says: &[],
    },
    Check {
        id: "audit.unwritable",
        severity: Severity::Critical,
        title: "the running daemon cannot write its log",
        remedy: "`clawsec status` says why; see the disk and the file's folder",
        judge: |facts| {
            let stuck = facts
                .daemon
                .as_ref()
                .is_some_and(|daemon| !daemon.audit_writable);
            found(stuck, || facts.config.audit.path.display().to_string())
        },
        says: &[],
    },
    Check {
        id: "audit.space",
        severity: Severity::Warn,
        title: "the disk of the log is nearly full",
        remedy: "make room, or lower security.audit.rotate.keep",
        judge: |facts| {
            let audit = &facts.config.audit;
            let low = facts
                .host
                .free_bytes
                .filter(|free| *free < audit.space.warn_bytes);
            let few = facts.host.free_inodes.filter(|free| *free < 1000);
            let low = low.map(|free| format!("{} MiB are free", free >> 20));
            let few = few.map(|free| format!("{free} inodes are free"));
            let lines = low.into_iter().chain(few);
            if audit.enabled {
                lines.collect()
            } else {
                Vec::new()
            }
        },
        says: &[],
    },
    Check {
        id: "audit.nobody_hears",
        severity: Severity::Info,
        title: "no alert tells of failed logins, denied tools or a broken chain",
        remedy: "security.audit.alerts: [{ when: \"failedLogins\" }, { when: \"chainBroken\" }]",
        judge: |facts| {
            let none = facts.config.audit.enabled && facts.config.audit.alerts.is_empty();
            found(none, || "security.audit.alerts is empty".to_owned())
        },
        says: &[],
    },
];
