//! A damaged directory makes room for a new one: `raft_example N --rejoin`.
//!
//! Nothing is thrown away: what was there moves to `aside-K/` in the directory itself
//! (which may be a mount point and cannot be renamed), and a new incarnation begins that
//! says what it replaces. So the node knows that it has forgotten votes and entries,
//! also where no peer that it reaches has met it before.
//!
//! A crash in the middle leaves a directory that is refused until it is rejoined again,
//! or one that is as if this had been done:
//!
//! 1. `peers`, which may say that the node votes, goes first, and durably so: without it
//!    the old directory waits to be established again.
//! 2. `meta` is replaced in one step. What is left of the old log now belongs to another
//!    incarnation; a snapshot or `meta` without a log is refused as well.
//! 3. The rest goes.

use std::fs::{self, File};
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use super::data_dir::{
    DataDir, OpenError, check_owner, create_meta, lock, node_path, read_meta, sync_directory,
};
use crate::types::NodeId;

/// What stays in its place: the lock is held, and `meta` is the new one.
const STAYS: [&str; 2] = ["lock", "meta"];
/// What the names of directories with moved content begin with.
const ASIDE: &str = "aside-";

impl DataDir {
    /// Moves all that is in `dir/raftnode_N` to a directory `aside-K` in it, the first
    /// that is free, and begins a new incarnation that [`DataDir::rejoins`]. Answers
    /// where the old content is. To be opened after it.
    ///
    /// # Errors
    /// When it is in use, of another node or cluster, of a newer version, or cannot be
    /// written. It may be done again then, with what is left.
    pub fn set_aside(dir: &Path, node: NodeId, cluster_id: u64) -> Result<PathBuf, OpenError> {
        let path = node_path(dir, node);
        let _lock = lock(&path)?;
        let replaced = match read_meta(&path) {
            Ok(Some(meta)) => {
                check_owner(&path, &meta, node, cluster_id)?;
                meta.incarnation
            }
            Ok(None) | Err(OpenError::BadMeta { .. }) => 0,
            Err(error) => return Err(error),
        };
        let failed = |error| OpenError::new("move aside what is in", &path, error);
        let aside = make_aside(&path).map_err(failed)?;
        move_votes(&path, &aside).map_err(failed)?;
        create_meta(&path, node, cluster_id, Some(replaced))?;
        move_rest(&path, &aside).map_err(failed)?;
        Ok(aside)
    }
}

fn make_aside(path: &Path) -> io::Result<PathBuf> {
    for number in 1_u64.. {
        let aside = path.join(format!("{ASIDE}{number}"));
        match fs::create_dir(&aside) {
            Ok(()) => return Ok(aside),
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
        }
    }
    unreachable!("numbers do not end")
}

/// What says that the node votes, and a copy of what says who it was.
fn move_votes(path: &Path, aside: &Path) -> io::Result<()> {
    let copied = fs::copy(path.join("meta"), aside.join("meta"));
    for result in [
        copied.and_then(|_| File::open(aside.join("meta"))?.sync_all()),
        fs::rename(path.join("peers"), aside.join("peers")),
    ] {
        match result {
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            result => result?,
        }
    }
    sync_directory(aside)?;
    sync_directory(path)
}

fn move_rest(path: &Path, aside: &Path) -> io::Result<()> {
    for entry in fs::read_dir(path)? {
        let name = entry?.file_name();
        let stays = name
            .to_str()
            .is_some_and(|name| STAYS.contains(&name) || name.starts_with(ASIDE));
        if !stays {
            fs::rename(path.join(&name), aside.join(&name))?;
        }
    }
    sync_directory(aside)?;
    sync_directory(path)
}
