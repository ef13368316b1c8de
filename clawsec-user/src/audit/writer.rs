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
    /// The queue was closed before the last gathering, so nothing can have come after it. Read
    /// once a round: a stop between two steps must not skip the last sums and the last sync.
    closing: bool,
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
        closing: false,
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
        self.closing = self.shared.queue.is_closed();
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
        if self.failure.is_some() && !self.closing {
            return;
        }
        self.outbox.extend(self.aggregator.due(now_ms));
        if self.flush_is_next() || (self.closing && self.shared.queue.len() == 0) {
            self.outbox.extend(self.aggregator.drain());
        }
    }

    /// Writes the outbox, syncs when it is time, and says how that went.
    async fn commit(&mut self) {
        let now = Instant::now();
        let reopen = self.shared.reopen_wanted.swap(false, Ordering::AcqRel);
        let due = |since: Instant| now >= since + SYNC_INTERVAL;
        let sync = self.flush_is_next() || self.closing || self.unsynced_since.is_some_and(due);
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

    fn is_finished(&mut self) -> bool {
        if !self.closing || self.shared.queue.len() > 0 && self.failure.is_none() {
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
            // With nothing to write, whether the file is still there is looked at now and then.
            () = sleep_until(wake) => self.shared.reopen_wanted.store(true, Ordering::Release),
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
const IDLE: Duration = Duration::from_mins(1);

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use super::*;
    use crate::audit::{Chain, HeadCheck, LogReader, ProblemKind, Record, head_path, verify};
    use crate::config::Secret;
    use crate::event::Event;

    fn config(path: &Path) -> AuditConfig {
        AuditConfig {
            enabled: true,
            path: path.to_owned(),
            events: EventKind::ALL.to_vec(),
            on_failure: AuditOnFailure::Deny,
            fsync: Fsync::Interval,
            rotate_bytes: 64 << 20,
            rotate_keep: 3,
            interval: Duration::from_secs(10),
            chain_key: None,
        }
    }

    fn start(config: &AuditConfig, capacity: usize) -> AuditHandle {
        let (handle, task) = open_with_capacity(config, capacity).unwrap();
        tokio::spawn(task.run());
        handle
    }

    fn allowed(number: u64) -> Event {
        let mut event = Event::new(EventKind::Message, "send", Outcome::Allow, "ok");
        event.request = Some(number.to_string());
        event
    }

    fn kernel_drop(count: u64) -> Event {
        let mut event = Event::new(EventKind::Network, "drop", Outcome::Deny, "not_allowed");
        event.count = count;
        event
    }

    fn records(path: &Path) -> Vec<Record> {
        let mut reader = LogReader::open(path).unwrap();
        let mut records = Vec::new();
        while let Some(line) = reader.next_line().unwrap() {
            records.push(Record::parse(line.text).unwrap());
        }
        records
    }

    fn problem(path: &Path) -> Option<ProblemKind> {
        let report = verify(path, &Chain::new(None), HeadCheck::Required).unwrap();
        report.problem.map(|problem| problem.kind)
    }

    async fn until(what: &str, condition: impl Fn() -> bool) {
        let deadline = Instant::now() + Duration::from_secs(10);
        while !condition() {
            assert!(Instant::now() < deadline, "{what}");
            sleep(Duration::from_millis(5)).await;
        }
    }

    #[tokio::test]
    async fn what_is_flushed_is_in_the_file_and_verifies() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("new/folder/audit.log");
        let handle = start(&config(&path), 8192);
        for number in 0..500 {
            assert_eq!(handle.record(allowed(number)), Recorded::Queued);
        }
        handle.flush().await.unwrap();
        assert_eq!(records(&path).len(), 500);
        assert_eq!(handle.health().seq, 500);
        assert_eq!(problem(&path), None);
        let mode = |path: &Path| {
            use std::os::unix::fs::PermissionsExt;
            fs::metadata(path).unwrap().permissions().mode() & 0o777
        };
        assert_eq!(mode(&path), 0o600);
        assert_eq!(mode(&head_path(&path)), 0o600);
        assert_eq!(mode(path.parent().unwrap()), 0o700);
        handle.stop().await;
    }

    #[tokio::test]
    async fn a_second_writer_is_refused_until_the_first_stops() {
        let dir = tempfile::tempdir().unwrap();
        let config = config(&dir.path().join("audit.log"));
        let first = start(&config, 16);
        assert!(matches!(open(&config), Err(AuditError::Locked { .. })));
        first.stop().await;
        assert!(open(&config).is_ok());
    }

    #[tokio::test]
    async fn repeats_are_summed_and_stop_writes_the_sum() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("audit.log");
        let handle = start(&config(&path), 8192);
        for _ in 0..100 {
            let denied = Event::new(
                EventKind::Auth,
                "connect",
                Outcome::Deny,
                "credential_unknown",
            );
            assert_eq!(handle.record(denied), Recorded::Queued);
        }
        handle.stop().await;
        let counts: Vec<_> = records(&path).iter().map(|record| record.count).collect();
        assert_eq!(counts, [1, 99]);
        assert_eq!(problem(&path), None);
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_stop_at_any_moment_leaves_the_sums_written_and_the_head_at_the_end() {
        for round in 0..200_u64 {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("audit.log");
            let handle = start(&config(&path), 8192);
            for _ in 0..3 {
                let denied =
                    Event::new(EventKind::Auth, "connect", Outcome::Deny, "device_invalid");
                assert_eq!(handle.record(denied), Recorded::Queued);
            }
            let pause = Duration::from_micros(round * 7 % 400);
            let begun = Instant::now();
            while begun.elapsed() < pause {
                tokio::task::yield_now().await;
            }
            handle.stop().await;
            let all = records(&path);
            assert_eq!(
                all.iter().map(|record| record.count).sum::<u64>(),
                3,
                "{round}"
            );
            assert_eq!(problem(&path), None, "{round}");
            let head = crate::audit::Head::read(&path).unwrap().unwrap();
            assert_eq!(head.seq, all.last().unwrap().seq, "{round}");
        }
    }

    #[tokio::test]
    async fn kinds_that_are_not_asked_for_are_left_out() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("audit.log");
        let mut config = config(&path);
        config.events = vec![EventKind::Tool];
        let handle = start(&config, 16);
        for kind in EventKind::ALL {
            let event = Event::new(kind, "x", Outcome::Allow, "ok");
            assert_eq!(handle.record(event), Recorded::Queued);
        }
        handle.stop().await;
        let kinds: Vec<_> = records(&path).iter().map(|record| record.event).collect();
        assert_eq!(
            kinds,
            [EventKind::Tool, EventKind::Network, EventKind::System]
        );
    }

    #[tokio::test]
    async fn the_chain_and_the_sums_go_on_across_rotation_and_restart() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("audit.log");
        let mut config = config(&path);
        config.rotate_bytes = 20_000;
        config.rotate_keep = 1000;
        config.chain_key = Some(Secret::new("a chain key".to_owned()));
        let chain = Chain::new(config.chain_key.as_ref());
        for life in 1..=3 {
            let handle = start(&config, 8192);
            for number in 0..300 {
                assert_eq!(handle.record(allowed(number)), Recorded::Queued);
                assert_eq!(handle.record(kernel_drop(2)), Recorded::Queued);
            }
            handle.stop().await;
            let (handle, _task) = open(&config).unwrap();
            assert_eq!(handle.recovered().recorded["not_allowed"], life * 600);
        }
        let all = records(&path);
        assert_eq!(
            all.iter()
                .filter(|record| record.event == EventKind::Message)
                .count(),
            900
        );
        assert!(
            all.iter()
                .filter(|record| record.action == "rotate")
                .count()
                > 10
        );
        let report = verify(&path, &chain, HeadCheck::Required).unwrap();
        assert_eq!(report.problem, None);
        assert_eq!(report.records, all.len() as u64);
        assert_eq!(problem(&path), Some(ProblemKind::Edited), "without the key");
    }

    #[tokio::test]
    async fn killed_without_notice_the_sums_are_those_of_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("audit.log");
        let mut config = config(&path);
        config.fsync = Fsync::Never;
        config.rotate_bytes = 10_000;
        config.rotate_keep = 100;
        for _life in 0..10 {
            let (handle, task) = open(&config).unwrap();
            let task = tokio::spawn(task.run());
            let begun = handle.health().seq;
            for _ in 0..50 {
                assert_eq!(handle.record(kernel_drop(7)), Recorded::Queued);
            }
            until("something is written", || handle.health().seq > begun).await;
            // No flush, no head: what is in the file is all there is.
            task.abort();
            assert!(task.await.is_err());
            // A write that was under way ends first, and with it the lock.
            until("the lock is free", || {
                !matches!(open(&config), Err(AuditError::Locked { .. }))
            })
            .await;
            let (handle, _task) = open(&config).unwrap();
            let written = records(&path).iter().filter(|r| r.action == "drop").count();
            let recovered = handle.recovered().recorded["not_allowed"];
            assert_eq!(recovered, written as u64 * 7);
        }
    }

    #[tokio::test]
    async fn rotation_keeps_as_many_parts_as_asked() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("audit.log");
        let mut config = config(&path);
        config.rotate_bytes = 5_000;
        let handle = start(&config, 8192);
        for number in 0..1000 {
            assert_eq!(handle.record(allowed(number)), Recorded::Queued);
        }
        handle.stop().await;
        assert_eq!(crate::audit::parts(&path).unwrap().len(), 4);
        assert_eq!(
            problem(&path),
            None,
            "the oldest part begins with a rotate record"
        );
        for part in crate::audit::parts(&path).unwrap() {
            assert!(fs::metadata(part).unwrap().len() <= 5_000);
        }
    }

    #[tokio::test]
    async fn a_torn_tail_is_cut_and_said() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("audit.log");
        let handle = start(&config(&path), 16);
        assert_eq!(handle.record(allowed(1)), Recorded::Queued);
        handle.stop().await;
        let whole = fs::read(&path).unwrap();
        fs::write(&path, [&whole[..], b"{\"v\":1,\"seq\":2,\"ts"].concat()).unwrap();
        let handle = start(&config(&path), 16);
        assert_eq!(handle.record(allowed(2)), Recorded::Queued);
        handle.stop().await;
        let all = records(&path);
        let actions: Vec<_> = all.iter().map(|record| record.action.as_ref()).collect();
        assert_eq!(actions, ["send", "repair", "send"]);
        assert_eq!(problem(&path), None);
    }

    #[tokio::test]
    async fn a_log_that_disagrees_with_its_head_is_never_silently_continued() {
        type Harm = fn(&Path, &[u8]);
        let rows: [(&str, Harm, &str); 5] = [
            (
                "tail cut",
                |path, log| {
                    let lines: Vec<_> = log.split_inclusive(|byte| *byte == b'\n').collect();
                    fs::write(path, lines[..3].concat()).unwrap();
                },
                "tail_missing",
            ),
            (
                "log removed",
                |path, _| fs::remove_file(path).unwrap(),
                "log_missing",
            ),
            (
                "head removed",
                |path, _| fs::remove_file(head_path(path)).unwrap(),
                "head_missing",
            ),
            (
                "head damaged",
                |path, _| fs::write(head_path(path), "{}").unwrap(),
                "head_unreadable",
            ),
            (
                "last record edited",
                |path, log| {
                    let text = String::from_utf8(log.to_vec()).unwrap();
                    fs::write(path, text.replace("\"request\":\"4\"", "\"request\":\"9\""))
                        .unwrap();
                },
                "tail_changed",
            ),
        ];
        for (name, harm, reason) in rows {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("audit.log");
            let handle = start(&config(&path), 16);
            for number in 0..5 {
                assert_eq!(handle.record(allowed(number)), Recorded::Queued);
            }
            handle.stop().await;
            harm(&path, &fs::read(&path).unwrap());
            start(&config(&path), 16).stop().await;
            let all = records(&path);
            let last = all.last().unwrap();
            assert_eq!(
                (last.action.as_ref(), last.reason.as_ref()),
                ("chain", reason),
                "{name}"
            );
            assert_eq!(last.seq, 6, "{name}: numbers go on");
        }
    }

    #[tokio::test]
    async fn a_file_moved_or_cut_from_outside_is_noticed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("audit.log");
        let handle = start(&config(&path), 16);
        assert_eq!(handle.record(allowed(1)), Recorded::Queued);
        handle.flush().await.unwrap();
        // As logrotate does it.
        fs::rename(&path, dir.path().join("audit.log.1")).unwrap();
        handle.reopen();
        until("the file is there again", || path.exists()).await;
        assert_eq!(handle.record(allowed(2)), Recorded::Queued);
        handle.flush().await.unwrap();
        let actions = |all: Vec<Record>| all.into_iter().map(|r| r.action).collect::<Vec<_>>();
        assert_eq!(actions(records(&path)), ["send", "reopen", "send"]);
        assert_eq!(problem(&path), None);
        fs::write(&path, "").unwrap();
        assert_eq!(handle.record(allowed(3)), Recorded::Queued);
        handle.stop().await;
        assert_eq!(actions(records(&path)), ["send", "chain", "send"]);
        assert_eq!(problem(&path), Some(ProblemKind::Gap));
    }

    /// Makes the path unusable for whoever is to append: a folder stands there.
    struct Blocked<'a>(&'a Path);

    impl<'a> Blocked<'a> {
        fn new(path: &'a Path) -> Self {
            fs::rename(path, path.with_extension("aside")).unwrap();
            fs::create_dir(path).unwrap();
            Self(path)
        }

        fn end(self) {
            fs::remove_dir(self.0).unwrap();
            fs::rename(self.0.with_extension("aside"), self.0).unwrap();
        }
    }

    #[tokio::test]
    async fn while_nothing_can_be_written_losses_are_counted_and_recorded_after() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("audit.log");
        let handle = start(&config(&path), 50);
        assert_eq!(handle.record(allowed(0)), Recorded::Queued);
        handle.flush().await.unwrap();
        let blocked = Blocked::new(&path);
        assert_eq!(handle.record(allowed(1)), Recorded::Queued);
        until("health turns", || !handle.health().writable).await;
        assert!(handle.health().must_refuse);
        assert!(matches!(handle.flush().await, Err(AuditError::Unwritable)));
        let (mut lost, mut sum, mut reported) = (0, 0, 2);
        for number in 2..5000 {
            reported += 1;
            lost += u64::from(handle.record(allowed(number)) == Recorded::Lost);
            // A kernel drop may lose its source, never its count.
            let _kept_in_the_sum = handle.record(kernel_drop(3));
            sum += 3;
            if number % 100 == 0 {
                sleep(Duration::from_millis(1)).await;
            }
        }
        assert!(lost > 100, "{lost}");
        assert_eq!(handle.health().lost, lost);
        blocked.end();
        until("health turns back", || handle.health().writable).await;
        assert_eq!(handle.record(allowed(5000)), Recorded::Queued);
        reported += 1;
        handle.flush().await.unwrap();
        handle.stop().await;
        let all = records(&path);
        let count = |action: &str| -> u64 {
            all.iter()
                .filter(|record| record.action == action)
                .map(|record| record.count)
                .sum()
        };
        assert_eq!(count("lost"), lost);
        assert_eq!(count("send") + lost, reported);
        assert_eq!(count("drop"), sum);
        assert_eq!(count("recovered"), 1);
        assert_eq!(problem(&path), None);
    }

    #[tokio::test]
    async fn under_block_the_caller_waits_and_nothing_is_lost() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("audit.log");
        let mut config = config(&path);
        config.on_failure = AuditOnFailure::Block;
        let handle = start(&config, 10);
        assert_eq!(handle.record(allowed(0)), Recorded::Queued);
        handle.flush().await.unwrap();
        let blocked = Blocked::new(&path);
        let submitter = handle.clone();
        let task = tokio::spawn(async move {
            for number in 1..=3000 {
                assert_eq!(submitter.submit(allowed(number)).await, Recorded::Queued);
            }
        });
        until("the queue is full", || handle.health().queued == 10).await;
        assert!(!task.is_finished() && !handle.health().must_refuse);
        blocked.end();
        task.await.unwrap();
        assert_eq!(handle.health().lost, 0);
        handle.stop().await;
        let sent = records(&path)
            .iter()
            .filter(|record| record.action == "send")
            .count();
        assert_eq!(sent, 3001);
    }

    #[tokio::test]
    async fn stopping_while_nothing_can_be_written_ends_and_counts() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("audit.log");
        let handle = start(&config(&path), 50);
        assert_eq!(handle.record(allowed(0)), Recorded::Queued);
        handle.flush().await.unwrap();
        let _blocked = Blocked::new(&path);
        for number in 1..=7 {
            assert_eq!(handle.record(allowed(number)), Recorded::Queued);
        }
        let watcher = handle.clone();
        handle.stop().await;
        assert_eq!(watcher.health().lost, 7);
    }

    /// A real full disk, where the test may mount one.
    #[tokio::test]
    async fn a_full_disk_is_survived_without_a_torn_record() {
        use rustix::mount::{MountFlags, UnmountFlags, mount, mount_remount, unmount};
        struct Mounted(PathBuf);
        impl Drop for Mounted {
            fn drop(&mut self) {
                let _gone = unmount(&self.0, UnmountFlags::DETACH);
            }
        }
        let dir = tempfile::tempdir().unwrap();
        let size = c"size=128k,mode=0700";
        if mount("tmpfs", dir.path(), "tmpfs", MountFlags::empty(), size).is_err() {
            eprintln!("not run: mounting a tmpfs needs root");
            return;
        }
        let _mounted = Mounted(dir.path().to_owned());
        let path = dir.path().join("audit.log");
        let handle = start(&config(&path), 200);
        let filler = dir.path().join("filler");
        fs::write(&filler, vec![0; 64 << 10]).unwrap();
        let (mut lost, mut reported) = (0, 0);
        while lost < 500 {
            reported += 1;
            lost += u64::from(handle.record(allowed(reported)) == Recorded::Lost);
            if reported % 50 == 0 {
                sleep(Duration::from_millis(1)).await;
            }
        }
        assert!(!handle.health().writable);
        let full = records(&path);
        assert!(
            full.iter().all(|record| record.action == "send"),
            "whole records only"
        );
        fs::remove_file(&filler).unwrap();
        // 64 KiB of room are too few for a thousand waiting records.
        mount_remount(dir.path(), MountFlags::empty(), "size=8m").unwrap();
        until("health turns back", || handle.health().writable).await;
        handle.stop().await;
        let all = records(&path);
        let count = |action: &str| -> u64 {
            all.iter()
                .filter(|record| record.action == action)
                .map(|record| record.count)
                .sum()
        };
        assert_eq!(
            (count("lost"), count("send") + count("lost")),
            (lost, reported)
        );
        assert_eq!(problem(&path), None);
    }

    /// A ratio, so that it holds on any machine: 20 times the records must not take 60 times as
    /// long, which writing each alone or growing without bound would.
    #[tokio::test]
    async fn records_are_written_in_batches() {
        async fn time(count: u64) -> Duration {
            let dir = tempfile::tempdir().unwrap();
            let handle = start(&config(&dir.path().join("audit.log")), 8192);
            let started = Instant::now();
            for number in 0..count {
                while handle.health().queued > 8000 {
                    sleep(Duration::from_millis(1)).await;
                }
                assert_eq!(handle.record(allowed(number)), Recorded::Queued);
            }
            handle.flush().await.unwrap();
            started.elapsed()
        }
        time(100).await;
        let few = time(1000).await;
        let many = time(20_000).await;
        assert!(many < few * 60, "{few:?} for 1000, {many:?} for 20000");
    }
}
