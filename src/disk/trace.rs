//! The real disk in a test that knows every state a power failure may leave it in.
//!
//! The threads of a [`FileDisk`] take their operations one at a time, when the test gives one of
//! them its turn, and each call that they make of the system is recorded (`calls.rs`). The records
//! are then replayed, a call at a time, on a model of the file system that keeps apart what is on
//! the device and what is not, for the content of files (page by page, each with all versions
//! since its last sync) and for names (each change of the directory since its last sync).
//! [`Trace::crash_states`] goes through what may be left after each call, all of it up to a bound
//! and a random part above.
//!
//! Names may be lost independently of each other, as POSIX allows: of two removals
//! without a sync of the directory only the later may have happened.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use super::calls::{Done, Watcher, adopt};
use super::data_dir::node_path;
use super::file_name::{is_stale_draft, parse_file, parse_segment};
use super::file_system::FORCE_WRITTEN;
use super::{DataDir, DiskEvent, FileDisk, Meta, SimDisk};
use crate::types::NodeId;

/// The unit in which a sync writes back.
const PAGE_BYTES: usize = 4096;
/// The unit that a device writes in full or not at all.
const SECTOR_BYTES: usize = 512;
/// The node whose directory it is.
const NODE: NodeId = NodeId(1);
/// Time limit for one operation of a thread.
const TURN_MAX: Duration = Duration::from_secs(60);

/// A change of the directory.
#[derive(Clone, Debug)]
enum Change {
    Link(String, usize),
    Unlink(String),
    Rename {
        from: String,
        to: String,
        file: usize,
    },
}

type Names = BTreeMap<String, usize>;

fn change(names: &mut Names, what: &Change) {
    match what {
        Change::Link(name, file) => {
            names.insert(name.clone(), *file);
        }
        Change::Unlink(name) => {
            names.remove(name);
        }
        Change::Rename { from, to, file } => {
            if names.get(from) == Some(file) {
                names.remove(from);
            }
            names.insert(to.clone(), *file);
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

    /// Brings the pages that these bytes lie in to the device.
    fn sync(&mut self, bytes: std::ops::Range<usize>) {
        let pages = bytes.start / PAGE_BYTES..bytes.end.div_ceil(PAGE_BYTES);
        let mut synced = self.unsynced.split_off(&pages.start);
        self.unsynced.append(&mut synced.split_off(&pages.end));
        for (page, mut versions) in synced {
            let version = versions
                .pop()
                .expect("a page is there with its first version");
            self.keep(page, &version, 0..PAGE_BYTES / SECTOR_BYTES);
        }
    }

    /// On the device too: at worst it is there before all that was done earlier.
    fn truncate(&mut self, len: usize) {
        self.cached.truncate(len);
        self.durable.truncate(len);
        self.unsynced.retain(|page, versions| {
            let keep = len.saturating_sub(page * PAGE_BYTES);
            versions
                .iter_mut()
                .for_each(|version| version.truncate(keep));
            keep > 0
        });
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

/// A file system, as far as the disk's threads have changed it.
#[derive(Debug, Default)]
struct Model {
    files: Vec<Content>,
    names: Names,
    durable_names: Names,
    changes: Vec<Change>,
}

/// A choice that a crash makes.
#[derive(Clone, Copy, Debug)]
enum Choice {
    /// Whether this change of the directory is kept.
    Change(usize),
    /// Which version of this page of this file is kept, if any.
    Page(usize, usize),
}

impl Model {
    fn apply(&mut self, done: Done) {
        match done {
            Done::Create(name) => {
                self.files.push(Content::default());
                self.change(Change::Link(name, self.files.len() - 1));
            }
            Done::Write(name, offset, data) => self.file(&name).write(offset as usize, &data),
            Done::Sync(name, bytes) => self.file(&name).sync(bytes),
            Done::Truncate(name, len) => self.file(&name).truncate(len as usize),
            Done::Rename(from, to) => {
                let file = self.names[&from];
                self.change(Change::Rename { from, to, file });
            }
            Done::Unlink(name) => self.change(Change::Unlink(name)),
            Done::SyncDirectory => {
                self.durable_names = self.names.clone();
                self.changes.clear();
            }
        }
    }

    fn file(&mut self, name: &str) -> &mut Content {
        &mut self.files[self.names[name]]
    }

    fn change(&mut self, what: Change) {
        change(&mut self.names, &what);
        self.changes.push(what);
    }

    /// What is open in a crash, with the number of outcomes of each.
    fn choices(&self) -> Vec<(Choice, usize)> {
        let mut may_be_there = BTreeSet::new();
        // A draft is gone at the next start, whatever is in it.
        let mut see = |name: &str, file: usize| {
            if !is_stale_draft(name) {
                may_be_there.insert(file);
            }
        };
        for (name, file) in &self.durable_names {
            see(name, *file);
        }
        let mut choices = Vec::new();
        for (at, what) in self.changes.iter().enumerate() {
            match what {
                Change::Link(name, file) => see(name, *file),
                Change::Rename { to, file, .. } => see(to, *file),
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

    fn crash_states(
        &self,
        bound: usize,
        coin: &mut dyn FnMut() -> u64,
        mut look: impl FnMut(SimDisk),
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
    fn crashed(&self, picks: Vec<(Choice, usize, bool)>, coin: &mut dyn FnMut() -> u64) -> SimDisk {
        let mut names = self.durable_names.clone();
        let mut kept: BTreeMap<usize, Content> = BTreeMap::new();
        let content = |file: usize| Content {
            durable: self.files[file].durable.clone(),
            ..Content::default()
        };
        for (choice, pick, torn) in picks {
            match choice {
                Choice::Change(at) if pick == 1 => change(&mut names, &self.changes[at]),
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
        disk_with(&names, |file| {
            let left = kept.get(&file).map(|kept| kept.durable.clone());
            left.unwrap_or_else(|| self.files[file].durable.clone())
        })
    }
}

/// A disk with these files, but for drafts, which are gone at a start.
fn disk_with(names: &Names, content: impl Fn(usize) -> Vec<u8>) -> SimDisk {
    let (mut segments, mut files) = (BTreeMap::new(), BTreeMap::new());
    for (name, file) in names.iter().filter(|(name, _)| !is_stale_draft(name)) {
        if let Some(id) = parse_segment(name) {
            segments.insert(id, content(*file));
        } else {
            let id = parse_file(name).expect("a name that a start knows");
            files.insert(id, content(*file));
        }
    }
    SimDisk::of(segments, files)
}

/// A recorded call, or an event that was reported.
#[derive(Debug)]
enum Record {
    Done(Done),
    Event(DiskEvent),
}

/// The thread whose turn it is, and the records so far.
#[derive(Debug, Default)]
struct Turns {
    given: Option<&'static str>,
    running: Option<&'static str>,
    closed: bool,
    records: VecDeque<Record>,
}

/// Gives the threads of one disk their turns, and keeps what they do.
#[derive(Debug, Default)]
struct Recorder {
    turns: Mutex<Turns>,
    changed: Condvar,
}

impl Recorder {
    fn turns(&self) -> MutexGuard<'_, Turns> {
        self.turns.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn record(&self, record: Record) {
        let mut turns = self.turns();
        if !turns.closed {
            turns.records.push_back(record);
        }
    }

    /// Gives this thread its turn for one operation, and waits for the end of that.
    fn run(&self, thread: &'static str) {
        let mut turns = self.turns();
        turns.given = Some(thread);
        self.changed.notify_all();
        let in_work = |turns: &mut Turns| turns.given.is_some() || turns.running.is_some();
        let waited = self.changed.wait_timeout_while(turns, TURN_MAX, in_work);
        let (_turns, timeout) = waited.unwrap_or_else(PoisonError::into_inner);
        assert!(!timeout.timed_out(), "{thread} does not end its operation");
    }
}

impl Watcher for Recorder {
    fn did(&self, done: Done) {
        self.record(Record::Done(done));
    }

    fn turn(&self) -> bool {
        let thread = thread::current();
        let name = thread.name().expect("the disk's threads have names");
        let mut turns = self.turns();
        if turns.running == Some(name) {
            turns.running = None;
            self.changed.notify_all();
        }
        let not_yet = |turns: &mut Turns| !turns.closed && turns.given != Some(name);
        let waited = self.changed.wait_while(turns, not_yet);
        turns = waited.unwrap_or_else(PoisonError::into_inner);
        turns.running = turns.given.take();
        !turns.closed
    }

    /// As if the process were killed: the threads take nothing more.
    fn close(&self) {
        self.turns().closed = true;
        self.changed.notify_all();
    }
}

/// Outcome of one call of a thread.
#[derive(Debug)]
pub(crate) enum Step {
    /// It has changed something: another crash may leave another state now.
    Call,
    /// It is through, and the node is told.
    Event(DiskEvent),
}

/// The threads of one disk after the other on one directory; see the module's description.
pub(crate) struct Trace {
    model: Model,
    recorder: Arc<Recorder>,
    dir: tempfile::TempDir,
    /// Segments are written, as on a file system that copies on write.
    is_written: bool,
}

impl fmt::Debug for Trace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Trace").finish_non_exhaustive()
    }
}

impl Trace {
    /// A disk on an empty directory, with segments that are written or mapped.
    pub(crate) fn begin(is_written: bool) -> (Trace, FileDisk) {
        let memory = Path::new("/dev/shm");
        let dir = if memory.is_dir() {
            tempfile::tempdir_in(memory)
        } else {
            tempfile::tempdir()
        };
        let mut trace = Trace {
            model: Model::default(),
            recorder: Arc::default(),
            dir: dir.expect("a temporary directory"),
            is_written,
        };
        let disk = trace.open();
        let text = fs::read(trace.meta_path()).expect("it is there");
        let (name, len) = ("meta".to_owned(), text.len());
        for done in [
            Done::Create(name.clone()),
            Done::Write(name.clone(), 0, text),
            Done::Sync(name, 0..len),
            Done::SyncDirectory,
        ] {
            trace.model.apply(done);
        }
        (trace, disk)
    }

    fn meta_path(&self) -> PathBuf {
        node_path(self.dir.path(), NODE).join("meta")
    }

    /// The description of the directory, which is there before anything is recorded.
    pub(crate) fn meta(&self) -> Meta {
        let text = fs::read_to_string(self.meta_path());
        Meta::read(&text.expect("it is there")).expect("our own")
    }

    /// The process is killed, and the machine runs on: another one opens what is there.
    pub(crate) fn kill(&mut self, disk: FileDisk) -> FileDisk {
        drop(disk);
        while self.replay().is_some() {}
        self.open()
    }

    fn open(&mut self) -> FileDisk {
        let recorder: Arc<Recorder> = Arc::default();
        self.recorder = recorder.clone();
        adopt(Some(recorder.clone()));
        let dir = DataDir::open(self.dir.path(), NODE, 7);
        // Drafts are gone by now.
        self.model.names.retain(|name, _| !is_stale_draft(name));
        let sink = move |event| recorder.record(Record::Event(event));
        let dir = dir.expect("a directory of our own");
        FORCE_WRITTEN.set(self.is_written);
        let disk = FileDisk::open(dir, Arc::new(sink)).expect("threads start");
        FORCE_WRITTEN.set(false);
        disk
    }

    /// The next call of one of the threads that have something to do, drawn by `coin`; `None`
    /// if none has.
    pub(crate) fn step(&mut self, disk: &FileDisk, coin: &mut dyn FnMut() -> u64) -> Option<Step> {
        loop {
            if let Some(step) = self.replay() {
                return Some(step);
            }
            let busy = disk.busy();
            if busy.is_empty() {
                return None;
            }
            self.recorder.run(busy[(coin() >> 1) as usize % busy.len()]);
        }
    }

    /// Replays what was recorded up to the next event, or the next call that leaves something
    /// else to a start.
    fn replay(&mut self) -> Option<Step> {
        loop {
            let record = self.recorder.turns().records.pop_front();
            match record? {
                Record::Event(event) => return Some(Step::Event(event)),
                Record::Done(done) => {
                    let on_draft = match &done {
                        Done::Create(name)
                        | Done::Write(name, ..)
                        | Done::Sync(name, _)
                        | Done::Truncate(name, _)
                        | Done::Unlink(name) => is_stale_draft(name),
                        Done::Rename(..) | Done::SyncDirectory => false,
                    };
                    self.model.apply(done);
                    if !on_draft {
                        return Some(Step::Call);
                    }
                }
            }
        }
    }

    /// Calls `look` with what a power failure may leave now: with all of it if that is no
    /// more than `bound`, else with as many drawn by `coin`, pages torn between sectors
    /// among them, and with the two extremes. Returns how many.
    pub(crate) fn crash_states(
        &self,
        bound: usize,
        coin: &mut dyn FnMut() -> u64,
        look: impl FnMut(SimDisk),
    ) -> usize {
        self.model.crash_states(bound, coin, look)
    }

    /// All that was done, synced or not, as a killed process leaves it.
    pub(crate) fn cached(&self) -> SimDisk {
        disk_with(&self.model.names, |file| {
            self.model.files[file].cached.clone()
        })
    }

    /// Compares the model with the files that are there.
    pub(crate) fn check_model(&self, disk: &FileDisk) {
        for (name, file) in &self.model.names {
            let found = fs::read(disk.data_dir().path().join(name)).expect("it exists");
            assert!(found == self.model.files[*file].cached, "{name} differs");
        }
    }
}

impl Drop for Trace {
    fn drop(&mut self) {
        adopt(None);
    }
}
