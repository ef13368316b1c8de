//! Frames as a host would send them: lengths and checksums are right unless a case says not.

use std::net::IpAddr;

/// Where a datagram goes, and how it is wrapped.
#[derive(Debug, Clone)]
pub(super) struct Envelope {
    pub(super) to_mac: [u8; 6],
    /// Tag protocol and tag control, outermost first.
    pub(super) tags: Vec<(u16, u16)>,
    pub(super) source: IpAddr,
    pub(super) destination: IpAddr,
    /// IPv4 options, a multiple of 4 bytes.
    pub(super) options: Vec<u8>,
    /// IPv6 extension headers: number and body, whose first byte (what follows) is filled in.
    pub(super) extensions: Vec<(u8, Vec<u8>)>,
    /// Names a datagram to reassembly.
    pub(super) identification: u16,
    pub(super) padding: usize,
}

/// A fragment's place: offset in bytes, and whether more follow.
#[derive(Debug, Clone, Copy)]
pub(super) struct Part {
    pub(super) from: usize,
    pub(super) to: usize,
    pub(super) more: bool,
}

const TCP: u8 = 6;
const UDP: u8 = 17;
const FRAGMENT: u8 = 44;

impl Envelope {
    /// A whole TCP SYN with some content behind it, so that it can be cut into fragments.
    pub(super) fn syn(&self, source_port: u16, port: u16, content: usize) -> Vec<u8> {
        let mut segment = source_port.to_be_bytes().to_vec();
        segment.extend(port.to_be_bytes());
        segment.extend([0, 0, 0, 1, 0, 0, 0, 0, 0x50, 0x02, 0xff, 0xff, 0, 0, 0, 0]);
        segment.extend(vec![b'x'; content]);
        self.seal(&mut segment, TCP, 16);
        segment
    }

    pub(super) fn datagram(&self, source_port: u16, port: u16, content: usize) -> Vec<u8> {
        let mut datagram = source_port.to_be_bytes().to_vec();
        datagram.extend(port.to_be_bytes());
        datagram.extend(u16::try_from(8 + content).unwrap().to_be_bytes());
        datagram.extend([0, 0]);
        datagram.extend(vec![b'x'; content]);
        self.seal(&mut datagram, UDP, 6);
        datagram
    }

    /// Puts the checksum in its place.
    fn seal(&self, content: &mut [u8], protocol: u8, at: usize) {
        let mut pseudo = Vec::new();
        for address in [self.source, self.destination] {
            match address {
                IpAddr::V4(address) => pseudo.extend(address.octets()),
                IpAddr::V6(address) => pseudo.extend(address.octets()),
            }
        }
        pseudo.extend(u32::try_from(content.len()).unwrap().to_be_bytes());
        pseudo.extend([0, 0, 0, protocol]);
        pseudo.extend(&*content);
        let sum = match checksum(&pseudo) {
            0 => 0xffff,
            sum => sum,
        };
        content[at..at + 2].copy_from_slice(&sum.to_be_bytes());
    }

    /// The frame around a whole content.
    pub(super) fn whole(&self, protocol: u8, content: &[u8]) -> Vec<u8> {
        self.frame(protocol, content, None)
    }

    /// The frame around a part of it.
    pub(super) fn part(&self, protocol: u8, content: &[u8], part: Part) -> Vec<u8> {
        let to = part.to.min(content.len());
        self.frame(protocol, &content[part.from..to], Some(part))
    }

    fn frame(&self, protocol: u8, content: &[u8], part: Option<Part>) -> Vec<u8> {
        let mut frame = self.to_mac.to_vec();
        frame.extend([2, 0, 0, 0, 0, 9]);
        for (kind, control) in &self.tags {
            frame.extend(kind.to_be_bytes());
            frame.extend(control.to_be_bytes());
        }
        match (self.source, self.destination) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                frame.extend([8, 0]);
                let header_bytes = 20 + self.options.len();
                let mut header = vec![0x40 | u8::try_from(header_bytes / 4).unwrap(), 0];
                header.extend(
                    u16::try_from(header_bytes + content.len())
                        .unwrap()
                        .to_be_bytes(),
                );
                header.extend(self.identification.to_be_bytes());
                let place = part.map_or(0, |part| {
                    u16::try_from(part.from / 8).unwrap() | if part.more { 0x2000 } else { 0 }
                });
                header.extend(place.to_be_bytes());
                header.extend([64, protocol, 0, 0]);
                header.extend(source.octets());
                header.extend(destination.octets());
                header.extend(&self.options);
                let sum = checksum(&header);
                header[10..12].copy_from_slice(&sum.to_be_bytes());
                frame.extend(header);
                frame.extend(content);
            }
            (IpAddr::V6(source), IpAddr::V6(destination)) => {
                frame.extend([0x86, 0xdd, 0x60, 0, 0, 0]);
                let rest = self.behind_ipv6(protocol, content, part);
                frame.extend(u16::try_from(rest.len() - 1).unwrap().to_be_bytes());
                frame.extend([rest[0], 64]);
                frame.extend(source.octets());
                frame.extend(destination.octets());
                frame.extend(&rest[1..]);
            }
            _ => unreachable!("both addresses are of one family"),
        }
        frame.extend(vec![0; self.padding]);
        frame
    }

    /// The first header's number, then the headers and the content.
    fn behind_ipv6(&self, protocol: u8, content: &[u8], part: Option<Part>) -> Vec<u8> {
        let mut headers = self.extensions.clone();
        if let Some(part) = part {
            let field = u16::try_from(part.from).unwrap() | u16::from(part.more);
            let [high, low] = field.to_be_bytes();
            let [id_high, id_low] = self.identification.to_be_bytes();
            headers.push((FRAGMENT, vec![0, 0, high, low, 0, 0, id_high, id_low]));
        }
        let numbers: Vec<u8> = headers.iter().map(|(number, _)| *number).collect();
        let following = numbers.iter().skip(1).copied().chain([protocol]);
        let mut bytes = vec![numbers.first().copied().unwrap_or(protocol)];
        for ((_, mut body), next) in headers.into_iter().zip(following) {
            body[0] = next;
            bytes.extend(body);
        }
        bytes.extend(content);
        bytes
    }
}

/// RFC 1071.
pub(super) fn checksum(bytes: &[u8]) -> u16 {
    let mut sum: u32 = bytes
        .chunks(2)
        .map(|pair| u32::from(pair[0]) << 8 | u32::from(pair.get(1).copied().unwrap_or(0)))
        .sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).unwrap()
}
