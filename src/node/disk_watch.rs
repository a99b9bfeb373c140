//! A disk that hangs: for how long nothing has become durable, and what is said and done
//! about it.
//!
//! The core gives leadership up when its disk makes no progress for a while (see
//! [`Raft::note_disk`](crate::raft::Raft::note_disk)). If that goes on the node stops: what
//! it holds cannot be relied on, and whoever supervises it should know.

use std::time::Duration;

use log::{info, warn};

use crate::disk::Disk;
use crate::node::core::Node;
use crate::time::Time;
use crate::wal::BatchSeq;

/// What one look counts at most: a process that was stopped, or had no processor, could not take
/// in what the disk had to say.
const STEP_MAX: Duration = Duration::from_millis(500);
/// How often is looked while something waits.
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// For how long the oldest write that is not durable has been waited for, awake.
#[derive(Debug, Default)]
pub(super) struct DiskWatch {
    /// That write, and when it was last looked at.
    oldest: Option<(BatchSeq, Time)>,
    waited: Duration,
    /// Whether it was said that the disk hangs.
    told: bool,
}

impl DiskWatch {
    /// Takes in which write waits, and says for how long it has.
    fn look(&mut self, now: Time, oldest: Option<BatchSeq>) -> Duration {
        self.waited = match (self.oldest, oldest) {
            (Some((before, looked)), Some(oldest)) if before == oldest => {
                self.waited + now.since(looked).min(STEP_MAX)
            }
            _ => Duration::ZERO,
        };
        self.oldest = oldest.map(|oldest| (oldest, now));
        self.waited
    }

    /// When [`Node::watch_disk`] is due.
    pub(super) fn next_deadline(&self) -> Time {
        self.oldest
            .map_or(Time::NEVER, |(_, looked)| looked + LOOK_EVERY)
    }
}

impl<D: Disk> Node<D> {
    /// Looks whether the disk makes progress; the node stops if it has made none for too long.
    pub(super) fn watch_disk(&mut self, now: Time) {
        let oldest = self.ledger.oldest_waiting();
        // A full disk is another matter, and may stay so.
        let oldest = oldest.filter(|_| !self.ledger.wal.stalled_for_space());
        let waited = self.disk_watch.look(now, oldest);
        let hangs = waited >= self.config.disk_patience;
        if hangs != self.disk_watch.told {
            self.disk_watch.told = hangs;
            if hangs {
                warn!(target: "Raft", "the disk hangs, nothing has become durable for {} ms: a leader gives up its leadership", waited.as_millis());
            } else {
                info!(target: "Raft", "the disk makes progress again");
            }
        }
        if let Some(limit) = self.config.disk_give_up
            && waited >= limit
        {
            self.disk_hangs = true;
            self.fail(format!(
                "the disk hangs: nothing has become durable for {} ms; look at the disk and at the kernel's log, then start \
                 this node again, or with --rejoin on another disk",
                waited.as_millis()
            ));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> Time {
        Time::ZERO + Duration::from_millis(ms)
    }

    #[test]
    fn only_time_without_progress_counts() {
        let mut watch = DiskWatch::default();
        let first = Some(BatchSeq(1));
        assert_eq!(watch.look(at(0), first), Duration::ZERO);
        assert_eq!(watch.look(at(300), first), Duration::from_millis(300));
        assert_eq!(watch.look(at(500), first), Duration::from_millis(500));
        assert_eq!(watch.look(at(600), Some(BatchSeq(2))), Duration::ZERO);
        assert_eq!(
            watch.look(at(900), Some(BatchSeq(2))),
            Duration::from_millis(300)
        );
        assert_eq!(watch.look(at(950), None), Duration::ZERO);
        assert_eq!(watch.look(at(999), Some(BatchSeq(2))), Duration::ZERO);
    }

    #[test]
    fn a_pause_of_the_process_is_no_hanging_disk() {
        let mut watch = DiskWatch::default();
        watch.look(at(0), Some(BatchSeq(1)));
        let minute = watch.look(at(60_000), Some(BatchSeq(1)));
        assert_eq!(minute, STEP_MAX);
        assert!(watch.next_deadline() < at(60_000 + 500));
    }
}
