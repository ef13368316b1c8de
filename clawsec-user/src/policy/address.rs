//! Which source addresses may connect: the same prefixes as the packet plane's, judged again at
//! accept, because loopback, container bridges and tunnels do not cross the NIC's hook.

use std::collections::HashMap;
use std::net::IpAddr;

use ipnet::IpNet;

use super::packet::PacketRule;
use super::{Denial, Reason};

/// What one prefix decides, with the configuration path it came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PrefixRule {
    pub prefix: IpNet,
    pub rule: AddressRule,
    /// Such as `security.network.allowedIPs[1]`.
    pub path: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AddressRule {
    /// Allowed, with this rate class of the packet plane.
    Allow {
        class: u16,
    },
    Deny,
}

/// Longest-prefix match over all rules: one hash lookup for each distinct prefix length.
#[derive(Debug, Clone, Default)]
pub struct AddressPolicy {
    rules: Vec<PrefixRule>,
    v4: Family<u32>,
    v6: Family<u128>,
}

impl AddressPolicy {
    /// Compiles rules; for two rules of one prefix, deny wins, then the earlier one.
    pub fn new(rules: Vec<PrefixRule>) -> Self {
        let mut policy = Self {
            rules,
            v4: Family::default(),
            v6: Family::default(),
        };
        for (index, rule) in policy.rules.iter().enumerate() {
            let rules = &policy.rules;
            match rule.prefix.trunc() {
                IpNet::V4(net) => {
                    policy
                        .v4
                        .insert(net.prefix_len(), net.network().to_bits(), index, rules);
                }
                IpNet::V6(net) => {
                    policy
                        .v6
                        .insert(net.prefix_len(), net.network().to_bits(), index, rules);
                }
            }
        }
        policy.v4.lengths.sort_unstable_by(|a, b| b.cmp(a));
        policy.v6.lengths.sort_unstable_by(|a, b| b.cmp(a));
        policy
    }

    pub fn rules(&self) -> &[PrefixRule] {
        &self.rules
    }

    /// The rule that decides for `source`; an IPv4-mapped address is judged as the IPv4 one.
    pub fn find(&self, source: IpAddr) -> Option<&PrefixRule> {
        let index = match source.to_canonical() {
            IpAddr::V4(address) => self.v4.find(|length| {
                address.to_bits() & u32::MAX.checked_shl(32 - u32::from(length)).unwrap_or(0)
            }),
            IpAddr::V6(address) => self.v6.find(|length| {
                address.to_bits() & u128::MAX.checked_shl(128 - u32::from(length)).unwrap_or(0)
            }),
        };
        index.and_then(|index| self.rules.get(index))
    }

    /// Whether `source` may connect at all; the path of the rule that says so.
    pub fn admit(&self, source: IpAddr) -> Result<&str, Denial> {
        match self.find(source) {
            Some(PrefixRule {
                rule: AddressRule::Allow { .. },
                path,
                ..
            }) => Ok(path),
            Some(denied) => Err(Denial::new(Reason::AddressNotAllowed, &denied.path)),
            None => Err(Denial::new(
                Reason::AddressNotAllowed,
                "security.network.allowedIPs",
            )),
        }
    }

    /// The same rules for the packet plane.
    pub fn packet_rules(&self) -> Vec<(IpNet, PacketRule)> {
        let tables = self.v4.winners().chain(self.v6.winners());
        let mut indices: Vec<usize> = tables.collect();
        indices.sort_unstable();
        indices
            .into_iter()
            .filter_map(|index| self.rules.get(index))
            .map(|rule| {
                let packet = match rule.rule {
                    AddressRule::Allow { class } => PacketRule::Allow { class },
                    AddressRule::Deny => PacketRule::Deny,
                };
                (rule.prefix.trunc(), packet)
            })
            .collect()
    }
}

#[derive(Debug, Clone)]
struct Family<A> {
    /// Distinct lengths, longest first.
    lengths: Vec<u8>,
    /// From length and network to the index of the rule.
    tables: HashMap<(u8, A), usize>,
}

impl<A> Default for Family<A> {
    fn default() -> Self {
        Self {
            lengths: Vec::new(),
            tables: HashMap::new(),
        }
    }
}

impl<A: std::hash::Hash + Eq> Family<A> {
    fn insert(&mut self, length: u8, network: A, index: usize, rules: &[PrefixRule]) {
        if !self.lengths.contains(&length) {
            self.lengths.push(length);
        }
        let slot = self.tables.entry((length, network)).or_insert(index);
        let is_deny = |index: usize| {
            rules
                .get(index)
                .is_some_and(|r| r.rule == AddressRule::Deny)
        };
        if !is_deny(*slot) && is_deny(index) {
            *slot = index;
        }
    }

    fn find(&self, network_at: impl Fn(u8) -> A) -> Option<usize> {
        self.lengths
            .iter()
            .find_map(|&length| self.tables.get(&(length, network_at(length))).copied())
    }

    fn winners(&self) -> impl Iterator<Item = usize> {
        self.tables.values().copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(rules: &[(&str, AddressRule)]) -> AddressPolicy {
        let rules = rules
            .iter()
            .enumerate()
            .map(|(index, (prefix, rule))| PrefixRule {
                prefix: prefix.parse().unwrap(),
                rule: *rule,
                path: format!("rules[{index}]"),
            });
        AddressPolicy::new(rules.collect())
    }

    #[test]
    fn the_longest_prefix_decides() {
        use AddressRule::{Allow, Deny};
        let policy = policy(&[
            ("10.0.0.0/8", Allow { class: 0 }),
            ("10.1.0.0/16", Deny),
            ("10.1.2.0/24", Allow { class: 1 }),
            ("2001:db8::/32", Allow { class: 0 }),
            ("2001:db8:bad::/48", Deny),
        ]);
        let rows = [
            ("10.9.9.9", Some(0)),
            ("10.1.1.1", Some(1)),
            ("10.1.2.3", Some(2)),
            ("11.0.0.1", None),
            ("::ffff:10.1.2.3", Some(2)),
            ("2001:db8::1", Some(3)),
            ("2001:db8:bad::1", Some(4)),
            ("2001:db9::1", None),
        ];
        for (address, expected) in rows {
            let found = policy
                .find(address.parse().unwrap())
                .map(|rule| rule.path.clone());
            assert_eq!(
                found,
                expected.map(|i: usize| format!("rules[{i}]")),
                "{address}"
            );
        }
        assert!(policy.admit("10.1.1.1".parse().unwrap()).is_err());
        assert_eq!(policy.admit("10.9.9.9".parse().unwrap()), Ok("rules[0]"));
    }

    #[test]
    fn the_whole_address_space_and_single_hosts_match() {
        let allow = AddressRule::Allow { class: 0 };
        let policy = policy(&[
            ("0.0.0.0/0", allow),
            ("::/0", allow),
            ("1.2.3.4/32", AddressRule::Deny),
        ]);
        assert!(policy.admit("9.9.9.9".parse().unwrap()).is_ok());
        assert!(policy.admit("::1".parse().unwrap()).is_ok());
        assert!(policy.admit("1.2.3.4".parse().unwrap()).is_err());
    }

    #[test]
    fn deny_wins_over_allow_of_the_same_prefix() {
        let policy = policy(&[
            ("10.0.0.0/8", AddressRule::Allow { class: 0 }),
            ("10.0.0.0/8", AddressRule::Deny),
        ]);
        assert!(policy.admit("10.0.0.1".parse().unwrap()).is_err());
        assert_eq!(policy.packet_rules().len(), 1);
    }
}
