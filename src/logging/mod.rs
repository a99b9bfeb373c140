//! The log: lines as the original writes them, on flexi_logger.
//!
//! ```text
//! [Raft][Mon Nov 23 12:53:11 2026][debug] obtain majority of votes, win the election
//! ```
//!
//! The name in front is the log target (`Raft`, `RaftRpc`, `RaftClerk`, `Wal`, …).
//! What a line is made of is a [`Pattern`], which lines are written a set of
//! [`Levels`], when a file is rotated a [`Rotation`]; each is understood from text,
//! so that the command line and files can say it. Errors go to stderr, the rest to
//! stdout, unless a file is named.
//!
//! In [`Mode::Async`] the thread that logs only copies the line into a bounded
//! queue: the raft thread must not wait for a disk or a terminal. When the queue is
//! full, lines are dropped and counted, and the count is logged. A normal exit
//! writes all that is queued; so does `log::logger().flush()`.

mod levels;
mod output;
mod panic;
mod pattern;
mod rotation;

pub use levels::Levels;
pub use panic::abort_on_panic;
pub use pattern::Pattern;
pub use rotation::{Age, Rotation};

use std::path::{Path, PathBuf};
use std::sync::{Arc, RwLock};

use flexi_logger::filter::{LogLineFilter, LogLineWriter};
use flexi_logger::{DeferredNow, ErrorChannel, Logger, LoggerHandle};

use output::{Console, Output};

/// Why the log cannot be had as asked for.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// A level, pattern or rotation rule is not understood.
    #[error("{what} `{text}`: {reason}")]
    Syntax {
        /// Which of them.
        what: &'static str,
        /// What was given.
        text: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A file cannot be read or written.
    #[error("{path}: {source}", path = path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system says.
        #[source]
        source: std::io::Error,
    },
    /// The options contradict each other, or a logger is installed already.
    #[error("cannot start the log: {0}")]
    Start(String),
}

/// Who writes a line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// A thread of its own, through a bounded queue.
    #[default]
    Async,
    /// The thread that logs, before it goes on.
    Sync,
}

/// What the log is to be; the default is that of the original, on the console.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LogOptions {
    /// Which lines are written.
    pub levels: Levels,
    /// What a line is made of.
    pub pattern: Pattern,
    /// Written to instead of the console; made with its directory, appended to.
    pub file: Option<PathBuf>,
    /// Write to the console even if there is a file.
    pub console: bool,
    /// When `file` is rotated. The current file is then `NAME_rCURRENT.EXT`, older
    /// ones are `NAME_r00000.EXT` and so on.
    pub rotation: Option<Rotation>,
    /// Who writes.
    pub mode: Mode,
}

/// Keeps the log going and steers it; what is queued is written when it is dropped.
pub struct LogHandle {
    levels: Arc<RwLock<Levels>>,
    flexi: LoggerHandle,
}

/// Starts the log of the process, once.
///
/// # Errors
///
/// A file that cannot be written, options that contradict each other, or a second
/// start.
pub fn start(options: LogOptions) -> Result<LogHandle, LogError> {
    let (logger, handle) = build(options, Console::standard())?;
    log::set_boxed_logger(logger).map_err(|e| LogError::Start(e.to_string()))?;
    Ok(handle)
}

fn build(
    options: LogOptions,
    console: Console,
) -> Result<(Box<dyn log::Log>, LogHandle), LogError> {
    let max = options.levels.max();
    let console = (options.console || options.file.is_none()).then_some(console);
    let file = match (&options.file, &options.rotation) {
        (Some(path), rotation) => Some(rotation::open(path, rotation.as_ref())?),
        (None, Some(_)) => {
            return Err(LogError::Start(
                "rotation is for a log file, and none is named".into(),
            ));
        }
        (None, None) => None,
    };
    let output = Output::start(options.pattern, console, file, options.mode)
        .map_err(|e| LogError::Start(format!("no thread for the log: {e}")))?;
    let levels = Arc::new(RwLock::new(options.levels));
    // flexi_logger compares targets by prefix, so that `Raft=info` would speak for
    // `RaftRpc` too: it gets the highest level only, the filter knows the rest.
    let (logger, flexi) = Logger::with(max)
        .log_to_writer(Box::new(output))
        .filter(Box::new(Filter(Arc::clone(&levels))))
        .error_channel(ErrorChannel::StdErr)
        .panic_if_error_channel_is_broken(false)
        .build()
        .map_err(|e| LogError::Start(e.to_string()))?;
    Ok((logger, LogHandle { levels, flexi }))
}

impl LogHandle {
    /// Replaces the levels from now on: `info,Raft=debug`.
    ///
    /// # Errors
    ///
    /// The text is not understood; the levels stay as they are.
    pub fn set_levels(&self, text: &str) -> Result<(), LogError> {
        let levels: Levels = text.parse()?;
        let max = levels.max();
        *write(&self.levels) = levels;
        self.flexi.set_new_spec(max.into());
        Ok(())
    }

    /// Replaces the levels by what a file says: the words of [`LogHandle::set_levels`],
    /// on any number of lines, `#` begins a comment.
    ///
    /// # Errors
    ///
    /// The file cannot be read or understood; the levels stay as they are.
    pub fn reload_levels(&self, path: &Path) -> Result<(), LogError> {
        let text = std::fs::read_to_string(path).map_err(|source| LogError::Io {
            path: path.to_path_buf(),
            source,
        })?;
        self.set_levels(&levels::strip_comments(&text))
    }

    /// The levels in force, in the words of [`LogHandle::set_levels`].
    #[must_use]
    pub fn levels(&self) -> String {
        read(&self.levels).to_string()
    }

    /// Opens the file anew, for tools that move it away.
    ///
    /// # Errors
    ///
    /// The file cannot be opened; the old one stays in use.
    pub fn reopen(&self) -> Result<(), LogError> {
        self.flexi
            .reopen_output()
            .map_err(|e| LogError::Start(e.to_string()))
    }

    /// Waits until all lines up to now are written, up to some seconds.
    pub fn flush(&self) {
        self.flexi.flush();
    }
}

/// Lets through what the levels allow.
struct Filter(Arc<RwLock<Levels>>);

impl LogLineFilter for Filter {
    fn write(
        &self,
        now: &mut DeferredNow,
        record: &log::Record<'_>,
        writer: &dyn LogLineWriter,
    ) -> std::io::Result<()> {
        if read(&self.0).allow(record.target(), record.level()) {
            writer.write(now, record)?;
        }
        Ok(())
    }
}

// Levels are replaced whole, so a thread that panicked left nothing half done.
fn read(levels: &RwLock<Levels>) -> std::sync::RwLockReadGuard<'_, Levels> {
    levels
        .read()
        .unwrap_or_else(std::sync::PoisonError::into_inner)
}

fn write(levels: &RwLock<Levels>) -> std::sync::RwLockWriteGuard<'_, Levels> {
    levels
        .write()
        .unwrap_or_else(std::sync::PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
