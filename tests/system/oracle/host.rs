//! Two hosts on a wire: one listens, the other sends raw frames and watches for answers.
//!
//! nix's `getifaddrs` gives an interface's packet address, so that a packet socket is bound to it
//! without a line of unsafe code.

use std::collections::HashSet;
use std::fs::File;
use std::io::ErrorKind;
use std::net::{TcpListener, UdpSocket};
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::time::{Duration, Instant};

use nix::ifaddrs::getifaddrs;
use nix::sys::socket::{
    AddressFamily, LinkAddr, MsgFlags, SockFlag, SockProtocol, SockType, bind, recv, send,
    setsockopt, socket, sockopt,
};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use xtask::lab::{Host, Lab};

use super::PORT;
use super::classes::Case;

pub(super) struct Hosts {
    _lab: Lab,
    pub(super) gateway_mac: [u8; 6],
    sender: OwnedFd,
    /// Accepting is not needed: a SYN that is answered was delivered.
    _listener: TcpListener,
    datagrams: UdpSocket,
}

impl Hosts {
    pub(super) fn new(name: &str) -> Self {
        let lab = Lab::new(name).expect("make the namespaces");
        let (listener, datagrams, mac) = inside(&lab, Host::Gateway, || {
            let listener = TcpListener::bind(("::", PORT)).expect("listen");
            let datagrams = UdpSocket::bind(("::", PORT)).expect("bind");
            datagrams.set_nonblocking(true).expect("set non-blocking");
            setsockopt(&datagrams, sockopt::RcvBuf, &(4 << 20)).expect("widen the buffer");
            let mac = address_of("outside").addr().expect("a hardware address");
            (listener, datagrams, mac)
        });
        let sender = inside(&lab, Host::Outside, || {
            let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
            let sender = socket(
                AddressFamily::Packet,
                SockType::Raw,
                flags,
                SockProtocol::EthAll,
            )
            .expect("open a packet socket");
            bind(sender.as_raw_fd(), &address_of("eth0")).expect("bind to the wire");
            sender
        });
        // Both ends ask for each other's hardware address now and not in the midst of a burst.
        for address in [xtask::lab::GATEWAY_OUTSIDE, xtask::lab::GATEWAY_OUTSIDE_V6] {
            let _told = inside(&lab, Host::Outside, || {
                std::net::TcpStream::connect_timeout(
                    &std::net::SocketAddr::new(address.parse().unwrap(), PORT),
                    Duration::from_secs(2),
                )
            });
        }
        Self {
            _lab: lab,
            gateway_mac: mac,
            sender,
            _listener: listener,
            datagrams,
        }
    }

    /// Sends the frames that pass, case by case; the ids of the cases that were delivered.
    pub(super) fn send_all(
        &self,
        cases: &[Case],
        mut passes: impl FnMut(&[u8]) -> bool,
    ) -> HashSet<u16> {
        let mut delivered = HashSet::new();
        self.gather(&mut delivered, Duration::from_millis(50));
        delivered.clear();
        for batch in cases.chunks(32) {
            for frame in batch.iter().flat_map(|case| &case.frames) {
                if passes(frame) {
                    let sent = send(self.sender.as_raw_fd(), frame, MsgFlags::empty());
                    assert_eq!(sent, Ok(frame.len()), "send a frame");
                }
            }
            self.gather(&mut delivered, Duration::from_millis(1));
        }
        self.gather(&mut delivered, Duration::from_millis(500));
        delivered
    }

    /// Reads answers and datagrams until none has come for this long.
    fn gather(&self, delivered: &mut HashSet<u16>, quiet: Duration) {
        let mut buffer = vec![0; 4096];
        let mut last = Instant::now();
        while last.elapsed() < quiet {
            let mut read = false;
            while let Ok(length) = recv(self.sender.as_raw_fd(), &mut buffer, MsgFlags::empty()) {
                delivered.extend(answered(&buffer[..length]));
                read = true;
            }
            loop {
                match self.datagrams.recv_from(&mut buffer) {
                    Ok((_, from)) => {
                        delivered.insert(from.port());
                        read = true;
                    }
                    Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                    Err(error) => panic!("receive: {error}"),
                }
            }
            if read {
                last = Instant::now();
            } else {
                std::thread::yield_now();
            }
        }
    }
}

/// The port that a SYN with ACK from the protected port goes to.
fn answered(frame: &[u8]) -> Option<u16> {
    let (protocol, segment) = match frame.get(12..14)? {
        [0x08, 0x00] => (frame.get(23)?, frame.get(34..)?),
        [0x86, 0xdd] => (frame.get(20)?, frame.get(54..)?),
        _ => return None,
    };
    let [from_high, from_low, to_high, to_low] = *segment.first_chunk()?;
    let is_answer = *protocol == 6
        && u16::from_be_bytes([from_high, from_low]) == PORT
        && segment.get(13)? & 0x12 == 0x12;
    is_answer.then_some(u16::from_be_bytes([to_high, to_low]))
}

/// Runs in a host's network, on a thread of its own; sockets stay in that network.
fn inside<T: Send>(lab: &Lab, host: Host, run: impl FnOnce() -> T + Send) -> T {
    let namespace = File::open(lab.path(host)).expect("open the namespace");
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))
                .expect("enter the namespace");
            run()
        });
        thread.join().expect("the host's thread")
    })
}

fn address_of(interface: &str) -> LinkAddr {
    getifaddrs()
        .expect("list the interfaces")
        .filter(|entry| entry.interface_name == interface)
        .find_map(|entry| entry.address?.as_link_addr().copied())
        .expect("the interface has a packet address")
}
