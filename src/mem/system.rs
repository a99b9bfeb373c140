//! Memory from the system, and back to it.

use std::alloc::Layout;
use std::ptr::{self, NonNull};

use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap_anonymous, munmap};

use super::block::HUGE_PAGE_BYTES;

/// Maps `bytes` of zeros at a multiple of `align`, neither of them smaller than
/// the kernel's page. `None` if the system has no more. Huge pages come only where
/// [`back_with_huge_pages`] asks for them.
pub(super) fn map(bytes: usize, align: usize) -> Option<NonNull<u8>> {
    let padded = bytes.checked_add(align)?;
    let access = ProtFlags::READ | ProtFlags::WRITE;
    // SAFETY: a fresh anonymous mapping at an address of the kernel's choice.
    let base =
        unsafe { mmap_anonymous(ptr::null_mut(), padded, access, MapFlags::PRIVATE) }.ok()?;
    let base = base.cast::<u8>();
    base.expose_provenance();
    // What is cut off at both ends keeps regions aligned and often adjacent.
    let before = base.addr().next_multiple_of(align) - base.addr();
    let after = align - before;
    // SAFETY: `before + bytes + after` is exactly what was mapped, and unused so far.
    unsafe {
        let start = base.add(before);
        unmap(base, before);
        unmap(start.add(bytes), after);
        // Where the system makes huge pages unasked, a page in use would hold 2 MiB. Not
        // supported means not done either.
        let _ = madvise(start.cast(), bytes, Advice::LinuxNoHugepage);
        NonNull::new(start)
    }
}

/// Unmaps `bytes` at `base`.
///
/// # Safety
/// They were mapped here, and nothing in them is used any more.
pub(super) unsafe fn unmap(base: *mut u8, bytes: usize) {
    if bytes > 0 {
        // A failure (too many mappings) leaves address space behind, not memory in use.
        // SAFETY: as promised by the caller.
        let _ = unsafe { munmap(base.cast(), bytes) };
    }
}

/// Gives the memory behind `bytes` at `base` back; they read as zeros from then
/// on. Returns whether the system took it.
///
/// # Safety
/// They were mapped here, and nothing in them is used any more.
pub(super) unsafe fn release(base: *mut u8, bytes: usize) -> bool {
    // SAFETY: as promised by the caller.
    unsafe { madvise(base.cast(), bytes, Advice::LinuxDontNeed) }.is_ok()
}

/// Backs `bytes` at `base` with huge pages as far as the system has them. `is_fresh` says
/// that no memory is behind them yet; what they hold else is lost. Returns whether they are
/// known to be zeros now.
///
/// Memory behind a huge page is there as a whole at once, so it is asked for only where
/// it is used as a whole. The advice would stay with the addresses, and bring back by
/// the huge page what is released and then used in part; hence it is taken back at once,
/// and huge pages that are there stay.
///
/// # Safety
/// They were mapped here, are the caller's, and both are multiples of [`HUGE_PAGE_BYTES`].
pub(super) unsafe fn back_with_huge_pages(base: *mut u8, bytes: usize, is_fresh: bool) -> bool {
    // SAFETY: as promised by the caller.
    unsafe {
        // Small pages that are there would stay.
        if !is_fresh && !release(base, bytes) {
            return false;
        }
        if madvise(base.cast(), bytes, Advice::LinuxHugepage).is_ok() {
            for page in (0..bytes).step_by(HUGE_PAGE_BYTES) {
                base.add(page).write_volatile(0);
            }
            let _ = madvise(base.cast(), bytes, Advice::LinuxNoHugepage);
        }
        true
    }
}

/// Where a block of no bytes is: nowhere, aligned.
pub(super) fn dangling(layout: Layout) -> NonNull<u8> {
    let address = ptr::without_provenance_mut(layout.align());
    // SAFETY: an alignment is not zero.
    unsafe { NonNull::new_unchecked(address) }
}
