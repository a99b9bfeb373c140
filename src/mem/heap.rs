//! The heap: the tiers put together, and what one request does in them.

use std::alloc::Layout;
use std::ptr::{self, NonNull};

use super::block::HUGE_PAGE_BYTES;
use super::central_cache::{CentralList, CentralStats, SpanSource};
use super::page_cache::PageCache;
use super::registry::Registry;
use super::size_class::{
    CLASS_COUNT, PAGE_BYTES, PAGE_SHIFT, SMALL_ALIGN_MAX, SMALL_BYTES_MAX, SizeClass,
};
use super::span::{CHECKED, FreeObject, POISON, Slot, Span, SpanState};
use super::stats::Stats;
use super::system::{self, dangling};
use super::thread_cache::{TABLE_BYTES, ThreadCache};
use super::transfer::Party;

/// How much of a freed large block is filled where memory is checked, in bytes.
const LARGE_POISON_BYTES: usize = 4096;

/// What a layout is served with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Nothing: a dangling pointer.
    Empty,
    /// An object of a class.
    Small(SizeClass),
    /// A span of its own, of that many pages.
    Large(usize),
}

impl Kind {
    #[inline]
    pub(super) fn of(layout: Layout) -> Kind {
        let align = layout.align();
        // No overflow: a layout promises that its size rounded up to its alignment
        // fits an `isize`.
        let bytes = (layout.size() + align - 1) & !(align - 1);
        if bytes == 0 {
            Kind::Empty
        } else if bytes <= SMALL_BYTES_MAX && align <= SMALL_ALIGN_MAX {
            Kind::Small(SizeClass::of(bytes))
        } else {
            Kind::Large(layout.size().div_ceil(PAGE_BYTES))
        }
    }
}

/// One pool: the process has one, and each test its own. It is a `static`, because
/// the caches of threads and the blocks outside name it.
pub(super) struct Heap {
    pages: PageCache,
    central: [CentralList; CLASS_COUNT],
    caches: Registry,
    /// Arranges for a thread's cache to be retired at its end; `false` if it is
    /// too late for that.
    on_attach: fn() -> bool,
}

impl Heap {
    pub(super) const fn new(on_attach: fn() -> bool) -> Heap {
        Heap {
            pages: PageCache::new(),
            central: [const { CentralList::new() }; CLASS_COUNT],
            caches: Registry::new(),
            on_attach,
        }
    }

    /// A block for `layout`, uninitialised, often longer than asked for; `None` if
    /// the system has no more memory.
    #[inline]
    pub(super) fn allocate(&self, cache: &ThreadCache, layout: Layout) -> Option<NonNull<[u8]>> {
        match SizeClass::of_common(layout) {
            Some(class) => self.allocate_small(cache, class),
            None => self.allocate_uncommon(cache, layout),
        }
    }

    #[inline]
    fn allocate_small(&self, cache: &ThreadCache, class: SizeClass) -> Option<NonNull<[u8]>> {
        let object = cache.allocate(self, class)?;
        Some(NonNull::slice_from_raw_parts(object, class.bytes()))
    }

    #[inline(never)]
    fn allocate_uncommon(&self, cache: &ThreadCache, layout: Layout) -> Option<NonNull<[u8]>> {
        match Kind::of(layout) {
            Kind::Small(class) => self.allocate_small(cache, class),
            Kind::Large(pages) => Some(self.allocate_large(pages, layout.align())?.0),
            Kind::Empty => Some(NonNull::slice_from_raw_parts(dangling(layout), 0)),
        }
    }

    /// As [`Heap::allocate`], filled with zeros.
    pub(super) fn allocate_zeroed(
        &self,
        cache: &ThreadCache,
        layout: Layout,
    ) -> Option<NonNull<[u8]>> {
        let (block, is_zeroed) = match Kind::of(layout) {
            // What comes from the system is zeros already.
            Kind::Large(pages) => self.allocate_large(pages, layout.align())?,
            _ => (self.allocate(cache, layout)?, false),
        };
        if !is_zeroed {
            // SAFETY: the block is ours, and as long as it says.
            unsafe { block.cast::<u8>().write_bytes(0, block.len()) };
        }
        Some(block)
    }

    /// Takes back a block.
    ///
    /// # Safety
    /// As for [`allocator_api2::alloc::Allocator::deallocate`].
    #[inline]
    pub(super) unsafe fn deallocate(
        &self,
        cache: &ThreadCache,
        block: NonNull<u8>,
        layout: Layout,
    ) {
        // SAFETY: the layout fits the block, so the block is of that class; else as
        // promised by the caller.
        unsafe {
            match SizeClass::of_common(layout) {
                Some(class) => cache.deallocate(self, class, block),
                None => self.deallocate_uncommon(cache, block, layout),
            }
        }
    }

    /// # Safety
    /// As for [`Heap::deallocate`].
    #[inline(never)]
    unsafe fn deallocate_uncommon(&self, cache: &ThreadCache, block: NonNull<u8>, layout: Layout) {
        match Kind::of(layout) {
            // SAFETY: the layout fits the block, so the block is of that class.
            Kind::Small(class) => unsafe { cache.deallocate(self, class, block) },
            // SAFETY: the same, for a span.
            Kind::Large(_) => unsafe { self.deallocate_large(block) },
            Kind::Empty => {}
        }
    }

    /// Makes a block fit `new` without moving it; its length then, if that was possible.
    ///
    /// # Safety
    /// As for [`allocator_api2::alloc::Allocator::grow`] or `shrink`.
    pub(super) unsafe fn resize_in_place(
        &self,
        block: NonNull<u8>,
        old: Layout,
        new: Layout,
    ) -> Option<usize> {
        if !block.addr().get().is_multiple_of(new.align()) {
            return None;
        }
        match (Kind::of(old), Kind::of(new)) {
            (Kind::Empty, Kind::Empty) => Some(0),
            (Kind::Small(class), Kind::Small(wanted)) => (class == wanted).then(|| class.bytes()),
            (Kind::Large(_), Kind::Large(pages)) => {
                let span = self.pages.span_of(block.addr().get());
                // SAFETY: the block is the caller's, and so is its span.
                unsafe {
                    let held = (*span.as_ptr()).pages;
                    if pages < held {
                        self.pages.shorten(span, pages);
                    } else if pages > held && !self.pages.extend(span, pages) {
                        return None;
                    }
                }
                Some(pages << PAGE_SHIFT)
            }
            _ => None,
        }
    }

    #[cold]
    fn allocate_large(&self, pages: usize, align: usize) -> Option<(NonNull<[u8]>, bool)> {
        let align_pages = align.div_ceil(PAGE_BYTES);
        let span = self.pages.allocate(pages, align_pages, SpanState::Large)?;
        // SAFETY: the span is ours.
        let (address, mut is_zeroed) = unsafe { (span.as_ref().address(), span.as_ref().zeroed) };
        let block = NonNull::new(ptr::with_exposed_provenance_mut(address))?;
        let bytes = pages << PAGE_SHIFT;
        if align >= HUGE_PAGE_BYTES && bytes.is_multiple_of(HUGE_PAGE_BYTES) {
            // SAFETY: the block is ours, holds nothing yet, and is whole huge pages.
            is_zeroed |= unsafe { system::back_with_huge_pages(block.as_ptr(), bytes, is_zeroed) };
        }
        let block = NonNull::slice_from_raw_parts(block, bytes);
        Some((block, is_zeroed))
    }

    /// # Safety
    /// The block is a large one, and not used any more.
    #[cold]
    unsafe fn deallocate_large(&self, block: NonNull<u8>) {
        let span = self.pages.span_of(block.addr().get());
        // SAFETY: the block is the caller's, and so is its span.
        unsafe {
            let state = (*span.as_ptr()).state;
            assert!(
                state == SpanState::Large && (*span.as_ptr()).address() == block.addr().get(),
                "a large block was freed twice, or with a wrong layout: it is {state:?}"
            );
            if CHECKED {
                block.write_bytes(POISON, LARGE_POISON_BYTES);
            }
            self.pages.free(span);
        }
    }

    /// See [`CentralList::fetch`].
    pub(super) fn fetch(&self, class: SizeClass, slots: &mut [Slot], taker: Party) -> usize {
        self.central[class.index()].fetch(class, slots, taker, self)
    }

    /// Takes back objects that a cache holds no longer.
    ///
    /// # Safety
    /// They came from [`Heap::fetch`] for that class, are free, and nobody else's.
    pub(super) unsafe fn give(
        &self,
        class: SizeClass,
        objects: &[NonNull<FreeObject>],
        giver: Party,
    ) {
        // SAFETY: as promised by the caller.
        unsafe { self.central[class.index()].give(class, objects, giver, self) };
    }

    /// Makes a thread's cache known; `false` if nothing would retire it.
    pub(super) fn attach(&self, cache: &ThreadCache) -> bool {
        (self.on_attach)() && {
            self.caches.add(cache);
            true
        }
    }

    /// Forgets a cache that was attached.
    pub(super) fn detach(&self, cache: &ThreadCache) {
        self.caches.remove(cache);
    }

    /// Gives back to the system what can be given; returns how many bytes.
    pub(super) fn trim(&self, cache: &ThreadCache) -> usize {
        cache.flush(self);
        for class in SizeClass::all() {
            self.central[class.index()].drain(class, self);
        }
        self.pages.release_idle_above(0)
    }

    /// How many objects of a class are outside and how many of them in the caches
    /// of threads.
    pub(super) fn outside_and_cached(&self, class: SizeClass) -> (CentralStats, usize) {
        let cached = self.caches.cached_objects(class);
        (self.central[class.index()].stats(), cached)
    }

    pub(super) fn stats(&self) -> Stats {
        let pages = self.pages.stats();
        let thread_caches = self.caches.count();
        let mut stats = Stats {
            live_bytes: pages.large_pages << PAGE_SHIFT,
            live_blocks: pages.large_blocks,
            large_bytes: pages.large_pages << PAGE_SHIFT,
            page_cache_bytes: (pages.idle_pages + pages.in_transit_pages) << PAGE_SHIFT,
            span_bytes: (pages.large_pages + pages.small_pages) << PAGE_SHIFT,
            mapped_bytes: pages.mapped_pages << PAGE_SHIFT,
            released_bytes: pages.released_pages << PAGE_SHIFT,
            metadata_bytes: pages.metadata_bytes + thread_caches * TABLE_BYTES,
            thread_caches,
            ..Stats::default()
        };
        for class in SizeClass::all() {
            let (central, cached) = self.outside_and_cached(class);
            let live = central.outside.saturating_sub(cached);
            // Threads go on between the two looks, so the differences may be off.
            let inside = central.spans * class.objects() as usize - central.outside;
            stats.live_blocks += live;
            stats.live_bytes += live * class.bytes();
            stats.thread_cache_bytes += cached * class.bytes();
            stats.central_cache_bytes += inside * class.bytes();
        }
        stats
    }
}

impl SpanSource for Heap {
    fn allocate_span(&self, class: SizeClass) -> Option<NonNull<Span>> {
        self.pages.allocate(class.pages(), 1, SpanState::Small)
    }

    unsafe fn free_span(&self, span: NonNull<Span>) {
        // SAFETY: as promised by the caller.
        unsafe { self.pages.free(span) };
    }

    #[inline]
    fn span_of(&self, address: usize) -> NonNull<Span> {
        self.pages.span_of(address)
    }
}
