//! The bounded way from those who report to the one who writes.
//!
//! Invariant: nothing waits in memory without bound, and nothing is lost without being counted in
//! its place. A full queue folds what it cannot take into a `Loss` that stands where the entries
//! would have stood, so kernel drops keep their exact place between two checkpoints.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use super::entry::{Entry, LOST, Span};
use crate::event::{Event, EventKind, Outcome};

/// One queue per log; shared by handles and the task.
#[derive(Debug)]
pub(super) struct Queue {
    inner: Mutex<Inner>,
    capacity: usize,
    /// Wakes the writer.
    pub(super) work: Notify,
    /// Wakes those who wait for room.
    pub(super) room: Notify,
}

#[derive(Debug, Default)]
struct Inner {
    items: VecDeque<Item>,
    closed: bool,
    /// Items taken in since the start; a flush waits for losses too.
    accepted: u64,
    lost: u64,
}

#[derive(Debug)]
pub(super) enum Item {
    Entry(Box<Entry>),
    Loss(Loss),
}

/// Why an entry was not taken.
#[derive(Debug)]
pub(super) enum Full {
    NoRoom(Box<Entry>),
    Closed(Box<Entry>),
}

/// Entries that were not kept, exactly counted.
#[derive(Debug, Default)]
pub(super) struct Loss {
    by_kind: BTreeMap<&'static str, u64>,
    span: Option<Span>,
    /// Kernel drops, whose sums must not suffer: they lose their source only.
    drops: BTreeMap<String, u64>,
    /// The beginning of new sums; never dropped.
    epoch: Option<Box<Entry>>,
    /// What the sums were compared with after the last of `drops`.
    checkpoint: Option<Box<Entry>>,
}

impl Queue {
    pub(super) fn new(capacity: usize) -> Self {
        Self {
            inner: Mutex::default(),
            capacity,
            work: Notify::new(),
            room: Notify::new(),
        }
    }

    pub(super) fn try_push(&self, entry: Box<Entry>) -> Result<(), Full> {
        let mut inner = self.lock();
        if inner.closed {
            return Err(Full::Closed(entry));
        }
        if inner.items.len() >= self.capacity {
            return Err(Full::NoRoom(entry));
        }
        inner.items.push_back(Item::Entry(entry));
        inner.accepted += 1;
        drop(inner);
        self.work.notify_one();
        Ok(())
    }

    /// Takes the entry, or folds it into the loss at the end. True when it was taken.
    pub(super) fn push_or_lose(&self, entry: Entry) -> bool {
        let mut inner = self.lock();
        if !inner.closed && inner.items.len() < self.capacity {
            inner.items.push_back(Item::Entry(Box::new(entry)));
            inner.accepted += 1;
            drop(inner);
            self.work.notify_one();
            return true;
        }
        inner.lost = inner.lost.saturating_add(lost_events(&entry));
        // At most one loss beyond the capacity: the next finds this one at the end.
        if let Some(Item::Loss(loss)) = inner.items.back_mut() {
            loss.fold(entry);
        } else {
            let mut loss = Loss::default();
            loss.fold(entry);
            inner.items.push_back(Item::Loss(loss));
            inner.accepted += 1;
        }
        drop(inner);
        self.work.notify_one();
        false
    }

    pub(super) fn take(&self, most: usize) -> Vec<Item> {
        let mut inner = self.lock();
        let count = inner.items.len().min(most);
        let items: Vec<_> = inner.items.drain(..count).collect();
        drop(inner);
        if !items.is_empty() {
            self.room.notify_waiters();
        }
        items
    }

    /// No more entries are taken; those inside still come out.
    pub(super) fn close(&self) {
        self.lock().closed = true;
        self.work.notify_one();
        self.room.notify_waiters();
    }

    pub(super) fn is_closed(&self) -> bool {
        self.lock().closed
    }

    pub(super) fn len(&self) -> usize {
        self.lock().items.len()
    }

    pub(super) fn accepted(&self) -> u64 {
        self.lock().accepted
    }

    pub(super) fn lost(&self) -> u64 {
        self.lock().lost
    }

    /// Counts what the writer itself had to give up.
    pub(super) fn add_lost(&self, events: u64) {
        let mut inner = self.lock();
        inner.lost = inner.lost.saturating_add(events);
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Nothing in here panics between two changes that belong together.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Loss {
    fn fold(&mut self, entry: Entry) {
        let at = Span {
            first: entry.at,
            last: entry.at,
        };
        let Span { first, last } = entry.span.unwrap_or(at);
        let span = self.span.get_or_insert(Span { first, last });
        span.first = span.first.min(first);
        span.last = span.last.max(last);
        if entry.is_kernel_drop() {
            self.checkpoint = None;
            let sum = self
                .drops
                .entry(entry.event.reason.into_owned())
                .or_default();
            *sum = sum.saturating_add(entry.event.count);
        } else if entry.epoch.is_some() && entry.event.kind == EventKind::System {
            // The sums of the epoch before end here; nothing will be compared with them again.
            self.drops.clear();
            self.checkpoint = None;
            self.epoch = Some(Box::new(entry));
        } else if entry.is_checkpoint() {
            self.checkpoint = Some(Box::new(entry));
        } else {
            let sum = self.by_kind.entry(entry.event.kind.as_str()).or_default();
            *sum = sum.saturating_add(lost_events(&entry));
        }
    }

    /// What is written in place of the entries.
    pub(super) fn into_entries(self) -> Vec<Entry> {
        let mut entries = Vec::new();
        let events: u64 = self.by_kind.values().sum();
        if events > 0 {
            let mut entry = Entry::system(LOST, Outcome::Error, "queue_full");
            entry.event.count = events;
            entry.span = self.span;
            let by_kind = self.by_kind.into_iter().filter(|(_, count)| *count > 0);
            entry.totals = Some(by_kind.map(|(kind, n)| (kind.to_owned(), n)).collect());
            entries.push(entry);
        }
        entries.extend(self.epoch.map(|epoch| *epoch));
        for (reason, count) in self.drops.into_iter().filter(|(_, count)| *count > 0) {
            let mut event = Event::new(
                EventKind::Network,
                super::entry::DROP,
                Outcome::Deny,
                reason,
            );
            event.count = count;
            event.detail = Some("source not kept, the queue was full".to_owned());
            entries.push(Entry {
                span: self.span,
                ..Entry::from(event)
            });
        }
        entries.extend(self.checkpoint.map(|checkpoint| *checkpoint));
        entries
    }
}

/// Events that vanish with this entry. A kernel drop's count survives, a checkpoint counts none.
pub(super) fn lost_events(entry: &Entry) -> u64 {
    if entry.is_kernel_drop() || entry.epoch.is_some() {
        0
    } else {
        entry.event.count
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drop_of(count: u64) -> Entry {
        let mut event = Event::new(
            EventKind::Network,
            super::super::entry::DROP,
            Outcome::Deny,
            "banned",
        );
        event.count = count;
        event.into()
    }

    fn auth() -> Entry {
        Event::new(EventKind::Auth, "connect", Outcome::Allow, "ok").into()
    }

    #[test]
    fn a_loss_stands_where_the_entries_would_have_stood() {
        let queue = Queue::new(2);
        assert!(queue.push_or_lose(drop_of(1)));
        assert!(queue.push_or_lose(auth()));
        for lost in [drop_of(10), auth(), auth(), drop_of(5)] {
            assert!(!queue.push_or_lose(lost));
        }
        assert_eq!((queue.lost(), queue.len(), queue.accepted()), (2, 3, 3));
        assert_eq!(queue.take(2).len(), 2);
        assert!(queue.push_or_lose(drop_of(7)));
        let items = queue.take(10);
        let [Item::Loss(_), Item::Entry(after)] = &items[..] else {
            panic!("{items:?}")
        };
        assert_eq!(after.event.count, 7);
        let Some(Item::Loss(loss)) = items.into_iter().next() else {
            panic!()
        };
        let entries = loss.into_entries();
        assert_eq!(entries.len(), 2);
        assert_eq!(
            (entries[0].event.action.as_ref(), entries[0].event.count),
            (LOST, 2)
        );
        assert!(entries[1].is_kernel_drop());
        assert_eq!(entries[1].event.count, 15);
    }

    #[test]
    fn a_checkpoint_is_kept_in_its_place_or_not_at_all() {
        let checkpoint = || {
            let action = super::super::entry::CHECKPOINT;
            Entry::from(Event::new(EventKind::Network, action, Outcome::Allow, "ok"))
        };
        let actions = |entries: [Entry; 3]| {
            let mut loss = Loss::default();
            for entry in entries {
                loss.fold(entry);
            }
            let left = loss.into_entries().into_iter();
            left.map(|entry| entry.event.action.into_owned())
                .collect::<Vec<_>>()
        };
        assert_eq!(
            actions([drop_of(1), drop_of(2), checkpoint()]),
            ["drop", "checkpoint"]
        );
        assert_eq!(actions([drop_of(1), checkpoint(), drop_of(2)]), ["drop"]);
    }

    #[test]
    fn the_queue_is_bounded_whatever_is_pushed_and_taken() {
        let queue = Queue::new(4);
        for _ in 0..1000 {
            for _ in 0..3 {
                queue.push_or_lose(auth());
            }
            assert!(queue.len() <= 5);
            queue.take(1);
        }
    }

    #[test]
    fn a_closed_queue_takes_nothing_and_gives_what_it_has() {
        let queue = Queue::new(4);
        assert!(queue.push_or_lose(auth()));
        queue.close();
        assert!(!queue.push_or_lose(auth()));
        assert!(matches!(
            queue.try_push(Box::new(auth())),
            Err(Full::Closed(_))
        ));
        assert_eq!(queue.take(9).len(), 2, "the entry and the loss");
    }
}
