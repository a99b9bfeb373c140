//! The ordered store: a skiplist (Pugh, *Skip Lists: A Probabilistic Alternative
//! to Balanced Trees*, 1990) whose nodes are named by `u32` handles into slabs.
//!
//! It is of the deterministic kind (Munro, Papadakis, Sedgewick, *Deterministic Skip
//! Lists*, 1992): no coin decides which links rise to the next level. The links of a
//! level between two that do are a *row*, and when a row is full its middle link rises
//! and begins a row of its own. So no order of writes makes a search long, and replicas
//! need no common source of chance.
//!
//! What costs time in a list of a million keys is the cache miss for each thing that
//! is looked at, and each must be waited for before the next is known. So
//!
//! - the links of a row lie side by side in four cache lines, as `row` says. A search
//!   looks at one row a level: five for a million keys, of which all but the lowest are
//!   in the cache;
//! - a link says, beside what it leads to, how many bytes the keys at its two ends have
//!   in common and the two bytes of its key behind them. Since the search knows how many
//!   bytes the wanted key has in common with the key it stands at, these numbers tell
//!   almost always where to go, without a look at a node; unlike a fixed prefix, they do
//!   so for keys that all begin alike, too;
//! - a scan knows the next nodes ahead, so their misses overlap.
//!
//! A small entry is one run of granules, laid out as `node` says: key and value side
//! by side. A value of more than [`VALUE_INLINE_BYTES_MAX`] lies in a block of its own,
//! so overwriting it does not move the node.
//!
//! Whoever walks keeps a key as the cursor, never a handle.

mod levels;

use std::fmt;
use std::ops::Bound;

use ::slab::Slab;
use allocator_api2::alloc::Allocator;
use allocator_api2::vec::Vec as AllocVec;

use super::StoreAlloc;
use super::digest;
use super::node::{self, HEAD, IN_BLOCK, KEY_AT, granules_for};
use super::row::{self, Link, Mark, ROW_GRANULES, Row, Search};
use super::slab::Arena;
use crate::limits;
use crate::mem::prefetch;

pub use super::node::{VALUE_INLINE_BYTES_MAX, charge_bytes};

/// The slabs of nodes, and those of rows: rows are on the way to many keys.
const NODES: u8 = 0;
const ROWS: u8 = 1;
const REGIONS: u8 = 2;

/// How many levels there can be. A row is split when some fifteen links more have come than
/// gone, so that twelve levels would take more writes than can be made.
const LEVELS_MAX: usize = 12;
/// A link: its row, and its place in there.
#[derive(Clone, Copy, Debug, Default)]
struct Place {
    row: u32,
    at: usize,
}

/// The last link that is not behind a key, on each level.
#[derive(Clone)]
struct Trail {
    places: [Place; LEVELS_MAX],
    /// How many bytes the key has in common with the last one that is not behind it.
    common: usize,
    found: Option<u32>,
}

/// An ordered map from keys (1 to [`limits::KEY_BYTES_MAX`] bytes) to values.
pub struct SkipList<A: Allocator + Clone = StoreAlloc> {
    arena: Arena<A>,
    blocks: Slab<AllocVec<u8, A>>,
    alloc: A,
    /// The one row of the highest level.
    top: u32,
    /// How many levels there are.
    levels: usize,
    len: usize,
    data_bytes: u64,
    charged_bytes: u64,
    digest: u64,
    block_bytes: u64,
}

impl<A: Allocator + Clone> fmt::Debug for SkipList<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SkipList")
            .field("len", &self.len)
            .field("data_bytes", &self.data_bytes)
            .field("levels", &self.levels)
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
        // As long as a row, so that rows begin at cache lines.
        let head = arena.allocate(ROWS, ROW_GRANULES);
        assert_eq!(head, Some(HEAD), "the first run becomes the head");
        let mut list = SkipList {
            arena,
            blocks: Slab::new(),
            alloc,
            top: HEAD,
            levels: 0,
            len: 0,
            data_bytes: 0,
            charged_bytes: 0,
            digest: 0,
            block_bytes: 0,
        };
        list.add_level(HEAD);
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

    /// A hash of all keys and values: see [`digest`].
    pub(super) fn digest(&self) -> u64 {
        self.digest
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
        let (search, node) = self.search(key, |_, _| {});
        search.is_found.then(|| self.value(node))
    }

    /// Inserts an entry if its key is new, and says whether it was.
    ///
    /// # Panics
    /// If the key is empty or longer than [`limits::KEY_BYTES_MAX`], or handles are
    /// at their end; callers hold [`SkipList::charged_bytes`] well below that.
    pub fn insert_new(&mut self, key: &[u8], value: &[u8]) -> bool {
        let mut trail = self.trail(key);
        if trail.found.is_some() {
            return false;
        }
        self.insert_at(&mut trail, key, value);
        true
    }

    /// Inserts an entry or overwrites its value, and says whether the key was new.
    ///
    /// # Panics
    /// As [`SkipList::insert_new`].
    pub fn upsert(&mut self, key: &[u8], value: &[u8]) -> bool {
        let mut trail = self.trail(key);
        match trail.found {
            Some(node) => self.overwrite(&trail, node, key, value),
            None => self.insert_at(&mut trail, key, value),
        }
        trail.found.is_none()
    }

    /// Removes a key, and says whether it was there.
    pub fn remove(&mut self, key: &[u8]) -> bool {
        if key.is_empty() {
            return false;
        }
        let mut trail = self.trail(key);
        let Some(node) = trail.found else {
            return false;
        };
        self.len -= 1;
        self.account(key, node, false);
        self.unlink(&mut trail, 0);
        self.release_block(node);
        self.arena.release(node);
        true
    }

    /// All entries in key order.
    pub fn iter(&self) -> Iter<'_, A> {
        let mut trail = Trail::default();
        self.enter(&mut trail, self.levels, self.top);
        self.entries_behind(trail)
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
        if is_excluded || trail.found.is_none() {
            return self.entries_behind(trail);
        }
        self.entries_from(trail)
    }

    fn entries_behind(&self, mut trail: Trail) -> Iter<'_, A> {
        trail.places[0].at += 1;
        self.entries_from(trail)
    }

    fn entries_from(&self, trail: Trail) -> Iter<'_, A> {
        let row = self.row(trail.places[0].row);
        Iter {
            list: self,
            row,
            at: trail.places[0].at,
            trail,
        }
    }

    /// Goes down to the last link that is not behind `key`, and returns what it leads to
    /// beside how far that came. Tells `passed` the link on each level.
    #[inline(always)]
    fn search<'k>(&self, key: &'k [u8], mut passed: impl FnMut(usize, Place)) -> (Search<'k>, u32) {
        let mut search = Search::new(key);
        let mut to = self.top;
        for level in (0..self.levels).rev() {
            let row = self.row(to);
            let at = search.pass(row, |to| self.key_of(level, to));
            passed(level, Place { row: to, at });
            to = row::link(row, at).to;
        }
        (search, to)
    }

    fn trail(&self, key: &[u8]) -> Trail {
        assert!(!key.is_empty(), "only the head is before the empty key");
        let mut trail = Trail::default();
        let (search, node) = self.search(key, |level, place| trail.places[level] = place);
        trail.common = search.common;
        trail.found = search.is_found.then_some(node);
        trail
    }

    /// Puts the trail, below `level`, at the first links at or below `to`.
    fn enter(&self, trail: &mut Trail, level: usize, mut to: u32) {
        for place in trail.places[..level].iter_mut().rev() {
            *place = Place { row: to, at: 0 };
            to = row::link(self.row(to), 0).to;
        }
    }

    fn insert_at(&mut self, trail: &mut Trail, key: &[u8], value: &[u8]) {
        assert!(key.len() <= limits::KEY_BYTES_MAX, "keys are within limits");
        let node = self.allocate_node(key, value);
        let common = trail.common;
        let mark = Mark::of(key, common);
        let Place { row, at } = self.insert_link(trail, 0, Link { to: node, mark });
        let row_links = self.row(row);
        if at + 1 < row::len(row_links) && !row::link(row_links, at + 1).mark.outlives(key, common)
        {
            self.renew_mark(0, row, at + 1);
        }
        self.len += 1;
        self.account(key, node, true);
    }

    /// Overwrites where the node has just the room, else in a new node.
    fn overwrite(&mut self, trail: &Trail, node: u32, key: &[u8], value: &[u8]) {
        self.account(key, node, false);
        let bytes = self.arena.bytes(node);
        let was_in_block = node::value_len(bytes) == IN_BLOCK;
        if was_in_block && value.len() > VALUE_INLINE_BYTES_MAX {
            let number = node::block_number(bytes);
            self.overwrite_block(number, value);
            self.account(key, node, true);
            return;
        }
        self.release_block(node);
        if granules_for(key, value) == self.arena.granules(node) {
            self.write_value(node, key.len(), value);
            self.account(key, node, true);
            return;
        }
        let moved = self.allocate_node(key, value);
        let Place { row, at } = trail.places[0];
        let mark = row::link(self.row(row), at).mark;
        row::set_link(self.row_mut(row), at, Link { to: moved, mark });
        self.arena.release(node);
        self.account(key, moved, true);
    }

    /// Adds or takes off what the entry at `node` counts.
    fn account(&mut self, key: &[u8], node: u32, is_added: bool) {
        let value = self.value(node);
        let data_bytes = (key.len() + value.len()) as u64;
        let charged_bytes = charge_bytes(key, value);
        let digest = digest::of_entry(key, value);
        if is_added {
            self.digest = self.digest.wrapping_add(digest);
            self.data_bytes += data_bytes;
            self.charged_bytes += charged_bytes;
        } else {
            self.digest = self.digest.wrapping_sub(digest);
            self.data_bytes -= data_bytes;
            self.charged_bytes -= charged_bytes;
        }
    }

    /// A node with its key and value.
    fn allocate_node(&mut self, key: &[u8], value: &[u8]) -> u32 {
        let node = self.allocate(NODES, granules_for(key, value));
        node::write_key(self.arena.bytes_mut(node), key);
        self.write_value(node, key.len(), value);
        node
    }

    /// A row without links.
    fn allocate_row(&mut self) -> u32 {
        let row = self.allocate(ROWS, ROW_GRANULES);
        row::set_len(self.row_mut(row), 0);
        row
    }

    fn allocate(&mut self, region: u8, granules: u32) -> u32 {
        self.arena
            .allocate(region, granules)
            .expect("writes are refused before handles end")
    }

    #[inline(always)]
    fn row(&self, row: u32) -> &Row {
        self.arena.content(row)
    }

    fn row_mut(&mut self, row: u32) -> &mut Row {
        self.arena.content_mut(row)
    }

    /// The key of a link on `level`: that of the first node at or below what it leads to.
    #[inline(always)]
    fn key_of(&self, level: usize, mut to: u32) -> &[u8] {
        for _ in 0..level {
            to = row::link(self.row(to), 0).to;
        }
        if to == HEAD {
            return &[];
        }
        node::key(self.arena.bytes(to))
    }

    #[inline(always)]
    fn value(&self, node: u32) -> &[u8] {
        self.value_in(self.arena.bytes(node))
    }

    /// The value of the node that begins with `bytes`.
    #[inline(always)]
    fn value_in<'a>(&'a self, bytes: &'a [u8]) -> &'a [u8] {
        match node::value_len(bytes) {
            IN_BLOCK => &self.blocks[node::block_number(bytes)],
            len => &bytes[KEY_AT + node::key_len(bytes)..][..usize::from(len)],
        }
    }

    /// Writes the value into a node with the room for it, a long one into a new block.
    fn write_value(&mut self, node: u32, key_bytes: usize, value: &[u8]) {
        if value.len() <= VALUE_INLINE_BYTES_MAX {
            node::write_value(self.arena.bytes_mut(node), key_bytes, value);
            return;
        }
        let mut block = AllocVec::with_capacity_in(value.len(), self.alloc.clone());
        block.extend_from_slice(value);
        self.block_bytes += block.capacity() as u64;
        let number = u32::try_from(self.blocks.insert(block)).expect("fewer blocks than nodes");
        node::write_block_number(self.arena.bytes_mut(node), key_bytes, number);
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
        let bytes = self.arena.bytes(node);
        if node::value_len(bytes) == IN_BLOCK {
            let block = self.blocks.remove(node::block_number(bytes));
            self.block_bytes -= block.capacity() as u64;
        }
    }
}

impl Default for Trail {
    fn default() -> Trail {
        Trail {
            places: [Place::default(); LEVELS_MAX],
            common: 0,
            found: None,
        }
    }
}

/// Entries in key order.
pub struct Iter<'a, A: Allocator + Clone = StoreAlloc> {
    list: &'a SkipList<A>,
    /// Where the next entry is, maybe behind the end of the row.
    row: &'a Row,
    at: usize,
    /// The way to that row; its place on the lowest level is not kept up.
    trail: Trail,
}

impl<A: Allocator + Clone> Iter<'_, A> {
    /// Goes to the next row of the lowest level, and says whether there is one.
    #[cold]
    fn next_row(&mut self) -> bool {
        for level in 1..self.list.levels {
            let place = &mut self.trail.places[level];
            let links = self.list.row(place.row);
            if place.at + 1 < row::len(links) {
                place.at += 1;
                let to = row::link(links, place.at).to;
                self.list.enter(&mut self.trail, level, to);
                self.row = self.list.row(self.trail.places[0].row);
                self.at = 0;
                self.prefetch_row_behind();
                return true;
            }
        }
        false
    }

    /// Asks for the nodes of the row behind: their misses overlap with each other, and with
    /// what is done with the entries of this one.
    fn prefetch_row_behind(&self) {
        let Place { row: above, at } = self.trail.places[1];
        let above = self.list.row(above);
        if at + 1 < row::len(above) {
            let behind = self.list.row(row::link(above, at + 1).to);
            for at in 0..row::len(behind) {
                prefetch(self.list.arena.bytes(row::link(behind, at).to));
            }
        }
    }
}

impl<A: Allocator + Clone> fmt::Debug for Iter<'_, A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Iter").finish_non_exhaustive()
    }
}

impl<'a, A: Allocator + Clone> Iterator for Iter<'a, A> {
    type Item = (&'a [u8], &'a [u8]);

    #[inline]
    fn next(&mut self) -> Option<(&'a [u8], &'a [u8])> {
        if self.at >= row::len(self.row) && !self.next_row() {
            return None;
        }
        let node = self.list.arena.bytes(row::link(self.row, self.at).to);
        self.at += 1;
        Some((node::key(node), self.list.value_in(node)))
    }
}

#[cfg(test)]
mod tests;
