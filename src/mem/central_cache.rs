//! The central cache: for each size class the spans that have objects to give.
//!
//! Threads fetch and return objects in batches, so the lock of a class, which
//! covers a few list operations for each object, is taken rarely. A span of which
//! every object came back goes to the page cache, where it can become anything.
//! Spans are asked for and given back outside the lock.

use std::ptr::NonNull;

use super::size_class::SizeClass;
use super::span::{Batch, Span, SpanList};
use super::sync::{Mutex, const_new};

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

/// The spans of one size class.
pub(super) struct CentralList {
    inner: Mutex<Inner>,
}

struct Inner {
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
                    partial: PartialSpans {
                        lists: [const { SpanList::new() }; FULLNESS_COUNT],
                        occupied: 0,
                    },
                    stats: CentralStats { spans: 0, outside: 0 },
                }),
            }
        }
    }

    /// One to `want` objects, or none if the system has no more memory.
    pub(super) fn fetch(&self, class: SizeClass, want: u32, source: &impl SpanSource) -> Batch {
        debug_assert!(want > 0);
        let mut batch = Batch::new();
        let mut inner = self.inner.lock();
        while batch.len < want
            && let Some((span, fullness)) = inner.partial.fullest()
        {
            // SAFETY: the span is in the list that our lock guards.
            unsafe {
                inner.partial.remove(span, fullness);
                inner.take_from(span, class, want, &mut batch);
            }
        }
        if batch.len > 0 {
            return batch;
        }
        drop(inner);
        if let Some(span) = source.allocate_span(class) {
            inner = self.inner.lock();
            inner.stats.spans += 1;
            // From this very span, whatever came back meanwhile: a span of which nothing
            // goes out cannot come back, and would stay here for nothing.
            // SAFETY: the span is new, so it is in no list.
            unsafe { inner.take_from(span, class, want, &mut batch) };
        }
        batch
    }

    /// Takes back objects.
    ///
    /// # Safety
    /// They came from this list, are free, and belong to the batch.
    pub(super) unsafe fn give(&self, class: SizeClass, mut batch: Batch, source: &impl SpanSource) {
        let mut empty = SpanList::new();
        let mut inner = self.inner.lock();
        while let Some(object) = batch.pop() {
            let span = source.span_of(object.as_ptr().addr());
            // SAFETY: the object is one of that span, which is of this class, and
            // guarded by our lock.
            unsafe {
                let outside = span.as_ref().put_object(object);
                inner.stats.outside -= 1;
                let (was, is) = (fullness_of(class, outside + 1), fullness_of(class, outside));
                let was_partial = outside + 1 < class.objects();
                if was_partial && (was != is || outside == 0) {
                    inner.partial.remove(span, was);
                }
                if outside == 0 {
                    inner.stats.spans -= 1;
                    empty.push_front(span);
                } else if !was_partial || was != is {
                    inner.partial.insert(span, is);
                }
            }
        }
        drop(inner);
        while let Some(span) = empty.front() {
            // SAFETY: the span is in no list but our own, and no object is outside.
            unsafe {
                empty.remove(span);
                source.free_span(span);
            }
        }
    }

    /// What is held at present.
    pub(super) fn stats(&self) -> CentralStats {
        self.inner.lock().stats
    }
}

impl Inner {
    /// Adds objects of a span to `batch`, and puts the span where it belongs then.
    ///
    /// # Safety
    /// The span is of this class, and in no list.
    unsafe fn take_from(
        &mut self,
        span: NonNull<Span>,
        class: SizeClass,
        want: u32,
        batch: &mut Batch,
    ) {
        let before = batch.len;
        // SAFETY: as promised by the caller, who has `self` from under the lock.
        unsafe {
            let outside = span.as_ref().take_objects(class, want, batch);
            if outside < class.objects() {
                self.partial.insert(span, fullness_of(class, outside));
            }
        }
        self.stats.outside += (batch.len - before) as usize;
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
