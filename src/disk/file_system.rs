//! How a segment of the log is stored into, by the file system that it lies on.
//!
//! A store into a mapped page cannot fail: where it needs a new block and there is none, the
//! process gets a SIGBUS. A segment is written in full before it is used, so on file systems
//! that overwrite blocks in place no store needs one. File systems that copy on write may need
//! one for each store, so there segments are written with `pwrite`, which returns an error.

use std::fs::File;
use std::path::Path;

use rustix::fs::{IFlags, ioctl_getflags, ioctl_setflags, statfs};

/// ext2, ext3 and ext4 have one number.
const EXT: u64 = 0xEF53;
const TMPFS: u64 = 0x0102_1994;
const RAMFS: u64 = 0x8584_58F6;

/// How segments are stored into.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stores {
    /// Through a map: the file system overwrites in place.
    Mapped,
    /// By `pwrite`: a store may find no room. So do all file systems that are not known to
    /// overwrite in place: btrfs, ZFS, XFS (files may share blocks), overlays, network ones.
    Written,
}

impl Stores {
    /// The right way for files in `dir`.
    pub(super) fn of(dir: &Path) -> Stores {
        #[cfg(test)]
        if FORCE_WRITTEN.get() {
            return Stores::Written;
        }
        match statfs(dir).map(|found| found.f_type as u64 & 0xFFFF_FFFF) {
            Ok(EXT | TMPFS | RAMFS) => Stores::Mapped,
            _ => Stores::Written,
        }
    }

    /// Prepares an empty file: asks for no copy on write, so that btrfs overwrites it in place
    /// too, as long as no snapshot of the file system shares it.
    pub(super) fn prepare(self, file: &File) {
        if self == Stores::Written
            && let Ok(flags) = ioctl_getflags(file)
        {
            // Other file systems do not know it.
            let _ = ioctl_setflags(file, flags | IFlags::NOCOW);
        }
    }
}

#[cfg(test)]
thread_local! {
    /// Disks that this thread opens write their segments.
    pub(super) static FORCE_WRITTEN: std::cell::Cell<bool> = const { std::cell::Cell::new(false) };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_system_in_memory_is_mapped_and_an_unknown_one_written() {
        assert_eq!(Stores::of(Path::new("/proc")), Stores::Written);
        assert_eq!(Stores::of(Path::new("/nonexistent")), Stores::Written);
        let memory = Path::new("/dev/shm");
        if statfs(memory).is_ok_and(|found| found.f_type as u64 == TMPFS) {
            assert_eq!(Stores::of(memory), Stores::Mapped);
        }
    }
}
