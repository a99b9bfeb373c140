//! Appending: batches, segments, syncs, compaction.
//!
//! A sync is asked for with each append, at once: the disk serves all that have been
//! asked for with one (its log writer drains its queue before it syncs), which is
//! group commit without a timer, and nothing here waits for an earlier one.
//!
//! A segment begins with its header and an opening batch that repeats the hard state
//! and the snapshot mark, so that the segments before it can go. The next one is
//! begun only when the opening of the current one is durable; until then, and while
//! no segment is ready, batches wait in a queue that the caller bounds.

mod ahead;
mod vouch;

use std::collections::VecDeque;

use self::vouch::Left;
use super::accepted::Accepted;
use super::record::{
    BATCH_HEADER_BYTES, Position, RECORD_HEADER_BYTES, Record, Salt, encode_batch,
};
use super::recovery::{self, LiveSegment, Tail};
use super::segment::{
    Continues, HEADER_BYTES, Owner, SEGMENT_BYTES_MAX, SEGMENT_BYTES_MIN, SegmentHeader,
};
use super::work::{Queued, Work};
use super::{Batch, BatchSeq, Recovered, WalCounters, WalError, WalOptions, WalProgress};
use crate::disk::{Disk, DiskEvent, SegmentId, SegmentInfo, SyncToken};
use crate::limits;
use crate::mem::Buffer;
use crate::mutation::mutated;
use crate::types::{EntryId, HardState, Index};

pub(super) const PAGE_BYTES: u64 = HEADER_BYTES as u64;
/// What header and opening of a segment take of it, with room for one batch header.
const OPENING_BYTES: u64 = PAGE_BYTES + 256;

const _: () = assert!(
    OPENING_BYTES + BATCH_HEADER_BYTES as u64 <= limits::SEGMENT_OVERHEAD_BYTES,
    "a fresh segment has the room that the limits promise"
);
const _: () = assert!(
    RECORD_HEADER_BYTES + 16 + 7 <= limits::ENTRY_OVERHEAD_BYTES,
    "an entry in the log costs no more than the limits say"
);

/// The segment that is being written.
#[derive(Debug)]
struct Active {
    id: SegmentId,
    len: u64,
    offset: u64,
    /// Where header and opening end.
    opened: u64,
    salt: Salt,
    chain: u32,
}

/// The segment after the active one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    None,
    Requested(SegmentInfo),
    Ready(SegmentInfo),
    NoSpace { len: u64 },
}

/// A sync that was asked for, and what is durable once it is answered.
#[derive(Clone, Copy, Debug)]
pub(super) struct PendingSync {
    token: SyncToken,
    durable: Durable,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Durable {
    pub(super) batch: BatchSeq,
    /// Everything before it is on the disk: the mark of what is written next.
    pub(super) position: Position,
    /// The highest mark that is itself on the disk: recovery will know of it.
    proven: Position,
    snapshot_mark: EntryId,
}

/// The write-ahead log; see the module's description.
#[derive(Debug)]
pub struct Wal {
    owner: Owner,
    segment_bytes: u64,
    /// Of the one that the start opens.
    first_segment_bytes: u64,
    pub(super) accepted: Accepted,
    /// As of what is written: what an opening repeats.
    hard_state: HardState,
    snapshot_mark: EntryId,
    /// Oldest first; the last is the active one, if there is one.
    pub(super) live: VecDeque<LiveSegment>,
    active: Option<Active>,
    left: Option<Left>,
    pub(super) next: Next,
    /// The segment after that: the reserve. While there is no room for it, what is appended
    /// still has the next one, and all that makes the data grow is to be refused.
    after: Next,
    last_id: SegmentId,
    /// What recovery found to be no part of the log. Stays until the fresh segment is
    /// durable: a directory in which something was promised is never without a log.
    garbage: Vec<SegmentInfo>,
    /// Segments that are no longer part of the log, oldest first, of the usual length: they
    /// will become the next ones.
    spares: Vec<SegmentInfo>,
    /// How many were begun since some have last become superfluous: so many spares are of use.
    begun: usize,
    /// Where the segment before the active one ends, until there is an active one.
    continues: Option<Continues>,
    pub(super) queue: VecDeque<Queued>,
    pub(super) syncs: VecDeque<PendingSync>,
    pub(super) durable: Durable,
    pub(super) appended: BatchSeq,
    /// The last batch that was written in full.
    written: BatchSeq,
    /// The highest mark that was written.
    mark_written: Position,
    next_seq: u64,
    keep_from: Index,
    pub(super) counters: WalCounters,
}

impl Wal {
    /// Reads the log and asks for a fresh segment behind it.
    ///
    /// The fresh segment's opening is the first batch, [`BatchSeq`] 1. The node must
    /// not vote, acknowledge or answer for anything that it recovered before
    /// [`Wal::is_open`].
    ///
    /// # Errors
    /// When segments cannot be read, are damaged, missing, foreign or of a newer
    /// version. Nothing has been changed on the disk then.
    pub fn recover<D: Disk>(
        disk: &mut D,
        options: WalOptions,
    ) -> Result<(Wal, Recovered), WalError> {
        let (mut wal, recovered) = Wal::read(disk, options)?;
        wal.begin_again(disk);
        Ok((wal, recovered))
    }

    /// The first half of [`Wal::recover`]: reads the log and changes nothing, so that the
    /// caller can still refuse what was read. Nothing may be appended before the other
    /// half, [`Wal::begin_again`].
    ///
    /// # Errors
    /// As [`Wal::recover`].
    pub fn read<D: Disk>(disk: &mut D, options: WalOptions) -> Result<(Wal, Recovered), WalError> {
        let (recovered, tail) = recovery::recover(disk, &options)?;
        let mut wal = Wal::new(&options, &recovered, &tail);
        wal.garbage.clone_from(&tail.garbage);
        Ok((wal, recovered))
    }

    /// Asks for the fresh segment behind what was read.
    pub fn begin_again<D: Disk>(&mut self, disk: &mut D) {
        assert!(
            self.next == Next::None && self.active.is_none(),
            "a log begins again once"
        );
        self.request(disk, self.first_segment_bytes);
        self.reopen_last(disk);
    }

    fn new(options: &WalOptions, recovered: &Recovered, tail: &Tail) -> Wal {
        let position = tail
            .continues
            .map_or(Position::ZERO, |continues| continues.from);
        let mut accepted = Accepted::new(recovered.hard_state.term, recovered.snapshot_mark);
        accepted.take(&Batch {
            entries: &recovered.entries,
            ..Batch::default()
        });
        let proven = tail.mark.unwrap_or(Position::ZERO);
        Wal {
            owner: Owner {
                node: options.node,
                cluster_id: options.cluster_id,
                incarnation: options.incarnation,
            },
            segment_bytes: clamp(options.segment_bytes),
            first_segment_bytes: clamp(options.first_segment_bytes),
            accepted,
            hard_state: recovered.hard_state,
            snapshot_mark: recovered.snapshot_mark,
            live: tail.live.iter().copied().collect(),
            active: None,
            left: None,
            next: Next::None,
            after: Next::None,
            last_id: tail.last_id,
            garbage: Vec::new(),
            spares: Vec::new(),
            begun: 0,
            continues: tail.continues,
            queue: VecDeque::new(),
            syncs: VecDeque::new(),
            durable: Durable {
                batch: BatchSeq(0),
                position,
                proven,
                snapshot_mark: recovered.snapshot_mark,
            },
            appended: BatchSeq(1),
            written: BatchSeq(0),
            mark_written: proven,
            next_seq: tail.next_seq,
            keep_from: Index::ZERO,
            counters: WalCounters::default(),
        }
    }

    /// Writes a batch, or queues it until there is a segment for it, and asks for a
    /// sync. The answer is its number: it is durable once [`Wal::durable`] is not
    /// less. An empty batch gets the number of the one before.
    ///
    /// # Panics
    /// When the entries leave a gap, a mark or truncation goes below the snapshot, or
    /// the term goes back.
    pub fn append<D: Disk>(&mut self, disk: &mut D, batch: Batch<'_>) -> BatchSeq {
        if batch.is_empty() {
            return self.appended;
        }
        let restart = self.accepted.take(&batch);
        self.appended.0 += 1;
        let mut work = Work {
            hard_state: batch.hard_state,
            truncate_from: batch.truncate_from,
            mark: batch.snapshot_mark.map(|mark| (mark, restart)),
            entries: batch.entries,
        };
        let before = self.counters.batches;
        if self.queue.is_empty() && self.write(disk, &mut work) {
            self.written = self.appended;
        } else {
            self.queue.push_back(Queued {
                seq: self.appended,
                hard_state: work.hard_state,
                truncate_from: work.truncate_from,
                mark: work.mark,
                entries: work.entries.iter().cloned().collect(),
            });
        }
        if self.counters.batches != before {
            self.sync(disk);
        }
        self.appended
    }

    /// Takes in what the disk reports; events of files are not the log's and change
    /// nothing.
    ///
    /// # Errors
    /// When the disk failed. The log is not to be used any more then.
    pub fn on_event<D: Disk>(
        &mut self,
        disk: &mut D,
        event: &DiskEvent,
    ) -> Result<WalProgress, WalError> {
        disk.poll();
        let before = self.durable.batch;
        match event {
            DiskEvent::Synced(token) => {
                self.synced(disk, *token);
                if self.is_open() {
                    for info in std::mem::take(&mut self.garbage) {
                        self.discard(disk, info);
                    }
                }
            }
            DiskEvent::SegmentReady(id) => {
                if self.take_reopened(*id) {
                    self.vouch_for_active(disk);
                } else if let Next::Requested(info) = self.next
                    && info.id == *id
                {
                    self.next = Next::Ready(info);
                    self.pump(disk);
                    self.request_ahead(disk);
                } else if let Next::Requested(info) = self.after
                    && info.id == *id
                {
                    self.after = Next::Ready(info);
                    self.pump(disk);
                }
            }
            DiskEvent::SegmentNoSpace(id) => {
                if let Next::Requested(info) = self.next
                    && info.id == *id
                {
                    self.next = Next::NoSpace { len: info.len };
                } else if let Next::Requested(info) = self.after
                    && info.id == *id
                {
                    self.after = Next::NoSpace { len: info.len };
                    self.pump(disk);
                }
            }
            DiskEvent::Failed { what, error } => {
                return Err(WalError::Disk {
                    what: what.clone(),
                    error: error.clone(),
                });
            }
            DiskEvent::FileAppended { .. }
            | DiskEvent::FileFinished(_)
            | DiskEvent::FileNoSpace(_)
            | DiskEvent::FileRead { .. } => {}
        }
        let durable = self.durable.batch;
        Ok(WalProgress {
            durable: (durable > before).then_some(durable),
        })
    }

    /// Lets go of the segments that hold no entry from `keep_from` on. Entries behind
    /// the snapshot mark stay in any case, and nothing goes before the mark itself and
    /// a later segment are durable; what has to wait is done when they are.
    pub fn compact<D: Disk>(&mut self, disk: &mut D, keep_from: Index) {
        self.keep_from = self.keep_from.max(keep_from);
        self.compact_now(disk);
    }

    /// Writes what fits, in as many segments as are there; whether all was written.
    fn write<D: Disk>(&mut self, disk: &mut D, work: &mut Work<'_>) -> bool {
        while let Some(first) = work.first() {
            let room = self.room();
            if let Some(records) = work.take(room) {
                self.encode_and_store(disk, Buffer::new(), records);
            } else if !self.roll(disk, first.encoded_len()) {
                return false;
            }
        }
        self.request_ahead(disk);
        true
    }

    /// What batches may take of the active segment: its end is for what [`Wal::seal`] or
    /// [`Wal::vouch_for_active`] adds.
    fn room(&self) -> u64 {
        let room = |active: &Active| active.len - active.offset;
        let room = self.active.as_ref().map_or(0, room);
        room.saturating_sub(BATCH_HEADER_BYTES as u64)
    }

    /// Stores `buffer`, which may hold the segment's header, with a batch behind it.
    fn encode_and_store<'a, D: Disk>(
        &mut self,
        disk: &mut D,
        mut buffer: Buffer,
        records: impl Iterator<Item = Record<'a>> + Clone,
    ) {
        let mark = self.durable.position;
        let live = self.live.back_mut().expect("the active segment is live");
        let active = self.active.as_mut().expect("there is room only in one");
        let start = active.offset;
        let salted = (active.salt, active.chain);
        let batch_at = start + buffer.len() as u64;
        active.chain = encode_batch(
            &mut buffer,
            batch_at,
            self.next_seq,
            mark,
            records.clone(),
            salted,
        );
        active.offset = start + buffer.len() as u64;
        assert!(active.offset <= active.len, "a batch that does not fit");
        live.end = active.offset;
        self.next_seq += 1;
        self.mark_written = self.mark_written.max(mark);
        self.counters.batches += 1;
        self.counters.bytes += buffer.len() as u64;
        for record in records {
            match record {
                Record::HardState(hard_state) => self.hard_state = hard_state,
                Record::SnapshotMark { id, .. } => self.snapshot_mark = id,
                Record::Entry { id, .. } => live.max_index = live.max_index.max(id.index),
                Record::Truncate(_) => {}
            }
        }
        disk.store(active.id, start, buffer);
    }

    /// Begins the next segment, if it is there and may be begun; `needed` is the length
    /// of the record that it is for.
    fn roll<D: Disk>(&mut self, disk: &mut D, needed: usize) -> bool {
        let needed = OPENING_BYTES + needed as u64;
        match self.next {
            Next::Ready(info) if needed <= info.len => {
                let opened = self
                    .active
                    .as_ref()
                    .is_none_or(|active| self.durable.position.segment == active.id);
                if opened {
                    self.begin(disk, info);
                }
                opened
            }
            // Numbers only grow along the log: the one behind it goes too, once it is there.
            Next::Ready(_) if matches!(self.after, Next::Requested(_)) => false,
            Next::Ready(info) => {
                disk.remove_segment(info.id);
                if let Next::Ready(after) = std::mem::replace(&mut self.after, Next::None) {
                    disk.remove_segment(after.id);
                }
                self.request(disk, clamp(needed.max(self.segment_bytes)));
                false
            }
            Next::None => {
                self.request(disk, clamp(needed.max(self.segment_bytes)));
                false
            }
            Next::Requested(_) | Next::NoSpace { .. } => false,
        }
    }

    /// Writes the header and the opening of a segment.
    fn begin<D: Disk>(&mut self, disk: &mut D, info: SegmentInfo) {
        if let Some(active) = self.active.take() {
            self.left = Some(Left::of(&active, self.next_seq));
            self.continues = Some(Continues {
                from: Position {
                    segment: active.id,
                    offset: active.offset,
                },
                chain: active.chain,
            });
        }
        let header = SegmentHeader {
            owner: self.owner,
            id: info.id,
            len: info.len,
            first_seq: self.next_seq,
            continues: self.continues,
            mark: self.durable.position,
        };
        let salt = Salt::new(self.owner.incarnation, info.id);
        self.active = Some(Active {
            id: info.id,
            len: info.len,
            offset: 0,
            opened: 0,
            salt,
            chain: salt.chain(),
        });
        self.live.push_back(LiveSegment {
            info,
            max_index: Index::ZERO,
            end: PAGE_BYTES,
        });
        self.next = std::mem::replace(&mut self.after, Next::None);
        self.counters.segments += 1;
        self.begun += 1;
        let opening = [
            Record::HardState(self.hard_state),
            Record::SnapshotMark {
                id: self.snapshot_mark,
                restart: false,
            },
        ];
        let mut buffer = Buffer::with_capacity(OPENING_BYTES as usize);
        buffer.extend_from_slice(&header.encode());
        self.encode_and_store(disk, buffer, opening.into_iter());
        if let Some(active) = &mut self.active {
            active.opened = active.offset;
        }
        self.written = self.written.max(BatchSeq(1));
    }

    /// A segment is superfluous: keeps it as a spare, if it is of use as one.
    fn discard<D: Disk>(&mut self, disk: &mut D, info: SegmentInfo) {
        // Nothing is said any more in what may become another segment.
        self.forget_left(info.id);
        let spares_max = self.begun.max(self.live.len());
        if info.len == self.segment_bytes && self.spares.len() < spares_max {
            self.spares.push(info);
        } else {
            disk.remove_segment(info.id);
        }
    }

    fn sync<D: Disk>(&mut self, disk: &mut D) {
        let active = self.active.as_ref().expect("something was stored");
        let durable = Durable {
            batch: self.written,
            position: Position {
                segment: active.id,
                offset: active.offset,
            },
            proven: self.mark_written,
            snapshot_mark: self.snapshot_mark,
        };
        let token = disk.sync();
        self.syncs.push_back(PendingSync { token, durable });
    }

    fn synced<D: Disk>(&mut self, disk: &mut D, token: SyncToken) {
        // One for all that were asked for since the last.
        self.counters.syncs += 1;
        while let Some(sync) = self.syncs.front()
            && sync.token <= token
        {
            assert!(sync.durable.batch >= self.durable.batch);
            self.durable = sync.durable;
            self.syncs.pop_front();
        }
        self.vouch_for_active(disk);
        self.pump(disk);
        self.compact_now(disk);
    }

    /// Writes what waits, as far as there are segments.
    fn pump<D: Disk>(&mut self, disk: &mut D) {
        let before = self.counters.batches;
        if self.active.is_none()
            && let Next::Ready(info) = self.next
        {
            self.begin(disk, info);
        }
        while let Some(mut queued) = self.queue.pop_front() {
            let entries = queued.entries.make_contiguous();
            let mut work = Work {
                hard_state: queued.hard_state,
                truncate_from: queued.truncate_from,
                mark: queued.mark,
                entries,
            };
            let done = self.write(disk, &mut work);
            let Work {
                hard_state,
                truncate_from,
                mark,
                entries,
            } = work;
            if done {
                self.written = queued.seq;
                continue;
            }
            let left = entries.len();
            queued.entries.drain(..queued.entries.len() - left);
            self.queue.push_front(Queued {
                hard_state,
                truncate_from,
                mark,
                ..queued
            });
            break;
        }
        if self.counters.batches != before {
            self.sync(disk);
        }
    }

    fn compact_now<D: Disk>(&mut self, disk: &mut D) {
        let keep_from = self.keep_from.min(self.durable.snapshot_mark.index.next());
        let proven = self.durable.proven.segment;
        let superfluous = |at: usize| {
            let is_vouched_for = self.live[at + 1].info.id <= proven || mutated!(SegmentLetGoEarly);
            self.live[at].max_index < keep_from && is_vouched_for
        };
        let count = (1..self.live.len()).take_while(|at| superfluous(at - 1));
        let count = count.count();
        if count == 0 {
            return;
        }
        for _ in 0..count {
            let oldest = self.live.pop_front().expect("it was counted");
            self.discard(disk, oldest.info);
        }
        self.begun = 0;
        // A spare stays under its name until it is used, the newest first, and recovery follows
        // the chain for as long as it finds the segment before: so there is a gap behind the
        // newest.
        if let Some(gap) = self.spares.len().checked_sub(2) {
            disk.remove_segment(self.spares.remove(gap).id);
        }
    }
}

/// Whole pages, and sizes that the format can tell.
fn clamp(segment_bytes: u64) -> u64 {
    segment_bytes
        .clamp(SEGMENT_BYTES_MIN, SEGMENT_BYTES_MAX)
        .next_multiple_of(PAGE_BYTES)
}
