//! Accepting: the address check again, a place, then a task of its own for each connection.
//!
//! The packet plane has judged what crossed the NIC; loopback, container bridges and tunnels
//! did not cross it, so the same prefixes, bans and admissions are judged here, before a byte is
//! read.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};

use super::connection;
use super::record;
use super::shared::{Gateway, Slot};
use crate::event::{Event, EventKind, Outcome};
use crate::policy::{Denial, Reason};

/// The other end of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Peer {
    /// IPv4-mapped IPv6 addresses are already IPv4 here.
    pub(super) ip: IpAddr,
    pub(super) port: u16,
}

/// A connection whose source may connect.
#[derive(Debug)]
pub(super) struct Accepted {
    pub(super) stream: TcpStream,
    pub(super) peer: Peer,
    pub(super) slot: Slot,
}

/// Accepts until the gateway drains.
pub(super) async fn accept_all(gateway: Arc<Gateway>, listener: TcpListener) {
    loop {
        let accepted = tokio::select! {
            () = gateway.drain.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, address)) => match admit(&gateway, stream, address) {
                Ok(accepted) => {
                    // A task of its own: what one connection does to it stays its own.
                    gateway
                        .tasks
                        .spawn(connection::serve(Arc::clone(&gateway), accepted));
                }
                Err((peer, denial)) => refuse(&gateway, peer, denial),
            },
            Err(error) => {
                tracing::warn!(%error, "accept");
                // Out of descriptors or memory: a pause, not a spin.
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
}

fn admit(
    gateway: &Gateway,
    stream: TcpStream,
    address: SocketAddr,
) -> Result<Accepted, (Peer, Denial)> {
    let peer = Peer {
        ip: address.ip().to_canonical(),
        port: address.port(),
    };
    gateway.admit(peer.ip).map_err(|denial| (peer, denial))?;
    let slot = gateway
        .connections
        .take(peer.ip)
        .ok_or_else(|| (peer, Denial::new(Reason::RateLimited, "connection limit")))?;
    tune(&stream);
    Ok(Accepted { stream, peer, slot })
}

/// Small frames go out at once, and a peer that vanished is noticed.
fn tune(stream: &TcpStream) {
    let tuned = stream.set_nodelay(true).and_then(|()| {
        rustix::net::sockopt::set_socket_keepalive(stream, true)?;
        rustix::net::sockopt::set_tcp_keepidle(stream, Duration::from_mins(1))?;
        Ok(())
    });
    if let Err(error) = tuned {
        tracing::debug!(%error, "tune a connection");
    }
}

fn refuse(gateway: &Gateway, peer: Peer, denial: Denial) {
    let snapshot = gateway.snapshot.load();
    let mut event = Event::new(
        EventKind::Network,
        "accept",
        Outcome::Deny,
        denial.reason.as_str(),
    );
    event.rule = Some(denial.rule);
    event.generation = snapshot.generation();
    event.source = Some(peer.ip);
    event.port = Some(peer.port);
    gateway.link.report(event);
    record::count_denial(gateway, &snapshot, peer, denial.reason);
}
