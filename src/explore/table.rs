//! The states that were seen: fingerprints of 64 bits, and for each the step that led to it.
//!
//! With `n` states the chance that any two share a fingerprint, so that one of them is taken
//! for seen, is about n²/2⁶⁵: one in ten thousand for fifty million.

use std::sync::atomic::{AtomicU64, Ordering};

/// A set of fingerprints that several workers fill.
pub(super) struct Fingerprints {
    places: Box<[AtomicU64]>,
}

impl Fingerprints {
    /// Room for so many.
    pub(super) fn new(count: usize) -> Fingerprints {
        let places = (count + count / 3).max(1024).next_power_of_two();
        Fingerprints {
            places: (0..places).map(|_| AtomicU64::new(0)).collect(),
        }
    }

    /// Takes one in; returns whether it is new. 0 is none.
    pub(super) fn insert(&self, fingerprint: u64) -> bool {
        let mask = self.places.len() - 1;
        let mut at = fingerprint as usize & mask;
        loop {
            let place = &self.places[at];
            // ORDERING: the number is all there is to see; whoever reads it reads nothing else
            // on the strength of it.
            let seen = place.load(Ordering::Relaxed);
            if seen == fingerprint {
                return false;
            }
            if seen == 0 {
                let swapped =
                    place.compare_exchange(0, fingerprint, Ordering::Relaxed, Ordering::Relaxed);
                match swapped {
                    Ok(_) => return true,
                    Err(now) if now == fingerprint => return false,
                    Err(_) => {}
                }
            }
            at = (at + 1) & mask;
        }
    }
}

/// How each state was first reached: from which one, and by which of its actions. The states
/// themselves are not kept; they are made again from their paths.
#[derive(Default)]
pub(super) struct Paths {
    parents: Vec<u32>,
    actions: Vec<u8>,
}

impl Paths {
    pub(super) fn push(&mut self, parent: u32, action: u8) {
        self.parents.push(parent);
        self.actions.push(action);
    }

    pub(super) fn len(&self) -> usize {
        self.parents.len()
    }

    /// The state before, and the action. The first state is its own parent.
    pub(super) fn step_to(&self, state: u32) -> (u32, u8) {
        (self.parents[state as usize], self.actions[state as usize])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fingerprint_is_new_once_also_where_others_have_its_place() {
        let set = Fingerprints::new(16);
        for number in [1, 1 + 1024, 1 + 2048, u64::MAX, 1023] {
            assert!(set.insert(number));
            assert!(!set.insert(number));
        }
        assert!(!set.insert(1));
    }

    #[test]
    fn of_two_workers_one_is_told_that_it_is_new() {
        let set = Fingerprints::new(10_000);
        let count = || (1..=10_000).filter(|n| set.insert(*n)).count();
        let all = std::thread::scope(|scope| {
            let other = scope.spawn(count);
            count() + other.join().unwrap()
        });
        assert_eq!(all, 10_000);
    }
}
