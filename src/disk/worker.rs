//! What the disk's threads have in common: the way in, and the way out.

use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle, Thread};

use crossbeam_channel::{Receiver, Sender, TryRecvError, TrySendError, bounded};

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
                error: explained(error),
            });
        }
    }

    pub(super) fn has_failed(&self) -> bool {
        // ORDERING: as in `fail`.
        self.failed.load(Ordering::Relaxed)
    }
}

/// The error, with what helps where that is a setting.
fn explained(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::FileTooLarge => {
            format!("{error}; raise the limit on file sizes (ulimit -f, LimitFSIZE)")
        }
        _ => error.to_string(),
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
pub(super) struct Lane<T> {
    handle: Option<Handle<T>>,
    overflow: VecDeque<T>,
    worker: Option<JoinHandle<()>>,
    #[cfg(test)]
    watcher: Option<std::sync::Arc<dyn super::calls::Watcher>>,
}

impl<T> fmt::Debug for Lane<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lane")
            .field("worker", &self.worker)
            .finish_non_exhaustive()
    }
}

/// The way in to a worker.
///
/// A send does not wake the worker by way of the channel, whose receivers spin and yield
/// before they sleep: it sleeps in [`thread::park`], and is unparked.
#[derive(Debug)]
pub(super) struct Handle<T> {
    sender: Sender<T>,
    worker: Thread,
}

impl<T> Handle<T> {
    /// Sends, waiting for room if there is none. The worker may be gone.
    pub(super) fn send(&self, operation: T) {
        let _ = self.sender.send(operation);
        self.worker.unpark();
    }
}

impl<T> Clone for Handle<T> {
    fn clone(&self) -> Handle<T> {
        Handle {
            sender: self.sender.clone(),
            worker: self.worker.clone(),
        }
    }
}

/// What a worker is asked to do, in order.
#[derive(Debug)]
pub(super) struct Operations<T>(Receiver<T>);

impl<T> Operations<T> {
    /// The next operation; sleeps until there is one. `None` once the lane is closed and
    /// all has been taken.
    pub(super) fn next(&self) -> Option<T> {
        loop {
            #[cfg(test)]
            if super::calls::current().is_some_and(|watcher| !watcher.turn()) {
                return None;
            }
            match self.0.try_recv() {
                Ok(operation) => return Some(operation),
                Err(TryRecvError::Disconnected) => return None,
                // Whoever sends or closes unparks afterwards: a token that comes before
                // the park ends it at once.
                Err(TryRecvError::Empty) => thread::park(),
            }
        }
    }

    /// The next operation, if there is one already.
    pub(super) fn try_next(&self) -> Option<T> {
        self.0.try_recv().ok()
    }
}

impl<T: Send + 'static> Lane<T> {
    /// Starts a thread that runs `work` until the lane is closed.
    pub(super) fn start(
        name: &str,
        capacity: usize,
        reporter: &Reporter,
        work: impl FnOnce(Operations<T>) + Send + 'static,
    ) -> io::Result<Lane<T>> {
        let (sender, receiver) = bounded(capacity);
        let guard = PanicReporter(reporter.clone());
        #[cfg(test)]
        let inherited = super::calls::Inherited::of_this_thread();
        let worker = thread::Builder::new().name(name.into()).spawn(move || {
            let _guard = guard;
            #[cfg(test)]
            inherited.adopt();
            work(Operations(receiver));
        })?;
        let handle = Handle {
            sender,
            worker: worker.thread().clone(),
        };
        Ok(Lane {
            handle: Some(handle),
            overflow: VecDeque::new(),
            worker: Some(worker),
            #[cfg(test)]
            watcher: super::calls::current(),
        })
    }

    /// A way in for other workers; it must be gone before the lane is closed.
    pub(super) fn handle(&self) -> Handle<T> {
        self.handle.clone().expect("the lane is open")
    }

    /// Hands `operation` to the worker; never waits.
    pub(super) fn push(&mut self, operation: T) {
        self.push_quiet(operation);
        self.poll();
    }

    /// Hands `operation` to the worker together with the next one: one wake-up for both.
    pub(super) fn push_quiet(&mut self, operation: T) {
        self.overflow.push_back(operation);
    }

    /// Hands on what waits, as far as there is room, and wakes the worker.
    pub(super) fn poll(&mut self) {
        let Some(handle) = &self.handle else { return };
        if self.overflow.is_empty() {
            return;
        }
        while let Some(operation) = self.overflow.pop_front() {
            match handle.sender.try_send(operation) {
                Ok(()) => {}
                Err(TrySendError::Full(operation)) => {
                    self.overflow.push_front(operation);
                    break;
                }
                // It panicked, which was reported.
                Err(TrySendError::Disconnected(_)) => self.overflow.clear(),
            }
        }
        handle.worker.unpark();
    }

    /// True while operations wait for the worker.
    #[cfg(test)]
    pub(super) fn is_busy(&self) -> bool {
        let handle = self.handle.as_ref();
        handle.is_some_and(|handle| !handle.sender.is_empty())
    }

    /// Has the worker do all that was pushed, and waits for its end.
    pub(super) fn close(&mut self) {
        #[cfg(test)]
        if let Some(watcher) = &self.watcher {
            watcher.close();
        }
        if let Some(Handle { sender, worker }) = self.handle.take() {
            for operation in self.overflow.drain(..) {
                worker.unpark();
                if sender.send(operation).is_err() {
                    break;
                }
            }
            drop(sender);
            worker.unpark();
        }
        if let Some(worker) = self.worker.take() {
            // A panic was reported by its guard.
            let _ = worker.join();
        }
    }
}
