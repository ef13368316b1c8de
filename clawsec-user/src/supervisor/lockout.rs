//! The guard against locking oneself out: SSH sessions that a policy would cut off.
//!
//! A session is known by `SSH_CONNECTION` of the shell that starts clawsec (which `sudo` removes),
//! and by the kernel's table of TCP connections, as far as they belong to a process called `sshd`.

use std::collections::HashSet;
use std::net::IpAddr;
use std::path::Path;

use ipnet::IpNet;

use super::sockets::{self, Socket};
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
    let mut table = sockets::table(proc);
    table.retain(Socket::is_established);
    if !table.is_empty() {
        let owned = sockets_of_sshd(proc);
        let held = table.iter().filter(|socket| owned.contains(&socket.inode));
        sessions.extend(held.map(|socket| Session {
            peer: socket.peer.ip(),
            port: socket.local.port(),
        }));
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

/// Inodes of the sockets that processes called `sshd`, `sshd-session` and the like hold.
fn sockets_of_sshd(proc: &Path) -> HashSet<u64> {
    let processes = sockets::processes(proc).into_iter();
    processes
        .filter(|(_, process)| {
            let name = std::fs::read_to_string(process.join("comm")).unwrap_or_default();
            name.starts_with("sshd")
        })
        .flat_map(|(_, process)| sockets::held_by(&process))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_shell_s_word() {
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
    }
}
