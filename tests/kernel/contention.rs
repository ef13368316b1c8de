//! One source's bucket, two CPUs, a clock that stands still: the burst is admitted, exactly.
//!
//! Tried with a bucket that is read and written in two steps: it fails. A small burst may be
//! spent before the second CPU has begun; the large one keeps both changing the cell.

use std::sync::Barrier;

use clawsec_common::abi::{PortWord, PrefixRule, RateClass, SlotHeader};
use clawsec_common::reason::Reason;
use rustix::thread::{CpuSet, sched_setaffinity};

use super::frame::{Frame, SYN};
use super::program::Program;

const CONNECTIONS: u32 = 5_000_000;
/// Runs of one system call each; the two threads begin each together.
const ROUNDS: u32 = 10;

#[test]
fn admits_exactly_the_burst_of_five_million_from_two_cpus() {
    let connections = super::runs(CONNECTIONS);
    for burst in [60, u64::from(connections) / 5 * 2] {
        let program = limited_to(burst);
        let syn = Frame::tcp("10.1.1.1", 8443, SYN).0;
        let barrier = Barrier::new(2);
        let (program, syn, barrier) = (&program, &syn, &barrier);
        std::thread::scope(|scope| {
            for cpu in 0..2 {
                scope.spawn(move || {
                    let mut cpus = CpuSet::new();
                    cpus.set(cpu);
                    sched_setaffinity(None, &cpus).expect("this test needs CPUs 0 and 1");
                    for _ in 0..ROUNDS {
                        barrier.wait();
                        program.run(syn, connections / 2 / ROUNDS).unwrap();
                    }
                });
            }
        });

        let count = |reason| program.packets(reason, false).unwrap();
        let admitted = count(Reason::Allowed);
        let (limited, contended) = (count(Reason::RateLimited), count(Reason::Contended));
        println!("burst {burst}: admitted {admitted}, limited {limited}, contended {contended}");
        assert_eq!(admitted, burst);
        let counted = admitted + limited + contended;
        assert_eq!(counted, u64::from(connections), "every packet is counted");
    }
}

fn limited_to(burst: u64) -> Program {
    let mut program = Program::clocked().unwrap();
    program.set_clock(1_000_000_000_000).unwrap();
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
    program.set_prefix4(0, 8, [10, 0, 0, 0], allow).unwrap();
    let class = RateClass {
        interval_ns: 1_000_000_000,
        tolerance_ns: (burst - 1) * 1_000_000_000,
        kind: RateClass::LIMITED,
        reserved: 0,
    };
    program.set_class(0, 0, class).unwrap();
    program
}
