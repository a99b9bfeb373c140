//! When an open loop is meant to send: a schedule that no answer can delay.

use std::num::NonZeroU64;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::thread::{self, Scope, Thread};
use std::time::{Duration, Instant};

use raftkv::mailbox::Doorbell;
use rand::SeedableRng;
use rand::rngs::SmallRng;
use rand_distr::{Distribution, Exp1};

/// How arrivals follow each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Arrivals {
    /// The same time from each to the next.
    Even,
    /// Independent of each other, as of many users: exponential times in between.
    Poisson,
}

/// The intended starts of one thread, in order. It is a rule, not a list: however far the
/// sending falls behind, it takes no memory.
#[derive(Clone, Debug)]
pub struct Schedule {
    gap_ns: f64,
    next_ns: f64,
    /// The numbers for the gaps, unless they are all the same.
    rng: Option<SmallRng>,
}

impl Schedule {
    /// The share of thread `thread` of `threads` in `rate` arrivals a second.
    pub fn new(arrivals: Arrivals, rate: f64, thread: u32, threads: u32, seed: u64) -> Schedule {
        let all_ns = 1e9 / rate;
        let gap_ns = all_ns * f64::from(threads);
        let mut schedule = Schedule {
            gap_ns,
            // The threads take turns.
            next_ns: all_ns * f64::from(thread),
            rng: None,
        };
        if arrivals == Arrivals::Poisson {
            schedule.rng = Some(SmallRng::seed_from_u64(seed));
            schedule.next_ns = 0.0;
            schedule.advance();
        }
        schedule
    }

    /// The next intended start, in nanoseconds since the first possible one.
    pub fn next_ns(&self) -> u64 {
        self.next_ns as u64
    }

    pub fn advance(&mut self) {
        // Times stay below 2^53 ns, 104 days, so that nothing is lost by adding them up
        // but the parts of nanoseconds.
        self.next_ns += match &mut self.rng {
            Some(rng) => {
                let gaps: f64 = Exp1.sample(rng);
                gaps * self.gap_ns
            }
            None => self.gap_ns,
        };
    }

    /// How many starts lie before `end_ns`, from the next one on.
    pub fn count_until(mut self, end_ns: u64) -> u64 {
        let mut count = 0;
        while self.next_ns() < end_ns {
            count += 1;
            self.advance();
        }
        count
    }
}

/// How often the loop is woken at most: arrivals that are closer to each other leave
/// together, unless the loop is awake anyway.
const WAKE_GAP: Duration = Duration::from_micros(50);

/// The loop wants to be woken for the next arrival.
const WANTED: u8 = 0;
/// Nothing has room for it: answers wake the loop.
const UNWANTED: u8 = 1;
/// The run has ended.
const OVER: u8 = 2;

/// Wakes a loop at the intended starts of its schedule.
///
/// The timers of an event loop have the resolution of its poll, a millisecond, which is
/// longer than most answers take: so a thread sleeps more precisely on its behalf.
pub struct Pacer {
    state: Arc<AtomicU8>,
    thread: Thread,
}

impl Pacer {
    /// Starts the thread; it ends with the run, at `end_ns` after `origin` at the latest.
    pub fn start<'scope>(
        scope: &'scope Scope<'scope, '_>,
        schedule: Schedule,
        origin: Instant,
        end_ns: u64,
        doorbell: Arc<Doorbell>,
    ) -> Pacer {
        let state = Arc::new(AtomicU8::new(WANTED));
        let shared = state.clone();
        let running =
            scope.spawn(move || ring_at_starts(schedule, origin, end_ns, &shared, &doorbell));
        Pacer {
            state,
            thread: running.thread().clone(),
        }
    }

    /// Says whether the loop wants to be woken for arrivals. If it does not, the thread
    /// would only take time from those who work.
    pub fn set_wanted(&self, wanted: bool) {
        // ORDERING: relaxed, here and in the thread: nothing else is handed over, and
        // `unpark` makes the store visible to the `park` that it ends.
        let state = if wanted { WANTED } else { UNWANTED };
        if self.state.swap(state, Ordering::Relaxed) != state && wanted {
            self.thread.unpark();
        }
    }
}

impl Drop for Pacer {
    fn drop(&mut self) {
        // ORDERING: as in `set_wanted`.
        self.state.store(OVER, Ordering::Relaxed);
        self.thread.unpark();
    }
}

fn ring_at_starts(
    mut schedule: Schedule,
    origin: Instant,
    end_ns: u64,
    state: &AtomicU8,
    doorbell: &Doorbell,
) {
    // The default lets the kernel be late by as much as some answers take. If it is not
    // changed, the latencies say so.
    let _ = rustix::thread::set_current_timer_slack(NonZeroU64::new(1));
    let wake_gap_ns = WAKE_GAP.as_nanos() as u64;
    let mut last_ns = 0;
    loop {
        // ORDERING: as in `Pacer::set_wanted`.
        match state.load(Ordering::Relaxed) {
            WANTED => {}
            UNWANTED => {
                thread::park();
                continue;
            }
            _ => return,
        }
        let now_ns = origin.elapsed().as_nanos() as u64;
        while schedule.next_ns() <= now_ns {
            schedule.advance();
        }
        let wake_ns = schedule.next_ns().max(last_ns + wake_gap_ns);
        if wake_ns >= end_ns {
            return;
        }
        // It may be woken before; what it finds due is right in any case.
        thread::park_timeout(Duration::from_nanos(wake_ns.saturating_sub(now_ns)));
        doorbell.ring();
        last_ns = wake_ns;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    fn starts(mut schedule: Schedule, end_ns: u64) -> Vec<u64> {
        let mut starts = Vec::new();
        while schedule.next_ns() < end_ns {
            starts.push(schedule.next_ns());
            schedule.advance();
        }
        starts
    }

    #[test]
    fn even_arrivals_of_all_threads_are_equally_far_apart() {
        let mut all = Vec::new();
        for thread in 0..4 {
            let schedule = Schedule::new(Arrivals::Even, 1_000.0, thread, 4, 0);
            all.extend(starts(schedule, 10 * SECOND));
        }
        all.sort_unstable();
        assert_eq!(all.len(), 10_000);
        let even = all.windows(2).all(|w| w[1] - w[0] == 1_000_000);
        assert!(even, "{:?}", &all[..10]);
    }

    #[test]
    fn a_rate_that_divides_no_second_does_not_drift() {
        let schedule = Schedule::new(Arrivals::Even, 300.0, 0, 1, 0);
        // A day has 25,920,000; the first starts at 0.
        let count = schedule.count_until(86_400 * SECOND);
        assert!(count.abs_diff(25_920_000) <= 1, "{count}");
    }

    #[test]
    fn poisson_arrivals_have_the_rate_and_the_spread_of_the_law() {
        let schedule = Schedule::new(Arrivals::Poisson, 1_000.0, 0, 1, 42);
        let starts = starts(schedule, 100 * SECOND);
        let count = starts.len() as f64;
        assert!((count - 100_000.0).abs() < 5.0 * 316.0, "{count}");
        // Standard deviation and mean of exponential gaps are the same.
        let gaps: Vec<f64> = starts.windows(2).map(|w| (w[1] - w[0]) as f64).collect();
        let mean = gaps.iter().sum::<f64>() / gaps.len() as f64;
        let variance = gaps.iter().map(|g| (g - mean).powi(2)).sum::<f64>() / gaps.len() as f64;
        assert!((variance.sqrt() / mean - 1.0).abs() < 0.03);
    }

    #[test]
    fn what_is_left_of_a_schedule_is_counted_from_where_it_stands() {
        let mut schedule = Schedule::new(Arrivals::Even, 10.0, 0, 1, 0);
        for _ in 0..4 {
            schedule.advance();
        }
        assert_eq!(schedule.count_until(SECOND), 6);
    }
}
