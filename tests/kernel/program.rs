//! One private copy of the program and its maps, for one test.

use std::path::PathBuf;

use anyhow::{Context as _, Result, bail};
use aya::maps::{Array, HashMap, LpmTrie, MapData, PerCpuArray, lpm_trie};
use aya::programs::{ProgramInfo, Xdp};
use aya::{Ebpf, EbpfLoader, Pod, TestRun as _, TestRunOptions, VerifierLogLevel};
use clawsec_common::abi::{
    self, Ban, Counter, MAX_CLASSES, PORT_WORDS, PortWord, PrefixRule, RateClass, SlotHeader,
    SourceKey, name,
};
use clawsec_common::judged::{self, XDP_DROP, XDP_PASS};
use clawsec_common::reason::{Reason, Stat, Verdict};

/// A loaded `clawsec_xdp_clocked` with maps of its own.
pub(crate) struct Program {
    pub(crate) ebpf: Ebpf,
    name: &'static str,
}

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

impl Program {
    /// Loads with the injected clock.
    pub(crate) fn clocked() -> Result<Self> {
        Self::load(name::PROGRAM_CLOCKED, false)
    }

    pub(crate) fn load(name: &'static str, bpf_log: bool) -> Result<Self> {
        let mut ebpf = EbpfLoader::new()
            .verifier_log_level(VerifierLogLevel::STATS)
            .override_global(name::BPF_LOG, &u8::from(bpf_log), true)
            .load(&object()?)
            .context("load the object (root is needed)")?;
        let program: &mut Xdp = ebpf
            .program_mut(name)
            .context("the object lacks the program")?
            .try_into()?;
        program
            .load()
            .with_context(|| format!("the verifier refused {name}"))?;
        Ok(Self { ebpf, name })
    }

    fn program(&self) -> Result<&Xdp> {
        Ok(self
            .ebpf
            .program(self.name)
            .context("no program")?
            .try_into()?)
    }

    pub(crate) fn info(&self) -> Result<ProgramInfo> {
        Ok(self.program()?.info()?)
    }

    pub(crate) fn run(&self, frame: &[u8], repeat: u32) -> Result<Ran> {
        let mut options = TestRunOptions::new();
        options.data_in = Some(frame);
        options.repeat = repeat;
        let result = self.program()?.test_run(options)?;
        let (action, counter) = match judged::decode(result.return_value) {
            Some((action, counter)) => (action, Some(counter)),
            None => (result.return_value, None),
        };
        Ok(Ran {
            counter,
            verdict: match action {
                XDP_DROP => Verdict::Drop,
                XDP_PASS => Verdict::Pass,
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
        let mut map = self.hash::<SourceKey, Ban>(name::BANS)?;
        Ok(map.insert(source, Ban { expires_ns }, 0)?)
    }

    pub(crate) fn set_prefix4(
        &mut self,
        slot: u32,
        length: u32,
        network: [u8; 4],
        rule: PrefixRule,
    ) -> Result<()> {
        let name = if slot == 0 {
            name::PREFIXES4_A
        } else {
            name::PREFIXES4_B
        };
        let map = self.ebpf.map_mut(name).context("no trie")?;
        let mut trie: LpmTrie<_, [u8; 4], PrefixRule> = map.try_into()?;
        Ok(trie.insert(&lpm_trie::Key::new(length, network), rule, 0)?)
    }

    pub(crate) fn set_prefix6(
        &mut self,
        slot: u32,
        length: u32,
        network: [u8; 16],
        rule: PrefixRule,
    ) -> Result<()> {
        let name = if slot == 0 {
            name::PREFIXES6_A
        } else {
            name::PREFIXES6_B
        };
        let map = self.ebpf.map_mut(name).context("no trie")?;
        let mut trie: LpmTrie<_, [u8; 16], PrefixRule> = map.try_into()?;
        Ok(trie.insert(&lpm_trie::Key::new(length, network), rule, 0)?)
    }

    /// Packets counted under a reason, over all CPUs.
    pub(crate) fn packets(&self, reason: Reason, observed: bool) -> Result<u64> {
        let map = self.ebpf.map(name::COUNTERS).context("no counters")?;
        let counters: PerCpuArray<_, Counter> = map.try_into()?;
        let index = reason as u32 + if observed { abi::REASONS } else { 0 };
        Ok(counters
            .get(&index, 0)?
            .iter()
            .map(|counter| counter.packets)
            .sum())
    }

    pub(crate) fn stat(&self, stat: Stat) -> Result<u64> {
        let map = self.ebpf.map(name::STATS).context("no stats")?;
        let stats: PerCpuArray<_, u64> = map.try_into()?;
        Ok(stats.get(&(stat as u32), 0)?.iter().sum())
    }
}
