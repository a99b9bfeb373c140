//! The allocators that are compared, and a global allocator that can be any of them.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::ptr::{self, NonNull};

use allocator_api2::alloc::Allocator;
use mimalloc::MiMalloc;
use raftkv::mem::Pool;

/// Each allocator is used with its own type, so that each is inlined as far as it allows.
pub trait Heap: Send + Sync + 'static {
    /// What the tables call it.
    const NAME: &'static str;
    /// What [`Switch`] has to be set to for it.
    const CHOICE: Choice;

    /// Allocates as [`GlobalAlloc::alloc`] does.
    fn allocate(layout: Layout) -> *mut u8;

    /// Frees.
    ///
    /// # Safety
    /// As for [`GlobalAlloc::dealloc`].
    unsafe fn free(block: *mut u8, layout: Layout);
}

pub struct Glibc;
pub struct Mimalloc;
pub struct Pooled;

impl Heap for Glibc {
    const NAME: &'static str = "glibc";
    const CHOICE: Choice = Choice::Glibc;

    #[inline]
    fn allocate(layout: Layout) -> *mut u8 {
        // SAFETY: no layout here is empty.
        unsafe { System.alloc(layout) }
    }

    #[inline]
    unsafe fn free(block: *mut u8, layout: Layout) {
        // SAFETY: as promised by the caller.
        unsafe { System.dealloc(block, layout) };
    }
}

impl Heap for Mimalloc {
    const NAME: &'static str = "mimalloc";
    const CHOICE: Choice = Choice::Mimalloc;

    #[inline]
    fn allocate(layout: Layout) -> *mut u8 {
        // SAFETY: no layout here is empty.
        unsafe { MiMalloc.alloc(layout) }
    }

    #[inline]
    unsafe fn free(block: *mut u8, layout: Layout) {
        // SAFETY: as promised by the caller.
        unsafe { MiMalloc.dealloc(block, layout) };
    }
}

impl Heap for Pooled {
    const NAME: &'static str = "pool";
    const CHOICE: Choice = Choice::Pool;

    #[inline]
    fn allocate(layout: Layout) -> *mut u8 {
        Pool.allocate(layout)
            .map_or(ptr::null_mut(), |block| block.cast().as_ptr())
    }

    #[inline]
    unsafe fn free(block: *mut u8, layout: Layout) {
        // SAFETY: as promised by the caller.
        unsafe { Pool.deallocate(NonNull::new_unchecked(block), layout) };
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Choice {
    Glibc,
    Mimalloc,
    Pool,
}

thread_local! {
    static CHOICE: Cell<Choice> = const { Cell::new(Choice::Glibc) };
}

/// The global allocator of the program: what `Vec` and `Box` use can be chosen for a
/// piece of code, which must free what others made with the same choice.
pub struct Switch;

impl Switch {
    /// Runs `f` with `choice` as this thread's global allocator.
    pub fn with<R>(choice: Choice, f: impl FnOnce() -> R) -> R {
        let before = CHOICE.replace(choice);
        let result = f();
        CHOICE.set(before);
        result
    }
}

// SAFETY: each of them is an allocator; `with` says who frees what.
unsafe impl GlobalAlloc for Switch {
    #[inline]
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        match CHOICE.get() {
            Choice::Glibc => Glibc::allocate(layout),
            Choice::Mimalloc => Mimalloc::allocate(layout),
            Choice::Pool => Pooled::allocate(layout),
        }
    }

    #[inline]
    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: as promised by the caller.
        unsafe {
            match CHOICE.get() {
                Choice::Glibc => Glibc::free(block, layout),
                Choice::Mimalloc => Mimalloc::free(block, layout),
                Choice::Pool => Pooled::free(block, layout),
            }
        }
    }
}
