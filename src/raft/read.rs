//! ReadIndex: linearizable reads without a log entry each (thesis §6.4).
//!
//! A read is safe to answer once the state machine has applied all that was
//! committed when it came in, and once a majority has confirmed *after* it came in
//! that no later leader exists. Heartbeats are numbered in rounds; a read needs the
//! first round that is sent after its arrival, and many reads share one.
//!
//! Rounds are numbered within a term and their answers carry the term, so an answer
//! can be neither too early nor of another leadership.
//!
//! With a *lease* (by option, thesis §6.4.1) a leader does not ask for each read: a follower
//! that answers a round promises to help nobody else to leadership for a while, whose length
//! its answer states. Counted from when the round was sent, and less a tenth for clocks of
//! unequal rate, no later leader can exist before a quorum's promises end.

use std::collections::VecDeque;

use crate::mutation::mutated;
use crate::time::Time;
use crate::types::{Index, Server};

/// Names a read for whoever asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ReadId(pub u64);

/// What came of a read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReadOutcome {
    /// It may be answered as soon as the state machine has applied up to here.
    Ready(ReadId, Index),
    /// Leadership was lost, or nobody leads, before it could be confirmed; nothing was
    /// done.
    Lost(ReadId),
}

/// Who waits for a read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reader {
    /// A client of this node.
    Client(ReadId),
    /// A follower, for clients of its own: it is answered with its context, as the
    /// answer to this call.
    Follower {
        from: Server,
        call: u64,
        context: u64,
    },
}

/// The reads of one leadership that wait for their round.
#[derive(Clone, Debug, Default)]
pub(super) struct Reads {
    /// In the order of their rounds.
    pub(super) waiting: VecDeque<Waiting>,
    /// The newest round that was sent.
    pub(super) sent: u64,
    /// The newest round that a majority has answered.
    pub(super) confirmed: u64,
    /// When the latest rounds were sent.
    pub(super) sent_at: VecDeque<(u64, Time)>,
}

/// Rounds whose times are kept: more are on their way only if nobody answers.
const ROUNDS_MAX: usize = 64;

#[derive(Clone, Debug)]
pub(super) struct Waiting {
    pub(super) reader: Reader,
    /// What was committed when the read came in.
    pub(super) index: Index,
    /// The first round that was sent after it came in.
    pub(super) round: u64,
}

impl Reads {
    /// A read comes in while `commit` is committed.
    pub(super) fn push(&mut self, reader: Reader, commit: Index) {
        self.waiting.push_back(Waiting {
            reader,
            index: commit,
            round: self.sent + u64::from(!mutated!(ReusedReadContext)),
        });
    }

    /// Whether reads wait that no round was sent for.
    pub(super) fn has_new(&self) -> bool {
        self.waiting.back().is_some_and(|r| r.round > self.sent)
    }

    /// Whether a round should be sent now: reads wait for one that was not sent yet,
    /// and the one before has come back. (Heartbeats send one anyway, from time to
    /// time, so that a lost round does not hold up the next for ever.)
    pub(super) fn wants_round(&self) -> bool {
        self.sent == self.confirmed && self.has_new()
    }

    /// Begins a round and returns its number.
    pub(super) fn begin_round(&mut self, now: Time) -> u64 {
        self.sent += 1;
        self.sent_at.push_back((self.sent, now));
        if self.sent_at.len() > ROUNDS_MAX {
            self.sent_at.pop_front();
        }
        self.sent
    }

    /// When `round` was sent, if it is still known.
    pub(super) fn round_sent_at(&self, round: u64) -> Option<Time> {
        // Rounds are numbered one after the other.
        let (first, _) = self.sent_at.front()?;
        let at = usize::try_from(round.checked_sub(*first)?).ok()?;
        self.sent_at.get(at).map(|(_, time)| *time)
    }

    /// A majority has answered `round` or a later one.
    pub(super) fn confirm(&mut self, round: u64) {
        assert!(
            round <= self.sent,
            "only rounds that were sent are answered"
        );
        self.confirmed = self.confirmed.max(round);
    }

    /// The next read that the confirmed rounds allow to be answered, with its index.
    pub(super) fn pop_confirmed(&mut self) -> Option<(Reader, Index)> {
        if self.waiting.front()?.round > self.confirmed {
            return None;
        }
        self.pop()
    }

    /// The next read, confirmed or not: for a leader that holds a lease, and for the end
    /// of a leadership.
    pub(super) fn pop(&mut self) -> Option<(Reader, Index)> {
        let read = self.waiting.pop_front()?;
        Some((read.reader, read.index))
    }

    /// The newest round that was sent.
    pub(super) fn sent(&self) -> u64 {
        self.sent
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EARLY: Time = Time::from_millis(5);

    fn client(id: u64) -> Reader {
        Reader::Client(ReadId(id))
    }

    #[test]
    fn a_round_that_was_sent_before_the_read_came_in_does_not_confirm_it() {
        let mut reads = Reads::default();
        let early = reads.begin_round(EARLY);
        reads.push(client(1), Index(5));
        reads.confirm(early);
        assert_eq!(reads.pop_confirmed(), None);
        assert!(reads.wants_round());
        let late = reads.begin_round(EARLY);
        assert!(!reads.wants_round(), "one round at a time");
        reads.confirm(late);
        assert_eq!(reads.pop_confirmed(), Some((client(1), Index(5))));
    }

    #[test]
    fn many_reads_share_one_round() {
        let mut reads = Reads::default();
        (0..10).for_each(|i| reads.push(client(i), Index(i)));
        let round = reads.begin_round(EARLY);
        reads.confirm(round);
        assert_eq!(std::iter::from_fn(|| reads.pop_confirmed()).count(), 10);
        assert!(!reads.wants_round());
    }
}
