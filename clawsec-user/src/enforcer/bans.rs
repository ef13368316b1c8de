//! Timed bans. The map is not an LRU: a full one is an error that is said, never a ban forgotten.
//!
//! Expiry is `CLOCK_MONOTONIC`, the program's own clock, which does not survive a reboot; neither
//! does the map.

use std::net::IpAddr;
use std::time::Duration;

use aya::maps::MapError;
use clawsec_common::abi::{Ban, MAX_BANS, SourceKey, name};
use rustix::time::{ClockId, clock_gettime};

use super::error::EnforcerError;
use super::load::{Maps, map_error};

/// A ban that has not run out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ActiveBan {
    /// For IPv6 the first address of the /64.
    pub source: IpAddr,
    pub remaining: Duration,
}

pub(super) fn ban(maps: &mut Maps, source: IpAddr, for_: Duration) -> Result<(), EnforcerError> {
    let key = source_key(source);
    let for_ns = u64::try_from(for_.as_nanos()).unwrap_or(u64::MAX);
    let ban = Ban {
        expires_ns: now_ns().saturating_add(for_ns),
    };
    match maps.bans.insert(key, ban, 0) {
        Ok(()) => return Ok(()),
        Err(error) if is_full(&error) => {}
        Err(error) => return Err(map_error("write", name::BANS)(error)),
    }
    // Full: room is made by those that have run out, and only by those.
    list(maps)?;
    match maps.bans.insert(key, ban, 0) {
        Err(error) if is_full(&error) => Err(EnforcerError::BansFull {
            limit: MAX_BANS as usize,
        }),
        result => result.map_err(map_error("write", name::BANS)),
    }
}

pub(super) fn unban(maps: &mut Maps, source: IpAddr) -> Result<bool, EnforcerError> {
    match maps.bans.remove(&source_key(source)) {
        Ok(()) => Ok(true),
        Err(error) if errno(&error) == Some(libc::ENOENT) => Ok(false),
        Err(error) => Err(map_error("write", name::BANS)(error)),
    }
}

pub(super) fn list(maps: &mut Maps) -> Result<Vec<ActiveBan>, EnforcerError> {
    let now_ns = now_ns();
    let held: Vec<(SourceKey, Ban)> = maps
        .bans
        .iter()
        .collect::<Result<_, MapError>>()
        .map_err(map_error("read", name::BANS))?;
    let mut active = Vec::with_capacity(held.len());
    for (key, ban) in held {
        match ban.expires_ns.checked_sub(now_ns) {
            Some(remaining_ns) if remaining_ns > 0 => active.push(ActiveBan {
                source: address(key).unwrap_or(IpAddr::from([0_u8; 16])),
                remaining: Duration::from_nanos(remaining_ns),
            }),
            // Gone already is as good as removed.
            _ => match maps.bans.remove(&key) {
                Err(error) if errno(&error) != Some(libc::ENOENT) => {
                    return Err(map_error("write", name::BANS)(error));
                }
                _ => {}
            },
        }
    }
    active.sort_unstable_by_key(|ban| ban.source);
    Ok(active)
}

/// A source as the program's maps name it; an IPv4-mapped address is the IPv4 one.
pub(super) fn source_key(source: IpAddr) -> SourceKey {
    match source.to_canonical() {
        IpAddr::V4(address) => SourceKey::v4(address.octets()),
        IpAddr::V6(address) => SourceKey::v6(address.octets()),
    }
}

/// The source of a key; `None` where the program read no address.
pub(super) fn address(key: SourceKey) -> Option<IpAddr> {
    (key != SourceKey::UNKNOWN).then(|| IpAddr::from(key.address_be).to_canonical())
}

/// The program's clock, coarse as there: the exact one is up to a tick ahead of it, and a ban
/// would last that much longer than it says.
fn now_ns() -> u64 {
    let now = clock_gettime(ClockId::MonotonicCoarse);
    let seconds = u64::try_from(now.tv_sec).unwrap_or(0);
    let nanoseconds = u64::try_from(now.tv_nsec).unwrap_or(0);
    seconds
        .saturating_mul(1_000_000_000)
        .saturating_add(nanoseconds)
}

/// `E2BIG`: a hash map has no room.
fn is_full(error: &MapError) -> bool {
    errno(error) == Some(libc::E2BIG)
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
        for (text, key, back) in [
            ("192.0.2.7", SourceKey::v4([192, 0, 2, 7]), "192.0.2.7"),
            (
                "::ffff:192.0.2.7",
                SourceKey::v4([192, 0, 2, 7]),
                "192.0.2.7",
            ),
            (
                "2001:db8:1:2:3:4:5:6",
                SourceKey {
                    address_be: [0x20, 1, 0xd, 0xb8, 0, 1, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0],
                },
                "2001:db8:1:2::",
            ),
        ] {
            let found = source_key(text.parse().unwrap());
            assert_eq!(found, key, "{text}");
            assert_eq!(address(found), Some(back.parse().unwrap()), "{text}");
        }
        assert_eq!(address(SourceKey::UNKNOWN), None);
    }
}
