//! From prefixes to nodes, on the host.

extern crate std;

use std::collections::BTreeMap;
use std::vec;
use std::vec::Vec;

use super::{
    DEEPER, INNER_KEYS, INNER_LEVELS, LEAF_KEYS, LEVELS_SHIFT, NO_KEY, NO_SHORT_KEY, NODE_ENTRIES,
    Nodes, TABLE_BITS, TreeNode,
};
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
    let mut tree = Tree {
        nodes: vec![TreeNode::default(); 2],
        too_deep: false,
    };

    let v4 = prefixes.v4.iter().map(|(&(length, network), rule)| {
        let start = u64::from(u32::from_be_bytes(network));
        span(start, length.min(32), 32, rule.bits())
    });
    let root4 = tree.table(v4.collect(), u64::from(u32::MAX));

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
        let way = tree.tree(&ranges(inner, around), Width::Full);
        spans.push(span(high, 64, 64, way));
    }
    let root6 = tree.table(spans, u64::MAX);

    for (place, root) in tree.nodes.iter_mut().zip([root4, root6]) {
        *place = root;
    }
    if tree.nodes.len() > limit || tree.too_deep {
        return Err(TooManyNodes {
            needed: tree.nodes.len(),
        });
    }
    Ok(tree.nodes)
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

fn begin(found: &mut Vec<(u64, u32)>, start: u64, value: u32) {
    match found.last_mut() {
        Some(last) if last.0 == start => last.1 = value,
        _ => found.push((start, value)),
    }
}

/// How many bits a tree's keys have; see `of_tree`.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Width {
    /// At most 63.
    Short,
    Full,
}

struct Tree {
    nodes: Vec<TreeNode>,
    too_deep: bool,
}

impl Tree {
    /// Appends a node; its index.
    fn push(&mut self, node: TreeNode) -> u32 {
        self.nodes.push(node);
        self.next() - 1
    }

    /// The index of the next node; beyond the limit of every slot where it does not fit.
    fn next(&self) -> u32 {
        u32::try_from(self.nodes.len()).unwrap_or(u32::MAX)
    }

    /// Builds the table over the block that holds all spans but one of every key, and the trees
    /// behind it; the root, not yet appended.
    fn table(&mut self, spans: Vec<Span>, last_key: u64) -> TreeNode {
        let is_all = |span: &Span| span.start == 0 && span.end == last_key;
        let outside = spans
            .iter()
            .find(|span| is_all(span))
            .map_or(0, |span| span.value);
        let inner = || spans.iter().filter(|span| !is_all(span));
        let low = inner().map(|span| span.start).min().unwrap_or(0);
        let high = inner().map(|span| span.end).max().unwrap_or(0);
        // All ones below the highest bit in which two keys differ.
        let block_bits = 64 - (low ^ high).leading_zeros();
        let last = ones(block_bits);
        let base = low & !last;
        let ranges = ranges(spans, 0);

        // Four entries a range: most then hold one rule, and a search ends there.
        let worth = usize::BITS - ranges.len().leading_zeros() + 2;
        let shift = block_bits - worth.min(TABLE_BITS).min(block_bits);
        let entries = (last >> shift) + 1;
        let first = self.next();
        let parts = usize::try_from(entries)
            .unwrap_or(usize::MAX)
            .div_ceil(NODE_ENTRIES);
        self.nodes
            .resize(self.nodes.len() + parts, TreeNode::default());

        let mut next = ranges.partition_point(|(start, _)| *start <= base);
        for (entry, place) in (0..entries).zip(0_usize..) {
            let start = base + (entry << shift);
            let value = next
                .checked_sub(1)
                .and_then(|before| ranges.get(before))
                .map_or(0, |(_, value)| *value);
            let mut held = vec![(0, value)];
            while let Some((at, value)) = ranges.get(next)
                && *at - start <= ones(shift)
            {
                begin(&mut held, at - start, *value);
                next += 1;
            }
            // The next entry may begin a range.
            while ranges
                .get(next)
                .is_some_and(|(at, _)| at - start == ones(shift) + 1)
            {
                next += 1;
            }
            let value = match held.as_slice() {
                [(_, value)] if *value & DEEPER == 0 => *value,
                _ => self.tree(&held, Width::Short),
            };
            let node = first as usize + place / NODE_ENTRIES;
            let word = place % NODE_ENTRIES;
            if let Some(word) = self
                .nodes
                .get_mut(node)
                .and_then(|n| n.words.get_mut(word / 2))
            {
                *word |= u64::from(value) << (32 * (place % 2));
            }
        }
        TreeNode {
            words: [
                base,
                last,
                u64::from(shift),
                u64::from(outside) | u64::from(first) << 32,
                0,
                0,
                0,
                0,
            ],
        }
    }

    /// Builds the tree of ranges that begin at 0; the way to it.
    fn tree(&mut self, ranges: &[(u64, u32)], width: Width) -> u32 {
        let no_key = match width {
            Width::Short => NO_SHORT_KEY,
            Width::Full => NO_KEY,
        };
        let mut firsts = Vec::new();
        let mut below = self.next();
        for held in ranges.chunks(LEAF_KEYS + 1) {
            self.push(leaf_node(held, no_key));
            firsts.extend(held.first().map(|(start, _)| *start));
        }
        let mut levels = 0;
        while firsts.len() > 1 {
            let level = self.next();
            let mut above = Vec::new();
            for (children, group) in firsts.chunks(INNER_KEYS + 1).zip(0_u32..) {
                let mut node = TreeNode { words: [no_key; 8] };
                for (word, key) in node.words.iter_mut().zip(children.iter().skip(1)) {
                    *word = *key - 1;
                }
                let [.., child] = &mut node.words;
                *child = u64::from(below) + u64::from(group) * (INNER_KEYS as u64 + 1);
                self.push(node);
                above.extend(children.first());
            }
            firsts = above;
            below = level;
            levels += 1;
        }
        self.too_deep |= levels > INNER_LEVELS;
        DEEPER | levels << LEVELS_SHIFT | (self.next() - 1)
    }
}

/// All ones in the lowest `bits`, at most 64.
fn ones(bits: u32) -> u64 {
    1_u64.checked_shl(bits).map_or(u64::MAX, |power| power - 1)
}

/// A leaf of at most six ranges.
fn leaf_node(ranges: &[(u64, u32)], no_key: u64) -> TreeNode {
    let mut words = [no_key, no_key, no_key, no_key, no_key, 0, 0, 0];
    for (word, (start, _)) in words.iter_mut().zip(ranges.iter().skip(1)) {
        *word = *start - 1;
    }
    for (word, pair) in words.iter_mut().skip(LEAF_KEYS).zip(ranges.chunks(2)) {
        let value = |place: usize| pair.get(place).map_or(0, |(_, value)| u64::from(*value));
        *word = value(0) | value(1) << 32;
    }
    TreeNode { words }
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
