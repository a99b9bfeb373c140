//! The thread cache: a free list for each size class, touched by one thread only.
//!
//! A hit is a load, a compare and two stores: no lock, no atomic operation (the
//! length is an atomic for the eyes of [`super::stats()`], but is only loaded and
//! stored). All decisions are made on a miss:
//!
//! - *Slow start*: a list begins with room for nothing and doubles its room with each
//!   miss up to one batch, so that what is used twice costs no memory.
//! - A list that runs over *and* runs empty has too little room; it gets another
//!   batch. One that only runs over (a consumer) or only runs empty (a producer)
//!   moves whole batches and needs no more.
//! - The room of all lists together is bounded; a list that needs more takes
//!   it from the others in turn.
//!
//! A cache that is not attached (before its first miss, and after its thread's end)
//! has room for nothing, so every operation misses, and the miss decides: attach,
//! or go to the central cache directly. So the hit path needs no such check.

use std::cell::Cell;
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicU32, Ordering};

use super::heap::Heap;
use super::size_class::{CLASS_COUNT, CLASS_SLOTS, SizeClass};
use super::span::{Batch, CHECKED, FreeObject, check_not_free, check_poison, poison};

/// The room of all lists of one thread, in bytes.
pub(super) const THREAD_CACHE_BYTES_MAX: usize = 2 << 20;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Not known to the heap yet.
    New,
    /// May hold objects.
    Attached,
    /// Its thread is ending.
    Gone,
}

/// The free objects of one thread.
pub(super) struct ThreadCache {
    lists: [FreeList; CLASS_SLOTS],
    state: Cell<State>,
    /// The room of all lists, in bytes.
    room_bytes: Cell<usize>,
    /// The class whose room is taken next.
    hand: Cell<usize>,
    /// One bit for each list that ran over since it ran empty.
    ran_over: Cell<u128>,
}

struct FreeList {
    head: Cell<*mut FreeObject>,
    /// Written by the owner only. Never more than `room`.
    len: AtomicU32,
    /// How many objects the list may hold.
    room: Cell<u32>,
}

impl ThreadCache {
    pub(super) const fn new() -> ThreadCache {
        ThreadCache {
            lists: [const { FreeList::new() }; CLASS_SLOTS],
            state: Cell::new(State::New),
            room_bytes: Cell::new(0),
            hand: Cell::new(0),
            ran_over: Cell::new(0),
        }
    }

    /// An object of `class`, uninitialised; `None` if the system has no more memory.
    #[inline]
    pub(super) fn allocate(&self, heap: &Heap, class: SizeClass) -> Option<NonNull<u8>> {
        let object = match self.list(class).pop() {
            Some(object) => object,
            None => self.allocate_missed(heap, class)?,
        };
        if CHECKED {
            // SAFETY: free objects are poisoned, and this one is out of all lists.
            unsafe { check_poison(object.cast(), class.bytes()) };
        }
        Some(object.cast())
    }

    /// Takes back an object.
    ///
    /// # Safety
    /// It came from a cache of this heap, is of `class`, and not used any more.
    #[inline]
    pub(super) unsafe fn deallocate(&self, heap: &Heap, class: SizeClass, object: NonNull<u8>) {
        if CHECKED {
            // SAFETY: the caller hands the object over.
            unsafe {
                check_not_free(object, class.bytes());
                poison(object, class.bytes());
            }
        }
        let object = object.cast();
        let list = self.list(class);
        if list.len() < list.room.get() {
            list.push(object);
        } else {
            self.deallocate_missed(heap, class, object);
        }
    }

    #[cold]
    #[inline(never)]
    fn allocate_missed(&self, heap: &Heap, class: SizeClass) -> Option<NonNull<FreeObject>> {
        if !self.is_attached(heap) {
            return heap.fetch(class, 1).pop();
        }
        let list = self.list(class);
        let (room, batch) = (list.room.get(), class.batch());
        if room < batch {
            self.add_room(heap, class, room.max(1).min(batch - room));
        } else if self.ran_over.get() & bit(class) != 0 {
            self.ran_over.set(self.ran_over.get() & !bit(class));
            self.add_room(heap, class, batch.min(class.list_max() - room));
        }
        let mut fetched = heap.fetch(class, list.room.get().clamp(1, batch));
        let object = fetched.pop()?;
        list.refill(fetched);
        Some(object)
    }

    #[cold]
    #[inline(never)]
    fn deallocate_missed(&self, heap: &Heap, class: SizeClass, object: NonNull<FreeObject>) {
        let list = self.list(class);
        if self.is_attached(heap) {
            let (room, batch) = (list.room.get(), class.batch());
            if room < batch {
                self.add_room(heap, class, room.max(1).min(batch - room));
            } else {
                self.ran_over.set(self.ran_over.get() | bit(class));
            }
            if list.len() >= list.room.get() {
                self.give_back(heap, class, list.len().min(batch));
            }
            if list.len() < list.room.get() {
                list.push(object);
                return;
            }
        }
        let mut single = Batch::new();
        single.push(object);
        heap.give(class, single);
    }

    /// Gives everything back to the central cache; the lists start slowly again.
    pub(super) fn flush(&self, heap: &Heap) {
        for class in SizeClass::all() {
            let list = self.list(class);
            self.give_back(heap, class, list.len());
            list.room.set(0);
        }
        self.room_bytes.set(0);
        self.ran_over.set(0);
    }

    /// Gives everything back, for good: what its thread still allocates and frees
    /// from now on goes to the central cache directly.
    pub(super) fn retire(&self, heap: &Heap) {
        self.flush(heap);
        if self.state.replace(State::Gone) == State::Attached {
            heap.detach(self);
        }
    }

    /// How many objects are in the list of `class`. Other threads may ask too.
    pub(super) fn cached_objects(&self, class: SizeClass) -> u32 {
        self.list(class).len()
    }

    #[inline]
    fn list(&self, class: SizeClass) -> &FreeList {
        &self.lists[class.index()]
    }

    /// Whether objects may be kept; attaches a new cache.
    fn is_attached(&self, heap: &Heap) -> bool {
        if self.state.get() == State::New {
            // Before the heap is asked: it may allocate.
            self.state.set(State::Gone);
            if heap.attach(self) {
                self.state.set(State::Attached);
            }
        }
        self.state.get() == State::Attached
    }

    /// Gives a list room for `more` objects, if that is to be had.
    fn add_room(&self, heap: &Heap, class: SizeClass, more: u32) {
        let bytes = more as usize * class.bytes();
        let mut tries = CLASS_COUNT;
        while self.room_bytes.get() + bytes > THREAD_CACHE_BYTES_MAX {
            if tries == 0 {
                return;
            }
            tries -= 1;
            self.take_room_of_next(heap, class);
        }
        let list = self.list(class);
        list.room.set(list.room.get() + more);
        self.room_bytes.set(self.room_bytes.get() + bytes);
    }

    /// Takes half of the room of the next list in turn, but of that of `spared`.
    fn take_room_of_next(&self, heap: &Heap, spared: SizeClass) {
        let hand = self.hand.get();
        self.hand.set((hand + 1) % CLASS_COUNT);
        let Some(class) = SizeClass::all().nth(hand).filter(|&class| class != spared) else {
            return;
        };
        let list = self.list(class);
        let left = list.room.get() / 2;
        let taken = list.room.get() - left;
        self.give_back(heap, class, list.len().saturating_sub(left));
        list.room.set(left);
        self.room_bytes
            .set(self.room_bytes.get() - taken as usize * class.bytes());
    }

    fn give_back(&self, heap: &Heap, class: SizeClass, count: u32) {
        let mut batch = Batch::new();
        while batch.len < count
            && let Some(object) = self.list(class).pop()
        {
            batch.push(object);
        }
        if batch.len > 0 {
            heap.give(class, batch);
        }
    }
}

impl FreeList {
    const fn new() -> FreeList {
        FreeList {
            head: Cell::new(ptr::null_mut()),
            len: AtomicU32::new(0),
            room: Cell::new(0),
        }
    }

    #[inline]
    fn len(&self) -> u32 {
        // ORDERING: Relaxed, the owner reads what it wrote itself; for anyone else it
        // is a figure.
        self.len.load(Ordering::Relaxed)
    }

    #[inline]
    fn set_len(&self, len: u32) {
        // ORDERING: Relaxed, as above; nothing is published by it.
        self.len.store(len, Ordering::Relaxed);
    }

    #[inline]
    fn pop(&self) -> Option<NonNull<FreeObject>> {
        let object = NonNull::new(self.head.get())?;
        // SAFETY: objects in the list are free and owned by it.
        self.head.set(unsafe { (*object.as_ptr()).next });
        self.set_len(self.len() - 1);
        Some(object)
    }

    #[inline]
    fn push(&self, object: NonNull<FreeObject>) {
        // SAFETY: the object is free, handed to the list, and at least a pointer long.
        unsafe { (*object.as_ptr()).next = self.head.get() };
        self.head.set(object.as_ptr());
        self.set_len(self.len() + 1);
    }

    /// Takes over a batch; the list is empty.
    fn refill(&self, batch: Batch) {
        debug_assert!(self.head.get().is_null(), "only an empty list is refilled");
        let (head, len) = batch.into_raw();
        self.head.set(head);
        self.set_len(len);
    }
}

fn bit(class: SizeClass) -> u128 {
    1 << class.index()
}

#[cfg(test)]
impl ThreadCache {
    /// Asserts what always holds between operations.
    pub(super) fn check(&self) {
        let mut room = 0;
        for class in SizeClass::all() {
            let list = self.list(class);
            assert!(
                list.len() <= list.room.get(),
                "{class:?} holds more than its room"
            );
            assert!(
                list.room.get() <= class.list_max(),
                "{class:?} has too much room"
            );
            room += list.room.get() as usize * class.bytes();
        }
        assert_eq!(room, self.room_bytes.get());
        assert!(room <= THREAD_CACHE_BYTES_MAX);
    }
}
