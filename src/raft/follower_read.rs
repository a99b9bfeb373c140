//! Reads that a follower answers itself, after its leader has told it from where on its
//! state is recent enough (thesis §6.4, end).
//!
//! One question at a time, for all reads that came in before it was sent; what comes in
//! meanwhile waits for the next. A question is named by a number that is used once, and
//! its answer counts only in the term in which it was asked: an answer that was on its
//! way for long confirms nothing that was not asked then.

use std::mem;

use crate::mutation::mutated;
use crate::raft::core::{Raft, Role};
use crate::raft::message::{Body, Message};
use crate::raft::read::{ReadId, ReadOutcome, Reader};
use crate::time::Time;
use crate::types::{Index, Server};

/// Reads of a follower that wait for its leader.
#[derive(Clone, Debug)]
pub(super) struct FollowerReads {
    /// What no question was sent for.
    pub(super) new: Vec<ReadId>,
    /// What the question on its way is for.
    pub(super) asked: Vec<ReadId>,
    /// The number of the question that was last sent.
    pub(super) context: u64,
    /// When it is asked again.
    pub(super) deadline: Time,
}

impl FollowerReads {
    pub(super) fn new(context: u64) -> FollowerReads {
        FollowerReads {
            new: Vec::new(),
            asked: Vec::new(),
            context,
            deadline: Time::NEVER,
        }
    }

    pub(super) fn deadline(&self) -> Time {
        self.deadline
    }
}

impl Raft {
    /// As [`Raft::read`], but a node that does not lead asks its leader instead of
    /// turning the read down.
    pub fn read_anywhere(&mut self, id: ReadId) {
        if self.is_leader() {
            self.read(id);
        } else if self.leader.is_none() {
            self.out.reads.push(ReadOutcome::Lost(id));
        } else {
            self.follower_reads.new.push(id);
        }
    }

    /// Asks the leader, if there is something to ask and no question on its way.
    pub(super) fn flush_follower_reads(&mut self, now: Time) {
        let reads = &mut self.follower_reads;
        let (Some(leader), true) = (self.leader, reads.asked.is_empty()) else {
            return;
        };
        if reads.new.is_empty() || leader == self.config.server {
            return;
        }
        reads.asked = mem::take(&mut reads.new);
        self.ask_read_index(now, leader);
    }

    /// Asks again when no answer came: a later one is as good for all who wait.
    pub(super) fn tick_follower_reads(&mut self, now: Time) {
        let reads = &mut self.follower_reads;
        if now < reads.deadline {
            return;
        }
        reads.deadline = Time::NEVER;
        if let Some(leader) = self.leader {
            let new = mem::take(&mut reads.new);
            reads.asked.extend(new);
            self.ask_read_index(now, leader);
        }
    }

    fn ask_read_index(&mut self, now: Time, leader: Server) {
        let reads = &mut self.follower_reads;
        reads.context += 1;
        reads.deadline = now + self.config.heartbeat * 2;
        let context = reads.context;
        self.send(leader, Body::ReadIndex { context });
    }

    /// A follower asks for the index from which on it may answer.
    pub(super) fn handle_read_index(&mut self, message: &Message, context: u64) {
        let reader = Reader::Follower {
            from: message.from,
            call: message.call,
            context,
        };
        match &mut self.role {
            Role::Leader(leader) => leader.take_read(reader, self.commit_index),
            _ => self.answer_reader(reader, None),
        }
    }

    /// Tells who asked what came of a read.
    pub(super) fn answer_reader(&mut self, reader: Reader, index: Option<Index>) {
        match reader {
            Reader::Client(id) => self.out.reads.push(match index {
                Some(index) => ReadOutcome::Ready(id, index),
                None => ReadOutcome::Lost(id),
            }),
            Reader::Follower {
                from,
                call,
                context,
            } => {
                let body = Body::ReadIndexReply { context, index };
                let answer = self.request(from, self.hard_state.term, body);
                self.out.messages.push(Message { call, ..answer });
            }
        }
    }

    /// The leader's answer. It is of the current term, or it would not get here.
    pub(super) fn handle_read_index_reply(
        &mut self,
        from: Server,
        context: u64,
        index: Option<Index>,
    ) {
        let reads = &mut self.follower_reads;
        let current = context == reads.context || mutated!(ReusedFollowerContext);
        if reads.asked.is_empty() || !current || self.leader != Some(from) {
            return;
        }
        reads.deadline = Time::NEVER;
        for id in mem::take(&mut reads.asked) {
            self.answer_reader(Reader::Client(id), index);
        }
    }

    /// Nobody leads any more, or somebody else: nothing that was asked counts.
    pub(super) fn lose_follower_reads(&mut self) {
        let reads = &mut self.follower_reads;
        reads.deadline = Time::NEVER;
        let (asked, new) = (mem::take(&mut reads.asked), mem::take(&mut reads.new));
        let lost = asked.into_iter().chain(new).map(ReadOutcome::Lost);
        self.out.reads.extend(lost);
    }
}
