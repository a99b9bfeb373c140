//! The layout of the skiplist's nodes: one entry each.
//!
//! ```text
//! run header 4 | key length - 1: u16 | value length: u16 | key | value
//! ```
//!
//! A value of more than [`VALUE_INLINE_BYTES_MAX`] lies in a block of its own, the
//! node holds its number then.

use super::slab::{FIRST_RUN, GRANULE_BYTES, RUN_GRANULES_MAX, RUN_HEADER_BYTES};
use crate::limits;

/// The longest value that lies beside its key, in bytes.
pub const VALUE_INLINE_BYTES_MAX: usize = 1 << 10;

/// Where the key begins.
pub(super) const KEY_AT: usize = RUN_HEADER_BYTES + 4;
/// In place of the length of a value that lies in a block.
pub(super) const IN_BLOCK: u16 = u16::MAX;
/// The number of a block, in bytes.
pub(super) const BLOCK_NUMBER_BYTES: usize = 4;

const NODE_BYTES_MAX: usize = KEY_AT + limits::KEY_BYTES_MAX + VALUE_INLINE_BYTES_MAX;

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

/// The first node: before all keys, and without one.
pub(super) const HEAD: u32 = FIRST_RUN;

/// How many bytes two slices begin alike.
#[inline]
pub(super) fn common_bytes(a: &[u8], b: &[u8]) -> usize {
    let words = a.chunks_exact(8).zip(b.chunks_exact(8));
    let whole = 8 * words.take_while(|(a, b)| a == b).count();
    let rest = a[whole..].iter().zip(&b[whole..]);
    whole + rest.take_while(|(a, b)| a == b).count()
}

/// The key of any node but the head.
#[inline(always)]
pub(super) fn key(node: &[u8]) -> &[u8] {
    &node[KEY_AT..][..key_len(node)]
}

#[inline(always)]
pub(super) fn key_len(node: &[u8]) -> usize {
    usize::from(u16::from_ne_bytes([node[4], node[5]])) + 1
}

/// The value's length, or [`IN_BLOCK`].
#[inline(always)]
pub(super) fn value_len(node: &[u8]) -> u16 {
    u16::from_ne_bytes([node[6], node[7]])
}

pub(super) fn write_key(node: &mut [u8], key: &[u8]) {
    node[4..6].copy_from_slice(&((key.len() - 1) as u16).to_ne_bytes());
    node[KEY_AT..][..key.len()].copy_from_slice(key);
}

/// Writes a value that lies beside the key.
pub(super) fn write_value(node: &mut [u8], key_bytes: usize, value: &[u8]) {
    node[6..8].copy_from_slice(&(value.len() as u16).to_ne_bytes());
    node[KEY_AT + key_bytes..][..value.len()].copy_from_slice(value);
}

/// Writes the number of the block that the value lies in.
pub(super) fn write_block_number(node: &mut [u8], key_bytes: usize, number: u32) {
    node[6..8].copy_from_slice(&IN_BLOCK.to_ne_bytes());
    node[KEY_AT + key_bytes..][..BLOCK_NUMBER_BYTES].copy_from_slice(&number.to_ne_bytes());
}

/// The number of the block of a value that lies in one.
pub(super) fn block_number(node: &[u8]) -> usize {
    let bytes = node[KEY_AT + key_len(node)..].first_chunk();
    u32::from_ne_bytes(*bytes.expect("4 bytes")) as usize
}

/// What a value takes in its node, in bytes.
pub(super) fn inline_bytes(value: &[u8]) -> usize {
    match value.len() {
        len if len > VALUE_INLINE_BYTES_MAX => BLOCK_NUMBER_BYTES,
        len => len,
    }
}

/// The length of the run for an entry.
pub(super) fn granules_for(key: &[u8], value: &[u8]) -> u32 {
    let bytes = KEY_AT + key.len() + inline_bytes(value);
    bytes.div_ceil(GRANULE_BYTES) as u32
}
