//! Signals that stand for a lack of room: what an error says elsewhere.

use std::io;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use rustix::fd::BorrowedFd;
use signal_hook::{flag, low_level};

const BUS_ERROR: &[u8] = b"raft_example: stop: SIGBUS at a store into the mapped log: the device \
failed, its file system has no room for a block that was allocated, or a file was cut short; \
look at the kernel's log and at `df`, then start this node again\n";
/// As for each node that ends by itself.
const EXIT_CODE: i32 = 1;

/// Has a write beyond the limit on file sizes return an error instead of ending the process
/// without a word, and a store into a map that cannot be carried out say why before the
/// process ends.
///
/// # Errors
/// When the system refuses the handlers.
pub fn explain_signals() -> io::Result<()> {
    // With any handler the call returns EFBIG.
    flag::register(libc::SIGXFSZ, Arc::new(AtomicBool::new(false)))?;
    let last_words = || {
        // SAFETY: standard error is open, or the write fails, which changes nothing.
        let stderr = unsafe { BorrowedFd::borrow_raw(2) };
        let _ = rustix::io::write(stderr, BUS_ERROR);
        low_level::exit(EXIT_CODE);
    };
    // SAFETY: the handler makes two system calls, write and _exit, which are safe in a signal
    // handler: it takes no lock, allocates nothing and does not return.
    unsafe { low_level::register(libc::SIGBUS, last_words) }?;
    Ok(())
}
