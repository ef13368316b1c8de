//! Copies what the filter in force judges by into the maps of a program of our own.
//!
//! Byte for byte, whatever a map holds, so that a new map needs no line here. The daemon may
//! switch policies meanwhile: a copy counts only if the slot in force was the same one before and
//! after it, since the daemon writes no other slot than the idle one.

use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::path::Path;

use aya::Ebpf;
use aya::maps::{Map, MapInfo};
use clawsec_common::abi::{MapSpec, PINNED, name};

use super::error::EnforcerError;
use super::load::map_error;
use super::raw;

/// How often a policy may be switched under the copying.
const TRIES: usize = 8;

/// Copies the named maps from their pins in `folder`.
pub(super) fn copy(folder: &Path, ebpf: &Ebpf, names: &[&str]) -> Result<(), EnforcerError> {
    let mut pairs = Vec::new();
    for spec in PINNED.iter().filter(|spec| names.contains(&spec.name)) {
        let from = open(folder, spec)?;
        let to = ebpf
            .map(spec.name)
            .ok_or(EnforcerError::Missing { name: spec.name })
            .and_then(|map| descriptor(map, spec.name))?;
        pairs.push((*spec, from, to));
    }
    for _ in 0..TRIES {
        let before = in_force(&pairs)?;
        for (spec, from, to) in &pairs {
            raw::copy(from.as_fd(), *to, spec.key_bytes, spec.value_bytes)
                .map_err(failed(spec.name))?;
        }
        if in_force(&pairs)? == before {
            return Ok(());
        }
    }
    Err(EnforcerError::Restless)
}

/// Which slot is in force, and what policy it and the other one hold.
fn in_force(
    pairs: &[(MapSpec, OwnedFd, BorrowedFd<'_>)],
) -> Result<Vec<raw::Elements>, EnforcerError> {
    pairs
        .iter()
        .filter(|(spec, ..)| [name::ACTIVE, name::SLOTS].contains(&spec.name))
        .map(|(spec, from, _)| {
            raw::read(from.as_fd(), spec.key_bytes, spec.value_bytes).map_err(failed(spec.name))
        })
        .collect()
}

fn open(folder: &Path, spec: &MapSpec) -> Result<OwnedFd, EnforcerError> {
    let what = "open pinned";
    let info = MapInfo::from_pin(folder.join(spec.name)).map_err(map_error(what, spec.name))?;
    let fd = info.fd().map_err(map_error(what, spec.name))?;
    fd.as_fd()
        .try_clone_to_owned()
        .map_err(|source| EnforcerError::Descriptor {
            map: spec.name,
            source,
        })
}

fn descriptor<'a>(map: &'a Map, name: &'static str) -> Result<BorrowedFd<'a>, EnforcerError> {
    match map {
        Map::Array(data) | Map::HashMap(data) | Map::LpmTrie(data) => Ok(data.fd().as_fd()),
        _ => Err(EnforcerError::Missing { name }),
    }
}

/// For `map_err`.
fn failed(map: &'static str) -> impl FnOnce(std::io::Error) -> EnforcerError {
    move |source| EnforcerError::Copy { map, source }
}
