//! What is still to be written of a batch, and how much of it fits into a segment.

use std::collections::VecDeque;

use super::BatchSeq;
use super::record::{BATCH_HEADER_BYTES, Record};
use crate::types::{Entry, EntryId, HardState, Index};

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

    /// All records, in order.
    fn records(&self) -> impl Iterator<Item = Record<'a>> + Clone + use<'a> {
        let hard_state = self.hard_state.map(Record::HardState);
        let truncate = self.truncate_from.map(Record::Truncate);
        let mark = self.mark;
        let mark = mark.map(|(id, restart)| Record::SnapshotMark { id, restart });
        let entries = self.entries.iter().map(Record::entry);
        hard_state
            .into_iter()
            .chain(truncate)
            .chain(mark)
            .chain(entries)
    }

    /// Takes the records that fit into `room` bytes; none if the first does not.
    pub(super) fn take(
        &mut self,
        room: u64,
    ) -> Option<impl Iterator<Item = Record<'a>> + Clone + use<'a>> {
        let mut room = usize::try_from(room).unwrap_or(usize::MAX);
        room = room.saturating_sub(BATCH_HEADER_BYTES);
        let records = self.records();
        let mut count = 0;
        while let Some(record) = self.first() {
            let len = record.encoded_len();
            if len > room {
                break;
            }
            room -= len;
            count += 1;
            self.drop_first();
        }
        (count > 0).then(|| records.take(count))
    }
}

/// A batch that waits for a segment.
#[derive(Debug)]
pub(super) struct Queued {
    pub(super) seq: BatchSeq,
    pub(super) hard_state: Option<HardState>,
    pub(super) truncate_from: Option<Index>,
    pub(super) mark: Option<(EntryId, bool)>,
    pub(super) entries: VecDeque<Entry>,
}
