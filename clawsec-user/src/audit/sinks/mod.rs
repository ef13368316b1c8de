//! Where records go besides the file: journald, syslog, OTLP, and the alerts.
//!
//! Invariant: the file never waits for any of them. Each has a bounded queue and a task of its own;
//! what its queue cannot take is counted, and one record says so when it moves again.

mod carrier;
mod http;
mod journald;
mod otlp;
mod syslog;

use std::mem;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, mpsc};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

use self::carrier::{Carrier, Unsent};
pub(super) use self::http::post;
use super::alerts::AlertWorker;
use super::entry::{Entry, SINK};
use crate::config::{AuditConfig, SinkConfig};
use crate::event::Outcome;

/// One record's line, without its newline.
pub(super) type Line = Arc<[u8]>;

/// What the writer holds of a sink.
#[derive(Debug)]
pub(super) struct Tap {
    lines: mpsc::Sender<Line>,
    state: Arc<SinkState>,
}

/// What `status` shows of a sink.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SinkHealth {
    pub name: String,
    pub connected: bool,
    pub sent: u64,
    /// Records that it never got, since the start.
    pub lost: u64,
}

#[derive(Debug)]
pub(super) struct SinkState {
    name: String,
    connected: AtomicBool,
    sent: AtomicU64,
    lost: AtomicU64,
    /// Part of `lost` that no record tells of yet.
    untold: AtomicU64,
}

/// Records about the sinks, for the writer to take.
#[derive(Debug, Default)]
pub(super) struct Notes {
    entries: Mutex<Vec<Entry>>,
    pub(super) wake: Arc<Notify>,
}

/// The tasks of all sinks.
#[derive(Debug, Default)]
pub(super) struct Sinks {
    waiting: Vec<Worker>,
    alerts: Option<AlertWorker>,
    tasks: JoinSet<()>,
    states: Vec<Arc<SinkState>>,
    pub(super) notes: Arc<Notes>,
}

#[derive(Debug)]
struct Worker {
    config: SinkConfig,
    lines: mpsc::Receiver<Line>,
    state: Arc<SinkState>,
    notes: Arc<Notes>,
}

/// What is in the file goes to each sink too.
pub(super) fn offer(taps: &[Tap], text: &[u8]) {
    if taps.is_empty() {
        return;
    }
    let lines = text.split(|byte| *byte == b'\n');
    for line in lines.filter(|line| !line.is_empty()) {
        let line = Line::from(line);
        for tap in taps {
            tap.offer(&line);
        }
    }
}

impl Tap {
    /// Never waits.
    fn offer(&self, line: &Line) {
        if self.lines.try_send(Arc::clone(line)).is_err() {
            self.state.lose(1);
        }
    }

    pub(super) fn pair(
        name: String,
        capacity: usize,
    ) -> (Self, mpsc::Receiver<Line>, Arc<SinkState>) {
        let (sender, lines) = mpsc::channel(capacity);
        let state = Arc::new(SinkState {
            name,
            connected: AtomicBool::new(false),
            sent: AtomicU64::new(0),
            lost: AtomicU64::new(0),
            untold: AtomicU64::new(0),
        });
        let tap = Self {
            lines: sender,
            state: Arc::clone(&state),
        };
        (tap, lines, state)
    }
}

impl SinkState {
    pub(super) fn lose(&self, count: u64) {
        self.lost.fetch_add(count, Ordering::Relaxed);
        self.untold.fetch_add(count, Ordering::Relaxed);
    }

    pub(super) fn connect(&self) {
        self.connected.store(true, Ordering::Relaxed);
    }

    pub(super) fn add_sent(&self, count: u64) {
        self.sent.fetch_add(count, Ordering::Relaxed);
    }

    pub(super) fn health(&self) -> SinkHealth {
        SinkHealth {
            name: self.name.clone(),
            connected: self.connected.load(Ordering::Relaxed),
            sent: self.sent.load(Ordering::Relaxed),
            lost: self.lost.load(Ordering::Relaxed),
        }
    }

    /// The one record of what was lost since the last.
    pub(super) fn loss(&self) -> Option<Entry> {
        let lost = self.untold.swap(0, Ordering::Relaxed);
        let mut entry = Entry::system(SINK, Outcome::Error, "queue_full")
            .detailed(format!("{}: {lost} records were not sent", self.name));
        entry.event.count = lost;
        (lost > 0).then_some(entry)
    }
}

impl Notes {
    pub(super) fn add(&self, entry: Entry) {
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        // While the file cannot be written nobody takes them; an outage makes a few at most.
        if entries.len() < NOTES {
            entries.push(entry);
        }
        drop(entries);
        self.wake.notify_one();
    }

    pub(super) fn take(&self) -> Vec<Entry> {
        mem::take(&mut self.entries.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Sinks {
    /// Nothing is connected before `start`.
    pub(super) fn new(config: &AuditConfig) -> (Self, Vec<Tap>) {
        let mut sinks = Self::default();
        let mut taps = Vec::new();
        if !config.alerts.is_empty() {
            let (tap, lines, state) = Tap::pair("alerts".to_owned(), ALERT_QUEUE);
            sinks.alerts = Some(AlertWorker {
                configs: config.alerts.clone(),
                log: config.path.clone(),
                lines,
                state: Arc::clone(&state),
                notes: Arc::clone(&sinks.notes),
            });
            sinks.states.push(state);
            taps.push(tap);
        }
        for config in &config.sinks {
            let (tap, lines, state) = Tap::pair(config.to.to_string(), config.queue);
            sinks.waiting.push(Worker {
                config: config.clone(),
                lines,
                state: Arc::clone(&state),
                notes: Arc::clone(&sinks.notes),
            });
            sinks.states.push(state);
            taps.push(tap);
        }
        (sinks, taps)
    }

    pub(super) fn states(&self) -> Vec<Arc<SinkState>> {
        self.states.clone()
    }

    /// `seq` is the last record of before.
    pub(super) fn start(&mut self, seq: u64) {
        if let Some(alerts) = self.alerts.take() {
            self.tasks.spawn(alerts.run(seq));
        }
        for worker in self.waiting.drain(..) {
            self.tasks.spawn(worker.run());
        }
    }

    /// After the taps are gone: waits a moment for what is queued; gives the last records.
    pub(super) async fn stop(&mut self) -> Vec<Entry> {
        let ended = async { while self.tasks.join_next().await.is_some() {} };
        let _in_time = timeout(STOP, ended).await;
        // What a worker still holds is counted as it is dropped.
        self.tasks.shutdown().await;
        let mut entries = self.notes.take();
        entries.extend(self.states.iter().filter_map(|state| state.loss()));
        entries
    }
}

/// Lines in hand; those that are dropped unsent are lost, and counted.
struct Batch<'a> {
    lines: Vec<Line>,
    state: &'a SinkState,
}

impl Drop for Batch<'_> {
    fn drop(&mut self) {
        self.state.lose(self.lines.len() as u64);
    }
}

impl Worker {
    async fn run(mut self) {
        let state = Arc::clone(&self.state);
        let mut carrier = None;
        let mut outage: Option<Instant> = None;
        let mut pause = FIRST_PAUSE;
        let mut told = Instant::now();
        let mut batch = Batch {
            lines: Vec::new(),
            state: &state,
        };
        loop {
            if batch.lines.is_empty() && self.lines.recv_many(&mut batch.lines, BATCH).await == 0 {
                return;
            }
            match self.send(&mut carrier, &batch.lines).await {
                Ok(rejected) => {
                    let lines = mem::take(&mut batch.lines).len() as u64;
                    state.lose(rejected);
                    state
                        .sent
                        .fetch_add(lines.saturating_sub(rejected), Ordering::Relaxed);
                    state.connected.store(true, Ordering::Relaxed);
                    pause = FIRST_PAUSE;
                    let recovered = outage.take();
                    // A sink that is only slow loses all the time: one record, now and then.
                    if recovered.is_some() || told.elapsed() >= TELL {
                        told = Instant::now();
                        if let Some(loss) = state.loss() {
                            self.notes.add(loss);
                        } else if let Some(since) = recovered {
                            let detail = format!(
                                "{}: again after {:.1} s, nothing was lost",
                                state.name,
                                since.elapsed().as_secs_f64()
                            );
                            self.notes
                                .add(Entry::system(SINK, Outcome::Allow, "ok").detailed(detail));
                        }
                    }
                }
                Err(Unsent(why)) => {
                    carrier = None;
                    state.connected.store(false, Ordering::Relaxed);
                    if outage.is_none() {
                        outage = Some(Instant::now());
                        let detail = format!("{}: {why}", state.name);
                        tracing::warn!("audit sink {detail}");
                        let entry = Entry::system(SINK, Outcome::Error, "unreachable");
                        self.notes.add(entry.detailed(detail));
                    }
                    sleep(pause).await;
                    pause = (pause * 2).min(LAST_PAUSE);
                }
            }
        }
    }

    /// How many were refused for good.
    async fn send(&self, carrier: &mut Option<Carrier>, lines: &[Line]) -> Result<u64, Unsent> {
        let sent = timeout(DEADLINE, async {
            if carrier.is_none() {
                *carrier = Some(Carrier::open(&self.config.to).await?);
            }
            match carrier {
                Some(open) => open.send(lines).await,
                None => Ok(0),
            }
        });
        sent.await
            .unwrap_or_else(|_| Err(Unsent("no answer in time".to_owned())))
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.lines.close();
        while self.lines.try_recv().is_ok() {
            self.state.lose(1);
        }
    }
}

/// Lines sent at once.
const BATCH: usize = 256;
const ALERT_QUEUE: usize = 8192;
const NOTES: usize = 64;
const DEADLINE: Duration = Duration::from_secs(10);
const FIRST_PAUSE: Duration = Duration::from_millis(250);
const LAST_PAUSE: Duration = Duration::from_secs(30);
const TELL: Duration = Duration::from_secs(10);
/// How long a stop waits for what is queued.
const STOP: Duration = Duration::from_secs(2);

#[cfg(test)]
mod tests;
