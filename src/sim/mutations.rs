//! Known bugs, each switched on in turn: the simulator must find it within a stated number
//! of seeds. A simulator that finds nothing proves nothing until it has found these.
//!
//! `cargo test --lib sim::mutations` does it; the table is in `docs/TESTING.md`.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::mutation::{Mutation, with};
use crate::sim::cluster::run;

/// Within so many seeds each must be found.
const SEEDS_MAX: u64 = 2_000;

/// The first seed, from 0 on, that finds the bug.
fn seeds_until_found(mutation: Mutation) -> Option<u64> {
    let found = |seed: &u64| {
        let run = || with(mutation, || run(*seed));
        catch_unwind(AssertUnwindSafe(run)).is_err()
    };
    (0..SEEDS_MAX).find(found).map(|seed| seed + 1)
}

#[test]
fn every_known_bug_is_found() {
    let next = AtomicU64::new(0);
    let results = Mutex::new(Vec::new());
    let workers = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(|| {
                loop {
                    let at = next.fetch_add(1, Ordering::Relaxed);
                    let Some(mutation) = Mutation::ALL.get(at as usize) else {
                        return;
                    };
                    let found = seeds_until_found(*mutation);
                    println!("{mutation:?}: found after {found:?} seeds");
                    results.lock().unwrap().push((*mutation, found));
                }
            });
        }
    });
    let results = results.into_inner().unwrap();
    let missed: Vec<Mutation> = results
        .iter()
        .filter(|(_, found)| found.is_none())
        .map(|(mutation, _)| *mutation)
        .collect();
    assert!(missed.is_empty(), "not found: {missed:?}");
}
