//! Whether a connection gets on: what its client does not take, and how long nothing was asked.
//!
//! hyper waits for ever for a client that stops reading, and on HTTP/2 such a client may go on
//! answering pings. The connection's own tick looks here, so that no body needs a timer.

use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use hyper::body::{Body as HyperBody, Frame, SizeHint};
use tokio::sync::{Notify, OwnedSemaphorePermit};

use super::body::{Body, BodyError};

#[derive(Debug)]
pub(super) struct Progress {
    started: Instant,
    /// Since when the stream takes no bytes, in milliseconds from the start; 0 is not at all.
    blocked_since_ms: AtomicU64,
    /// When somebody last asked or was answered; 0 is never.
    last_use_ms: AtomicU64,
    first_use: Notify,
    /// One for each answer on its way: since when its last piece waits to be taken.
    answers: Mutex<Vec<Weak<AtomicU64>>>,
    /// One for each request that is being answered.
    requests: Arc<()>,
}

/// How a connection stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Standing {
    Moving,
    /// The client takes nothing of what it asked for.
    Stalled,
    /// Nothing is asked for; since when, and whether anything ever was.
    Idle {
        for_ms: u64,
        used: bool,
    },
}

impl Progress {
    pub(super) fn new() -> Self {
        Self {
            started: Instant::now(),
            blocked_since_ms: AtomicU64::new(0),
            last_use_ms: AtomicU64::new(0),
            first_use: Notify::new(),
            answers: Mutex::default(),
            requests: Arc::default(),
        }
    }

    /// Notes a write, and whether it waits for the client.
    pub(super) fn wrote(&self, is_pending: bool) {
        if !is_pending {
            self.blocked_since_ms.store(0, Ordering::Relaxed);
        } else if self.blocked_since_ms.load(Ordering::Relaxed) == 0 {
            self.blocked_since_ms
                .store(self.now_ms(), Ordering::Relaxed);
        }
    }

    /// Held while a request is being answered.
    pub(super) fn request(&self) -> Arc<()> {
        self.used();
        Arc::clone(&self.requests)
    }

    /// Watches an answer's body until it is dropped.
    pub(super) fn watch(self: &Arc<Self>, body: Body, place: Option<OwnedSemaphorePermit>) -> Body {
        // From the first: on HTTP/2 a body is not even asked where there is no window for it.
        let waits_since_ms = Arc::new(AtomicU64::new(self.now_ms()));
        {
            let mut answers = self.answers();
            // At most as many as a client may have streams.
            answers.retain(|answer| answer.strong_count() > 0);
            answers.push(Arc::downgrade(&waits_since_ms));
        }
        Body::new(WatchedBody {
            body,
            progress: Arc::clone(self),
            waits_since_ms,
            _place: place,
        })
    }

    pub(super) fn standing(&self, patience: Duration) -> Standing {
        let now = self.now_ms();
        let patience_ms = u64::try_from(patience.as_millis()).unwrap_or(u64::MAX);
        let waits = |since: u64| since != 0 && now.saturating_sub(since) >= patience_ms;
        if waits(self.blocked_since_ms.load(Ordering::Relaxed)) {
            return Standing::Stalled;
        }
        let mut answers = self.answers();
        answers.retain(|answer| answer.strong_count() > 0);
        if !answers.is_empty() {
            let stalled = answers
                .iter()
                .filter_map(Weak::upgrade)
                .any(|since| waits(since.load(Ordering::Relaxed)));
            return if stalled {
                Standing::Stalled
            } else {
                Standing::Moving
            };
        }
        if Arc::strong_count(&self.requests) > 1 {
            return Standing::Moving;
        }
        let last_use = self.last_use_ms.load(Ordering::Relaxed);
        Standing::Idle {
            for_ms: now.saturating_sub(last_use),
            used: last_use != 0,
        }
    }

    /// Returns when somebody has asked, or at once if somebody had.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe; one task waits at a time.
    pub(super) async fn first_use(&self) {
        while self.last_use_ms.load(Ordering::Relaxed) == 0 {
            self.first_use.notified().await;
        }
    }

    fn used(&self) {
        if self.last_use_ms.swap(self.now_ms(), Ordering::Relaxed) == 0 {
            self.first_use.notify_one();
        }
    }

    /// Never 0.
    fn now_ms(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis())
            .unwrap_or(u64::MAX)
            .max(1)
    }

    fn answers(&self) -> std::sync::MutexGuard<'_, Vec<Weak<AtomicU64>>> {
        self.answers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// An answer's body that notes when its last piece was taken from it.
struct WatchedBody {
    body: Body,
    progress: Arc<Progress>,
    waits_since_ms: Arc<AtomicU64>,
    /// The answer's share of what may be on its way at once.
    _place: Option<OwnedSemaphorePermit>,
}

impl HyperBody for WatchedBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let polled = Pin::new(&mut self.body).poll_frame(cx);
        // hyper asks again when the client has room; a wait for the upstream is none of its.
        let since = match &polled {
            Poll::Ready(Some(Ok(_))) => self.progress.now_ms(),
            _ => 0,
        };
        self.waits_since_ms.store(since, Ordering::Relaxed);
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for WatchedBody {
    fn drop(&mut self) {
        self.progress.used();
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt as _;

    use super::super::body::full;
    use super::*;

    #[tokio::test]
    async fn what_the_client_does_not_take_stalls_the_connection() {
        let progress = Arc::new(Progress::new());
        let now = Duration::ZERO;
        let long = Duration::from_hours(1);
        assert!(matches!(
            progress.standing(now),
            Standing::Idle { used: false, .. }
        ));
        let request = progress.request();
        assert_eq!(progress.standing(now), Standing::Moving);
        drop(request);
        let mut body = progress.watch(full("piece"), None);
        assert_eq!(
            progress.standing(now),
            Standing::Stalled,
            "nothing was taken yet"
        );
        assert!(body.frame().await.is_some());
        assert_eq!(progress.standing(now), Standing::Stalled);
        assert_eq!(progress.standing(long), Standing::Moving);
        assert!(body.frame().await.is_none());
        assert_eq!(
            progress.standing(now),
            Standing::Moving,
            "all of it was taken"
        );
        drop(body);
        assert!(matches!(
            progress.standing(now),
            Standing::Idle { used: true, .. }
        ));
        progress.wrote(true);
        assert_eq!(progress.standing(now), Standing::Stalled);
        progress.wrote(false);
        assert!(matches!(progress.standing(now), Standing::Idle { .. }));
    }
}
