//! The frame that `explain` asks about: nothing but what the question says.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// What carries the question.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Segment {
    /// TCP within a connection.
    Data,
    /// TCP that opens a connection.
    Syn,
    Udp,
}

/// Addresses of documentation ranges: the program looks at no destination address.
const TO_V4: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
const TO_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1);

/// One whole Ethernet frame from `from` to `port`. Checksums are 0: the program runs before
/// anyone computes one.
pub(super) fn build(from: SocketAddr, port: u16, segment: Segment) -> Vec<u8> {
    let mut content = Vec::with_capacity(20);
    content.extend(from.port().to_be_bytes());
    content.extend(port.to_be_bytes());
    let (protocol, flags) = match segment {
        Segment::Data => (6, 0x10),
        Segment::Syn => (6, 0x02),
        Segment::Udp => (17, 0),
    };
    if segment == Segment::Udp {
        content.extend([0, 8, 0, 0]);
    } else {
        content.extend([0, 0, 0, 1, 0, 0, 0, 0, 0x50, flags, 0xff, 0xff, 0, 0, 0, 0]);
    }

    // Locally administered addresses.
    let mut frame = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2];
    let bytes = u16::try_from(content.len()).unwrap_or(0);
    match from.ip().to_canonical() {
        IpAddr::V4(source) => {
            frame.extend([0x08, 0x00, 0x45, 0]);
            frame.extend((bytes + 20).to_be_bytes());
            frame.extend([0, 0, 0x40, 0, 64, protocol, 0, 0]);
            frame.extend(source.octets());
            frame.extend(TO_V4.octets());
        }
        IpAddr::V6(source) => {
            frame.extend([0x86, 0xdd, 0x60, 0, 0, 0]);
            frame.extend(bytes.to_be_bytes());
            frame.extend([protocol, 64]);
            frame.extend(source.octets());
            frame.extend(TO_V6.octets());
        }
    }
    frame.extend(content);
    frame
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_whole() {
        for (from, segment, length, ethertype) in [
            ("10.0.0.1:5", Segment::Syn, 54, [8, 0]),
            ("[::ffff:10.0.0.1]:5", Segment::Data, 54, [8, 0]),
            ("[2001:db8::9]:5", Segment::Data, 74, [0x86, 0xdd]),
            ("10.0.0.1:5", Segment::Udp, 42, [8, 0]),
        ] {
            let frame = build(from.parse().unwrap(), 8443, segment);
            assert_eq!(frame.len(), length, "{from}");
            assert_eq!(frame[12..14], ethertype, "{from}");
            let ports = &frame[length - if segment == Segment::Udp { 8 } else { 20 }..];
            assert_eq!(ports[..4], [0, 5, 0x20, 0xfb], "{from}");
        }
    }
}
