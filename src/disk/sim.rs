//! A disk in memory that loses what a real one may lose.
//!
//! Durable bytes and those that only the page cache would hold are kept apart, page
//! by page, each page with all the versions it had since its last sync. Nothing
//! completes by itself: whoever owns the disk (the simulator, a test) calls
//! [`SimDisk::step`] or the finer [`SimDisk::complete_syncs`] and
//! [`SimDisk::step_background`] when its virtual time says so. [`SimDisk::crash`]
//! leaves of every unsynced page any of its versions, or of each of its sectors any of
//! them, or garbage where it was being written, and of every unfinished file any part.
//!
//! There is no randomness inside: `crash` asks a coin that comes in.

use std::collections::{BTreeMap, VecDeque};
use std::io;

use bytes::Bytes;

use super::{Disk, DiskEvent, FileId, FileInfo, SegmentId, SegmentInfo, SyncToken};
use crate::mem::Buffer;

/// What a sync writes back, and the most that survives a crash or does not as a whole.
const PAGE_BYTES: usize = 4096;
/// What a device writes in full or not at all.
const SECTOR_BYTES: usize = 512;

/// Decides in a crash what survives: any number, all bits equally likely.
pub type Coin<'a> = &'a mut dyn FnMut() -> u64;

/// What a page looked like after the store of a moment.
type Version = (u64, Box<[u8]>);

#[derive(Debug, Default)]
struct SimSegment {
    durable: Vec<u8>,
    /// The versions of each page since its last sync, oldest first.
    unsynced: BTreeMap<usize, Vec<Version>>,
}

impl SimSegment {
    fn new(len: usize) -> SimSegment {
        SimSegment {
            durable: vec![0; len],
            unsynced: BTreeMap::new(),
        }
    }

    fn page_range(&self, page: usize) -> std::ops::Range<usize> {
        let start = page * PAGE_BYTES;
        start..(start + PAGE_BYTES).min(self.durable.len())
    }

    fn store(&mut self, moment: u64, offset: usize, data: &[u8]) {
        assert!(
            offset + data.len() <= self.durable.len(),
            "a store behind the end of a segment"
        );
        let mut done = 0;
        while done < data.len() {
            let at = offset + done;
            let page = at / PAGE_BYTES;
            let range = self.page_range(page);
            let end = range.end.min(offset + data.len());
            let versions = self.unsynced.entry(page).or_default();
            let mut content: Box<[u8]> = match versions.last() {
                Some((_, latest)) => latest.clone(),
                None => self.durable[range.clone()].into(),
            };
            content[at - range.start..end - range.start]
                .copy_from_slice(&data[done..done + end - at]);
            versions.push((moment, content));
            done += end - at;
        }
    }

    /// Makes durable what was stored before `moment`.
    fn sync(&mut self, moment: u64) {
        let durable = &mut self.durable;
        self.unsynced.retain(|page, versions| {
            let known = versions.partition_point(|(stored, _)| *stored < moment);
            if let Some((_, content)) = versions.drain(..known).next_back() {
                durable[page * PAGE_BYTES..][..content.len()].copy_from_slice(&content);
            }
            !versions.is_empty()
        });
    }

    fn crash(&mut self, coin: Coin<'_>) {
        for (page, versions) in std::mem::take(&mut self.unsynced) {
            // Half the pages keep nothing, the others any version they had.
            if coin() & 1 == 0 {
                continue;
            }
            let durable = &mut self.durable[page * PAGE_BYTES..][..versions[0].1.len()];
            let pick = |toss: u64| &versions[versions.len() - 1 - toss as usize].1;
            let version = pick((coin() >> 1) % versions.len() as u64);
            match (coin() >> 1) % 8 {
                // Torn: each sector has the content of another moment.
                6 => {
                    for (at, sector) in durable.chunks_mut(SECTOR_BYTES).enumerate() {
                        let toss = coin() % (versions.len() as u64 + 1);
                        if toss < versions.len() as u64 {
                            let start = at * SECTOR_BYTES;
                            sector.copy_from_slice(&pick(toss)[start..start + sector.len()]);
                        }
                    }
                }
                // Corrupt: garbage where bytes were about to change, and only there.
                7 => {
                    for (old, new) in durable.iter_mut().zip(version) {
                        if *old != *new {
                            let toss = coin();
                            *old = if toss & 7 == 0 {
                                (toss >> 8) as u8
                            } else {
                                *new
                            };
                        }
                    }
                }
                _ => durable.copy_from_slice(version),
            }
        }
    }
}

#[derive(Clone, Debug, Default)]
struct SimFile {
    data: Vec<u8>,
    durable: bool,
}

#[derive(Debug)]
enum Operation {
    CreateSegment {
        id: SegmentId,
        len: u64,
        recycle: Option<SegmentId>,
    },
    ReopenSegment(SegmentId),
    RemoveSegment(SegmentId),
    CreateFile(FileId),
    AppendFile(FileId, Bytes),
    FinishFile(FileId, FileId),
    ReadFile(FileId, u64, usize),
    RemoveFile(FileId),
}

/// The in-memory disk; see the module's description.
#[derive(Debug, Default)]
pub struct SimDisk {
    segments: BTreeMap<SegmentId, SimSegment>,
    files: BTreeMap<FileId, SimFile>,
    /// Removed, but no sync of the directory since: a crash may bring them back.
    removed_segments: BTreeMap<SegmentId, SimSegment>,
    removed_files: BTreeMap<FileId, SimFile>,
    /// Syncs that were asked for: the moment of the call, and the answer.
    syncs: VecDeque<(u64, SyncToken)>,
    background: VecDeque<(u64, Operation)>,
    moment: u64,
    last_token: SyncToken,
    no_space: bool,
    fail_sync: bool,
    failed: bool,
}

impl SimDisk {
    /// An empty disk.
    #[must_use]
    pub fn new() -> SimDisk {
        SimDisk::default()
    }

    /// Whether anything waits to be completed.
    #[must_use]
    pub fn pending(&self) -> bool {
        !self.syncs.is_empty() || !self.background.is_empty()
    }

    /// How many syncs wait to be completed.
    #[must_use]
    pub fn pending_syncs(&self) -> usize {
        self.syncs.len()
    }

    /// How many other operations wait: creations, files, removals.
    #[must_use]
    pub fn pending_background(&self) -> usize {
        self.background.len()
    }

    /// Completes what was asked for first, up to and with the next that has an answer.
    pub fn step(&mut self) -> Option<DiskEvent> {
        loop {
            let sync = self.syncs.front().map(|(moment, _)| *moment);
            let other = self.background.front().map(|(moment, _)| *moment);
            let event = match (sync, other) {
                (None, None) => return None,
                (Some(sync), Some(other)) if sync > other => self.step_background(),
                (Some(_), _) => self.complete_syncs(1),
                (None, Some(_)) => self.step_background(),
            };
            if event.is_some() {
                return event;
            }
        }
    }

    /// Completes the oldest `count` syncs with one answer, as a disk that was busy
    /// with an earlier sync does.
    pub fn complete_syncs(&mut self, count: usize) -> Option<DiskEvent> {
        let count = count.min(self.syncs.len());
        let (moment, token) = self.syncs.drain(..count).next_back()?;
        if self.failed {
            return None;
        }
        if self.fail_sync {
            self.failed = true;
            return Some(DiskEvent::Failed {
                what: "sync of the log".into(),
                error: "simulated I/O error".into(),
            });
        }
        for segment in self.segments.values_mut() {
            segment.sync(moment);
        }
        Some(DiskEvent::Synced(token))
    }

    /// Completes the oldest of the other operations; not all have an answer.
    pub fn step_background(&mut self) -> Option<DiskEvent> {
        let (_, operation) = self.background.pop_front()?;
        if self.failed {
            return None;
        }
        self.apply(operation)
    }

    /// Loses what may be lost in a power failure: every page that was stored and
    /// not synced keeps any version that it had, or is torn between several, or has
    /// garbage in the bytes that were to change; every unfinished file keeps any part,
    /// the operation at the head of the background either happened or did not, and
    /// a removed name may be back. All that waits is gone, without an answer.
    ///
    /// A coin that says 1 for ever keeps all that was stored, which is what a killed
    /// process leaves on a machine that runs on.
    pub fn crash(&mut self, coin: Coin<'_>) {
        self.syncs.clear();
        if let Some((_, operation)) = std::mem::take(&mut self.background).pop_front()
            && coin() & 1 == 0
            && !self.failed
        {
            self.apply(operation);
        }
        for segment in self.segments.values_mut() {
            segment.crash(coin);
        }
        for (id, mut segment) in std::mem::take(&mut self.removed_segments) {
            if coin() & 1 == 0 {
                segment.crash(coin);
                self.segments.entry(id).or_insert(segment);
            }
        }
        for (id, file) in std::mem::take(&mut self.removed_files) {
            if coin() & 1 == 0 {
                self.files.entry(id).or_insert(file);
            }
        }
        self.files.retain(|_, file| {
            if file.durable {
                return true;
            }
            let lost = (coin() >> 1) % (file.data.len() as u64 + 1);
            file.data.truncate(file.data.len() - lost as usize);
            for page in file.data.chunks_mut(PAGE_BYTES) {
                if coin() & 1 == 0 {
                    page.fill(0);
                }
            }
            file.durable = true;
            coin() & 1 == 1
        });
        self.fail_sync = false;
        self.failed = false;
    }

    /// What is certain to be there after a power failure at this moment, and nothing
    /// else: a disk of its own, to look at.
    #[must_use]
    pub fn survivor(&self) -> SimDisk {
        let segments = self.segments.iter().map(|(id, segment)| {
            let durable = segment.durable.clone();
            let unsynced = BTreeMap::new();
            (*id, SimSegment { durable, unsynced })
        });
        let files = self.files.iter().filter(|(_, file)| file.durable);
        SimDisk {
            segments: segments.collect(),
            files: files.map(|(id, file)| (*id, file.clone())).collect(),
            ..SimDisk::default()
        }
    }

    /// What was to go wrong from now on does not. A disk that has failed stays so.
    pub fn mend(&mut self) {
        self.no_space = false;
        self.fail_sync = false;
    }

    /// From now on there is no room for segments and files, or there is again.
    pub fn set_no_space(&mut self, no_space: bool) {
        self.no_space = no_space;
    }

    /// Makes the next sync fail, and with it the disk, until the next crash.
    pub fn fail_next_sync(&mut self) {
        self.fail_sync = true;
    }

    /// Damages what is on the disk: the bits in `mask` of one byte flip.
    pub fn damage_segment(&mut self, id: SegmentId, offset: u64, mask: u8) {
        if let Some(segment) = self.segments.get_mut(&id)
            && let Some(byte) = segment.durable.get_mut(offset as usize)
        {
            *byte ^= mask;
        }
    }

    /// Damages what is on the disk: the bits in `mask` of one byte flip.
    pub fn damage_file(&mut self, id: FileId, offset: u64, mask: u8) {
        if let Some(file) = self.files.get_mut(&id)
            && let Some(byte) = file.data.get_mut(offset as usize)
        {
            *byte ^= mask;
        }
    }

    fn now(&mut self) -> u64 {
        self.moment += 1;
        self.moment
    }

    fn push(&mut self, operation: Operation) {
        let moment = self.now();
        self.background.push_back((moment, operation));
    }

    fn sync_directory(&mut self) {
        self.removed_segments.clear();
        self.removed_files.clear();
    }

    fn apply(&mut self, operation: Operation) -> Option<DiskEvent> {
        match operation {
            Operation::CreateSegment { id, len, recycle } => {
                let old = recycle.and_then(|old| self.segments.remove(&old));
                let mut segment = match old {
                    Some(old) if old.durable.len() as u64 == len => old,
                    _ if self.no_space => return Some(DiskEvent::SegmentNoSpace(id)),
                    _ => SimSegment::new(len as usize),
                };
                segment.sync(u64::MAX);
                self.segments.insert(id, segment);
                self.sync_directory();
                Some(DiskEvent::SegmentReady(id))
            }
            Operation::ReopenSegment(id) => Some(DiskEvent::SegmentReady(id)),
            Operation::RemoveSegment(id) => {
                if let Some(segment) = self.segments.remove(&id) {
                    self.removed_segments.insert(id, segment);
                }
                None
            }
            Operation::CreateFile(id) => {
                self.files.insert(id, SimFile::default());
                None
            }
            Operation::AppendFile(id, data) => self.append(id, &data),
            Operation::FinishFile(id, final_id) => {
                let mut file = self.files.remove(&id)?;
                file.durable = true;
                self.files.insert(final_id, file);
                self.sync_directory();
                Some(DiskEvent::FileFinished(final_id))
            }
            Operation::ReadFile(id, offset, len) => {
                let data = self.files.get(&id).map_or(&[][..], |file| &file.data);
                let start = (offset as usize).min(data.len());
                let end = start.saturating_add(len).min(data.len());
                let data = Bytes::copy_from_slice(&data[start..end]);
                Some(DiskEvent::FileRead { id, offset, data })
            }
            Operation::RemoveFile(id) => {
                if let Some(file) = self.files.remove(&id) {
                    self.removed_files.insert(id, file);
                }
                None
            }
        }
    }

    fn append(&mut self, id: FileId, data: &[u8]) -> Option<DiskEvent> {
        let file = self.files.get_mut(&id)?;
        if self.no_space {
            self.files.remove(&id);
            return Some(DiskEvent::FileNoSpace(id));
        }
        file.data.extend_from_slice(data);
        file.durable = false;
        let len = file.data.len() as u64;
        Some(DiskEvent::FileAppended { id, len })
    }
}

/// Images of disks, for tests that put them together or damage them.
#[cfg(test)]
impl SimDisk {
    /// A disk with these segments and files and nothing else.
    pub(crate) fn of(
        segments: impl IntoIterator<Item = (SegmentId, Vec<u8>)>,
        files: impl IntoIterator<Item = (FileId, Vec<u8>)>,
    ) -> SimDisk {
        let segment = |durable| SimSegment {
            durable,
            unsynced: BTreeMap::new(),
        };
        let file = |data| SimFile {
            data,
            durable: true,
        };
        let segments = segments.into_iter().map(|(id, bytes)| (id, segment(bytes)));
        let files = files.into_iter().map(|(id, bytes)| (id, file(bytes)));
        SimDisk {
            segments: segments.collect(),
            files: files.collect(),
            ..SimDisk::default()
        }
    }

    /// The content of all segments, with nothing left to sync.
    pub(crate) fn segment_images(&self) -> BTreeMap<SegmentId, Vec<u8>> {
        let images = self.segments.iter().map(|(id, segment)| {
            assert!(segment.unsynced.is_empty(), "{id:?} is not synced");
            (*id, segment.durable.clone())
        });
        images.collect()
    }

    /// The content of all whole files.
    pub(crate) fn file_images(&self) -> BTreeMap<FileId, Vec<u8>> {
        let images = self.files.iter().map(|(id, file)| (*id, file.data.clone()));
        images.collect()
    }

    /// The durable content of a segment, to be damaged.
    pub(crate) fn segment_mut(&mut self, id: SegmentId) -> Option<&mut Vec<u8>> {
        Some(&mut self.segments.get_mut(&id)?.durable)
    }

    /// The content of a whole file, to be damaged.
    pub(crate) fn file_mut(&mut self, id: FileId) -> Option<&mut Vec<u8>> {
        Some(&mut self.files.get_mut(&id)?.data)
    }
}

fn read_at(data: &[u8], offset: u64, buf: &mut [u8]) -> usize {
    let start = usize::try_from(offset).map_or(data.len(), |offset| offset.min(data.len()));
    let count = buf.len().min(data.len() - start);
    buf[..count].copy_from_slice(&data[start..start + count]);
    count
}

fn not_found() -> io::Error {
    io::Error::from(io::ErrorKind::NotFound)
}

impl Disk for SimDisk {
    fn create_segment(&mut self, id: SegmentId, len: u64, recycle: Option<SegmentId>) {
        self.push(Operation::CreateSegment { id, len, recycle });
    }

    fn reopen_segment(&mut self, id: SegmentId, _: u64) {
        self.push(Operation::ReopenSegment(id));
    }

    fn store(&mut self, id: SegmentId, offset: u64, data: Buffer) {
        if self.failed {
            return;
        }
        let moment = self.now();
        let segment = self.segments.get_mut(&id);
        let segment = segment.expect("a store into a segment that is not ready");
        segment.store(moment, offset as usize, &data);
    }

    fn sync(&mut self) -> SyncToken {
        let moment = self.now();
        self.last_token.0 += 1;
        self.syncs.push_back((moment, self.last_token));
        self.last_token
    }

    fn remove_segment(&mut self, id: SegmentId) {
        self.push(Operation::RemoveSegment(id));
    }

    fn create_file(&mut self, id: FileId) {
        self.push(Operation::CreateFile(id));
    }

    fn append_file(&mut self, id: FileId, data: Bytes) {
        self.push(Operation::AppendFile(id, data));
    }

    fn finish_file(&mut self, id: FileId, final_id: FileId) {
        self.push(Operation::FinishFile(id, final_id));
    }

    fn read_file(&mut self, id: FileId, offset: u64, len: usize) {
        self.push(Operation::ReadFile(id, offset, len));
    }

    fn remove_file(&mut self, id: FileId) {
        self.push(Operation::RemoveFile(id));
    }

    fn segments(&mut self) -> io::Result<Vec<SegmentInfo>> {
        Ok(self
            .segments
            .iter()
            .map(|(id, segment)| SegmentInfo {
                id: *id,
                len: segment.durable.len() as u64,
            })
            .collect())
    }

    fn files(&mut self) -> io::Result<Vec<FileInfo>> {
        Ok(self
            .files
            .iter()
            .map(|(id, file)| FileInfo {
                id: *id,
                len: file.data.len() as u64,
            })
            .collect())
    }

    fn recover_segment(&mut self, id: SegmentId, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        let segment = self.segments.get(&id).ok_or_else(not_found)?;
        Ok(read_at(&segment.durable, offset, buf))
    }

    fn recover_file(&mut self, id: FileId, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        let file = self.files.get(&id).ok_or_else(not_found)?;
        Ok(read_at(&file.data, offset, buf))
    }
}
