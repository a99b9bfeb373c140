//! The page cache: free spans, split and merged, and the only one to ask the system.
//!
//! Free spans come in two kinds, each with its own lists: *idle* ones are backed
//! by memory, *released* ones are not (fresh from the system, or given back to
//! it). Neighbours of the same kind are merged at once. A request takes the
//! smallest idle span that is long enough, else a released one, else more from
//! the system. When more is idle than [`PageCache::idle_pages_allowed`] the
//! longest spans are released, outside the lock: the call can take milliseconds.
//!
//! Address space is never unmapped: what is released costs page tables only,
//! and a pointer into the pool can be wrong but never wild.

use std::ptr::{self, NonNull};

use super::page_map::PageMap;
use super::size_class::{PAGE_BYTES, PAGE_SHIFT};
use super::span::{Span, SpanList, SpanState};
use super::sync::Mutex;
use super::system;

/// What is mapped at a time at least, and to what it is aligned, in bytes.
const REGION_BYTES: usize = 16 << 20;
const REGION_ALIGN: usize = 2 << 20;
/// Bookkeeping for spans is mapped in pieces of this many bytes.
const METADATA_BYTES: usize = 128 << 10;
/// What may stay idle, in pages, beside an eighth of what is in use: enough for the
/// largest frame and the buffers around it to come and go without a system call.
const IDLE_PAGES: usize = (32 << 20) / PAGE_BYTES;
/// Spans of fewer pages have a list for each length, longer ones for each doubling.
const EXACT_PAGES: usize = 128;
const BINS: usize = EXACT_PAGES + usize::BITS as usize - EXACT_PAGES.ilog2() as usize;

/// What the page cache holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct PageStats {
    pub(super) mapped_pages: usize,
    pub(super) idle_pages: usize,
    pub(super) released_pages: usize,
    pub(super) in_transit_pages: usize,
    pub(super) large_pages: usize,
    pub(super) large_blocks: usize,
    pub(super) small_pages: usize,
    pub(super) metadata_bytes: usize,
}

/// The map that a page cache keeps.
pub(super) type Map =
    PageMap<{ 1 << super::page_map::ROOT_BITS }, { 1 << super::page_map::LEAF_BITS }>;

/// Free spans, and the map of all spans.
pub(super) struct PageCache {
    map: Map,
    inner: Mutex<Inner>,
}

struct Inner {
    idle: FreeSpans,
    released: FreeSpans,
    stats: PageStats,
    /// Span structs that describe nothing at present, linked as a list.
    unused: SpanList,
    unused_count: usize,
}

impl PageCache {
    pub(super) const fn new() -> PageCache {
        PageCache {
            map: PageMap::new(),
            inner: Mutex::new(Inner {
                idle: FreeSpans::new(SpanState::Idle),
                released: FreeSpans::new(SpanState::Released),
                stats: PageStats {
                    mapped_pages: 0,
                    idle_pages: 0,
                    released_pages: 0,
                    in_transit_pages: 0,
                    large_pages: 0,
                    large_blocks: 0,
                    small_pages: 0,
                    metadata_bytes: 0,
                },
                unused: SpanList::new(),
                unused_count: 0,
            }),
        }
    }

    /// The span that holds the block at `address`.
    #[inline]
    pub(super) fn span_of(&self, address: usize) -> NonNull<Span> {
        self.map
            .get(address >> PAGE_SHIFT)
            .expect("a block that is freed came from the pool")
    }

    /// A span of `pages` whose start is a multiple of `align_pages`, a power of
    /// two; `None` if the system has no more memory.
    pub(super) fn allocate(
        &self,
        pages: usize,
        align_pages: usize,
        state: SpanState,
    ) -> Option<NonNull<Span>> {
        debug_assert!(pages > 0 && align_pages.is_power_of_two());
        let room = pages.checked_add(align_pages - 1)?;
        let mut inner = self.inner.lock();
        if !inner.has_room_for(pages, align_pages) && inner.may_fit_once_merged(room) {
            // Idle and released neighbours do not merge. If much is free, but in
            // pieces, releasing what is idle makes them one kind.
            drop(inner);
            self.release_idle_above(0);
            inner = self.inner.lock();
        }
        // A span can be cut at both ends.
        if !inner.reserve_unused(2) {
            return None;
        }
        if !inner.has_room_for(pages, align_pages) && !inner.grow(&self.map, room) {
            return None;
        }
        let (span, kind) = inner.take(pages, align_pages)?;
        // SAFETY: the span is out of all lists, so it is ours under the lock.
        unsafe {
            let first = (*span.as_ptr()).start.next_multiple_of(align_pages);
            let before = first - (*span.as_ptr()).start;
            let span = if before > 0 {
                let rest = inner.cut(&self.map, span, before);
                inner.insert_free(&self.map, span, kind);
                rest
            } else {
                span
            };
            if (*span.as_ptr()).pages > pages {
                let rest = inner.cut(&self.map, span, pages);
                inner.insert_free(&self.map, rest, kind);
            }
            (*span.as_ptr()).state = state;
            (*span.as_ptr()).zeroed = kind == SpanState::Released;
            (*span.as_ptr()).reset_objects();
            self.publish(&mut inner, span);
            Some(span)
        }
    }

    /// Enters a span that goes out into the map and the counts.
    ///
    /// # Safety
    /// The span is out of all lists, with its state set.
    unsafe fn publish(&self, inner: &mut Inner, span: NonNull<Span>) {
        // SAFETY: nobody else has the span yet.
        let (start, pages, state) = unsafe {
            (
                (*span.as_ptr()).start,
                (*span.as_ptr()).pages,
                (*span.as_ptr()).state,
            )
        };
        if state == SpanState::Small {
            // An object can start in any page.
            for page in start..start + pages {
                self.map.set(page, span);
            }
            inner.stats.small_pages += pages;
        } else {
            self.map.set(start, span);
            self.map.set(start + pages - 1, span);
            inner.stats.large_pages += pages;
            inner.stats.large_blocks += 1;
        }
    }

    /// Takes a span back.
    ///
    /// # Safety
    /// It came from [`PageCache::allocate`], and nothing in it is used any more.
    pub(super) unsafe fn free(&self, span: NonNull<Span>) {
        let mut inner = self.inner.lock();
        // SAFETY: the caller hands the span over.
        unsafe {
            let pages = (*span.as_ptr()).pages;
            match (*span.as_ptr()).state {
                SpanState::Small => inner.stats.small_pages -= pages,
                SpanState::Large => {
                    inner.stats.large_pages -= pages;
                    inner.stats.large_blocks -= 1;
                }
                other => panic!("a span was freed twice: it is {other:?}"),
            }
            inner.insert_free(&self.map, span, SpanState::Idle);
        }
        let allowed = inner.idle_pages_allowed();
        if inner.idle.pages > allowed {
            drop(inner);
            // Down to half, so that the next spans that come back stay.
            self.release_idle_above(allowed / 2);
        }
    }

    /// Makes a large span longer in place, if what lies behind it is free.
    /// The pages that are added may hold anything.
    ///
    /// # Safety
    /// The caller owns the block in the span.
    pub(super) unsafe fn extend(&self, span: NonNull<Span>, pages: usize) -> bool {
        let mut inner = self.inner.lock();
        // SAFETY: the caller owns the span; its neighbours are guarded by the lock.
        unsafe {
            let missing = pages - (*span.as_ptr()).pages;
            let Some(next) = self.map.get((*span.as_ptr()).end()) else {
                return false;
            };
            let kind = (*next.as_ptr()).state;
            let is_free = kind == SpanState::Idle || kind == SpanState::Released;
            if !is_free || (*next.as_ptr()).pages < missing || !inner.reserve_unused(1) {
                return false;
            }
            inner.remove_free(next);
            if (*next.as_ptr()).pages > missing {
                let rest = inner.cut(&self.map, next, missing);
                inner.insert_free(&self.map, rest, kind);
            }
            inner.discard(next);
            (*span.as_ptr()).pages = pages;
            self.map.set((*span.as_ptr()).end() - 1, span);
            inner.stats.large_pages += missing;
        }
        true
    }

    /// Makes a large span shorter in place. If there is no memory for the
    /// bookkeeping, it stays as it is.
    ///
    /// # Safety
    /// The caller owns the block in the span and does not use its end any more.
    pub(super) unsafe fn shorten(&self, span: NonNull<Span>, pages: usize) {
        let mut inner = self.inner.lock();
        if inner.reserve_unused(1) {
            // SAFETY: the caller owns the span.
            unsafe {
                inner.stats.large_pages -= (*span.as_ptr()).pages - pages;
                let rest = inner.cut(&self.map, span, pages);
                inner.insert_free(&self.map, rest, SpanState::Idle);
            }
        }
    }

    /// Releases idle spans, longest first, until at most `pages` are idle.
    /// Returns how many bytes went back to the system.
    pub(super) fn release_idle_above(&self, pages: usize) -> usize {
        let mut released = 0;
        loop {
            let mut inner = self.inner.lock();
            if inner.idle.pages <= pages {
                return released;
            }
            let Some(span) = inner.take_longest_idle() else {
                return released;
            };
            // SAFETY: the span is out of all lists, and in a state in which its
            // neighbours leave it alone, so it is ours without the lock too.
            let (address, length) = unsafe { ((*span.as_ptr()).address(), (*span.as_ptr()).pages) };
            inner.stats.in_transit_pages += length;
            drop(inner);
            let base = ptr::with_exposed_provenance_mut(address);
            // SAFETY: mapped by `grow`, and free.
            let taken = unsafe { system::release(base, length << PAGE_SHIFT) };
            let mut inner = self.inner.lock();
            inner.stats.in_transit_pages -= length;
            let kind = if taken {
                SpanState::Released
            } else {
                SpanState::Idle
            };
            // SAFETY: the span is ours, see above.
            unsafe { inner.insert_free(&self.map, span, kind) };
            if !taken {
                return released;
            }
            released += length << PAGE_SHIFT;
        }
    }

    /// What is held at present.
    pub(super) fn stats(&self) -> PageStats {
        let inner = self.inner.lock();
        PageStats {
            idle_pages: inner.idle.pages,
            released_pages: inner.released.pages,
            ..inner.stats
        }
    }
}

impl Inner {
    /// How much may stay idle: releasing and touching again what comes and goes
    /// costs more than it saves.
    fn idle_pages_allowed(&self) -> usize {
        IDLE_PAGES + (self.stats.small_pages + self.stats.large_pages) / 8
    }

    fn has_room_for(&self, pages: usize, align: usize) -> bool {
        self.idle.fits(pages, align).is_some() || self.released.fits(pages, align).is_some()
    }

    /// Whether enough is free in pieces that merging them is worth a try: at least
    /// what is asked for, and a quarter of all.
    fn may_fit_once_merged(&self, pages: usize) -> bool {
        let free = self.idle.pages + self.released.pages;
        self.idle.pages > 0 && free >= pages && free >= self.stats.mapped_pages / 4
    }

    /// Maps a region with room for `pages`; fresh memory counts as released.
    fn grow(&mut self, map: &Map, pages: usize) -> bool {
        let Some(bytes) = pages
            .checked_mul(PAGE_BYTES)
            .and_then(|bytes| bytes.checked_next_multiple_of(REGION_ALIGN))
        else {
            return false;
        };
        let bytes = bytes.max(REGION_BYTES);
        let Some(base) = system::map(bytes, REGION_ALIGN) else {
            return false;
        };
        let (start, pages) = (base.as_ptr().addr() >> PAGE_SHIFT, bytes >> PAGE_SHIFT);
        // One struct for the region, beside those that the caller reserved.
        if !map.prepare(start, pages) || !self.reserve_unused(3) {
            // SAFETY: just mapped, and nobody knows of it.
            unsafe { system::unmap(base.as_ptr(), bytes) };
            return false;
        }
        let span = self.describe(start, pages);
        self.stats.mapped_pages += pages;
        // SAFETY: the span is new.
        unsafe { self.insert_free(map, span, SpanState::Released) };
        true
    }

    /// Takes the best span with `pages` from a multiple of `align` on out of the lists; also
    /// says its kind.
    fn take(&mut self, pages: usize, align: usize) -> Option<(NonNull<Span>, SpanState)> {
        let (span, kind) = match self.idle.fits(pages, align) {
            Some(span) => (span, SpanState::Idle),
            None => (self.released.fits(pages, align)?, SpanState::Released),
        };
        self.remove_free(span);
        Some((span, kind))
    }

    fn take_longest_idle(&mut self) -> Option<NonNull<Span>> {
        let span = self.idle.longest()?;
        self.remove_free(span);
        Some(span)
    }

    fn remove_free(&mut self, span: NonNull<Span>) {
        // SAFETY: the span is free, so it is guarded by the lock, and in the lists
        // of its kind.
        unsafe {
            match (*span.as_ptr()).state {
                SpanState::Idle => self.idle.remove(span),
                SpanState::Released => self.released.remove(span),
                other => unreachable!("a free span is {other:?}"),
            }
            // Its neighbours must not merge with it any more.
            (*span.as_ptr()).state = SpanState::InTransit;
        }
    }

    /// Splits off and returns what lies behind the first `pages` of a span.
    ///
    /// # Safety
    /// The span is the caller's, longer than `pages`, and an unused struct is reserved.
    unsafe fn cut(&mut self, map: &Map, span: NonNull<Span>, pages: usize) -> NonNull<Span> {
        // SAFETY: as promised by the caller.
        let (start, end) = unsafe { ((*span.as_ptr()).start, (*span.as_ptr()).end()) };
        let rest = self.describe(start + pages, end - start - pages);
        // SAFETY: as promised by the caller.
        unsafe { (*span.as_ptr()).pages = pages };
        // The ends of every span have to be right at any time, its inner pages only
        // where it holds objects; those are entered when it goes out.
        map.set(start + pages - 1, span);
        map.set(start + pages, rest);
        map.set(end - 1, rest);
        rest
    }

    /// Puts a span into the lists of `kind`, merged with its neighbours of that kind.
    ///
    /// # Safety
    /// The span is the caller's, and in no list.
    unsafe fn insert_free(&mut self, map: &Map, span: NonNull<Span>, kind: SpanState) {
        // SAFETY: the map names the spans at both sides by their end pages, which are
        // always right; states, and all of a free span, are guarded by the lock.
        unsafe {
            let span = span.as_ptr();
            if let Some(before) = map.get((*span).start - 1)
                && (*before.as_ptr()).state == kind
            {
                self.remove_free(before);
                (*span).start = (*before.as_ptr()).start;
                (*span).pages += (*before.as_ptr()).pages;
                self.discard(before);
            }
            if let Some(after) = map.get((*span).end())
                && (*after.as_ptr()).state == kind
            {
                self.remove_free(after);
                (*span).pages += (*after.as_ptr()).pages;
                self.discard(after);
            }
            (*span).state = kind;
            let span = NonNull::new_unchecked(span);
            map.set(span.as_ref().start, span);
            map.set(span.as_ref().end() - 1, span);
            match kind {
                SpanState::Released => self.released.insert(span),
                _ => self.idle.insert(span),
            }
        }
    }

    /// Makes sure of `count` unused structs; `false` if the system has no memory.
    fn reserve_unused(&mut self, count: usize) -> bool {
        if self.unused_count >= count {
            return true;
        }
        let Some(piece) = system::map(METADATA_BYTES, PAGE_BYTES) else {
            return false;
        };
        self.stats.metadata_bytes += METADATA_BYTES;
        let piece = piece.cast::<Span>();
        for index in 0..METADATA_BYTES / size_of::<Span>() {
            // SAFETY: the piece holds that many structs, and nobody else has it.
            unsafe {
                let span = piece.add(index);
                span.write(Span::new(0, 0, SpanState::InTransit));
                self.discard(span);
            }
        }
        true
    }

    /// Takes a reserved struct for a span that comes into being.
    fn describe(&mut self, start: usize, pages: usize) -> NonNull<Span> {
        let span = self
            .unused
            .front()
            .expect("a struct was reserved for the span");
        self.unused_count -= 1;
        // SAFETY: an unused struct is guarded by the lock.
        unsafe {
            self.unused.remove(span);
            span.write(Span::new(start, pages, SpanState::InTransit));
        }
        span
    }

    /// Puts away the struct of a span that went into another.
    ///
    /// # Safety
    /// The span is in no list, and no end page in the map names it.
    unsafe fn discard(&mut self, span: NonNull<Span>) {
        // SAFETY: as promised by the caller.
        unsafe { self.unused.push_front(span) };
        self.unused_count += 1;
    }
}

/// The free spans of one kind, by length.
struct FreeSpans {
    kind: SpanState,
    bins: [SpanList; BINS],
    /// One bit for each bin that is not empty.
    occupied: [u64; BINS.div_ceil(64)],
    pages: usize,
}

impl FreeSpans {
    const fn new(kind: SpanState) -> FreeSpans {
        FreeSpans {
            kind,
            bins: [const { SpanList::new() }; BINS],
            occupied: [0; BINS.div_ceil(64)],
            pages: 0,
        }
    }

    fn bin(pages: usize) -> usize {
        if pages < EXACT_PAGES {
            pages
        } else {
            EXACT_PAGES + (pages.ilog2() - EXACT_PAGES.ilog2()) as usize
        }
    }

    unsafe fn insert(&mut self, span: NonNull<Span>) {
        // SAFETY: the caller holds the lock, and the span is in no list.
        unsafe {
            debug_assert_eq!((*span.as_ptr()).state, self.kind);
            let pages = (*span.as_ptr()).pages;
            let bin = Self::bin(pages);
            self.bins[bin].push_front(span);
            self.occupied[bin / 64] |= 1 << (bin % 64);
            self.pages += pages;
        }
    }

    unsafe fn remove(&mut self, span: NonNull<Span>) {
        // SAFETY: the caller holds the lock, and the span is in the list of its length.
        unsafe {
            let pages = (*span.as_ptr()).pages;
            let bin = Self::bin(pages);
            self.bins[bin].remove(span);
            if self.bins[bin].front().is_none() {
                self.occupied[bin / 64] &= !(1 << (bin % 64));
            }
            self.pages -= pages;
        }
    }

    /// The shortest span with `pages` from a multiple of `align` on: one that was handed out
    /// so before is as long as that, and no longer.
    fn fits(&self, pages: usize, align: usize) -> Option<NonNull<Span>> {
        let mut bin = Self::bin(pages);
        loop {
            bin = self.occupied_from(bin)?;
            if let Some(span) = self.shortest_in(bin, pages, align) {
                return Some(span);
            }
            bin += 1;
        }
    }

    fn longest(&self) -> Option<NonNull<Span>> {
        let word = self.occupied.iter().rposition(|&word| word != 0)?;
        let bin = word * 64 + self.occupied[word].ilog2() as usize;
        // SAFETY: free spans are guarded by the lock, which the caller holds.
        self.bins[bin]
            .iter()
            .max_by_key(|span| unsafe { (*span.as_ptr()).pages })
    }

    fn shortest_in(&self, bin: usize, pages: usize, align: usize) -> Option<NonNull<Span>> {
        if bin < EXACT_PAGES && align == 1 {
            return self.bins[bin].front();
        }
        self.bins[bin]
            .iter()
            .filter_map(|span| {
                // SAFETY: free spans are guarded by the lock, which the caller holds.
                let (start, length) = unsafe { ((*span.as_ptr()).start, (*span.as_ptr()).pages) };
                let fits = start.next_multiple_of(align) + pages <= start + length;
                fits.then_some((length, span))
            })
            .min_by_key(|&(length, _)| length)
            .map(|(_, span)| span)
    }

    /// The first bin at or behind `bin` that is not empty.
    fn occupied_from(&self, bin: usize) -> Option<usize> {
        let mut word = bin / 64;
        let mut bits = self.occupied.get(word)? & (!0 << (bin % 64));
        while bits == 0 {
            word += 1;
            bits = *self.occupied.get(word)?;
        }
        Some(word * 64 + bits.trailing_zeros() as usize)
    }
}
