//! The thread that stores into the log and syncs it.
//!
//! It takes all that its queue holds, copies it into the maps (or writes it, see
//! `file_system.rs`), and then serves all syncs that were among it with one: group commit
//! without a timer. It exists because a store into a mapped page may wait for the disk for
//! milliseconds, which the raft thread must not.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use crossbeam_channel::Receiver;

use super::calls;
use super::segment_maker::{MadeSegment, MakerOperation};
use super::segment_map::SegmentMap;
use super::worker::{Handle, Operations, Reporter};
use super::{DiskEvent, SegmentId, SyncToken, file_name, is_no_space};
use crate::mem::Buffer;
use crate::mutation::mutated;

/// How many operations wait in the queue before they wait in front of it.
pub(super) const QUEUE_MAX: usize = 8192;
/// How many operations are taken together before a sync that is among them runs.
const DRAIN_MAX: usize = QUEUE_MAX;

/// What the log writer is asked to do, in order.
#[derive(Debug)]
pub(super) enum LogOperation {
    /// Copies `data` into a segment.
    Store {
        id: SegmentId,
        offset: u64,
        data: Buffer,
    },
    /// Syncs all that was stored before, and reports it.
    Sync(SyncToken),
    /// Lets go of a segment, then hands on what is to be done with its file.
    Release { id: SegmentId, then: MakerOperation },
}

/// How many segments stay open, up to the one that was stored into last, where each takes a
/// file descriptor. The log stores into the newest and the one before.
const OPEN_MAX: usize = 4;
/// How soon a store that found no room is tried again.
const ROOM_PAUSE: Duration = Duration::from_millis(if cfg!(test) { 5 } else { 100 });

/// Whether a store waits for room.
#[derive(Debug, Default)]
pub(super) struct Room(AtomicBool);

impl Room {
    pub(super) fn is_lacking(&self) -> bool {
        // ORDERING: Relaxed; the flag guards no other memory.
        self.0.load(Ordering::Relaxed)
    }

    fn set_lacking(&self, lacking: bool) {
        // ORDERING: as above.
        self.0.store(lacking, Ordering::Relaxed);
    }
}

/// The state of the thread.
#[derive(Debug)]
pub(super) struct LogWriter {
    operations: Operations<LogOperation>,
    made: Receiver<MadeSegment>,
    maker: Handle<MakerOperation>,
    reporter: Reporter,
    maps: BTreeMap<SegmentId, SegmentMap>,
    /// The newest segment that was stored into.
    newest: SegmentId,
    room: Arc<Room>,
    ending: Arc<AtomicBool>,
}

impl LogWriter {
    pub(super) fn new(
        operations: Operations<LogOperation>,
        made: Receiver<MadeSegment>,
        maker: Handle<MakerOperation>,
        reporter: Reporter,
        room: Arc<Room>,
        ending: Arc<AtomicBool>,
    ) -> LogWriter {
        LogWriter {
            operations,
            made,
            maker,
            reporter,
            maps: BTreeMap::new(),
            newest: SegmentId(0),
            room,
            ending,
        }
    }

    /// Runs until the queue is closed; what was stored is synced before the end.
    pub(super) fn run(mut self) {
        while let Some(first) = self.operations.next() {
            let mut token = None;
            self.apply(first, &mut token);
            for _ in 1..DRAIN_MAX {
                match self.operations.try_next() {
                    Some(operation) => self.apply(operation, &mut token),
                    None => break,
                }
            }
            if let Some(token) = token {
                self.sync(Some(token));
            }
        }
        self.sync(None);
    }

    fn apply(&mut self, operation: LogOperation, token: &mut Option<SyncToken>) {
        if self.reporter.has_failed() {
            return;
        }
        match operation {
            LogOperation::Store { id, offset, data } => {
                if !self.maps.contains_key(&id) {
                    self.take_made();
                }
                self.store(id, offset, &data);
            }
            LogOperation::Sync(asked) => *token = Some(asked),
            LogOperation::Release { id, mut then } => {
                self.take_made();
                if let Some(map) = self.maps.get_mut(&id)
                    && map.is_dirty()
                {
                    // Its content is of no use any more, its errors still are.
                    sync_map(id, map, &self.reporter);
                }
                let released = self.maps.remove(&id);
                if let MakerOperation::Recycle { map, .. } = &mut then {
                    *map = released;
                }
                // The other end lives until this thread has ended.
                self.maker.send(then);
            }
        }
    }

    /// Stores, and waits for room where there is none: nothing that was asked for later may
    /// come before it.
    fn store(&mut self, id: SegmentId, offset: u64, data: &[u8]) {
        let map = self.maps.get_mut(&id);
        let map = map.expect("the log stores only into segments that are ready");
        self.newest = self.newest.max(id);
        loop {
            match map.store(id, offset as usize, data) {
                Ok(()) => break,
                // ORDERING: Relaxed; the flag guards no other memory.
                Err(error) if is_no_space(&error) && !self.ending.load(Ordering::Relaxed) => {
                    self.room.set_lacking(true);
                    thread::sleep(ROOM_PAUSE);
                }
                Err(error) => {
                    let what = format!("store into {}", file_name::segment(id));
                    self.reporter.fail(what, &error);
                    break;
                }
            }
        }
        if self.room.is_lacking() {
            self.room.set_lacking(false);
        }
    }

    /// Lets go of file descriptors that no store is to come for.
    fn close_old(&mut self) {
        let written = self.maps.range(..=self.newest);
        let old = written.rev().skip(OPEN_MAX);
        let old = old.filter(|(_, map)| map.is_file() && !map.is_dirty());
        let old: Vec<SegmentId> = old.map(|(id, _)| *id).collect();
        for id in old {
            self.maps.remove(&id);
        }
    }

    /// A segment is handed over before it is reported as ready.
    fn take_made(&mut self) {
        for made in self.made.try_iter() {
            self.maps.insert(made.id, made.map);
        }
    }

    fn sync(&mut self, token: Option<SyncToken>) {
        let newest = mutated!(NewestSegmentSyncedAlone).then(|| self.maps.keys().next_back());
        let newest = newest.flatten().copied();
        for (id, map) in &mut self.maps {
            if self.reporter.has_failed() {
                return;
            }
            let is_forgotten = newest.is_some_and(|newest| newest != *id);
            if map.is_dirty() && !is_forgotten {
                sync_map(*id, map, &self.reporter);
            }
        }
        self.close_old();
        if let Some(token) = token
            && !self.reporter.has_failed()
        {
            self.reporter.report(DiskEvent::Synced(token));
        }
    }
}

fn sync_map(id: SegmentId, map: &mut SegmentMap, reporter: &Reporter) {
    if let Err(error) = calls::sync_map(map, id) {
        reporter.fail(format!("sync of {}", file_name::segment(id)), &error);
    }
}
