//! Where every event of the daemon goes: the kernel's drops are made exact, the rest is queued for
//! the one writer, which sums what repeats.

use std::collections::{BTreeMap, btree_map};
use std::net::IpAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::task::JoinHandle;

use super::tally::Tally;
use crate::audit::{
    self, Attribution, AuditError, AuditHandle, AuditHealth, CheckpointCause, Entry, Ledger,
    LedgerLimits, Maps, SinkHealth,
};
use crate::causes;
use crate::config::AuditConfig;
use crate::event::{Event, EventKind, Outcome};

pub(super) struct Records {
    handle: AuditHandle,
    writer: Mutex<Option<JoinHandle<()>>>,
    /// There while packets are filtered and their drops recorded.
    ledger: Mutex<Option<Ledger>>,
    limits: LedgerLimits,
    /// `audit.network`.
    is_network_recorded: bool,
    /// What was recorded since the start, for whoever looks.
    pub(super) tally: Tally,
}

impl Records {
    /// Opens the log and starts its writer.
    pub(super) fn open(config: &AuditConfig) -> Result<Self, AuditError> {
        let (handle, writer) = audit::open(config)?;
        Ok(Self {
            handle,
            writer: Mutex::new(Some(tokio::spawn(writer.run()))),
            ledger: Mutex::new(None),
            limits: LedgerLimits::of(config.interval),
            is_network_recorded: config.events.contains(&EventKind::Network),
            tally: Tally::default(),
        })
    }

    /// Records an event. A full queue counts what it cannot take, and says so when there is room.
    pub(super) fn report(&self, event: Event) {
        self.tally.take(&event);
        let _counted_if_lost = self.handle.record(event);
    }

    /// As `report`; under `onFailure: block` it waits until the log takes the event, and with it
    /// waits whoever reports.
    pub(super) async fn submit(&self, event: Event) {
        self.tally.take(&event);
        let _counted_if_lost = self.handle.submit(event).await;
    }

    /// Events that were lost on the way here.
    pub(super) fn lost(&self, count: u64, detail: &str) {
        let mut event = Event::new(EventKind::System, "lost", Outcome::Error, "queue_full");
        event.count = count;
        event.detail = Some(detail.to_owned());
        self.report(event);
    }

    /// Goes on counting the kernel's drops where the log ends. `now_ns` is the kernel's
    /// monotonic clock, read before the first event.
    pub(super) fn resume(&self, maps: Maps, now_ns: u64) {
        if !self.is_network_recorded {
            return;
        }
        let recovered = self.handle.recovered();
        let mut guard = self.ledger();
        let (ledger, entries) = Ledger::resume(&recovered, maps, now_ns, self.limits);
        *guard = Some(ledger);
        self.write(entries);
    }

    /// Names the sources of drops, each source and reason in one record. The running totals make
    /// this idempotent.
    pub(super) fn attribute<'a>(
        &self,
        attributions: impl IntoIterator<Item = (Attribution<'a>, u64)>,
    ) {
        let mut guard = self.ledger();
        let Some(ledger) = guard.as_mut() else { return };
        // By source, reason and policy: what several CPUs have counted of one is added up.
        let mut entries: BTreeMap<(IpAddr, &str, u64), Entry> = BTreeMap::new();
        for (attribution, generation) in attributions {
            let Some(entry) = ledger.attribute(attribution) else {
                continue;
            };
            match entries.entry((attribution.source, attribution.reason, generation)) {
                btree_map::Entry::Occupied(mut held) => {
                    let event = &mut held.get_mut().event;
                    event.count = event.count.saturating_add(entry.event.count);
                    event.settles = event.settles.saturating_add(entry.event.settles);
                }
                btree_map::Entry::Vacant(place) => {
                    let entry = place.insert(entry);
                    entry.event.generation = generation;
                    if let network @ IpAddr::V6(_) = attribution.source {
                        entry.event.detail = Some(format!("all of {network}/64"));
                    }
                }
            }
        }
        for entry in entries.values() {
            self.tally.take_drop(&entry.event);
        }
        self.write(entries.into_values());
    }

    /// Makes the recorded sums equal the kernel's drop counters.
    pub(super) fn checkpoint(
        &self,
        counters: &BTreeMap<String, u64>,
        now_ns: u64,
        cause: CheckpointCause,
    ) {
        let mut guard = self.ledger();
        let Some(ledger) = guard.as_mut() else { return };
        let entries = ledger.checkpoint(counters, now_ns, cause);
        self.write(entries);
    }

    pub(super) fn health(&self) -> AuditHealth {
        self.handle.health()
    }

    pub(super) fn sinks(&self) -> Vec<SinkHealth> {
        self.handle.sinks()
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
        if let Err(error) = self.handle.flush().await {
            tracing::error!("write the last records: {}", causes::chain(&error));
        }
        self.handle.clone().stop().await;
        let writer = self
            .writer
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        if let Some(writer) = writer {
            let _ended = writer.await;
        }
    }

    /// The ledger is held while its entries are queued: their order is part of the sums.
    fn ledger(&self) -> MutexGuard<'_, Option<Ledger>> {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self, entries: impl IntoIterator<Item = Entry>) {
        for entry in entries {
            let _counted_if_lost = self.handle.record(entry);
        }
    }
}
