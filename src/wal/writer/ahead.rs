//! The segments that are made ahead: the next one, and one after it as a reserve.
//!
//! Where there is no room for the reserve, the disk counts as full, and what makes the data
//! grow is to be refused. What then still has to be written (hard state, removes, what another
//! leader sends) has the rest of the current segment, and the next.

use super::{Active, Next, Wal};
use crate::disk::{Disk, SegmentInfo};

impl Wal {
    /// Whether there was no room for the segment after the next, or even for that. What is
    /// appended then is written for as long as there is room in what was made before, and
    /// waits from then on.
    #[must_use]
    pub fn stalled_for_space(&self) -> bool {
        let is_full = |next| matches!(next, Next::NoSpace { .. });
        is_full(self.next) || is_full(self.after)
    }

    /// Whether a segment that is kept ahead is not there yet, for whatever reason.
    #[must_use]
    pub fn asks_for_space(&self) -> bool {
        [self.next, self.after]
            .iter()
            .any(|ahead| matches!(ahead, Next::Requested(_) | Next::NoSpace { .. }))
    }

    /// Asks again for the segment that there was no room for.
    pub fn retry_space<D: Disk>(&mut self, disk: &mut D) {
        if let Next::NoSpace { len } = self.next {
            self.request(disk, len);
        } else if let Next::NoSpace { len } = self.after {
            self.after = self.ask_for(disk, len);
        }
    }

    /// Gives the room of spare segments back; whether there was one.
    pub fn release_spares<D: Disk>(&mut self, disk: &mut D) -> bool {
        let count = self.spares.len();
        for spare in self.spares.drain(..) {
            disk.remove_segment(spare.id);
        }
        count > 0
    }

    /// Has the next segment, and the one after it, made while the current one still has
    /// room.
    pub(super) fn request_ahead<D: Disk>(&mut self, disk: &mut D) {
        let half_full = |active: &Active| active.offset * 2 > active.len;
        if !self.active.as_ref().is_some_and(half_full) {
            return;
        }
        if self.next == Next::None {
            self.request(disk, self.segment_bytes);
        } else if matches!(self.next, Next::Ready(_)) && self.after == Next::None {
            self.after = self.ask_for(disk, self.segment_bytes);
        }
    }

    pub(super) fn request<D: Disk>(&mut self, disk: &mut D, len: u64) {
        self.next = self.ask_for(disk, len);
    }

    fn ask_for<D: Disk>(&mut self, disk: &mut D, len: u64) -> Next {
        self.last_id.0 += 1;
        let id = self.last_id;
        // The newest first: it may be the one before the log, which recovery would read.
        let spare = (len == self.segment_bytes).then(|| self.spares.pop());
        let spare = spare.flatten();
        disk.create_segment(id, len, spare.map(|spare| spare.id));
        Next::Requested(SegmentInfo { id, len })
    }
}
