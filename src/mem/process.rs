//! The process-wide heap, and a cache of it for each thread.

use std::alloc::Layout;
use std::ptr::NonNull;

use super::heap::Heap;
use super::stats::Stats;
use super::thread_cache::ThreadCache;

pub(super) static HEAP: Heap = Heap::new(|| GUARD.try_with(|_| ()).is_ok());

thread_local! {
    /// Has no destructor, so it is there until the very end of its thread, and is
    /// reached without asking whether it is.
    static CACHE: ThreadCache = const { ThreadCache::new() };
    /// Has one, which is registered on first use and retires the cache.
    static GUARD: Guard = const { Guard };
}

struct Guard;

impl Drop for Guard {
    fn drop(&mut self) {
        CACHE.with(|cache| cache.retire(&HEAP));
    }
}

/// Lends this thread's cache.
#[inline]
fn with_cache<R>(f: impl FnOnce(&ThreadCache) -> R) -> R {
    // Not `with`: the standard library has only this one inlined, and what is around
    // the access is shorter than a call.
    match CACHE.try_with(f) {
        Ok(result) => result,
        Err(_) => unreachable!("what has no destructor is there until the end"),
    }
}

#[inline]
pub(super) fn allocate(layout: Layout) -> Option<NonNull<[u8]>> {
    with_cache(|cache| HEAP.allocate(cache, layout))
}

pub(super) fn allocate_zeroed(layout: Layout) -> Option<NonNull<[u8]>> {
    with_cache(|cache| HEAP.allocate_zeroed(cache, layout))
}

#[inline]
pub(super) unsafe fn deallocate(block: NonNull<u8>, layout: Layout) {
    // SAFETY: as promised by the caller.
    with_cache(|cache| unsafe { HEAP.deallocate(cache, block, layout) });
}

pub(super) unsafe fn resize_in_place(
    block: NonNull<u8>,
    old: Layout,
    new: Layout,
) -> Option<usize> {
    // SAFETY: as promised by the caller.
    unsafe { HEAP.resize_in_place(block, old, new) }
}

pub(super) fn stats() -> Stats {
    HEAP.stats()
}

pub(super) fn trim() -> usize {
    with_cache(|cache| HEAP.trim(cache))
}
