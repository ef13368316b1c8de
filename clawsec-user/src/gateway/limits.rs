//! How often a source may ask, and when one that goes on after denials is banned at the NIC.
//!
//! The same GCRA as the packet plane's, keyed by IPv4 /32 and IPv6 /64: a /64 is what one
//! subscriber is given, so a finer key would be free to change. Behind one address stand several
//! people: whoever has shown a key from there is counted apart from those who try some.

use std::collections::HashMap;
use std::hash::Hash;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use super::received::Received;
use hyper::Request;

use super::record::Exchange;
use super::refusal::Refusal;
use super::route::{Route, Routed};
use crate::config::BanConfig;
use crate::policy::{Admission, Denial, KeyDigest, Limiter, Principal, RequestLimit};

/// Sources that are tracked at once; a full table refuses unknown ones.
const TRACKED_SOURCES: usize = 65_536;
/// How long a source is known by a key that was last shown there.
const KNOWN_MS: u64 = 60 * 60 * 1000;

/// A request that is within the limit of its source.
#[derive(Debug)]
pub(super) struct Counted {
    pub(super) request: Request<Received>,
    pub(super) route: Route,
    /// Whether it was counted as a stranger's.
    is_spent: bool,
}

/// Counts a stranger's request against its source; pages and assets are not counted.
pub(super) fn count(exchange: &Exchange, routed: Routed) -> Result<Counted, Refusal> {
    let Routed { request, route } = routed;
    let is_spent = if route == Route::Webhook {
        spent(exchange.gateway().webhooks.admit(exchange.peer().ip))?;
        true
    } else if route.is_counted() && !is_known(exchange, &request) {
        spend(exchange)?;
        true
    } else {
        false
    };
    Ok(Counted {
        request,
        route,
        is_spent,
    })
}

impl Counted {
    /// Counts the request once it is known whose it is; guessing is counted on every route.
    pub(super) fn settle(
        &self,
        exchange: &Exchange,
        found: Result<Principal, Denial>,
    ) -> Result<Principal, Refusal> {
        match found {
            Ok(principal) => {
                if self.route.is_counted() {
                    spend_for(exchange, &principal)?;
                }
                Ok(principal)
            }
            Err(denial) => {
                if !self.is_spent {
                    spend(exchange)?;
                }
                Err(denial.into())
            }
        }
    }
}

/// Whether this key was right when it was last shown from there.
fn is_known(exchange: &Exchange, request: &Request<Received>) -> bool {
    let shown = exchange.connection.presented(request.headers());
    let limits = &exchange.gateway().limits;
    shown
        .ok()
        .flatten()
        .is_some_and(|key| limits.is_known(exchange.peer().ip, key.digest()))
}

/// Counts a stranger's request whatever it is for.
pub(super) fn spend(exchange: &Exchange) -> Result<(), Refusal> {
    spent(exchange.gateway().limits.admit(exchange.peer().ip))
}

/// Counts a principal's request, against its source and against itself wherever it is.
pub(super) fn spend_for(exchange: &Exchange, principal: &Principal) -> Result<(), Refusal> {
    let limits = &exchange.gateway().limits;
    spent(limits.admit_known(exchange.peer().ip, principal.digest()))
}

fn spent(admission: Admission) -> Result<(), Refusal> {
    match admission {
        Admission::Admitted => Ok(()),
        Admission::Refused { retry_after_ms } => Err(Refusal::rate_limited(retry_after_ms)),
    }
}

/// What a limit is kept by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum SourceKey {
    V4(u32),
    /// The upper 64 bits.
    V6(u64),
}

impl SourceKey {
    pub(super) fn new(source: IpAddr) -> Self {
        match source.to_canonical() {
            IpAddr::V4(address) => Self::V4(address.to_bits()),
            IpAddr::V6(address) => Self::V6((address.to_bits() >> 64) as u64),
        }
    }
}

#[derive(Debug)]
pub(super) struct Limits {
    started: Instant,
    strangers: Mutex<Limiter<SourceKey>>,
    known: Mutex<Known>,
    denials: Mutex<Table<SourceKey, Denials>>,
}

/// Those who have shown a key.
#[derive(Debug)]
struct Known {
    sources: Limiter<SourceKey>,
    principals: Limiter<KeyDigest>,
    /// When each key was last shown from each source.
    shown_ms: Table<(SourceKey, KeyDigest), u64>,
}

impl Known {
    /// Where there is no room the source goes on being counted as a stranger's.
    fn remember(&mut self, source: SourceKey, key: KeyDigest, now_ms: u64) {
        let is_known = |shown_ms: &u64| now_ms.saturating_sub(*shown_ms) < KNOWN_MS;
        let entry = self.shown_ms.entry((source, key), now_ms, is_known);
        if let Some(entry) = entry {
            *entry = now_ms;
        }
    }
}

/// What is kept of each of many, and forgotten when it is out of date.
#[derive(Debug)]
struct Table<K, V> {
    entries: HashMap<K, V>,
    swept_ms: u64,
}

impl<K, V> Default for Table<K, V> {
    fn default() -> Self {
        Self {
            entries: HashMap::new(),
            swept_ms: 0,
        }
    }
}

impl<K: Eq + Hash, V: Default> Table<K, V> {
    /// The entry of `key`, or a new one if there is room.
    ///
    /// A full table is swept once a second at most, so that it does not cost a scan for everyone
    /// who finds no place in it.
    fn entry(&mut self, key: K, now_ms: u64, keeps: impl Fn(&V) -> bool) -> Option<&mut V> {
        if self.entries.len() >= TRACKED_SOURCES && !self.entries.contains_key(&key) {
            if now_ms.saturating_sub(self.swept_ms) >= SWEEP_MS {
                self.swept_ms = now_ms;
                self.entries.retain(|_, value| keeps(value));
            }
            if self.entries.len() >= TRACKED_SOURCES {
                return None;
            }
        }
        Some(self.entries.entry(key).or_default())
    }
}

const SWEEP_MS: u64 = 1000;

/// Denials of one source in the window that began at `since_ms`; none yet begin one.
#[derive(Debug, Default)]
struct Denials {
    since_ms: u64,
    count: u32,
}

impl Limits {
    pub(super) fn new(limit: RequestLimit) -> Self {
        Self {
            started: Instant::now(),
            strangers: Mutex::new(Limiter::new(limit, TRACKED_SOURCES)),
            known: Mutex::new(Known {
                sources: Limiter::new(limit, TRACKED_SOURCES),
                principals: Limiter::new(limit, TRACKED_SOURCES),
                shown_ms: Table::default(),
            }),
            denials: Mutex::default(),
        }
    }

    /// Takes the numbers of a new policy; sources keep their history.
    pub(super) fn reconfigure(&self, limit: RequestLimit) {
        lock(&self.strangers).reconfigure(limit);
        let mut known = lock(&self.known);
        known.sources.reconfigure(limit);
        known.principals.reconfigure(limit);
    }

    /// Judges a request of somebody who has shown no key yet.
    pub(super) fn admit(&self, source: IpAddr) -> Admission {
        lock(&self.strangers).admit(SourceKey::new(source), self.now_ns())
    }

    /// Judges a request with a right key, by what is left to its source and to the key.
    fn admit_known(&self, source: IpAddr, key: KeyDigest) -> Admission {
        let (source, now_ns) = (SourceKey::new(source), self.now_ns());
        let mut known = lock(&self.known);
        known.remember(source, key, now_ns / 1_000_000);
        match known.sources.admit(source, now_ns) {
            Admission::Admitted => known.principals.admit(key, now_ns),
            refused @ Admission::Refused { .. } => refused,
        }
    }

    fn is_known(&self, source: IpAddr, key: KeyDigest) -> bool {
        let now_ms = self.now_ns() / 1_000_000;
        let known = lock(&self.known);
        let shown_ms = known.shown_ms.entries.get(&(SourceKey::new(source), key));
        shown_ms.is_some_and(|shown_ms| now_ms.saturating_sub(*shown_ms) < KNOWN_MS)
    }

    fn now_ns(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    /// Counts a denial; true when it is the one that makes a ban, once per window.
    pub(super) fn is_last_straw(&self, source: IpAddr, ban: BanConfig, window_ms: u64) -> bool {
        self.is_last_straw_at(source, ban, window_ms, self.now_ns() / 1_000_000)
    }

    fn is_last_straw_at(
        &self,
        source: IpAddr,
        ban: BanConfig,
        window_ms: u64,
        now_ms: u64,
    ) -> bool {
        // A packet from loopback crosses no NIC: a ban of it would be a record of nothing done.
        if source.is_loopback() {
            return false;
        }
        let is_over = |entry: &Denials| now_ms.saturating_sub(entry.since_ms) >= window_ms;
        let mut denials = lock(&self.denials);
        let key = SourceKey::new(source);
        let Some(entry) = denials.entry(key, now_ms, |entry| !is_over(entry)) else {
            return false;
        };
        if entry.count == 0 || is_over(entry) {
            *entry = Denials {
                since_ms: now_ms,
                count: 0,
            };
        }
        entry.count = entry.count.saturating_add(1);
        entry.count == ban.after.saturating_add(1)
    }
}

/// No code panics while it holds one of these locks; a poisoned one is still whole.
fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_subscriber_is_one_source() {
        let key = |text: &str| SourceKey::new(text.parse().unwrap());
        assert_eq!(key("2001:db8::1"), key("2001:db8::ffff:2"));
        assert_ne!(key("2001:db8::1"), key("2001:db8:0:1::1"));
        assert_eq!(key("::ffff:192.0.2.1"), key("192.0.2.1"));
        assert_ne!(key("192.0.2.1"), key("192.0.2.2"));
    }

    #[test]
    fn one_ban_per_window_after_more_than_the_allowed_denials() {
        let limits = Limits::new(RequestLimit {
            enabled: true,
            requests: 60,
            window_ms: 1000,
        });
        let ban = BanConfig {
            after: 3,
            duration: Duration::from_mins(1),
        };
        let source = "192.0.2.7".parse().unwrap();
        let straws = |range: std::ops::Range<u64>| {
            range
                .filter(|&ms| limits.is_last_straw_at(source, ban, 1000, ms))
                .collect::<Vec<_>>()
        };
        assert_eq!(straws(0..100), [3]);
        assert_eq!(straws(1000..1010), [1003], "a new window starts anew");
        let loopback = "127.0.0.1".parse().unwrap();
        assert!((0..100).all(|ms| !limits.is_last_straw_at(loopback, ban, 1000, ms)));
    }

    #[test]
    fn a_million_networks_take_no_more_memory_than_the_tables_hold() {
        let limits = Limits::new(RequestLimit {
            enabled: true,
            requests: 60,
            window_ms: 60_000,
        });
        let ban = BanConfig {
            after: 3,
            duration: Duration::from_mins(1),
        };
        let network = |number: u32| {
            let bits = (0x2001_0db8 << 96) | (u128::from(number) << 64) | u128::from(number);
            IpAddr::V6(bits.into())
        };
        let mut refused = 0;
        for number in 0..1_000_000 {
            let source = network(number);
            // The clock stands still, so that nothing runs out meanwhile.
            let admission = lock(&limits.strangers).admit(SourceKey::new(source), 1);
            refused += usize::from(admission != Admission::Admitted);
            limits.is_last_straw_at(source, ban, 60_000, 1);
            let mut known = lock(&limits.known);
            known.remember(SourceKey::new(source), KeyDigest([7; 32]), 1);
        }
        assert_eq!(refused, 1_000_000 - TRACKED_SOURCES);
        let known = lock(&limits.known);
        let denials = lock(&limits.denials);
        let strangers = lock(&limits.strangers);
        let held = [
            strangers.len(),
            denials.entries.len(),
            known.shown_ms.entries.len(),
        ];
        assert_eq!(held, [TRACKED_SOURCES; 3]);
        let bytes = strangers.bytes()
            + table_bytes::<SourceKey, Denials>(denials.entries.capacity())
            + table_bytes::<(SourceKey, KeyDigest), u64>(known.shown_ms.entries.capacity());
        assert!(bytes < 20 * 1024 * 1024, "{bytes} bytes");
        drop((known, denials, strangers));
        // Once they have run out, others have their place.
        let late = network(2_000_000);
        let admission = lock(&limits.strangers).admit(SourceKey::new(late), 2_000_000_000);
        assert_eq!(admission, Admission::Admitted);
        let straws = (60_002..60_010)
            .filter(|&ms| limits.is_last_straw_at(late, ban, 60_000, ms))
            .count();
        assert_eq!(straws, 1);
    }

    fn table_bytes<K, V>(capacity: usize) -> usize {
        capacity * (size_of::<(K, V)>() + 1)
    }
}
