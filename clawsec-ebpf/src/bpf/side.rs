//! `Kernel` answered by maps and helpers.

use core::cell::Cell;

use aya_ebpf::bindings::{BPF_F_CURRENT_CPU, BPF_NOEXIST};
use aya_ebpf::helpers::generated::{
    bpf_get_smp_processor_id, bpf_jiffies64, bpf_ktime_get_coarse_ns, bpf_perf_event_output,
};
use aya_ebpf::maps::LpmTrie;
use aya_ebpf::maps::lpm_trie::Key;
use aya_log_ebpf::info;
use clawsec_common::abi::{
    Bucket, Budget, Expiry, MAX_CLASSES, MAX_NODES, PORT_WORDS, PacketRecord, PortWord, PrefixRule,
    RateClass, SlotHeader, SourceKey, TallySet, TimedCounts, TimedPrefix,
};
use clawsec_common::reason::{Reason, Stat};
use clawsec_common::tree::{self, Nodes, ROOT4, ROOT6, TreeNode};
use clawsec_ebpf::kernel::{Kernel, Slot};
use clawsec_ebpf::parse::Facts;

use super::atomic::MapCell;
use super::maps;
use super::received::Received;

pub(crate) struct MapKernel<'a, C, K> {
    ctx: &'a C,
    clock: K,
    /// The counter that this packet moved; dead code where nobody asks.
    counted: Cell<u32>,
}

/// Where the time comes from.
pub(crate) trait Clock {
    fn now_ns(&self) -> u64;
    fn tick_ns(&self) -> u64;
}

/// The kernel's own two.
pub(crate) struct KernelClock;

impl Clock for KernelClock {
    #[inline(always)]
    fn now_ns(&self) -> u64 {
        // SAFETY: takes no argument. Coarse costs half of the exact clock; a tick is at most 10 ms.
        unsafe { bpf_ktime_get_coarse_ns() }
    }

    /// The verifier replaces the call by a read of the kernel's variable, on 64-bit hosts.
    #[inline(always)]
    fn tick_ns(&self) -> u64 {
        // SAFETY: takes no argument.
        unsafe { bpf_jiffies64() }.wrapping_mul(maps::TICK_NS.load())
    }
}

/// One that the caller sets, for both.
pub(crate) struct SetClock;

impl Clock for SetClock {
    #[inline(always)]
    fn now_ns(&self) -> u64 {
        maps::clock_ns()
    }

    #[inline(always)]
    fn tick_ns(&self) -> u64 {
        maps::clock_ns()
    }
}

impl<'a, C: Received, K: Clock> MapKernel<'a, C, K> {
    #[inline(always)]
    pub(crate) fn new(ctx: &'a C, clock: K) -> Self {
        Self {
            ctx,
            clock,
            counted: Cell::new(0),
        }
    }

    #[inline(always)]
    pub(crate) fn ctx(&self) -> &'a C {
        self.ctx
    }

    /// The counter that the packet moved.
    #[inline(always)]
    pub(crate) fn counted(&self) -> u32 {
        self.counted.get()
    }
}

impl<C: Received, K: Clock> Kernel for MapKernel<'_, C, K> {
    type Cell = MapCell;

    #[inline(always)]
    fn now_ns(&self) -> u64 {
        self.clock.now_ns()
    }

    #[inline(always)]
    fn tick_ns(&self) -> u64 {
        self.clock.tick_ns()
    }

    #[inline(always)]
    fn slot(&self) -> Slot {
        // SAFETY: a pointer into a map's value; volatile, since the daemon flips it meanwhile.
        let active = maps::ACTIVE
            .get_ptr(0)
            .map_or(0, |index| unsafe { index.read_volatile() });
        let index = active & 1;
        let header = maps::SLOTS.get(index).copied().unwrap_or_default();
        Slot {
            index,
            generation: header.generation,
            observe: header.flags & SlotHeader::OBSERVE != 0,
            drop_fragments: header.flags & SlotHeader::DROP_FRAGMENTS != 0,
            ceiling: RateClass {
                interval_ns: header.packet_interval_ns,
                tolerance_ns: header.packet_tolerance_ns,
                kind: u32::from(header.packet_interval_ns != 0) * RateClass::LIMITED,
                reserved: 0,
            },
        }
    }

    #[inline(always)]
    fn ports(&self, slot: &Slot, port: u16) -> PortWord {
        let index = slot.index * PORT_WORDS + u32::from(port >> 6);
        maps::PORTS.get(index).copied().unwrap_or_default()
    }

    #[inline(always)]
    fn rule(&self, slot: &Slot, facts: &Facts) -> Option<PrefixRule> {
        let nodes = SlotNodes {
            first: slot.index * MAX_NODES,
        };
        let [first, second] = facts.source.words.map(u64::from_be);
        if facts.family == 4 {
            // Of the mapped form the last four bytes.
            tree::find(&nodes, ROOT4, second & 0xffff_ffff, 0)
        } else {
            tree::find(&nodes, ROOT6, first, second)
        }
    }

    #[inline(always)]
    fn class(&self, slot: &Slot, class: u16) -> Option<RateClass> {
        if u32::from(class) >= MAX_CLASSES {
            return None;
        }
        maps::CLASSES
            .get(slot.index * MAX_CLASSES + u32::from(class))
            .copied()
            .filter(|class| class.kind != 0)
    }

    #[inline(always)]
    fn timed(&self) -> TimedCounts {
        maps::TIMED.get(0).copied().unwrap_or_default()
    }

    #[inline(always)]
    fn ban_expires_ns(&self, source: &SourceKey) -> u64 {
        // SAFETY: a plain read of one aligned u64 that the daemon may replace meanwhile.
        maps::BANS
            .get_ptr(source)
            .map_or(0, |ban| unsafe { (*ban).expires_ns })
    }

    #[inline(always)]
    fn ban_prefix_expires_ns(&self, facts: &Facts) -> u64 {
        longest(&maps::BAN_PREFIXES, facts)
    }

    #[inline(always)]
    fn admission_expires_ns(&self, facts: &Facts) -> u64 {
        longest(&maps::ADMISSIONS, facts)
    }

    #[inline(always)]
    fn bucket(&self, source: &SourceKey) -> Option<MapCell> {
        let bucket = maps::BUCKETS.get_ptr_mut(source)?;
        // SAFETY: into the value just found. The LRU may give the element to another source at
        // any time; that source's bucket is then a connection short, which no one can provoke
        // at will, and memory stays a valid bucket.
        Some(unsafe { MapCell::new(&raw mut (*bucket).arrival_ns) })
    }

    #[inline(always)]
    fn make_bucket(&self, source: &SourceKey, arrival_ns: u64) -> bool {
        let bucket = Bucket { arrival_ns };
        maps::BUCKETS
            .insert(source, bucket, BPF_NOEXIST.into())
            .is_ok()
    }

    #[inline(always)]
    fn ceiling(&self, source: &SourceKey) -> Option<MapCell> {
        let bucket = maps::CEILINGS.get_ptr_mut(source)?;
        // SAFETY: as in `bucket`.
        Some(unsafe { MapCell::new(&raw mut (*bucket).arrival_ns) })
    }

    #[inline(always)]
    fn make_ceiling(&self, source: &SourceKey, arrival_ns: u64) -> bool {
        let bucket = Bucket { arrival_ns };
        maps::CEILINGS
            .insert(source, bucket, BPF_NOEXIST.into())
            .is_ok()
    }

    #[inline(always)]
    fn count(&self, counter: u32) {
        self.counted.set(counter);
        if let Some(counter) = maps::COUNTERS.get_ptr_mut(counter) {
            // SAFETY: this CPU's own value, and both hooks run with soft interrupts off.
            unsafe {
                (*counter).packets += 1;
                (*counter).bytes += self.ctx.frame_bytes();
            }
        }
    }

    #[inline(always)]
    fn stat(&self, stat: Stat) {
        if let Some(count) = maps::STATS.get_ptr_mut(stat as u32) {
            // SAFETY: this CPU's own value.
            unsafe { *count += 1 };
        }
    }

    #[inline(always)]
    fn with_tallies<T>(&self, set: u32, judge: impl FnOnce(&mut TallySet) -> T) -> Option<T> {
        // SAFETY: this CPU's own value, borrowed for this call only.
        maps::TALLIES
            .get_ptr_mut(set)
            .map(|set| judge(unsafe { &mut *set }))
    }

    #[inline(always)]
    fn with_budget<T>(&self, judge: impl FnOnce(&mut Budget) -> T) -> Option<T> {
        // SAFETY: this CPU's own value, borrowed for this call only.
        maps::BUDGET
            .get_ptr_mut(0)
            .map(|budget| judge(unsafe { &mut *budget }))
    }

    #[inline(always)]
    fn emit(&self, record: &PacketRecord) -> bool {
        if maps::BPF_LOG.load() != 0 {
            let port = u16::from_be_bytes(record.dest_port_be);
            info!(
                self.ctx,
                "drop from {:i} to port {}, total {}: {}",
                record.source_be,
                port,
                record.total,
                log_name(record.reason)
            );
        }
        // SAFETY: the map, and a record without padding that lives on this stack.
        let result = unsafe {
            bpf_perf_event_output(
                self.ctx.as_ptr(),
                (&raw const maps::EVENTS).cast_mut().cast(),
                BPF_F_CURRENT_CPU,
                core::ptr::from_ref(record).cast_mut().cast(),
                size_of::<PacketRecord>() as u64,
            )
        };
        result == 0
    }

    #[inline(always)]
    fn ifindex(&self) -> u32 {
        self.ctx.ifindex()
    }

    #[inline(always)]
    fn cpu(&self) -> u32 {
        // SAFETY: takes no argument.
        unsafe { bpf_get_smp_processor_id() }
    }
}

const LOG_NAME_BYTES: usize = 16;

/// Names of one width, filled up with spaces. Where a text's length is not known to the compiler,
/// neither is any place behind it in aya-log's buffer, and Linux 6.1 (rustc 1.96) walked over a
/// million instructions to prove that each lies within.
static LOG_NAMES: [[u8; LOG_NAME_BYTES]; Reason::ALL.len()] = {
    let mut names = [[b' '; LOG_NAME_BYTES]; Reason::ALL.len()];
    let mut number = 0;
    while number < names.len() {
        let name = Reason::ALL[number].as_str().as_bytes();
        let mut at = 0;
        while at < name.len() {
            names[number][at] = name[at];
            at += 1;
        }
        number += 1;
    }
    names
};

#[inline(always)]
fn log_name(reason: u8) -> &'static str {
    let name = LOG_NAMES
        .get(usize::from(reason))
        .unwrap_or(&[b'?'; LOG_NAME_BYTES]);
    // SAFETY: copied whole from texts, and spaces.
    unsafe { core::str::from_utf8_unchecked(name) }
}

/// The nodes of one slot.
struct SlotNodes {
    first: u32,
}

impl Nodes for SlotNodes {
    #[inline(always)]
    fn node(&self, index: u32) -> Option<&TreeNode> {
        maps::NODES.get(self.first.wrapping_add(index))
    }

    #[inline(always)]
    fn opaque(&self, mut number: u64) -> u64 {
        // SAFETY: moves a register to itself. An empty text would be none, and two lines of debug
        // information for one instruction are refused (6.18).
        unsafe {
            core::arch::asm!("{0} = {0}", inout(reg) number, options(pure, nomem, nostack, preserves_flags));
        }
        number
    }
}

/// The end of the longest prefix that holds the source.
#[inline(always)]
fn longest(trie: &LpmTrie<TimedPrefix, Expiry>, facts: &Facts) -> u64 {
    let address_be = facts.source.address_be();
    let key = if facts.family == 4 {
        let [.., a, b, c, d] = address_be;
        Key::new(TimedPrefix::FAMILY_BITS + 32, TimedPrefix::v4([a, b, c, d]))
    } else {
        Key::new(TimedPrefix::FAMILY_BITS + 128, TimedPrefix::v6(address_be))
    };
    trie.get(key).map_or(0, |expiry| expiry.expires_ns)
}
