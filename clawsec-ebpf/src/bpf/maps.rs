//! The maps, by the names and sizes of `clawsec_common::abi`.

use aya_ebpf::Global;
use aya_ebpf::bindings::{BPF_F_MMAPABLE, BPF_F_NO_PREALLOC};
use aya_ebpf::macros::map;
use aya_ebpf::maps::{Array, HashMap, LpmTrie, LruHashMap, PerCpuArray, PerfEventArray};
#[expect(clippy::wildcard_imports, reason = "the maps are the ABI, all of it")]
use clawsec_common::abi::{self, *};
use clawsec_common::tree::TreeNode;

/// Index of the slot in force; one aligned store of the daemon switches everything.
#[map]
pub(crate) static ACTIVE: Array<u32> = Array::with_max_entries(1, 0);
#[map]
pub(crate) static SLOTS: Array<SlotHeader> = Array::with_max_entries(abi::SLOTS, 0);
#[map]
pub(crate) static PORTS: Array<PortWord> = Array::with_max_entries(abi::SLOTS * PORT_WORDS, 0);
#[map]
pub(crate) static CLASSES: Array<RateClass> = Array::with_max_entries(abi::SLOTS * MAX_CLASSES, 0);
/// Both slots' nodes; mapped into the daemon's memory, which fills it by one copy.
#[map]
pub(crate) static NODES: Array<TreeNode> =
    Array::with_max_entries(abi::SLOTS * MAX_NODES, BPF_F_MMAPABLE);
#[map]
pub(crate) static BANS: HashMap<SourceKey, Expiry> =
    HashMap::with_max_entries(MAX_BANS, BPF_F_NO_PREALLOC);
#[map]
pub(crate) static BAN_PREFIXES: LpmTrie<TimedPrefix, Expiry> =
    LpmTrie::with_max_entries(MAX_TIMED_PREFIXES, BPF_F_NO_PREALLOC);
#[map]
pub(crate) static ADMISSIONS: LpmTrie<TimedPrefix, Expiry> =
    LpmTrie::with_max_entries(MAX_TIMED_PREFIXES, BPF_F_NO_PREALLOC);
#[map]
pub(crate) static TIMED: Array<TimedCounts> = Array::with_max_entries(1, 0);
/// A common LRU, not one list for each CPU: one source, one bucket.
#[map]
pub(crate) static BUCKETS: LruHashMap<SourceKey, Bucket> =
    LruHashMap::with_max_entries(MAX_BUCKETS, 0);
#[map]
pub(crate) static CEILINGS: LruHashMap<SourceKey, Bucket> =
    LruHashMap::with_max_entries(MAX_BUCKETS, 0);
#[map]
pub(crate) static COUNTERS: PerCpuArray<Counter> = PerCpuArray::with_max_entries(abi::COUNTERS, 0);
#[map]
pub(crate) static STATS: PerCpuArray<u64> = PerCpuArray::with_max_entries(abi::STATS, 0);
#[map]
pub(crate) static TALLIES: PerCpuArray<TallySet> = PerCpuArray::with_max_entries(TALLY_SETS, 0);
#[map]
pub(crate) static BUDGET: PerCpuArray<Budget> = PerCpuArray::with_max_entries(1, 0);
#[map]
pub(crate) static EVENTS: PerfEventArray<PacketRecord> = PerfEventArray::new(0);
#[map]
pub(crate) static CLOCK: Array<u64> = Array::with_max_entries(1, 0);

/// Set at load; while 0 the verifier removes the log lines as dead code.
#[unsafe(no_mangle)]
pub(crate) static BPF_LOG: Global<u8> = Global::new(0);

/// Set at load to this kernel's.
#[unsafe(no_mangle)]
pub(crate) static TICK_NS: Global<u64> = Global::new(4_000_000);

/// The injected clock.
#[inline(always)]
pub(crate) fn clock_ns() -> u64 {
    // SAFETY: the pointer is into a map's value; the daemon may write it meanwhile.
    CLOCK
        .get_ptr(0)
        .map_or(0, |now_ns| unsafe { now_ns.read_volatile() })
}
