//! Looking into segments without opening the log, for tools and fuzzing.

use super::record::{Batch, BatchError, EntryKind, Position, Record, Salt, decode_batch, scan};
use super::recovery;
use super::replay::Replay;
use super::segment::{HEADER_BYTES, HeaderPage, SegmentHeader};
use super::{Recovered, WalError, WalOptions};
use crate::disk::{LogSource, SegmentId};
use crate::types::{EntryId, HardState, Index, NodeId};

/// Reads a log as a start would, and changes nothing: what a start would find, and the
/// segments that belong to it, oldest first.
///
/// # Errors
/// As [`Wal::recover`](super::Wal::recover).
pub fn verify_log<S: LogSource>(
    source: &mut S,
    options: &WalOptions,
) -> Result<(Recovered, Vec<SegmentId>), WalError> {
    let (recovered, tail) = recovery::recover(source, options)?;
    let live = tail.live.iter().map(|segment| segment.info.id).collect();
    Ok((recovered, live))
}

/// What the first page of a segment says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeaderInfo {
    /// Whose log it is.
    pub node: NodeId,
    /// The cluster.
    pub cluster_id: u64,
    /// The incarnation of the data directory.
    pub incarnation: u64,
    /// The segment's own name.
    pub id: SegmentId,
    /// Its length in bytes.
    pub len: u64,
    /// The number of its first batch.
    pub first_seq: u64,
    /// Where the log before it ends; `None` if the log begins here.
    pub continues: Option<Position>,
    /// Up to where everything was known to be durable when it was begun.
    pub mark: Position,
}

/// What the first page of a segment is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeaderState {
    /// A header.
    Valid(HeaderInfo),
    /// A header of a format that is newer than this code.
    Newer,
    /// Never written, torn, or damaged.
    Invalid,
}

/// Reads the first page of a segment.
#[must_use]
pub fn inspect_header(bytes: &[u8]) -> HeaderState {
    match SegmentHeader::decode(bytes) {
        HeaderPage::Invalid => HeaderState::Invalid,
        HeaderPage::Newer => HeaderState::Newer,
        HeaderPage::Valid(header) => HeaderState::Valid(HeaderInfo {
            node: header.owner.node,
            cluster_id: header.owner.cluster_id,
            incarnation: header.owner.incarnation,
            id: header.id,
            len: header.len,
            first_seq: header.first_seq,
            continues: header.continues.map(|continues| continues.from),
            mark: header.mark,
        }),
    }
}

/// One thing that a segment holds, in its order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Item<'a> {
    /// A batch begins; its records follow.
    Batch {
        /// Its number.
        seq: u64,
        /// How many records it has.
        records: u32,
        /// Up to where everything was known to be durable when it was written.
        mark: Position,
    },
    /// Term and vote.
    HardState(HardState),
    /// The entries from this one on are no longer part of the log.
    Truncate(Index),
    /// A snapshot stands for the log up to this entry.
    SnapshotMark {
        /// The entry.
        id: EntryId,
        /// Whether all that the log held before is gone.
        restart: bool,
    },
    /// An entry.
    Entry {
        /// Its name.
        id: EntryId,
        /// `noop`, `command` or `config`.
        kind: &'static str,
        /// Its data.
        data: &'a [u8],
    },
}

/// Where the batches of a segment end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SegmentEnd {
    /// Bytes from the start.
    pub offset: u64,
    /// Why no batch was read there.
    pub reason: &'static str,
    /// Batch headers behind it: what was torn or damaged is followed by something.
    pub stray_batches: u64,
}

/// Reads the batches of a segment of this name, and shows what is in them with its
/// offset in bytes from the start.
pub fn inspect_segment<'a>(
    bytes: &'a [u8],
    id: SegmentId,
    incarnation: u64,
    mut show: impl FnMut(u64, Item<'a>),
) -> SegmentEnd {
    let salt = Salt::new(incarnation, id);
    let (mut at, mut chain) = (HEADER_BYTES, salt.chain());
    let reason = loop {
        match decode_batch(bytes, at, bytes.len(), salt, chain) {
            Ok(batch) => {
                show_batch(at as u64, &batch, &mut show);
                (at, chain) = (batch.end, batch.chain);
            }
            Err(BatchError::Broken { reason, .. } | BatchError::Unknown { reason, .. }) => {
                break reason;
            }
        }
    };
    SegmentEnd {
        offset: at as u64,
        reason,
        stray_batches: scan(bytes, at, salt).count() as u64,
    }
}

fn show_batch<'a>(at: u64, batch: &Batch<'a>, show: &mut impl FnMut(u64, Item<'a>)) {
    let header = batch.header;
    let item = Item::Batch {
        seq: header.seq,
        records: header.records,
        mark: header.mark,
    };
    show(at, item);
    for (at, record) in &batch.records {
        let item = match *record {
            Record::HardState(hard_state) => Item::HardState(hard_state),
            Record::Truncate(from) => Item::Truncate(from),
            Record::SnapshotMark { id, restart } => Item::SnapshotMark { id, restart },
            Record::Entry { id, kind, data } => {
                let kind = match kind {
                    EntryKind::Noop => "noop",
                    EntryKind::Command => "command",
                    EntryKind::Config => "config",
                };
                Item::Entry { id, kind, data }
            }
        };
        show(*at, item);
    }
}

/// What [`summarize_segment`] found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SegmentSummary {
    /// Whether the header is valid.
    pub header: bool,
    /// Batches that follow each other from the header on.
    pub batches: u64,
    /// Records in them.
    pub records: u64,
    /// Where they end, in bytes from the start.
    pub end: u64,
    /// Batch headers behind that end.
    pub stray_batches: u64,
}

/// Reads any bytes as a segment of the given name, for tools and fuzzing.
#[must_use]
pub fn summarize_segment(bytes: &[u8], id: SegmentId, incarnation: u64) -> SegmentSummary {
    let header =
        matches!(SegmentHeader::decode(bytes), HeaderPage::Valid(header) if header.id == id);
    let salt = Salt::new(incarnation, id);
    let mut chain = salt.chain();
    let mut summary = SegmentSummary {
        header,
        end: HEADER_BYTES as u64,
        ..SegmentSummary::default()
    };
    let mut replay = Replay::default();
    while let Ok(batch) = decode_batch(bytes, summary.end as usize, bytes.len(), salt, chain) {
        for (_, record) in &batch.records {
            if replay.apply(record).is_err() {
                return summary;
            }
        }
        summary.batches += 1;
        summary.records += batch.records.len() as u64;
        (summary.end, chain) = (batch.end as u64, batch.chain);
    }
    summary.stray_batches = scan(bytes, summary.end as usize, salt).count() as u64;
    summary
}
