//! The central cache: for each size class the spans that have objects to give.
//!
//! Threads fetch and return objects in batches, so the lock of a class is taken
//! rarely. Where one thread returns what another wants, objects wait in the transfer cache
//! (`transfer.rs`) as they are; else they go back into their spans, a few list
//! operations for each. A span of which every object came back goes to the page cache,
//! where it can become anything. Spans are asked for and given back outside the lock.

use std::ptr::NonNull;

use super::size_class::SizeClass;
use super::span::{FreeObject, Slot, Span, SpanList};
use super::sync::{Mutex, const_new};
use super::transfer::{Party, Transfer};

/// Where spans come from and go to: the page cache, or a model of it.
pub(super) trait SpanSource {
    /// A span for objects of `class`; `None` if the system has no more memory.
    fn allocate_span(&self, class: SizeClass) -> Option<NonNull<Span>>;

    /// Takes back a span.
    ///
    /// # Safety
    /// It came from here, and none of its objects is outside.
    unsafe fn free_span(&self, span: NonNull<Span>);

    /// The span that holds the object at `address`.
    fn span_of(&self, address: usize) -> NonNull<Span>;
}

/// How many objects and spans a class has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct CentralStats {
    /// Spans, those without a free object included.
    pub(super) spans: usize,
    /// Objects that are with threads: in use, or in their caches.
    pub(super) outside: usize,
}

/// The spans of one size class, and objects on their way from thread to thread.
pub(super) struct CentralList {
    inner: Mutex<Inner>,
}

struct Inner {
    spans: Spans,
    transfer: Transfer,
}

struct Spans {
    partial: PartialSpans,
    stats: CentralStats,
}

/// Spans that have an object to give, by how full they are.
///
/// Taking from the fullest leaves the emptier ones a chance to become free, so that
/// a heap that has shrunk gives spans back while blocks come and go.
struct PartialSpans {
    lists: [SpanList; FULLNESS_COUNT],
    /// One bit for each list that is not empty.
    occupied: u32,
}

/// How many lists there are for the spans of a class: 8 to 16 of them are in use,
/// because fullness is told apart by the upper bits of the number of objects outside.
const FULLNESS_COUNT: usize = 16;

impl CentralList {
    const_new! {
        pub(super) fn new() -> CentralList {
            CentralList {
                inner: Mutex::new(Inner {
                    spans: Spans {
                        partial: PartialSpans {
                            lists: [const { SpanList::new() }; FULLNESS_COUNT],
                            occupied: 0,
                        },
                        stats: CentralStats { spans: 0, outside: 0 },
                    },
                    transfer: Transfer::new(),
                }),
            }
        }
    }

    /// Fills `slots` with objects, from the front, and returns how many it gave: at least
    /// one, or none if the system has no more memory.
    pub(super) fn fetch(
        &self,
        class: SizeClass,
        slots: &mut [Slot],
        taker: Party,
        source: &impl SpanSource,
    ) -> usize {
        debug_assert!(!slots.is_empty());
        let mut inner = self.inner.lock();
        let mut taken = inner.transfer.take(class, slots, taker);
        let spans = &mut inner.spans;
        spans.stats.outside += taken;
        while taken < slots.len()
            && let Some((span, fullness)) = spans.partial.fullest()
        {
            // SAFETY: the span is in the list that our lock guards.
            unsafe {
                spans.partial.remove(span, fullness);
                taken += spans.take_from(span, class, &mut slots[taken..]);
            }
        }
        if taken > 0 {
            return taken;
        }
        drop(inner);
        if let Some(span) = source.allocate_span(class) {
            let spans = &mut self.inner.lock().spans;
            spans.stats.spans += 1;
            // From this very span, whatever came back meanwhile: a span of which nothing
            // goes out cannot come back, and would stay here for nothing.
            // SAFETY: the span is new, so it is in no list.
            taken = unsafe { spans.take_from(span, class, slots) };
        }
        taken
    }

    /// Takes back objects.
    ///
    /// # Safety
    /// They came from this list, are free, and nobody else's any more.
    pub(super) unsafe fn give(
        &self,
        class: SizeClass,
        objects: &[NonNull<FreeObject>],
        giver: Party,
        source: &impl SpanSource,
    ) {
        let mut empty = SpanList::new();
        let mut inner = self.inner.lock();
        inner.spans.stats.outside -= objects.len();
        if inner.transfer.put(objects, giver) {
            return;
        }
        // SAFETY: as promised by the caller.
        unsafe { inner.spans.put(class, objects, source, &mut empty) };
        if inner.transfer.is_flooded(class) {
            inner.drain(class, source, &mut empty);
        }
        drop(inner);
        free_spans(empty, source);
    }

    /// Puts what is in the transfer cache into the spans, so that those that are not in
    /// use can go.
    pub(super) fn drain(&self, class: SizeClass, source: &impl SpanSource) {
        let mut empty = SpanList::new();
        self.inner.lock().drain(class, source, &mut empty);
        free_spans(empty, source);
    }

    /// Makes room in the transfer cache as if threads had wanted it.
    #[cfg(all(test, loom))]
    pub(super) fn make_room(&self, class: SizeClass) {
        self.inner.lock().transfer.make_room(class);
    }

    /// What is held at present.
    pub(super) fn stats(&self) -> CentralStats {
        self.inner.lock().spans.stats
    }
}

impl Inner {
    fn drain(&mut self, class: SizeClass, source: &impl SpanSource, empty: &mut SpanList) {
        // SAFETY: what was in the transfer cache is free, and of this class.
        unsafe {
            self.spans.put(class, self.transfer.drain(), source, empty);
        }
    }
}

impl Spans {
    /// Fills `slots` with objects of a span, and puts the span where it belongs then;
    /// returns how many that were.
    ///
    /// # Safety
    /// The span is of this class, and in no list.
    unsafe fn take_from(
        &mut self,
        span: NonNull<Span>,
        class: SizeClass,
        slots: &mut [Slot],
    ) -> usize {
        // SAFETY: as promised by the caller, who has `self` from under the lock.
        let taken = unsafe {
            let (taken, outside) = span.as_ref().take_objects(class, slots);
            if outside < class.objects() {
                self.partial.insert(span, fullness_of(class, outside));
            }
            taken
        };
        self.stats.outside += taken;
        taken
    }

    /// Puts objects into their spans, and those spans of which none is outside any more
    /// into `empty`, for the caller.
    ///
    /// # Safety
    /// As for [`CentralList::give`].
    unsafe fn put(
        &mut self,
        class: SizeClass,
        objects: &[NonNull<FreeObject>],
        source: &impl SpanSource,
        empty: &mut SpanList,
    ) {
        for &object in objects {
            let span = source.span_of(object.as_ptr().addr());
            // SAFETY: the object is one of that span, which is of this class, and
            // guarded by our lock.
            unsafe {
                let outside = span.as_ref().put_object(object);
                let (was, is) = (fullness_of(class, outside + 1), fullness_of(class, outside));
                let was_partial = outside + 1 < class.objects();
                if was_partial && (was != is || outside == 0) {
                    self.partial.remove(span, was);
                }
                if outside == 0 {
                    self.stats.spans -= 1;
                    empty.push_front(span);
                } else if !was_partial || was != is {
                    self.partial.insert(span, is);
                }
            }
        }
    }
}

/// Hands on spans of which no object is outside.
fn free_spans(mut spans: SpanList, source: &impl SpanSource) {
    while let Some(span) = spans.front() {
        // SAFETY: the span is in no list but this one, and no object is outside.
        unsafe {
            spans.remove(span);
            source.free_span(span);
        }
    }
}

impl PartialSpans {
    /// A span to take objects from, and how full it is.
    fn fullest(&self) -> Option<(NonNull<Span>, usize)> {
        let fullness = self.occupied.checked_ilog2()? as usize;
        Some((self.lists[fullness].front()?, fullness))
    }

    /// # Safety
    /// The caller holds the lock, and the span is in no list.
    unsafe fn insert(&mut self, span: NonNull<Span>, fullness: usize) {
        // SAFETY: as promised by the caller.
        unsafe { self.lists[fullness].push_front(span) };
        self.occupied |= 1 << fullness;
    }

    /// # Safety
    /// The caller holds the lock, and the span is in the list of `fullness`.
    unsafe fn remove(&mut self, span: NonNull<Span>, fullness: usize) {
        // SAFETY: as promised by the caller.
        unsafe { self.lists[fullness].remove(span) };
        if self.lists[fullness].front().is_none() {
            self.occupied &= !(1 << fullness);
        }
    }
}

/// The list of a span of which so many objects are outside.
fn fullness_of(class: SizeClass, outside: u32) -> usize {
    let most = FULLNESS_COUNT.ilog2();
    let shift = (class.objects().ilog2() + 1).saturating_sub(most);
    (outside >> shift) as usize
}
