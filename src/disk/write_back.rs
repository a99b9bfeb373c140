//! Has the system begin to write a file to the device, and waits for nothing.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::fd::AsRawFd;

/// Begins to write what these bytes of the file have in the page cache. It promises
/// nothing: only a sync says that they are there, but finds less to do.
pub(super) fn begin(file: &File, bytes: Range<u64>) -> io::Result<()> {
    let [offset, len] = [bytes.start, bytes.end - bytes.start].map(|n| n as libc::off64_t);
    // SAFETY: the descriptor is open for as long as `file` is borrowed, and no memory is
    // handed over.
    let done = unsafe {
        libc::sync_file_range(file.as_raw_fd(), offset, len, libc::SYNC_FILE_RANGE_WRITE)
    };
    let error = io::Error::last_os_error();
    let is_unknown = [libc::ENOSYS, libc::EINVAL, libc::EOPNOTSUPP, libc::ESPIPE]
        .iter()
        .any(|errno| error.raw_os_error() == Some(*errno));
    // Where the system cannot, the sync has more to do.
    if done == 0 || is_unknown {
        Ok(())
    } else {
        Err(error)
    }
}
