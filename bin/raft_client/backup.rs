//! `backup` and `restore`: a snapshot of a running cluster in a file, and back.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, BufWriter, IsTerminal as _, Write as _};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use raftkv::client::backup::{self, BackupError, Progress};
use raftkv::kv::SnapshotInfo;

/// How often progress is shown where it is not a terminal that it overwrites.
const EVERY: Duration = Duration::from_secs(1);
/// And where it is.
const EVERY_ON_TERMINAL: Duration = Duration::from_millis(100);
/// For how long a node, or a write, may make no progress.
pub const PATIENCE: Duration = Duration::from_secs(60);
const BUFFER_BYTES: usize = 1 << 20;

/// What is to be done with the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Task {
    /// Fetch a backup into it.
    Fetch { force: bool },
    /// Read it to its end.
    Verify,
    /// Write its keys into the cluster.
    Restore { force: bool },
}

/// A task and its file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Backup {
    pub task: Task,
    pub file: PathBuf,
}

impl Backup {
    /// Does it; what to print on success.
    pub fn run(&self, addrs: &[SocketAddr], patience: Duration) -> Result<String, BackupError> {
        let mut shown = Shown::new();
        let done = match self.task {
            Task::Fetch { force } => self.fetch(addrs, patience, force, &mut shown),
            Task::Verify => self.verify(&mut shown),
            Task::Restore { force } => self.restore(addrs, patience, force, &mut shown),
        };
        shown.end();
        done.map(|info| {
            let SnapshotInfo {
                last,
                keys,
                data_bytes,
                total_bytes,
                checksum,
            } = info;
            format!(
                "success: index={} term={} keys={keys} data_bytes={data_bytes} \
                 file_bytes={total_bytes} crc32={checksum:08x}",
                last.index, last.term
            )
        })
    }

    fn fetch(
        &self,
        addrs: &[SocketAddr],
        patience: Duration,
        force: bool,
        shown: &mut Shown,
    ) -> Result<SnapshotInfo, BackupError> {
        if !force && self.file.exists() {
            return Err(BackupError::Refused(format!(
                "{} exists; give another name, or --force to replace it",
                self.file.display()
            )));
        }
        let mut draft = OsString::from(&self.file);
        draft.push(".part");
        let draft = PathBuf::from(draft);
        let fetched = self.fetch_into(&draft, addrs, patience, shown);
        if fetched.is_err() {
            // It is no backup. That it cannot be removed changes nothing: it is not named so.
            let _ = fs::remove_file(&draft);
        }
        fetched
    }

    fn fetch_into(
        &self,
        draft: &Path,
        addrs: &[SocketAddr],
        patience: Duration,
        shown: &mut Shown,
    ) -> Result<SnapshotInfo, BackupError> {
        let file = File::create(draft).map_err(|e| named(draft, &e))?;
        let mut to = BufWriter::with_capacity(BUFFER_BYTES, file);
        let info = backup::fetch(addrs, patience, &mut to, |progress| shown.show(progress))?;
        let file = to.into_inner().map_err(io::IntoInnerError::into_error)?;
        file.sync_all()?;
        fs::rename(draft, &self.file).map_err(|e| named(&self.file, &e))?;
        let directory = match self.file.parent() {
            Some(parent) if parent != Path::new("") => parent,
            _ => Path::new("."),
        };
        File::open(directory)?.sync_all()?;
        Ok(info)
    }

    fn verify(&self, shown: &mut Shown) -> Result<SnapshotInfo, BackupError> {
        let mut file = self.open()?;
        let total = file.metadata()?.len();
        backup::verify(&mut file, |read| shown.show(Progress::Bytes(read, total)))
            .map_err(|error| self.in_file(error))
    }

    fn restore(
        &self,
        addrs: &[SocketAddr],
        timeout: Duration,
        force: bool,
        shown: &mut Shown,
    ) -> Result<SnapshotInfo, BackupError> {
        // All of it first: nothing is written of a file that turns out to be damaged.
        let info = self.verify(shown)?;
        let mut file = self.open()?;
        let from = (&mut file, info.keys);
        backup::restore(addrs, timeout, force, from, |progress| shown.show(progress))?;
        Ok(info)
    }

    fn open(&self) -> Result<File, BackupError> {
        File::open(&self.file).map_err(|e| named(&self.file, &e))
    }

    fn in_file(&self, error: BackupError) -> BackupError {
        match error {
            BackupError::Damaged(error) => {
                BackupError::Refused(format!("{}: {error}", self.file.display()))
            }
            error => error,
        }
    }
}

fn named(path: &Path, error: &io::Error) -> BackupError {
    let text = format!("{}: {error}", path.display());
    BackupError::File(io::Error::new(error.kind(), text))
}

/// Shows progress on stderr: in one line of a terminal, else now and then.
struct Shown {
    at: Option<Instant>,
    terminal: bool,
}

impl Shown {
    fn new() -> Shown {
        Shown {
            at: None,
            terminal: io::stderr().is_terminal(),
        }
    }

    fn show(&mut self, progress: Progress) {
        let every = if self.terminal {
            EVERY_ON_TERMINAL
        } else {
            EVERY
        };
        if self.at.is_some_and(|at| at.elapsed() < every) {
            return;
        }
        self.at = Some(Instant::now());
        let mib = |bytes: u64| bytes >> 20;
        let percent = |of: u64, all: u64| 100 * of / all.max(1);
        let text = match progress {
            Progress::Preparing(bytes) => format!("the node writes a snapshot: {} MiB", mib(bytes)),
            Progress::Bytes(of, all) => {
                format!("{} of {} MiB, {}%", mib(of), mib(all), percent(of, all))
            }
            Progress::Keys(of, all) => format!("{of} of {all} keys, {}%", percent(of, all)),
        };
        let mut err = io::stderr().lock();
        // Whom should a failure to print be told?
        let _ = if self.terminal {
            write!(err, "\r\x1b[K{text}")
        } else {
            writeln!(err, "{text}")
        };
    }

    /// Leaves the line to whatever comes next.
    fn end(self) {
        if self.terminal && self.at.is_some() {
            let _ = write!(io::stderr(), "\r\x1b[K");
        }
    }
}
