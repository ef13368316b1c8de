//! Rows of frames, each judged by the program in the kernel and by its host build: verdict and
//! reason must be what the row says, in both.

use clawsec_common::abi::{PortWord, PrefixRule, RateClass, SourceKey, TimedPrefix};
use clawsec_common::reason::{Reason, Stat, Verdict};

use super::both::{Both, CLASS, HOOKS, NOW_NS};
use super::frame::{ACK, Frame, SYN, Shape, tcp_header};

const IN: &str = "10.1.1.1";
const IN6: &str = "2001:db8::1";

fn ether(ethertype: u16, rest: usize) -> Frame {
    let mut frame = vec![2; 12];
    frame.extend(ethertype.to_be_bytes());
    frame.extend(vec![0; rest]);
    Frame(frame)
}

fn shaped(source: &str, shape: &Shape) -> Frame {
    Frame::shaped(shape, source, 6, &tcp_header(8443, ACK))
}

#[test]
fn judges_each_row_as_said_in_the_kernel_and_on_the_host() {
    let d = Shape::default;
    let ext = |extensions: &[u8]| Shape {
        extensions: extensions.to_vec(),
        ..d()
    };
    let rows: Vec<(&str, Frame, Reason)> = vec![
        ("ARP", ether(0x0806, 46), Reason::NotIp),
        ("LLDP", ether(0x88cc, 46), Reason::NotIp),
        (
            "nothing after the ethertype of IPv4",
            ether(0x0800, 0),
            Reason::Malformed,
        ),
        (
            "nothing after the ethertype of IPv6",
            ether(0x86dd, 0),
            Reason::Malformed,
        ),
        (
            "nothing after a VLAN ethertype",
            ether(0x8100, 0),
            Reason::Malformed,
        ),
        (
            "ICMP",
            Frame::shaped(&d(), "9.9.9.9", 1, &[8; 8]),
            Reason::OtherProtocol,
        ),
        (
            "ICMPv6",
            Frame::shaped(&d(), "fe80::1", 58, &[135; 8]),
            Reason::OtherProtocol,
        ),
        (
            "ESP",
            Frame::shaped(&d(), "fe80::1", 50, &[1; 8]),
            Reason::OtherProtocol,
        ),
        ("allowed", Frame::tcp(IN, 8443, ACK), Reason::Allowed),
        ("allowed, IPv6", Frame::tcp(IN6, 8443, ACK), Reason::Allowed),
        ("allowed, UDP", Frame::udp(IN, 8443), Reason::Allowed),
        (
            "another port",
            Frame::tcp("9.9.9.9", 22, SYN),
            Reason::UnprotectedPort,
        ),
        (
            "the port one below",
            Frame::tcp("9.9.9.9", 8442, SYN),
            Reason::UnprotectedPort,
        ),
        (
            "another port, IPv6",
            Frame::tcp("2001::9", 22, SYN),
            Reason::UnprotectedPort,
        ),
        (
            "outside",
            Frame::tcp("9.9.9.9", 8443, SYN),
            Reason::NotAllowed,
        ),
        (
            "outside, without SYN",
            Frame::tcp("9.9.9.9", 8443, ACK),
            Reason::NotAllowed,
        ),
        (
            "outside, UDP",
            Frame::udp("9.9.9.9", 8443),
            Reason::NotAllowed,
        ),
        (
            "outside, IPv6",
            Frame::tcp("2001::9", 8443, SYN),
            Reason::NotAllowed,
        ),
        (
            "one above the prefix",
            Frame::tcp("11.0.0.0", 8443, ACK),
            Reason::NotAllowed,
        ),
        (
            "the last of the prefix",
            Frame::tcp("10.255.255.255", 8443, ACK),
            Reason::Allowed,
        ),
        (
            "deny inside allow",
            Frame::tcp("10.9.1.1", 8443, ACK),
            Reason::Denied,
        ),
        (
            "allow inside deny",
            Frame::tcp("10.9.9.1", 8443, ACK),
            Reason::Allowed,
        ),
        (
            "deny inside allow, IPv6",
            Frame::tcp("2001:db8:bad::1", 8443, ACK),
            Reason::Denied,
        ),
        (
            "mapped source on the wire",
            Frame::tcp("::ffff:10.1.1.1", 8443, ACK),
            Reason::NotAllowed,
        ),
        ("banned", Frame::tcp("10.6.6.6", 8443, ACK), Reason::Banned),
        (
            "banned, another port",
            Frame::tcp("10.6.6.6", 22, ACK),
            Reason::UnprotectedPort,
        ),
        (
            "a ban that has run out",
            Frame::tcp("10.6.6.7", 8443, ACK),
            Reason::Allowed,
        ),
        (
            "the upstream's port",
            Frame::tcp(IN, 18_789, SYN),
            Reason::GuardedPort,
        ),
        (
            "the upstream's port, UDP",
            Frame::udp(IN, 18_789),
            Reason::UnprotectedPort,
        ),
        (
            "the upstream's port, banned",
            Frame::tcp("10.6.6.6", 18_789, SYN),
            Reason::Banned,
        ),
        (
            "one tag",
            shaped(
                "9.9.9.9",
                &Shape {
                    vlan_tags: 1,
                    ..d()
                },
            ),
            Reason::NotAllowed,
        ),
        (
            "four tags",
            shaped(
                "9.9.9.9",
                &Shape {
                    vlan_tags: 4,
                    ..d()
                },
            ),
            Reason::NotAllowed,
        ),
        (
            "four tags, allowed",
            shaped(
                IN6,
                &Shape {
                    vlan_tags: 4,
                    ..d()
                },
            ),
            Reason::Allowed,
        ),
        (
            "five tags",
            shaped(
                IN,
                &Shape {
                    vlan_tags: 5,
                    ..d()
                },
            ),
            Reason::VlanDepth,
        ),
        (
            "two service tags",
            shaped(
                "9.9.9.9",
                &Shape {
                    vlan_tags: 2,
                    service_tags: true,
                    ..d()
                },
            ),
            Reason::NotAllowed,
        ),
        (
            "options",
            shaped(
                "9.9.9.9",
                &Shape {
                    option_words: 10,
                    ..d()
                },
            ),
            Reason::NotAllowed,
        ),
        (
            "options, allowed",
            shaped(
                IN,
                &Shape {
                    option_words: 1,
                    ..d()
                },
            ),
            Reason::Allowed,
        ),
        (
            "cut in the IPv4 header",
            Frame::tcp(IN, 8443, ACK).cut(14 + 19),
            Reason::Malformed,
        ),
        (
            "cut in the ports",
            Frame::tcp(IN, 8443, ACK).cut(14 + 20 + 3),
            Reason::Malformed,
        ),
        (
            "cut before the flags",
            Frame::tcp(IN, 8443, ACK).cut(14 + 20 + 13),
            Reason::Malformed,
        ),
        (
            "cut in the IPv6 header",
            Frame::tcp(IN6, 8443, ACK).cut(14 + 20),
            Reason::Malformed,
        ),
        (
            "a datagram shorter than its TCP header, padded",
            shaped(
                IN,
                &Shape {
                    content_bytes: 19,
                    padding: 20,
                    ..d()
                },
            ),
            Reason::Malformed,
        ),
        (
            "first fragment",
            shaped(
                "9.9.9.9",
                &Shape {
                    more_fragments: true,
                    ..d()
                },
            ),
            Reason::NotAllowed,
        ),
        (
            "first fragment, allowed",
            shaped(
                IN,
                &Shape {
                    more_fragments: true,
                    ..d()
                },
            ),
            Reason::Allowed,
        ),
        (
            "tiny first fragment",
            shaped(
                IN,
                &Shape {
                    more_fragments: true,
                    content_bytes: 8,
                    ..d()
                },
            ),
            Reason::TinyFragment,
        ),
        (
            "tiny first fragment, the rest in the padding",
            shaped(
                IN,
                &Shape {
                    more_fragments: true,
                    content_bytes: 8,
                    padding: 30,
                    ..d()
                },
            ),
            Reason::TinyFragment,
        ),
        (
            "TCP fragment at offset 1",
            shaped(
                "9.9.9.9",
                &Shape {
                    fragment_offset: 1,
                    ..d()
                },
            ),
            Reason::FragmentOverlap,
        ),
        (
            "later fragment",
            shaped(
                "9.9.9.9",
                &Shape {
                    fragment_offset: 185,
                    ..d()
                },
            ),
            Reason::LaterFragment,
        ),
        (
            "hop-by-hop",
            shaped("2001::9", &ext(&[0])),
            Reason::NotAllowed,
        ),
        (
            "authentication",
            shaped("2001::9", &ext(&[51])),
            Reason::NotAllowed,
        ),
        (
            "six extension headers",
            shaped("2001::9", &ext(&[0, 60, 43, 51, 60, 135])),
            Reason::NotAllowed,
        ),
        (
            "seven extension headers",
            shaped(IN6, &ext(&[0, 60, 43, 51, 60, 135, 60])),
            Reason::ExtHeaderDepth,
        ),
        (
            "atomic fragment, IPv6",
            shaped("2001::9", &ext(&[44])),
            Reason::NotAllowed,
        ),
        (
            "tiny first fragment, IPv6",
            shaped(
                IN6,
                &Shape {
                    more_fragments: true,
                    content_bytes: 8,
                    ..ext(&[44])
                },
            ),
            Reason::TinyFragment,
        ),
        (
            "TCP fragment at offset 1, IPv6",
            shaped(
                "2001::9",
                &Shape {
                    fragment_offset: 1,
                    ..ext(&[44])
                },
            ),
            Reason::FragmentOverlap,
        ),
        (
            "later fragment, IPv6",
            shaped(
                "2001::9",
                &Shape {
                    fragment_offset: 9,
                    ..ext(&[60, 44])
                },
            ),
            Reason::LaterFragment,
        ),
    ];
    for hook in HOOKS {
        let mut both = Both::at(hook);
        for (row, frame, reason) in &rows {
            both.check(row, frame, *reason, false);
        }
    }
}

#[test]
fn a_version_that_contradicts_the_ethertype_is_malformed() {
    for hook in HOOKS {
        let mut both = Both::at(hook);
        for (row, source, first) in [
            ("v6 in v4", IN, 0x65),
            ("v4 in v6", IN6, 0x40),
            ("ihl 4", IN, 0x44),
        ] {
            let mut frame = Frame::tcp(source, 8443, ACK);
            frame.0[14] = first;
            both.check(row, &frame, Reason::Malformed, false);
        }
    }
}

#[test]
fn admits_the_burst_then_one_for_each_interval() {
    let mut both = Both::new();
    let syn = Frame::tcp(IN, 8443, SYN);
    for n in 0..3 {
        both.check(&format!("burst {n}"), &syn, Reason::Allowed, false);
    }
    both.check("over", &syn, Reason::RateLimited, false);
    both.check(
        "SYN with ACK opens nothing",
        &Frame::tcp(IN, 8443, SYN | ACK),
        Reason::Allowed,
        false,
    );
    both.check(
        "another source",
        &Frame::tcp("10.1.1.2", 8443, SYN),
        Reason::Allowed,
        false,
    );
    both.set_clock(NOW_NS + CLASS.interval_ns - 1);
    both.check("one nanosecond early", &syn, Reason::RateLimited, false);
    both.set_clock(NOW_NS + CLASS.interval_ns);
    both.check("an interval later", &syn, Reason::Allowed, false);
    both.check("and no more", &syn, Reason::RateLimited, false);
    both.set_clock(NOW_NS - 5_000_000_000);
    both.check(
        "a clock that steps back admits nothing",
        &syn,
        Reason::RateLimited,
        false,
    );
}

#[test]
fn one_bucket_for_a_whole_64() {
    let mut both = Both::new();
    for n in 1..=3 {
        let syn = Frame::tcp(&format!("2001:db8:0:1::{n}"), 8443, SYN);
        both.check("same /64", &syn, Reason::Allowed, false);
    }
    both.check(
        "a fourth address",
        &Frame::tcp("2001:db8:0:1:ffff::", 8443, SYN),
        Reason::RateLimited,
        false,
    );
    both.check(
        "the next /64",
        &Frame::tcp("2001:db8:0:2::1", 8443, SYN),
        Reason::Allowed,
        false,
    );
}

#[test]
fn observing_counts_apart_and_drops_nothing() {
    let mut both = Both::new();
    both.observe(true);
    both.check(
        "outside",
        &Frame::tcp("9.9.9.9", 8443, SYN),
        Reason::NotAllowed,
        true,
    );
    both.check(
        "five tags",
        &shaped(
            IN,
            &Shape {
                vlan_tags: 5,
                ..Shape::default()
            },
        ),
        Reason::VlanDepth,
        true,
    );
    both.check(
        "allowed",
        &Frame::tcp(IN, 8443, ACK),
        Reason::Allowed,
        false,
    );
    assert_eq!(both.program.packets(Reason::NotAllowed, false).unwrap(), 0);
}

#[test]
fn reports_at_once_then_once_a_second_with_the_running_total() {
    let mut both = Both::new();
    let outside = Frame::tcp("9.9.9.9", 8443, SYN);
    for _ in 0..5 {
        both.check("outside", &outside, Reason::NotAllowed, false);
    }
    both.set_clock(NOW_NS + 1_000_000_000);
    both.check("a second later", &outside, Reason::NotAllowed, false);
    let records = both.mock.records.borrow();
    let told: Vec<(u64, u64)> = records
        .iter()
        .map(|record| (record.at_ns, record.total))
        .collect();
    assert_eq!(told, [(NOW_NS, 1), (NOW_NS + 1_000_000_000, 6)]);
    drop(records);

    let held = both.program.tallies().unwrap();
    assert_eq!(held.len(), 1);
    assert_eq!(held[0].key.source, SourceKey::v4([9, 9, 9, 9]));
    assert_eq!((held[0].total, held[0].created_ns), (6, NOW_NS));
    assert_eq!(held[0].emitted_ns, NOW_NS + 1_000_000_000);
}

#[test]
fn a_flip_switches_ports_prefixes_classes_and_flags_together() {
    let mut both = Both::new();
    let program = &mut both.program;
    program
        .set_prefix4(
            1,
            32,
            [9, 9, 9, 9],
            PrefixRule {
                action: PrefixRule::ALLOW,
                class: 5,
            },
        )
        .unwrap();
    program
        .set_ports(
            1,
            0,
            PortWord {
                tcp: 1 << 22,
                ..PortWord::default()
            },
        )
        .unwrap();
    let unlimited = RateClass {
        kind: RateClass::UNLIMITED,
        ..RateClass::default()
    };
    program.set_class(1, 5, unlimited).unwrap();
    let rows = [
        ("9.9.9.9", 8443, Reason::NotAllowed, Reason::UnprotectedPort),
        ("9.9.9.9", 22, Reason::UnprotectedPort, Reason::Allowed),
        ("10.1.1.1", 22, Reason::UnprotectedPort, Reason::NotAllowed),
    ];
    for (slot, pick) in [(0_u32, 0_usize), (1, 1), (0, 0)] {
        program.activate(slot).unwrap();
        for (source, port, first, second) in rows {
            let reason = [first, second][pick];
            let before = program.packets(reason, false).unwrap();
            let ran = program.run(&Frame::tcp(source, port, SYN).0, 10).unwrap();
            assert_eq!(
                ran.verdict,
                reason.verdict(),
                "{source} {port} in slot {slot}"
            );
            let after = program.packets(reason, false).unwrap();
            assert_eq!(after - before, 10, "{source} {port} in slot {slot}");
        }
    }
}

#[test]
fn a_class_that_the_policy_lacks_drops() {
    let mut both = Both::new();
    let rule = PrefixRule {
        action: PrefixRule::ALLOW,
        class: 9,
    };
    both.program
        .set_prefix4(0, 32, [10, 1, 1, 9], rule)
        .unwrap();
    both.mock.prefixes4.push((32, [10, 1, 1, 9], rule));
    both.check(
        "no such class",
        &Frame::tcp("10.1.1.9", 8443, SYN),
        Reason::BadPolicy,
        false,
    );
}

#[test]
fn a_flood_of_forged_sources_costs_one_budget_and_is_counted_whole() {
    let both = Both::new();
    // Pinned to one CPU, whose budget it is.
    let cpu = rustix::thread::sched_getcpu();
    let mut cpus = rustix::thread::CpuSet::new();
    cpus.set(cpu);
    rustix::thread::sched_setaffinity(None, &cpus).unwrap();
    for n in 0..3000_u32 {
        let [_, b, c, d] = n.to_be_bytes();
        let source = format!("9.{b}.{c}.{d}");
        let ran = both
            .program
            .run(&Frame::tcp(&source, 8443, SYN).0, 1)
            .unwrap();
        assert_eq!(ran.verdict, Verdict::Drop);
    }
    assert_eq!(
        both.program.packets(Reason::NotAllowed, false).unwrap(),
        3000
    );
    let tallies = both.program.tallies().unwrap();
    let held = tallies.iter().map(|tally| tally.total).sum::<u64>();
    let budget = clawsec_common::abi::NEW_TALLIES_PER_SECOND;
    assert_eq!(held, budget);
    let unattributed = both.program.stat(Stat::Unattributed).unwrap();
    assert_eq!(unattributed, 3000 - budget);
}

#[test]
fn drops_every_fragment_when_told_to() {
    let mut both = Both::new();
    both.strict();
    let d = Shape::default;
    let fragment = |offset, more, extensions: &[u8]| Shape {
        fragment_offset: offset,
        more_fragments: more,
        extensions: extensions.to_vec(),
        ..d()
    };
    let icmp = Frame::shaped(&fragment(0, true, &[]), "9.9.9.9", 1, &[8; 8]);
    let rows = [
        (
            "first",
            shaped(IN, &fragment(0, true, &[])),
            Reason::Fragment,
        ),
        (
            "later",
            shaped(IN, &fragment(185, false, &[])),
            Reason::Fragment,
        ),
        (
            "overlap",
            shaped(IN, &fragment(1, false, &[])),
            Reason::Fragment,
        ),
        ("ICMP, first", icmp, Reason::Fragment),
        (
            "IPv6, first",
            shaped(IN6, &fragment(0, true, &[60, 44])),
            Reason::Fragment,
        ),
        (
            "IPv6, later",
            shaped(IN6, &fragment(9, true, &[44])),
            Reason::Fragment,
        ),
        (
            "IPv6, atomic: a whole",
            shaped(IN6, &fragment(0, false, &[44])),
            Reason::Allowed,
        ),
        ("a whole", Frame::tcp(IN, 8443, ACK), Reason::Allowed),
        (
            "a whole ICMP",
            Frame::shaped(&d(), "9.9.9.9", 1, &[8; 8]),
            Reason::OtherProtocol,
        ),
    ];
    for (row, frame, reason) in &rows {
        both.check(row, frame, *reason, false);
    }
}

#[test]
fn the_packet_ceiling_counts_packets_of_any_kind() {
    let mut both = Both::new();
    both.strict();
    both.check("SYN", &Frame::tcp(IN, 8443, SYN), Reason::Allowed, false);
    both.check("ACK", &Frame::tcp(IN, 8443, ACK), Reason::Allowed, false);
    both.check("UDP", &Frame::udp(IN, 8443), Reason::Allowed, false);
    let over = Frame::tcp(IN, 8443, ACK);
    both.check("over", &over, Reason::PacketCeiling, false);
    both.check(
        "SYN over",
        &Frame::tcp(IN, 8443, SYN),
        Reason::PacketCeiling,
        false,
    );
    both.check(
        "another port",
        &Frame::tcp(IN, 22, ACK),
        Reason::UnprotectedPort,
        false,
    );
    both.check(
        "outside",
        &Frame::tcp("9.9.9.9", 8443, ACK),
        Reason::NotAllowed,
        false,
    );
    both.check(
        "another source",
        &Frame::tcp("10.1.1.2", 8443, ACK),
        Reason::Allowed,
        false,
    );
    both.set_clock(NOW_NS + CLASS.interval_ns);
    both.check("an interval later", &over, Reason::Allowed, false);
    both.check("and no more", &over, Reason::PacketCeiling, false);
    assert_eq!(both.program.stat(Stat::CeilingMade).unwrap(), 2);
}

/// A UDP datagram with this content.
fn udp(source: &str, content: &[u8]) -> Frame {
    let mut header = vec![0x9c, 0x40];
    header.extend(8443_u16.to_be_bytes());
    header.extend(u16::try_from(8 + content.len()).unwrap().to_be_bytes());
    header.extend([0, 0]);
    header.extend(content);
    Frame::shaped(&Shape::default(), source, 17, &header)
}

#[test]
fn limits_quic_initials_as_new_connections() {
    let initials: [&[u8]; 5] = [
        &[0xc3, 0, 0, 0, 1],
        &[0x80, 0, 0, 0, 1, 9],
        &[0xd0, 0x6b, 0x33, 0x43, 0xcf],
        &[0xc0, 0xff, 0, 0, 29, 8, 8],
        &[0xcf, 0, 0, 0, 1],
    ];
    let others: [&[u8]; 7] = [
        &[],
        &[0xc3, 0, 0, 0],
        &[0x43, 0, 0, 0, 1],
        &[0xe0, 0, 0, 0, 1],
        &[0xc0, 0x6b, 0x33, 0x43, 0xcf],
        &[0xc0, 0, 0, 0, 0],
        &[0xc0, 9, 9, 9, 9],
    ];
    for source in [IN, IN6] {
        let mut both = Both::new();
        for (n, content) in initials.iter().enumerate() {
            let reason = if n < 3 {
                Reason::Allowed
            } else {
                Reason::RateLimited
            };
            both.check(
                &format!("initial {n}"),
                &udp(source, content),
                reason,
                false,
            );
        }
        for (n, content) in others.iter().enumerate() {
            let row = format!("not an initial {n}");
            both.check(&row, &udp(source, content), Reason::Allowed, false);
        }
        both.check(
            "SYN, the same bucket",
            &Frame::tcp(source, 8443, SYN),
            Reason::RateLimited,
            false,
        );
    }
}

#[test]
fn bans_of_prefixes_and_admissions_end_when_they_say() {
    let mut both = Both::new();
    let v6 = |text: &str| TimedPrefix::v6(text.parse::<std::net::Ipv6Addr>().unwrap().octets());
    let soon = NOW_NS + 10;
    both.ban_prefix(16, TimedPrefix::v4([10, 7, 0, 0]), "10.7.0.0/16", soon);
    both.ban_prefix(40, v6("2001:db8:f00::"), "2001:db8:f00::/40", soon);
    both.ban_prefix(32, TimedPrefix::v4([192, 0, 2, 1]), "192.0.2.1/32", soon);
    both.admit(24, TimedPrefix::v4([192, 0, 2, 0]), "192.0.2.0/24", soon);
    both.admit(32, TimedPrefix::v4([10, 9, 1, 1]), "10.9.1.1/32", soon);
    both.admit(32, TimedPrefix::v4([10, 6, 6, 6]), "10.6.6.6/32", soon);
    both.admit(128, v6("2001:db9::7"), "2001:db9::7/128", soon);
    let rows = [
        (
            "banned by its /16",
            "10.7.1.1",
            8443,
            Reason::Banned,
            Reason::Allowed,
        ),
        (
            "beside the /16",
            "10.8.0.0",
            8443,
            Reason::Allowed,
            Reason::Allowed,
        ),
        (
            "banned by its /40",
            "2001:db8:f12::1",
            8443,
            Reason::Banned,
            Reason::Allowed,
        ),
        (
            "beside the /40",
            "2001:db8:1000::1",
            8443,
            Reason::Allowed,
            Reason::Allowed,
        ),
        (
            "admitted",
            "192.0.2.9",
            8443,
            Reason::Allowed,
            Reason::NotAllowed,
        ),
        (
            "admitted, another port",
            "192.0.2.9",
            22,
            Reason::UnprotectedPort,
            Reason::UnprotectedPort,
        ),
        (
            "admitted, the upstream's port",
            "192.0.2.9",
            18_789,
            Reason::GuardedPort,
            Reason::GuardedPort,
        ),
        (
            "admitted and banned",
            "192.0.2.1",
            8443,
            Reason::Banned,
            Reason::NotAllowed,
        ),
        (
            "admitted and banned as a source",
            "10.6.6.6",
            8443,
            Reason::Banned,
            Reason::Allowed,
        ),
        (
            "admitted, denied by the policy",
            "10.9.1.1",
            8443,
            Reason::Allowed,
            Reason::Denied,
        ),
        (
            "admitted, IPv6",
            "2001:db9::7",
            8443,
            Reason::Allowed,
            Reason::NotAllowed,
        ),
        (
            "beside it",
            "2001:db9::8",
            8443,
            Reason::NotAllowed,
            Reason::NotAllowed,
        ),
        (
            "mapped on the wire",
            "::ffff:192.0.2.9",
            8443,
            Reason::NotAllowed,
            Reason::NotAllowed,
        ),
    ];
    for (row, source, port, now, _) in rows {
        both.check(row, &Frame::tcp(source, port, ACK), now, false);
    }
    both.set_clock(soon);
    for (row, source, port, _, then) in rows {
        both.check(
            &format!("{row}, then"),
            &Frame::tcp(source, port, ACK),
            then,
            false,
        );
    }
    both.set_clock(NOW_NS);
    for n in 0..4 {
        let reason = if n < 3 {
            Reason::Allowed
        } else {
            Reason::RateLimited
        };
        both.check(
            "admitted, by the default class",
            &Frame::tcp("192.0.2.9", 8443, SYN),
            reason,
            false,
        );
    }
}
