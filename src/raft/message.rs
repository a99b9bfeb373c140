//! What nodes say to each other, and what each message proves.

use std::time::Duration;

use bytes::Bytes;

use crate::raft::entries::Entries;
use crate::types::{Birth, EntryId, Incarnation, Index, Server, Term};

/// A message between two nodes of the cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// The sender's cluster. Like the sender's incarnation it is known from the
    /// introduction on the connection, and not sent with each message.
    pub birth: Birth,
    /// The sender.
    pub from: Server,
    /// The server it is meant for, as the sender counts it. An answer repeats the server
    /// that asked, so that neither counts for another directory of the same node.
    pub to: Server,
    /// The sender's term; for a [`Body::PreVote`] and its granted answer the term
    /// that the candidate would campaign for.
    pub term: Term,
    /// Names the call on its connection; an answer repeats it. Means nothing to Raft.
    pub call: u64,
    /// Below feature level 1: the sender has lost its directory and forgotten what it
    /// promised. Its answers tell the leader what to send, and count for nothing.
    pub lost_directory: bool,
    /// The content.
    pub body: Body,
}

impl Message {
    /// Addresses the directory that is at the other end of the connection, below feature
    /// level 1, where configurations do not name it.
    pub fn address(&mut self, connected: Incarnation) {
        if self.birth == Birth::NONE && self.to.incarnation == Incarnation::NONE {
            self.to.incarnation = connected;
        }
    }
}

/// The content of a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Body {
    /// Would you vote for me? Changes nothing on either side (thesis §9.6).
    PreVote {
        /// The end of the candidate's log.
        last: EntryId,
    },
    /// A refusal carries the refuser's own term, from which a candidate that fell
    /// behind learns that it has; else a node with a higher term and a shorter log
    /// would keep the cluster from ever electing anyone.
    PreVoteReply {
        /// Whether the vote would be granted.
        granted: bool,
    },
    /// Vote for me in this term (paper §5.2). Its term and the candidate's own vote
    /// are on the candidate's disk.
    Vote {
        /// The end of the candidate's log.
        last: EntryId,
        /// The leader itself has asked for this election: nobody protects it.
        transfer: bool,
    },
    /// A granted vote is on the voter's disk.
    VoteReply {
        /// Whether the vote is granted.
        granted: bool,
    },
    /// Entries that follow `prev` in the leader's log (paper §5.3). They need not be
    /// on the leader's own disk yet.
    Append {
        /// The entry before the first of `entries`.
        prev: EntryId,
        /// The entries, contiguous; empty in a probe.
        entries: Entries,
        /// The leader's commit index.
        commit: Index,
    },
    /// The answer to an [`Body::Append`].
    AppendReply(Result<Accepted, Rejected>),
    /// I lead this term. Says nothing about the log, so that it never has to wait for
    /// a disk.
    Heartbeat {
        /// The leader's commit index, as far as the follower's log is known to match.
        commit: Index,
        /// Numbers the rounds of a term; see [`crate::raft::read`].
        round: u64,
        /// The end of the leader's log.
        last: Index,
        /// The leader answers reads by a lease, and asks the follower for its promise.
        lease: bool,
        /// What the leader's state was. The core only carries it.
        state: Option<StateClaim>,
    },
    /// At the time of this answer the follower knew of no later term: so nobody else
    /// could have led when the round was sent.
    HeartbeatReply {
        /// The round that is answered.
        round: u64,
        /// How long the follower helps nobody else to leadership, counted from no earlier than
        /// when the round was sent; zero: it promises nothing.
        promise: Duration,
        /// How slow the follower's disk is: see [`Raft::note_disk`](super::Raft::note_disk).
        disk: Duration,
        /// Whether there is no room for more on it.
        full: bool,
        /// Whether its memory limit is reached. The core only carries it.
        memory_full: bool,
        /// What the follower's state was where it was asked for. The core only carries it.
        state: Option<StateHash>,
    },
    /// From which index may a follower answer a read that came in before this was sent?
    ReadIndex {
        /// Unique among the questions of this follower; the answer repeats it.
        context: u64,
    },
    /// The answer to a [`Body::ReadIndex`]: a majority has confirmed, after the question
    /// came in, that its sender led this term.
    ReadIndexReply {
        /// As in the question.
        context: u64,
        /// What was committed when the question came in; `None`: ask somebody else.
        index: Option<Index>,
    },
    /// Campaign at once: the leader hands its leadership over (thesis §3.10). The
    /// receiver's log is as long as the leader's.
    TimeoutNow,
    /// A piece of a snapshot, for a follower whose next entry is compacted (paper §7).
    Snapshot(SnapshotChunk),
    /// The answer to a [`Body::Snapshot`].
    SnapshotReply {
        /// The snapshot that the follower means.
        snapshot: SnapshotMeta,
        /// Where the follower wants the next chunk to begin.
        next_offset: u64,
        /// The follower's state is the snapshot's or later, and on its disk.
        installed: bool,
    },
}

impl Body {
    /// The name of the kind, as scripts have it.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Body::PreVote { .. } => "prevote",
            Body::PreVoteReply { .. } => "prevote-reply",
            Body::Vote { .. } => "vote",
            Body::VoteReply { .. } => "vote-reply",
            Body::Append { .. } => "append",
            Body::AppendReply(_) => "append-reply",
            Body::Heartbeat { .. } => "heartbeat",
            Body::HeartbeatReply { .. } => "heartbeat-reply",
            Body::ReadIndex { .. } => "read-index",
            Body::ReadIndexReply { .. } => "read-index-reply",
            Body::TimeoutNow => "timeout-now",
            Body::Snapshot(_) => "snapshot",
            Body::SnapshotReply { .. } => "snapshot-reply",
        }
    }

    /// Whether this goes out as a call of its own, rather than as the answer to one.
    #[must_use]
    pub fn is_request(&self) -> bool {
        match self {
            Body::PreVote { .. }
            | Body::Vote { .. }
            | Body::Append { .. }
            | Body::Heartbeat { .. }
            | Body::ReadIndex { .. }
            | Body::TimeoutNow
            | Body::Snapshot(_) => true,
            Body::PreVoteReply { .. }
            | Body::VoteReply { .. }
            | Body::AppendReply(_)
            | Body::HeartbeatReply { .. }
            | Body::ReadIndexReply { .. }
            | Body::SnapshotReply { .. } => false,
        }
    }
}

/// An [`Body::Append`] was taken.
///
/// `match_index` is what the request proved equal, not the end of the follower's
/// log: its tail may still conflict with the leader's. All up to there is on the
/// follower's disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Accepted {
    /// Up to where the logs are equal.
    pub match_index: Index,
}

/// An [`Body::Append`] was refused: the follower has another entry, or none, at
/// `prev`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rejected {
    /// The refused `prev.index`; tells late refusals from current ones.
    pub rejected: Index,
    /// The follower's last entry at or before `prev` whose term is not above
    /// `prev.term`: nothing behind it can match, so the leader looks no higher.
    pub hint: EntryId,
}

/// A hash of the state of a node when it had applied this much.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StateHash {
    /// The last entry that was applied.
    pub index: Index,
    /// The hash.
    pub hash: u64,
}

/// What a leader says of its state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StateClaim {
    /// What it was.
    pub at: StateHash,
    /// A majority of the voters has said the same: who differs is wrong.
    pub confirmed: bool,
}

/// Names a snapshot. Two files with the same name hold the same bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SnapshotMeta {
    /// The last entry whose effect it contains.
    pub last: EntryId,
    /// CRC-32 of the whole file.
    pub checksum: u32,
    /// Its length in bytes.
    pub total_bytes: u64,
}

/// A piece of a snapshot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SnapshotChunk {
    /// Which snapshot.
    pub snapshot: SnapshotMeta,
    /// Where `data` begins.
    pub offset: u64,
    /// The bytes.
    pub data: Bytes,
}
