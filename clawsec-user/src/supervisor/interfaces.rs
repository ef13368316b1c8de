//! Which interfaces to filter when the configuration names none.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;

use crate::config::{Config, Listen};

/// The interfaces that a configuration has filtered, those chosen for it included.
///
/// # Errors
/// When the host's addresses cannot be listed.
pub fn filtered(config: &Config) -> std::io::Result<Vec<String>> {
    if config.kernel.interfaces.is_empty() {
        choose(&config.gateway.listen)
    } else {
        Ok(config.kernel.interfaces.clone())
    }
}

/// The interfaces that carry the listen addresses; for a wildcard, every Ethernet device with an
/// address that is neither a bridge nor a bridge's port (containers' ends, which the check at
/// accept covers). Loopback is never among them.
pub(super) fn choose(listen: &[Listen]) -> std::io::Result<Vec<String>> {
    let carried: Vec<(String, IpAddr)> = nix::ifaddrs::getifaddrs()?
        .filter_map(|entry| {
            let address = entry.address?;
            let address = match (address.as_sockaddr_in(), address.as_sockaddr_in6()) {
                (Some(v4), _) => IpAddr::V4(v4.ip()),
                (_, Some(v6)) => IpAddr::V6(v6.ip()),
                _ => return None,
            };
            Some((entry.interface_name, address))
        })
        .collect();
    let addresses: Vec<SocketAddr> = listen.iter().map(|entry| entry.address).collect();
    Ok(select(&carried, &addresses, |name| {
        is_plain_ethernet(Path::new("/sys/class/net"), name)
    }))
}

fn select(
    carried: &[(String, IpAddr)],
    listen: &[SocketAddr],
    is_ethernet: impl Fn(&str) -> bool,
) -> Vec<String> {
    let wanted = |address: &IpAddr| {
        listen.iter().any(|listen| {
            let same_family = listen.ip().is_ipv4() == address.is_ipv4();
            same_family && (listen.ip().is_unspecified() || listen.ip() == *address)
        })
    };
    let names: BTreeSet<&str> = carried
        .iter()
        .filter(|(_, address)| !address.is_loopback() && wanted(address))
        .map(|(name, _)| name.as_str())
        .filter(|name| is_ethernet(name))
        .collect();
    names.into_iter().map(str::to_owned).collect()
}

fn is_plain_ethernet(sys: &Path, name: &str) -> bool {
    /// ARPHRD_ETHER of <linux/if_arp.h>; tun devices have none, and XDP sees no header there.
    const ARPHRD_ETHER: &str = "1";
    let device = sys.join(name);
    let kind = std::fs::read_to_string(device.join("type")).unwrap_or_default();
    kind.trim() == ARPHRD_ETHER
        && !device.join("bridge").exists()
        && !device.join("brport").exists()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn interfaces_follow_the_listen_addresses() {
        let carried: Vec<(String, IpAddr)> = [
            ("lo", "127.0.0.1"),
            ("eth0", "192.0.2.1"),
            ("eth0", "2001:db8::1"),
            ("eth1", "198.51.100.1"),
            ("tun0", "10.8.0.1"),
        ]
        .map(|(name, address)| (name.to_owned(), address.parse().unwrap()))
        .into();
        let rows: &[(&[&str], &[&str])] = &[
            (&["0.0.0.0:1"], &["eth0", "eth1"]),
            (&["[::]:1"], &["eth0"]),
            (&["198.51.100.1:1"], &["eth1"]),
            (&["127.0.0.1:1"], &[]),
            (&["10.8.0.1:1"], &[]),
        ];
        for (listen, expected) in rows {
            let addresses: Vec<SocketAddr> = listen.iter().map(|a| a.parse().unwrap()).collect();
            let chosen = select(&carried, &addresses, |name| name.starts_with("eth"));
            assert_eq!(chosen, *expected, "{listen:?}");
        }
    }
}
