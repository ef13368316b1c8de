//! The listening sockets: bound before anything else is touched, listening last.
//!
//! A bound socket holds its port and refuses connections, so a taken port is found before the
//! packet filter is attached, and no connection is taken before it is. A socket of systemd's
//! listens already: what comes meanwhile waits in it.

use std::net::{SocketAddr, TcpListener};
use std::os::fd::OwnedFd;

use rustix::net::{AddressFamily, SocketFlags, SocketType, ipproto, sockopt};

use super::inherited::{Inherited, InheritedError};

#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    #[error("listen on {address}")]
    Bind {
        address: SocketAddr,
        #[source]
        source: std::io::Error,
    },
    #[error("use the sockets that systemd hands over")]
    Inherited(#[from] InheritedError),
}

/// Sockets that hold their ports; those that were bound here do not listen yet.
#[derive(Debug)]
pub(super) struct Bound(Vec<(SocketAddr, OwnedFd)>);

impl Bound {
    pub(super) fn listen(self) -> Result<Vec<TcpListener>, ListenError> {
        let listen = |(address, socket): (SocketAddr, OwnedFd)| {
            let failed = |error: rustix::io::Errno| ListenError::Bind {
                address,
                source: error.into(),
            };
            // An inherited one keeps the backlog of its unit.
            if !sockopt::socket_acceptconn(&socket).map_err(failed)? {
                rustix::net::listen(&socket, BACKLOG).map_err(failed)?;
            }
            Ok(TcpListener::from(socket))
        };
        self.0.into_iter().map(listen).collect()
    }
}

/// Binds every address that no inherited socket listens on, or none.
///
/// An IPv6 socket takes IPv6 only, so that `[::]:8443` and `0.0.0.0:8443` can stand side by side
/// and a peer's family is never in doubt.
pub(super) fn bind_all(
    addresses: impl IntoIterator<Item = SocketAddr>,
    mut inherited: Inherited,
) -> Result<Bound, ListenError> {
    let hold = |address: SocketAddr| {
        let socket = match inherited.take(address) {
            Some(socket) => socket,
            None => bind(address).map_err(|source| ListenError::Bind { address, source })?,
        };
        Ok((address, socket))
    };
    let bound = addresses
        .into_iter()
        .map(hold)
        .collect::<Result<_, ListenError>>()?;
    inherited.finish()?;
    Ok(Bound(bound))
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

    #[test]
    fn a_bound_port_refuses_until_it_listens() {
        let probe = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = probe.local_addr().unwrap();
        drop(probe);
        let bound = bind_all([address], Inherited::default()).unwrap();
        assert!(std::net::TcpStream::connect(address).is_err());
        let _listeners = bound.listen().unwrap();
        assert!(std::net::TcpStream::connect(address).is_ok());
    }

    #[test]
    fn a_taken_port_names_the_address() {
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = taken.local_addr().unwrap();
        let error = bind_all([address], Inherited::default()).err().unwrap();
        assert_eq!(error.to_string(), format!("listen on {address}"));
    }

    #[test]
    fn an_inherited_socket_is_used_and_the_rest_is_bound() {
        let ours = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = ours.local_addr().unwrap();
        let waiting = std::net::TcpStream::connect(address).unwrap();
        let inherited = Inherited::of_one(ours.try_clone().unwrap());
        let addresses = ["127.0.0.1:0".parse().unwrap(), address];
        let listeners = bind_all(addresses, inherited).unwrap().listen().unwrap();
        assert_ne!(listeners[0].local_addr().unwrap(), address);
        assert_eq!(listeners[1].local_addr().unwrap(), address);
        let (_, peer) = listeners[1].accept().unwrap();
        assert_eq!(peer, waiting.local_addr().unwrap(), "it waited");
        let unnamed = Inherited::of_one(ours);
        let told = bind_all(addresses[..1].to_vec(), unnamed).unwrap_err();
        assert!(matches!(told, ListenError::Inherited(_)), "{told}");
    }
}
