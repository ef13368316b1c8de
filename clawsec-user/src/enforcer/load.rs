//! The program and its maps: new ones, or those that an earlier daemon pinned.
//!
//! Pinned maps are input: each is compared with the ABI before the program is bound to it.

use std::os::fd::{AsFd as _, OwnedFd};
use std::path::Path;

use aya::maps::{Array, HashMap, LpmTrie, Map, MapData, MapError, MapInfo, PerCpuArray};
use aya::programs::Xdp;
use aya::{Ebpf, EbpfLoader};
use clawsec_common::abi::{
    Counter, Expiry, PINNED, PortWord, RateClass, SlotHeader, SourceKey, TallySet, TimedCounts,
    TimedPrefix, name,
};
use rustix::time::{ClockId, clock_getres};

use super::error::EnforcerError;

/// The maps that outlive a daemon, typed.
pub(super) struct Maps {
    pub(super) active: Array<MapData, u32>,
    pub(super) slots: Array<MapData, SlotHeader>,
    pub(super) ports: Array<MapData, PortWord>,
    pub(super) classes: Array<MapData, RateClass>,
    /// Mapped and filled by `raw`.
    pub(super) nodes: OwnedFd,
    pub(super) bans: HashMap<MapData, SourceKey, Expiry>,
    /// The same map, for batches.
    pub(super) bans_fd: OwnedFd,
    pub(super) ban_prefixes: LpmTrie<MapData, TimedPrefix, Expiry>,
    pub(super) admissions: LpmTrie<MapData, TimedPrefix, Expiry>,
    pub(super) timed: Array<MapData, TimedCounts>,
    pub(super) tallies: PerCpuArray<MapData, TallySet>,
    pub(super) counters: PerCpuArray<MapData, Counter>,
    pub(super) stats: PerCpuArray<MapData, u64>,
}

/// Loads the object with its lasting maps pinned in `folder`, and the production program.
pub(super) fn load(
    object: &[u8],
    folder: &Path,
    bpf_log: bool,
) -> Result<(Ebpf, Maps), EnforcerError> {
    check_pinned(folder)?;
    let bpf_log = u8::from(bpf_log);
    let tick_ns = tick_ns();
    let mut loader = EbpfLoader::new();
    loader
        .override_global(name::BPF_LOG, &bpf_log, true)
        .override_global(name::TICK_NS, &tick_ns, true);
    for spec in PINNED {
        loader.map_pin_path(spec.name, folder.join(spec.name));
    }
    let mut ebpf = loader.load(object).map_err(|source| EnforcerError::Load {
        source: Box::new(source),
    })?;

    // Before any map is taken out: the program is bound to them by descriptor.
    program(&mut ebpf)?
        .load()
        .map_err(|source| EnforcerError::Verify {
            program: name::PROGRAM,
            source: Box::new(source),
        })?;

    let maps = Maps::take(&mut ebpf)?;
    Ok((ebpf, maps))
}

impl Maps {
    /// Takes them out of an object whose program has been loaded.
    pub(super) fn take(ebpf: &mut Ebpf) -> Result<Self, EnforcerError> {
        Ok(Self {
            active: take(ebpf, name::ACTIVE)?,
            slots: take(ebpf, name::SLOTS)?,
            ports: take(ebpf, name::PORTS)?,
            classes: take(ebpf, name::CLASSES)?,
            nodes: descriptor(ebpf, name::NODES)?,
            bans_fd: descriptor(ebpf, name::BANS)?,
            bans: take(ebpf, name::BANS)?,
            ban_prefixes: take(ebpf, name::BAN_PREFIXES)?,
            admissions: take(ebpf, name::ADMISSIONS)?,
            timed: take(ebpf, name::TIMED)?,
            tallies: take(ebpf, name::TALLIES)?,
            counters: take(ebpf, name::COUNTERS)?,
            stats: take(ebpf, name::STATS)?,
        })
    }
}

/// Nanoseconds of one tick of this kernel: what `CLOCK_MONOTONIC_COARSE` moves by.
fn tick_ns() -> u64 {
    let resolution = clock_getres(ClockId::MonotonicCoarse);
    u64::try_from(resolution.tv_nsec).unwrap_or(0).max(1)
}

/// Whether an earlier daemon's counters are there to be adopted.
pub(super) fn has_pinned(folder: &Path) -> bool {
    folder.join(name::COUNTERS).exists()
}

/// The production program.
pub(super) fn program(ebpf: &mut Ebpf) -> Result<&mut Xdp, EnforcerError> {
    ebpf.program_mut(name::PROGRAM)
        .and_then(|program| program.try_into().ok())
        .ok_or(EnforcerError::Missing {
            name: name::PROGRAM,
        })
}

/// Takes a map out of the object.
pub(super) fn take<M: TryFrom<Map, Error = MapError>>(
    ebpf: &mut Ebpf,
    map: &'static str,
) -> Result<M, EnforcerError> {
    ebpf.take_map(map)
        .ok_or(EnforcerError::Missing { name: map })?
        .try_into()
        .map_err(map_error("use", map))
}

/// Another descriptor of an array or hash map of the object, for what aya does not do with it.
fn descriptor(ebpf: &Ebpf, map: &'static str) -> Result<OwnedFd, EnforcerError> {
    let Some(Map::Array(data) | Map::HashMap(data)) = ebpf.map(map) else {
        return Err(EnforcerError::Missing { name: map });
    };
    data.fd()
        .as_fd()
        .try_clone_to_owned()
        .map_err(|source| EnforcerError::Descriptor { map, source })
}

/// For `map_err`.
pub(super) fn map_error(
    what: &'static str,
    map: &'static str,
) -> impl FnOnce(MapError) -> EnforcerError {
    move |source| EnforcerError::Map {
        what,
        map,
        source: Box::new(source),
    }
}

/// Refuses pinned maps of another layout, before the program is bound to them.
pub(super) fn check_pinned(folder: &Path) -> Result<(), EnforcerError> {
    for spec in PINNED {
        let path = folder.join(spec.name);
        if !path.exists() {
            continue;
        }
        let info = MapInfo::from_pin(&path).map_err(map_error("open pinned", spec.name))?;
        let found = (info.key_size(), info.value_size(), info.max_entries());
        let expected = (spec.key_bytes, spec.value_bytes, spec.max_entries);
        if found != expected {
            return Err(EnforcerError::PinnedLayout {
                path,
                found: format!("{found:?}"),
                expected: format!("{expected:?}"),
            });
        }
    }
    Ok(())
}
