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

/// A batch that waits for a segment.
#[derive(Debug)]
pub(super) struct Queued {
    pub(super) seq: BatchSeq,
    pub(super) hard_state: Option<HardState>,
    pub(super) truncate_from: Option<Index>,
    pub(super) mark: Option<(EntryId, bool)>,
    pub(super) entries: VecDeque<Entry>,
}
