//! The disk as the node sees it: segments of the log and a few whole files.
//!
//! Everything here is asynchronous: a call returns at once, takes effect in the
//! order of the calls, and what has to be known about it comes back as a
//! [`DiskEvent`] through the node's inbox. So the raft thread never waits for a
//! disk, and the simulator can put its own disk under the very same log code.
//!
//! Only what is read for recovery, before the node runs, blocks.
//!
//! [`FileDisk`] is the real one, [`SimDisk`] the simulator's.

mod calls;
mod data_dir;
mod dir_watch;
#[cfg(test)]
mod fault_tests;
mod file;
mod file_name;
mod file_remover;
mod file_system;
mod file_writer;
mod log_writer;
mod meta;
mod reader;
mod rejoin;
mod segment_maker;
mod segment_map;
mod signals;
mod sim;
#[cfg(test)]
mod tests;
#[cfg(test)]
pub(crate) mod trace;
mod worker;
mod write_back;

use std::io;

use bytes::Bytes;

use crate::mem::Buffer;
use crate::types::EntryId;

pub use calls::waits_for_descriptors;
pub use data_dir::{DataDir, OpenError};
pub use file::FileDisk;
pub use meta::{AddressOverride, Meta};
pub use reader::{DirReader, Entry};
pub use signals::explain_signals;
pub use sim::SimDisk;
pub use worker::EventSink;

/// Names a segment of the log. Numbers only grow, and a recycled file gets a new
/// one, so that its old content can be told from what is written now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SegmentId(pub u64);

/// Counts calls of [`Disk::sync`]; the completion of one covers all before it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SyncToken(pub u64);

/// Names a file that is written once from front to back, and then only read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum FileId {
    /// A snapshot of the state up to and with this entry.
    Snapshot(EntryId),
    /// A snapshot that is being taken here.
    SnapshotDraft(EntryId),
    /// A snapshot that is being received from a leader; survives a restart so that
    /// the transfer can go on, if it is still the very same snapshot.
    SnapshotIncoming {
        /// The snapshot's last entry.
        last: EntryId,
        /// The checksum of the whole file.
        checksum: u32,
        /// The node that took it.
        leader: crate::types::NodeId,
    },
    /// The description of the directory; see [`Meta`].
    Meta,
    /// The same, while it is being written.
    MetaDraft,
    /// What the version before knew of its peers: among other things, whether this node
    /// took part in elections. It is read, and not written any more.
    Peers,
}

/// A file that exists.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileInfo {
    /// Its name.
    pub id: FileId,
    /// Its length in bytes.
    pub len: u64,
}

/// A segment that exists.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SegmentInfo {
    /// Its name.
    pub id: SegmentId,
    /// Its length in bytes; all of it is allocated.
    pub len: u64,
}

/// What came of an earlier call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DiskEvent {
    /// The segment exists in full, as does its directory entry, and can be stored into.
    SegmentReady(SegmentId),
    /// There is no room for the segment. It can be asked for again.
    SegmentNoSpace(SegmentId),
    /// All that was stored before this sync was asked for is on the disk.
    Synced(SyncToken),
    /// The file has this many bytes now, not yet on the disk. Whoever writes a long
    /// file keeps a few appends on their way and waits for this before the next, so
    /// that the memory in the queue stays bounded.
    FileAppended {
        /// The file.
        id: FileId,
        /// Its length in bytes.
        len: u64,
    },
    /// The file is on the disk under its final name, its directory entry too.
    FileFinished(FileId),
    /// There was no room for the file; what had been written is gone. It can be
    /// begun again.
    FileNoSpace(FileId),
    /// What [`Disk::read_file`] asked for. Shorter than asked for at the end of the file.
    FileRead {
        /// The file.
        id: FileId,
        /// Where `data` begins.
        offset: u64,
        /// The bytes.
        data: Bytes,
    },
    /// The disk failed. Nothing is ever tried again after this: the kernel may have
    /// dropped what it could not write, and a second sync that succeeds proves
    /// nothing. The node stops.
    Failed {
        /// What was done, and to which file, for the operator.
        what: String,
        /// The error number's meaning.
        error: String,
    },
}

/// What a node asks of its disk.
///
/// Calls never block (but for the recovery reads, at the end of the list) and never
/// fail: what goes wrong comes back as [`DiskEvent::Failed`].
pub trait Disk {
    /// Makes a segment of `len` bytes, all of them allocated and zero or left over
    /// from `recycle`, whose file it takes over if there is one. Answered by
    /// [`DiskEvent::SegmentReady`] or [`DiskEvent::SegmentNoSpace`].
    fn create_segment(&mut self, id: SegmentId, len: u64, recycle: Option<SegmentId>);

    /// Makes a segment that was found at the start, of `len` bytes, ready to be stored into.
    /// Answered by [`DiskEvent::SegmentReady`].
    fn reopen_segment(&mut self, id: SegmentId, len: u64);

    /// Stores `data` at `offset` of a segment that is ready. Volatile until synced;
    /// until then a crash keeps any subset of its pages.
    fn store(&mut self, id: SegmentId, offset: u64, data: Buffer);

    /// Asks that all stored so far be on the disk. Answered by [`DiskEvent::Synced`];
    /// the answer to a later token stands for the earlier ones too.
    fn sync(&mut self) -> SyncToken;

    /// Removes a segment that is ready, or was found at the start. No answer.
    fn remove_segment(&mut self, id: SegmentId);

    /// Begins a file, empty even if there was one. No answer.
    fn create_file(&mut self, id: FileId);

    /// Appends to a file that was begun, or that exists. Answered by
    /// [`DiskEvent::FileAppended`] or [`DiskEvent::FileNoSpace`]; after the latter,
    /// appends to it are dropped without an answer until it is begun again.
    fn append_file(&mut self, id: FileId, data: Bytes);

    /// Syncs a file, gives it its final name, and syncs the directory. Answered by
    /// [`DiskEvent::FileFinished`] with the final name, or [`DiskEvent::FileNoSpace`]
    /// with the first.
    fn finish_file(&mut self, id: FileId, final_id: FileId);

    /// Reads `len` bytes of a file. Answered by [`DiskEvent::FileRead`], without
    /// bytes if there is no such file.
    fn read_file(&mut self, id: FileId, offset: u64, len: usize);

    /// Removes a file if it exists. No answer.
    fn remove_file(&mut self, id: FileId);

    /// Whether the file system has no room for what was stored last, though the segment is
    /// there: it copies on write. The store is tried until there is some.
    fn lacks_room(&self) -> bool {
        false
    }

    /// Hands on what earlier calls could not, because a queue was full. To be called
    /// at each [`DiskEvent`], the log does it.
    fn poll(&mut self) {}

    /// The segments that exist, in ascending order. Blocks; for recovery.
    ///
    /// # Errors
    /// When the directory cannot be read.
    fn segments(&mut self) -> io::Result<Vec<SegmentInfo>>;

    /// The files that exist, in ascending order. Blocks; for recovery.
    ///
    /// # Errors
    /// When the directory cannot be read.
    fn files(&mut self) -> io::Result<Vec<FileInfo>>;

    /// Reads up to `buf.len()` bytes of a segment from the device, not from what an
    /// earlier process left in the page cache; returns how many. Blocks; for recovery.
    ///
    /// # Errors
    /// When it cannot be read.
    fn recover_segment(&mut self, id: SegmentId, offset: u64, buf: &mut [u8]) -> io::Result<usize>;

    /// Reads up to `buf.len()` bytes of a file from the device; returns how many.
    /// Blocks; for recovery.
    ///
    /// # Errors
    /// When it cannot be read.
    fn recover_file(&mut self, id: FileId, offset: u64, buf: &mut [u8]) -> io::Result<usize>;
}

/// Where a log is read from: any [`Disk`], or a directory that is only looked at
/// ([`DirReader`]).
pub trait LogSource {
    /// See [`Disk::segments`].
    ///
    /// # Errors
    /// When the directory cannot be read.
    fn list_segments(&mut self) -> io::Result<Vec<SegmentInfo>>;

    /// See [`Disk::recover_segment`].
    ///
    /// # Errors
    /// When it cannot be read.
    fn read_segment(&mut self, id: SegmentId, offset: u64, buf: &mut [u8]) -> io::Result<usize>;
}

impl<D: Disk> LogSource for D {
    fn list_segments(&mut self) -> io::Result<Vec<SegmentInfo>> {
        self.segments()
    }

    fn read_segment(&mut self, id: SegmentId, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        self.recover_segment(id, offset, buf)
    }
}

/// Whether there was no room: the one failure that passes.
fn is_no_space(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
    )
}

/// Whether the device has lost what was to be read: what no repetition brings back.
#[must_use]
pub fn is_bad_medium(error: &io::Error) -> bool {
    use rustix::io::Errno;
    let lost = [Errno::IO, Errno::UCLEAN, Errno::BADMSG];
    lost.iter()
        .any(|errno| error.raw_os_error() == Some(errno.raw_os_error()))
}
