//! Capabilities that no part of the daemon needs: given up before anything else is done.
//!
//! What stays is for the packet filter, for changing users, and for what builds a sandbox, whose
//! provider a reload may change. The gateway process gives up all of it (`gateway::confine`).

use rustix::io;
use rustix::thread::{
    CapabilitySet, CapabilitySets, capabilities, capability_is_in_bounding_set,
    remove_capability_from_bounding_set, set_capabilities,
};

/// What the supervisor, docker's client, firejail and the native launcher use. The unit that
/// `clawsec render systemd` prints bounds the service by the same list.
pub const NEEDED: [(&str, CapabilitySet); 17] = [
    // The packet filter.
    ("CAP_BPF", CapabilitySet::BPF),
    ("CAP_NET_ADMIN", CapabilitySet::NET_ADMIN),
    ("CAP_PERFMON", CapabilitySet::PERFMON),
    // Listening below port 1024.
    ("CAP_NET_BIND_SERVICE", CapabilitySet::NET_BIND_SERVICE),
    // The gateway process becomes another user, and so does a tool.
    ("CAP_SETUID", CapabilitySet::SETUID),
    ("CAP_SETGID", CapabilitySet::SETGID),
    ("CAP_SETPCAP", CapabilitySet::SETPCAP),
    ("CAP_KILL", CapabilitySet::KILL),
    // Files of other users: workspaces, logs, the gateway's own configuration.
    ("CAP_CHOWN", CapabilitySet::CHOWN),
    ("CAP_DAC_OVERRIDE", CapabilitySet::DAC_OVERRIDE),
    ("CAP_FOWNER", CapabilitySet::FOWNER),
    // Namespaces, mounts and control groups of a sandbox.
    ("CAP_SYS_ADMIN", CapabilitySet::SYS_ADMIN),
    ("CAP_SYS_CHROOT", CapabilitySet::SYS_CHROOT),
    ("CAP_SYS_RESOURCE", CapabilitySet::SYS_RESOURCE),
    ("CAP_SYS_PTRACE", CapabilitySet::SYS_PTRACE),
    // firejail makes the devices of its private /dev.
    ("CAP_MKNOD", CapabilitySet::MKNOD),
    ("CAP_NET_RAW", CapabilitySet::NET_RAW),
];

/// Gives up the rest, in this thread and all that it starts. Called before any other thread is.
///
/// # Errors
/// When the kernel refuses; a caller that is not root has nothing to give up.
pub fn narrow() -> io::Result<()> {
    if !rustix::process::geteuid().is_root() {
        return Ok(());
    }
    let needed = NEEDED
        .iter()
        .fold(CapabilitySet::empty(), |all, (_, one)| all | *one);
    for capability in CapabilitySet::all() {
        // A kernel that does not know one has none to give up.
        if !needed.contains(capability)
            && capability_is_in_bounding_set(capability).unwrap_or(false)
        {
            remove_capability_from_bounding_set(capability)?;
        }
    }
    let held = capabilities(None)?;
    set_capabilities(
        None,
        CapabilitySets {
            effective: held.effective & needed,
            permitted: held.permitted & needed,
            inheritable: CapabilitySet::empty(),
        },
    )
}
