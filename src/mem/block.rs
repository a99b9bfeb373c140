//! A long block of bytes whose length is known to the compiler.

use std::alloc::{Layout, handle_alloc_error};
use std::fmt;
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;

use allocator_api2::alloc::Allocator;

/// What the system backs with one page, at most, in bytes. A block of the [`Pool`] that
/// is aligned to it is backed with such pages if the system has them: a search through
/// hundreds of MiB misses the TLB at each step otherwise.
///
/// [`Pool`]: super::Pool
pub const HUGE_PAGE_BYTES: usize = 2 << 20;

/// `BYTES` bytes, zeros at first, without a detour over the stack, and without touching
/// what is not used yet: fresh memory is zeros already.
pub struct Block<const BYTES: usize, A: Allocator> {
    bytes: NonNull<[u8; BYTES]>,
    align: usize,
    alloc: A,
}

// SAFETY: a block owns its bytes alone; its allocator takes them back wherever it is itself.
unsafe impl<const BYTES: usize, A: Allocator + Send> Send for Block<BYTES, A> {}
// SAFETY: a shared block can only be read.
unsafe impl<const BYTES: usize, A: Allocator + Sync> Sync for Block<BYTES, A> {}

impl<const BYTES: usize, A: Allocator> Block<BYTES, A> {
    /// A block of zeros at a multiple of `align`, a power of two. Ends the process if
    /// there is no more memory.
    pub fn zeroed_in(align: usize, alloc: A) -> Block<BYTES, A> {
        let layout = Self::layout(align);
        let Ok(bytes) = alloc.allocate_zeroed(layout) else {
            handle_alloc_error(layout);
        };
        Block {
            bytes: bytes.cast(),
            align,
            alloc,
        }
    }

    fn layout(align: usize) -> Layout {
        Layout::from_size_align(BYTES, align).expect("a size and an alignment that there can be")
    }
}

impl<const BYTES: usize, A: Allocator> Deref for Block<BYTES, A> {
    type Target = [u8; BYTES];

    #[inline(always)]
    fn deref(&self) -> &[u8; BYTES] {
        // SAFETY: the block is at least that long, initialised, and ours.
        unsafe { self.bytes.as_ref() }
    }
}

impl<const BYTES: usize, A: Allocator> DerefMut for Block<BYTES, A> {
    #[inline(always)]
    fn deref_mut(&mut self) -> &mut [u8; BYTES] {
        // SAFETY: as above.
        unsafe { self.bytes.as_mut() }
    }
}

impl<const BYTES: usize, A: Allocator> Drop for Block<BYTES, A> {
    fn drop(&mut self) {
        // SAFETY: it came from this allocator with this layout.
        unsafe {
            self.alloc
                .deallocate(self.bytes.cast(), Self::layout(self.align));
        }
    }
}

/// Its length; the bytes are somebody's data.
impl<const BYTES: usize, A: Allocator> fmt::Debug for Block<BYTES, A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Block").field("len", &BYTES).finish()
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::mem::Pool;

    #[test]
    fn a_block_is_aligned_zeros_even_in_memory_that_was_used() {
        for align in [1, 4_096, HUGE_PAGE_BYTES] {
            for _ in 0..2 {
                let mut block = Block::<HUGE_PAGE_BYTES, Pool>::zeroed_in(align, Pool);
                assert!(block.as_ptr().addr().is_multiple_of(align));
                assert!(block.iter().all(|&byte| byte == 0));
                block.fill(0xFF);
            }
        }
    }
}
