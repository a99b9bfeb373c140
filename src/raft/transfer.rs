//! Handing leadership over (thesis §3.10), and giving it up for a disk that hangs.

use std::time::Duration;

use log::{info, warn};

use crate::mutation::mutated;
use crate::raft::core::{Raft, Role, Transition};
use crate::raft::message::Body;
use crate::raft::progress::State;
use crate::time::Time;
use crate::types::{NodeId, Server};

/// Why leadership is not handed over. Nothing was done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TransferError {
    /// This node does not lead.
    #[error("not the leader")]
    NotLeader,
    /// It could not lead.
    #[error("{0} is not a voter")]
    NotVoter(NodeId),
    /// It has not answered for an election time-out.
    #[error("{0} does not answer")]
    NotReached(NodeId),
    /// One at a time, and not during a change of the members.
    #[error("a transfer or a change of the members is under way, try again when it is done")]
    InProgress,
}

/// A hand-over that is under way.
#[derive(Clone, Copy, Debug)]
pub(super) struct Transfer {
    pub(super) to: Server,
    /// When the leader goes on leading.
    pub(super) deadline: Time,
    /// Whether the successor has been told to campaign.
    pub(super) told: bool,
}

impl Raft {
    /// Hands leadership to `to`: takes no proposals any more, brings its log up to date,
    /// commits what is under way, and lets it campaign at once. Given up after the longest
    /// election time-out; [`Raft::transferee`] says how it stands.
    ///
    /// # Errors
    /// See [`TransferError`].
    pub fn transfer_leadership(&mut self, now: Time, to: NodeId) -> Result<(), TransferError> {
        let Role::Leader(leader) = &mut self.role else {
            return Err(TransferError::NotLeader);
        };
        if to == self.config.server.id {
            return Ok(());
        }
        let mut voters = self.membership.quorum().voters().iter().copied();
        let Some(server) = voters.find(|voter| voter.id == to) else {
            return Err(TransferError::NotVoter(to));
        };
        let (patience, timeout) = self.config.election_timeout;
        match leader.followers.get(&server) {
            Some(progress) if progress.answers(now, patience) => {}
            _ => return Err(TransferError::NotReached(to)),
        }
        if leader.transfer.is_some() || self.membership.current().is_joint() {
            return Err(TransferError::InProgress);
        }
        info!(target: "Raft", "hand leadership over: to={to} term={}", self.hard_state.term);
        leader.transfer = Some(Transfer {
            to: server,
            deadline: now + timeout,
            told: false,
        });
        Ok(())
    }

    /// To whom this node is handing its leadership. `None` while it still leads: it has
    /// been given up.
    #[must_use]
    pub fn transferee(&self) -> Option<NodeId> {
        match &self.role {
            Role::Leader(leader) => leader.transfer.map(|transfer| transfer.to.id),
            _ => None,
        }
    }

    /// The voter that could take over best: the one of the highest priority among those
    /// that are heard of, whose disks are not slow and have room, and whose logs are longest.
    #[must_use]
    pub fn best_successor(&self, now: Time) -> Option<NodeId> {
        self.successor(now).map(|server| server.id)
    }

    pub(super) fn successor(&self, now: Time) -> Option<Server> {
        let Role::Leader(leader) = &self.role else {
            return None;
        };
        let (patience, _) = self.config.election_timeout;
        let voters = self.membership.quorum().voters().iter();
        voters
            .filter_map(|id| {
                let progress = leader.followers.get(id)?;
                let fit = progress.state == State::Replicate && progress.answers(now, patience);
                let has_disk = progress.disk < self.config.disk_patience && !progress.full;
                let rank = std::cmp::Reverse(self.membership.rank_of(*id));
                // All who have what is committed are as good as each other.
                let reached = progress.match_index.min(self.commit_index);
                fit.then_some((has_disk, reached, rank, *id))
            })
            .max()
            .map(|(_, _, _, id)| id)
    }

    /// Who could take over that has room on its disk, as [`Raft::best_successor`].
    #[must_use]
    pub fn successor_with_room(&self, now: Time) -> Option<NodeId> {
        let best = self.successor(now)?;
        let progress = self.followers()?.get(&best)?;
        (!progress.full && progress.disk < self.config.disk_patience).then_some(best.id)
    }

    /// Takes the next step of a hand-over.
    pub(super) fn advance_transfer(&mut self, now: Time) {
        let Role::Leader(leader) = &mut self.role else {
            return;
        };
        let Some(transfer) = &mut leader.transfer else {
            return;
        };
        if now >= transfer.deadline {
            warn!(target: "Raft", "leadership was not taken over in time, go on: to={}", transfer.to.id);
            leader.transfer = None;
            return;
        }
        let last = self.log.last().index;
        let matched = leader.followers.get(&transfer.to).map(|p| p.match_index);
        // What is under way is committed first, so that nobody has to be told that the
        // outcome of a write is unknown.
        if !transfer.told && matched == Some(last) && self.commit_index == last {
            transfer.told = true;
            let to = transfer.to;
            self.send_timeout_now(to);
        }
    }

    pub(super) fn send_timeout_now(&mut self, to: Server) {
        if let Role::Leader(leader) = &mut self.role {
            // From here on another leader may come up at any time, at the latest when this
            // message arrives: so for the rest of the term.
            leader.lease_void = !mutated!(LeaseAfterTransfer);
        }
        self.send(to, Body::TimeoutNow);
    }

    /// The leader wants this node to take over.
    pub(super) fn handle_timeout_now(&mut self, now: Time, from: Server) {
        if !matches!(self.role, Role::Follower)
            || self.leader.is_some_and(|leader| leader != from)
            || !self.may_campaign()
            || self.disk_is_stalled
        {
            return;
        }
        self.transition(now, Transition::Candidate { transfer: true });
    }

    /// Forgets who leads, for whoever campaigns next: to be called when it is likely that
    /// the leader is gone, because its connection broke. Should it still be there, its
    /// next message tells. A promise that was given to its lease stands.
    pub fn forget_leader(&mut self) {
        if matches!(self.role, Role::Follower) && self.leader.is_some() {
            info!(target: "Raft", "forget the leader: term={}", self.hard_state.term);
            self.lose_follower_reads();
            self.leader = None;
        }
    }

    /// Whether the disk has no room for more. Followers tell their leader.
    pub fn note_space(&mut self, full: bool) {
        self.disk_is_full = full;
    }

    /// Whether the memory limit is reached. Followers tell their leader.
    pub fn note_memory(&mut self, full: bool) {
        self.memory_is_full = full;
    }

    /// How slow the disk is: how long the last write took to become durable, and for how long
    /// the oldest that is not has been `waiting`. Followers tell their leader. A leader whose
    /// disk makes no progress stands down, and nobody campaigns with one.
    pub fn note_disk(&mut self, now: Time, last: Duration, waiting: Duration) {
        // In the unit in which others are told of it.
        let slower = last.max(waiting).as_micros();
        self.disk = Duration::from_micros(u64::try_from(slower).unwrap_or(u64::MAX));
        self.disk_is_stalled = waiting >= self.config.disk_patience;
        let voters = self.membership.quorum().voters().len();
        if self.is_leader() && self.disk_is_stalled && voters > 1 {
            warn!(target: "Raft", "the disk makes no progress, step down: term={} for_ms={}", self.hard_state.term, waiting.as_millis());
            if let Some(to) = self.successor(now) {
                self.send_timeout_now(to);
            }
            self.transition(now, Transition::Follower(self.hard_state.term, None));
        }
    }
}
