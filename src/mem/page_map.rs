//! From an address to its span: a radix tree that is read without a lock.
//!
//! The number of a page has 35 bits (48 bits of address, 8 KiB pages): the upper
//! ones choose a leaf in the root, the lower ones the entry in the leaf. Both
//! levels are flat tables of which the system backs only what was touched, so
//! the map of a heap of one gibibyte takes one mebibyte.
//!
//! A map is for the life of the process: its leaves are never freed.
//!
//! Entries are written under the lock of the page cache. A reader holds a block,
//! and until it frees it no entry of its span changes.

use std::ptr::{self, NonNull};

use super::span::Span;
use super::sync::{AtomicPtr, Ordering};

/// The bits of a page's number that choose the leaf, in the process-wide pool.
pub(super) const ROOT_BITS: u32 = 17;
/// The bits that choose the entry in the leaf.
pub(super) const LEAF_BITS: u32 = 18;

/// A tree with `ROOTS` leaves of `LEAVES` entries each, a power of two.
pub(super) struct PageMap<const ROOTS: usize, const LEAVES: usize> {
    root: [AtomicPtr<Leaf<LEAVES>>; ROOTS],
}

struct Leaf<const LEAVES: usize> {
    spans: [AtomicPtr<Span>; LEAVES],
}

impl<const ROOTS: usize, const LEAVES: usize> PageMap<ROOTS, LEAVES> {
    #[cfg(not(loom))]
    pub(super) const fn new() -> Self {
        PageMap {
            root: [const { AtomicPtr::new(ptr::null_mut()) }; ROOTS],
        }
    }

    #[cfg(loom)]
    pub(super) fn new() -> Self {
        PageMap {
            root: std::array::from_fn(|_| AtomicPtr::new(ptr::null_mut())),
        }
    }

    /// The span of a page; stale for pages inside a span that holds no objects.
    #[inline]
    pub(super) fn get(&self, page: usize) -> Option<NonNull<Span>> {
        // ORDERING: Acquire pairs with the Release in `prepare`: the leaf's entries
        // are seen initialised.
        let leaf = self.root.get(page / LEAVES)?.load(Ordering::Acquire);
        // SAFETY: leaves are published initialised and never freed.
        let leaf = unsafe { leaf.as_ref() }?;
        // ORDERING: Acquire pairs with the Release in `set`: the span is seen as it
        // was when it was published.
        NonNull::new(leaf.spans[page % LEAVES].load(Ordering::Acquire))
    }

    /// Names the span of a page whose leaf was prepared. One writer at a time.
    pub(super) fn set(&self, page: usize, span: NonNull<Span>) {
        // ORDERING: Relaxed, the writers' lock orders it behind `prepare`.
        let leaf = self.root[page / LEAVES].load(Ordering::Relaxed);
        assert!(!leaf.is_null(), "the leaf of a mapped page is prepared");
        // SAFETY: as in `get`.
        let leaf = unsafe { &*leaf };
        // ORDERING: Release pairs with the Acquire in `get`.
        leaf.spans[page % LEAVES].store(span.as_ptr(), Ordering::Release);
    }

    /// Makes the leaves for pages `first..first + count`. One writer at a time.
    /// Returns `false` if the system has no memory, or there are no such pages.
    pub(super) fn prepare(&self, first: usize, count: usize) -> bool {
        let Some(last) = first.checked_add(count - 1) else {
            return false;
        };
        if last / LEAVES >= ROOTS {
            return false;
        }
        for slot in &self.root[first / LEAVES..=last / LEAVES] {
            // ORDERING: Relaxed, only the one writer changes the root.
            if slot.load(Ordering::Relaxed).is_null() {
                let Some(leaf) = Leaf::allocate() else {
                    return false;
                };
                // ORDERING: Release pairs with the Acquire in `get`.
                slot.store(leaf.as_ptr(), Ordering::Release);
            }
        }
        true
    }
}

impl<const LEAVES: usize> Leaf<LEAVES> {
    #[cfg(not(loom))]
    fn allocate() -> Option<NonNull<Self>> {
        // Zeros are a valid leaf: null pointers.
        let leaf = super::system::map(size_of::<Self>(), super::size_class::PAGE_BYTES)?;
        Some(leaf.cast())
    }

    #[cfg(loom)]
    fn allocate() -> Option<NonNull<Self>> {
        let spans = std::array::from_fn(|_| AtomicPtr::new(ptr::null_mut()));
        NonNull::new(Box::into_raw(Box::new(Leaf { spans })))
    }
}
