//! The prefix structure: sorted ranges in a B+ tree of 64-byte nodes, one cache line each.
//!
//! Prefixes are flattened into disjoint ranges, each with the rule of its longest prefix, so that
//! a lookup never goes back. It reads a root, at most `INNER_LEVELS` inner nodes and one leaf; an
//! IPv6 address inside a /64 with longer prefixes does so twice. Whatever the prefixes are, there
//! are at most twice as many ranges, and no hash whose collisions a stranger could choose.
//!
//! Invariant: `find` makes no branch on a comparison of keys. The verifier then sees one path
//! through a node instead of nine, and the CPU predicts nothing wrongly.

#![expect(
    clippy::cast_possible_truncation,
    reason = "halves of words are meant, and ranks of at most eight"
)]

use crate::abi::PrefixRule;

/// Keys of an inner node, which has one child more.
pub const INNER_KEYS: usize = 8;
/// Keys of a leaf, which has one value more.
pub const LEAF_KEYS: usize = 5;
/// Inner nodes above a leaf: 5 * 9^5 keys are more than two for each of `MAX_PREFIXES`.
pub const INNER_LEVELS: usize = 5;
/// Where no key is: greater than every key by the comparison of `above`.
pub const NO_KEY: u64 = 1 << 63;
/// A value that is not a rule but the root of the tree of a /64's lower halves.
pub const DEEPER: u32 = 1 << 31;
/// Index of the root of IPv4 and of IPv6 in a slot.
pub const ROOT4: u32 = 0;
pub const ROOT6: u32 = 1;

/// An inner node (8 keys), a leaf (5 keys, then 6 values of 32 bits), or a root (for keys
/// without and with their highest bit: 5 inner levels' first nodes, the first leaf, the depth).
/// Levels are counted so that the last is always the one above the leaves.
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
    let key = u64::from(u32::from_be_bytes(address_be));
    PrefixRule::from_bits(find(nodes, ROOT4, key))
}

/// The rule of the longest prefix that holds an IPv6 address.
#[must_use]
#[inline(always)]
#[expect(clippy::many_single_char_names, reason = "eight bytes in a row")]
pub fn find6(nodes: &impl Nodes, address_be: [u8; 16]) -> Option<PrefixRule> {
    let [a, b, c, d, e, f, g, h, low @ ..] = address_be;
    let high = u64::from_be_bytes([a, b, c, d, e, f, g, h]);
    let mut value = find(nodes, ROOT6, high);
    if value & DEEPER != 0 {
        value = find(nodes, value & !DEEPER, u64::from_be_bytes(low));
    }
    PrefixRule::from_bits(value)
}

/// The value of the range that holds `key`; 0 for none. Not an `Option`: half of one would be a
/// register that was never written, which the verifier (6.18) does not let be read.
#[inline(always)]
fn find(nodes: &impl Nodes, root: u32, key: u64) -> u32 {
    let half = (key >> 63) as usize;
    let key = key & !NO_KEY;
    let Some(root) = nodes.node(root) else {
        return 0;
    };
    let word = |index: usize| root.words.get(half * 4 + index).copied().unwrap_or(0);
    let (first, second, third, depth) = (word(0), word(1), word(2), word(3));

    let mut at = 0;
    for (level, base) in [
        (5, first as u32),
        (4, (first >> 32) as u32),
        (3, second as u32),
        (2, (second >> 32) as u32),
        (1, third as u32),
    ] {
        if depth >= level {
            let Some(node) = nodes.node(base.wrapping_add(at)) else {
                return 0;
            };
            let above = above(&node.words, key);
            at = at * 9 + (INNER_KEYS as u64 - above) as u32;
        }
    }
    let Some(leaf) = nodes.node(((third >> 32) as u32).wrapping_add(at)) else {
        return 0;
    };
    let [k0, k1, k2, k3, k4, ..] = leaf.words;
    let rank = LEAF_KEYS as u64 - above(&[k0, k1, k2, k3, k4], key);
    let value = leaf.values().get(nodes.opaque(rank) as usize);
    value.copied().unwrap_or(0)
}

/// How many of the keys are greater. Keys are below 2^63, so that a difference's highest bit is
/// its sign; `NO_KEY` wraps to a negative one for every key.
#[inline(always)]
fn above<const N: usize>(keys: &[u64; N], key: u64) -> u64 {
    let mut count = 0;
    for other in keys {
        count += key.wrapping_sub(*other) >> 63;
    }
    count
}

#[cfg(feature = "user")]
pub use build::{Prefixes, TooManyNodes, build};

#[cfg(feature = "user")]
mod build;
