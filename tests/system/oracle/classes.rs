//! The cases by class: each is one TCP SYN or UDP datagram, in one frame or several.

use std::net::IpAddr;

use xtask::lab::{CLIENT_OUTSIDE, CLIENT_OUTSIDE_V6, GATEWAY_OUTSIDE, GATEWAY_OUTSIDE_V6};

use super::PORT;
use super::wire::{Envelope, Part};
use crate::kernel::random::Random;

/// One attempt to reach the protected port.
#[derive(Debug, Clone)]
pub(super) struct Case {
    pub(super) class: &'static str,
    /// Its source port, by which its arrival is known.
    pub(super) id: u16,
    pub(super) frames: Vec<Vec<u8>>,
}

const TCP: u8 = 6;
const UDP: u8 = 17;
const FIRST_ID: u16 = 10_000;

/// Every case, sent to this hardware address; `skip` keeps the ids of two rounds apart.
pub(super) fn all(gateway_mac: [u8; 6], skip: usize) -> Vec<Case> {
    let mut cases = Cases {
        gateway_mac,
        next: FIRST_ID + u16::try_from(skip).unwrap(),
        made: Vec::new(),
    };
    for v6 in [false, true] {
        for protocol in [TCP, UDP] {
            cases.headers(v6, protocol);
            cases.fragments(v6, protocol);
            cases.lengths(v6, protocol);
            cases.mutated(v6, protocol);
        }
    }
    cases.other();
    cases.made
}

struct Cases {
    gateway_mac: [u8; 6],
    next: u16,
    made: Vec<Case>,
}

impl Cases {
    /// A new envelope and the id that goes with it.
    fn envelope(&self, v6: bool) -> Envelope {
        let (source, destination) = if v6 {
            (CLIENT_OUTSIDE_V6, GATEWAY_OUTSIDE_V6)
        } else {
            (CLIENT_OUTSIDE, GATEWAY_OUTSIDE)
        };
        Envelope {
            to_mac: self.gateway_mac,
            tags: Vec::new(),
            source: source.parse().unwrap(),
            destination: destination.parse().unwrap(),
            options: Vec::new(),
            extensions: Vec::new(),
            identification: self.next,
            padding: 0,
        }
    }

    fn content(&self, envelope: &Envelope, protocol: u8, bytes: usize) -> Vec<u8> {
        if protocol == TCP {
            envelope.syn(self.next, PORT, bytes)
        } else {
            envelope.datagram(self.next, PORT, bytes)
        }
    }

    fn push(&mut self, class: &'static str, frames: Vec<Vec<u8>>) {
        let id = self.next;
        self.next += 1;
        self.made.push(Case { class, id, frames });
    }

    /// One whole frame, with something about its headers.
    fn whole(
        &mut self,
        class: &'static str,
        v6: bool,
        protocol: u8,
        edit: impl FnOnce(&mut Envelope),
    ) {
        let mut envelope = self.envelope(v6);
        edit(&mut envelope);
        let content = self.content(&envelope, protocol, 4);
        self.push(class, vec![envelope.whole(protocol, &content)]);
    }

    fn headers(&mut self, v6: bool, protocol: u8) {
        for _ in 0..8 {
            self.whole("plain", v6, protocol, |_| {});
        }
        for padding in [1, 2, 6, 18, 46, 100, 1000] {
            self.whole("padding", v6, protocol, |envelope| {
                envelope.padding = padding;
            });
        }
        for depth in 1..=5_usize {
            for kind in [0x8100_u16, 0x88a8] {
                // Priority alone, which Linux takes off without a VLAN device.
                for control in [0_u16, 0xe000] {
                    self.whole("priority tags", v6, protocol, |envelope| {
                        envelope.tags = vec![(kind, control); depth];
                    });
                }
                self.whole("VLAN tags", v6, protocol, |envelope| {
                    envelope.tags = vec![(kind, 7); depth];
                });
                self.whole("VLAN tags", v6, protocol, |envelope| {
                    envelope.tags = vec![(kind, 0); depth];
                    envelope.tags.push((0x8100, 7));
                });
            }
            self.whole("priority tags", v6, protocol, |envelope| {
                envelope.tags = (0..depth)
                    .map(|n| (if n % 2 == 0 { 0x88a8 } else { 0x8100 }, 0))
                    .collect();
            });
        }
        if v6 {
            self.extensions(protocol);
        } else {
            for words in 1..=10 {
                for fill in [1_u8, 0] {
                    self.whole("IPv4 options", v6, protocol, |envelope| {
                        envelope.options = vec![fill; words * 4];
                    });
                }
            }
            // Router alert; a time stamp; a record of the route.
            for option in [
                vec![0x94, 4, 0, 0],
                vec![68, 8, 5, 0, 0, 0, 0, 0],
                vec![7, 7, 4, 0, 0, 0, 0, 0],
            ] {
                self.whole("IPv4 options", v6, protocol, |envelope| {
                    envelope.options = option;
                });
            }
        }
    }

    fn extensions(&mut self, protocol: u8) {
        // Six bytes of padding (PadN), or an atomic fragment, or a type 2 routing header done.
        let body = |number: u8, id: u16| -> (u8, Vec<u8>) {
            let [high, low] = id.to_be_bytes();
            match number {
                44 => (44, vec![0, 0, 0, 0, 0, 0, high, low]),
                43 => (43, vec![0, 0, 2, 0, 0, 0, 0, 0]),
                51 => (51, [&[0, 4][..], &[0; 22]].concat()),
                number => (number, vec![0, 0, 1, 4, 0, 0, 0, 0]),
            }
        };
        let mut chains: Vec<Vec<u8>> = vec![
            vec![0],
            vec![60],
            vec![44],
            vec![43],
            vec![51],
            vec![135],
            vec![139],
            vec![140],
            vec![0, 60],
            vec![0, 44],
            vec![60, 44],
            vec![44, 60],
            vec![0, 60, 44],
            vec![0, 43, 60],
            vec![60, 0],
            vec![44, 44],
            vec![0, 60, 43, 44, 60],
            vec![0, 44, 60, 60],
        ];
        chains.extend((2..=8).map(|length| vec![60; length]));
        chains.extend((1..=7).map(|length| [&[0][..], &vec![60; length]].concat()));
        for chain in chains {
            self.whole("IPv6 extensions", true, protocol, |envelope| {
                let id = envelope.identification;
                envelope.extensions = chain.iter().map(|number| body(*number, id)).collect();
            });
        }
        // Long ones: headers of 8 * (1 + words) bytes of padding.
        for words in [1_u8, 3, 7, 15, 31] {
            self.whole("IPv6 extensions", true, protocol, |envelope| {
                let padding = usize::from(words) * 8 + 4;
                let padding_field = u8::try_from(padding).unwrap();
                let mut long = vec![0, words, 1, padding_field];
                long.resize(8 + usize::from(words) * 8, 0);
                envelope.extensions = vec![(60, long)];
            });
        }
    }

    fn fragments(&mut self, v6: bool, protocol: u8) {
        let part = |from, to, more| Part { from, to, more };
        let last = usize::MAX;
        let cuts: Vec<(&'static str, Vec<Part>)> = vec![
            (
                "fragments in order",
                vec![part(0, 24, true), part(24, last, false)],
            ),
            (
                "fragments in order",
                vec![part(0, 32, true), part(32, last, false)],
            ),
            (
                "fragments in order",
                vec![part(0, 24, true), part(24, 32, true), part(32, last, false)],
            ),
            (
                "fragments in order",
                vec![
                    part(0, 24, true),
                    part(24, 24 + 8, true),
                    part(32, 40, true),
                    part(40, last, false),
                ],
            ),
            (
                "fragments out of order",
                vec![part(24, last, false), part(0, 24, true)],
            ),
            (
                "fragments out of order",
                vec![part(32, last, false), part(24, 32, true), part(0, 24, true)],
            ),
            (
                "fragments out of order",
                vec![part(24, 32, true), part(0, 24, true), part(32, last, false)],
            ),
            (
                "fragments tiny",
                vec![part(0, 8, true), part(8, last, false)],
            ),
            (
                "fragments tiny",
                vec![part(8, last, false), part(0, 8, true)],
            ),
            (
                "fragments tiny",
                vec![part(0, 16, true), part(16, last, false)],
            ),
            (
                "fragments tiny",
                vec![part(0, 8, true), part(8, 16, true), part(16, last, false)],
            ),
            (
                "fragments overlapping",
                vec![part(0, 24, true), part(8, last, false)],
            ),
            (
                "fragments overlapping",
                vec![part(0, 24, true), part(16, 32, true), part(32, last, false)],
            ),
            (
                "fragments overlapping",
                vec![part(8, last, false), part(0, 24, true)],
            ),
            (
                "fragments overlapping",
                vec![part(0, 24, true), part(0, 24, true), part(24, last, false)],
            ),
            (
                "fragments overlapping",
                vec![
                    part(24, last, false),
                    part(24, last, false),
                    part(0, 24, true),
                ],
            ),
        ];
        for (class, parts) in cuts {
            for tags in [vec![], vec![(0x8100, 0)]] {
                let mut envelope = self.envelope(v6);
                envelope.tags = tags;
                let content = self.content(&envelope, protocol, 40);
                let frames = parts
                    .iter()
                    .map(|part| envelope.part(protocol, &content, *part))
                    .collect();
                self.push(class, frames);
            }
        }
        // A first fragment to another port, then one that says the protected port over it.
        for first_again in [0, 8] {
            let envelope = self.envelope(v6);
            let content = self.content(&envelope, protocol, 40);
            let mut other = content.clone();
            other[2..4].copy_from_slice(&22_u16.to_be_bytes());
            let frames = vec![
                envelope.part(protocol, &other, part(0, 24, true)),
                envelope.part(protocol, &content, part(first_again, 32, true)),
                envelope.part(protocol, &content, part(32, last, false)),
            ];
            self.push("fragments overlapping", frames);
        }
        if v6 {
            // An extension header in front of the fragment's, and one inside the first fragment.
            let mut envelope = self.envelope(v6);
            envelope.extensions = vec![(60, vec![0, 0, 1, 4, 0, 0, 0, 0])];
            let content = self.content(&envelope, protocol, 40);
            let frames = vec![
                envelope.part(protocol, &content, part(0, 24, true)),
                envelope.part(protocol, &content, part(24, last, false)),
            ];
            self.push("fragments in order", frames);
            for first in [8, 16, 32] {
                let envelope = self.envelope(v6);
                let inner = [
                    &[protocol, 0, 1, 4, 0, 0, 0, 0][..],
                    &self.content(&envelope, protocol, 40),
                ]
                .concat();
                let frames = vec![
                    envelope.part(60, &inner, part(0, first, true)),
                    envelope.part(60, &inner, part(first, last, false)),
                ];
                self.push("fragments tiny", frames);
            }
        }
    }

    /// Lengths that say less or more than is there.
    fn lengths(&mut self, v6: bool, protocol: u8) {
        for change in [-24_i16, -8, -4, -1, 0, 1, 4, 8] {
            for padding in [0, 24] {
                let mut envelope = self.envelope(v6);
                envelope.padding = padding;
                let content = self.content(&envelope, protocol, 4);
                let mut frame = envelope.whole(protocol, &content);
                let at = if v6 { 18 } else { 16 };
                let said = u16::from_be_bytes([frame[at], frame[at + 1]]);
                let says = said.wrapping_add_signed(change);
                frame[at..at + 2].copy_from_slice(&says.to_be_bytes());
                reseal_ipv4(&mut frame, v6);
                self.push("lengths", vec![frame]);
            }
        }
        // Cut short on the wire.
        for cut in [1, 4, 5, 12] {
            let envelope = self.envelope(v6);
            let content = self.content(&envelope, protocol, 4);
            let mut frame = envelope.whole(protocol, &content);
            frame.truncate(frame.len() - cut);
            self.push("lengths", vec![frame]);
        }
    }

    /// Random changes behind the ports, so that the case still knows its own arrival.
    fn mutated(&mut self, v6: bool, protocol: u8) {
        let mut random = Random(u64::from(protocol) << 1 | u64::from(v6));
        for _ in 0..200 {
            let mut envelope = self.envelope(v6);
            if random.below(3) == 0 {
                envelope.tags = vec![(*random.pick(&[0x8100, 0x88a8]), 0); 1 + random.below(3)];
            }
            if v6 && random.below(2) == 0 {
                let count = 1 + random.below(3);
                let extension = (60, vec![0, 0, 1, 4, 0, 0, 0, 0]);
                envelope.extensions = vec![extension; count];
            } else if !v6 && random.below(2) == 0 {
                envelope.options = vec![1; 4 * (1 + random.below(9))];
            }
            let content = self.content(&envelope, protocol, 4);
            let mut frame = envelope.whole(protocol, &content);
            let headers = frame.len() - content.len();
            for _ in 0..=random.below(2) {
                // Anything but the hardware addresses, and the addresses of IP.
                let at = 12 + random.below(headers - 12);
                let address = if v6 { 22..54 } else { 26..34 };
                let shift = envelope.tags.len() * 4;
                if !address.contains(&(at - shift.min(at))) {
                    frame[at] ^= 1 << random.below(8);
                }
            }
            if envelope.tags.is_empty() {
                reseal_ipv4(&mut frame, v6);
            }
            self.push("mutated", vec![frame]);
        }
    }

    fn other(&mut self) {
        for (destination, mac) in [
            ("198.51.100.255", [0xff; 6]),
            ("255.255.255.255", [0xff; 6]),
            ("224.0.0.1", [1, 0, 0x5e, 0, 0, 1]),
            ("ff02::1", [0x33, 0x33, 0, 0, 0, 1]),
        ] {
            let destination: IpAddr = destination.parse().unwrap();
            for protocol in [TCP, UDP, UDP, UDP] {
                self.whole(
                    "broadcast and multicast",
                    destination.is_ipv6(),
                    protocol,
                    |envelope| {
                        envelope.destination = destination;
                        envelope.to_mac = mac;
                    },
                );
            }
        }
        // To the host's own address by a hardware address that is everybody's.
        for v6 in [false, true] {
            for protocol in [TCP, UDP] {
                self.whole("broadcast and multicast", v6, protocol, |envelope| {
                    envelope.to_mac = [0xff; 6];
                });
            }
        }
        for source in ["::ffff:198.51.100.2", "::ffff:10.1.1.1", "::198.51.100.2"] {
            for protocol in [TCP, UDP] {
                self.whole("mapped source", true, protocol, |envelope| {
                    envelope.source = source.parse().unwrap();
                });
            }
        }
        for ethertype in [
            0x0801_u16, 0x8101, 0x8847, 0x8864, 0x88a9, 0x88e5, 0x892f, 0x894f, 0x9100, 0x9200,
            0x0026, 0x05dc, 0x0004, 0x6558,
        ] {
            for v6 in [false, true] {
                let envelope = self.envelope(v6);
                let content = self.content(&envelope, TCP, 4);
                let mut frame = envelope.whole(TCP, &content);
                let inner = frame.split_off(12);
                frame.extend(ethertype.to_be_bytes());
                // Where a tag would be, once without it.
                let mut bare = frame.clone();
                bare.extend(&inner[2..]);
                self.push("other ethertypes", vec![bare]);
                frame.extend([0, 0]);
                frame.extend(&inner);
                self.push("other ethertypes", vec![frame]);
            }
        }
        // 802.3 with SNAP: a length, LLC, and IPv4 by its own number inside.
        for v6 in [false, true] {
            let envelope = self.envelope(v6);
            let content = self.content(&envelope, TCP, 4);
            let mut frame = envelope.whole(TCP, &content);
            let inner = frame.split_off(12);
            frame.extend(u16::try_from(inner.len() + 6).unwrap().to_be_bytes());
            frame.extend([0xaa, 0xaa, 3, 0, 0, 0]);
            frame.extend(inner);
            self.push("other ethertypes", vec![frame]);
        }
    }
}

/// An IPv4 header that was changed is dropped for its checksum alone unless that is made right.
fn reseal_ipv4(frame: &mut [u8], v6: bool) {
    if v6 {
        return;
    }
    let header_bytes = usize::from(frame[14] & 0x0f) * 4;
    if header_bytes < 20 || frame.len() < 14 + header_bytes {
        return;
    }
    frame[24..26].copy_from_slice(&[0, 0]);
    let sum = super::wire::checksum(&frame[14..14 + header_bytes]);
    frame[24..26].copy_from_slice(&sum.to_be_bytes());
}
