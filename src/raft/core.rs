//! The state of one node, and the step that every message takes.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::time::Duration;

use rand::RngExt;

use crate::limits;
use crate::mutation::mutated;
use crate::raft::admission::Introduction;
use crate::raft::config::Config;
use crate::raft::configuration::Configuration;
use crate::raft::fingerprint::Draws;
use crate::raft::follower_read::FollowerReads;
use crate::raft::invariants;
use crate::raft::leader::Leader;
use crate::raft::log::Log;
use crate::raft::membership::Membership;
use crate::raft::message::{Body, Message};
use crate::raft::quorum::Tally;
use crate::raft::read::{ReadId, ReadOutcome, Reader};
use crate::raft::ready::Ready;
use crate::time::Time;
use crate::types::{
    Birth, Entry, EntryId, HardState, Incarnation, Index, NodeId, Payload, Server, Term,
};

/// Why a proposal was not taken. Nothing was appended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProposeError {
    /// This node does not lead.
    #[error("not the leader")]
    NotLeader,
    /// Too many bytes wait to be committed.
    #[error("too much is waiting to be committed")]
    Busy,
    /// This node hands its leadership over, and takes nothing new until that is decided.
    #[error("leadership is being handed over")]
    Transferring,
    /// Fewer than a majority of the first members vote yet.
    #[error("the cluster is being founded")]
    Founding,
}

/// What a node is doing.
#[derive(Clone, Debug)]
pub(super) enum Role {
    /// Follows whoever leads.
    Follower,
    /// Asks whether it would win an election.
    PreCandidate(Tally),
    /// Asks for votes.
    Candidate(Tally),
    /// Leads the term.
    Leader(Box<Leader>),
}

/// Where a step leads. [`Raft::transition`] is the only place that assigns the role.
pub(super) enum Transition {
    /// Follow, in this term, the leader if one is known.
    Follower(Term, Option<Server>),
    /// Ask whether an election could be won.
    PreCandidate,
    /// Begin the next term and ask for votes; `transfer` if the leader wants it so.
    Candidate {
        /// See [`Body::Vote`].
        transfer: bool,
    },
    /// Lead the current term.
    Leader,
    /// Found a cluster, with this as its first entry.
    Founder(Configuration),
}

/// One node's part in the protocol. See the module's docs for how it is driven.
#[derive(Clone)]
pub struct Raft {
    pub(super) config: Config,
    pub(super) hard_state: HardState,
    /// The hard state that has been handed to the disk.
    pub(super) written_state: HardState,
    /// The highest term whose hard state is on the disk.
    pub(super) stable_state: HardState,
    pub(super) log: Log,
    pub(super) commit_index: Index,
    pub(super) membership: Membership,
    pub(super) role: Role,
    pub(super) leader: Option<Server>,
    /// Peers that are connected, by their introductions.
    pub(super) introductions: BTreeMap<NodeId, Introduction>,
    /// Until then this node helps nobody to leadership: a leader that answers reads by a
    /// lease relies on it.
    pub(super) lease_promise: Time,
    /// Whether the length of this node's promises is on its disk.
    pub(super) may_promise: bool,
    /// A promise was given since the last ready value, by a clock that may be old by now.
    pub(super) has_promised: bool,
    /// When the leader was last heard of.
    pub(super) leader_heard: Time,
    pub(super) election_deadline: Time,
    pub(super) rng: Draws,
    /// Where the leader of this term last said its log ends.
    pub(super) leader_last: Option<Index>,
    /// Reads that this node answers while another leads.
    pub(super) follower_reads: FollowerReads,
    /// Whether the own disk has no room for more; see [`Raft::note_space`].
    pub(super) disk_is_full: bool,
    /// Whether the own memory limit is reached; see [`Raft::note_memory`].
    pub(super) memory_is_full: bool,
    /// How slow the own disk is; see [`Raft::note_disk`].
    pub(super) disk: Duration,
    pub(super) disk_is_stalled: bool,
    pub(super) out: Ready,
}

impl Raft {
    /// A node as its disk has it, at the moment `now`. `log` begins behind the last
    /// snapshot; what that contains is committed.
    ///
    /// # Panics
    /// If the configuration makes no sense.
    #[must_use]
    pub fn new(config: Config, hard_state: HardState, log: Log, now: Time) -> Raft {
        assert!(
            config.election_timeout.0 < config.election_timeout.1,
            "a range of time-outs"
        );
        assert!(
            config.heartbeat < config.election_timeout.0,
            "heartbeats are in time"
        );
        assert!(
            log.last().term <= hard_state.term,
            "no entry is of a term never seen"
        );
        let mut raft = Raft {
            membership: Membership::restore(&log, &config),
            // A promise of an earlier life may still be relied on.
            lease_promise: match config.promised {
                Duration::ZERO => Time::ZERO,
                promised => now + promised,
            },
            may_promise: config.read_lease && config.promised >= config.election_timeout.0,
            has_promised: false,
            // Not the numbers of an earlier life of this node, whose answers may still come.
            follower_reads: FollowerReads::new(config.seed / 2),
            disk: Duration::ZERO,
            disk_is_full: false,
            memory_is_full: false,
            disk_is_stalled: false,
            leader_last: None,
            written_state: hard_state,
            stable_state: hard_state,
            hard_state,
            commit_index: log.base().index,
            log,
            role: Role::Follower,
            leader: None,
            introductions: BTreeMap::new(),
            leader_heard: Time::ZERO,
            election_deadline: Time::NEVER,
            rng: Draws::new(config.seed),
            out: Ready::default(),
            config,
        };
        raft.reset_election_timer(now);
        raft
    }

    /// A snapshot on disk, which reaches into the log, proves that all up to `index` is
    /// committed. For use at the start.
    ///
    /// # Panics
    /// If the log does not reach that far.
    pub fn restore_commit(&mut self, index: Index) {
        assert!(index <= self.log.last().index, "a snapshot ends in the log");
        self.commit_index = self.commit_index.max(index);
    }

    /// Takes in a message of a member.
    pub fn step(&mut self, now: Time, message: Message) {
        let before = invariants::Mark::of(self);
        debug_assert_eq!(message.to.id, self.id(), "messages find their node");
        if self.is_meant(&message) {
            if message.body.is_request() {
                self.note_alive(now, message.from);
            }
            if self.meets_term(now, &message) {
                self.dispatch(now, message);
            }
        }
        before.check_step(self);
    }

    /// Whether a message is of this cluster and for this very directory. Any other gets no
    /// grant and no acknowledgement, and an answer to an earlier directory counts for
    /// nothing. Below feature level 1 a node may not know the other's incarnation.
    fn is_meant(&self, message: &Message) -> bool {
        let births = (self.birth(), message.birth);
        let same_birth = births.0 == births.1 || births.0 == Birth::NONE || births.1 == Birth::NONE;
        let to = message.to.incarnation;
        let is_addressed = to == self.config.server.incarnation
            || to == Incarnation::NONE && births == (Birth::NONE, Birth::NONE)
            || mutated!(AnyIncarnation);
        same_birth && is_addressed
    }

    /// Takes up a newer term, turns down an older one; returns whether the message
    /// is worth looking at (paper §5.1).
    fn meets_term(&mut self, now: Time, message: &Message) -> bool {
        match &message.body {
            // Pre-votes speak of a term that nobody is in yet.
            Body::PreVote { .. } | Body::PreVoteReply { granted: true } => return true,
            _ => {}
        }
        if message.term < self.hard_state.term {
            self.turn_down(message);
            return false;
        }
        if message.term > self.hard_state.term {
            let leads = matches!(
                message.body,
                Body::Append { .. } | Body::Heartbeat { .. } | Body::Snapshot(_) | Body::TimeoutNow
            );
            let leader = leads.then_some(message.from);
            let protected = matches!(
                message.body,
                Body::Vote {
                    transfer: false,
                    ..
                }
            );
            if protected && self.leader_is_alive(now) {
                // A node that was cut off must not depose a leader that a majority
                // still hears (thesis §4.2.3). It learns of the leader in time.
                return false;
            }
            self.transition(now, Transition::Follower(message.term, leader));
        }
        true
    }

    /// Tells the sender of an outdated request about the newer term, so that a
    /// deposed leader does not go on in the belief that it leads.
    fn turn_down(&mut self, message: &Message) {
        let body = match &message.body {
            Body::Append { prev, .. } => Body::AppendReply(Err(super::Rejected {
                rejected: prev.index,
                hint: self.log.base(),
            })),
            Body::Heartbeat { round, .. } => self.heartbeat_reply(*round, Duration::ZERO),
            Body::ReadIndex { context } => Body::ReadIndexReply {
                context: *context,
                index: None,
            },
            Body::Vote { .. } => Body::VoteReply { granted: false },
            Body::Snapshot(chunk) => Body::SnapshotReply {
                snapshot: chunk.snapshot,
                next_offset: chunk.offset,
                installed: false,
            },
            _ => return, // An answer to what an earlier self of ours asked.
        };
        self.reply(message, body);
    }

    fn dispatch(&mut self, now: Time, message: Message) {
        if !message.body.is_request() && self.membership.current().level() == 0 {
            self.note_lost_directory(now, message.from, message.lost_directory);
        }
        match message.body {
            Body::PreVote { last } => self.handle_pre_vote(now, &message, last),
            Body::PreVoteReply { granted } => self.handle_pre_vote_reply(now, &message, granted),
            Body::Vote { last, transfer } => self.handle_vote(now, &message, last, transfer),
            Body::VoteReply { granted } => self.handle_vote_reply(now, &message, granted),
            Body::Append { .. } => self.handle_append(now, message),
            Body::Heartbeat {
                commit,
                round,
                last,
                lease,
                state: _,
            } => {
                self.leader_last = Some(last);
                self.handle_heartbeat(now, &message, commit, round, lease);
            }
            Body::ReadIndex { context } => self.handle_read_index(&message, context),
            Body::ReadIndexReply { context, index } => {
                self.handle_read_index_reply(message.from, context, index);
            }
            Body::TimeoutNow => self.handle_timeout_now(now, message.from),
            Body::Snapshot(_) => self.handle_snapshot(now, message),
            Body::AppendReply(reply) => self.handle_append_reply(now, message.from, reply),
            Body::HeartbeatReply {
                round,
                promise,
                disk,
                full,
                memory_full,
                state: _,
            } => {
                let shortages = (disk, full, memory_full);
                self.handle_heartbeat_reply(now, message.from, (round, promise), shortages);
            }
            Body::SnapshotReply {
                snapshot,
                next_offset,
                installed,
            } => {
                self.handle_snapshot_reply(now, message.from, snapshot, next_offset, installed);
            }
        }
    }

    /// Lets time pass: elections, heartbeats, the check for a quorum.
    pub fn tick(&mut self, now: Time) {
        let before = invariants::Mark::of(self);
        if matches!(self.role, Role::Leader(_)) {
            self.tick_leader(now);
        } else {
            if now >= self.election_deadline {
                self.campaign(now);
            }
            self.tick_follower_reads(now);
        }
        before.check_step(self);
    }

    /// When [`Raft::tick`] is due.
    #[must_use]
    pub fn next_deadline(&self) -> Time {
        match &self.role {
            Role::Leader(leader) => leader.next_deadline(),
            _ => self.election_deadline.min(self.follower_reads.deadline()),
        }
    }

    /// Appends a command to the log, if this node leads. The returned name tells
    /// later whether it was this command that was committed at that index.
    ///
    /// # Errors
    /// See [`ProposeError`]; nothing was appended then.
    pub fn propose(&mut self, payload: Payload) -> Result<EntryId, ProposeError> {
        let Role::Leader(leader) = &self.role else {
            return Err(ProposeError::NotLeader);
        };
        if leader.transfer.is_some() {
            return Err(ProposeError::Transferring);
        }
        if self.membership.current().is_founding() {
            return Err(ProposeError::Founding);
        }
        let size = limits::ENTRY_OVERHEAD_BYTES + payload.bytes().len();
        if leader.uncommitted_bytes > 0
            && leader.uncommitted_bytes + size > limits::UNCOMMITTED_BYTES_MAX
        {
            return Err(ProposeError::Busy);
        }
        Ok(self.append_own(payload))
    }

    /// Appends an entry of the current term, which this node leads.
    pub(super) fn append_own(&mut self, payload: Payload) -> EntryId {
        let id = EntryId {
            term: self.hard_state.term,
            index: self.log.last().index.next(),
        };
        let entry = Entry { id, payload };
        if let Role::Leader(leader) = &mut self.role {
            leader.uncommitted_bytes += entry.size_bytes();
        }
        self.membership.appended(&entry);
        self.log.append(entry);
        id
    }

    /// Asks for the index at which a read is linearizable. Answered in
    /// [`Ready::reads`], in the order in which they were asked for; a node that does not
    /// lead answers [`ReadOutcome::Lost`].
    pub fn read(&mut self, id: ReadId) {
        match &mut self.role {
            Role::Leader(leader) => leader.take_read(Reader::Client(id), self.commit_index),
            _ => self.out.reads.push(ReadOutcome::Lost(id)),
        }
    }

    /// The disk confirms a batch: the log up to `last`, and the hard state, if it was
    /// part of what was written.
    ///
    /// The caller clamps `last` to what later truncations left of that batch (an
    /// entry that was truncated and came back is not durable again by an old
    /// confirmation), and likewise to the new base where the log was reset. Only a
    /// truncation or reset that it has not been handed yet is clamped here.
    pub fn persisted(&mut self, now: Time, hard_state: Option<HardState>, last: Index) {
        let before = invariants::Mark::of(self);
        if let Some(state) = hard_state {
            assert!(
                state.term >= self.stable_state.term,
                "the disk confirms in order"
            );
            self.stable_state = state;
            self.count_own_vote(now);
        }
        // What was truncated since the last ready value is not known to the caller yet,
        // and whatever is confirmed now was written before.
        let write = &self.out.write;
        let cut = write.truncate_from.map(Index::prev);
        let cut = cut.or(write.reset_to.map(|base| base.index));
        if self.log.confirm(cut.map_or(last, |cut| last.min(cut))) {
            self.maybe_commit(now);
        }
        before.check_step(self);
    }

    /// What was sent to `peer` is probably lost: its connection broke or was made anew.
    pub fn peer_unreachable(&mut self, peer: NodeId) {
        let (base, last) = (self.log.base().index, self.log.last().index);
        let Role::Leader(leader) = &mut self.role else {
            return;
        };
        let of_peer = leader
            .followers
            .iter_mut()
            .filter(|(server, _)| server.id == peer);
        for (_, progress) in of_peer {
            if progress.state != super::ProgressState::Snapshot {
                progress.ask_again(base, last);
            }
        }
    }

    /// Founds a cluster: this node leads it alone, with the first entry of its log. For a
    /// directory that has neither a log nor a term.
    ///
    /// # Panics
    /// If something has happened in this directory.
    pub fn found(&mut self, now: Time, first_members: &Configuration) {
        assert!(self.is_new(), "a cluster is founded in a new directory");
        let birth = self.draw_birth();
        let configuration = first_members.founding(birth, self.config.server);
        let before = invariants::Mark::of(self);
        self.transition(now, Transition::Founder(configuration));
        before.check_step(self);
    }

    pub(super) fn draw_birth(&mut self) -> Birth {
        Birth(self.rng.rng.random_range(1..=u64::MAX))
    }

    /// Whether nothing has happened here: no term, no vote, no entry, no snapshot.
    #[must_use]
    pub fn is_new(&self) -> bool {
        self.hard_state == HardState::default()
            && self.log.last() == EntryId::ZERO
            && self.membership.current().is_empty()
    }

    /// Forgets the entries up to and with `upto`, which a durable snapshot contains.
    ///
    /// # Panics
    /// If they are not all committed.
    pub fn compact(&mut self, upto: Index) {
        assert!(
            upto <= self.commit_index,
            "only committed entries are compacted"
        );
        self.log.compact(upto);
        self.membership.compact(upto);
        if let Role::Leader(leader) = &mut self.role {
            leader.sent.forget(upto);
        }
    }

    /// Takes what has to happen. New entries to be written are in [`Raft::unwritten`].
    pub fn take_ready(&mut self, now: Time) -> Ready {
        self.date_promise(now);
        self.flush_leader(now);
        self.flush_follower_reads(now);
        if self.hard_state != self.written_state {
            self.written_state = self.hard_state;
            let mut state = self.hard_state;
            if mutated!(VoteNotPersisted) {
                state.voted_for = None;
            }
            self.out.write.hard_state = Some(state);
        }
        std::mem::take(&mut self.out)
    }

    /// Takes back a ready value that was emptied, for the room that it has.
    pub fn recycle(&mut self, emptied: Ready) {
        self.out.take_room(emptied);
    }

    /// The entries that go into the same write as the last [`Ready`]; they count as
    /// handed to the disk from now on.
    pub fn unwritten(&mut self) -> Cow<'_, [Entry]> {
        self.log.take_unwritten()
    }

    /// Queues a message that speaks for nothing but the term.
    pub(super) fn send(&mut self, to: Server, body: Body) {
        let message = self.request(to, self.hard_state.term, body);
        self.out.messages.push(message);
    }

    /// A message that is not the answer to one.
    pub(super) fn request(&self, to: Server, term: Term, body: Body) -> Message {
        Message {
            birth: self.birth(),
            from: self.config.server,
            to,
            term,
            call: 0,
            lost_directory: false,
            body,
        }
    }

    /// Queues an answer that speaks for nothing but the term.
    pub(super) fn reply(&mut self, to: &Message, body: Body) {
        self.out.messages.push(self.answer(to, body));
    }

    /// Queues an answer that promises something durable.
    pub(super) fn promise(&mut self, to: &Message, body: Body) {
        self.out.promises.push(self.answer(to, body));
    }

    pub(super) fn answer(&self, to: &Message, body: Body) -> Message {
        Message {
            call: to.call,
            lost_directory: self.has_lost_directory(),
            ..self.request(to.from, self.hard_state.term, body)
        }
    }

    /// Asks all other voters.
    pub(super) fn ask_voters(&mut self, term: Term, body: &Body) {
        let own = self.own();
        let voters: Vec<Server> = self
            .membership
            .quorum()
            .all()
            .filter(|to| *to != own)
            .collect();
        for to in voters {
            let message = self.request(to, term, body.clone());
            self.out.messages.push(message);
        }
    }

    /// Draws a new election time-out (paper §5.2). Where voters differ in priority, those
    /// with the highest take the first quarter of the range, the others the rest: so who
    /// is preferred steps up first, and nobody waits for it longer than for anyone.
    pub(super) fn reset_election_timer(&mut self, now: Time) {
        let (min, max) = self.config.election_timeout;
        let quarter = (max - min) / 4;
        let (min, max) = match self.membership.is_preferred(self.own()) {
            None => (min, max),
            Some(true) => (min, min + quarter),
            Some(false) => (min + quarter, max),
        };
        let span = (max - min).as_nanos() as u64;
        let timeout = min + Duration::from_nanos(self.rng.rng.random_range(0..=span));
        self.election_deadline = if self.may_campaign() {
            now + timeout
        } else {
            Time::NEVER
        };
    }

    /// Whether this node can become the leader by itself: as a voter, or as one that is
    /// no voter any more by an entry that may not be committed. Only it may have that
    /// entry, and then nobody else can win (thesis §4.2.2, Figure 4.6).
    pub(super) fn may_campaign(&self) -> bool {
        let own = self.own();
        self.may_grant()
            && (self.membership.quorum().contains(own)
                || self.membership.index() > self.commit_index
                    && self.membership.at(self.commit_index).quorum().contains(own))
    }

    /// This server as the latest configuration counts it.
    pub(super) fn own(&self) -> Server {
        self.membership.current().counted(self.config.server)
    }

    /// Below feature level 1: whether what this node promises counts for nothing.
    fn has_lost_directory(&self) -> bool {
        self.membership.current().level() == 0 && !self.config.established
    }

    /// Whether this directory keeps what it grants. Above feature level 0 that is any that
    /// is addressed by its incarnation: a vote is counted by those who name it.
    pub(super) fn may_grant(&self) -> bool {
        !self.has_lost_directory() || mutated!(ForgetfulVoter)
    }
}
