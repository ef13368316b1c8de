//! Hand-made frames.

use std::net::IpAddr;

/// A frame under construction, outermost header first.
#[derive(Debug, Clone)]
pub(crate) struct Frame(pub(crate) Vec<u8>);

pub(crate) const SYN: u8 = 0x02;
pub(crate) const ACK: u8 = 0x10;

/// What surrounds a TCP or UDP header.
#[derive(Debug, Clone)]
pub(crate) struct Shape {
    pub(crate) vlan_tags: usize,
    /// 802.1ad instead of 802.1Q.
    pub(crate) service_tags: bool,
    /// IPv4 options, in words of 4 bytes.
    pub(crate) option_words: u8,
    /// IPv4 fragment offset in units of 8 bytes.
    pub(crate) fragment_offset: u16,
    pub(crate) more_fragments: bool,
    /// IPv6 extension headers by number, each of its shortest form.
    pub(crate) extensions: Vec<u8>,
    /// Bytes of the datagram's content that are kept; the header says the same.
    pub(crate) content_bytes: usize,
    /// Bytes of padding after the datagram.
    pub(crate) padding: usize,
}

impl Default for Shape {
    fn default() -> Self {
        Self {
            vlan_tags: 0,
            service_tags: false,
            option_words: 0,
            fragment_offset: 0,
            more_fragments: false,
            extensions: Vec::new(),
            content_bytes: usize::MAX,
            padding: 0,
        }
    }
}

impl Frame {
    /// A TCP segment from `source` to `port`.
    pub(crate) fn tcp(source: &str, port: u16, flags: u8) -> Self {
        Self::shaped(&Shape::default(), source, 6, &tcp_header(port, flags))
    }

    pub(crate) fn udp(source: &str, port: u16) -> Self {
        let mut header = vec![0x9c, 0x40];
        header.extend(port.to_be_bytes());
        header.extend([0, 8, 0, 0]);
        Self::shaped(&Shape::default(), source, 17, &header)
    }

    pub(crate) fn shaped(shape: &Shape, source: &str, protocol: u8, content: &[u8]) -> Self {
        let source: IpAddr = source.parse().unwrap();
        let content = &content[..content.len().min(shape.content_bytes)];
        let (ethertype, datagram) = match source {
            IpAddr::V4(source) => (0x0800_u16, ipv4(shape, source.octets(), protocol, content)),
            IpAddr::V6(source) => (0x86dd, ipv6(shape, source.octets(), protocol, content)),
        };
        let mut frame = vec![2; 12];
        let tag: u16 = if shape.service_tags { 0x88a8 } else { 0x8100 };
        for _ in 0..shape.vlan_tags {
            frame.extend(tag.to_be_bytes());
            frame.extend([0, 7]);
        }
        frame.extend(ethertype.to_be_bytes());
        frame.extend(datagram);
        frame.extend(vec![0xff; shape.padding]);
        Self(frame)
    }

    pub(crate) fn cut(mut self, bytes: usize) -> Self {
        self.0.truncate(bytes);
        self
    }
}

pub(crate) fn tcp_header(port: u16, flags: u8) -> Vec<u8> {
    let mut header = vec![0x9c, 0x40];
    header.extend(port.to_be_bytes());
    header.extend([0, 0, 0, 1, 0, 0, 0, 0, 0x50, flags, 0xff, 0xff, 0, 0, 0, 0]);
    header
}

fn ipv4(shape: &Shape, source: [u8; 4], protocol: u8, content: &[u8]) -> Vec<u8> {
    let header_bytes = 20 + 4 * usize::from(shape.option_words);
    let total = u16::try_from(header_bytes + content.len()).unwrap();
    let fragment = shape.fragment_offset | if shape.more_fragments { 0x2000 } else { 0 };
    let mut datagram = vec![0x45 + shape.option_words, 0];
    datagram.extend(total.to_be_bytes());
    datagram.extend([0, 1]);
    datagram.extend(fragment.to_be_bytes());
    datagram.extend([64, protocol, 0, 0]);
    datagram.extend(source);
    datagram.extend([198, 51, 100, 1]);
    datagram.extend(vec![1; header_bytes - 20]);
    datagram.extend(content);
    datagram
}

fn ipv6(shape: &Shape, source: [u8; 16], protocol: u8, content: &[u8]) -> Vec<u8> {
    let mut rest = Vec::new();
    let following = shape.extensions.iter().skip(1).copied().chain([protocol]);
    for (extension, next) in shape.extensions.iter().zip(following) {
        match extension {
            44 => {
                let more = u16::from(shape.more_fragments);
                rest.extend([next, 0]);
                rest.extend((shape.fragment_offset << 3 | more).to_be_bytes());
                rest.extend([0, 0, 0, 1]);
            }
            // Authentication counts words of 4 bytes less 2: this is one of 24 bytes.
            51 => rest.extend([&[next, 4][..], &[0; 22]].concat()),
            _ => rest.extend([next, 0, 1, 4, 0, 0, 0, 0]),
        }
    }
    rest.extend(content);
    let first = shape.extensions.first().copied().unwrap_or(protocol);
    let mut datagram = vec![0x60, 0, 0, 0];
    datagram.extend(u16::try_from(rest.len()).unwrap().to_be_bytes());
    datagram.extend([first, 64]);
    datagram.extend(source);
    datagram.extend(
        "2001:db8:ffff::1"
            .parse::<std::net::Ipv6Addr>()
            .unwrap()
            .octets(),
    );
    datagram.extend(rest);
    datagram
}
