//! How long to wait before the next attempt.

use std::time::Duration;

/// Doubles with each wait, up to a limit; up to a half of it is left out at random, so that those
/// who lost the same gateway do not come back at once.
#[derive(Debug)]
pub(super) struct Backoff {
    first: Duration,
    most: Duration,
    next: Duration,
}

impl Backoff {
    pub(super) fn new(first: Duration, most: Duration) -> Self {
        Self {
            first,
            most,
            next: first,
        }
    }

    /// After a success the next wait is a short one again.
    pub(super) fn reset(&mut self) {
        self.next = self.first;
    }

    /// The next wait.
    pub(super) fn take(&mut self) -> Duration {
        let mut random = [0; 2];
        // Without randomness it is the whole wait.
        let random = match aws_lc_rs::rand::fill(&mut random) {
            Ok(()) => u32::from(u16::from_le_bytes(random)),
            Err(_unspecified) => 0,
        };
        let whole = self.next;
        self.next = (whole * 2).min(self.most);
        whole.saturating_sub(whole / 2 * random / u32::from(u16::MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_to_a_limit_and_are_never_all_alike() {
        let mut backoff = Backoff::new(Duration::from_secs(1), Duration::from_mins(1));
        for whole in [1, 2, 4, 8, 16, 32, 60, 60] {
            let wait = backoff.take();
            let whole = Duration::from_secs(whole);
            assert!(wait >= whole / 2 && wait <= whole, "{wait:?} of {whole:?}");
        }
        let waits: std::collections::BTreeSet<_> = (0..32).map(|_| backoff.take()).collect();
        assert!(waits.len() > 1, "{waits:?}");
        backoff.reset();
        assert!(backoff.take() <= Duration::from_secs(1));
    }
}
