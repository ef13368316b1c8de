//! A flood through the whole audit plane but the kernel itself, which is played: every checkpoint is
//! exact, a restart in between included, while few lines are written in bounded memory.
//!
//! CI runs a twentieth of it; the whole, as `docs/reliability.md` has it, with `CLAWSEC_FLOOD=full`.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::time::{Duration, Instant};

use clawsec_user::audit::{
    self, Attribution, AuditHandle, Chain, CheckpointCause, Entry, HeadCheck, Ledger, LedgerLimits,
    LogReader, Maps, Record, Recorded,
};
use clawsec_user::config::{AuditConfig, SpaceLimits};
use clawsec_user::event::{Event, EventKind, Outcome};

const INTERVAL: Duration = Duration::from_secs(1);

struct Size {
    steps: u64,
    drops: u64,
    sources: u32,
    requests: u64,
}

/// What the kernel half keeps: counters, and an LRU table of tallies that forgets.
struct Kernel {
    random: u64,
    clock_ns: u64,
    counters: BTreeMap<String, u64>,
    tallies: Vec<Tally>,
    sources: u32,
}

#[derive(Debug, Clone, Copy, Default)]
struct Tally {
    source: u32,
    reason: usize,
    created_ns: u64,
    total: u64,
    told_ns: u64,
}

const REASONS: [&str; 3] = ["not_allowed", "banned", "rate_limited"];
const TALLIES: usize = 65_536;

impl Kernel {
    fn roll(&mut self) -> u64 {
        // xorshift64*: the run is the same each time.
        self.random ^= self.random >> 12;
        self.random ^= self.random << 25;
        self.random ^= self.random >> 27;
        self.random.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 32
    }

    /// Counts one packet; the event that it gives, if any.
    fn drop_packet(&mut self) -> Option<Tally> {
        self.clock_ns += 100;
        let rolled = self.roll();
        let source = u32::try_from(rolled).expect("32 bits") % self.sources;
        // Most of a source's packets have one reason.
        let reason = if rolled.is_multiple_of(64) {
            1 + usize::from(rolled & 64 != 0)
        } else {
            0
        };
        *self.counters.get_mut(REASONS[reason]).expect("a reason") += 1;
        let slot = (source as usize * 3 + reason) % TALLIES;
        let tally = &mut self.tallies[slot];
        if (tally.source, tally.reason) != (source, reason) || tally.created_ns == 0 {
            *tally = Tally {
                source,
                reason,
                created_ns: self.clock_ns,
                total: 0,
                told_ns: 0,
            };
        }
        tally.total += 1;
        let tell = tally.told_ns == 0 || self.clock_ns - tally.told_ns >= 1_000_000_000;
        tell.then(|| {
            tally.told_ns = self.clock_ns;
            *tally
        })
    }
}

fn attribution(tally: &Tally, is_event: bool) -> Attribution<'static> {
    Attribution {
        source: IpAddr::V4(Ipv4Addr::from_bits(0x0a00_0000 + tally.source)),
        reason: REASONS[tally.reason],
        created_ns: tally.created_ns,
        total: tally.total,
        cpu: 0,
        event_ns: is_event.then_some(tally.told_ns),
    }
}

fn denied(number: u64, sources: u32) -> Event {
    let reasons = ["credential_unknown", "rate_limited", "address_not_allowed"];
    let kinds = [EventKind::Auth, EventKind::Message, EventKind::Tool];
    let which = usize::try_from(number % 3).expect("small");
    let mut event = Event::new(kinds[which], "connect", Outcome::Deny, reasons[which]);
    let host = u32::try_from(number * 7 % u64::from(sources)).expect("an address");
    event.source = Some(IpAddr::V4(Ipv4Addr::from_bits(0x0b00_0000 + host)));
    event.request = Some(format!("request-{number}"));
    event
}

/// What the log says: requests by reason, losses included; the totals of each checkpoint.
#[derive(Debug, Default, PartialEq, Eq)]
struct Said {
    requests: BTreeMap<String, u64>,
    lost: u64,
    checkpoints: Vec<BTreeMap<String, u64>>,
    drops: BTreeMap<String, u64>,
    records: u64,
    named: u64,
}

fn said(log: &Path) -> Said {
    let mut said = Said::default();
    let mut reader = LogReader::open(log).expect("open the log");
    while let Some(line) = reader.next_line().expect("read the log") {
        let record = Record::parse(line.text).expect("a record");
        said.records += 1;
        match (record.event, record.action.as_ref()) {
            (EventKind::Network, "drop") => {
                let sum = said.drops.entry(record.reason.into_owned()).or_default();
                *sum += record.count;
                said.named += u64::from(record.src.is_some());
            }
            (EventKind::Network, "checkpoint") => {
                // Exact here and now, not only at the end.
                let totals = record.totals.expect("totals");
                assert_eq!(said.drops, totals, "at record {}", record.seq);
                said.checkpoints.push(totals);
            }
            (EventKind::System, "lost") => said.lost += record.count,
            (EventKind::Auth | EventKind::Message | EventKind::Tool, _) => {
                let sum = said.requests.entry(record.reason.into_owned()).or_default();
                *sum += record.count;
            }
            _ => {}
        }
    }
    said
}

/// One life of the daemon's audit plane.
struct Life {
    handle: AuditHandle,
    ledger: Ledger,
}

impl Life {
    fn begin(config: &AuditConfig, maps: Maps, now_ns: u64) -> Self {
        let (handle, task) = audit::open(config).expect("open the log");
        tokio::spawn(task.run());
        let limits = LedgerLimits::of(INTERVAL);
        let (ledger, entries) = Ledger::resume(&handle.recovered(), maps, now_ns, limits);
        let life = Self { handle, ledger };
        life.write(entries);
        life
    }

    fn write(&self, entries: impl IntoIterator<Item = Entry>) {
        for entry in entries {
            let _counted_if_lost = self.handle.record(entry);
        }
    }

    fn attribute(&mut self, tally: &Tally, is_event: bool) {
        let entry = self.ledger.attribute(attribution(tally, is_event));
        self.write(entry);
    }

    fn checkpoint(&mut self, kernel: &Kernel) {
        for tally in kernel.tallies.iter().filter(|tally| tally.total > 0) {
            self.attribute(tally, false);
        }
        let cause = CheckpointCause::Forced;
        let entries = self
            .ledger
            .checkpoint(&kernel.counters, kernel.clock_ns, cause);
        self.write(entries);
    }
}

fn resident_mib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("read the status");
    let line = status.lines().find(|line| line.starts_with("VmRSS:"));
    let kib = line.and_then(|line| line.split_whitespace().nth(1)?.parse::<u64>().ok());
    kib.expect("resident memory") / 1024
}

#[tokio::test]
async fn a_flood_is_summed_exactly_in_few_lines_across_a_restart() {
    let is_full = std::env::var("CLAWSEC_FLOOD").is_ok_and(|size| size == "full");
    let size = if is_full {
        Size {
            steps: 20,
            drops: 10_000_000,
            sources: 1_000_000,
            requests: 1_000_000,
        }
    } else {
        Size {
            steps: 5,
            drops: 500_000,
            sources: 50_000,
            requests: 50_000,
        }
    };
    let folder = tempfile::tempdir().expect("a folder");
    let log = folder.path().join("audit.log");
    let config = AuditConfig {
        interval: INTERVAL,
        space: SpaceLimits {
            warn_bytes: 0,
            refuse_bytes: 0,
        },
        ..AuditConfig::at(log.clone())
    };
    let mut kernel = Kernel {
        random: 7,
        clock_ns: 1,
        counters: REASONS
            .iter()
            .map(|reason| ((*reason).to_owned(), 0))
            .collect(),
        tallies: vec![Tally::default(); TALLIES],
        sources: size.sources,
    };
    let before_mib = resident_mib();
    let began = Instant::now();
    let mut life = Life::begin(&config, Maps::Fresh, kernel.clock_ns);
    let mut requests: BTreeMap<String, u64> = BTreeMap::new();
    let mut checkpoints = Vec::new();
    let (mut sent, mut refused, mut peak_mib) = (0, 0, 0);
    for step in 0..size.steps {
        let step_began = Instant::now();
        if step == size.steps / 2 {
            life.handle.clone().stop().await;
            kernel.clock_ns += 1;
            life = Life::begin(&config, Maps::Adopted, kernel.clock_ns);
            kernel.clock_ns += 1;
        }
        // The daemon reads some thousand events a second; the buffer loses the rest.
        let mut readable = 2000;
        for number in 0..size.drops / size.steps {
            if let Some(event) = kernel.drop_packet()
                && readable > 0
            {
                readable -= 1;
                life.attribute(&event, true);
            }
            if number % 20_000 == 0 {
                tokio::task::yield_now().await;
            }
        }
        for _ in 0..size.requests / size.steps {
            let event = denied(sent, size.sources);
            *requests.entry(event.reason.to_string()).or_default() += 1;
            sent += 1;
            refused += u64::from(life.handle.record(event) == Recorded::Lost);
            // Not often enough: the queue runs full now and then, and counts what it loses.
            if sent % 5000 == 0 {
                tokio::task::yield_now().await;
            }
        }
        life.checkpoint(&kernel);
        checkpoints.push(kernel.counters.clone());
        life.handle.flush().await.expect("flush");
        let said = said(&log);
        let mut counters = kernel.counters.clone();
        counters.retain(|_, count| *count > 0);
        assert_eq!(said.drops, counters, "step {step}: the kernel's counters");
        assert_eq!(said.lost, refused, "step {step}: what the queue lost");
        let written: u64 = said.requests.values().sum();
        assert_eq!(written + said.lost, sent, "step {step}: the requests");
        for (reason, count) in &said.requests {
            assert!(count <= &requests[reason], "step {step}: {reason}");
        }
        peak_mib = peak_mib.max(resident_mib());
        tokio::time::sleep(INTERVAL.saturating_sub(step_began.elapsed())).await;
    }
    life.handle.stop().await;
    let elapsed = began.elapsed().as_secs_f64();
    let said = said(&log);
    assert_eq!(
        said.checkpoints, checkpoints,
        "each checkpoint as the kernel had it"
    );
    #[expect(clippy::cast_precision_loss, reason = "a rate")]
    let rate = said.records as f64 / elapsed;
    println!(
        "{} drops and {sent} requests ({refused} lost, counted): {} lines, {} of them name a source of drops, \
         {rate:.0} a second; {} MiB more",
        size.drops,
        said.records,
        said.named,
        peak_mib.saturating_sub(before_mib),
    );
    assert!(rate < 200.0, "{rate:.0} lines a second");
    assert!(said.named > 0, "some sources are named");
    assert!(
        peak_mib.saturating_sub(before_mib) < 128,
        "{before_mib} to {peak_mib} MiB"
    );
    let report = audit::verify(&log, &Chain::new(None), &HeadCheck::Required, &mut |_| {});
    assert_eq!(report.expect("verify").problem, None);
}
