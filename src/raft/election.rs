//! Elections (paper §5.2, §5.4.1; pre-vote: thesis §9.6).

use log::{debug, info};

use crate::mutation::mutated;
use crate::raft::configuration::Configuration;
use crate::raft::core::{Raft, Role, Transition};
use crate::raft::leader::Leader;
use crate::raft::message::{Body, Message};
use crate::raft::quorum::{Tally, Verdict};
use crate::time::Time;
use crate::types::{EntryId, Index, Payload, Server, Term};

impl Raft {
    /// The election time-out has run out.
    pub(super) fn campaign(&mut self, now: Time) {
        if !self.may_campaign() {
            self.election_deadline = Time::NEVER;
        } else if self.disk_is_stalled {
            // Neither its vote nor its entries would count for anything.
            self.reset_election_timer(now);
        } else {
            self.transition(now, Transition::PreCandidate);
        }
    }

    /// Assigns the role; nobody else does.
    pub(super) fn transition(&mut self, now: Time, to: Transition) {
        if let Role::Leader(old) = &mut self.role {
            info!(target: "Raft", "stop leading: term={}", self.hard_state.term);
            let lost = old.take_reads();
            for reader in lost {
                self.answer_reader(reader, None);
            }
        } else {
            self.lose_follower_reads();
        }
        match to {
            Transition::Follower(term, leader) => self.become_follower(now, term, leader),
            Transition::PreCandidate => self.become_pre_candidate(now),
            Transition::Candidate { transfer } => self.become_candidate(now, transfer),
            Transition::Leader => self.become_leader(now),
            Transition::Founder(configuration) => self.become_founder(now, &configuration),
        }
    }

    fn become_follower(&mut self, now: Time, term: Term, leader: Option<Server>) {
        if term > self.hard_state.term {
            // The vote is of a term; the new one has none yet.
            self.hard_state.term = term;
            self.hard_state.voted_for = None;
            self.leader_last = None;
        }
        if leader.is_some() {
            self.leader_heard = now;
        }
        if self.leader != leader && leader.is_some() {
            info!(target: "Raft", "follow leader: term={term} leader={}", leader.map_or(0, |l| l.id.0));
        }
        self.leader = leader;
        self.role = Role::Follower;
        self.reset_election_timer(now);
    }

    fn become_pre_candidate(&mut self, now: Time) {
        debug!(target: "Raft", "election timeout, ask around before an election: term={}", self.hard_state.term);
        self.leader = None;
        let mut tally = Tally::default();
        tally.record(self.own(), true);
        let won = self.membership.quorum().verdict(&tally) == Verdict::Won;
        self.role = Role::PreCandidate(tally);
        self.reset_election_timer(now);
        if won {
            return self.transition(now, Transition::Candidate { transfer: false });
        }
        let body = Body::PreVote {
            last: self.log.last(),
        };
        self.ask_voters(self.hard_state.term.next(), &body);
    }

    fn become_candidate(&mut self, now: Time, transfer: bool) {
        self.hard_state.term = self.hard_state.term.next();
        self.hard_state.voted_for = Some(self.own());
        debug!(target: "Raft", "election timeout, switch to candidate and start election: term={}", self.hard_state.term);
        self.leader = None;
        // The own vote counts once it is on disk, like everybody else's.
        self.role = Role::Candidate(Tally::default());
        self.reset_election_timer(now);
        let body = Body::Vote {
            last: self.log.last(),
            transfer,
        };
        self.ask_voters(self.hard_state.term, &body);
    }

    fn become_leader(&mut self, now: Time) {
        // The vote stays: dropping it would let this node vote twice in this term (§5.2).
        let vote = self.hard_state.voted_for.map(|server| server.id);
        assert_eq!(vote, Some(self.id()), "a leader voted for itself");
        assert!(
            matches!(self.role, Role::Candidate(_)),
            "only a candidate wins"
        );
        debug!(target: "Raft", "obtain majority of votes, win the election");
        info!(target: "Raft", "lead: term={} last={}", self.hard_state.term, self.log.last());
        // Older entries are committed with the first entry of this term, never by
        // counting them (§5.4.2): so there has to be one at once (§8).
        let term_start = if mutated!(NoNoop) {
            Index::ZERO
        } else {
            self.append_own(Payload::Noop).index
        };
        self.lead(now, term_start);
    }

    /// The founder writes the first entry and leads alone: it has voted for itself, and
    /// nobody else has a vote.
    fn become_founder(&mut self, now: Time, configuration: &Configuration) {
        let birth = configuration.birth();
        info!(target: "Raft", "found a cluster: birth={birth} founder={}", self.config.server);
        self.hard_state.term = Term::ZERO.next();
        self.hard_state.voted_for = Some(self.config.server);
        let first = self.append_own(Payload::Config(configuration.encode()));
        self.lead(now, first.index);
    }

    fn lead(&mut self, now: Time, term_start: Index) {
        let uncommitted = self
            .log
            .range(self.commit_index.next(), self.log.last().index);
        let uncommitted_bytes = uncommitted.map(crate::types::Entry::size_bytes).sum();
        let (members, own) = (self.membership.current().members(), self.own());
        let followers: Vec<Server> = members
            .map(|(server, _)| server)
            .filter(|server| *server != own)
            .collect();
        self.role = Role::Leader(Box::new(Leader::new(
            now,
            &followers,
            term_start,
            uncommitted_bytes,
        )));
        self.leader = Some(self.config.server);
        self.membership.unsettled = true;
        self.check_followers(now);
        self.send_round(now);
    }

    /// Whether a leader is known to have led very recently: a node that hears from it
    /// helps nobody to depose it.
    pub(super) fn leader_is_alive(&self, now: Time) -> bool {
        self.is_leader()
            || now < self.lease_promise
            || self.leader.is_some() && now < self.leader_heard + self.config.election_timeout.0
    }

    pub(super) fn handle_pre_vote(&mut self, now: Time, message: &Message, last: EntryId) {
        let granted = self.may_grant()
            && message.term > self.hard_state.term
            && (last >= self.log.last() || mutated!(VoteForShorterLog))
            && !self.leader_is_alive(now);
        let mut reply = self.answer(message, Body::PreVoteReply { granted });
        if granted {
            reply.term = message.term;
        }
        self.out.messages.push(reply);
    }

    pub(super) fn handle_pre_vote_reply(&mut self, now: Time, message: &Message, granted: bool) {
        let Role::PreCandidate(tally) = &mut self.role else {
            return;
        };
        if granted && message.term != self.hard_state.term.next() {
            return; // Of an earlier question.
        }
        tally.record(self.membership.current().counted(message.from), granted);
        match self.membership.quorum().verdict(tally) {
            Verdict::Won => self.transition(now, Transition::Candidate { transfer: false }),
            Verdict::Lost => {
                self.transition(now, Transition::Follower(self.hard_state.term, None));
            }
            Verdict::Open => {}
        }
    }

    pub(super) fn handle_vote(
        &mut self,
        now: Time,
        message: &Message,
        last: EntryId,
        transfer: bool,
    ) {
        let candidate = self.membership.current().counted(message.from);
        let free = match self.hard_state.voted_for {
            None => self.leader.is_none(),
            // Of another directory of the same node it is another server's vote.
            Some(voted) if mutated!(VoteByNode) => voted.id == candidate.id,
            Some(voted) => voted == candidate || mutated!(SecondVote),
        };
        // "At least as up to date" (§5.4.1): EntryId compares the term first.
        let promised = !transfer && now < self.lease_promise;
        let up_to_date = last >= self.log.last() || mutated!(VoteForShorterLog);
        let granted = self.may_grant() && free && !promised && up_to_date;
        if granted {
            debug!(target: "Raft", "approve to vote: term={} candidate={}", self.hard_state.term, message.from.id.0);
            self.hard_state.voted_for = Some(candidate);
            if matches!(self.role, Role::PreCandidate(_)) {
                // Else it would go on to depose the one it has just helped.
                self.transition(now, Transition::Follower(self.hard_state.term, None));
            }
            self.reset_election_timer(now);
            self.promise(message, Body::VoteReply { granted });
        } else {
            self.reply(message, Body::VoteReply { granted });
        }
    }

    pub(super) fn handle_vote_reply(&mut self, now: Time, message: &Message, granted: bool) {
        let voter = self.membership.current().counted(message.from);
        self.count_vote(now, voter, granted);
    }

    /// The disk has confirmed a hard state: if it is that of the running election, the
    /// own vote counts from now on.
    pub(super) fn count_own_vote(&mut self, now: Time) {
        if matches!(self.role, Role::Candidate(_)) && self.stable_state == self.hard_state {
            self.count_vote(now, self.own(), true);
        }
    }

    fn count_vote(&mut self, now: Time, voter: Server, granted: bool) {
        let Role::Candidate(tally) = &mut self.role else {
            return;
        };
        tally.record(voter, granted);
        match self.membership.quorum().verdict(tally) {
            Verdict::Won => self.transition(now, Transition::Leader),
            Verdict::Lost => {
                self.transition(now, Transition::Follower(self.hard_state.term, None));
            }
            Verdict::Open => {}
        }
    }
}
