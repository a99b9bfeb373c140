//! The thread that gives the room of large files back, a piece at a time.
//!
//! To free a hundred megabytes at once takes a file system tens of milliseconds, in which
//! the log's syncs wait: the more so where freed blocks are discarded on the device.
//! So a file gets a name that stands for nothing, on disk, and is then cut shorter in
//! steps. What is left of it when the process ends goes at the next start.

use std::fs::{self, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use super::calls;
use super::data_dir::sync_directory;
use super::worker::{Handle, Operations, Reporter};
use super::{file_name, is_no_space};

/// How much is freed in one step; little in tests, so that small files are removed in steps.
const STEP_BYTES: u64 = if cfg!(test) { 4 << 10 } else { 4 << 20 };
/// How long the file system has for others between two steps.
const PAUSE: Duration = Duration::from_millis(4);
pub(super) const QUEUE_MAX: usize = 64;

/// The way to the thread, for who removes files.
#[derive(Debug)]
pub(super) struct Removals {
    remover: Handle<PathBuf>,
    /// Of files that were renamed so far.
    count: u64,
}

impl Removals {
    pub(super) fn new(remover: Handle<PathBuf>) -> Removals {
        Removals { remover, count: 0 }
    }

    /// Removes `name` from the directory, if it is there. It is gone for who looks; its room
    /// comes back later, if it is large.
    pub(super) fn remove(&mut self, dir: &Path, name: &str) -> io::Result<()> {
        let path = dir.join(name);
        match fs::metadata(&path) {
            Ok(found) if found.len() > STEP_BYTES => {}
            _ => return remove_if_there(&path),
        }
        let unnamed = dir.join(file_name::removed(self.count));
        self.count += 1;
        match calls::rename("rename removed", &path, &unnamed) {
            Err(error) if is_no_space(&error) => return remove_if_there(&path),
            renamed => renamed?,
        }
        // Else a crash could leave a part of the file under its name.
        sync_directory(dir)?;
        self.remover.send(unnamed);
        Ok(())
    }
}

/// The state of the thread.
#[derive(Debug)]
pub(super) struct FileRemover {
    pub(super) operations: Operations<PathBuf>,
    pub(super) reporter: Reporter,
    /// Set when the process is about to end: nothing large is begun then.
    pub(super) ending: Arc<AtomicBool>,
}

impl FileRemover {
    pub(super) fn run(self) {
        while let Some(path) = self.operations.next() {
            if let Err(error) = self.remove(&path) {
                self.reporter
                    .fail(format!("remove {}", path.display()), &error);
            }
        }
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let file = calls::open("open removed", OpenOptions::new().write(true), path)?;
        let mut len = file.metadata()?.len();
        while len > STEP_BYTES {
            // ORDERING: Relaxed; the flag guards no other memory, and one step more does no harm.
            if self.ending.load(Ordering::Relaxed) || self.reporter.has_failed() {
                return Ok(());
            }
            len -= STEP_BYTES;
            match calls::truncate(&file, path, len) {
                // Some file systems need room to make some.
                Err(error) if is_no_space(&error) => break,
                cut => cut?,
            }
            thread::sleep(PAUSE);
        }
        remove_if_there(path)
    }
}

pub(super) fn remove_if_there(path: &Path) -> io::Result<()> {
    match calls::unlink(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result,
    }
}
