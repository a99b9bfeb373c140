//! Spans: runs of pages that are one thing, and the objects that are cut from them.

use std::mem::MaybeUninit;
use std::ptr::{self, NonNull};

use super::size_class::{PAGE_SHIFT, SizeClass};
use super::sync::UnsafeCell;

/// Freed memory is filled with this where memory is checked.
pub(super) const POISON: u8 = 0xDD;
/// Whether freed blocks are filled, and looked at when they are handed out again:
/// finds double frees and writes after a free. In builds with debug assertions.
pub(super) const CHECKED: bool = cfg!(debug_assertions);
/// How much of a block is looked at, in bytes: enough to hit most stray writes.
const CHECK_BYTES_MAX: usize = 1024;

/// Whose the pages of a span are. Changes under the lock of the page cache only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SpanState {
    /// Free, and backed by memory.
    Idle,
    /// Free, and the system has the memory: reads as zeros when touched again.
    Released,
    /// Out of the lists while its memory is given back.
    InTransit,
    /// One large block.
    Large,
    /// Objects of one class.
    Small,
}

/// A run of pages. Its memory is never unmapped while the pool lives, so a stale
/// pointer to a span reads a wrong span, not a wild address.
pub(super) struct Span {
    /// Neighbours in the one list that the span is in; guarded by that list's lock.
    next: *mut Span,
    prev: *mut Span,
    /// The number of the first page.
    pub(super) start: usize,
    /// The length in pages.
    pub(super) pages: usize,
    pub(super) state: SpanState,
    /// Whether the memory was known to be all zeros when the span was handed out.
    pub(super) zeroed: bool,
    /// Guarded by the lock of the central list of its class.
    objects: UnsafeCell<Objects>,
}

/// The objects of a small span.
struct Objects {
    /// Those that came back.
    free: *mut FreeObject,
    /// Those that are outside: with a thread cache or a user.
    outside: u32,
    /// Those that were cut from the span so far. Cutting late leaves the memory
    /// untouched, and not even resident, until it is needed.
    cut: u32,
}

impl Span {
    pub(super) fn new(start: usize, pages: usize, state: SpanState) -> Span {
        Span {
            next: ptr::null_mut(),
            prev: ptr::null_mut(),
            start,
            pages,
            state,
            zeroed: false,
            objects: UnsafeCell::new(Objects {
                free: ptr::null_mut(),
                outside: 0,
                cut: 0,
            }),
        }
    }

    /// The number of the first page behind it.
    pub(super) fn end(&self) -> usize {
        self.start + self.pages
    }

    /// The address of its first byte.
    pub(super) fn address(&self) -> usize {
        self.start << PAGE_SHIFT
    }

    /// Fills `slots` with objects, from the front, until the span is used up; returns
    /// how many that were, and how many are outside then.
    ///
    /// # Safety
    /// The caller holds the lock of the central list of `class`, whose span this is.
    pub(super) unsafe fn take_objects(&self, class: SizeClass, slots: &mut [Slot]) -> (usize, u32) {
        self.objects.with_mut(|objects| {
            // SAFETY: the lock of the central list guards the objects.
            let objects = unsafe { &mut *objects };
            let mut taken = 0;
            for slot in slots {
                let object = if let Some(object) = NonNull::new(objects.free) {
                    // SAFETY: what is in the list is free, and ours under the lock.
                    objects.free = unsafe { object.as_ref().next };
                    object
                } else if objects.cut < class.objects() {
                    let address = self.address() + objects.cut as usize * class.bytes();
                    objects.cut += 1;
                    let fresh = ptr::with_exposed_provenance_mut(address);
                    // SAFETY: `objects()` of a class fit its span, which is mapped.
                    let fresh = unsafe { NonNull::new_unchecked(fresh) };
                    if CHECKED {
                        // SAFETY: the object is free and `bytes()` long.
                        unsafe { poison(fresh, class.bytes()) };
                    }
                    fresh.cast()
                } else {
                    break;
                };
                slot.write(object);
                taken += 1;
            }
            objects.outside += taken as u32;
            (taken, objects.outside)
        })
    }

    /// Takes back one object; returns how many are outside then.
    ///
    /// # Safety
    /// As for [`Span::take_objects`]; `object` is one of this span and free.
    pub(super) unsafe fn put_object(&self, mut object: NonNull<FreeObject>) -> u32 {
        self.objects.with_mut(|objects| {
            // SAFETY: the lock of the central list guards the objects.
            let objects = unsafe { &mut *objects };
            assert!(objects.outside > 0, "a block was freed twice");
            // SAFETY: the object is free and handed to us.
            unsafe { object.as_mut().next = objects.free };
            objects.free = object.as_ptr();
            objects.outside -= 1;
            objects.outside
        })
    }

    /// Forgets all objects: the span is about to be used for something.
    ///
    /// # Safety
    /// The caller is alone with the span.
    pub(super) unsafe fn reset_objects(&self) {
        self.objects.with_mut(|objects| {
            // SAFETY: the caller is alone with the span.
            unsafe {
                *objects = Objects {
                    free: ptr::null_mut(),
                    outside: 0,
                    cut: 0,
                };
            }
        });
    }
}

/// A doubly linked list through the spans themselves.
pub(super) struct SpanList {
    head: *mut Span,
}

// SAFETY: a list is only reached through the lock that guards it and its links.
unsafe impl Send for SpanList {}

impl SpanList {
    pub(super) const fn new() -> SpanList {
        SpanList {
            head: ptr::null_mut(),
        }
    }

    pub(super) fn front(&self) -> Option<NonNull<Span>> {
        NonNull::new(self.head)
    }

    /// # Safety
    /// `span` is in no list, and the caller holds the lock of this one.
    pub(super) unsafe fn push_front(&mut self, span: NonNull<Span>) {
        let span = span.as_ptr();
        // SAFETY: spans stay allocated; links are guarded by the lock of the list.
        unsafe {
            (*span).prev = ptr::null_mut();
            (*span).next = self.head;
            if !self.head.is_null() {
                (*self.head).prev = span;
            }
        }
        self.head = span;
    }

    /// # Safety
    /// `span` is in this list, and the caller holds its lock.
    pub(super) unsafe fn remove(&mut self, span: NonNull<Span>) {
        let span = span.as_ptr();
        // SAFETY: as above; the neighbours are in the same list.
        unsafe {
            let (prev, next) = ((*span).prev, (*span).next);
            if prev.is_null() {
                debug_assert_eq!(self.head, span, "a span is removed from its own list");
                self.head = next;
            } else {
                (*prev).next = next;
            }
            if !next.is_null() {
                (*next).prev = prev;
            }
            (*span).next = ptr::null_mut();
            (*span).prev = ptr::null_mut();
        }
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = NonNull<Span>> + '_ {
        std::iter::successors(self.front(), |span| {
            // SAFETY: spans stay allocated, and the list does not change meanwhile.
            NonNull::new(unsafe { (*span.as_ptr()).next })
        })
    }
}

/// What a free block in a span holds: the list goes through the blocks themselves.
#[repr(C)]
pub(super) struct FreeObject {
    pub(super) next: *mut FreeObject,
}

/// Room for the name of a free object on its way between two tiers.
///
/// Outside of its span a free object is named by a table, not linked into a list:
/// the thread that takes it then need not read it, which would fetch it from the
/// cache of the thread that freed it, one object after the other.
pub(super) type Slot = MaybeUninit<NonNull<FreeObject>>;

/// Marks a block as free: the mark of a double free stands in its second word.
///
/// # Safety
/// `block` is `bytes` long, at least 8, and free.
pub(super) unsafe fn poison(block: NonNull<u8>, bytes: usize) {
    // SAFETY: as promised by the caller.
    unsafe {
        block.write_bytes(POISON, bytes);
        if bytes >= 16 {
            block.cast::<usize>().add(1).write_unaligned(mark_of(block));
        }
    }
}

/// Panics if the block already is marked as free.
///
/// # Safety
/// `block` is `bytes` long and readable.
pub(super) unsafe fn check_not_free(block: NonNull<u8>, bytes: usize) {
    if bytes >= 16 {
        // SAFETY: the second word is inside the block. What a user left there may be
        // uninitialised for the compiler, so it is read as volatile memory.
        let mark = unsafe { block.cast::<usize>().add(1).read_volatile() };
        assert!(mark != mark_of(block), "a block was freed twice");
    }
}

/// Panics if a free block was written to; takes the mark away.
///
/// # Safety
/// `block` went through [`poison`] with `bytes` and is out of all lists.
pub(super) unsafe fn check_poison(block: NonNull<u8>, bytes: usize) {
    if bytes >= 16 {
        let looked_at = bytes.min(CHECK_BYTES_MAX);
        // SAFETY: poison wrote every byte of the block.
        let content = unsafe { std::slice::from_raw_parts(block.as_ptr().add(16), looked_at - 16) };
        // SAFETY: the second word is inside the block.
        let mark = unsafe { block.cast::<usize>().add(1).read_unaligned() };
        assert!(
            mark == mark_of(block) && content.iter().all(|&byte| byte == POISON),
            "a block was written to after it was freed"
        );
        // SAFETY: as above.
        unsafe { block.cast::<usize>().add(1).write_unaligned(0) };
    }
}

/// Different for each block, and nothing that data looks like.
fn mark_of(block: NonNull<u8>) -> usize {
    block.as_ptr().addr() ^ 0xD0B1_EF3E_EDDD_C0DE_u64 as usize
}
