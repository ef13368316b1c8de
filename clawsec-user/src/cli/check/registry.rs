//! What a check is, and the list of them all. `docs/checks.md` is this list in words.

use super::areas;
use super::facts::Facts;
use crate::counterpart::Severity;

/// One question about a configuration and the host around it.
pub(super) struct Check {
    /// Stable: scripts and alerts name it.
    pub(super) id: &'static str,
    pub(super) severity: Severity,
    /// What is so where it fires.
    pub(super) title: &'static str,
    /// What to do, with the key to change.
    pub(super) remedy: &'static str,
    /// The evidence, one for each place where it is so; none where all is well or cannot be known.
    pub(super) judge: fn(&Facts) -> Vec<String>,
    /// A part of the warnings by which the configuration's reader says the same; they are left out
    /// where this fires.
    pub(super) says: &'static [&'static str],
}

/// All of them, by area.
pub(super) fn all() -> impl Iterator<Item = &'static Check> {
    [
        areas::files::CHECKS,
        areas::keys::CHECKS,
        areas::tls::CHECKS,
        areas::network::CHECKS,
        areas::limits::CHECKS,
        areas::tools::CHECKS,
        areas::sandbox::CHECKS,
        areas::audit::CHECKS,
        areas::gateway::CHECKS,
        areas::host::CHECKS,
    ]
    .into_iter()
    .flatten()
}

/// One finding where something is so, none where it is not.
pub(super) fn found(is_so: bool, detail: impl FnOnce() -> String) -> Vec<String> {
    is_so.then(detail).into_iter().collect()
}
