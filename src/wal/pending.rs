//! What has been appended as far as the log's callers are concerned, and what of a
//! batch is still to be written.

use std::collections::VecDeque;

use super::record::{BATCH_HEADER_BYTES, Record};
use super::{Batch, Recovered};
use crate::types::{Entry, EntryId, HardState, Index, Term};

/// The terms of the entries behind the mark: the first index of each run of equal
/// terms. Few, since a term changes with an election.
#[derive(Debug, Default)]
struct Terms {
    runs: VecDeque<(Index, Term)>,
}

impl Terms {
    fn push(&mut self, id: EntryId) {
        if self.runs.back().is_none_or(|(_, term)| *term != id.term) {
            self.runs.push_back((id.index, id.term));
        }
    }

    /// Only for indexes that the log holds.
    fn at(&self, index: Index) -> Option<Term> {
        let behind = self.runs.partition_point(|(first, _)| *first <= index);
        Some(self.runs.get(behind.checked_sub(1)?)?.1)
    }

    fn truncate(&mut self, from: Index) {
        while self.runs.back().is_some_and(|(first, _)| *first >= from) {
            self.runs.pop_back();
        }
    }

    fn drop_through(&mut self, index: Index) {
        while self.runs.get(1).is_some_and(|(first, _)| *first <= index) {
            self.runs.pop_front();
        }
    }
}

/// The log as its callers know it, written or waiting.
#[derive(Debug, Default)]
pub(super) struct Accepted {
    pub(super) last: Index,
    mark: EntryId,
    terms: Terms,
}

impl Accepted {
    pub(super) fn recovered(recovered: &Recovered) -> Accepted {
        let mut accepted = Accepted {
            last: recovered.snapshot_mark.index,
            mark: recovered.snapshot_mark,
            terms: Terms::default(),
        };
        accepted.take(&Batch {
            entries: &recovered.entries,
            ..Batch::default()
        });
        accepted
    }

    /// Takes a batch into account; answers whether its mark restarts the log.
    pub(super) fn take(&mut self, batch: &Batch<'_>) -> bool {
        if let Some(from) = batch.truncate_from {
            assert!(from > self.mark.index, "a truncation below the snapshot");
            if from <= self.last {
                self.last = from.prev();
                self.terms.truncate(from);
            }
        }
        let mut restart = false;
        if let Some(mark) = batch.snapshot_mark {
            assert!(mark.index >= self.mark.index, "a snapshot mark went back");
            restart = self.term_at(mark.index) != Some(mark.term);
            if restart {
                self.last = mark.index;
                self.terms.runs.clear();
            } else {
                self.terms.drop_through(mark.index);
            }
            self.mark = mark;
        }
        for entry in batch.entries {
            let expected = self.last.next();
            assert_eq!(
                entry.id.index, expected,
                "an entry does not follow the last"
            );
            self.last = expected;
            self.terms.push(entry.id);
        }
        restart
    }

    fn term_at(&self, index: Index) -> Option<Term> {
        if index == self.mark.index {
            return Some(self.mark.term);
        }
        (index <= self.last).then(|| self.terms.at(index)).flatten()
    }
}

/// What is still to be written of a batch.
pub(super) struct Work<'a> {
    pub(super) hard_state: Option<HardState>,
    pub(super) truncate_from: Option<Index>,
    pub(super) mark: Option<(EntryId, bool)>,
    pub(super) entries: &'a [Entry],
}

impl<'a> Work<'a> {
    pub(super) fn first(&self) -> Option<Record<'a>> {
        if let Some(hard_state) = self.hard_state {
            return Some(Record::HardState(hard_state));
        }
        if let Some(from) = self.truncate_from {
            return Some(Record::Truncate(from));
        }
        if let Some((id, restart)) = self.mark {
            return Some(Record::SnapshotMark { id, restart });
        }
        self.entries.first().map(Record::entry)
    }

    fn drop_first(&mut self) {
        if self.hard_state.take().is_none()
            && self.truncate_from.take().is_none()
            && self.mark.take().is_none()
        {
            self.entries = &self.entries[1..];
        }
    }

    /// Takes the records that fit into `room` bytes.
    pub(super) fn take(&mut self, room: u64) -> Vec<Record<'a>> {
        let mut room = usize::try_from(room).unwrap_or(usize::MAX);
        room = room.saturating_sub(BATCH_HEADER_BYTES);
        let mut records = Vec::with_capacity(3 + self.entries.len());
        while let Some(record) = self.first() {
            let len = record.encoded_len();
            if len > room {
                break;
            }
            room -= len;
            records.push(record);
            self.drop_first();
        }
        records
    }
}
