//! Which threads have a cache: for adding up what they hold.

use std::ptr::{self, NonNull};

use super::size_class::SizeClass;
use super::sync::Mutex;
use super::thread_cache::ThreadCache;

/// The caches of threads, linked through themselves: a table would have to grow, and
/// memory for that could come from the very heap that is adding a cache.
pub(super) struct Registry(Mutex<Caches>);

struct Caches {
    first: *const ThreadCache,
    count: usize,
}

// SAFETY: of a cache of another thread only its links are touched, which the lock
// guards, and the lengths of its lists, which are atomics; and it is removed, under
// the lock, before it is gone.
unsafe impl Send for Caches {}

/// The neighbours of a cache; guarded by the lock of the registry.
pub(super) struct Links {
    next: *const ThreadCache,
    previous: *const ThreadCache,
}

impl Links {
    pub(super) const fn new() -> Links {
        Links {
            next: ptr::null(),
            previous: ptr::null(),
        }
    }
}

impl Registry {
    pub(super) const fn new() -> Registry {
        Registry(Mutex::new(Caches {
            first: ptr::null(),
            count: 0,
        }))
    }

    pub(super) fn count(&self) -> usize {
        self.0.lock().count
    }

    /// How many objects of a class all of them hold.
    pub(super) fn cached_objects(&self, class: SizeClass) -> usize {
        let caches = self.0.lock();
        let mut sum = 0;
        let mut cache = caches.first;
        // SAFETY: what is linked is there while we have the lock.
        while let Some(current) = unsafe { cache.as_ref() } {
            sum += current.cached_objects(class) as usize;
            // SAFETY: we have the lock.
            cache = unsafe { (*current.links()).next };
        }
        sum
    }

    pub(super) fn add(&self, cache: &ThreadCache) {
        let mut caches = self.0.lock();
        // SAFETY: links are touched under the lock only, and what is linked is there.
        unsafe {
            (*cache.links()).next = caches.first;
            (*cache.links()).previous = ptr::null();
            if let Some(second) = caches.first.as_ref() {
                (*second.links()).previous = cache;
            }
        }
        caches.first = NonNull::from(cache).as_ptr();
        caches.count += 1;
    }

    pub(super) fn remove(&self, cache: &ThreadCache) {
        let mut caches = self.0.lock();
        // SAFETY: as in `add`.
        unsafe {
            let Links { next, previous } = *cache.links();
            match previous.as_ref() {
                Some(previous) => (*previous.links()).next = next,
                None => caches.first = next,
            }
            if let Some(next) = next.as_ref() {
                (*next.links()).previous = previous;
            }
        }
        caches.count -= 1;
    }
}
