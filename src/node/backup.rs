//! Online backups: a snapshot taken for whoever asks, handed out in pieces.
//!
//! A backup has to hold all that was acknowledged before it was asked for. So it begins
//! with a linearizable read, of no key: its index is the one that the snapshot has to
//! reach. Whoever asks names that index again until there is such a snapshot, and then
//! fetches the file piece by piece, each read from the disk when it is asked for. The
//! snapshot stays for as long as pieces of it are asked for, and a while longer. The
//! node keeps nothing of those who ask: one that goes away leaves a snapshot like others.

use std::time::Duration;

use bytes::Bytes;
use log::info;

use crate::disk::{Disk, FileId};
use crate::limits;
use crate::node::core::Node;
use crate::node::requests::{Answer, Caller};
use crate::raft::SnapshotMeta;
use crate::time::Time;
use crate::types::{EntryId, Index};

/// How long a snapshot stays after a piece of it was asked for.
const HOLD: Duration = Duration::from_secs(60);
/// Snapshots that are kept for backups at a time.
const HELD_MAX: usize = 4;
/// Pieces that are being read at a time.
const READS_MAX: usize = 16;

/// What whoever makes a backup asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BackupRequest {
    /// A snapshot of all that is acknowledged now.
    Begin,
    /// The snapshot that was begun with [`BackupAnswer::Preparing`] and this index.
    Await(Index),
    /// A piece of a snapshot.
    Read {
        /// Which snapshot.
        snapshot: SnapshotMeta,
        /// Where the piece begins.
        offset: u64,
    },
}

/// What whoever makes a backup is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BackupAnswer {
    /// A snapshot that reaches this index is on its way; ask again with it.
    Preparing {
        /// What the snapshot has to reach.
        index: Index,
        /// How much of one is written, in bytes.
        written: u64,
    },
    /// The snapshot is there.
    Ready(SnapshotMeta),
    /// A piece of the snapshot.
    Piece {
        /// Where `data` begins.
        offset: u64,
        /// Its bytes; at the end of the file fewer than in the others.
        data: Bytes,
    },
    /// It was not done.
    Declined {
        /// Why, for the operator.
        reason: String,
        /// Whether it may be otherwise in a moment.
        again: bool,
    },
}

/// Snapshots that are wanted, and those that are being fetched.
#[derive(Debug, Default)]
pub(super) struct Backups {
    /// A snapshot is wanted that reaches this index.
    wanted: Option<Index>,
    /// Why the last that was wanted did not come about.
    trouble: Option<&'static str>,
    held: Vec<Held>,
    /// Pieces that the disk was asked for.
    reads: Vec<Read>,
}

#[derive(Debug)]
struct Held {
    snapshot: SnapshotMeta,
    until: Time,
}

#[derive(Debug)]
struct Read {
    caller: Caller,
    snapshot: SnapshotMeta,
    offset: u64,
}

impl Backups {
    /// Whether the snapshot up to `last` is being fetched.
    pub(super) fn holds(&self, last: EntryId) -> bool {
        self.held.iter().any(|held| held.snapshot.last == last)
    }

    /// Lets go of what nobody has asked for any more; whether there was any.
    pub(super) fn expire(&mut self, now: Time) -> bool {
        let before = self.held.len();
        self.held.retain(|held| held.until > now);
        self.held.len() < before
    }

    /// When [`Backups::expire`] is due.
    pub(super) fn next_deadline(&self) -> Time {
        let until = self.held.iter().map(|held| held.until).min();
        until.unwrap_or(Time::NEVER)
    }

    /// Keeps the snapshot for a while; `false` if too many are kept.
    fn hold(&mut self, now: Time, snapshot: SnapshotMeta) -> bool {
        let until = now + HOLD;
        let is_full = self.held.len() >= HELD_MAX;
        match self.held.iter_mut().find(|held| held.snapshot == snapshot) {
            Some(held) => held.until = until,
            None if is_full => return false,
            None => self.held.push(Held { snapshot, until }),
        }
        true
    }

    /// The snapshot that was being taken will not come about.
    pub(super) fn snapshot_failed(&mut self, why: &'static str) {
        if self.wanted.take().is_some() {
            self.trouble = Some(why);
        }
    }
}

fn declined(reason: impl Into<String>, again: bool) -> BackupAnswer {
    let reason = reason.into();
    BackupAnswer::Declined { reason, again }
}

impl<D: Disk> Node<D> {
    /// Waits for a snapshot that was begun, or reads a piece. `None` while the disk reads.
    pub(super) fn back_up(
        &mut self,
        now: Time,
        caller: Caller,
        request: BackupRequest,
    ) -> Option<BackupAnswer> {
        match request {
            BackupRequest::Begin => Some(declined("a backup begins with a read", false)),
            BackupRequest::Await(index) => Some(self.await_backup(now, index)),
            BackupRequest::Read { snapshot, offset } => {
                self.read_backup(now, caller, snapshot, offset)
            }
        }
    }

    /// The read is confirmed that a backup begins with.
    pub(super) fn begin_backup(&mut self, index: Index) -> BackupAnswer {
        info!(target: "Raft", "backup asked for: index={index}");
        self.want_backup(index);
        BackupAnswer::Preparing { index, written: 0 }
    }

    fn want_backup(&mut self, index: Index) {
        self.backups.trouble = None;
        self.backups.wanted = self.backups.wanted.max(Some(index));
    }

    fn await_backup(&mut self, now: Time, index: Index) -> BackupAnswer {
        if let Some(newest) = self.snapshots.newest()
            && newest.last.index >= index
        {
            return if self.backups.hold(now, newest) {
                BackupAnswer::Ready(newest)
            } else {
                declined("too many backups are being fetched from this node", true)
            };
        }
        if let Some(why) = self.backups.trouble.take() {
            return declined(why, false);
        }
        if index > self.raft.log().last().index {
            return declined("this node has no such entry; begin the backup anew", false);
        }
        self.want_backup(index);
        let written = self.snapshots.written();
        BackupAnswer::Preparing { index, written }
    }

    fn read_backup(
        &mut self,
        now: Time,
        caller: Caller,
        snapshot: SnapshotMeta,
        offset: u64,
    ) -> Option<BackupAnswer> {
        let known = self.snapshots.newest() == Some(snapshot)
            || self.backups.held.iter().any(|h| h.snapshot == snapshot);
        if !known {
            let gone = "the node has this snapshot no more; begin the backup anew";
            return Some(declined(gone, false));
        }
        if offset >= snapshot.total_bytes {
            return Some(declined("the snapshot ends before that", false));
        }
        if self.backups.reads.len() >= READS_MAX || !self.backups.hold(now, snapshot) {
            let busy = "too many backups are being fetched from this node";
            return Some(declined(busy, true));
        }
        self.backups.reads.push(Read {
            caller,
            snapshot,
            offset,
        });
        let id = FileId::Snapshot(snapshot.last);
        self.disk
            .read_file(id, offset, limits::SNAPSHOT_CHUNK_BYTES);
        None
    }

    /// The disk has read a piece, for a backup or for a follower.
    pub(super) fn backup_read(&mut self, last: EntryId, offset: u64, data: &Bytes) {
        let answers = &mut self.out.answers;
        self.backups.reads.retain(|read| {
            if read.snapshot.last != last || read.offset != offset {
                return true;
            }
            let answer = if data.is_empty() {
                declined(
                    "the file of the snapshot is gone, or shorter than it was",
                    false,
                )
            } else {
                let data = data.clone();
                BackupAnswer::Piece { offset, data }
            };
            answers.push((read.caller, Answer::Backup(answer)));
            false
        });
    }

    /// Whether a snapshot is to be taken for a backup, beside those that are due anyway.
    pub(super) fn backup_due(&mut self) -> bool {
        let Some(wanted) = self.backups.wanted else {
            return false;
        };
        let newest = self.snapshots.newest().map(|newest| newest.last.index);
        if newest.is_some_and(|newest| newest >= wanted) {
            self.backups.wanted = None;
            return false;
        }
        self.applied() >= wanted && !self.install.is_restoring()
    }
}
