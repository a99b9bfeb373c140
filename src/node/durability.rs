//! The durability rule of the store, in one place.
//!
//! Nothing that speaks for the disk leaves before the sync: neither votes and append
//! replies, nor *any* message of a term that is not on disk yet. (A candidate could
//! otherwise crash, lose its unsynced term and tail, campaign again in the same term
//! and count a late grant that was given to its longer log.) Heartbeats and their
//! answers wait for nothing but the term, which is on disk long since; so a slow sync
//! of entries costs no leadership.
//!
//! A leader's AppendEntries may overtake its own write (thesis §10.2.1), since the
//! core counts the leader in the quorum by what [`Raft::persisted`] confirmed.

use std::collections::VecDeque;
use std::time::Duration;

use crate::disk::Disk;
use crate::mutation::mutated;
use crate::node::core::Node;
use crate::raft::{Body, Message, Raft, Ready, Write};
use crate::time::Time;
use crate::types::{HardState, Index};
use crate::wal::{Batch, BatchSeq, Wal};

/// What waits for which sync.
pub(super) struct Ledger {
    pub(super) wal: Wal,
    /// Batches on their way to the disk, in order.
    batches: VecDeque<Written>,
    /// Messages that wait for a batch, in the order of their batches.
    waiting: VecDeque<(BatchSeq, Message)>,
    /// The batch with the current term in it.
    term: BatchSeq,
    /// The last batch.
    last: BatchSeq,
    /// How long the last write took to become durable.
    sync_time: Duration,
    /// When it became so.
    synced_at: Time,
}

/// For how long the time of a write says something about the disk.
const SYNC_TIME_COUNTS: Duration = Duration::from_secs(10);

/// A batch on its way to the disk.
struct Written {
    seq: BatchSeq,
    hard_state: Option<HardState>,
    /// Up to where the log is durable with this batch.
    last: Index,
    /// When it was handed to the disk.
    since: Time,
}

impl Ledger {
    pub(super) fn new(wal: Wal) -> Ledger {
        let opened = wal.appended();
        Ledger {
            wal,
            batches: VecDeque::new(),
            waiting: VecDeque::new(),
            // The fresh segment repeats the hard state: nobody is told anything before
            // that is on disk.
            term: opened,
            last: opened,
            sync_time: Duration::ZERO,
            synced_at: Time::ZERO,
        }
    }

    /// How long the last write took to become durable; zero if that was long ago.
    pub(super) fn recent_sync_time(&self, now: Time) -> Duration {
        if now.since(self.synced_at) < SYNC_TIME_COUNTS {
            self.sync_time
        } else {
            Duration::ZERO
        }
    }

    /// How long the last write took to become durable.
    pub(super) fn sync_time(&self) -> Duration {
        self.sync_time
    }

    /// For how long the oldest write that is not durable has been waiting.
    pub(super) fn waiting_since(&self, now: Time) -> Duration {
        let oldest = self.batches.front();
        oldest.map_or(Duration::ZERO, |batch| now.since(batch.since))
    }

    /// Hands a write to the log, and returns the batch after which all up to and with
    /// it is durable.
    fn write<D: Disk>(
        &mut self,
        now: Time,
        disk: &mut D,
        write: Write,
        raft: &mut Raft,
    ) -> BatchSeq {
        let Write {
            hard_state,
            truncate_from,
            reset_to,
        } = write;
        let entries = raft.unwritten();
        let batch = Batch {
            hard_state,
            truncate_from,
            snapshot_mark: reset_to,
            entries: &entries,
        };
        if batch.is_empty() {
            return self.last;
        }
        self.last = self.wal.append(disk, batch);
        // What this batch truncates is no longer durable by an earlier one, even if an
        // equal entry takes its place.
        if let Some(end) = truncate_from
            .map(Index::prev)
            .or(reset_to.map(|_| Index::ZERO))
        {
            self.batches
                .iter_mut()
                .for_each(|batch| batch.last = batch.last.min(end));
        }
        if hard_state.is_some() {
            self.term = self.last;
        }
        let last = raft.log().last().index;
        self.batches.push_back(Written {
            seq: self.last,
            hard_state,
            last,
            since: now,
        });
        self.last
    }

    /// Lets `message` go once `batch` is on disk.
    fn send_after(&mut self, batch: BatchSeq, message: Message, out: &mut Vec<Message>) {
        if batch <= self.wal.durable() {
            out.push(message);
        } else {
            // The newest batch so far is the newest that anyone waits for.
            let at = self.waiting.partition_point(|(seq, _)| *seq <= batch);
            self.waiting.insert(at, (batch, message));
        }
    }

    /// The disk has caught up with some batches: tells the core, lets their messages go.
    pub(super) fn confirm(&mut self, now: Time, raft: &mut Raft, out: &mut Vec<Message>) {
        let durable = self.wal.durable();
        while self
            .batches
            .front()
            .is_some_and(|batch| batch.seq <= durable)
        {
            let Written {
                hard_state,
                last,
                since,
                ..
            } = self.batches.pop_front().expect("there is a front");
            (self.sync_time, self.synced_at) = (now.since(since), now);
            raft.persisted(now, hard_state, last);
        }
        while self
            .waiting
            .front()
            .is_some_and(|(batch, _)| *batch <= durable)
        {
            let (_, message) = self.waiting.pop_front().expect("there is a front");
            release(message, out);
        }
    }
}

/// Lets a message go. One sync may cover several batches of a leader: a confirmation that
/// leaves with a later one to the same leader is contained in it.
fn release(message: Message, out: &mut Vec<Message>) {
    if let Some(before) = out.last()
        && let Body::AppendReply(Ok(earlier)) = before.body
        && let Body::AppendReply(Ok(later)) = message.body
        && (before.to, before.term, before.lost_directory)
            == (message.to, message.term, message.lost_directory)
        && earlier.match_index <= later.match_index
    {
        out.pop();
    }
    out.push(message);
}

impl<D: Disk> Node<D> {
    /// The node ends in order: the log vouches for all that is durable. Nothing is
    /// promised after this.
    pub fn seal(&mut self) {
        if self.failure().is_none() {
            self.ledger.wal.seal(&mut self.disk);
        }
    }

    /// Carries out what the core asks for. **The order of these lines, and what each
    /// message waits for, is the durability rule of the store; it is written nowhere
    /// else.**
    pub(super) fn carry_out(&mut self, now: Time) {
        let mut ready = self.raft.take_ready(now);
        let Ready {
            write,
            messages,
            promises,
            reads,
            snapshots_wanted,
            chunks,
            chunk_replies,
        } = &mut ready;
        // The sync runs while the batch is being sent.
        let write = std::mem::take(write);
        let written = self
            .ledger
            .write(now, &mut self.disk, write, &mut self.raft);
        for mut message in messages.drain(..) {
            self.state_check.annotate(now, &mut message);
            let term = if mutated!(TermNotAwaited) {
                self.ledger.wal.durable()
            } else {
                self.ledger.term
            };
            self.ledger
                .send_after(term, message, &mut self.out.messages);
        }
        for message in promises.drain(..) {
            let written = if mutated!(ReplyBeforeSync) {
                self.ledger.wal.durable()
            } else {
                written
            };
            self.ledger
                .send_after(written, message, &mut self.out.messages);
        }
        let lost = self.not_leading();
        self.requests
            .take_reads(reads.drain(..), &lost, &mut self.out.answers);
        for to in snapshots_wanted.drain(..) {
            self.begin_transfer(now, to);
        }
        for (message, chunk) in chunks.drain(..) {
            // A directory with a snapshot and without a log has lost it: first the log.
            if self.ledger.wal.is_open() {
                self.receive_chunk(now, message, chunk);
            }
        }
        for (from, snapshot, next_offset) in chunk_replies.drain(..) {
            self.continue_transfer(now, from, snapshot, next_offset);
        }
        self.raft.recycle(ready);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::raft::{Accepted, Rejected};
    use crate::types::{Birth, EntryId, Server, Term};

    fn message(to: u64, term: u64, body: Body) -> Message {
        Message {
            birth: Birth(1),
            from: Server::new(1, 1),
            to: Server::new(to, 1),
            term: Term(term),
            call: 0,
            lost_directory: false,
            body,
        }
    }

    fn accepted(to: u64, term: u64, index: u64) -> Message {
        let match_index = Index(index);
        message(to, term, Body::AppendReply(Ok(Accepted { match_index })))
    }

    fn released(messages: &[Message]) -> Vec<Message> {
        let mut out = Vec::new();
        for message in messages {
            release(message.clone(), &mut out);
        }
        out
    }

    #[test]
    fn of_confirmations_that_leave_together_the_last_is_sent() {
        let all = [accepted(0, 2, 5), accepted(0, 2, 7), accepted(0, 2, 7)];
        assert_eq!(released(&all), [accepted(0, 2, 7)]);
    }

    #[test]
    fn a_confirmation_stays_where_a_later_one_does_not_contain_it() {
        let rejected = Body::AppendReply(Err(Rejected {
            rejected: Index(9),
            hint: EntryId::new(1, 3),
        }));
        for later in [
            accepted(2, 2, 7),
            accepted(0, 3, 7),
            accepted(0, 2, 4),
            message(0, 2, rejected),
        ] {
            let all = [accepted(0, 2, 5), later];
            assert_eq!(released(&all), all);
        }
    }
}
