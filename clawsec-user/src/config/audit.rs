//! The audit log, as it was configured.

use std::path::PathBuf;
use std::time::Duration;

use super::model::Secret;
use super::outlet::{AlertConfig, SinkConfig};
use crate::event::EventKind;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuditConfig {
    pub enabled: bool,
    pub path: PathBuf,
    /// Which of the four configurable kinds are written; `Network` and `System` are added by the
    /// checker unless switched off.
    pub events: Vec<EventKind>,
    pub on_failure: AuditOnFailure,
    pub fsync: Fsync,
    /// Between two syncs under `Fsync::Interval`: what a power failure may cost.
    pub sync_interval: Duration,
    pub rotate_bytes: u64,
    /// A file that began longer ago is rotated, whatever its size.
    pub rotate_age: Option<Duration>,
    pub rotate_keep: u32,
    /// Of all rotated parts together.
    pub rotate_total_bytes: Option<u64>,
    /// Rotated parts are compressed, by zstd.
    pub rotate_compress: bool,
    pub space: SpaceLimits,
    /// Aggregation interval of repeated events and of kernel checkpoints.
    pub interval: Duration,
    pub chain_key: Option<Secret>,
    pub sinks: Vec<SinkConfig>,
    pub alerts: Vec<AlertConfig>,
}

impl AuditConfig {
    /// Everything as it is where the configuration says nothing but the path.
    pub fn at(path: PathBuf) -> Self {
        Self {
            enabled: true,
            path,
            events: EventKind::ALL.to_vec(),
            on_failure: AuditOnFailure::Deny,
            fsync: Fsync::Interval,
            sync_interval: Duration::from_millis(200),
            rotate_bytes: 64 << 20,
            rotate_age: None,
            rotate_keep: 8,
            rotate_total_bytes: None,
            rotate_compress: true,
            space: SpaceLimits {
                warn_bytes: 256 << 20,
                refuse_bytes: 32 << 20,
            },
            interval: Duration::from_secs(10),
            chain_key: None,
            sinks: Vec::new(),
            alerts: Vec::new(),
        }
    }
}

/// Free bytes on the log's disk; 0 never acts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SpaceLimits {
    /// Below it a record says so.
    pub warn_bytes: u64,
    /// Below it tool runs and configuration changes are refused, unless `onFailure` is
    /// `continue`: what is left of the disk is for records.
    pub refuse_bytes: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AuditOnFailure {
    /// New tool runs and configuration changes are refused; the rest goes on.
    Deny,
    Block,
    Continue,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fsync {
    Always,
    Interval,
    Never,
}
