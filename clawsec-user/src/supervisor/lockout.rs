//! The guard against locking oneself out: SSH sessions that a policy would cut off.
//!
//! A session is known by `SSH_CONNECTION` of the shell that starts clawsec (which `sudo` removes),
//! and by the kernel's table of TCP connections, as far as they belong to a process called `sshd`.

use std::collections::HashSet;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;

use ipnet::IpNet;

use crate::config::Config;

/// Someone at a shell on this machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Session {
    pub peer: IpAddr,
    /// The port on this machine.
    pub port: u16,
}

/// The operators' sessions, as far as they can be known.
pub fn sessions(ssh_connection: Option<&str>) -> Vec<Session> {
    let mut sessions: Vec<Session> = ssh_connection.and_then(of_shell).into_iter().collect();
    let proc = Path::new("/proc");
    let table: Vec<(Session, u64)> = ["net/tcp", "net/tcp6"]
        .iter()
        .filter_map(|name| fs::read_to_string(proc.join(name)).ok())
        .flat_map(|table| established(&table))
        .collect();
    if !table.is_empty() {
        let owned = sockets_of_sshd(proc);
        let held = table.into_iter().filter(|(_, inode)| owned.contains(inode));
        sessions.extend(held.map(|(session, _)| session));
    }
    sessions
}

/// The first session that the policy would cut off.
pub fn locked_out(config: &Config, sessions: &[Session]) -> Option<Session> {
    if config.packets.observe {
        return None;
    }
    sessions.iter().copied().find(|session| {
        let judged = config.packets.tcp_ports.contains(&session.port);
        // Loopback never crosses the NIC.
        judged
            && !session.peer.is_loopback()
            && config.policy.addresses.admit(session.peer).is_err()
    })
}

/// The first session that a ban of `prefix` would cut off.
pub fn cut_off_by_ban(config: &Config, sessions: &[Session], prefix: IpNet) -> Option<Session> {
    let cut_off = |session: &Session| {
        prefix.contains(&session.peer)
            && !session.peer.is_loopback()
            && config.packets.tcp_ports.contains(&session.port)
    };
    let mut sessions = sessions.iter().copied();
    sessions.find(|session| !config.packets.observe && cut_off(session))
}

/// What to do about it.
pub fn remedy(session: Session) -> String {
    let Session { peer, port } = session;
    format!(
        "this policy would cut off the SSH session from {peer}: port {port} is protected, and no \
         rule admits {peer}. Add \"{peer}\" to security.network.allowedIPs, or start with \
         --confirm SECONDS, which takes the policy back unless you confirm it, or with --yes"
    )
}

/// `SSH_CONNECTION`: peer, its port, our address, our port.
fn of_shell(connection: &str) -> Option<Session> {
    let mut words = connection.split(' ');
    let peer: IpAddr = words.next()?.parse().ok()?;
    let port = words.nth(2)?.parse().ok()?;
    Some(Session {
        peer: peer.to_canonical(),
        port,
    })
}

/// The established rows of `/proc/net/tcp` or `tcp6`, with their sockets' inodes.
fn established(table: &str) -> Vec<(Session, u64)> {
    const ESTABLISHED: &str = "01";
    let row = |line: &str| {
        let mut words = line.split_whitespace();
        let local = words.nth(1)?;
        let remote = words.next()?;
        if words.next()? != ESTABLISHED {
            return None;
        }
        let inode = words.nth(5)?.parse().ok()?;
        let (_, port) = local.split_once(':')?;
        let (peer, _) = remote.split_once(':')?;
        let session = Session {
            peer: address(peer)?,
            port: u16::from_str_radix(port, 16).ok()?,
        };
        Some((session, inode))
    };
    table.lines().skip(1).filter_map(row).collect()
}

/// The table shows addresses as words of 32 bits in the machine's own byte order.
fn address(hex: &str) -> Option<IpAddr> {
    let word = |at: usize| {
        let digits = hex.get(at..at + 8)?;
        u32::from_str_radix(digits, 16).ok().map(u32::to_ne_bytes)
    };
    match hex.len() {
        8 => Some(Ipv4Addr::from(word(0)?).into()),
        32 => {
            let words = [word(0)?, word(8)?, word(16)?, word(24)?].concat();
            let octets: [u8; 16] = words.try_into().ok()?;
            Some(IpAddr::from(Ipv6Addr::from(octets)).to_canonical())
        }
        _ => None,
    }
}

/// Inodes of the sockets that processes called `sshd`, `sshd-session` and the like hold.
fn sockets_of_sshd(proc: &Path) -> HashSet<u64> {
    let mut inodes = HashSet::new();
    for process in fs::read_dir(proc).into_iter().flatten().flatten() {
        let path = process.path();
        let name = fs::read_to_string(path.join("comm")).unwrap_or_default();
        if !name.starts_with("sshd") {
            continue;
        }
        for descriptor in fs::read_dir(path.join("fd"))
            .into_iter()
            .flatten()
            .flatten()
        {
            let Ok(target) = fs::read_link(descriptor.path()) else {
                continue;
            };
            let inode: Option<u64> = target.to_str().and_then(|target| {
                target
                    .strip_prefix("socket:[")?
                    .strip_suffix(']')?
                    .parse()
                    .ok()
            });
            inodes.extend(inode);
        }
    }
    inodes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_shell_s_and_the_kernel_s_word() {
        let session = |peer: &str, port| Session {
            peer: peer.parse().unwrap(),
            port,
        };
        assert_eq!(
            of_shell("203.0.113.5 51234 192.0.2.1 22"),
            Some(session("203.0.113.5", 22))
        );
        assert_eq!(
            of_shell("2001:db8::5 51234 2001:db8::1 2222"),
            Some(session("2001:db8::5", 2222))
        );
        for wrong in ["", "203.0.113.5", "203.0.113.5 1 192.0.2.1", "x 1 y 2"] {
            assert_eq!(of_shell(wrong), None, "{wrong:?}");
        }
        // As little-endian machines show them; the tests' own are that.
        let table = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n\
            0: 00000000:0016 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 11 1 0\n\
            1: 010200C0:0016 057100CB:C822 01 00000000:00000000 02:000A7D8C 00000000     0        0 4711 2 0\n";
        assert_eq!(
            established(table),
            [(session("203.0.113.5", 22), 4711)],
            "a listener is no session"
        );
        assert_eq!(
            address("0000000000000000FFFF0000057100CB"),
            Some("203.0.113.5".parse().unwrap()),
            "an IPv4 peer of an IPv6 socket"
        );
    }
}
