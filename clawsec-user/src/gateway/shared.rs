//! What every task of the gateway process shares.

use std::cell::RefCell;
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::net::IpAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use arc_swap::ArcSwap;
use tokio::sync::{Semaphore, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::body::Budget;
use super::figures::Figures;
use super::limits::{Limits, SourceKey};
use super::link::Link;
use super::pool::Pool;
use super::repeats::Repeats;
use super::snapshot::Snapshot;
use super::timed::Timed;
use super::ui::Seals;
use crate::policy::{Denial, UnixSeconds};

#[derive(Debug)]
pub(super) struct Gateway {
    pub(super) snapshot: ArcSwap<Snapshot>,
    pub(super) timed: Timed,
    /// The generation in force; a change wakes every live connection.
    pub(super) generation: watch::Sender<u64>,
    pub(super) link: Link,
    pub(super) repeats: Repeats,
    pub(super) limits: Limits,
    /// The same numbers for webhooks, counted apart.
    pub(super) webhooks: Limits,
    /// Of the sign-in page's cookies.
    pub(super) seals: Seals,
    pub(super) budget: Budget,
    pub(super) figures: Figures,
    pub(super) connections: Connections,
    /// Requests that may be upstream at once.
    pub(super) forwards: Arc<Semaphore>,
    pub(super) pool: Pool,
    /// Cancelled when the gateway drains.
    pub(super) drain: CancellationToken,
    pub(super) tasks: TaskTracker,
    pub(super) deadlines: Deadlines,
}

impl Gateway {
    pub(super) fn new(
        snapshot: Snapshot,
        timed: Timed,
        link: Link,
        deadlines: Deadlines,
    ) -> Arc<Self> {
        Arc::new(Self {
            generation: watch::Sender::new(snapshot.generation()),
            pool: Pool::new(snapshot.generation()),
            limits: Limits::new(snapshot.policy().limit),
            webhooks: Limits::new(snapshot.policy().limit),
            snapshot: ArcSwap::from_pointee(snapshot),
            timed,
            link,
            repeats: Repeats::default(),
            seals: Seals::new(),
            budget: Budget::new(),
            figures: Figures::default(),
            connections: Connections::default(),
            forwards: Arc::new(Semaphore::new(MAX_FORWARDS)),
            drain: CancellationToken::new(),
            tasks: TaskTracker::new(),
            deadlines,
        })
    }

    /// Whether `source` may be connected now: the policy's prefixes, and what is banned or
    /// admitted for a time. Asked at accept, and while a connection lives.
    pub(super) fn admit(&self, source: IpAddr) -> Result<(), Denial> {
        let snapshot = self.snapshot.load();
        self.timed.admit(&snapshot.policy().addresses, source)
    }

    /// Puts a new policy in force for every decision from now on.
    pub(super) fn install(&self, snapshot: Snapshot) {
        let generation = snapshot.generation();
        self.limits.reconfigure(snapshot.policy().limit);
        self.webhooks.reconfigure(snapshot.policy().limit);
        self.snapshot.store(Arc::new(snapshot));
        self.pool.renew(generation);
        self.generation.send_replace(generation);
    }
}

/// How long the gateway waits for others.
#[derive(Debug, Clone, Copy)]
pub(super) struct Deadlines {
    /// From accept to the end of the TLS handshake.
    pub(super) tls: Duration,
    /// From the last answer (or accept) to the end of the next request's head.
    pub(super) head: Duration,
    /// For a body that policy reads whole.
    pub(super) body: Duration,
    pub(super) upstream_connect: Duration,
    /// Until the upstream's response head, on routes that answer from memory.
    pub(super) upstream_head: Duration,
    /// The same where a model or a tool runs first.
    pub(super) upstream_work: Duration,
    /// From the WebSocket upgrade to a complete `connect`, on either side.
    pub(super) handshake: Duration,
    /// One WebSocket frame to be taken by a peer.
    pub(super) write: Duration,
    /// A piece of an answer to be taken by the client, whatever the protocol.
    pub(super) stall: Duration,
    /// An HTTP/2 connection on which nothing is asked for.
    pub(super) idle_h2: Duration,
    /// Between HTTP/2 pings, and for the answer to one.
    pub(super) ping: Duration,
    /// Between two pieces of a body that is streamed.
    pub(super) body_idle: Duration,
    /// For the whole of a body that is streamed.
    pub(super) body_total: Duration,
    /// Silence of a WebSocket client after which it is pinged, then ended after as long again.
    pub(super) idle: Duration,
    /// Before clawsec's own connection is tried again: the first time, and at most.
    pub(super) retry: Duration,
    pub(super) retry_most: Duration,
}

impl Default for Deadlines {
    fn default() -> Self {
        Self {
            tls: Duration::from_secs(10),
            head: Duration::from_secs(15),
            body: Duration::from_secs(30),
            upstream_connect: Duration::from_secs(5),
            upstream_head: Duration::from_secs(30),
            upstream_work: Duration::from_mins(15),
            handshake: Duration::from_secs(10),
            write: Duration::from_secs(30),
            stall: Duration::from_secs(30),
            idle_h2: Duration::from_mins(1),
            ping: Duration::from_secs(20),
            body_idle: Duration::from_secs(30),
            body_total: Duration::from_mins(15),
            idle: Duration::from_mins(1),
            retry: Duration::from_secs(1),
            retry_most: Duration::from_mins(1),
        }
    }
}

/// Spawns what HTTP/2 streams need among the gateway's own tasks.
#[derive(Debug, Clone)]
pub(super) struct Tracked(pub(super) TaskTracker);

impl<F> hyper::rt::Executor<F> for Tracked
where
    F: Future<Output: Send + 'static> + Send + 'static,
{
    fn execute(&self, future: F) {
        self.0.spawn(future);
    }
}

/// Live connections, counted in all and by source.
#[derive(Debug, Default, Clone)]
pub(super) struct Connections(Arc<Counts>);

#[derive(Debug, Default)]
struct Counts {
    total: AtomicUsize,
    by_source: Mutex<HashMap<SourceKey, usize>>,
}

/// One HTTP/2 connection carries many requests, each of which takes a descriptor upstream.
const MAX_FORWARDS: usize = 4096;
const MAX_CONNECTIONS_PER_SOURCE: usize = 256;

impl Connections {
    /// Takes a place for a connection of `source`, if there is one among `most`.
    pub(super) fn take(&self, source: IpAddr, most: usize) -> Option<Slot> {
        self.take_within(source, MAX_CONNECTIONS_PER_SOURCE, most)
    }

    /// The same for a proxy, which connects for many.
    pub(super) fn take_for_proxy(&self, proxy: IpAddr, most: usize) -> Option<Slot> {
        self.take_within(proxy, most, most)
    }

    fn take_within(&self, source: IpAddr, most_of_one: usize, most: usize) -> Option<Slot> {
        let key = SourceKey::new(source);
        let total = self.0.total.fetch_add(1, Ordering::Relaxed);
        let slot = Slot {
            counts: Arc::clone(&self.0),
            key,
        };
        let mut by_source = lock(&self.0.by_source);
        let count = by_source.entry(key).or_insert(0);
        *count += 1;
        let fits = total < most && *count <= most_of_one;
        drop(by_source);
        fits.then_some(slot)
    }

    pub(super) fn total(&self) -> usize {
        self.0.total.load(Ordering::Relaxed)
    }
}

/// One connection's place; dropping it gives the place back.
#[derive(Debug)]
#[must_use]
pub(super) struct Slot {
    counts: Arc<Counts>,
    key: SourceKey,
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.counts.total.fetch_sub(1, Ordering::Relaxed);
        if let Entry::Occupied(mut entry) = lock(&self.counts.by_source).entry(self.key) {
            *entry.get_mut() -= 1;
            if *entry.get() == 0 {
                entry.remove();
            }
        }
    }
}

/// Wall-clock time, for validity windows only.
pub(super) fn unix_now() -> UnixSeconds {
    UnixSeconds::try_from(unix_now_ms() / 1000).unwrap_or(UnixSeconds::MAX)
}

/// Wall-clock time in milliseconds, as the gateway's protocol writes it.
pub(super) fn unix_now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    u64::try_from(since.unwrap_or_default().as_millis()).unwrap_or(u64::MAX)
}

/// 128 random bits in the form of a UUID version 4; `None` when the system has no randomness.
pub(super) fn random_id() -> Option<String> {
    let mut bytes = random::<16>()?;
    bytes[6] = (bytes[6] & 0x0f) | 0x40;
    bytes[8] = (bytes[8] & 0x3f) | 0x80;
    let mut id = hex(&bytes);
    for dash in [8, 13, 18, 23] {
        id.insert(dash, '-');
    }
    Some(id)
}

/// Random bytes, each given out once. A call of the generator costs as much as a kilobyte of it,
/// so each thread draws that much ahead; this process never forks.
pub(super) fn random<const N: usize>() -> Option<[u8; N]> {
    const { assert!(N <= AHEAD_BYTES) };
    AHEAD.with_borrow_mut(|ahead| {
        if ahead.len() < N {
            ahead.resize(AHEAD_BYTES, 0);
            if aws_lc_rs::rand::fill(ahead).is_err() {
                ahead.clear();
                return None;
            }
        }
        let bytes = *ahead.last_chunk()?;
        ahead.truncate(ahead.len() - N);
        Some(bytes)
    })
}

const AHEAD_BYTES: usize = 1024;

thread_local! {
    static AHEAD: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// Lower-case hexadecimal.
pub(super) fn hex(bytes: &[u8]) -> String {
    let digit = |nibble: u8| char::from_digit(nibble.into(), 16).unwrap_or_default();
    // Room for the dashes of an id.
    let mut text = String::with_capacity(bytes.len() * 2 + 4);
    for byte in bytes {
        text.push(digit(byte >> 4));
        text.push(digit(byte & 15));
    }
    text
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn no_two_ids_are_the_same() {
        let ids: HashSet<String> = (0..1000).map(|_| random_id().unwrap()).collect();
        assert_eq!(ids.len(), 1000);
        let is_well_formed = |id: &String| {
            let lengths: Vec<usize> = id.split('-').map(str::len).collect();
            lengths == [8, 4, 4, 4, 12] && id.as_bytes()[14] == b'4'
        };
        assert!(ids.iter().all(is_well_formed), "{ids:?}");
    }

    #[test]
    fn a_source_has_a_bounded_number_of_places() {
        let connections = Connections::default();
        let take = |source: &str| connections.take(source.parse().unwrap(), 300);
        let slots: Vec<Slot> = std::iter::from_fn(|| take("192.0.2.1")).collect();
        assert_eq!(slots.len(), MAX_CONNECTIONS_PER_SOURCE);
        let others: Vec<Slot> = std::iter::from_fn(|| take("192.0.2.2")).collect();
        assert_eq!(slots.len() + others.len(), 300, "all sources together");
        drop((slots, others));
        assert_eq!(connections.total(), 0, "places are given back");
        assert!(take("192.0.2.1").is_some());
    }
}
