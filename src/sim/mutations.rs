//! Known bugs, each switched on in turn, must be found: a simulator that finds nothing proves
//! nothing until it has found these. Those of the core are found by scripts too, at once
//! (`src/raft/tests/mod.rs`); here are those that only whole nodes can have, and, in a test
//! that takes its time, all of them.
//!
//! The table in `docs/TESTING.md` says after how many seeds:
//! `cargo test --release --lib sim::mutations -- --ignored --nocapture` makes it.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::mutation::{Mutation, with};
use crate::sim::cluster::run;

/// After how many seeds, from 0 on, each bug is found; `None` if it is not.
fn search(mutations: &[Mutation], seeds_max: u64) -> Vec<(Mutation, Option<u64>)> {
    let next = AtomicU64::new(0);
    let results = Mutex::new(Vec::new());
    let workers = std::thread::available_parallelism().map_or(1, usize::from);
    let work = || {
        while let Some(mutation) = mutations.get(next.fetch_add(1, Ordering::Relaxed) as usize) {
            let finds = |seed: &u64| {
                let run = || with(*mutation, || run(*seed));
                catch_unwind(AssertUnwindSafe(run)).is_err()
            };
            let found = (0..seeds_max).find(finds).map(|seed| seed + 1);
            println!("{mutation:?}: {found:?}");
            results.lock().unwrap().push((*mutation, found));
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(work);
        }
    });
    results.into_inner().unwrap()
}

fn assert_all_found(results: &[(Mutation, Option<u64>)]) {
    let missed = results.iter().filter(|(_, found)| found.is_none());
    let missed: Vec<Mutation> = missed.map(|(mutation, _)| *mutation).collect();
    assert!(missed.is_empty(), "not found: {missed:?}");
}

#[test]
fn every_known_bug_of_a_node_is_found_within_1000_seeds() {
    assert_all_found(&search(&Mutation::OF_NODE, 1_000));
}

#[test]
fn a_node_that_applies_something_differently_is_found_out_by_the_others_and_stops() {
    let says_so = |seed: u64| {
        let run = || with(Mutation::AppliedDifferently, || run(seed));
        let Err(panic) = catch_unwind(AssertUnwindSafe(run)) else {
            return false;
        };
        let what = panic.downcast_ref::<String>();
        what.is_some_and(|what| {
            what.contains("gave up without a reason: the state of this node differs from that of")
                && what.contains("node 1 ")
        })
    };
    assert!((0..100).any(says_so), "not within 100 seeds");
}

/// `RAFTKV_SEEDS` says how many are tried for each, if not 5,000.
#[test]
#[ignore = "takes minutes, in release mode"]
fn every_known_bug_is_found_by_the_simulator_alone() {
    let seeds_max = std::env::var("RAFTKV_SEEDS").map_or(5_000, |n| n.parse().expect("a number"));
    assert_all_found(&search(
        &[&Mutation::OF_CORE[..], &Mutation::OF_NODE].concat(),
        seeds_max,
    ));
}
