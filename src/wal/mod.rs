//! The write-ahead log: term, vote and entries on disk, as logic over [`Disk`].
//!
//! The log is a chain of segments, each a header page and batches of
//! records behind it. It is only ever appended to: that a part of it no longer
//! counts is a record too. [`Wal::append`] encodes a batch once and asks for a sync;
//! [`Wal::on_event`] learns that it is durable; [`Wal::recover`] reads the chain after
//! a restart and opens a fresh segment behind it.
//!
//! What makes recovery safe is the *durable mark*: each batch and each segment says up
//! to where everything was known to be on disk when it was written. Where the log
//! breaks at or behind the highest mark, a crash tore an unsynced write, and the rest
//! is cut off; where it breaks before, what had been promised is lost, and the log
//! does not open.
//!
//! Files: `record.rs` (batches and records), `segment.rs` (headers), `writer.rs`
//! (appending, rolling, compaction) with `accepted.rs`, `work.rs` and `view.rs`,
//! `recovery.rs` (reading) with `replay.rs`, `inspect.rs` (for tools). The log knows
//! nothing of Raft's rules beyond what its records say; the node keeps them.

mod accepted;
#[cfg(test)]
mod crash_tests;
#[cfg(test)]
mod damage_tests;
#[cfg(test)]
mod file_tests;
mod inspect;
mod record;
mod recovery;
mod replay;
mod segment;
#[cfg(test)]
mod tests;
mod view;
mod work;
mod writer;

use std::io;

use crate::disk::SegmentId;
use crate::limits;
use crate::types::{Entry, EntryId, HardState, Index, NodeId};

#[cfg(doc)]
use crate::disk::Disk;

pub use inspect::{
    HeaderInfo, HeaderState, Item, SegmentEnd, SegmentSummary, inspect_header, inspect_segment,
    summarize_segment, verify_log,
};
pub use record::Position;
pub use writer::Wal;

/// Whose log it is, and how large its segments are.
#[derive(Clone, Copy, Debug)]
pub struct WalOptions {
    /// The node; a segment of another is refused.
    pub node: NodeId,
    /// The cluster; a segment of another is refused.
    pub cluster_id: u64,
    /// The incarnation of the data directory: random, so that no client can make a
    /// value that passes for a part of the log. A segment of another is refused.
    pub incarnation: u64,
    /// The length of a segment, in bytes. An entry that is longer gets a segment of
    /// its own size.
    pub segment_bytes: u64,
    /// The length of the segment that is opened at each start: a small one is there
    /// sooner.
    pub first_segment_bytes: u64,
}

impl WalOptions {
    /// The usual sizes: [`limits::SEGMENT_BYTES`], and a megabyte for the first.
    #[must_use]
    pub fn new(node: NodeId, cluster_id: u64, incarnation: u64) -> WalOptions {
        WalOptions {
            node,
            cluster_id,
            incarnation,
            segment_bytes: limits::SEGMENT_BYTES,
            first_segment_bytes: 1 << 20,
        }
    }
}

/// Counts what was appended since the start: the number of [`Wal::append`] calls, the
/// fresh segment's opening included.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BatchSeq(pub u64);

/// What goes to the log in one piece, in this order: hard state, truncation, mark,
/// entries.
#[derive(Clone, Copy, Debug, Default)]
pub struct Batch<'a> {
    /// The new term and vote.
    pub hard_state: Option<HardState>,
    /// The log loses the entries from this one on.
    pub truncate_from: Option<Index>,
    /// A snapshot, durable already, stands for the log up to this entry. If the log
    /// holds that very entry, what is behind it stays, otherwise the log is empty
    /// then and begins behind the mark (paper §7). Marks never go back.
    pub snapshot_mark: Option<EntryId>,
    /// Entries that follow the last one without a gap.
    pub entries: &'a [Entry],
}

impl Batch<'_> {
    /// Whether there is nothing to write.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.hard_state.is_none()
            && self.truncate_from.is_none()
            && self.snapshot_mark.is_none()
            && self.entries.is_empty()
    }
}

/// What an event changed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WalProgress {
    /// The new [`Wal::durable`], if it moved.
    pub durable: Option<BatchSeq>,
}

/// What the log holds at a start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recovered {
    /// Term and vote.
    pub hard_state: HardState,
    /// The last entry that a snapshot stands for; the log begins behind it.
    pub snapshot_mark: EntryId,
    /// The entries behind the mark, without a gap.
    pub entries: Vec<Entry>,
    /// What was read, for the operator.
    pub report: RecoveryReport,
}

/// What recovery read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RecoveryReport {
    /// Segments that are part of the log.
    pub segments: usize,
    /// Bytes of batches that were read.
    pub bytes: u64,
    /// What was cut off, if there was something.
    pub torn: Option<TornTail>,
}

/// A write that a crash left incomplete. It had not been promised to anyone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TornTail {
    /// Where the log was cut.
    pub at: Position,
    /// What is wrong there.
    pub reason: &'static str,
}

/// What the log has done since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WalCounters {
    /// Batches written; one that is split over segments counts as often.
    pub batches: u64,
    /// Bytes handed to the disk, headers included.
    pub bytes: u64,
    /// Syncs that were answered; the disk serves several requests with one.
    pub syncs: u64,
    /// Segments begun.
    pub segments: u64,
}

/// The name of a segment's file, for messages.
struct File(SegmentId);

impl std::fmt::Display for File {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:016x}.wal", self.0.0)
    }
}

/// Why the log does not open or does not go on. None of these is retried: after a
/// failed sync the kernel may have dropped the dirty pages, so that a second sync
/// that succeeds proves nothing.
#[derive(Debug, thiserror::Error)]
pub enum WalError {
    /// A segment cannot be read.
    #[error("{}: cannot be read: {source}; check the disk; if the file is lost, start the node with --rejoin: that \
             moves its data aside and lets it catch up from its peers", segment.map_or("the log's directory".into(), |id| File(id).to_string()))]
    Read {
        /// The segment, or none for the list of them.
        segment: Option<SegmentId>,
        /// Why.
        source: io::Error,
    },
    /// Something that was on disk is damaged or missing.
    #[error("{}: damaged at offset {offset_bytes}: {reason}; {advice}", File(*segment))]
    Corrupt {
        /// The segment.
        segment: SegmentId,
        /// Where the damage begins, or just before it, in bytes from the start of the file.
        offset_bytes: u64,
        /// What is wrong.
        reason: &'static str,
        /// What the operator can do.
        advice: &'static str,
    },
    /// The segment is of another node, cluster or data directory.
    #[error(
        "{}: belongs to another {what} (found {found:#x}, expected {expected:#x}); \
         move it back to where it came from, or start the node with --rejoin: that moves all of this \
         directory aside and lets the node catch up from its peers",
        File(*segment)
    )]
    Foreign {
        /// The segment.
        segment: SegmentId,
        /// `node`, `cluster` or `incarnation`.
        what: &'static str,
        /// What the segment says.
        found: u64,
        /// What it should say.
        expected: u64,
    },
    /// The segment was written by a newer version.
    #[error("{}: not readable by this version at offset {offset_bytes}: {reason}; start the version that wrote it", File(*segment))]
    Unsupported {
        /// The segment.
        segment: SegmentId,
        /// Where.
        offset_bytes: u64,
        /// What is unknown.
        reason: &'static str,
    },
    /// The disk failed while the log was written.
    #[error(
        "{what}: {error}; what was not yet synced may be lost, so this node stops; check the disk, then start it again"
    )]
    Disk {
        /// What was done, and to which file.
        what: String,
        /// The error number's meaning.
        error: String,
    },
}

impl WalError {
    /// Whether what was on the disk is damaged, missing or out of place, so that
    /// `--rejoin` is of help.
    #[must_use]
    pub fn is_damage(&self) -> bool {
        match self {
            WalError::Corrupt { .. } | WalError::Foreign { .. } => true,
            WalError::Read { source, .. } => crate::disk::is_bad_medium(source),
            WalError::Unsupported { .. } | WalError::Disk { .. } => false,
        }
    }
}

const ADVICE: &str = "data that this node had promised to keep is lost here: restore the file, or \
     start the node with --rejoin: that moves its data aside and lets it catch up from its peers";
