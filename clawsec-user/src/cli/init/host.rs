//! What this host is called and which networks it is in: names for the certificate, prefixes for
//! the allowlist.
//!
//! Invariant: no network that strangers share gets on the list. A public subnet is the provider's
//! and not the operator's, so only this host's own address is taken from it.

use std::fs;
use std::net::{IpAddr, Ipv6Addr};
use std::path::Path;

use ipnet::IpNet;
use nix::ifaddrs::{InterfaceAddress, getifaddrs};
use nix::sys::socket::SockaddrStorage;

/// This host, as its clients see it.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct HostFacts {
    /// Names, then addresses.
    pub(super) names: Vec<String>,
    /// Each with what it is.
    pub(super) prefixes: Vec<(IpNet, String)>,
    pub(super) has_ipv6: bool,
    /// The name that the operator says first.
    pub(super) given: Option<String>,
}

impl HostFacts {
    /// More names that clients call it by.
    pub(super) fn add_names(&mut self, names: &[String]) {
        self.given = names.first().cloned();
        for name in names {
            if !self.names.contains(name) {
                self.names.push(name.clone());
            }
        }
    }

    /// Where a client on another machine reaches a port: by the name that was given, else the first
    /// address that is not loopback, else the host's name.
    pub(super) fn address(&self, port: u16) -> String {
        let mut ips = self.names.iter().filter_map(|name| name.parse().ok());
        let outer = ips.find(|ip: &IpAddr| !ip.is_loopback());
        let name = self.given.clone().or_else(|| self.names.first().cloned());
        match (&self.given, outer) {
            (None, Some(ip)) => std::net::SocketAddr::new(ip, port).to_string(),
            _ => format!("{}:{port}", name.unwrap_or_else(|| "localhost".to_owned())),
        }
    }
}

/// Reads the interfaces, the host's name, and where the operator's SSH session comes from.
pub(super) fn look() -> std::io::Result<HostFacts> {
    let addresses: Vec<Address> = getifaddrs()?.filter_map(Address::of).collect();
    let name = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let session = std::env::var("SSH_CONNECTION").ok();
    let peer = session
        .as_deref()
        .and_then(|session| session.split(' ').next()?.parse().ok());
    let mut facts = judge(name.trim(), &addresses, peer);
    facts.has_ipv6 = Path::new("/proc/net/if_inet6").exists();
    Ok(facts)
}

/// One address of one interface.
#[derive(Debug, Clone)]
struct Address {
    interface: String,
    net: IpNet,
    /// A container's bridge or the host's end of its cable: what stands behind is guarded, not a
    /// client.
    is_bridged: bool,
}

impl Address {
    fn of(entry: InterfaceAddress) -> Option<Self> {
        let ip =
            |storage: &SockaddrStorage| match (storage.as_sockaddr_in(), storage.as_sockaddr_in6())
            {
                (Some(v4), _) => Some(IpAddr::V4(v4.ip())),
                (_, Some(v6)) => Some(IpAddr::V6(v6.ip())),
                _ => None,
            };
        let address = ip(&entry.address?)?;
        let mask = ip(&entry.netmask?)?;
        let device = Path::new("/sys/class/net").join(&entry.interface_name);
        Some(Self {
            net: IpNet::with_netmask(address, mask).ok()?,
            is_bridged: device.join("bridge").exists() || device.join("brport").exists(),
            interface: entry.interface_name,
        })
    }
}

fn judge(name: &str, addresses: &[Address], peer: Option<IpAddr>) -> HostFacts {
    let mut facts = HostFacts::default();
    for name in [name, "localhost"] {
        let is_new = !facts.names.iter().any(|known| known == name);
        if is_name(name) && is_new {
            facts.names.push(name.to_lowercase());
        }
    }
    let loopback = ["127.0.0.0/8", "::1/128"].into_iter();
    for net in loopback.filter_map(|text| text.parse().ok()) {
        facts.prefixes.push((net, "this host".into()));
    }
    for ip in ["127.0.0.1", "::1"] {
        facts.names.push(ip.into());
    }
    let usable = |address: &&Address| {
        let ip = address.net.addr();
        !address.is_bridged && !ip.is_loopback() && !ip.is_unspecified() && !is_link_local(ip)
    };
    for address in addresses.iter().filter(usable) {
        let ip = address.net.addr();
        facts.names.push(ip.to_string());
        let at_home = |other: &Address| {
            other.interface == address.interface
                && other.net.addr().is_ipv4()
                && is_private(other.net.addr())
        };
        // A global IPv6 /64 beside a private IPv4 network is a home's; on a server it may be a
        // whole rack's.
        let own = is_private(ip) || (ip.is_ipv6() && addresses.iter().any(at_home));
        let (net, what) = if own {
            (address.net.trunc(), "the network of")
        } else {
            (IpNet::from(ip), "this host, at")
        };
        let what = format!("{what} {}", address.interface);
        if !facts.prefixes.iter().any(|(known, _)| known.contains(&net)) {
            facts.prefixes.push((net, what));
        }
    }
    if let Some(peer) = peer.map(|peer| peer.to_canonical())
        && !facts
            .prefixes
            .iter()
            .any(|(known, _)| known.contains(&peer))
    {
        let what = "where your SSH session comes from".to_owned();
        facts.prefixes.push((IpNet::from(peer), what));
    }
    facts
}

/// As it may stand in a certificate and in a `Host` header.
pub(super) fn is_name(text: &str) -> bool {
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && !label.starts_with('-')
            && label
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
    };
    text.len() <= 253 && text.split('.').all(label)
}

/// RFC 1918, RFC 6598 (Tailscale's and a carrier's), RFC 4193.
fn is_private(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => ip.is_private() || (ip.octets()[0] == 100 && ip.octets()[1] & 0xc0 == 64),
        IpAddr::V6(ip) => ip.is_unique_local(),
    }
}

fn is_link_local(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => ip.is_link_local(),
        IpAddr::V6(ip) => Ipv6Addr::is_unicast_link_local(&ip),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(interface: &str, net: &str, is_bridged: bool) -> Address {
        Address {
            interface: interface.into(),
            net: net.parse().unwrap(),
            is_bridged,
        }
    }

    fn prefixes(addresses: &[Address], peer: Option<&str>) -> Vec<String> {
        let facts = judge("Claw", addresses, peer.map(|peer| peer.parse().unwrap()));
        let listed = facts.prefixes.iter().skip(2);
        listed.map(|(net, _)| net.to_string()).collect()
    }

    #[test]
    fn clients_are_told_a_way_in() {
        let facts = |names: &[&str], given: &[&str]| {
            let mut facts = HostFacts {
                names: names.iter().map(|&name| name.to_owned()).collect(),
                ..HostFacts::default()
            };
            let given: Vec<String> = given.iter().map(|&name| name.to_owned()).collect();
            facts.add_names(&given);
            facts.address(8443)
        };
        let local = ["box", "localhost", "127.0.0.1", "::1"];
        assert_eq!(facts(&local, &[]), "box:8443");
        assert_eq!(
            facts(&[&local[..], &["10.0.0.2"]].concat(), &[]),
            "10.0.0.2:8443"
        );
        assert_eq!(
            facts(&[&local[..], &["fd00::2"]].concat(), &[]),
            "[fd00::2]:8443"
        );
        let named = facts(&[&local[..], &["10.0.0.2"]].concat(), &["claw.example.org"]);
        assert_eq!(named, "claw.example.org:8443");
    }

    #[test]
    fn a_home_is_its_networks_and_a_server_is_itself() {
        let home = [
            address("lo", "127.0.0.1/8", false),
            address("eth0", "192.168.1.5/24", false),
            address("eth0", "2001:db8:1::5/64", false),
            address("eth0", "fe80::1/64", false),
            address("docker0", "172.17.0.1/16", true),
        ];
        assert_eq!(prefixes(&home, None), ["192.168.1.0/24", "2001:db8:1::/64"]);
        let server = [
            address("ens3", "203.0.113.9/20", false),
            address("ens3", "2001:db8:9::9/64", false),
        ];
        assert_eq!(
            prefixes(&server, Some("198.51.100.7")),
            ["203.0.113.9/32", "2001:db8:9::9/128", "198.51.100.7/32"]
        );
        assert_eq!(prefixes(&home, Some("192.168.1.77")).len(), 2);
    }

    #[test]
    fn the_names_are_those_that_clients_use() {
        let facts = judge("Claw", &[address("eth0", "10.0.0.5/8", false)], None);
        assert_eq!(
            facts.names,
            ["claw", "localhost", "127.0.0.1", "::1", "10.0.0.5"]
        );
        // A host without a name is still itself.
        assert_eq!(judge("(none)", &[], None).names[0], "localhost");
    }
}
