//! A node as an explorer of all interleavings sees it (`crate::explore`): equal digests mean
//! equal behaviour from here on, and time is reduced to what runs out before what.
//!
//! Every type is taken apart by name, so that a new field does not compile until it has a
//! place: in the digest, or left out with its reason.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::Duration;

use rand::SeedableRng;
use rand::rngs::StdRng;

use crate::raft::admission::Introduction;
use crate::raft::config::Config;
use crate::raft::configuration::{Configuration, Member};
use crate::raft::core::{Raft, Role};
use crate::raft::follower_read::FollowerReads;
use crate::raft::leader::Leader;
use crate::raft::log::Log;
use crate::raft::membership::Membership;
use crate::raft::message::{Accepted, Body, Message, Rejected};
use crate::raft::progress::{Inflight, Progress, State};
use crate::raft::quorum::Tally;
use crate::raft::read::{Reader, Reads, Waiting};
use crate::raft::ready::{Ready, Write};
use crate::raft::transfer::Transfer;
use crate::time::Time;
use crate::types::{Entry, Index, NodeId, Payload, Server, Term};

/// A tick so late makes a leader send heartbeats and look after its followers, and a
/// follower repeat the question that its reads wait for.
pub const TICK_REPEATS: Duration = Duration::from_millis(1_000);
/// A tick so late makes a leader give a leadership transfer up, too.
pub const TICK_GIVES_TRANSFER_UP: Duration = Duration::from_millis(1_200);
/// A tick so late makes a leader that has heard of no majority step down, and anybody else
/// campaign.
pub const TICK_CAMPAIGNS: Duration = Duration::from_millis(2_000);

/// The random numbers of a node. A copy of it does not go on with them but begins anew: copies
/// are an explorer's, for whom time-outs are as long as it likes, and births are the same in
/// all runs.
pub(super) struct Draws {
    pub(super) rng: StdRng,
    seed: u64,
}

impl Draws {
    pub(super) fn new(seed: u64) -> Draws {
        let rng = StdRng::seed_from_u64(seed);
        Draws { rng, seed }
    }

    /// The numbers of one term of one life of a directory, in which a birth is drawn once at
    /// most.
    fn of_term(life: u64, server: Server, term: Term) -> Draws {
        let mut hasher = DefaultHasher::new();
        (life, server, term).hash(&mut hasher);
        Draws::new(hasher.finish())
    }
}

impl Clone for Draws {
    fn clone(&self) -> Draws {
        Draws::new(self.seed)
    }
}

/// A hash of what a node, or a message, will do; the nodes may go by other names.
pub struct Digest<'a> {
    hasher: DefaultHasher,
    rename: &'a dyn Fn(NodeId) -> NodeId,
}

impl<'a> Digest<'a> {
    /// The empty digest, in which each node goes by the name that `rename` gives it.
    #[must_use]
    pub fn new(rename: &'a dyn Fn(NodeId) -> NodeId) -> Digest<'a> {
        let hasher = DefaultHasher::new();
        Digest { hasher, rename }
    }

    /// Takes in what names no node.
    pub fn put(&mut self, value: impl Hash) {
        value.hash(&mut self.hasher);
    }

    /// Takes in a node.
    pub fn node(&mut self, id: NodeId) {
        self.put((self.rename)(id));
    }

    /// Takes in a server.
    pub fn server(&mut self, server: Server) {
        let Server { id, incarnation } = server;
        self.node(id);
        self.put(incarnation);
    }

    /// Takes in a server, if there is one.
    pub fn maybe_server(&mut self, server: Option<Server>) {
        self.put(server.is_some());
        server.into_iter().for_each(|server| self.server(server));
    }

    /// Takes in what has no order, or one that goes by the names of nodes.
    pub fn unordered<T>(
        &mut self,
        items: impl IntoIterator<Item = T>,
        each: impl Fn(&mut Digest, T),
    ) {
        let mut sum = 0_u64;
        let mut count = 0_u64;
        for item in items {
            let mut digest = Digest::new(self.rename);
            each(&mut digest, item);
            sum = sum.wrapping_add(digest.finish());
            count += 1;
        }
        self.put((sum, count));
    }

    /// The hash.
    #[must_use]
    pub fn finish(&self) -> u64 {
        self.hasher.finish()
    }

    /// Takes in an entry.
    pub fn entry(&mut self, entry: &Entry) {
        let Entry { id, payload } = entry;
        self.put(id);
        match payload {
            Payload::Noop => self.put(0_u8),
            Payload::Command(bytes) => self.put((1_u8, bytes)),
            Payload::Config(bytes) => match Configuration::decode(bytes) {
                Ok(configuration) => self.configuration(&configuration),
                Err(_) => self.put((2_u8, bytes)),
            },
        }
    }

    fn configuration(&mut self, configuration: &Configuration) {
        let is_founding = configuration.is_founding();
        self.put((configuration.level(), configuration.birth(), is_founding));
        self.unordered(configuration.members(), |digest, (server, member)| {
            digest.server(server);
            digest.member(member);
        });
        self.unordered(configuration.pending(), |digest, (id, member)| {
            digest.node(id);
            digest.member(member);
        });
    }

    fn member(&mut self, member: &Member) {
        let Member {
            standing,
            priority,
            peer: _,   // Nothing that Raft looks at.
            client: _, // As well.
        } = member;
        self.put((standing.as_str(), priority));
    }

    /// Takes in what is to be written.
    pub fn write(&mut self, write: &Write) {
        let Write {
            hard_state,
            truncate_from,
            reset_to,
        } = write;
        self.put(hard_state.map(|state| state.term));
        self.maybe_server(hard_state.and_then(|state| state.voted_for));
        self.put((truncate_from, reset_to));
    }

    /// Takes in a message.
    pub fn message(&mut self, message: &Message) {
        let Message {
            birth,
            from,
            to,
            term,
            call,
            lost_directory,
            body,
        } = message;
        self.server(*from);
        self.server(*to);
        self.put((birth, term, call, lost_directory, body.kind()));
        match body {
            Body::PreVote { last } => self.put(last),
            Body::Vote { last, transfer } => self.put((last, transfer)),
            Body::PreVoteReply { granted } | Body::VoteReply { granted } => self.put(granted),
            Body::Append {
                prev,
                entries,
                commit,
            } => {
                self.put((prev, commit, entries.len()));
                entries.iter().for_each(|entry| self.entry(entry));
            }
            Body::AppendReply(Ok(Accepted { match_index })) => self.put(match_index),
            Body::AppendReply(Err(Rejected { rejected, hint })) => self.put((rejected, hint)),
            Body::Heartbeat {
                commit,
                round,
                last,
                lease,
                state: _, // The core only carries it.
            } => self.put((commit, round, last, lease)),
            Body::HeartbeatReply {
                round,
                promise: _, // No clocks, no leases.
                disk,
                full,
                memory_full,
                state: _, // The core only carries it.
            } => self.put((round, disk, full, memory_full)),
            Body::ReadIndex { context } => self.put(context),
            Body::ReadIndexReply { context, index } => self.put((context, index)),
            Body::TimeoutNow => {}
            Body::Snapshot(chunk) => self.put((chunk.snapshot.last, chunk.offset, &chunk.data)),
            Body::SnapshotReply {
                snapshot,
                next_offset,
                installed,
            } => self.put((snapshot.last, next_offset, installed)),
        }
    }

    /// Takes in a node that has been through [`Raft::forget_time`].
    pub fn raft(&mut self, raft: &Raft) {
        let Raft {
            config,
            hard_state,
            written_state,
            stable_state,
            log,
            commit_index,
            membership,
            role,
            leader,
            introductions,
            lease_promise,
            may_promise: _, // No clocks, no leases.
            has_promised: _,
            leader_heard: _, // Forgotten: see `forget_time`.
            election_deadline,
            rng: _, // Follows from the term and the lives, which explorers count where births are drawn.
            leader_last,
            follower_reads,
            disk_is_full,
            memory_is_full,
            disk: _, // Only status shows it.
            disk_is_stalled,
            out,
        } = raft;
        let Config {
            server,
            configuration: _, // In the membership.
            first_members: _, // The same for all.
            election_timeout: _,
            heartbeat: _, // These are the same for all.
            seed: _,      // As `rng`; the questions of a follower's reads have their numbers.
            established,
            read_lease: _,
            promised: _,
            disk_patience: _,
        } = config;
        self.server(*server);
        self.put(established);
        self.unordered(introductions, |digest, (id, introduction)| {
            let Introduction {
                incarnation,
                level,
                established,
                was_voter,
            } = introduction;
            digest.node(*id);
            digest.put((incarnation, level, established, was_voter));
        });
        for state in [hard_state, written_state, stable_state] {
            self.put(state.term);
            self.maybe_server(state.voted_for);
        }
        self.log(log);
        self.put((commit_index, *lease_promise == Time::ZERO));
        self.membership(membership);
        self.maybe_server(*leader);
        self.put((*election_deadline == Time::NEVER, leader_last));
        self.put((disk_is_full, memory_is_full, disk_is_stalled));
        let FollowerReads {
            new,
            asked,
            context,
            deadline,
        } = follower_reads;
        self.put((new, asked, context, *deadline == Time::NEVER));
        match role {
            Role::Follower => self.put(0_u8),
            Role::PreCandidate(tally) => self.tally(1, tally),
            Role::Candidate(tally) => self.tally(2, tally),
            Role::Leader(leader) => self.leader(leader),
        }
        let Ready { write, .. } = out; // Explorers take all of it after each step.
        self.write(write);
    }

    fn log(&mut self, log: &Log) {
        // What it takes in memory follows from the entries.
        self.put((log.base(), log.last(), log.written(), log.stable()));
        let entries = log.range(log.first_index(), log.last().index);
        entries.for_each(|entry| self.entry(entry));
    }

    fn membership(&mut self, membership: &Membership) {
        let Membership {
            list,
            quorum: _,  // Follows from the last of the list.
            highest: _, // As well.
            version: _, // For those outside.
            unsettled,
        } = membership;
        self.put(unsettled);
        for (index, configuration) in list {
            self.put(index);
            self.configuration(configuration);
        }
    }

    fn tally(&mut self, role: u8, tally: &Tally) {
        let Tally { granted, refused } = tally;
        self.put(role);
        for list in [granted, refused] {
            self.unordered(list, |digest, server| digest.server(*server));
        }
    }

    fn leader(&mut self, leader: &Leader) {
        let Leader {
            followers,
            order: _, // The keys of `followers`.
            reads,
            early_reads,
            term_start,
            transfer,
            lease_void,
            heartbeat_due: _,     // Forgotten: see `forget_time`.
            check_due: _,         // As well.
            uncommitted_bytes: _, // Follows from the log.
            sent: _,              // A cache.
        } = leader;
        self.put(3_u8);
        self.unordered(followers, |digest, (server, progress)| {
            digest.server(*server);
            digest.progress(progress);
        });
        let Reads {
            waiting,
            sent,
            confirmed,
            sent_at: _, // Forgotten: see `forget_time`.
        } = reads;
        self.put((sent, confirmed, waiting.len()));
        for Waiting {
            reader,
            index,
            round,
        } in waiting
        {
            self.put((index, round));
            self.reader(*reader);
        }
        early_reads.iter().for_each(|reader| self.reader(*reader));
        self.put((term_start, lease_void));
        if let Some(Transfer {
            to,
            deadline: _, // Forgotten: see `forget_time`.
            told,
        }) = transfer
        {
            self.server(*to);
            self.put(told);
        }
    }

    fn reader(&mut self, reader: Reader) {
        match reader {
            Reader::Client(id) => self.put(id),
            Reader::Follower {
                from,
                call,
                context,
            } => {
                self.server(from);
                self.put((call, context));
            }
        }
    }

    fn progress(&mut self, progress: &Progress) {
        let Progress {
            match_index,
            next_index,
            state,
            counts,
            heard: _, // Forgotten: see `forget_time`.
            answered,
            began: _, // Forgotten: see `forget_time`.
            alive: _, // As well.
            round,
            lease: _, // No clocks, no leases.
            disk: _,  // For the choice of a successor, where some disk is slow.
            full,
            memory_full,
            round_trip: _, // Only status shows it.
            moved: _,      // Forgotten: see `forget_time`.
            inflight,
            inflight_bytes: _, // Follows from `inflight`.
        } = progress;
        let state = match state {
            State::Probe { sent: false } => 0_u8,
            State::Probe { sent: true } => 1,
            State::Replicate => 2,
            State::Snapshot => 3,
        };
        self.put((match_index, next_index, state, counts, round, full));
        self.put((memory_full, *answered == Time::ZERO));
        let list: Vec<(Index, usize)> = inflight
            .iter()
            .map(|Inflight { last, bytes }| (*last, *bytes))
            .collect();
        self.put(list);
    }
}

impl Raft {
    /// Puts all that this node has noted of clocks where only the order is left in which
    /// things run out after `now`: see [`TICK_REPEATS`] and its like. For an explorer, which
    /// tries every order of ticks and messages; with it, a state in which nothing else has
    /// happened is the same state.
    ///
    /// The leader counts as heard long ago, so that a vote is never refused for its sake:
    /// a refusal does no more than the loss of the question. Followers count as heard just
    /// now, until a tick finds that none of them were. A directory that another is to take the place of counts as
    /// silent: to wait for that is to be introduced later, and two that are both in use must
    /// do no harm. Those who catch up are waited for until a tick. Leases need clocks, and are
    /// none of an explorer's business.
    pub fn forget_time(&mut self, now: Time) {
        assert!(!self.config.read_lease, "no clocks, no leases");
        self.leader_heard = Time::ZERO;
        self.rng = Draws::of_term(self.config.seed, self.config.server, self.hard_state.term);
        if self.election_deadline != Time::NEVER {
            self.election_deadline = now + TICK_CAMPAIGNS;
        }
        if self.follower_reads.deadline != Time::NEVER {
            self.follower_reads.deadline = now + TICK_REPEATS;
        }
        let Role::Leader(leader) = &mut self.role else {
            return;
        };
        leader.heartbeat_due = now + TICK_REPEATS;
        leader.check_due = now + TICK_REPEATS;
        if let Some(transfer) = &mut leader.transfer {
            transfer.deadline = now + (TICK_REPEATS + TICK_GIVES_TRANSFER_UP) / 2;
        }
        leader.reads.sent_at.clear();
        for progress in leader.followers.values_mut() {
            progress.heard = now + TICK_REPEATS;
            if progress.answered != Time::ZERO {
                progress.answered = now + TICK_REPEATS;
            }
            progress.began = now;
            progress.alive = Time::ZERO;
            progress.moved = now + TICK_REPEATS;
            progress.round_trip = Duration::ZERO;
        }
    }
}
