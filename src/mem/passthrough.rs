//! Malloc behind the pool's handle, for tools that have to see each block:
//! AddressSanitizer, valgrind, miri. See `scripts/check_memory.sh`.

use std::alloc::{self, Layout};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::stats::Stats;
use super::system::dangling;

static LIVE_BYTES: AtomicUsize = AtomicUsize::new(0);
static LIVE_BLOCKS: AtomicUsize = AtomicUsize::new(0);

pub(super) fn allocate(layout: Layout) -> Option<NonNull<[u8]>> {
    // SAFETY: the layout is not empty.
    allocate_with(layout, |layout| unsafe { alloc::alloc(layout) })
}

pub(super) fn allocate_zeroed(layout: Layout) -> Option<NonNull<[u8]>> {
    // SAFETY: the layout is not empty.
    allocate_with(layout, |layout| unsafe { alloc::alloc_zeroed(layout) })
}

fn allocate_with(layout: Layout, alloc: impl Fn(Layout) -> *mut u8) -> Option<NonNull<[u8]>> {
    let block = if layout.size() == 0 {
        dangling(layout)
    } else {
        let block = NonNull::new(alloc(layout))?;
        // ORDERING: Relaxed, figures only.
        LIVE_BYTES.fetch_add(layout.size(), Ordering::Relaxed);
        LIVE_BLOCKS.fetch_add(1, Ordering::Relaxed);
        block
    };
    Some(NonNull::slice_from_raw_parts(block, layout.size()))
}

pub(super) unsafe fn deallocate(block: NonNull<u8>, layout: Layout) {
    if layout.size() > 0 {
        // ORDERING: Relaxed, figures only.
        LIVE_BYTES.fetch_sub(layout.size(), Ordering::Relaxed);
        LIVE_BLOCKS.fetch_sub(1, Ordering::Relaxed);
        // SAFETY: as promised by the caller.
        unsafe { alloc::dealloc(block.as_ptr(), layout) };
    }
}

/// Never: a block that moves each time shows more mistakes.
pub(super) unsafe fn resize_in_place(_: NonNull<u8>, _: Layout, _: Layout) -> Option<usize> {
    None
}

pub(super) fn stats() -> Stats {
    Stats {
        // ORDERING: Relaxed, figures only.
        live_bytes: LIVE_BYTES.load(Ordering::Relaxed),
        live_blocks: LIVE_BLOCKS.load(Ordering::Relaxed),
        ..Stats::default()
    }
}

pub(super) fn trim() -> usize {
    0
}
