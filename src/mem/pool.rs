//! The handle through which everyone uses the process-wide pool.

use std::alloc::Layout;
use std::ptr::NonNull;

use allocator_api2::alloc::{AllocError, Allocator};

use super::backend;
use super::stats::Stats;

/// The process-wide pool: an allocator to hand to collections, of no size itself.
///
/// Blocks can be freed by any thread. Every alignment is honoured; those up to
/// 8 KiB cost nothing extra beside rounding the size up to them.
///
/// ```
/// use raftkv::mem::Pool;
///
/// let mut words = allocator_api2::vec::Vec::new_in(Pool);
/// words.extend_from_slice(b"pooled");
/// assert_eq!(words, b"pooled");
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pool;

/// What the process-wide pool holds. Takes each of its locks for a moment: made for
/// a status page, not for every request.
#[must_use]
pub fn stats() -> Stats {
    backend::stats()
}

/// Gives the memory that is idle back to the system, that in the calling thread's
/// cache included, and returns how many bytes that were. What other threads cache
/// (1 MiB each at most) stays. Made for idle moments: the system call takes about
/// a millisecond for each 16 MiB, and what is used again has to be faulted in.
pub fn trim() -> usize {
    backend::trim()
}

// SAFETY: a block stays where it is until it is freed, whichever copy of the handle
// and whichever thread asks: there is one heap, and it lives as long as the process.
unsafe impl Allocator for Pool {
    #[inline]
    fn allocate(&self, layout: Layout) -> Result<NonNull<[u8]>, AllocError> {
        backend::allocate(layout).ok_or(AllocError)
    }

    #[inline]
    fn allocate_zeroed(&self, layout: Layout) -> Result<NonNull<[u8]>, AllocError> {
        backend::allocate_zeroed(layout).ok_or(AllocError)
    }

    #[inline]
    unsafe fn deallocate(&self, block: NonNull<u8>, layout: Layout) {
        // SAFETY: as promised by the caller.
        unsafe { backend::deallocate(block, layout) };
    }

    unsafe fn grow(
        &self,
        block: NonNull<u8>,
        old: Layout,
        new: Layout,
    ) -> Result<NonNull<[u8]>, AllocError> {
        debug_assert!(new.size() >= old.size(), "a block grows");
        // SAFETY: as promised by the caller.
        unsafe { self.resize(block, old, new) }
    }

    unsafe fn grow_zeroed(
        &self,
        block: NonNull<u8>,
        old: Layout,
        new: Layout,
    ) -> Result<NonNull<[u8]>, AllocError> {
        debug_assert!(new.size() >= old.size(), "a block grows");
        // SAFETY: as promised by the caller; what was not there before is ours to fill.
        unsafe {
            let grown = self.resize(block, old, new)?;
            let added = grown.len() - old.size();
            grown.cast::<u8>().add(old.size()).write_bytes(0, added);
            Ok(grown)
        }
    }

    unsafe fn shrink(
        &self,
        block: NonNull<u8>,
        old: Layout,
        new: Layout,
    ) -> Result<NonNull<[u8]>, AllocError> {
        debug_assert!(new.size() <= old.size(), "a block shrinks");
        // SAFETY: as promised by the caller.
        unsafe { self.resize(block, old, new) }
    }
}

impl Pool {
    /// Makes a block fit `new`, in place if that is possible.
    ///
    /// # Safety
    /// As for `grow` or `shrink`.
    unsafe fn resize(
        self,
        block: NonNull<u8>,
        old: Layout,
        new: Layout,
    ) -> Result<NonNull<[u8]>, AllocError> {
        // SAFETY: as promised by the caller; two live blocks do not overlap.
        unsafe {
            if let Some(len) = backend::resize_in_place(block, old, new) {
                return Ok(NonNull::slice_from_raw_parts(block, len));
            }
            let moved = self.allocate(new)?;
            let kept = old.size().min(new.size());
            block.copy_to_nonoverlapping(moved.cast(), kept);
            self.deallocate(block, old);
            Ok(moved)
        }
    }
}
