//! A data directory that is only looked at: no lock is taken, nothing is written, nothing
//! is dropped from the page cache. What a running node does meanwhile is seen or not.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use super::data_dir::{OpenError, read_meta};
use super::file_name::{self, parse_file, parse_segment};
use super::file_writer::read_at;
use super::meta::Meta;
use super::{FileId, LogSource, SegmentId, SegmentInfo};

/// What a name in a data directory stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Entry {
    /// Whose directory it is.
    Meta,
    /// A segment of the log.
    Segment(SegmentId),
    /// A snapshot, or what is known of the peers.
    File(FileId),
}

impl Entry {
    /// What a file of this name is; `None` if it is none of a node's.
    #[must_use]
    pub fn of_name(name: &str) -> Option<Entry> {
        if name == "meta" {
            return Some(Entry::Meta);
        }
        let segment = parse_segment(name).map(Entry::Segment);
        segment.or_else(|| parse_file(name).map(Entry::File))
    }

    /// The name of its file.
    #[must_use]
    pub fn name(self) -> String {
        match self {
            Entry::Meta => "meta".to_owned(),
            Entry::Segment(id) => file_name::segment(id),
            Entry::File(id) => file_name::file(id),
        }
    }
}

/// A directory `raftnode_N/`, to be read.
#[derive(Debug)]
pub struct DirReader {
    path: PathBuf,
}

impl DirReader {
    /// The directory at `path`.
    #[must_use]
    pub fn new(path: &Path) -> DirReader {
        DirReader {
            path: path.to_path_buf(),
        }
    }

    /// What `meta` says, `None` if it is missing and there is no log either.
    ///
    /// # Errors
    /// When it cannot be read, is damaged, missing, or of a newer version.
    pub fn meta(&self) -> Result<Option<Meta>, OpenError> {
        read_meta(&self.path)
    }

    /// The files of the node, in the order of [`Entry`], with their lengths in bytes.
    ///
    /// # Errors
    /// When the directory cannot be read.
    pub fn entries(&self) -> io::Result<Vec<(Entry, u64)>> {
        let mut found = Vec::new();
        for file in fs::read_dir(&self.path)? {
            let file = file?;
            if let Some(entry) = file.file_name().to_str().and_then(Entry::of_name) {
                found.push((entry, file.metadata()?.len()));
            }
        }
        found.sort_unstable();
        Ok(found)
    }

    /// A file, opened for reading.
    ///
    /// # Errors
    /// When it cannot be.
    pub fn open(&self, entry: Entry) -> io::Result<File> {
        File::open(self.path.join(entry.name()))
    }
}

impl LogSource for DirReader {
    fn list_segments(&mut self) -> io::Result<Vec<SegmentInfo>> {
        let entries = self.entries()?.into_iter();
        let segments = entries.filter_map(|(entry, len)| match entry {
            Entry::Segment(id) => Some(SegmentInfo { id, len }),
            _ => None,
        });
        Ok(segments.collect())
    }

    fn read_segment(&mut self, id: SegmentId, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        read_at(&self.open(Entry::Segment(id))?, buf, offset)
    }
}
