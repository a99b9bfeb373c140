//! The thread cache: a list of free objects for each size class, touched by one thread only.
//!
//! A list is a stack of names in a table, not a chain through the objects. A hit is the
//! load of a length, a compare, a store, and the load or store of a name: no lock, no
//! atomic operation (the length is an atomic for the eyes of [`super::stats()`], but is
//! only loaded and stored), and the object itself is not touched; if another thread
//! freed it, its memory is still in the cache of another core. All decisions are
//! made on a miss:
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

use std::cell::{Cell, UnsafeCell};
use std::mem::MaybeUninit;
use std::ptr::{self, NonNull};
use std::slice;
use std::sync::atomic::{AtomicU32, Ordering};

use super::heap::Heap;
use super::registry::Links;
use super::size_class::{CLASS_COUNT, CLASS_SLOTS, LIST_SLOTS, PAGE_BYTES, SizeClass};
use super::span::{CHECKED, FreeObject, Slot, check_not_free, check_poison, poison};
use super::system;
use super::transfer::Party;

/// The room of all lists of one thread, in bytes.
pub(super) const THREAD_CACHE_BYTES_MAX: usize = 1 << 20;
/// The address space of the table with the slots of all lists; memory is behind the
/// pages that were touched.
pub(super) const TABLE_BYTES: usize = (LIST_SLOTS * size_of::<Slot>()).next_multiple_of(PAGE_BYTES);

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
    links: UnsafeCell<Links>,
}

struct FreeList {
    /// The list's part of the table, of `list_max` slots; null while there is no table.
    /// The first `len` of them hold objects.
    slots: Cell<*mut Slot>,
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
            links: UnsafeCell::new(Links::new()),
        }
    }

    /// For the registry, which guards what is there.
    pub(super) fn links(&self) -> *mut Links {
        self.links.get()
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
            // SAFETY: there is room.
            unsafe { list.push(object) };
        } else {
            self.deallocate_missed(heap, class, object);
        }
    }

    #[cold]
    #[inline(never)]
    fn allocate_missed(&self, heap: &Heap, class: SizeClass) -> Option<NonNull<FreeObject>> {
        if !self.is_attached(heap) {
            return self.fetch_one(heap, class);
        }
        let list = self.list(class);
        let (room, batch) = (list.room.get(), class.batch());
        if room < batch {
            self.add_room(heap, class, room.max(1).min(batch - room));
        } else if self.ran_over.get() & bit(class) != 0 {
            self.ran_over.set(self.ran_over.get() & !bit(class));
            self.add_room(heap, class, batch.min(class.list_max() - room));
        }
        match list.room.get().min(batch) {
            0 => self.fetch_one(heap, class),
            want => {
                list.refill(heap, class, want, self.party());
                list.pop()
            }
        }
    }

    /// An object from the central cache, past the lists.
    fn fetch_one(&self, heap: &Heap, class: SizeClass) -> Option<NonNull<FreeObject>> {
        let mut slot = MaybeUninit::uninit();
        let fetched = heap.fetch(class, slice::from_mut(&mut slot), self.party());
        // SAFETY: what was fetched is written.
        (fetched > 0).then(|| unsafe { slot.assume_init() })
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
                // SAFETY: there is room.
                unsafe { list.push(object) };
                return;
            }
        }
        // SAFETY: the object came from the heap, and is handed over to us as free.
        unsafe { heap.give(class, slice::from_ref(&object), self.party()) };
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
            self.drop_table();
        }
    }

    /// How many objects are in the list of `class`. Other threads may ask too.
    pub(super) fn cached_objects(&self, class: SizeClass) -> u32 {
        self.list(class).len()
    }

    /// What the central cache tells threads apart by.
    fn party(&self) -> Party {
        ptr::from_ref(self).addr()
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
            if self.make_table() {
                if heap.attach(self) {
                    self.state.set(State::Attached);
                } else {
                    self.drop_table();
                }
            }
        }
        self.state.get() == State::Attached
    }

    /// Gives each list its slots; `false` if the system has no memory.
    fn make_table(&self) -> bool {
        let Some(table) = system::map(TABLE_BYTES, PAGE_BYTES) else {
            return false;
        };
        let mut slots = table.cast::<Slot>().as_ptr();
        for class in SizeClass::all() {
            self.list(class).slots.set(slots);
            // SAFETY: the table has `list_max` slots for each class.
            slots = unsafe { slots.add(class.list_max() as usize) };
        }
        true
    }

    /// Takes the slots away; the lists are empty and without room.
    fn drop_table(&self) {
        let first = SizeClass::all().next().expect("there are classes");
        let table = self.list(first).slots.get();
        for class in SizeClass::all() {
            self.list(class).slots.set(ptr::null_mut());
        }
        // SAFETY: mapped in `make_table`, and no list leads there any more.
        unsafe { system::unmap(table.cast(), TABLE_BYTES) };
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

    /// Gives back `count` objects of a list, or all if it has fewer.
    fn give_back(&self, heap: &Heap, class: SizeClass, count: u32) {
        let list = self.list(class);
        let left = list.len().saturating_sub(count);
        let given = list.len() - left;
        if given > 0 {
            // First, so that what is given is nobody's but the slice's.
            list.set_len(left);
            // SAFETY: these slots held objects of the list, which came from the heap.
            unsafe {
                let first = list.slots.get().add(left as usize).cast();
                let objects = slice::from_raw_parts(first, given as usize);
                heap.give(class, objects, self.party());
            }
        }
    }
}

impl FreeList {
    const fn new() -> FreeList {
        FreeList {
            slots: Cell::new(ptr::null_mut()),
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
        let left = self.len().checked_sub(1)?;
        self.set_len(left);
        // SAFETY: the slots below the length hold objects.
        Some(unsafe { (*self.slots.get().add(left as usize)).assume_init() })
    }

    /// # Safety
    /// The list has room; the object is free, of the class of the list, and handed over.
    #[inline]
    unsafe fn push(&self, object: NonNull<FreeObject>) {
        let len = self.len();
        // SAFETY: `room` is at most the number of slots.
        unsafe { (*self.slots.get().add(len as usize)).write(object) };
        self.set_len(len + 1);
    }

    /// Fetches `want` objects, or fewer; the list is empty, and has that much room.
    fn refill(&self, heap: &Heap, class: SizeClass, want: u32, taker: Party) {
        debug_assert!(self.len() == 0 && want <= self.room.get());
        // SAFETY: `room` is at most the number of slots, and only this thread uses them.
        let slots = unsafe { slice::from_raw_parts_mut(self.slots.get(), want as usize) };
        let fetched = heap.fetch(class, slots, taker);
        self.set_len(fetched as u32);
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
