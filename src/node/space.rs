//! A full disk: what still goes on, and who is asked to lead instead.
//!
//! The log keeps a segment in reserve (see [`Wal::stalled_for_space`](crate::wal::Wal)).
//! While there is no room for it, the reserve is what hard state, removes and what other
//! leaders send are written to, and writes that make the data grow are refused. A leader
//! hands its leadership to a follower that has room. Room is asked for by the clock, so all
//! of it ends by itself.

use std::time::Duration;

use log::{info, warn};

use crate::disk::Disk;
use crate::node::core::Node;
use crate::time::Time;

/// How soon a full disk is asked for room again; the pause doubles …
const RETRY_MIN: Duration = Duration::from_millis(100);
/// … up to this: what is asked for is written until the room ends.
const RETRY_MAX: Duration = Duration::from_secs(1);
/// How soon another follower is asked to lead, if the last did not come to it.
const HAND_OVER_AGAIN: Duration = Duration::from_secs(2);

/// What is known of the room on the disk.
#[derive(Debug)]
pub(super) struct Space {
    is_full: bool,
    /// When the disk is asked for room again.
    retry: Time,
    pause: Duration,
    /// Not before this is leadership handed over again.
    hand_over: Time,
}

impl Default for Space {
    fn default() -> Space {
        Space {
            is_full: false,
            retry: Time::NEVER,
            pause: RETRY_MIN,
            hand_over: Time::ZERO,
        }
    }
}

impl Space {
    /// When [`Node::ask_for_space`] is due.
    pub(super) fn next_deadline(&self) -> Time {
        self.retry
    }

    /// Whether there was no room when it was last looked at.
    pub(super) fn is_full(&self) -> bool {
        self.is_full
    }
}

impl<D: Disk> Node<D> {
    /// Asks a full disk for room, if it is time.
    pub(super) fn ask_for_space(&mut self, now: Time) {
        if now >= self.space.retry {
            self.space.retry = Time::NEVER;
            self.ledger.wal.retry_space(&mut self.disk);
        }
    }

    /// Looks whether the disk is full, and what is to be done about it.
    pub(super) fn look_for_space(&mut self, now: Time) {
        let stalled = self.ledger.wal.stalled_for_space();
        // Where a store waits, it is tried again without being asked for.
        let lacks_room = self.disk.lacks_room();
        if stalled && self.space.retry == Time::NEVER {
            self.space.retry = now + self.space.pause;
            self.space.pause = (self.space.pause * 2).min(RETRY_MAX);
        }
        // While it is being asked for again nothing has changed.
        let is_full =
            stalled || lacks_room || (self.space.is_full && self.ledger.wal.asks_for_space());
        if is_full != self.space.is_full {
            self.space.is_full = is_full;
            if is_full {
                warn!(target: "Raft", "no space left on the disk: writes are refused, gets and removes go on; free some space");
            } else {
                self.space.pause = RETRY_MIN;
                info!(target: "Raft", "there is space on the disk again");
            }
        }
        self.raft.note_space(is_full);
        if is_full && self.raft.is_leader() && now >= self.space.hand_over {
            self.hand_over_for_space(now);
        }
    }

    fn hand_over_for_space(&mut self, now: Time) {
        let Some(to) = self.raft.successor_with_room(now) else {
            return;
        };
        self.space.hand_over = now + HAND_OVER_AGAIN;
        match self.raft.transfer_leadership(now, to) {
            Ok(()) => {
                info!(target: "Raft", "hand leadership over, the disk is full: to={to}");
            }
            Err(error) => {
                info!(target: "Raft", "cannot hand leadership over yet, the disk is full: to={to} reason={error}");
            }
        }
    }
}
