//! The calls of the disk's threads to the system, in one place, so that a test can make each of
//! them fail or do a part of its work, and record what they did.
//!
//! Outside of unit tests nothing but the calls is left.
#![cfg_attr(not(test), allow(unused_variables))] // Only tests ask for names.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use rustix::io::Errno;

use super::SegmentId;
#[cfg(test)]
use super::file_name;
use super::segment_map::SegmentMap;

/// How long to wait for another descriptor.
const SHORTAGE_PAUSE: Duration = Duration::from_millis(if cfg!(test) { 1 } else { 100 });
/// How often the wait is logged.
const PAUSES_PER_LINE: u32 = 50;

/// Threads that wait for a descriptor.
static WAITING: AtomicUsize = AtomicUsize::new(0);

/// Whether a thread of the disk waits for a file descriptor: the process or the system is
/// short of them, and no disk hangs.
#[must_use]
pub fn waits_for_descriptors() -> bool {
    // ORDERING: Relaxed; a count that guards no other memory.
    WAITING.load(Ordering::Relaxed) > 0
}

/// Opens a file, and waits while the process or the system is short of descriptors: that
/// passes, and nothing was done that could be lost.
///
/// # Errors
/// What the system says otherwise.
pub(super) fn open(call: &'static str, options: &OpenOptions, path: &Path) -> io::Result<File> {
    for tries in 0.. {
        match before(call).and_then(|()| options.open(path)) {
            Err(error) if is_shortage(&error) => {
                if tries % PAUSES_PER_LINE == 0 {
                    log::warn!(target: "Raft", "cannot open {} yet: {error}; raise the limit on open files", path.display());
                }
                // ORDERING: as in `waits_for_descriptors`.
                WAITING.fetch_add(1, Ordering::Relaxed);
                thread::sleep(SHORTAGE_PAUSE);
                WAITING.fetch_sub(1, Ordering::Relaxed);
            }
            result => return result,
        }
    }
    unreachable!("tried until it is open")
}

fn is_shortage(error: &io::Error) -> bool {
    let shortages = [Errno::MFILE, Errno::NFILE].map(Errno::raw_os_error);
    error
        .raw_os_error()
        .is_some_and(|number| shortages.contains(&number))
}

/// To be asked before each call.
///
/// # Errors
/// The error that the call is to fail with.
#[cfg(not(test))]
#[inline(always)]
pub(super) fn before(_call: &'static str) -> io::Result<()> {
    Ok(())
}

/// To be asked before a call that may do a part of its work: how much of `len` bytes.
///
/// # Errors
/// The error that the call is to fail with.
#[cfg(not(test))]
#[inline(always)]
pub(super) fn some(_call: &'static str, len: usize) -> io::Result<usize> {
    Ok(len)
}

#[cfg(test)]
pub(super) use self::watch::{Done, How, Inherited, Plan, Watcher, adopt, before, current, some};

/// Opens an empty file, new or emptied.
pub(super) fn create(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(true);
    let file = open("open", &options, path)?;
    #[cfg(test)]
    watch::did(Done::Create(watch::name(path)));
    Ok(file)
}

/// Writes all of `data` at `offset`, in as many parts as the system takes it in. An interrupting
/// signal is no failure.
pub(super) fn write_all_at(
    file: &File,
    path: &Path,
    data: &[u8],
    mut offset: u64,
) -> io::Result<()> {
    let mut left = data;
    while !left.is_empty() {
        let written = some("write", left.len())
            .and_then(|len| std::os::unix::fs::FileExt::write_at(file, &left[..len], offset));
        match written {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(count) => {
                let (done, rest) = left.split_at(count);
                #[cfg(test)]
                watch::did(Done::Write(watch::name(path), offset, done.to_vec()));
                offset += done.len() as u64;
                left = rest;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Syncs the content of a file and, with `all`, its metadata.
pub(super) fn sync(file: &File, path: &Path, all: bool) -> io::Result<()> {
    before("sync")?;
    if all {
        file.sync_all()?;
    } else {
        file.sync_data()?;
    }
    #[cfg(test)]
    watch::did(Done::Sync(watch::name(path), 0..usize::MAX));
    Ok(())
}

/// Stores into a mapped segment.
pub(super) fn store(map: &mut [u8], id: SegmentId, offset: usize, data: &[u8]) {
    map[offset..offset + data.len()].copy_from_slice(data);
    #[cfg(test)]
    watch::did(Done::Write(
        file_name::segment(id),
        offset as u64,
        data.to_vec(),
    ));
}

/// Syncs what was stored into a segment.
pub(super) fn sync_map(map: &mut SegmentMap, id: SegmentId) -> io::Result<()> {
    before("msync")?;
    #[cfg(test)]
    let dirty = map.dirty();
    map.sync()?;
    #[cfg(test)]
    watch::did(Done::Sync(file_name::segment(id), dirty));
    Ok(())
}

/// Renames a file; `call` is how tests know it.
pub(super) fn rename(call: &'static str, from: &Path, to: &Path) -> io::Result<()> {
    before(call)?;
    fs::rename(from, to)?;
    #[cfg(test)]
    watch::did(Done::Rename(watch::name(from), watch::name(to)));
    Ok(())
}

/// Removes a file from the directory.
pub(super) fn unlink(path: &Path) -> io::Result<()> {
    before("unlink")?;
    fs::remove_file(path)?;
    #[cfg(test)]
    watch::did(Done::Unlink(watch::name(path)));
    Ok(())
}

/// Cuts a file to `len` bytes.
pub(super) fn truncate(file: &File, path: &Path, len: u64) -> io::Result<()> {
    before("truncate")?;
    file.set_len(len)?;
    #[cfg(test)]
    watch::did(Done::Truncate(watch::name(path), len));
    Ok(())
}

/// Syncs an open directory.
pub(super) fn sync_directory(directory: &File) -> io::Result<()> {
    before("sync directory")?;
    directory.sync_all()?;
    #[cfg(test)]
    watch::did(Done::SyncDirectory);
    Ok(())
}

#[cfg(test)]
mod watch {
    use std::cell::RefCell;
    use std::io;
    use std::ops::Range;
    use std::path::Path;
    use std::sync::{Arc, Mutex, PoisonError};

    use crate::mutation;

    /// A call that has changed something; files go by their names.
    #[derive(Debug)]
    pub(in crate::disk) enum Done {
        Create(String),
        Write(String, u64, Vec<u8>),
        /// All that was written to these bytes.
        Sync(String, Range<usize>),
        Truncate(String, u64),
        Rename(String, String),
        Unlink(String),
        SyncDirectory,
    }

    pub(super) fn name(path: &Path) -> String {
        let name = path.file_name().expect("a file in the directory");
        name.to_string_lossy().into_owned()
    }

    /// Meddles with the calls of a thread and of the disk that it opens, or records them.
    pub(in crate::disk) trait Watcher: Send + Sync {
        /// The part of `len` bytes that a call does, or the error that it fails with.
        fn some(&self, _call: &'static str, len: usize) -> io::Result<usize> {
            Ok(len)
        }

        fn did(&self, _done: Done) {}

        /// Waits until this thread may take its next operation; `false` if the process is killed.
        fn turn(&self) -> bool {
            true
        }

        /// The disk is being dropped.
        fn close(&self) {}
    }

    thread_local! {
        static WATCHER: RefCell<Option<Arc<dyn Watcher>>> = const { RefCell::new(None) };
    }

    /// Puts this thread's calls under a watcher, or under none.
    pub(in crate::disk) fn adopt(watcher: Option<Arc<dyn Watcher>>) {
        WATCHER.set(watcher);
    }

    pub(in crate::disk) fn current() -> Option<Arc<dyn Watcher>> {
        WATCHER.with_borrow(Clone::clone)
    }

    /// Switches of the test that opens a disk, for the threads of the disk.
    pub(in crate::disk) struct Inherited {
        watcher: Option<Arc<dyn Watcher>>,
        mutation: Option<mutation::Mutation>,
    }

    impl Inherited {
        pub(in crate::disk) fn of_this_thread() -> Inherited {
            Inherited {
                watcher: current(),
                mutation: mutation::active(),
            }
        }

        pub(in crate::disk) fn adopt(self) {
            adopt(self.watcher);
            mutation::set_active(self.mutation);
        }
    }

    pub(in crate::disk) fn before(call: &'static str) -> io::Result<()> {
        some(call, 1).map(|_| ())
    }

    pub(in crate::disk) fn some(call: &'static str, len: usize) -> io::Result<usize> {
        current().map_or(Ok(len), |watcher| watcher.some(call, len))
    }

    pub(super) fn did(done: Done) {
        if let Some(watcher) = current() {
            watcher.did(done);
        }
    }

    /// How a call goes wrong.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub(in crate::disk) enum How {
        /// With this error number.
        Error(i32),
        /// It does one byte, if it can.
        Short,
    }

    /// Which call goes wrong, and all that were made.
    #[derive(Debug)]
    pub(in crate::disk) struct Plan {
        at: usize,
        how: How,
        made: Mutex<Vec<&'static str>>,
    }

    impl Plan {
        /// Call number `at` of this thread and of those of disks that it opens goes wrong.
        pub(in crate::disk) fn begin(at: usize, how: How) -> Arc<Plan> {
            let plan = Arc::new(Plan {
                at,
                how,
                made: Mutex::default(),
            });
            adopt(Some(plan.clone()));
            plan
        }

        /// The calls that were made, the one that went wrong among them.
        pub(in crate::disk) fn made(&self) -> Vec<&'static str> {
            self.made
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .clone()
        }
    }

    impl Watcher for Plan {
        fn some(&self, call: &'static str, len: usize) -> io::Result<usize> {
            let mut made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
            made.push(call);
            match self.how {
                _ if made.len() - 1 != self.at => Ok(len),
                How::Error(number) => Err(io::Error::from_raw_os_error(number)),
                How::Short => Ok(len.min(1)),
            }
        }
    }
}
