//! What both disks must do alike, and what only the real one does.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use crossbeam_channel::{Receiver, unbounded};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::file_system::FORCE_WRITTEN;
use super::*;
use crate::mem::Buffer;
use crate::types::NodeId;

const WAIT: Duration = Duration::from_secs(20);

/// A disk, and how to get its events and to start it anew.
trait Harness: Sized {
    type D: Disk;
    fn disk(&mut self) -> &mut Self::D;
    fn event(&mut self) -> DiskEvent;
    /// A new process on the same disk; what was not synced may be there or not.
    fn restart(self) -> Self;

    fn ready(&mut self, id: u64, len: u64, recycle: Option<u64>) {
        self.disk()
            .create_segment(SegmentId(id), len, recycle.map(SegmentId));
        assert_eq!(self.event(), DiskEvent::SegmentReady(SegmentId(id)));
    }

    fn synced(&mut self) {
        let token = self.disk().sync();
        while self.event() != DiskEvent::Synced(token) {}
    }

    fn segment(&mut self, id: u64, len: usize) -> Vec<u8> {
        let mut buf = vec![0xff; len + 1];
        let mut done = 0;
        loop {
            let disk = self.disk();
            let count = disk.recover_segment(SegmentId(id), done as u64, &mut buf[done..]);
            match count.expect("a segment that exists") {
                0 => break,
                count => done += count,
            }
        }
        buf.truncate(done);
        buf
    }

    fn segment_ids(&mut self) -> Vec<(u64, u64)> {
        let infos = self.disk().segments().expect("a list");
        infos.iter().map(|info| (info.id.0, info.len)).collect()
    }

    /// Until the operations before it are done; the file does not exist.
    fn settle(&mut self) {
        let id = FileId::Snapshot(crate::types::EntryId::new(99, 99));
        self.disk().read_file(id, 0, 0);
        while !matches!(self.event(), DiskEvent::FileRead { id: read, .. } if read == id) {}
    }
}

struct Sim(SimDisk);

impl Harness for Sim {
    type D = SimDisk;

    fn disk(&mut self) -> &mut SimDisk {
        &mut self.0
    }

    fn event(&mut self) -> DiskEvent {
        self.0.step().expect("an answer")
    }

    fn restart(mut self) -> Sim {
        self.0.crash(&mut || 1);
        self
    }
}

struct Real {
    disk: Option<FileDisk>,
    events: Receiver<DiskEvent>,
    dir: tempfile::TempDir,
    is_written: bool,
}

fn open(dir: &Path) -> (FileDisk, Receiver<DiskEvent>) {
    let (sender, events) = unbounded();
    let dir = DataDir::open(dir, NodeId(1), 7).expect("a directory of our own");
    let sink = move |event| sender.send(event).expect("the test listens");
    (
        FileDisk::open(dir, Arc::new(sink)).expect("threads start"),
        events,
    )
}

impl Real {
    fn new() -> Real {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let (disk, events) = open(dir.path());
        Real {
            disk: Some(disk),
            events,
            dir,
            is_written: false,
        }
    }

    /// One that writes its segments, as on a file system that copies on write.
    fn written() -> Real {
        FORCE_WRITTEN.set(true);
        let real = Real::new();
        FORCE_WRITTEN.set(false);
        Real {
            is_written: true,
            ..real
        }
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.dir.path().join("raftnode_1").join(name)
    }
}

impl Harness for Real {
    type D = FileDisk;

    fn disk(&mut self) -> &mut FileDisk {
        self.disk.as_mut().expect("open")
    }

    fn event(&mut self) -> DiskEvent {
        self.events.recv_timeout(WAIT).expect("an answer")
    }

    fn restart(mut self) -> Real {
        self.disk = None;
        FORCE_WRITTEN.set(self.is_written);
        let (disk, events) = open(self.dir.path());
        FORCE_WRITTEN.set(false);
        self.disk = Some(disk);
        self.events = events;
        self
    }
}

fn what_is_synced_is_there_after_a_restart<H: Harness>(mut h: H) {
    assert_eq!(h.segment_ids(), []);
    h.ready(1, 16384, None);
    h.ready(2, 8192, None);
    h.disk()
        .store(SegmentId(1), 0, Buffer::from(&[1; 5000][..]));
    h.disk().store(SegmentId(2), 8190, Buffer::from(&b"ab"[..]));
    h.disk()
        .store(SegmentId(1), 4095, Buffer::from(&b"xyz"[..]));
    h.synced();
    let mut h = h.restart();
    assert_eq!(h.segment_ids(), [(1, 16384), (2, 8192)]);
    let first = h.segment(1, 16384);
    assert_eq!(first.len(), 16384);
    assert_eq!(first[..4095], [1; 4095]);
    assert_eq!(first[4095..4098], *b"xyz");
    assert_eq!(first[4098..5000], [1; 902]);
    assert!(first[5000..].iter().all(|byte| *byte == 0));
    assert_eq!(h.segment(2, 8192)[8188..], *b"\0\0ab");
    let mut short = [0; 4];
    let read = h.disk().recover_segment(SegmentId(2), 8190, &mut short);
    assert_eq!(read.expect("it exists"), 2);
    assert!(
        h.disk()
            .recover_segment(SegmentId(3), 0, &mut short)
            .is_err()
    );
}

fn a_sync_stands_for_all_before_it<H: Harness>(mut h: H) {
    h.ready(1, 8192, None);
    let mut last = SyncToken(0);
    for n in 0..50u64 {
        h.disk()
            .store(SegmentId(1), n * 8, Buffer::from(&n.to_le_bytes()[..]));
        let token = h.disk().sync();
        assert!(token > last);
        last = token;
    }
    let mut told = SyncToken(0);
    while told < last {
        if let DiskEvent::Synced(token) = h.event() {
            assert!(token > told);
            told = token;
        }
    }
    let mut h = h.restart();
    assert_eq!(h.segment(1, 8192)[49 * 8], 49);
}

fn a_recycled_segment_takes_over_the_file<H: Harness>(mut h: H) {
    h.ready(1, 8192, None);
    h.ready(2, 8192, None);
    h.disk().store(SegmentId(1), 100, Buffer::from(&b"old"[..]));
    h.synced();
    h.ready(3, 8192, Some(1));
    h.disk()
        .store(SegmentId(3), 4096, Buffer::from(&b"new"[..]));
    h.synced();
    // One of another length is no use, one that is not there neither.
    h.ready(4, 16384, Some(2));
    h.ready(5, 8192, Some(17));
    let mut h = h.restart();
    assert_eq!(h.segment_ids(), [(3, 8192), (4, 16384), (5, 8192)]);
    let third = h.segment(3, 8192);
    assert_eq!(
        (&third[100..103], &third[4096..4099]),
        (&b"old"[..], &b"new"[..])
    );
    // And again, in a process that has read it.
    h.ready(6, 8192, Some(3));
    h.disk().store(SegmentId(6), 0, Buffer::from(&b"newer"[..]));
    h.synced();
    let mut h = h.restart();
    assert_eq!(h.segment_ids(), [(4, 16384), (5, 8192), (6, 8192)]);
    assert_eq!(h.segment(6, 8192)[..5], *b"newer");
}

fn a_removed_segment_is_gone_while_others_go_on<H: Harness>(mut h: H) {
    h.ready(1, 8192, None);
    h.ready(2, 8192, None);
    h.disk().store(SegmentId(1), 0, Buffer::from(&b"1"[..]));
    h.disk().store(SegmentId(2), 0, Buffer::from(&b"2"[..]));
    h.disk().remove_segment(SegmentId(1));
    h.synced();
    h.ready(3, 8192, None);
    let mut h = h.restart();
    assert_eq!(h.segment_ids(), [(2, 8192), (3, 8192)]);
    assert_eq!(h.segment(2, 8192)[0], b'2');
}

fn a_file_is_there_once_it_is_finished<H: Harness>(mut h: H) {
    let last = EntryId::new(2, 30);
    let (draft, snapshot) = (FileId::SnapshotDraft(last), FileId::Snapshot(last));
    h.disk().create_file(draft);
    let piece = Bytes::from((0..100_000u32).map(|n| n as u8).collect::<Vec<u8>>());
    for n in 1..=15u64 {
        h.disk().append_file(draft, piece.clone());
        let len = n * 100_000;
        assert_eq!(h.event(), DiskEvent::FileAppended { id: draft, len });
    }
    h.disk().finish_file(draft, snapshot);
    assert_eq!(h.event(), DiskEvent::FileFinished(snapshot));
    h.disk().read_file(snapshot, 99_990, 20);
    let data = piece.slice(99_990..);
    let DiskEvent::FileRead { data: read, .. } = h.event() else {
        panic!("it was read");
    };
    assert_eq!((&read[..10], &read[10..]), (&data[..], &piece[..10]));
    h.disk().read_file(snapshot, 1_499_999, 20);
    let data = piece.slice(99_999..);
    let (id, offset) = (snapshot, 1_499_999);
    assert_eq!(h.event(), DiskEvent::FileRead { id, offset, data });
    let mut h = h.restart();
    let infos = files(h.disk());
    let len = 1_500_000;
    assert_eq!(infos, [FileInfo { id: snapshot, len }]);
    let mut buf = [0; 10];
    let read = h.disk().recover_file(snapshot, 1_400_000, &mut buf);
    assert_eq!((read.expect("it exists"), &buf[..]), (10, &piece[..10]));
    h.disk().remove_file(snapshot);
    h.disk().remove_file(snapshot);
    h.disk().read_file(snapshot, 0, 10);
    let (id, offset, data) = (snapshot, 0, Bytes::new());
    assert_eq!(h.event(), DiskEvent::FileRead { id, offset, data });
    assert_eq!(files(h.disk()), []);
}

/// The files beside `meta`, which every real directory has.
fn files<D: Disk>(disk: &mut D) -> Vec<FileInfo> {
    let mut infos = disk.files().expect("a list");
    infos.retain(|info| info.id != FileId::Meta);
    infos
}

fn an_incoming_snapshot_goes_on_after_a_restart<H: Harness>(mut h: H) {
    let incoming = FileId::SnapshotIncoming {
        last: EntryId::new(1, 5),
        checksum: 9,
        leader: NodeId(2),
    };
    h.disk().create_file(incoming);
    h.disk()
        .append_file(incoming, Bytes::from_static(b"first "));
    h.settle();
    let mut h = h.restart();
    let infos = files(h.disk());
    assert_eq!((infos.len(), infos[0].id), (1, incoming));
    h.disk()
        .append_file(incoming, Bytes::from_static(b"second"));
    let snapshot = FileId::Snapshot(EntryId::new(1, 5));
    h.disk().finish_file(incoming, snapshot);
    h.disk().read_file(snapshot, 0, 100);
    loop {
        if let DiskEvent::FileRead { data, .. } = h.event() {
            assert_eq!(data, &b"first second"[..]);
            break;
        }
    }
}

fn beginning_a_file_again_empties_it<H: Harness>(mut h: H) {
    for content in [&b"a long first attempt"[..], b"short"] {
        h.disk().create_file(FileId::MetaDraft);
        let data = Bytes::from_static(content);
        h.disk().append_file(FileId::MetaDraft, data.clone());
        h.disk().finish_file(FileId::MetaDraft, FileId::Peers);
        h.disk().read_file(FileId::Peers, 0, 100);
        while h.event() != DiskEvent::FileFinished(FileId::Peers) {}
        let (id, offset) = (FileId::Peers, 0);
        assert_eq!(h.event(), DiskEvent::FileRead { id, offset, data });
    }
    // Appending to what does not exist makes nothing.
    h.disk()
        .append_file(FileId::MetaDraft, Bytes::from_static(b"x"));
    h.settle();
    assert_eq!(files(h.disk()).len(), 1);
}

macro_rules! conformance {
    ($($name:ident)*) => {
        mod simulated {
            use super::*;
            $(#[test] fn $name() { super::$name(Sim(SimDisk::new())); })*
        }
        mod real {
            use super::*;
            $(#[test] fn $name() { super::$name(Real::new()); })*
        }
        mod written {
            use super::*;
            $(#[test] fn $name() { super::$name(Real::written()); })*
        }
    };
}

conformance! {
    what_is_synced_is_there_after_a_restart
    a_sync_stands_for_all_before_it
    a_recycled_segment_takes_over_the_file
    a_removed_segment_is_gone_while_others_go_on
    a_file_is_there_once_it_is_finished
    an_incoming_snapshot_goes_on_after_a_restart
    beginning_a_file_again_empties_it
}

#[test]
fn a_full_disk_refuses_and_takes_up_again() {
    let mut h = Sim(SimDisk::new());
    h.0.set_no_space(true);
    h.0.create_segment(SegmentId(1), 8192, None);
    assert_eq!(h.event(), DiskEvent::SegmentNoSpace(SegmentId(1)));
    let draft = FileId::SnapshotDraft(EntryId::new(1, 1));
    h.0.create_file(draft);
    h.0.append_file(draft, Bytes::from_static(b"x"));
    h.0.append_file(draft, Bytes::from_static(b"y"));
    h.0.finish_file(draft, FileId::Peers);
    assert_eq!(h.event(), DiskEvent::FileNoSpace(draft));
    assert_eq!(h.0.step(), None);
    assert_eq!(h.0.files().expect("a list"), []);
    h.0.set_no_space(false);
    h.ready(1, 8192, None);
}

#[test]
fn a_failed_sync_is_the_last_thing_the_disk_does() {
    let mut h = Sim(SimDisk::new());
    h.ready(1, 8192, None);
    h.0.fail_next_sync();
    h.0.store(SegmentId(1), 0, Buffer::from(&b"x"[..]));
    h.0.sync();
    h.0.sync();
    assert!(matches!(h.event(), DiskEvent::Failed { .. }));
    assert_eq!(h.0.step(), None);
}

#[test]
fn a_crash_keeps_any_version_of_a_page() {
    let mut seen = std::collections::BTreeSet::new();
    for seed in 0..64u64 {
        let mut h = Sim(SimDisk::new());
        h.ready(1, 8192, None);
        for byte in 1..=3u8 {
            h.0.store(SegmentId(1), 4090, Buffer::from(&[byte; 12][..]));
        }
        let mut bits = seed;
        h.0.crash(&mut || {
            bits = bits.rotate_right(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
            bits >> 16
        });
        let content = h.segment(1, 8192);
        seen.insert((content[4090], content[4096]));
    }
    assert!(seen.len() > 8, "{seen:?}");
}

#[test]
fn a_crash_leaves_garbage_or_torn_pages_only_where_bytes_were_about_to_change() {
    let (mut garbage, mut torn) = (false, false);
    for seed in 0..400u64 {
        let mut h = Sim(SimDisk::new());
        h.ready(1, 8192, None);
        h.0.store(SegmentId(1), 0, Buffer::from(&[1; 1000][..]));
        h.0.sync();
        assert!(matches!(h.event(), DiskEvent::Synced(_)));
        h.0.store(SegmentId(1), 1000, Buffer::from(&[2; 2000][..]));
        h.0.store(SegmentId(1), 1000, Buffer::from(&[3; 2000][..]));
        let mut rng = StdRng::seed_from_u64(seed);
        h.0.crash(&mut || rng.next_u64());
        let content = h.segment(1, 8192);
        assert!(content[..1000].iter().all(|byte| *byte == 1), "{seed}");
        assert!(content[3000..].iter().all(|byte| *byte == 0), "{seed}");
        garbage |= content[1000..3000].iter().any(|byte| *byte > 3);
        let whole = content[1000..3000]
            .iter()
            .all(|byte| *byte == content[1000]);
        torn |= !whole && content[1000..3000].iter().all(|byte| *byte <= 3);
    }
    assert!(garbage && torn);
}

#[test]
fn a_survivor_has_what_was_synced_and_nothing_else() {
    let mut h = Sim(SimDisk::new());
    h.ready(1, 8192, None);
    h.0.store(SegmentId(1), 0, Buffer::from(&b"synced"[..]));
    h.0.sync();
    assert!(matches!(h.event(), DiskEvent::Synced(_)));
    h.0.store(SegmentId(1), 6, Buffer::from(&b"not"[..]));
    let draft = FileId::SnapshotDraft(EntryId::new(1, 1));
    h.0.create_file(draft);
    h.0.append_file(draft, Bytes::from_static(b"x"));
    assert!(matches!(h.event(), DiskEvent::FileAppended { .. }));
    let mut survivor = Sim(h.0.survivor());
    assert_eq!(survivor.segment(1, 8192)[..9], *b"synced\0\0\0");
    assert_eq!(survivor.0.files().expect("a list"), []);
    assert!(!survivor.0.pending());
    // The disk itself goes on.
    h.0.sync();
    assert!(matches!(h.event(), DiskEvent::Synced(_)));
    assert_eq!(h.segment(1, 8192)[..9], *b"syncednot");
}

#[test]
fn a_second_process_is_told_who_holds_the_directory() {
    let h = Real::new();
    let error = DataDir::open(h.dir.path(), NodeId(1), 7).unwrap_err();
    let text = error.to_string();
    let pid = std::process::id().to_string();
    assert!(matches!(error, OpenError::Locked { .. }), "{text}");
    assert!(text.contains(&pid) && !text.contains('\n'), "{text}");
    drop(h.disk);
    DataDir::open(h.dir.path(), NodeId(1), 7).expect("it is free");
}

#[test]
fn a_directory_keeps_its_incarnation_and_a_new_one_has_another() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let first = DataDir::open(dir.path(), NodeId(1), 7).expect("new");
    assert!(first.is_new() && first.meta().incarnation != 0);
    let (path, incarnation) = (first.path().to_path_buf(), first.meta().incarnation);
    drop(first);
    let again = DataDir::open(dir.path(), NodeId(1), 7).expect("there");
    assert_eq!(
        (again.meta().incarnation, again.is_new()),
        (incarnation, false)
    );
    drop(again);
    fs::remove_dir_all(path).expect("removed");
    let other = DataDir::open(dir.path(), NodeId(1), 7).expect("new");
    assert_ne!(other.meta().incarnation, incarnation);
}

/// Opens a directory after its `meta` was changed.
fn open_changed(change: impl Fn(String) -> String) -> OpenError {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let made = DataDir::open(dir.path(), NodeId(1), 7).expect("new");
    let meta = made.path().join("meta");
    drop(made);
    let text = fs::read_to_string(&meta).expect("it exists");
    fs::write(&meta, change(text)).expect("written");
    let error = DataDir::open(dir.path(), NodeId(1), 7).unwrap_err();
    assert!(!error.to_string().contains('\n'), "{error}");
    error
}

#[test]
fn a_damaged_or_newer_description_is_refused() {
    for (from, to) in [
        ("node 1", "node 2"),
        ("cluster 0000000000000007", "cluster 0000000000000008"),
        ("ww-raftkv", "xx-raftkv"),
        ("version 2", "version x"),
        ("crc32", "crc"),
    ] {
        let error = open_changed(|text| text.replace(from, to));
        assert!(matches!(error, OpenError::BadMeta { .. }), "{to}: {error}");
    }
    let error = open_changed(|_| String::new());
    assert!(matches!(error, OpenError::BadMeta { .. }), "{error}");
    let error = open_changed(|text| text.replace("version 2", "version 3"));
    assert!(
        matches!(error, OpenError::Newer { found: 3, .. }),
        "{error}"
    );
}

#[test]
fn a_foreign_directory_is_refused() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    drop(DataDir::open(dir.path(), NodeId(1), 7).expect("new"));
    let edited = DataDir::open(dir.path(), NodeId(1), 8);
    drop(edited.expect("a birth names the cluster, and the file may be edited"));
    let older = Meta {
        version: 1,
        ..Meta::new(NodeId(1), 7, 9)
    };
    let meta = dir.path().join("raftnode_1").join("meta");
    fs::write(meta, older.encode()).expect("written");
    let error = DataDir::open(dir.path(), NodeId(1), 8).unwrap_err();
    assert!(matches!(error, OpenError::ForeignCluster { .. }), "{error}");
    let renamed = dir.path().join("raftnode_2");
    fs::rename(dir.path().join("raftnode_1"), renamed).expect("renamed");
    let error = DataDir::open(dir.path(), NodeId(2), 7).unwrap_err();
    assert!(matches!(error, OpenError::ForeignNode { .. }), "{error}");
    fs::write(dir.path().join("raftnode_3"), "").expect("written");
    for parent in [dir.path(), &dir.path().join("raftnode_3")] {
        let error = DataDir::open(parent, NodeId(3), 7).unwrap_err();
        assert!(matches!(error, OpenError::NotADirectory { .. }), "{error}");
    }
}

#[test]
fn a_log_without_its_description_is_refused() {
    let mut h = Real::new();
    h.ready(1, 8192, None);
    h.disk = None;
    fs::remove_file(h.path("meta")).expect("removed");
    let error = DataDir::open(h.dir.path(), NodeId(1), 7).unwrap_err();
    assert!(matches!(error, OpenError::BadMeta { .. }), "{error}");
}

#[test]
fn drafts_are_removed_and_what_is_not_ours_stays() {
    let mut h = Real::new();
    h.disk = None;
    let draft = file_name::file(FileId::SnapshotDraft(EntryId::new(1, 1)));
    let gone = ["0000000000000009.wal.draft", "meta.draft", &draft];
    let stays = ["notes.txt", "9.wal", "0000000000000009.wal.bak", "x.draft"];
    for name in gone.iter().chain(&stays) {
        fs::write(h.path(name), "").expect("written");
    }
    let mut h = h.restart();
    for name in gone {
        assert!(!h.path(name).exists(), "{name}");
    }
    for name in stays {
        assert!(h.path(name).exists(), "{name}");
    }
    assert_eq!(h.segment_ids(), []);
    assert_eq!(files(h.disk()), []);
}

#[test]
fn a_segment_has_all_its_blocks() {
    use std::os::unix::fs::MetadataExt;
    let mut h = Real::new();
    h.ready(1, 1 << 20, None);
    let metadata = fs::metadata(h.path("0000000000000001.wal")).expect("it exists");
    assert!(metadata.blocks() * 512 >= 1 << 20);
}

#[test]
fn an_error_of_the_disk_is_told_once_and_nothing_is_done_after_it() {
    let mut h = Real::new();
    h.ready(1, 8192, None);
    // A directory in the place of the segment: not a matter of room.
    fs::create_dir(h.path("0000000000000002.wal.draft")).expect("made");
    h.disk().create_segment(SegmentId(2), 8192, None);
    let DiskEvent::Failed { what, .. } = h.event() else {
        panic!("it cannot be made");
    };
    assert!(what.contains("0000000000000002.wal"), "{what}");
    h.disk().store(SegmentId(1), 0, Buffer::from(&b"x"[..]));
    h.disk().sync();
    h.disk().create_segment(SegmentId(3), 8192, None);
    h.disk = None;
    assert_eq!(h.events.try_iter().count(), 0);
    assert!(!h.path("0000000000000003.wal").exists());
}

#[test]
fn more_than_the_queue_takes_is_neither_lost_nor_waited_for() {
    let mut h = Real::new();
    h.ready(1, 1 << 20, None);
    let mut token = SyncToken(0);
    for n in 0..30_000u64 {
        let data = Buffer::from(&(n as u32).to_le_bytes()[..]);
        h.disk().store(SegmentId(1), n * 4, data);
        token = h.disk().sync();
    }
    loop {
        let event = h.event();
        h.disk().poll();
        if event == DiskEvent::Synced(token) {
            break;
        }
    }
    let mut h = h.restart();
    let content = h.segment(1, 1 << 20);
    for n in 0..30_000usize {
        assert_eq!(content[n * 4..][..4], (n as u32).to_le_bytes());
    }
}

/// With a small file system of its own, such as
/// `mount -t tmpfs -o size=1m none /mnt/small` or a loop device.
#[test]
#[ignore = "needs RAFTKV_SMALL_FS, a file system of about a megabyte"]
fn a_full_file_system_refuses_segments_and_files_and_takes_up_again() {
    let dir = std::env::var_os("RAFTKV_SMALL_FS").expect("RAFTKV_SMALL_FS names it");
    let dir = tempfile::tempdir_in(dir).expect("a temporary directory");
    let (disk, events) = open(dir.path());
    let disk = Some(disk);
    let is_written = false;
    let mut h = Real {
        disk,
        events,
        dir,
        is_written,
    };
    h.ready(1, 128 << 10, None);
    h.disk().create_segment(SegmentId(2), 4 << 20, None);
    assert_eq!(h.event(), DiskEvent::SegmentNoSpace(SegmentId(2)));
    assert!(!h.path("0000000000000002.wal.draft").exists());
    let last = EntryId::new(1, 1);
    let (draft, snapshot) = (FileId::SnapshotDraft(last), FileId::Snapshot(last));
    h.disk().create_file(draft);
    let data = Bytes::from(vec![7; 256 << 10]);
    for _ in 0..16 {
        h.disk().append_file(draft, data.clone());
    }
    h.disk().finish_file(draft, snapshot);
    while h.event() != DiskEvent::FileNoSpace(draft) {}
    // The log goes on meanwhile, and with less there is room again.
    h.disk()
        .store(SegmentId(1), 0, Buffer::from(&[1; 128 << 10][..]));
    h.synced();
    h.disk().create_file(draft);
    h.disk().append_file(draft, data);
    h.disk().finish_file(draft, snapshot);
    while h.event() != DiskEvent::FileFinished(snapshot) {}
    h.ready(3, 128 << 10, None);
    let mut h = h.restart();
    assert_eq!(h.segment_ids(), [(1, 128 << 10), (3, 128 << 10)]);
    assert_eq!(h.segment(1, 128 << 10), vec![1; 128 << 10]);
}

#[test]
fn segments_that_are_written_take_few_descriptors_however_many_there_are() {
    let mut h = Real::written();
    let open_files = || {
        let names = fs::read_dir("/proc/self/fd").expect("a list").flatten();
        let targets = names.filter_map(|name| fs::read_link(name.path()).ok());
        targets.collect::<Vec<_>>()
    };
    for id in 1..=20 {
        h.ready(id, 8192, None);
        h.disk().store(SegmentId(id), 0, Buffer::from(&b"x"[..]));
        h.synced();
    }
    let dir = h.path("");
    let ours = open_files().into_iter();
    let segments = ours.filter(|path| path.starts_with(&dir) && path.extension().is_some());
    assert!(segments.count() <= 5);
}
