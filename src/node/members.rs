//! Operators: who belongs to the cluster, who leads it, and how a node leaves in order.

use std::collections::BTreeMap;

use log::info;

use crate::disk::Disk;
use crate::node::core::Node;
use crate::node::requests::{Answer, Caller};
use crate::raft::{Change, ChangeError, Configuration, ConfigurationError, TransferError};
use crate::time::Time;
use crate::types::{EntryId, NodeId, Term};

/// How a node can be reached: `ip:port` of its peer port and of its client port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Addresses {
    /// For the other nodes.
    pub peer: String,
    /// For clients.
    pub client: String,
}

/// What an operator is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OperatorAnswer {
    /// What was asked for is so.
    Done,
    /// It was not done.
    Declined {
        /// Why, for the operator.
        reason: String,
        /// Whether it may be otherwise in a moment.
        again: bool,
    },
    /// This node does not lead; who does, if that is known. Nothing was done.
    NotLeader(Option<NodeId>),
    /// Leadership was lost meanwhile: it may or may not come about.
    Unknown,
}

/// What operators have asked for and wait for.
#[derive(Debug, Default)]
pub(super) struct Operators {
    /// A change of the members that began with this entry.
    change: Option<(Caller, EntryId)>,
    /// A hand-over of leadership in this term.
    transfer: Option<(Caller, NodeId, Term)>,
    /// This node is to stop, at the latest then.
    stop: Option<Time>,
    /// What the driver was last told of the members: the version of the configuration, and
    /// whether it was committed.
    told: Option<(u64, bool)>,
}

/// The configuration that a snapshot carries; one that was taken before configurations
/// were part of it is of the first members.
pub(super) fn configuration_in(
    snapshot: &[u8],
    first: &Configuration,
) -> Result<Configuration, ConfigurationError> {
    if snapshot.is_empty() {
        return Ok(first.clone());
    }
    Configuration::decode(snapshot)
}

impl<D: Disk> Node<D> {
    /// Begins a change of the members. `None` while it goes on.
    pub(super) fn begin_change(
        &mut self,
        now: Time,
        caller: Caller,
        changes: &[Change],
    ) -> Option<OperatorAnswer> {
        // The wish before may have been fulfilled in this very batch.
        self.answer_operators();
        match self.raft.propose_change(now, changes) {
            Ok(first) => {
                self.operators.change = Some((caller, first));
                None
            }
            Err(ChangeError::NotLeader) => Some(OperatorAnswer::NotLeader(self.raft.leader())),
            Err(error) => {
                let again = matches!(
                    error,
                    ChangeError::Busy
                        | ChangeError::InProgress
                        | ChangeError::NotReached
                        | ChangeError::NotCaughtUp { .. }
                );
                let reason = error.to_string();
                Some(OperatorAnswer::Declined { reason, again })
            }
        }
    }

    /// Begins to hand leadership over. `None` while it goes on.
    pub(super) fn begin_hand_over(
        &mut self,
        now: Time,
        caller: Caller,
        to: NodeId,
    ) -> Option<OperatorAnswer> {
        self.answer_operators();
        match self.raft.transfer_leadership(now, to) {
            Ok(()) if to == self.config.id => Some(OperatorAnswer::Done),
            Ok(()) => {
                self.operators.transfer = Some((caller, to, self.raft.term()));
                None
            }
            Err(TransferError::NotLeader) => Some(OperatorAnswer::NotLeader(self.raft.leader())),
            Err(error) => Some(OperatorAnswer::Declined {
                reason: error.to_string(),
                again: !matches!(error, TransferError::NotVoter(_)),
            }),
        }
    }

    /// Answers operators whose wish is fulfilled, or will not be.
    pub(super) fn answer_operators(&mut self) {
        if let Some((caller, first)) = self.operators.change
            && let Some(answer) = self.change_outcome(first)
        {
            self.operators.change = None;
            self.out.answers.push((caller, Answer::Change(answer)));
        }
        if let Some((caller, to, term)) = self.operators.transfer
            && let Some(answer) = self.hand_over_outcome(to, term)
        {
            self.operators.transfer = None;
            self.out.answers.push((caller, Answer::HandOver(answer)));
        }
    }

    fn change_outcome(&self, first: EntryId) -> Option<OperatorAnswer> {
        let committed = self.raft.commit_index() >= first.index;
        if committed && !self.raft.change_is_pending() {
            return Some(OperatorAnswer::Done);
        }
        let leads = self.raft.is_leader() && self.raft.term() == first.term;
        (!leads).then_some(OperatorAnswer::Unknown)
    }

    fn hand_over_outcome(&self, to: NodeId, term: Term) -> Option<OperatorAnswer> {
        let declined = |reason| {
            Some(OperatorAnswer::Declined {
                reason,
                again: true,
            })
        };
        if self.raft.is_leader() && self.raft.term() == term {
            return match self.raft.transferee() {
                Some(_) => None,
                None => declined(format!("{to} did not take over in time")),
            };
        }
        match self.raft.leader() {
            Some(leader) if leader == to => Some(OperatorAnswer::Done),
            Some(leader) => declined(format!("{leader} leads now, not {to}")),
            None => None, // An election goes on; it ends one way or the other.
        }
    }

    /// Takes leave: a leader hands its leadership over, takes no writes any more, and
    /// answers what it has begun. [`Node::may_stop`] says when that is done.
    pub fn begin_stop(&mut self, now: Time) {
        if self.operators.stop.is_some() {
            return;
        }
        let (_, patience) = self.config.election_timeout;
        let leads = self.raft.is_leader();
        self.operators.stop = Some(if leads { now + patience } else { now });
        if let Some(to) = self.raft.best_successor(now)
            && let Err(error) = self.raft.transfer_leadership(now, to)
        {
            info!(target: "Raft", "stop without handing leadership over: reason={error}");
            self.operators.stop = Some(now);
        }
    }

    /// Whether a node that takes leave may go: it leads no more, or nobody takes over in
    /// time. Never before [`Node::begin_stop`].
    #[must_use]
    pub fn may_stop(&self, now: Time) -> bool {
        let handing_over = self.raft.transferee().is_some();
        let handed_over = !self.raft.is_leader() && self.raft.leader().is_none();
        match self.operators.stop {
            Some(deadline) => now >= deadline || !(handing_over || handed_over),
            None => false,
        }
    }

    /// When [`Node::may_stop`] is to be asked again.
    pub(super) fn stop_deadline(&self) -> Time {
        self.operators.stop.unwrap_or(Time::NEVER)
    }

    /// Tells the driver whom this node talks to, when that has changed: all members, and
    /// who is one no more until that is committed.
    pub(super) fn tell_members(&mut self) {
        let committed = self.raft.commit_index() >= self.raft.configuration_index();
        let state = (self.raft.configuration_version(), committed);
        if self.operators.told.replace(state) == Some(state) {
            return;
        }
        let mut members = BTreeMap::new();
        for configuration in [
            self.raft.configuration_at(self.raft.commit_index()),
            self.raft.configuration(),
        ] {
            for (id, member) in configuration.members() {
                let (peer, client) = (member.peer.clone(), member.client.clone());
                members.insert(id, Addresses { peer, client });
            }
        }
        self.out.members = Some(members);
    }
}
