//! Taking snapshots beside writes, and forgetting the log behind them (paper §7).
//!
//! The raft thread walks the store in bounded slices, a slice a flush; a thread of the
//! disk's own writes them. When the file is on disk, the log up to it is forgotten,
//! but for a tail for followers that are a little behind, and for what a follower
//! needs that is being sent a snapshot.

use log::{info, warn};

use crate::disk::{Disk, FileId};
use crate::kv::{SnapshotStep, StateMachine};
use crate::mutation::mutated;
use crate::node::core::Node;
use crate::raft::SnapshotMeta;
use crate::types::{EntryId, Index};
use crate::wal::Batch;

/// What one turn of the walk produces, in bytes.
const SLICE_BYTES: usize = 64 << 10;
/// What may be on its way to the disk, in bytes.
const UNWRITTEN_BYTES_MAX: u64 = 1 << 20;
/// Before-images of keys that change ahead of the walk, in bytes; beyond it the walk
/// goes before the changes.
const IMAGE_BYTES_MAX: usize = 32 << 20;
/// How many snapshots are kept.
const KEPT: usize = 2;

/// The snapshots of this node, and the one that is being taken.
#[derive(Debug, Default)]
pub(super) struct Snapshots {
    newest: Option<SnapshotMeta>,
    /// The files, the newest last.
    kept: Vec<EntryId>,
    taking: Option<Taking>,
    /// Bytes of entries applied since the newest one.
    log_bytes: u64,
    /// Where the log on disk begins, as far as it was told.
    marked: EntryId,
    /// A new snapshot makes old ones, and a part of the log, superfluous.
    forget_due: bool,
    taken: u64,
}

#[derive(Debug)]
struct Taking {
    last: EntryId,
    /// Handed to the disk.
    given: u64,
    /// Confirmed to be in the file, though not on the disk.
    written: u64,
    /// Known once the walk is over and only the disk is waited for.
    done: Option<SnapshotMeta>,
    /// Bytes of entries applied when it began.
    log_bytes: u64,
}

impl Snapshots {
    /// What was found at a start; the log on disk begins behind `marked`.
    pub(super) fn restore(
        newest: Option<SnapshotMeta>,
        kept: Vec<EntryId>,
        marked: EntryId,
    ) -> Snapshots {
        Snapshots {
            newest,
            kept,
            marked,
            ..Snapshots::default()
        }
    }

    /// The newest snapshot.
    pub(super) fn newest(&self) -> Option<SnapshotMeta> {
        self.newest
    }

    /// Whether the snapshot up to `last` is being taken here.
    pub(super) fn is_taking(&self, last: EntryId) -> bool {
        self.taking
            .as_ref()
            .is_some_and(|taking| taking.last == last)
    }

    /// How much of the one that is being taken is written, in bytes; 0 if none is.
    pub(super) fn written(&self) -> u64 {
        self.taking.as_ref().map_or(0, |taking| taking.written)
    }

    /// A snapshot is needed no more that was kept for somebody.
    pub(super) fn forget_soon(&mut self) {
        self.forget_due = true;
    }

    /// How many were taken since the start.
    pub(super) fn taken(&self) -> u64 {
        self.taken
    }

    /// An entry of this size was applied.
    pub(super) fn count(&mut self, bytes: usize) {
        self.log_bytes += bytes as u64;
    }

    /// Whether the walk can go on without anything else happening first.
    pub(super) fn wants_turn(&self, machine: &StateMachine) -> bool {
        machine.snapshot_underway() && self.taking.as_ref().is_some_and(Taking::has_room)
    }

    /// A snapshot came from a leader.
    pub(super) fn adopt(&mut self, snapshot: SnapshotMeta) {
        self.kept.push(snapshot.last);
        self.newest = Some(snapshot);
        self.log_bytes = 0;
        self.forget_due = true;
    }
}

impl Taking {
    fn has_room(&self) -> bool {
        self.done.is_none() && self.given - self.written < UNWRITTEN_BYTES_MAX
    }
}

impl<D: Disk> Node<D> {
    /// Begins a snapshot when one is due, and takes the next slice of one that runs.
    pub(super) fn advance_snapshot(&mut self) {
        if self.snapshots.taking.is_none() && (self.snapshot_due() || self.backup_due()) {
            self.begin_snapshot();
        }
        let Some(taking) = &mut self.snapshots.taking else {
            return;
        };
        if !taking.has_room() {
            return;
        }
        let draft = FileId::SnapshotDraft(taking.last);
        match self.machine.snapshot_next(SLICE_BYTES) {
            SnapshotStep::Chunk(bytes) => {
                taking.given += bytes.len() as u64;
                self.disk.append_file(draft, bytes);
            }
            SnapshotStep::Done {
                total_bytes,
                checksum,
            } => {
                taking.done = Some(SnapshotMeta {
                    last: taking.last,
                    checksum,
                    total_bytes,
                });
                self.disk.finish_file(draft, FileId::Snapshot(taking.last));
            }
            SnapshotStep::Abandoned => {
                warn!(target: "Raft", "snapshot given up, writes outran it: last={}", taking.last);
                self.disk.remove_file(draft);
                self.snapshots.taking = None;
                self.snapshots.log_bytes = 0;
                self.backups
                    .snapshot_failed("writes outran the snapshot; try again when there are fewer");
            }
        }
    }

    fn snapshot_due(&self) -> bool {
        let newest = self.snapshots.newest();
        let size = newest.map_or(0, |snapshot| snapshot.total_bytes);
        self.snapshots.log_bytes > self.config.snapshot_log_bytes.max(size)
            && newest.is_none_or(|snapshot| snapshot.last.index < self.applied())
            && !self.install.is_restoring()
    }

    fn begin_snapshot(&mut self) {
        let last = self.machine.applied();
        info!(target: "Raft", "snapshot begins: last={last} keys={}", self.machine.len());
        let configuration = if mutated!(SnapshotWithoutConfiguration) {
            &self.config.first_members
        } else {
            self.raft.configuration_at(last.index)
        };
        self.machine
            .begin_snapshot(configuration.encode(), IMAGE_BYTES_MAX);
        self.disk.create_file(FileId::SnapshotDraft(last));
        let log_bytes = self.snapshots.log_bytes;
        self.snapshots.taking = Some(Taking {
            last,
            given: 0,
            written: 0,
            done: None,
            log_bytes,
        });
    }

    pub(super) fn draft_appended(&mut self, last: EntryId, len: u64) {
        if let Some(taking) = &mut self.snapshots.taking
            && taking.last == last
        {
            taking.written = len;
        }
    }

    /// A snapshot that was taken here is on disk under its name.
    pub(super) fn draft_finished(&mut self, last: EntryId) {
        let Some(taking) = self.snapshots.taking.take_if(|taking| taking.last == last) else {
            return;
        };
        let snapshot = taking
            .done
            .expect("only what was walked to its end is finished");
        info!(target: "Raft", "snapshot taken: last={last} bytes={}", snapshot.total_bytes);
        self.snapshots.kept.push(last);
        self.snapshots.newest = Some(snapshot);
        self.snapshots.log_bytes -= taking.log_bytes;
        self.snapshots.taken += 1;
        self.snapshots.forget_due = true;
    }

    pub(super) fn draft_no_space(&mut self, last: EntryId) {
        if self
            .snapshots
            .taking
            .take_if(|taking| taking.last == last)
            .is_some()
        {
            warn!(target: "Raft", "no room for a snapshot, tried again later: last={last}");
            self.backups.snapshot_failed(
                "no space left on this node's disk for a snapshot; try another node with --addr",
            );
            self.machine.abort_snapshot();
            if self.forget_older() {
                // There may be room now.
                return;
            }
            // Half of the way to the next try: a disk that stays full is not hammered.
            self.snapshots.log_bytes /= 2;
        }
    }

    /// Removes the snapshots before the newest, which are kept in case that one is damaged:
    /// room is what lacks now. Whether there was one.
    fn forget_older(&mut self) -> bool {
        let (transfers, backups) = (&self.transfers, &self.backups);
        let disk = &mut self.disk;
        let newest = self.snapshots.newest.map(|newest| newest.last);
        let before = self.snapshots.kept.len();
        self.snapshots.kept.retain(|last| {
            let keep = newest == Some(*last) || transfers.sends(*last) || backups.holds(*last);
            if !keep {
                disk.remove_file(FileId::Snapshot(*last));
            }
            keep
        });
        self.snapshots.kept.len() < before
    }

    /// Gives up a snapshot that is being taken: the state is about to be replaced.
    pub(super) fn abandon_snapshot(&mut self) {
        self.machine.abort_snapshot();
        if let Some(taking) = self.snapshots.taking.take() {
            self.disk.remove_file(FileId::SnapshotDraft(taking.last));
        }
    }

    /// Forgets old snapshots, and the log that the newest one stands for. Only right
    /// after a write, when the disk has been given all of the log.
    pub(super) fn forget(&mut self) {
        if !std::mem::take(&mut self.snapshots.forget_due) {
            return;
        }
        let mut excess = self.snapshots.kept.len().saturating_sub(KEPT);
        let (transfers, backups) = (&self.transfers, &self.backups);
        let disk = &mut self.disk;
        let newest = self.snapshots.newest.map(|newest| newest.last);
        self.snapshots.kept.retain(|last| {
            let drop = excess > 0 && newest != Some(*last);
            let drop = drop && !transfers.sends(*last) && !backups.holds(*last);
            if drop {
                excess -= 1;
                disk.remove_file(FileId::Snapshot(*last));
            }
            !drop
        });
        if let Some(newest) = self.snapshots.newest() {
            self.compact(newest.last.index);
        }
    }

    /// Forgets the log up to `snapshot`, but for what followers may soon need.
    fn compact(&mut self, snapshot: Index) {
        let log = self.raft.log();
        let mut upto = snapshot.min(self.applied());
        let mut tail = 0;
        while upto > log.base().index && tail < self.config.snapshot_tail_bytes {
            tail += log.get(upto).map_or(0, |entry| entry.size_bytes() as u64);
            upto = upto.prev();
        }
        if let Some(held) = self.transfers.oldest()
            && held < upto
            && (log.bytes() as u64) < self.config.snapshot_hold_bytes
        {
            upto = held.max(log.base().index);
        }
        if upto > log.base().index {
            self.raft.compact(upto);
        }
        // An installed snapshot may have moved the log's beginning too.
        let base = self.raft.log().base();
        if base > self.snapshots.marked {
            self.snapshots.marked = base;
            let batch = Batch {
                snapshot_mark: Some(base),
                ..Batch::default()
            };
            self.ledger.wal.append(&mut self.disk, batch);
            self.ledger.wal.compact(&mut self.disk, base.index.next());
            info!(target: "Raft", "log compacted: upto={base}");
        }
    }
}
