//! The kernel's drops, exactly: what is written sums to the kernel's counters at each checkpoint.
//!
//! The counters are the truth; naming sources is best effort. A tally's running total says how many
//! drops of one source one CPU has seen, so a lost event loses nothing: the next one
//! carries it. What no event has named when a checkpoint comes is written without a source and
//! becomes a *debt*; later events settle the debt first, and only what exceeds it is counted.
//!
//! Why that is exact: drops named after a checkpoint happened before it (at most the debt) or
//! after it (not yet in any sum). With `settles = min(named, debt)`, what is counted cannot exceed
//! what happened after. Where a total's history is unknown (entries from before a restart, or
//! whose baseline was evicted), the first event only sets the baseline and counts nothing.
//!
//! Pure: no clock, no IO. The caller reads the counters *after* taking in every event it has, with
//! none between the reading and `checkpoint`; the kernel counts a drop before it reports it.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::time::Duration;

use super::distinct::Distinct;
use super::entry::{CHECKPOINT, DROP, EPOCH, Entry};
use super::stamp::Stamp;
use super::sums::Recovered;
use crate::event::{Event, EventKind, Outcome};

/// Sums of the kernel's drops, and what is known of their sources.
#[derive(Debug)]
pub struct Ledger {
    epoch: u64,
    /// By name; also gives each reason the small number that baselines use.
    numbers: BTreeMap<String, u16>,
    tallies: Vec<Tally>,
    baselines: HashMap<TallyName, Baseline>,
    /// The same, by age: the oldest is evicted first, which moves the horizon least.
    ages: BTreeSet<(u64, TallyName)>,
    /// When the last event of a source and reason was written, of whatever CPU.
    paced: HashMap<(IpAddr, u16), u64>,
    /// Entries created up to here whose baseline is not known may have been counted already.
    horizon_ns: u64,
    limits: LedgerLimits,
    records_left: usize,
    stated: Option<BTreeMap<String, u64>>,
}

/// Source, reason, CPU.
type TallyName = (IpAddr, u16, u32);

/// What the kernel says of one tally.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Attribution<'a> {
    /// /32, or the first address of a /64.
    pub source: IpAddr,
    pub reason: &'a str,
    /// When the tally was begun, by the kernel's monotonic clock; names its life.
    pub created_ns: u64,
    /// Drops since then.
    pub total: u64,
    /// The CPU that counts.
    pub cpu: u32,
    /// When an event was sent, by the same clock: those of a source and reason that several CPUs
    /// send within one second are one record, and the rest is named a second later. `None` for
    /// what was read at a checkpoint.
    pub event_ns: Option<u64>,
}

/// Between two records of one source and reason; a little less than the kernel's own second, of
/// which a tick may be missing.
const PACE_NS: u64 = 900_000_000;

/// Where the kernel's maps come from at start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Maps {
    /// Pinned by an earlier daemon; their counters go on.
    Adopted,
    /// Made now; their counters are 0.
    Fresh,
}

/// Why a checkpoint is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CheckpointCause {
    /// Time passed: nothing is written when nothing changed.
    Interval,
    /// At start and at stop: always written.
    Forced,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LedgerLimits {
    /// Baselines kept.
    pub baselines: usize,
    /// Attributed records between two checkpoints; beyond it drops stay without a source, unless
    /// a later event of the same source comes after the next checkpoint.
    pub records: usize,
}

#[derive(Debug, Clone, Default)]
struct Tally {
    reason: String,
    /// Sum of `count` of all records of this epoch.
    recorded: u64,
    /// Part of it that was written without a source and has not been settled.
    debt: u64,
    /// Sources that were told of since the last checkpoint and not named for lack of room.
    unnamed: Option<Distinct>,
}

#[derive(Debug, Clone, Copy)]
struct Baseline {
    created_ns: u64,
    seen: u64,
}

impl LedgerLimits {
    /// Between two checkpoints so many records that they are 80 a second on average: with what
    /// repeated requests may have, any flood stays below 200 a second.
    pub fn of(interval: Duration) -> Self {
        let records = usize::try_from(interval.as_millis() * 80 / 1000).unwrap_or(usize::MAX);
        Self {
            baselines: 16_384,
            records: records.max(1),
        }
    }
}

impl Ledger {
    /// Goes on where the log ends. `now_ns` is the kernel's monotonic clock, read before the first
    /// event is. The entries are to be written first; follow with a forced checkpoint.
    pub fn resume(
        recovered: &Recovered,
        maps: Maps,
        now_ns: u64,
        limits: LedgerLimits,
    ) -> (Self, Vec<Entry>) {
        let mut ledger = Self {
            epoch: recovered.epoch,
            numbers: BTreeMap::new(),
            tallies: Vec::new(),
            baselines: HashMap::new(),
            ages: BTreeSet::new(),
            paced: HashMap::new(),
            horizon_ns: now_ns,
            limits,
            records_left: limits.records,
            stated: None,
        };
        let mut entries = Vec::new();
        match maps {
            Maps::Fresh => entries.push(ledger.begin_epoch(now_ns, "kernel maps made anew")),
            Maps::Adopted => {
                for (reason, recorded) in &recovered.recorded {
                    let number = ledger.number(reason);
                    ledger.tallies[usize::from(number)].recorded = *recorded;
                }
                if recovered.epoch == 0 {
                    entries.push(ledger.begin_epoch(now_ns, "log begins"));
                }
            }
        }
        (ledger, entries)
    }

    /// Takes one event. Idempotent: the same event twice counts once.
    pub fn attribute(&mut self, event: Attribution<'_>) -> Option<Entry> {
        let number = self.number(event.reason);
        let key = (event.source, number, event.cpu);
        let known = self.baselines.get(&key).copied();
        let seen = match known {
            Some(base) if base.created_ns == event.created_ns => base.seen,
            // A late event of an entry that the kernel has since replaced.
            Some(base) if base.created_ns > event.created_ns => return None,
            _ if event.created_ns <= self.horizon_ns => {
                self.remember(key, known, event, event.total);
                return None;
            }
            _ => 0,
        };
        let named = event.total.checked_sub(seen).filter(|named| *named > 0)?;
        let early = event.event_ns.is_some_and(|at_ns| {
            let last_ns = self.paced.get(&(event.source, number));
            last_ns.is_some_and(|last_ns| at_ns.saturating_sub(*last_ns) < PACE_NS)
        });
        if self.records_left == 0 {
            let unnamed = &mut self.tallies[usize::from(number)].unnamed;
            unnamed.get_or_insert_with(Distinct::new).add(&event.source);
        }
        if early || self.records_left == 0 {
            // The baseline stays, so that a later event names these too.
            return None;
        }
        if let Some(at_ns) = event.event_ns {
            self.paced.insert((event.source, number), at_ns);
        }
        self.records_left -= 1;
        self.remember(key, known, event, event.total);
        let tally = &mut self.tallies[usize::from(number)];
        let settles = named.min(tally.debt);
        let count = named - settles;
        tally.debt -= settles;
        tally.recorded = tally.recorded.saturating_add(count);
        let mut entry = drop_entry(event.reason, count);
        entry.event.source = Some(event.source);
        entry.event.settles = settles;
        Some(entry)
    }

    /// Makes the sums equal to `counters`, and says so in a checkpoint record. A counter below its
    /// sum means other counters than before: a new epoch. `now_ns` as in `resume`.
    pub fn checkpoint(
        &mut self,
        counters: &BTreeMap<String, u64>,
        now_ns: u64,
        cause: CheckpointCause,
    ) -> Vec<Entry> {
        let mut entries = Vec::new();
        self.records_left = self.limits.records;
        self.paced.clear();
        let counter = |tally: &Tally| counters.get(&tally.reason).copied().unwrap_or(0);
        if self
            .tallies
            .iter()
            .any(|tally| counter(tally) < tally.recorded)
        {
            entries.push(self.begin_epoch(now_ns, "kernel counters went back"));
        }
        for (reason, counter) in counters {
            let number = self.number(reason);
            let tally = &mut self.tallies[usize::from(number)];
            let remainder = counter.saturating_sub(tally.recorded);
            let unnamed = tally.unnamed.take();
            if remainder > 0 {
                tally.recorded = *counter;
                tally.debt = tally.debt.saturating_add(remainder);
                let mut entry = drop_entry(reason, remainder);
                entry.event.detail = Some("not attributed".to_owned());
                entry.sources = unnamed.map(|unnamed| unnamed.estimate());
                entries.push(entry);
            }
        }
        let totals: BTreeMap<_, _> = counters
            .iter()
            .filter(|(_, counter)| **counter > 0)
            .map(|(reason, counter)| (reason.clone(), *counter))
            .collect();
        if cause == CheckpointCause::Forced || self.stated.as_ref() != Some(&totals) {
            let mut event = Event::new(EventKind::Network, CHECKPOINT, Outcome::Allow, "ok");
            event.count = 0;
            entries.push(Entry {
                totals: Some(totals.clone()),
                epoch: Some(self.epoch),
                ..Entry::new(event, Stamp::now())
            });
            self.stated = Some(totals);
        }
        entries
    }

    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    fn begin_epoch(&mut self, now_ns: u64, why: &str) -> Entry {
        self.epoch += 1;
        for tally in &mut self.tallies {
            tally.recorded = 0;
            tally.debt = 0;
        }
        self.baselines.clear();
        self.ages.clear();
        self.horizon_ns = self.horizon_ns.max(now_ns);
        self.stated = None;
        Entry {
            epoch: Some(self.epoch),
            ..Entry::system(EPOCH, Outcome::Allow, "ok").detailed(why.to_owned())
        }
    }

    fn number(&mut self, reason: &str) -> u16 {
        if let Some(number) = self.numbers.get(reason) {
            return *number;
        }
        // The kernel's reasons are a closed set of a few dozen; were there ever more than fit,
        // the last number would take them together.
        let number = u16::try_from(self.tallies.len()).unwrap_or(u16::MAX);
        if usize::from(number) == self.tallies.len() {
            self.tallies.push(Tally {
                reason: reason.to_owned(),
                ..Tally::default()
            });
        }
        self.numbers.insert(reason.to_owned(), number);
        number
    }

    fn remember(
        &mut self,
        key: TallyName,
        known: Option<Baseline>,
        event: Attribution<'_>,
        seen: u64,
    ) {
        if let Some(known) = known {
            self.ages.remove(&(known.created_ns, key));
        }
        let created_ns = event.created_ns;
        self.baselines.insert(key, Baseline { created_ns, seen });
        self.ages.insert((created_ns, key));
        while self.baselines.len() > self.limits.baselines {
            let Some((oldest_ns, oldest)) = self.ages.pop_first() else {
                break;
            };
            self.baselines.remove(&oldest);
            self.horizon_ns = self.horizon_ns.max(oldest_ns);
        }
    }
}

fn drop_entry(reason: &str, count: u64) -> Entry {
    let mut event = Event::new(EventKind::Network, DROP, Outcome::Deny, reason.to_owned());
    event.count = count;
    Entry::new(event, Stamp::now())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::audit::sums::{Fact, Sums};

    const REASONS: [&str; 3] = ["not_allowed", "rate_limited", "banned"];

    fn source(n: u64) -> IpAddr {
        IpAddr::from([192, 0, 2, u8::try_from(n).unwrap()])
    }

    fn fact(entry: &Entry) -> Fact<'_> {
        Fact {
            kind: entry.event.kind,
            action: &entry.event.action,
            reason: &entry.event.reason,
            count: entry.event.count,
            totals: entry.totals.as_ref(),
            epoch: entry.epoch,
        }
    }

    fn attribution(n: u64, created_ns: u64, total: u64) -> Attribution<'static> {
        Attribution {
            source: source(n),
            reason: REASONS[0],
            created_ns,
            total,
            cpu: 0,
            event_ns: None,
        }
    }

    fn counters(total: u64) -> BTreeMap<String, u64> {
        BTreeMap::from([(REASONS[0].to_owned(), total)])
    }

    fn drops(entries: &[Entry]) -> Vec<(Option<IpAddr>, u64, u64)> {
        let drop = |e: &&Entry| e.is_kernel_drop();
        let parts = |e: &Entry| (e.event.source, e.event.count, e.event.settles);
        entries.iter().filter(drop).map(parts).collect()
    }

    fn fresh(limits: LedgerLimits) -> Ledger {
        Ledger::resume(&Recovered::default(), Maps::Fresh, 0, limits).0
    }

    #[test]
    fn counts_are_what_a_total_grew_by_and_repeats_count_nothing() {
        let mut ledger = fresh(LedgerLimits::of(Duration::from_secs(10)));
        let count = |entry: Option<Entry>| entry.map(|entry| entry.event.count);
        assert_eq!(count(ledger.attribute(attribution(1, 10, 1))), Some(1));
        assert_eq!(count(ledger.attribute(attribution(1, 10, 500))), Some(499));
        assert_eq!(count(ledger.attribute(attribution(1, 10, 500))), None);
        assert_eq!(
            count(ledger.attribute(attribution(1, 10, 400))),
            None,
            "late"
        );
        assert_eq!(
            count(ledger.attribute(attribution(1, 20, 3))),
            Some(3),
            "a new entry"
        );
        assert_eq!(
            count(ledger.attribute(attribution(1, 10, 900))),
            None,
            "of the old entry"
        );
    }

    #[test]
    fn the_remainder_becomes_a_debt_that_later_names_settle_first() {
        let mut ledger = fresh(LedgerLimits::of(Duration::from_secs(10)));
        ledger.attribute(attribution(1, 10, 30));
        let entries = ledger.checkpoint(&counters(100), 50, CheckpointCause::Interval);
        assert_eq!(drops(&entries), [(None, 70, 0)]);
        assert_eq!(entries.last().unwrap().totals, Some(counters(100)));
        // 60 of the 70 are named: nothing new is counted.
        let entry = ledger.attribute(attribution(2, 11, 60)).unwrap();
        assert_eq!((entry.event.count, entry.event.settles), (0, 60));
        // 10 settle the rest, 15 are new.
        let entry = ledger.attribute(attribution(1, 10, 55)).unwrap();
        assert_eq!((entry.event.count, entry.event.settles), (15, 10));
        let entries = ledger.checkpoint(&counters(115), 60, CheckpointCause::Interval);
        assert_eq!(drops(&entries), []);
    }

    #[test]
    fn an_idle_interval_writes_nothing_and_a_forced_one_does() {
        let mut ledger = fresh(LedgerLimits::of(Duration::from_secs(10)));
        assert_eq!(
            ledger
                .checkpoint(&counters(5), 1, CheckpointCause::Interval)
                .len(),
            2
        );
        assert_eq!(
            ledger
                .checkpoint(&counters(5), 2, CheckpointCause::Interval)
                .len(),
            0
        );
        assert_eq!(
            ledger
                .checkpoint(&counters(5), 3, CheckpointCause::Forced)
                .len(),
            1
        );
    }

    #[test]
    fn counters_below_the_sums_begin_an_epoch() {
        let mut ledger = fresh(LedgerLimits::of(Duration::from_secs(10)));
        ledger.checkpoint(&counters(100), 1, CheckpointCause::Interval);
        let entries = ledger.checkpoint(&counters(7), 2, CheckpointCause::Interval);
        assert_eq!(entries[0].event.action, EPOCH);
        assert_eq!(entries[0].epoch, Some(2));
        assert_eq!(drops(&entries), [(None, 7, 0)]);
        assert_eq!(entries.last().unwrap().epoch, Some(2));
    }

    #[test]
    fn after_a_restart_old_entries_first_set_their_baseline() {
        let recovered = Recovered {
            epoch: 3,
            recorded: counters(40),
        };
        let (mut ledger, entries) = Ledger::resume(
            &recovered,
            Maps::Adopted,
            1000,
            LedgerLimits::of(Duration::from_secs(10)),
        );
        assert_eq!(entries, []);
        let entries = ledger.checkpoint(&counters(90), 1001, CheckpointCause::Forced);
        assert_eq!(drops(&entries), [(None, 50, 0)]);
        assert_eq!(
            ledger.attribute(attribution(1, 999, 80)),
            None,
            "how much is in the 40?"
        );
        let entry = ledger.attribute(attribution(1, 999, 85)).unwrap();
        assert_eq!((entry.event.count, entry.event.settles), (0, 5));
    }

    #[test]
    fn over_budget_the_sum_waits_for_the_checkpoint() {
        let mut ledger = fresh(LedgerLimits {
            baselines: 10,
            records: 1,
        });
        assert!(ledger.attribute(attribution(1, 10, 1)).is_some());
        assert!(ledger.attribute(attribution(2, 11, 9)).is_none());
        let entries = ledger.checkpoint(&counters(10), 50, CheckpointCause::Interval);
        assert_eq!(drops(&entries), [(None, 9, 0)]);
        let entry = ledger.attribute(attribution(2, 11, 9)).unwrap();
        assert_eq!((entry.event.count, entry.event.settles), (0, 9));
    }

    #[test]
    fn what_several_cpus_say_within_a_second_is_one_record() {
        let mut ledger = fresh(LedgerLimits::of(Duration::from_secs(10)));
        let event = |cpu, at_ns, total| Attribution {
            cpu,
            event_ns: Some(at_ns),
            ..attribution(1, 10, total)
        };
        let mut count = |event| ledger.attribute(event).map(|entry| entry.event.count);
        let second_ns = 1_000_000_000;
        assert_eq!(count(event(0, 50, 1)), Some(1));
        assert_eq!(count(event(1, 60, 1)), None, "another CPU, at once");
        assert_eq!(count(event(0, 50 + second_ns, 900)), Some(899));
        assert_eq!(count(event(1, 60 + second_ns, 700)), None);
        let rest = Attribution {
            event_ns: None,
            ..event(1, 0, 701)
        };
        assert_eq!(count(rest), Some(701), "the checkpoint's reading");
    }

    /// A kernel with few places for tallies, and a wire that loses and reorders.
    struct Kernel {
        random: u64,
        clock_ns: u64,
        counters: BTreeMap<String, u64>,
        places: Vec<(IpAddr, usize, u64, u64)>,
        wire: Vec<(IpAddr, usize, u64, u64)>,
    }

    impl Kernel {
        fn roll(&mut self, sides: u64) -> u64 {
            // xorshift64
            self.random ^= self.random << 13;
            self.random ^= self.random >> 7;
            self.random ^= self.random << 17;
            self.random % sides
        }

        fn drop_packets(&mut self) {
            let (from, reason) = (source(self.roll(24)), usize::from(self.roll(3) == 0));
            let packets = 1 + self.roll(50);
            *self.counters.entry(REASONS[reason].to_owned()).or_default() += packets;
            self.clock_ns += self.roll(3);
            let found = self
                .places
                .iter()
                .position(|e| (e.0, e.1) == (from, reason));
            let mut entry = match found {
                Some(index) => self.places.remove(index),
                None => (from, reason, self.clock_ns, 0),
            };
            // A new entry never shares its creation time with its own predecessor.
            self.clock_ns += u64::from(found.is_none());
            entry.3 += packets;
            self.places.push(entry);
            if self.places.len() > 12 {
                self.places.remove(0);
            }
            if self.roll(3) == 0 {
                self.wire.push(entry);
            }
        }

        fn deliver(&mut self) -> Option<Attribution<'static>> {
            if self.wire.is_empty() {
                return None;
            }
            let len = u64::try_from(self.wire.len()).unwrap();
            let index = usize::try_from(self.roll(len.min(4))).unwrap();
            let duplicate = self.roll(8) == 0;
            let event = self.wire[index];
            if !duplicate {
                self.wire.remove(index);
            }
            let (source, reason, created_ns, total) = event;
            Some(Attribution {
                source,
                reason: REASONS[reason],
                created_ns,
                total,
                cpu: 0,
                event_ns: (self.roll(2) == 0).then_some(self.clock_ns),
            })
        }
    }

    #[test]
    fn sums_equal_the_counters_at_every_checkpoint_whatever_happens() {
        let mut epochs = 0;
        let (mut named, mut settled) = (0, 0);
        for seed in 1..=400_u64 {
            let mut kernel = Kernel {
                random: seed.wrapping_mul(0x9E37_79B9_7F4A_7C15),
                clock_ns: 1,
                counters: BTreeMap::new(),
                places: Vec::new(),
                wire: Vec::new(),
            };
            let limits = LedgerLimits {
                baselines: 6,
                records: 20,
            };
            let mut log = Sums::empty();
            let start = Recovered::default();
            let (mut ledger, entries) = Ledger::resume(&start, Maps::Fresh, 0, limits);
            let mut write = |log: &mut Sums, entries: Vec<Entry>| {
                for entry in &entries {
                    let checked = log.observe(fact(entry));
                    assert_eq!(checked, Ok(()), "seed {seed}: {entry:?}");
                    named += entry.event.count;
                    settled += entry.event.settles;
                }
            };
            write(&mut log, entries);
            for _ in 0..600 {
                match kernel.roll(40) {
                    0..20 => kernel.drop_packets(),
                    20..34 => {
                        if let Some(event) = kernel.deliver() {
                            let entry = ledger.attribute(event);
                            write(&mut log, entry.into_iter().collect());
                        }
                    }
                    34 => drop(kernel.wire.pop()),
                    35..38 => {
                        let entries = ledger.checkpoint(
                            &kernel.counters,
                            kernel.clock_ns,
                            CheckpointCause::Interval,
                        );
                        write(&mut log, entries);
                        assert_eq!(log.recorded(), &kernel.counters, "seed {seed}");
                    }
                    // Killed: memory is gone, the log and the kernel's maps are not.
                    38 => {
                        let recovered = log.clone().into_recovered();
                        kernel.clock_ns += 1;
                        let now_ns = kernel.clock_ns;
                        kernel.clock_ns += 1;
                        let (next, entries) =
                            Ledger::resume(&recovered, Maps::Adopted, now_ns, limits);
                        ledger = next;
                        write(&mut log, entries);
                        kernel.wire.clear();
                    }
                    // Detached and attached again under a running ledger: counters from 0.
                    _ => {
                        if kernel.roll(4) == 0 {
                            epochs += 1;
                            kernel.counters.clear();
                            kernel.places.clear();
                            kernel.wire.clear();
                            let now_ns = kernel.clock_ns;
                            kernel.clock_ns += 1;
                            // Half the time nobody says so, and the counters must tell.
                            if kernel.roll(2) == 0 {
                                let recovered = log.clone().into_recovered();
                                let (next, entries) =
                                    Ledger::resume(&recovered, Maps::Fresh, now_ns, limits);
                                ledger = next;
                                write(&mut log, entries);
                            }
                        }
                    }
                }
            }
        }
        assert!(
            epochs > 50 && named > 1_000_000 && settled > 10_000,
            "{epochs} {named} {settled}"
        );
    }
}
