//! Host and kernel agree: on frames of arbitrary bytes, and on valid frames with something wrong.

use clawsec_common::abi::COUNTERS;
use clawsec_common::reason::Verdict;
use clawsec_ebpf::decide::decide;
use clawsec_ebpf::packet;

use super::both::{Both, HOOKS};
use super::frame::{ACK, Frame, SYN, Shape, tcp_header};
use super::random::Random;

const ARBITRARY: u32 = 60_000;
const MUTATED: u32 = 140_000;

/// The host's verdict and the counter that it moved.
fn judged_here(both: &Both, frame: &[u8]) -> (Verdict, u32) {
    both.mock.counters.borrow_mut().clear();
    both.mock.records.borrow_mut().clear();
    let verdict = decide(packet::Frame::new(frame), &both.mock);
    let moved: Vec<u32> = both.mock.counters.borrow().keys().copied().collect();
    let [counter] = moved[..] else {
        panic!("one packet, one counter: {moved:?}")
    };
    (verdict, counter)
}

/// Verdict and counter must be the same on both sides; gives the counter. `None` for a frame
/// that the hook takes no test run of.
#[track_caller]
fn agree(both: &Both, what: &str, number: u32, frame: &[u8]) -> Option<u32> {
    if !both.program.runs(frame) {
        return None;
    }
    let (verdict, counter) = judged_here(both, frame);
    let before = both.program.counted(counter).unwrap();
    let ran = both.program.run(frame, 1).unwrap();
    let moved = both.program.counted(counter).unwrap() - before;
    // Only the clocked program says its counter.
    let said = ran.counter.unwrap_or(counter);
    assert_eq!(
        (ran.verdict, said, moved),
        (verdict, counter, 1),
        "{what} {number}: kernel and host differ on {frame:02x?}"
    );
    Some(counter)
}

/// What every counter of the program holds together.
fn all_counted(both: &Both) -> u64 {
    (0..COUNTERS)
        .map(|n| both.program.counted(n).unwrap())
        .sum()
}

#[test]
fn on_arbitrary_bytes() {
    let count = super::runs(ARBITRARY);
    for hook in HOOKS {
        let both = Both::at(hook);
        let mut random = Random(1);
        let mut ran = 0;
        for number in 0..count {
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
            ran += u64::from(agree(&both, hook, number, &frame).is_some());
        }
        println!("{hook}: {ran} frames of arbitrary bytes");
        assert_eq!(all_counted(&both), ran, "one packet, one counter");
    }
}

#[test]
fn on_mutated_frames() {
    let count = super::runs(MUTATED);
    for hook in HOOKS {
        let both = Both::at(hook);
        let mut random = Random(2);
        let mut reasons = std::collections::BTreeMap::new();
        for number in 0..count {
            let frame = mutate(valid(&mut random), &mut random);
            if let Some(reason) = agree(&both, hook, number, &frame) {
                *reasons.entry(reason).or_insert(0_u64) += 1;
            }
        }
        let ran = reasons.values().sum::<u64>();
        assert_eq!(all_counted(&both), ran, "one packet, one counter");
        // Everything but BadPolicy and Contended, which no frame can bring about here.
        println!("{hook}: {ran} mutated frames by reason: {reasons:?}");
        assert!(reasons.len() >= 15, "only {reasons:?}");
    }
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
