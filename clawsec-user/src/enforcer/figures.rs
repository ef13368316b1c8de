//! What the program has counted: by reason exactly, by source as far as it could.

use std::net::IpAddr;
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::path::{Path, PathBuf};

use aya::maps::MapInfo;
use clawsec_common::abi::{PINNED, REASONS, TALLY_SETS, Tally, TallyKey, name};
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

/// Drops of one source for one reason on one CPU since `created_ns`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SourceTotal {
    /// `None`: the packets ended before an address. For IPv6 the first address of the /64.
    pub source: Option<IpAddr>,
    pub reason: &'static str,
    pub effect: Effect,
    pub total: u64,
    pub created_ns: u64,
    pub cpu: u32,
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
    let mut totals = Vec::new();
    for set in 0..TALLY_SETS {
        let read = || {
            maps.tallies
                .get(&set, 0)
                .map_err(map_error("read", name::TALLIES))
        };
        let first = read()?;
        if first.iter().all(|set| set.ways.iter().all(is_empty)) {
            continue;
        }
        // Another CPU may begin a new tally in a place while it is read, so that a name stands
        // beside another's total. Both readings agree on the name and its time only if neither
        // was caught in between.
        let second = read()?;
        for (before, after) in first.iter().zip(second.iter()) {
            for (before, after) in before.ways.iter().zip(&after.ways) {
                let same = before.key == after.key && before.created_ns == after.created_ns;
                if same && !is_empty(before) && before.total <= after.total {
                    totals.extend(source_total(before));
                }
            }
        }
    }
    Ok(totals)
}

fn is_empty(tally: &Tally) -> bool {
    tally.created_ns == 0
}

/// `None` for a reason of another ABI.
fn source_total(tally: &Tally) -> Option<SourceTotal> {
    let observed = tally.key.reason & TallyKey::OBSERVED;
    let reason = u8::try_from(tally.key.reason ^ observed).ok()?;
    Some(SourceTotal {
        source: address(tally.key.source),
        reason: Reason::from_number(reason)?.as_str(),
        effect: Effect::of_drop(u8::from(observed != 0)),
        total: tally.total,
        created_ns: tally.created_ns,
        cpu: tally.cpu,
    })
}

/// Bytes that the kernel takes for maps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct KernelMemory {
    /// Now.
    pub used_bytes: u64,
    /// With every timed ban and admission that there can be; everything else is taken at start.
    pub bound_bytes: u64,
}

impl KernelMemory {
    /// For a log line.
    pub fn in_words(self) -> String {
        let mib = |bytes: u64| bytes.div_ceil(1 << 20);
        format!(
            "kernel maps take {} MiB, {} MiB at most",
            mib(self.used_bytes),
            mib(self.bound_bytes)
        )
    }
}

/// Bytes of one entry of the maps that grow, as the kernel counts them: a hash element with its
/// list, and a trie's node with the one in between that it may need.
const GROWTH: [(&str, u64); 3] = [
    (name::BANS, 88),
    (name::BAN_PREFIXES, 192),
    (name::ADMISSIONS, 192),
];

/// How full a map is whose entries only an operator or time removes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fill {
    pub map: &'static str,
    pub entries: u64,
    pub capacity: u64,
}

pub(super) fn fill(maps: &Maps) -> Result<Vec<Fill>, EnforcerError> {
    let counts = maps
        .timed
        .get(&0, 0)
        .map_err(map_error("read", name::TIMED))?;
    let held = [
        (name::BANS, counts.bans),
        (name::BAN_PREFIXES, counts.ban_prefixes),
        (name::ADMISSIONS, counts.admissions),
    ];
    let capacity = |map| PINNED.iter().find(|spec| spec.name == map);
    let fill = held.into_iter().filter_map(|(map, entries)| {
        Some(Fill {
            map,
            entries: entries.into(),
            capacity: capacity(map)?.max_entries.into(),
        })
    });
    Ok(fill.collect())
}

/// What `/proc/self/fdinfo` says of each pinned map, added up, and what may yet come.
pub(super) fn memory(maps: &Maps, folder: &Path) -> Result<KernelMemory, EnforcerError> {
    let counts = maps
        .timed
        .get(&0, 0)
        .map_err(map_error("read", name::TIMED))?;
    let mut memory = KernelMemory::default();
    for spec in PINNED {
        let used_bytes = memlock(&folder.join(spec.name), spec.name)?;
        memory.used_bytes += used_bytes;
        memory.bound_bytes += used_bytes;
        let held = match spec.name {
            name::BANS => counts.bans,
            name::BAN_PREFIXES => counts.ban_prefixes,
            name::ADMISSIONS => counts.admissions,
            _ => continue,
        };
        let growth = GROWTH.iter().find(|(map, _)| *map == spec.name);
        let left = u64::from(spec.max_entries.saturating_sub(held));
        memory.bound_bytes += left * growth.map_or(0, |(_, bytes)| *bytes);
    }
    Ok(memory)
}

fn memlock(pin: &Path, map: &'static str) -> Result<u64, EnforcerError> {
    let info = MapInfo::from_pin(pin).map_err(map_error("open", map))?;
    let fd = info.fd().map_err(map_error("open", map))?;
    let path = PathBuf::from(format!("/proc/self/fdinfo/{}", fd.as_fd().as_raw_fd()));
    let text = std::fs::read_to_string(&path).map_err(|source| EnforcerError::Pin {
        what: "read",
        path,
        source,
    })?;
    let memory = text.lines().find_map(|line| line.strip_prefix("memlock:"));
    Ok(memory
        .and_then(|text| text.trim().parse().ok())
        .unwrap_or(0))
}
