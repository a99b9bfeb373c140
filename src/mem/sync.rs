//! What the shared tiers build on: std's types, or loom's when the code is model-checked.
//!
//! `RUSTFLAGS="--cfg loom" cargo test --lib mem::` swaps the types, and loom then
//! runs the models of `loom_tests.rs` through every interleaving that matters.
//!
//! The lock is std's mutex and not a spin lock: free it costs the same one
//! compare-and-swap, and a thread that was put off its core while holding it
//! makes the others sleep instead of burning the cores that it waits for.

#[cfg(loom)]
pub(super) use loom::sync::atomic::{AtomicPtr, Ordering};
#[cfg(not(loom))]
pub(super) use std::sync::atomic::{AtomicPtr, Ordering};

#[cfg(loom)]
use loom::sync as imp;
#[cfg(not(loom))]
use std::sync as imp;

/// Makes `new` a `const fn`, except under loom, whose types have none.
macro_rules! const_new {
    ($(#[$meta:meta])* $vis:vis fn new($($arg:ident: $ty:ty),* $(,)?) -> $ret:ty $body:block) => {
        $(#[$meta])*
        #[cfg(not(loom))]
        $vis const fn new($($arg: $ty),*) -> $ret $body
        $(#[$meta])*
        #[cfg(loom)]
        $vis fn new($($arg: $ty),*) -> $ret $body
    };
}
pub(super) use const_new;

/// A mutex that does not poison.
///
/// The tiers check an operation before they change anything, so what a panicking
/// thread leaves behind is consistent; and whoever unwinds has memory to free.
pub(super) struct Mutex<T>(imp::Mutex<T>);

impl<T> Mutex<T> {
    const_new! {
        pub(super) fn new(value: T) -> Mutex<T> {
            Mutex(imp::Mutex::new(value))
        }
    }

    /// Waits for the lock and takes it.
    #[inline]
    pub(super) fn lock(&self) -> imp::MutexGuard<'_, T> {
        self.0
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

/// A cell whose accesses loom checks for races; plain std otherwise.
#[cfg(loom)]
pub(super) struct UnsafeCell<T>(loom::cell::UnsafeCell<T>);
/// A cell whose accesses loom checks for races; plain std otherwise.
#[cfg(not(loom))]
pub(super) struct UnsafeCell<T>(std::cell::UnsafeCell<T>);

impl<T> UnsafeCell<T> {
    #[cfg(loom)]
    pub(super) fn new(value: T) -> UnsafeCell<T> {
        UnsafeCell(loom::cell::UnsafeCell::new(value))
    }

    #[cfg(not(loom))]
    pub(super) const fn new(value: T) -> UnsafeCell<T> {
        UnsafeCell(std::cell::UnsafeCell::new(value))
    }

    /// Lends the content for writing; the caller has to be alone with it.
    #[inline]
    pub(super) fn with_mut<R>(&self, f: impl FnOnce(*mut T) -> R) -> R {
        #[cfg(loom)]
        return self.0.with_mut(f);
        #[cfg(not(loom))]
        return f(self.0.get());
    }
}
