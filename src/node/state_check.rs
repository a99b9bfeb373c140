//! Replicas hold each other's states against their own.
//!
//! Each node hashes its state whenever it has applied an entry whose index is a multiple of
//! [`NodeConfig::state_check_entries`](super::NodeConfig). The leader's heartbeats say what
//! its own hash was at one of these indexes, followers answer with theirs, and the leader
//! says when a majority of the voters has the same as it has. Who then has another one is
//! the odd one out, and stops: its state cannot be trusted, nor whatever it would vote for,
//! answer or send on. If a majority agrees on another hash than the leader's, the leader is.
//! Where no majority agrees, nobody can tell who is right: it is reported, and all go on.

use std::collections::VecDeque;
use std::time::Duration;

use log::error;

use crate::disk::Disk;
use crate::node::core::Node;
use crate::raft::{Body, Message, Quorum, StateClaim, StateHash};
use crate::time::Time;
use crate::types::{Index, NodeId, Server, Term};

/// How many of its hashes a node remembers.
const REMEMBERED: usize = 64;
/// For how long one hash is asked about at least, so that followers that are a little behind
/// can answer.
const ASKED: Duration = Duration::from_secs(1);

/// What a node knows of its own states and of others'.
#[derive(Debug)]
pub(super) struct StateCheck {
    /// A power of two.
    every: u64,
    /// What was asked and said is of this term.
    term: Term,
    /// The own hashes, the newest last.
    own: VecDeque<StateHash>,
    /// What the leader said last that is of use.
    claim: Option<StateClaim>,
    /// As a leader: what the others are asked about, since when, and what they said.
    asked: Option<(StateHash, Time)>,
    answers: Vec<(Server, u64)>,
    confirmed: bool,
    /// Where another node was seen to differ, and which.
    differs: Option<(Index, NodeId)>,
}

impl StateCheck {
    pub(super) fn new(every: u64) -> StateCheck {
        assert!(every.is_power_of_two(), "so that a mask tells");
        StateCheck {
            every,
            term: Term::ZERO,
            own: VecDeque::with_capacity(REMEMBERED),
            claim: None,
            asked: None,
            answers: Vec::new(),
            confirmed: false,
            differs: None,
        }
    }

    /// Whether the state is to be hashed once this is applied.
    pub(super) fn is_due(&self, index: Index) -> bool {
        index.0 & (self.every - 1) == 0
    }

    /// The state was hashed.
    pub(super) fn note(&mut self, at: StateHash) {
        if self.own.len() == REMEMBERED {
            self.own.pop_front();
        }
        self.own.push_back(at);
    }

    /// The state was replaced by another one of the same log.
    pub(super) fn forget(&mut self) {
        self.own.clear();
    }

    /// What was asked and said in another term is of another leader.
    fn enter(&mut self, term: Term) {
        if std::mem::replace(&mut self.term, term) == term {
            return;
        }
        (self.claim, self.asked, self.confirmed) = (None, None, false);
        self.answers.clear();
    }

    pub(super) fn newest(&self) -> Option<StateHash> {
        self.own.back().copied()
    }

    /// Where another node differs, and which it is: the leader, for a follower.
    pub(super) fn differs(&self) -> Option<(Index, NodeId)> {
        self.differs
    }

    fn own_at(&self, index: Index) -> Option<StateHash> {
        let at = self.own.binary_search_by_key(&index, |at| at.index).ok()?;
        Some(self.own[at])
    }

    /// What a leader's heartbeat says.
    fn ask(&mut self, now: Time) -> Option<StateClaim> {
        let newest = self.newest()?;
        let is_over = self
            .asked
            .is_none_or(|(at, since)| at.index < newest.index && now.since(since) >= ASKED);
        if is_over {
            self.asked = Some((newest, now));
            self.confirmed = false;
            self.answers.clear();
        }
        let (at, _) = self.asked?;
        let confirmed = self.confirmed;
        Some(StateClaim { at, confirmed })
    }

    /// What a follower answers to what it was asked.
    fn answer(&self) -> Option<StateHash> {
        self.own_at(self.claim?.at.index)
    }

    /// The leader has said what its state was. What it says of a later index replaces it only
    /// once the own state has come so far.
    fn hear_claim(&mut self, claim: StateClaim) {
        let waits = |known: StateClaim| {
            self.newest().is_none_or(|own| own.index < known.at.index)
                && known.at.index != claim.at.index
        };
        if !self.claim.is_some_and(waits) {
            self.claim = Some(claim);
        }
    }

    /// Why this follower is the odd one out, if it is.
    fn judge_claim(&mut self, leader: NodeId) -> Option<String> {
        let claim = self.claim?;
        let own = self.own_at(claim.at.index)?;
        if own.hash == claim.at.hash {
            self.differs = None;
            return None;
        }
        self.report(own, leader, claim.at.hash);
        claim.confirmed.then(|| odd_one_out(own, claim.at.hash))
    }

    /// A follower has said what its state was.
    fn hear_answer(&mut self, from: Server, at: StateHash) {
        if self.asked.is_none_or(|(asked, _)| asked.index != at.index) {
            return;
        }
        match self.answers.iter_mut().find(|(id, _)| *id == from) {
            Some((_, hash)) => *hash = at.hash,
            None => self.answers.push((from, at.hash)),
        }
    }

    /// Why this leader is the odd one out, if it is. Notes whether a majority has its state.
    fn judge_answers(&mut self, own_server: Server, quorum: &Quorum) -> Option<String> {
        let (own, _) = self.asked?;
        let hash_of = |of: Server| match of == own_server {
            true => Some(own.hash),
            false => self
                .answers
                .iter()
                .find(|(from, _)| *from == of)
                .map(|(_, hash)| *hash),
        };
        let agree_on = |hash: u64| quorum.is_met(|of| hash_of(of) == Some(hash));
        self.confirmed = agree_on(own.hash);
        let other = self.answers.iter().find(|(_, hash)| *hash != own.hash);
        let Some(&(other, hash)) = other else {
            self.differs = None;
            return None;
        };
        let is_odd = agree_on(hash);
        self.report(own, other.id, hash);
        is_odd.then(|| odd_one_out(own, hash))
    }

    /// Once for each index.
    fn report(&mut self, own: StateHash, other: NodeId, hash: u64) {
        let found = Some((own.index, other));
        if self.differs != found {
            self.differs = found;
            error!(target: "Raft", "replicas differ: index={} own={:016x} {other}={hash:016x}", own.index, own.hash);
        }
    }
}

fn odd_one_out(own: StateHash, theirs: u64) -> String {
    format!(
        "the state of this node differs from that of a majority: at index {} it is {:016x}, theirs \
         {theirs:016x}; keep a copy of the data directory for whoever looks for the reason, then \
         move it away and let the node catch up from its peers",
        own.index, own.hash
    )
}

impl<D: Disk> Node<D> {
    /// Takes in what a message says of its sender's state; to be called when the core has
    /// taken the message in.
    pub(super) fn compare_states(&mut self, from: Server, term: Term, said: &Said) {
        if self.failure().is_some() || term != self.raft.term() {
            return;
        }
        self.state_check.enter(self.raft.term());
        let configuration = self.raft.configuration();
        let own = configuration.counted(self.raft.server());
        let verdict = match said {
            Said::Claim(claim) if self.raft.leader() == Some(from.id) => {
                self.state_check.hear_claim(*claim);
                self.state_check.judge_claim(from.id)
            }
            Said::Answer(at) if self.raft.is_leader() => {
                self.state_check
                    .hear_answer(configuration.counted(from), *at);
                self.state_check.judge_answers(own, self.raft.quorum())
            }
            _ => None,
        };
        if let Some(why) = verdict {
            self.fail(why);
        }
    }

    /// Notes the hash of the state if it is due, and holds it against what the leader said.
    #[cold]
    pub(super) fn hash_state(&mut self, index: Index) {
        let hash = self.machine.state_hash();
        self.state_check.note(StateHash { index, hash });
        self.state_check.enter(self.raft.term());
        if let Some(leader) = self.raft.leader()
            && !self.raft.is_leader()
            && let Some(why) = self.state_check.judge_claim(leader)
        {
            self.fail(why);
        }
    }
}

/// What a message says of its sender's state.
#[derive(Clone, Copy, Debug)]
pub(super) enum Said {
    Claim(StateClaim),
    Answer(StateHash),
}

impl Said {
    /// What `message` says.
    pub(super) fn of(message: &Message) -> Option<Said> {
        match message.body {
            Body::Heartbeat { state, .. } => state.map(Said::Claim),
            Body::HeartbeatReply { state, .. } => state.map(Said::Answer),
            _ => None,
        }
    }
}

impl StateCheck {
    /// Puts into a heartbeat, or into the answer to one, what it has to say of the state.
    pub(super) fn annotate(&mut self, now: Time, message: &mut Message) {
        if !matches!(
            message.body,
            Body::Heartbeat { .. } | Body::HeartbeatReply { .. }
        ) {
            return;
        }
        self.enter(message.term);
        match &mut message.body {
            Body::Heartbeat { state, .. } => *state = self.ask(now),
            Body::HeartbeatReply { state, .. } => *state = self.answer(),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(index: u64, hash: u64) -> StateHash {
        let index = Index(index);
        StateHash { index, hash }
    }

    fn claim(index: u64, hash: u64, confirmed: bool) -> StateClaim {
        let at = at(index, hash);
        StateClaim { at, confirmed }
    }

    fn with_own(hashes: &[(u64, u64)]) -> StateCheck {
        let mut check = StateCheck::new(8);
        hashes
            .iter()
            .for_each(|(index, hash)| check.note(at(*index, *hash)));
        check
    }

    fn quorum(voters: u64) -> Quorum {
        Quorum::new((0..voters).map(server).collect(), Vec::new())
    }

    fn server(id: u64) -> Server {
        Server::new(id, 1)
    }

    const LEADER: NodeId = NodeId(0);

    #[test]
    fn a_follower_that_differs_from_a_majority_stops_and_says_what_to_do() {
        let mut check = with_own(&[(8, 1), (16, 2)]);
        check.hear_claim(claim(16, 3, false));
        assert_eq!(
            check.judge_claim(LEADER),
            None,
            "nobody knows yet who is right"
        );
        assert_eq!(check.differs(), Some((Index(16), LEADER)));
        assert_eq!(check.answer(), Some(at(16, 2)));
        check.hear_claim(claim(16, 3, true));
        let why = check.judge_claim(LEADER).expect("it is the odd one out");
        assert!(
            why.contains("index 16") && why.contains("catch up"),
            "{why}"
        );
    }

    #[test]
    fn a_follower_that_agrees_goes_on_and_one_that_is_behind_compares_when_it_is_there() {
        let mut check = with_own(&[(8, 1)]);
        check.hear_claim(claim(8, 1, true));
        assert_eq!(check.judge_claim(LEADER), None);
        check.hear_claim(claim(16, 3, false));
        // What comes later must not push away what is waited for.
        check.hear_claim(claim(24, 4, true));
        assert_eq!((check.judge_claim(LEADER), check.answer()), (None, None));
        check.hear_claim(claim(16, 3, true));
        check.note(at(16, 2));
        assert!(check.judge_claim(LEADER).is_some());
    }

    #[test]
    fn a_leader_asks_about_one_index_for_a_while_and_says_when_a_majority_agrees() {
        let mut check = with_own(&[(8, 1)]);
        assert_eq!(check.ask(Time::ZERO), Some(claim(8, 1, false)));
        check.note(at(16, 2));
        let soon = Time::ZERO + ASKED / 2;
        assert_eq!(check.ask(soon), Some(claim(8, 1, false)));
        check.hear_answer(server(1), at(8, 1));
        check.hear_answer(server(2), at(16, 9));
        assert_eq!(check.judge_answers(server(0), &quorum(5)), None);
        assert_eq!(check.ask(soon), Some(claim(8, 1, false)), "two of five");
        check.hear_answer(server(2), at(8, 1));
        assert_eq!(check.judge_answers(server(0), &quorum(5)), None);
        assert_eq!(check.ask(soon), Some(claim(8, 1, true)));
        assert_eq!(check.ask(soon + ASKED), Some(claim(16, 2, false)));
    }

    #[test]
    fn a_leader_stops_only_if_a_majority_agrees_on_something_else() {
        let mut check = with_own(&[(8, 1)]);
        check.ask(Time::ZERO);
        check.hear_answer(server(1), at(8, 7));
        assert_eq!(check.judge_answers(server(0), &quorum(3)), None);
        assert_eq!(check.differs(), Some((Index(8), NodeId(1))));
        check.hear_answer(server(2), at(8, 6));
        assert_eq!(
            check.judge_answers(server(0), &quorum(3)),
            None,
            "three hashes"
        );
        check.hear_answer(server(2), at(8, 7));
        assert!(check.judge_answers(server(0), &quorum(3)).is_some());
    }

    #[test]
    fn only_so_many_hashes_are_remembered() {
        let hashes: Vec<(u64, u64)> = (1..=100).map(|n| (8 * n, n)).collect();
        let check = with_own(&hashes);
        assert_eq!(check.own.len(), REMEMBERED);
        assert_eq!(check.own_at(Index(800)), Some(at(800, 100)));
        assert_eq!(check.own_at(Index(8)), None);
    }
}
