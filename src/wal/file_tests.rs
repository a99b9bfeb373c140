//! The log on real files, and what one append costs there.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, unbounded};

use super::tests::{OPTIONS, entry};
use super::{Batch, BatchSeq, Recovered, Wal, WalOptions};
use crate::disk::{DataDir, DiskEvent, FileDisk};
use crate::types::{Entry, EntryId, Index, NodeId};

struct Node {
    disk: FileDisk,
    events: Receiver<DiskEvent>,
    wal: Wal,
    recovered: Recovered,
}

impl Node {
    fn start(dir: &Path, segment_bytes: u64) -> Node {
        let dir = DataDir::open(dir, NodeId(3), 77).expect("a directory of our own");
        let options = WalOptions {
            incarnation: dir.meta().incarnation,
            segment_bytes,
            first_segment_bytes: segment_bytes,
            ..OPTIONS
        };
        let (sender, events) = unbounded();
        // Whoever listens may have gone: what comes then is of no interest.
        let sink = move |event| drop(sender.send(event));
        let mut disk = FileDisk::open(dir, Arc::new(sink)).expect("threads start");
        let (wal, recovered) = Wal::recover(&mut disk, options).expect("undamaged");
        Node {
            disk,
            events,
            wal,
            recovered,
        }
    }

    fn wait(&mut self, seq: BatchSeq) {
        while self.wal.durable() < seq {
            let event = self.events.recv_timeout(Duration::from_secs(20));
            let event = event.expect("an answer");
            self.wal.on_event(&mut self.disk, &event).expect("no fault");
        }
    }

    fn append(&mut self, entries: &[Entry]) -> BatchSeq {
        let batch = Batch {
            entries,
            ..Batch::default()
        };
        self.wal.append(&mut self.disk, batch)
    }
}

#[test]
fn the_log_survives_restarts_rolls_and_compaction_on_real_files() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let mut last = 0;
    let mut mark = EntryId::ZERO;
    for round in 1..=4u64 {
        let mut node = Node::start(dir.path(), 64 << 10);
        assert_eq!(node.recovered.snapshot_mark, mark);
        let expected: Vec<Entry> = (mark.index.0 + 1..=last)
            .map(|index| entry(1, index, 700))
            .collect();
        assert_eq!(node.recovered.entries, expected);
        assert_eq!(node.recovered.report.torn, None);
        let mut seq = BatchSeq(0);
        for _ in 0..100 {
            last += 1;
            seq = node.append(&[entry(1, last, 700)]);
            if last % 16 == 0 {
                node.wait(seq);
            }
        }
        node.wait(seq);
        if round % 2 == 0 {
            mark = EntryId::new(1, last - 10);
            let batch = Batch {
                snapshot_mark: Some(mark),
                ..Batch::default()
            };
            let seq = node.wal.append(&mut node.disk, batch);
            node.wait(seq);
            node.wal.compact(&mut node.disk, mark.index.next());
            last += 1;
            let seq = node.append(&[entry(1, last, 700)]);
            node.wait(seq);
        }
        assert!(node.wal.bytes_in_log() < 400 << 10);
    }
}

fn written_bytes() -> u64 {
    let text = std::fs::read_to_string("/proc/self/io").expect("Linux");
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("write_bytes: "));
    line.and_then(|bytes| bytes.parse().ok()).expect("a number")
}

/// What one append of 256 bytes costs, in a fresh and in a recycled segment.
#[test]
#[ignore = "a measurement: cargo test --lib -- --ignored --nocapture one_append"]
fn what_one_append_and_sync_costs() {
    let dir = tempfile::tempdir_in(".").expect("a directory on a real disk");
    let mut node = Node::start(dir.path(), 4 << 20);
    node.wait(BatchSeq(1));
    let mut index = 0;
    for round in 0..6 {
        let (mut times, before) = (Vec::new(), written_bytes());
        let segments = node.wal.counters().segments;
        for _ in 0..2000 {
            index += 1;
            let start = Instant::now();
            let seq = node.append(&[entry(1, index, 256)]);
            node.wait(seq);
            times.push(start.elapsed().as_micros());
        }
        times.sort_unstable();
        println!(
            "round {round}: median {} us, p99 {} us, max {} us, {} bytes a sync, {} segments begun",
            times[1000],
            times[1980],
            times[1999],
            (written_bytes() - before) / 2000,
            node.wal.counters().segments - segments,
        );
        // Enough to have segments recycled.
        let filler = [entry(1, index + 1, 3 << 20), entry(1, index + 2, 3 << 20)];
        index += 2;
        let seq = node.append(&filler);
        node.wait(seq);
        let mark = Some(EntryId::new(1, index));
        let batch = Batch {
            snapshot_mark: mark,
            ..Batch::default()
        };
        let seq = node.wal.append(&mut node.disk, batch);
        node.wait(seq);
        node.wal.compact(&mut node.disk, Index(index));
    }
}
