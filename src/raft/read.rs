//! ReadIndex: linearizable reads without a log entry each (thesis §6.4).
//!
//! A read is safe to answer once the state machine has applied all that was
//! committed when it came in, and once a majority has confirmed *after* it came in
//! that no later leader exists. Heartbeats are numbered in rounds; a read needs the
//! first round that is sent after its arrival, and many reads share one.
//!
//! Rounds are numbered within a term and their answers carry the term, so an answer
//! can be neither too early nor of another leadership.

use std::collections::VecDeque;

use crate::types::Index;

/// Names a read for whoever asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ReadId(pub u64);

/// What came of a read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReadOutcome {
    /// It may be answered as soon as the state machine has applied up to here.
    Ready(ReadId, Index),
    /// Leadership was lost before it could be confirmed; nothing was done.
    Lost(ReadId),
}

/// The reads of one leadership that wait for their round.
#[derive(Debug, Default)]
pub struct Reads {
    /// In the order of their rounds.
    waiting: VecDeque<Waiting>,
    /// The newest round that was sent.
    sent: u64,
    /// The newest round that a majority has answered.
    confirmed: u64,
}

#[derive(Debug)]
struct Waiting {
    id: ReadId,
    /// What was committed when the read came in.
    index: Index,
    /// The first round that was sent after it came in.
    round: u64,
}

impl Reads {
    /// A read comes in while `commit` is committed.
    pub fn push(&mut self, id: ReadId, commit: Index) {
        self.waiting.push_back(Waiting {
            id,
            index: commit,
            round: self.sent + 1,
        });
    }

    /// Whether a round should be sent now: reads wait for one that was not sent yet,
    /// and the one before has come back. (Heartbeats send one anyway, from time to
    /// time, so that a lost round does not hold up the next for ever.)
    #[must_use]
    pub fn wants_round(&self) -> bool {
        self.sent == self.confirmed && self.waiting.back().is_some_and(|r| r.round > self.sent)
    }

    /// Begins a round and returns its number.
    pub fn begin_round(&mut self) -> u64 {
        self.sent += 1;
        self.sent
    }

    /// A majority has answered `round` or a later one: moves the reads that it
    /// confirms to `out`.
    pub fn confirm(&mut self, round: u64, out: &mut Vec<ReadOutcome>) {
        assert!(
            round <= self.sent,
            "only rounds that were sent are answered"
        );
        self.confirmed = self.confirmed.max(round);
        while self
            .waiting
            .front()
            .is_some_and(|read| read.round <= self.confirmed)
        {
            let read = self.waiting.pop_front().expect("there is a front");
            out.push(ReadOutcome::Ready(read.id, read.index));
        }
    }

    /// The leadership is over.
    pub fn lose_all(&mut self, out: &mut Vec<ReadOutcome>) {
        out.extend(
            self.waiting
                .drain(..)
                .map(|read| ReadOutcome::Lost(read.id)),
        );
    }

    /// The newest round that was sent.
    #[must_use]
    pub fn sent(&self) -> u64 {
        self.sent
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_round_that_was_sent_before_the_read_came_in_does_not_confirm_it() {
        let mut reads = Reads::default();
        let mut out = Vec::new();
        let early = reads.begin_round();
        reads.push(ReadId(1), Index(5));
        reads.confirm(early, &mut out);
        assert!(out.is_empty());
        assert!(reads.wants_round());
        let late = reads.begin_round();
        assert!(!reads.wants_round(), "one round at a time");
        reads.confirm(late, &mut out);
        assert_eq!(out, [ReadOutcome::Ready(ReadId(1), Index(5))]);
    }

    #[test]
    fn many_reads_share_one_round() {
        let mut reads = Reads::default();
        let mut out = Vec::new();
        (0..10).for_each(|i| reads.push(ReadId(i), Index(i)));
        let round = reads.begin_round();
        reads.confirm(round, &mut out);
        assert_eq!(out.len(), 10);
        assert!(!reads.wants_round());
    }
}
