//! Bans and admissions: one book of them, which the packet filter's maps, the gateway process and
//! the state file follow.
//!
//! Which of them is believed at start: the state file, if it is sound; then a ban that only the
//! kernel's maps hold is kept too, since a crash may have come before the file was written, and
//! an admission that only they hold is not. Of a damaged file the bans are believed, and the
//! kernel's admissions. Expiry is wall time, so a reboot changes nothing.

mod book;
mod clock;
mod follow;
mod journal;
mod keep;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use ipnet::IpNet;
use tokio::sync::watch;

use self::book::{Book, Key};
use self::journal::{Journal, Loaded, Plane};
use crate::causes::chain;
use crate::enforcer::{Carried, Enforcer, Found};
use crate::policy::{AddressPolicy, Denial, TimedKind, UnixMillis, decide_address};

pub(super) use self::book::{By, Entry};
pub(super) use self::follow::Follower;
pub(super) use self::keep::{finish, start, write};

/// Between two writings of what the gateway bans, and between two looks for room.
const WRITE_EVERY: Duration = Duration::from_secs(1);

/// The book, and where it is kept.
#[derive(Debug)]
pub(super) struct Timed {
    book: Mutex<Book>,
    journal: Mutex<Journal>,
    /// Says that the book has changed.
    changed: watch::Sender<()>,
    swept: Mutex<Instant>,
    found: Found,
    /// Admissions of a damaged file: believed where the kernel holds them too.
    doubtful: BTreeMap<Key, Entry>,
    /// What was wrong with the file, until it is recorded.
    damage: Mutex<Option<String>>,
}

impl Timed {
    /// Reads the state file; what is wrong with it is a warning, and later a record.
    pub(super) fn open(state_dir: &Path) -> Self {
        let path = state_dir.join("timed");
        let (found, mut entries, damage) = match journal::load(&path) {
            Loaded::Missing => (Found::BansKept, BTreeMap::new(), None),
            Loaded::Sound { plane, entries } => {
                let found = match plane {
                    Plane::Filter => Found::BansKept,
                    // The maps were not kept in step: what they alone hold may have been ended.
                    Plane::AcceptOnly => Found::Removed,
                };
                (found, entries, None)
            }
            Loaded::Damaged { entries, why } => {
                let kept = set_aside(&path);
                let why = format!(
                    "{}: {why}; the bans in it are kept, of its admissions those that the packet \
                     filter still holds{kept}",
                    path.display()
                );
                tracing::warn!("{why}");
                (Found::Kept, entries, Some(why))
            }
        };
        let now_ms = now_ms();
        entries.retain(|_, entry| now_ms < entry.until_ms);
        let mut doubtful = BTreeMap::new();
        if damage.is_some() {
            doubtful =
                entries.split_off(&(TimedKind::Admission, IpNet::V4(ipnet::Ipv4Net::default())));
        }
        let mut book = Book::default();
        for (key, entry) in entries {
            book.set(key, entry);
        }
        Self {
            book: Mutex::new(book),
            journal: Mutex::new(Journal::new(path, Plane::AcceptOnly)),
            changed: watch::Sender::new(()),
            swept: Mutex::new(Instant::now()),
            found,
            doubtful,
            damage: Mutex::new(damage),
        }
    }

    /// What the packet filter is to hold before it judges.
    pub(super) fn carried(&self) -> Carried {
        let book = self.book();
        let all = |kind| {
            let page = book.page(kind, None, usize::MAX).into_iter();
            page.map(|(prefix, entry)| (prefix, time(entry.until_ms)))
                .collect()
        };
        Carried {
            bans: all(TimedKind::Ban),
            admissions: all(TimedKind::Admission),
            found: self.found,
        }
    }

    /// Puts an entry in force in the kernel and for whoever follows the book.
    pub(super) fn set(
        &self,
        enforcer: Option<&mut Enforcer>,
        (kind, prefix): Key,
        entry: Entry,
    ) -> Result<(), String> {
        let key = (kind, prefix);
        self.make_room(key)?;
        if let Some(enforcer) = enforcer {
            let one = [(prefix, time(entry.until_ms))];
            let done = match kind {
                TimedKind::Ban => enforcer.ban_until(&one),
                TimedKind::Admission => enforcer.admit_until(&one),
            };
            done.map_err(|error| chain(&error))?;
        }
        self.book().set(key, entry);
        self.changed.send_replace(());
        Ok(())
    }

    /// Ends an entry; whether there was one.
    pub(super) fn end(
        &self,
        enforcer: Option<&mut Enforcer>,
        (kind, prefix): Key,
    ) -> Result<bool, String> {
        let mut was = false;
        if let Some(enforcer) = enforcer {
            let done = match kind {
                TimedKind::Ban => enforcer.unban(prefix),
                TimedKind::Admission => enforcer.unadmit(prefix),
            };
            was = done.map_err(|error| chain(&error))?;
        }
        let now_ms = now_ms();
        let removed = self.book().remove((kind, prefix));
        self.changed.send_replace(());
        Ok(was || removed.is_some_and(|entry| now_ms < entry.until_ms))
    }

    /// The next entries that have not run out, by prefix; whether there may be more.
    pub(super) fn page(
        &self,
        kind: TimedKind,
        after: Option<IpNet>,
        most: usize,
    ) -> (Vec<(IpNet, Entry)>, bool) {
        let now_ms = now_ms();
        let mut page = self.book().page(kind, after, most);
        let more = page.len() == most;
        let last = page.last().cloned();
        page.retain(|(_, entry)| now_ms < entry.until_ms);
        // A page of nothing but what has run out still says where the next one begins.
        if page.is_empty() && more {
            page.extend(last);
        }
        (page, more)
    }

    pub(super) fn count(&self, kind: TimedKind) -> usize {
        self.book().count(kind, now_ms())
    }

    /// The supervisor's own check of an address, by the same order as everywhere.
    pub(super) fn admit<'a>(
        &self,
        rules: &'a AddressPolicy,
        source: IpAddr,
    ) -> Result<&'a str, Denial> {
        let now_ms = now_ms();
        let book = self.book();
        let holds = |kind| book.holds(kind, source, now_ms);
        decide_address(
            rules,
            source,
            holds(TimedKind::Ban),
            holds(TimedKind::Admission),
        )
    }

    /// For the gateway process; see `Follower`.
    pub(super) fn follow(&self) -> Follower {
        Follower::new(self.changed.subscribe(), self.book().end())
    }

    /// Room for another entry is made by those that have run out, which are looked for once a
    /// second at most: a full book must stay cheap.
    fn make_room(&self, key: Key) -> Result<(), String> {
        let refusal = || self.book().refusal(key);
        match refusal() {
            None => Ok(()),
            Some(why) if !self.sweep_if(|since| since >= WRITE_EVERY) => Err(why),
            Some(_) => refusal().map_or(Ok(()), Err),
        }
    }

    /// Forgets what has run out, if the last time is long enough ago.
    fn sweep_if(&self, is_time: impl FnOnce(Duration) -> bool) -> bool {
        let mut swept = self.swept.lock().unwrap_or_else(PoisonError::into_inner);
        is_time(swept.elapsed()) && {
            *swept = Instant::now();
            self.book().sweep(now_ms()) > 0
        }
    }

    /// The wall clock was set: what has run out by it is forgotten by everybody.
    fn follow_clock(&self) {
        let mut book = self.book();
        book.sweep(now_ms());
        book.begin_anew();
        drop(book);
        self.changed.send_replace(());
    }

    fn catch_up(&self) -> std::io::Result<()> {
        let mut journal = self.journal.lock().unwrap_or_else(PoisonError::into_inner);
        journal.catch_up(&self.book)
    }

    fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Keeps a damaged file for whoever wants to look at it; says where.
fn set_aside(path: &Path) -> String {
    let aside: PathBuf = path.with_extension("damaged");
    match std::fs::rename(path, &aside) {
        Ok(()) => format!("; the file is now {}", aside.display()),
        Err(_gone_or_unreadable) => String::new(),
    }
}

pub(super) fn now_ms() -> UnixMillis {
    unix_ms(SystemTime::now())
}

fn unix_ms(time: SystemTime) -> UnixMillis {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

fn time(until_ms: UnixMillis) -> SystemTime {
    UNIX_EPOCH
        .checked_add(Duration::from_millis(until_ms))
        .unwrap_or(UNIX_EPOCH)
}
