//! What can be seen of a node from outside.

use std::collections::BTreeMap;

use crate::raft::configuration::Configuration;
use crate::raft::core::{Raft, Role};
use crate::raft::log::Log;
use crate::raft::progress::Progress;
use crate::raft::quorum::Quorum;
use crate::types::{Birth, HardState, Index, NodeId, Server, Term};

/// What a node is doing, for status and logs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RoleName {
    /// Follows whoever leads.
    Follower,
    /// Asks whether it would win an election.
    PreCandidate,
    /// Asks for votes.
    Candidate,
    /// Leads the term.
    Leader,
}

impl RoleName {
    /// As `status` prints it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            RoleName::Follower => "follower",
            RoleName::PreCandidate => "pre-candidate",
            RoleName::Candidate => "candidate",
            RoleName::Leader => "leader",
        }
    }
}

impl Raft {
    /// This node.
    #[must_use]
    pub fn id(&self) -> NodeId {
        self.config.server.id
    }

    /// This node and its data directory.
    #[must_use]
    pub fn server(&self) -> Server {
        self.config.server
    }

    /// The cluster that this node belongs to, by the latest configuration in its log.
    #[must_use]
    pub fn birth(&self) -> Birth {
        self.membership.current().birth()
    }

    /// Who belongs to the cluster, by the latest word in the log.
    #[must_use]
    pub fn configuration(&self) -> &Configuration {
        self.membership.current()
    }

    /// Who decides by that.
    #[must_use]
    pub fn quorum(&self) -> &Quorum {
        self.membership.quorum()
    }

    /// Where the log says so; what is not committed yet may still change.
    #[must_use]
    pub fn configuration_index(&self) -> Index {
        self.membership.index()
    }

    /// Changes with each change of [`Raft::configuration`].
    #[must_use]
    pub fn configuration_version(&self) -> u64 {
        self.membership.version()
    }

    /// Who belonged to the cluster at `index`, which is not before the snapshot.
    #[must_use]
    pub fn configuration_at(&self, index: Index) -> &Configuration {
        self.membership.at(index)
    }

    /// The current term.
    #[must_use]
    pub fn term(&self) -> Term {
        self.hard_state.term
    }

    /// The current term and vote.
    #[must_use]
    pub fn hard_state(&self) -> HardState {
        self.hard_state
    }

    /// Who leads the current term, as far as this node knows.
    #[must_use]
    pub fn leader(&self) -> Option<NodeId> {
        self.leader.map(|server| server.id)
    }

    /// Whether this node leads.
    #[must_use]
    pub fn is_leader(&self) -> bool {
        matches!(self.role, Role::Leader(_))
    }

    /// Whether this directory takes part in elections: a configuration names it among the
    /// voters, or, below feature level 1, it is established.
    #[must_use]
    pub fn may_vote(&self) -> bool {
        match self.membership.current().level() {
            0 => self.config.established,
            _ => self.membership.quorum().contains(self.config.server),
        }
    }

    /// What this node is doing.
    #[must_use]
    pub fn role(&self) -> RoleName {
        match self.role {
            Role::Follower => RoleName::Follower,
            Role::PreCandidate(_) => RoleName::PreCandidate,
            Role::Candidate(_) => RoleName::Candidate,
            Role::Leader(_) => RoleName::Leader,
        }
    }

    /// Up to where entries are committed.
    #[must_use]
    pub fn commit_index(&self) -> Index {
        self.commit_index
    }

    /// Where the leader of this term last said its log ends.
    #[must_use]
    pub fn leader_last(&self) -> Option<Index> {
        self.leader_last
    }

    /// The log.
    #[must_use]
    pub fn log(&self) -> &Log {
        &self.log
    }

    /// What the leader knows of its followers; empty elsewhere.
    #[must_use]
    pub fn followers(&self) -> Option<&BTreeMap<Server, Progress>> {
        match &self.role {
            Role::Leader(leader) => Some(&leader.followers),
            _ => None,
        }
    }

    pub(super) fn progress_mut(&mut self, peer: Server) -> Option<&mut Progress> {
        match &mut self.role {
            Role::Leader(leader) => leader.followers.get_mut(&peer),
            _ => None,
        }
    }
}
