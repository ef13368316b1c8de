//! `security.audit`: what is recorded, where, and what happens when it cannot be.

use std::path::PathBuf;
use std::time::Duration;

use super::super::model::{AuditConfig, AuditOnFailure, Fsync, Secret};
use super::super::reader::Section;
use super::super::redact::Change;
use crate::event::EventKind;

pub(super) fn read(section: &mut Section<'_, '_>) -> AuditConfig {
    let enabled = section.at("enabled").boolean().unwrap_or(true);
    if !enabled {
        section
            .at("enabled")
            .warn("nothing that clawsec does is recorded");
    }
    let mut events = section
        .at("events")
        .list(|event| event.choice(EVENTS))
        .unwrap_or_else(|| EVENTS.iter().map(|(_, kind)| *kind).collect());
    events.sort_unstable();
    events.dedup();
    if events.is_empty() && !section.report.has_problem_under("security.audit.events") {
        section
            .at("events")
            .warn("an empty list: only `network` and `system` are recorded");
    }
    if section.at("network").boolean().unwrap_or(true) {
        events.push(EventKind::Network);
    }
    // Loss, rotation, start and stop: without them a log could not be trusted.
    events.push(EventKind::System);
    section.at("alerts").unavailable();
    let rotate = section.at("rotate").section(|rotate| {
        (
            rotate
                .at("size")
                .size(64 << 10..=1 << 40)
                .unwrap_or(64 << 20),
            rotate.at("keep").small(0..=10_000).unwrap_or(8),
        )
    });
    AuditConfig {
        enabled,
        path: path(section).unwrap_or_default(),
        events,
        on_failure: section
            .at("onFailure")
            .choice(ON_FAILURE)
            .unwrap_or(AuditOnFailure::Deny),
        fsync: section.at("fsync").choice(FSYNC).unwrap_or(Fsync::Interval),
        rotate_bytes: rotate.0,
        rotate_keep: rotate.1,
        interval: section
            .at("interval")
            .millis(100..=3_600_000)
            .unwrap_or(Duration::from_secs(10)),
        chain_key: chain_key(section),
    }
}

fn path(section: &mut Section<'_, '_>) -> Option<PathBuf> {
    if section.has("path") {
        return section.at("path").file();
    }
    let Some(home) = section.report.home.clone() else {
        section
            .at("path")
            .required("an absolute path, since this user has no home folder");
        return None;
    };
    let path = home.join(".clawdbot/audit.log");
    // The default depends on the user, and the gateway process is another one.
    if let Some(text) = path.to_str() {
        section.at("path").redact(Change::Set(text.to_owned()));
    }
    Some(path)
}

fn chain_key(section: &mut Section<'_, '_>) -> Option<Secret> {
    let (key, mut place) = section
        .at("chainKey")
        .secret("the chain's key, as a text")?;
    place.redact(Change::Remove);
    if key.len() < 16 {
        place.warn("a key of fewer than 16 bytes can be guessed, and the chain forged");
    }
    Some(Secret::new(key.to_owned()))
}

const EVENTS: &[(&str, EventKind)] = &[
    ("auth", EventKind::Auth),
    ("message", EventKind::Message),
    ("tool", EventKind::Tool),
    ("config", EventKind::Config),
];

const ON_FAILURE: &[(&str, AuditOnFailure)] = &[
    ("deny", AuditOnFailure::Deny),
    ("block", AuditOnFailure::Block),
    ("continue", AuditOnFailure::Continue),
];

const FSYNC: &[(&str, Fsync)] = &[
    ("always", Fsync::Always),
    ("interval", Fsync::Interval),
    ("never", Fsync::Never),
];
