//! A disk that hangs: for how long nothing has become durable, and what is said and done
//! about it.
//!
//! The core gives leadership up when its disk makes no progress for a while (see
//! [`Raft::note_disk`](crate::raft::Raft::note_disk)). If that goes on the node stops: what
//! it holds cannot be relied on, and whoever supervises it should know.

use std::time::Duration;

use log::{info, warn};

use crate::disk::{Disk, waits_for_descriptors};
use crate::node::core::Node;
use crate::time::Time;
use crate::wal::Position;

/// What one look counts at most: a process that was stopped, or had no processor, could not take
/// in what the disk had to say.
const STEP_MAX: Duration = Duration::from_millis(500);
/// How often is looked while something waits.
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// For how long nothing more has become durable though something waits for it, awake.
#[derive(Debug, Default)]
pub(super) struct DiskWatch {
    /// Up to where all is durable, and when that was last looked at.
    at: Option<(Position, Time)>,
    waited: Duration,
}

impl DiskWatch {
    /// Takes in up to where all is durable, if anything waits, and says for how long there
    /// has been no progress.
    fn look(&mut self, now: Time, at: Option<Position>) -> Duration {
        self.waited = match (self.at, at) {
            (Some((before, looked)), Some(at)) if before == at => {
                self.waited + now.since(looked).min(STEP_MAX)
            }
            _ => Duration::ZERO,
        };
        self.at = at.map(|at| (at, now));
        self.waited
    }

    /// When [`Node::watch_disk`] is due.
    pub(super) fn next_deadline(&self) -> Time {
        self.at
            .map_or(Time::NEVER, |(_, looked)| looked + LOOK_EVERY)
    }
}

impl<D: Disk> Node<D> {
    /// Looks whether the disk makes progress; the node stops if it has made none for too long.
    pub(super) fn watch_disk(&mut self, now: Time) {
        let at = self.ledger.wal.waits_at();
        // A full disk, or a lack of descriptors, is another matter, and may stay so.
        let has_room = !self.ledger.wal.stalled_for_space() && !self.disk.lacks_room();
        let is_short = !has_room || waits_for_descriptors();
        let at = at.filter(|_| !is_short);
        let hung = self.disk_watch.waited >= self.config.disk_patience;
        let waited = self.disk_watch.look(now, at);
        let hangs = waited >= self.config.disk_patience;
        if hangs != hung {
            if hangs {
                warn!(target: "Raft", "the disk hangs, nothing has become durable for {} ms: a leader gives up its leadership", waited.as_millis());
            } else {
                info!(target: "Raft", "the disk makes progress again");
            }
        }
        if self.disk_hangs() {
            self.fail(format!(
                "the disk hangs: nothing has become durable for {} ms; look at the disk and at the kernel's log, then start \
                 this node again, or with --rejoin on another disk",
                waited.as_millis()
            ));
        }
    }

    /// Whether the disk hangs for longer than the node bears: it has stopped, and nobody may
    /// wait for that disk.
    #[must_use]
    pub fn disk_hangs(&self) -> bool {
        let limit = self.config.disk_give_up;
        limit.is_some_and(|limit| self.disk_watch.waited >= limit)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::SegmentId;

    fn at(ms: u64) -> Time {
        Time::ZERO + Duration::from_millis(ms)
    }

    #[test]
    fn only_time_without_progress_counts() {
        let mut watch = DiskWatch::default();
        let [first, second] = [1, 2].map(|offset| {
            let segment = SegmentId(1);
            Some(Position { segment, offset })
        });
        assert_eq!(watch.look(at(0), first), Duration::ZERO);
        assert_eq!(watch.look(at(300), first), Duration::from_millis(300));
        assert_eq!(watch.look(at(500), first), Duration::from_millis(500));
        assert_eq!(watch.look(at(600), second), Duration::ZERO);
        assert_eq!(watch.look(at(900), second), Duration::from_millis(300));
        assert_eq!(watch.look(at(950), None), Duration::ZERO);
        assert_eq!(watch.look(at(999), second), Duration::ZERO);
    }

    #[test]
    fn a_pause_of_the_process_is_no_hanging_disk() {
        let mut watch = DiskWatch::default();
        watch.look(at(0), Some(Position::ZERO));
        let minute = watch.look(at(60_000), Some(Position::ZERO));
        assert_eq!(minute, STEP_MAX);
        assert!(watch.next_deadline() < at(60_000 + 500));
    }
}
