//! The layout of the skiplist's nodes, and what its links say.
//!
//! ```text
//! run header 4 | key length - 1: u16 | value length: u16 | links: 8 each | key | value
//! ```
//!
//! A value of more than [`VALUE_INLINE_BYTES_MAX`] lies in a block of its own, the
//! node holds its number then.

use super::slab::{FIRST_RUN, GRANULE_BYTES, RUN_GRANULES_MAX, RUN_HEADER_BYTES};
use crate::limits;

/// The longest value that lies beside its key, in bytes.
pub const VALUE_INLINE_BYTES_MAX: usize = 1 << 10;

/// Every other node that has a link of one level has one of the next. A smaller
/// share would save links, but a link tells where to go without a look at the next
/// node: what costs is nodes on the way, and there are fewer of them this way.
pub(super) const HEIGHT_MAX: usize = 24;
/// See [`region`].
pub(super) const REGIONS: u8 = 3;

pub(super) const LINKS_AT: usize = RUN_HEADER_BYTES + 4;
pub(super) const LINK_BYTES: usize = 8;
/// In place of the length of a value that lies in a block.
pub(super) const IN_BLOCK: u16 = u16::MAX;
/// The number of a block, in bytes.
pub(super) const BLOCK_NUMBER_BYTES: usize = 4;

const NODE_BYTES_MAX: usize =
    LINKS_AT + HEIGHT_MAX * LINK_BYTES + limits::KEY_BYTES_MAX + VALUE_INLINE_BYTES_MAX;

const _: () = assert!(
    NODE_BYTES_MAX <= RUN_GRANULES_MAX as usize * GRANULE_BYTES,
    "the largest node fits a run"
);
const _: () = assert!(
    limits::KEY_BYTES_MAX <= 1 << 16,
    "a key's length less one fits 16 bits"
);

/// What an entry is charged for the limit of the store, in bytes: key, value if it
/// lies beside it, and more than the rest of a node takes on average. A function of
/// the entry alone, so that replicas agree on it.
#[must_use]
pub fn charge_bytes(key: &[u8], value: &[u8]) -> u64 {
    (64 + key.len() + inline_bytes(value)) as u64
}

/// The first node: before all keys, with links of every level.
pub(super) const HEAD: u32 = FIRST_RUN;
/// No node; nothing links to the head.
pub(super) const NIL: u32 = HEAD;

/// A link from a node to the next of its level.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Link {
    pub(super) next: u32,
    /// How many bytes the two keys have in common. The head counts as an empty key.
    pub(super) common: u16,
    /// The two bytes of the next key behind those, 0 for one that is not there.
    pub(super) bytes: u16,
}

impl Link {
    /// At the end of a level.
    pub(super) const NONE: Link = Link {
        next: NIL,
        common: 0,
        bytes: 0,
    };

    #[inline(always)]
    pub(super) fn to_word(self) -> u64 {
        u64::from(self.next) << 32 | u64::from(self.common) << 16 | u64::from(self.bytes)
    }

    #[inline(always)]
    pub(super) fn from_word(word: u64) -> Link {
        Link {
            next: (word >> 32) as u32,
            common: (word >> 16) as u16,
            bytes: word as u16,
        }
    }
}

pub(super) fn link_to(next: u32, next_key: &[u8], common: usize) -> Link {
    Link {
        next,
        common: common as u16,
        bytes: two_bytes(next_key, common),
    }
}

/// Whether the key behind `link` has no byte more in common with `key`, which is
/// before it, than with the one before the link, which has `common` with `key`.
pub(super) fn leaves_before(link: Link, key: &[u8], common: usize) -> bool {
    usize::from(link.common) < common || link.bytes >> 8 != u16::from(key[common])
}

/// The two bytes of `key` from `at` on. The first is always there: a
/// key is longer than what it has in common with a smaller one.
#[inline(always)]
pub(super) fn two_bytes(key: &[u8], at: usize) -> u16 {
    let second = key.get(at + 1).copied().unwrap_or(0);
    u16::from_be_bytes([key[at], second])
}

/// How many bytes two slices begin alike.
#[inline]
pub(super) fn common_bytes(a: &[u8], b: &[u8]) -> usize {
    let words = a.chunks_exact(8).zip(b.chunks_exact(8));
    let whole = 8 * words.take_while(|(a, b)| a == b).count();
    let rest = a[whole..].iter().zip(&b[whole..]);
    whole + rest.take_while(|(a, b)| a == b).count()
}

#[inline(always)]
pub(super) fn key_len(node: &[u8]) -> usize {
    usize::from(u16::from_ne_bytes([node[4], node[5]])) + 1
}

/// What a value takes in its node, in bytes.
pub(super) fn inline_bytes(value: &[u8]) -> usize {
    match value.len() {
        len if len > VALUE_INLINE_BYTES_MAX => BLOCK_NUMBER_BYTES,
        len => len,
    }
}

pub(super) fn node_bytes(height: usize, key_bytes: usize, value_bytes: usize) -> usize {
    LINKS_AT + height * LINK_BYTES + key_bytes + value_bytes
}

/// Higher nodes are on the way to more keys, so they lie together.
pub(super) fn region(height: usize) -> u8 {
    match height {
        0..=4 => 0,
        5..=8 => 1,
        _ => 2,
    }
}

pub(super) fn granules_for(bytes: usize) -> u32 {
    bytes.div_ceil(GRANULE_BYTES) as u32
}
