//! How the threads of a node get their time.
//!
//! On which core a thread stays, for a node that is told to choose (`--pin-cores`).
//! Otherwise the kernel moves threads as it sees fit, which is right where several
//! processes share the cores.
//!
//! That a thread which is woken does not interrupt the one that runs (`SCHED_BATCH`,
//! sched(7)): where all cores are busy, the one that runs is about to hand on more, and
//! each batch of requests, messages and syncs gets larger. Where a core is idle nothing
//! changes: who is woken runs there at once.

use std::io;

use log::{info, warn};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

/// The cores to choose from; none, and nobody is pinned.
#[derive(Clone, Debug, Default)]
pub(super) struct Cores(Vec<usize>);

/// The core for one thread, if it has to keep to one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Core(Option<usize>);

impl Cores {
    /// Those that the process may run on: a container or `taskset` may leave few.
    pub(super) fn allowed() -> io::Result<Cores> {
        let set = sched_getaffinity(None)?;
        let all = (0..CpuSet::MAX_CPU).filter(|core| set.is_set(*core));
        Ok(Cores(all.collect()))
    }

    /// The core for thread number `thread`, in turn.
    pub(super) fn of(&self, thread: usize) -> Core {
        let place = thread.checked_rem(self.0.len());
        Core(place.map(|place| self.0[place]))
    }
}

impl Core {
    /// Keeps the calling thread on this core. A thread that can't be kept there runs
    /// elsewhere, and as well.
    pub(super) fn pin(self) {
        let Some(core) = self.0 else { return };
        let mut set = CpuSet::new();
        set.set(core);
        let thread = std::thread::current();
        let name = thread.name().unwrap_or("-");
        match sched_setaffinity(None, &set) {
            Ok(()) => info!(target: "RaftClerk", "pinned: thread={name} core={core}"),
            Err(e) => {
                warn!(target: "RaftClerk", "cannot pin: thread={name} core={core} error={e}");
            }
        }
    }
}

/// Has this thread, and all that it starts from now on, interrupt no other when it is
/// woken. A node that may not choose runs as well, and a little slower.
pub(super) fn interrupt_nobody() {
    let parameters = libc::sched_param { sched_priority: 0 };
    // SAFETY: the call reads the parameters, which outlive it, and changes nothing but how
    // the calling thread is scheduled.
    let result = unsafe { libc::sched_setscheduler(0, libc::SCHED_BATCH, &raw const parameters) };
    if result != 0 {
        let error = io::Error::last_os_error();
        info!(target: "RaftClerk", "threads interrupt each other when woken: error={error}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_take_the_cores_in_turn() {
        let cores = Cores(vec![2, 5]);
        let taken: Vec<_> = (0..4).map(|thread| cores.of(thread).0).collect();
        assert_eq!(taken, [Some(2), Some(5), Some(2), Some(5)]);
    }

    #[test]
    fn without_cores_nobody_is_pinned() {
        assert_eq!(Cores::default().of(3), Core(None));
    }
}
