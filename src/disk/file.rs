//! The disk of a running node: a data directory, and the threads that do the work.
//!
//! | thread | does |
//! |---|---|
//! | `log-writer` | stores into the segments, syncs them |
//! | `segment-maker` | makes, recycles and removes segments |
//! | `file-writer` | writes and reads snapshots and other whole files |
//! | `file-remover` | gives the room of large files back, a piece at a time |
//! | `dir-watch` | notices a directory that vanishes |
//!
//! They report to a sink that comes with [`FileDisk::open`]. Dropping the disk does all
//! that was asked for, syncs the log and ends the threads.

use std::fs::{self, File};
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use bytes::Bytes;
use crossbeam_channel::bounded;

use super::data_dir::DataDir;
use super::dir_watch::DirWatch;
use super::file_name::{self, parse_file, parse_segment};
use super::file_remover::{self, FileRemover, Removals};
use super::file_system::Stores;
use super::file_writer::{self, FileOperation, FileWriter, read_at};
use super::log_writer::{self, LogOperation, LogWriter, Room};
use super::segment_maker::{self, MakerOperation, SegmentMaker, drop_from_cache};
use super::worker::{EventSink, Lane, Reporter};
use super::{Disk, FileId, FileInfo, SegmentId, SegmentInfo, SyncToken};
use crate::mem::Buffer;

/// How many segments may wait to be taken by the log writer; the log asks for one at a time.
const MADE_MAX: usize = 16;

/// Files in a data directory; see the module's description.
#[derive(Debug)]
pub struct FileDisk {
    log: Lane<LogOperation>,
    maker: Lane<MakerOperation>,
    files: Lane<FileOperation>,
    removed: Lane<PathBuf>,
    room: Arc<Room>,
    watch: DirWatch,
    last_token: SyncToken,
    /// What recovery reads from, opened once: its name and its handle.
    reading: Option<(String, File)>,
    dir: DataDir,
}

impl FileDisk {
    /// Starts the threads; `sink` gets what they report, and must not block.
    ///
    /// # Errors
    /// When a thread cannot be started.
    pub fn open(dir: DataDir, sink: EventSink) -> io::Result<FileDisk> {
        let reporter = Reporter::new(sink);
        let path = dir.path().to_path_buf();
        let stores = Stores::of(&path);
        let (made_sender, made) = bounded(MADE_MAX);
        let maker = Lane::start("segment-maker", segment_maker::QUEUE_MAX, &reporter, {
            let (dir, reporter) = (path.clone(), reporter.clone());
            move |operations| {
                let maker = SegmentMaker {
                    dir,
                    stores,
                    operations,
                    made: made_sender,
                    reporter,
                };
                maker.run();
            }
        })?;
        let ending = Arc::new(AtomicBool::new(false));
        let room = Arc::new(Room::default());
        let log = Lane::start("log-writer", log_writer::QUEUE_MAX, &reporter, {
            let (maker, reporter) = (maker.handle(), reporter.clone());
            let (room, ending) = (room.clone(), ending.clone());
            move |operations| LogWriter::new(operations, made, maker, reporter, room, ending).run()
        })?;
        let removed = Lane::start("file-remover", file_remover::QUEUE_MAX, &reporter, {
            let (reporter, ending) = (reporter.clone(), ending.clone());
            move |operations| {
                let remover = FileRemover {
                    operations,
                    reporter,
                    ending,
                };
                remover.run();
            }
        })?;
        let files = Lane::start("file-writer", file_writer::QUEUE_MAX, &reporter, {
            let (path, reporter) = (path.clone(), reporter.clone());
            let removals = Removals::new(removed.handle());
            move |operations| FileWriter::new(path, operations, removals, reporter).run()
        })?;
        let watch = DirWatch::start(&path, reporter, ending)?;
        Ok(FileDisk {
            log,
            maker,
            files,
            removed,
            room,
            watch,
            last_token: SyncToken::default(),
            reading: None,
            dir,
        })
    }

    /// The directory.
    #[must_use]
    pub fn data_dir(&self) -> &DataDir {
        &self.dir
    }

    /// Names of the threads that have something to do.
    #[cfg(test)]
    pub(super) fn busy(&self) -> Vec<&'static str> {
        let lanes = [
            ("log-writer", self.log.is_busy()),
            ("segment-maker", self.maker.is_busy()),
            ("file-writer", self.files.is_busy()),
            ("file-remover", self.removed.is_busy()),
        ];
        let busy = lanes.into_iter().filter(|(_, is_busy)| *is_busy);
        busy.map(|(name, _)| name).collect()
    }

    fn list<T>(&self, parse: impl Fn(&str) -> Option<T>) -> io::Result<Vec<(T, u64)>> {
        let mut found = Vec::new();
        for entry in fs::read_dir(self.dir.path())? {
            let entry = entry?;
            if let Some(id) = entry.file_name().to_str().and_then(&parse) {
                found.push((id, entry.metadata()?.len()));
            }
        }
        Ok(found)
    }

    /// Reads from the device: the file is brought there first, if a killed process left
    /// it in the page cache only, and then dropped from the cache.
    fn recover(&mut self, name: String, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        let file = match &self.reading {
            Some((open, file)) if *open == name => file,
            _ => {
                let path: PathBuf = self.dir.path().join(&name);
                let file = File::open(&path)?;
                drop_from_cache(&file, &path)?;
                &self.reading.insert((name, file)).1
            }
        };
        read_at(file, buf, offset)
    }
}

impl Drop for FileDisk {
    fn drop(&mut self) {
        // It also tells the others that the end has come.
        self.watch.close();
        // The log writer first: it hands on to the maker, as the file writer to the remover.
        self.log.close();
        self.maker.close();
        self.files.close();
        self.removed.close();
    }
}

impl Disk for FileDisk {
    fn create_segment(&mut self, id: SegmentId, len: u64, recycle: Option<SegmentId>) {
        // Recovery is over: an open handle would keep a removed file alive.
        self.reading = None;
        match recycle {
            // Not before the log writer has let go of it.
            Some(old) => self.log.push(LogOperation::Release {
                id: old,
                then: MakerOperation::Recycle {
                    id,
                    len,
                    old,
                    map: None,
                },
            }),
            None => self.maker.push(MakerOperation::Create { id, len }),
        }
    }

    fn reopen_segment(&mut self, id: SegmentId, len: u64) {
        self.reading = None;
        self.maker.push(MakerOperation::Reopen { id, len });
    }

    fn store(&mut self, id: SegmentId, offset: u64, data: Buffer) {
        // A sync follows at once.
        self.log
            .push_quiet(LogOperation::Store { id, offset, data });
    }

    fn sync(&mut self) -> SyncToken {
        self.last_token.0 += 1;
        self.log.push(LogOperation::Sync(self.last_token));
        self.last_token
    }

    fn remove_segment(&mut self, id: SegmentId) {
        self.log.push(LogOperation::Release {
            id,
            then: MakerOperation::Remove(id),
        });
    }

    fn create_file(&mut self, id: FileId) {
        self.files.push(FileOperation::Create(id));
    }

    fn append_file(&mut self, id: FileId, data: Bytes) {
        self.files.push(FileOperation::Append(id, data));
    }

    fn finish_file(&mut self, id: FileId, final_id: FileId) {
        self.files.push(FileOperation::Finish(id, final_id));
    }

    fn read_file(&mut self, id: FileId, offset: u64, len: usize) {
        self.files.push(FileOperation::Read(id, offset, len));
    }

    fn remove_file(&mut self, id: FileId) {
        self.files.push(FileOperation::Remove(id));
    }

    fn lacks_room(&self) -> bool {
        self.room.is_lacking()
    }

    fn poll(&mut self) {
        self.log.poll();
        self.maker.poll();
        self.files.poll();
    }

    fn segments(&mut self) -> io::Result<Vec<SegmentInfo>> {
        let found = self.list(parse_segment)?;
        let mut infos: Vec<SegmentInfo> = found
            .into_iter()
            .map(|(id, len)| SegmentInfo { id, len })
            .collect();
        infos.sort_unstable_by_key(|info| info.id);
        Ok(infos)
    }

    fn files(&mut self) -> io::Result<Vec<FileInfo>> {
        let found = self.list(parse_file)?;
        let mut infos: Vec<FileInfo> = found
            .into_iter()
            .map(|(id, len)| FileInfo { id, len })
            .collect();
        infos.sort_unstable_by_key(|info| info.id);
        Ok(infos)
    }

    fn recover_segment(&mut self, id: SegmentId, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        self.recover(file_name::segment(id), offset, buf)
    }

    fn recover_file(&mut self, id: FileId, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        self.recover(file_name::file(id), offset, buf)
    }
}
