//! The log as its callers know it, whether it is written or waits.

use std::collections::VecDeque;

use super::Batch;
use crate::types::{EntryId, Index, Term};

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
    term: Term,
    pub(super) last: Index,
    mark: EntryId,
    terms: Terms,
}

impl Accepted {
    /// Of a log that was recovered, before its entries.
    pub(super) fn new(term: Term, mark: EntryId) -> Accepted {
        Accepted {
            term,
            last: mark.index,
            mark,
            terms: Terms::default(),
        }
    }

    /// Takes a batch into account; answers whether its mark restarts the log.
    pub(super) fn take(&mut self, batch: &Batch<'_>) -> bool {
        if let Some(hard_state) = batch.hard_state {
            assert!(hard_state.term >= self.term, "the term went back");
            self.term = hard_state.term;
        }
        if let Some(from) = batch.truncate_from {
            assert!(from > self.mark.index, "a truncation below the snapshot");
            if from <= self.last {
                self.last = from.prev();
                self.terms.truncate(from);
            }
        }
        let mut restart = false;
        if let Some(mark) = batch.snapshot_mark {
            let same = mark == self.mark;
            assert!(same || mark.index > self.mark.index, "a mark went back");
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

    /// The term of an entry that the log holds.
    pub(super) fn term_at(&self, index: Index) -> Option<Term> {
        if index == self.mark.index {
            return Some(self.mark.term);
        }
        (index <= self.last).then(|| self.terms.at(index)).flatten()
    }
}
