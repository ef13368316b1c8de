//! Back to the policy before: one store, since the slot that was in force still holds it.

use clawsec_common::abi::name;

use super::error::EnforcerError;
use super::load::{Maps, map_error};

impl Maps {
    /// Puts the other slot in force, if it still holds policy `generation`; whether it did.
    pub(super) fn flip_back(&mut self, generation: u64) -> Result<bool, EnforcerError> {
        let active = self
            .active
            .get(&0, 0)
            .map_err(map_error("read", name::ACTIVE))?;
        let other = 1 - (active & 1);
        let header = self
            .slots
            .get(&other, 0)
            .map_err(map_error("read", name::SLOTS))?;
        if header.filled == 0 || header.generation != generation {
            return Ok(false);
        }
        self.active
            .set(0, other, 0)
            .map_err(map_error("fill", name::ACTIVE))?;
        Ok(true)
    }
}
