//! Appending to the log over a disk that drops what it is given: what the log itself
//! costs, checksums and one copy included, without the store into the map and the sync.

use std::collections::VecDeque;
use std::io;

use bytes::Bytes;
use raftkv::disk::{Disk, DiskEvent, FileId, FileInfo, SegmentId, SegmentInfo, SyncToken};
use raftkv::mem::Buffer;
use raftkv::types::{Entry, EntryId, NodeId, Payload};
use raftkv::wal::{Batch, Wal, WalOptions};

use super::Workload;

pub(super) const WORKLOADS: [Workload; 4] = [
    Workload::new("wal/append 24 of 100 B", 2_000, || append(24, 100)).bytes(24 * 100),
    Workload::new("wal/append 1 of 100 B", 5_000, || append(1, 100)).bytes(100),
    Workload::new("wal/append 24 of 1 KiB", 1_000, || append(24, 1_024)).bytes(24 * 1_024),
    Workload::new("wal/append 1 of 1 KiB", 5_000, || append(1, 1_024)).bytes(1_024),
];

/// A batch of entries, made once: each time they get the next indexes.
pub(crate) struct Entries {
    entries: Vec<Entry>,
    next: u64,
}

impl Entries {
    pub(crate) fn new(count: usize, bytes: usize) -> Entries {
        let payload = Payload::Command(Bytes::from(vec![b'v'; bytes]));
        let entry = Entry {
            id: EntryId::ZERO,
            payload,
        };
        Entries {
            entries: vec![entry; count],
            next: 1,
        }
    }

    pub(crate) fn following(&mut self) -> &[Entry] {
        for entry in &mut self.entries {
            entry.id = EntryId::new(0, self.next);
            self.next += 1;
        }
        &self.entries
    }
}

/// How a node opens its log.
pub(crate) fn options() -> WalOptions {
    WalOptions::new(NodeId(0), 1, 2)
}

fn append(count: usize, bytes: usize) -> Box<dyn FnMut(u64)> {
    let mut disk = NullDisk::default();
    let (mut wal, _) = Wal::recover(&mut disk, options()).expect("an empty log");
    let mut entries = Entries::new(count, bytes);
    Box::new(move |times| {
        for _ in 0..times {
            // The segment's readiness, and the sync of the batch before.
            while let Some(event) = disk.events.pop_front() {
                wal.on_event(&mut disk, &event).expect("it never fails");
            }
            let entries = entries.following();
            wal.append(
                &mut disk,
                Batch {
                    entries,
                    ..Batch::default()
                },
            );
        }
        assert_eq!(wal.waiting(), 0, "a segment was always there");
    })
}

/// Says that all is well at once, and keeps nothing.
#[derive(Debug, Default)]
struct NullDisk {
    events: VecDeque<DiskEvent>,
    last_token: SyncToken,
}

impl Disk for NullDisk {
    fn create_segment(&mut self, id: SegmentId, _: u64, _: Option<SegmentId>) {
        self.events.push_back(DiskEvent::SegmentReady(id));
    }

    fn reopen_segment(&mut self, id: SegmentId, _: u64) {
        self.events.push_back(DiskEvent::SegmentReady(id));
    }

    fn store(&mut self, _: SegmentId, _: u64, data: Buffer) {
        drop(std::hint::black_box(data));
    }

    fn sync(&mut self) -> SyncToken {
        self.last_token.0 += 1;
        self.events.push_back(DiskEvent::Synced(self.last_token));
        self.last_token
    }

    fn remove_segment(&mut self, _: SegmentId) {}

    fn create_file(&mut self, _: FileId) {}

    fn append_file(&mut self, _: FileId, _: Bytes) {}

    fn finish_file(&mut self, _: FileId, _: FileId) {}

    fn read_file(&mut self, _: FileId, _: u64, _: usize) {}

    fn remove_file(&mut self, _: FileId) {}

    fn segments(&mut self) -> io::Result<Vec<SegmentInfo>> {
        Ok(Vec::new())
    }

    fn files(&mut self) -> io::Result<Vec<FileInfo>> {
        Ok(Vec::new())
    }

    fn recover_segment(&mut self, _: SegmentId, _: u64, _: &mut [u8]) -> io::Result<usize> {
        Ok(0)
    }

    fn recover_file(&mut self, _: FileId, _: u64, _: &mut [u8]) -> io::Result<usize> {
        Ok(0)
    }
}
