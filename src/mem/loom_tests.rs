//! Models of what threads share, for `RUSTFLAGS="--cfg loom" cargo test --release --lib mem::`.

use std::alloc::{Layout, alloc, dealloc};
use std::mem::MaybeUninit;
use std::ptr::NonNull;

use loom::sync::Arc;
use loom::thread;

use super::central_cache::{CentralList, SpanSource};
use super::page_map::PageMap;
use super::size_class::{PAGE_BYTES, PAGE_SHIFT, SMALL_BYTES_MAX, SizeClass};
use super::span::{FreeObject, Slot, Span, SpanState};
use super::sync::Mutex;
use super::transfer::Party;

/// The map of the models: few entries, because loom follows each.
type SmallMap = PageMap<2, 4>;

/// Hands out a few spans of memory from malloc.
struct ModelSource {
    free: Mutex<Vec<NonNull<Span>>>,
    spans: Vec<NonNull<Span>>,
    layout: Layout,
}

// SAFETY: the list of spans does not change, the free ones are behind a lock.
unsafe impl Send for ModelSource {}
// SAFETY: as above.
unsafe impl Sync for ModelSource {}

impl ModelSource {
    fn new(class: SizeClass, count: usize) -> ModelSource {
        let layout =
            Layout::from_size_align(class.pages() * PAGE_BYTES, PAGE_BYTES).expect("a span");
        let spans: Vec<_> = (0..count)
            .map(|_| {
                // SAFETY: the layout is not empty.
                let memory = NonNull::new(unsafe { alloc(layout) }).expect("there is memory");
                memory.expose_provenance();
                let start = memory.addr().get() >> PAGE_SHIFT;
                let span = Span::new(start, class.pages(), SpanState::Small);
                NonNull::from(Box::leak(Box::new(span)))
            })
            .collect();
        ModelSource {
            free: Mutex::new(spans.clone()),
            spans,
            layout,
        }
    }

    fn free_spans(&self) -> usize {
        self.free.lock().len()
    }
}

impl Drop for ModelSource {
    fn drop(&mut self) {
        for span in &self.spans {
            // SAFETY: made in `new`, and used by nobody any more.
            unsafe {
                let span = Box::from_raw(span.as_ptr());
                let memory = std::ptr::with_exposed_provenance_mut(span.address());
                dealloc(memory, self.layout);
            }
        }
    }
}

impl SpanSource for ModelSource {
    fn allocate_span(&self, _: SizeClass) -> Option<NonNull<Span>> {
        let span = self.free.lock().pop()?;
        // SAFETY: the span is ours now.
        unsafe { span.as_ref().reset_objects() };
        Some(span)
    }

    unsafe fn free_span(&self, span: NonNull<Span>) {
        let mut free = self.free.lock();
        assert!(!free.contains(&span), "a span comes back once");
        free.push(span);
    }

    fn span_of(&self, address: usize) -> NonNull<Span> {
        let page = address >> PAGE_SHIFT;
        // SAFETY: where a span lies does not change.
        let holds = |span: &NonNull<Span>| unsafe {
            (*span.as_ptr()).start <= page && page < (*span.as_ptr()).end()
        };
        *self.spans.iter().find(|span| holds(span)).expect("a span")
    }
}

/// One for all threads, so that what comes back goes into its span and not into the
/// transfer cache, except where room was made there.
const PARTY: Party = 1;

/// The class whose spans hold the fewest objects, so that they are used up and
/// free again within a few steps.
fn large_class() -> SizeClass {
    SizeClass::of(SMALL_BYTES_MAX)
}

struct Shared {
    class: SizeClass,
    list: CentralList,
    source: ModelSource,
}

impl Shared {
    fn new(spans: usize) -> Arc<Shared> {
        let class = large_class();
        Arc::new(Shared {
            class,
            list: CentralList::new(),
            source: ModelSource::new(class, spans),
        })
    }

    fn fetch(&self, want: usize) -> Vec<Object> {
        let mut slots: Vec<Slot> = (0..want).map(|_| MaybeUninit::uninit()).collect();
        let fetched = self.list.fetch(self.class, &mut slots, PARTY, &self.source);
        // SAFETY: that many were written.
        let objects = slots.into_iter().take(fetched);
        objects
            .map(|slot| Object(unsafe { slot.assume_init() }))
            .collect()
    }

    fn give(&self, objects: Vec<Object>) {
        let objects: Vec<_> = objects.into_iter().map(|object| object.0).collect();
        // SAFETY: fetched from this list, and not used any more.
        unsafe { self.list.give(self.class, &objects, PARTY, &self.source) };
    }

    fn check_all_returned(&self, spans: usize) {
        self.list.drain(self.class, &self.source);
        let stats = self.list.stats();
        assert_eq!((stats.spans, stats.outside), (0, 0));
        assert_eq!(self.source.free_spans(), spans);
    }
}

struct Object(NonNull<FreeObject>);

// SAFETY: a free object is owned by who holds it.
unsafe impl Send for Object {}

impl Object {
    /// Writes what only its owner writes, lets others run, and looks again.
    fn use_it(&self, pattern: usize) {
        let word = self.0.cast::<usize>();
        // SAFETY: the object is ours.
        unsafe {
            word.write(pattern);
            thread::yield_now();
            assert_eq!(word.read(), pattern, "an object has one owner");
        }
    }
}

#[test]
fn two_threads_never_hold_the_same_object_and_all_spans_come_back() {
    loom::model(|| {
        let shared = Shared::new(2);
        let other = shared.clone();
        let thread = thread::spawn(move || {
            let objects = other.fetch(2);
            objects.iter().for_each(|object| object.use_it(1));
            other.give(objects);
        });
        let objects = shared.fetch(1);
        objects.iter().for_each(|object| object.use_it(2));
        shared.give(objects);
        thread.join().unwrap();
        shared.check_all_returned(2);
    });
}

#[test]
fn objects_freed_by_another_thread_come_back_while_the_maker_goes_on() {
    loom::model(|| {
        let shared = Shared::new(2);
        let objects = shared.fetch(2);
        let other = shared.clone();
        let thread = thread::spawn(move || {
            for object in objects {
                other.give(vec![object]);
            }
        });
        let more = shared.fetch(1);
        more.iter().for_each(|object| object.use_it(3));
        shared.give(more);
        thread.join().unwrap();
        shared.check_all_returned(2);
    });
}

#[test]
fn what_one_thread_gives_another_fetches_and_draining_meanwhile_loses_nothing() {
    loom::model(|| {
        let shared = Shared::new(2);
        shared.list.make_room(shared.class);
        let objects = shared.fetch(2);
        let other = shared.clone();
        let thread = thread::spawn(move || {
            other.give(objects);
            other.list.drain(other.class, &other.source);
        });
        let more = shared.fetch(2);
        more.iter().for_each(|object| object.use_it(4));
        shared.give(more);
        thread.join().unwrap();
        shared.check_all_returned(2);
    });
}

#[test]
fn a_list_without_memory_gives_nothing_and_loses_nothing() {
    loom::model(|| {
        let shared = Shared::new(1);
        let other = shared.clone();
        let thread = thread::spawn(move || {
            let objects = other.fetch(2);
            other.give(objects);
        });
        let objects = shared.fetch(2);
        shared.give(objects);
        thread.join().unwrap();
        shared.check_all_returned(1);
    });
}

#[test]
fn a_reader_of_the_page_map_sees_nothing_or_the_whole_span() {
    loom::model(|| {
        let map = Arc::new(SmallMap::new());
        let writer = map.clone();
        let thread = thread::spawn(move || {
            // Pages 3 and 4 are in two leaves.
            assert!(writer.prepare(3, 2));
            let span = NonNull::from(Box::leak(Box::new(Span::new(3, 2, SpanState::Small))));
            writer.set(3, span);
            writer.set(4, span);
            span.addr().get()
        });
        let seen = [map.get(4), map.get(3)];
        for span in seen.into_iter().flatten() {
            // SAFETY: a published span is initialised, which is what is checked here.
            let (start, pages) = unsafe { ((*span.as_ptr()).start, (*span.as_ptr()).pages) };
            assert_eq!((start, pages), (3, 2));
        }
        let address = thread.join().unwrap();
        let span = map.get(3).expect("an entry once it is written");
        assert_eq!(span.addr().get(), address);
        assert_eq!(map.get(4), Some(span));
        // SAFETY: leaked above, and not used any more.
        drop(unsafe { Box::from_raw(span.as_ptr()) });
    });
}
