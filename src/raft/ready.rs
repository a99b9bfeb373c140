//! What has to happen after a step.

use crate::raft::message::{Message, SnapshotChunk, SnapshotMeta};
use crate::raft::read::ReadOutcome;
use crate::types::{EntryId, HardState, Index, Server};

/// What has to be written, as one batch. The entries are [`super::Raft::unwritten`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Write {
    /// The new term and vote, if they changed.
    pub hard_state: Option<HardState>,
    /// Entries from here on are void; comes before new ones.
    pub truncate_from: Option<Index>,
    /// The log was replaced by the emptiness behind this snapshot.
    pub reset_to: Option<EntryId>,
}

/// What has to happen after a step. Whoever takes it apart does so by name, so that
/// a new field does not compile until it has a place.
#[derive(Clone, Debug, Default)]
pub struct Ready {
    /// What has to be written.
    pub write: Write,
    /// Messages that speak for nothing but the term: they may leave as soon as that
    /// is on disk, which it mostly is long since.
    pub messages: Vec<Message>,
    /// Messages that promise something durable: they wait until `write`, and all
    /// before it, is on disk.
    pub promises: Vec<Message>,
    /// Reads that may be answered, and reads that can't.
    pub reads: Vec<ReadOutcome>,
    /// Followers that need a snapshot.
    pub snapshots_wanted: Vec<Server>,
    /// Pieces of a snapshot that the leader sent, with the call to answer.
    pub chunks: Vec<(Message, SnapshotChunk)>,
    /// Answers of followers that are being sent a snapshot.
    pub chunk_replies: Vec<(Server, SnapshotMeta, u64)>,
}

impl Ready {
    /// Takes over the room of another value's lists, where this one has none yet.
    pub(super) fn take_room(&mut self, emptied: Ready) {
        fn take<T>(list: &mut Vec<T>, room: Vec<T>) {
            debug_assert!(room.is_empty(), "only room is taken over");
            if list.capacity() == 0 {
                *list = room;
            }
        }
        let Ready {
            write: _,
            messages,
            promises,
            reads,
            snapshots_wanted: _,
            chunks: _,
            chunk_replies: _,
        } = emptied;
        take(&mut self.messages, messages);
        take(&mut self.promises, promises);
        take(&mut self.reads, reads);
    }
}
