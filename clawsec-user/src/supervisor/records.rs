//! Where every event of the daemon goes: summed if it repeats, made exact if it is the kernel's,
//! then queued for the one writer.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use tokio::task::JoinHandle;

use crate::audit::{
    self, Aggregator, Attribution, AuditError, AuditHandle, AuditHealth, CheckpointCause, Entry,
    Ledger, LedgerLimits, Maps, Stamp,
};
use crate::config::AuditConfig;
use crate::event::{Event, EventKind, Outcome};

pub(super) struct Records {
    handle: AuditHandle,
    writer: Mutex<Option<JoinHandle<()>>>,
    aggregator: Mutex<Aggregator>,
    /// There while packets are filtered.
    ledger: Mutex<Option<Ledger>>,
    /// The aggregator's clock counts from here.
    started: Instant,
}

impl Records {
    /// Opens the log and starts its writer.
    pub(super) fn open(config: &AuditConfig) -> Result<Self, AuditError> {
        let (handle, writer) = audit::open(config)?;
        Ok(Self {
            handle,
            writer: Mutex::new(Some(tokio::spawn(writer.run()))),
            aggregator: Mutex::new(Aggregator::new(config.interval)),
            ledger: Mutex::new(None),
            started: Instant::now(),
        })
    }

    /// Records an event, at once or, if it repeats, in a sum.
    pub(super) fn report(&self, event: Event) {
        let entry = Entry::new(event, Stamp::now());
        let kept = lock(&self.aggregator).offer(entry, self.now_ms());
        self.write(kept);
    }

    /// Events that were lost on the way here.
    pub(super) fn lost(&self, count: u64, detail: &str) {
        let mut event = Event::new(EventKind::System, "lost", Outcome::Error, "queue_full");
        event.count = count;
        event.detail = Some(detail.to_owned());
        self.report(event);
    }

    /// Writes the sums whose interval is over.
    pub(super) fn tick(&self) {
        let due = lock(&self.aggregator).due(self.now_ms());
        self.write(due);
    }

    /// Goes on counting the kernel's drops where the log ends. `now_ns` is the kernel's
    /// monotonic clock, read before the first event.
    pub(super) fn resume(&self, maps: Maps, now_ns: u64) {
        let recovered = self.handle.recovered();
        let (ledger, entries) = Ledger::resume(&recovered, maps, now_ns, LedgerLimits::default());
        *lock(&self.ledger) = Some(ledger);
        self.write(entries);
    }

    /// Names the sources of drops. The running totals make this idempotent.
    pub(super) fn attribute<'a>(
        &self,
        attributions: impl IntoIterator<Item = (Attribution<'a>, u64)>,
    ) {
        let mut guard = lock(&self.ledger);
        let Some(ledger) = guard.as_mut() else { return };
        let mut entries = Vec::new();
        for (attribution, generation) in attributions {
            if let Some(mut entry) = ledger.attribute(attribution) {
                entry.event.generation = generation;
                if let Some(network @ IpAddr::V6(_)) = entry.event.source {
                    entry.event.detail = Some(format!("all of {network}/64"));
                }
                entries.push(entry);
            }
        }
        drop(guard);
        self.write(entries);
    }

    /// Makes the recorded sums equal the kernel's drop counters.
    pub(super) fn checkpoint(
        &self,
        counters: &BTreeMap<String, u64>,
        now_ns: u64,
        cause: CheckpointCause,
    ) {
        let mut guard = lock(&self.ledger);
        let Some(ledger) = guard.as_mut() else { return };
        let entries = ledger.checkpoint(counters, now_ns, cause);
        drop(guard);
        self.write(entries);
    }

    pub(super) fn health(&self) -> AuditHealth {
        self.handle.health()
    }

    /// `onFailure: deny` and the log cannot be written: tool runs must be refused.
    pub(super) fn refuses_work(&self) -> bool {
        self.handle.health().must_refuse
    }

    pub(super) fn reopen(&self) {
        self.handle.reopen();
    }

    /// Writes what is still summed, and waits until all of it is on disk.
    pub(super) async fn close(&self) {
        let rest = lock(&self.aggregator).drain();
        self.write(rest);
        if let Err(error) = self.handle.flush().await {
            tracing::error!("write the last records: {}", super::local::chain(&error));
        }
        self.handle.clone().stop().await;
        let writer = lock(&self.writer).take();
        if let Some(writer) = writer {
            let _ended = writer.await;
        }
    }

    /// A full queue counts what it cannot take, and says so in a record when there is room.
    fn write(&self, entries: impl IntoIterator<Item = Entry>) {
        for entry in entries {
            let _counted_if_lost = self.handle.record(entry);
        }
    }

    fn now_ms(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
