//! What a verdict costs, printed for reports. Times differ from machine to machine, so that only
//! the order of magnitude beside the cheapest verdict of the same run is asserted.

use clawsec_common::abi::{PortWord, PrefixRule, RateClass, SlotHeader, name};

use super::frame::{ACK, Frame, SYN, Shape, tcp_header};
use super::program::Program;

const RUNS: u32 = 300_000;
/// Beside an ARP frame's; about 15 as measured.
const LIMIT_TIMES: u128 = 200;

#[test]
fn a_verdict_costs_nanoseconds() {
    let mut program = Program::load(name::PROGRAM, false).unwrap();
    program
        .set_header(
            0,
            SlotHeader {
                generation: 1,
                flags: 0,
                filled: 1,
                ..SlotHeader::default()
            },
        )
        .unwrap();
    program
        .set_ports(
            0,
            131,
            PortWord {
                tcp: 1 << 59,
                ..PortWord::default()
            },
        )
        .unwrap();
    let allow = PrefixRule {
        action: PrefixRule::ALLOW,
        class: 0,
    };
    for n in 0..1000_u32 {
        let [_, _, c, d] = n.to_be_bytes();
        program.set_prefix4(0, 24, [10, c, d, 0], allow).unwrap();
    }
    program
        .set_prefix6(
            0,
            32,
            [0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
            allow,
        )
        .unwrap();
    let class = RateClass {
        interval_ns: 1_000_000_000,
        tolerance_ns: 0,
        kind: RateClass::LIMITED,
        reserved: 0,
    };
    program.set_class(0, 0, class).unwrap();
    let deep = Shape {
        extensions: vec![0, 60, 43, 51, 60, 135],
        vlan_tags: 4,
        ..Shape::default()
    };
    let mut arp = vec![2; 12];
    arp.extend([8, 6]);
    arp.extend([0; 46]);
    let mut floor_ns = None;
    for (row, frame) in [
        ("ARP, passed", Frame(arp)),
        ("another port, passed", Frame::tcp("10.1.1.1", 22, ACK)),
        (
            "allowed among 1000 prefixes",
            Frame::tcp("10.1.1.1", 8443, ACK),
        ),
        ("allowed, IPv6", Frame::tcp("2001:db8::1", 8443, ACK)),
        (
            "allowed, 4 tags and 6 extensions",
            Frame::shaped(&deep, "2001:db8::1", 6, &tcp_header(8443, ACK)),
        ),
        ("not allowed, dropped", Frame::tcp("9.9.9.9", 8443, SYN)),
        ("over its limit, dropped", Frame::tcp("10.1.1.1", 8443, SYN)),
    ] {
        let best = (0..3)
            .map(|_| program.run(&frame.0, RUNS).unwrap().nanoseconds)
            .min()
            .unwrap();
        println!("{best:>5} ns  {row}");
        let floor_ns = *floor_ns.get_or_insert(best.max(1));
        assert!(
            best <= LIMIT_TIMES * floor_ns,
            "{row}: {best} ns, ARP: {floor_ns} ns"
        );
    }
}
