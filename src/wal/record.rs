//! How batches and records look in a segment, both ways.
//!
//! A batch is a header and its records, all of it aligned to eight bytes, little-endian:
//!
//! | header bytes | |
//! |---|---|
//! | 0–3 | magic |
//! | 4–7 | CRC-32 of the rest of the header, salted with the segment and the header's own offset |
//! | 8–15 | sequence number of the batch |
//! | 16–19, 20–23 | length of the records in bytes, their number |
//! | 24–31, 32–39 | durable mark: segment and offset |
//!
//! | record bytes | |
//! |---|---|
//! | 0–3 | CRC-32, chained |
//! | 4–7 | length of the body |
//! | 8, 9 | kind, detail |
//! | 10–15 | zero |
//! | 16– | body, then zeros up to a multiple of eight |
//!
//! The chain starts from the segment's salt, runs over the bytes of each header and
//! each record in turn, and leaves out the checksums themselves: a CRC that runs over
//! a message and the message's own CRC no longer depends on the message.

use crc32fast::Hasher;

use crate::disk::SegmentId;
use crate::mem::Buffer;
use crate::types::{Entry, EntryId, HardState, Incarnation, Index, NodeId, Payload, Server, Term};

pub(super) const BATCH_HEADER_BYTES: usize = 40;
pub(super) const RECORD_HEADER_BYTES: usize = 16;
const BATCH_MAGIC: u32 = 0x4C57_5752;
const ALIGNMENT: usize = 8;

const KIND_ENTRY: u8 = 1;
const KIND_HARD_STATE: u8 = 2;
const KIND_TRUNCATE: u8 = 3;
const KIND_SNAPSHOT_MARK: u8 = 4;

/// A place in the log: a segment, and an offset in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position {
    /// The segment.
    pub segment: SegmentId,
    /// Bytes from its start.
    pub offset: u64,
}

impl Position {
    /// Before the first segment.
    pub const ZERO: Position = Position {
        segment: SegmentId(0),
        offset: 0,
    };
}

/// What makes the checksums of one segment differ from those of every other, so that
/// what an earlier segment left in a recycled file is never taken for content.
///
/// The incarnation is a random number that clients cannot know, so that none of them
/// can store a value that looks like a part of the log.
#[derive(Clone, Copy, Debug)]
pub(super) struct Salt(u32);

impl Salt {
    pub(super) fn new(incarnation: u64, id: SegmentId) -> Salt {
        let mut hasher = Hasher::new();
        hasher.update(&incarnation.to_le_bytes());
        hasher.update(&id.0.to_le_bytes());
        Salt(hasher.finalize())
    }

    /// The chain before the first batch of the segment.
    pub(super) fn chain(self) -> u32 {
        self.0
    }
}

fn continue_crc(crc: u32, bytes: &[u8]) -> u32 {
    let mut hasher = Hasher::new_with_initial(crc);
    hasher.update(bytes);
    hasher.finalize()
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

pub(super) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

/// One record of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Record<'a> {
    Entry {
        id: EntryId,
        kind: EntryKind,
        data: &'a [u8],
    },
    HardState(HardState),
    /// The entries from this one on are no longer part of the log.
    Truncate(Index),
    /// A snapshot stands for the log up to this entry. With `restart`, whatever the
    /// log held is gone; without, the entries behind the mark stay.
    SnapshotMark {
        id: EntryId,
        restart: bool,
    },
}

/// What the data of an entry are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum EntryKind {
    Noop,
    Command,
    Config,
}

impl<'a> Record<'a> {
    pub(super) fn entry(entry: &'a Entry) -> Record<'a> {
        let kind = match entry.payload {
            Payload::Noop => EntryKind::Noop,
            Payload::Command(_) => EntryKind::Command,
            Payload::Config(_) => EntryKind::Config,
        };
        Record::Entry {
            id: entry.id,
            kind,
            data: entry.payload.bytes(),
        }
    }

    /// How many bytes of a segment the record takes.
    pub(super) fn encoded_len(&self) -> usize {
        let body = match self {
            Record::Entry { data, .. } => 16 + data.len(),
            Record::HardState(state) => 16 + named(state).map_or(0, |_| 8),
            Record::SnapshotMark { .. } => 16,
            Record::Truncate(_) => 8,
        };
        RECORD_HEADER_BYTES + body.next_multiple_of(ALIGNMENT)
    }

    #[inline]
    fn encode(&self, buffer: &mut Buffer, chain: u32) -> u32 {
        let start = buffer.len();
        let incarnation;
        let (kind, detail, first, second, data): (u8, u8, u64, Option<u64>, &[u8]) = match *self {
            Record::Entry { id, kind, data } => {
                let detail = match kind {
                    EntryKind::Noop => 0,
                    EntryKind::Command => 1,
                    EntryKind::Config => 2,
                };
                (KIND_ENTRY, detail, id.term.0, Some(id.index.0), data)
            }
            Record::HardState(state) => {
                let HardState { term, voted_for } = state;
                let voted = voted_for.map_or(0, |server| server.id.0);
                // Below feature level 1 votes name nodes alone, as in the version before.
                incarnation = named(&state).map(|named| named.0.to_le_bytes());
                let detail = u8::from(voted_for.is_some()) + u8::from(incarnation.is_some());
                let data = incarnation.as_ref().map_or(&[][..], |bytes| &bytes[..]);
                (KIND_HARD_STATE, detail, term.0, Some(voted), data)
            }
            Record::Truncate(from) => (KIND_TRUNCATE, 0, from.0, None, &[]),
            Record::SnapshotMark { id, restart } => {
                let detail = u8::from(restart);
                (KIND_SNAPSHOT_MARK, detail, id.term.0, Some(id.index.0), &[])
            }
        };
        let body_len = 8 + second.map_or(0, |_| 8) + data.len();
        let len = u32::try_from(body_len).expect("a segment is far below 4 GiB");
        // Header and numbers in one piece: small steps cost more than their bytes.
        let mut head = [0; RECORD_HEADER_BYTES + 16];
        head[4..8].copy_from_slice(&len.to_le_bytes());
        head[8..10].copy_from_slice(&[kind, detail]);
        head[16..24].copy_from_slice(&first.to_le_bytes());
        head[24..].copy_from_slice(&second.unwrap_or(0).to_le_bytes());
        let unused = if second.is_some() { 0 } else { 8 };
        buffer.extend_from_slice(&head[..head.len() - unused]);
        buffer.extend_from_slice(data);
        let padding = body_len.next_multiple_of(ALIGNMENT) - body_len;
        buffer.extend_from_slice(&[0; ALIGNMENT][..padding]);
        let chain = continue_crc(chain, &buffer[start + 4..]);
        buffer[start..start + 4].copy_from_slice(&chain.to_le_bytes());
        chain
    }

    /// Reads a record whose checksum is right.
    fn decode(kind: u8, detail: u8, body: &'a [u8]) -> Result<Record<'a>, &'static str> {
        let id = |body: &[u8]| EntryId::new(u64_at(body, 0), u64_at(body, 8));
        match (kind, detail, body.len()) {
            (KIND_ENTRY, 0..=2, 16..) => Ok(Record::Entry {
                id: id(body),
                kind: match detail {
                    0 => EntryKind::Noop,
                    1 => EntryKind::Command,
                    _ => EntryKind::Config,
                },
                data: &body[16..],
            }),
            (KIND_HARD_STATE, 0..=1, 16) | (KIND_HARD_STATE, 2, 24) => {
                let server = || Server {
                    id: NodeId(u64_at(body, 8)),
                    incarnation: match detail {
                        2 => Incarnation(u64_at(body, 16)),
                        _ => Incarnation::NONE,
                    },
                };
                Ok(Record::HardState(HardState {
                    term: Term(u64_at(body, 0)),
                    voted_for: (detail > 0).then(server),
                }))
            }
            (KIND_TRUNCATE, 0, 8) => Ok(Record::Truncate(Index(u64_at(body, 0)))),
            (KIND_SNAPSHOT_MARK, 0..=1, 16) => Ok(Record::SnapshotMark {
                id: id(body),
                restart: detail == 1,
            }),
            _ => Err("a record of a kind that this version does not know"),
        }
    }
}

/// The incarnation of the server that was voted for, if the vote names one.
fn named(state: &HardState) -> Option<Incarnation> {
    let incarnation = state.voted_for?.incarnation;
    (incarnation != Incarnation::NONE).then_some(incarnation)
}

/// What stands before the records of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct BatchHeader {
    pub(super) seq: u64,
    pub(super) body_len: u32,
    pub(super) records: u32,
    pub(super) mark: Position,
}

impl BatchHeader {
    fn crc(bytes: &[u8], offset: u64, salt: Salt) -> u32 {
        let crc = continue_crc(salt.0, &offset.to_le_bytes());
        continue_crc(crc, &bytes[8..BATCH_HEADER_BYTES])
    }

    fn encode(&self, offset: u64, salt: Salt) -> [u8; BATCH_HEADER_BYTES] {
        let mut bytes = [0; BATCH_HEADER_BYTES];
        bytes[0..4].copy_from_slice(&BATCH_MAGIC.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.seq.to_le_bytes());
        bytes[16..20].copy_from_slice(&self.body_len.to_le_bytes());
        bytes[20..24].copy_from_slice(&self.records.to_le_bytes());
        bytes[24..32].copy_from_slice(&self.mark.segment.0.to_le_bytes());
        bytes[32..40].copy_from_slice(&self.mark.offset.to_le_bytes());
        let crc = BatchHeader::crc(&bytes, offset, salt);
        bytes[4..8].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    /// The header at `offset` of a segment, if there is one.
    fn decode(segment: &[u8], offset: usize, salt: Salt) -> Option<BatchHeader> {
        let bytes = segment.get(offset..)?.get(..BATCH_HEADER_BYTES)?;
        if u32_at(bytes, 0) != BATCH_MAGIC
            || u32_at(bytes, 4) != BatchHeader::crc(bytes, offset as u64, salt)
        {
            return None;
        }
        Some(BatchHeader {
            seq: u64_at(bytes, 8),
            body_len: u32_at(bytes, 16),
            records: u32_at(bytes, 20),
            mark: Position {
                segment: SegmentId(u64_at(bytes, 24)),
                offset: u64_at(bytes, 32),
            },
        })
    }
}

/// Appends a batch to `buffer`, to stand at `offset`; returns the chain behind it.
/// Takes room for all of it at once.
pub(super) fn encode_batch<'a>(
    buffer: &mut Buffer,
    offset: u64,
    seq: u64,
    mark: Position,
    records: impl Iterator<Item = Record<'a>> + Clone,
    (salt, mut chain): (Salt, u32),
) -> u32 {
    let (mut count, mut body_len) = (0, 0);
    for record in records.clone() {
        count += 1;
        body_len += record.encoded_len();
    }
    let header = BatchHeader {
        seq,
        body_len: u32::try_from(body_len).expect("a segment is far below 4 GiB"),
        records: count,
        mark,
    };
    let header = header.encode(offset, salt);
    chain = continue_crc(chain, &header[8..]);
    buffer.reserve(BATCH_HEADER_BYTES + body_len);
    buffer.extend_from_slice(&header);
    for record in records {
        chain = record.encode(buffer, chain);
    }
    chain
}

/// A batch that was read, all its checksums right.
#[derive(Debug)]
pub(super) struct Batch<'a> {
    pub(super) header: BatchHeader,
    /// The records, and where each begins in the segment.
    pub(super) records: Vec<(u64, Record<'a>)>,
    /// Where it ends in the segment.
    pub(super) end: usize,
    /// The chain behind it.
    pub(super) chain: u32,
}

/// Why no batch was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum BatchError {
    /// There is none, or it is not whole.
    Broken {
        /// Where the first wrong byte may be, from the start of the segment.
        offset: u64,
        reason: &'static str,
    },
    /// It is whole, and means something that this version does not understand.
    Unknown { offset: u64, reason: &'static str },
}

/// Reads the batch at `offset` of a segment. `limit` is where the segment's log ends.
pub(super) fn decode_batch(
    segment: &[u8],
    offset: usize,
    limit: usize,
    salt: Salt,
    chain: u32,
) -> Result<Batch<'_>, BatchError> {
    let broken = |offset: usize, reason| BatchError::Broken {
        offset: offset as u64,
        reason,
    };
    let header = BatchHeader::decode(segment, offset, salt)
        .ok_or_else(|| broken(offset, "no batch begins here"))?;
    let body = offset + BATCH_HEADER_BYTES;
    let end = (body as u64).saturating_add(u64::from(header.body_len));
    if end > limit.min(segment.len()) as u64 {
        return Err(broken(offset, "a batch is longer than what is left"));
    }
    let end = end as usize;
    let mut chain = continue_crc(chain, &segment[offset + 8..body]);
    let mut records = Vec::with_capacity((header.records as usize).min((end - body) / 16));
    let mut at = body;
    while at < end {
        let rest = &segment[at..end];
        if rest.len() < RECORD_HEADER_BYTES {
            return Err(broken(at, "a record is cut off"));
        }
        let body_len = u32_at(rest, 4) as usize;
        let len = RECORD_HEADER_BYTES.saturating_add(body_len.next_multiple_of(ALIGNMENT));
        if len > rest.len() {
            return Err(broken(at, "a record is longer than its batch"));
        }
        chain = continue_crc(chain, &rest[4..len]);
        if chain != u32_at(rest, 0) {
            return Err(broken(at, "the checksum of a record is wrong"));
        }
        let body = &rest[RECORD_HEADER_BYTES..RECORD_HEADER_BYTES + body_len];
        let record =
            Record::decode(rest[8], rest[9], body).map_err(|reason| BatchError::Unknown {
                offset: at as u64,
                reason,
            })?;
        records.push((at as u64, record));
        at += len;
    }
    if records.len() != header.records as usize {
        return Err(broken(offset, "a batch has lost a record"));
    }
    Ok(Batch {
        header,
        records,
        end,
        chain,
    })
}

/// The headers of batches at or behind `from`, each recognised by itself, whatever
/// stands between them.
pub(super) fn scan(
    segment: &[u8],
    from: usize,
    salt: Salt,
) -> impl Iterator<Item = (usize, BatchHeader)> + '_ {
    let from = from.next_multiple_of(ALIGNMENT);
    let magic = BATCH_MAGIC.to_le_bytes();
    (from..segment.len())
        .step_by(ALIGNMENT)
        .filter(move |at| segment[*at..].starts_with(&magic))
        .filter_map(move |at| Some((at, BatchHeader::decode(segment, at, salt)?)))
}
