//! Bans and admissions: one book of them, which the packet filter's maps, the gateway process and
//! the state file follow.
//!
//! Which of them is believed at start: the state file, if it is sound; then a ban that only the
//! kernel's maps hold is kept too, since a crash may have come before the file was written, and
//! an admission that only they hold is not. Of a damaged file the bans are believed, and the
//! kernel's admissions. Expiry is wall time, so a reboot changes nothing.

mod book;
mod journal;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use ipnet::IpNet;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use self::book::{Book, Key, Since};
use self::journal::{Journal, Loaded, Plane};
use super::state::State;
use crate::causes::chain;
use crate::enforcer::{Carried, Enforcer, EnforcerError, Found};
use crate::event::{Event, EventKind, Outcome};
use crate::ipc::{TimedEntry, TimedUpdate};
use crate::policy::{AddressPolicy, Denial, TimedKind, UnixMillis, decide_address};

pub(super) use self::book::{By, Entry};

/// Between two writings of what the gateway bans, and between two looks for what has run out.
const WRITE_EVERY: Duration = Duration::from_secs(1);
const SWEEP_EVERY: Duration = Duration::from_mins(1);
/// Entries of one message to the gateway process.
const PART: usize = 4_096;

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
        Follower {
            changed: self.changed.subscribe(),
            place: Place::Whole(TimedKind::Ban, None, self.book().end()),
        }
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

    fn catch_up(&self) -> std::io::Result<()> {
        let mut journal = self.journal.lock().unwrap_or_else(PoisonError::into_inner);
        journal.catch_up(&self.book)
    }

    fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Reads the book for one gateway process: all of it first, then what changes.
#[derive(Debug)]
pub(super) struct Follower {
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
    /// The next message, if there is one now. All that there is comes first.
    pub(super) fn next(&mut self, timed: &Timed) -> Option<TimedUpdate> {
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
    pub(super) async fn changed(&mut self) {
        if self.changed.changed().await.is_err() {
            // The book goes with the daemon.
            std::future::pending::<()>().await;
        }
    }
}

/// Takes in what the kernel holds, writes the file, and keeps it from then on.
pub(super) async fn start(state: &Arc<State>, tasks: &mut JoinSet<()>, stop: &CancellationToken) {
    let timed = &state.timed;
    if let Some(mut enforcer) = state.enforcer() {
        if let Some(error) = enforcer.not_carried() {
            let why = format!("not every ban and admission is in force: {}", chain(error));
            tracing::error!("{why}");
            report(state, "not_carried", Outcome::Error, &why);
        }
        if let Err(error) = take_in(timed, &mut enforcer) {
            let why = format!("read the kernel's bans: {}", chain(&error));
            tracing::error!("{why}");
            report(state, "unreadable", Outcome::Error, &why);
        }
        let mut journal = timed.journal.lock().unwrap_or_else(PoisonError::into_inner);
        journal.keep_with(Plane::Filter);
    }
    let damage = {
        let mut damage = timed.damage.lock().unwrap_or_else(PoisonError::into_inner);
        damage.take()
    };
    if let Some(why) = damage {
        report(state, "damaged", Outcome::Error, &why);
    }
    let mut is_kept = true;
    note(state, write(state).await, &mut is_kept);
    tasks.spawn(keep(Arc::clone(state), is_kept, stop.clone()));
}

/// Writes what the last second has changed, for the last time.
pub(super) async fn finish(state: &Arc<State>) {
    note(state, write(state).await, &mut true);
}

/// Makes the file hold what the book holds; returns when it is on disk.
pub(super) async fn write(state: &Arc<State>) -> Result<(), String> {
    let state = Arc::clone(state);
    let written = tokio::task::spawn_blocking(move || {
        let path = state.options.state_dir.join("timed");
        let written = state.timed.catch_up();
        written.map_err(|error| format!("cannot write {}: {error}", path.display()))
    });
    written.await.unwrap_or_else(|ended| Err(ended.to_string()))
}

/// Bans and admissions that only the kernel's maps hold.
fn take_in(timed: &Timed, enforcer: &mut Enforcer) -> Result<(), EnforcerError> {
    let held = [
        (TimedKind::Ban, enforcer.bans()?),
        (TimedKind::Admission, enforcer.admissions()?),
    ];
    let mut book = timed.book();
    for (kind, entries) in held {
        for held in entries {
            let key = (kind, held.prefix);
            let until_ms = unix_ms(held.until);
            if book
                .get(key)
                .is_some_and(|entry| entry.until_ms == until_ms)
            {
                continue;
            }
            let known = timed.doubtful.get(&key).cloned();
            let entry = known.filter(|entry| entry.until_ms == until_ms);
            book.set(
                key,
                entry.unwrap_or(Entry {
                    until_ms,
                    by: By::Kernel,
                    note: None,
                }),
            );
        }
    }
    Ok(())
}

/// Follows the book for ever: a flood of bans is written once a second.
async fn keep(state: Arc<State>, mut is_kept: bool, stop: CancellationToken) {
    let mut changed = state.timed.changed.subscribe();
    let mut sweep = tokio::time::interval(SWEEP_EVERY);
    sweep.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = changed.changed() => {}
            // What could not be written is tried again.
            () = tokio::time::sleep(WRITE_EVERY), if !is_kept => {}
            _ = sweep.tick() => sweep_all(&state),
            () = stop.cancelled() => return,
        }
        note(&state, write(&state).await, &mut is_kept);
        tokio::time::sleep(WRITE_EVERY).await;
    }
}

/// Forgets what has run out, in the book and in the kernel.
fn sweep_all(state: &State) {
    if !state.timed.sweep_if(|_| true) {
        return;
    }
    if let Some(mut enforcer) = state.enforcer() {
        let swept = enforcer
            .bans()
            .and_then(|_| enforcer.admissions().map(drop));
        if let Err(error) = swept {
            tracing::warn!("remove what has run out: {}", chain(&error));
        }
    }
}

/// The first failure to keep the file, and its end, are records.
fn note(state: &State, written: Result<(), String>, is_kept: &mut bool) {
    match (written, *is_kept) {
        (Err(why), true) => {
            tracing::error!("bans and admissions would not survive a restart: {why}");
            report(state, "unwritable", Outcome::Error, &why);
            *is_kept = false;
        }
        (Ok(()), false) => {
            report(
                state,
                "ok",
                Outcome::Allow,
                "bans and admissions are kept again",
            );
            *is_kept = true;
        }
        _ => {}
    }
}

fn report(state: &State, reason: &'static str, outcome: Outcome, detail: &str) {
    let mut event = Event::new(EventKind::System, "keep", outcome, reason);
    event.generation = state.config().policy.generation;
    event.detail = Some(detail.to_owned());
    state.records.report(event);
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
