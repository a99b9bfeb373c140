//! On which core a thread stays, for a node that is told to choose (`--pin-cores`).
//!
//! Otherwise the kernel moves threads as it sees fit, which is right where several
//! processes share the cores.

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
