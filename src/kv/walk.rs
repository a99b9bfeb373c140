//! A snapshot beside writes: a walk over the store in key order, in slices.
//!
//! The state of the beginning is what goes out, though entries are applied
//! between the slices: before a key ahead of the walk changes, its value (or that
//! it had none) is saved as a *before-image*, which the walk emits in its place.
//! Keys behind the walk change freely. The session table is small and copied whole.
//!
//! Before-images are bounded. From the soft cap on there is [`Walk::pressure`]: the
//! owner is to advance the walk before it applies more, which turns images into
//! chunks and makes the part ahead smaller. An owner that cannot, because nobody
//! takes its chunks, loses the walk at twice the cap rather than its memory.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::ops::Bound;

use bytes::Bytes;

use super::sessions::SessionsImage;
use super::skiplist::SkipList;
use super::snapshot::{
    BLOCK_TARGET_BYTES_MAX, Block, Counts, EXPLICIT_FIXED_BYTES, IMPLICIT_RECORD_BYTES,
    KIND_ENTRIES, KIND_EXPLICIT, KIND_IMPLICIT, SnapshotStep, SnapshotWriter,
};
use crate::limits;
use crate::types::EntryId;

/// What an image costs beside its key and value: map node, two fat pointers.
const IMAGE_OVERHEAD_BYTES: usize = 96;

/// What is sent next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Header,
    /// From this record on.
    Implicit(usize),
    /// From this session on.
    Explicit(usize),
    Entries,
    Footer,
    Done,
}

/// A snapshot that is being taken.
#[derive(Debug)]
pub(super) struct Walk {
    last: EntryId,
    configuration: Bytes,
    sessions: SessionsImage,
    writer: SnapshotWriter,
    phase: Phase,
    /// The last key that the walk has passed.
    cursor: Option<Vec<u8>>,
    /// Ahead of the cursor: what keys that have changed since held at the start.
    images: BTreeMap<Box<[u8]>, Option<Box<[u8]>>>,
    image_bytes: usize,
    image_bytes_max: usize,
    counts: Counts,
}

impl Walk {
    pub(super) fn new(
        last: EntryId,
        configuration: Bytes,
        sessions: SessionsImage,
        image_bytes_max: usize,
    ) -> Walk {
        let counts = Counts {
            implicit: sessions.implicit.len() as u64,
            explicit: sessions.explicit.len() as u64,
            ..Counts::default()
        };
        Walk {
            last,
            configuration,
            sessions,
            writer: SnapshotWriter::default(),
            phase: Phase::Header,
            cursor: None,
            images: BTreeMap::new(),
            image_bytes: 0,
            image_bytes_max,
            counts,
        }
    }

    /// Whether the walk has to know what `key` holds before it changes.
    pub(super) fn needs_image(&self, key: &[u8]) -> bool {
        let is_ahead = match self.phase {
            Phase::Header | Phase::Implicit(_) | Phase::Explicit(_) | Phase::Entries => {
                self.cursor.as_deref().is_none_or(|cursor| key > cursor)
            }
            Phase::Footer | Phase::Done => false,
        };
        is_ahead && !self.images.contains_key(key)
    }

    /// Keeps what `key` held at the start; only if the walk needs it.
    pub(super) fn save_image(&mut self, key: &[u8], value: Option<&[u8]>) {
        self.image_bytes += image_cost(key, value);
        let before = self.images.insert(key.into(), value.map(Box::from));
        assert!(before.is_none(), "a key has one before-image");
    }

    /// Whether the walk has to go on before more is applied.
    pub(super) fn pressure(&self) -> bool {
        self.image_bytes > self.image_bytes_max
    }

    /// Whether the walk costs more than it may; one image may be of any size.
    pub(super) fn is_over_hard_cap(&self) -> bool {
        let slack = limits::KEY_BYTES_MAX + limits::VALUE_BYTES_MAX;
        self.image_bytes > self.image_bytes_max.saturating_mul(2).saturating_add(slack)
    }

    /// The next chunk: a body of about `budget_bytes`, at least one record.
    pub(super) fn next(&mut self, store: &SkipList, budget_bytes: usize) -> SnapshotStep {
        let budget_bytes = budget_bytes.min(BLOCK_TARGET_BYTES_MAX);
        loop {
            let block = match self.phase {
                Phase::Header => {
                    self.phase = Phase::Implicit(0);
                    let header = self.writer.header(self.last, &self.configuration);
                    return SnapshotStep::Chunk(header);
                }
                Phase::Implicit(next) => self.implicit_block(next, budget_bytes),
                Phase::Explicit(next) => self.explicit_block(next, budget_bytes),
                Phase::Entries => self.entries_block(store, budget_bytes),
                Phase::Footer => {
                    self.phase = Phase::Done;
                    return SnapshotStep::Chunk(self.writer.footer(&self.counts));
                }
                Phase::Done => {
                    let (total_bytes, checksum) = self.writer.total();
                    return SnapshotStep::Done {
                        total_bytes,
                        checksum,
                    };
                }
            };
            if !block.is_empty() {
                return SnapshotStep::Chunk(self.writer.block(block));
            }
        }
    }

    fn implicit_block(&mut self, next: usize, budget_bytes: usize) -> Block {
        let records = &self.sessions.implicit[next..];
        let count = records
            .len()
            .min((budget_bytes / IMPLICIT_RECORD_BYTES).max(1));
        let mut block = Block::new(KIND_IMPLICIT, count * IMPLICIT_RECORD_BYTES);
        for record in &records[..count] {
            block.push_implicit(record);
        }
        self.phase = if count == records.len() {
            self.sessions.implicit = Vec::new();
            Phase::Explicit(0)
        } else {
            Phase::Implicit(next + count)
        };
        block
    }

    fn explicit_block(&mut self, next: usize, budget_bytes: usize) -> Block {
        let sessions = &self.sessions.explicit[next..];
        let capacity_bytes = budget_bytes.min(sessions.len() * EXPLICIT_FIXED_BYTES);
        let mut block = Block::new(KIND_EXPLICIT, capacity_bytes);
        let mut count = 0;
        for (id, session) in sessions {
            if count > 0 && block.body_bytes() >= budget_bytes {
                break;
            }
            block.push_explicit(*id, session);
            count += 1;
        }
        self.phase = if count == sessions.len() {
            self.sessions.explicit = Vec::new();
            Phase::Entries
        } else {
            Phase::Explicit(next + count)
        };
        block
    }

    /// Merges the store with the images, which take precedence. Keys that were not
    /// there at the start cost time and no room; they are bounded as images are.
    fn entries_block(&mut self, store: &SkipList, budget_bytes: usize) -> Block {
        let mut block = Block::new(KIND_ENTRIES, budget_bytes);
        let start = self.cursor.take();
        let from = start.as_deref().map_or(Bound::Unbounded, Bound::Excluded);
        let mut entries = store.range_from(from).peekable();
        let mut cursor = Vec::new();
        while block.body_bytes() < budget_bytes || block.is_empty() {
            let order = match (entries.peek(), self.images.first_key_value()) {
                (None, None) => {
                    self.phase = Phase::Footer;
                    return block;
                }
                (Some(_), None) => Ordering::Less,
                (None, Some(_)) => Ordering::Greater,
                (Some((key, _)), Some((image_key, _))) => (*key).cmp(image_key),
            };
            cursor.clear();
            if order == Ordering::Less {
                let (key, value) = entries.next().expect("it was just there");
                cursor.extend_from_slice(key);
                self.counts.keys += 1;
                self.counts.data_bytes += (key.len() + value.len()) as u64;
                block.push_entry(key, value);
                continue;
            }
            if order == Ordering::Equal {
                entries.next();
            }
            let (key, image) = self.images.pop_first().expect("it was just there");
            self.image_bytes -= image_cost(&key, image.as_deref());
            cursor.extend_from_slice(&key);
            if let Some(value) = image {
                self.counts.keys += 1;
                self.counts.data_bytes += (key.len() + value.len()) as u64;
                block.push_entry(&key, &value);
            }
        }
        self.cursor = Some(cursor);
        block
    }
}

fn image_cost(key: &[u8], value: Option<&[u8]>) -> usize {
    IMAGE_OVERHEAD_BYTES + key.len() + value.map_or(0, <[u8]>::len)
}
