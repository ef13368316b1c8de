//! The packet plane, seen from the daemon: loads the program, keeps it attached, fills its maps,
//! reads its counters and events.
//!
//! Invariant: `aya` and `clawsec_common` are named only in this folder; what leaves it are
//! `std::net` addresses, numbers and words. The supervisor alone calls it, as root.

mod advice;
mod attach;
mod bans;
mod carry;
mod copy;
mod error;
mod event;
mod extack;
mod figures;
mod hook;
mod judge;
mod link;
mod load;
mod log;
mod object;
mod pin;
mod raw;
mod rollback;
mod slot;

use std::fmt;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use aya::Ebpf;
use ipnet::IpNet;

use crate::config::XdpMode;
use crate::policy::PacketPolicy;

use self::load::Maps;
use self::slot::SlotImage;

pub use attach::{AttachedMode, Attachment};
pub use bans::TimedEntry;
pub use carry::{Carried, Found};
pub use error::EnforcerError;
pub use event::{PacketBatch, PacketEvent, PacketEvents};
pub use figures::{Effect, Fill, KernelMemory, ReasonCount, SourceTotal, StatCount};
pub use judge::{Judge, Judgement, SHORTEST_FRAME_BYTES};
pub use log::PacketLog;
pub use object::OBJECT;

/// Bans of single sources that the maps hold.
pub const MOST_BANS: usize = clawsec_common::abi::MAX_BANS as usize;
/// Bans of prefixes that they hold, and as many admissions.
pub const MOST_TIMED_PREFIXES: usize = clawsec_common::abi::MAX_TIMED_PREFIXES as usize;

/// Programs of others at an interface's XDP and tcx hooks, in words; none where nothing can be
/// seen. Our own are known by their names.
pub fn others_at(interface: &str) -> Vec<String> {
    let xdp = hook::index(interface).and_then(|index| hook::query(interface, index));
    let xdp = xdp.ok().flatten().map(|hook| {
        let name = hook::program_name(hook.program_id);
        ("XDP", hook.program_id, name)
    });
    let tcx = hook::query_tcx(interface).unwrap_or_default().into_iter();
    xdp.into_iter()
        .chain(tcx.map(|(id, name)| ("tcx", id, name)))
        .filter(|(_, _, name)| !name.starts_with("clawsec"))
        .map(|(hook, id, name)| format!("{hook} program {id}, {name}"))
        .collect()
}

/// Where and how the packet plane is to be attached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EnforcerPlan {
    pub interfaces: Vec<String>,
    pub mode: XdpMode,
    /// A folder on a BPF filesystem, such as `/sys/fs/bpf/clawsec`.
    pub pin_dir: PathBuf,
    /// Lines of the program itself, by `take_log`.
    pub bpf_log: bool,
}

/// The packet plane in force. Dropping it leaves the filter as it is: links and maps are pinned,
/// and no descriptor of a link is kept, so that `detach` alone ends it.
pub struct Enforcer {
    ebpf: Ebpf,
    maps: Maps,
    attachments: Vec<Attachment>,
    plan: EnforcerPlan,
    /// Where this schema's maps are pinned.
    folder: PathBuf,
    /// The generation that an earlier daemon left in force.
    found: Option<u64>,
    adopted_maps: bool,
    not_carried: Option<EnforcerError>,
    /// Held for the daemon's life: two daemons must not fill one idle slot.
    _lock: OwnedFd,
}

impl Enforcer {
    /// Loads the program, adopts the pinned maps and links under `plan.pin_dir` or makes new
    /// ones, and puts `policy` in force. The slot is filled and read back before any packet can
    /// be judged by it; adopted links are updated atomically, without a gap.
    ///
    /// # Errors
    /// Whatever fails before the flip leaves what was in force before; links made by this call
    /// are taken back when a later interface fails.
    pub fn start(plan: &EnforcerPlan, policy: &PacketPolicy) -> Result<Self, EnforcerError> {
        Self::start_carrying(plan, policy, &Carried::default())
    }

    /// As `start`, with bans and admissions that were kept elsewhere: they are in the maps before
    /// any packet is judged by this daemon's program.
    pub fn start_carrying(
        plan: &EnforcerPlan,
        policy: &PacketPolicy,
        carried: &Carried,
    ) -> Result<Self, EnforcerError> {
        let object = OBJECT.ok_or(EnforcerError::NoObject)?;
        let image = SlotImage::compile(policy)?;
        let folder = pin::open(&plan.pin_dir)?;
        let adopted_maps = load::has_pinned(&folder.path);
        let (mut ebpf, mut maps) = load::load(object, &folder.path, plan.bpf_log)?;
        let found = Some(maps.generation()?).filter(|generation| *generation != 0);
        if adopted_maps {
            bans::resume(&mut maps)?;
        }
        // A list that does not fit must not keep the filter from standing.
        let not_carried = carry::carry(&mut maps, carried).err();
        maps.put_in_force(&image)?;
        let attachments = attach::attach_all(&mut ebpf, plan, &folder.path)?;
        pin::remove_other_schemas(&plan.pin_dir, &folder.path)?;
        Ok(Self {
            ebpf,
            maps,
            attachments,
            plan: plan.clone(),
            folder: folder.path,
            found,
            adopted_maps,
            not_carried,
            _lock: folder.lock,
        })
    }

    /// Puts another policy in force: fill the idle slot, read it back, flip. An error leaves the
    /// old policy in force, whole.
    pub fn switch(&mut self, policy: &PacketPolicy) -> Result<(), EnforcerError> {
        self.maps.put_in_force(&SlotImage::compile(policy)?)
    }

    /// Packets and bytes by reason, over all CPUs, since the maps were made.
    pub fn counters(&self) -> Result<Vec<ReasonCount>, EnforcerError> {
        figures::counters(&self.maps)
    }

    /// Figures about the program itself.
    pub fn stats(&self) -> Result<Vec<StatCount>, EnforcerError> {
        figures::stats(&self.maps)
    }

    /// How full the maps of bans and admissions are; entries that have run out count until they
    /// are looked for.
    pub fn fill(&self) -> Result<Vec<Fill>, EnforcerError> {
        figures::fill(&self.maps)
    }

    /// Running totals by source and reason, as far as they are still held. A total is compared
    /// with the one before only if `created_ns` is the same; read `counters` after it, so that
    /// the sum of totals does not exceed the counter.
    pub fn harvest(&self) -> Result<Vec<SourceTotal>, EnforcerError> {
        figures::harvest(&self.maps)
    }

    /// Opens this daemon's buffers on every online CPU. Once only, and inside a tokio runtime.
    pub fn take_events(&mut self) -> Result<PacketEvents, EnforcerError> {
        PacketEvents::open(&mut self.ebpf)
    }

    /// The program's own log lines, if the plan asked for them. Inside a tokio runtime.
    pub fn take_log(&mut self) -> Result<PacketLog, EnforcerError> {
        PacketLog::open(&mut self.ebpf)
    }

    /// Drops everything from `prefix` to protected ports for a time; a ban that is there is
    /// replaced. IPv6 prefixes longer than 64 are banned as their /64.
    pub fn ban(&mut self, prefix: IpNet, for_: Duration) -> Result<(), EnforcerError> {
        self.ban_until(&[(prefix, end(for_))])
    }

    /// Many bans by wall time: a list that was kept over a reboot, or one from elsewhere.
    pub fn ban_until(&mut self, bans: &[(IpNet, SystemTime)]) -> Result<(), EnforcerError> {
        bans::ban(&mut self.maps, bans)
    }

    /// Whether there was one.
    pub fn unban(&mut self, prefix: IpNet) -> Result<bool, EnforcerError> {
        bans::unban(&mut self.maps, prefix)
    }

    /// The bans that have not run out, by prefix; those that have are removed.
    pub fn bans(&mut self) -> Result<Vec<TimedEntry>, EnforcerError> {
        bans::bans(&mut self.maps)
    }

    /// Admits `prefix` for a time, whatever the policy's prefixes say, by its default rate class.
    /// A ban goes before it.
    pub fn admit(&mut self, prefix: IpNet, for_: Duration) -> Result<(), EnforcerError> {
        self.admit_until(&[(prefix, end(for_))])
    }

    /// Many admissions by wall time.
    pub fn admit_until(&mut self, admissions: &[(IpNet, SystemTime)]) -> Result<(), EnforcerError> {
        bans::admit(&mut self.maps, admissions)
    }

    /// Whether there was one.
    pub fn unadmit(&mut self, prefix: IpNet) -> Result<bool, EnforcerError> {
        bans::unadmit(&mut self.maps, prefix)
    }

    /// The admissions that have not run out, by prefix; those that have are removed.
    pub fn admissions(&mut self) -> Result<Vec<TimedEntry>, EnforcerError> {
        bans::admissions(&mut self.maps)
    }

    /// Makes the program's ends of bans and admissions anew by the wall clock, which was set.
    pub fn follow_clock(&mut self) -> Result<(), EnforcerError> {
        bans::resume(&mut self.maps)
    }

    /// Kernel memory of the lasting maps.
    pub fn memory(&self) -> Result<KernelMemory, EnforcerError> {
        figures::memory(&self.maps, &self.folder)
    }

    /// Why bans or admissions that were to be carried over are not all in force.
    pub fn not_carried(&self) -> Option<&EnforcerError> {
        self.not_carried.as_ref()
    }

    /// The policy that was in force before `start`, if one was; what `roll_back` returns to.
    pub fn found_generation(&self) -> Option<u64> {
        self.found
    }

    /// Puts the policy that `start` found back in force, by one store; false if its slot has
    /// been written to since, or there was none.
    pub fn roll_back(&mut self) -> Result<bool, EnforcerError> {
        match self.found {
            Some(generation) => self.maps.flip_back(generation),
            None => Ok(false),
        }
    }

    /// The interface's index now; `None` while there is no such interface.
    pub fn index_of(&self, interface: &str) -> Option<u32> {
        hook::index(interface).ok()
    }

    /// Attaches again to an interface that went and came back, as `start` does.
    pub fn attach_again(&mut self, interface: &str) -> Result<&Attachment, EnforcerError> {
        let (attachment, _) = attach::attach(&mut self.ebpf, &self.plan, &self.folder, interface)?;
        self.attachments.retain(|held| held.interface != interface);
        self.attachments.push(attachment);
        self.attachments.last().ok_or(EnforcerError::NoInterface {
            interface: interface.to_owned(),
            source: std::io::ErrorKind::NotFound.into(),
        })
    }

    /// Forgets the dead link of an interface that is gone.
    pub fn forget(&mut self, interface: &str) -> Result<(), EnforcerError> {
        self.attachments.retain(|held| held.interface != interface);
        pin::remove_links(&self.folder, interface)
    }

    pub fn attachments(&self) -> &[Attachment] {
        &self.attachments
    }

    /// Whether the counters go on from an earlier daemon's, or began at 0.
    pub fn has_adopted_maps(&self) -> bool {
        self.adopted_maps
    }

    /// The generation in force, as the kernel holds it.
    pub fn generation(&self) -> Result<u64, EnforcerError> {
        self.maps.generation()
    }
}

impl fmt::Debug for Enforcer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Enforcer")
            .field("attachments", &self.attachments)
            .finish_non_exhaustive()
    }
}

/// A time from now; for ever where the clock cannot tell.
fn end(for_: Duration) -> SystemTime {
    let now = SystemTime::now();
    let century = Duration::from_hours(24 * 365 * 100);
    now.checked_add(for_.min(century)).unwrap_or(now)
}

/// Takes the filter off every interface and removes the pinned maps; gives the interfaces.
pub fn detach(pin_dir: &Path) -> Result<Vec<String>, EnforcerError> {
    pin::detach(pin_dir)
}
