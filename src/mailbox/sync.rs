//! What the doorbell is built from: the real thing, or loom's model of it.
//!
//! The bell of a thread is a flag and a condition variable. A channel of one token would
//! do as well, but one that spins and yields before it sleeps: with more threads than
//! cores that takes the time of those who have the work (measured with
//! crossbeam-channel, three nodes on two cores: four of five context switches).
//! Loom knows no deadlines, so that the models have a bell of the same shape without.

#[cfg(not(loom))]
pub(super) use real::*;
#[cfg(not(loom))]
pub(super) use std::sync::{
    Arc as LaneArc,
    atomic::{AtomicBool, Ordering},
};

// Loom has to see that the last of both ends is the one that drops the queue.
#[cfg(loom)]
pub(super) use loom::sync::{
    Arc as LaneArc,
    atomic::{AtomicBool, Ordering},
};
#[cfg(loom)]
pub(super) use modelled::*;

#[cfg(not(loom))]
mod real {
    use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
    use std::time::Instant;

    /// A token that is there or not, and a thread that may wait for it.
    #[derive(Debug)]
    pub(in crate::mailbox) struct ThreadBell {
        token: Mutex<bool>,
        given: Condvar,
    }

    impl ThreadBell {
        pub(in crate::mailbox) fn new() -> ThreadBell {
            ThreadBell {
                token: Mutex::new(false),
                given: Condvar::new(),
            }
        }

        /// No code panics while it holds the token.
        fn token(&self) -> MutexGuard<'_, bool> {
            self.token.lock().unwrap_or_else(PoisonError::into_inner)
        }

        pub(in crate::mailbox) fn ring(&self) {
            *self.token() = true;
            self.given.notify_one();
        }

        /// Whether the token came before `deadline`.
        pub(in crate::mailbox) fn wait_until(&self, deadline: Option<Instant>) -> bool {
            let mut token = self.token();
            while !*token {
                token = match deadline {
                    None => self
                        .given
                        .wait(token)
                        .unwrap_or_else(PoisonError::into_inner),
                    Some(deadline) => {
                        let left = deadline.saturating_duration_since(Instant::now());
                        if left.is_zero() {
                            return false;
                        }
                        let waited = self.given.wait_timeout(token, left);
                        waited.unwrap_or_else(PoisonError::into_inner).0
                    }
                };
            }
            *token = false;
            true
        }
    }
}

#[cfg(loom)]
mod modelled {
    use std::time::Instant;

    use loom::sync::{Condvar, Mutex};

    #[derive(Debug)]
    pub(in crate::mailbox) struct ThreadBell {
        token: Mutex<bool>,
        given: Condvar,
    }

    impl ThreadBell {
        pub(in crate::mailbox) fn new() -> ThreadBell {
            ThreadBell {
                token: Mutex::new(false),
                given: Condvar::new(),
            }
        }

        pub(in crate::mailbox) fn ring(&self) {
            *self.token.lock().unwrap() = true;
            self.given.notify_one();
        }

        /// Loom knows no time: a wait ends with a ring only, so that a lost one is a
        /// deadlock, which loom reports.
        pub(in crate::mailbox) fn wait_until(&self, _deadline: Option<Instant>) -> bool {
            let mut token = self.token.lock().unwrap();
            while !*token {
                token = self.given.wait(token).unwrap();
            }
            *token = false;
            true
        }
    }
}
