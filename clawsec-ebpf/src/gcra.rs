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
    let now_ns = kernel.now_ns();
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
