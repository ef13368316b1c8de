//! 64-bit atomics on map memory.
//!
//! `bpfel-unknown-none` says `atomic-cas: false` (rustc 1.95, 1.96), so that `AtomicU64` has no
//! such methods, although the CPU (`-Ctarget-cpu=v3`, kernel 5.12) does. One rule: a result that is
//! used comes from an AcqRel operation. LLVM 22 drops `BPF_FETCH` from relaxed additions and
//! exchanges whose result is used, and returns the operand (llvm-project issue 210280). Its
//! compare-and-swap came out right when tried relaxed, but nothing promises it.

use core::intrinsics::{AtomicOrdering, atomic_cxchg};

use clawsec_ebpf::kernel::Cell;

/// A 64-bit field of a map's value.
#[derive(Clone, Copy)]
pub(crate) struct MapCell(*mut u64);

impl MapCell {
    /// # Safety
    /// `cell` points into a value that a map lookup gave to this run of the program.
    pub(crate) unsafe fn new(cell: *mut u64) -> Self {
        Self(cell)
    }
}

impl Cell for MapCell {
    #[inline(always)]
    fn load(&self) -> u64 {
        // SAFETY: in a map's value (`new`); values live until the program has ended (RCU).
        unsafe { self.0.read_volatile() }
    }

    #[inline(always)]
    fn compare_exchange(&self, old: u64, new: u64) -> Result<(), u64> {
        // SAFETY: as above, and 8-byte aligned since map values are.
        let (seen, _) = unsafe {
            atomic_cxchg::<u64, { AtomicOrdering::AcqRel }, { AtomicOrdering::Acquire }>(
                self.0, old, new,
            )
        };
        if seen == old { Ok(()) } else { Err(seen) }
    }
}
