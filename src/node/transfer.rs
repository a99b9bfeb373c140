//! Sending a snapshot to followers whose next entry is compacted (paper §7).
//!
//! A chunk is read from the file when the follower has asked for it, one at a time a
//! follower, and not before the rate allows it; nothing is held in memory beside that chunk. Where the follower wants to
//! go on is its word: it may have kept a part of the very same snapshot.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use log::info;

use crate::disk::{Disk, FileId};
use crate::limits;
use crate::node::core::Node;
use crate::node::pace::Pace;
use crate::raft::{SnapshotChunk, SnapshotMeta};
use crate::time::Time;
use crate::types::{EntryId, Index, Server};

/// After this long without an answer a chunk is sent again.
const RETRY: Duration = Duration::from_millis(500);

/// The followers that are being sent a snapshot.
#[derive(Debug, Default)]
pub(super) struct Transfers {
    running: BTreeMap<Server, Transfer>,
    pace: Pace,
}

#[derive(Debug)]
struct Transfer {
    snapshot: SnapshotMeta,
    offset: u64,
    /// Whether the disk has been asked for the chunk at `offset`.
    reading: bool,
    retry: Time,
    /// When the chunk at `offset` is to be read, if that waits for the rate.
    due: Option<Time>,
}

impl Transfers {
    pub(super) fn clear(&mut self) {
        self.running.clear();
    }

    /// Whether the snapshot up to `last` is being sent to anyone.
    pub(super) fn sends(&self, last: EntryId) -> bool {
        self.running
            .values()
            .any(|transfer| transfer.snapshot.last == last)
    }

    /// The last entry of the oldest snapshot that is being sent: the follower will need
    /// the log from there on.
    pub(super) fn oldest(&self) -> Option<Index> {
        self.running
            .values()
            .map(|transfer| transfer.snapshot.last.index)
            .min()
    }

    pub(super) fn next_deadline(&self) -> Time {
        self.running
            .values()
            .map(|transfer| transfer.due.unwrap_or(transfer.retry))
            .min()
            .unwrap_or(Time::NEVER)
    }
}

impl<D: Disk> Node<D> {
    pub(super) fn begin_transfer(&mut self, now: Time, to: Server) {
        let Some(snapshot) = self.snapshots.newest() else {
            unreachable!("a log is compacted only behind a snapshot")
        };
        info!(target: "Raft", "send snapshot: to={to} last={} bytes={}", snapshot.last, snapshot.total_bytes);
        let transfer = Transfer {
            snapshot,
            offset: 0,
            reading: false,
            retry: now,
            due: None,
        };
        self.transfers.running.insert(to, transfer);
        self.read_chunk(now, to);
    }

    /// The follower says where it wants to go on.
    pub(super) fn continue_transfer(
        &mut self,
        now: Time,
        from: Server,
        snapshot: SnapshotMeta,
        next_offset: u64,
    ) {
        let Some(transfer) = self.transfers.running.get_mut(&from) else {
            return;
        };
        if transfer.snapshot != snapshot {
            return;
        }
        if next_offset >= snapshot.total_bytes {
            // It has all of it, and answers once more when it is installed.
            transfer.offset = snapshot.total_bytes;
            transfer.retry = now + RETRY;
            transfer.due = None;
        } else if next_offset != transfer.offset || !(transfer.reading || transfer.due.is_some()) {
            transfer.offset = next_offset;
            self.read_chunk(now, from);
        }
    }

    fn read_chunk(&mut self, now: Time, to: Server) {
        let Transfers { running, pace } = &mut self.transfers;
        let Some(transfer) = running.get_mut(&to) else {
            return;
        };
        if pace.free() > now {
            transfer.reading = false;
            transfer.due = Some(pace.free());
            return;
        }
        let left = transfer.snapshot.total_bytes - transfer.offset;
        let bytes = left.min(limits::SNAPSHOT_CHUNK_BYTES as u64);
        pace.take(now, bytes, self.config.snapshot_send_bytes_per_sec);
        transfer.due = None;
        transfer.reading = true;
        transfer.retry = now + RETRY;
        let id = FileId::Snapshot(transfer.snapshot.last);
        self.disk
            .read_file(id, transfer.offset, limits::SNAPSHOT_CHUNK_BYTES);
    }

    /// The disk has read what is to be sent.
    pub(super) fn chunk_read(&mut self, last: EntryId, offset: u64, data: &Bytes) {
        let waits = |t: &Transfer| t.reading && t.snapshot.last == last && t.offset == offset;
        let cut = |t: &Transfer| waits(t) && data.is_empty() && offset < t.snapshot.total_bytes;
        if self.transfers.running.values().any(cut) {
            return self.fail(format!(
                "the snapshot up to {last} is gone, or ends at {offset}"
            ));
        }
        for (to, transfer) in &mut self.transfers.running {
            let snapshot = transfer.snapshot;
            if waits(transfer) {
                transfer.reading = false;
                let data = data.clone();
                self.raft.send_snapshot_chunk(
                    *to,
                    SnapshotChunk {
                        snapshot,
                        offset,
                        data,
                    },
                );
            }
        }
    }

    /// Sends again what was not answered; forgets those who need no snapshot any more.
    ///
    /// To a follower that has been away all the time the newest snapshot is sent, not
    /// the one that was the newest when it went: that would hold back the log for as
    /// long as it stays away, and be followed by another one.
    pub(super) fn tick_transfers(&mut self, now: Time) {
        if self.transfers.running.is_empty() {
            return;
        }
        let raft = &self.raft;
        self.transfers
            .running
            .retain(|to, _| raft.awaits_snapshot(*to));
        let newest = self.snapshots.newest().map(|snapshot| snapshot.last.index);
        let base = raft.log().base().index;
        let is_due = |(to, transfer): (&Server, &Transfer)| {
            transfer.due.is_some_and(|due| due <= now).then_some(*to)
        };
        for to in self
            .transfers
            .running
            .iter()
            .filter_map(is_due)
            .collect::<Vec<_>>()
        {
            self.read_chunk(now, to);
        }
        let late = self
            .transfers
            .running
            .iter()
            .filter(|(_, transfer)| transfer.due.is_none() && transfer.retry <= now)
            .map(|(to, transfer)| {
                let last = transfer.snapshot.last.index;
                let outdated = newest.is_some_and(|newest| newest > last);
                // Nothing of it is there yet, or it would need another one behind it.
                (*to, outdated && (transfer.offset == 0 || last < base))
            });
        for (to, begin_anew) in late.collect::<Vec<_>>() {
            if begin_anew {
                // It says where it stands once it is there, and gets the newest then.
                self.raft.give_up_snapshot(to);
                self.transfers.running.remove(&to);
            } else {
                self.read_chunk(now, to);
            }
        }
    }
}
