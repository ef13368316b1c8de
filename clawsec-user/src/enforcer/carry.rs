//! Bans and admissions that were kept elsewhere, put into the maps before the program judges.

use std::collections::HashMap;
use std::time::SystemTime;

use ipnet::IpNet;

use super::bans::{self, TimedEntry};
use super::error::EnforcerError;
use super::load::Maps;

/// What a daemon brings along.
#[derive(Debug, Clone, Default)]
pub struct Carried {
    pub bans: Vec<(IpNet, SystemTime)>,
    pub admissions: Vec<(IpNet, SystemTime)>,
    pub found: Found,
}

/// What becomes of entries that only the pinned maps hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Found {
    #[default]
    Kept,
    /// Bans stay; what admits must be known to the daemon.
    BansKept,
    Removed,
}

/// Makes the maps hold what is carried; one family's refusal does not keep the other out.
pub(super) fn carry(maps: &mut Maps, carried: &Carried) -> Result<(), EnforcerError> {
    let bans = carry_bans(maps, carried);
    carry_admissions(maps, carried)?;
    bans
}

fn carry_bans(maps: &mut Maps, carried: &Carried) -> Result<(), EnforcerError> {
    let mut held = by_prefix(bans::bans(maps)?);
    // A million that are there already need not be written again.
    let missing: Vec<(IpNet, SystemTime)> = carried
        .bans
        .iter()
        .filter(|(prefix, until)| held.remove(prefix) != Some(*until))
        .copied()
        .collect();
    if carried.found == Found::Removed {
        for prefix in held.keys() {
            bans::unban(maps, *prefix)?;
        }
    }
    bans::ban(maps, &missing)
}

fn carry_admissions(maps: &mut Maps, carried: &Carried) -> Result<(), EnforcerError> {
    if carried.found != Found::Kept {
        let mut held = by_prefix(bans::admissions(maps)?);
        for (prefix, _) in &carried.admissions {
            held.remove(prefix);
        }
        for prefix in held.keys() {
            bans::unadmit(maps, *prefix)?;
        }
    }
    if carried.admissions.is_empty() {
        return Ok(());
    }
    bans::admit(maps, &carried.admissions)
}

fn by_prefix(entries: Vec<TimedEntry>) -> HashMap<IpNet, SystemTime> {
    entries
        .into_iter()
        .map(|entry| (entry.prefix, entry.until))
        .collect()
}
