//! One policy on both sides: the program in the kernel, and its host build over plain values.

use clawsec_common::abi::{
    PortWord, PrefixRule, RateClass, SlotHeader, SourceKey, TimedPrefix, name,
};
use clawsec_common::reason::{Reason, Verdict};
use clawsec_ebpf::decide::decide;
use clawsec_ebpf::packet;

use super::frame::Frame;
use super::mock::Mock;
use super::program::Program;

pub(crate) const NOW_NS: u64 = 1_000_000_000_000;
const ALLOW: PrefixRule = PrefixRule {
    action: PrefixRule::ALLOW,
    class: 0,
};
const DENY: PrefixRule = PrefixRule {
    action: PrefixRule::DENY,
    class: 0,
};
/// Admits 3 at once, one more each second.
pub(crate) const CLASS: RateClass = RateClass {
    interval_ns: 1_000_000_000,
    tolerance_ns: 2_000_000_000,
    kind: RateClass::LIMITED,
    reserved: 0,
};

/// 3 at once and then none while a test runs, by whatever clock.
const FROZEN: RateClass = RateClass {
    interval_ns: 1 << 50,
    tolerance_ns: 2 << 50,
    kind: RateClass::LIMITED,
    reserved: 0,
};

/// The same policy on both sides.
pub(crate) struct Both {
    pub(crate) program: Program,
    pub(crate) mock: Mock,
    /// Rows that were judged on both.
    pub(crate) rows: u32,
}

/// Every hook that a frame can come by.
pub(crate) const HOOKS: [&str; 2] = [name::PROGRAM_CLOCKED, name::PROGRAM_TCX];

impl Both {
    /// The XDP program with the injected clock.
    pub(crate) fn new() -> Self {
        Self::of(name::PROGRAM_CLOCKED, CLASS, [NOW_NS + 1, NOW_NS])
    }

    /// The program of either hook, judged by the same policy as far as no time passes: the tcx
    /// program has the kernel's clock, so that bans last for ever or have ended long ago.
    pub(crate) fn at(hook: &'static str) -> Self {
        Self::of(hook, FROZEN, [u64::MAX, 1])
    }

    /// The ban of 10.6.6.6 lasts until the first of `bans`, that of 10.6.6.7 until the second.
    fn of(program: &'static str, class: RateClass, bans: [u64; 2]) -> Self {
        let mut both = Self {
            program: Program::load(program, false).unwrap(),
            mock: Mock::default(),
            rows: 0,
        };
        for (length, network, rule) in [
            (8, [10, 0, 0, 0], ALLOW),
            (16, [10, 9, 0, 0], DENY),
            (24, [10, 9, 9, 0], ALLOW),
        ] {
            both.program.set_prefix4(0, length, network, rule).unwrap();
            both.mock.prefixes4.push((length, network, rule));
        }
        for (length, network, rule) in [(32, "2001:db8::", ALLOW), (48, "2001:db8:bad::", DENY)] {
            let network = network.parse::<std::net::Ipv6Addr>().unwrap().octets();
            both.program.set_prefix6(0, length, network, rule).unwrap();
            both.mock.prefixes6.push((length, network, rule));
        }
        // 8443 is 131 * 64 + 59, 18789 is 293 * 64 + 37.
        for (word, ports) in [
            (
                131,
                PortWord {
                    tcp: 1 << 59,
                    udp: 1 << 59,
                    guarded_tcp: 0,
                },
            ),
            (
                293,
                PortWord {
                    tcp: 0,
                    udp: 0,
                    guarded_tcp: 1 << 37,
                },
            ),
        ] {
            both.program.set_ports(0, u32::from(word), ports).unwrap();
            both.mock.ports.insert(word, ports);
        }
        both.program.set_class(0, 0, class).unwrap();
        both.mock.classes.push(class);
        for (source, expires_ns) in [([10, 6, 6, 6], bans[0]), ([10, 6, 6, 7], bans[1])] {
            both.program
                .set_ban(SourceKey::v4(source), expires_ns)
                .unwrap();
            both.mock.bans.insert(SourceKey::v4(source), expires_ns);
        }
        both.set_clock(NOW_NS);
        both.observe(false);
        both
    }

    pub(crate) fn set_clock(&mut self, now_ns: u64) {
        self.program.set_clock(now_ns).unwrap();
        self.mock.now_ns.set(now_ns);
    }

    pub(crate) fn observe(&mut self, observe: bool) {
        let header = SlotHeader {
            generation: 1,
            flags: u32::from(observe) * SlotHeader::OBSERVE,
            filled: 1,
            ..SlotHeader::default()
        };
        self.program.set_header(0, header).unwrap();
        self.mock.observe.set(observe);
    }

    /// Every fragment dropped, and a ceiling of 3 packets at once and one each second.
    pub(crate) fn strict(&mut self) {
        let header = SlotHeader {
            generation: 1,
            flags: SlotHeader::DROP_FRAGMENTS,
            filled: 1,
            packet_interval_ns: CLASS.interval_ns,
            packet_tolerance_ns: CLASS.tolerance_ns,
        };
        self.program.set_header(0, header).unwrap();
        self.mock.drop_fragments.set(true);
        self.mock.ceiling.set(CLASS);
    }

    pub(crate) fn ban_prefix(
        &mut self,
        bits: u32,
        prefix: TimedPrefix,
        net: &str,
        expires_ns: u64,
    ) {
        self.program
            .set_timed(name::BAN_PREFIXES, bits, prefix, expires_ns)
            .unwrap();
        self.mock
            .ban_prefixes
            .push((net.parse().unwrap(), expires_ns));
    }

    pub(crate) fn admit(&mut self, bits: u32, prefix: TimedPrefix, net: &str, expires_ns: u64) {
        self.program
            .set_timed(name::ADMISSIONS, bits, prefix, expires_ns)
            .unwrap();
        self.mock
            .admissions
            .push((net.parse().unwrap(), expires_ns));
    }

    /// Judges on both sides; each must count under `reason`, once. What the hook takes no test
    /// run of is judged on the host alone; `tcx.rs` sends such frames over a wire.
    #[track_caller]
    pub(crate) fn check(&mut self, row: &str, frame: &Frame, reason: Reason, observed: bool) {
        let expected = if observed {
            Verdict::Pass
        } else {
            reason.verdict()
        };
        if self.program.runs(&frame.0) {
            self.rows += 1;
            let before = self.program.packets(reason, observed).unwrap();
            let ran = self.program.run(&frame.0, 1).unwrap();
            assert_eq!(ran.verdict, expected, "{row}: in the kernel");
            let after = self.program.packets(reason, observed).unwrap();
            assert_eq!(
                after - before,
                1,
                "{row}: not counted as {} in the kernel",
                reason.as_str()
            );
        }

        let index = reason as u32 + u32::from(observed) * clawsec_common::abi::REASONS;
        let counted = |mock: &Mock| mock.counters.borrow().get(&index).copied().unwrap_or(0);
        let before = counted(&self.mock);
        let verdict = decide(packet::Frame::new(&frame.0), &self.mock);
        assert_eq!(verdict, expected, "{row}: on the host");
        assert_eq!(
            counted(&self.mock) - before,
            1,
            "{row}: not counted as {} on the host",
            reason.as_str()
        );
    }
}
