//! What a leader does: replicate, commit, confirm reads, stay the leader
//! (paper §5.3, §5.4; thesis §6.2, §6.4).

use std::collections::{BTreeMap, vec_deque};
use std::time::Duration;

use log::{error, warn};

use crate::limits;
use crate::mutation::mutated;
use crate::raft::core::{Raft, Role, Transition};
use crate::raft::entries::Sent;
use crate::raft::message::{Accepted, Body, Message, Rejected, SnapshotChunk, SnapshotMeta};
use crate::raft::progress::{Progress, State};
use crate::raft::quorum::Quorum;
use crate::raft::read::{Reader, Reads};
use crate::raft::transfer::Transfer;
use crate::time::Time;
use crate::types::{Entry, EntryId, Index, Payload, Server};

/// Entries that ride along with a probe, in bytes: it is repeated with every
/// heartbeat, to a follower that may be gone.
const PROBE_BYTES_MAX: usize = 4 << 10;

/// What only a leader has.
#[derive(Clone, Debug)]
pub(super) struct Leader {
    /// All other members, and who is one no more until that is committed.
    pub(super) followers: BTreeMap<Server, Progress>,
    /// The keys of `followers`.
    pub(super) order: Vec<Server>,
    pub(super) reads: Reads,
    /// Reads that came in before the first entry of this term was committed: until
    /// then the leader may not know what is committed (thesis §6.4).
    pub(super) early_reads: Vec<Reader>,
    /// The first entry of this term.
    pub(super) term_start: Index,
    /// To whom leadership is being handed.
    pub(super) transfer: Option<Transfer>,
    /// Somebody was told to campaign: no lease for the rest of the term.
    pub(super) lease_void: bool,
    pub(super) heartbeat_due: Time,
    /// When it looks after its followers again. Not put off by rounds of reads, as the
    /// next heartbeat is.
    pub(super) check_due: Time,
    /// Entries that are not committed, in bytes.
    pub(super) uncommitted_bytes: usize,
    /// What was sent lately.
    pub(super) sent: Sent,
}

impl Leader {
    pub(super) fn new(
        now: Time,
        followers: &[Server],
        term_start: Index,
        uncommitted_bytes: usize,
    ) -> Leader {
        let followers = followers
            .iter()
            .map(|id| (*id, Progress::new(now, term_start)));
        let mut leader = Leader {
            followers: followers.collect(),
            order: Vec::new(),
            transfer: None,
            lease_void: false,
            reads: Reads::default(),
            early_reads: Vec::new(),
            term_start,
            heartbeat_due: now,
            check_due: now,
            uncommitted_bytes,
            sent: Sent::default(),
        };
        leader.list_followers();
        leader
    }

    /// To be called when `followers` has changed.
    pub(super) fn list_followers(&mut self) {
        self.order.clear();
        self.order.extend(self.followers.keys());
    }

    pub(super) fn next_deadline(&self) -> Time {
        self.heartbeat_due.min(self.check_due)
    }

    pub(super) fn take_read(&mut self, reader: Reader, commit: Index) {
        if commit < self.term_start {
            if let Reader::Follower { from, .. } = reader {
                // It asks one question at a time: an earlier one is void.
                let same = |r: &Reader| matches!(r, Reader::Follower { from: f, .. } if *f == from);
                self.early_reads.retain(|reader| !same(reader));
            }
            self.early_reads.push(reader);
        } else {
            self.reads.push(reader, commit);
        }
    }

    /// The leadership is over: who waits for a read, in the order in which they came.
    pub(super) fn take_reads(&mut self) -> Vec<Reader> {
        let waiting = std::iter::from_fn(|| self.reads.pop()).map(|(reader, _)| reader);
        let mut readers: Vec<Reader> = waiting.collect();
        readers.append(&mut self.early_reads);
        readers
    }

    /// What decides has reached, `own` being the leader's. Followers that do not count
    /// have reached nothing.
    pub(super) fn reached(
        &self,
        (quorum, id): (&Quorum, Server),
        own: u64,
        reached: impl Fn(&Progress) -> u64,
    ) -> u64 {
        quorum.reached(|voter| match self.followers.get(&voter) {
            Some(progress) if progress.counts => reached(progress),
            Some(_) => 0,
            None if voter == id => own,
            None => 0,
        })
    }
}

impl Raft {
    pub(super) fn tick_leader(&mut self, now: Time) {
        self.advance_transfer(now);
        self.check_followers(now);
        if let Role::Leader(leader) = &self.role
            && now >= leader.heartbeat_due
        {
            self.send_round(now);
        }
    }

    /// Looks after the followers, from time to time: does a majority answer, has a message
    /// been lost?
    pub(super) fn check_followers(&mut self, now: Time) {
        let (patience_min, patience) = self.config.election_timeout;
        let who = (self.membership.quorum(), self.own());
        let Role::Leader(leader) = &mut self.role else {
            return;
        };
        if now < leader.check_due {
            return;
        }
        leader.check_due = now + self.config.heartbeat;
        let heard = leader.reached(who, now.as_nanos(), |progress| progress.heard.as_nanos());
        if Time::from_nanos(heard) + patience < now {
            // Others may have elected somebody else by now (thesis §6.2).
            warn!(target: "Raft", "no majority heard, step down: term={}", self.hard_state.term);
            return self.transition(now, Transition::Follower(self.hard_state.term, None));
        }
        let (base, last) = (self.log.base().index, self.log.last().index);
        for progress in leader.followers.values_mut() {
            let probing = matches!(progress.state, State::Probe { .. });
            if probing || progress.stalled_since(now - patience_min) {
                progress.ask_again(base, last);
            }
        }
        self.admit(now);
        let Role::Leader(leader) = &self.role else {
            return;
        };
        // A member that has lost its directory counts again when it has an entry that was
        // made after its return and committed without it: see to it that there is one.
        let waits = |p: &Progress| !p.counts && p.match_index == last;
        if leader.followers.values().any(waits) && last == self.commit_index {
            self.append_own(Payload::Noop);
        }
    }

    /// A follower says whether its answers count. One whose answers do not has forgotten what
    /// it once confirmed, whether or not anybody has told this node of its new directory.
    pub(super) fn note_lost_directory(&mut self, now: Time, from: Server, lost: bool) {
        let next = self.log.last().index.next();
        let Some(progress) = self.progress_mut(Server::any(from.id)) else {
            return;
        };
        let counted = std::mem::replace(&mut progress.counts, !lost);
        if lost && counted && progress.match_index > Index::ZERO {
            *progress = Progress::new(now, next);
            progress.counts = false;
        } else if !lost && !counted {
            self.maybe_commit(now);
        }
    }

    /// Sends a heartbeat to everyone: it keeps the followers from campaigning, tells
    /// them what is committed, and confirms the reads that came in before it.
    pub(super) fn send_round(&mut self, now: Time) {
        let (commit_index, last) = (self.commit_index, self.log.last().index);
        let (birth, from) = (self.birth(), self.config.server);
        let Role::Leader(leader) = &mut self.role else {
            return;
        };
        leader.heartbeat_due = now + self.config.heartbeat;
        let round = leader.reads.begin_round(now);
        let lease = self.config.read_lease && !leader.lease_void;
        for (to, progress) in &leader.followers {
            // Where the follower's log ends in a dead leader's tail, its entries up to
            // the commit index are not ours yet: only what is known to match counts.
            let body = Body::Heartbeat {
                commit: commit_index.min(progress.match_index),
                round,
                last,
                lease,
                state: None,
            };
            self.out.messages.push(Message {
                birth,
                from,
                to: *to,
                term: self.hard_state.term,
                call: 0,
                lost_directory: false,
                body,
            });
        }
        self.confirm_rounds(); // A cluster of one is its own majority.
    }

    fn confirm_rounds(&mut self) {
        let who = (self.membership.quorum(), self.own());
        let Role::Leader(leader) = &mut self.role else {
            return;
        };
        let round = leader.reached(who, leader.reads.sent(), |progress| progress.round);
        leader.reads.confirm(if mutated!(ReadWithoutQuorum) {
            leader.reads.sent()
        } else {
            round
        });
        while let Role::Leader(leader) = &mut self.role
            && let Some((reader, index)) = leader.reads.pop_confirmed()
        {
            self.answer_reader(reader, Some(index));
        }
    }

    /// Answers all reads at once, if the lease holds at `now`, which is after they came
    /// in.
    fn read_by_lease(&mut self, now: Time) {
        while let Role::Leader(leader) = &self.role
            && now < self.lease_end(leader)
            && let Role::Leader(leader) = &mut self.role
            && let Some((reader, index)) = leader.reads.pop()
        {
            self.answer_reader(reader, Some(index));
        }
    }

    pub(super) fn handle_heartbeat_reply(
        &mut self,
        now: Time,
        from: Server,
        (round, promise): (u64, Duration),
        (disk, full, memory_full): (Duration, bool, bool),
    ) {
        let from = self.membership.current().counted(from);
        let Role::Leader(leader) = &mut self.role else {
            return;
        };
        let Some(progress) = leader.followers.get_mut(&from) else {
            return;
        };
        if round > leader.reads.sent() {
            error!(target: "Raft", "answer to a round that was never sent: from={from} round={round}");
            return;
        }
        progress.hear(now);
        progress.disk = disk;
        progress.full = full;
        progress.memory_full = memory_full;
        if let Some(sent) = leader.reads.round_sent_at(round) {
            progress.round_trip = now.since(sent);
            if promise > Duration::ZERO {
                progress.lease = progress.lease.max(sent + promise * 9 / 10);
            }
        }
        progress.round = progress.round.max(round);
        self.confirm_rounds();
    }

    /// Sends what waits to be sent: one AppendEntries for all proposals of a batch, one
    /// round for all its reads.
    pub(super) fn flush_leader(&mut self, now: Time) {
        self.advance_transfer(now);
        self.read_by_lease(now);
        let Role::Leader(leader) = &self.role else {
            return;
        };
        if leader.reads.wants_round() {
            self.send_round(now);
        }
        let mut at = 0;
        while let Role::Leader(leader) = &self.role
            && let Some(to) = leader.order.get(at).copied()
        {
            while self.send_append(now, to) {}
            at += 1;
        }
        if let Role::Leader(leader) = &mut self.role {
            leader.sent.trim();
        }
    }

    /// Sends the next entries to `to`; returns whether there might be more to send.
    fn send_append(&mut self, now: Time, to: Server) -> bool {
        let Role::Leader(leader) = &mut self.role else {
            return false;
        };
        let Some(progress) = leader.followers.get_mut(&to) else {
            return false;
        };
        let last = self.log.last().index;
        let probing = matches!(progress.state, State::Probe { .. });
        if !progress.may_send() || (!probing && progress.next_index > last) {
            return false;
        }
        let prev = progress.next_index.prev();
        let Some(prev_term) = self.log.term_at(prev) else {
            progress.await_snapshot();
            self.out.snapshots_wanted.push(to);
            return false;
        };
        let batch = if !probing {
            self.log
                .batch(progress.next_index, limits::APPEND_BYTES_MAX)
        } else if progress.next_index <= last
            && (self.log.get(progress.next_index))
                .is_some_and(|entry| entry.size_bytes() <= PROBE_BYTES_MAX)
        {
            self.log.batch(progress.next_index, PROBE_BYTES_MAX)
        } else {
            vec_deque::Iter::default()
        };
        let end = Index(prev.0 + batch.len() as u64);
        progress.sent(now, end, batch.clone().map(Entry::size_bytes).sum());
        let body = Body::Append {
            prev: EntryId {
                term: prev_term,
                index: prev,
            },
            entries: leader.sent.share(batch),
            commit: self.commit_index,
        };
        self.send(to, body);
        !probing
    }

    pub(super) fn handle_append_reply(
        &mut self,
        now: Time,
        from: Server,
        reply: Result<Accepted, Rejected>,
    ) {
        let last = self.log.last().index;
        let from = self.membership.current().counted(from);
        let Role::Leader(leader) = &mut self.role else {
            return;
        };
        let Some(progress) = leader.followers.get_mut(&from) else {
            return;
        };
        progress.hear(now);
        match reply {
            Ok(Accepted { match_index }) if match_index > last => {
                error!(target: "Raft", "a follower confirms what was never sent: from={from} index={match_index} last={last}");
            }
            Ok(Accepted { match_index }) => {
                let waits = progress.state == State::Snapshot;
                let news = progress.accepted(now, match_index);
                if waits && progress.match_index < self.log.base().index {
                    progress.await_snapshot(); // Late, and not enough to go on without.
                }
                if news {
                    self.maybe_commit(now);
                }
            }
            Err(rejected) => Self::handle_rejected(&self.log, progress, rejected),
        }
    }

    /// The follower has something else at `rejected`: looks for where the logs part,
    /// whole terms at a time (paper §5.3, end).
    fn handle_rejected(log: &super::Log, progress: &mut Progress, reply: Rejected) {
        let late = match progress.state {
            State::Probe { .. } => reply.rejected != progress.next_index.prev(),
            State::Replicate => reply.rejected <= progress.match_index,
            State::Snapshot => true,
        };
        if late {
            return;
        }
        let hint = reply.hint;
        let next = if hint.index < log.base().index {
            hint.index.next()
        } else {
            // Nothing at or above our base can match: what can is compacted.
            log.match_hint(hint.index, hint.term)
                .map_or(log.base().index, |at| at.index.next())
        };
        progress.probe_from(next.min(reply.rejected));
    }

    /// Commits what a majority holds on disk, if its last entry is of our own term.
    ///
    /// An older entry can sit on a majority and still be overwritten by a later leader
    /// (paper §5.4.2, Figure 8), so it is never committed by counting: it becomes
    /// committed with the first entry of our term that is.
    pub(super) fn maybe_commit(&mut self, now: Time) {
        let who = (self.membership.quorum(), self.own());
        let Role::Leader(leader) = &mut self.role else {
            return;
        };
        let mut own = self.log.stable(); // Ours counts once it is on disk, not before.
        if mutated!(VolatileLeaderIndex) {
            own = self.log.last().index;
        }
        let index = Index(leader.reached(who, own.0, |progress| progress.match_index.0));
        let of_this_term = self.log.term_at(index) == Some(self.hard_state.term);
        if index <= self.commit_index || !(of_this_term || mutated!(OldTermByCounting)) {
            return;
        }
        let committed = self.log.range(self.commit_index.next(), index);
        leader.uncommitted_bytes -= committed.map(Entry::size_bytes).sum::<usize>();
        self.commit_index = index;
        for reader in leader.early_reads.drain(..) {
            leader.reads.push(reader, index);
        }
        if self.membership.unsettled {
            self.advance_change(now);
        }
    }

    /// The commit index moved by other means than [`Raft::maybe_commit`]: by a snapshot
    /// that was still being installed when this node began to lead.
    pub(super) fn recount_uncommitted(&mut self) {
        if let Role::Leader(leader) = &mut self.role {
            let last = self.log.last().index;
            let uncommitted = self.log.range(self.commit_index.next(), last);
            leader.uncommitted_bytes = uncommitted.map(Entry::size_bytes).sum();
        }
    }

    /// Sends a piece of a snapshot, if `to` still waits for one.
    pub fn send_snapshot_chunk(&mut self, to: Server, chunk: SnapshotChunk) {
        if self.awaits_snapshot(to) {
            self.send(to, Body::Snapshot(chunk));
        }
    }

    /// Whether `to` is being sent a snapshot.
    #[must_use]
    pub fn awaits_snapshot(&self, to: Server) -> bool {
        self.followers()
            .and_then(|followers| followers.get(&to))
            .is_some_and(|progress| progress.state == State::Snapshot)
    }

    /// The snapshot for `to` can't be sent, or another would serve better: asks the
    /// follower anew where it stands.
    pub fn give_up_snapshot(&mut self, to: Server) {
        let (base, last) = (self.log.base().index, self.log.last().index);
        if self.awaits_snapshot(to)
            && let Some(progress) = self.progress_mut(to)
        {
            progress.ask_again(base, last);
        }
    }

    pub(super) fn handle_snapshot_reply(
        &mut self,
        now: Time,
        from: Server,
        snapshot: SnapshotMeta,
        next_offset: u64,
        installed: bool,
    ) {
        let last = self.log.last().index;
        let from = self.membership.current().counted(from);
        let Role::Leader(leader) = &mut self.role else {
            return;
        };
        let Some(progress) = leader.followers.get_mut(&from) else {
            return;
        };
        progress.hear(now);
        if progress.state != State::Snapshot || snapshot.last.index > last {
            return;
        }
        if !installed {
            self.out.chunk_replies.push((from, snapshot, next_offset));
        } else if progress.accepted(now, snapshot.last.index) {
            self.maybe_commit(now);
        } else {
            progress.ask_again(self.log.base().index, last);
        }
    }
}
