//! Which executions of this daemon are not removed yet; the others of its owner are orphans.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::SandboxError;

/// Ids of executions and of idle containers. Clones share them.
#[derive(Debug, Clone, Default)]
pub(super) struct LiveIds(Arc<Mutex<HashSet<String>>>);

/// Membership of an id; it ends with this value.
#[derive(Debug)]
pub(super) struct Live {
    ids: LiveIds,
    id: String,
}

impl LiveIds {
    pub(super) fn enter(&self, id: &str) -> Result<Live, SandboxError> {
        if !self.lock().insert(id.to_owned()) {
            return Err(SandboxError::InvalidJob {
                field: "id",
                problem: "is that of an execution that is not over",
            });
        }
        Ok(Live {
            ids: self.clone(),
            id: id.to_owned(),
        })
    }

    pub(super) fn contains(&self, id: &str) -> bool {
        self.lock().contains(id)
    }

    fn lock(&self) -> MutexGuard<'_, HashSet<String>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        self.ids.lock().remove(&self.id);
    }
}
