//! Host and kernel agree: on frames of arbitrary bytes, and on valid frames with something wrong.

use clawsec_common::reason::Verdict;
use clawsec_ebpf::decide::decide;
use clawsec_ebpf::packet;

use super::frame::{ACK, Frame, SYN, Shape, tcp_header};
use super::random::Random;
use super::verdict::Both;

const ARBITRARY: usize = 60_000;
const MUTATED: usize = 140_000;

/// Verdict and counter of both sides.
fn judge(both: &Both, frame: &[u8]) -> [(Verdict, Option<u32>); 2] {
    let ran = both.program.run(frame, 1).unwrap();
    both.mock.counters.borrow_mut().clear();
    both.mock.records.borrow_mut().clear();
    let verdict = decide(packet::Frame::new(frame), &both.mock);
    let moved: Vec<u32> = both.mock.counters.borrow().keys().copied().collect();
    assert_eq!(moved.len(), 1, "one packet, one counter");
    [
        (ran.verdict, ran.counter),
        (verdict, moved.first().copied()),
    ]
}

#[track_caller]
fn agree(both: &Both, what: &str, number: usize, frame: &[u8]) -> u32 {
    let [kernel, host] = judge(both, frame);
    assert_eq!(
        kernel, host,
        "{what} {number}: kernel and host differ on {frame:02x?}"
    );
    host.1.unwrap()
}

#[test]
fn on_arbitrary_bytes() {
    let both = Both::new();
    let mut random = Random(1);
    for number in 0..ARBITRARY {
        let length = 14 + random.below(if number % 100 == 0 { 2_000 } else { 120 });
        let mut frame = random.bytes(length);
        // Otherwise only one in 10,000 would be looked at beyond its ethertype.
        let ethertype = random
            .pick(&[0x0800_u16, 0x86dd, 0x8100, 0x88a8])
            .to_be_bytes();
        if number % 8 != 0 {
            frame[12..14].copy_from_slice(&ethertype);
        }
        if number % 4 == 1 && frame.len() > 14 {
            frame[14] = if ethertype == [8, 0] { 0x45 } else { 0x60 };
        }
        agree(&both, "bytes", number, &frame);
    }
}

#[test]
fn on_mutated_frames() {
    let both = Both::new();
    let mut random = Random(2);
    let mut reasons = std::collections::BTreeSet::new();
    for number in 0..MUTATED {
        let frame = mutate(valid(&mut random), &mut random);
        reasons.insert(agree(&both, "frame", number, &frame));
    }
    // Everything but BadPolicy and Contended, which no frame can bring about here.
    println!("{MUTATED} frames met the reasons {reasons:?}");
    assert!(reasons.len() >= 15, "only {reasons:?}");
}

const SOURCES: &[&str] = &[
    "10.1.1.1",
    "9.9.9.9",
    "10.9.1.1",
    "10.9.9.1",
    "10.6.6.6",
    "10.6.6.7",
    "2001:db8::1",
    "2001:db9::1",
    "2001:db8:bad::1",
    "::ffff:10.1.1.1",
    "fe80::1",
];

fn valid(random: &mut Random) -> Vec<u8> {
    let source = *random.pick(SOURCES);
    let chance = |random: &mut Random| random.below(4) == 0;
    let mut shape = Shape::default();
    if chance(random) {
        shape.vlan_tags = random.below(7);
        shape.service_tags = random.below(2) == 0;
    }
    if chance(random) {
        shape.option_words = u8::try_from(random.below(11)).unwrap();
    }
    if chance(random) {
        let count = random.below(9);
        shape.extensions = (0..count)
            .map(|_| *random.pick(&[0_u8, 43, 44, 51, 60, 135]))
            .collect();
    }
    if chance(random) {
        shape.fragment_offset = *random.pick(&[0, 0, 1, 2, 100, 0x1fff]);
        shape.more_fragments = random.below(2) == 0;
    }
    if chance(random) {
        shape.content_bytes = random.below(30);
    }
    if chance(random) {
        shape.padding = random.below(60);
    }
    let port = *random.pick(&[8443, 8443, 8443, 18_789, 22, 8442]);
    let flags = *random.pick(&[ACK, SYN, SYN | ACK, 0]);
    let protocol = *random.pick(&[6, 6, 6, 17, 17, 1, 58, 132]);
    Frame::shaped(&shape, source, protocol, &tcp_header(port, flags)).0
}

fn mutate(mut frame: Vec<u8>, random: &mut Random) -> Vec<u8> {
    for _ in 0..random.below(4) {
        let at = random.below(frame.len());
        match random.below(5) {
            0 => frame[at] = random.byte(),
            1 => frame[at] ^= 1 << random.below(8),
            2 => frame[at] = *random.pick(&[0, 1, 0x7f, 0x80, 0xff]),
            3 => frame.truncate(at.max(14)),
            _ => {
                let count = random.below(8);
                let more = random.bytes(count);
                frame.splice(at..at, more);
            }
        }
    }
    frame
}
