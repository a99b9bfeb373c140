//! Where lines end up, and the thread that takes them there.

use std::io::{self, Write};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, bounded};
use flexi_logger::writers::LogWriter;
use flexi_logger::{DeferredNow, FlexiLoggerError};
use log::{Level, Record};

use crate::logging::rotation::LogFile;
use crate::logging::{Mode, Pattern};

/// Lines that wait for the writer.
const QUEUE_LINES_MAX: usize = 64 << 10;
/// What waiting lines may take, in bytes.
const QUEUE_BYTES_MAX: usize = 16 << 20;
/// A batch is written out at the latest when it has this size, in bytes.
const BATCH_BYTES: usize = 64 << 10;
/// How long a flush and an exit wait for a terminal or a disk that takes nothing.
const PATIENCE: Duration = Duration::from_secs(5);

/// The two streams of a console.
pub(super) struct Console {
    pub(super) out: Box<dyn Write + Send>,
    pub(super) err: Box<dyn Write + Send>,
}

impl Console {
    pub(super) fn standard() -> Console {
        Console {
            out: Box::new(io::stdout()),
            err: Box::new(io::stderr()),
        }
    }
}

/// Takes lines to the console and the file, and says once when it cannot.
struct Sink {
    console: Option<Console>,
    file: Option<LogFile>,
    batch: Vec<u8>,
    file_failed: bool,
}

impl Sink {
    /// Takes one line; errors come behind all that was logged before them.
    fn line(&mut self, level: Level, line: &[u8]) {
        if level != Level::Error {
            self.batch.extend_from_slice(line);
            if self.batch.len() >= BATCH_BYTES {
                self.write_out();
            }
            return;
        }
        self.write_out();
        if let Some(console) = &mut self.console {
            // A console that is gone has nobody to be told.
            let _ = console
                .err
                .write_all(line)
                .and_then(|()| console.err.flush());
        }
        self.write_file(line);
    }

    /// Writes what has gathered.
    fn write_out(&mut self) {
        if self.batch.is_empty() {
            return;
        }
        let mut batch = std::mem::take(&mut self.batch);
        if let Some(console) = &mut self.console {
            let _ = console
                .out
                .write_all(&batch)
                .and_then(|()| console.out.flush());
        }
        self.write_file(&batch);
        batch.clear();
        self.batch = batch;
    }

    fn write_file(&mut self, lines: &[u8]) {
        let Some(file) = &mut self.file else { return };
        // Line by line, for the size that rotates a file is looked at between writes;
        // it is buffered below.
        let written = lines
            .split_inclusive(|&byte| byte == b'\n')
            .try_for_each(|line| file.writer.write_all(line))
            .and_then(|()| file.writer.flush());
        match written {
            Ok(()) => self.file_failed = false,
            Err(e) if !self.file_failed => {
                self.file_failed = true;
                let path = file.path.display();
                let _ = writeln!(io::stderr(), "{path}: cannot write the log: {e}");
            }
            Err(_) => {}
        }
    }
}

enum Item {
    Line(Level, Vec<u8>),
    /// Answered once all before it is written.
    Flush(Sender<()>),
    Stop(Sender<()>),
}

/// The bounded queue towards the writing thread.
struct Queue {
    items: Sender<Item>,
    /// Bytes of waiting lines.
    bytes: Arc<AtomicUsize>,
    /// Lines that found no room since the last line that did.
    dropped: AtomicU64,
}

/// What flexi_logger hands lines to.
pub(super) struct Output {
    pattern: Pattern,
    sink: Arc<Mutex<Sink>>,
    /// There in [`Mode::Async`] until the end.
    queue: Option<Queue>,
    thread: Mutex<Option<JoinHandle<()>>>,
    /// The thread ends or has ended: lines are written by those who log them.
    ended: AtomicBool,
}

impl Output {
    pub(super) fn start(
        pattern: Pattern,
        console: Option<Console>,
        file: Option<LogFile>,
        mode: Mode,
    ) -> io::Result<Output> {
        let sink = Arc::new(Mutex::new(Sink {
            console,
            file,
            batch: Vec::new(),
            file_failed: false,
        }));
        let (queue, thread) = match mode {
            Mode::Sync => (None, None),
            Mode::Async => {
                let (items, incoming) = bounded(QUEUE_LINES_MAX);
                let bytes = Arc::new(AtomicUsize::new(0));
                let (sink, waiting) = (Arc::clone(&sink), Arc::clone(&bytes));
                let thread = thread::Builder::new()
                    .name("log".into())
                    .spawn(move || write_lines(&incoming, &sink, &waiting))?;
                let queue = Queue {
                    items,
                    bytes,
                    dropped: AtomicU64::new(0),
                };
                (Some(queue), Some(thread))
            }
        };
        Ok(Output {
            pattern,
            sink,
            queue,
            thread: Mutex::new(thread),
            ended: AtomicBool::new(false),
        })
    }

    /// The queue, while somebody empties it.
    fn open_queue(&self) -> Option<&Queue> {
        // ORDERING: a line that races with the end may come too late anyway.
        let ended = self.ended.load(Ordering::Relaxed);
        self.queue.as_ref().filter(|_| !ended)
    }

    /// Puts a line into the queue, never waits. Once lines were dropped, more are until
    /// half of the queue is empty, so that there is one notice for all of them.
    fn enqueue(&self, queue: &Queue, now: &mut DeferredNow, level: Level, line: Vec<u8>) {
        // ORDERING: the counters only bound memory and count; the channel orders the lines.
        let dropped = match queue.dropped.load(Ordering::Relaxed) {
            0 => 0,
            _ if queue.half_empty() => queue.dropped.swap(0, Ordering::Relaxed),
            _ => {
                queue.dropped.fetch_add(1, Ordering::Relaxed);
                return;
            }
        };
        if dropped > 0 && !queue.put(Level::Warn, self.notice(now, dropped)) {
            queue.dropped.fetch_add(dropped + 1, Ordering::Relaxed);
        } else if !queue.put(level, line) {
            queue.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn notice(&self, now: &mut DeferredNow, dropped: u64) -> Vec<u8> {
        let record = |args| {
            let mut builder = Record::builder();
            builder.target("Log").level(Level::Warn).args(args).build()
        };
        self.pattern
            .line(
                now,
                &record(format_args!("log too slow, lines dropped: count={dropped}")),
            )
            .unwrap_or_default()
    }
}

impl Queue {
    fn half_empty(&self) -> bool {
        // ORDERING: see `Output::enqueue`.
        self.bytes.load(Ordering::Relaxed) <= QUEUE_BYTES_MAX / 2
            && self.items.len() <= QUEUE_LINES_MAX / 2
    }

    fn put(&self, level: Level, line: Vec<u8>) -> bool {
        let len = line.len();
        // ORDERING: bounds memory only, see `enqueue`.
        let fits = self.bytes.fetch_add(len, Ordering::Relaxed) + len <= QUEUE_BYTES_MAX;
        let put = fits && self.items.try_send(Item::Line(level, line)).is_ok();
        if !put {
            self.bytes.fetch_sub(len, Ordering::Relaxed);
        }
        put
    }

    /// Sends `item` to the thread and waits for the answer, a while; whether it came.
    fn ask(&self, item: impl FnOnce(Sender<()>) -> Item) -> bool {
        let (done, answer) = bounded(1);
        self.items.send_timeout(item(done), PATIENCE).is_ok()
            && answer.recv_timeout(PATIENCE).is_ok()
    }
}

/// The life of the writing thread: until it is told to stop, or nobody can.
fn write_lines(incoming: &Receiver<Item>, sink: &Mutex<Sink>, waiting: &AtomicUsize) {
    while let Ok(first) = incoming.recv() {
        let mut sink = lock(sink);
        let mut next = Some(first);
        // All that waits goes out in one write.
        while let Some(item) = next {
            match item {
                Item::Line(level, line) => {
                    // ORDERING: bounds memory only, see `Output::enqueue`.
                    waiting.fetch_sub(line.len(), Ordering::Relaxed);
                    sink.line(level, &line);
                }
                Item::Flush(done) => {
                    sink.write_out();
                    let _ = done.send(());
                }
                Item::Stop(done) => {
                    sink.write_out();
                    let _ = done.send(());
                    return;
                }
            }
            next = incoming.try_recv().ok();
        }
        sink.write_out();
    }
}

impl LogWriter for Output {
    fn write(&self, now: &mut DeferredNow, record: &Record<'_>) -> io::Result<()> {
        let line = self.pattern.line(now, record)?;
        match self.open_queue() {
            Some(queue) => self.enqueue(queue, now, record.level(), line),
            None => {
                let mut sink = lock(&self.sink);
                sink.line(record.level(), &line);
                sink.write_out();
            }
        }
        Ok(())
    }

    fn flush(&self) -> io::Result<()> {
        match self.open_queue() {
            Some(queue) if !queue.ask(Item::Flush) => Err(io::ErrorKind::TimedOut.into()),
            _ => Ok(()),
        }
    }

    /// Writes what is queued and ends the thread.
    fn shutdown(&self) {
        // ORDERING: see `open_queue`.
        self.ended.store(true, Ordering::Relaxed);
        let thread = lock(&self.thread).take();
        let (Some(queue), Some(thread)) = (&self.queue, thread) else {
            return;
        };
        if queue.ask(Item::Stop) {
            // It has nothing left to do; if it panicked, that was said on stderr.
            let _ = thread.join();
            // ORDERING: see `enqueue`.
            let dropped = queue.dropped.swap(0, Ordering::Relaxed);
            if dropped > 0 {
                let mut sink = lock(&self.sink);
                sink.line(Level::Warn, &self.notice(&mut DeferredNow::new(), dropped));
                sink.write_out();
            }
        }
    }

    fn reopen_output(&self) -> Result<(), FlexiLoggerError> {
        match &lock(&self.sink).file {
            Some(file) => file.writer.reopen_outputfile(),
            None => Ok(()),
        }
    }
}

/// A thread that panicked while it wrote left at worst half a line.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
