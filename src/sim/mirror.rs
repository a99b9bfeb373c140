//! What a node's log was when it was last looked at, and how it has changed since.

use std::collections::VecDeque;

use crate::raft::Log;
use crate::types::{EntryId, Index, Payload, Term};

/// An entry, as far as it is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Seen {
    pub(super) term: Term,
    /// Of the payload.
    pub(super) checksum: u32,
    /// Bytes of all entries up to and with this one, since the node's start.
    bytes: u64,
}

/// See the module.
#[derive(Clone, Debug, Default)]
pub(super) struct Mirror {
    base: EntryId,
    base_bytes: u64,
    entries: VecDeque<Seen>,
}

/// How a log has changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Change {
    /// The first entry that is new, or other than before.
    pub(super) from: Index,
    /// Whether entries from there on were there before.
    pub(super) dropped: bool,
}

/// Tells payloads apart.
pub(super) fn payload_checksum(payload: &Payload) -> u32 {
    match payload {
        Payload::Noop => 0,
        Payload::Command(bytes) | Payload::Config(bytes) => crc32fast::hash(bytes) | 1,
    }
}

impl Mirror {
    pub(super) fn base(&self) -> EntryId {
        self.base
    }

    pub(super) fn last(&self) -> Index {
        Index(self.base.index.0 + self.entries.len() as u64)
    }

    /// The entry at `index`, if it is behind the base and in the log.
    pub(super) fn get(&self, index: Index) -> Option<&Seen> {
        let at = index.0.checked_sub(self.base.index.0 + 1)?;
        self.entries.get(at as usize)
    }

    pub(super) fn term_at(&self, index: Index) -> Option<Term> {
        if index == self.base.index {
            return Some(self.base.term);
        }
        self.get(index).map(|seen| seen.term)
    }

    /// Whether the log has this entry, or a snapshot in its place.
    pub(super) fn has(&self, id: EntryId) -> bool {
        self.base.index > id.index || self.term_at(id.index) == Some(id.term)
    }

    /// Bytes of the entries behind `from` up to and with `to`, both in the log.
    pub(super) fn bytes_between(&self, from: Index, to: Index) -> u64 {
        let upto = |index| self.get(index).map_or(self.base_bytes, |seen| seen.bytes);
        upto(to).saturating_sub(upto(from))
    }

    /// Takes in that the log begins where it does now, and forgets what is not as it was;
    /// the entries from [`Change::from`] on are to be added. `None` if nothing is new.
    pub(super) fn follow(&mut self, log: &Log) -> Option<Change> {
        let (base, last) = (log.base(), log.last());
        if base != self.base {
            self.move_base(base);
        }
        let had = self.last();
        if had == last.index && self.term_at(had) == Some(last.term) {
            return None;
        }
        let mut same = had.min(last.index);
        while same > base.index && log.term_at(same) != self.term_at(same) {
            same = same.prev();
        }
        self.entries.truncate((same.0 - base.index.0) as usize);
        Some(Change {
            from: same.next(),
            dropped: same < had,
        })
    }

    fn move_base(&mut self, base: EntryId) {
        assert!(
            base.index > self.base.index,
            "the beginning of a log went back from {} to {base}",
            self.base
        );
        let gone = (base.index.0 - self.base.index.0) as usize;
        let last_gone = self.entries.get(gone - 1).copied();
        match last_gone.filter(|seen| seen.term == base.term) {
            Some(seen) => {
                self.base_bytes = seen.bytes;
                self.entries.drain(..gone);
            }
            // It was not in the log: a snapshot took its place.
            None => self.entries.clear(),
        }
        self.base = base;
    }

    /// Adds the entry behind the last one.
    pub(super) fn push(&mut self, term: Term, checksum: u32, bytes: usize) {
        let before = self
            .entries
            .back()
            .map_or(self.base_bytes, |seen| seen.bytes);
        self.entries.push_back(Seen {
            term,
            checksum,
            bytes: before + bytes as u64,
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::Entry;

    fn log(base: EntryId, terms: &[u64]) -> Log {
        let mut index = base.index;
        let entry = |term: &u64| {
            index = index.next();
            let id = EntryId {
                term: Term(*term),
                index,
            };
            let payload = Payload::Noop;
            Entry { id, payload }
        };
        Log::restore(base, terms.iter().map(entry).collect())
    }

    /// Takes in a log, and says what was new.
    fn follow(mirror: &mut Mirror, log: &Log) -> Option<Change> {
        let change = mirror.follow(log)?;
        for entry in log.range(change.from, log.last().index) {
            mirror.push(entry.id.term, 0, entry.size_bytes());
        }
        Some(change)
    }

    fn change(from: u64, dropped: bool) -> Option<Change> {
        let from = Index(from);
        Some(Change { from, dropped })
    }

    #[test]
    fn what_is_new_in_a_log_is_what_was_appended_or_replaced() {
        let mut mirror = Mirror::default();
        let base = EntryId::ZERO;
        assert_eq!(
            follow(&mut mirror, &log(base, &[1, 1, 1])),
            change(1, false)
        );
        assert_eq!(follow(&mut mirror, &log(base, &[1, 1, 1])), None);
        assert_eq!(
            follow(&mut mirror, &log(base, &[1, 1, 1, 2])),
            change(4, false)
        );
        assert_eq!(follow(&mut mirror, &log(base, &[1, 1, 3])), change(3, true));
        assert_eq!(follow(&mut mirror, &log(base, &[1])), change(2, true));
    }

    #[test]
    fn what_a_log_forgets_behind_a_snapshot_is_neither_new_nor_dropped() {
        let mut mirror = Mirror::default();
        follow(&mut mirror, &log(EntryId::ZERO, &[1, 1, 2, 2]));
        let bytes = mirror.bytes_between(Index(2), Index(4));
        assert_eq!(follow(&mut mirror, &log(EntryId::new(1, 2), &[2, 2])), None);
        assert_eq!(mirror.bytes_between(Index(2), Index(4)), bytes);
        assert!(mirror.has(EntryId::new(2, 4)) && !mirror.has(EntryId::new(1, 4)));
        // A snapshot that the log does not have takes its place.
        assert_eq!(follow(&mut mirror, &log(EntryId::new(3, 9), &[])), None);
        assert_eq!(
            (mirror.base(), mirror.last()),
            (EntryId::new(3, 9), Index(9))
        );
    }
}
