//! Wakes a thread once for any number of messages.
//!
//! A `rung` flag stands for "the receiver is awake, or has been woken". Whoever
//! turns it from false to true rings the bell; everyone else is spared the system
//! call. The receiver takes the flag down *before* it drains its lanes.
//!
//! Both sides change the flag by `swap` only. The swaps form one order: a sender
//! that found the flag up comes before the receiver's next taking down in it, so
//! that its push is visible to the drain which follows. With a plain `store` (or a
//! `load` in the sender) that order is gone, and a message can lie there while its
//! receiver sleeps.

use std::time::Instant;

use super::sync::{AtomicBool, Ordering, ThreadBell};
use crate::mutation::mutated;

/// What a thread sleeps on while its lanes are empty.
#[derive(Debug)]
pub struct Doorbell {
    /// The receiver is awake or has been woken: nobody else needs to ring.
    rung: AtomicBool,
    bell: Bell,
}

#[derive(Debug)]
enum Bell {
    /// For a thread that has nothing but its lanes and a deadline to wait for.
    Thread(ThreadBell),
    /// For a reactor, which sleeps in `Poll::poll`.
    Reactor(mio::Waker),
}

impl Doorbell {
    /// For a thread that sleeps in [`Doorbell::wait_until`].
    #[must_use]
    pub fn for_thread() -> Doorbell {
        Doorbell {
            rung: AtomicBool::new(false),
            bell: Bell::Thread(ThreadBell::new()),
        }
    }

    /// For a reactor that sleeps in the poll which `waker` belongs to.
    #[must_use]
    pub fn for_reactor(waker: mio::Waker) -> Doorbell {
        Doorbell {
            rung: AtomicBool::new(false),
            bell: Bell::Reactor(waker),
        }
    }

    /// Wakes the receiver, unless that has been done since it last acknowledged.
    pub fn ring(&self) {
        // ORDERING: release publishes the pushes before it to the receiver's swap in
        // `acknowledge`. It must be a swap even where the flag is up already: see above.
        let is_seen = mutated!(DoorbellLoadedFirst) && self.rung.load(Ordering::Relaxed);
        if is_seen || self.rung.swap(true, Ordering::AcqRel) {
            return;
        }
        match &self.bell {
            Bell::Thread(bell) => bell.ring(),
            Bell::Reactor(waker) => {
                if let Err(error) = waker.wake() {
                    log::error!("doorbell of a reactor cannot be rung: error={error}");
                }
            }
        }
    }

    /// Takes the flag down: from here on senders ring again. Drain every lane of this
    /// doorbell after it and before sleeping. Returns whether it was up.
    pub fn acknowledge(&self) -> bool {
        // ORDERING: acquire pairs with the release in `ring` of every sender that found
        // the flag up, or put it up: the drain that follows sees their messages.
        self.rung.swap(false, Ordering::AcqRel)
    }

    /// Puts the flag up without ringing: the receiver is awake, and will acknowledge
    /// and drain before it sleeps, so that senders need not ring until then.
    pub fn hush(&self) {
        // ORDERING: release keeps the senders' swaps before this one visible to
        // `acknowledge`, which reads from this swap if no sender comes between.
        self.rung.swap(true, Ordering::AcqRel);
    }

    /// Sleeps until someone rings or until `deadline`, and acknowledges: drain every
    /// lane afterwards, whatever is returned. Returns whether the bell was rung; it may
    /// be once more for messages that have already been received.
    ///
    /// # Panics
    /// If this is the doorbell of a reactor, which sleeps in its poll.
    pub fn wait_until(&self, deadline: Option<Instant>) -> bool {
        let Bell::Thread(bell) = &self.bell else {
            panic!("a reactor sleeps in its poll, not on its doorbell");
        };
        let woken = bell.wait_until(deadline);
        self.acknowledge() || woken
    }

    /// The sleep alone, as a reactor's poll is, for the models.
    #[cfg(all(test, loom))]
    pub(super) fn sleep(&self) {
        match &self.bell {
            Bell::Thread(bell) => bell.wait_until(None),
            Bell::Reactor(_) => unreachable!("models use the bell of a thread"),
        };
    }
}
