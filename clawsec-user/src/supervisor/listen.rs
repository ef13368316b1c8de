//! The listening sockets: bound before anything else is touched, listening last.
//!
//! A bound socket holds its port and refuses connections, so a taken port is found before the
//! packet filter is attached, and no connection is taken before it is.

use std::net::{SocketAddr, TcpListener};
use std::os::fd::OwnedFd;

use rustix::net::{AddressFamily, SocketFlags, SocketType, ipproto, sockopt};

use crate::config::Listen;

#[derive(Debug, thiserror::Error)]
#[error("listen on {address}")]
pub struct ListenError {
    address: SocketAddr,
    #[source]
    source: std::io::Error,
}

/// Sockets that hold their ports and do not listen yet.
pub(super) struct Bound(Vec<(SocketAddr, OwnedFd)>);

impl Bound {
    pub(super) fn listen(self) -> Result<Vec<TcpListener>, ListenError> {
        let listen = |(address, socket): (SocketAddr, OwnedFd)| {
            rustix::net::listen(&socket, BACKLOG).map_err(|error| ListenError {
                address,
                source: error.into(),
            })?;
            Ok(TcpListener::from(socket))
        };
        self.0.into_iter().map(listen).collect()
    }
}

/// Binds every address, or none.
///
/// An IPv6 socket takes IPv6 only, so that `[::]:8443` and `0.0.0.0:8443` can stand side by side
/// and a peer's family is never in doubt.
pub(super) fn bind_all(entries: &[Listen]) -> Result<Bound, ListenError> {
    let bind = |entry: &Listen| {
        let socket = bind(entry.address).map_err(|source| ListenError {
            address: entry.address,
            source,
        })?;
        Ok((entry.address, socket))
    };
    entries
        .iter()
        .map(bind)
        .collect::<Result<_, _>>()
        .map(Bound)
}

fn bind(address: SocketAddr) -> std::io::Result<OwnedFd> {
    let family = if address.is_ipv4() {
        AddressFamily::INET
    } else {
        AddressFamily::INET6
    };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket: OwnedFd =
        rustix::net::socket_with(family, SocketType::STREAM, flags, Some(ipproto::TCP))?;
    sockopt::set_socket_reuseaddr(&socket, true)?;
    if address.is_ipv6() {
        sockopt::set_ipv6_v6only(&socket, true)?;
    }
    rustix::net::bind(&socket, &address)?;
    Ok(socket)
}

/// The kernel caps it at net.core.somaxconn.
const BACKLOG: i32 = 1024;

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(address: &str) -> Listen {
        Listen::plain(address.parse().unwrap())
    }

    #[test]
    fn a_bound_port_refuses_until_it_listens() {
        let probe = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = probe.local_addr().unwrap();
        drop(probe);
        let bound = bind_all(&[entry(&address.to_string())]).unwrap();
        assert!(std::net::TcpStream::connect(address).is_err());
        let _listeners = bound.listen().unwrap();
        assert!(std::net::TcpStream::connect(address).is_ok());
    }

    #[test]
    fn a_taken_port_names_the_address() {
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = taken.local_addr().unwrap();
        let error = bind_all(&[entry(&address.to_string())]).err().unwrap();
        assert_eq!(error.to_string(), format!("listen on {address}"));
    }
}
