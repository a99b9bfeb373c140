//! What is known of a log while it is written.

use super::writer::{PAGE_BYTES, Wal};
use super::{BatchSeq, Position, WalCounters};

impl Wal {
    /// The last batch that is on the disk, and all before it. Never goes back.
    #[must_use]
    pub fn durable(&self) -> BatchSeq {
        self.durable.batch
    }

    /// The last batch that was appended.
    #[must_use]
    pub fn appended(&self) -> BatchSeq {
        self.appended
    }

    /// Whether the fresh segment of this start is durable, and with it all that was
    /// recovered.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.durable.batch >= BatchSeq(1)
    }

    /// Up to where all is on disk, while anything waits for that; it moves within a batch that
    /// takes several segments, too.
    #[must_use]
    pub fn waits_at(&self) -> Option<Position> {
        let waits = !self.is_open() || !self.syncs.is_empty() || !self.queue.is_empty();
        waits.then_some(self.durable.position)
    }

    /// How many bytes of batches the segments of the log hold.
    #[must_use]
    pub fn bytes_in_log(&self) -> u64 {
        self.live
            .iter()
            .map(|segment| segment.end - PAGE_BYTES)
            .sum()
    }

    /// How many bytes the segments of the log take on the disk, used or not.
    #[must_use]
    pub fn bytes_on_disk(&self) -> u64 {
        self.live.iter().map(|segment| segment.info.len).sum()
    }

    /// How many batches wait for a segment.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.queue.len()
    }

    /// What was done since the start.
    #[must_use]
    pub fn counters(&self) -> WalCounters {
        self.counters
    }
}
