//! A file that gets its name when it is complete, and leaves nothing behind otherwise.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::process;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;

use raftkv::client::backup::BackupError;
use rustix::fs::{CWD, RenameFlags, renameat_with};
use rustix::io::Errno;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::{Handle, Signals};
use uuid::Uuid;

/// The shell's exit code for a process that a signal has ended.
const SIGNALLED: i32 = 128;

/// A file under a temporary name beside its own, which no other process has.
pub struct Draft {
    /// Absent once the draft has its name, or is gone.
    path: Arc<Mutex<Option<PathBuf>>>,
    target: PathBuf,
    force: bool,
    file: File,
    watch: Handle,
}

impl Draft {
    /// Begins a file that only its owner may read. SIGINT, SIGTERM and SIGHUP remove it and end
    /// the process from now on.
    ///
    /// # Errors
    /// [`BackupError::Refused`] if there is something under the name that must not be replaced.
    pub fn create(target: &Path, force: bool) -> Result<Draft, BackupError> {
        check(target, force)?;
        let mut name = OsString::from(target);
        name.push(format!(".{}.part", Uuid::new_v4().simple()));
        let path = PathBuf::from(name);
        let signals = Signals::new([SIGINT, SIGTERM, SIGHUP])?;
        let mut options = OpenOptions::new();
        options.write(true).create_new(true).mode(0o600);
        let file = options.open(&path).map_err(|e| named(&path, &e))?;
        let path = Arc::new(Mutex::new(Some(path)));
        let watch = signals.handle();
        remove_on_signal(signals, Arc::clone(&path));
        Ok(Draft {
            path,
            target: target.to_owned(),
            force,
            file,
            watch,
        })
    }

    /// The file to be written.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// Gives the file its name, once all of it is on disk.
    ///
    /// # Errors
    /// As [`Draft::create`]: somebody else may have been faster.
    pub fn finish(self) -> Result<(), BackupError> {
        self.file.sync_all()?;
        check(&self.target, self.force)?;
        let mut draft = lock(&self.path);
        if let Some(path) = draft.as_deref() {
            rename(path, &self.target, self.force)?;
        }
        *draft = None;
        let directory = match self.target.parent() {
            Some(parent) if parent != Path::new("") => parent,
            _ => Path::new("."),
        };
        File::open(directory)?.sync_all()?;
        Ok(())
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        self.watch.close();
        if let Some(path) = lock(&self.path).take() {
            // It is not named like a backup, so one that stays is harmless.
            let _ = fs::remove_file(path);
        }
    }
}

// A path is as good after a panic as before.
fn lock(path: &Mutex<Option<PathBuf>>) -> MutexGuard<'_, Option<PathBuf>> {
    path.lock().unwrap_or_else(PoisonError::into_inner)
}

fn remove_on_signal(mut signals: Signals, path: Arc<Mutex<Option<PathBuf>>>) {
    thread::spawn(move || {
        if let Some(signal) = signals.forever().next() {
            // Held until the end, so that nobody gives the file its name meanwhile.
            let path = lock(&path);
            if let Some(path) = path.as_deref() {
                let _ = fs::remove_file(path);
            }
            let _ = writeln!(io::stderr(), "interrupted, nothing was written");
            process::exit(SIGNALLED + signal);
        }
    });
}

/// Refuses to replace anything but a regular file, and that only with `force`.
fn check(target: &Path, force: bool) -> Result<(), BackupError> {
    let Ok(found) = fs::symlink_metadata(target) else {
        return Ok(());
    };
    let shown = target.display();
    if !found.is_file() {
        return Err(BackupError::Refused(format!(
            "{shown} exists and is not a regular file; give another name, or - for stdout"
        )));
    }
    if !force {
        return Err(exists(target));
    }
    Ok(())
}

fn exists(target: &Path) -> BackupError {
    BackupError::Refused(format!(
        "{} exists; give another name, or --force to replace it",
        target.display()
    ))
}

fn rename(from: &Path, to: &Path, replace: bool) -> Result<(), BackupError> {
    if !replace {
        match renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
            Ok(()) => return Ok(()),
            Err(Errno::EXIST) => return Err(exists(to)),
            // A file system that cannot; `check` has looked.
            Err(Errno::INVAL | Errno::NOSYS) => {}
            Err(error) => return Err(named(to, &error.into())),
        }
    }
    fs::rename(from, to).map_err(|e| named(to, &e))
}

/// An error of the system with the file that it is about.
pub fn named(path: &Path, error: &io::Error) -> BackupError {
    let text = format!("{}: {error}", path.display());
    BackupError::File(io::Error::new(error.kind(), text))
}
