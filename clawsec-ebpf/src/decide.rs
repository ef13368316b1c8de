//! What happens to a packet, in order. Read `judge` from top to bottom: that is the policy.
//!
//! Invariant: `decide` is the only exit, and it counts; no path gives a verdict without a reason.

use clawsec_common::abi::{PortWord, PrefixRule, REASONS, RateClass};
use clawsec_common::reason::{Reason, Verdict};

use crate::gcra::{self, Admission};
use crate::kernel::{Kernel, Slot};
use crate::packet::Cursor;
use crate::parse::{self, Facts, Protocol};
use crate::report;

/// Judges one packet, counts it, and reports it if it was dropped.
#[inline(always)]
pub fn decide<K: Kernel>(packet: impl Cursor, kernel: &K) -> Verdict {
    let slot = kernel.slot();
    let mut facts = Facts::UNKNOWN;
    let reason = judge(packet, &mut facts, &slot, kernel);

    // Counters before attribution: what is named to sources never exceeds what was counted.
    match (reason.verdict(), slot.observe) {
        (Verdict::Pass, _) => {
            kernel.count(reason as u32);
            Verdict::Pass
        }
        (Verdict::Drop, false) => {
            kernel.count(reason as u32);
            report::dropped(reason, &facts, &slot, kernel);
            Verdict::Drop
        }
        (Verdict::Drop, true) => {
            kernel.count(REASONS + reason as u32);
            report::dropped(reason, &facts, &slot, kernel);
            Verdict::Pass
        }
    }
}

/// The rules, in order; the first that applies decides.
#[inline(always)]
fn judge<K: Kernel>(packet: impl Cursor, facts: &mut Facts, slot: &Slot, kernel: &K) -> Reason {
    let parsed = parse::parse(packet, facts);
    if slot.drop_fragments && facts.fragment {
        return Reason::Fragment;
    }
    if let Err(reason) = parsed {
        return reason;
    }

    let port = concern(&kernel.ports(slot, facts.dest_port()), facts);
    if port == Concern::None {
        return Reason::UnprotectedPort;
    }

    let source = facts.source_key();
    let timed = kernel.timed();
    if timed.bans != 0 && lasts(kernel.ban_expires_ns(&source), kernel)
        || timed.ban_prefixes != 0 && lasts(kernel.ban_prefix_expires_ns(facts), kernel)
    {
        return Reason::Banned;
    }

    if port == Concern::Guarded {
        return Reason::GuardedPort;
    }

    let admitted = timed.admissions != 0 && lasts(kernel.admission_expires_ns(facts), kernel);
    let class = if admitted {
        DEFAULT_CLASS
    } else {
        match kernel.rule(slot, facts) {
            None => return Reason::NotAllowed,
            Some(rule) if rule.action != PrefixRule::ALLOW => return Reason::Denied,
            Some(rule) => rule.class,
        }
    };

    if slot.ceiling.kind == RateClass::LIMITED {
        match gcra::admit_packet(kernel, &source, &slot.ceiling) {
            Admission::Admitted => {}
            Admission::Refused => return Reason::PacketCeiling,
            Admission::Contended => return Reason::Contended,
        }
    }

    if facts.opens_connection {
        let Some(class) = kernel.class(slot, class) else {
            return Reason::BadPolicy;
        };
        match gcra::admit(kernel, &source, &class) {
            Admission::Admitted => {}
            Admission::Refused => return Reason::RateLimited,
            Admission::Contended => return Reason::Contended,
        }
    }

    Reason::Allowed
}

/// The rate class of those whom an admission lets in.
const DEFAULT_CLASS: u16 = 0;

/// Whether a timed entry is there and has not run out.
#[inline(always)]
fn lasts<K: Kernel>(expires_ns: u64, kernel: &K) -> bool {
    expires_ns != 0 && kernel.now_ns() < expires_ns
}

/// What the policy has to do with a port.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Concern {
    None,
    Protected,
    Guarded,
}

#[inline(always)]
fn concern(word: &PortWord, facts: &Facts) -> Concern {
    let bit = 1_u64 << (facts.dest_port() & 63);
    match facts.protocol {
        Protocol::Tcp if word.guarded_tcp & bit != 0 => Concern::Guarded,
        Protocol::Tcp if word.tcp & bit != 0 => Concern::Protected,
        Protocol::Udp if word.udp & bit != 0 => Concern::Protected,
        _ => Concern::None,
    }
}
