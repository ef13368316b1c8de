//! How busy the sandbox is, and the queue in front of it.

use std::sync::atomic::{AtomicUsize, Ordering};

use super::Sandbox;

/// Known without asking the provider.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Load {
    /// Not removed yet.
    pub running: usize,
    pub waiting: usize,
    pub slots: usize,
}

impl Sandbox {
    pub fn load(&self) -> Load {
        Load {
            running: self.inner.concurrency - self.inner.slots.available_permits(),
            waiting: self.inner.waiting.load(Ordering::Relaxed),
            slots: self.inner.concurrency,
        }
    }
}

/// A place in the queue.
pub(super) struct Place<'a>(&'a AtomicUsize);

impl<'a> Place<'a> {
    pub(super) fn take(waiting: &'a AtomicUsize) -> Option<Self> {
        let next = |count: usize| (count < QUEUE).then_some(count + 1);
        waiting
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, next)
            .ok()
            .map(|_| Self(waiting))
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Executions that may wait for a slot; the next is refused.
pub(super) const QUEUE: usize = 256;
