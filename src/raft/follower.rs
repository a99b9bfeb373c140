//! What a follower does with what its leader sends (paper §5.3, §7).

use std::time::Duration;

use log::{error, info};

use crate::mutation::mutated;
use crate::raft::configuration::Configuration;
use crate::raft::core::{Raft, Role, Transition};
use crate::raft::message::{Accepted, Body, Message, Rejected, SnapshotMeta};
use crate::time::Time;
use crate::types::{Birth, Entry, EntryId, Index, Payload, Server};

impl Raft {
    /// Follows the sender of a leader's message of the current term; returns whether
    /// it can be the leader.
    fn acknowledge_leader(&mut self, now: Time, from: Server) -> bool {
        let second = self.is_leader() || self.leader.is_some_and(|leader| leader != from);
        if second {
            // Only the sender's word says so: no reason to stop, every reason to shout.
            error!(target: "Raft", "two leaders in one term: term={} known={:?} claims={from}", self.hard_state.term, self.leader);
            return false;
        }
        if matches!(self.role, Role::Follower) && self.leader == Some(from) {
            self.leader_heard = now;
            self.reset_election_timer(now);
        } else {
            self.transition(now, Transition::Follower(self.hard_state.term, Some(from)));
        }
        true
    }

    pub(super) fn handle_append(&mut self, now: Time, mut message: Message) {
        if !self.acknowledge_leader(now, message.from) {
            return;
        }
        let Body::Append {
            prev,
            entries,
            commit,
        } = &mut message.body
        else {
            unreachable!("dispatched by body")
        };
        let (prev, commit) = (*prev, *commit);
        let entries = std::mem::take(entries).into_vec();
        if prev.index < self.commit_index {
            return self.append_behind_commit(now, &message, prev, entries, commit);
        }
        if !self.log.contains(prev) {
            let hint = self
                .log
                .match_hint(prev.index, prev.term)
                .unwrap_or(self.log.base());
            let rejected = Rejected {
                rejected: prev.index,
                hint,
            };
            return self.reply(&message, Body::AppendReply(Err(rejected)));
        }
        self.take_entries(now, &message, prev.index, entries, commit);
    }

    /// The request begins in what is committed here, and so equal already (Leader
    /// Completeness, §5.4): only what goes beyond is looked at.
    fn append_behind_commit(
        &mut self,
        now: Time,
        message: &Message,
        prev: EntryId,
        mut entries: Vec<Entry>,
        commit: Index,
    ) {
        let known = usize::try_from(self.commit_index.0 - prev.index.0).unwrap_or(usize::MAX);
        let last_known = entries.drain(..known.min(entries.len())).next_back();
        if let Some(entry) = last_known
            && entry.id.index == self.commit_index
            && !self.log.contains(entry.id)
        {
            // Only the sender's word says so.
            error!(target: "Raft", "a leader contradicts what is committed: from={} has={} term={:?}", message.from, entry.id, self.log.term_at(self.commit_index));
            return;
        }
        self.take_entries(now, message, self.commit_index, entries, commit);
    }

    /// Appends what is new, behind an entry that is known to be equal.
    fn take_entries(
        &mut self,
        now: Time,
        message: &Message,
        prev: Index,
        entries: Vec<Entry>,
        commit: Index,
    ) {
        if let Some(first) = entries.first()
            && self.log.last() == EntryId::ZERO
            && !self.begin_log(message.birth, first)
        {
            return;
        }
        let match_index = entries.last().map_or(prev, |entry| entry.id.index);
        let known = entries
            .iter()
            .take_while(|entry| self.log.contains(entry.id) && !mutated!(MatchingTailDropped))
            .count();
        let mut new = entries.into_iter().skip(known).peekable();
        if let Some(first) = new.peek()
            && first.id.index <= self.log.last().index
        {
            if mutated!(StaleTailKept) {
                return self.promise_match(message, match_index);
            }
            self.truncate(now, first.id.index);
        }
        let mut changed = false;
        for entry in new {
            changed |= self.membership.appended(&entry);
            self.log.append(entry);
        }
        if changed {
            self.configuration_changed(now);
        }
        self.advance_commit(commit.min(match_index));
        self.promise_match(message, match_index);
    }

    /// The first entry of an empty log decides which cluster the directory belongs to: the
    /// one whose birth it names, or one of feature level 0, whose first members every node
    /// was told. Returns whether it may be appended.
    fn begin_log(&mut self, birth: Birth, first: &Entry) -> bool {
        if !self.membership.current().is_empty() {
            return true;
        }
        let named = match &first.payload {
            Payload::Config(bytes) => {
                Configuration::decode(bytes).map_or(Birth::NONE, |c| c.birth())
            }
            _ => Birth::NONE,
        };
        if named == Birth::NONE {
            let first_members = self.config.first_members.clone();
            self.membership.reset(Index::ZERO, first_members);
        } else if birth == Birth::NONE {
            info!(target: "Raft", "the sender was founded since it introduced itself; its next connection says so: birth={named}");
            return false;
        } else if named != birth {
            error!(target: "Raft", "the first entry names another birth than its sender: entry={named} sender={birth}");
            return false;
        }
        true
    }

    /// Drops entries that conflict with the leader's.
    fn truncate(&mut self, now: Time, from: Index) {
        assert!(
            from > self.commit_index,
            "a committed entry is never dropped: index {from}"
        );
        info!(target: "Raft", "drop entries of a dead leader: from={from} last={}", self.log.last());
        if self.log.truncate(from) {
            let write = &mut self.out.write;
            write.truncate_from = Some(write.truncate_from.map_or(from, |old| old.min(from)));
        }
        if self.membership.truncated(from) {
            self.configuration_changed(now);
        }
    }

    /// Promises that the logs are equal up to `match_index`. An earlier promise to the
    /// same leader that has not left yet is contained in this one.
    fn promise_match(&mut self, message: &Message, mut match_index: Index) {
        if mutated!(ReplyClaimsLogEnd) {
            match_index = self.log.last().index;
        }
        let reply = self.answer(message, Body::AppendReply(Ok(Accepted { match_index })));
        if let Some(Message {
            to,
            term,
            body: Body::AppendReply(Ok(earlier)),
            ..
        }) = self.out.promises.last()
            && (*to, *term) == (reply.to, reply.term)
            && earlier.match_index <= match_index
        {
            self.out.promises.pop();
        }
        self.out.promises.push(reply);
    }

    pub(super) fn handle_heartbeat(
        &mut self,
        now: Time,
        message: &Message,
        commit: Index,
        round: u64,
        lease: bool,
    ) {
        if !self.acknowledge_leader(now, message.from) {
            return;
        }
        // The leader sends no more than what this log is known to match; a log that
        // was lost since then has less.
        self.advance_commit(commit.min(self.log.last().index));
        let promise = match lease {
            true => self.promise_lease(now),
            false => Duration::ZERO,
        };
        self.reply(message, self.heartbeat_reply(round, promise));
    }

    pub(super) fn heartbeat_reply(&self, round: u64, promise: Duration) -> Body {
        Body::HeartbeatReply {
            round,
            promise,
            disk: self.disk,
            full: self.disk_is_full,
            memory_full: self.memory_is_full,
            state: None,
        }
    }

    /// Moves the commit index forward to `index`, if it is not there yet.
    fn advance_commit(&mut self, index: Index) {
        self.commit_index = self.commit_index.max(index);
    }

    pub(super) fn handle_snapshot(&mut self, now: Time, mut message: Message) {
        if !self.acknowledge_leader(now, message.from) {
            return;
        }
        let Body::Snapshot(chunk) = std::mem::replace(&mut message.body, Body::TimeoutNow) else {
            unreachable!("dispatched by body")
        };
        if chunk.snapshot.last.index <= self.commit_index {
            let (snapshot, next_offset) = (chunk.snapshot, chunk.snapshot.total_bytes);
            return self.answer_snapshot(&message, snapshot, next_offset, true);
        }
        self.out.chunks.push((message, chunk));
    }

    /// Answers a piece of a snapshot. `installed` promises that the state is on disk.
    pub fn answer_snapshot(
        &mut self,
        message: &Message,
        snapshot: SnapshotMeta,
        next_offset: u64,
        installed: bool,
    ) {
        let body = Body::SnapshotReply {
            snapshot,
            next_offset,
            installed,
        };
        let is_hasty = mutated!(InstalledBeforeSync) && snapshot.last.index < self.commit_index;
        if installed && !is_hasty {
            self.promise(message, body);
        } else {
            self.reply(message, body);
        }
    }

    /// The state machine's state is that of a snapshot which is on disk, up to `last`, with
    /// the members that the cluster had then: the log goes on from there. Returns whether
    /// that was ahead of this node.
    pub fn install_snapshot(
        &mut self,
        now: Time,
        last: EntryId,
        configuration: Configuration,
    ) -> bool {
        if last.index <= self.commit_index {
            return false;
        }
        info!(target: "Raft", "install snapshot: last={last} own_last={}", self.log.last());
        self.commit_index = last.index;
        // A truncation that was not written yet is contained in the log's new beginning.
        self.out
            .write
            .truncate_from
            .take_if(|from| *from <= last.index);
        if self.log.contains(last) {
            // What follows it in the own log may well be right, and stays (§7).
            if self.log.written() < last.index {
                // The entries in between are never written: no gap on the disk.
                self.out.write.truncate_from = None;
                self.out.write.reset_to = Some(last);
            }
            self.log.compact(last.index);
            self.membership.compact(last.index);
        } else {
            self.log.reset(last);
            self.membership.reset(last.index, configuration);
            self.configuration_changed(now);
            self.out.write.truncate_from = None;
            self.out.write.reset_to = Some(last);
        }
        self.recount_uncommitted();
        true
    }
}
