//! `security.audit`: what is recorded, where, and what happens when it cannot be.

use std::path::PathBuf;

use super::super::audit::{AuditConfig, AuditOnFailure, Fsync, SpaceLimits};
use super::super::model::Secret;
use super::super::reader::Section;
use super::super::redact::Change;
use super::outlet;
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
    let mut audit = AuditConfig::at(path(section).unwrap_or_default());
    audit.enabled = enabled;
    audit.events = events;
    if let Some(on_failure) = section.at("onFailure").choice(ON_FAILURE) {
        audit.on_failure = on_failure;
    }
    if let Some(fsync) = section.at("fsync").choice(FSYNC) {
        audit.fsync = fsync;
    }
    if let Some(interval) = section.at("syncInterval").millis(10..=60_000) {
        audit.sync_interval = interval;
    }
    if let Some(interval) = section.at("interval").millis(100..=3_600_000) {
        audit.interval = interval;
    }
    section
        .at("rotate")
        .section(|rotate| rotation(rotate, &mut audit));
    section
        .at("space")
        .section(|space| watermarks(space, &mut audit.space));
    audit.chain_key = chain_key(section);
    audit.sinks = outlet::sinks(section);
    audit.alerts = outlet::alerts(section);
    audit
}

fn rotation(rotate: &mut Section<'_, '_>, audit: &mut AuditConfig) {
    if let Some(bytes) = rotate.at("size").size(64 << 10..=1 << 40) {
        audit.rotate_bytes = bytes;
    }
    audit.rotate_age = rotate.at("age").millis(60_000..=31_622_400_000);
    if let Some(keep) = rotate.at("keep").small(0..=10_000) {
        audit.rotate_keep = keep;
    }
    audit.rotate_total_bytes = rotate.at("total").size(64 << 10..=1 << 50);
    if let Some(compress) = rotate.at("compress").boolean() {
        audit.rotate_compress = compress;
    }
    if audit
        .rotate_total_bytes
        .is_some_and(|total| total < audit.rotate_bytes)
    {
        rotate
            .at("total")
            .problem("smaller than `size`, so that not even one rotated file could be kept");
    }
}

fn watermarks(section: &mut Section<'_, '_>, space: &mut SpaceLimits) {
    if let Some(bytes) = section.at("warn").size(0..=1 << 40) {
        space.warn_bytes = bytes;
    }
    match section.at("refuse").size(0..=1 << 40) {
        Some(bytes) => space.refuse_bytes = bytes,
        None if space.warn_bytes > 0 => {
            space.refuse_bytes = space.refuse_bytes.min(space.warn_bytes);
        }
        None => {}
    }
    if space.refuse_bytes > space.warn_bytes && space.warn_bytes > 0 {
        section
            .at("refuse")
            .problem("more than `warn`: tool runs would be refused before anything warns");
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
