//! The transfer cache: free objects of one class that wait for a thread, outside of their spans.
//!
//! Where one thread makes what another frees, whole batches go from the one to the other.
//! Here a batch goes in and comes out as one copy of names; neither objects nor spans,
//! which are in the caches of other cores, are looked at.
//!
//! An object that waits keeps its span from being given back, so there is room only
//! where it pays: it grows when a thread asks after what another thread gave had run
//! over, and is taken away when so much runs over without anybody asking that the heap must be
//! shrinking. A thread that frees what it made itself gets none.

use std::mem::MaybeUninit;
use std::ptr::NonNull;

use super::size_class::{SizeClass, TRANSFER_OBJECTS_MAX};
use super::span::{FreeObject, Slot};

/// Names a thread. No thread is told from one that has ended, which does no harm.
pub(super) type Party = usize;

/// Last in, first out: what was freed last is most likely still in a processor's cache.
pub(super) struct Transfer {
    /// The first `len` hold objects.
    slots: [Slot; TRANSFER_OBJECTS_MAX],
    /// At most `room`.
    len: usize,
    /// How many objects may wait.
    room: usize,
    /// How many objects found no room since a thread last asked.
    ran_over: usize,
    /// Whether any did since a thread last asked for more than there was.
    lacked_room: bool,
    /// Who gave last.
    giver: Party,
}

// SAFETY: the objects are free, and owned by the table.
unsafe impl Send for Transfer {}

impl Transfer {
    pub(super) const fn new() -> Transfer {
        Transfer {
            // Zeros, so that a table of a `static` is not in the program's file.
            slots: [const { MaybeUninit::zeroed() }; TRANSFER_OBJECTS_MAX],
            len: 0,
            room: 0,
            ran_over: 0,
            lacked_room: false,
            giver: 0,
        }
    }

    /// Makes room as if threads had wanted it.
    #[cfg(all(test, loom))]
    pub(super) fn make_room(&mut self, class: SizeClass) {
        self.room = class.transfer_max() as usize;
    }

    /// Fills `slots` from the front, as far as there are objects; returns how many that were.
    pub(super) fn take(&mut self, class: SizeClass, slots: &mut [Slot], taker: Party) -> usize {
        let count = slots.len().min(self.len);
        if count < slots.len() {
            if self.lacked_room && self.giver != taker {
                let more = self.room + class.batch() as usize;
                self.room = more.min(class.transfer_max() as usize);
            }
            self.lacked_room = false;
        }
        self.ran_over = 0;
        self.len -= count;
        slots[..count].copy_from_slice(&self.slots[self.len..][..count]);
        count
    }

    /// Takes all of `objects`, which are free, or none if there is no room
    /// for all of them.
    pub(super) fn put(&mut self, objects: &[NonNull<FreeObject>], giver: Party) -> bool {
        self.giver = giver;
        let fits = objects.len() <= self.room - self.len;
        if fits {
            for (slot, &object) in self.slots[self.len..].iter_mut().zip(objects) {
                slot.write(object);
            }
            self.len += objects.len();
        } else {
            self.ran_over += objects.len();
            self.lacked_room = true;
        }
        fits
    }

    /// Whether more ran over than could ever wait: a burst that a thread will ask for
    /// later is shorter.
    pub(super) fn is_flooded(&self, class: SizeClass) -> bool {
        self.ran_over > 2 * class.transfer_max() as usize
    }

    /// Takes out everything, and the room too.
    pub(super) fn drain(&mut self) -> &[NonNull<FreeObject>] {
        let objects = &raw const self.slots[..self.len];
        self.len = 0;
        self.room = 0;
        self.ran_over = 0;
        self.lacked_room = false;
        // SAFETY: the first `len` slots held objects.
        unsafe { &*(objects as *const [NonNull<FreeObject>]) }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    const GIVER: Party = 1;
    const TAKER: Party = 2;

    fn class() -> SizeClass {
        SizeClass::of(1024)
    }

    /// Names of objects that nobody looks at.
    fn objects(count: usize) -> Vec<NonNull<FreeObject>> {
        (1..=count)
            .map(|at| NonNull::new(std::ptr::without_provenance_mut(1024 * at)).unwrap())
            .collect()
    }

    fn take(transfer: &mut Transfer, want: usize) -> Vec<NonNull<FreeObject>> {
        let mut slots = vec![MaybeUninit::uninit(); want];
        let count = transfer.take(class(), &mut slots, TAKER);
        // SAFETY: that many were filled.
        let taken = slots[..count]
            .iter()
            .map(|slot| unsafe { slot.assume_init() });
        taken.collect()
    }

    /// One with room for all that it may ever hold.
    fn grown() -> Transfer {
        let mut transfer = Transfer::new();
        let batch = class().batch() as usize;
        while transfer.room < class().transfer_max() as usize {
            while transfer.put(&objects(batch), GIVER) {}
            while !take(&mut transfer, batch).is_empty() {}
        }
        transfer
    }

    #[test]
    fn nothing_waits_before_anybody_asked_for_what_ran_over() {
        let mut transfer = Transfer::new();
        let batch = class().batch() as usize;
        assert!(take(&mut transfer, batch).is_empty());
        assert!(!transfer.put(&objects(batch), GIVER));
        assert!(take(&mut transfer, batch).is_empty());
        assert!(transfer.put(&objects(batch), GIVER));
        assert!(!transfer.put(&objects(batch), GIVER));
        assert_eq!(take(&mut transfer, 2 * batch), objects(batch));
    }

    #[test]
    fn a_thread_that_frees_what_it_made_gets_no_room() {
        let mut transfer = Transfer::new();
        let batch = class().batch() as usize;
        for _ in 0..100 {
            assert!(!transfer.put(&objects(batch), TAKER));
            assert!(take(&mut transfer, batch).is_empty());
        }
    }

    #[test]
    fn what_waits_is_bounded() {
        let mut transfer = grown();
        let max = class().transfer_max() as usize;
        assert!(!transfer.put(&objects(max + 1), GIVER));
        assert!(transfer.put(&objects(max), GIVER));
        assert!(!transfer.put(&objects(1), GIVER));
        assert_eq!(take(&mut transfer, max), objects(max));
    }

    #[test]
    fn a_burst_stays_and_a_flood_does_not() {
        let mut transfer = grown();
        let batch = class().batch() as usize;
        while transfer.put(&objects(batch), GIVER) {}
        assert!(!transfer.is_flooded(class()));
        for _ in 0..2 * class().transfer_max() as usize / batch {
            assert!(!transfer.put(&objects(batch), GIVER));
        }
        assert!(transfer.is_flooded(class()));
        assert_eq!(transfer.drain().len(), class().transfer_max() as usize);
        assert!(!transfer.is_flooded(class()));
        assert!(!transfer.put(&objects(1), GIVER));
    }
}
