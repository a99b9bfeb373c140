//! What the fuzz targets do with their bytes. `tests/fuzz_corpus.rs` does the same with the corpora.
//!
//! Checksums would keep a fuzzer out of everything behind them. Where the first byte of the input is odd,
//! lengths are cut to fit and checksums made right before the bytes are read.

use bytes::Bytes;
use prost::Message as _;
use raftkv::client::protocol as client;
use raftkv::disk::{Disk, SegmentId, SimDisk};
use raftkv::kv::{Command, Restore, SessionLimits, SnapshotStep, StateMachine, restore};
use raftkv::mem::Buffer;
use raftkv::net::envelope::{Envelope, Method, decode_envelope};
use raftkv::net::frame::{FrameDecoder, HEADER_BYTES};
use raftkv::node::Request;
use raftkv::types::{Birth, Incarnation, NodeId, Server};
use raftkv::wal::{Wal, WalOptions, summarize_segment};
use raftkv::{pb, proto};

/// A target's name, and what it does.
pub type Target = (&'static str, fn(&[u8]));

/// All targets.
pub const TARGETS: [Target; 5] = [
    ("frames", frames),
    ("peer_messages", peer_messages),
    ("client_messages", client_messages),
    ("wal_segment", wal_segment),
    ("snapshot", snapshot),
];

/// The segment, the incarnation and the node that `wal_segment` reads for.
pub const SEGMENT: SegmentId = SegmentId(1);
pub const INCARNATION: u64 = 7;
const FROM: NodeId = NodeId(1);
const TO: NodeId = NodeId(0);
/// Small, so that a fuzzer reaches them.
const SESSION_LIMITS: SessionLimits = SessionLimits {
    implicit_window: 64,
    sessions_max: 8,
    idle_entries: 64,
    window: 8,
};

/// How a node that reads `SEGMENT` is told to.
pub fn wal_options() -> WalOptions {
    WalOptions {
        node: TO,
        cluster_id: 3,
        incarnation: INCARNATION,
        segment_bytes: 64 << 10,
        first_segment_bytes: 32 << 10,
    }
}

fn u32_le(bytes: &[u8], at: usize) -> usize {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes")) as usize
}

fn set_u32_le(bytes: &mut [u8], at: usize, value: u32) {
    bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
}

/// The control byte, and the rest.
fn split(input: &[u8]) -> Option<(u8, &[u8])> {
    input.split_first().map(|(control, rest)| (*control, rest))
}

/// A stream of frames with envelopes. The control byte above its lowest bit is the length of the pieces.
pub fn frames(input: &[u8]) {
    let Some((control, stream)) = split(input) else {
        return;
    };
    let mut stream = stream.to_vec();
    if control & 1 == 1 {
        repair_frames(&mut stream);
    }
    let whole = read_frames(&stream, stream.len().max(1), false);
    let piece = usize::from(control >> 1) + 1;
    assert_eq!(whole, read_frames(&stream, piece, false));
    assert_eq!(whole, read_frames(&stream, piece, true));
    for body in whole.0 {
        let _ = decode_envelope(body.clone());
        let mut out = Buffer::new();
        if let Err(refusal) = proto::decode_call(&body, &mut proto::CommandBuffer::new()) {
            proto::encode_refusal_frame(&mut out, &refusal);
        }
        let _ = client::decode_reply(body);
    }
}

/// The bodies, and the error that ended them.
fn read_frames(stream: &[u8], piece: usize, direct: bool) -> (Vec<Bytes>, Option<String>) {
    let mut decoder = FrameDecoder::default();
    let (mut bodies, mut at) = (Vec::new(), 0);
    while at < stream.len() {
        let mut input = &stream[at..stream.len().min(at + piece)];
        if direct && let Some(space) = decoder.space() {
            let count = space.len().min(input.len());
            space[..count].copy_from_slice(&input[..count]);
            decoder.advance(count);
            at += count;
            input = &[];
        } else {
            at += input.len();
        }
        loop {
            match decoder.decode(&mut input) {
                Ok(Some(body)) => bodies.push(body),
                Ok(None) => break,
                Err(error) => return (bodies, Some(error.to_string())),
            }
        }
        assert!(
            decoder.room_bytes() <= 2 * at + (64 << 10),
            "memory for what has not come"
        );
    }
    (bodies, None)
}

pub fn repair_frames(stream: &mut [u8]) {
    let mut at = 0;
    while at + HEADER_BYTES <= stream.len() {
        // Rather short frames than one that never ends.
        let total =
            HEADER_BYTES + usize::from(stream[at + 11]) + 256 * usize::from(stream[at + 10] & 0xF);
        let header = raftkv::net::frame::header(total - HEADER_BYTES);
        stream[at..at + HEADER_BYTES].copy_from_slice(&header);
        at += total;
    }
}

/// The payload of a message between nodes. The control byte chooses the method.
pub fn peer_messages(input: &[u8]) {
    let Some((control, payload)) = split(input) else {
        return;
    };
    let payload = Bytes::copy_from_slice(payload);
    let method: &'static [u8] = match control >> 1 & 7 {
        0 => b"RequestVote",
        1 => b"AppendEntries",
        2 => b"InstallSnapshot",
        4 => b"ReadIndex",
        5 => b"TimeoutNow",
        _ => return introduction(control, payload),
    };
    let is_request = control & 1 == 0;
    let link = proto::Link {
        peer: Server {
            id: FROM,
            incarnation: Incarnation(7),
        },
        birth: Birth(1),
        own: TO,
    };
    let decode = |envelope: &Envelope| {
        if is_request {
            proto::decode_peer_request(&link, envelope)
        } else {
            proto::decode_reply(&link, envelope)
        }
    };
    let envelope = Envelope {
        method: Bytes::from_static(method),
        sequence: 9,
        payload,
        ..Envelope::default()
    };
    let Ok(message) = decode(&envelope) else {
        return;
    };
    assert_eq!(message.body.is_request(), is_request);
    // What is let through can be said again, and means the same.
    let mut out = Buffer::with_capacity(64);
    proto::encode_message(&mut out, &message, 9);
    let envelope = decode_envelope(out.freeze().slice(HEADER_BYTES..)).expect("our own envelope");
    assert_eq!(&envelope.method[..], method);
    assert_eq!(decode(&envelope).expect("our own message"), message);
}

fn introduction(control: u8, payload: Bytes) {
    let mut out = Buffer::with_capacity(64);
    let payload_of = |out: Buffer| {
        decode_envelope(out.freeze().slice(HEADER_BYTES..))
            .expect("our own envelope")
            .payload
    };
    if control & 1 == 0 {
        let Ok(hello) = proto::decode_hello(payload) else {
            return;
        };
        proto::encode_hello(&mut out, &hello, 9);
        assert_eq!(proto::decode_hello(payload_of(out)), Ok(hello));
    } else {
        let Ok(reply) = proto::decode_hello_reply(FROM, payload) else {
            return;
        };
        proto::encode_hello_reply(&mut out, &reply, 9);
        assert_eq!(proto::decode_hello_reply(FROM, payload_of(out)), Ok(reply));
    }
}

/// What clients and nodes say to each other, and commands in the log. The control byte chooses.
pub fn client_messages(input: &[u8]) {
    let Some((control, payload)) = split(input) else {
        return;
    };
    let payload = Bytes::copy_from_slice(payload);
    match control & 3 {
        0 => {
            let execute = Method::new(proto::KV_SERVICE, proto::EXECUTE);
            let mut out = Buffer::new();
            execute.encode_call_with(&mut out, 5, payload.len(), |out| {
                out.extend_from_slice(&payload);
            });
            let mut commands = proto::CommandBuffer::new();
            let call = proto::decode_call(&out[HEADER_BYTES..], &mut commands);
            match call.as_ref().map(|call| &call.request) {
                Ok(Request::Write { command, .. }) => {
                    Command::decode(command).expect("what is let through is a command");
                }
                Ok(Request::Scan(scan)) => {
                    assert!(scan.entries_max > 0 && scan.bytes_max > 0, "a scan goes on");
                }
                _ => {}
            }
            let is_undecodable =
                call.is_err_and(|refusal| refusal.reason.starts_with("undecodable request"));
            let by_prost = pb::KvOperationRequest::decode(payload);
            assert_eq!(is_undecodable, by_prost.is_err(), "prost has the word");
        }
        1 => {
            let operation = match control >> 2 & 7 {
                0 => client::Operation::Get {
                    key: Bytes::from_static(b"k"),
                },
                1 => client::Operation::Remove {
                    key: Bytes::from_static(b"k"),
                },
                2 => client::Operation::OpenSession,
                4 => client::Operation::CompareAndSet {
                    key: Bytes::from_static(b"k"),
                    expected: None,
                    new: None,
                },
                5 => client::Operation::Batch(Vec::new()),
                6 => client::Operation::Scan(client::Range::default()),
                _ => client::Operation::Put {
                    key: Bytes::from_static(b"k"),
                    value: Bytes::new(),
                },
            };
            let _ = client::decode_answer(&operation, payload);
        }
        2 => {
            if let Ok(command) = Command::decode(&payload) {
                assert_eq!(Command::decode(&command.encode()), Ok(command));
            }
        }
        _ => {
            if let Ok(status) = client::decode_status(payload) {
                let again = client::decode_status(status.encode_to_vec().into());
                assert_eq!(again, Ok::<pb::StatusResponse, _>(status));
            }
        }
    }
}

/// A segment of the log, by itself and as the whole log of a node that recovers.
pub fn wal_segment(input: &[u8]) {
    let Some((control, segment)) = split(input) else {
        return;
    };
    let mut segment = segment.to_vec();
    if control & 1 == 1 {
        repair_segment(&mut segment);
    }
    let summary = summarize_segment(&segment, SEGMENT, INCARNATION);
    assert!(summary.batches == 0 || summary.end <= segment.len() as u64);

    let len = (segment.len() as u64).next_multiple_of(4096).max(16 << 10);
    let mut disk = SimDisk::new();
    disk.create_segment(SEGMENT, len, None);
    while disk.step().is_some() {}
    disk.store(SEGMENT, 0, Buffer::from(&segment[..]));
    disk.sync();
    while disk.step().is_some() {}
    let Ok((mut wal, found)) = Wal::recover(&mut disk, wal_options()) else {
        return;
    };
    while let Some(event) = disk.step() {
        wal.on_event(&mut disk, &event)
            .expect("this disk does not fail");
    }
    assert_eq!(wal.durable(), wal.appended(), "the log opens");
    drop(wal);
    // What was recovered once is on disk now, and is found again.
    let (_, again) = Wal::recover(&mut disk, wal_options()).expect("it was recovered before");
    assert_eq!(again.hard_state, found.hard_state);
    assert_eq!(again.snapshot_mark, found.snapshot_mark);
    assert_eq!(again.entries, found.entries);
}

/// The formats are told in `src/wal/segment.rs` and `src/wal/record.rs`; this is written after them anew.
pub fn repair_segment(segment: &mut [u8]) {
    const PAGE: usize = 4096;
    if segment.len() < PAGE {
        return;
    }
    let options = wal_options();
    let len = (segment.len() as u64).next_multiple_of(4096).max(16 << 10);
    let owner = [
        options.node.0,
        options.cluster_id,
        INCARNATION,
        SEGMENT.0,
        len,
    ];
    segment[..8].copy_from_slice(b"WWRAFTWL");
    set_u32_le(segment, 8, 1);
    for (place, word) in segment[16..].chunks_exact_mut(8).zip(owner) {
        place.copy_from_slice(&word.to_le_bytes());
    }
    let mut crc = crc32fast::Hasher::new();
    crc.update(&segment[..12]);
    crc.update(&segment[16..PAGE]);
    set_u32_le(segment, 12, crc.finalize());

    let salt = crc32fast::hash(&[INCARNATION.to_le_bytes(), SEGMENT.0.to_le_bytes()].concat());
    let mut chain = salt;
    let mut at = PAGE;
    while segment.len() - at >= 40 + 16 {
        let body = at + 40;
        // Whole records, up to the length that the header says.
        let wanted = body + u32_le(segment, at + 16).min(segment.len() - body);
        let (mut end, mut records) = (body, 0);
        while wanted.saturating_sub(end) >= 16 {
            let room = (wanted - end - 16) & !7;
            let body_len = u32_le(segment, end + 4).min(room);
            set_u32_le(segment, end + 4, body_len as u32);
            end += 16 + body_len.next_multiple_of(8);
            records += 1;
        }
        segment[at..at + 4].copy_from_slice(&0x4C57_5752_u32.to_le_bytes());
        set_u32_le(segment, at + 16, (end - body) as u32);
        set_u32_le(segment, at + 20, records);
        let crc = continued(salt, &(at as u64).to_le_bytes());
        let crc = continued(crc, &segment[at + 8..body]);
        set_u32_le(segment, at + 4, crc);
        chain = continued(chain, &segment[at + 8..body]);
        let mut record = body;
        while record < end {
            let next = record + 16 + u32_le(segment, record + 4).next_multiple_of(8);
            chain = continued(chain, &segment[record + 4..next]);
            set_u32_le(segment, record, chain);
            record = next;
        }
        at = end;
    }
}

fn continued(crc: u32, bytes: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new_with_initial(crc);
    hasher.update(bytes);
    hasher.finalize()
}

/// A snapshot, in one piece and in pieces.
pub fn snapshot(input: &[u8]) {
    let Some((control, file)) = split(input) else {
        return;
    };
    let mut file = file.to_vec();
    if control & 1 == 1 {
        repair_snapshot(&mut file);
    }
    let whole = restore::verify(&file, SESSION_LIMITS);
    let mut pieces = Restore::new(SESSION_LIMITS);
    let fed = file
        .chunks(usize::from(control >> 1) + 1)
        .try_for_each(|piece| pieces.feed(piece));
    assert_eq!(whole, fed.and_then(|()| pieces.info()));
    let Ok(info) = whole else { return };

    // What was restored is a state: it can be written again, and that is the same state.
    let (mut state, configuration) = pieces.finish().expect("it was verified");
    assert_eq!(state.len() as u64, info.keys);
    let (checksum, again) = (state.checksum(), write_snapshot(&mut state, configuration));
    let mut restore = Restore::new(SESSION_LIMITS);
    restore.feed(&again).expect("our own snapshot");
    let (restored, _) = restore.finish().expect("our own snapshot, whole");
    assert_eq!(restored.checksum(), checksum);
    assert_eq!(restored.applied(), info.last);
}

/// The whole file of a snapshot of `state`.
pub fn write_snapshot(state: &mut StateMachine, configuration: Bytes) -> Vec<u8> {
    let mut file = Vec::new();
    state.begin_snapshot(configuration, 1 << 20);
    loop {
        match state.snapshot_next(512) {
            SnapshotStep::Chunk(chunk) => file.extend_from_slice(&chunk),
            SnapshotStep::Done { .. } => return file,
            SnapshotStep::Abandoned => panic!("nothing is written meanwhile"),
        }
    }
}

/// The format is told in `src/kv/snapshot.rs`.
pub fn repair_snapshot(file: &mut [u8]) {
    const HEADER: usize = 8 + 4 + 8 + 8 + 4;
    if file.len() < HEADER + 4 {
        return;
    }
    file[..8].copy_from_slice(b"WWKVSNAP");
    set_u32_le(file, 8, 1);
    let configuration = u32_le(file, HEADER - 4).min(file.len() - HEADER - 4);
    set_u32_le(file, HEADER - 4, configuration as u32);
    let mut at = HEADER + configuration;
    let crc = crc32fast::hash(&file[..at]);
    set_u32_le(file, at, crc);
    at += 4;
    while at + 9 + 4 <= file.len() {
        if file[at] == 0xFF {
            if at + 33 + 4 <= file.len() {
                let crc = crc32fast::hash(&file[..at + 33]);
                set_u32_le(file, at + 33, crc);
            }
            return;
        }
        let body = u32_le(file, at + 5).min(file.len() - at - 9 - 4);
        set_u32_le(file, at + 5, body as u32);
        let end = at + 9 + body;
        let crc = crc32fast::hash(&file[at..end]);
        set_u32_le(file, end, crc);
        at = end + 4;
    }
}
