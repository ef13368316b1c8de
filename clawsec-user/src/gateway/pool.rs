//! Connections to the upstream that have answered and wait for the next page.
//!
//! Invariant: a connection serves one principal under one policy, one request at a time. It comes
//! back only when its answer was read to the end and hyper asks for the next request, so that an
//! upstream that says more than it was asked can at most answer the same principal.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use hyper::body::{Body as HyperBody, Frame, Incoming, SizeHint};
use hyper::client::conn::http1;

use super::body::{Body, BodyError};
use super::shared::Gateway;

/// What speaks to the upstream.
pub(super) type Sender = http1::SendRequest<Body>;

/// For how long a connection waits; Node closes one after five seconds without a request, and a
/// request must not meet that.
const MAX_IDLE: Duration = Duration::from_secs(2);
/// In all, and for one principal: a browser's page asks for no more at once.
const MAX_WAITING: usize = 256;
const MAX_WAITING_OF_ONE: usize = 32;

/// The connections that wait.
#[derive(Debug)]
pub(super) struct Pool(Mutex<State>);

#[derive(Debug)]
struct State {
    by_principal: HashMap<Box<str>, Vec<Waiting>>,
    count: usize,
    /// The policy that all of them were made under.
    generation: u64,
    is_closed: bool,
}

#[derive(Debug)]
struct Waiting {
    sender: Sender,
    since: Instant,
}

impl Pool {
    pub(super) fn new(generation: u64) -> Self {
        Self(Mutex::new(State {
            by_principal: HashMap::new(),
            count: 0,
            generation,
            is_closed: false,
        }))
    }

    /// A connection of this principal that is ready for a request.
    pub(super) fn take(&self, principal: &str, generation: u64) -> Option<Sender> {
        let mut state = self.lock();
        if state.generation != generation {
            return None;
        }
        let waiting = state.by_principal.get_mut(principal)?;
        let ready =
            |waiting: &Waiting| waiting.sender.is_ready() && waiting.since.elapsed() < MAX_IDLE;
        // The last to come back: the others get the chance to grow old.
        let at = waiting.iter().rposition(ready)?;
        let taken = waiting.remove(at);
        state.count -= 1;
        Some(taken.sender)
    }

    /// Ends the connections that another policy made.
    pub(super) fn renew(&self, generation: u64) {
        let mut state = self.lock();
        state.generation = generation;
        state.clear();
    }

    fn give_back(&self, lease: Lease) {
        let mut state = self.lock();
        let fits = state.count < MAX_WAITING && state.generation == lease.generation;
        if state.is_closed || !fits || lease.sender.is_closed() {
            return;
        }
        let waiting = state.by_principal.entry(lease.principal).or_default();
        if waiting.len() < MAX_WAITING_OF_ONE {
            waiting.push(Waiting {
                sender: lease.sender,
                since: Instant::now(),
            });
            state.count += 1;
        }
    }

    /// Ends the connections that have waited long enough or were ended by the upstream.
    fn sweep(&self) {
        let mut state = self.lock();
        state.by_principal.retain(|_, waiting| {
            waiting.retain(|waiting| {
                !waiting.sender.is_closed() && waiting.since.elapsed() < MAX_IDLE
            });
            !waiting.is_empty()
        });
        state.count = state.by_principal.values().map(Vec::len).sum();
    }

    fn close(&self) {
        let mut state = self.lock();
        state.is_closed = true;
        state.clear();
    }

    /// No code panics while it holds this lock.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn clear(&mut self) {
        self.by_principal.clear();
        self.count = 0;
    }
}

/// Keeps the gateway's pool small until it drains, and empty from then on.
pub(super) async fn tend(gateway: Arc<Gateway>) {
    loop {
        tokio::select! {
            () = gateway.drain.cancelled() => return gateway.pool.close(),
            () = tokio::time::sleep(MAX_IDLE / 2) => gateway.pool.sweep(),
        }
    }
}

/// A connection in use, to be given back when its answer was read to the end.
pub(super) struct Lease {
    pub(super) gateway: Arc<Gateway>,
    pub(super) sender: Sender,
    pub(super) principal: Box<str>,
    pub(super) generation: u64,
}

/// The upstream's answer, and the connection it comes over.
pub(super) struct Answer {
    body: Incoming,
    is_read: bool,
    lease: Option<Lease>,
}

impl Answer {
    pub(super) fn new(body: Incoming, lease: Option<Lease>) -> Self {
        let is_read = body.is_end_stream();
        Self {
            body,
            is_read,
            lease,
        }
    }
}

impl HyperBody for Answer {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let polled = Pin::new(&mut self.body).poll_frame(cx);
        match &polled {
            Poll::Ready(Some(Ok(_))) => self.is_read = self.body.is_end_stream(),
            Poll::Ready(None) => self.is_read = true,
            Poll::Ready(Some(Err(_))) => self.lease = None,
            Poll::Pending => {}
        }
        polled.map(|frame| frame.map(|read| read.map_err(Into::into)))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        if let Some(lease) = self.lease.take()
            && self.is_read
        {
            let gateway = Arc::clone(&lease.gateway);
            gateway.pool.give_back(lease);
        }
    }
}
