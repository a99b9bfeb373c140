//! The header page of a segment.
//!
//! Little-endian, one page, all of it under the checksum:
//!
//! | bytes | |
//! |---|---|
//! | 0–7 | magic `WWRAFTWL` |
//! | 8–11 | format version |
//! | 12–15 | CRC-32 of the page without these four bytes |
//! | 16–55 | node, cluster id, incarnation, segment id, length |
//! | 56–63 | sequence number of the first batch |
//! | 64–87 | where the log continues from: segment (0: the log begins here), offset, chain |
//! | 88–103 | durable mark: segment, offset |

use crc32fast::Hasher;

use super::record::{Position, u64_at};
use crate::disk::SegmentId;
use crate::types::NodeId;

/// The length of the header: batches begin behind it.
pub(super) const HEADER_BYTES: usize = 4096;
/// The version of the format that this code writes and reads.
const FORMAT_VERSION: u32 = 1;
/// The smallest segment: a header and some batches.
pub(super) const SEGMENT_BYTES_MIN: u64 = 4 * HEADER_BYTES as u64;
/// The longest segment.
pub(super) const SEGMENT_BYTES_MAX: u64 = 1 << 30;
const MAGIC: [u8; 8] = *b"WWRAFTWL";

/// The end of the log before a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Continues {
    pub(super) from: Position,
    /// The chained checksum there.
    pub(super) chain: u32,
}

/// Whose log it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Owner {
    pub(super) node: NodeId,
    pub(super) cluster_id: u64,
    pub(super) incarnation: u64,
}

/// What a segment says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct SegmentHeader {
    pub(super) owner: Owner,
    pub(super) id: SegmentId,
    pub(super) len: u64,
    pub(super) first_seq: u64,
    pub(super) continues: Option<Continues>,
    pub(super) mark: Position,
}

/// What the first page of a segment is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum HeaderPage {
    Valid(SegmentHeader),
    /// A valid header of a format that is newer than this code.
    Newer,
    /// Never written, torn, or damaged.
    Invalid,
}

fn crc(page: &[u8]) -> u32 {
    let mut hasher = Hasher::new();
    hasher.update(&page[..12]);
    hasher.update(&page[16..HEADER_BYTES]);
    hasher.finalize()
}

impl SegmentHeader {
    pub(super) fn encode(&self) -> [u8; HEADER_BYTES] {
        let mut page = [0; HEADER_BYTES];
        page[0..8].copy_from_slice(&MAGIC);
        page[8..12].copy_from_slice(&FORMAT_VERSION.to_le_bytes());
        let (from, chain) = match self.continues {
            Some(Continues { from, chain }) => (from, chain),
            None => (Position::ZERO, 0),
        };
        let words = [
            self.owner.node.0,
            self.owner.cluster_id,
            self.owner.incarnation,
            self.id.0,
            self.len,
            self.first_seq,
            from.segment.0,
            from.offset,
            u64::from(chain),
            self.mark.segment.0,
            self.mark.offset,
        ];
        for (place, word) in page[16..].chunks_exact_mut(8).zip(words) {
            place.copy_from_slice(&word.to_le_bytes());
        }
        let crc = crc(&page);
        page[12..16].copy_from_slice(&crc.to_le_bytes());
        page
    }

    pub(super) fn decode(page: &[u8]) -> HeaderPage {
        if page.len() < HEADER_BYTES
            || page[0..8] != MAGIC
            || page[12..16] != crc(page).to_le_bytes()
        {
            return HeaderPage::Invalid;
        }
        let version = u32::from_le_bytes(page[8..12].try_into().expect("four bytes"));
        if version != FORMAT_VERSION {
            return HeaderPage::Newer;
        }
        let word = |n: usize| u64_at(page, 16 + 8 * n);
        let position = |n: usize| Position {
            segment: SegmentId(word(n)),
            offset: word(n + 1),
        };
        HeaderPage::Valid(SegmentHeader {
            owner: Owner {
                node: NodeId(word(0)),
                cluster_id: word(1),
                incarnation: word(2),
            },
            id: SegmentId(word(3)),
            len: word(4),
            first_seq: word(5),
            continues: (word(6) != 0).then(|| Continues {
                from: position(6),
                chain: word(8) as u32,
            }),
            mark: position(9),
        })
    }
}
