//! From prefixes to nodes, on the host.

extern crate std;

use std::collections::BTreeMap;
use std::vec;
use std::vec::Vec;

use super::layout::{Block, Layout, Width, begin, ones};
use super::{Nodes, TABLE_BITS, TreeNode};
use crate::abi::PrefixRule;

/// Prefixes by length and network, bits after the length zero.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Prefixes {
    pub v4: BTreeMap<(u32, [u8; 4]), PrefixRule>,
    pub v6: BTreeMap<(u32, [u8; 16]), PrefixRule>,
}

/// The prefixes need more nodes than there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TooManyNodes {
    pub needed: usize,
}

impl Nodes for [TreeNode] {
    fn node(&self, index: u32) -> Option<&TreeNode> {
        self.get(usize::try_from(index).ok()?)
    }
}

impl Nodes for Vec<TreeNode> {
    fn node(&self, index: u32) -> Option<&TreeNode> {
        self.as_slice().node(index)
    }
}

/// Builds one slot's nodes, the two roots first.
///
/// # Errors
/// When more than `limit` nodes, or more levels than a search follows, would be needed.
pub fn build(prefixes: &Prefixes, limit: usize) -> Result<Vec<TreeNode>, TooManyNodes> {
    build_with(prefixes, limit, TABLE_BITS)
}

/// The same with at most `table_bits` bits (63 at most) that index a table: with 0 all is one
/// tree. For measuring; the limits of the kernel half count `TABLE_BITS`.
///
/// # Errors
/// As `build`.
pub fn build_with(
    prefixes: &Prefixes,
    limit: usize,
    table_bits: u32,
) -> Result<Vec<TreeNode>, TooManyNodes> {
    let mut layout = Layout::new(table_bits);

    let v4 = prefixes.v4.iter().map(|(&(length, network), rule)| {
        let start = u64::from(u32::from_be_bytes(network));
        span(start, length.min(32), 32, rule.bits())
    });
    let root4 = table(
        &mut layout,
        v4.collect(),
        u64::from(u32::MAX),
        Width::Compact,
    );

    let (short, long): (Vec<_>, Vec<_>) = prefixes
        .v6
        .iter()
        .partition(|((length, _), _)| *length <= 64);
    let mut spans: Vec<Span> = short
        .into_iter()
        .map(|(&(length, network), rule)| span(halves(network).0, length, 64, rule.bits()))
        .collect();
    let covering = ranges(spans.clone(), 0);
    let mut deep: BTreeMap<u64, Vec<Span>> = BTreeMap::new();
    for (&(length, network), rule) in long {
        let (high, low) = halves(network);
        let inner = span(low, length.min(128) - 64, 64, rule.bits());
        deep.entry(high).or_default().push(inner);
    }
    for (high, inner) in deep {
        let held = covering.partition_point(|(start, _)| *start <= high);
        let around = covering
            .get(held.wrapping_sub(1))
            .map_or(0, |(_, value)| *value);
        let way = layout.tree(&ranges(inner, around), Width::Full);
        spans.push(span(high, 64, 64, way));
    }
    let root6 = table(&mut layout, spans, u64::MAX, Width::Short);

    let (nodes, is_searchable) = layout.finish([root4, root6]);
    if nodes.len() > limit || !is_searchable {
        return Err(TooManyNodes {
            needed: nodes.len(),
        });
    }
    Ok(nodes)
}

/// Lays out a family's table over the block that holds all spans but the one of every key.
fn table(layout: &mut Layout, spans: Vec<Span>, last_key: u64, width: Width) -> TreeNode {
    let is_all = |span: &Span| span.start == 0 && span.end == last_key;
    let all = spans.iter().find(|span| is_all(span));
    let outside = all.map_or(0, |span| span.value);
    let inner = || spans.iter().filter(|span| !is_all(span));
    let low = inner().map(|span| span.start).min().unwrap_or(0);
    let high = inner().map(|span| span.end).max().unwrap_or(0);
    // All ones below the highest bit in which two keys differ.
    let last = ones(64 - (low ^ high).leading_zeros());
    let base = low & !last;

    let mut held = Vec::new();
    for (start, value) in ranges(spans, 0) {
        let Some(offset) = start.checked_sub(base) else {
            held = vec![(0, value)];
            continue;
        };
        if offset <= last {
            begin(&mut held, offset, value);
        }
    }
    layout.table(
        &Block {
            base,
            last,
            outside,
            width,
        },
        &held,
    )
}

/// From the first to the last key, both held, with a value.
#[derive(Debug, Clone, Copy)]
struct Span {
    start: u64,
    end: u64,
    value: u32,
}

/// The keys of a prefix of `length` among keys of `bits`.
fn span(start: u64, length: u32, bits: u32, value: u32) -> Span {
    let rest = bits - length;
    let width = 1_u64.checked_shl(rest).map_or(u64::MAX, |size| size - 1);
    Span {
        start: start & !width,
        end: start | width,
        value,
    }
}

fn halves(address_be: [u8; 16]) -> (u64, u64) {
    let bits = u128::from_be_bytes(address_be);
    #[expect(clippy::cast_possible_truncation, reason = "the two halves are meant")]
    ((bits >> 64) as u64, bits as u64)
}

/// Disjoint ranges, by their first key, neighbours of one value joined. Spans nest or are
/// disjoint, as prefixes are; of two equal ones the later wins.
fn ranges(mut spans: Vec<Span>, around: u32) -> Vec<(u64, u32)> {
    spans.sort_by(|a, b| a.start.cmp(&b.start).then(b.end.cmp(&a.end)));
    let mut found = vec![(0, around)];
    let mut open = vec![Span {
        start: 0,
        end: u64::MAX,
        value: around,
    }];
    let close = |open: &mut Vec<Span>, found: &mut Vec<(u64, u32)>| {
        let closed = open.pop();
        if let (Some(closed), Some(outer)) = (closed, open.last())
            && let Some(next) = closed.end.checked_add(1)
        {
            begin(found, next, outer.value);
        }
    };
    for span in spans {
        while open.len() > 1 && open.last().is_some_and(|inner| inner.end < span.start) {
            close(&mut open, &mut found);
        }
        begin(&mut found, span.start, span.value);
        open.push(span);
    }
    while open.len() > 1 {
        close(&mut open, &mut found);
    }
    found.dedup_by_key(|(_, value)| *value);
    found
}

#[cfg(test)]
mod tests {
    use super::super::{find4, find6};
    use super::*;

    fn rule(class: u16) -> PrefixRule {
        PrefixRule {
            action: if class % 3 == 2 {
                PrefixRule::DENY
            } else {
                PrefixRule::ALLOW
            },
            class,
        }
    }

    /// xorshift64: the same numbers on every run.
    struct Random(u64);

    impl Random {
        fn next(&mut self) -> u64 {
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            self.0
        }

        fn next128(&mut self) -> u128 {
            u128::from(self.next()) << 64 | u128::from(self.next())
        }
    }

    fn mask4(length: u32) -> u32 {
        u32::MAX.checked_shl(32 - length).unwrap_or(0)
    }

    fn mask6(length: u32) -> u128 {
        u128::MAX.checked_shl(128 - length).unwrap_or(0)
    }

    /// The longest prefix, by trying every length.
    fn naive4(prefixes: &Prefixes, address: u32) -> Option<PrefixRule> {
        (0..=32).rev().find_map(|length| {
            let network = (address & mask4(length)).to_be_bytes();
            prefixes.v4.get(&(length, network)).copied()
        })
    }

    fn naive6(prefixes: &Prefixes, address: u128) -> Option<PrefixRule> {
        (0..=128).rev().find_map(|length| {
            let network = (address & mask6(length)).to_be_bytes();
            prefixes.v6.get(&(length, network)).copied()
        })
    }

    /// Few distinct bits, so that prefixes nest and touch, and the ends of the space are met.
    fn clustered(random: &mut Random) -> u128 {
        let bits = random.next128();
        match random.next() % 4 {
            0 => bits & 0xc000_0000_0000_0003_8000_0000_0000_0007,
            1 => bits | !0xc000_0000_0000_0003_8000_0000_0000_0007,
            2 => bits & (0xf << 124 | 0xff << 60),
            _ => bits,
        }
    }

    #[test]
    fn finds_what_trying_every_length_finds() {
        let mut random = Random(0x1234_5678_9abc_def1);
        for count in [0, 1, 2, 5, 6, 30, 300, 3000] {
            let mut prefixes = Prefixes::default();
            for _ in 0..count {
                let class = (random.next() % 256) as u16;
                let length = (random.next() % 33) as u32;
                let network = (clustered(&mut random) >> 96) as u32 & mask4(length);
                prefixes
                    .v4
                    .insert((length, network.to_be_bytes()), rule(class));
                let length = (random.next() % 129) as u32;
                let network = clustered(&mut random) & mask6(length);
                prefixes
                    .v6
                    .insert((length, network.to_be_bytes()), rule(class));
            }
            let nodes = build(&prefixes, usize::MAX).unwrap();
            let ends4 = prefixes.v4.keys().flat_map(|&(length, network)| {
                let first = u32::from_be_bytes(network);
                let last = first | !mask4(length);
                [first, last, first.wrapping_sub(1), last.wrapping_add(1)]
            });
            let ends6 = prefixes.v6.keys().flat_map(|&(length, network)| {
                let first = u128::from_be_bytes(network);
                let last = first | !mask6(length);
                [first, last, first.wrapping_sub(1), last.wrapping_add(1)]
            });
            let around: Vec<u128> = (0..2000).map(|_| clustered(&mut random)).collect();
            let some4 = around.iter().map(|bits| (bits >> 96) as u32);
            for address in ends4.chain(some4).chain([0, u32::MAX]) {
                let found = find4(&nodes, address.to_be_bytes());
                assert_eq!(found, naive4(&prefixes, address), "{count}: {address:#x}");
            }
            for address in ends6.chain(around.iter().copied()).chain([0, u128::MAX]) {
                let found = find6(&nodes, address.to_be_bytes());
                assert_eq!(found, naive6(&prefixes, address), "{count}: {address:#x}");
            }
        }
    }

    #[test]
    fn the_most_prefixes_that_are_promised_fit_whatever_they_are() {
        use crate::abi::{MAX_NODES, MAX_PREFIXES};
        let mut prefixes = Prefixes::default();
        let gold = 0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835_u128;
        for n in 0..u128::from(MAX_PREFIXES) {
            // Every second of a tiny space: two ranges for each prefix.
            let v4 = u32::try_from(n * 2).unwrap();
            prefixes.v4.insert((32, v4.to_be_bytes()), rule(0));
            prefixes
                .v6
                .insert((128, (n + 1).wrapping_mul(gold).to_be_bytes()), rule(0));
        }
        assert_eq!(prefixes.v6.len(), MAX_PREFIXES as usize);
        let nodes = build(&prefixes, MAX_NODES as usize).unwrap();
        let held = (u128::from(MAX_PREFIXES) - 5).wrapping_mul(gold);
        assert_eq!(find6(&nodes, held.to_be_bytes()), Some(rule(0)));
        assert_eq!(find6(&nodes, (held ^ 1).to_be_bytes()), None);
        assert_eq!(find4(&nodes, 199_998_u32.to_be_bytes()), Some(rule(0)));
        assert_eq!(find4(&nodes, 199_999_u32.to_be_bytes()), None);
        let refused = build(&prefixes, nodes.len() - 1);
        assert_eq!(
            refused,
            Err(TooManyNodes {
                needed: nodes.len()
            })
        );
    }
}
