//! What clawsec is to the protected gateway where it connects for itself.
//!
//! `keep` holds a connection open for each role; `observe` makes records of what the gateway tells,
//! `node` runs what its agents ask for in the sandbox.
//! Invariant: nothing that comes in here is passed on to a client.

mod backoff;
mod keep;
mod node;
mod notice;
mod observe;
pub(in crate::gateway) mod probe;

use std::sync::Arc;

use super::shared::Gateway;
use crate::ipc::OwnRole;

/// Starts what keeps each connection, among the gateway's tasks.
pub(super) fn start(gateway: &Arc<Gateway>) {
    for role in OwnRole::ALL {
        gateway.tasks.spawn(keep::keep(Arc::clone(gateway), role));
    }
}
