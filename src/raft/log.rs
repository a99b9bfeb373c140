//! The log in memory: the entries behind the last compaction (paper §5.3, §7).
//!
//! It knows what has been handed to the disk (`written`) and what the disk has
//! confirmed (`stable`); an entry counts in a quorum only when it is stable.

use std::borrow::Cow;
use std::collections::{VecDeque, vec_deque};

use crate::types::{Entry, EntryId, Index, Term};

/// The log of one node. See the module's docs.
#[derive(Clone, Debug)]
pub struct Log {
    /// The last compacted entry; entries behind it are in `entries`.
    base: EntryId,
    /// The last entry, compacted or not.
    last: EntryId,
    /// A ring, so that a long log can be forgotten from its front a piece at a time.
    entries: VecDeque<Entry>,
    /// Up to where entries have been handed to the disk.
    written: Index,
    /// Up to where entries are on the disk.
    stable: Index,
    /// Payload bytes and overhead of `entries`.
    bytes: usize,
}

impl Log {
    /// A log whose entries all come from the disk.
    ///
    /// # Panics
    /// If `entries` do not follow `base` without a gap.
    #[must_use]
    pub fn restore(base: EntryId, entries: Vec<Entry>) -> Log {
        let mut last = base;
        for entry in &entries {
            assert_eq!(
                entry.id.index,
                last.index.next(),
                "recovered entries are contiguous"
            );
            assert!(entry.id.term >= last.term, "terms never go back in a log");
            last = entry.id;
        }
        let bytes = entries.iter().map(Entry::size_bytes).sum();
        Log {
            base,
            last,
            entries: entries.into(),
            written: last.index,
            stable: last.index,
            bytes,
        }
    }

    /// The last compacted entry.
    #[must_use]
    pub fn base(&self) -> EntryId {
        self.base
    }

    /// The first index that can be read.
    #[must_use]
    pub fn first_index(&self) -> Index {
        self.base.index.next()
    }

    /// The last entry, compacted or not.
    #[must_use]
    pub fn last(&self) -> EntryId {
        self.last
    }

    /// Up to where entries are on the disk.
    #[must_use]
    pub fn stable(&self) -> Index {
        self.stable
    }

    /// Up to where entries have been handed to the disk.
    #[must_use]
    pub fn written(&self) -> Index {
        self.written
    }

    /// What the entries take in memory, in bytes.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// The term of the entry at `index`: `None` where it is compacted or not there yet.
    #[must_use]
    pub fn term_at(&self, index: Index) -> Option<Term> {
        if index == self.base.index {
            return Some(self.base.term);
        }
        self.get(index).map(|entry| entry.id.term)
    }

    /// The entry at `index`, if it is in memory.
    #[must_use]
    pub fn get(&self, index: Index) -> Option<&Entry> {
        let at = index.0.checked_sub(self.first_index().0)?;
        self.entries.get(usize::try_from(at).ok()?)
    }

    /// Whether this log holds that entry, and so the same entries before it.
    #[must_use]
    pub fn contains(&self, id: EntryId) -> bool {
        self.term_at(id.index) == Some(id.term)
    }

    /// The entries from `from` up to and with `to`.
    ///
    /// # Panics
    /// If some of them are compacted or not there.
    #[must_use]
    pub fn range(&self, from: Index, to: Index) -> vec_deque::Iter<'_, Entry> {
        assert!(
            from > self.base.index,
            "entries from {from} on are compacted"
        );
        let start = (from.0 - self.first_index().0) as usize;
        let end = (to.next().0 - self.first_index().0) as usize;
        self.entries.range(start..end.max(start))
    }

    /// The entries from `from` on that fit `bytes_max`; at least one, if there is one.
    #[must_use]
    pub fn batch(&self, from: Index, bytes_max: usize) -> vec_deque::Iter<'_, Entry> {
        let all = self.range(from, self.last().index);
        let mut bytes = 0;
        let fits = all.clone().take_while(|entry| {
            bytes += entry.size_bytes();
            bytes <= bytes_max
        });
        let last = Index(from.prev().0 + fits.count().max(1).min(all.len()) as u64);
        self.range(from, last)
    }

    /// The last entry at or before `at` whose term is not above `term`: where a log
    /// that ends in (`at`, `term`) can still match this one at the highest. `None` if
    /// that is compacted.
    #[must_use]
    pub fn match_hint(&self, at: Index, term: Term) -> Option<EntryId> {
        let mut index = at.min(self.last().index);
        loop {
            let own = self.term_at(index)?;
            if own <= term {
                return Some(EntryId { term: own, index });
            }
            if index == self.base.index {
                return None;
            }
            index = index.prev();
        }
    }

    /// Appends an entry.
    ///
    /// # Panics
    /// If it does not follow the last one.
    pub fn append(&mut self, entry: Entry) {
        let last = self.last();
        assert_eq!(
            entry.id.index,
            last.index.next(),
            "appended entries leave no gap"
        );
        assert!(entry.id.term >= last.term, "terms never go back in a log");
        self.bytes += entry.size_bytes();
        self.last = entry.id;
        self.entries.push_back(entry);
    }

    /// Drops all entries from `from` on; returns whether the disk knows of any of them
    /// and so must be told.
    ///
    /// # Panics
    /// If `from` is compacted.
    pub fn truncate(&mut self, from: Index) -> bool {
        assert!(
            from > self.base.index,
            "a compacted entry is committed and stays"
        );
        let keep = (from.0 - self.first_index().0) as usize;
        for entry in self.entries.drain(keep..) {
            self.bytes -= entry.size_bytes();
        }
        self.last = self.entries.back().map_or(self.base, |entry| entry.id);
        let known = self.written >= from;
        self.written = self.written.min(from.prev());
        self.stable = self.stable.min(from.prev());
        known
    }

    /// Drops the entries up to and with `upto` from memory.
    ///
    /// # Panics
    /// If `upto` is not in the log.
    pub fn compact(&mut self, upto: Index) {
        if upto <= self.base.index {
            return;
        }
        let term = self
            .term_at(upto)
            .expect("only what is in the log is compacted");
        let count = (upto.0 - self.base.index.0) as usize;
        for entry in self.entries.drain(..count) {
            self.bytes -= entry.size_bytes();
        }
        self.base = EntryId { term, index: upto };
        self.written = self.written.max(upto);
        self.stable = self.stable.max(upto);
    }

    /// Replaces the whole log by the emptiness behind an installed snapshot.
    pub fn reset(&mut self, base: EntryId) {
        self.entries.clear();
        self.bytes = 0;
        self.base = base;
        self.last = base;
        self.written = base.index;
        self.stable = base.index;
    }

    /// The entries that the disk has not been given yet; they count as given from now on.
    pub fn take_unwritten(&mut self) -> Cow<'_, [Entry]> {
        let count = (self.last().index.0 - self.written.0) as usize;
        self.written = self.last().index;
        let (older, newer) = self.entries.as_slices();
        match count.checked_sub(newer.len()) {
            None => Cow::Borrowed(&newer[newer.len() - count..]),
            Some(more) if newer.is_empty() => Cow::Borrowed(&older[older.len() - more..]),
            // Where the ring begins anew.
            Some(more) => Cow::Owned([&older[older.len() - more..], newer].concat()),
        }
    }

    /// The disk confirms all up to `index` of a write; returns whether that is news.
    ///
    /// What was truncated since then, and may have been appended anew, is above
    /// `written` until it has been written again: it does not count.
    pub fn confirm(&mut self, index: Index) -> bool {
        let index = index.min(self.written);
        let news = index > self.stable;
        self.stable = self.stable.max(index);
        news
    }
}
