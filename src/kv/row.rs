//! The layout of the skiplist's rows: the links of one level, side by side.
//!
//! ```text
//! run header 4 | count: u16 | - 2 | links: 8 each
//! ```
//!
//! A link leads from the key of the link before it to its own. On the lowest level
//! what it names is a node, above it is the row below that begins with its key.
//! Beside that lies a *mark*: how many bytes the two keys have in common, and the two
//! bytes of its own key behind those. The first link of a row has none: the search has
//! come by way of its key already, on the level above.

use super::slab::{GRANULE_BYTES, RUN_HEADER_BYTES};

/// How long a row is with its run header: four cache lines.
const ROW_BYTES: usize = 256;
const LINK_BYTES: usize = 8;
/// Where the links begin behind the run header.
const LINKS_AT: usize = 4;

/// A row without its run header.
pub(super) type Row = [u8; ROW_BYTES - RUN_HEADER_BYTES];

pub(super) const ROW_GRANULES: u32 = (ROW_BYTES / GRANULE_BYTES) as u32;
/// How many links a row can hold.
pub(super) const ROW_LINKS_MAX: usize = (ROW_BYTES - RUN_HEADER_BYTES - LINKS_AT) / LINK_BYTES;

/// A link and its mark.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Link {
    pub(super) to: u32,
    pub(super) mark: Mark,
}

/// What a link says of its key: in the upper 16 bits how many bytes it has in common
/// with the one before, in the lower the two bytes of it behind those, inverted, 0 for
/// one that is not there.
///
/// That makes marks comparable, see [`Search`]: let the wanted key be behind the key
/// before the link, and have a mark as well. The key with the greater mark comes first.
/// For let the two marks' common bytes differ: the key that has more in common with the
/// one before leaves it later. If they are the same, the bytes there decide.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Mark(pub(super) u32);

impl Mark {
    /// The mark of `key` behind one with which it has `common` bytes in common.
    pub(super) fn of(key: &[u8], common: usize) -> Mark {
        Mark((common as u32) << 16 | u32::from(!two_bytes(key, common)))
    }

    pub(super) fn common(self) -> usize {
        (self.0 >> 16) as usize
    }

    /// Whether this stays the mark of the key behind `key`, if `key` is inserted where it
    /// has `common` bytes in common with the one before: whether they have no more than
    /// both have with that.
    pub(super) fn outlives(self, key: &[u8], common: usize) -> bool {
        self.common() < common || !(self.0 >> 8) as u8 != key[common]
    }
}

impl Link {
    #[inline(always)]
    fn from_word(word: u64) -> Link {
        Link {
            to: (word >> 32) as u32,
            mark: Mark(word as u32),
        }
    }

    fn to_word(self) -> u64 {
        u64::from(self.to) << 32 | u64::from(self.mark.0)
    }
}

/// How far the search for a key has come: behind a key that is before it, or equal.
pub(super) struct Search<'k> {
    pub(super) key: &'k [u8],
    /// How many bytes it has in common with that key.
    pub(super) common: usize,
    pub(super) is_found: bool,
    /// The wanted key's mark behind that key. One may search for a longer key than there
    /// can be, so this is longer than a [`Mark`]. Greater than all once it is found.
    target: u64,
}

impl<'k> Search<'k> {
    /// Before all keys. `key` is not empty.
    #[inline(always)]
    pub(super) fn new(key: &'k [u8]) -> Search<'k> {
        let mut search = Search {
            key,
            common: 0,
            is_found: false,
            target: 0,
        };
        search.set_common(0);
        search
    }

    #[inline(always)]
    fn set_common(&mut self, common: usize) {
        self.common = common;
        self.target = (common as u64) << 16 | u64::from(!two_bytes(self.key, common));
    }

    /// Passes the links of `row` up to the last whose key is not behind the wanted one, and
    /// returns its place. `key_of` tells the key of a link, which costs a cache miss or
    /// more, and is needed only for one that agrees in both of its bytes.
    #[inline(always)]
    pub(super) fn pass<'a>(&mut self, row: &Row, key_of: impl Fn(u32) -> &'a [u8]) -> usize {
        let mut at = 0;
        for word in row[LINKS_AT + LINK_BYTES..]
            .as_chunks::<LINK_BYTES>()
            .0
            .iter()
            .take(len(row) - 1)
        {
            let word = u64::from_ne_bytes(*word);
            let mark = word & u64::from(u32::MAX);
            if mark < self.target {
                break;
            }
            // Of the same common bytes, and the first behind them is the same, too.
            if mark <= self.target | 0xFF && !self.look(mark, || key_of((word >> 32) as u32)) {
                break;
            }
            at += 1;
        }
        at
    }

    /// Whether the wanted key is at or behind one that begins like it.
    #[inline(always)]
    fn look<'a>(&mut self, mark: u64, key: impl FnOnce() -> &'a [u8]) -> bool {
        // The second byte may be one that is not there.
        let start = self.common + 1;
        if mark != self.target {
            self.set_common(start);
            return true;
        }
        let key = key();
        let common = start + super::node::common_bytes(&key[start..], &self.key[start..]);
        match (key.get(common), self.key.get(common)) {
            (None, None) => {
                self.common = common;
                self.is_found = true;
                self.target = u64::MAX;
                true
            }
            (theirs, ours) if theirs < ours => {
                self.set_common(common);
                true
            }
            _ => false,
        }
    }
}

/// The two bytes of `key` from `at` on. The first is always there: a
/// key is longer than what it has in common with a smaller one.
#[inline(always)]
fn two_bytes(key: &[u8], at: usize) -> u16 {
    let second = key.get(at + 1).copied().unwrap_or(0);
    u16::from_be_bytes([key[at], second])
}

/// How many links the row has.
#[inline(always)]
pub(super) fn len(row: &Row) -> usize {
    usize::from(u16::from_ne_bytes([row[0], row[1]]))
}

/// Says how many links the row has.
pub(super) fn set_len(row: &mut Row, len: usize) {
    assert!(len <= ROW_LINKS_MAX, "a row has room for its links");
    row[..2].copy_from_slice(&(len as u16).to_ne_bytes());
}

#[inline(always)]
fn start_of(at: usize) -> usize {
    LINKS_AT + at * LINK_BYTES
}

#[inline(always)]
pub(super) fn link(row: &Row, at: usize) -> Link {
    let word = row[start_of(at)..].first_chunk().expect("a place of a row");
    Link::from_word(u64::from_ne_bytes(*word))
}

pub(super) fn set_link(row: &mut Row, at: usize, link: Link) {
    row[start_of(at)..start_of(at + 1)].copy_from_slice(&link.to_word().to_ne_bytes());
}

/// Makes room at `at`, and puts a link there.
pub(super) fn insert(row: &mut Row, at: usize, link: Link) {
    let len = len(row);
    set_len(row, len + 1);
    row.copy_within(start_of(at)..start_of(len), start_of(at + 1));
    set_link(row, at, link);
}

pub(super) fn remove(row: &mut Row, at: usize) {
    let len = len(row);
    row.copy_within(start_of(at + 1)..start_of(len), start_of(at));
    set_len(row, len - 1);
}

/// Appends the links of `from` behind the first `skip`.
pub(super) fn append(row: &mut Row, from: &Row, skip: usize) {
    let (len, added) = (len(row), len(from) - skip);
    set_len(row, len + added);
    row[start_of(len)..start_of(len + added)]
        .copy_from_slice(&from[start_of(skip)..start_of(skip + added)]);
}
