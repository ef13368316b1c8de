//! Timed exceptions to the address rules: bans, and admissions of sources that no rule admits.
//!
//! The packet plane judges by the same entries in its own maps; this is for what does not cross
//! the NIC's hook. A ban goes before an admission, an admission before every rule.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use super::address::AddressPolicy;
use super::{Denial, Reason};

/// Milliseconds since the Unix epoch.
pub type UnixMillis = u64;

/// What an entry does to its sources.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum TimedKind {
    Ban,
    Admission,
}

impl TimedKind {
    pub const ALL: [Self; 2] = [Self::Ban, Self::Admission];

    /// The prefix as an entry of this kind is kept: bits after the length gone, an IPv4-mapped
    /// prefix as the IPv4 one, and for bans an IPv6 host as its /64, which one host owns.
    pub fn key(self, prefix: IpNet) -> IpNet {
        match unmapped(prefix) {
            IpNet::V6(net) if self == Self::Ban && net.prefix_len() > 64 => {
                Ipv6Net::new(net.addr(), 64).map_or(IpNet::V6(net), |net| IpNet::V6(net.trunc()))
            }
            prefix => prefix,
        }
    }
}

/// Bits after the length gone; an IPv4-mapped prefix is the IPv4 one.
pub fn unmapped(prefix: IpNet) -> IpNet {
    let prefix = prefix.trunc();
    let IpNet::V6(net) = prefix else {
        return prefix;
    };
    let mapped = net.addr().to_ipv4_mapped();
    mapped
        .zip(net.prefix_len().checked_sub(96))
        .and_then(|(address, length)| Ipv4Net::new(address, length).ok())
        .map_or(prefix, IpNet::V4)
}

/// Who is banned and who is admitted now, until when.
#[derive(Debug, Clone, Default)]
pub struct TimedAddresses {
    bans: Ends,
    admissions: Ends,
}

impl TimedAddresses {
    /// Sets an entry's end; one that is there is replaced.
    pub fn set(&mut self, kind: TimedKind, prefix: IpNet, until_ms: UnixMillis) {
        self.of(kind).set(kind.key(prefix), until_ms);
    }

    pub fn remove(&mut self, kind: TimedKind, prefix: IpNet) {
        self.of(kind).remove(kind.key(prefix));
    }

    /// Forgets what has run out.
    pub fn sweep(&mut self, now_ms: UnixMillis) {
        for kind in TimedKind::ALL {
            self.of(kind).sweep(now_ms);
        }
    }

    /// Entries held, those that have run out included.
    pub fn len(&self) -> usize {
        self.bans.len() + self.admissions.len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether `source` may connect now; the path of the rule that says so.
    pub fn admit<'a>(
        &self,
        rules: &'a AddressPolicy,
        source: IpAddr,
        now_ms: UnixMillis,
    ) -> Result<&'a str, Denial> {
        let holds = |ends: &Ends| ends.holds(source, now_ms);
        decide(rules, source, holds(&self.bans), holds(&self.admissions))
    }

    fn of(&mut self, kind: TimedKind) -> &mut Ends {
        match kind {
            TimedKind::Ban => &mut self.bans,
            TimedKind::Admission => &mut self.admissions,
        }
    }
}

/// The order of ban, admission and rules, for whoever keeps the entries otherwise.
pub fn decide(
    rules: &AddressPolicy,
    source: IpAddr,
    is_banned: bool,
    is_admitted: bool,
) -> Result<&str, Denial> {
    if is_banned {
        return Err(Denial::new(Reason::AddressBanned, BAN_RULE));
    }
    match rules.admit(source) {
        Err(_) if is_admitted => Ok(ADMISSION_RULE),
        judged => judged,
    }
}

/// What stands in the place of a configuration path.
const BAN_RULE: &str = "clawsec ban";
pub const ADMISSION_RULE: &str = "clawsec allow";

/// Every prefix that holds a source, itself first.
pub fn prefixes_of(source: IpAddr) -> impl Iterator<Item = IpNet> {
    let host = IpNet::from(source.to_canonical());
    (0..=host.prefix_len())
        .rev()
        .filter_map(move |length| IpNet::new(host.addr(), length).ok())
        .map(|net| net.trunc())
}

/// Ends by prefix. Hosts apart: there may be a million of them, and they take 16 bytes each.
#[derive(Debug, Clone, Default)]
struct Ends {
    v4: HashMap<u32, UnixMillis>,
    /// By the upper 64 bits.
    v6: HashMap<u64, UnixMillis>,
    others: HashMap<IpNet, UnixMillis>,
    /// How many of `others` have which family and length.
    lengths: BTreeMap<(bool, u8), usize>,
}

impl Ends {
    fn set(&mut self, prefix: IpNet, until_ms: UnixMillis) {
        match place(prefix) {
            Place::V4(host) => {
                self.v4.insert(host, until_ms);
            }
            Place::V6(host) => {
                self.v6.insert(host, until_ms);
            }
            Place::Other(length) => {
                if self.others.insert(prefix, until_ms).is_none() {
                    *self.lengths.entry(length).or_insert(0) += 1;
                }
            }
        }
    }

    fn remove(&mut self, prefix: IpNet) {
        match place(prefix) {
            Place::V4(host) => {
                self.v4.remove(&host);
            }
            Place::V6(host) => {
                self.v6.remove(&host);
            }
            Place::Other(length) => {
                if self.others.remove(&prefix).is_some()
                    && let Some(count) = self.lengths.get_mut(&length)
                {
                    *count -= 1;
                    if *count == 0 {
                        self.lengths.remove(&length);
                    }
                }
            }
        }
    }

    fn holds(&self, source: IpAddr, now_ms: UnixMillis) -> bool {
        let source = source.to_canonical();
        let host = match source {
            IpAddr::V4(address) => self.v4.get(&address.to_bits()),
            IpAddr::V6(address) => self.v6.get(&upper(address)),
        };
        let lasts = |until_ms: &UnixMillis| now_ms < *until_ms;
        if host.is_some_and(lasts) {
            return true;
        }
        let family = source.is_ipv4();
        let mut lengths = self.lengths.keys().filter(|(v4, _)| *v4 == family);
        lengths.any(|(_, length)| {
            let net = IpNet::new(source, *length).map(|net| net.trunc()).ok();
            net.and_then(|net| self.others.get(&net)).is_some_and(lasts)
        })
    }

    fn sweep(&mut self, now_ms: UnixMillis) {
        self.v4.retain(|_, until_ms| now_ms < *until_ms);
        self.v6.retain(|_, until_ms| now_ms < *until_ms);
        let over = self.others.iter().filter(|(_, until)| now_ms >= **until);
        for prefix in over.map(|(prefix, _)| *prefix).collect::<Vec<_>>() {
            self.remove(prefix);
        }
    }

    fn len(&self) -> usize {
        self.v4.len() + self.v6.len() + self.others.len()
    }
}

enum Place {
    V4(u32),
    V6(u64),
    Other((bool, u8)),
}

fn place(prefix: IpNet) -> Place {
    match prefix {
        IpNet::V4(net) if net.prefix_len() == 32 => Place::V4(net.addr().to_bits()),
        IpNet::V6(net) if net.prefix_len() == 64 => Place::V6(upper(net.addr())),
        other => Place::Other((other.addr().is_ipv4(), other.prefix_len())),
    }
}

fn upper(address: std::net::Ipv6Addr) -> u64 {
    (address.to_bits() >> 64) as u64
}

#[cfg(test)]
mod tests {
    use super::super::{AddressRule, PrefixRule};
    use super::*;

    fn rules() -> AddressPolicy {
        let rule = |prefix: &str, rule, path: &str| PrefixRule {
            prefix: prefix.parse().unwrap(),
            rule,
            path: path.into(),
        };
        AddressPolicy::new(vec![
            rule("10.0.0.0/8", AddressRule::Allow { class: 0 }, "allowed"),
            rule("10.1.0.0/16", AddressRule::Deny, "denied"),
        ])
    }

    #[test]
    fn bans_go_before_admissions_and_admissions_before_rules_until_they_end() {
        use TimedKind::{Admission, Ban};
        let mut timed = TimedAddresses::default();
        for (kind, prefix, until_ms) in [
            (Ban, "10.2.0.0/16", 100),
            (Ban, "10.3.0.7/32", 100),
            (Ban, "::ffff:10.3.0.8/128", 100),
            (Ban, "2001:db8::7/128", 100),
            (Admission, "9.9.9.9/32", 100),
            (Admission, "10.1.2.0/24", 100),
            (Admission, "10.2.2.2/32", 100),
            (Admission, "2001:db8:1::7/128", 100),
            (Admission, "2001:db8::/32", 50),
        ] {
            timed.set(kind, prefix.parse().unwrap(), until_ms);
        }
        let banned = Err((Reason::AddressBanned, "clawsec ban"));
        let denied = |rule| Err((Reason::AddressNotAllowed, rule));
        let none = denied("security.network.allowedIPs");
        for (source, now_ms, expected) in [
            ("10.9.9.9", 99, Ok("allowed")),
            ("10.2.9.9", 99, banned),
            ("10.2.9.9", 100, Ok("allowed")),
            ("10.2.2.2", 99, banned),
            ("10.3.0.7", 99, banned),
            ("::ffff:10.3.0.7", 99, banned),
            ("10.3.0.8", 99, banned),
            ("10.3.0.9", 99, Ok("allowed")),
            ("9.9.9.9", 99, Ok("clawsec allow")),
            ("9.9.9.9", 100, none),
            ("10.1.2.3", 99, Ok("clawsec allow")),
            ("10.1.2.3", 100, denied("denied")),
            ("2001:db8:0:0:1::1", 49, banned),
            ("2001:db8:2::1", 49, Ok("clawsec allow")),
            ("2001:db8:2::1", 50, none),
            ("2001:db8:1::7", 99, Ok("clawsec allow")),
            ("2001:db8:1::8", 99, none),
        ] {
            let rules = rules();
            let found = timed.admit(&rules, source.parse().unwrap(), now_ms);
            let found = found.map_err(|denial| (denial.reason, denial.rule));
            let expected = expected.map_err(|(reason, rule)| (reason, rule.to_owned()));
            assert_eq!(found, expected, "{source} at {now_ms}");
        }
        assert_eq!(timed.len(), 9);
        timed.sweep(50);
        assert_eq!(timed.len(), 8, "one has run out");
        timed.remove(Ban, "10.2.0.0/16".parse().unwrap());
        timed.remove(Ban, "2001:db8::99/128".parse().unwrap());
        let left = |timed: &TimedAddresses, source: &str| {
            let rules = rules();
            timed
                .admit(&rules, source.parse().unwrap(), 99)
                .map(str::to_owned)
                .map_err(|denial| denial.reason)
        };
        assert_eq!(left(&timed, "10.2.9.9"), Ok("allowed".to_owned()));
        assert_eq!(
            left(&timed, "2001:db8::7"),
            Err(Reason::AddressNotAllowed),
            "the /64 was named by another address of it"
        );
        timed.sweep(100);
        assert!(timed.is_empty());
    }

    #[test]
    fn a_source_is_in_each_of_its_prefixes() {
        let prefixes: Vec<String> = prefixes_of("10.1.2.3".parse().unwrap())
            .map(|net| net.to_string())
            .collect();
        assert_eq!(prefixes.len(), 33);
        assert_eq!(prefixes.first().unwrap(), "10.1.2.3/32");
        assert_eq!(prefixes[8], "10.1.2.0/24");
        assert_eq!(prefixes.last().unwrap(), "0.0.0.0/0");
        assert_eq!(prefixes_of("2001:db8::1".parse().unwrap()).count(), 129);
    }
}
