//! Every call that the disk's threads make of the system fails once, in every way: nothing
//! is reported as done that is not, no failed sync is repeated, nobody panics.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use crossbeam_channel::{Receiver, RecvTimeoutError, unbounded};
use rustix::io::Errno;

use super::calls::{How, Plan, adopt};
use super::file_system::FORCE_WRITTEN;
use super::*;
use crate::types::NodeId;

const WAIT: Duration = Duration::from_secs(20);
const SEGMENT_BYTES: u64 = 8192;
/// More than one call writes or reads.
const FILE_BYTES: usize = 3000;
/// A segment of an earlier process.
const EARLIER: SegmentId = SegmentId(5);

/// A disk, and what it has confirmed.
struct Run {
    disk: FileDisk,
    events: Receiver<DiskEvent>,
    /// Segment, offset and byte of each store that is synced.
    synced: Vec<(SegmentId, u64, u8)>,
    finished: Vec<FileId>,
    /// Why it does not go on.
    ended: Option<DiskEvent>,
}

fn open(dir: &Path) -> (FileDisk, Receiver<DiskEvent>) {
    let (sender, events) = unbounded();
    let dir = DataDir::open(dir, NodeId(1), 7).expect("a directory of our own");
    // Whoever listens may have gone: what comes then is of no interest.
    let sink = move |event| drop(sender.send(event));
    let disk = FileDisk::open(dir, Arc::new(sink)).expect("threads start");
    (disk, events)
}

impl Run {
    /// Waits for this, or for the news that it will not come.
    fn wait(&mut self, wanted: impl Fn(&DiskEvent) -> bool) -> bool {
        while self.ended.is_none() {
            let event = self.events.recv_timeout(WAIT).expect("an answer");
            match event {
                event if wanted(&event) => return true,
                DiskEvent::Failed { .. }
                | DiskEvent::SegmentNoSpace(_)
                | DiskEvent::FileNoSpace(_) => self.ended = Some(event),
                _ => {}
            }
        }
        false
    }

    fn segment(&mut self, id: u64, recycle: Option<u64>) -> bool {
        let (id, recycle) = (SegmentId(id), recycle.map(SegmentId));
        self.disk.create_segment(id, SEGMENT_BYTES, recycle);
        self.synced.retain(|(old, ..)| Some(*old) != recycle);
        self.wait(|event| *event == DiskEvent::SegmentReady(id))
    }

    fn store(&mut self, id: u64, offset: u64, byte: u8) -> bool {
        self.disk
            .store(SegmentId(id), offset, Buffer::from(&[byte; 100][..]));
        let token = self.disk.sync();
        let synced = self.wait(|event| *event == DiskEvent::Synced(token));
        if synced {
            self.synced.push((SegmentId(id), offset, byte));
        }
        synced
    }

    fn file(&mut self, draft: FileId, name: FileId) -> bool {
        self.disk.create_file(draft);
        for _ in 0..2 {
            self.disk
                .append_file(draft, Bytes::from_static(&[7; FILE_BYTES]));
        }
        self.disk.finish_file(draft, name);
        let finished = self.wait(|event| *event == DiskEvent::FileFinished(name));
        if finished {
            self.finished.push(name);
        }
        finished
    }

    fn read(&mut self, id: FileId) -> bool {
        self.disk.read_file(id, 0, 2 * FILE_BYTES);
        self.wait(|event| {
            let DiskEvent::FileRead { data, .. } = event else {
                return false;
            };
            assert_eq!(*data, [7; 2 * FILE_BYTES][..]);
            true
        })
    }

    /// All that a disk can be asked for, one after the other.
    fn all(&mut self) -> bool {
        let last = crate::types::EntryId::new(1, 5);
        self.segment(1, None)
            && self.store(1, 0, 1)
            && self.segment(2, None)
            && self.store(2, 4090, 2)
            && self.segment(3, Some(1))
            && self.store(3, 100, 3)
            && self.segment(6, Some(EARLIER.0))
            && self.store(6, 0, 6)
            && self.file(FileId::MetaDraft, FileId::Peers)
            && self.file(FileId::SnapshotDraft(last), FileId::Snapshot(last))
            && self.read(FileId::Snapshot(last))
            && self.removals(last)
    }

    fn removals(&mut self, last: EntryId) -> bool {
        // What is asked for behind a removal comes after it, in the same queue. One thread at
        // a time: another would go on with what it has begun when this one has failed. The
        // file's removal is the last, since two threads have to do with it.
        self.disk.remove_segment(SegmentId(2));
        self.synced.retain(|(id, ..)| *id != SegmentId(2));
        if !self.segment(7, None) {
            return false;
        }
        self.disk.remove_file(FileId::Snapshot(last));
        self.finished.retain(|id| *id != FileId::Snapshot(last));
        self.room_comes_back(FileId::Snapshot(last))
    }

    /// Waits until nothing is left of what is being removed.
    fn room_comes_back(&mut self, id: FileId) -> bool {
        let dir = self.disk.data_dir().path();
        let names = [file_name::file(id), file_name::removed(0)];
        let paths = names.map(|name| dir.join(name));
        let deadline = Instant::now() + WAIT;
        // It may be under the second name by the time that the first was looked for.
        while paths.iter().chain(&paths).any(|path| path.exists()) {
            assert!(Instant::now() < deadline, "the room comes back");
            match self.events.recv_timeout(Duration::from_millis(1)) {
                Ok(event) => {
                    self.ended = Some(event);
                    return false;
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(error) => panic!("{error}"),
            }
        }
        true
    }
}

/// Runs all with one call going wrong; whether it got to the end, and the calls made.
fn run(at: usize, how: How) -> (bool, Vec<&'static str>) {
    let memory = Path::new("/dev/shm");
    let dir = if memory.is_dir() {
        tempfile::tempdir_in(memory)
    } else {
        tempfile::tempdir()
    };
    let dir = dir.expect("a temporary directory");
    let data = DataDir::open(dir.path(), NodeId(1), 7).expect("made before");
    let earlier = data.path().join(file_name::segment(EARLIER));
    std::fs::write(earlier, [0; SEGMENT_BYTES as usize]).expect("a segment");
    drop(data);
    let (disk, events) = open_with(dir.path(), at, how);
    let plan = disk.1;
    let mut run = Run {
        disk: disk.0,
        events,
        synced: Vec::new(),
        finished: Vec::new(),
        ended: None,
    };
    let done = run.all();
    let Run {
        disk,
        events,
        synced,
        finished,
        ended,
    } = run;
    drop(disk);
    let made = plan.made();
    let what = format!("call {at} ({:?}), {how:?}: {ended:?}", made.get(at));
    if let Some(DiskEvent::Failed { what: said, error }) = &ended {
        assert!(!error.contains("panicked"), "{what}");
        assert!(!said.is_empty() && !error.is_empty(), "{what}");
        assert_eq!(
            events.try_iter().count(),
            0,
            "{what}: nothing is done after it"
        );
    }
    let syncs = |call: &&&str| matches!(**call, "msync" | "sync" | "sync directory");
    if matches!(how, How::Error(_))
        && let Some(failed) = made.get(at).filter(syncs)
    {
        let later = made[at + 1..].iter().filter(|call| call == &failed).count();
        let passes = matches!(
            ended,
            Some(DiskEvent::SegmentNoSpace(_) | DiskEvent::FileNoSpace(_))
        );
        assert!(
            !done && (later == 0 || passes),
            "{what}: a failed sync is repeated"
        );
    }
    // What was confirmed is there for the next process.
    let (mut disk, _events) = open(dir.path());
    for (id, offset, byte) in synced {
        let mut buf = [0; 100];
        let read = disk.recover_segment(id, offset, &mut buf);
        assert_eq!(read.expect("it was confirmed"), 100, "{what}");
        assert_eq!(buf, [byte; 100], "{what}: {id:?}");
    }
    for id in finished {
        let mut buf = [0; 2 * FILE_BYTES + 1];
        let read = disk
            .recover_file(id, 0, &mut buf)
            .expect("it was confirmed");
        assert_eq!(read, 2 * FILE_BYTES, "{what}");
    }
    for info in disk.segments().expect("a list") {
        assert_eq!(
            info.len, SEGMENT_BYTES,
            "{what}: no segment is there in part"
        );
    }
    (done, made)
}

fn open_with(dir: &Path, at: usize, how: How) -> ((FileDisk, Arc<Plan>), Receiver<DiskEvent>) {
    let dir = DataDir::open(dir, NodeId(1), 7).expect("a directory of our own");
    let (sender, events) = unbounded();
    let sink = move |event| drop(sender.send(event));
    let plan = Plan::begin(at, how);
    let disk = FileDisk::open(dir, Arc::new(sink)).expect("threads start");
    adopt(None);
    ((disk, plan), events)
}

#[test]
fn whichever_call_fails_nothing_is_confirmed_that_is_not_so_and_no_sync_is_repeated() {
    let (done, calls) = run(usize::MAX, How::Short);
    assert!(done);
    for call in [
        "open",
        "write",
        "sync",
        "rename",
        "sync directory",
        "map",
        "msync",
        "advise",
        "populate",
        "write back",
        "rename removed",
        "open removed",
        "truncate",
        "unlink",
        "read",
    ] {
        assert!(calls.contains(&call), "{call} is not among {calls:?}");
    }
    for error in [Errno::IO, Errno::NOSPC, Errno::INTR] {
        for at in 0..calls.len() {
            // Several threads make the calls: which is the one with this number differs.
            let (done, made) = run(at, How::Error(error.raw_os_error()));
            let Some(call) = made.get(at) else {
                continue;
            };
            // A signal, or a place that is no good, is got over; all else is told.
            let got_over = match *call {
                "write" | "read" => error == Errno::INTR,
                "populate" => true,
                "rename removed" | "truncate" => error == Errno::NOSPC,
                _ => false,
            };
            assert_eq!(done, got_over, "call {at}, {call}: {error}");
        }
    }
    for error in [Errno::MFILE, Errno::NFILE] {
        for at in 0..calls.len() {
            let (done, made) = run(at, How::Error(error.raw_os_error()));
            if made.get(at).is_some_and(|call| call.starts_with("open")) {
                assert!(done, "call {at}: a lack of descriptors passes");
            }
        }
    }
    for at in 0..calls.len() {
        assert!(run(at, How::Short).0, "call {at} does a part of its work");
    }
}

#[test]
fn a_store_that_finds_no_room_is_carried_out_when_there_is_some() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let store = |at, how, id: u64| {
        FORCE_WRITTEN.set(true);
        let ((disk, plan), events) = open_with(dir.path(), at, how);
        FORCE_WRITTEN.set(false);
        let mut run = Run {
            disk,
            events,
            synced: Vec::new(),
            finished: Vec::new(),
            ended: None,
        };
        assert!(
            run.segment(id, None) && run.store(id, 0, 9),
            "{:?}",
            run.ended
        );
        let mut buf = [0; 100];
        let read = run.disk.recover_segment(SegmentId(id), 0, &mut buf);
        assert_eq!((read.expect("it is there"), buf), (100, [9; 100]));
        let made = plan.made();
        made.iter().rposition(|call| *call == "write")
    };
    let at = store(usize::MAX, How::Short, 1).expect("a store is a write");
    let again = store(at, How::Error(Errno::NOSPC.raw_os_error()), 2);
    assert!(again > Some(at), "the write was repeated");
}
