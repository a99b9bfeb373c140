//! What operators see.

use crate::disk::Disk;
use crate::node::core::Node;
use crate::raft::{ProgressState, RoleName};
use crate::types::{Index, NodeId, Term};

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
    /// Whether the node takes part in elections.
    pub may_vote: bool,
    /// Snapshots taken since the start.
    pub snapshots_taken: u64,
    /// Snapshots received since the start.
    pub snapshots_installed: u64,
    /// What a leader knows of its followers.
    pub peers: Vec<PeerStatus>,
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
}

impl<D: Disk> Node<D> {
    /// What this node knows of itself.
    #[must_use]
    pub fn status(&self) -> Status {
        let (raft, log) = (&self.raft, self.raft.log());
        let counters = self.ledger.wal.counters();
        let peers = raft
            .followers()
            .into_iter()
            .flatten()
            .map(|(id, progress)| PeerStatus {
                id: *id,
                match_index: progress.match_index,
                next_index: progress.next_index,
                state: match progress.state {
                    ProgressState::Probe { .. } => "probe",
                    ProgressState::Replicate => "replicate",
                    ProgressState::Snapshot => "snapshot",
                },
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
            incarnation: self.config.incarnation,
            may_vote: raft.may_vote(),
            snapshots_taken: self.snapshots.taken(),
            snapshots_installed: self.install.installed(),
            peers: peers.collect(),
        }
    }
}
