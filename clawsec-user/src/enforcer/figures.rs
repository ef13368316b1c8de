//! What the program has counted: by reason exactly, by source as far as it could.

use std::collections::HashMap;
use std::net::IpAddr;
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::path::{Path, PathBuf};

use aya::maps::{MapError, MapInfo};
use clawsec_common::abi::{MAX_THROTTLES, PINNED, REASONS, Throttle, ThrottleKey, name};
use clawsec_common::reason::{Reason, Stat, Verdict};

use super::bans::address;
use super::error::EnforcerError;
use super::load::{Maps, map_error};

/// What became of packets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Effect {
    Passed,
    Dropped,
    /// Passed because the policy only observes.
    WouldDrop,
}

/// One counter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReasonCount {
    pub reason: &'static str,
    pub effect: Effect,
    pub packets: u64,
    pub bytes: u64,
}

/// One figure about the program itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StatCount {
    pub name: &'static str,
    pub count: u64,
}

/// Drops of one source for one reason since `created_ns`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SourceTotal {
    /// `None`: the packets ended before an address. For IPv6 the first address of the /64.
    pub source: Option<IpAddr>,
    pub reason: &'static str,
    pub effect: Effect,
    pub total: u64,
    pub created_ns: u64,
}

impl Effect {
    pub fn is_drop(self) -> bool {
        self == Self::Dropped
    }

    pub(super) fn of_drop(observed: u8) -> Self {
        if observed == 0 {
            Self::Dropped
        } else {
            Self::WouldDrop
        }
    }
}

pub(super) fn counters(maps: &Maps) -> Result<Vec<ReasonCount>, EnforcerError> {
    let read = |reason: Reason, offset: u32, effect| {
        let values = maps
            .counters
            .get(&(offset + reason as u32), 0)
            .map_err(map_error("read", name::COUNTERS))?;
        let (packets, bytes) = values.iter().fold((0_u64, 0_u64), |(packets, bytes), cpu| {
            (
                packets.saturating_add(cpu.packets),
                bytes.saturating_add(cpu.bytes),
            )
        });
        Ok(ReasonCount {
            reason: reason.as_str(),
            effect,
            packets,
            bytes,
        })
    };
    let enforced = Reason::ALL
        .into_iter()
        .map(|reason| match reason.verdict() {
            Verdict::Pass => read(reason, 0, Effect::Passed),
            Verdict::Drop => read(reason, 0, Effect::Dropped),
        });
    let observed = Reason::ALL
        .into_iter()
        .filter(|reason| reason.verdict() == Verdict::Drop)
        .map(|reason| read(reason, REASONS, Effect::WouldDrop));
    enforced.chain(observed).collect()
}

pub(super) fn stats(maps: &Maps) -> Result<Vec<StatCount>, EnforcerError> {
    Stat::ALL
        .into_iter()
        .map(|stat| {
            let values = maps
                .stats
                .get(&(stat as u32), 0)
                .map_err(map_error("read", name::STATS))?;
            Ok(StatCount {
                name: stat.as_str(),
                count: values.iter().copied().fold(0, u64::saturating_add),
            })
        })
        .collect()
}

pub(super) fn harvest(maps: &Maps) -> Result<Vec<SourceTotal>, EnforcerError> {
    // An entry that is evicted under the reading starts the kernel's walk anew: what was read
    // twice is kept once, and the walk ends at twice the map's size whatever happens.
    let mut held: HashMap<ThrottleKey, Throttle> = HashMap::new();
    for entry in maps.throttle.iter().take(2 * MAX_THROTTLES as usize) {
        match entry {
            Ok((key, throttle)) => {
                held.insert(key, throttle);
            }
            Err(MapError::KeyNotFound) => {}
            Err(error) => return Err(map_error("read", name::THROTTLE)(error)),
        }
    }
    let totals = held.into_iter().filter_map(|(key, throttle)| {
        Some(SourceTotal {
            source: address(key.source),
            reason: Reason::from_number(key.reason)?.as_str(),
            effect: Effect::of_drop(key.observed),
            total: throttle.total,
            created_ns: throttle.created_ns,
        })
    });
    Ok(totals.collect())
}

/// What `/proc/self/fdinfo` says of each pinned map, added up.
pub(super) fn memory(folder: &Path) -> Result<u64, EnforcerError> {
    let mut bytes = 0_u64;
    for spec in PINNED {
        let info =
            MapInfo::from_pin(folder.join(spec.name)).map_err(map_error("open", spec.name))?;
        let fd = info.fd().map_err(map_error("open", spec.name))?;
        let path = PathBuf::from(format!("/proc/self/fdinfo/{}", fd.as_fd().as_raw_fd()));
        let text = std::fs::read_to_string(&path).map_err(|source| EnforcerError::Pin {
            what: "read",
            path,
            source,
        })?;
        let memory = text.lines().find_map(|line| line.strip_prefix("memlock:"));
        bytes += memory
            .and_then(|text| text.trim().parse::<u64>().ok())
            .unwrap_or(0);
    }
    Ok(bytes)
}
