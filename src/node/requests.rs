//! Clients: writes that wait to be committed, reads that wait to be confirmed, and
//! who gets which answer.

use std::collections::{BTreeSet, VecDeque};

use bytes::Bytes;

use crate::disk::Disk;
use crate::kv::Outcome;
use crate::limits;
use crate::mem::Buffer;
use crate::mutation::mutated;
use crate::node::backup::{BackupAnswer, BackupRequest};
use crate::node::core::Node;
use crate::node::members::OperatorAnswer;
use crate::node::scan::{Page, Scan};
use crate::node::status::Status;
use crate::raft::{Change, ProposeError, ReadId, ReadOutcome};
use crate::time::Time;
use crate::types::{EntryId, Index, NodeId, Payload};

/// Who asked, so that the answer finds its way back. The node only carries it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Caller {
    /// Which reactor.
    pub reactor: u32,
    /// Which of its connections, generation included.
    pub connection: u64,
    /// Which call on it.
    pub sequence: u64,
}

/// What a client asks for, checked and, for a write, encoded already.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request {
    /// A command for the state machine.
    Write {
        /// As [`crate::kv::Command::encode`] made it.
        command: Bytes,
        /// Whether it needs room for data that stays: refused when the disk is full or the
        /// memory limit is reached, while removes still work.
        grows: bool,
    },
    /// A linearizable read.
    Get {
        /// Of this key.
        key: Bytes,
        /// Whether this node may answer though it does not lead: it asks its leader from
        /// where on its state is recent enough.
        anywhere: bool,
    },
    /// A linearizable read of many keys in order.
    Scan(Box<Scan>),
    /// What this node knows of itself.
    Status,
    /// A change of the members; answered when it is done.
    Change(Vec<Change>),
    /// Another node is to lead; answered when it does.
    HandOver(NodeId),
    /// A backup, or a piece of one.
    Backup(BackupRequest),
}

/// What a client is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The command was applied, now or the first time it was sent.
    Applied(Outcome),
    /// The value of the key, `None` if there is none.
    Value(Option<Buffer>),
    /// The first page of what a scan asks for.
    Page(Box<Page>),
    /// This node does not lead, that one does. Nothing was done.
    Redirect(NodeId),
    /// No leader is known. Nothing was done.
    NoLeader,
    /// The cluster is being founded, and takes no writes yet. Nothing was done.
    Founding,
    /// Leadership was lost while the write waited: it may or may not happen.
    OutcomeUnknown,
    /// Too much is waiting: writes to be committed, or answers to be taken by the one who
    /// asks. Nothing was done.
    Busy,
    /// The disk is full. Nothing was done.
    NoSpace,
    /// The memory limit of a voter is reached. Nothing was done.
    StoreFull,
    /// See [`Request::Status`].
    Status(Box<Status>),
    /// See [`Request::Change`].
    Change(OperatorAnswer),
    /// See [`Request::HandOver`].
    HandOver(OperatorAnswer),
    /// See [`Request::Backup`].
    Backup(BackupAnswer),
}

/// What a read looks up.
#[derive(Debug)]
enum Lookup {
    Key(Bytes),
    Range(Box<Scan>),
    /// Nothing: how far a backup has to reach.
    Position,
}

impl Lookup {
    /// That nothing was looked up, in the words of who asked.
    fn refused(&self, why: &Answer) -> Answer {
        match self {
            Lookup::Key(_) | Lookup::Range(_) => why.clone(),
            Lookup::Position => {
                let reason = match why {
                    Answer::Busy => "busy, too much is waiting",
                    _ => "no leader has confirmed what is acknowledged",
                };
                Answer::Backup(BackupAnswer::Declined {
                    reason: reason.to_owned(),
                    again: true,
                })
            }
        }
    }
}

/// Requests that wait.
#[derive(Debug, Default)]
pub(super) struct Requests {
    /// Writes in the log, in its order, all of the term that this node leads.
    writes: VecDeque<(EntryId, Caller)>,
    /// Reads that wait to be confirmed, in the order in which they came.
    reads: VecDeque<(ReadId, Caller, Lookup)>,
    /// Reads that are confirmed and wait for the state machine, in the order of the
    /// index that they wait for.
    confirmed: VecDeque<(Index, Caller, Lookup)>,
    next_read: u64,
    /// Connections whose reads are refused.
    refused: BTreeSet<(u32, u64)>,
    /// Bytes of values that the next flush may put out, if its driver has said so.
    read_room: Option<usize>,
}

/// Bytes of values that one flush puts out at most, beside the one that reaches it.
const READ_BYTES_MAX: usize = 8 << 20;

impl Requests {
    /// An entry was applied: answers whoever waits for it.
    pub(super) fn applied(
        &mut self,
        id: EntryId,
        outcome: Outcome,
        answers: &mut Vec<(Caller, Answer)>,
    ) {
        if self
            .writes
            .front()
            .is_some_and(|(waiting, _)| *waiting == id)
        {
            let (_, caller) = self.writes.pop_front().expect("there is a front");
            answers.push((caller, Answer::Applied(outcome)));
        }
    }

    /// Takes in what became of reads; those that leadership was lost over get `lost`.
    pub(super) fn take_reads(
        &mut self,
        outcomes: impl Iterator<Item = ReadOutcome>,
        lost: &Answer,
        answers: &mut Vec<(Caller, Answer)>,
    ) {
        for outcome in outcomes {
            let (ReadOutcome::Ready(id, _) | ReadOutcome::Lost(id)) = outcome;
            let (asked, caller, lookup) = self.reads.pop_front().expect("each read was asked for");
            assert_eq!(asked, id, "reads are confirmed in order");
            match outcome {
                ReadOutcome::Ready(_, index) => self.confirmed.push_back((index, caller, lookup)),
                // A read changes nothing, so it can simply be sent again.
                ReadOutcome::Lost(_) => answers.push((caller, lookup.refused(lost))),
            }
        }
    }

    /// Leadership was lost: the writes may still be committed by the next leader.
    pub(super) fn leadership_lost(&mut self, answers: &mut Vec<(Caller, Answer)>) {
        answers.extend(
            self.writes
                .drain(..)
                .map(|(_, caller)| (caller, Answer::OutcomeUnknown)),
        );
    }

    /// Bytes of values that the next flush may put out.
    fn read_room(&self) -> usize {
        self.read_room.unwrap_or(READ_BYTES_MAX).min(READ_BYTES_MAX)
    }

    /// Whether a read could be answered at once.
    pub(super) fn has_read_to_serve(&self, applied: Index) -> bool {
        let due = |(index, ..): &(Index, Caller, Lookup)| *index <= applied;
        self.confirmed.front().is_some_and(due) && self.read_room() > 0
    }

    /// How many requests wait.
    pub(super) fn len(&self) -> usize {
        self.writes.len() + self.reads.len() + self.confirmed.len()
    }
}

impl Request {
    /// What it holds, in bytes.
    #[must_use]
    pub fn size_bytes(&self) -> usize {
        match self {
            Request::Write { command, .. } => command.len(),
            Request::Get { key, .. } => key.len(),
            Request::Scan(scan) => scan.size_bytes(),
            Request::Change(changes) => std::mem::size_of_val(&changes[..]),
            Request::Status | Request::HandOver(_) | Request::Backup(_) => 0,
        }
    }
}

impl Answer {
    /// The values that it holds, in bytes.
    #[must_use]
    pub fn value_bytes(&self) -> usize {
        match self {
            Answer::Value(Some(value)) => value.len(),
            Answer::Page(page) => page.size_bytes(),
            Answer::Backup(BackupAnswer::Piece { data, .. }) => data.len(),
            _ => 0,
        }
    }
}

impl<D: Disk> Node<D> {
    /// Takes in what a client asks for.
    pub fn handle_client(&mut self, now: Time, caller: Caller, request: Request) {
        if self.failure().is_some() {
            return;
        }
        let answer = match request {
            Request::Status => Some(Answer::Status(Box::new(self.status(now)))),
            Request::Change(changes) => {
                self.begin_change(now, caller, &changes).map(Answer::Change)
            }
            Request::HandOver(to) => self.begin_hand_over(now, caller, to).map(Answer::HandOver),
            Request::Backup(BackupRequest::Begin) => {
                self.wait_to_read(caller, Lookup::Position, true)
            }
            Request::Backup(request) => self.back_up(now, caller, request).map(Answer::Backup),
            Request::Get { key, anywhere } => self.wait_to_read(caller, Lookup::Key(key), anywhere),
            Request::Scan(scan) => {
                let anywhere = scan.anywhere;
                self.wait_to_read(caller, Lookup::Range(scan), anywhere)
            }
            Request::Write { .. } if !self.raft.is_leader() => Some(self.not_leading()),
            Request::Write { .. } if !self.identity.is_founded() => Some(Answer::Founding),
            Request::Write { grows: true, .. } if self.space.is_full() => Some(Answer::NoSpace),
            Request::Write { grows: true, .. } if self.memory.refuses_growth() => {
                Some(Answer::StoreFull)
            }
            // The reserve is used up: nothing could be written before there is room.
            Request::Write { .. }
                if self.space.is_full()
                    && (self.ledger.wal.waiting() > 0 || self.disk.lacks_room()) =>
            {
                Some(Answer::NoSpace)
            }
            Request::Write { command, .. } => self.propose(caller, command),
        };
        if let Some(answer) = answer {
            self.out.answers.push((caller, answer));
        }
    }

    fn wait_to_read(&mut self, caller: Caller, lookup: Lookup, anywhere: bool) -> Option<Answer> {
        if !anywhere && !self.raft.is_leader() {
            return Some(self.not_leading());
        }
        let id = ReadId(self.requests.next_read);
        self.requests.next_read += 1;
        self.requests.reads.push_back((id, caller, lookup));
        self.raft.read_anywhere(id);
        None
    }

    fn propose(&mut self, caller: Caller, command: Bytes) -> Option<Answer> {
        let unapplied = self.raft.commit_index().0 - self.applied().0;
        if unapplied >= limits::UNAPPLIED_ENTRIES_MAX {
            return Some(Answer::Busy);
        }
        match self.raft.propose(Payload::Command(command)) {
            Ok(id) => {
                self.requests.writes.push_back((id, caller));
                None
            }
            Err(ProposeError::NotLeader) => Some(self.not_leading()),
            Err(ProposeError::Founding) => Some(Answer::Founding),
            Err(ProposeError::Busy | ProposeError::Transferring) => Some(Answer::Busy),
        }
    }

    /// Where to ask instead.
    pub(super) fn not_leading(&self) -> Answer {
        match self.raft.leader() {
            Some(leader) if leader != self.config.id => Answer::Redirect(leader),
            _ if self.raft.configuration().is_empty() => Answer::Founding,
            _ => Answer::NoLeader,
        }
    }

    /// Tells how many bytes of values the coming flushes may put out each, beside the one
    /// that reaches it; reads wait while it is 0.
    pub fn limit_reads(&mut self, bytes: usize) {
        self.requests.read_room = Some(bytes);
    }

    /// Tells whether to refuse the reads of a connection that does not take its answers,
    /// so that others do not wait while values are copied that nobody will get.
    pub fn refuse_reads(&mut self, reactor: u32, connection: u64, refuse: bool) {
        if refuse {
            self.requests.refused.insert((reactor, connection));
        } else {
            self.requests.refused.remove(&(reactor, connection));
        }
    }

    /// Answers the reads whose index has been applied, as far as there is room for the
    /// values. Later is as good: what is read then is newer.
    pub(super) fn serve_reads(&mut self) {
        let applied = if mutated!(ReadBeforeApplied) {
            self.raft.commit_index()
        } else {
            self.applied()
        };
        let mut bytes = 0;
        while self.requests.has_read_to_serve(applied) && bytes < self.requests.read_room() {
            let front = self.requests.confirmed.pop_front();
            let (index, caller, lookup) = front.expect("there is a read to serve");
            let from = (caller.reactor, caller.connection);
            let answer = if self.requests.refused.contains(&from) {
                lookup.refused(&Answer::Busy)
            } else {
                match lookup {
                    Lookup::Position => Answer::Backup(self.begin_backup(index)),
                    Lookup::Key(key) => Answer::Value(self.machine.get_ref(&key).map(Buffer::from)),
                    Lookup::Range(scan) => Answer::Page(Box::new(scan.read(&self.machine))),
                }
            };
            bytes += answer.value_bytes();
            self.out.answers.push((caller, answer));
        }
    }
}
