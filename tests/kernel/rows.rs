//! Rows by class: each shape that a packet can have, from each kind of source, to each kind of
//! port. What is expected comes from the row's own words, not from a parser.

use clawsec_common::reason::Reason;

use super::both::{Both, HOOKS};
use super::frame::{ACK, Frame, Shape, tcp_header};

/// A source of the tests' policy and what it meets at a protected port.
const SOURCES: &[(&str, &str, Reason)] = &[
    ("inside", "10.1.1.1", Reason::Allowed),
    ("outside", "9.9.9.9", Reason::NotAllowed),
    ("denied", "10.9.1.1", Reason::Denied),
    ("banned", "10.6.6.6", Reason::Banned),
    ("inside v6", "2001:db8::1", Reason::Allowed),
    ("outside v6", "2001:db9::1", Reason::NotAllowed),
    ("denied v6", "2001:db8:bad::1", Reason::Denied),
    ("mapped", "::ffff:10.1.1.1", Reason::NotAllowed),
];

const PROTECTED: u16 = 8443;
const GUARDED: u16 = 18_789;
const OPEN: u16 = 22;

/// A shape by name, and the reason that it alone decides.
fn shapes(v6: bool) -> Vec<(String, Shape, Option<Reason>)> {
    let mut shapes = vec![("plain".to_owned(), Shape::default(), None)];
    for vlan_tags in 1..=6 {
        for service_tags in [false, true] {
            let name = if service_tags { "802.1ad" } else { "802.1Q" };
            let shape = Shape {
                vlan_tags,
                service_tags,
                ..Shape::default()
            };
            let reason = (vlan_tags > 4).then_some(Reason::VlanDepth);
            shapes.push((format!("{vlan_tags} tags of {name}"), shape, reason));
        }
    }
    for padding in [1, 18, 1400] {
        let shape = Shape {
            padding,
            ..Shape::default()
        };
        shapes.push((format!("{padding} bytes of padding"), shape, None));
    }
    if v6 {
        shapes.extend(extensions());
    } else {
        for option_words in 1..=10 {
            let shape = Shape {
                option_words,
                vlan_tags: usize::from(option_words) % 3,
                ..Shape::default()
            };
            shapes.push((format!("{option_words} words of options"), shape, None));
        }
        let first = Shape {
            more_fragments: true,
            ..Shape::default()
        };
        shapes.push(("first fragment".to_owned(), first, None));
        shapes.extend(later_fragments(&[]));
    }
    shapes
}

fn extensions() -> Vec<(String, Shape, Option<Reason>)> {
    const KINDS: [u8; 6] = [0, 43, 44, 51, 60, 135];
    let mut chains: Vec<Vec<u8>> = KINDS.iter().map(|kind| vec![*kind]).collect();
    chains.extend(
        KINDS
            .iter()
            .flat_map(|a| KINDS.iter().map(|b| vec![*a, *b])),
    );
    chains.extend((3..=8).map(|length| vec![60; length]));
    chains.push(KINDS.to_vec());
    let mut shapes: Vec<_> = chains
        .into_iter()
        .map(|extensions| {
            let reason = (extensions.len() > 6).then_some(Reason::ExtHeaderDepth);
            let name = format!("extensions {extensions:?}");
            let shape = Shape {
                extensions,
                ..Shape::default()
            };
            (name, shape, reason)
        })
        .collect();
    for extensions in [vec![44], vec![60, 44], vec![0, 43, 44]] {
        let first = Shape {
            extensions: extensions.clone(),
            more_fragments: true,
            ..Shape::default()
        };
        shapes.push((format!("first fragment {extensions:?}"), first, None));
        shapes.extend(later_fragments(&extensions));
    }
    shapes
}

/// TCP fragments behind the first; the one at offset 1 would overwrite the flags.
fn later_fragments(extensions: &[u8]) -> Vec<(String, Shape, Option<Reason>)> {
    [1, 2, 3, 185, 8191]
        .into_iter()
        .flat_map(|offset| [false, true].map(|more| (offset, more)))
        .map(|(fragment_offset, more_fragments)| {
            let reason = if fragment_offset == 1 {
                Reason::FragmentOverlap
            } else {
                Reason::LaterFragment
            };
            let shape = Shape {
                fragment_offset,
                more_fragments,
                extensions: extensions.to_vec(),
                ..Shape::default()
            };
            let name =
                format!("fragment at {fragment_offset}, more {more_fragments} {extensions:?}");
            (name, shape, Some(reason))
        })
        .collect()
}

/// Some more content than a header, so that fragments hold whole units of 8.
fn tcp(port: u16) -> Vec<u8> {
    [tcp_header(port, ACK), vec![0; 12]].concat()
}

fn udp(port: u16) -> Vec<u8> {
    [
        &[0x9c, 0x40][..],
        &port.to_be_bytes(),
        &[0, 16, 0, 0],
        &[0; 8],
    ]
    .concat()
}

#[test]
fn every_shape_from_every_source_to_every_port() {
    for hook in HOOKS {
        let mut both = Both::at(hook);
        for (who, source, at_protected) in SOURCES {
            for (name, shape, decided) in shapes(source.contains(':')) {
                for port in [PROTECTED, GUARDED, OPEN] {
                    let reason = decided.unwrap_or(match port {
                        PROTECTED => *at_protected,
                        GUARDED if *at_protected == Reason::Banned => Reason::Banned,
                        GUARDED => Reason::GuardedPort,
                        _ => Reason::UnprotectedPort,
                    });
                    let frame = Frame::shaped(&shape, source, 6, &tcp(port));
                    both.check(&format!("{who}, {name}, TCP {port}"), &frame, reason, false);
                }
                // No port of UDP is guarded, and a datagram at offset 1 overwrites nothing.
                let reason = match decided {
                    Some(Reason::FragmentOverlap) => Reason::LaterFragment,
                    Some(reason) => reason,
                    None => *at_protected,
                };
                let frame = Frame::shaped(&shape, source, 17, &udp(PROTECTED));
                both.check(&format!("{who}, {name}, UDP"), &frame, reason, false);
            }
        }
        let rows = both.rows;
        println!("{hook}: {rows} rows of shapes");
        assert!(rows >= 1_000, "{rows} rows");
    }
}

#[test]
fn every_length_that_a_frame_can_be_cut_to() {
    for hook in HOOKS {
        let mut both = Both::at(hook);
        for (source, protocol, content, headers, reason) in [
            (
                "9.9.9.9",
                6,
                tcp(PROTECTED),
                14 + 20 + 14,
                Reason::NotAllowed,
            ),
            (
                "9.9.9.9",
                17,
                udp(PROTECTED),
                14 + 20 + 4,
                Reason::NotAllowed,
            ),
            ("10.1.1.1", 6, tcp(PROTECTED), 14 + 20 + 14, Reason::Allowed),
            (
                "2001:db9::1",
                6,
                tcp(PROTECTED),
                14 + 40 + 14,
                Reason::NotAllowed,
            ),
            (
                "2001:db8::1",
                17,
                udp(PROTECTED),
                14 + 40 + 4,
                Reason::Allowed,
            ),
        ] {
            let whole = Frame::shaped(&Shape::default(), source, protocol, &content);
            for length in 14..=whole.0.len() {
                let expected = if length < headers {
                    Reason::Malformed
                } else {
                    reason
                };
                let name = format!("{source}, protocol {protocol}, cut to {length}");
                both.check(&name, &whole.clone().cut(length), expected, false);
            }
        }
        let rows = both.rows;
        // No test run takes the shortest at the tcx hook.
        println!("{hook}: {rows} rows of cut frames");
        assert!(rows >= 130, "{rows} rows");
    }
}

#[test]
fn every_length_that_a_datagram_can_say() {
    for hook in HOOKS {
        let mut both = Both::at(hook);
        // (source, where its length field is, what the length counts before the content)
        for (source, field, before) in [("9.9.9.9", 16, 20_u16), ("2001:db9::1", 18, 0)] {
            for (protocol, content, shortest) in [(6, tcp(PROTECTED), 20), (17, udp(PROTECTED), 8)]
            {
                let whole = Frame::shaped(&Shape::default(), source, protocol, &content);
                for length in 0..=before + 40 {
                    let mut frame = whole.clone();
                    frame.0[field..field + 2].copy_from_slice(&length.to_be_bytes());
                    let expected = if length < before + shortest {
                        Reason::Malformed
                    } else {
                        Reason::NotAllowed
                    };
                    let name = format!("{source}, protocol {protocol}, says {length} bytes");
                    both.check(&name, &frame, expected, false);
                }
            }
        }
    }
}

#[test]
fn every_ethertype_nearby_and_every_protocol() {
    for hook in HOOKS {
        let mut both = Both::at(hook);
        for ethertype in [
            0x0000_u16, 0x0026, 0x05dc, 0x0600, 0x0801, 0x0806, 0x0842, 0x6003, 0x809b, 0x8101,
            0x8847, 0x8848, 0x8863, 0x8864, 0x887b, 0x888e, 0x88a9, 0x88cc, 0x88e5, 0x88f7, 0x892f,
            0x894f, 0x9100, 0x9200, 0xffff,
        ] {
            let mut frame = Frame::tcp("9.9.9.9", PROTECTED, ACK);
            frame.0[12..14].copy_from_slice(&ethertype.to_be_bytes());
            both.check(
                &format!("ethertype {ethertype:04x}"),
                &frame,
                Reason::NotIp,
                false,
            );
        }
        for protocol in 0..=u8::MAX {
            let frame = Frame::shaped(&Shape::default(), "9.9.9.9", protocol, &tcp(PROTECTED));
            let expected = match protocol {
                6 | 17 => Reason::NotAllowed,
                _ => Reason::OtherProtocol,
            };
            both.check(
                &format!("IPv4 protocol {protocol}"),
                &frame,
                expected,
                false,
            );
            if matches!(protocol, 0 | 43 | 44 | 51 | 60 | 135) {
                continue;
            }
            let frame = Frame::shaped(&Shape::default(), "2001:db9::1", protocol, &tcp(PROTECTED));
            both.check(
                &format!("IPv6 next header {protocol}"),
                &frame,
                expected,
                false,
            );
        }
        // A version that is not the ethertype's.
        for (source, versions) in [("9.9.9.9", 0..16_u8), ("2001:db9::1", 0..16)] {
            for version in versions {
                let mut frame = Frame::tcp(source, PROTECTED, ACK);
                frame.0[14] = version << 4 | frame.0[14] & 0x0f;
                let right = if source.contains(':') { 6 } else { 4 };
                let expected = if version == right {
                    Reason::NotAllowed
                } else {
                    Reason::Malformed
                };
                both.check(
                    &format!("{source}, version {version}"),
                    &frame,
                    expected,
                    false,
                );
            }
        }
    }
}
