//! The one writer: events in from anywhere, chained lines out, in the order they came.
//!
//! Invariant: an event is in the queue, in the outbox, in a sum, in the file, or counted as lost;
//! nowhere else. Disk work runs on tokio's blocking threads, so a disk that hangs stops records,
//! never the daemon. Events wait in the queue while the disk cannot be written; when it is full
//! the loss is counted in place and recorded once writing works again.

use std::collections::VecDeque;
use std::io;
use std::path::PathBuf;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::time::Duration;

use thiserror::Error;
use tokio::sync::watch;
use tokio::task::{JoinHandle, spawn_blocking};
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::aggregate::Aggregator;
use super::entry::{Entry, LOST, RECOVERED};
use super::queue::{Full, Item, Queue, lost_events};
use super::read::ReadError;
use super::sink::Sink;
use super::sums::Recovered;
use crate::config::{AuditConfig, AuditOnFailure, Fsync};
use crate::event::{EventKind, Outcome};

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
    /// `onFailure: deny` and not writable: refuse tool runs and configuration changes.
    pub must_refuse: bool,
    /// Events lost since the start.
    pub lost: u64,
    pub queued: usize,
    /// Number of the last record written.
    pub seq: u64,
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
    seq: AtomicU64,
    flush_wanted: AtomicU64,
    reopen_wanted: AtomicBool,
}

#[derive(Debug)]
struct Work {
    shared: Arc<Shared>,
    /// `None` only while a job has it, or after a job panicked.
    sink: Option<Sink>,
    fsync: Fsync,
    aggregator: Aggregator,
    outbox: VecDeque<Entry>,
    started: Instant,
    /// Entries taken from the queue so far.
    taken: u64,
    unsynced_since: Option<Instant>,
    failure: Option<Failure>,
    /// (ticket, entries that must be written first).
    flush: Option<(u64, u64)>,
    flushed: watch::Sender<u64>,
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
    let sink = if config.enabled {
        Some(Sink::open(config)?)
    } else {
        None
    };
    let shared = Arc::new(Shared {
        queue: Queue::new(capacity),
        enabled: config.enabled,
        on_failure: config.on_failure,
        kinds: AtomicU8::new(kind_bits(&config.events)),
        recovered: sink.as_ref().map(Sink::recovered).unwrap_or_default(),
        writable: AtomicBool::new(true),
        seq: AtomicU64::new(sink.as_ref().map_or(0, Sink::seq)),
        flush_wanted: AtomicU64::new(0),
        reopen_wanted: AtomicBool::new(false),
    });
    let (sender, flushed) = watch::channel(0);
    let work = sink.map(|sink| Work {
        shared: Arc::clone(&shared),
        sink: Some(sink),
        fsync: config.fsync,
        aggregator: Aggregator::new(config.interval),
        outbox: VecDeque::new(),
        started: Instant::now(),
        taken: 0,
        unsynced_since: None,
        failure: None,
        flush: None,
        flushed: sender,
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
        let mut entry = event.into();
        if self.shared.on_failure != AuditOnFailure::Block || !self.wants(entry.event.kind) {
            return self.record(entry);
        }
        loop {
            let mut room = pin!(self.shared.queue.room.notified());
            // Registered before the attempt, or room made in between would go unnoticed.
            room.as_mut().enable();
            match self.shared.queue.try_push(entry) {
                Ok(()) => return Recorded::Queued,
                Err(Full::Closed(entry)) => return self.record(entry),
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
        AuditHealth {
            writable,
            must_refuse: !writable && self.shared.on_failure == AuditOnFailure::Deny,
            lost: self.shared.queue.lost(),
            queued: self.shared.queue.len(),
            seq: self.shared.seq.load(Ordering::Acquire),
        }
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
        loop {
            work.gather();
            work.commit().await;
            if work.is_finished() {
                break;
            }
            work.wait().await;
        }
    }
}

impl Work {
    /// Moves from the queue and the sums to the outbox, which stays bounded.
    fn gather(&mut self) {
        let now_ms = self.now_ms();
        let room = OUTBOX.saturating_sub(self.outbox.len());
        for item in self.shared.queue.take(room) {
            match item {
                Item::Entry(entry) => {
                    self.taken += 1;
                    self.outbox.extend(self.aggregator.offer(*entry, now_ms));
                }
                Item::Loss(loss) => self.outbox.extend(loss.into_entries()),
            }
        }
        let wanted = self.shared.flush_wanted.load(Ordering::Acquire);
        let last = self
            .flush
            .map_or(*self.flushed.borrow(), |(ticket, _)| ticket);
        if wanted > last {
            self.flush = Some((wanted, self.shared.queue.accepted()));
        }
        // While nothing can be written sums go on summing: they lose nothing.
        if self.failure.is_some() && !self.is_closing() {
            return;
        }
        self.outbox.extend(self.aggregator.due(now_ms));
        if self.flush_is_next() || (self.is_closing() && self.shared.queue.len() == 0) {
            self.outbox.extend(self.aggregator.drain());
        }
    }

    /// Writes the outbox, syncs when it is time, and says how that went.
    async fn commit(&mut self) {
        let now = Instant::now();
        let reopen = self.shared.reopen_wanted.swap(false, Ordering::AcqRel);
        let due = |since: Instant| now >= since + SYNC_INTERVAL;
        let sync =
            self.flush_is_next() || self.is_closing() || self.unsynced_since.is_some_and(due);
        let notices = self.sink.as_ref().is_some_and(Sink::has_notices);
        if self.outbox.is_empty() && !sync && !notices && !reopen {
            return;
        }
        if self
            .failure
            .as_ref()
            .is_some_and(|failure| now < failure.next_try)
        {
            return;
        }
        let Some(mut sink) = self.sink.take() else {
            return self.give_up();
        };
        let mut outbox = std::mem::take(&mut self.outbox);
        let (count, always) = (outbox.len(), self.fsync == Fsync::Always);
        let job = spawn_blocking(move || {
            let mut result = sink.write(&mut outbox);
            if result.is_ok() && (sync || always) {
                result = sink.sync();
            }
            (sink, outbox, result)
        });
        let Some((sink, outbox, result)) = self.finish(job).await else {
            self.shared.queue.add_lost(count as u64);
            return self.give_up();
        };
        self.shared.seq.store(sink.seq(), Ordering::Release);
        self.sink = Some(sink);
        self.outbox = outbox;
        match result {
            Ok(()) => {
                self.succeeded();
                if sync || always {
                    self.unsynced_since = None;
                    self.answer_flush();
                } else {
                    self.unsynced_since.get_or_insert(now);
                }
            }
            Err(error) => self.failed(&error),
        }
    }

    /// Waits for the disk as long as it takes, and says so when it takes long.
    async fn finish<T>(&mut self, mut job: JoinHandle<T>) -> Option<T> {
        loop {
            match timeout(HANG, &mut job).await {
                Ok(Ok(done)) => return Some(done),
                Ok(Err(error)) => {
                    tracing::error!(%error, "the audit writer broke");
                    return None;
                }
                Err(_) => {
                    if self.shared.writable.swap(false, Ordering::AcqRel) {
                        tracing::error!("the audit disk does not answer");
                    }
                }
            }
        }
    }

    fn succeeded(&mut self) {
        self.shared.writable.store(true, Ordering::Release);
        if let Some(failure) = self.failure.take() {
            let lasted = failure.since.elapsed();
            tracing::info!(?lasted, "the audit log is written again");
            let detail = format!("after {:.1} s: {}", lasted.as_secs_f64(), failure.text);
            let entry = Entry::system(RECOVERED, Outcome::Allow, "unwritable").detailed(detail);
            self.outbox.push_back(entry);
        }
    }

    fn failed(&mut self, error: &AuditError) {
        self.shared.writable.store(false, Ordering::Release);
        let now = Instant::now();
        let failure = self.failure.get_or_insert_with(|| {
            let text = with_causes(error);
            tracing::error!(error = text, "the audit log cannot be written");
            Failure {
                since: now,
                attempts: 0,
                next_try: now,
                text,
            }
        });
        let delay = RETRY * 2_u32.pow(failure.attempts.min(4));
        failure.attempts += 1;
        failure.next_try = now + delay;
    }

    /// The sink is gone with the thread that panicked: everything is lost from here, and counted.
    fn give_up(&mut self) {
        self.shared.writable.store(false, Ordering::Release);
        let lost: u64 = self.outbox.drain(..).map(|entry| lost_events(&entry)).sum();
        self.shared.queue.add_lost(lost);
        self.shared.queue.close();
        self.shared.queue.take(usize::MAX);
    }

    fn answer_flush(&mut self) {
        if self.flush_is_next()
            && self.outbox.is_empty()
            && let Some((ticket, _)) = self.flush.take()
        {
            self.flushed.send_replace(ticket);
        }
    }

    /// Everything that the flush waits for has been taken from the queue.
    fn flush_is_next(&self) -> bool {
        self.flush
            .is_some_and(|(_, accepted)| self.taken >= accepted)
    }

    fn is_closing(&self) -> bool {
        self.shared.queue.is_closed()
    }

    fn is_finished(&mut self) -> bool {
        if !self.is_closing() || self.shared.queue.len() > 0 && self.failure.is_none() {
            return false;
        }
        if self.outbox.is_empty() && self.failure.is_none() {
            return true;
        }
        let hopeless = self.sink.is_none()
            || self
                .failure
                .as_ref()
                .is_some_and(|failure| failure.since.elapsed() > LAST_TRIES);
        if hopeless {
            self.outbox.extend(self.aggregator.drain());
            for item in self.shared.queue.take(usize::MAX) {
                match item {
                    Item::Entry(entry) => self.outbox.push_back(*entry),
                    Item::Loss(loss) => self.outbox.extend(loss.into_entries()),
                }
            }
            // What a `lost` record counts has been counted when it was lost.
            let counted = |entry: &Entry| entry.event.action == LOST;
            let lost = self
                .outbox
                .iter()
                .filter(|entry| !counted(entry))
                .map(lost_events)
                .sum();
            self.shared.queue.add_lost(lost);
            tracing::error!(lost, "stopped with audit events unwritten");
        }
        hopeless
    }

    async fn wait(&self) {
        let more = self.shared.queue.len() > 0 && self.outbox.len() < OUTBOX;
        if self.failure.is_none() && (more || !self.outbox.is_empty()) {
            return;
        }
        let mut wake = Instant::now() + IDLE;
        if let Some(failure) = &self.failure {
            wake = failure.next_try;
        } else {
            if let Some(since) = self.unsynced_since {
                wake = wake.min(since + SYNC_INTERVAL);
            }
            if let Some(due_ms) = self.aggregator.next_due_ms() {
                wake = wake.min(self.started + Duration::from_millis(due_ms));
            }
        }
        tokio::select! {
            () = self.shared.queue.work.notified() => {}
            () = sleep_until(wake) => {}
        }
        if self.failure.is_some() {
            // Each report wakes us; there is nothing to do for it before the next attempt.
            sleep(POLL).await;
        }
    }

    fn now_ms(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX)
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

/// The error and its causes in one line: it ends up in a record.
fn with_causes(error: &AuditError) -> String {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

const QUEUE_CAPACITY: usize = 8192;
/// Entries written as one batch; also what a write that fails holds in memory.
const OUTBOX: usize = 1024;
const SYNC_INTERVAL: Duration = Duration::from_millis(200);
const RETRY: Duration = Duration::from_millis(100);
/// A disk that takes longer for one batch counts as unwritable.
const HANG: Duration = Duration::from_secs(5);
/// How long a stop goes on trying to write.
const LAST_TRIES: Duration = Duration::from_secs(2);
const DEADLINE: Duration = Duration::from_secs(10);
const POLL: Duration = Duration::from_millis(20);
/// An idle writer looks whether the file was moved this often.
const IDLE: Duration = Duration::from_secs(3600);
