//! The words of the protocol: terms, log positions, nodes, entries.
//!
//! Each number has a type of its own that allows only the steps that the
//! algorithm takes, so that a term is never taken for an index. References are to
//! the Raft paper (Ongaro and Ousterhout, *In Search of an Understandable
//! Consensus Algorithm*, extended version) and to Ongaro's thesis.

use std::fmt;

use bytes::Bytes;

/// Names a node of the cluster; the default cluster has nodes 0 to 6.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId(pub u64);

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "n{}", self.0)
    }
}

/// Names one data directory of a node: a random number drawn when the directory is made,
/// never 0.
///
/// A node whose directory was lost returns under another incarnation. It has forgotten its
/// votes and its log, so it is another server in the sense of the paper.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Incarnation(pub u64);

impl Incarnation {
    /// An incarnation that is not known: all there is below feature level 1.
    pub const NONE: Incarnation = Incarnation(0);
}

impl fmt::Display for Incarnation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// A server in the sense of the paper: a node together with the data directory that keeps
/// its promises. Votes, acknowledgements and memberships belong to servers, not to nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Server {
    /// The node.
    pub id: NodeId,
    /// Its data directory.
    pub incarnation: Incarnation,
}

impl Server {
    /// A server from plain numbers.
    #[must_use]
    pub const fn new(id: u64, incarnation: u64) -> Server {
        Server {
            id: NodeId(id),
            incarnation: Incarnation(incarnation),
        }
    }

    /// The node `id` whatever its directory: how members are counted below feature level 1.
    #[must_use]
    pub const fn any(id: NodeId) -> Server {
        Server {
            id,
            incarnation: Incarnation::NONE,
        }
    }
}

impl fmt::Display for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.incarnation {
            Incarnation::NONE => self.id.fmt(f),
            incarnation => write!(f, "{}/{incarnation}", self.id),
        }
    }
}

/// Names one founding of a cluster: a random number that the founder draws and that the
/// first entry of the log carries. Clusters of different births share nothing, whatever
/// their addresses and node ids.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Birth(pub u64);

impl Birth {
    /// No birth: a directory that has not been founded or adopted, or a cluster below
    /// feature level 1.
    pub const NONE: Birth = Birth(0);
}

impl fmt::Display for Birth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// A term: Raft's logical clock (paper §5.1). At most one leader in each.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Term(pub u64);

impl Term {
    /// Before the first election.
    pub const ZERO: Term = Term(0);

    /// The term that a candidate campaigns for.
    #[must_use]
    pub fn next(self) -> Term {
        Term(
            self.0
                .checked_add(1)
                .expect("terms are bounded where they come in"),
        )
    }
}

impl fmt::Display for Term {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A position in the log. The first entry has index 1; [`Index::ZERO`] is the
/// empty prefix before it, which every two logs share (paper §5.3).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Index(pub u64);

impl Index {
    /// Before the first entry.
    pub const ZERO: Index = Index(0);

    /// The position behind this one.
    #[must_use]
    pub fn next(self) -> Index {
        Index(
            self.0
                .checked_add(1)
                .expect("indexes are bounded where they come in"),
        )
    }

    /// The position before this one, [`Index::ZERO`] before itself.
    #[must_use]
    pub fn prev(self) -> Index {
        Index(self.0.saturating_sub(1))
    }
}

impl fmt::Display for Index {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Names an entry: two logs that hold entries with the same index and term hold
/// the same entry there, and the same entries before it (Log Matching, §5.3).
///
/// The order is that of "more up-to-date" (§5.4.1): the term first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EntryId {
    /// The term of the leader that created the entry.
    pub term: Term,
    /// Where it stands.
    pub index: Index,
}

impl EntryId {
    /// Before the first entry.
    pub const ZERO: EntryId = EntryId {
        term: Term::ZERO,
        index: Index::ZERO,
    };

    /// An entry's name from plain numbers.
    #[must_use]
    pub const fn new(term: u64, index: u64) -> EntryId {
        EntryId {
            term: Term(term),
            index: Index(index),
        }
    }
}

/// `index@term`, as the golden scripts write it.
impl fmt::Display for EntryId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.index, self.term)
    }
}

/// What an entry asks the state machine to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Payload {
    /// Nothing: a leader's first entry, whose commit commits all before it (§8).
    Noop,
    /// A command in the encoding of the state machine; Raft does not look inside.
    Command(Bytes),
    /// Who belongs to the cluster from here on, as `raft::Configuration` encodes it (§6).
    Config(Bytes),
}

impl Payload {
    /// The bytes that the entry carries.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        match self {
            Payload::Noop => &[],
            Payload::Command(bytes) | Payload::Config(bytes) => bytes,
        }
    }
}

/// One entry of the replicated log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its name.
    pub id: EntryId,
    /// Its content.
    pub payload: Payload,
}

impl Entry {
    /// What the entry costs in messages and in memory, in bytes.
    #[must_use]
    pub fn size_bytes(&self) -> usize {
        crate::limits::ENTRY_OVERHEAD_BYTES + self.payload.bytes().len()
    }
}

/// What must be on disk before a node speaks for it (paper Figure 2, "persistent
/// state on all servers"); the log is the third of the kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct HardState {
    /// The latest term this node has seen; never goes back.
    pub term: Term,
    /// The server that it voted for in that term. Without an incarnation if the vote was
    /// given below feature level 1.
    pub voted_for: Option<Server>,
}
