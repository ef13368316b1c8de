//! Accepting: the address check again, a place, then a task of its own for each connection.
//!
//! The packet plane has judged what crossed the NIC; loopback, container bridges and tunnels
//! did not cross it, so the same prefixes, bans and admissions are judged here, before a byte is
//! read.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::time::error::Elapsed;

use super::connection;
use super::failure::{self, Failure};
use super::proxy::{self, Spoken};
use super::record::{self, Exchange};
use super::refusal::Refusal;
use super::repeats;
use super::route::{Route, Routed};
use super::shared::{Gateway, Slot};
use super::snapshot::Snapshot;
use crate::config::{Listen, holds};
use crate::event::{Event, EventKind, Outcome};
use crate::policy::{AddressPolicy, AddressRule, Denial, Reason};

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
    stream: TcpStream,
    peer: Peer,
    slot: Slot,
    listener: usize,
    speaker: Speaker,
}

/// Who is at the other end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Speaker {
    Client,
    /// One of the listener's `proxyFrom`, whose `X-Forwarded-For` is believed.
    Proxy,
}

/// A connection of which it is known for whom it speaks.
#[derive(Debug)]
pub(super) struct Identified {
    pub(super) stream: TcpStream,
    pub(super) peer: Peer,
    pub(super) listener: usize,
    pub(super) speaker: Speaker,
    /// The proxy's place and its client's.
    pub(super) slots: Vec<Slot>,
}

/// What an address may ask for at a listener.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reach {
    Everything,
    /// Only the listener's own list admits it, and that listener is there for its webhooks.
    Webhooks,
}

/// Accepts on one of `gateway.listen` until the gateway drains.
pub(super) async fn accept_all(gateway: Arc<Gateway>, listener: TcpListener, index: usize) {
    tune(&listener);
    loop {
        let accepted = tokio::select! {
            () = gateway.drain.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, address)) => match admit(&gateway, stream, address, index) {
                Ok(accepted) => {
                    gateway.figures.accepted.add();
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
    listener: usize,
) -> Result<Accepted, (Peer, Denial)> {
    let peer = Peer {
        ip: address.ip().to_canonical(),
        port: address.port(),
    };
    let snapshot = gateway.snapshot.load();
    let listen = snapshot.config.gateway.listen.get(listener);
    let is_proxy = listen.is_some_and(|listen| listen.is_proxy(peer.ip));
    let most = snapshot.max_connections();
    let (speaker, slot) = if is_proxy {
        not_banned(gateway, peer.ip).map_err(|denial| (peer, denial))?;
        (
            Speaker::Proxy,
            gateway.connections.take_for_proxy(peer.ip, most),
        )
    } else {
        reach(gateway, &snapshot, listen, peer.ip).map_err(|denial| (peer, denial))?;
        (Speaker::Client, gateway.connections.take(peer.ip, most))
    };
    let slot = slot.ok_or_else(|| (peer, too_many()))?;
    Ok(Accepted {
        stream,
        peer,
        slot,
        listener,
        speaker,
    })
}

/// Judges an address by a listener's own list, or the common one.
pub(super) fn reach(
    gateway: &Gateway,
    snapshot: &Snapshot,
    listen: Option<&Listen>,
    source: IpAddr,
) -> Result<Reach, Denial> {
    let addresses = &snapshot.policy().addresses;
    let common = gateway.timed.admit(addresses, source);
    reach_of(addresses, listen, source, common)
}

/// The same, of what the common list said of `source`.
///
/// A ban, and a deny in `security.network.rules`, hold everywhere.
pub(crate) fn reach_of(
    addresses: &AddressPolicy,
    listen: Option<&Listen>,
    source: IpAddr,
    common: Result<(), Denial>,
) -> Result<Reach, Denial> {
    let Some((listen, allowed)) = listen.and_then(|l| Some((l, l.allowed.as_ref()?))) else {
        return common.map(|()| Reach::Everything);
    };
    let is_denied = addresses
        .find(source)
        .is_some_and(|rule| rule.rule == AddressRule::Deny);
    match &common {
        Err(denial) if is_denied || denial.reason == Reason::AddressBanned => {
            return Err(denial.clone());
        }
        _ => {}
    }
    if !holds(allowed, source) {
        let rule = format!("{}.allowedIPs", listen.path);
        return Err(Denial::new(Reason::AddressNotAllowed, &rule));
    }
    Ok(if common.is_err() && !listen.bypass.is_empty() {
        Reach::Webhooks
    } else {
        Reach::Everything
    })
}

/// A proxy need not be in a list, but it can be banned by hand.
pub(super) fn not_banned(gateway: &Gateway, proxy: IpAddr) -> Result<(), Denial> {
    match gateway.admit(proxy) {
        Err(denial) if denial.reason == Reason::AddressBanned => Err(denial),
        _ => Ok(()),
    }
}

/// Judges a request's client, who behind a proxy is another one each time.
pub(super) fn admit_request(exchange: &Exchange, routed: Routed) -> Result<Routed, Refusal> {
    let listen = exchange.listen();
    match reach(
        exchange.gateway(),
        &exchange.snapshot,
        listen,
        exchange.peer().ip,
    )? {
        Reach::Webhooks if routed.route != Route::Webhook => {
            let rule = listen.map(|listen| format!("{}.bypass", listen.path));
            let rule = rule.unwrap_or_default();
            Err(Denial::new(Reason::AddressNotAllowed, &rule).into())
        }
        _ => Ok(routed),
    }
}

/// Finds out for whom a connection speaks; `None` when it may not.
pub(super) async fn identify(gateway: &Gateway, accepted: Accepted) -> Option<Identified> {
    let Accepted {
        mut stream,
        peer,
        slot,
        listener,
        speaker,
    } = accepted;
    let mut identified = match speaker {
        Speaker::Client => (peer, Speaker::Client, vec![slot]),
        Speaker::Proxy => match spoken(gateway, &mut stream).await {
            Ok(Ok(Spoken::Nothing)) => (peer, Speaker::Proxy, vec![slot]),
            Ok(Ok(Spoken::Itself)) => (peer, Speaker::Client, vec![slot]),
            Ok(Ok(Spoken::For(client))) => (client, Speaker::Client, vec![slot]),
            Err(_elapsed) => {
                failure::report(gateway, peer, Failure::ProxySlow, 1, "");
                return None;
            }
            Ok(Err(error)) => {
                failure::report(gateway, peer, Failure::Proxy, 1, &error.to_string());
                return None;
            }
        },
    };
    let (client, now, slots) = &mut identified;
    if *now == Speaker::Client && speaker == Speaker::Proxy {
        let snapshot = gateway.snapshot.load();
        let listen = snapshot.config.gateway.listen.get(listener);
        let place = match reach(gateway, &snapshot, listen, client.ip) {
            Ok(_) if client.ip == peer.ip => None,
            Ok(_) => {
                let place = gateway
                    .connections
                    .take(client.ip, snapshot.max_connections());
                if place.is_none() {
                    refuse(gateway, *client, too_many());
                    return None;
                }
                place
            }
            Err(denial) => {
                refuse(gateway, *client, denial);
                return None;
            }
        };
        slots.extend(place);
    }
    let (peer, speaker, slots) = identified;
    Some(Identified {
        stream,
        peer,
        listener,
        speaker,
        slots,
    })
}

/// What a proxy says before its client's first byte.
async fn spoken(
    gateway: &Gateway,
    stream: &mut TcpStream,
) -> Result<std::io::Result<Spoken>, Elapsed> {
    tokio::time::timeout(gateway.deadlines.tls, proxy::read_header(stream)).await
}

fn too_many() -> Denial {
    Denial::new(Reason::RateLimited, "connection limit")
}

/// Small frames go out at once, and a peer that vanished is noticed: Linux hands these options of
/// a listener on to what it accepts.
fn tune(listener: &TcpListener) {
    use rustix::net::sockopt;
    let tuned = sockopt::set_tcp_nodelay(listener, true)
        .and_then(|()| sockopt::set_socket_keepalive(listener, true))
        .and_then(|()| sockopt::set_tcp_keepidle(listener, Duration::from_mins(1)));
    if let Err(error) = tuned {
        tracing::warn!(%error, "tune a listener");
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
    repeats::report(gateway, event);
    record::count_denial(gateway, &snapshot, peer, denial.reason);
}

#[cfg(test)]
mod tests {
    use rustix::net::sockopt;

    use super::*;

    #[tokio::test]
    async fn an_accepted_connection_has_its_listeners_options() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        tune(&listener);
        let address = listener.local_addr().unwrap();
        let (_client, accepted) = tokio::join!(TcpStream::connect(address), listener.accept());
        let (stream, _) = accepted.unwrap();
        assert!(sockopt::tcp_nodelay(&stream).unwrap());
        assert!(sockopt::socket_keepalive(&stream).unwrap());
        let idle = sockopt::tcp_keepidle(&stream).unwrap();
        assert_eq!(idle, Duration::from_mins(1));
    }
}
