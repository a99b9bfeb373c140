//! Appending to a log in files: with the store into the map and the syncs, which run
//! beside it and are waited for only when too much is on its way. Its time is that of a
//! disk, so it is timed and not counted.

use std::sync::{Arc, mpsc};

use raftkv::disk::{DataDir, DiskEvent, FileDisk};
use raftkv::types::{EntryId, NodeId};
use raftkv::wal::{Batch, Wal};

use crate::workloads::Workload;
use crate::workloads::wal::{Entries, options};

pub const WORKLOADS: [Workload; 2] = [
    Workload {
        name: "file_log/append 24 of 100 B",
        bytes: Some(24 * 100),
        prepare: || FileLog::operation(24, 100),
        count: 0,
    },
    Workload {
        name: "file_log/append 24 of 1 KiB",
        bytes: Some(24 * 1_024),
        prepare: || FileLog::operation(24, 1_024),
        count: 0,
    },
];

/// Batches on their way to the disk, at most: the memory for them is bounded.
const AHEAD_MAX: u64 = 1_024;
/// After so many batches a snapshot is said to stand for the log before it, so that the
/// segments are recycled.
const COMPACT_EVERY: u64 = 1_024;

struct FileLog {
    disk: FileDisk,
    wal: Wal,
    events: mpsc::Receiver<DiskEvent>,
    entries: Entries,
    /// Dropped last: the disk writes into it.
    _dir: tempfile::TempDir,
}

impl FileLog {
    fn operation(count: usize, bytes: usize) -> Box<dyn FnMut(u64)> {
        let mut log = FileLog::new(count, bytes);
        Box::new(move |times| (0..times).for_each(|_| log.append()))
    }

    fn new(count: usize, bytes: usize) -> FileLog {
        let dir = tempfile::tempdir().expect("a directory");
        let data = DataDir::open(dir.path(), NodeId(0), 1).expect("a new data directory");
        let (sender, events) = mpsc::channel();
        // At the end nobody listens any more.
        let sink = move |event| drop(sender.send(event));
        let mut disk = FileDisk::open(data, Arc::new(sink)).expect("three threads");
        let (wal, _) = Wal::recover(&mut disk, options()).expect("an empty log");
        FileLog {
            disk,
            wal,
            events,
            entries: Entries::new(count, bytes),
            _dir: dir,
        }
    }

    fn append(&mut self) {
        let entries = self.entries.following();
        let last = entries.last().map_or(EntryId::ZERO, |entry| entry.id);
        let first = entries.first().map_or(EntryId::ZERO, |entry| entry.id);
        let compacts = self.wal.appended().0.is_multiple_of(COMPACT_EVERY);
        let batch = Batch {
            snapshot_mark: compacts.then(|| EntryId::new(0, first.index.prev().0)),
            entries,
            ..Batch::default()
        };
        self.wal.append(&mut self.disk, batch);
        if compacts {
            self.wal.compact(&mut self.disk, last.index);
        }
        while let Ok(event) = self.events.try_recv() {
            self.take(&event);
        }
        while self.wal.appended().0 - self.wal.durable().0 > AHEAD_MAX {
            let event = self.events.recv().expect("the disk reports");
            self.take(&event);
        }
    }

    fn take(&mut self, event: &DiskEvent) {
        let taken = self.wal.on_event(&mut self.disk, event);
        taken.expect("a disk that works");
    }
}
