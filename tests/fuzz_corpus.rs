//! Replays the seeds and findings of the fuzz targets through what the targets do with them.

#[path = "../fuzz/entry.rs"]
mod entry;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use prost::Message as _;
use raftkv::client::protocol::{Identity, Operation, Range, encode_operation, encode_status};
use raftkv::disk::{Disk, SimDisk};
use raftkv::kv::{ClientId, Command, Operations, SessionLimits, StateMachine, WriteOp};
use raftkv::mem::Buffer;
use raftkv::net::envelope::decode_envelope;
use raftkv::net::frame::HEADER_BYTES;
use raftkv::node::{Addresses, Answer, Facts, Hello, HelloReply};
use raftkv::proto;
use raftkv::raft::{Accepted, Body, Message, Rejected, SnapshotChunk, SnapshotMeta};
use raftkv::types::{
    Birth, Entry, EntryId, HardState, Incarnation, Index, NodeId, Payload, Server, Term,
};
use raftkv::wal::{Batch, Wal, summarize_segment};

fn corpus(target: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("fuzz/corpus")
        .join(target)
}

#[test]
fn every_input_of_the_corpora_does_no_harm() {
    for (target, run) in entry::TARGETS {
        let mut inputs: Vec<PathBuf> = fs::read_dir(corpus(target))
            .expect("a corpus for each target")
            .map(|file| file.expect("a file").path())
            .collect();
        inputs.sort();
        assert!(!inputs.is_empty(), "{target} has no seeds");
        for input in inputs {
            let bytes = fs::read(&input).expect("an input");
            println!("{}", input.display());
            run(&bytes);
        }
    }
}

#[test]
fn inputs_that_are_cut_or_changed_anywhere_do_no_harm() {
    for (target, run) in entry::TARGETS {
        for (_, seed) in seeds(target) {
            // A segment is long: a few places of it will do.
            let step = seed.len() / 200 + 1;
            for at in (0..seed.len()).step_by(step) {
                run(&seed[..at]);
                let mut changed = seed.clone();
                changed[at] ^= 0x81;
                run(&changed);
            }
        }
    }
}

#[test]
fn what_is_right_is_read_to_its_end_and_needs_no_repair() {
    let right = segment();
    let found = summarize_segment(&right, entry::SEGMENT, entry::INCARNATION);
    assert!(found.header && found.end == right.len() as u64, "{found:?}");
    assert_eq!(found.batches, 4, "an opening and three batches");
    let mut repaired = right.clone();
    entry::repair_segment(&mut repaired);
    // The length in its header is that of the bytes there are, not of the file.
    let found = summarize_segment(&repaired, entry::SEGMENT, entry::INCARNATION);
    assert_eq!(found.end, right.len() as u64);
    assert_eq!(repaired[4096..], right[4096..]);

    for (_, seed) in snapshot_seeds() {
        let mut repaired = seed[1..].to_vec();
        entry::repair_snapshot(&mut repaired);
        assert_eq!(repaired, seed[1..]);
    }
}

/// Writes what `seeds` makes: `cargo test --test fuzz_corpus -- --ignored`, after a format has changed.
#[test]
#[ignore = "writes into the source tree"]
fn write_the_seeds() {
    for (target, _) in entry::TARGETS {
        fs::create_dir_all(corpus(target)).expect("a directory");
        for (name, bytes) in seeds(target) {
            fs::write(corpus(target).join(format!("seed-{name}")), bytes).expect("a seed");
        }
    }
}

/// Right inputs for a target, to begin with.
fn seeds(target: &str) -> Vec<(String, Vec<u8>)> {
    match target {
        "frames" => frame_seeds(),
        "peer_messages" => peer_seeds(),
        "client_messages" => client_seeds(),
        "wal_segment" => vec![
            ("plain".into(), with_control(0, &segment())),
            ("repaired".into(), with_control(1, &segment())),
        ],
        "snapshot" => snapshot_seeds(),
        _ => panic!("no such target"),
    }
}

fn with_control(control: u8, bytes: &[u8]) -> Vec<u8> {
    [&[control], bytes].concat()
}

fn operations() -> Vec<(Operation, Identity)> {
    let (key, value) = (Bytes::from_static(b"key"), Bytes::from_static(b"value"));
    let uuid = Identity::Uuid("6f2c1d2e-0000-4000-8000-000000000001".into());
    let session = Identity::Session {
        id: 4,
        sequence: 2,
        acked_below: 1,
    };
    let put = Operation::Put {
        key: key.clone(),
        value: value.clone(),
    };
    let update = Operation::Update {
        key: key.clone(),
        value,
    };
    let range = Range {
        from: key.clone(),
        until: Bytes::from_static(b"until"),
        prefix: Bytes::from_static(b"k"),
        entries_max: 7,
        bytes_max: 300,
    };
    vec![
        (put, uuid.clone()),
        (update, session.clone()),
        (Operation::Get { key: key.clone() }, uuid.clone()),
        (Operation::Remove { key: key.clone() }, uuid.clone()),
        (Operation::OpenSession, uuid.clone()),
        (cas(&key), session),
        (Operation::Batch(batch()), uuid.clone()),
        (Operation::Scan(range), uuid),
    ]
}

fn cas(key: &Bytes) -> Operation {
    Operation::CompareAndSet {
        key: key.clone(),
        expected: Some(Bytes::from_static(b"value")),
        new: None,
    }
}

/// One operation of each kind.
fn batch() -> Vec<WriteOp> {
    let bytes = Bytes::from_static;
    vec![
        WriteOp::Put {
            key: bytes(b"a"),
            value: bytes(b"1"),
        },
        WriteOp::Update {
            key: bytes(b"b"),
            value: bytes(b""),
        },
        WriteOp::Remove { key: bytes(b"c") },
        WriteOp::Cas {
            key: bytes(b"d"),
            expected: None,
            new: Some(bytes(b"4")),
        },
    ]
}

fn frame_seeds() -> Vec<(String, Vec<u8>)> {
    let mut stream = Buffer::with_capacity(1024);
    for (number, (operation, identity)) in operations().iter().enumerate() {
        encode_operation(&mut stream, number as u64, operation, identity);
    }
    encode_status(&mut stream, 9);
    let stream = stream.freeze();
    vec![
        ("whole".into(), with_control(0xFE, &stream)),
        ("bytes".into(), with_control(0, &stream)),
        ("repaired".into(), with_control(0x11, &stream)),
    ]
}

fn payload(frame: Buffer) -> Bytes {
    decode_envelope(frame.freeze().slice(HEADER_BYTES..))
        .expect("our own")
        .payload
}

fn peer_seeds() -> Vec<(String, Vec<u8>)> {
    let meta = SnapshotMeta {
        last: EntryId::new(2, 30),
        checksum: 0xABCD,
        total_bytes: 100,
    };
    let entry = |index, payload| Entry {
        id: EntryId::new(2, index),
        payload,
    };
    let entries = vec![
        entry(8, Payload::Noop),
        entry(9, Payload::Command(Bytes::from_static(b"command"))),
    ];
    let chunk = SnapshotChunk {
        snapshot: meta,
        offset: 40,
        data: Bytes::from_static(b"piece"),
    };
    let last = EntryId::new(2, 7);
    let bodies = [
        ("pre-vote", 0, Body::PreVote { last }),
        (
            "vote",
            0,
            Body::Vote {
                last,
                transfer: true,
            },
        ),
        ("pre-vote-reply", 1, Body::PreVoteReply { granted: true }),
        ("vote-reply", 1, Body::VoteReply { granted: false }),
        (
            "append",
            2,
            Body::Append {
                prev: last,
                entries: entries.into(),
                commit: Index(6),
            },
        ),
        (
            "heartbeat",
            2,
            Body::Heartbeat {
                commit: Index(6),
                round: 5,
                last: Index(9),
                lease: true,
                state: None,
            },
        ),
        (
            "accepted",
            3,
            Body::AppendReply(Ok(Accepted {
                match_index: Index(9),
            })),
        ),
        (
            "rejected",
            3,
            Body::AppendReply(Err(Rejected {
                rejected: Index(7),
                hint: EntryId::new(1, 4),
            })),
        ),
        (
            "heartbeat-reply",
            3,
            Body::HeartbeatReply {
                round: 5,
                disk: Duration::from_millis(3),
                full: false,
                memory_full: false,
                state: None,
            },
        ),
        ("read-index", 8, Body::ReadIndex { context: 9 }),
        (
            "read-index-reply",
            9,
            Body::ReadIndexReply {
                context: 9,
                index: Some(Index(7)),
            },
        ),
        ("timeout-now", 10, Body::TimeoutNow),
        ("chunk", 4, Body::Snapshot(chunk)),
        (
            "chunk-reply",
            5,
            Body::SnapshotReply {
                snapshot: meta,
                next_offset: 45,
                installed: false,
            },
        ),
    ];
    let mut seeds: Vec<(String, Vec<u8>)> = bodies
        .into_iter()
        .map(|(name, control, body)| {
            let message = Message {
                birth: Birth(1),
                from: Server::new(1, 7),
                to: Server::new(0, 8),
                term: Term(3),
                call: 9,
                lost_directory: name.ends_with("reply"),
                body,
            };
            let mut out = Buffer::with_capacity(256);
            proto::encode_message(&mut out, &message, 9);
            (name.into(), with_control(control, &payload(out)))
        })
        .collect();
    let hello = Hello {
        cluster_id: 3,
        from: NodeId(1),
        to: NodeId(0),
        version: 1,
        facts: facts(7),
    };
    let mut out = Buffer::with_capacity(256);
    proto::encode_hello(&mut out, &hello, 9);
    seeds.push(("hello".into(), with_control(6, &payload(out))));
    let reply = HelloReply {
        to: NodeId(1),
        refused: Some("no".into()),
        lost_directory: true,
        term: Term(3),
        facts: facts(8),
    };
    let mut out = Buffer::with_capacity(256);
    proto::encode_hello_reply(&mut out, &reply, 9);
    seeds.push(("hello-reply".into(), with_control(7, &payload(out))));
    seeds
}

fn facts(incarnation: u64) -> Facts {
    Facts {
        incarnation: Incarnation(incarnation),
        birth: Birth(9),
        is_new: true,
        was_voter: true,
        established: true,
        level: 1,
        addresses: Addresses {
            peer: "127.0.0.1:4396".into(),
            client: "127.0.0.1:4397".into(),
        },
    }
}

fn client_seeds() -> Vec<(String, Vec<u8>)> {
    let mut seeds = Vec::new();
    for (number, (operation, identity)) in operations().iter().enumerate() {
        let mut out = Buffer::with_capacity(256);
        encode_operation(&mut out, 5, operation, identity);
        let request = with_control(0, &payload(out));
        seeds.push((format!("request-{number}"), request));
    }
    let answers = [
        Answer::Value(Some(Buffer::from(&b"value"[..]))),
        Answer::Redirect(NodeId(0)),
        Answer::OutcomeUnknown,
        Answer::Busy,
    ];
    for (number, answer) in answers.into_iter().enumerate() {
        let answer = proto::encode_answer(answer, |_| Some("127.0.0.1:4397".into()));
        let answer = with_control(1, &answer.encode_to_vec());
        seeds.push((format!("answer-{number}"), answer));
    }
    let (key, value) = (Bytes::from_static(b"key"), Bytes::from_static(b"value"));
    let entry = raftkv::pb::Entry {
        key: key.clone(),
        value,
    };
    let page = raftkv::pb::Page {
        entries: vec![entry],
        next_key: Bytes::from_static(b"next"),
    };
    let page = raftkv::pb::KvOperationResponse {
        status_code: 200,
        page: Some(Box::new(page)),
        ..Default::default()
    };
    let page = with_control(1 | 6 << 2, &page.encode_to_vec());
    seeds.push(("answer-page".into(), page));
    let failed = proto::encode_answer(Answer::Applied(raftkv::kv::Outcome::BatchFailed(2)), |_| {
        None
    });
    let failed = with_control(1 | 5 << 2, &failed.encode_to_vec());
    seeds.push(("answer-batch-failed".into(), failed));
    seeds.push(("command".into(), with_control(2, &put(1).encode())));
    let identity = raftkv::kv::Identity::None;
    let op = WriteOp::Cas {
        key,
        expected: Some(Bytes::from_static(b"old")),
        new: Some(Bytes::from_static(b"new")),
    };
    let command = Command::Write { identity, op };
    seeds.push(("command-cas".into(), with_control(2, &command.encode())));
    let operations = Operations::encode(&batch()).expect("a right batch");
    let command = Command::Batch {
        identity,
        operations,
    };
    seeds.push(("command-batch".into(), with_control(2, &command.encode())));
    let status = raftkv::pb::StatusResponse {
        role: "leader".into(),
        term: 3,
        leader: 1,
        commit_index: 9,
        ..Default::default()
    };
    seeds.push(("status".into(), with_control(3, &status.encode_to_vec())));
    seeds
}

fn put(number: u64) -> Command {
    Command::Write {
        identity: raftkv::kv::Identity::Implicit {
            client: ClientId::from_text("client"),
            sequence: number,
        },
        op: WriteOp::Put {
            key: Bytes::from(format!("key-{number}")),
            value: Bytes::from(vec![b'v'; number as usize]),
        },
    }
}

/// The first segment of a log with a bit of everything, without the zeros at its end.
fn segment() -> Vec<u8> {
    let mut disk = SimDisk::new();
    let (mut wal, _) = Wal::recover(&mut disk, entry::wal_options()).expect("an empty disk");
    let settle = |wal: &mut Wal, disk: &mut SimDisk| {
        while let Some(event) = disk.step() {
            wal.on_event(disk, &event).expect("this disk does not fail");
        }
    };
    settle(&mut wal, &mut disk);
    let entries: Vec<Entry> = (1..=5)
        .map(|index| Entry {
            id: EntryId::new(1, index),
            payload: Payload::Command(put(index).encode()),
        })
        .collect();
    let batches = [
        Batch {
            hard_state: Some(HardState {
                term: Term(1),
                voted_for: Some(Server::new(0, 0)),
            }),
            entries: &entries,
            ..Batch::default()
        },
        Batch {
            truncate_from: Some(Index(4)),
            ..Batch::default()
        },
        Batch {
            snapshot_mark: Some(EntryId::new(1, 2)),
            ..Batch::default()
        },
    ];
    for batch in batches {
        wal.append(&mut disk, batch);
        settle(&mut wal, &mut disk);
    }
    let found = disk.segments().expect("a list")[0];
    assert_eq!(found.id, entry::SEGMENT);
    let mut bytes = vec![0; found.len as usize];
    let count = disk
        .recover_segment(found.id, 0, &mut bytes)
        .expect("bytes");
    bytes.truncate(count);
    let end = bytes.iter().rposition(|byte| *byte != 0).expect("content");
    // A record ends at a multiple of eight.
    bytes.truncate((end + 1).next_multiple_of(8));
    bytes
}

fn snapshot_seeds() -> Vec<(String, Vec<u8>)> {
    let limits = SessionLimits {
        implicit_window: 64,
        sessions_max: 8,
        idle_entries: 64,
        window: 8,
    };
    let mut state = StateMachine::new(limits);
    let empty = entry::write_snapshot(&mut state, Bytes::new());
    let open = Command::OpenSession {
        client: ClientId::from_text("other"),
    };
    state.apply(EntryId::new(1, 1), &Payload::Command(open.encode()));
    for index in 2..12 {
        let id = EntryId::new(1, index);
        state.apply(id, &Payload::Command(put(index).encode()));
    }
    let full = entry::write_snapshot(&mut state, Bytes::from_static(b"members"));
    vec![
        ("empty".into(), with_control(0x20, &empty)),
        ("full".into(), with_control(0xFE, &full)),
        ("repaired".into(), with_control(0x21, &full)),
    ]
}
