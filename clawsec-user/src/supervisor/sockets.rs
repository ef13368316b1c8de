//! The kernel's table of TCP sockets, and which process holds which.

use std::collections::HashSet;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};

/// One row of `/proc/net/tcp` or `tcp6`; IPv4-mapped addresses are IPv4 ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Socket {
    pub local: SocketAddr,
    pub peer: SocketAddr,
    /// As `include/net/tcp_states.h` numbers them.
    state: u8,
    pub inode: u64,
}

impl Socket {
    pub fn is_established(&self) -> bool {
        self.state == 1
    }

    pub fn is_listening(&self) -> bool {
        self.state == 10
    }
}

/// All rows that can be read. `proc` is `/proc`, or a process' folder in it for what its network
/// namespace has.
pub fn table(proc: &Path) -> Vec<Socket> {
    ["net/tcp", "net/tcp6"]
        .iter()
        .filter_map(|name| fs::read_to_string(proc.join(name)).ok())
        .flat_map(|table| rows(&table))
        .collect()
}

/// The processes of `/proc`: number and folder.
pub fn processes(proc: &Path) -> Vec<(u32, PathBuf)> {
    let entries = fs::read_dir(proc).into_iter().flatten().flatten();
    entries
        .filter_map(|entry| {
            let pid = entry.file_name().to_str()?.parse().ok()?;
            Some((pid, entry.path()))
        })
        .collect()
}

/// Inodes of the sockets that a process holds; none where its folder cannot be read.
pub fn held_by(process: &Path) -> HashSet<u64> {
    let descriptors = fs::read_dir(process.join("fd"));
    let descriptors = descriptors.into_iter().flatten().flatten();
    descriptors
        .filter_map(|descriptor| {
            let target = fs::read_link(descriptor.path()).ok()?;
            let digits = target
                .to_str()?
                .strip_prefix("socket:[")?
                .strip_suffix(']')?;
            digits.parse().ok()
        })
        .collect()
}

fn rows(table: &str) -> Vec<Socket> {
    let row = |line: &str| {
        let mut words = line.split_whitespace();
        let local = endpoint(words.nth(1)?)?;
        let peer = endpoint(words.next()?)?;
        let state = u8::from_str_radix(words.next()?, 16).ok()?;
        let inode = words.nth(5)?.parse().ok()?;
        Some(Socket {
            local,
            peer,
            state,
            inode,
        })
    };
    table.lines().skip(1).filter_map(row).collect()
}

fn endpoint(text: &str) -> Option<SocketAddr> {
    let (ip, port) = text.split_once(':')?;
    let port = u16::from_str_radix(port, 16).ok()?;
    Some(SocketAddr::new(address(ip)?, port))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_s_table_is_read() {
        // As little-endian machines show it; the tests' own are that.
        let table = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n\
            0: 00000000:0016 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 11 1 0\n\
            1: 010200C0:0016 057100CB:C822 01 00000000:00000000 02:000A7D8C 00000000     0        0 4711 2 0\n";
        let read = rows(table);
        assert_eq!(read.len(), 2);
        assert!(read[0].is_listening() && !read[0].is_established());
        assert_eq!(read[0].local, "0.0.0.0:22".parse().unwrap());
        assert!(read[1].is_established());
        assert_eq!(read[1].peer, "203.0.113.5:51234".parse().unwrap());
        assert_eq!(read[1].inode, 4711);
        assert_eq!(
            address("0000000000000000FFFF0000057100CB"),
            Some("203.0.113.5".parse().unwrap()),
            "an IPv4 peer of an IPv6 socket"
        );
    }
}
