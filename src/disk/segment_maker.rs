//! The thread that makes, recycles and removes segments, so that neither a store nor
//! a sync ever waits for it.
//!
//! A new segment is written in full, so that a full disk is an error here and not a
//! signal at a store, and in small writes: the kernel caches a large write as one
//! large folio, and every later store into the map would dirty all of that. A segment
//! that this process has made is recycled with its map, pages and all. Of one that an
//! earlier process has left the folios are dropped first, whoever has read it since.

use std::fs::{File, OpenOptions};
use std::io;
use std::num::NonZeroU64;
use std::path::{Path, PathBuf};

use crossbeam_channel::Sender;
use rustix::fs::Advice;

use super::calls;
use super::data_dir::sync_directory;
use super::file_remover::remove_if_there;
use super::file_system::Stores;
use super::segment_map::SegmentMap;
use super::worker::{Operations, Reporter};
use super::{DiskEvent, SegmentId, file_name, is_no_space};

/// One write of zeros: a page.
const WRITE_BYTES: usize = 4096;
/// How much is written before it is brought to the disk, so that the log's own syncs
/// never wait behind a long queue.
const FLUSH_BYTES: u64 = 1 << 20;
/// How much is asked for at a time when a segment is read. More than the device takes
/// in one piece the kernel would cut off, not split.
const READ_BYTES: u64 = 128 << 10;
pub(super) const QUEUE_MAX: usize = 1024;

/// What the maker is asked to do, in order.
#[derive(Debug)]
pub(super) enum MakerOperation {
    Create {
        id: SegmentId,
        len: u64,
    },
    /// One that was found at the start.
    Reopen {
        id: SegmentId,
        len: u64,
    },
    /// The file of `old` becomes a new segment; with its map, if this process has made it.
    Recycle {
        id: SegmentId,
        len: u64,
        old: SegmentId,
        map: Option<SegmentMap>,
    },
    Remove(SegmentId),
}

/// A segment on its way to the log writer.
#[derive(Debug)]
pub(super) struct MadeSegment {
    pub(super) id: SegmentId,
    pub(super) map: SegmentMap,
}

/// The state of the thread.
#[derive(Debug)]
pub(super) struct SegmentMaker {
    pub(super) dir: PathBuf,
    pub(super) stores: Stores,
    pub(super) operations: Operations<MakerOperation>,
    pub(super) made: Sender<MadeSegment>,
    pub(super) reporter: Reporter,
}

impl SegmentMaker {
    pub(super) fn run(self) {
        while let Some(operation) = self.operations.next() {
            if self.reporter.has_failed() {
                continue;
            }
            match operation {
                MakerOperation::Create { id, len } => self.hand_over(id, self.create(id, len)),
                MakerOperation::Reopen { id, len } => self.hand_over(id, self.reopen(id, len)),
                MakerOperation::Recycle { id, len, old, map } => {
                    self.hand_over(id, self.recycle(id, len, old, map));
                }
                MakerOperation::Remove(id) => {
                    let path = self.dir.join(file_name::segment(id));
                    if let Err(error) = remove_if_there(&path) {
                        self.reporter
                            .fail(format!("remove {}", path.display()), &error);
                    }
                }
            }
        }
    }

    fn hand_over(&self, id: SegmentId, made: io::Result<SegmentMap>) {
        match made {
            Ok(map) => {
                // Handed over before it is reported. The log writer may have ended.
                if self.made.send(MadeSegment { id, map }).is_ok() {
                    self.reporter.report(DiskEvent::SegmentReady(id));
                }
            }
            Err(error) if is_no_space(&error) => {
                let draft = self.dir.join(file_name::segment_draft(id));
                match remove_if_there(&draft) {
                    Ok(()) => self.reporter.report(DiskEvent::SegmentNoSpace(id)),
                    Err(error) => self
                        .reporter
                        .fail(format!("remove {}", draft.display()), &error),
                }
            }
            Err(error) => {
                let what = format!("make segment {}", file_name::segment(id));
                self.reporter.fail(what, &error);
            }
        }
    }

    fn create(&self, id: SegmentId, len: u64) -> io::Result<SegmentMap> {
        let draft = self.dir.join(file_name::segment_draft(id));
        let file = calls::create(&draft)?;
        self.stores.prepare(&file);
        let zeros = [0; WRITE_BYTES];
        let mut at = 0;
        while at < len {
            let count = (len - at).min(WRITE_BYTES as u64);
            calls::write_all_at(&file, &draft, &zeros[..count as usize], at)?;
            at += count;
            if at % FLUSH_BYTES == 0 {
                calls::sync(&file, &draft, false)?;
            }
        }
        calls::sync(&file, &draft, true)?;
        self.rename(&draft, id)?;
        calls::before("map")?;
        SegmentMap::new(file, len, self.stores)
    }

    fn reopen(&self, id: SegmentId, len: u64) -> io::Result<SegmentMap> {
        let path = self.dir.join(file_name::segment(id));
        let file = calls::open("open", OpenOptions::new().read(true).write(true), &path)?;
        // Recovery has read it, in large folios.
        drop_from_cache(&file, &path)?;
        calls::before("map")?;
        SegmentMap::cold(file, len, self.stores)
    }

    fn recycle(
        &self,
        id: SegmentId,
        len: u64,
        old: SegmentId,
        map: Option<SegmentMap>,
    ) -> io::Result<SegmentMap> {
        let old = self.dir.join(file_name::segment(old));
        if let Some(map) = map.filter(|map| map.is_warm() && map.len() as u64 == len) {
            // What the system has taken back meanwhile comes in here, not at a store.
            return self.take_over(&old, id, len, map);
        }
        let opened = calls::open("open", OpenOptions::new().read(true).write(true), &old);
        let file = match opened {
            Ok(file) if file.metadata()?.len() == len => file,
            Ok(_) => {
                remove_if_there(&old)?;
                return self.create(id, len);
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => return self.create(id, len),
            Err(error) => return Err(error),
        };
        drop_from_cache(&file, &old)?;
        read_into_small_folios(&file, len)?;
        calls::before("map")?;
        let map = SegmentMap::new(file, len, self.stores)?;
        self.take_over(&old, id, len, map)
    }

    /// Makes the file `old`, of which this is the map, the segment `id`.
    fn take_over(
        &self,
        old: &Path,
        id: SegmentId,
        len: u64,
        map: SegmentMap,
    ) -> io::Result<SegmentMap> {
        let populated = calls::before("populate").and_then(|()| map.populate());
        if populated.is_err() {
            // It has sectors that cannot be read: no place for a log.
            drop(map);
            remove_if_there(old)?;
            return self.create(id, len);
        }
        self.rename(old, id)?;
        Ok(map)
    }

    fn rename(&self, from: &Path, id: SegmentId) -> io::Result<()> {
        calls::rename("rename", from, &self.dir.join(file_name::segment(id)))?;
        sync_directory(&self.dir)
    }
}

/// Has a file that is not in the page cache read into it, many pages at a time, each of
/// which stays a folio of its own. Readahead on a fault or a read would make large folios,
/// and faults without it would wait for the device once for each page: with 16 MiB that is
/// long enough for a busy log to fill the segment before.
fn read_into_small_folios(file: &File, len: u64) -> io::Result<()> {
    let mut at = 0;
    while let Some(chunk) = NonZeroU64::new((len - at).min(READ_BYTES)) {
        calls::before("advise")?;
        rustix::fs::fadvise(file, at, Some(chunk), Advice::WillNeed)?;
        at += chunk.get();
    }
    Ok(())
}

/// Brings a file to the device and drops it from the page cache: what is read of it
/// next comes from the device, and what is mapped comes in small folios.
pub(super) fn drop_from_cache(file: &File, path: &Path) -> io::Result<()> {
    calls::sync(file, path, true)?;
    calls::before("advise")?;
    rustix::fs::fadvise(file, 0, None, Advice::DontNeed)?;
    Ok(())
}
