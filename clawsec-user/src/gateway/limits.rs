//! How often a source may ask, and when one that goes on after denials is banned at the NIC.
//!
//! The same GCRA as the packet plane's, keyed by IPv4 /32 and IPv6 /64: a /64 is what one
//! subscriber is given, so a finer key would be free to change.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use super::received::Received;
use hyper::Request;

use super::record::Exchange;
use super::refusal::Refusal;
use super::route::{Route, Routed};
use crate::config::BanConfig;
use crate::policy::{Admission, Limiter, RequestLimit};

/// Sources that are tracked at once; a full table refuses unknown ones.
const TRACKED_SOURCES: usize = 65_536;

/// A request that is within the limit of its source.
#[derive(Debug)]
pub(super) struct Counted {
    pub(super) request: Request<Received>,
    pub(super) route: Route,
}

/// Counts a request against its source; pages and assets are not counted.
pub(super) fn count(exchange: &Exchange, routed: Routed) -> Result<Counted, Refusal> {
    let Routed { request, route } = routed;
    if route == Route::Webhook {
        spend_webhook(exchange)?;
    } else if route.is_counted() {
        spend(exchange)?;
    }
    Ok(Counted { request, route })
}

/// Counts one request whatever it is for.
pub(super) fn spend(exchange: &Exchange) -> Result<(), Refusal> {
    match exchange.gateway().limits.admit(exchange.peer().ip) {
        Admission::Admitted => Ok(()),
        Admission::Refused { retry_after_ms } => Err(Refusal::rate_limited(retry_after_ms)),
    }
}

/// Counts a webhook, apart from everything else its source asks for.
fn spend_webhook(exchange: &Exchange) -> Result<(), Refusal> {
    match exchange.gateway().webhooks.admit(exchange.peer().ip) {
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
    requests: Mutex<Limiter<SourceKey>>,
    denials: Mutex<HashMap<SourceKey, Denials>>,
}

/// Denials of one source in the window that began at `since_ms`.
#[derive(Debug)]
struct Denials {
    since_ms: u64,
    count: u32,
}

impl Limits {
    pub(super) fn new(limit: RequestLimit) -> Self {
        Self {
            started: Instant::now(),
            requests: Mutex::new(Limiter::new(limit, TRACKED_SOURCES)),
            denials: Mutex::default(),
        }
    }

    /// Takes the numbers of a new policy; sources keep their history.
    pub(super) fn reconfigure(&self, limit: RequestLimit) {
        lock(&self.requests).reconfigure(limit);
    }

    pub(super) fn admit(&self, source: IpAddr) -> Admission {
        let now_ns = u64::try_from(self.started.elapsed().as_nanos()).unwrap_or(u64::MAX);
        lock(&self.requests).admit(SourceKey::new(source), now_ns)
    }

    /// Counts a denial; true when it is the one that makes a ban, once per window.
    pub(super) fn is_last_straw(&self, source: IpAddr, ban: BanConfig, window_ms: u64) -> bool {
        let now_ms = u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.is_last_straw_at(source, ban, window_ms, now_ms)
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
        let mut denials = lock(&self.denials);
        let key = SourceKey::new(source);
        if denials.len() >= TRACKED_SOURCES && !denials.contains_key(&key) {
            denials.retain(|_, entry| now_ms.saturating_sub(entry.since_ms) < window_ms);
            if denials.len() >= TRACKED_SOURCES {
                return false;
            }
        }
        let entry = denials.entry(key).or_insert(Denials {
            since_ms: now_ms,
            count: 0,
        });
        if now_ms.saturating_sub(entry.since_ms) >= window_ms {
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
}
