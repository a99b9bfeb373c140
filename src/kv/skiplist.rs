//! The ordered store: a skiplist (Pugh, *Skip Lists: A Probabilistic Alternative
//! to Balanced Trees*, 1990) whose nodes are named by `u32` handles into slabs.
//!
//! A small entry is one run of granules, laid out as `node` says: links, key and
//! value side by side. A value of more than [`VALUE_INLINE_BYTES_MAX`] lies in a
//! block of its own, so overwriting it does not move the node.
//!
//! What costs time in a list of a million keys is the cache miss for each node that
//! is looked at. So a link says, beside the next node, how many bytes the keys at
//! its two ends have in common and the two bytes of the next key behind them. Since
//! the search knows how many bytes the present node shares with the wanted key,
//! these three numbers tell almost always whether to go there, without a look at
//! it (see [`SkipList::step`]); unlike a fixed prefix, they do so for keys that all
//! begin alike, too.
//!
//! Heights are drawn from a generator with a fixed seed. They never show: iteration
//! is in key order, and what the store is charged for depends on its entries alone.
//! Whoever walks keeps a key as the cursor, never a handle.

use std::cmp::Ordering;
use std::fmt;
use std::ops::Bound;

use ::slab::Slab;
use allocator_api2::alloc::Allocator;
use allocator_api2::vec::Vec as AllocVec;

use super::StoreAlloc;
use super::node::{
    BLOCK_NUMBER_BYTES, HEAD, HEIGHT_MAX, IN_BLOCK, LINK_BYTES, LINKS_AT, Link, NIL, REGIONS,
    common_bytes, granules_for, inline_bytes, key_len, leaves_before, link_to, node_bytes, region,
    two_bytes,
};
use super::slab::Arena;
use crate::limits;

pub use super::node::{VALUE_INLINE_BYTES_MAX, charge_bytes};

/// The seed of the generator of heights.
const HEIGHT_SEED: u64 = 0x9E37_79B9_7F4A_7C15;

/// Where a search stands: at a node before the wanted key.
#[derive(Clone, Copy)]
struct Place {
    node: u32,
    /// How many bytes its key has in common with the wanted one.
    common: usize,
}

/// What a look at a link says.
enum Step {
    /// The next node is still before the key.
    Forward(Place),
    /// It is behind the key, or there is none: go down a level.
    Down(u32),
    /// It is the key's.
    Found(u32),
}

/// The last node before a key, on each level.
struct Trail {
    places: [Place; HEIGHT_MAX],
    found: Option<u32>,
}

/// An ordered map from keys (1 to [`limits::KEY_BYTES_MAX`] bytes) to values.
pub struct SkipList<A: Allocator + Clone = StoreAlloc> {
    arena: Arena<A>,
    blocks: Slab<AllocVec<u8, A>>,
    alloc: A,
    /// How many levels are in use.
    height: usize,
    random: u64,
    len: usize,
    data_bytes: u64,
    charged_bytes: u64,
    block_bytes: u64,
}

impl<A: Allocator + Clone> fmt::Debug for SkipList<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SkipList")
            .field("len", &self.len)
            .field("data_bytes", &self.data_bytes)
            .field("height", &self.height)
            .finish_non_exhaustive()
    }
}

impl<A: Allocator + Clone + Default> Default for SkipList<A> {
    fn default() -> SkipList<A> {
        SkipList::new_in(A::default())
    }
}

impl SkipList {
    /// An empty store.
    #[must_use]
    pub fn new() -> SkipList {
        SkipList::default()
    }
}

impl<A: Allocator + Clone> SkipList<A> {
    /// An empty store that takes its memory from `alloc`.
    pub fn new_in(alloc: A) -> SkipList<A> {
        let mut arena = Arena::new(alloc.clone(), REGIONS);
        let granules = granules_for(LINKS_AT + HEIGHT_MAX * LINK_BYTES);
        let head = arena.allocate(region(HEIGHT_MAX), granules, HEIGHT_MAX as u8);
        assert_eq!(head, Some(HEAD), "the first run becomes the head");
        let mut list = SkipList {
            arena,
            blocks: Slab::new(),
            alloc,
            height: 0,
            random: HEIGHT_SEED,
            len: 0,
            data_bytes: 0,
            charged_bytes: 0,
            block_bytes: 0,
        };
        for level in 0..HEIGHT_MAX {
            list.set_link(HEAD, level, Link::NONE);
        }
        list
    }

    /// The number of keys.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The bytes of all keys and values.
    #[must_use]
    pub fn data_bytes(&self) -> u64 {
        self.data_bytes
    }

    /// The sum of [`charge_bytes`] over all entries.
    #[must_use]
    pub fn charged_bytes(&self) -> u64 {
        self.charged_bytes
    }

    /// What slabs and blocks take, in bytes.
    #[must_use]
    pub fn memory_bytes(&self) -> u64 {
        self.arena.slab_bytes() + self.block_bytes
    }

    /// What nodes and blocks take, in bytes: [`SkipList::memory_bytes`] without what
    /// is free in slabs.
    #[must_use]
    pub fn live_bytes(&self) -> u64 {
        self.arena.live_bytes() + self.block_bytes
    }

    /// The value of `key`.
    #[must_use]
    pub fn get(&self, key: &[u8]) -> Option<&[u8]> {
        if key.is_empty() {
            return None;
        }
        let mut place = Place {
            node: HEAD,
            common: 0,
        };
        let mut behind = NIL;
        for level in (0..self.height).rev() {
            loop {
                match self.step(place, level, key, behind) {
                    Step::Forward(next) => place = next,
                    Step::Down(next) => {
                        behind = next;
                        break;
                    }
                    Step::Found(node) => return Some(self.value(node)),
                }
            }
        }
        None
    }

    /// Inserts an entry if its key is new, and says whether it was.
    ///
    /// # Panics
    /// If the key is empty or longer than [`limits::KEY_BYTES_MAX`], or handles are
    /// at their end; callers hold [`SkipList::charged_bytes`] well below that.
    pub fn insert_new(&mut self, key: &[u8], value: &[u8]) -> bool {
        let trail = self.trail(key);
        if trail.found.is_some() {
            return false;
        }
        self.insert_at(&trail, key, value);
        true
    }

    /// Inserts an entry or overwrites its value, and says whether the key was new.
    ///
    /// # Panics
    /// As [`SkipList::insert_new`].
    pub fn upsert(&mut self, key: &[u8], value: &[u8]) -> bool {
        let trail = self.trail(key);
        match trail.found {
            Some(node) => self.overwrite(&trail, node, key, value),
            None => self.insert_at(&trail, key, value),
        }
        trail.found.is_none()
    }

    /// Removes a key, and says whether it was there.
    pub fn remove(&mut self, key: &[u8]) -> bool {
        if key.is_empty() {
            return false;
        }
        let trail = self.trail(key);
        let Some(node) = trail.found else {
            return false;
        };
        self.len -= 1;
        self.account(key, node, false);
        for level in 0..self.node_height(node) {
            let prev = trail.places[level].node;
            let link = self.bridge(self.link(prev, level), self.link(node, level));
            self.set_link(prev, level, link);
        }
        while self.height > 0 && self.link(HEAD, self.height - 1).next == NIL {
            self.height -= 1;
        }
        self.release_block(node);
        self.arena.release(node);
        true
    }

    /// All entries in key order.
    pub fn iter(&self) -> Iter<'_, A> {
        Iter {
            list: self,
            node: self.link(HEAD, 0).next,
        }
    }

    /// The entries from `from` on, in key order.
    pub fn range_from(&self, from: Bound<&[u8]>) -> Iter<'_, A> {
        let (key, is_excluded) = match from {
            Bound::Unbounded => return self.iter(),
            Bound::Included(key) => (key, false),
            Bound::Excluded(key) => (key, true),
        };
        if key.is_empty() {
            return self.iter();
        }
        let trail = self.trail(key);
        let node = match trail.found {
            Some(node) if is_excluded => self.link(node, 0).next,
            Some(node) => node,
            None => self.link(trail.places[0].node, 0).next,
        };
        Iter { list: self, node }
    }

    /// Looks at the link of `place` on `level`. `behind` is known not to be before
    /// the key.
    ///
    /// Let the next key agree with ours in `link.common` bytes, and ours with the
    /// wanted one in `place.common`. If they agree in more, the wanted key leaves
    /// both at the same byte, upwards: the next is before it. If in fewer, the next
    /// key leaves both, upwards: it is behind. Only if both are equal do the bytes
    /// there decide, and mostly the two in the link are enough.
    #[inline(always)]
    fn step(&self, place: Place, level: usize, key: &[u8], behind: u32) -> Step {
        let link = self.link(place.node, level);
        if link.next == NIL || link.next == behind {
            return Step::Down(behind);
        }
        let common = place.common;
        match usize::from(link.common).cmp(&common) {
            Ordering::Greater => Step::Forward(Place {
                node: link.next,
                common,
            }),
            Ordering::Less => Step::Down(link.next),
            Ordering::Equal => self.step_by_bytes(link, key, common),
        }
    }

    #[inline(always)]
    fn step_by_bytes(&self, link: Link, key: &[u8], common: usize) -> Step {
        let wanted = two_bytes(key, common);
        if link.bytes > wanted {
            return Step::Down(link.next);
        }
        if link.bytes < wanted {
            let first_is_common = link.bytes >> 8 == wanted >> 8;
            return Step::Forward(Place {
                node: link.next,
                common: common + usize::from(first_is_common),
            });
        }
        // The second byte may be one that is not there.
        let start = common + 1;
        let next_key = self.key(link.next);
        let more = common_bytes(&next_key[start..], &key[start..]);
        let common = start + more;
        match next_key[common..].first().cmp(&key[common..].first()) {
            Ordering::Less => Step::Forward(Place {
                node: link.next,
                common,
            }),
            Ordering::Equal => Step::Found(link.next),
            Ordering::Greater => Step::Down(link.next),
        }
    }

    /// The last node before `key`, on each level.
    fn trail(&self, key: &[u8]) -> Trail {
        assert!(!key.is_empty(), "only the head is before the empty key");
        let mut place = Place {
            node: HEAD,
            common: 0,
        };
        let mut trail = Trail {
            places: [place; HEIGHT_MAX],
            found: None,
        };
        let mut behind = NIL;
        for level in (0..self.height).rev() {
            loop {
                match self.step(place, level, key, behind) {
                    Step::Forward(next) => place = next,
                    Step::Down(next) => {
                        behind = next;
                        break;
                    }
                    Step::Found(node) => {
                        trail.found = Some(node);
                        behind = node;
                        break;
                    }
                }
            }
            trail.places[level] = place;
        }
        trail
    }

    fn insert_at(&mut self, trail: &Trail, key: &[u8], value: &[u8]) {
        assert!(key.len() <= limits::KEY_BYTES_MAX, "keys are within limits");
        let height = self.draw_height();
        let node = self.allocate_node(height, key.len(), inline_bytes(value));
        self.write_key(node, key);
        self.write_value(node, key.len(), value);
        self.height = self.height.max(height);
        for level in 0..height {
            let Place { node: prev, common } = trail.places[level];
            let old = self.link(prev, level);
            let next_link = if old.next == NIL || leaves_before(old, key, common) {
                // The next key leaves both of us where it left the previous one.
                old
            } else {
                let next_key = self.key(old.next);
                let common = common + common_bytes(&next_key[common..], &key[common..]);
                link_to(old.next, next_key, common)
            };
            self.set_link(node, level, next_link);
            self.set_link(prev, level, link_to(node, key, common));
        }
        self.len += 1;
        self.account(key, node, true);
    }

    /// Overwrites where the node has just the room, else in a new node.
    fn overwrite(&mut self, trail: &Trail, node: u32, key: &[u8], value: &[u8]) {
        self.account(key, node, false);
        let height = self.node_height(node);
        let granules = granules_for(node_bytes(height, key.len(), inline_bytes(value)));
        let was_in_block = self.value_len(node) == IN_BLOCK;
        if was_in_block && value.len() > VALUE_INLINE_BYTES_MAX {
            let number = self.block_number(node, key.len());
            self.overwrite_block(number, value);
            self.account(key, node, true);
            return;
        }
        self.release_block(node);
        if granules == self.arena.granules(node) {
            self.write_value(node, key.len(), value);
            self.account(key, node, true);
            return;
        }
        let moved = self.allocate_node(height, key.len(), inline_bytes(value));
        self.write_key(moved, key);
        self.write_value(moved, key.len(), value);
        for level in 0..height {
            let prev = trail.places[level].node;
            let link = self.link(prev, level);
            self.set_link(moved, level, self.link(node, level));
            self.set_link(
                prev,
                level,
                Link {
                    next: moved,
                    ..link
                },
            );
        }
        self.arena.release(node);
        self.account(key, moved, true);
    }

    /// The link from before a node to behind it.
    fn bridge(&self, before: Link, behind: Link) -> Link {
        if behind.next == NIL || behind.common <= before.common {
            return behind;
        }
        link_to(
            behind.next,
            self.key(behind.next),
            usize::from(before.common),
        )
    }

    /// Adds or takes off what the entry at `node` counts.
    fn account(&mut self, key: &[u8], node: u32, is_added: bool) {
        let value = self.value(node);
        let data_bytes = (key.len() + value.len()) as u64;
        let charged_bytes = charge_bytes(key, value);
        if is_added {
            self.data_bytes += data_bytes;
            self.charged_bytes += charged_bytes;
        } else {
            self.data_bytes -= data_bytes;
            self.charged_bytes -= charged_bytes;
        }
    }

    /// A height of `n` comes with a probability of 1/2^n (xorshift64*).
    fn draw_height(&mut self) -> usize {
        self.random ^= self.random >> 12;
        self.random ^= self.random << 25;
        self.random ^= self.random >> 27;
        let bits = self.random.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 32;
        (1 + bits.trailing_zeros() as usize).min(HEIGHT_MAX)
    }

    fn allocate_node(&mut self, height: usize, key_bytes: usize, value_bytes: usize) -> u32 {
        let granules = granules_for(node_bytes(height, key_bytes, value_bytes));
        self.arena
            .allocate(region(height), granules, height as u8)
            .expect("writes are refused before handles end")
    }

    #[inline(always)]
    fn link(&self, node: u32, level: usize) -> Link {
        let at = LINKS_AT + level * LINK_BYTES;
        let word = self.arena.bytes(node)[at..at + LINK_BYTES].try_into();
        Link::from_word(u64::from_ne_bytes(word.expect("8 bytes")))
    }

    fn set_link(&mut self, node: u32, level: usize, link: Link) {
        let at = LINKS_AT + level * LINK_BYTES;
        self.arena.bytes_mut(node)[at..at + LINK_BYTES]
            .copy_from_slice(&link.to_word().to_ne_bytes());
    }

    #[inline(always)]
    fn node_height(&self, node: u32) -> usize {
        usize::from(self.arena.tag(node))
    }

    /// The key of any node but the head.
    #[inline(always)]
    fn key(&self, node: u32) -> &[u8] {
        let start = LINKS_AT + self.node_height(node) * LINK_BYTES;
        let bytes = self.arena.bytes(node);
        &bytes[start..start + key_len(bytes)]
    }

    fn write_key(&mut self, node: u32, key: &[u8]) {
        let start = LINKS_AT + self.node_height(node) * LINK_BYTES;
        let bytes = self.arena.bytes_mut(node);
        bytes[4..6].copy_from_slice(&((key.len() - 1) as u16).to_ne_bytes());
        bytes[start..start + key.len()].copy_from_slice(key);
    }

    /// The value's length, or [`IN_BLOCK`].
    #[inline(always)]
    fn value_len(&self, node: u32) -> u16 {
        let bytes = self.arena.bytes(node);
        u16::from_ne_bytes([bytes[6], bytes[7]])
    }

    #[inline(always)]
    fn value(&self, node: u32) -> &[u8] {
        let bytes = self.arena.bytes(node);
        let key_bytes = key_len(bytes);
        match self.value_len(node) {
            IN_BLOCK => &self.blocks[self.block_number(node, key_bytes)],
            len => {
                let start = LINKS_AT + self.node_height(node) * LINK_BYTES + key_bytes;
                &bytes[start..start + usize::from(len)]
            }
        }
    }

    /// Writes the value into a node with the room for it, a long one into a new block.
    fn write_value(&mut self, node: u32, key_bytes: usize, value: &[u8]) {
        let start = LINKS_AT + self.node_height(node) * LINK_BYTES + key_bytes;
        if value.len() <= VALUE_INLINE_BYTES_MAX {
            let bytes = self.arena.bytes_mut(node);
            bytes[6..8].copy_from_slice(&(value.len() as u16).to_ne_bytes());
            bytes[start..start + value.len()].copy_from_slice(value);
            return;
        }
        let mut block = AllocVec::with_capacity_in(value.len(), self.alloc.clone());
        block.extend_from_slice(value);
        self.block_bytes += block.capacity() as u64;
        let number = u32::try_from(self.blocks.insert(block)).expect("fewer blocks than nodes");
        let bytes = self.arena.bytes_mut(node);
        bytes[6..8].copy_from_slice(&IN_BLOCK.to_ne_bytes());
        bytes[start..start + BLOCK_NUMBER_BYTES].copy_from_slice(&number.to_ne_bytes());
    }

    fn block_number(&self, node: u32, key_bytes: usize) -> usize {
        let start = LINKS_AT + self.node_height(node) * LINK_BYTES + key_bytes;
        let number = self.arena.bytes(node)[start..start + BLOCK_NUMBER_BYTES].try_into();
        u32::from_ne_bytes(number.expect("4 bytes")) as usize
    }

    /// Writes over a block, in place if its size suits the value.
    fn overwrite_block(&mut self, number: usize, value: &[u8]) {
        let block = &mut self.blocks[number];
        self.block_bytes -= block.capacity() as u64;
        let is_of_the_size = (block.capacity() / 2..=block.capacity()).contains(&value.len());
        if is_of_the_size {
            block.clear();
        } else {
            *block = AllocVec::with_capacity_in(value.len(), self.alloc.clone());
        }
        block.extend_from_slice(value);
        self.block_bytes += block.capacity() as u64;
    }

    fn release_block(&mut self, node: u32) {
        if self.value_len(node) == IN_BLOCK {
            let number = self.block_number(node, self.key(node).len());
            let block = self.blocks.remove(number);
            self.block_bytes -= block.capacity() as u64;
        }
    }
}

/// Entries in key order.
pub struct Iter<'a, A: Allocator + Clone = StoreAlloc> {
    list: &'a SkipList<A>,
    node: u32,
}

impl<A: Allocator + Clone> fmt::Debug for Iter<'_, A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Iter").finish_non_exhaustive()
    }
}

impl<'a, A: Allocator + Clone> Iterator for Iter<'a, A> {
    type Item = (&'a [u8], &'a [u8]);

    fn next(&mut self) -> Option<(&'a [u8], &'a [u8])> {
        if self.node == NIL {
            return None;
        }
        let node = self.node;
        self.node = self.list.link(node, 0).next;
        Some((self.list.key(node), self.list.value(node)))
    }
}

#[cfg(test)]
mod tests;
