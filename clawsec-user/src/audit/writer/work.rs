//! What the writer does in each round: gather, commit, wait.

use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::task::{JoinHandle, spawn_blocking};
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::{AuditError, Failure, POLL, Work};
use crate::audit::entry::{Entry, LOST, RECOVERED};
use crate::audit::log_file::LogFile;
use crate::audit::queue::{Item, lost_events};
use crate::causes::chain;
use crate::config::Fsync;
use crate::event::Outcome;

impl Work {
    /// Moves from the queue and the sums to the outbox, which stays bounded.
    pub(super) fn gather(&mut self) {
        let now_ms = self.now_ms();
        self.closing = self.shared.queue.is_closed();
        let room = OUTBOX.saturating_sub(self.outbox.len());
        for item in self.shared.queue.take(room) {
            self.taken += 1;
            match item {
                Item::Entry(entry) => {
                    self.outbox.extend(self.aggregator.offer(*entry, now_ms));
                }
                Item::Loss(loss) => self.outbox.extend(loss.into_entries()),
            }
        }
        self.outbox.extend(self.sinks.notes.take());
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
    pub(super) async fn commit(&mut self) {
        let now = Instant::now();
        let reopen = self.shared.reopen_wanted.swap(false, Ordering::AcqRel);
        let due = |since: Instant| now >= since + self.sync_interval;
        let sync = self.flush_is_next() || self.closing || self.unsynced_since.is_some_and(due);
        let notices = self.file.as_ref().is_some_and(LogFile::has_notices);
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
        let Some(mut file) = self.file.take() else {
            return self.give_up();
        };
        let mut outbox = std::mem::take(&mut self.outbox);
        let (count, always) = (outbox.len(), self.fsync == Fsync::Always);
        let job = spawn_blocking(move || {
            let mut result = file.write(&mut outbox);
            if result.is_ok() && (sync || always) {
                result = file.sync();
            }
            (file, outbox, result)
        });
        let Some((file, outbox, result)) = self.finish(job).await else {
            self.shared.queue.add_lost(count as u64);
            return self.give_up();
        };
        self.shared.seq.store(file.seq(), Ordering::Release);
        let short = file.is_short_of_space();
        self.shared.short_of_space.store(short, Ordering::Release);
        self.file = Some(file);
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
    pub(super) async fn finish<T>(&mut self, mut job: JoinHandle<T>) -> Option<T> {
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

    pub(super) fn succeeded(&mut self) {
        self.shared.writable.store(true, Ordering::Release);
        if let Some(failure) = self.failure.take() {
            let lasted = failure.since.elapsed();
            tracing::info!(?lasted, "the audit log is written again");
            let detail = format!("after {:.1} s: {}", lasted.as_secs_f64(), failure.text);
            let entry = Entry::system(RECOVERED, Outcome::Allow, "unwritable").detailed(detail);
            self.outbox.push_back(entry);
        }
    }

    pub(super) fn failed(&mut self, error: &AuditError) {
        self.shared.writable.store(false, Ordering::Release);
        let now = Instant::now();
        let failure = self.failure.get_or_insert_with(|| {
            let text = chain(error);
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

    /// The file is gone with the thread that panicked: everything is lost from here, and counted.
    pub(super) fn give_up(&mut self) {
        self.shared.writable.store(false, Ordering::Release);
        let lost: u64 = self.outbox.drain(..).map(|entry| lost_events(&entry)).sum();
        self.shared.queue.add_lost(lost);
        self.shared.queue.close();
        self.shared.queue.take(usize::MAX);
    }

    pub(super) fn answer_flush(&mut self) {
        if self.flush_is_next()
            && self.outbox.is_empty()
            && let Some((ticket, _)) = self.flush.take()
        {
            self.flushed.send_replace(ticket);
        }
    }

    /// Everything that the flush waits for has been taken from the queue.
    pub(super) fn flush_is_next(&self) -> bool {
        self.flush
            .is_some_and(|(_, accepted)| self.taken >= accepted)
    }

    pub(super) fn is_finished(&mut self) -> bool {
        if !self.closing || self.shared.queue.len() > 0 && self.failure.is_none() {
            return false;
        }
        if self.outbox.is_empty() && self.failure.is_none() {
            return true;
        }
        let hopeless = self.file.is_none()
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

    pub(super) async fn wait(&self) {
        let more = self.shared.queue.len() > 0 && self.outbox.len() < OUTBOX;
        if self.failure.is_none() && (more || !self.outbox.is_empty()) {
            return;
        }
        let mut wake = Instant::now() + IDLE;
        if let Some(failure) = &self.failure {
            wake = failure.next_try;
        } else {
            if let Some(since) = self.unsynced_since {
                wake = wake.min(since + self.sync_interval);
            }
            if let Some(due_ms) = self.aggregator.next_due_ms() {
                wake = wake.min(self.started + Duration::from_millis(due_ms));
            }
        }
        tokio::select! {
            () = self.shared.queue.work.notified() => {}
            () = self.sinks.notes.wake.notified() => {}
            // With nothing to write, whether the file is still there is looked at now and then.
            () = sleep_until(wake) => self.shared.reopen_wanted.store(true, Ordering::Release),
        }
        if self.failure.is_some() {
            // Each report wakes us; there is nothing to do for it before the next attempt.
            sleep(POLL).await;
        }
    }

    /// After the last record: what is queued is sent in a moment or counted as lost, and said.
    pub(super) async fn close_sinks(&mut self) {
        let Some(file) = &mut self.file else { return };
        file.close_taps();
        let notes = self.sinks.stop().await;
        if self.failure.is_none() && !notes.is_empty() {
            self.outbox.extend(notes);
            self.commit().await;
        }
    }

    pub(super) fn now_ms(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }
}

/// Entries written as one batch; also what a write that fails holds in memory.
const OUTBOX: usize = 1024;
const RETRY: Duration = Duration::from_millis(100);
/// A disk that takes longer for one batch counts as unwritable.
const HANG: Duration = Duration::from_secs(5);
/// How long a stop goes on trying to write.
const LAST_TRIES: Duration = Duration::from_secs(2);
/// An idle writer looks whether the file was moved this often.
const IDLE: Duration = Duration::from_mins(1);
