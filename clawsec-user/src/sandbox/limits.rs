//! What each execution may use, for whichever provider keeps it.

use crate::config::SandboxConfig;

/// What each execution may use.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    pub(super) memory_bytes: u64,
    pub(super) pids: u32,
    /// Thousandths of a CPU.
    pub(super) cpu_millis: u32,
}

impl Limits {
    pub(super) fn of(config: &SandboxConfig) -> Self {
        Self {
            memory_bytes: config.memory_bytes,
            pids: config.pids,
            cpu_millis: config.cpu_millis,
        }
    }
}
