//! From ranges to nodes: tables, the trees behind them, and roots.

extern crate std;

use std::vec;
use std::vec::Vec;

use super::{
    DEEPER, INNER_KEYS, INNER_LEVELS, LEAF_KEYS, LEVELS_SHIFT, NO_KEY, NO_SHORT_KEY, NODE_ENTRIES,
    TreeNode,
};

/// A range's first key, with its value.
pub(super) type Range = (u64, u32);

/// The aligned block of keys that a table covers.
pub(super) struct Block {
    pub(super) base: u64,
    /// The last offset in it: all ones.
    pub(super) last: u64,
    /// The value of every other key.
    pub(super) outside: u32,
}

/// How many bits a tree's keys have; see `of_tree`.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Width {
    /// At most 63.
    Short,
    Full,
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
        // A tree's keys have a bit less than an address's half.
        let least = block_bits / 64;
        let bits = worth.min(self.table_bits).clamp(least, block_bits);
        let shift = block_bits - bits;
        let entries = 1_usize << bits;
        let first = self.next();
        let parts = entries.div_ceil(NODE_ENTRIES);
        self.nodes
            .resize(self.nodes.len() + parts, TreeNode::default());

        let mut shared = Shared::default();
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
                own if own.len() > LEAF_KEYS + 1 => {
                    let way = self.tree(&short(own), Width::Short);
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
        let no_key = match width {
            Width::Short => NO_SHORT_KEY,
            Width::Full => NO_KEY,
        };
        let mut firsts = Vec::new();
        let mut below = self.next();
        for held in ranges.chunks(LEAF_KEYS + 1) {
            self.nodes.push(leaf_node(held, no_key));
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
        DEEPER | levels << LEVELS_SHIFT | (self.next() - 1)
    }

    /// Makes the leaf of the entries that were gathered.
    fn settle(&mut self, first: u32, shared: &mut Shared) {
        if shared.places.is_empty() {
            return;
        }
        let way = self.tree(&short(&shared.ranges), Width::Short);
        for place in shared.places.drain(..) {
            self.set(first, place, way);
        }
        shared.ranges.clear();
    }

    /// Writes an entry of the table that begins at a node.
    fn set(&mut self, first: u32, place: usize, value: u32) {
        let node = self.nodes.get_mut(first as usize + place / NODE_ENTRIES);
        let half = place % NODE_ENTRIES;
        if let Some(word) = node.and_then(|node| node.words.get_mut(half / 2)) {
            *word |= u64::from(value) << (32 * (half % 2));
        }
    }

    /// The index of the next node; beyond the limit of every slot where it does not fit.
    fn next(&self) -> u32 {
        u32::try_from(self.nodes.len()).unwrap_or(u32::MAX)
    }
}

/// Entries whose ranges are few share one leaf, which halves the memory that random sources touch.
#[derive(Default)]
struct Shared {
    places: Vec<usize>,
    ranges: Vec<Range>,
}

impl Shared {
    /// Whether an entry's ranges fit beside those here, in the same half of all keys.
    fn has_room(&self, own: &[Range]) -> bool {
        let half = |ranges: &[Range]| ranges.first().map(|(start, _)| start >> 63);
        let ranges = self.ranges.len() + self.added(own).len();
        self.ranges.is_empty() || ranges <= LEAF_KEYS + 1 && half(&self.ranges) == half(own)
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

/// A leaf of at most six ranges.
fn leaf_node(ranges: &[Range], no_key: u64) -> TreeNode {
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
