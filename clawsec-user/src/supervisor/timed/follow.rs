//! How a gateway process learns of bans and admissions: all of them, then what changes.

use ipnet::IpNet;
use tokio::sync::watch;

use super::Timed;
use super::book::{Entry, Key, Since};
use crate::ipc::{TimedEntry, TimedUpdate};
use crate::policy::TimedKind;

/// Entries of one message.
const PART: usize = 4_096;

/// Reads the book for one gateway process: all of it first, then what changes.
#[derive(Debug)]
pub(in crate::supervisor) struct Follower {
    changed: watch::Receiver<()>,
    place: Place,
}

#[derive(Debug)]
enum Place {
    /// Reading all of it, after this prefix; then the changes from this number on.
    Whole(TimedKind, Option<IpNet>, u64),
    At(u64),
}

impl Follower {
    /// Reads all, then the changes from this number on.
    pub(super) fn new(changed: watch::Receiver<()>, number: u64) -> Self {
        Self {
            changed,
            place: Place::Whole(TimedKind::Ban, None, number),
        }
    }

    /// The next message, if there is one now. All that there is comes first.
    pub(in crate::supervisor) fn next(&mut self, timed: &Timed) -> Option<TimedUpdate> {
        match self.place {
            Place::Whole(kind, after, number) => {
                let page = timed.book().page(kind, after, PART);
                let is_end = page.len() < PART;
                self.place = match (is_end, kind) {
                    (false, _) => Place::Whole(kind, page.last().map(|(p, _)| *p), number),
                    (true, TimedKind::Ban) => Place::Whole(TimedKind::Admission, None, number),
                    (true, TimedKind::Admission) => Place::At(number),
                };
                let entry = |(prefix, entry): &(IpNet, Entry)| TimedEntry {
                    ban: kind == TimedKind::Ban,
                    prefix: *prefix,
                    until_ms: entry.until_ms,
                };
                Some(TimedUpdate::Whole {
                    part: page.iter().map(entry).collect(),
                    last: is_end && kind == TimedKind::Admission,
                })
            }
            Place::At(number) => {
                // Seen before it is read: a change in between is seen again.
                self.changed.mark_unchanged();
                let since = timed.book().since(number);
                match since {
                    Since::Behind => {
                        self.place = Place::Whole(TimedKind::Ban, None, timed.book().end());
                        self.next(timed)
                    }
                    Since::Changes(changes, next) => {
                        self.place = Place::At(next);
                        let entry = |((kind, prefix), entry): (Key, Option<Entry>)| TimedEntry {
                            ban: kind == TimedKind::Ban,
                            prefix,
                            until_ms: entry.map_or(0, |entry| entry.until_ms),
                        };
                        let changes: Vec<TimedEntry> = changes.into_iter().map(entry).collect();
                        (!changes.is_empty()).then_some(TimedUpdate::Changed(changes))
                    }
                }
            }
        }
    }

    /// Waits for a change.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: a change stays one until `next` has read it.
    pub(in crate::supervisor) async fn changed(&mut self) {
        if self.changed.changed().await.is_err() {
            // The book goes with the daemon.
            std::future::pending::<()>().await;
        }
    }
}
