//! What a lookup costs from 10 to 100,000 prefixes, beside the kernel's own trie.
//!
//! Printed for docs/benchmarks.md. Times differ from machine to machine and with what else runs
//! there; what is asserted is that the tree beats the trie by far where the trie is slow.

#![expect(
    clippy::cast_possible_truncation,
    reason = "some bits of many are meant"
)]

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use clawsec_common::abi::{PortWord, PrefixRule, RateClass, SlotHeader, TimedPrefix, name};
use clawsec_common::tree::Prefixes;

use super::frame::{ACK, Frame};
use super::program::Program;

const RUNS: u32 = 200_000;
const SOURCES: u32 = 65_536;
const SIZES: [u32; 3] = [10, 1_000, 100_000];

/// The same numbers on every run.
fn mixed(n: u32) -> u64 {
    let mut bits = u64::from(n)
        .wrapping_add(1)
        .wrapping_mul(0x9e37_79b9_7f4a_7c15);
    bits ^= bits >> 29;
    bits = bits.wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits ^ bits >> 32
}

const ALLOW: PrefixRule = PrefixRule {
    action: PrefixRule::ALLOW,
    class: 0,
};

/// Lengths as they are met: networks and hosts.
fn network4(n: u32) -> (u32, [u8; 4]) {
    let length = [24, 24, 24, 22, 20, 32, 32, 28][n as usize % 8];
    let bits = (mixed(n) >> 32) as u32 & (u32::MAX << (32 - length));
    (length, bits.to_be_bytes())
}

fn network6(n: u32) -> (u32, [u8; 16]) {
    let length = [48, 48, 64, 56, 64, 64, 128, 32][n as usize % 8];
    let bits = u128::from(mixed(n)) << 64 | u128::from(mixed(!n));
    let bits = bits & (u128::MAX << (128 - length)) & !(0xe000 << 112) | 0x2000 << 112;
    (length, bits.to_be_bytes())
}

fn prefixes(count: u32) -> Prefixes {
    let mut prefixes = Prefixes::default();
    for n in 0..count {
        prefixes.v4.insert(network4(n), ALLOW);
        prefixes.v6.insert(network6(n), ALLOW);
    }
    prefixes
}

/// Clocked, so that a trie of admissions that last for ever may stand in for the prefixes.
fn program() -> Program {
    let mut program = Program::with_admissions(name::PROGRAM_CLOCKED, false, 200_000).unwrap();
    let header = SlotHeader {
        generation: 1,
        filled: 1,
        ..SlotHeader::default()
    };
    program.set_header(0, header).unwrap();
    let ports = PortWord {
        tcp: 1 << 59,
        ..PortWord::default()
    };
    program.set_ports(0, 131, ports).unwrap();
    let class = RateClass {
        kind: RateClass::UNLIMITED,
        ..RateClass::default()
    };
    program.set_class(0, 0, class).unwrap();
    program
}

/// As many sources of one family, inside prefixes or anywhere.
fn frames(v6: bool, hits: bool, prefixes: u32) -> Vec<Vec<u8>> {
    let source = |n: u32| match (v6, hits) {
        (false, true) => {
            let (length, network) = network4(mixed(n) as u32 % prefixes);
            let host = (mixed(!n) >> 8) as u32 & !(u32::MAX << (32 - length));
            IpAddr::from(Ipv4Addr::from_bits(u32::from_be_bytes(network) | host))
        }
        (false, false) => IpAddr::from(Ipv4Addr::from_bits((mixed(n ^ 0x5555_5555) >> 32) as u32)),
        (true, true) => {
            let (length, network) = network6(mixed(n) as u32 % prefixes);
            let host = u128::from(mixed(!n)) & !(u128::MAX << (128 - length));
            IpAddr::from(Ipv6Addr::from_bits(u128::from_be_bytes(network) | host))
        }
        (true, false) => {
            let bits = u128::from(mixed(n ^ 0x5555_5555)) << 64 & !(0xe000 << 112);
            IpAddr::from(Ipv6Addr::from_bits(bits | 0x2000 << 112))
        }
    };
    let frame = |n| Frame::tcp(&source(n).to_string(), 8443, ACK).0;
    (0..SOURCES).map(frame).collect()
}

/// Nanoseconds of one run each, the mean without the slowest tenth: those met an interrupt.
fn each_once(program: &Program, frames: &[Vec<u8>]) -> u128 {
    let round = || {
        let mut times: Vec<u128> = frames
            .iter()
            .map(|frame| program.run(frame, 1).unwrap().nanoseconds)
            .collect();
        times.sort_unstable();
        times.truncate(times.len() / 10 * 9);
        times.iter().sum::<u128>() / times.len() as u128
    };
    (0..2).map(|_| round()).min().unwrap()
}

fn hot(program: &Program, frame: &[u8]) -> u128 {
    (0..5)
        .map(|_| program.run(frame, RUNS).unwrap().nanoseconds)
        .min()
        .unwrap()
}

/// One row: hot, hits and misses of IPv4, then of IPv6; an ARP frame's time subtracted.
fn row(program: &Program, prefixes: u32) -> [u128; 6] {
    let mut arp = vec![2; 12];
    arp.extend([8, 6]);
    arp.extend([0; 46]);
    let floor_hot = hot(program, &arp);
    let floor = each_once(program, &vec![arp; SOURCES as usize]);
    let mut found = Vec::new();
    for v6 in [false, true] {
        let hits = frames(v6, true, prefixes);
        found.push(hot(program, &hits[7]).saturating_sub(floor_hot));
        found.push(each_once(program, &hits).saturating_sub(floor));
        let misses = frames(v6, false, prefixes);
        found.push(each_once(program, &misses).saturating_sub(floor));
    }
    found.try_into().unwrap()
}

#[test]
fn random_sources_cost_less_than_in_the_kernels_trie() {
    println!("ns above an ARP frame: IPv4 hot, hits, misses, IPv6 hot, hits, misses");
    let mut last = None;
    for size in SIZES {
        let mut tree = program();
        tree.set_prefixes(0, prefixes(size)).unwrap();
        let tree = row(&tree, size);
        println!("{size:>7} tree {tree:?}");
        let mut trie = program();
        let held = prefixes(size);
        for (length, network) in held.v4.keys() {
            let prefix = TimedPrefix::v4(*network);
            trie.set_timed(name::ADMISSIONS, *length, prefix, u64::MAX)
                .unwrap();
        }
        for (length, network) in held.v6.keys() {
            let prefix = TimedPrefix::v6(*network);
            trie.set_timed(name::ADMISSIONS, *length, prefix, u64::MAX)
                .unwrap();
        }
        trie.only_admissions().unwrap();
        let trie = row(&trie, size);
        println!("{size:>7} trie {trie:?}");
        last = Some((tree, trie));
    }
    let (tree, trie) = last.unwrap();
    // A third as much, as measured; hot sources are left out, they are cheap in both.
    let random = |row: [u128; 6]| row[1] + row[2] + row[4] + row[5];
    assert!(random(tree) < random(trie), "{tree:?}, {trie:?}");
}
