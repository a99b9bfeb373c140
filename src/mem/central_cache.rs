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
    /// Spans that have an object to give. One that has just got back its first
    /// stands in front: it is the fullest, and taking from it leaves the emptier
    /// ones a chance to become free.
    partial: SpanList,
    stats: CentralStats,
}

impl CentralList {
    const_new! {
        pub(super) fn new() -> CentralList {
            CentralList {
                inner: Mutex::new(Inner {
                    partial: SpanList::new(),
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
        loop {
            while batch.len < want
                && let Some(span) = inner.partial.front()
            {
                // SAFETY: the span is in the list that our lock guards, and of this class.
                unsafe {
                    if span.as_ref().take_objects(class, want, &mut batch) {
                        inner.partial.remove(span);
                    }
                }
            }
            if batch.len > 0 {
                inner.stats.outside += batch.len as usize;
                return batch;
            }
            drop(inner);
            let Some(span) = source.allocate_span(class) else {
                return batch;
            };
            inner = self.inner.lock();
            inner.stats.spans += 1;
            // SAFETY: the span is new, so it is in no list.
            unsafe { inner.partial.push_front(span) };
        }
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
                let (was_used_up, is_empty) = span.as_ref().put_object(class, object);
                inner.stats.outside -= 1;
                match (was_used_up, is_empty) {
                    (true, false) => inner.partial.push_front(span),
                    (false, true) => inner.partial.remove(span),
                    _ => {}
                }
                if is_empty {
                    inner.stats.spans -= 1;
                    empty.push_front(span);
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
