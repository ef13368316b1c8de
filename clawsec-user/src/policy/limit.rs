//! Request limits: GCRA, the same algorithm as the kernel half's connection limit.
//!
//! A cell's whole state is its theoretical arrival time in nanoseconds of a monotonic clock.
//! In any window at most `2 * requests - 1` are admitted, `requests` sustained.

use std::collections::HashMap;
use std::hash::Hash;

/// `security.rateLimit`: `requests` in each `window_ms`, a burst of the same size.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RequestLimit {
    pub enabled: bool,
    pub requests: u32,
    pub window_ms: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub enum Admission {
    Admitted,
    /// Over the limit; the next one is admitted after this many milliseconds, rounded up.
    Refused {
        retry_after_ms: u64,
    },
}

/// The parameters of one limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Gcra {
    interval_ns: u64,
    tolerance_ns: u64,
}

impl Gcra {
    /// `per_window` of 0 admits nothing after the burst; callers reject it earlier.
    pub fn new(burst: u32, per_window: u32, window_ms: u64) -> Self {
        let interval_ns = window_ms.saturating_mul(1_000_000) / u64::from(per_window.max(1));
        let tolerance_ns = interval_ns.saturating_mul(u64::from(burst.max(1)) - 1);
        Self {
            interval_ns,
            tolerance_ns,
        }
    }

    /// Judges one arrival at `now_ns` against the cell, and moves the cell if it is admitted.
    pub fn admit(self, cell: &mut u64, now_ns: u64) -> Admission {
        let base = (*cell).max(now_ns);
        let ahead = base - now_ns;
        if ahead > self.tolerance_ns {
            let wait_ns = ahead - self.tolerance_ns;
            return Admission::Refused {
                retry_after_ms: wait_ns.div_ceil(1_000_000),
            };
        }
        *cell = base.saturating_add(self.interval_ns);
        Admission::Admitted
    }
}

/// Cells for many keys in bounded memory.
#[derive(Debug)]
pub struct Limiter<K> {
    limit: RequestLimit,
    gcra: Gcra,
    cells: HashMap<K, u64>,
    capacity: usize,
    swept_ns: u64,
}

impl<K: Hash + Eq> Limiter<K> {
    pub fn new(limit: RequestLimit, capacity: usize) -> Self {
        Self {
            limit,
            gcra: Gcra::new(limit.requests, limit.requests, limit.window_ms),
            cells: HashMap::new(),
            capacity,
            swept_ns: 0,
        }
    }

    /// Takes the parameters of a new policy; the keys keep their history.
    pub fn reconfigure(&mut self, limit: RequestLimit) {
        self.limit = limit;
        self.gcra = Gcra::new(limit.requests, limit.requests, limit.window_ms);
    }

    /// Judges one arrival of `key` at `now_ns`, a monotonic clock's nanoseconds.
    ///
    /// When all cells are taken by keys that still carry history, an unknown key is refused for
    /// one interval: a full table must not become a way around the limit.
    pub fn admit(&mut self, key: K, now_ns: u64) -> Admission {
        if !self.limit.enabled {
            return Admission::Admitted;
        }
        if self.cells.len() >= self.capacity && !self.cells.contains_key(&key) {
            self.sweep(now_ns);
            if self.cells.len() >= self.capacity {
                let retry_after_ms = (self.gcra.interval_ns / 1_000_000).max(1);
                return Admission::Refused { retry_after_ms };
            }
        }
        self.gcra.admit(self.cells.entry(key).or_insert(0), now_ns)
    }

    pub fn len(&self) -> usize {
        self.cells.len()
    }

    pub fn is_empty(&self) -> bool {
        self.cells.is_empty()
    }

    /// What the table of cells takes, about.
    pub fn bytes(&self) -> usize {
        self.cells.capacity() * (size_of::<(K, u64)>() + 1)
    }

    /// Forgets keys whose cell has run out: they are as good as new. At most once an interval,
    /// so that a full table does not cost a scan for every refused key.
    fn sweep(&mut self, now_ns: u64) {
        if now_ns.saturating_sub(self.swept_ns) < self.gcra.interval_ns && self.swept_ns != 0 {
            return;
        }
        self.swept_ns = now_ns;
        self.cells.retain(|_, cell| *cell > now_ns);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: RequestLimit = RequestLimit {
        enabled: true,
        requests: 60,
        window_ms: 60_000,
    };
    const SECOND: u64 = 1_000_000_000;

    fn admitted(limiter: &mut Limiter<u8>, key: u8, now_ns: u64, tries: u32) -> usize {
        (0..tries)
            .filter(|_| limiter.admit(key, now_ns) == Admission::Admitted)
            .count()
    }

    #[test]
    fn admits_exactly_the_burst_under_a_frozen_clock() {
        let mut limiter = Limiter::new(LIMIT, 8);
        assert_eq!(admitted(&mut limiter, 1, 5 * SECOND, 1000), 60);
        assert_eq!(
            admitted(&mut limiter, 2, 5 * SECOND, 1000),
            60,
            "keys are apart"
        );
    }

    #[test]
    fn admits_one_more_after_one_interval() {
        let mut limiter = Limiter::new(LIMIT, 8);
        assert_eq!(admitted(&mut limiter, 1, 0, 100), 60);
        assert_eq!(
            limiter.admit(1, SECOND - 1),
            Admission::Refused { retry_after_ms: 1 }
        );
        assert_eq!(admitted(&mut limiter, 1, SECOND, 100), 1);
    }

    #[test]
    fn a_worst_window_admits_less_than_twice_the_limit() {
        let mut limiter = Limiter::new(LIMIT, 8);
        let total: usize = (0..60_000)
            .map(|ms| admitted(&mut limiter, 1, ms * 1_000_000, 2))
            .sum();
        assert_eq!(total, 119);
    }

    #[test]
    fn a_full_table_refuses_unknown_keys_and_recovers() {
        let mut limiter = Limiter::new(LIMIT, 2);
        assert_eq!(admitted(&mut limiter, 1, 1, 1), 1);
        assert_eq!(admitted(&mut limiter, 2, 1, 1), 1);
        assert_eq!(admitted(&mut limiter, 3, 1, 1), 0);
        assert_eq!(admitted(&mut limiter, 3, 2 * SECOND, 1), 1);
    }

    #[test]
    fn a_clock_that_steps_back_neither_panics_nor_admits_more() {
        let mut limiter = Limiter::new(LIMIT, 2);
        assert_eq!(admitted(&mut limiter, 1, 100 * SECOND, 60), 60);
        assert_eq!(admitted(&mut limiter, 1, 50 * SECOND, 60), 0);
    }
}
