//! The thread that writes and reads whole files: snapshots, and what is known of the
//! peers.
//!
//! A long file is brought to the disk while it is written, a piece at a time: if all
//! of it were left to the last sync, the log's syncs would wait behind it. The system is
//! told to begin with each piece at once, which waits for nothing; a sync, which has the
//! file system write its journal and so holds up the log, comes after many.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use bytes::Bytes;
use rustix::fs::Advice;

use super::calls;
use super::data_dir::sync_directory;
use super::file_remover::{Removals, remove_if_there};
use super::worker::{Operations, Reporter};
use super::{DiskEvent, FileId, file_name, is_no_space, write_back};
use crate::mutation::mutated;

/// How much is written before the system is told to bring it to the disk. Larger pieces
/// hold up the log's syncs for as long as the device takes for one.
const PUSH_BYTES: u64 = if cfg!(test) { 2 << 10 } else { 128 << 10 };
/// Bytes that are written before they are waited for; in tests more than a small snapshot has.
const SYNC_BYTES: u64 = if cfg!(test) { 5 << 10 } else { 16 << 20 };
pub(super) const QUEUE_MAX: usize = 1024;

/// What the file writer is asked to do, in order.
#[derive(Debug)]
pub(super) enum FileOperation {
    Create(FileId),
    Append(FileId, Bytes),
    Finish(FileId, FileId),
    Read(FileId, u64, usize),
    Remove(FileId),
}

#[derive(Debug)]
struct OpenFile {
    file: File,
    path: PathBuf,
    len: u64,
    /// Up to where the system was told to bring it to the disk.
    pushed: u64,
    /// Up to where it is there.
    synced: u64,
}

impl OpenFile {
    fn new(file: File, path: PathBuf, len: u64) -> OpenFile {
        OpenFile {
            file,
            path,
            len,
            pushed: len,
            synced: len,
        }
    }

    /// Brings what was written to the disk, if it is enough.
    fn bring(&mut self) -> io::Result<()> {
        if self.len - self.pushed < PUSH_BYTES {
            return Ok(());
        }
        calls::before("write back")?;
        write_back::begin(&self.file, self.pushed..self.len)?;
        self.pushed = self.len;
        if self.len - self.synced >= SYNC_BYTES {
            calls::sync(&self.file, &self.path, false)?;
            self.synced = self.len;
            // Others need the memory more: it is read again once, if at all.
            calls::before("advise")?;
            rustix::fs::fadvise(&self.file, 0, None, Advice::DontNeed)?;
        }
        Ok(())
    }
}

/// The state of the thread.
#[derive(Debug)]
pub(super) struct FileWriter {
    dir: PathBuf,
    operations: Operations<FileOperation>,
    removals: Removals,
    reporter: Reporter,
    open: BTreeMap<FileId, OpenFile>,
    /// There was no room for them; what is still appended is dropped.
    refused: BTreeSet<FileId>,
}

impl FileWriter {
    pub(super) fn new(
        dir: PathBuf,
        operations: Operations<FileOperation>,
        removals: Removals,
        reporter: Reporter,
    ) -> FileWriter {
        FileWriter {
            dir,
            operations,
            removals,
            reporter,
            open: BTreeMap::new(),
            refused: BTreeSet::new(),
        }
    }

    pub(super) fn run(mut self) {
        while let Some(operation) = self.operations.next() {
            if self.reporter.has_failed() {
                continue;
            }
            // What is there does not go for lack of room.
            let writes = !matches!(
                operation,
                FileOperation::Read(..) | FileOperation::Remove(_)
            );
            let (id, result) = match operation {
                FileOperation::Create(id) => (id, self.create(id)),
                FileOperation::Append(id, data) => (id, self.append(id, &data)),
                FileOperation::Finish(id, final_id) => (id, self.finish(id, final_id)),
                FileOperation::Read(id, offset, len) => (id, self.read(id, offset, len)),
                FileOperation::Remove(id) => (id, self.remove(id)),
            };
            match result {
                Ok(Some(event)) => self.reporter.report(event),
                Ok(None) => {}
                Err(error) if writes && is_no_space(&error) => self.refuse(id),
                Err(error) => self.fail(id, &error),
            }
        }
    }

    fn path(&self, id: FileId) -> PathBuf {
        self.dir.join(file_name::file(id))
    }

    fn fail(&self, id: FileId, error: &io::Error) {
        let what = format!("file {}", self.path(id).display());
        self.reporter.fail(what, error);
    }

    fn refuse(&mut self, id: FileId) {
        self.open.remove(&id);
        self.refused.insert(id);
        match remove_if_there(&self.path(id)) {
            Ok(()) => self.reporter.report(DiskEvent::FileNoSpace(id)),
            Err(error) => self.fail(id, &error),
        }
    }

    fn create(&mut self, id: FileId) -> io::Result<Option<DiskEvent>> {
        self.refused.remove(&id);
        self.open.remove(&id);
        let file = calls::create(&self.path(id))?;
        self.open.insert(id, OpenFile::new(file, self.path(id), 0));
        Ok(None)
    }

    /// The file, opened if it exists and was not begun in this run.
    fn open(&mut self, id: FileId) -> io::Result<Option<&mut OpenFile>> {
        if !self.open.contains_key(&id) {
            let opened = calls::open("open", OpenOptions::new().write(true), &self.path(id));
            let file = match opened {
                Ok(file) => file,
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
                Err(error) => return Err(error),
            };
            let len = file.metadata()?.len();
            self.open
                .insert(id, OpenFile::new(file, self.path(id), len));
        }
        Ok(self.open.get_mut(&id))
    }

    fn append(&mut self, id: FileId, data: &[u8]) -> io::Result<Option<DiskEvent>> {
        if self.refused.contains(&id) {
            return Ok(None);
        }
        let Some(open) = self.open(id)? else {
            return Ok(None);
        };
        calls::write_all_at(&open.file, &open.path, data, open.len)?;
        open.len += data.len() as u64;
        open.bring()?;
        let len = open.len;
        Ok(Some(DiskEvent::FileAppended { id, len }))
    }

    fn finish(&mut self, id: FileId, final_id: FileId) -> io::Result<Option<DiskEvent>> {
        if self.refused.contains(&id) {
            return Ok(None);
        }
        let Some(open) = self.open(id)? else {
            return Ok(None);
        };
        if !mutated!(RenamedUnsynced) {
            calls::sync(&open.file, &open.path, true)?;
        }
        self.open.remove(&id);
        calls::rename("rename", &self.path(id), &self.path(final_id))?;
        if !mutated!(RenameNotSynced) {
            sync_directory(&self.dir)?;
        }
        Ok(Some(DiskEvent::FileFinished(final_id)))
    }

    fn read(&mut self, id: FileId, offset: u64, len: usize) -> io::Result<Option<DiskEvent>> {
        let mut data = Vec::new();
        match calls::open("open", OpenOptions::new().read(true), &self.path(id)) {
            Ok(file) => {
                let left = file.metadata()?.len().saturating_sub(offset);
                data.resize(len.min(usize::try_from(left).unwrap_or(usize::MAX)), 0);
                let mut done = 0;
                while done < data.len() {
                    match read_at(&file, &mut data[done..], offset + done as u64)? {
                        0 => break,
                        count => done += count,
                    }
                }
                data.truncate(done);
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        let data = Bytes::from(data);
        Ok(Some(DiskEvent::FileRead { id, offset, data }))
    }

    fn remove(&mut self, id: FileId) -> io::Result<Option<DiskEvent>> {
        self.open.remove(&id);
        self.refused.remove(&id);
        self.removals.remove(&self.dir, &file_name::file(id))?;
        Ok(None)
    }
}

/// Reads what there is at `offset`, once more if a signal came in between.
pub(super) fn read_at(file: &File, buf: &mut [u8], offset: u64) -> io::Result<usize> {
    loop {
        let len = calls::some("read", buf.len());
        match len.and_then(|len| file.read_at(&mut buf[..len], offset)) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            result => return result,
        }
    }
}
