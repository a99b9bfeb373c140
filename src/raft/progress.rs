//! What a leader knows of one follower, and how much it may send (paper §5.3).
//!
//! *Probe*: where the logs part is not known; one message at a time. *Replicate*:
//! the logs match up to `match_index`, messages are pipelined within a window of
//! bytes. *Snapshot*: what the follower needs next is compacted.

use std::collections::VecDeque;
use std::time::Duration;

use crate::limits;
use crate::time::Time;
use crate::types::Index;

/// How a follower is being served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// One message at a time, until one is accepted.
    Probe {
        /// Whether that message is on its way.
        sent: bool,
    },
    /// Messages are pipelined.
    Replicate,
    /// It gets a snapshot.
    Snapshot,
}

/// One AppendEntries on its way.
#[derive(Clone, Copy, Debug)]
pub(super) struct Inflight {
    pub(super) last: Index,
    pub(super) bytes: usize,
}

/// What the leader knows of one follower.
#[derive(Clone, Debug)]
pub struct Progress {
    /// The logs are equal up to here, on the follower's disk.
    pub match_index: Index,
    /// The next entry to send.
    pub next_index: Index,
    /// How it is being served.
    pub state: State,
    /// Whether it counts in majorities. Below feature level 1 it does not while it catches
    /// up after it has lost its directory.
    pub counts: bool,
    /// When it was last heard of, or when this node began to lead: the clock of
    /// check-quorum, which gives a new leader time.
    pub heard: Time,
    /// When it last answered in this term; [`Time::ZERO`] before. What is decided now by
    /// those who are there, such as a change of the members, goes by this.
    pub answered: Time,
    /// When this node began to serve it.
    pub began: Time,
    /// When anything was last heard of it, requests included.
    pub alive: Time,
    /// The newest heartbeat round it has answered.
    pub round: u64,
    /// Until when it helps nobody else to leadership, less a tenth of its promise for clocks
    /// of unequal rate: counted from when the round was sent that it answered.
    pub lease: Time,
    /// How slow its disk is, by its own account; see
    /// [`Raft::note_disk`](super::Raft::note_disk).
    pub disk: Duration,
    /// Whether its disk has no room for more, by its own account.
    pub full: bool,
    /// Whether its memory limit is reached, by its own account.
    pub memory_full: bool,
    /// How long its last answer to a heartbeat took.
    pub round_trip: Duration,
    /// When `match_index` last moved, or the pipeline was empty.
    pub moved: Time,
    pub(super) inflight: VecDeque<Inflight>,
    pub(super) inflight_bytes: usize,
}

impl Progress {
    /// A follower of which a new leader knows nothing yet.
    #[must_use]
    pub fn new(now: Time, next_index: Index) -> Progress {
        Progress {
            match_index: Index::ZERO,
            next_index,
            state: State::Probe { sent: false },
            counts: true,
            heard: now,
            answered: Time::ZERO,
            began: now,
            alive: now,
            round: 0,
            lease: Time::ZERO,
            disk: Duration::ZERO,
            full: false,
            memory_full: false,
            round_trip: Duration::ZERO,
            moved: now,
            inflight: VecDeque::new(),
            inflight_bytes: 0,
        }
    }

    /// The follower has answered.
    pub fn hear(&mut self, now: Time) {
        self.heard = now;
        self.answered = now;
        self.alive = now;
    }

    /// Whether it has answered in this term, `patience` ago at most.
    #[must_use]
    pub fn answers(&self, now: Time, patience: Duration) -> bool {
        self.counts && self.answered != Time::ZERO && self.answered + patience >= now
    }

    /// Whether another AppendEntries may be sent now. A window always admits one
    /// message, however large.
    #[must_use]
    pub fn may_send(&self) -> bool {
        match self.state {
            State::Probe { sent } => !sent,
            State::Replicate => {
                self.inflight.len() < limits::INFLIGHT_MESSAGES_MAX
                    && self.inflight_bytes < limits::INFLIGHT_BYTES_MAX
            }
            State::Snapshot => false,
        }
    }

    /// An AppendEntries up to `last` was sent.
    pub fn sent(&mut self, now: Time, last: Index, bytes: usize) {
        match &mut self.state {
            State::Probe { sent } => *sent = true,
            State::Replicate => {
                if bytes > 0 {
                    if self.inflight.is_empty() {
                        self.moved = now;
                    }
                    self.inflight.push_back(Inflight { last, bytes });
                    self.inflight_bytes += bytes;
                }
                self.next_index = last.next();
            }
            State::Snapshot => unreachable!("no entries are sent beside a snapshot"),
        }
    }

    /// The follower confirms all up to `index`; returns whether that is news.
    pub fn accepted(&mut self, now: Time, index: Index) -> bool {
        while self.inflight.front().is_some_and(|sent| sent.last <= index) {
            self.inflight_bytes -= self.inflight.pop_front().expect("there is a front").bytes;
        }
        let news = index > self.match_index;
        if news {
            self.match_index = index;
            self.moved = now;
        }
        self.next_index = self.next_index.max(index.next());
        // A probe that is answered has found where the logs meet. A snapshot ends the
        // same way when the follower turns out to have what it needs.
        if self.state != State::Replicate && (news || matches!(self.state, State::Probe { .. })) {
            self.state = State::Replicate;
            self.next_index = self.match_index.next();
            self.clear_window();
        }
        news
    }

    /// Where the logs part is not known any more, for instance because messages were
    /// lost: asks again from `next`.
    pub fn probe_from(&mut self, next: Index) {
        self.state = State::Probe { sent: false };
        self.next_index = next.max(self.match_index.next());
        self.clear_window();
    }

    /// What was sent is probably lost: asks again where the logs part. An open search
    /// goes on where it was; else from what is known to match, or, where that is
    /// compacted (`base` is the last compacted index), from the end of the log: the
    /// follower may have more than it got to confirm, and a snapshot is dear.
    pub fn ask_again(&mut self, base: Index, last: Index) {
        match self.state {
            State::Probe { .. } => self.state = State::Probe { sent: false },
            _ if self.match_index >= base => self.probe_from(self.match_index.next()),
            _ => self.probe_from(last.next()),
        }
    }

    /// It needs a snapshot.
    pub fn await_snapshot(&mut self) {
        self.state = State::Snapshot;
        self.clear_window();
    }

    /// Whether messages are on their way that nobody has answered since `deadline`.
    #[must_use]
    pub fn stalled_since(&self, deadline: Time) -> bool {
        self.state == State::Replicate && !self.inflight.is_empty() && self.moved < deadline
    }

    fn clear_window(&mut self) {
        self.inflight.clear();
        self.inflight_bytes = 0;
    }
}
