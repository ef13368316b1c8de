//! The program asked about frames that no interface received: `explain` and `replay`.
//!
//! Runs the program through `BPF_PROG_TEST_RUN`, unattached, by a clock that the caller sets.
//! Invariant: every map of this program is private. Of the filter in force, policy, bans and
//! admissions are copied; its pinned maps are opened for reading only.

use std::path::Path;

use aya::maps::{Array, MapData};
use aya::programs::{ProgramError, Xdp};
use aya::{Ebpf, EbpfLoader, TestRun as _, TestRunOptions};
use clawsec_common::abi::{REASONS, SCHEMA, name};
use clawsec_common::judged;
use clawsec_common::reason::{Reason, Verdict};

use super::copy;
use super::error::EnforcerError;
use super::figures::Effect;
use super::load::{self, Maps, map_error};
use super::object::OBJECT;
use super::slot::SlotImage;
use crate::policy::PacketPolicy;

/// The program with maps to judge by.
pub struct Judge {
    ebpf: Ebpf,
    clock: Array<MapData, u64>,
    now_ns: u64,
    /// What the kernel is handed of a frame at most.
    largest_bytes: usize,
}

/// What happened to one frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Judgement {
    pub effect: Effect,
    pub reason: &'static str,
}

/// The kernel runs no program on less than an Ethernet header.
pub const SHORTEST_FRAME_BYTES: usize = 14;

/// Linux hands an `xdp.frags` program a linear part of about 3.5 kB and up to 17 pages more
/// (kernel 5.18). Headers lie in the first part alone, so that a longer frame loses nothing.
const LARGEST_FRAME_BYTES: usize = 65_535;
/// For kernels that give no fragments: below a page less headroom and tailroom.
const ONE_PAGE_FRAME_BYTES: usize = 3_072;

/// Maps that the daemon writes and the program only reads: what a copy of the filter judges by.
/// The other pinned ones, which the program writes, begin empty.
const COPIED: &[&str] = &[
    name::ACTIVE,
    name::SLOTS,
    name::PORTS,
    name::CLASSES,
    name::NODES,
    name::BANS,
    name::BAN_PREFIXES,
    name::ADMISSIONS,
    name::TIMED,
];

impl Judge {
    /// Judges by a policy that is in force nowhere: no bans, every source with its full burst.
    pub fn of_policy(policy: &PacketPolicy) -> Result<Self, EnforcerError> {
        let image = SlotImage::compile(policy)?;
        let mut ebpf = loader()
            .load(object()?)
            .map_err(|source| load_error(source.into()))?;
        load_program(&mut ebpf)?;
        let mut maps = Maps::take(&mut ebpf)?;
        maps.put_in_force(&image)?;
        // The program holds the maps by descriptor from here on.
        drop(maps);
        Self::new(ebpf)
    }

    /// Judges by a copy of the filter in force: its policy, its bans and its admissions at this
    /// moment. Its counters and buckets are not looked at: each source has its full burst.
    pub fn of_live(pin_dir: &Path) -> Result<Self, EnforcerError> {
        let folder = pin_dir.join(format!("v{SCHEMA}"));
        if !COPIED.iter().all(|map| folder.join(map).exists()) {
            return Err(EnforcerError::NotInForce {
                path: pin_dir.to_owned(),
            });
        }
        load::check_pinned(&folder)?;
        let mut ebpf = loader()
            .load(object()?)
            .map_err(|source| load_error(source.into()))?;
        load_program(&mut ebpf)?;
        copy::copy(&folder, &ebpf, COPIED)?;
        Self::new(ebpf)
    }

    fn new(mut ebpf: Ebpf) -> Result<Self, EnforcerError> {
        let clock = load::take(&mut ebpf, name::CLOCK)?;
        Ok(Self {
            ebpf,
            clock,
            now_ns: 0,
            largest_bytes: LARGEST_FRAME_BYTES,
        })
    }

    /// Sets the clock that bans and limits are judged by.
    pub fn set_clock(&mut self, now_ns: u64) -> Result<(), EnforcerError> {
        if now_ns != self.now_ns {
            self.clock
                .set(0, now_ns, 0)
                .map_err(map_error("set", name::CLOCK))?;
            self.now_ns = now_ns;
        }
        Ok(())
    }

    /// What the program does with this frame; `None` for one too short to be run.
    pub fn run(&mut self, frame: &[u8]) -> Result<Option<Judgement>, EnforcerError> {
        if frame.len() < SHORTEST_FRAME_BYTES {
            return Ok(None);
        }
        let mut result = self.test_run(frame);
        if result.is_err() && frame.len().min(self.largest_bytes) > ONE_PAGE_FRAME_BYTES {
            self.largest_bytes = ONE_PAGE_FRAME_BYTES;
            result = self.test_run(frame);
        }
        let value = result.map_err(|source| EnforcerError::Run {
            bytes: frame.len(),
            source: Box::new(source),
        })?;
        judgement(value)
            .map(Some)
            .ok_or(EnforcerError::Missing { name: "its reason" })
    }

    fn test_run(&self, frame: &[u8]) -> Result<u32, ProgramError> {
        let program: &Xdp = self
            .ebpf
            .program(name::PROGRAM_CLOCKED)
            .ok_or(ProgramError::NotLoaded)?
            .try_into()?;
        let mut options = TestRunOptions::new();
        options.data_in = Some(frame.get(..self.largest_bytes).unwrap_or(frame));
        options.repeat = 1;
        Ok(program.test_run(options)?.return_value)
    }
}

impl std::fmt::Debug for Judge {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Judge").finish_non_exhaustive()
    }
}

fn object() -> Result<&'static [u8], EnforcerError> {
    OBJECT.ok_or(EnforcerError::NoObject)
}

fn loader() -> EbpfLoader<'static> {
    let mut loader = EbpfLoader::new();
    loader.override_global(name::BPF_LOG, &0_u8, true);
    loader
}

fn load_error(source: Box<aya::EbpfError>) -> EnforcerError {
    EnforcerError::Load { source }
}

fn load_program(ebpf: &mut Ebpf) -> Result<(), EnforcerError> {
    let program: &mut Xdp = ebpf
        .program_mut(name::PROGRAM_CLOCKED)
        .and_then(|program| program.try_into().ok())
        .ok_or(EnforcerError::Missing {
            name: name::PROGRAM_CLOCKED,
        })?;
    program.load().map_err(|source| EnforcerError::Verify {
        program: name::PROGRAM_CLOCKED,
        source: Box::new(source),
    })
}

/// What the program's value says; `None` for one that names no reason.
fn judgement(value: u32) -> Option<Judgement> {
    let (_, counter) = judged::decode(value)?;
    let (number, observed) = match counter.checked_sub(REASONS) {
        Some(number) => (number, true),
        None => (counter, false),
    };
    let reason = Reason::from_number(u8::try_from(number).ok()?)?;
    let effect = match (reason.verdict(), observed) {
        (Verdict::Pass, _) => Effect::Passed,
        (Verdict::Drop, false) => Effect::Dropped,
        (Verdict::Drop, true) => Effect::WouldDrop,
    };
    Some(Judgement {
        effect,
        reason: reason.as_str(),
    })
}

#[cfg(test)]
mod tests {
    use clawsec_common::abi::PINNED;

    use super::*;

    /// Written by the program.
    const WRITTEN: &[&str] = &[
        name::BUCKETS,
        name::CEILINGS,
        name::COUNTERS,
        name::STATS,
        name::TALLIES,
    ];

    #[test]
    fn every_pinned_map_is_either_copied_or_written_by_the_program() {
        for map in PINNED {
            let copied = COPIED.contains(&map.name);
            let written = WRITTEN.contains(&map.name);
            assert!(
                copied != written,
                "{}: say in COPIED or WRITTEN which it is",
                map.name
            );
        }
    }

    #[test]
    fn a_value_says_action_and_reason() {
        let not_allowed = Reason::NotAllowed as u32;
        for (row, value, expected) in [
            (
                "allowed",
                judged::encode(judged::XDP_PASS, 0),
                Some((Effect::Passed, "allowed")),
            ),
            (
                "dropped",
                judged::encode(judged::XDP_DROP, not_allowed),
                Some((Effect::Dropped, "not_allowed")),
            ),
            (
                "observed",
                judged::encode(judged::XDP_PASS, REASONS + not_allowed),
                Some((Effect::WouldDrop, "not_allowed")),
            ),
            ("an action alone", judged::XDP_PASS, None),
            (
                "no such reason",
                judged::encode(judged::XDP_PASS, 2 * REASONS),
                None,
            ),
        ] {
            let found = judgement(value).map(|found| (found.effect, found.reason));
            assert_eq!(found, expected, "{row}");
        }
    }
}
