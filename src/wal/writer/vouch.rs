//! The word that a part of the log is on disk, where nothing else would say so: a batch that
//! holds nothing but the mark.
//!
//! At an orderly end it vouches for the last batch. At the end of a segment it vouches for the
//! one behind it: nobody would miss a newest segment that is gone as a whole.

use super::{Active, Wal};
use crate::disk::{Disk, SegmentId};
use crate::mem::Buffer;
use crate::wal::record::{BATCH_HEADER_BYTES, Salt, encode_batch};

/// The end of the segment before the active one.
#[derive(Debug)]
pub(super) struct Left {
    id: SegmentId,
    /// Whether it can be stored into; what was found at the start has to be opened first.
    is_ready: bool,
    offset: u64,
    seq: u64,
    salt: Salt,
    chain: u32,
}

impl Left {
    /// The end of a segment that is followed by another, which begins with this batch.
    pub(super) fn of(active: &Active, seq: u64) -> Left {
        Left {
            id: active.id,
            is_ready: true,
            offset: active.offset,
            seq,
            salt: active.salt,
            chain: active.chain,
        }
    }
}

impl Wal {
    /// Vouches for all that is durable with a batch that holds nothing but the mark, and
    /// asks for a sync; for an orderly end. Without it nothing on the disk says that the
    /// last batch was durable, and damage to it at rest looks like a torn write.
    pub fn seal<D: Disk>(&mut self, disk: &mut D) {
        let at_rest = self.queue.is_empty() && self.syncs.is_empty();
        // What only repeats the segments before it needs no vouching, and stays unused.
        let open = |active: &Active| {
            active.offset > active.opened && active.len - active.offset >= BATCH_HEADER_BYTES as u64
        };
        if at_rest
            && self.active.as_ref().is_some_and(open)
            && self.mark_written < self.durable.position
        {
            self.encode_and_store(disk, Buffer::new(), std::iter::empty());
            self.sync(disk);
        }
    }

    /// Has the segment opened in which the log ended at the start: where the fresh one is
    /// vouched for.
    pub(super) fn reopen_last<D: Disk>(&mut self, disk: &mut D) {
        if let (Some(continues), Some(before)) = (self.continues, self.live.back())
            && continues.from.segment == before.info.id
            && before.info.len - continues.from.offset >= BATCH_HEADER_BYTES as u64
        {
            let (id, len) = (before.info.id, before.info.len);
            self.left = Some(Left {
                id,
                is_ready: false,
                offset: continues.from.offset,
                seq: self.next_seq,
                salt: Salt::new(self.owner.incarnation, id),
                chain: continues.chain,
            });
            disk.reopen_segment(id, len);
        }
    }

    /// Takes in that a segment is ready; whether it is that one.
    pub(super) fn take_reopened(&mut self, id: SegmentId) -> bool {
        let left = self.left.as_mut().filter(|left| left.id == id);
        left.map(|left| left.is_ready = true).is_some()
    }

    /// A segment is superfluous, and may become another one: nothing is said in it any more.
    pub(super) fn forget_left(&mut self, id: SegmentId) {
        self.left.take_if(|left| left.id == id);
    }

    /// Says at the end of the segment before it that the active one is on disk, with a batch
    /// that holds nothing but the mark. A log that goes on in the next segment is not read
    /// that far.
    pub(super) fn vouch_for_active<D: Disk>(&mut self, disk: &mut D) {
        let durable = self.durable.position;
        let can_tell = |left: &mut Left| left.is_ready && left.id < durable.segment;
        let Some(left) = self.left.take_if(can_tell) else {
            return;
        };
        let mut buffer = Buffer::new();
        let salted = (left.salt, left.chain);
        let none = std::iter::empty();
        encode_batch(&mut buffer, left.offset, left.seq, durable, none, salted);
        self.counters.bytes += buffer.len() as u64;
        disk.store(left.id, left.offset, buffer);
        self.sync(disk);
    }
}
