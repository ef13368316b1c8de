//! Rows at the edges of the formats: every length a header can say, every place a frame can be
//! cut, every set of flags, and what looks like a port where none is. At both hooks.

use clawsec_common::reason::Reason;

use super::both::{Both, HOOKS};
use super::frame::{ACK, Frame, SYN, Shape, tcp_header};

const PORT: u16 = 8443;
const OUT: &str = "9.9.9.9";
const OUT6: &str = "2001:db9::1";

fn tcp() -> Vec<u8> {
    [tcp_header(PORT, ACK), vec![0; 12]].concat()
}

/// An IPv6 frame from `source` whose extension headers, or whatever comes after its own, are
/// these bytes; the first of them is of type `first`.
fn v6(source: &str, first: u8, rest: &[u8]) -> Frame {
    let mut frame = Frame::shaped(&Shape::default(), source, first, rest);
    frame.0[18..20].copy_from_slice(&u16::try_from(rest.len()).unwrap().to_be_bytes());
    frame
}

#[test]
fn every_place_that_shaped_frames_can_be_cut_at() {
    let d = Shape::default;
    let more = |shape: Shape| Shape {
        more_fragments: true,
        ..shape
    };
    let tags = |vlan_tags| Shape {
        vlan_tags,
        ..Shape::default()
    };
    let words = |option_words| Shape {
        option_words,
        ..Shape::default()
    };
    let chain = |extensions: &[u8]| Shape {
        extensions: extensions.to_vec(),
        ..Shape::default()
    };
    // Name, source, shape, bytes that must be there to know that more fragments come (none where
    // none do), bytes of all headers up to and with the flags.
    let rows = [
        ("4 tags", OUT, tags(4), None, 14 + 16 + 20 + 14),
        ("4 tags, IPv6", OUT6, tags(4), None, 14 + 16 + 40 + 14),
        ("10 words of options", OUT, words(10), None, 14 + 60 + 14),
        ("first fragment", OUT, more(d()), Some(34), 14 + 20 + 14),
        (
            "first fragment with options",
            OUT,
            more(words(3)),
            Some(34),
            14 + 32 + 14,
        ),
        ("hop-by-hop", OUT6, chain(&[0]), None, 14 + 40 + 8 + 14),
        (
            "authentication",
            OUT6,
            chain(&[51]),
            None,
            14 + 40 + 24 + 14,
        ),
        (
            "six kinds",
            OUT6,
            chain(&[0, 60, 43, 51, 60, 135]),
            None,
            14 + 40 + 64 + 14,
        ),
        // The fragment's fields are in the first 4 bytes of its header.
        (
            "first fragment, IPv6",
            OUT6,
            more(chain(&[60, 44, 60])),
            Some(54 + 8 + 4),
            14 + 40 + 24 + 14,
        ),
    ];
    for hook in HOOKS {
        let mut both = Both::at(hook);
        for (name, source, shape, known, headers) in &rows {
            let whole = Frame::shaped(shape, source, 6, &tcp());
            for length in 14..=whole.0.len() {
                let expected = match known {
                    _ if length >= *headers => Reason::NotAllowed,
                    Some(known) if length >= *known => Reason::TinyFragment,
                    _ => Reason::Malformed,
                };
                let row = format!("{hook}: {name}, cut to {length}");
                both.check(&row, &whole.clone().cut(length), expected, false);
            }
        }
    }
}

#[test]
fn every_length_that_an_extension_header_can_say() {
    for hook in HOOKS {
        let mut both = Both::at(hook);
        for kind in [0_u8, 43, 51, 60, 135] {
            for length in 0..=u8::MAX {
                let bytes = match kind {
                    51 => (usize::from(length) + 2) * 4,
                    _ => (usize::from(length) + 1) * 8,
                };
                let mut header = vec![0; bytes];
                header[..2].copy_from_slice(&[6, length]);
                let whole = [header, tcp()].concat();
                let row = format!("{hook}: header {kind} of {bytes} bytes");
                both.check(&row, &v6(OUT6, kind, &whole), Reason::NotAllowed, false);
                // One byte less than the header says, whatever follows in the frame.
                let mut short = v6(OUT6, kind, &whole);
                let says = u16::try_from(bytes - 1).unwrap().to_be_bytes();
                short.0[18..20].copy_from_slice(&says);
                both.check(
                    &format!("{row}, one too few"),
                    &short,
                    Reason::Malformed,
                    false,
                );
            }
        }
    }
}

#[test]
fn every_set_of_flags_and_every_data_offset() {
    for hook in HOOKS {
        let mut both = Both::at(hook);
        let syn = Frame::tcp("10.1.1.1", PORT, SYN);
        for n in 0..3 {
            both.check(&format!("{hook}: spend {n}"), &syn, Reason::Allowed, false);
        }
        for flags in 0..=u8::MAX {
            let opens = flags & (SYN | ACK) == SYN;
            let expected = if opens {
                Reason::RateLimited
            } else {
                Reason::Allowed
            };
            let frame = Frame::tcp("10.1.1.1", PORT, flags);
            both.check(
                &format!("{hook}: flags {flags:02x}"),
                &frame,
                expected,
                false,
            );
            let frame = Frame::tcp(OUT, PORT, flags);
            let row = format!("{hook}: flags {flags:02x} from outside");
            both.check(&row, &frame, Reason::NotAllowed, false);
        }
        // What the kernel makes of it is its own matter; it is never a way around the rules.
        for words in 0..16_u8 {
            for (source, expected) in [(OUT, Reason::NotAllowed), (OUT6, Reason::NotAllowed)] {
                let mut content = tcp();
                content[12] = words << 4;
                let frame = Frame::shaped(&Shape::default(), source, 6, &content);
                both.check(
                    &format!("{hook}: {words} words of TCP"),
                    &frame,
                    expected,
                    false,
                );
            }
        }
    }
}

#[test]
fn padding_makes_no_quic_initial() {
    let content = [
        &[0x9c, 0x40][..],
        &PORT.to_be_bytes(),
        &[0, 12, 0, 0, 0xc3, 0, 0, 0],
    ]
    .concat();
    for hook in HOOKS {
        for source in ["10.1.1.1", "2001:db8::1"] {
            let mut both = Both::at(hook);
            let mut frame = Frame::shaped(&Shape::default(), source, 17, &content);
            // The version's last byte would be 1, outside the datagram.
            frame.0.extend([1; 20]);
            for n in 0..5 {
                both.check(
                    &format!("{hook}: {source} {n}"),
                    &frame,
                    Reason::Allowed,
                    false,
                );
            }
        }
    }
}

#[test]
fn what_has_no_port_passes_whatever_stands_where_one_would() {
    let quoted4 = Frame::tcp(OUT, PORT, SYN).0[14..].to_vec();
    let quoted6 = Frame::tcp(OUT6, PORT, SYN).0[14..].to_vec();
    let icmp =
        |kind: u8, code: u8, quoted: &[u8]| [&[kind, code, 0, 0, 0, 0, 0, 0][..], quoted].concat();
    let d = Shape::default;
    let behind = |extensions: &[u8]| Shape {
        extensions: extensions.to_vec(),
        ..Shape::default()
    };
    let mut rows = Vec::new();
    for (name, kind, code) in [
        ("unreachable", 3, 1),
        ("fragmentation needed", 3, 4),
        ("time exceeded", 11, 0),
        ("redirect", 5, 1),
    ] {
        for source in [OUT, "10.6.6.6", "10.9.1.1"] {
            let frame = Frame::shaped(&d(), source, 1, &icmp(kind, code, &quoted4));
            rows.push((format!("ICMP {name} from {source}"), frame));
        }
    }
    for (name, kind) in [
        ("unreachable", 1),
        ("packet too big", 2),
        ("time exceeded", 3),
        ("parameter problem", 4),
        ("router advertisement", 134),
        ("neighbour solicitation", 135),
    ] {
        for shape in [d(), behind(&[0]), behind(&[60, 44])] {
            let frame = Frame::shaped(&shape, OUT6, 58, &icmp(kind, 0, &quoted6));
            let row = format!("ICMPv6 {name} behind {:?}", shape.extensions);
            rows.push((row, frame));
        }
    }
    for (name, protocol) in [
        ("IP in IP", 4),
        ("IGMP", 2),
        ("DCCP", 33),
        ("IPv6 in IP", 41),
        ("GRE", 47),
        ("ESP", 50),
        ("no next header", 59),
        ("OSPF", 89),
        ("L2TP", 115),
        ("SCTP", 132),
        ("UDP-Lite", 136),
        ("reserved", 255),
    ] {
        rows.push((
            format!("{name}, IPv4"),
            Frame::shaped(&d(), OUT, protocol, &tcp()),
        ));
        for extensions in [
            &[][..],
            &[0],
            &[60, 43, 51],
            &[44],
            &[0, 60, 43, 51, 60, 135],
        ] {
            let frame = Frame::shaped(&behind(extensions), OUT6, protocol, &tcp());
            rows.push((format!("{name} behind {extensions:?}"), frame));
        }
    }
    for hook in HOOKS {
        let mut both = Both::at(hook);
        for (row, frame) in &rows {
            let row = format!("{hook}: {row}");
            both.check(&row, frame, Reason::OtherProtocol, false);
        }
    }
}

#[test]
fn lengths_that_lie_and_sources_that_look_allowed() {
    let says = |source: &str, protocol: u8, length: u16| {
        let mut frame = Frame::shaped(&Shape::default(), source, protocol, &tcp());
        let field = if source.contains(':') { 18 } else { 16 };
        frame.0[field..field + 2].copy_from_slice(&length.to_be_bytes());
        frame
    };
    // A jumbo payload option (RFC 2675), then TCP; the length of the IPv6 header is 0.
    let jumbo = [&[6, 0, 0xc2, 4, 0, 1, 0, 0][..], &tcp()].concat();
    let mut jumbogram = v6(OUT6, 0, &jumbo);
    jumbogram.0[18..20].fill(0);
    let tags = |tags: &[[u8; 4]]| {
        let plain = Frame::tcp(OUT, PORT, ACK).0;
        Frame([&plain[..12], &tags.concat(), &plain[12..]].concat())
    };
    let rows = [
        ("IPv4 says 65535", says(OUT, 6, 0xffff), Reason::NotAllowed),
        (
            "IPv4 says 65535, UDP",
            says(OUT, 17, 0xffff),
            Reason::NotAllowed,
        ),
        ("IPv6 says 65535", says(OUT6, 6, 0xffff), Reason::NotAllowed),
        (
            "IPv6 says 65535, UDP",
            says(OUT6, 17, 0xffff),
            Reason::NotAllowed,
        ),
        (
            "allowed, says 65535",
            says("10.1.1.1", 6, 0xffff),
            Reason::Allowed,
        ),
        ("a jumbogram", jumbogram, Reason::Malformed),
        (
            "compatible, RFC 4291",
            Frame::tcp("::10.1.1.1", PORT, ACK),
            Reason::NotAllowed,
        ),
        (
            "mapped",
            Frame::tcp("::ffff:10.1.1.1", PORT, ACK),
            Reason::NotAllowed,
        ),
        (
            "translated, RFC 6052",
            Frame::tcp("64:ff9b::a01:101", PORT, ACK),
            Reason::NotAllowed,
        ),
        (
            "6to4",
            Frame::tcp("2002:a01:101::1", PORT, ACK),
            Reason::NotAllowed,
        ),
        (
            "no source",
            Frame::tcp("0.0.0.0", PORT, ACK),
            Reason::NotAllowed,
        ),
        (
            "no source, IPv6",
            Frame::tcp("::", PORT, ACK),
            Reason::NotAllowed,
        ),
        (
            "loopback",
            Frame::tcp("127.0.0.1", PORT, ACK),
            Reason::NotAllowed,
        ),
        (
            "multicast",
            Frame::tcp("224.0.0.1", PORT, ACK),
            Reason::NotAllowed,
        ),
        (
            "broadcast",
            Frame::tcp("255.255.255.255", PORT, ACK),
            Reason::NotAllowed,
        ),
        (
            "a priority tag",
            tags(&[[0x81, 0, 0xe0, 0]]),
            Reason::NotAllowed,
        ),
        (
            "service tag, then customer tag",
            tags(&[[0x88, 0xa8, 0x1f, 0xff], [0x81, 0, 0, 1]]),
            Reason::NotAllowed,
        ),
        (
            "customer tag, then service tag",
            tags(&[[0x81, 0, 0, 1], [0x88, 0xa8, 0, 2]]),
            Reason::NotAllowed,
        ),
        (
            "five tags of both kinds",
            tags(&[
                [0x88, 0xa8, 0, 1],
                [0x81, 0, 0, 2],
                [0x88, 0xa8, 0, 3],
                [0x81, 0, 0, 4],
                [0x81, 0, 0, 5],
            ]),
            Reason::VlanDepth,
        ),
        (
            "a tag around ARP",
            Frame([&[2; 12][..], &[0x81, 0, 0, 1, 8, 6], &[0; 46]].concat()),
            Reason::NotIp,
        ),
    ];
    for hook in HOOKS {
        let mut both = Both::at(hook);
        for (row, frame, reason) in &rows {
            both.check(&format!("{hook}: {row}"), frame, *reason, false);
        }
    }
}
