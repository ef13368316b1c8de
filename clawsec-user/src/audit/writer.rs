//! The one writer: events in from anywhere, chained lines out, in the order they came.
//!
//! Invariant: an event is in the queue, in the outbox, in a sum, in the file, or counted as lost;
//! nowhere else. Disk work runs on tokio's blocking threads, so a disk that hangs stops records,
//! never the daemon. Events wait in the queue while the disk cannot be written; when it is full
//! the loss is counted in place and recorded once writing works again.

mod work;

use std::collections::VecDeque;
use std::io;
use std::path::PathBuf;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::time::Duration;

use thiserror::Error;
use tokio::sync::watch;
use tokio::time::{Instant, timeout};

use super::aggregate::Aggregator;
use super::entry::Entry;
use super::log_file::LogFile;
use super::parts::ReadError;
use super::queue::{Full, Queue};
use super::sinks::{SinkHealth, SinkState, Sinks};
use super::sums::Recovered;
use crate::config::{AuditConfig, AuditOnFailure, Fsync};
use crate::event::EventKind;

/// Opens the log for writing: takes the lock, repairs a torn tail, compares with the head.
///
/// With `enabled: false` nothing is opened; the handle takes everything and keeps nothing.
///
/// # Errors
/// `Locked` when another daemon writes this log; the rest when its files cannot be used.
pub fn open(config: &AuditConfig) -> Result<(AuditHandle, AuditTask), AuditError> {
    open_with_capacity(config, QUEUE_CAPACITY)
}

/// Reports events; cheap to clone.
#[derive(Debug, Clone)]
pub struct AuditHandle {
    shared: Arc<Shared>,
    flushed: watch::Receiver<u64>,
}

/// Writes what the handles report.
#[derive(Debug)]
pub struct AuditTask {
    work: Option<Work>,
}

/// What became of an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub enum Recorded {
    /// It will be written, or the configuration does not ask for its kind.
    Queued,
    /// The queue is full or stopped; it is counted.
    Lost,
}

/// What `status` shows, and what the supervisor refuses by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AuditHealth {
    /// The last attempt to write succeeded, and none hangs.
    pub writable: bool,
    /// Refuse tool runs and configuration changes: `onFailure: deny` and not writable, or
    /// anything but `continue` and short of space.
    pub must_refuse: bool,
    /// Events lost since the start.
    pub lost: u64,
    pub queued: usize,
    /// Number of the last record written.
    pub seq: u64,
    /// The disk has less room than `audit.space.refuse`.
    pub short_of_space: bool,
}

#[derive(Debug, Error)]
pub enum AuditError {
    #[error("cannot create the audit folder {}", path.display())]
    Folder { path: PathBuf, source: io::Error },
    #[error("cannot lock the audit log by {}", path.display())]
    Lock { path: PathBuf, source: io::Error },
    #[error("another process writes the audit log {}", path.display())]
    Locked { path: PathBuf },
    #[error("cannot open the audit log {}", path.display())]
    Open { path: PathBuf, source: io::Error },
    #[error("the audit log {} is not a regular file", path.display())]
    NotAFile { path: PathBuf },
    #[error("cannot read the end of the audit log {}", path.display())]
    Recover { path: PathBuf, source: ReadError },
    #[error("cannot write the audit log {}", path.display())]
    Write { path: PathBuf, source: io::Error },
    #[error("cannot make the audit log {} durable", path.display())]
    Sync { path: PathBuf, source: io::Error },
    #[error("cannot replace the head file of {}", path.display())]
    Head { path: PathBuf, source: io::Error },
    #[error("cannot rotate the audit log {}", path.display())]
    Rotate { path: PathBuf, source: io::Error },
    #[error("the audit log cannot be written now")]
    Unwritable,
    #[error("the audit writer did not answer in time")]
    TimedOut,
    #[error("the audit writer has stopped")]
    Stopped,
}

#[derive(Debug)]
struct Shared {
    queue: Queue,
    enabled: bool,
    on_failure: AuditOnFailure,
    /// Bit per `EventKind`.
    kinds: AtomicU8,
    recovered: Recovered,
    writable: AtomicBool,
    short_of_space: AtomicBool,
    seq: AtomicU64,
    flush_wanted: AtomicU64,
    reopen_wanted: AtomicBool,
    sinks: Vec<Arc<SinkState>>,
}

#[derive(Debug)]
struct Work {
    shared: Arc<Shared>,
    /// `None` only while a job has it, or after a job panicked.
    file: Option<LogFile>,
    fsync: Fsync,
    sync_interval: Duration,
    aggregator: Aggregator,
    outbox: VecDeque<Entry>,
    started: Instant,
    /// Items taken from the queue so far.
    taken: u64,
    unsynced_since: Option<Instant>,
    failure: Option<Failure>,
    /// The queue was closed before the last gathering, so nothing can have come after it. Read
    /// once a round: a stop between two steps must not skip the last sums and the last sync.
    closing: bool,
    /// (ticket, entries that must be written first).
    flush: Option<(u64, u64)>,
    flushed: watch::Sender<u64>,
    sinks: Sinks,
}

#[derive(Debug)]
struct Failure {
    since: Instant,
    attempts: u32,
    next_try: Instant,
    text: String,
}

fn open_with_capacity(
    config: &AuditConfig,
    capacity: usize,
) -> Result<(AuditHandle, AuditTask), AuditError> {
    let (sinks, taps) = Sinks::new(config);
    let file = if config.enabled {
        Some(LogFile::open(config, taps)?)
    } else {
        None
    };
    let shared = Arc::new(Shared {
        queue: Queue::new(capacity),
        enabled: config.enabled,
        on_failure: config.on_failure,
        kinds: AtomicU8::new(kind_bits(&config.events)),
        recovered: file.as_ref().map(LogFile::recovered).unwrap_or_default(),
        writable: AtomicBool::new(true),
        short_of_space: AtomicBool::new(false),
        seq: AtomicU64::new(file.as_ref().map_or(0, LogFile::seq)),
        flush_wanted: AtomicU64::new(0),
        reopen_wanted: AtomicBool::new(false),
        sinks: sinks.states(),
    });
    let (sender, flushed) = watch::channel(0);
    let work = file.map(|file| Work {
        shared: Arc::clone(&shared),
        file: Some(file),
        fsync: config.fsync,
        sync_interval: config.sync_interval,
        aggregator: Aggregator::new(config.interval),
        outbox: VecDeque::new(),
        started: Instant::now(),
        taken: 0,
        unsynced_since: None,
        failure: None,
        closing: false,
        flush: None,
        flushed: sender,
        sinks,
    });
    Ok((AuditHandle { shared, flushed }, AuditTask { work }))
}

impl AuditHandle {
    /// Reports an event; never waits.
    pub fn record(&self, event: impl Into<Entry>) -> Recorded {
        let entry = event.into();
        if !self.wants(entry.event.kind) || self.shared.queue.push_or_lose(entry) {
            Recorded::Queued
        } else {
            Recorded::Lost
        }
    }

    /// Reports an event; under `onFailure: block` waits for room, which holds up the caller for
    /// as long as the disk cannot be written. Otherwise the same as `record`.
    ///
    /// # Cancel safety
    /// Dropped while it waits, it has reported nothing.
    pub async fn submit(&self, event: impl Into<Entry>) -> Recorded {
        let entry = event.into();
        if self.shared.on_failure != AuditOnFailure::Block || !self.wants(entry.event.kind) {
            return self.record(entry);
        }
        let mut entry = Box::new(entry);
        loop {
            let mut room = pin!(self.shared.queue.room.notified());
            // Registered before the attempt, or room made in between would go unnoticed.
            room.as_mut().enable();
            match self.shared.queue.try_push(entry) {
                Ok(()) => return Recorded::Queued,
                Err(Full::Closed(entry)) => return self.record(*entry),
                Err(Full::NoRoom(back)) => entry = back,
            }
            room.await;
        }
    }

    /// Waits until everything reported so far, sums included, is in the file and durable.
    ///
    /// # Errors
    /// `Unwritable` at once while the disk cannot be written, `TimedOut` after 10 s, `Stopped`.
    pub async fn flush(&self) -> Result<(), AuditError> {
        if !self.shared.enabled {
            return Ok(());
        }
        let ticket = self.shared.flush_wanted.fetch_add(1, Ordering::AcqRel) + 1;
        self.shared.queue.work.notify_one();
        let mut flushed = self.flushed.clone();
        let done = timeout(DEADLINE, async {
            loop {
                let waited = timeout(POLL, flushed.wait_for(|done| *done >= ticket)).await;
                match waited {
                    Ok(Ok(_)) => return Ok(()),
                    Ok(Err(_)) => return Err(AuditError::Stopped),
                    Err(_) if !self.health().writable => return Err(AuditError::Unwritable),
                    Err(_) => {}
                }
            }
        });
        done.await.unwrap_or(Err(AuditError::TimedOut))
    }

    /// Takes nothing more, and waits (at most 10 s) until the task has written the rest.
    pub async fn stop(self) {
        self.shared.queue.close();
        let mut flushed = self.flushed;
        let ended = async { while flushed.changed().await.is_ok() {} };
        if timeout(DEADLINE, ended).await.is_err() {
            tracing::error!("the audit writer did not stop in time");
        }
    }

    pub fn health(&self) -> AuditHealth {
        let writable = self.shared.writable.load(Ordering::Acquire);
        let short_of_space = self.shared.short_of_space.load(Ordering::Acquire);
        let must_refuse = match self.shared.on_failure {
            AuditOnFailure::Deny => !writable || short_of_space,
            AuditOnFailure::Block => short_of_space,
            AuditOnFailure::Continue => false,
        };
        AuditHealth {
            writable,
            must_refuse,
            short_of_space,
            lost: self.shared.queue.lost(),
            queued: self.shared.queue.len(),
            seq: self.shared.seq.load(Ordering::Acquire),
        }
    }

    /// How each sink does.
    pub fn sinks(&self) -> Vec<SinkHealth> {
        self.shared.sinks.iter().map(|sink| sink.health()).collect()
    }

    /// Looks at the path again, for whoever moved the file (SIGHUP).
    pub fn reopen(&self) {
        self.shared.reopen_wanted.store(true, Ordering::Release);
        self.shared.queue.work.notify_one();
    }

    /// Changes which kinds are written, after a reload.
    pub fn set_events(&self, kinds: &[EventKind]) {
        self.shared.kinds.store(kind_bits(kinds), Ordering::Release);
    }

    /// What the log says was recorded of the kernel's counters when it was opened.
    pub fn recovered(&self) -> Recovered {
        self.shared.recovered.clone()
    }

    fn wants(&self, kind: EventKind) -> bool {
        self.shared.enabled && self.shared.kinds.load(Ordering::Acquire) & bit(kind) != 0
    }
}

impl AuditTask {
    /// Writes until the log is stopped and everything in the queue is written or counted as lost.
    pub async fn run(self) {
        let Some(mut work) = self.work else { return };
        let seq = work.shared.seq.load(Ordering::Acquire);
        work.sinks.start(seq);
        loop {
            work.gather();
            work.commit().await;
            if work.is_finished() {
                break;
            }
            work.wait().await;
        }
        work.close_sinks().await;
    }
}

fn bit(kind: EventKind) -> u8 {
    match kind {
        EventKind::Auth => 1,
        EventKind::Message => 2,
        EventKind::Tool => 4,
        EventKind::Config => 8,
        EventKind::Network => 16,
        EventKind::System => 32,
    }
}

/// `network` and `system` are always written; the supervisor reports no kernel drops when the
/// configuration turns them off.
fn kind_bits(kinds: &[EventKind]) -> u8 {
    let always = bit(EventKind::Network) | bit(EventKind::System);
    kinds.iter().fold(always, |bits, kind| bits | bit(*kind))
}

const QUEUE_CAPACITY: usize = 8192;
const DEADLINE: Duration = Duration::from_secs(10);
const POLL: Duration = Duration::from_millis(20);

#[cfg(test)]
mod tests;
