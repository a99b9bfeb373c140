//! Steps from one configuration to the next, as operators ask for them and as the leader
//! takes them.

use crate::limits;
use crate::raft::configuration::{Configuration, Member, Standing};
use crate::types::{Incarnation, NodeId, Server};

/// A change of the members as an operator asks for it: operators speak of nodes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// A new member, which does not vote yet.
    AddLearner {
        /// An id that no member has.
        id: NodeId,
        /// See [`Member::peer`].
        peer: String,
        /// See [`Member::client`].
        client: String,
    },
    /// A learner votes from now on.
    Promote(NodeId),
    /// A voter stays as a learner.
    Demote(NodeId),
    /// A member, or a first member that is still pending, is removed.
    Remove(NodeId),
    /// A member is reached at other addresses from now on.
    Move {
        /// The member.
        id: NodeId,
        /// See [`Member::peer`].
        peer: String,
        /// See [`Member::client`].
        client: String,
    },
}

impl Change {
    /// The node that changes.
    #[must_use]
    pub fn id(&self) -> NodeId {
        match self {
            Change::AddLearner { id, .. }
            | Change::Promote(id)
            | Change::Demote(id)
            | Change::Remove(id)
            | Change::Move { id, .. } => *id,
        }
    }
}

/// One step of a change: of a server, where an operator names a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// A new member.
    Add(Server, Member),
    /// A member votes from now on.
    Promote(Server),
    /// A voter stays as a learner.
    Demote(Server),
    /// A member leaves.
    Remove(Server),
    /// A member has other addresses.
    Move {
        /// The member.
        server: Server,
        /// See [`Member::peer`].
        peer: String,
        /// See [`Member::client`].
        client: String,
    },
    /// A pending first member is not waited for any more.
    Forget(NodeId),
}

impl Step {
    /// The server that changes.
    pub(super) fn server(&self) -> Server {
        match self {
            Step::Add(server, _)
            | Step::Promote(server)
            | Step::Demote(server)
            | Step::Remove(server)
            | Step::Move { server, .. } => *server,
            Step::Forget(id) => Server::any(*id),
        }
    }
}

/// Why a configuration does not change. Nothing was done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ChangeError {
    /// This node does not lead.
    #[error("not the leader")]
    NotLeader,
    /// The leader has not committed an entry of its term yet, transfers its leadership,
    /// or too much waits to be committed. Try again.
    #[error("the leader is busy, try again")]
    Busy,
    /// One change at a time.
    #[error("another change of the members is under way, try again when it is done")]
    InProgress,
    /// Nothing was asked for.
    #[error("there is nothing to change")]
    Nothing,
    /// A node is named twice.
    #[error("{0} is named twice")]
    Twice(NodeId),
    /// A member already.
    #[error("{0} is a member already")]
    AlreadyMember(NodeId),
    /// Another member has that address.
    #[error("{0} has that address already")]
    AddressInUse(NodeId),
    /// Not a member.
    #[error("{0} is not a member")]
    NotMember(NodeId),
    /// A configuration names the data directory of each member, so the node has to be
    /// heard of before it is added.
    #[error("{0} has not answered the leader yet; is it running, with --join and these addresses?")]
    NotIntroduced(NodeId),
    /// A new directory is taking the place of the old one.
    #[error(
        "a new data directory of {0} is taking the place of the old one, try again when that is done"
    )]
    Exchanging(NodeId),
    /// It votes already.
    #[error("{0} votes already")]
    AlreadyVoter(NodeId),
    /// It does not vote.
    #[error("{0} does not vote")]
    NotVoter(NodeId),
    /// They would have to commit the change, and every later one.
    #[error("a majority of the proposed voters is unreachable")]
    NotReached,
    /// Somebody has to vote.
    #[error("the last voter has to stay")]
    NoVoters,
    /// There are enough.
    #[error("a cluster has at most {max} members", max = limits::MEMBERS_MAX)]
    TooMany,
    /// It would hold up the cluster: try again when its log is nearly the leader's.
    #[error("{id} has not caught up: it lacks {behind} entries")]
    NotCaughtUp {
        /// The learner.
        id: NodeId,
        /// The number of entries that it lacks.
        behind: u64,
    },
}

impl Configuration {
    /// The step that an operator's change asks for. `incarnation` is that of the node's
    /// directory, if the node is connected.
    ///
    /// # Errors
    /// See [`ChangeError`].
    pub fn resolve(
        &self,
        change: &Change,
        incarnation: Option<Incarnation>,
    ) -> Result<Step, ChangeError> {
        let id = change.id();
        let mut of_id = self.members_of(id).map(|(server, _)| server);
        let (first, second) = (of_id.next(), of_id.next());
        if second.is_some() {
            return Err(ChangeError::Exchanging(id));
        }
        let member = first.ok_or(ChangeError::NotMember(id));
        match change {
            Change::AddLearner { .. } if first.is_some() => Err(ChangeError::AlreadyMember(id)),
            Change::AddLearner { peer, client, .. } => {
                let server = match (self.level, incarnation) {
                    (0, _) => Server::any(id),
                    (_, Some(incarnation)) => Server { id, incarnation },
                    (_, None) => return Err(ChangeError::NotIntroduced(id)),
                };
                let member = Member {
                    standing: Standing::Learner,
                    priority: 0,
                    peer: peer.clone(),
                    client: client.clone(),
                };
                Ok(Step::Add(server, member))
            }
            Change::Promote(_) => member.map(Step::Promote),
            Change::Demote(_) => member.map(Step::Demote),
            Change::Remove(_) if first.is_none() && self.pending.contains_key(&id) => {
                Ok(Step::Forget(id))
            }
            Change::Remove(_) => member.map(Step::Remove),
            Change::Move { peer, client, .. } => member.map(|server| Step::Move {
                server,
                peer: peer.clone(),
                client: client.clone(),
            }),
        }
    }
}
