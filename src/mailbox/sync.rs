//! What the doorbell is built from: the real thing, or loom's model of it.
//!
//! crossbeam-channel cannot run under loom, so that the models have a bell of the
//! same contract: rings before a wait are not lost, and any number of them is one.

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
    use std::time::Instant;

    use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, TrySendError};

    /// A token that is there or not, and a thread that may wait for it.
    #[derive(Debug)]
    pub(in crate::mailbox) struct ThreadBell {
        give: Sender<()>,
        take: Receiver<()>,
    }

    impl ThreadBell {
        pub(in crate::mailbox) fn new() -> ThreadBell {
            let (give, take) = crossbeam_channel::bounded(1);
            ThreadBell { give, take }
        }

        pub(in crate::mailbox) fn ring(&self) {
            match self.give.try_send(()) {
                // Full: the token is there already, and wakes as well as ours.
                Ok(()) | Err(TrySendError::Full(())) => {}
                Err(TrySendError::Disconnected(())) => {
                    unreachable!("the bell holds both ends of its channel")
                }
            }
        }

        /// Whether the token came before `deadline`.
        pub(in crate::mailbox) fn wait_until(&self, deadline: Option<Instant>) -> bool {
            let woken = match deadline {
                Some(deadline) => self.take.recv_deadline(deadline),
                None => self.take.recv().map_err(RecvTimeoutError::from),
            };
            match woken {
                Ok(()) => true,
                Err(RecvTimeoutError::Timeout) => false,
                Err(RecvTimeoutError::Disconnected) => {
                    unreachable!("the bell holds both ends of its channel")
                }
            }
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
