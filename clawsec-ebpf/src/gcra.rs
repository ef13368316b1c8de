//! The limit on new connections: GCRA on one 64-bit cell.
//!
//! A bucket's whole state is the theoretical arrival time of the next connection, changed by
//! compare-and-swap only, so that the limit is exact however many CPUs see the source. Two steps
//! (read tokens, write tokens less one) would admit 0.7 % too many with two CPUs alone.

use clawsec_common::abi::{CAS_TRIES, RateClass, SourceKey};
use clawsec_common::reason::Stat;

use crate::kernel::{Cell, Kernel};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub enum Admission {
    Admitted,
    Refused,
    /// Other CPUs won every try.
    Contended,
}

/// Judges one new connection of `source`. A refusal changes nothing: a source that keeps trying
/// does not lengthen its own wait.
#[inline(always)]
pub fn admit<K: Kernel>(kernel: &K, source: &SourceKey, class: &RateClass) -> Admission {
    if class.kind == RateClass::UNLIMITED {
        return Admission::Admitted;
    }
    let now_ns = kernel.tick_ns();
    if let Some(bucket) = kernel.bucket(source) {
        return spend(&bucket, now_ns, class);
    }
    if kernel.make_bucket(source, now_ns.saturating_add(class.interval_ns)) {
        kernel.stat(Stat::BucketMade);
        return Admission::Admitted;
    }
    match kernel.bucket(source) {
        Some(bucket) => spend(&bucket, now_ns, class),
        None => Admission::Contended,
    }
}

/// Judges one packet of any kind against the source's packet ceiling.
#[inline(always)]
pub fn admit_packet<K: Kernel>(kernel: &K, source: &SourceKey, ceiling: &RateClass) -> Admission {
    let now_ns = kernel.tick_ns();
    if let Some(bucket) = kernel.ceiling(source) {
        return spend(&bucket, now_ns, ceiling);
    }
    if kernel.make_ceiling(source, now_ns.saturating_add(ceiling.interval_ns)) {
        kernel.stat(Stat::CeilingMade);
        return Admission::Admitted;
    }
    match kernel.ceiling(source) {
        Some(bucket) => spend(&bucket, now_ns, ceiling),
        None => Admission::Contended,
    }
}

#[inline(always)]
fn spend<C: Cell>(bucket: &C, now_ns: u64, class: &RateClass) -> Admission {
    let mut seen = bucket.load();
    for _ in 0..CAS_TRIES {
        let base = if seen > now_ns { seen } else { now_ns };
        if base - now_ns > class.tolerance_ns {
            return Admission::Refused;
        }
        match bucket.compare_exchange(seen, base.saturating_add(class.interval_ns)) {
            Ok(()) => return Admission::Admitted,
            Err(current) => seen = current,
        }
    }
    Admission::Contended
}

#[cfg(test)]
mod tests {
    use std::cell::Cell as StdCell;

    use super::*;

    const CLASS: RateClass = RateClass {
        interval_ns: 10,
        tolerance_ns: 20,
        kind: RateClass::LIMITED,
        reserved: 0,
    };

    /// A cell that another CPU changes before each of the first `thefts` tries.
    struct Contested {
        value: StdCell<u64>,
        thefts: StdCell<u32>,
        stolen: u64,
    }

    impl Cell for Contested {
        fn load(&self) -> u64 {
            self.value.get()
        }

        fn compare_exchange(&self, old: u64, new: u64) -> Result<(), u64> {
            if self.thefts.get() > 0 {
                self.thefts.set(self.thefts.get() - 1);
                self.value.set(self.value.get() + self.stolen);
            }
            let seen = self.value.get();
            if seen != old {
                return Err(seen);
            }
            self.value.set(new);
            Ok(())
        }
    }

    #[test]
    fn judges_again_by_what_another_cpu_left() {
        // name, tries lost, taken by the other CPU each time, expectation, arrival left
        for (row, thefts, stolen, expected, left) in [
            ("alone", 0, 0, Admission::Admitted, 1010),
            ("one lost, room left", 1, 10, Admission::Admitted, 1020),
            ("two lost, room left", 2, 10, Admission::Admitted, 1030),
            ("the other took the last", 3, 10, Admission::Refused, 1030),
            ("every try lost", 4, 1, Admission::Contended, 1004),
        ] {
            let cell = Contested {
                value: StdCell::new(1000),
                thefts: StdCell::new(thefts),
                stolen,
            };
            assert_eq!(spend(&cell, 1000, &CLASS), expected, "{row}");
            assert_eq!(cell.load(), left, "{row}");
        }
    }

    #[test]
    fn a_worst_window_admits_less_than_twice_the_burst() {
        // A window of 30 holds 3 of 10: at most 2 * 3 - 1.
        let cell = Contested {
            value: StdCell::new(0),
            thefts: StdCell::new(0),
            stolen: 0,
        };
        let admitted = |now_ns| u32::from(spend(&cell, now_ns, &CLASS) == Admission::Admitted);
        let window: u32 = (1000..1030)
            .map(|now_ns| admitted(now_ns) + admitted(now_ns))
            .sum();
        assert_eq!(window, 5);
    }

    #[test]
    fn the_end_of_the_clock_neither_wraps_nor_admits_more() {
        let cell = Contested {
            value: StdCell::new(u64::MAX),
            thefts: StdCell::new(0),
            stolen: 0,
        };
        assert_eq!(spend(&cell, 5, &CLASS), Admission::Refused);
        assert_eq!(spend(&cell, u64::MAX - 1, &CLASS), Admission::Admitted);
        assert_eq!(cell.load(), u64::MAX);
    }
}
