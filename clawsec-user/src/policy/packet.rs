//! What the packet plane is to enforce, before `enforcer` compiles it into maps.

use ipnet::IpNet;

/// The packet half of one policy generation.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PacketPolicy {
    pub generation: u64,
    /// Longest match decides; an address in no prefix is dropped.
    pub prefixes: Vec<(IpNet, PacketRule)>,
    /// Rate classes; `PacketRule::Allow` names one by index. Index 0 is the default.
    pub classes: Vec<RateClass>,
    /// Destination ports that are judged at all.
    pub tcp_ports: Vec<u16>,
    pub udp_ports: Vec<u16>,
    /// Destination TCP ports that nobody may reach from outside (`network.guardUpstream`).
    pub guarded_tcp_ports: Vec<u16>,
    /// Count and record, drop nothing.
    pub observe: bool,
    /// Drop every fragment, to whatever port (`network.fragments: "drop"`).
    pub drop_fragments: bool,
    /// A limit on packets of any kind to protected ports, per source (`rateLimit.packets`).
    pub packet_ceiling: Option<RateClass>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PacketRule {
    /// Admitted, its new connections limited by this class.
    Allow {
        class: u16,
    },
    Deny,
}

/// A limit per source on new connections, or for the ceiling on packets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RateClass {
    /// New connections admitted at once; 0 switches the limit off.
    pub burst: u32,
    /// New connections admitted in each `window_ms`, sustained.
    pub per_window: u32,
    pub window_ms: u64,
}
