//! One private copy of the program and its maps, for one test.

use std::collections::BTreeSet;
use std::path::PathBuf;

use anyhow::{Context as _, Result, bail};
use aya::maps::{Array, HashMap, LpmTrie, MapData, PerCpuArray, lpm_trie};
use aya::programs::{Program as Loaded, ProgramInfo};
use aya::{Ebpf, EbpfLoader, Pod, TestRun as _, TestRunOptions, VerifierLogLevel};
use clawsec_common::abi::{
    self, Counter, Expiry, MAX_CLASSES, MAX_NODES, PORT_WORDS, PortWord, PrefixRule, RateClass,
    SlotHeader, SourceKey, Tally, TallySet, TimedCounts, TimedPrefix, name,
};
use clawsec_common::judged::{self, XDP_DROP, XDP_PASS};
use clawsec_common::reason::{Reason, Stat, Verdict};
use clawsec_common::tree::{self, Prefixes, TreeNode};

/// One loaded program of the object, with maps of its own.
pub(crate) struct Program {
    pub(crate) ebpf: Ebpf,
    name: &'static str,
    /// Of both slots; a tree is built whole.
    prefixes: [Prefixes; 2],
}

/// What `clawsec_tcx` returns (`enum tcx_action_base`); -1 goes on to the next program.
const TCX_NEXT: u32 = u32::MAX;
const TCX_DROP: u32 = 2;

/// What one run gave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Ran {
    pub(crate) verdict: Verdict,
    /// The counter that the last run moved, as the clocked program says it.
    pub(crate) counter: Option<u32>,
    /// Nanoseconds of one run, averaged over the repeats.
    pub(crate) nanoseconds: u128,
}

pub(crate) fn object() -> Result<Vec<u8>> {
    let path = std::env::var_os("CLAWSEC_BPF_OBJECT").map_or_else(
        || {
            PathBuf::from(concat!(
                env!("CARGO_MANIFEST_DIR"),
                "/../target/bpf/clawsec.o"
            ))
        },
        PathBuf::from,
    );
    std::fs::read(&path).with_context(|| {
        format!(
            "the kernel tier needs the BPF object at {}; build it with `cargo xtask build`",
            path.display()
        )
    })
}

/// `CLAWSEC_VERIFIER_LOG=1` has a refusal say all.
fn log_level() -> VerifierLogLevel {
    match std::env::var_os("CLAWSEC_VERIFIER_LOG") {
        Some(_) => VerifierLogLevel::VERBOSE | VerifierLogLevel::STATS,
        None => VerifierLogLevel::STATS,
    }
}

impl Program {
    /// Loads with the injected clock.
    pub(crate) fn clocked() -> Result<Self> {
        Self::load(name::PROGRAM_CLOCKED, false)
    }

    pub(crate) fn load(name: &'static str, bpf_log: bool) -> Result<Self> {
        Self::with_admissions(name, bpf_log, abi::MAX_TIMED_PREFIXES)
    }

    /// Loads with room for so many timed admissions.
    pub(crate) fn with_admissions(
        name: &'static str,
        bpf_log: bool,
        admissions: u32,
    ) -> Result<Self> {
        let mut ebpf = EbpfLoader::new()
            .verifier_log_level(log_level())
            .override_global(name::BPF_LOG, &u8::from(bpf_log), true)
            .map_max_entries(name::ADMISSIONS, admissions)
            .load(&object()?)
            .context("load the object (root is needed)")?;
        let program = ebpf
            .program_mut(name)
            .context("the object lacks the program")?;
        match program {
            Loaded::Xdp(program) => program.load(),
            Loaded::SchedClassifier(program) => program.load(),
            _ => bail!("{name} is for another hook"),
        }
        .with_context(|| format!("the verifier refused {name}"))?;
        Ok(Self {
            ebpf,
            name,
            prefixes: <[Prefixes; 2]>::default(),
        })
    }

    /// The names of the object's programs, in order.
    pub(crate) fn names(&self) -> Vec<String> {
        let names: BTreeSet<_> = self.ebpf.programs().map(|(name, _)| name).collect();
        names.into_iter().map(str::to_owned).collect()
    }

    pub(crate) fn info(&self) -> Result<ProgramInfo> {
        Ok(self.ebpf.program(self.name).context("no program")?.info()?)
    }

    /// Whether the kernel makes a test run of such a frame. For the tcx hook it makes no
    /// `sk_buff` that is empty behind its Ethernet header, nor (6.18) one whose IP header is cut.
    pub(crate) fn runs(&self, frame: &[u8]) -> bool {
        let shortest = match frame.get(12..14) {
            Some([0x08, 0x00]) => 14 + 20,
            Some([0x86, 0xdd]) => 14 + 40,
            _ => 14 + 1,
        };
        self.name != name::PROGRAM_TCX || frame.len() >= shortest
    }

    pub(crate) fn run(&self, frame: &[u8], repeat: u32) -> Result<Ran> {
        let mut options = TestRunOptions::new();
        options.data_in = Some(frame);
        options.repeat = repeat;
        let (result, pass, drop) = match self.ebpf.program(self.name).context("no program")? {
            Loaded::Xdp(program) => (program.test_run(options)?, XDP_PASS, XDP_DROP),
            Loaded::SchedClassifier(program) => (program.test_run(options)?, TCX_NEXT, TCX_DROP),
            _ => bail!("{} is for another hook", self.name),
        };
        let (action, counter) = match judged::decode(result.return_value) {
            Some((action, counter)) if pass == XDP_PASS => (action, Some(counter)),
            _ => (result.return_value, None),
        };
        Ok(Ran {
            counter,
            verdict: match action {
                action if action == drop => Verdict::Drop,
                action if action == pass => Verdict::Pass,
                other => bail!("the program returned {other}"),
            },
            nanoseconds: result.duration.as_nanos(),
        })
    }

    pub(crate) fn array<V: Pod>(&mut self, name: &str) -> Result<Array<&mut MapData, V>> {
        Ok(self
            .ebpf
            .map_mut(name)
            .with_context(|| format!("no map {name}"))?
            .try_into()?)
    }

    pub(crate) fn hash<K: Pod, V: Pod>(
        &mut self,
        name: &str,
    ) -> Result<HashMap<&mut MapData, K, V>> {
        Ok(self
            .ebpf
            .map_mut(name)
            .with_context(|| format!("no map {name}"))?
            .try_into()?)
    }

    pub(crate) fn set_clock(&mut self, now_ns: u64) -> Result<()> {
        Ok(self.array::<u64>(name::CLOCK)?.set(0, now_ns, 0)?)
    }

    pub(crate) fn activate(&mut self, slot: u32) -> Result<()> {
        Ok(self.array::<u32>(name::ACTIVE)?.set(0, slot, 0)?)
    }

    pub(crate) fn set_header(&mut self, slot: u32, header: SlotHeader) -> Result<()> {
        Ok(self
            .array::<SlotHeader>(name::SLOTS)?
            .set(slot, header, 0)?)
    }

    pub(crate) fn set_ports(&mut self, slot: u32, word: u32, ports: PortWord) -> Result<()> {
        let mut map = self.array::<PortWord>(name::PORTS)?;
        Ok(map.set(slot * PORT_WORDS + word, ports, 0)?)
    }

    pub(crate) fn set_class(&mut self, slot: u32, index: u32, class: RateClass) -> Result<()> {
        let mut map = self.array::<RateClass>(name::CLASSES)?;
        Ok(map.set(slot * MAX_CLASSES + index, class, 0)?)
    }

    pub(crate) fn set_ban(&mut self, source: SourceKey, expires_ns: u64) -> Result<()> {
        let mut map = self.hash::<SourceKey, Expiry>(name::BANS)?;
        let expiry = Expiry {
            expires_ns,
            until_ms: 0,
        };
        map.insert(source, expiry, 0)?;
        self.count_timed()
    }

    pub(crate) fn set_prefix4(
        &mut self,
        slot: u32,
        length: u32,
        network: [u8; 4],
        rule: PrefixRule,
    ) -> Result<()> {
        self.prefixes(slot)?.v4.insert((length, network), rule);
        self.grow(slot)
    }

    pub(crate) fn set_prefix6(
        &mut self,
        slot: u32,
        length: u32,
        network: [u8; 16],
        rule: PrefixRule,
    ) -> Result<()> {
        self.prefixes(slot)?.v6.insert((length, network), rule);
        self.grow(slot)
    }

    fn prefixes(&mut self, slot: u32) -> Result<&mut Prefixes> {
        let slot = usize::try_from(slot)?;
        self.prefixes.get_mut(slot).context("no such slot")
    }

    /// Makes a slot hold exactly these.
    pub(crate) fn set_prefixes(&mut self, slot: u32, prefixes: Prefixes) -> Result<()> {
        *self.prefixes(slot)? = prefixes;
        self.grow(slot)
    }

    /// Builds a slot's tree anew.
    fn grow(&mut self, slot: u32) -> Result<()> {
        let nodes = tree::build(self.prefixes(slot)?, MAX_NODES as usize)
            .map_err(|error| anyhow::anyhow!("{error:?}"))?;
        let mut map = self.array::<TreeNode>(name::NODES)?;
        for (index, node) in (slot * MAX_NODES..).zip(nodes) {
            map.set(index, node, 0)?;
        }
        Ok(())
    }

    /// A timed ban or admission of a prefix.
    pub(crate) fn set_timed(
        &mut self,
        map: &str,
        bits: u32,
        prefix: TimedPrefix,
        expires_ns: u64,
    ) -> Result<()> {
        let data = self.ebpf.map_mut(map).context("no trie")?;
        let mut trie: LpmTrie<_, TimedPrefix, Expiry> = data.try_into()?;
        let key = lpm_trie::Key::new(TimedPrefix::FAMILY_BITS + bits, prefix);
        let expiry = Expiry {
            expires_ns,
            until_ms: 0,
        };
        trie.insert(&key, expiry, 0)?;
        self.count_timed()
    }

    /// Says that there are admissions, and no bans.
    pub(crate) fn only_admissions(&mut self) -> Result<()> {
        let counts = TimedCounts {
            admissions: 1,
            ..TimedCounts::default()
        };
        Ok(self.array::<TimedCounts>(name::TIMED)?.set(0, counts, 0)?)
    }

    /// Says that no map of timed entries is empty.
    fn count_timed(&mut self) -> Result<()> {
        let counts = TimedCounts {
            bans: 1,
            ban_prefixes: 1,
            admissions: 1,
            reserved: 0,
        };
        Ok(self.array::<TimedCounts>(name::TIMED)?.set(0, counts, 0)?)
    }

    /// Packets counted under a reason, over all CPUs.
    pub(crate) fn packets(&self, reason: Reason, observed: bool) -> Result<u64> {
        self.counted(reason as u32 + if observed { abi::REASONS } else { 0 })
    }

    /// Packets of one counter, over all CPUs.
    pub(crate) fn counted(&self, counter: u32) -> Result<u64> {
        let map = self.ebpf.map(name::COUNTERS).context("no counters")?;
        let counters: PerCpuArray<_, Counter> = map.try_into()?;
        Ok(counters
            .get(&counter, 0)?
            .iter()
            .map(|counter| counter.packets)
            .sum())
    }

    /// The tallies of all CPUs.
    pub(crate) fn tallies(&self) -> Result<Vec<Tally>> {
        let map = self.ebpf.map(name::TALLIES).context("no tallies")?;
        let map: PerCpuArray<_, TallySet> = map.try_into()?;
        let mut held = Vec::new();
        for set in 0..abi::TALLY_SETS {
            let sets = map.get(&set, 0)?;
            let ways = sets.iter().flat_map(|set| set.ways);
            held.extend(ways.filter(|tally| tally.created_ns != 0));
        }
        Ok(held)
    }

    pub(crate) fn stat(&self, stat: Stat) -> Result<u64> {
        let map = self.ebpf.map(name::STATS).context("no stats")?;
        let stats: PerCpuArray<_, u64> = map.try_into()?;
        Ok(stats.get(&(stat as u32), 0)?.iter().sum())
    }
}
