//! Timed bans and timed admissions, of addresses and of prefixes.
//!
//! An entry's own end is wall time, so that it means the same after a restart of the daemon or of
//! the host; beside it stands the same end by the program's clock, made anew at each start. Bans
//! of single sources are a hash map, of which a full one is an error that is said, never a ban
//! forgotten; prefixes are tries of a few thousand.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::AsFd as _;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aya::maps::lpm_trie::{Key, LpmTrie};
use aya::maps::{MapData, MapError};
use clawsec_common::abi::{
    Expiry, MAX_BANS, MAX_TIMED_PREFIXES, SourceKey, TimedCounts, TimedPrefix, name,
};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use rustix::time::{ClockId, clock_gettime};

use super::error::EnforcerError;
use super::load::{Maps, map_error};
use super::raw;
use crate::policy::unmapped;

/// A ban or an admission that has not run out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TimedEntry {
    /// For a ban of an IPv6 address, its /64.
    pub prefix: IpNet,
    pub remaining: Duration,
    pub until: SystemTime,
}

/// Bans all of these until their ends; a ban that is there is replaced.
pub(super) fn ban(maps: &mut Maps, entries: &[(IpNet, SystemTime)]) -> Result<(), EnforcerError> {
    let now = Clocks::now();
    let mut sources = Vec::new();
    let mut prefixes = Vec::new();
    for (prefix, until) in entries {
        let until_ms = unix_ms(*until);
        match target(*prefix) {
            Target::Source(key) => sources.push((key, now.expiry(until_ms))),
            Target::Prefix(key) => prefixes.push((key, until_ms)),
        }
    }
    if !prefixes.is_empty() {
        add_prefixes(maps, Trie::Bans, prefixes)?;
    }
    ban_sources(maps, &sources)
}

/// Whether there was one.
pub(super) fn unban(maps: &mut Maps, prefix: IpNet) -> Result<bool, EnforcerError> {
    match target(prefix) {
        Target::Source(key) => remove_source(maps, &key),
        Target::Prefix(key) => remove_prefix(maps, Trie::Bans, key),
    }
}

/// The bans that have not run out; those that have are removed.
pub(super) fn bans(maps: &mut Maps) -> Result<Vec<TimedEntry>, EnforcerError> {
    let now = Clocks::now();
    let mut active = live_prefixes(maps, Trie::Bans)?;
    let mut count = 0;
    for (key, expiry) in read_sources(maps)? {
        if now.remaining(expiry.until_ms).is_zero() {
            remove_source(maps, &key)?;
        } else {
            count += 1;
            active
                .extend(address(key).map(|source| now.entry(network_of(source), expiry.until_ms)));
        }
    }
    set_counts(maps, |counts| counts.bans = count)?;
    active.sort_unstable_by_key(|entry| entry.prefix);
    Ok(active)
}

/// Admits all of these until their ends.
pub(super) fn admit(maps: &mut Maps, entries: &[(IpNet, SystemTime)]) -> Result<(), EnforcerError> {
    let entries = entries
        .iter()
        .map(|(prefix, until)| (prefix_key(unmapped(*prefix)), unix_ms(*until)));
    add_prefixes(maps, Trie::Admissions, entries.collect())
}

pub(super) fn unadmit(maps: &mut Maps, prefix: IpNet) -> Result<bool, EnforcerError> {
    remove_prefix(maps, Trie::Admissions, prefix_key(unmapped(prefix)))
}

pub(super) fn admissions(maps: &mut Maps) -> Result<Vec<TimedEntry>, EnforcerError> {
    live_prefixes(maps, Trie::Admissions)
}

/// Makes the program's ends anew from wall time, for maps of an earlier daemon: the two clocks
/// part when the host sleeps or its wall clock is set.
pub(super) fn resume(maps: &mut Maps) -> Result<(), EnforcerError> {
    let now = Clocks::now();
    let mut moved = Vec::new();
    for (key, expiry) in read_sources(maps)? {
        let renewed = now.expiry(expiry.until_ms);
        if renewed.expires_ns.abs_diff(expiry.expires_ns) > 1_000_000_000 {
            moved.push((key, renewed));
        }
    }
    ban_sources(maps, &moved)?;
    bans(maps)?;
    admissions(maps)?;
    Ok(())
}

/// The source of a key; `None` where the program read no address.
pub(super) fn address(key: SourceKey) -> Option<IpAddr> {
    (key != SourceKey::UNKNOWN).then(|| IpAddr::from(key.address_be()).to_canonical())
}

fn ban_sources(maps: &mut Maps, pairs: &[(SourceKey, Expiry)]) -> Result<(), EnforcerError> {
    if pairs.is_empty() {
        return Ok(());
    }
    // Before the first ban: the program does not look into a map that is said to be empty.
    let more = u32::try_from(pairs.len()).unwrap_or(u32::MAX);
    set_counts(maps, |counts| {
        counts.bans = counts.bans.saturating_add(more);
    })?;
    let full = |written: usize| EnforcerError::BansFull {
        limit: MAX_BANS as usize,
        left: pairs.len() - written,
        count: pairs.len(),
    };
    match raw::update_batch(maps.bans_fd.as_fd(), pairs) {
        Ok(()) => return Ok(()),
        Err((_, error)) if is_full(&error) => {}
        Err((_, source)) => {
            return Err(EnforcerError::Batch {
                what: "write",
                source,
            });
        }
    }
    // Full: room is made by those that have run out, and only by those.
    bans(maps)?;
    set_counts(maps, |counts| {
        counts.bans = counts.bans.saturating_add(more);
    })?;
    match raw::update_batch(maps.bans_fd.as_fd(), pairs) {
        Ok(()) => Ok(()),
        Err((written, error)) if is_full(&error) => Err(full(written)),
        Err((_, source)) => Err(EnforcerError::Batch {
            what: "write",
            source,
        }),
    }
}

fn read_sources(maps: &Maps) -> Result<Vec<(SourceKey, Expiry)>, EnforcerError> {
    raw::read_batch(maps.bans_fd.as_fd()).map_err(|source| EnforcerError::Batch {
        what: "read",
        source,
    })
}

fn remove_source(maps: &mut Maps, key: &SourceKey) -> Result<bool, EnforcerError> {
    match maps.bans.remove(key) {
        Ok(()) => Ok(true),
        Err(error) if errno(&error) == Some(libc::ENOENT) => Ok(false),
        Err(error) => Err(map_error("write", name::BANS)(error)),
    }
}

/// Which of the two tries.
#[derive(Clone, Copy)]
enum Trie {
    Bans,
    Admissions,
}

type TimedTrie = LpmTrie<MapData, TimedPrefix, Expiry>;

impl Trie {
    fn of(self, maps: &mut Maps) -> &mut TimedTrie {
        match self {
            Self::Bans => &mut maps.ban_prefixes,
            Self::Admissions => &mut maps.admissions,
        }
    }

    fn map(self) -> &'static str {
        match self {
            Self::Bans => name::BAN_PREFIXES,
            Self::Admissions => name::ADMISSIONS,
        }
    }

    fn count(self, counts: &mut TimedCounts) -> &mut u32 {
        match self {
            Self::Bans => &mut counts.ban_prefixes,
            Self::Admissions => &mut counts.admissions,
        }
    }
}

/// Length, family included, and prefix.
type PrefixKey = (u32, TimedPrefix);

fn add_prefixes(
    maps: &mut Maps,
    trie: Trie,
    entries: Vec<(PrefixKey, u64)>,
) -> Result<(), EnforcerError> {
    let now = Clocks::now();
    let mut wanted = read_prefixes(maps, trie)?;
    wanted.retain(|_, until_ms| !now.remaining(*until_ms).is_zero());
    wanted.extend(entries);
    let (count, limit) = (wanted.len(), MAX_TIMED_PREFIXES as usize);
    if count > limit {
        let what = "timed prefixes";
        return Err(EnforcerError::TooManyTimed { what, count, limit });
    }
    set_prefixes(maps, trie, &wanted)
}

fn remove_prefix(maps: &mut Maps, trie: Trie, key: PrefixKey) -> Result<bool, EnforcerError> {
    let mut wanted = read_prefixes(maps, trie)?;
    let was = wanted.remove(&key).is_some();
    if was {
        set_prefixes(maps, trie, &wanted)?;
    }
    Ok(was)
}

fn live_prefixes(maps: &mut Maps, trie: Trie) -> Result<Vec<TimedEntry>, EnforcerError> {
    let now = Clocks::now();
    let mut held = read_prefixes(maps, trie)?;
    held.retain(|_, until_ms| !now.remaining(*until_ms).is_zero());
    set_prefixes(maps, trie, &held)?;
    let mut entries: Vec<TimedEntry> = held
        .iter()
        .filter_map(|(key, until_ms)| Some(now.entry(network(*key)?, *until_ms)))
        .collect();
    entries.sort_unstable_by_key(|entry| entry.prefix);
    Ok(entries)
}

fn read_prefixes(maps: &mut Maps, trie: Trie) -> Result<BTreeMap<PrefixKey, u64>, EnforcerError> {
    trie.of(maps)
        .iter()
        .map(|entry| entry.map(|(key, expiry)| ((key.prefix_len(), key.data()), expiry.until_ms)))
        .collect::<Result<_, MapError>>()
        .map_err(map_error("read", trie.map()))
}

/// Makes a trie hold exactly these.
fn set_prefixes(
    maps: &mut Maps,
    trie: Trie,
    wanted: &BTreeMap<PrefixKey, u64>,
) -> Result<(), EnforcerError> {
    let now = Clocks::now();
    let held = read_prefixes(maps, trie)?;
    let count = u32::try_from(wanted.len().max(held.len())).unwrap_or(u32::MAX);
    set_counts(maps, |counts| *trie.count(counts) = count)?;
    for key in held.keys().filter(|key| !wanted.contains_key(key)) {
        trie.of(maps)
            .remove(&Key::new(key.0, key.1))
            .map_err(map_error("write", trie.map()))?;
    }
    for (key, until_ms) in wanted {
        let latest_ms = (TimedPrefix::FAMILY_BITS..=key.0)
            .filter_map(|length| wanted.get(&(length, truncated(key.1, length))))
            .max()
            .copied();
        let expiry = Expiry {
            expires_ns: now.expiry(latest_ms.unwrap_or(*until_ms)).expires_ns,
            until_ms: *until_ms,
        };
        trie.of(maps)
            .insert(&Key::new(key.0, key.1), expiry, 0)
            .map_err(map_error("write", trie.map()))?;
    }
    let count = u32::try_from(wanted.len()).unwrap_or(u32::MAX);
    set_counts(maps, |counts| *trie.count(counts) = count)
}

fn set_counts(maps: &mut Maps, change: impl FnOnce(&mut TimedCounts)) -> Result<(), EnforcerError> {
    let held = maps
        .timed
        .get(&0, 0)
        .map_err(map_error("read", name::TIMED))?;
    let mut counts = held;
    change(&mut counts);
    if counts == held {
        return Ok(());
    }
    maps.timed
        .set(0, counts, 0)
        .map_err(map_error("write", name::TIMED))
}

/// Where a ban of this prefix is kept.
#[derive(Debug, PartialEq, Eq)]
enum Target {
    Source(SourceKey),
    Prefix(PrefixKey),
}

/// One host of IPv6 owns a /64: longer prefixes are banned as that.
fn target(prefix: IpNet) -> Target {
    match unmapped(prefix) {
        IpNet::V4(net) if net.prefix_len() == 32 => {
            Target::Source(SourceKey::v4(net.addr().octets()))
        }
        IpNet::V6(net) if net.prefix_len() >= 64 => {
            Target::Source(SourceKey::v6(net.addr().octets()))
        }
        shorter => Target::Prefix(prefix_key(shorter)),
    }
}

fn prefix_key(prefix: IpNet) -> PrefixKey {
    let length = TimedPrefix::FAMILY_BITS + u32::from(prefix.prefix_len());
    match prefix.addr() {
        IpAddr::V4(address) => (length, TimedPrefix::v4(address.octets())),
        IpAddr::V6(address) => (length, TimedPrefix::v6(address.octets())),
    }
}

/// The prefix of a key; `None` for one of another ABI.
fn network((length, prefix): PrefixKey) -> Option<IpNet> {
    let length = u8::try_from(length.checked_sub(TimedPrefix::FAMILY_BITS)?).ok()?;
    match prefix.family_be {
        [4, ..] => {
            let [a, b, c, d, ..] = prefix.address_be;
            Ipv4Net::new(Ipv4Addr::new(a, b, c, d), length)
                .ok()
                .map(IpNet::V4)
        }
        [6, ..] => Ipv6Net::new(Ipv6Addr::from(prefix.address_be), length)
            .ok()
            .map(IpNet::V6),
        _ => None,
    }
}

/// What a ban of this source covers.
fn network_of(source: IpAddr) -> IpNet {
    match source {
        IpAddr::V4(_) => IpNet::from(source),
        IpAddr::V6(address) => Ipv6Net::new(address, 64).map_or(IpNet::from(source), IpNet::V6),
    }
}

/// The same prefix with fewer bits, `length` counted from the family on.
fn truncated(prefix: TimedPrefix, length: u32) -> TimedPrefix {
    let bits = length.saturating_sub(TimedPrefix::FAMILY_BITS);
    let mask = u128::MAX
        .checked_shl(128_u32.saturating_sub(bits))
        .unwrap_or(0);
    TimedPrefix {
        address_be: (u128::from_be_bytes(prefix.address_be) & mask).to_be_bytes(),
        ..prefix
    }
}

/// Both clocks at one moment.
#[derive(Clone, Copy)]
struct Clocks {
    /// The program's clock, coarse as there: the exact one is up to a tick ahead of it, and a
    /// ban would last that much longer than it says.
    monotonic_ns: u64,
    since_epoch: Duration,
}

impl Clocks {
    fn now() -> Self {
        let now = clock_gettime(ClockId::MonotonicCoarse);
        let seconds = u64::try_from(now.tv_sec).unwrap_or(0);
        let nanoseconds = u64::try_from(now.tv_nsec).unwrap_or(0);
        Self {
            monotonic_ns: seconds
                .saturating_mul(1_000_000_000)
                .saturating_add(nanoseconds),
            since_epoch: SystemTime::now()
                .duration_since(UNIX_EPOCH)
                .unwrap_or_default(),
        }
    }

    fn remaining(self, until_ms: u64) -> Duration {
        Duration::from_millis(until_ms).saturating_sub(self.since_epoch)
    }

    fn expiry(self, until_ms: u64) -> Expiry {
        let left_ns = u64::try_from(self.remaining(until_ms).as_nanos()).unwrap_or(u64::MAX);
        Expiry {
            expires_ns: self.monotonic_ns.saturating_add(left_ns),
            until_ms,
        }
    }

    fn entry(self, prefix: IpNet, until_ms: u64) -> TimedEntry {
        let until = UNIX_EPOCH.checked_add(Duration::from_millis(until_ms));
        TimedEntry {
            prefix,
            remaining: self.remaining(until_ms),
            until: until.unwrap_or(UNIX_EPOCH),
        }
    }
}

/// Rounded up: what was asked for is not cut short.
fn unix_ms(time: SystemTime) -> u64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX)
}

/// `E2BIG`: a hash map has no room.
fn is_full(error: &std::io::Error) -> bool {
    error.raw_os_error() == Some(libc::E2BIG)
}

fn errno(error: &MapError) -> Option<i32> {
    match error {
        MapError::SyscallError(syscall) => syscall.io_error.raw_os_error(),
        MapError::KeyNotFound => Some(libc::ENOENT),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_a_source_as_the_program_does() {
        let v6 = SourceKey::of_bytes([0x20, 1, 0xd, 0xb8, 0, 1, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0]);
        for (text, key, back) in [
            (
                "192.0.2.7/32",
                SourceKey::v4([192, 0, 2, 7]),
                "192.0.2.7/32",
            ),
            (
                "::ffff:192.0.2.7/128",
                SourceKey::v4([192, 0, 2, 7]),
                "192.0.2.7/32",
            ),
            ("2001:db8:1:2:3:4:5:6/128", v6, "2001:db8:1:2::/64"),
            ("2001:db8:1:2::/64", v6, "2001:db8:1:2::/64"),
        ] {
            let found = target(text.parse().unwrap());
            assert_eq!(found, Target::Source(key), "{text}");
            assert_eq!(
                address(key).map(network_of),
                Some(back.parse().unwrap()),
                "{text}"
            );
        }
        assert_eq!(address(SourceKey::UNKNOWN), None);
    }

    #[test]
    fn a_prefix_comes_back_as_it_was_named_and_shorter_ones_hold_it() {
        for (text, named, held_by) in [
            ("10.1.2.3/8", "10.0.0.0/8", "0.0.0.0/0"),
            ("::ffff:10.0.0.0/104", "10.0.0.0/8", "8.0.0.0/6"),
            ("2001:db8::/32", "2001:db8::/32", "2000::/3"),
            ("0.0.0.0/0", "0.0.0.0/0", "0.0.0.0/0"),
            ("::/0", "::/0", "::/0"),
        ] {
            let Target::Prefix(key) = target(text.parse().unwrap()) else {
                panic!("{text} is a prefix")
            };
            assert_eq!(network(key), Some(named.parse().unwrap()), "{text}");
            let outer = prefix_key(held_by.parse().unwrap());
            assert_eq!(truncated(key.1, outer.0), outer.1, "{text} in {held_by}");
        }
    }

    #[test]
    fn an_end_by_wall_time_is_the_same_by_the_program_s_clock() {
        let clocks = Clocks {
            monotonic_ns: 5_000,
            since_epoch: Duration::from_secs(100),
        };
        for (row, until_ms, expires_ns) in [
            ("to come", 100_250, 250_005_000),
            ("now", 100_000, 5_000),
            ("past", 1, 5_000),
            ("never", u64::MAX, u64::MAX),
        ] {
            let found = clocks.expiry(until_ms);
            assert_eq!(
                (found.expires_ns, found.until_ms),
                (expires_ns, until_ms),
                "{row}"
            );
        }
    }
}
