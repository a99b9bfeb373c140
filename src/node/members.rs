//! Operators: who belongs to the cluster, who leads it, and how a node leaves in order.

use std::collections::BTreeMap;
use std::time::Duration;

use log::{info, warn};

use crate::disk::Disk;
use crate::node::core::Node;
use crate::node::identity::Facts;
use crate::node::requests::{Answer, Caller};
use crate::raft::{Change, ChangeError, Configuration, ConfigurationError, TransferError};
use crate::time::Time;
use crate::types::{EntryId, NodeId, Server, Term};

/// How a node can be reached: `ip:port` of its peer port and of its client port.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
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

/// How long a node that is to be added is dialled after the operator's last try.
const CANDIDATE_DIALLED: Duration = Duration::from_secs(30);

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
    /// Nodes that an operator wants to add, and until when they are dialled: a
    /// configuration names their directories, so they have to be heard of first.
    candidates: BTreeMap<NodeId, (Addresses, Time)>,
    /// Members that have introduced themselves with other addresses than the log has.
    moved: BTreeMap<NodeId, Addresses>,
}

impl Operators {
    /// Addresses have changed: the driver is told of all members again.
    pub(super) fn told_again(&mut self) {
        self.told = None;
    }
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
                if let ChangeError::NotIntroduced(_) = error {
                    self.dial_candidates(now, changes);
                }
                let again = matches!(
                    error,
                    ChangeError::Busy
                        | ChangeError::InProgress
                        | ChangeError::NotIntroduced(_)
                        | ChangeError::Exchanging(_)
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
        let leads = self.raft.is_leader() && self.raft.term() == first.term;
        let committed = self.raft.commit_index() >= first.index;
        if committed && !self.raft.change_is_pending() && (leads || self.has_committed(first)) {
            return Some(OperatorAnswer::Done);
        }
        (!leads).then_some(OperatorAnswer::Unknown)
    }

    /// Whether this very entry is in the committed log, as far as that is known: another
    /// leader may have put another one in its place.
    fn has_committed(&self, id: EntryId) -> bool {
        self.raft.commit_index() >= id.index && self.raft.log().contains(id)
    }

    /// Dials the nodes that are to be added, for as long as an operator's command may last
    /// between two tries.
    fn dial_candidates(&mut self, now: Time, changes: &[Change]) {
        for change in changes {
            if let Change::AddLearner { id, peer, client } = change {
                let addresses = Addresses {
                    peer: peer.clone(),
                    client: client.clone(),
                };
                let until = now + CANDIDATE_DIALLED;
                self.operators.candidates.insert(*id, (addresses, until));
                self.operators.told = None;
            }
        }
    }

    /// A peer has introduced itself with its addresses. Those of a member that has moved are
    /// dialled until the log has them too.
    pub(super) fn note_addresses(&mut self, peer: NodeId, facts: &Facts) {
        let server = Server {
            id: peer,
            incarnation: facts.incarnation,
        };
        let Some(member) = self.raft.configuration().get(server) else {
            return;
        };
        let Addresses { peer: at, client } = &facts.addresses;
        let moved = !at.is_empty() && (at, client) != (&member.peer, &member.client);
        let addresses = moved.then(|| facts.addresses.clone());
        if self.operators.moved.get(&peer) != addresses.as_ref() {
            if let Some(now) = &addresses {
                warn!(target: "Raft", "member has moved: node={peer} log={} now={}; tell the cluster: raft_client members move {} {} {}", member.peer, now.peer, peer.0, now.peer, now.client);
            }
            match addresses {
                Some(addresses) => self.operators.moved.insert(peer, addresses),
                None => self.operators.moved.remove(&peer),
            };
            self.operators.told = None;
        }
    }

    /// Warns where the log has other addresses for a node than the file.
    pub(super) fn compare_addresses(&self) {
        for (server, member) in self.raft.configuration().members() {
            let mut file = self
                .config
                .first_members
                .members_of(server.id)
                .map(|(_, m)| m);
            if let Some(file) = file.next()
                && (&file.peer, &file.client) != (&member.peer, &member.client)
            {
                warn!(target: "Raft", "the log has other addresses than the cluster file, and is right: node={} log={},{} file={},{} (all addresses changed? start with --addresses-from-file)", server.id, member.peer, member.client, file.peer, file.client);
            }
        }
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

    /// Tells the driver which nodes this one talks to, when that has changed: all members,
    /// those removed by a change that is not committed, first members that are pending, and
    /// nodes that an operator wants to add. Before a node is founded or adopted these are
    /// the first members.
    pub(super) fn tell_members(&mut self, now: Time) {
        let candidates = self.operators.candidates.len();
        if candidates > 0 {
            let raft = &self.raft;
            self.operators
                .candidates
                .retain(|id, (_, until)| *until > now && !raft.configuration().contains_id(*id));
        }
        let committed = self.raft.commit_index() >= self.raft.configuration_index();
        let state = (self.raft.configuration_version(), committed);
        let same = self.operators.candidates.len() == candidates;
        if self.operators.told.replace(state) == Some(state) && same {
            return;
        }
        let current = self.raft.configuration();
        let mut members = BTreeMap::new();
        let mut add = |id: NodeId, peer: &str, client: &str| {
            let (peer, client) = (peer.to_owned(), client.to_owned());
            members.insert(id, Addresses { peer, client });
        };
        for (id, (addresses, _)) in &self.operators.candidates {
            add(*id, &addresses.peer, &addresses.client);
        }
        let before = self.raft.configuration_at(self.raft.commit_index());
        let first = current.is_empty().then_some(&self.config.first_members);
        for configuration in first.into_iter().chain([before, current]) {
            let of_members = configuration.members().map(|(server, m)| (server.id, m));
            for (id, member) in of_members.chain(configuration.pending()) {
                add(id, &member.peer, &member.client);
            }
        }
        for over in &self.identity.meta().overrides {
            let replaced = members
                .get(&over.id)
                .is_some_and(|a| (&a.peer, &a.client) == (&over.replaced.0, &over.replaced.1));
            if replaced {
                let (peer, client) = over.addresses.clone();
                members.insert(over.id, Addresses { peer, client });
            }
        }
        for (id, addresses) in &self.operators.moved {
            if members.contains_key(id) {
                members.insert(*id, addresses.clone());
            }
        }
        self.out.members = Some(members);
    }
}
