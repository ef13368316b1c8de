//! Who is banned and who is admitted, until when, by whom and why.
//!
//! The packet filter's maps, the gateway process and the state file each follow this book, at
//! their own pace, by the numbers of its changes. One that has fallen behind reads all of it.

use std::collections::{BTreeMap, VecDeque};
use std::net::IpAddr;
use std::ops::Bound;

use ipnet::IpNet;

use crate::enforcer::{MOST_BANS, MOST_TIMED_PREFIXES};
use crate::policy::{TimedKind, UnixMillis, prefixes_of};

/// An entry's place. For bans an IPv6 host is its /64 (`TimedKind::key`).
pub(super) type Key = (TimedKind, IpNet);

#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::supervisor) struct Entry {
    pub(in crate::supervisor) until_ms: UnixMillis,
    pub(in crate::supervisor) by: By,
    pub(in crate::supervisor) note: Option<Box<str>>,
}

/// Who made an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::supervisor) enum By {
    Operator,
    /// The gateway process, for what it has seen.
    Gateway,
    /// It was found in the kernel's maps, and nothing is known of it.
    Kernel,
}

impl By {
    const ALL: [Self; 3] = [Self::Operator, Self::Gateway, Self::Kernel];

    pub(in crate::supervisor) fn as_str(self) -> &'static str {
        match self {
            Self::Operator => "operator",
            Self::Gateway => "gateway",
            Self::Kernel => "kernel",
        }
    }

    pub(super) fn from_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|by| by.as_str() == word)
    }
}

#[derive(Debug, Default)]
pub(super) struct Book {
    entries: BTreeMap<Key, Entry>,
    counts: [usize; 3],
    /// The keys of the latest changes; the first of them is change number `first_change`.
    changes: VecDeque<Key>,
    first_change: u64,
}

/// What happened since a number.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Since {
    /// What these keys hold now, and the number to ask from next time.
    Changes(Vec<(Key, Option<Entry>)>, u64),
    /// More than is remembered: read all.
    Behind,
}

/// Changes that are remembered.
const MOST_CHANGES: usize = 65_536;

impl Book {
    /// Why there is no room for this key, if there is none.
    pub(super) fn refusal(&self, key: Key) -> Option<String> {
        if self.entries.contains_key(&key) {
            return None;
        }
        let class = class(key);
        let (most, what) = class.limit();
        (self.counts[class as usize] >= most).then(|| format!("all {most} {what} are taken"))
    }

    pub(super) fn set(&mut self, key: Key, entry: Entry) {
        if self.entries.insert(key, entry).is_none() {
            self.counts[class(key) as usize] += 1;
        }
        self.note_change(key);
    }

    pub(super) fn remove(&mut self, key: Key) -> Option<Entry> {
        let removed = self.entries.remove(&key)?;
        self.counts[class(key) as usize] -= 1;
        self.note_change(key);
        Some(removed)
    }

    pub(super) fn get(&self, key: Key) -> Option<&Entry> {
        self.entries.get(&key)
    }

    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Entries of a kind that have not run out.
    pub(super) fn count(&self, kind: TimedKind, now_ms: UnixMillis) -> usize {
        self.of(kind, None)
            .filter(|(_, entry)| now_ms < entry.until_ms)
            .count()
    }

    /// The next entries of a kind, by prefix.
    pub(super) fn page(
        &self,
        kind: TimedKind,
        after: Option<IpNet>,
        most: usize,
    ) -> Vec<(IpNet, Entry)> {
        self.of(kind, after)
            .take(most)
            .map(|(prefix, entry)| (prefix, entry.clone()))
            .collect()
    }

    /// Whether an entry that has not run out holds this source.
    pub(super) fn holds(&self, kind: TimedKind, source: IpAddr, now_ms: UnixMillis) -> bool {
        prefixes_of(source).any(|prefix| {
            let entry = self.entries.get(&(kind, prefix));
            entry.is_some_and(|entry| now_ms < entry.until_ms)
        })
    }

    /// Forgets what has run out, which everyone does by the clock; how many.
    pub(super) fn sweep(&mut self, now_ms: UnixMillis) -> usize {
        let before = self.entries.len();
        self.entries.retain(|_, entry| now_ms < entry.until_ms);
        if self.entries.len() < before {
            self.counts = [0; 3];
            for key in self.entries.keys() {
                self.counts[class(*key) as usize] += 1;
            }
        }
        before - self.entries.len()
    }

    /// The number to ask `since` from, for one who has read all.
    pub(super) fn end(&self) -> u64 {
        self.first_change + self.changes.len() as u64
    }

    /// Has everybody read all of it again: what ran out by a clock that was set since would be in
    /// force again where it is still known.
    pub(super) fn begin_anew(&mut self) {
        self.first_change = self.end() + 1;
        self.changes.clear();
    }

    pub(super) fn since(&self, number: u64) -> Since {
        let Some(known) = number.checked_sub(self.first_change) else {
            return Since::Behind;
        };
        let keys = self
            .changes
            .iter()
            .skip(usize::try_from(known).unwrap_or(usize::MAX));
        let changes = keys.map(|key| (*key, self.entries.get(key).cloned()));
        Since::Changes(changes.collect(), self.end())
    }

    fn of(&self, kind: TimedKind, after: Option<IpNet>) -> impl Iterator<Item = (IpNet, &Entry)> {
        let from = match after {
            Some(prefix) => Bound::Excluded((kind, prefix)),
            // 0.0.0.0/0, before which there is none.
            None => Bound::Included((kind, IpNet::V4(ipnet::Ipv4Net::default()))),
        };
        self.entries
            .range((from, Bound::Unbounded))
            .take_while(move |((found, _), _)| *found == kind)
            .map(|((_, prefix), entry)| (*prefix, entry))
    }

    fn note_change(&mut self, key: Key) {
        self.changes.push_back(key);
        if self.changes.len() > MOST_CHANGES {
            self.changes.pop_front();
            self.first_change += 1;
        }
    }
}

/// What is limited apart, as the kernel's maps are.
#[derive(Clone, Copy)]
enum Class {
    BannedSource,
    BannedPrefix,
    Admission,
}

impl Class {
    fn limit(self) -> (usize, &'static str) {
        match self {
            Self::BannedSource => (MOST_BANS, "timed bans"),
            Self::BannedPrefix => (MOST_TIMED_PREFIXES, "timed bans of prefixes"),
            Self::Admission => (MOST_TIMED_PREFIXES, "timed admissions"),
        }
    }
}

fn class((kind, prefix): Key) -> Class {
    match (kind, prefix) {
        (TimedKind::Admission, _) => Class::Admission,
        (TimedKind::Ban, IpNet::V4(net)) if net.prefix_len() == 32 => Class::BannedSource,
        (TimedKind::Ban, IpNet::V6(net)) if net.prefix_len() == 64 => Class::BannedSource,
        (TimedKind::Ban, _) => Class::BannedPrefix,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(kind: TimedKind, prefix: &str) -> Key {
        (kind, prefix.parse().unwrap())
    }

    fn until(until_ms: u64) -> Entry {
        Entry {
            until_ms,
            by: By::Operator,
            note: None,
        }
    }

    #[test]
    fn a_book_that_begins_anew_is_read_whole() {
        let mut book = Book::default();
        let key = (TimedKind::Ban, "192.0.2.1/32".parse().unwrap());
        let entry = Entry {
            until_ms: 10,
            by: By::Kernel,
            note: None,
        };
        book.set(key, entry.clone());
        let read = book.end();
        assert_eq!(book.since(read), Since::Changes(Vec::new(), read));
        book.begin_anew();
        assert_eq!(book.since(read), Since::Behind);
        let read = book.end();
        book.set(key, entry.clone());
        let changes = Since::Changes(vec![(key, Some(entry))], read + 1);
        assert_eq!(book.since(read), changes);
    }

    #[test]
    fn pages_go_through_one_kind_in_order() {
        use TimedKind::{Admission, Ban};
        let mut book = Book::default();
        for (kind, prefix) in [
            (Admission, "10.0.0.0/8"),
            (Ban, "2001:db8::/64"),
            (Ban, "192.0.2.7/32"),
            (Ban, "10.0.0.0/8"),
            (Admission, "192.0.2.9/32"),
        ] {
            book.set(key(kind, prefix), until(100));
        }
        let mut after = None;
        let mut seen = Vec::new();
        loop {
            let page = book.page(Ban, after, 2);
            let Some(last) = page.last() else { break };
            after = Some(last.0);
            seen.extend(page.iter().map(|(prefix, _)| prefix.to_string()));
        }
        assert_eq!(seen, ["10.0.0.0/8", "192.0.2.7/32", "2001:db8::/64"]);
        let admitted = book.page(Admission, None, 9);
        assert_eq!(admitted.len(), 2);
        assert_eq!((book.count(Ban, 99), book.count(Ban, 100)), (3, 0));
        let source = "10.9.9.9".parse().unwrap();
        assert!(book.holds(Ban, source, 99) && !book.holds(Ban, source, 100));
        assert!(!book.holds(Admission, "192.0.2.7".parse().unwrap(), 99));
    }

    #[test]
    fn followers_get_what_changed_or_are_told_to_read_all() {
        let mut book = Book::default();
        let first = key(TimedKind::Ban, "10.0.0.1/32");
        let start = book.end();
        book.set(first, until(5));
        book.set(first, until(6));
        assert_eq!(book.remove(key(TimedKind::Ban, "10.0.0.2/32")), None);
        let Since::Changes(changes, next) = book.since(start) else {
            panic!("few changes are remembered")
        };
        assert_eq!(changes, [(first, Some(until(6))), (first, Some(until(6)))]);
        assert_eq!(book.since(next), Since::Changes(Vec::new(), next));
        book.remove(first);
        assert_eq!(
            book.since(next),
            Since::Changes(vec![(first, None)], next + 1)
        );
        for n in 0..=u32::try_from(MOST_CHANGES).unwrap() {
            let net = IpNet::from(IpAddr::from(std::net::Ipv4Addr::from_bits(n)));
            book.set((TimedKind::Ban, net), until(9));
        }
        assert_eq!(book.since(next), Since::Behind);
        assert!(matches!(book.since(book.end()), Since::Changes(none, _) if none.is_empty()));
        assert_eq!(book.sweep(9), MOST_CHANGES + 1);
    }

    #[test]
    fn a_full_kind_refuses_until_something_has_run_out() {
        let mut book = Book::default();
        for n in 0..u32::try_from(MOST_TIMED_PREFIXES).unwrap() {
            let net = IpNet::from(IpAddr::from(std::net::Ipv4Addr::from_bits(n)));
            book.set((TimedKind::Admission, net), until(u64::from(n % 2)));
        }
        let one = key(TimedKind::Admission, "203.0.113.0/24");
        let refusal = book.refusal(one).unwrap();
        assert_eq!(refusal, "all 4096 timed admissions are taken");
        let held = key(TimedKind::Admission, "0.0.0.1/32");
        assert_eq!(book.refusal(held), None, "it is replaced");
        assert_eq!(book.refusal(key(TimedKind::Ban, "203.0.113.0/24")), None);
        assert_eq!(book.sweep(0), 2048);
        assert_eq!(book.refusal(one), None);
    }
}
