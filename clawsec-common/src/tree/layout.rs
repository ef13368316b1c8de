//! From ranges to nodes: tables, the trees behind them, and roots.

extern crate std;

use core::iter;
use std::vec;
use std::vec::Vec;

use super::{
    COMPACT, COMPACT_KEYS, DEEPER, INNER_KEYS, INNER_LEVELS, LEAF_KEYS, LEVELS_SHIFT,
    NO_COMPACT_KEY, NO_KEY, NO_SHORT_KEY, NODE_ENTRIES, TreeNode,
};
use crate::abi::PrefixRule;

/// A range's first key, with its value.
pub(super) type Range = (u64, u32);

/// The aligned block of keys that a table covers.
pub(super) struct Block {
    pub(super) base: u64,
    /// The last offset in it: all ones.
    pub(super) last: u64,
    /// The value of every other key.
    pub(super) outside: u32,
    /// Of the trees behind the table.
    pub(super) width: Width,
}

/// How many bits a tree's keys have; see `of_tree`.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Width {
    /// 32 at most, and every value is a rule: leaves are compact.
    Compact,
    /// At most 63.
    Short,
    Full,
}

impl Width {
    /// Ranges of one leaf.
    fn leaf_ranges(self) -> usize {
        match self {
            Self::Compact => COMPACT_KEYS + 1,
            Self::Short | Self::Full => LEAF_KEYS + 1,
        }
    }

    /// The bits of a leaf's keys; those above them are common to a tree.
    fn leaf_mask(self) -> u64 {
        match self {
            Self::Compact => NO_COMPACT_KEY,
            Self::Short => NO_SHORT_KEY,
            Self::Full => NO_KEY,
        }
    }

    fn no_inner_key(self) -> u64 {
        match self {
            Self::Compact | Self::Short => NO_SHORT_KEY,
            Self::Full => NO_KEY,
        }
    }
}

/// The nodes so far.
pub(super) struct Layout {
    nodes: Vec<TreeNode>,
    table_bits: u32,
    too_deep: bool,
}

impl Layout {
    /// With room for two roots.
    pub(super) fn new(table_bits: u32) -> Self {
        Self {
            nodes: vec![TreeNode::default(); 2],
            table_bits,
            too_deep: false,
        }
    }

    /// The nodes, and whether no tree has more levels than a search follows.
    pub(super) fn finish(mut self, roots: [TreeNode; 2]) -> (Vec<TreeNode>, bool) {
        for (place, root) in self.nodes.iter_mut().zip(roots) {
            *place = root;
        }
        (self.nodes, !self.too_deep)
    }

    /// Builds the table of a block, and the trees behind it; the root, not yet in its place.
    /// `ranges` are by offset in the block, the first at 0.
    pub(super) fn table(&mut self, block: &Block, ranges: &[Range]) -> TreeNode {
        let block_bits = block.last.count_ones();
        // Four entries a range: most then hold one rule, and a search ends there.
        let worth = usize::BITS - ranges.len().leading_zeros() + 2;
        // A tree's keys have a bit less than an address's half, a compact leaf's less than IPv4.
        let width = block.width;
        let least = block_bits.saturating_sub(width.leaf_mask().count_ones());
        let bits = worth.min(self.table_bits).clamp(least, block_bits);
        let shift = block_bits - bits;
        let entries = 1_usize << bits;
        let first = self.next();
        let parts = entries.div_ceil(NODE_ENTRIES);
        self.nodes
            .resize(self.nodes.len() + parts, TreeNode::default());

        let mut shared = Shared::new(width);
        let mut rest = ranges;
        let mut value = 0;
        for (place, entry) in (0..entries).zip(0_u64..) {
            let start = entry << shift;
            let end = start | ones(shift);
            let here = rest.partition_point(|(at, _)| *at <= end);
            let (held, after) = rest.split_at(here);
            rest = after;
            let mut own = vec![(start, value)];
            for (at, value) in held {
                begin(&mut own, *at, *value);
            }
            value = own.last().map_or(value, |(_, value)| *value);
            match own.as_slice() {
                [(_, value)] if *value & DEEPER == 0 => self.set(first, place, *value),
                own if own.len() > width.leaf_ranges() => {
                    let way = self.tree(&short(own), width);
                    self.set(first, place, way);
                }
                own => {
                    if !shared.has_room(own) {
                        self.settle(first, &mut shared);
                    }
                    shared.take(place, own);
                }
            }
        }
        self.settle(first, &mut shared);
        TreeNode {
            words: [
                block.base,
                block.last,
                u64::from(shift),
                u64::from(block.outside) | u64::from(first) << 32,
                0,
                0,
                0,
                0,
            ],
        }
    }

    /// Builds the tree of ranges; the way to it.
    pub(super) fn tree(&mut self, ranges: &[Range], width: Width) -> u32 {
        let no_key = width.no_inner_key();
        let mut firsts = Vec::new();
        let mut below = self.next();
        for held in ranges.chunks(width.leaf_ranges()) {
            self.nodes.push(leaf(held, width));
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
                self.nodes.push(node);
                above.extend(children.first());
            }
            firsts = above;
            below = level;
            levels += 1;
        }
        self.too_deep |= levels > INNER_LEVELS;
        let compact = if width == Width::Compact { COMPACT } else { 0 };
        DEEPER | levels << LEVELS_SHIFT | compact | (self.next() - 1)
    }

    /// Makes the leaf of the entries that were gathered.
    fn settle(&mut self, first: u32, shared: &mut Shared) {
        if shared.places.is_empty() {
            return;
        }
        let way = self.tree(&short(&shared.ranges), shared.width);
        for place in shared.places.drain(..) {
            self.set(first, place, way);
        }
        shared.ranges.clear();
    }

    /// Writes an entry of the table that begins at a node.
    fn set(&mut self, first: u32, place: usize, value: u32) {
        let node = self.nodes.get_mut(first as usize + place / NODE_ENTRIES);
        if let Some(node) = node {
            put(&mut node.words, 32, place % NODE_ENTRIES, u64::from(value));
        }
    }

    /// The index of the next node; beyond the limit of every slot where it does not fit.
    fn next(&self) -> u32 {
        u32::try_from(self.nodes.len()).unwrap_or(u32::MAX)
    }
}

/// Entries whose ranges are few share one leaf, which halves the memory that random sources touch.
struct Shared {
    width: Width,
    places: Vec<usize>,
    ranges: Vec<Range>,
}

impl Shared {
    fn new(width: Width) -> Self {
        Self {
            width,
            places: Vec::new(),
            ranges: Vec::new(),
        }
    }

    /// Whether an entry's ranges fit beside those here, their keys alike in the bits above.
    fn has_room(&self, own: &[Range]) -> bool {
        let half = |ranges: &[Range]| {
            ranges
                .first()
                .map(|(start, _)| start & !self.width.leaf_mask())
        };
        let ranges = self.ranges.len() + self.added(own).len();
        self.ranges.is_empty()
            || ranges <= self.width.leaf_ranges() && half(&self.ranges) == half(own)
    }

    fn take(&mut self, place: usize, own: &[Range]) {
        let new = self.added(own);
        self.places.push(place);
        self.ranges.extend(new);
    }

    /// What an entry adds: where it goes on with the value before it, that needs no key.
    fn added<'a>(&self, own: &'a [Range]) -> &'a [Range] {
        match (self.ranges.last(), own) {
            (Some((_, before)), [(_, value), rest @ ..]) if before == value => rest,
            _ => own,
        }
    }
}

/// Keys without their highest bit, which those of one tree share.
fn short(ranges: &[Range]) -> Vec<Range> {
    let without = |(start, value): &Range| (start & NO_SHORT_KEY, *value);
    ranges.iter().map(without).collect()
}

/// Begins a range; one that began at the same key has no keys of its own.
pub(super) fn begin(found: &mut Vec<(u64, u32)>, start: u64, value: u32) {
    match found.last_mut() {
        Some(last) if last.0 == start => last.1 = value,
        _ => found.push((start, value)),
    }
}

/// All ones in the lowest `bits`, at most 64.
pub(super) fn ones(bits: u32) -> u64 {
    1_u64.checked_shl(bits).map_or(u64::MAX, |power| power - 1)
}

/// A leaf of as many ranges as it holds, or fewer.
fn leaf(ranges: &[Range], width: Width) -> TreeNode {
    let mut words = [0; 8];
    let mask = width.leaf_mask();
    let lasts = ranges.iter().skip(1).map(|(start, _)| (*start - 1) & mask);
    let lasts = lasts.chain(iter::repeat(mask));
    match width {
        Width::Compact => {
            for (place, last) in lasts.take(COMPACT_KEYS).enumerate() {
                put(&mut words, 32, place, last);
            }
            for (place, (_, value)) in ranges.iter().enumerate() {
                let value = u64::from(PrefixRule::compact(*value));
                put(&mut words, 16, 2 * COMPACT_KEYS + place, value);
            }
        }
        Width::Short | Width::Full => {
            for (place, last) in lasts.take(LEAF_KEYS).enumerate() {
                put(&mut words, 64, place, last);
            }
            for (place, (_, value)) in ranges.iter().enumerate() {
                put(&mut words, 32, 2 * LEAF_KEYS + place, u64::from(*value));
            }
        }
    }
    TreeNode { words }
}

/// Writes the number at a place among numbers of so many bits.
fn put(words: &mut [u64; 8], bits: usize, place: usize, number: u64) {
    let in_word = 64 / bits;
    if let Some(word) = words.get_mut(place / in_word) {
        *word |= number << (bits * (place % in_word));
    }
}
