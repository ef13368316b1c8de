//! What the gateway counts of itself: connections, handshakes, times, and who is here.
//!
//! Invariant: nothing a client sends becomes a name here but a principal's, which the
//! configuration gave; and there are no more entries than connections.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::shared::Gateway;
use crate::ipc::{GatewayFigures, LATENCY_BOUNDS_US, Latency, Present, ToSupervisor};

#[derive(Debug, Default)]
pub(super) struct Figures {
    pub(super) accepted: Count,
    pub(super) tls_ok: Count,
    pub(super) tls_failed: Count,
    pub(super) tls_too_slow: Count,
    pub(super) unauthorized: Count,
    allowed: Times,
    refused: Times,
    here: Here,
}

#[derive(Debug, Default)]
pub(super) struct Count(AtomicU64);

impl Count {
    pub(super) fn add(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    fn now(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

#[derive(Debug, Default)]
struct Times {
    /// The last one is for what is over every bound.
    buckets: [Count; LATENCY_BOUNDS_US.len() + 1],
    sum_us: AtomicU64,
}

impl Times {
    fn add(&self, took: Duration) {
        let us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        let place = LATENCY_BOUNDS_US.partition_point(|bound| *bound < us);
        if let Some(bucket) = self.buckets.get(place) {
            bucket.add();
        }
        self.sum_us.fetch_add(us, Ordering::Relaxed);
    }

    fn now(&self) -> Latency {
        Latency {
            buckets: self.buckets.iter().map(Count::now).collect(),
            sum_us: self.sum_us.load(Ordering::Relaxed),
        }
    }
}

/// How somebody is connected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum By {
    Requests,
    WebSocket,
}

type Counts = HashMap<(String, IpAddr), (u64, u64)>;

#[derive(Debug, Default, Clone)]
struct Here(Arc<Mutex<Counts>>);

/// One principal on one connection, counted until this is dropped.
#[derive(Debug)]
#[must_use]
pub(super) struct Stay {
    here: Here,
    key: (String, IpAddr),
    by: By,
}

impl Here {
    fn change(&self, key: &(String, IpAddr), by: By, change: impl Fn(&mut u64)) {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let place = counts.entry(key.clone());
        let mut place = match place {
            Entry::Occupied(place) => place,
            Entry::Vacant(place) => place.insert_entry((0, 0)),
        };
        let (requests, websockets) = place.get_mut();
        change(match by {
            By::Requests => requests,
            By::WebSocket => websockets,
        });
        if *place.get() == (0, 0) {
            place.remove();
        }
    }

    fn present(&self) -> Vec<Present> {
        let counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut present: Vec<Present> = counts
            .iter()
            .map(|((principal, source), (connections, websockets))| Present {
                principal: principal.clone(),
                source: *source,
                connections: *connections,
                websockets: *websockets,
            })
            .collect();
        drop(counts);
        let busy = |entry: &Present| std::cmp::Reverse(entry.connections + entry.websockets);
        present.sort_by(|a, b| {
            let names = |entry: &Present| (entry.principal.clone(), entry.source);
            busy(a).cmp(&busy(b)).then_with(|| names(a).cmp(&names(b)))
        });
        present.truncate(MOST_PRESENT);
        present
    }
}

impl Drop for Stay {
    fn drop(&mut self) {
        self.here
            .change(&self.key, self.by, |count| *count = count.saturating_sub(1));
    }
}

impl Figures {
    /// Counts a principal as here until what is returned is dropped.
    pub(super) fn arrive(&self, principal: &str, source: IpAddr, by: By) -> Stay {
        let key = (principal.to_owned(), source);
        self.here.change(&key, by, |count| *count += 1);
        Stay {
            here: self.here.clone(),
            key,
            by,
        }
    }

    /// Counts an answer whose head is ready.
    pub(super) fn answered(&self, was_allowed: bool, since: Instant) {
        let times = if was_allowed {
            &self.allowed
        } else {
            &self.refused
        };
        times.add(since.elapsed());
    }
}

/// As it is now, for the supervisor.
pub(super) fn message(gateway: &Gateway) -> ToSupervisor {
    let figures = &gateway.figures;
    ToSupervisor::Figures {
        figures: Box::new(GatewayFigures {
            connections: gateway.connections.total() as u64,
            accepted: figures.accepted.now(),
            tls_ok: figures.tls_ok.now(),
            tls_failed: figures.tls_failed.now(),
            tls_too_slow: figures.tls_too_slow.now(),
            allowed: figures.allowed.now(),
            refused: figures.refused.now(),
            unauthorized: figures.unauthorized.now(),
        }),
        present: figures.here.present(),
    }
}

/// Tells the supervisor once a second, until the gateway drains.
pub(super) async fn tell(gateway: Arc<Gateway>) {
    let mut every = tokio::time::interval(TELL_EVERY);
    every.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = gateway.drain.cancelled() => return,
            _ = every.tick() => {
                if gateway.link.send(message(&gateway)).await.is_err() {
                    return;
                }
            }
        }
    }
}

const TELL_EVERY: Duration = Duration::from_secs(1);
/// More names than a screen shows; the totals count everybody.
const MOST_PRESENT: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_falls_into_the_first_bucket_that_holds_it() {
        let rows = [
            (0, 0),
            (250, 0),
            (251, 1),
            (60_000_000, 11),
            (60_000_001, 12),
        ];
        for (us, place) in rows {
            let times = Times::default();
            times.add(Duration::from_micros(us));
            let now = times.now();
            assert_eq!(
                now.buckets.iter().position(|count| *count == 1),
                Some(place),
                "{us}"
            );
            assert_eq!(now.sum_us, us);
        }
    }

    #[test]
    fn who_leaves_is_no_longer_here() {
        let figures = Figures::default();
        let source = "192.0.2.1".parse().unwrap();
        let phone = figures.arrive("phone", source, By::Requests);
        let socket = figures.arrive("phone", source, By::WebSocket);
        let others: Vec<Stay> = (0..2)
            .map(|_| figures.arrive("laptop", source, By::WebSocket))
            .collect();
        let present = figures.here.present();
        let shown: Vec<_> = present
            .iter()
            .map(|p| (p.principal.as_str(), p.connections, p.websockets))
            .collect();
        assert_eq!(shown, [("laptop", 0, 2), ("phone", 1, 1)]);
        drop((phone, others));
        assert_eq!(figures.here.present().len(), 1);
        drop(socket);
        assert_eq!(figures.here.present(), []);
    }

    #[test]
    fn a_list_of_names_is_bounded() {
        let figures = Figures::default();
        let stays: Vec<Stay> = (0..200u8)
            .map(|n| figures.arrive("phone", IpAddr::from([192, 0, 2, n]), By::Requests))
            .collect();
        assert_eq!(figures.here.present().len(), MOST_PRESENT);
        drop(stays);
    }
}
