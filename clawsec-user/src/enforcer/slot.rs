//! One policy as the bytes of one slot; filling the idle slot, reading it back, the flip.
//!
//! Invariant: `put_in_force` writes `ACTIVE` last, and only after every map of the slot was read
//! back equal to the image. A refusal before that leaves the old policy in force, whole.

use std::os::fd::{AsFd as _, BorrowedFd};
use std::time::Duration;

use aya::Pod;
use aya::maps::{Array, MapData};
use clawsec_common::abi::{
    MAX_CLASSES, MAX_NODES, MAX_PREFIXES, PORT_WORDS, PortWord, PrefixRule, RateClass, SlotHeader,
    name,
};
use clawsec_common::tree::{self, Prefixes, TreeNode};
use ipnet::IpNet;
use rustix::thread::{MembarrierCommand, membarrier};

use super::error::EnforcerError;
use super::load::{Maps, map_error};
use super::raw;
use crate::policy::{self, PacketPolicy, PacketRule};

/// A policy, compiled. Making one does no IO and finds every limit that is exceeded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct SlotImage {
    header: SlotHeader,
    ports: Vec<PortWord>,
    classes: Vec<RateClass>,
    /// The prefixes, as the program searches them.
    nodes: Vec<TreeNode>,
}

impl SlotImage {
    /// Refuses whole what does not fit.
    pub(super) fn compile(policy: &PacketPolicy) -> Result<Self, EnforcerError> {
        let ceiling = policy.packet_ceiling.map(rate_class).unwrap_or_default();
        let mut image = Self {
            header: SlotHeader {
                generation: policy.generation,
                flags: flag(policy.observe, SlotHeader::OBSERVE)
                    | flag(policy.drop_fragments, SlotHeader::DROP_FRAGMENTS),
                filled: 1,
                packet_interval_ns: ceiling.interval_ns,
                packet_tolerance_ns: ceiling.tolerance_ns,
            },
            ports: vec![PortWord::default(); PORT_WORDS as usize],
            classes: policy.classes.iter().copied().map(rate_class).collect(),
            nodes: nodes(policy)?,
        };
        fits("rate classes", image.classes.len(), MAX_CLASSES)?;
        image
            .classes
            .resize(MAX_CLASSES as usize, RateClass::default());

        set_ports(&mut image.ports, &policy.tcp_ports, |word| &mut word.tcp);
        set_ports(&mut image.ports, &policy.udp_ports, |word| &mut word.udp);
        set_ports(&mut image.ports, &policy.guarded_tcp_ports, |word| {
            &mut word.guarded_tcp
        });
        Ok(image)
    }
}

impl Maps {
    /// Fills the idle slot, reads it back, flips.
    pub(super) fn put_in_force(&mut self, image: &SlotImage) -> Result<(), EnforcerError> {
        let idle = 1 - self.active_slot()?;
        // A CPU may still judge a packet by the slot that the flip before made idle.
        wait_for_readers();

        fill_nodes(self.nodes.as_fd(), idle * MAX_NODES, &image.nodes)?;
        fill_array(
            &mut self.ports,
            idle * PORT_WORDS,
            &image.ports,
            name::PORTS,
        )?;
        fill_array(
            &mut self.classes,
            idle * MAX_CLASSES,
            &image.classes,
            name::CLASSES,
        )?;
        fill_array(&mut self.slots, idle, &[image.header], name::SLOTS)?;

        fill_array(&mut self.active, 0, &[idle], name::ACTIVE)
    }

    /// Generation of the slot in force; 0 where none was ever filled.
    pub(super) fn generation(&self) -> Result<u64, EnforcerError> {
        let slot = self.active_slot()?;
        let header = self
            .slots
            .get(&slot, 0)
            .map_err(map_error("read", name::SLOTS))?;
        Ok(header.generation)
    }

    /// The slot in force, by the same reading as the program's: the lowest bit.
    fn active_slot(&self) -> Result<u32, EnforcerError> {
        let active = self
            .active
            .get(&0, 0)
            .map_err(map_error("read", name::ACTIVE))?;
        Ok(active & 1)
    }
}

/// Returns after every program that was running has ended: `MEMBARRIER_CMD_GLOBAL` waits for an
/// RCU grace period (kernel 4.3). A kernel with `nohz_full` refuses it; no program runs a tenth
/// of a second.
fn wait_for_readers() {
    if membarrier(MembarrierCommand::Global).is_err() {
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// Writes a slot's nodes, and reads them back through another mapping.
fn fill_nodes(map: BorrowedFd<'_>, first: u32, nodes: &[TreeNode]) -> Result<(), EnforcerError> {
    let failed = |what| move |source| EnforcerError::Nodes { what, source };
    raw::write_nodes(map, first, nodes).map_err(failed("fill"))?;
    if raw::holds_nodes(map, first, nodes).map_err(failed("read back"))? {
        Ok(())
    } else {
        Err(EnforcerError::ReadBack { map: name::NODES })
    }
}

/// Writes the values that differ, from index `first` on, and reads all of them back.
fn fill_array<V: Pod + PartialEq>(
    array: &mut Array<MapData, V>,
    first: u32,
    values: &[V],
    map: &'static str,
) -> Result<(), EnforcerError> {
    for (index, value) in (first..).zip(values) {
        let held = array.get(&index, 0).map_err(map_error("read", map))?;
        if held != *value {
            array.set(index, value, 0).map_err(map_error("fill", map))?;
        }
    }
    for (index, value) in (first..).zip(values) {
        if array.get(&index, 0).map_err(map_error("read", map))? != *value {
            return Err(EnforcerError::ReadBack { map });
        }
    }
    Ok(())
}

fn fits(what: &'static str, count: usize, limit: u32) -> Result<(), EnforcerError> {
    let limit = limit as usize;
    if count > limit {
        return Err(EnforcerError::TooMany { what, count, limit });
    }
    Ok(())
}

/// The policy's prefixes as a tree; a prefix that is named twice is one.
fn nodes(policy: &PacketPolicy) -> Result<Vec<TreeNode>, EnforcerError> {
    let mut prefixes = Prefixes::default();
    for (prefix, rule) in &policy.prefixes {
        let rule = prefix_rule(*prefix, *rule, policy.classes.len())?;
        let length = u32::from(prefix.prefix_len());
        let held = match prefix.trunc() {
            IpNet::V4(net) => prefixes
                .v4
                .entry((length, net.network().octets()))
                .or_insert(rule),
            IpNet::V6(net) => prefixes
                .v6
                .entry((length, net.network().octets()))
                .or_insert(rule),
        };
        deny_wins(held, rule);
    }
    fits("IPv4 prefixes", prefixes.v4.len(), MAX_PREFIXES)?;
    fits("IPv6 prefixes", prefixes.v6.len(), MAX_PREFIXES)?;
    tree::build(&prefixes, MAX_NODES as usize).map_err(|error| EnforcerError::TooMany {
        what: "nodes of the prefix tree",
        count: error.needed,
        limit: MAX_NODES as usize,
    })
}

fn flag(set: bool, bit: u32) -> u32 {
    if set { bit } else { 0 }
}

fn prefix_rule(
    prefix: IpNet,
    rule: PacketRule,
    classes: usize,
) -> Result<PrefixRule, EnforcerError> {
    match rule {
        PacketRule::Allow { class } if usize::from(class) >= classes => {
            Err(EnforcerError::NoSuchClass {
                prefix: prefix.to_string(),
                class,
                classes,
            })
        }
        PacketRule::Allow { class } => Ok(PrefixRule {
            action: PrefixRule::ALLOW,
            class,
        }),
        PacketRule::Deny => Ok(PrefixRule {
            action: PrefixRule::DENY,
            class: 0,
        }),
    }
}

/// For two rules of one prefix deny wins, then the earlier, as in `policy::AddressPolicy`.
fn deny_wins(held: &mut PrefixRule, rule: PrefixRule) {
    if rule.action == PrefixRule::DENY {
        *held = rule;
    }
}

fn rate_class(class: policy::RateClass) -> RateClass {
    if class.burst == 0 {
        return RateClass {
            kind: RateClass::UNLIMITED,
            ..RateClass::default()
        };
    }
    let window_ns = class.window_ms.saturating_mul(1_000_000);
    let interval_ns = (window_ns / u64::from(class.per_window.max(1))).max(1);
    RateClass {
        interval_ns,
        tolerance_ns: interval_ns.saturating_mul(u64::from(class.burst) - 1),
        kind: RateClass::LIMITED,
        reserved: 0,
    }
}

fn set_ports(words: &mut [PortWord], ports: &[u16], field: fn(&mut PortWord) -> &mut u64) {
    for port in ports {
        if let Some(word) = words.get_mut(usize::from(port >> 6)) {
            *field(word) |= 1 << (port & 63);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy() -> PacketPolicy {
        PacketPolicy {
            generation: 7,
            prefixes: vec![
                (
                    "10.1.2.3/8".parse().unwrap(),
                    PacketRule::Allow { class: 0 },
                ),
                ("10.0.0.0/8".parse().unwrap(), PacketRule::Deny),
                (
                    "2001:db8::/32".parse().unwrap(),
                    PacketRule::Allow { class: 1 },
                ),
            ],
            classes: vec![
                policy::RateClass {
                    burst: 60,
                    per_window: 60,
                    window_ms: 60_000,
                },
                policy::RateClass {
                    burst: 0,
                    per_window: 0,
                    window_ms: 0,
                },
            ],
            tcp_ports: vec![0, 63, 64, 8443, 65_535],
            udp_ports: vec![8443],
            guarded_tcp_ports: vec![18_789],
            observe: true,
            drop_fragments: true,
            packet_ceiling: Some(policy::RateClass {
                burst: 20_000,
                per_window: 20_000,
                window_ms: 60_000,
            }),
        }
    }

    #[test]
    fn compiles_every_field() {
        let image = SlotImage::compile(&policy()).unwrap();
        let deny = PrefixRule {
            action: PrefixRule::DENY,
            class: 0,
        };
        for (address, expected) in [
            ([10, 0, 0, 0], Some(deny)),
            ([10, 255, 255, 255], Some(deny)),
            ([9, 255, 255, 255], None),
            ([11, 0, 0, 0], None),
        ] {
            assert_eq!(tree::find4(&image.nodes, address), expected, "{address:?}");
        }
        let inside = "2001:db8::1".parse::<std::net::Ipv6Addr>().unwrap();
        let class = tree::find6(&image.nodes, inside.octets()).map(|rule| rule.class);
        assert_eq!(class, Some(1));
        assert_eq!(image.header.generation, 7);
        let flags = SlotHeader::OBSERVE | SlotHeader::DROP_FRAGMENTS;
        assert_eq!(image.header.flags, flags);
        assert_eq!(image.header.packet_interval_ns, 3_000_000);
        assert_eq!(image.header.packet_tolerance_ns, 19_999 * 3_000_000);
        assert_eq!(image.ports[0].tcp, 1 | 1 << 63);
        assert_eq!(image.ports[1].tcp, 1);
        assert_eq!(image.ports[1023].tcp, 1 << 63);
        assert_eq!(image.ports[131].udp, 1 << 59, "8443 is 131 * 64 + 59");
        assert_eq!(
            image.ports[293].guarded_tcp,
            1 << 37,
            "18789 is 293 * 64 + 37"
        );
        assert_eq!(image.classes[0].interval_ns, 1_000_000_000);
        assert_eq!(image.classes[0].tolerance_ns, 59_000_000_000);
        assert_eq!(image.classes[1].kind, RateClass::UNLIMITED);
        assert_eq!(image.classes[2].kind, 0);
    }

    #[test]
    fn refuses_whole_what_does_not_fit() {
        let mut many = policy();
        many.prefixes = (0..=MAX_PREFIXES)
            .map(|n| {
                let net = IpNet::new(std::net::Ipv4Addr::from_bits(n << 8).into(), 24).unwrap();
                (net, PacketRule::Deny)
            })
            .collect();
        let error = SlotImage::compile(&many).unwrap_err().to_string();
        assert_eq!(
            error,
            "the policy has 100001 IPv4 prefixes, and the kernel half holds 100000"
        );

        let mut wrong = policy();
        wrong.classes.truncate(1);
        let error = SlotImage::compile(&wrong).unwrap_err().to_string();
        assert_eq!(
            error,
            "prefix 2001:db8::/32 names rate class 1, and the policy has 1"
        );
    }
}
