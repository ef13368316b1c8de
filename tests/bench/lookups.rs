//! What a verdict costs by the number of prefixes, and what the structures cost alone.
//!
//! Prefixes are of the lengths that are met (networks and hosts), anywhere in the unicast space.
//! Frames are segments of connections that are there: all that differs is the lookup. The floor is
//! an empty program, behind the same change of the source where there is one. Of the repeats the
//! least counts: what else the machine does can only add, and random sources feel all of it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use anyhow::{Context as _, Result};
use aya::maps::lpm_trie::Key;
use aya::maps::{Array, HashMap, LpmTrie, ProgramArray};
use aya::programs::Xdp;
use aya::{Ebpf, Pod};
use clawsec_common::abi::{MAX_NODES, PrefixRule};
use clawsec_common::tree::{self, Prefixes, TABLE_BITS, TreeNode};
use clawsec_user::config::XdpMode;
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use xtask::lab::{Host, Lab};

use super::report::{Row, say};
use super::setup::{
    ACK, bench_object, by_id, enforcer, inside, policy_of, program, remove_enforcer, segment, time,
};

pub(crate) const GROUP: &str = "lookups";
const RUNS: u32 = 500_000;
const SOURCES: u32 = 65_536;
pub(crate) const SIZES: [u32; 4] = [10, 1_000, 10_000, 100_000];

const VERDICT: &str = "clawsec, the whole verdict";
/// What is measured alone: its name, its program for each family, whether its nodes have a table.
const ALONE: [(&str, [&str; 2], Option<u32>); 4] = [
    (
        "table and trees (clawsec's)",
        ["bench_table4", "bench_table6"],
        Some(TABLE_BITS),
    ),
    (
        "a tree without the table",
        ["bench_table4", "bench_table6"],
        Some(0),
    ),
    ("the kernel's trie", ["bench_trie4", "bench_trie6"], None),
    (
        "a hash for each length",
        ["bench_hash4", "bench_hash6"],
        None,
    ),
];

pub(crate) fn lookups(lab: &Lab) -> Result<Vec<Row>> {
    let mut bench = bench_object()?;
    for (place, lengths) in [(0, LENGTHS4), (1, LENGTHS6)] {
        let mut longest_first = [0_u8; 16];
        let mut lengths = lengths.to_vec();
        lengths.sort_unstable_by(|a, b| b.cmp(a));
        lengths.dedup();
        for (to, length) in longest_first.iter_mut().zip(lengths) {
            *to = length;
        }
        array::<[u8; 16]>(&mut bench, "LENGTHS")?.set(place, longest_first, 0)?;
    }
    let mut rows = Vec::new();
    for size in SIZES {
        let prefixes = prefixes(size);
        fill(&mut bench, &prefixes)?;
        let held = inside(lab, Host::Gateway, || {
            enforcer(XdpMode::Native, &policy_of(1, networks(&prefixes)))
        })?;
        let id = held.attachments().first().context("attached")?.program_id;
        let whole = by_id(id)?;
        for v6 in [false, true] {
            say(&format!("lookups: {size} prefixes, {}", family(v6)));
            let nodes = tree::build(&prefixes, MAX_NODES as usize)
                .map_err(|error| anyhow::anyhow!("{error:?}"))?;
            for kind in [Kind::Hot, Kind::Hits, Kind::Misses] {
                let sources = sources(&nodes, size, v6, kind);
                rows.extend(measured(
                    &mut bench, &whole, &prefixes, &sources, size, v6, kind,
                )?);
            }
        }
        drop(held);
        remove_enforcer();
    }
    Ok(rows)
}

/// Which sources are looked up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// One that is allowed.
    Hot,
    /// 65,536 that are.
    Hits,
    /// As many that are not, of the same part of the space.
    Misses,
}

/// The whole verdict, and each structure alone.
fn measured(
    bench: &mut Ebpf,
    whole: &Xdp,
    prefixes: &Prefixes,
    sources: &[IpAddr],
    size: u32,
    v6: bool,
    kind: Kind,
) -> Result<Vec<Row>> {
    let first = *sources.first().context("no source")?;
    let frame = segment(first, ACK);
    fill_sources(bench, sources)?;
    let changer = ["bench_random4", "bench_random6"][usize::from(v6)];
    let changer = by_id(program(bench, changer)?.info()?.id())?;
    let run = |bench: &mut Ebpf, next: &Xdp| {
        if kind == Kind::Hot {
            return time(next, &frame, RUNS);
        }
        let map = bench.map_mut("NEXT").context("no program array")?;
        ProgramArray::try_from(map)?.set(0, next.fd()?, 0)?;
        time(&changer, &frame, RUNS)
    };
    let empty = by_id(program(bench, "bench_floor")?.info()?.id())?;
    let floor = Row::new("", "", run(bench, &empty)?, 0.0).least();
    let name = |what: &str| {
        let kind = match kind {
            Kind::Hot => "one source",
            Kind::Hits => "65,536 sources, hits",
            Kind::Misses => "65,536 sources, misses",
        };
        format!("{}, {kind}, {what}, {size} prefixes", family(v6))
    };
    let mut rows = vec![Row::new(GROUP, name(VERDICT), run(bench, whole)?, floor)];
    for (what, programs, table_bits) in ALONE {
        if let Some(bits) = table_bits {
            fill_nodes(bench, prefixes, bits)?;
        }
        let alone = by_id(program(bench, programs[usize::from(v6)])?.info()?.id())?;
        rows.push(Row::new(GROUP, name(what), run(bench, &alone)?, floor));
    }
    Ok(rows)
}

/// Lines for a table: a structure and kind of source each, a column for each size.
pub(crate) fn table(rows: &[Row]) -> Vec<Line> {
    let mut lines: Vec<Line> = Vec::new();
    for row in rows.iter().filter(|row| row.group == GROUP) {
        let Some((name, _)) = row.name.rsplit_once(", ") else {
            continue;
        };
        match lines.iter_mut().find(|line| line.name == name) {
            Some(line) => line.net_ns.push(row.least() - row.floor),
            None => lines.push(Line {
                name: name.to_owned(),
                net_ns: vec![row.least() - row.floor],
            }),
        }
    }
    lines.sort_by_key(|line| (!line.name.contains(VERDICT), line.name.starts_with("IPv6")));
    lines
}

/// One line of the table.
#[derive(Debug)]
pub(crate) struct Line {
    pub(crate) name: String,
    /// By size, as `SIZES`.
    pub(crate) net_ns: Vec<f64>,
}

impl Line {
    /// The largest size's time for one of the smallest's.
    pub(crate) fn growth(&self) -> f64 {
        let ends = self.net_ns.last().zip(self.net_ns.first());
        ends.map_or(f64::NAN, |(last, first)| last / first)
    }

    pub(crate) fn is_verdict(&self) -> bool {
        self.name.contains(VERDICT)
    }

    /// The same sources in the kernel's trie, if this is clawsec's structure alone.
    pub(crate) fn in_the_trie<'a>(&self, lines: &'a [Self]) -> Option<&'a Self> {
        let [(ours, ..), _, (theirs, ..), _] = ALONE;
        let theirs = self.name.strip_suffix(ours)?.to_owned() + theirs;
        lines.iter().find(|line| line.name == theirs)
    }
}

fn array<'a, V: Pod>(
    bench: &'a mut Ebpf,
    map: &str,
) -> Result<Array<&'a mut aya::maps::MapData, V>> {
    Ok(bench
        .map_mut(map)
        .with_context(|| format!("no {map}"))?
        .try_into()?)
}

/// The kernel's own maps; the smaller sets of prefixes are part of the larger.
fn fill(bench: &mut Ebpf, prefixes: &Prefixes) -> Result<()> {
    let mut trie: LpmTrie<_, [u8; 4], u32> =
        bench.map_mut("TRIE4").context("no trie")?.try_into()?;
    for (length, network) in prefixes.v4.keys() {
        trie.insert(&Key::new(*length, *network), 1, 0)?;
    }
    let mut trie: LpmTrie<_, [u8; 16], u32> =
        bench.map_mut("TRIE6").context("no trie")?.try_into()?;
    for (length, network) in prefixes.v6.keys() {
        trie.insert(&Key::new(*length, *network), 1, 0)?;
    }
    let mut hash: HashMap<_, u64, u32> = bench.map_mut("HASH4").context("no hash")?.try_into()?;
    for (length, network) in prefixes.v4.keys() {
        let network = u64::from(u32::from_be_bytes(*network));
        hash.insert(u64::from(*length) << 32 | network, 1, 0)?;
    }
    let mut hash: HashMap<_, [u64; 3], u32> =
        bench.map_mut("HASH6").context("no hash")?.try_into()?;
    for (length, network) in prefixes.v6.keys() {
        let [high, low] = halves(*network);
        hash.insert([u64::from(*length), high, low], 1, 0)?;
    }
    Ok(())
}

/// As the source changer reads them: a cache line of them in each element.
fn fill_sources(bench: &mut Ebpf, sources: &[IpAddr]) -> Result<()> {
    for (place, line) in (0..).zip(sources.chunks(16)) {
        let mut held = [[0; 4]; 16];
        for (to, source) in held.iter_mut().zip(line) {
            if let IpAddr::V4(source) = source {
                *to = source.octets();
            }
        }
        array::<[[u8; 4]; 16]>(bench, "SOURCES4")?.set(place, held, 0)?;
    }
    for (place, line) in (0..).zip(sources.chunks(4)) {
        let mut held = [[0; 16]; 4];
        for (to, source) in held.iter_mut().zip(line) {
            if let IpAddr::V6(source) = source {
                *to = source.octets();
            }
        }
        array::<[[u8; 16]; 4]>(bench, "SOURCES6")?.set(place, held, 0)?;
    }
    Ok(())
}

fn fill_nodes(bench: &mut Ebpf, prefixes: &Prefixes, table_bits: u32) -> Result<()> {
    let nodes = tree::build_with(prefixes, MAX_NODES as usize, table_bits)
        .map_err(|error| anyhow::anyhow!("{error:?}"))?;
    let mut map = array::<TreeNode>(bench, "NODES")?;
    for (place, node) in (0..).zip(nodes) {
        map.set(place, node, 0)?;
    }
    Ok(())
}

/// Lengths as they are met: networks and hosts.
const LENGTHS4: [u8; 8] = [24, 24, 24, 22, 20, 32, 32, 28];
const LENGTHS6: [u8; 8] = [48, 48, 64, 56, 64, 64, 128, 32];
const ALLOW: PrefixRule = PrefixRule {
    action: PrefixRule::ALLOW,
    class: 0,
};

fn prefixes(count: u32) -> Prefixes {
    let mut prefixes = Prefixes::default();
    for n in 0..count {
        let length = u32::from(LENGTHS4[n as usize % LENGTHS4.len()]);
        let bits = high(mixed(n)) & (u32::MAX << (32 - length));
        prefixes.v4.insert((length, bits.to_be_bytes()), ALLOW);
        let length = u32::from(LENGTHS6[n as usize % LENGTHS6.len()]);
        let bits = unicast(n) & (u128::MAX << (128 - length));
        prefixes.v6.insert((length, bits.to_be_bytes()), ALLOW);
    }
    prefixes
}

fn networks(prefixes: &Prefixes) -> Vec<IpNet> {
    let length = |length: u32| u8::try_from(length).unwrap_or(0);
    let v4 = prefixes
        .v4
        .keys()
        .map(|(bits, network)| IpNet::V4(Ipv4Net::new_assert((*network).into(), length(*bits))));
    let v6 = prefixes
        .v6
        .keys()
        .map(|(bits, network)| IpNet::V6(Ipv6Net::new_assert((*network).into(), length(*bits))));
    v4.chain(v6).collect()
}

fn sources(nodes: &Vec<TreeNode>, size: u32, v6: bool, kind: Kind) -> Vec<IpAddr> {
    let inside = |n: u32| {
        let nth = high(mixed(n)) % size;
        if v6 {
            let length = u32::from(LENGTHS6[nth as usize % LENGTHS6.len()]);
            let mask = u128::MAX << (128 - length);
            IpAddr::from(Ipv6Addr::from_bits(
                unicast(nth) & mask | unicast(!n) & !mask,
            ))
        } else {
            let length = u32::from(LENGTHS4[nth as usize % LENGTHS4.len()]);
            let mask = u32::MAX << (32 - length);
            IpAddr::from(Ipv4Addr::from_bits(
                high(mixed(nth)) & mask | high(mixed(!n)) & !mask,
            ))
        }
    };
    let anywhere = |n: u32| {
        if v6 {
            IpAddr::from(Ipv6Addr::from_bits(unicast(n ^ 0x5555_5555)))
        } else {
            IpAddr::from(Ipv4Addr::from_bits(high(mixed(n ^ 0x5555_5555))))
        }
    };
    let is_held = |source: &IpAddr| match source {
        IpAddr::V4(source) => tree::find4(nodes, source.octets()).is_some(),
        IpAddr::V6(source) => tree::find6(nodes, source.octets()).is_some(),
    };
    match kind {
        Kind::Hot => vec![inside(7)],
        Kind::Hits => (0..SOURCES).map(inside).collect(),
        Kind::Misses => {
            let missing = (0..).map(anywhere).filter(|source| !is_held(source));
            missing.take(SOURCES as usize).collect()
        }
    }
}

/// The same numbers on every run.
fn mixed(n: u32) -> u64 {
    let mut bits = u64::from(n)
        .wrapping_add(1)
        .wrapping_mul(0x9e37_79b9_7f4a_7c15);
    bits ^= bits >> 29;
    bits = bits.wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits ^ bits >> 32
}

fn high(bits: u64) -> u32 {
    (bits >> 32) as u32
}

/// An address of 2000::/3.
fn unicast(n: u32) -> u128 {
    let bits = u128::from(mixed(n)) << 64 | u128::from(mixed(n ^ 0x3333_3333));
    bits & !(0xe000 << 112) | 0x2000 << 112
}

#[expect(clippy::cast_possible_truncation, reason = "the two halves are meant")]
fn halves(network: [u8; 16]) -> [u64; 2] {
    let bits = u128::from_be_bytes(network);
    [(bits >> 64) as u64, bits as u64]
}

fn family(v6: bool) -> &'static str {
    if v6 { "IPv6" } else { "IPv4" }
}
