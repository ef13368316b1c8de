//! Bans and admissions as the supervisor sends them, for the check at accept.

use std::net::IpAddr;
use std::sync::{Mutex, PoisonError, RwLock};

use super::shared::unix_now_ms;
use crate::ipc::{TimedEntry, TimedUpdate};
use crate::policy::{AddressPolicy, Denial, TimedAddresses, TimedKind};

/// What is in force, and what is on its way to take its place.
#[derive(Debug, Default)]
pub(super) struct Timed {
    held: RwLock<Held>,
    coming: Mutex<TimedAddresses>,
}

#[derive(Debug, Default)]
struct Held {
    addresses: TimedAddresses,
    /// At this many entries those that have run out are looked for.
    sweep_at: usize,
}

/// Fewer are not worth looking through.
const SWEEP_FROM: usize = 1_024;

impl Timed {
    /// Takes what the supervisor sent.
    pub(super) fn take(&self, update: TimedUpdate) {
        match update {
            TimedUpdate::Whole { part, last } => {
                let mut coming = self.coming.lock().unwrap_or_else(PoisonError::into_inner);
                set(&mut coming, part);
                if last {
                    let addresses = std::mem::take(&mut *coming);
                    self.change(|held| *held = addresses);
                }
            }
            TimedUpdate::Changed(entries) => self.change(|held| set(held, entries)),
        }
    }

    /// Whether `source` may connect now.
    pub(super) fn admit(&self, rules: &AddressPolicy, source: IpAddr) -> Result<(), Denial> {
        let held = self.held.read().unwrap_or_else(PoisonError::into_inner);
        held.addresses.admit(rules, source, unix_now_ms()).map(drop)
    }

    fn change(&self, change: impl FnOnce(&mut TimedAddresses)) {
        let mut held = self.held.write().unwrap_or_else(PoisonError::into_inner);
        change(&mut held.addresses);
        if held.addresses.len() >= held.sweep_at.max(SWEEP_FROM) {
            held.addresses.sweep(unix_now_ms());
            held.sweep_at = held.addresses.len().saturating_mul(2);
        }
    }
}

fn set(addresses: &mut TimedAddresses, entries: Vec<TimedEntry>) {
    for entry in entries {
        let kind = if entry.ban {
            TimedKind::Ban
        } else {
            TimedKind::Admission
        };
        match entry.until_ms {
            0 => addresses.remove(kind, entry.prefix),
            until_ms => addresses.set(kind, entry.prefix, until_ms),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(ban: bool, prefix: &str, until_ms: u64) -> TimedEntry {
        TimedEntry {
            ban,
            prefix: prefix.parse().unwrap(),
            until_ms,
        }
    }

    #[test]
    fn the_whole_is_in_force_with_its_last_part_only() {
        let rules = AddressPolicy::default();
        let timed = Timed::default();
        let admitted = |source: &str| timed.admit(&rules, source.parse().unwrap()).is_ok();
        timed.take(TimedUpdate::Changed(vec![entry(
            false,
            "10.0.0.0/8",
            u64::MAX,
        )]));
        assert!(admitted("10.0.0.1") && !admitted("11.0.0.1"));
        let part = |prefix, last| TimedUpdate::Whole {
            part: vec![entry(false, prefix, u64::MAX)],
            last,
        };
        timed.take(part("11.0.0.0/8", false));
        assert!(admitted("10.0.0.1") && !admitted("11.0.0.1"), "not yet");
        timed.take(part("12.0.0.0/8", true));
        assert!(!admitted("10.0.0.1") && admitted("11.0.0.1") && admitted("12.0.0.1"));
        timed.take(TimedUpdate::Changed(vec![
            entry(true, "11.0.0.1/32", u64::MAX),
            entry(false, "12.0.0.0/8", 0),
        ]));
        assert!(!admitted("11.0.0.1") && admitted("11.0.0.2") && !admitted("12.0.0.1"));
    }

    #[test]
    fn what_has_run_out_is_forgotten() {
        let timed = Timed::default();
        for n in 1..=10_000_u32 {
            let prefix = format!("{}/32", std::net::Ipv4Addr::from_bits(n));
            timed.take(TimedUpdate::Changed(vec![entry(true, &prefix, 1)]));
        }
        assert!(timed.held.read().unwrap().addresses.len() <= SWEEP_FROM);
    }
}
