//! One policy as the bytes of one slot; filling the idle slot, reading it back, the flip.
//!
//! Invariant: `put_in_force` writes `ACTIVE` last, and only after every map of the slot was read
//! back equal to the image. A refusal before that leaves the old policy in force, whole.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::time::Duration;

use aya::Pod;
use aya::maps::lpm_trie::{Key, LpmTrie};
use aya::maps::{Array, MapData, MapError};
use clawsec_common::abi::{
    MAX_CLASSES, MAX_PREFIXES, PORT_WORDS, PortWord, PrefixRule, RateClass, SlotHeader, name,
};
use ipnet::IpNet;
use rustix::thread::{MembarrierCommand, membarrier};

use super::error::EnforcerError;
use super::load::{Maps, map_error};
use crate::policy::{self, PacketPolicy, PacketRule};

/// A policy, compiled. Making one does no IO and finds every limit that is exceeded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct SlotImage {
    header: SlotHeader,
    ports: Vec<PortWord>,
    classes: Vec<RateClass>,
    /// By prefix length and network, so that a prefix named twice is one entry.
    v4: BTreeMap<(u32, [u8; 4]), PrefixRule>,
    v6: BTreeMap<(u32, [u8; 16]), PrefixRule>,
}

impl SlotImage {
    /// Refuses whole what does not fit.
    pub(super) fn compile(policy: &PacketPolicy) -> Result<Self, EnforcerError> {
        let mut image = Self {
            header: SlotHeader {
                generation: policy.generation,
                flags: if policy.observe {
                    SlotHeader::OBSERVE
                } else {
                    0
                },
                filled: 1,
            },
            ports: vec![PortWord::default(); PORT_WORDS as usize],
            classes: policy.classes.iter().copied().map(rate_class).collect(),
            v4: BTreeMap::new(),
            v6: BTreeMap::new(),
        };
        fits("rate classes", image.classes.len(), MAX_CLASSES)?;
        image
            .classes
            .resize(MAX_CLASSES as usize, RateClass::default());

        for (prefix, rule) in &policy.prefixes {
            let rule = prefix_rule(*prefix, *rule, policy.classes.len())?;
            match prefix.trunc() {
                IpNet::V4(net) => {
                    let key = (u32::from(net.prefix_len()), net.network().octets());
                    deny_wins(image.v4.entry(key).or_insert(rule), rule);
                }
                IpNet::V6(net) => {
                    let key = (u32::from(net.prefix_len()), net.network().octets());
                    deny_wins(image.v6.entry(key).or_insert(rule), rule);
                }
            }
        }
        fits("IPv4 prefixes", image.v4.len(), MAX_PREFIXES)?;
        fits("IPv6 prefixes", image.v6.len(), MAX_PREFIXES)?;

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

        let (v4, v6) = match idle {
            0 => (&mut self.v4_a, &mut self.v6_a),
            _ => (&mut self.v4_b, &mut self.v6_b),
        };
        fill_trie(v4, &image.v4, name::PREFIXES4_A)?;
        fill_trie(v6, &image.v6, name::PREFIXES6_A)?;
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

/// Makes a trie hold exactly `wanted`, and reads it back.
fn fill_trie<A: Pod + Ord + Debug>(
    trie: &mut LpmTrie<MapData, A, PrefixRule>,
    wanted: &BTreeMap<(u32, A), PrefixRule>,
    map: &'static str,
) -> Result<(), EnforcerError> {
    let held = read_trie(trie, map)?;
    for (length, network) in held.keys().filter(|key| !wanted.contains_key(key)) {
        trie.remove(&Key::new(*length, *network))
            .map_err(map_error("empty", map))?;
    }
    for (key, rule) in wanted
        .iter()
        .filter(|(key, rule)| held.get(key) != Some(rule))
    {
        let (length, network) = *key;
        trie.insert(&Key::new(length, network), rule, 0)
            .map_err(map_error("fill", map))?;
    }
    if read_trie(trie, map)? == *wanted {
        Ok(())
    } else {
        Err(EnforcerError::ReadBack { map })
    }
}

fn read_trie<A: Pod + Ord>(
    trie: &LpmTrie<MapData, A, PrefixRule>,
    map: &'static str,
) -> Result<BTreeMap<(u32, A), PrefixRule>, EnforcerError> {
    trie.iter()
        .map(|entry| entry.map(|(key, rule)| ((key.prefix_len(), key.data()), rule)))
        .collect::<Result<_, MapError>>()
        .map_err(map_error("read", map))
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
        }
    }

    #[test]
    fn compiles_every_field() {
        let image = SlotImage::compile(&policy()).unwrap();
        let deny = PrefixRule {
            action: PrefixRule::DENY,
            class: 0,
        };
        assert_eq!(
            image.v4.get(&(8, [10, 0, 0, 0])),
            Some(&deny),
            "deny wins, network is masked"
        );
        assert_eq!(image.v4.len(), 1);
        assert_eq!(image.v6.len(), 1);
        assert_eq!(image.header.generation, 7);
        assert_eq!(image.header.flags, SlotHeader::OBSERVE);
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
            "the policy has 65537 IPv4 prefixes, and the kernel half holds 65536"
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
