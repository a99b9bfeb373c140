//! Where a test makes a call of the disk's threads to the system fail, or do only a part
//! of what it was asked for.
//!
//! Outside of unit tests both functions do nothing, and the compiler drops them.

use std::fs::{File, OpenOptions};
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use rustix::io::Errno;

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
/// What the call is to fail with.
#[cfg(not(test))]
#[inline(always)]
pub(super) fn before(_call: &'static str) -> io::Result<()> {
    Ok(())
}

/// To be asked before a call that may do a part of its work: how much of `len` bytes.
///
/// # Errors
/// What the call is to fail with.
#[cfg(not(test))]
#[inline(always)]
pub(super) fn some(_call: &'static str, len: usize) -> io::Result<usize> {
    Ok(len)
}

#[cfg(test)]
pub(super) use self::plan::{How, Plan, before, some};

/// Writes all of `data`, whatever parts the system takes it in. A signal in between is no
/// failure.
pub(super) fn write_all(
    data: &[u8],
    mut write: impl FnMut(&[u8]) -> io::Result<usize>,
) -> io::Result<()> {
    let mut left = data;
    while !left.is_empty() {
        match some("write", left.len()).and_then(|len| write(&left[..len])) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(count) => left = &left[count..],
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

#[cfg(test)]
mod plan {
    use std::cell::RefCell;
    use std::io;
    use std::sync::{Arc, Mutex, PoisonError};

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

    thread_local! {
        static PLAN: RefCell<Option<Arc<Plan>>> = const { RefCell::new(None) };
    }

    impl Plan {
        /// Call number `at` of this thread and of those of disks that it opens goes wrong.
        pub(in crate::disk) fn begin(at: usize, how: How) -> Arc<Plan> {
            let plan = Arc::new(Plan {
                at,
                how,
                made: Mutex::default(),
            });
            Plan::adopt(Some(plan.clone()));
            plan
        }

        /// From now on this thread's calls count, or do not.
        pub(in crate::disk) fn adopt(plan: Option<Arc<Plan>>) {
            PLAN.set(plan);
        }

        pub(in crate::disk) fn current() -> Option<Arc<Plan>> {
            PLAN.with_borrow(Clone::clone)
        }

        /// The calls that were made, the one that went wrong among them.
        pub(in crate::disk) fn made(&self) -> Vec<&'static str> {
            self.made
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .clone()
        }

        fn count(&self, call: &'static str) -> Option<How> {
            let mut made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
            made.push(call);
            (made.len() - 1 == self.at).then_some(self.how)
        }
    }

    pub(in crate::disk) fn before(call: &'static str) -> io::Result<()> {
        some(call, 1).map(|_| ())
    }

    pub(in crate::disk) fn some(call: &'static str, len: usize) -> io::Result<usize> {
        match Plan::current().and_then(|plan| plan.count(call)) {
            Some(How::Error(number)) => Err(io::Error::from_raw_os_error(number)),
            Some(How::Short) => Ok(len.min(1)),
            None => Ok(len),
        }
    }
}
