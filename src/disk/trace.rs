//! A disk for tests that knows every state a power failure may leave it in.
//!
//! It does what [`FileDisk`](super::FileDisk)'s threads ask of the system, one call
//! at a time: the owner says whose turn it is. Behind it stands a file system that keeps
//! apart what is on the device and what is not, for the content of files (page by page,
//! each with all versions since its last sync) and for names (each operation on the
//! directory since its last sync). [`TraceDisk::crash_states`] goes through what may be
//! left, all of it up to a bound and a random part above.
//!
//! Names may be lost independently of each other, as POSIX allows: of two removals
//! without a sync of the directory only the later may have happened.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io;

use bytes::Bytes;

use super::{Disk, DiskEvent, FileId, FileInfo, SegmentId, SegmentInfo, SyncToken};
use crate::mem::Buffer;

/// What a sync writes back.
const PAGE_BYTES: usize = 4096;
/// What a device writes in full or not at all.
const SECTOR_BYTES: usize = 512;

/// A name in the data directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Name {
    Segment(SegmentId),
    SegmentDraft(SegmentId),
    File(FileId),
}

impl Name {
    /// Gone at the next start, whatever is in it: see `file_name::is_stale_draft`.
    fn is_draft(self) -> bool {
        matches!(
            self,
            Name::SegmentDraft(_) | Name::File(FileId::SnapshotDraft(_) | FileId::MetaDraft)
        )
    }
}

/// A change of the directory.
#[derive(Clone, Copy, Debug)]
enum Change {
    Link(Name, usize),
    Unlink(Name),
    Rename { from: Name, to: Name, file: usize },
}

type Names = BTreeMap<Name, usize>;

fn change(names: &mut Names, what: Change) {
    match what {
        Change::Link(name, file) => {
            names.insert(name, file);
        }
        Change::Unlink(name) => {
            names.remove(&name);
        }
        Change::Rename { from, to, file } => {
            if names.get(&from) == Some(&file) {
                names.remove(&from);
            }
            names.insert(to, file);
        }
    }
}

/// The content of a file.
#[derive(Clone, Debug, Default)]
struct Content {
    durable: Vec<u8>,
    cached: Vec<u8>,
    /// The versions of each page since the last sync, oldest first.
    unsynced: BTreeMap<usize, Vec<Vec<u8>>>,
}

impl Content {
    fn on_disk(durable: Vec<u8>) -> Content {
        Content {
            cached: durable.clone(),
            durable,
            unsynced: BTreeMap::new(),
        }
    }

    fn write(&mut self, offset: usize, data: &[u8]) {
        let end = offset + data.len();
        if self.cached.len() < end {
            self.cached.resize(end, 0);
        }
        self.cached[offset..end].copy_from_slice(data);
        for page in offset / PAGE_BYTES..end.div_ceil(PAGE_BYTES) {
            let start = page * PAGE_BYTES;
            let end = (start + PAGE_BYTES).min(self.cached.len());
            let version = self.cached[start..end].to_vec();
            self.unsynced.entry(page).or_default().push(version);
        }
    }

    fn sync(&mut self) {
        self.durable.clone_from(&self.cached);
        self.unsynced.clear();
    }

    /// A page, or one sector of it, made it to the device.
    fn keep(&mut self, page: usize, version: &[u8], sectors: std::ops::Range<usize>) {
        let from = (sectors.start * SECTOR_BYTES).min(version.len());
        let to = (sectors.end * SECTOR_BYTES).min(version.len());
        let start = page * PAGE_BYTES;
        if self.durable.len() < start + to {
            self.durable.resize(start + to, 0);
        }
        self.durable[start + from..start + to].copy_from_slice(&version[from..to]);
    }
}

/// What a thread of the disk does in one turn.
#[derive(Debug)]
enum Call {
    Store(SegmentId, usize, Buffer),
    SyncLog(SyncToken),
    Release(SegmentId, Box<Call>),
    Make {
        id: SegmentId,
        len: usize,
        recycle: Option<SegmentId>,
    },
    Reopen(SegmentId),
    RemoveSegment(SegmentId),
    Create(FileId),
    Append(FileId, Bytes),
    Finish(FileId, FileId),
    Read(FileId, u64, usize),
    Remove(FileId),
    /// The parts of the larger ones.
    Rename(Name, Name),
    SyncFile(FileId),
    SyncDirectory(DiskEvent),
}

/// The threads of the disk: each does what it is asked in order, none waits for another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lane {
    /// Stores into the log and syncs it.
    Log,
    /// Makes, recycles and removes segments.
    Maker,
    /// Whole files.
    Files,
}

/// All lanes.
pub(crate) const LANES: [Lane; 3] = [Lane::Log, Lane::Maker, Lane::Files];

/// The disk; see the module's description.
#[derive(Debug, Default)]
pub(crate) struct TraceDisk {
    files: Vec<Content>,
    names: Names,
    durable_names: Names,
    changes: Vec<Change>,
    log: VecDeque<Call>,
    maker: VecDeque<Call>,
    whole: VecDeque<Call>,
    last_token: SyncToken,
}

/// A choice that a crash makes.
#[derive(Clone, Copy, Debug)]
enum Choice {
    /// Whether this change of the directory is kept.
    Change(usize),
    /// Which version of this page of this file is kept, if any.
    Page(usize, usize),
}

impl TraceDisk {
    /// A disk with these segments and files and nothing else.
    pub(crate) fn of(
        segments: impl IntoIterator<Item = (SegmentId, Vec<u8>)>,
        files: impl IntoIterator<Item = (FileId, Vec<u8>)>,
    ) -> TraceDisk {
        let mut disk = TraceDisk::default();
        let segments = segments
            .into_iter()
            .map(|(id, bytes)| (Name::Segment(id), bytes));
        let files = files.into_iter().map(|(id, bytes)| (Name::File(id), bytes));
        for (name, bytes) in segments.chain(files) {
            disk.names.insert(name, disk.files.len());
            disk.files.push(Content::on_disk(bytes));
        }
        disk.durable_names = disk.names.clone();
        disk
    }

    /// What the segments hold, as the page cache has it.
    pub(crate) fn segment_images(&self) -> BTreeMap<SegmentId, Vec<u8>> {
        let images = self.names.iter().filter_map(|(name, file)| match name {
            Name::Segment(id) => Some((*id, self.files[*file].cached.clone())),
            _ => None,
        });
        images.collect()
    }

    /// What the whole files hold, as the page cache has it.
    pub(crate) fn file_images(&self) -> BTreeMap<FileId, Vec<u8>> {
        let images = self.names.iter().filter_map(|(name, file)| match name {
            Name::File(id) => Some((*id, self.files[*file].cached.clone())),
            _ => None,
        });
        images.collect()
    }

    /// The content of a segment, to be damaged.
    pub(crate) fn segment_mut(&mut self, id: SegmentId) -> Option<&mut Vec<u8>> {
        let file = *self.names.get(&Name::Segment(id))?;
        Some(&mut self.files[file].cached)
    }

    /// The content of a whole file, to be damaged.
    pub(crate) fn file_mut(&mut self, id: FileId) -> Option<&mut Vec<u8>> {
        let file = *self.names.get(&Name::File(id))?;
        Some(&mut self.files[file].cached)
    }

    fn queue(&mut self, lane: Lane) -> &mut VecDeque<Call> {
        match lane {
            Lane::Log => &mut self.log,
            Lane::Maker => &mut self.maker,
            Lane::Files => &mut self.whole,
        }
    }

    /// Whether a lane has something to do.
    pub(crate) fn pending(&self, lane: Lane) -> bool {
        match lane {
            Lane::Log => !self.log.is_empty(),
            Lane::Maker => !self.maker.is_empty(),
            Lane::Files => !self.whole.is_empty(),
        }
    }

    /// Makes one call of a lane.
    pub(crate) fn step(&mut self, lane: Lane) -> Option<DiskEvent> {
        let call = self.queue(lane).pop_front()?;
        match call {
            Call::Store(id, offset, data) => {
                let file = self.names[&Name::Segment(id)];
                self.files[file].write(offset, &data);
            }
            Call::SyncLog(token) => {
                for (name, file) in &self.names {
                    if matches!(name, Name::Segment(_)) {
                        self.files[*file].sync();
                    }
                }
                return Some(DiskEvent::Synced(token));
            }
            Call::Release(id, then) => {
                if let Some(file) = self.names.get(&Name::Segment(id)) {
                    self.files[*file].sync();
                }
                self.maker.push_back(*then);
            }
            Call::Make { id, len, recycle } => self.make(id, len, recycle),
            Call::Reopen(id) => return Some(DiskEvent::SegmentReady(id)),
            Call::RemoveSegment(id) => self.unlink(Name::Segment(id)),
            Call::Create(id) => {
                self.files.push(Content::default());
                let file = self.files.len() - 1;
                self.change(Change::Link(Name::File(id), file));
            }
            Call::Append(id, data) => {
                let file = &mut self.files[*self.names.get(&Name::File(id))?];
                file.write(file.cached.len(), &data);
                let len = file.cached.len() as u64;
                return Some(DiskEvent::FileAppended { id, len });
            }
            Call::Finish(id, final_id) => {
                self.whole
                    .push_front(Call::SyncDirectory(DiskEvent::FileFinished(final_id)));
                self.whole
                    .push_front(Call::Rename(Name::File(id), Name::File(final_id)));
                self.whole.push_front(Call::SyncFile(id));
            }
            Call::Read(id, offset, len) => {
                let mut data = vec![0; len];
                let file = self.names.get(&Name::File(id));
                let cached = file.map_or(&[][..], |file| &self.files[*file].cached);
                let count = read_at(cached, offset, &mut data);
                data.truncate(count);
                let data = Bytes::from(data);
                return Some(DiskEvent::FileRead { id, offset, data });
            }
            Call::Remove(id) => self.unlink(Name::File(id)),
            Call::Rename(from, to) => {
                let file = *self.names.get(&from)?;
                self.change(Change::Rename { from, to, file });
            }
            Call::SyncFile(id) => {
                let file = *self.names.get(&Name::File(id))?;
                self.files[file].sync();
            }
            Call::SyncDirectory(event) => {
                self.durable_names = self.names.clone();
                self.changes.clear();
                return Some(event);
            }
        }
        None
    }

    /// As the segment maker does it: written and synced under another name, or taken over.
    fn make(&mut self, id: SegmentId, len: usize, recycle: Option<SegmentId>) {
        let old = recycle.map(Name::Segment);
        let old = old.filter(|old| {
            let file = self.names.get(old).map(|file| &self.files[*file]);
            file.is_some_and(|file| file.cached.len() == len)
        });
        self.maker
            .push_front(Call::SyncDirectory(DiskEvent::SegmentReady(id)));
        if let Some(old) = old {
            self.maker.push_front(Call::Rename(old, Name::Segment(id)));
        } else {
            if let Some(useless) = recycle {
                self.unlink(Name::Segment(useless));
            }
            let draft = Name::SegmentDraft(id);
            self.files.push(Content::on_disk(vec![0; len]));
            self.change(Change::Link(draft, self.files.len() - 1));
            self.maker
                .push_front(Call::Rename(draft, Name::Segment(id)));
        }
    }

    fn change(&mut self, what: Change) {
        change(&mut self.names, what);
        self.changes.push(what);
    }

    fn unlink(&mut self, name: Name) {
        if self.names.contains_key(&name) {
            self.change(Change::Unlink(name));
        }
    }

    /// What is open in a crash, with the number of outcomes of each.
    fn choices(&self) -> Vec<(Choice, usize)> {
        let mut may_be_there = BTreeSet::new();
        let mut see = |name: Name, file: usize| {
            if !name.is_draft() {
                may_be_there.insert(file);
            }
        };
        for (name, file) in &self.durable_names {
            see(*name, *file);
        }
        let mut choices = Vec::new();
        for (at, what) in self.changes.iter().enumerate() {
            match *what {
                Change::Link(name, file) => see(name, file),
                Change::Rename { to, file, .. } => see(to, file),
                Change::Unlink(_) => {}
            }
            choices.push((Choice::Change(at), 2));
        }
        for file in may_be_there {
            for (page, versions) in &self.files[file].unsynced {
                choices.push((Choice::Page(file, *page), versions.len() + 1));
            }
        }
        choices
    }

    /// Calls `look` with what a power failure may leave now: with all of it if that is no
    /// more than `bound`, else with as many drawn by `coin`, pages torn between sectors
    /// among them, and with the two extremes. Returns how many.
    pub(crate) fn crash_states(
        &self,
        bound: usize,
        coin: &mut dyn FnMut() -> u64,
        mut look: impl FnMut(TraceDisk),
    ) -> usize {
        let choices = self.choices();
        let all = choices
            .iter()
            .try_fold(1_usize, |all, (_, outcomes)| all.checked_mul(*outcomes));
        if let Some(all) = all.filter(|all| *all <= bound) {
            for number in 0..all {
                let mut rest = number;
                let picks = choices.iter().map(|(choice, outcomes)| {
                    let pick = rest % outcomes;
                    rest /= outcomes;
                    (*choice, pick, false)
                });
                look(self.crashed(picks.collect(), &mut *coin));
            }
            return all;
        }
        for number in 0..bound {
            let picks = choices.iter().map(|(choice, outcomes)| {
                let pick = match number {
                    0 => 0,
                    1 => outcomes - 1,
                    _ => (coin() >> 1) as usize % outcomes,
                };
                (*choice, pick, number > 1 && coin() & 3 == 0)
            });
            let picks = picks.collect();
            look(self.crashed(picks, &mut *coin));
        }
        bound
    }

    /// The disk after a crash: each choice with its outcome, and whether the page is torn.
    fn crashed(
        &self,
        picks: Vec<(Choice, usize, bool)>,
        coin: &mut dyn FnMut() -> u64,
    ) -> TraceDisk {
        let mut names = self.durable_names.clone();
        let mut kept: BTreeMap<usize, Content> = BTreeMap::new();
        let content = |file: usize| Content::on_disk(self.files[file].durable.clone());
        for (choice, pick, torn) in picks {
            match choice {
                Choice::Change(at) if pick == 1 => change(&mut names, self.changes[at]),
                Choice::Page(file, page) if torn => {
                    let versions = &self.files[file].unsynced[&page];
                    let to = kept.entry(file).or_insert_with(|| content(file));
                    for sector in 0..PAGE_BYTES / SECTOR_BYTES {
                        let pick = (coin() >> 1) as usize % (versions.len() + 1);
                        if pick > 0 {
                            to.keep(page, &versions[pick - 1], sector..sector + 1);
                        }
                    }
                }
                Choice::Page(file, page) if pick > 0 => {
                    let version = &self.files[file].unsynced[&page][pick - 1];
                    let to = kept.entry(file).or_insert_with(|| content(file));
                    to.keep(page, version, 0..PAGE_BYTES / SECTOR_BYTES);
                }
                Choice::Change(_) | Choice::Page(..) => {}
            }
        }
        let mut disk = TraceDisk::default();
        for (name, file) in names.into_iter().filter(|(name, _)| !name.is_draft()) {
            let left = kept.get(&file).map(|kept| kept.durable.clone());
            let left = left.unwrap_or_else(|| self.files[file].durable.clone());
            disk.names.insert(name, disk.files.len());
            disk.files.push(Content::on_disk(left));
        }
        disk.durable_names = disk.names.clone();
        disk
    }
}

fn read_at(data: &[u8], offset: u64, buf: &mut [u8]) -> usize {
    let start = (offset as usize).min(data.len());
    let count = buf.len().min(data.len() - start);
    buf[..count].copy_from_slice(&data[start..start + count]);
    count
}

impl Disk for TraceDisk {
    fn create_segment(&mut self, id: SegmentId, len: u64, recycle: Option<SegmentId>) {
        let len = len as usize;
        let make = Call::Make { id, len, recycle };
        match recycle {
            Some(old) => self.log.push_back(Call::Release(old, Box::new(make))),
            None => self.maker.push_back(make),
        }
    }

    fn reopen_segment(&mut self, id: SegmentId, _: u64) {
        self.maker.push_back(Call::Reopen(id));
    }

    fn store(&mut self, id: SegmentId, offset: u64, data: Buffer) {
        self.log.push_back(Call::Store(id, offset as usize, data));
    }

    fn sync(&mut self) -> SyncToken {
        self.last_token.0 += 1;
        self.log.push_back(Call::SyncLog(self.last_token));
        self.last_token
    }

    fn remove_segment(&mut self, id: SegmentId) {
        let remove = Box::new(Call::RemoveSegment(id));
        self.log.push_back(Call::Release(id, remove));
    }

    fn create_file(&mut self, id: FileId) {
        self.whole.push_back(Call::Create(id));
    }

    fn append_file(&mut self, id: FileId, data: Bytes) {
        self.whole.push_back(Call::Append(id, data));
    }

    fn finish_file(&mut self, id: FileId, final_id: FileId) {
        self.whole.push_back(Call::Finish(id, final_id));
    }

    fn read_file(&mut self, id: FileId, offset: u64, len: usize) {
        self.whole.push_back(Call::Read(id, offset, len));
    }

    fn remove_file(&mut self, id: FileId) {
        self.whole.push_back(Call::Remove(id));
    }

    fn segments(&mut self) -> io::Result<Vec<SegmentInfo>> {
        let infos = self.names.iter().filter_map(|(name, file)| match name {
            Name::Segment(id) => Some(SegmentInfo {
                id: *id,
                len: self.files[*file].cached.len() as u64,
            }),
            _ => None,
        });
        Ok(infos.collect())
    }

    fn files(&mut self) -> io::Result<Vec<FileInfo>> {
        let infos = self.names.iter().filter_map(|(name, file)| match name {
            Name::File(id) => Some(FileInfo {
                id: *id,
                len: self.files[*file].cached.len() as u64,
            }),
            _ => None,
        });
        Ok(infos.collect())
    }

    fn recover_segment(&mut self, id: SegmentId, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        let file = self.names.get(&Name::Segment(id));
        let file = file.ok_or(io::ErrorKind::NotFound)?;
        Ok(read_at(&self.files[*file].cached, offset, buf))
    }

    fn recover_file(&mut self, id: FileId, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        let file = self.names.get(&Name::File(id));
        let file = file.ok_or(io::ErrorKind::NotFound)?;
        Ok(read_at(&self.files[*file].cached, offset, buf))
    }
}
