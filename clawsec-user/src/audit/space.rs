//! Room on the log's disk: said when it gets short, before nothing can be written any more.
//!
//! Invariant: each mark is told once, and again only after the disk had clearly more room than it.

use std::fs::File;

use rustix::fs::fstatvfs;

use super::entry::{Entry, SPACE};
use crate::config::SpaceLimits;
use crate::event::Outcome;

#[derive(Debug)]
pub(super) struct Space {
    limits: SpaceLimits,
    state: Room,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Room {
    Enough,
    Low,
    Short,
}

impl Space {
    pub(super) fn new(limits: SpaceLimits) -> Self {
        Self {
            limits,
            state: Room::Enough,
        }
    }

    pub(super) fn is_short(&self) -> bool {
        self.state == Room::Short
    }

    /// Asks the disk; gives a record when it crossed a mark.
    pub(super) fn look(&mut self, file: &File) -> Option<Entry> {
        if self.limits.warn_bytes == 0 && self.limits.refuse_bytes == 0 {
            return None;
        }
        let disk = fstatvfs(file).ok()?;
        self.see(disk.f_bavail.saturating_mul(disk.f_frsize))
    }

    fn see(&mut self, free_bytes: u64) -> Option<Entry> {
        let SpaceLimits {
            warn_bytes,
            refuse_bytes,
        } = self.limits;
        // A quarter more than the mark before it counts as left behind: a disk that hovers there
        // would otherwise fill itself with these records.
        let below = |mark: u64, at: Room| {
            let slack = if self.state >= at { mark / 4 } else { 0 };
            free_bytes < mark.saturating_add(slack)
        };
        let now = if below(refuse_bytes, Room::Short) {
            Room::Short
        } else if below(warn_bytes, Room::Low) {
            Room::Low
        } else {
            Room::Enough
        };
        if now == self.state {
            return None;
        }
        self.state = now;
        let (outcome, reason) = match now {
            Room::Enough => (Outcome::Allow, "ok"),
            Room::Low => (Outcome::Error, "space_low"),
            Room::Short => (Outcome::Error, "space_short"),
        };
        let detail = format!("{} MiB are free on the log's disk", free_bytes >> 20);
        if outcome == Outcome::Error {
            tracing::warn!("{detail}");
        }
        Some(Entry::system(SPACE, outcome, reason).detailed(detail))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_mark_is_told_once_until_it_is_left_behind() {
        const MIB: u64 = 1 << 20;
        let mut space = Space::new(SpaceLimits {
            warn_bytes: 100 * MIB,
            refuse_bytes: 20 * MIB,
        });
        let rows = [
            (200, None, false),
            (99, Some("space_low"), false),
            (101, None, false),
            (99, None, false),
            (126, Some("ok"), false),
            (19, Some("space_short"), true),
            (24, None, true),
            (26, Some("space_low"), false),
            (5, Some("space_short"), true),
            (500, Some("ok"), false),
        ];
        for (free, reason, short) in rows {
            let told = space.see(free * MIB).map(|entry| entry.event.reason);
            assert_eq!(told.as_deref(), reason, "{free}");
            assert_eq!(space.is_short(), short, "{free}");
        }
        let mut silent = Space::new(SpaceLimits {
            warn_bytes: 0,
            refuse_bytes: 0,
        });
        assert_eq!(silent.see(0), None);
    }
}
