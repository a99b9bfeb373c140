//! The memory limit: writes that grow the store are refused before they enter the log.
//!
//! What is in the log has to be applied by everyone, whatever it takes. So it is the leader
//! that decides, when a client asks, by what all voters last said of themselves in their
//! answers to heartbeats: a follower that runs out of memory would end, and with it what it
//! holds. Reads and removes go on, and writes are taken again when there is room.
//!
//! Counted are the store, the log in memory, and the second store of a snapshot that is being
//! installed. An eighth of the limit is left for all else: sessions, queues, connections.

use log::{info, warn};

use crate::disk::Disk;
use crate::node::core::Node;
use crate::time::Time;

/// The part of the limit that is left for what is not counted.
const REST: u64 = 8;
/// So much below the bound, as a part of the limit, growth is taken again.
const RETURN: u64 = 32;
/// The part of the limit that the log may take before a snapshot is due, once memory is tight.
const LOG: u64 = 8;

/// What is known of the memory that is used.
#[derive(Debug, Default)]
pub(super) struct Memory {
    /// Of this node, in bytes.
    used: u64,
    is_full: bool,
    /// Whether this node leads and somebody has no room.
    refuses: bool,
}

impl Memory {
    /// Takes in what is used of `limit` bytes.
    fn note(&mut self, used: u64, limit: u64) {
        let bound = limit - limit / REST;
        let back = bound - limit / RETURN;
        self.used = used;
        let is_full = used > if self.is_full { back } else { bound };
        if is_full != self.is_full {
            self.is_full = is_full;
            if is_full {
                warn!(target: "Raft", "the memory limit is reached, writes that grow the store are refused: used={used} limit={limit}");
            } else {
                info!(target: "Raft", "there is memory for writes again: used={used} limit={limit}");
            }
        }
    }

    /// Whether this node has no room for more.
    pub(super) fn is_full(&self) -> bool {
        self.is_full
    }

    /// Whether writes that grow the store are refused.
    pub(super) fn refuses_growth(&self) -> bool {
        self.refuses
    }

    /// What is counted, in bytes.
    pub(super) fn used(&self) -> u64 {
        self.used
    }
}

impl<D: Disk> Node<D> {
    /// Looks at what is used, here and by what the voters say.
    pub(super) fn look_at_memory(&mut self, now: Time) {
        if let Some(limit) = self.config.memory_limit {
            let log = self.raft.log().bytes() as u64;
            let used = self.machine.live_bytes() + log + self.install.store_bytes();
            self.memory.note(used, limit);
            self.raft.note_memory(self.memory.is_full);
        }
        // A leader without a limit may have followers with one.
        self.memory.refuses =
            self.raft.is_leader() && (self.memory.is_full || self.a_voter_is_full(now));
    }

    /// Whether a voter that was heard of lately has no room for more. One that is gone needs
    /// none.
    fn a_voter_is_full(&self, now: Time) -> bool {
        let (_, patience) = self.config.election_timeout;
        let followers = self.raft.followers().into_iter().flatten();
        let mut full = followers.filter(|(_, it)| it.memory_full && it.heard + patience >= now);
        full.any(|(id, _)| self.raft.quorum().voters().contains(id))
    }

    /// The log above which a snapshot is due because it takes memory that the data need.
    pub(super) fn log_bytes_max(&self) -> u64 {
        match self.config.memory_limit {
            // From three quarters of the bound on.
            Some(limit) if self.memory.used > (limit - limit / REST) / 4 * 3 => limit / LOG,
            _ => u64::MAX,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn growth_is_taken_again_only_when_there_is_some_room() {
        let mut memory = Memory::default();
        for (used, is_full) in [
            (0, false),
            (280, false),
            (281, true),
            (271, true),
            (270, false),
        ] {
            memory.note(used, 320);
            assert_eq!(memory.is_full(), is_full, "{used} of 320");
        }
    }
}
