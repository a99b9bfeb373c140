//! Many runs, one after the other on each core.

use std::any::Any;
use std::num::NonZero;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::{Report, run};

/// A seed in which something did not hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// The seed.
    pub seed: u64,
    /// What did not hold.
    pub what: String,
}

/// How far a swarm has come, or what came of it.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    /// How many seeds have been run.
    pub seeds: u64,
    /// The sums over those that found nothing.
    pub total: Report,
    /// Those that found something, by seed.
    pub findings: Vec<Finding>,
    /// Real time.
    pub elapsed: Duration,
}

/// How many runs at a time make use of this machine.
#[must_use]
pub fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, NonZero::get)
}

/// Runs `count` seeds from `first` on, `jobs` at a time, and tells after each how far it
/// has come. A panic of a run is a finding; it is printed as any other panic, and its seed.
///
/// Seeds that would be above [`u64::MAX`] are not run.
pub fn run_seeds(
    first: u64,
    count: u64,
    jobs: usize,
    progress: impl Fn(&Outcome) + Sync,
) -> Outcome {
    run_each(first, count, jobs, run, progress)
}

fn run_each(
    first: u64,
    count: u64,
    jobs: usize,
    run: impl Fn(u64) -> Report + Sync,
    progress: impl Fn(&Outcome) + Sync,
) -> Outcome {
    let begin = Instant::now();
    let count = count.min(u64::MAX - first);
    // ORDERING: hands out numbers, and nothing else.
    let next = AtomicU64::new(0);
    let outcome = Mutex::new(Outcome::default());
    let work = || {
        loop {
            let at = next.fetch_add(1, Ordering::Relaxed);
            if at >= count {
                return;
            }
            let seed = first + at;
            let result = catch_unwind(AssertUnwindSafe(|| run(seed)));
            // Nobody panics while holding it, but for `progress`.
            let mut outcome = outcome.lock().unwrap_or_else(PoisonError::into_inner);
            outcome.seeds += 1;
            outcome.elapsed = begin.elapsed();
            match result {
                Ok(report) => outcome.total.add(&report),
                Err(panic) => {
                    // At once: whoever stops a long run must not lose it.
                    eprintln!("finding in seed {seed}");
                    let what = said(&*panic);
                    outcome.findings.push(Finding { seed, what });
                }
            }
            progress(&outcome);
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..jobs.max(1) {
            scope.spawn(work);
        }
    });
    let mut outcome = outcome.into_inner().unwrap_or_else(PoisonError::into_inner);
    outcome.findings.sort_by_key(|finding| finding.seed);
    outcome.elapsed = begin.elapsed();
    outcome
}

/// What a panic said.
fn said(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().copied();
    let text = text.or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    text.unwrap_or("a panic that says nothing").to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_seed_is_run_once_and_a_panic_is_a_finding_of_its_own() {
        let run = |seed: u64| {
            assert!(seed % 10 != 3, "three at the end of {seed}");
            Report {
                steps: seed,
                ..Report::default()
            }
        };
        let shown = AtomicU64::new(0);
        let progress = |outcome: &Outcome| {
            shown.fetch_max(outcome.seeds, Ordering::Relaxed);
        };
        let outcome = run_each(100, 20, 3, run, progress);
        assert_eq!((outcome.seeds, shown.into_inner()), (20, 20));
        assert_eq!(outcome.total.steps, (100..120).sum::<u64>() - 103 - 113);
        let finding = |seed| Finding {
            seed,
            what: format!("three at the end of {seed}"),
        };
        assert_eq!(outcome.findings, [finding(103), finding(113)]);
    }
}
