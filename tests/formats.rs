//! What is on disk today can be read from now on: a data directory is kept in
//! `tests/fixtures/`, with every kind of record, and opened by each later version.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use crossbeam_channel::{Receiver, unbounded};
use raftkv::config::{Cluster, Founding};
use raftkv::disk::{DataDir, Disk, DiskEvent, FileDisk, FileId, OpenError};
use raftkv::kv::{ClientId, Command, Identity, SessionLimits, SnapshotStep, StateMachine, WriteOp};
use raftkv::node::{APPLY_ENTRIES_MAX, Addresses, Node, NodeConfig};
use raftkv::raft::{Configuration, LEVEL_MAX};
use raftkv::time::Time;
use raftkv::types::{Entry, EntryId, HardState, Index, NodeId, Payload, Server, Term};
use raftkv::wal::{Batch, Wal, WalOptions};

const NODE: NodeId = NodeId(0);
const WAIT: Duration = Duration::from_secs(20);
/// The smallest segments that there are.
const SEGMENT_BYTES: u64 = 16 << 10;

fn fixture() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/data_v1")
}

/// A copy that a test may change, without the lock that git does not keep either.
fn copied() -> tempfile::TempDir {
    let to = tempfile::tempdir().expect("a directory");
    fs::create_dir(to.path().join("raftnode_0")).expect("made");
    for file in fs::read_dir(fixture().join("raftnode_0")).expect("the fixture") {
        let file = file.expect("an entry");
        let copy = to.path().join("raftnode_0").join(file.file_name());
        fs::copy(file.path(), copy).expect("copied");
    }
    to
}

fn cluster_id() -> u64 {
    Cluster::default().cluster_id()
}

fn members(count: u64) -> Configuration {
    Configuration::of_voters((0..count).map(|id| {
        let address = |port| format!("127.0.0.1:{port}");
        let (peer, client) = (address(4396 + 2 * id), address(4397 + 2 * id));
        (NodeId(id), u8::from(id == 0), peer, client)
    }))
}

fn open_disk(dir: DataDir) -> (FileDisk, Receiver<DiskEvent>) {
    let (sender, events) = unbounded();
    // Whoever listens may have gone: what comes then is of no interest.
    let sink = move |event| drop(sender.send(event));
    let disk = FileDisk::open(dir, Arc::new(sink)).expect("threads start");
    (disk, events)
}

fn config_of(dir: &DataDir) -> NodeConfig {
    NodeConfig {
        snapshot_send_bytes_per_sec: 0,
        snapshot_write_bytes_per_sec: 0,
        disk_give_up: None,
        state_check_entries: 256,
        id: NODE,
        first_members: members(7),
        cluster_id: cluster_id(),
        founding: Founding::AllFirstMembers,
        level: LEVEL_MAX,
        addresses: Addresses::default(),
        addresses_from_file: false,
        meta: dir.meta().clone(),
        election_timeout: (Duration::from_millis(150), Duration::from_millis(300)),
        heartbeat: Duration::from_millis(50),
        read_lease: false,
        disk_patience: Duration::from_secs(2),
        seed: 1,
        segment_bytes: SEGMENT_BYTES,
        first_segment_bytes: SEGMENT_BYTES,
        snapshot_log_bytes: 16 << 20,
        snapshot_tail_bytes: 4 << 20,
        snapshot_hold_bytes: 64 << 20,
        apply_entries_max: APPLY_ENTRIES_MAX,
        memory_limit: None,
        session_limits: SessionLimits::default(),
    }
}

fn open_node(dir: &Path) -> (Node<FileDisk>, Receiver<DiskEvent>) {
    let dir = DataDir::open(dir, NODE, cluster_id()).expect("an older version opens");
    let config = config_of(&dir);
    let (disk, events) = open_disk(dir);
    let (node, _) = Node::open(config, disk, Time::ZERO).expect("an older version opens");
    (node, events)
}

fn command(identity: Identity, op: WriteOp) -> Payload {
    Payload::Command(Command::Write { identity, op }.encode())
}

fn update(key: &'static str, value: &'static str) -> WriteOp {
    WriteOp::Update {
        key: Bytes::from_static(key.as_bytes()),
        value: Bytes::from_static(value.as_bytes()),
    }
}

/// The entries that were ever written, in their order; number 5 twice.
fn entries() -> Vec<Entry> {
    let client = ClientId(0x1234_5678_9abc_def0_1234_5678_9abc_def0);
    let session = |sequence| Identity::Session {
        session: 1,
        sequence,
        acked_below: 1,
    };
    let implicit = |sequence| Identity::Implicit { client, sequence };
    let open = Payload::Command(Command::OpenSession { client }.encode());
    let payloads = [
        (1, 1, open),
        (1, 2, command(session(1), update("first", "1"))),
        (1, 3, command(implicit(7), update("second", "2"))),
        (1, 4, command(Identity::None, update("gone", "x"))),
        (1, 5, command(Identity::None, update("never", "committed"))),
        (2, 5, Payload::Noop),
        (
            2,
            6,
            command(
                session(2),
                WriteOp::Remove {
                    key: Bytes::from_static(b"gone"),
                },
            ),
        ),
        (2, 7, Payload::Config(members(3).encode())),
        (2, 8, command(implicit(8), update("third", "3"))),
    ];
    let entry = |(term, index, payload)| Entry {
        id: EntryId::new(term, index),
        payload,
    };
    payloads.map(entry).to_vec()
}

/// Incarnations of peers, as the file `peers` has them: version, whether the node may vote,
/// and for each id, incarnation, and whether it has lost its directory; a CRC-32.
fn peers_file() -> Bytes {
    let mut file = BytesMut::new();
    file.put_slice(&[1, 1]);
    for (id, incarnation, lost) in [(1, 0x1111, 0), (2, 0x2222, 1)] {
        file.put_u64_le(id);
        file.put_u64_le(incarnation);
        file.put_u8(lost);
    }
    let crc = crc32fast::hash(&file);
    file.put_u32_le(crc);
    file.freeze()
}

/// A snapshot of all up to entry 6.
fn snapshot() -> Vec<u8> {
    let mut machine = StateMachine::new(SessionLimits::default());
    let kept = entries()
        .into_iter()
        .filter(|entry| entry.id != EntryId::new(1, 5));
    for entry in kept.take_while(|entry| entry.id.index <= Index(6)) {
        machine.apply(entry.id, &entry.payload);
    }
    machine.begin_snapshot(members(7).encode(), 1 << 20);
    let mut file = Vec::new();
    while let SnapshotStep::Chunk(bytes) = machine.snapshot_next(1 << 20) {
        file.extend_from_slice(&bytes);
    }
    file
}

#[test]
#[ignore = "writes the fixture anew: only for a new version, into a new directory"]
fn write_the_fixture() {
    assert!(!fixture().exists(), "an old fixture is never replaced");
    fs::create_dir_all(fixture()).expect("made");
    let dir = DataDir::open(&fixture(), NODE, cluster_id()).expect("new");
    let (lock, incarnation) = (dir.path().join("lock"), dir.meta().incarnation);
    let (mut disk, events) = open_disk(dir);
    let options = WalOptions {
        segment_bytes: SEGMENT_BYTES,
        first_segment_bytes: SEGMENT_BYTES,
        ..WalOptions::new(NODE, cluster_id(), incarnation)
    };
    let (mut wal, _) = Wal::recover(&mut disk, options).expect("an empty directory");
    let all = entries();
    let hard_state = |term, voted_for: Option<u64>| HardState {
        term: Term(term),
        voted_for: voted_for.map(|id| Server::new(id, 0)),
    };
    let batches = [
        Batch {
            hard_state: Some(hard_state(1, Some(0))),
            // Of a log that holds nothing there: it restarts.
            snapshot_mark: Some(EntryId::new(1, 2)),
            ..Batch::default()
        },
        Batch {
            entries: &all[2..5],
            ..Batch::default()
        },
        Batch {
            hard_state: Some(hard_state(2, None)),
            truncate_from: Some(Index(5)),
            entries: &all[5..8],
            ..Batch::default()
        },
        Batch {
            snapshot_mark: Some(EntryId::new(1, 4)),
            ..Batch::default()
        },
        Batch {
            entries: &all[8..],
            ..Batch::default()
        },
    ];
    let wait = |wal: &mut Wal, disk: &mut FileDisk, done: &dyn Fn(&Wal, &DiskEvent) -> bool| {
        loop {
            let event = events.recv_timeout(WAIT).expect("an answer");
            wal.on_event(disk, &event).expect("no fault");
            if done(wal, &event) {
                break;
            }
        }
    };
    for batch in batches {
        let seq = wal.append(&mut disk, batch);
        wait(&mut wal, &mut disk, &|wal, _| wal.durable() >= seq);
    }
    let last = EntryId::new(2, 6);
    for (draft, name, content) in [
        (FileId::MetaDraft, FileId::Peers, peers_file()),
        (
            FileId::SnapshotDraft(last),
            FileId::Snapshot(last),
            Bytes::from(snapshot()),
        ),
    ] {
        disk.create_file(draft);
        disk.append_file(draft, content);
        disk.finish_file(draft, name);
        let finished = DiskEvent::FileFinished(name);
        wait(&mut wal, &mut disk, &|_, event| *event == finished);
    }
    drop(disk);
    fs::remove_file(lock).expect("removed");
}

#[test]
fn a_data_directory_of_version_1_opens_with_all_that_is_in_it() {
    let dir = copied();
    let (mut node, events) = open_node(dir.path());
    let raft = node.raft();
    assert_eq!(raft.hard_state().term, Term(2));
    assert_eq!(raft.hard_state().voted_for, None);
    assert_eq!(raft.log().base(), EntryId::new(1, 4));
    assert_eq!(raft.log().last(), EntryId::new(2, 8));
    assert!(raft.may_vote(), "`peers` says so");
    assert_eq!(*raft.configuration(), members(3), "the log has the latest");
    assert_eq!(*raft.configuration_at(Index(6)), members(7));
    let written = entries();
    for entry in written
        .iter()
        .filter(|e| e.id.index >= Index(5) && e.id.term == Term(2))
    {
        assert_eq!(raft.log().get(entry.id.index), Some(entry));
    }
    let machine = node.machine();
    assert_eq!(machine.applied(), EntryId::new(2, 6));
    assert_eq!(machine.get_ref(b"first"), Some(&b"1"[..]));
    assert_eq!(machine.get_ref(b"second"), Some(&b"2"[..]));
    assert_eq!((machine.len(), machine.get_ref(b"gone")), (2, None));
    assert_eq!(machine.session_count(), 1);
    assert_eq!(machine.implicit_session_count(), 1);
    // It goes on from there.
    let mut opened = false;
    while !opened {
        node.flush(Time::ZERO);
        let event = events.recv_timeout(WAIT).expect("an answer");
        opened = matches!(event, DiskEvent::Synced(_));
        node.handle_disk(Time::ZERO, event);
        assert_eq!(node.failure(), None);
    }
}

#[test]
fn what_this_version_writes_is_what_version_1_wrote() {
    let dir = fixture().join("raftnode_0");
    let name = "0000000000000006-0000000000000002.snap";
    let kept = fs::read(dir.join(name)).expect("the snapshot");
    assert_eq!(
        kept,
        snapshot(),
        "the format of snapshots has changed: give it a version"
    );
    let kept = fs::read(dir.join("peers")).expect("the file");
    assert_eq!(kept, peers_file());
}

#[test]
fn files_of_a_newer_version_are_refused_and_not_taken_for_damaged() {
    let crc_at = |bytes: &mut Vec<u8>, end: usize| {
        let crc = crc32fast::hash(&bytes[..end]).to_le_bytes();
        bytes[end..end + 4].copy_from_slice(&crc);
    };
    let refusal = |name: &str, change: &dyn Fn(&mut Vec<u8>)| {
        let dir = copied();
        let path = dir.path().join("raftnode_0").join(name);
        let mut bytes = fs::read(&path).expect("it is there");
        change(&mut bytes);
        fs::write(&path, bytes).expect("written");
        let opened = match DataDir::open(dir.path(), NODE, cluster_id()) {
            Err(error) => {
                assert!(matches!(error, OpenError::Newer { .. }), "{error}");
                return error.to_string();
            }
            Ok(opened) => opened,
        };
        let config = config_of(&opened);
        let (disk, _events) = open_disk(opened);
        let error = Node::open(config, disk, Time::ZERO).map(|_| ());
        let error = error.expect_err("it is of a newer version");
        assert!(!error.is_damage(), "{error}");
        error.to_string()
    };
    let meta = refusal("meta", &|bytes| {
        let text = String::from_utf8(bytes.clone()).expect("text");
        *bytes = text.replace("version 1", "version 3").into_bytes();
    });
    let snapshot = refusal("0000000000000006-0000000000000002.snap", &|bytes| {
        bytes[8] = 2;
        let members = u32::from_le_bytes(bytes[28..32].try_into().expect("four bytes"));
        crc_at(bytes, 32 + members as usize);
    });
    let log = refusal("0000000000000001.wal", &|bytes| {
        bytes[8] = 2;
        let mut crc = crc32fast::Hasher::new();
        crc.update(&bytes[..12]);
        crc.update(&bytes[16..4096]);
        bytes[12..16].copy_from_slice(&crc.finalize().to_le_bytes());
    });
    for line in [meta, snapshot, log] {
        assert!(line.contains("newer") && !line.contains('\n'), "{line}");
        assert!(!line.contains("--rejoin"), "{line}");
    }
}
