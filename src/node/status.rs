//! What operators see.

use std::time::Duration;

use crate::disk::Disk;
use crate::node::core::Node;
use crate::raft::{ProgressState, RoleName, StateHash};
use crate::time::Time;
use crate::types::{Birth, Incarnation, Index, NodeId, Term};

/// What a node knows of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// The node.
    pub id: NodeId,
    /// What it is doing.
    pub role: RoleName,
    /// Its term.
    pub term: Term,
    /// Who leads that term, as far as it knows.
    pub leader: Option<NodeId>,
    /// Up to where entries are committed.
    pub commit_index: Index,
    /// Up to where they are applied.
    pub applied_index: Index,
    /// The first entry of the log that is kept.
    pub first_index: Index,
    /// The last one.
    pub last_index: Index,
    /// Up to where the log is on disk.
    pub durable_index: Index,
    /// The last entry of the newest snapshot.
    pub snapshot_index: Index,
    /// What the log takes in memory.
    pub log_bytes: u64,
    /// Keys in the store.
    pub keys: u64,
    /// Bytes of keys and values.
    pub data_bytes: u64,
    /// Explicit sessions that are open.
    pub sessions: u64,
    /// Requests that wait.
    pub waiting: u64,
    /// Syncs of the log since the start.
    pub syncs: u64,
    /// Bytes written to the log since the start.
    pub log_bytes_written: u64,
    /// Names the data directory.
    pub incarnation: u64,
    /// The cluster that the directory belongs to; see [`Birth`].
    pub birth: Birth,
    /// The cluster's feature level.
    pub level: u16,
    /// What the operator has to know about the node's place in its cluster; empty if all is
    /// well.
    pub notice: String,
    /// First members that have not come up yet.
    pub pending: Vec<NodeId>,
    /// Whether the node takes part in elections.
    pub may_vote: bool,
    /// Whether it was a member and is none any more.
    pub removed: bool,
    /// Snapshots taken since the start.
    pub snapshots_taken: u64,
    /// Snapshots received since the start.
    pub snapshots_installed: u64,
    /// What a leader knows of its followers.
    pub peers: Vec<PeerStatus>,
    /// The members of the cluster, by the latest word in this node's log.
    pub members: Vec<MemberStatus>,
    /// Where in the log that is said.
    pub members_index: Index,
    /// How slow the disk is: how long the last write took to become durable, or how long
    /// one that is not has been waiting; zero if nothing was written lately.
    pub disk: Duration,
    /// How late the timers of the raft thread were at most, in the last
    /// [`Ticks::WINDOW`] or the one before.
    pub tick_late_max: Duration,
    /// How often a timer was more than [`Ticks::LATE`] late since the start: so often the
    /// machine was taken away, or the raft thread was held up.
    pub late_ticks: u64,
    /// To whom leadership is being handed.
    pub transferee: Option<NodeId>,
    /// Whether there is no room for more on the disk.
    pub disk_full: bool,
    /// What counts of the memory limit, in bytes.
    pub memory_used: u64,
    /// The memory limit, in bytes.
    pub memory_limit: Option<u64>,
    /// Whether that is reached.
    pub memory_full: bool,
    /// Where the state was last hashed, and what came of it.
    pub state: Option<StateHash>,
    /// Where another node has said that its state was another one, and which.
    pub differs: Option<(Index, NodeId)>,
}

/// A member of the cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemberStatus {
    /// The member.
    pub id: NodeId,
    /// Its data directory; none below feature level 1.
    pub incarnation: Incarnation,
    /// `voter`, `learner`, and in a joint configuration `joining`, `leaving` or `demoted`.
    pub standing: &'static str,
    /// Who has the highest steps up first when there is no leader.
    pub priority: u8,
    /// `ip:port` for the other nodes.
    pub peer: String,
    /// `ip:port` for clients.
    pub client: String,
}

/// How late timers are: a node whose ticks come late is not to blame for what follows, but
/// whoever looks for the reason of an election has to know.
#[derive(Debug, Default)]
pub struct Ticks {
    late: u64,
    /// `None` before the first tick.
    window_start: Option<Time>,
    worst: Duration,
    worst_before: Duration,
}

impl Ticks {
    /// Half of the shortest election time-out by default: a leader that is later than this
    /// is close to losing its followers.
    pub const LATE: Duration = Duration::from_millis(75);
    /// How long the worst is remembered at least.
    pub const WINDOW: Duration = Duration::from_secs(10);

    /// A tick that was due at `due` happens. The first one is late by as long as recovery
    /// took, and says nothing about the machine.
    pub(super) fn note(&mut self, now: Time, due: Time) {
        let Some(start) = self.window_start else {
            self.window_start = Some(now);
            return;
        };
        if now.since(start) >= Ticks::WINDOW {
            let is_recent = now.since(start) < 2 * Ticks::WINDOW;
            let worst = std::mem::take(&mut self.worst);
            self.worst_before = if is_recent { worst } else { Duration::ZERO };
            self.window_start = Some(now);
        }
        let late = now.since(due);
        self.worst = self.worst.max(late);
        self.late += u64::from(late > Ticks::LATE);
    }

    /// A node that has no timer, as one that was removed, is on time.
    fn worst(&self, now: Time) -> Duration {
        let is_recent = |start| now.since(start) < 2 * Ticks::WINDOW;
        if self.window_start.is_some_and(is_recent) {
            self.worst.max(self.worst_before)
        } else {
            Duration::ZERO
        }
    }
}

/// What a leader knows of a follower.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerStatus {
    /// The follower.
    pub id: NodeId,
    /// Up to where its log, on its disk, is equal to the leader's.
    pub match_index: Index,
    /// The next entry to be sent.
    pub next_index: Index,
    /// `probe`, `replicate` or `snapshot`.
    pub state: &'static str,
    /// How long ago it was heard of.
    pub silent: Duration,
    /// How long its last answer to a heartbeat took.
    pub round_trip: Duration,
    /// How slow its disk is, by its own account.
    pub disk: Duration,
    /// Whether there is no room for more on it.
    pub full: bool,
}

impl<D: Disk> Node<D> {
    /// What this node knows of itself.
    #[must_use]
    pub fn status(&self, now: Time) -> Status {
        let (raft, log) = (&self.raft, self.raft.log());
        let counters = self.ledger.wal.counters();
        let peers = raft
            .followers()
            .into_iter()
            .flatten()
            .map(|(id, progress)| PeerStatus {
                id: id.id,
                match_index: progress.match_index,
                next_index: progress.next_index,
                state: match progress.state {
                    ProgressState::Probe { .. } => "probe",
                    ProgressState::Replicate => "replicate",
                    ProgressState::Snapshot => "snapshot",
                },
                silent: now.since(progress.heard),
                round_trip: progress.round_trip,
                disk: progress.disk,
                full: progress.full,
            });
        let members = raft
            .configuration()
            .members()
            .map(|(server, member)| MemberStatus {
                id: server.id,
                incarnation: server.incarnation,
                standing: member.standing.as_str(),
                priority: member.priority,
                peer: member.peer.clone(),
                client: member.client.clone(),
            });
        Status {
            id: self.config.id,
            role: raft.role(),
            term: raft.term(),
            leader: raft.leader(),
            commit_index: raft.commit_index(),
            applied_index: self.applied(),
            first_index: log.first_index(),
            last_index: log.last().index,
            durable_index: log.stable(),
            snapshot_index: self
                .snapshots
                .newest()
                .map_or(Index::ZERO, |s| s.last.index),
            log_bytes: log.bytes() as u64,
            keys: self.machine.len() as u64,
            data_bytes: self.machine.data_bytes(),
            sessions: self.machine.session_count() as u64,
            waiting: self.requests.len() as u64,
            syncs: counters.syncs,
            log_bytes_written: counters.bytes,
            incarnation: self.identity.meta().incarnation,
            birth: self.identity.meta().birth,
            level: raft.configuration().level(),
            notice: self.notice(),
            pending: raft.configuration().pending().map(|(id, _)| id).collect(),
            may_vote: raft.may_vote(),
            removed: self.removal.is_noticed(),
            snapshots_taken: self.snapshots.taken(),
            snapshots_installed: self.install.installed(),
            peers: peers.collect(),
            members: members.collect(),
            members_index: raft.configuration_index(),
            disk: self
                .ledger
                .recent_sync_time(now)
                .max(self.ledger.waiting_since(now)),
            tick_late_max: self.ticks.worst(now),
            late_ticks: self.ticks.late,
            transferee: raft.transferee(),
            disk_full: self.space.is_full(),
            memory_used: self.memory.used(),
            memory_limit: self.config.memory_limit,
            memory_full: self.memory.is_full(),
            state: self.state_check.newest(),
            differs: self.state_check.differs(),
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
    fn the_time_that_recovery_takes_is_no_late_timer() {
        let mut ticks = Ticks::default();
        ticks.note(at(3_000), at(200));
        assert_eq!((ticks.worst(at(3_000)), ticks.late), (Duration::ZERO, 0));
        ticks.note(at(3_300), at(3_200));
        let late = Duration::from_millis(100);
        assert_eq!((ticks.worst(at(3_300)), ticks.late), (late, 1));
    }

    #[test]
    fn a_late_timer_is_told_for_ten_to_twenty_seconds() {
        let mut ticks = Ticks::default();
        ticks.note(at(0), at(0));
        ticks.note(at(1_000), at(900));
        let late = Duration::from_millis(100);
        ticks.note(at(10_500), at(10_500));
        assert_eq!(ticks.worst(at(10_500)), late);
        ticks.note(at(20_600), at(20_600));
        assert_eq!(ticks.worst(at(20_600)), Duration::ZERO);

        // Without a tick in between, too.
        ticks.note(at(20_900), at(20_700));
        assert_ne!(ticks.worst(at(30_000)), Duration::ZERO);
        assert_eq!(ticks.worst(at(60_000)), Duration::ZERO);
        ticks.note(at(60_000), at(60_000));
        assert_eq!(ticks.worst(at(60_000)), Duration::ZERO);
    }
}
