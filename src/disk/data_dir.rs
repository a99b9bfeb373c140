//! The directory that a node's files live in: `DIR/raftnode_N/`.
//!
//! `lock` is held for the life of the process, so that no two of them write the same
//! log. `meta` says whose directory it is; it is written once, when the directory is
//! made:
//!
//! ```text
//! ww-raftkv data directory
//! version 1
//! cluster 0123456789abcdef
//! node 3
//! incarnation 89abcdef01234567
//! crc32 12345678
//! ```
//!
//! One that takes the place of a damaged one (`rejoin.rs`) has a line more before the
//! last, `replaces` with the incarnation of that one, or 0 if nobody knows it.

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Read, Write};
use std::path::{Path, PathBuf};

use rand::TryRng;
use rustix::fs::FlockOperation;

use super::calls;
use super::file_name::{DRAFT_SUFFIX, is_stale_draft, parse_segment};
use super::is_no_space;
use super::meta::{Meta, MetaError, VERSION};
use crate::types::NodeId;

/// A `meta` is far shorter; no more is read of whatever is there.
const META_BYTES_MAX: u64 = 4096;

/// Why a data directory cannot be used. Each is one line that says what to do.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process holds the lock.
    #[error("{path}: in use by another process{}; stop that node first, or give this one a data directory of its own", holder.as_ref().map_or(String::new(), |pid| format!(" (pid {pid})")))]
    Locked {
        /// The directory.
        path: PathBuf,
        /// The process that holds it, if it says so.
        holder: Option<String>,
    },
    /// The directory was made for another node.
    #[error(
        "{path}: belongs to node {found}, not to node {expected}; start it with its own number, or use another data directory"
    )]
    ForeignNode {
        /// The directory.
        path: PathBuf,
        /// Whose it is.
        found: u64,
        /// Who we are.
        expected: u64,
    },
    /// The directory was made for another cluster.
    #[error(
        "{path}: belongs to another cluster ({found:016x}, this one is {expected:016x}); check the cluster file, or use another data directory"
    )]
    ForeignCluster {
        /// The directory.
        path: PathBuf,
        /// Whose it is.
        found: u64,
        /// Who we are.
        expected: u64,
    },
    /// The directory was made by a newer version of the program.
    #[error(
        "{path}: has format version {found}, this program knows {VERSION}; start the newer program"
    )]
    Newer {
        /// The directory.
        path: PathBuf,
        /// Its version.
        found: u64,
    },
    /// `meta` is not what was written, or is missing beside a log.
    #[error(
        "{path}: {reason}; restore it from a copy, or start the node with --rejoin: that moves what is in its \
         directory aside and lets it catch up from its peers"
    )]
    BadMeta {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// Something that is no directory is in the place.
    #[error("{path}: is not a directory; move it away, or use another data directory")]
    NotADirectory {
        /// The place.
        path: PathBuf,
    },
    /// Files cannot be made or changed there.
    #[error(
        "{path}: cannot be written: {source}; check its owner, its permissions and whether its file system is mounted read-only"
    )]
    NotWritable {
        /// What cannot be written.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// There is no room for even the first small files.
    #[error("{path}: no room: {source}; free some space and start again")]
    NoSpace {
        /// What was written.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// Anything else.
    #[error("{op} {path}: {source}; check the disk")]
    Io {
        /// What was done.
        op: &'static str,
        /// To what.
        path: PathBuf,
        /// What came of it.
        source: io::Error,
    },
}

impl OpenError {
    /// Whether what was in the directory is damaged, so that `--rejoin` is of help.
    #[must_use]
    pub fn is_damage(&self) -> bool {
        matches!(self, OpenError::BadMeta { .. })
    }

    pub(super) fn new(op: &'static str, path: &Path, source: io::Error) -> OpenError {
        let path = path.to_path_buf();
        match source.kind() {
            ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem => {
                OpenError::NotWritable { path, source }
            }
            ErrorKind::NotADirectory => OpenError::NotADirectory { path },
            _ if is_no_space(&source) => OpenError::NoSpace { path, source },
            _ => OpenError::Io { op, path, source },
        }
    }
}

/// A node's data directory, locked for as long as this lives.
#[derive(Debug)]
pub struct DataDir {
    path: PathBuf,
    meta: Meta,
    is_new: bool,
    _lock: File,
}

impl DataDir {
    /// Opens `dir/raftnode_N`, makes it if there is none, and locks it. What an
    /// earlier run began and did not finish is removed.
    ///
    /// # Errors
    /// When it is in use, of another node or cluster, of a newer version, damaged, or
    /// cannot be written.
    pub fn open(dir: &Path, node: NodeId, cluster_id: u64) -> Result<DataDir, OpenError> {
        let path = node_path(dir, node);
        match fs::metadata(&path) {
            Ok(found) if !found.is_dir() => return Err(OpenError::NotADirectory { path }),
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::NotFound => {
                fs::create_dir_all(&path)
                    .and_then(|()| sync_directory(dir))
                    .and_then(|()| dir.parent().map_or(Ok(()), sync_directory))
                    .map_err(|error| OpenError::new("create", &path, error))?;
            }
            Err(error) => return Err(OpenError::new("open", &path, error)),
        }
        let mut lock = lock(&path)?;
        let (meta, is_new) = match read_meta(&path)? {
            Some(meta) => (meta, false),
            None => (create_meta(&path, node, cluster_id, None)?, true),
        };
        check_owner(&path, &meta, node, cluster_id)?;
        sign(&mut lock, &path)?;
        remove_drafts(&path).map_err(|error| OpenError::new("clean up", &path, error))?;
        Ok(DataDir {
            path,
            meta,
            is_new,
            _lock: lock,
        })
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whose it is.
    #[must_use]
    pub fn node(&self) -> NodeId {
        self.meta.node
    }

    /// Its description, as it was at the start.
    #[must_use]
    pub fn meta(&self) -> &Meta {
        &self.meta
    }

    /// Whether it was made just now.
    #[must_use]
    pub fn is_new(&self) -> bool {
        self.is_new
    }
}

pub(super) fn node_path(dir: &Path, node: NodeId) -> PathBuf {
    dir.join(format!("raftnode_{}", node.0))
}

pub(super) fn check_owner(
    path: &Path,
    meta: &Meta,
    node: NodeId,
    cluster_id: u64,
) -> Result<(), OpenError> {
    let path = path.to_path_buf();
    if meta.node != node {
        return Err(OpenError::ForeignNode {
            path,
            found: meta.node.0,
            expected: node.0,
        });
    }
    // First members matter until the cluster is founded; from then on its birth names it,
    // and the cluster file may be edited.
    if meta.version == 1 && meta.cluster_id != cluster_id {
        return Err(OpenError::ForeignCluster {
            path,
            found: meta.cluster_id,
            expected: cluster_id,
        });
    }
    Ok(())
}

/// Makes the directory's entries durable. That there was no room for it is no reason
/// to go on: a failed sync is never tried again.
pub(super) fn sync_directory(path: &Path) -> io::Result<()> {
    let path = if path.as_os_str().is_empty() {
        Path::new(".")
    } else {
        path
    };
    let directory = calls::open("open", OpenOptions::new().read(true), path)?;
    calls::sync_directory(&directory).map_err(|error| {
        if is_no_space(&error) {
            return io::Error::other(error);
        }
        error
    })
}

pub(super) fn lock(dir: &Path) -> Result<File, OpenError> {
    let path = dir.join("lock");
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false);
    let mut file = options
        .open(&path)
        .map_err(|error| OpenError::new("open", &path, error))?;
    match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => {}
        Err(rustix::io::Errno::WOULDBLOCK) => {
            let mut holder = String::new();
            let read = (&mut file).take(32).read_to_string(&mut holder);
            let holder = holder.trim();
            let known = read.is_ok() && !holder.is_empty();
            return Err(OpenError::Locked {
                path: dir.to_path_buf(),
                holder: known.then(|| holder.to_owned()),
            });
        }
        Err(error) => return Err(OpenError::new("lock", &path, error.into())),
    }
    Ok(file)
}

/// Writes into the lock who holds it. Only for the message to others: the lock is the
/// kernel's, not the content. Not before the directory is known to be ours: a foreign
/// one is left as it is.
fn sign(lock: &mut File, dir: &Path) -> Result<(), OpenError> {
    lock.set_len(0)
        .and_then(|()| writeln!(lock, "{}", std::process::id()))
        .map_err(|error| OpenError::new("write", &dir.join("lock"), error))
}

pub(super) fn read_meta(dir: &Path) -> Result<Option<Meta>, OpenError> {
    let path = dir.join("meta");
    let mut bytes = Vec::new();
    match File::open(&path) {
        Ok(file) => file
            .take(META_BYTES_MAX)
            .read_to_end(&mut bytes)
            .map_err(|error| OpenError::new("read", &path, error))?,
        Err(error) if error.kind() == ErrorKind::NotFound => {
            return if has_segments(dir).map_err(|error| OpenError::new("read", dir, error))? {
                let reason = "is missing, though there is a log";
                Err(OpenError::BadMeta { path, reason })
            } else {
                Ok(None)
            };
        }
        Err(error) => return Err(OpenError::new("open", &path, error)),
    };
    match Meta::decode(&String::from_utf8_lossy(&bytes)) {
        Ok(meta) => Ok(Some(meta)),
        Err(MetaError::Newer(found)) => Err(OpenError::Newer {
            path: dir.to_path_buf(),
            found,
        }),
        Err(MetaError::Bad(reason)) => Err(OpenError::BadMeta { path, reason }),
    }
}

fn has_segments(dir: &Path) -> io::Result<bool> {
    for entry in fs::read_dir(dir)? {
        if entry?
            .file_name()
            .to_str()
            .and_then(parse_segment)
            .is_some()
        {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Draws an incarnation and writes `meta`, in the place of one that is there.
pub(super) fn create_meta(
    dir: &Path,
    node: NodeId,
    cluster_id: u64,
    replaces: Option<u64>,
) -> Result<Meta, OpenError> {
    let path = dir.join("meta");
    let failed = |error| OpenError::new("write", &path, error);
    let random = || {
        rand::rngs::SysRng
            .try_next_u64()
            .map_err(|error| io::Error::other(error.to_string()))
    };
    let mut incarnation = 0;
    while incarnation == 0 {
        incarnation = random().map_err(failed)?;
    }
    let meta = Meta {
        replaces,
        ..Meta::new(node, cluster_id, incarnation)
    };
    let draft = dir.join(format!("meta{DRAFT_SUFFIX}"));
    let write = || {
        let mut file = File::create(&draft)?;
        file.write_all(meta.encode().as_bytes())?;
        file.sync_all()?;
        fs::rename(&draft, &path)?;
        sync_directory(dir)
    };
    write().map_err(failed)?;
    Ok(meta)
}

fn remove_drafts(dir: &Path) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        if entry.file_name().to_str().is_some_and(is_stale_draft) {
            fs::remove_file(entry.path())?;
        }
    }
    // Also what a killed process renamed or removed.
    sync_directory(dir)
}
