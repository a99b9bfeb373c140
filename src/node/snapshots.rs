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
use crate::node::pace::Pace;
use crate::raft::SnapshotMeta;
use crate::time::Time;
use crate::types::{Entry, EntryId, Index};
use crate::wal::Batch;

/// What one turn of the walk produces, in bytes.
const SLICE_BYTES: usize = 16 << 10;
/// How many follow each other where much was applied in one turn.
const SLICES_A_TURN_MAX: usize = 32;
/// What is handed to the disk in one go: to wake its thread for each slice, and to be woken by
/// its answer, would take the processor from others more often than the slices do.
const PIECE_BYTES: usize = 128 << 10;
/// A walk goes by the clock, or by so many bytes for each byte of entries applied if that is
/// faster: the log grows by at most half of the data meanwhile, however much is written.
const WALKED_FOR_EACH_APPLIED: u64 = 2;
/// How many entries one turn forgets: to free a long log at once would take milliseconds.
const COMPACT_ENTRIES: u64 = 1_024;
/// And how many bytes of them.
const COMPACT_BYTES: usize = 4 << 20;
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
    /// Up to where the log is being forgotten, a turn at a time.
    forgetting: Option<Index>,
    taken: u64,
}

#[derive(Debug)]
struct Taking {
    last: EntryId,
    /// Slices that wait to be handed to the disk together.
    piece: Vec<u8>,
    /// Walked over.
    given: u64,
    /// Confirmed to be in the file, though not on the disk.
    written: u64,
    /// Known once the walk is over and only the disk is waited for.
    done: Option<SnapshotMeta>,
    /// Bytes of entries applied when it began.
    log_bytes: u64,
    pace: Pace,
    /// What may be walked over at once, in bytes, for entries that were applied.
    credit: u64,
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
        let bytes = bytes as u64;
        self.log_bytes += bytes;
        if let Some(taking) = &mut self.taking {
            taking.credit += WALKED_FOR_EACH_APPLIED * bytes;
        }
    }

    /// When the walk, or forgetting, can go on without anything else happening first.
    pub(super) fn next_deadline(&self, now: Time, machine: &StateMachine) -> Time {
        if self.forgetting.is_some() {
            return now;
        }
        match &self.taking {
            Some(taking) if machine.snapshot_underway() && taking.has_room() => taking.due(now),
            _ => Time::NEVER,
        }
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

    /// When the next slice is due.
    fn due(&self, now: Time) -> Time {
        if self.credit >= SLICE_BYTES as u64 {
            now
        } else {
            self.pace.free()
        }
    }

    /// A slice was taken.
    fn count(&mut self, now: Time, bytes: u64, bytes_per_sec: u64) {
        self.given += bytes;
        // What the clock allows is no less walked over: the faster of the two counts, not both.
        self.credit = self.credit.saturating_sub(bytes);
        if self.pace.free() <= now {
            self.pace.take(now, bytes, bytes_per_sec);
        }
    }
}

impl<D: Disk> Node<D> {
    /// Begins a snapshot when one is due, and takes the next slice of one that runs, if
    /// that is due.
    pub(super) fn advance_snapshot(&mut self, now: Time) {
        if self.snapshots.taking.is_none()
            && (self.snapshot_due() || self.backup_due() || self.removal_to_keep())
        {
            self.begin_snapshot();
        }
        for _ in 0..SLICES_A_TURN_MAX {
            let taking = self.snapshots.taking.as_ref();
            if taking.is_none_or(|taking| !taking.has_room() || taking.due(now) > now) {
                break;
            }
            self.walk(now);
        }
    }

    /// Takes the next slice of the snapshot that is being taken, as far as the disk keeps up.
    pub(super) fn walk(&mut self, now: Time) {
        let Some(taking) = &mut self.snapshots.taking else {
            return;
        };
        if !taking.has_room() {
            return;
        }
        let draft = FileId::SnapshotDraft(taking.last);
        match self.machine.snapshot_next(SLICE_BYTES) {
            SnapshotStep::Chunk(bytes) => {
                let rate = self.config.snapshot_write_bytes_per_sec;
                taking.count(now, bytes.len() as u64, rate);
                taking.piece.extend_from_slice(&bytes);
                if taking.piece.len() >= PIECE_BYTES {
                    let piece = std::mem::take(&mut taking.piece);
                    self.disk.append_file(draft, piece.into());
                }
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
                let piece = std::mem::take(&mut taking.piece);
                self.disk.append_file(draft, piece.into());
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
        let log_bytes = self.config.snapshot_log_bytes.max(size);
        self.snapshots.log_bytes > log_bytes.min(self.log_bytes_max())
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
            piece: Vec::new(),
            given: 0,
            written: 0,
            done: None,
            log_bytes,
            pace: Pace::default(),
            credit: 0,
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
            if self.make_room() {
                return;
            }
            // Half of the way to the next try: a disk that stays full is not hammered.
            self.snapshots.log_bytes /= 2;
        }
    }

    /// Gives up what only might be of use; whether there may be room now.
    pub(super) fn make_room(&mut self) -> bool {
        let spares = self.ledger.wal.release_spares(&mut self.disk);
        self.forget_older() || spares
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
        if std::mem::take(&mut self.snapshots.forget_due) {
            self.forget_snapshots();
            self.forget_log();
        }
        self.forget_some();
    }

    fn forget_snapshots(&mut self) {
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
    }

    /// Decides how much of the log goes: all up to the newest snapshot, but for what
    /// followers may soon need.
    fn forget_log(&mut self) {
        let Some(newest) = self.snapshots.newest() else {
            return;
        };
        let log = self.raft.log();
        let mut upto = newest.last.index.min(self.applied());
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
        self.snapshots.forgetting = Some(upto);
    }

    /// Forgets the next entries that are to go; tells the log on disk when all have gone.
    fn forget_some(&mut self) {
        let Some(upto) = self.snapshots.forgetting else {
            return;
        };
        let log = self.raft.log();
        let base = log.base().index;
        let (mut step, mut bytes) = (base, 0);
        while step < upto && step.0 < base.0 + COMPACT_ENTRIES && bytes < COMPACT_BYTES {
            step = step.next();
            bytes += log.get(step).map_or(0, Entry::size_bytes);
        }
        self.raft.compact(step);
        if step < upto {
            return;
        }
        self.snapshots.forgetting = None;
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
