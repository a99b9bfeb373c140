//! The file format of a state: what a snapshot is on the disk and on the wire.
//!
//! All numbers are little-endian, all checksums CRC-32 (IEEE):
//!
//! ```text
//! header  magic "WWKVSNAP" | version u32 = 1 | last term u64 | last index u64
//!         | configuration length u32 | configuration | CRC of the header so far
//! block*  kind u8 | records u32 | body length u32 | body | CRC of the block so far
//! footer  0xFF | keys u64 | key and value bytes u64 | implicit sessions u64
//!         | explicit sessions u64 | CRC of everything before it
//! ```
//!
//! Blocks come in the order of their kinds, records within a kind in theirs:
//!
//! | kind | record | in order of |
//! |---|---|---|
//! | 1 | implicit session: client u128, sequence u64, log index u64, outcome u8 | log index |
//! | 2 | explicit session: id u64, client u128, last used u64, acked below u64, answers u16, one u8 each | id |
//! | 3 | entry: key length u32, value length u32, key, value | key |
//!
//! A reader needs to hold one block at a time, and finds damage in it before it
//! believes any of it. [`super::restore`] reads, [`super::walk`] writes.

use bytes::Bytes;

use super::sessions::{ExplicitSession, ImplicitRecord};
use crate::limits;
use crate::mem::Buffer;
use crate::types::EntryId;

pub(super) const MAGIC: [u8; 8] = *b"WWKVSNAP";
pub(super) const VERSION: u32 = 1;

pub(super) const KIND_IMPLICIT: u8 = 1;
pub(super) const KIND_EXPLICIT: u8 = 2;
pub(super) const KIND_ENTRIES: u8 = 3;
pub(super) const KIND_FOOTER: u8 = 0xFF;

/// The header up to and with the configuration's length.
pub(super) const HEADER_FIXED_BYTES: usize = 8 + 4 + 8 + 8 + 4;
pub(super) const BLOCK_FIXED_BYTES: usize = 1 + 4 + 4;
pub(super) const CRC_BYTES: usize = 4;
pub(super) const FOOTER_BYTES: usize = 1 + 4 * 8 + CRC_BYTES;
pub(super) const IMPLICIT_RECORD_BYTES: usize = 16 + 8 + 8 + 1;
pub(super) const EXPLICIT_FIXED_BYTES: usize = 8 + 16 + 8 + 8 + 2;
pub(super) const ENTRY_FIXED_BYTES: usize = 4 + 4;

/// The longest opaque configuration that a snapshot carries, in bytes.
pub const CONFIGURATION_BYTES_MAX: usize = 1 << 20;
/// A writer ends a block once its body is this long, whatever it was asked for;
/// the last record may reach over it.
pub(super) const BLOCK_TARGET_BYTES_MAX: usize = 1 << 20;
/// The longest body of a block.
pub(super) const BLOCK_BODY_BYTES_MAX: usize =
    BLOCK_TARGET_BYTES_MAX + ENTRY_FIXED_BYTES + limits::KEY_BYTES_MAX + limits::VALUE_BYTES_MAX;

const _: () = assert!(
    EXPLICIT_FIXED_BYTES + u16::MAX as usize <= limits::VALUE_BYTES_MAX,
    "a session is no longer than the longest entry"
);

/// What one step of a snapshot came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SnapshotStep {
    /// The next bytes of the file, never empty.
    Chunk(Bytes),
    /// All chunks are out; the snapshot has ended.
    Done {
        /// The length of the file in bytes.
        total_bytes: u64,
        /// The CRC-32 of the whole file, footer included.
        checksum: u32,
    },
    /// No snapshot is being taken: none was begun, or its before-images grew beyond
    /// their hard cap and it was given up. What was written of it is worthless.
    Abandoned,
}

/// Seals headers, blocks and footer, and knows the checksum of what went out.
#[derive(Debug, Default)]
pub(super) struct SnapshotWriter {
    crc: crc32fast::Hasher,
    total_bytes: u64,
}

impl SnapshotWriter {
    pub(super) fn header(&mut self, last: EntryId, configuration: &[u8]) -> Bytes {
        let mut buffer =
            Buffer::with_capacity(HEADER_FIXED_BYTES + configuration.len() + CRC_BYTES);
        buffer.extend_from_slice(&MAGIC);
        buffer.extend_from_slice(&VERSION.to_le_bytes());
        buffer.extend_from_slice(&last.term.0.to_le_bytes());
        buffer.extend_from_slice(&last.index.0.to_le_bytes());
        buffer.extend_from_slice(&len32(configuration.len()).to_le_bytes());
        buffer.extend_from_slice(configuration);
        let crc = crc32fast::hash(&buffer);
        buffer.extend_from_slice(&crc.to_le_bytes());
        self.seal(buffer)
    }

    pub(super) fn block(&mut self, block: Block) -> Bytes {
        let Block {
            mut buffer,
            records,
        } = block;
        let body_bytes = len32(buffer.len() - BLOCK_FIXED_BYTES);
        buffer[1..5].copy_from_slice(&records.to_le_bytes());
        buffer[5..9].copy_from_slice(&body_bytes.to_le_bytes());
        let crc = crc32fast::hash(&buffer);
        buffer.extend_from_slice(&crc.to_le_bytes());
        self.seal(buffer)
    }

    pub(super) fn footer(&mut self, counts: &Counts) -> Bytes {
        let mut buffer = Buffer::with_capacity(FOOTER_BYTES);
        buffer.extend_from_slice(&[KIND_FOOTER]);
        for number in [
            counts.keys,
            counts.data_bytes,
            counts.implicit,
            counts.explicit,
        ] {
            buffer.extend_from_slice(&number.to_le_bytes());
        }
        let mut crc = self.crc.clone();
        crc.update(&buffer);
        buffer.extend_from_slice(&crc.finalize().to_le_bytes());
        self.seal(buffer)
    }

    /// Length and checksum of all that went out.
    pub(super) fn total(&self) -> (u64, u32) {
        (self.total_bytes, self.crc.clone().finalize())
    }

    fn seal(&mut self, buffer: Buffer) -> Bytes {
        self.crc.update(&buffer);
        self.total_bytes += buffer.len() as u64;
        buffer.freeze()
    }
}

/// What a snapshot holds, as its footer says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Counts {
    pub(super) keys: u64,
    pub(super) data_bytes: u64,
    pub(super) implicit: u64,
    pub(super) explicit: u64,
}

/// A block that is being filled.
#[derive(Debug)]
pub(super) struct Block {
    buffer: Buffer,
    records: u32,
}

impl Block {
    pub(super) fn new(kind: u8, capacity_bytes: usize) -> Block {
        let mut buffer = Buffer::with_capacity(BLOCK_FIXED_BYTES + capacity_bytes + CRC_BYTES);
        buffer.extend_from_slice(&[0; BLOCK_FIXED_BYTES]);
        buffer[0] = kind;
        Block { buffer, records: 0 }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.records == 0
    }

    pub(super) fn body_bytes(&self) -> usize {
        self.buffer.len() - BLOCK_FIXED_BYTES
    }

    pub(super) fn push_implicit(&mut self, record: &ImplicitRecord) {
        self.records += 1;
        encode_implicit(record, |bytes| self.buffer.extend_from_slice(bytes));
    }

    pub(super) fn push_explicit(&mut self, id: u64, session: &ExplicitSession) {
        self.records += 1;
        encode_explicit(id, session, |bytes| self.buffer.extend_from_slice(bytes));
    }

    pub(super) fn push_entry(&mut self, key: &[u8], value: &[u8]) {
        self.records += 1;
        encode_entry(key, value, |bytes| self.buffer.extend_from_slice(bytes));
    }
}

pub(super) fn encode_implicit(record: &ImplicitRecord, mut write: impl FnMut(&[u8])) {
    write(&record.client().0.to_le_bytes());
    write(&record.sequence().to_le_bytes());
    write(&record.index().to_le_bytes());
    write(&[record.code()]);
}

pub(super) fn encode_explicit(id: u64, session: &ExplicitSession, mut write: impl FnMut(&[u8])) {
    let answers = u16::try_from(session.answers.len()).expect("windows are bounded");
    write(&id.to_le_bytes());
    write(&session.client.0.to_le_bytes());
    write(&session.last_used.to_le_bytes());
    write(&session.acked_below.to_le_bytes());
    write(&answers.to_le_bytes());
    let (front, back) = session.answers.as_slices();
    write(front);
    write(back);
}

pub(super) fn encode_entry(key: &[u8], value: &[u8], mut write: impl FnMut(&[u8])) {
    write(&len32(key.len()).to_le_bytes());
    write(&len32(value.len()).to_le_bytes());
    write(key);
    write(value);
}

fn len32(len: usize) -> u32 {
    u32::try_from(len).expect("keys, values and blocks are within the limits")
}

#[cfg(test)]
mod tests;
