//! The thread that notices when the data directory has gone from under the node: removed,
//! unmounted, or replaced by another one.
//!
//! Nothing else would: files that are open or mapped stay usable without a name, and what is
//! written to them is lost with the process. The lock file stands for the directory, since
//! whatever happens to the directory happens to its path.

use std::fs;
use std::io::{self, ErrorKind};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use rustix::io::Errno;

use super::worker::Reporter;

/// Between two looks.
const PAUSE: Duration = Duration::from_millis(if cfg!(test) { 10 } else { 1_000 });

/// The thread; ends with [`DirWatch::close`].
#[derive(Debug)]
pub(super) struct DirWatch {
    thread: Option<JoinHandle<()>>,
    ending: Arc<AtomicBool>,
}

impl DirWatch {
    /// Starts to watch `dir`, which is locked.
    pub(super) fn start(
        dir: &Path,
        reporter: Reporter,
        ending: Arc<AtomicBool>,
    ) -> io::Result<DirWatch> {
        let lock = dir.join("lock");
        let own = identity(&lock)?;
        let stop = ending.clone();
        let watch = move || watch(&lock, own, &reporter, &stop);
        let thread = thread::Builder::new().name("dir-watch".into());
        Ok(DirWatch {
            thread: Some(thread.spawn(watch)?),
            ending,
        })
    }

    /// Ends the thread. It is not waited for: a look may hang as long as the file system does.
    pub(super) fn close(&mut self) {
        // ORDERING: Relaxed; the flag guards no other memory.
        self.ending.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
        }
    }
}

fn watch(lock: &Path, own: (u64, u64), reporter: &Reporter, ending: &AtomicBool) {
    // ORDERING: as in `close`.
    while !ending.load(Ordering::Relaxed) {
        let gone = match identity(lock) {
            Ok(found) if found == own => None,
            Ok(_) => Some("another directory has taken its place".to_owned()),
            Err(error) if is_gone(&error) => Some(error.to_string()),
            // A file system that fails otherwise tells those who write to it.
            Err(_) => None,
        };
        // At the end others may remove the directory.
        if let Some(reason) = gone
            && !ending.load(Ordering::Relaxed)
        {
            let dir = lock.parent().unwrap_or(lock).display();
            let what = format!("the data directory {dir} has vanished");
            let advice = "put it back, or start this node again with --rejoin";
            let error = io::Error::other(format!("{reason}; {advice}"));
            return reporter.fail(what, &error);
        }
        thread::park_timeout(PAUSE);
    }
}

fn identity(path: &Path) -> io::Result<(u64, u64)> {
    let found = fs::metadata(path)?;
    Ok((found.dev(), found.ino()))
}

fn is_gone(error: &io::Error) -> bool {
    let unmounted = [Errno::STALE, Errno::NOTCONN, Errno::NODEV].map(Errno::raw_os_error);
    matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory)
        || error
            .raw_os_error()
            .is_some_and(|number| unmounted.contains(&number))
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use crossbeam_channel::{Receiver, unbounded};

    use super::super::{DataDir, DiskEvent, FileDisk};
    use super::*;
    use crate::types::NodeId;

    const WAIT: Duration = Duration::from_secs(20);

    fn open(dir: &Path) -> (FileDisk, PathBuf, Receiver<DiskEvent>) {
        let (sender, events) = unbounded();
        let dir = DataDir::open(dir, NodeId(1), 7).unwrap();
        let path = dir.path().to_path_buf();
        let sink = move |event| drop(sender.send(event));
        (FileDisk::open(dir, Arc::new(sink)).unwrap(), path, events)
    }

    fn assert_noticed(events: &Receiver<DiskEvent>, reason: &str) {
        match events.recv_timeout(WAIT) {
            Ok(DiskEvent::Failed { what, error }) => {
                assert!(what.contains("has vanished"), "{what}");
                assert!(error.contains(reason), "{error}");
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_directory_that_is_removed_or_moved_away_is_noticed() {
        let dir = tempfile::tempdir().unwrap();
        let (_disk, path, events) = open(dir.path());
        fs::remove_dir_all(path).unwrap();
        assert_noticed(&events, "--rejoin");
        let (_disk, path, events) = open(dir.path());
        fs::rename(path, dir.path().join("elsewhere")).unwrap();
        assert_noticed(&events, "--rejoin");
    }

    #[test]
    fn a_directory_that_is_replaced_is_noticed() {
        let dir = tempfile::tempdir().unwrap();
        let (_disk, path, events) = open(dir.path());
        let other = tempfile::NamedTempFile::new_in(dir.path()).unwrap();
        fs::rename(other.path(), path.join("lock")).unwrap();
        assert_noticed(&events, "another directory has taken its place");
    }
}
