//! Bounded lock-free queues between threads, each with a [`Doorbell`] that wakes
//! the thread at the receiving end.
//!
//! All that crosses threads goes through one of these. A queue is a *lane*; several
//! lanes may share the doorbell of the thread that reads them, so that clients,
//! peers and the disk each have room of their own and none starves another. A full
//! lane is an answer to the sender, who then stops reading from its sockets; it is
//! never waited for.
//!
//! The order that loses no wake-up, and that the loom models in `model.rs` check:
//! a sender pushes, *then* rings; a receiver acknowledges the ring, *then* drains
//! all of its lanes, then sleeps. Next: `doorbell.rs`.

mod doorbell;
#[cfg(all(test, loom))]
mod model;
mod sync;
#[cfg(all(test, not(loom)))]
mod tests;

use std::sync::Arc;

use concurrent_queue::{ConcurrentQueue, PushError};

pub use doorbell::Doorbell;
use sync::LaneArc;

/// Why a message could not be sent; the message comes back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TrySendError<T> {
    /// The lane holds as many messages as it can: stop taking in more work.
    #[error("the mailbox is full")]
    Full(T),
    /// Nobody will ever read it: the receiver is gone.
    #[error("the receiver of the mailbox is gone")]
    Disconnected(T),
}

impl<T> TrySendError<T> {
    /// The message that was not sent.
    pub fn into_inner(self) -> T {
        match self {
            TrySendError::Full(message) | TrySendError::Disconnected(message) => message,
        }
    }
}

#[derive(Debug)]
struct Lane<T> {
    queue: ConcurrentQueue<T>,
    doorbell: Arc<Doorbell>,
}

/// A lane for at most `capacity` messages, read by the thread that `doorbell`
/// wakes.
///
/// # Panics
/// If `capacity` is 0.
#[must_use]
pub fn channel<T>(capacity: usize, doorbell: Arc<Doorbell>) -> (Sender<T>, Receiver<T>) {
    let lane = LaneArc::new(Lane {
        queue: ConcurrentQueue::bounded(capacity),
        doorbell,
    });
    (Sender { lane: lane.clone() }, Receiver { lane })
}

/// The end that any number of threads may hold a clone of.
#[derive(Debug)]
pub struct Sender<T> {
    lane: LaneArc<Lane<T>>,
}

impl<T> Clone for Sender<T> {
    fn clone(&self) -> Sender<T> {
        Sender {
            lane: self.lane.clone(),
        }
    }
}

impl<T> Sender<T> {
    /// Sends `message` and rings.
    ///
    /// # Errors
    /// [`TrySendError`], with the message.
    pub fn try_send(&self, message: T) -> Result<(), TrySendError<T>> {
        self.try_send_quiet(message)?;
        self.ring();
        Ok(())
    }

    /// Sends `message` without ringing: end the batch with [`Sender::ring`], or the
    /// receiver may sleep on it.
    ///
    /// # Errors
    /// [`TrySendError`], with the message. A full lane has been rung for, so that a
    /// sender that gives up its batch there leaves nothing asleep.
    pub fn try_send_quiet(&self, message: T) -> Result<(), TrySendError<T>> {
        match self.lane.queue.push(message) {
            Ok(()) => Ok(()),
            Err(PushError::Full(message)) => {
                self.ring();
                Err(TrySendError::Full(message))
            }
            Err(PushError::Closed(message)) => Err(TrySendError::Disconnected(message)),
        }
    }

    /// Wakes the receiver, if it has not been woken already.
    pub fn ring(&self) {
        self.lane.doorbell.ring();
    }

    /// Whether the receiver is gone.
    #[must_use]
    pub fn is_disconnected(&self) -> bool {
        self.lane.queue.is_closed()
    }

    /// How many messages wait; a guess while others send and receive.
    #[must_use]
    pub fn len(&self) -> usize {
        self.lane.queue.len()
    }

    /// Whether no message waits; a guess while others send and receive.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.lane.queue.is_empty()
    }
}

/// The end that one thread reads. When it is dropped, senders are told so.
#[derive(Debug)]
pub struct Receiver<T> {
    lane: LaneArc<Lane<T>>,
}

impl<T> Receiver<T> {
    /// The oldest message, if there is one.
    #[must_use]
    pub fn try_recv(&self) -> Option<T> {
        self.lane.queue.pop().ok()
    }

    /// How many messages wait; more may arrive at any time.
    #[must_use]
    pub fn len(&self) -> usize {
        self.lane.queue.len()
    }

    /// Whether no message waits; one may arrive at any time.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.lane.queue.is_empty()
    }

    /// The doorbell that wakes the thread which reads this lane.
    #[must_use]
    pub fn doorbell(&self) -> &Arc<Doorbell> {
        &self.lane.doorbell
    }
}

impl<T> Drop for Receiver<T> {
    fn drop(&mut self) {
        self.lane.queue.close();
        // Senders may live on for long; what nobody will read need not.
        while self.lane.queue.pop().is_ok() {}
    }
}
