//! What must hold after each step, seen from outside all nodes at once.

use std::collections::BTreeMap;

use crate::disk::SimDisk;
use crate::node::Node;
use crate::raft::{Body, Message, check_log};
use crate::types::{EntryId, Index, NodeId, Payload, Term};

/// What is known of the cluster's past.
#[derive(Debug, Default)]
pub(super) struct Checker {
    leaders: BTreeMap<Term, NodeId>,
    /// The committed log, from index 1 on: each entry and the checksum of its payload.
    committed: Vec<(EntryId, u32)>,
    /// Up to where each node's commit index has been looked at.
    seen: BTreeMap<NodeId, Index>,
    votes: BTreeMap<(NodeId, Term), NodeId>,
    /// The latest term that each node has spoken of to others.
    spoken: BTreeMap<NodeId, Term>,
    /// What each node's disk had confirmed when it was last looked at.
    durable: BTreeMap<NodeId, EntryId>,
    /// The checksum of the state machine at each applied index that was looked at.
    states: BTreeMap<Index, u32>,
}

fn payload_checksum(payload: &Payload) -> u32 {
    match payload {
        Payload::Noop => 0,
        Payload::Command(bytes) | Payload::Config(bytes) => crc32fast::hash(bytes) | 1,
    }
}

impl Checker {
    /// A node has done something.
    pub(super) fn check_node(&mut self, node: &Node<SimDisk>) {
        let raft = node.raft();
        self.check_election_safety(node);
        self.check_committed(node);
        let stable = raft.log().stable();
        if let Some(term) = raft.log().term_at(stable) {
            self.durable.insert(
                raft.id(),
                EntryId {
                    term,
                    index: stable,
                },
            );
        }
        assert!(
            node.applied() <= raft.commit_index(),
            "only committed entries are applied"
        );
    }

    /// At most one leader a term (§5.2), and it has every committed entry (§5.4).
    fn check_election_safety(&mut self, node: &Node<SimDisk>) {
        let raft = node.raft();
        if !raft.is_leader() {
            return;
        }
        let leader = *self.leaders.entry(raft.term()).or_insert(raft.id());
        assert_eq!(leader, raft.id(), "two leaders in term {}", raft.term());
        if let Some((last, _)) = self.committed.last()
            && last.term < raft.term()
        {
            let has = raft.log().contains(*last) || raft.log().base().index >= last.index;
            assert!(
                has,
                "leader {} of term {} lacks the committed entry {last}",
                raft.id(),
                raft.term()
            );
        }
    }

    /// All nodes commit the same entries (State Machine Safety, §5.4.3).
    fn check_committed(&mut self, node: &Node<SimDisk>) {
        let raft = node.raft();
        let mut index = self.seen.get(&raft.id()).copied().unwrap_or_default();
        while index < raft.commit_index() {
            index = index.next();
            let place = index.0 as usize - 1;
            let entry = raft.log().get(index);
            match (self.committed.get(place), entry) {
                (Some(known), Some(entry)) => {
                    let own = (entry.id, payload_checksum(&entry.payload));
                    assert_eq!(*known, own, "node {} committed another entry", raft.id());
                }
                (None, Some(entry)) => {
                    let own = (entry.id, payload_checksum(&entry.payload));
                    self.committed.push(own);
                }
                (Some(_), None) => {} // It came with a snapshot.
                (None, None) => panic!("entry {index} was compacted before anyone committed it"),
            }
        }
        self.seen.insert(raft.id(), index);
    }

    /// A node says something to another.
    pub(super) fn check_message(&mut self, message: &Message) {
        let vote = match message.body {
            Body::Vote { .. } => Some(message.from),
            Body::VoteReply { granted: true } => Some(message.to),
            _ => None,
        };
        if let Some(candidate) = vote {
            let first = *self
                .votes
                .entry((message.from, message.term))
                .or_insert(candidate);
            assert_eq!(
                first, candidate,
                "{} votes twice in term {}",
                message.from, message.term
            );
        }
        // A pre-vote, and its granted answer, speak of a term that nobody is in.
        if !matches!(
            message.body,
            Body::PreVote { .. } | Body::PreVoteReply { granted: true }
        ) {
            let spoken = self.spoken.entry(message.from).or_default();
            *spoken = (*spoken).max(message.term);
        }
    }

    /// A node has come back from what its disk had.
    pub(super) fn check_restart(&mut self, node: &Node<SimDisk>) {
        let raft = node.raft();
        let id = raft.id();
        let spoken = self.spoken.get(&id).copied().unwrap_or_default();
        assert!(
            raft.term() >= spoken,
            "{id} has spoken of term {spoken} and comes back in {}",
            raft.term()
        );
        if let Some(candidate) = self.votes.get(&(id, raft.term())) {
            assert_eq!(
                raft.hard_state().voted_for,
                Some(*candidate),
                "{id} has forgotten its vote in term {}",
                raft.term()
            );
        }
        if let Some(durable) = self.durable.get(&id) {
            let log = raft.log();
            assert!(
                log.contains(*durable) || log.base().index >= durable.index,
                "{id} has lost entry {durable}, which its disk had confirmed"
            );
        }
        check_log(raft.log());
        self.seen.insert(id, Index::ZERO);
    }

    /// A node has lost its directory, and with it all that it promised.
    pub(super) fn forget(&mut self, id: NodeId) {
        self.spoken.remove(&id);
        self.durable.remove(&id);
        self.votes.retain(|(voter, _), _| *voter != id);
        self.seen.remove(&id);
    }

    /// The state of a node is that of all others at the same applied index.
    pub(super) fn check_state(&mut self, node: &Node<SimDisk>) {
        let checksum = node.machine().checksum();
        let known = *self.states.entry(node.applied()).or_insert(checksum);
        assert_eq!(
            known,
            checksum,
            "the state of {} differs at index {}",
            node.raft().id(),
            node.applied()
        );
    }

    /// How many entries were committed.
    pub(super) fn committed(&self) -> u64 {
        self.committed.len() as u64
    }

    /// How many terms had a leader.
    pub(super) fn leaders(&self) -> usize {
        self.leaders.len()
    }
}
