//! Where every event of the daemon goes: summed if it repeats, made exact if it is the kernel's,
//! then queued for the one writer.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::task::JoinHandle;

use crate::audit::{
    self, Aggregator, Attribution, AuditError, AuditHandle, AuditHealth, CheckpointCause, Entry,
    Ledger, LedgerLimits, Maps, Stamp,
};
use crate::config::AuditConfig;
use crate::event::{Event, EventKind, Outcome};

pub(super) struct Records {
    handle: AuditHandle,
    writing: Mutex<Option<JoinHandle<()>>>,
    aggregator: Mutex<Aggregator>,
    ledger: Mutex<Option<Ledger>>,
    started: Instant,
}
