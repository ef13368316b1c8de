//! The prefix structure: a table indexed by an address's first bits, and small search trees
//! behind those of its entries that one rule does not answer.
//!
//! Prefixes are flattened into disjoint ranges, each with the rule of its longest prefix, so that
//! a lookup never goes back. A root says which aligned block of addresses holds all prefixes;
//! outside of it one rule holds. The block is cut into at most 2^16 entries of equal width, as
//! many as pay for the number of prefixes. An entry is the rule itself or the way to the tree of
//! the ranges inside it, which neighbours may share: nodes of 64 bytes, one cache line each. Whatever the prefixes
//! are, a lookup reads a root, one entry, at most `INNER_LEVELS` inner nodes and a leaf (an IPv6
//! address inside a /64 with longer prefixes then searches that /64's own tree), there are at most
//! as many nodes as `MAX_NODES` counts, and there is no hash whose collisions a stranger could
//! choose.
//!
//! Invariant: a search makes no branch on a comparison of keys. The verifier then sees one path
//! through a node instead of nine, and the CPU predicts nothing wrongly.

#![expect(
    clippy::cast_possible_truncation,
    reason = "halves of words are meant, and ranks of at most eight"
)]

use crate::abi::PrefixRule;

/// Keys of an inner node, which has one child more; its last word is the first child's index.
pub const INNER_KEYS: usize = 7;
/// Keys of a leaf, which has one value more.
pub const LEAF_KEYS: usize = 5;
/// Inner nodes above a leaf: 6 * 8^6 ranges are more than two for each of `MAX_PREFIXES`.
pub const INNER_LEVELS: u32 = 6;
/// Keys of a compact leaf.
pub const COMPACT_KEYS: usize = 10;
/// The most bits that index a table.
pub const TABLE_BITS: u32 = 16;
/// Entries of the table in one node.
pub const NODE_ENTRIES: usize = 16;
/// Where a node has no key: not below any that is searched for. In an IPv6 prefix's lower half
/// keys have 64 bits, behind a table 63 at most.
pub const NO_KEY: u64 = u64::MAX;
pub const NO_SHORT_KEY: u64 = u64::MAX >> 1;
/// The same in a compact leaf, whose keys have 31 bits.
pub const NO_COMPACT_KEY: u64 = 0x7fff_ffff;
/// A value that is not a rule but the way to a tree.
pub const DEEPER: u32 = 1 << 31;
/// Index of the root of IPv4 and of IPv6 in a slot.
pub const ROOT4: u32 = 0;
pub const ROOT6: u32 = 1;

/// In a value that is `DEEPER`: the inner levels of the tree from this bit on, whether its leaves
/// are compact, and below that the index of its first node.
const LEVELS_SHIFT: u32 = 28;
const COMPACT: u32 = 1 << 27;

/// A root (base of its block, last offset in it, how far an offset is shifted to index the
/// table, and in one word the value outside and the table's first node), a part of a table (16
/// values), an inner node (7 keys, then the index of its first child; children are neighbours) or
/// a leaf (5 keys, then 6 values). A key is the last that its child or its value holds. Values
/// have 32 bits, the lower half of a word first. A compact leaf, of IPv4, has 10 keys of 31 bits in
/// half a word each, then 11 values of 16: nearly twice as many ranges for a cache line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(C, align(8))]
pub struct TreeNode {
    pub words: [u64; 8],
}

/// Where nodes are read from; an index that is not there ends the search without a rule.
pub trait Nodes {
    fn node(&self, index: u32) -> Option<&TreeNode>;

    /// The same number, of which the compiler may assume nothing. In the kernel it keeps the
    /// check of an index and its use on one register, which is all that the verifier believes.
    #[must_use]
    #[inline(always)]
    fn opaque(&self, number: u64) -> u64 {
        number
    }
}

/// The rule of the longest prefix that holds an IPv4 address.
#[must_use]
#[inline(always)]
pub fn find4(nodes: &impl Nodes, address_be: [u8; 4]) -> Option<PrefixRule> {
    find(nodes, ROOT4, u64::from(u32::from_be_bytes(address_be)), 0)
}

/// The rule of the longest prefix that holds an IPv6 address.
#[must_use]
#[inline(always)]
pub fn find6(nodes: &impl Nodes, address_be: [u8; 16]) -> Option<PrefixRule> {
    let bits = u128::from_be_bytes(address_be);
    find(nodes, ROOT6, (bits >> 64) as u64, bits as u64)
}

/// The rule of a family's address: all of it in `high` and nothing in `low`, or its two halves.
/// One function for both families, so that the kernel's program holds it once.
#[must_use]
#[inline(always)]
pub fn find(nodes: &impl Nodes, root: u32, high: u64, low: u64) -> Option<PrefixRule> {
    let mut value = of_table(nodes, root, high);
    if value & DEEPER != 0 {
        value = of_tree::<true>(nodes, value, low);
    }
    PrefixRule::from_bits(value)
}

/// The value for `key`; 0 for none. Not an `Option`: half of one would be a register that was
/// never written, which the verifier (6.18) does not let be read.
#[inline(always)]
fn of_table(nodes: &impl Nodes, root: u32, key: u64) -> u32 {
    let Some(root) = nodes.node(root) else {
        return 0;
    };
    let [base, last, shift, outside, ..] = root.words;
    let offset = key.wrapping_sub(base);
    if offset > last {
        return outside as u32;
    }
    let index = offset >> (shift & 63);
    let first = (outside >> 32) as u32;
    let Some(part) = nodes.node(first.wrapping_add((index >> 4) as u32)) else {
        return 0;
    };
    let value = part.entries().get(nodes.opaque(index & 15) as usize);
    let value = value.copied().unwrap_or(0);
    if value & DEEPER == 0 {
        return value;
    }
    // The keys of one tree have their highest bit in common.
    of_tree::<false>(nodes, value, offset & NO_SHORT_KEY)
}

/// The value of the range of a tree that holds `key`. The keys of a tree that is not `FULL` are
/// below 2^63.
#[inline(always)]
fn of_tree<const FULL: bool>(nodes: &impl Nodes, way: u32, key: u64) -> u32 {
    let levels = way >> LEVELS_SHIFT & 7;
    let mut at = way & (COMPACT - 1);
    for level in 0..INNER_LEVELS {
        if level >= levels {
            break;
        }
        let Some(TreeNode {
            words: [k0, k1, k2, k3, k4, k5, k6, first],
        }) = nodes.node(at)
        else {
            return 0;
        };
        let rank = rank::<FULL, INNER_KEYS>([k0, k1, k2, k3, k4, k5, k6], key);
        at = (*first as u32).wrapping_add(rank as u32);
    }
    let Some(leaf) = nodes.node(at) else {
        return 0;
    };
    if !FULL && way & COMPACT != 0 {
        let rank = compact_rank(leaf, key & NO_COMPACT_KEY);
        let value = leaf.compact_values().get(nodes.opaque(rank) as usize);
        return value.map_or(0, |value| PrefixRule::of_compact(*value));
    }
    let [k0, k1, k2, k3, k4, ..] = &leaf.words;
    let rank = rank::<FULL, LEAF_KEYS>([k0, k1, k2, k3, k4], key);
    let value = leaf.values().get(nodes.opaque(rank) as usize);
    value.copied().unwrap_or(0)
}

/// How many of the keys are below `key`. Below 2^63 a difference's highest bit is its sign; of
/// `FULL` keys it is the subtraction's borrow (Hacker's Delight, 2-13).
#[inline(always)]
fn rank<const FULL: bool, const N: usize>(keys: [&u64; N], key: u64) -> u64 {
    let mut count = 0;
    for other in keys {
        let difference = other.wrapping_sub(key);
        let sign = if FULL {
            (!*other & key) | ((!*other | key) & difference)
        } else {
            difference
        };
        count += sign >> 63;
    }
    count
}

/// How many of a compact leaf's keys are below `key`, two at a time: with the highest bit of each
/// half set before the subtraction, it stays where the key is not below, and borrows from no one.
#[inline(always)]
fn compact_rank(leaf: &TreeNode, key: u64) -> u64 {
    const HIGHEST: u64 = 1 << 63 | 1 << 31;
    let both = key | key << 32;
    let [w0, w1, w2, w3, w4, ..] = leaf.words;
    let mut halves = 0;
    for word in [w0, w1, w2, w3, w4] {
        halves += (!((word | HIGHEST) - both) & HIGHEST) >> 31;
    }
    (halves + (halves >> 32)) & 0xf
}

#[cfg(feature = "user")]
pub use build::{Prefixes, TooManyNodes, build, build_with};

#[cfg(feature = "user")]
mod build;
#[cfg(feature = "user")]
mod layout;
