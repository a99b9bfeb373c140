//! What the disk's threads have in common: the way in, and the way out.

use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};

use crossbeam_channel::{Receiver, Sender, TrySendError, bounded};

use super::DiskEvent;

/// Takes the disk's events, from its threads. It must not block: a disk that waits
/// for the node, which may be waiting for the disk, would be a deadlock.
pub type EventSink = Arc<dyn Fn(DiskEvent) + Send + Sync>;

/// Where a worker reports to, shared by all of them.
#[derive(Clone)]
pub(super) struct Reporter {
    sink: EventSink,
    failed: Arc<AtomicBool>,
}

impl Reporter {
    pub(super) fn new(sink: EventSink) -> Reporter {
        Reporter {
            sink,
            failed: Arc::new(AtomicBool::new(false)),
        }
    }

    pub(super) fn report(&self, event: DiskEvent) {
        (self.sink)(event);
    }

    /// Reports a failure, once, after which no worker writes anything more.
    pub(super) fn fail(&self, what: impl Into<String>, error: &io::Error) {
        // ORDERING: Relaxed; the flag guards no other memory. A worker that sees it
        // late does one operation more, as it might have done before the failure.
        if !self.failed.swap(true, Ordering::Relaxed) {
            self.report(DiskEvent::Failed {
                what: what.into(),
                error: error.to_string(),
            });
        }
    }

    pub(super) fn has_failed(&self) -> bool {
        // ORDERING: as in `fail`.
        self.failed.load(Ordering::Relaxed)
    }
}

impl fmt::Debug for Reporter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reporter")
            .field("failed", &self.has_failed())
            .finish_non_exhaustive()
    }
}

/// Turns the panic of a worker into a failed disk: the node must not wait for ever.
struct PanicReporter(Reporter);

impl Drop for PanicReporter {
    fn drop(&mut self) {
        if thread::panicking() {
            let error = io::Error::other("a thread of the disk panicked");
            self.0.fail("disk", &error);
        }
    }
}

/// A worker and the queue to it. The queue is bounded; what it does not take waits
/// here, bounded by what the node has under way, until the next [`Lane::poll`].
#[derive(Debug)]
pub(super) struct Lane<T> {
    sender: Option<Sender<T>>,
    overflow: VecDeque<T>,
    thread: Option<JoinHandle<()>>,
}

impl<T: Send + 'static> Lane<T> {
    /// Starts a thread that runs `work` until the lane is closed.
    pub(super) fn start(
        name: &str,
        capacity: usize,
        reporter: &Reporter,
        work: impl FnOnce(Receiver<T>) + Send + 'static,
    ) -> io::Result<Lane<T>> {
        let (sender, receiver) = bounded(capacity);
        let guard = PanicReporter(reporter.clone());
        let thread = thread::Builder::new().name(name.into()).spawn(move || {
            let _guard = guard;
            work(receiver);
        })?;
        Ok(Lane {
            sender: Some(sender),
            overflow: VecDeque::new(),
            thread: Some(thread),
        })
    }

    /// A way in for other workers; it must be gone before the lane is closed.
    pub(super) fn sender(&self) -> Sender<T> {
        self.sender.clone().expect("the lane is open")
    }

    /// Hands `operation` to the worker; never waits.
    pub(super) fn push(&mut self, operation: T) {
        self.overflow.push_back(operation);
        self.poll();
    }

    /// Hands on what waits, as far as there is room.
    pub(super) fn poll(&mut self) {
        let Some(sender) = &self.sender else { return };
        while let Some(operation) = self.overflow.pop_front() {
            match sender.try_send(operation) {
                Ok(()) => {}
                Err(TrySendError::Full(operation)) => {
                    self.overflow.push_front(operation);
                    return;
                }
                // It panicked, which was reported.
                Err(TrySendError::Disconnected(_)) => self.overflow.clear(),
            }
        }
    }

    /// Has the worker do all that was pushed, and waits for its end.
    pub(super) fn close(&mut self) {
        if let Some(sender) = self.sender.take() {
            for operation in self.overflow.drain(..) {
                if sender.send(operation).is_err() {
                    break;
                }
            }
        }
        if let Some(thread) = self.thread.take() {
            // A panic was reported by its guard.
            let _ = thread.join();
        }
    }
}
