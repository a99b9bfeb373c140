//! `backup` and `restore`: a snapshot of a running cluster in a file, and back.

use std::fs::File;
use std::io::{self, BufWriter, IsTerminal as _, Read, Write};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use raftkv::client::backup::{self, BackupError, Progress};
use raftkv::kv::SnapshotInfo;
use sha2::{Digest as _, Sha256};

use crate::draft::{Draft, named};

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

/// The contents of a backup, and the SHA-256 of its file, as `sha256sum` prints it.
struct Content {
    info: SnapshotInfo,
    sha256: Sha256,
}

impl Content {
    fn line(self) -> String {
        let SnapshotInfo {
            last,
            keys,
            data_bytes,
            total_bytes,
            ..
        } = self.info;
        let sha256 = self.sha256.finalize();
        let sha256: String = sha256.iter().map(|byte| format!("{byte:02x}")).collect();
        format!(
            "success: index={} term={} keys={keys} data_bytes={data_bytes} \
             file_bytes={total_bytes} sha256={sha256}",
            last.index, last.term
        )
    }
}

impl Backup {
    /// True if the bytes of the backup go to stdout, so that nothing else may.
    pub fn is_to_stdout(&self) -> bool {
        matches!(self.task, Task::Fetch { .. }) && self.file.as_os_str() == "-"
    }

    /// Does it; what to print on success.
    pub fn run(&self, addrs: &[SocketAddr], patience: Duration) -> Result<String, BackupError> {
        let mut shown = Shown::new();
        let done = match self.task {
            Task::Fetch { .. } if self.is_to_stdout() => to_stdout(addrs, patience, &mut shown),
            Task::Fetch { force } => self.fetch(addrs, patience, force, &mut shown),
            Task::Verify => self.verify(&mut shown),
            Task::Restore { force } => self.restore(addrs, patience, force, &mut shown),
        };
        shown.end();
        done.map(Content::line)
    }

    fn fetch(
        &self,
        addrs: &[SocketAddr],
        patience: Duration,
        force: bool,
        shown: &mut Shown,
    ) -> Result<Content, BackupError> {
        let draft = Draft::create(&self.file, force)?;
        let content = fetch_into(draft.file(), addrs, patience, shown)?;
        draft.finish()?;
        Ok(content)
    }

    fn verify(&self, shown: &mut Shown) -> Result<Content, BackupError> {
        let file = self.open()?;
        let total = file.metadata()?.len();
        let mut file = Hashing::new(file);
        let info = backup::verify(&mut file, |read| shown.show(Progress::Bytes(read, total)))
            .map_err(|error| self.in_file(error))?;
        let sha256 = file.sha256;
        Ok(Content { info, sha256 })
    }

    fn restore(
        &self,
        addrs: &[SocketAddr],
        timeout: Duration,
        force: bool,
        shown: &mut Shown,
    ) -> Result<Content, BackupError> {
        // All of it first: nothing is written of a file that turns out to be damaged.
        let content = self.verify(shown)?;
        let mut file = self.open()?;
        let from = (&mut file, content.info.keys);
        backup::restore(addrs, timeout, force, from, |progress| shown.show(progress))?;
        Ok(content)
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

fn to_stdout(
    addrs: &[SocketAddr],
    patience: Duration,
    shown: &mut Shown,
) -> Result<Content, BackupError> {
    let stdout = io::stdout();
    if stdout.is_terminal() {
        let reason = "a backup is not text: send it to a file or a pipe, not to a terminal";
        return Err(BackupError::Refused(reason.to_owned()));
    }
    fetch_into(stdout.lock(), addrs, patience, shown)
}

fn fetch_into(
    to: impl Write,
    addrs: &[SocketAddr],
    patience: Duration,
    shown: &mut Shown,
) -> Result<Content, BackupError> {
    let mut to = Hashing::new(BufWriter::with_capacity(BUFFER_BYTES, to));
    let info = backup::fetch(addrs, patience, &mut to, |progress| shown.show(progress))?;
    to.flush()?;
    let sha256 = to.sha256;
    Ok(Content { info, sha256 })
}

/// Hashes what goes through.
struct Hashing<T> {
    inner: T,
    sha256: Sha256,
}

impl<T> Hashing<T> {
    fn new(inner: T) -> Hashing<T> {
        let sha256 = Sha256::new();
        Hashing { inner, sha256 }
    }
}

impl<T: Write> Write for Hashing<T> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.inner.write(bytes)?;
        self.sha256.update(&bytes[..written]);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

impl<T: Read> Read for Hashing<T> {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(bytes)?;
        self.sha256.update(&bytes[..read]);
        Ok(read)
    }
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
