//! One run: the threads that load, and this one, which gathers what they have counted.

use std::collections::BTreeMap;
use std::io::{self, IsTerminal as _, Write as _};
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, unbounded};
use raftkv::net::{EventLoop, Options};

use crate::accounts::{Accounts, Costs, find_leader};
use crate::args::Plan;
use crate::keys::Keys;
use crate::load::{Leftover, Load, Orders};
use crate::schedule::{Pacer, Schedule};
use crate::tally::Tally;
use crate::workload::Workload;

/// What a run came to.
#[derive(Clone, Debug)]
pub struct Measured {
    /// The rate of an open loop.
    pub rate: Option<f64>,
    pub seconds: f64,
    /// Of all intervals but the warm-up.
    pub total: Tally,
    pub rows: Vec<Row>,
    pub leftover: Leftover,
    pub costs: Costs,
}

/// One interval.
#[derive(Clone, Copy, Debug)]
pub struct Row {
    /// When it began and ended, in seconds since the end of the warm-up.
    pub begin: f64,
    pub end: f64,
    pub answered: u64,
    pub errors: u64,
    /// Latencies in microseconds; `None` if nothing was answered.
    pub latency: Option<Latency>,
}

#[derive(Clone, Copy, Debug)]
pub struct Latency {
    pub p50: f64,
    pub p99: f64,
    pub p999: f64,
    pub max: f64,
}

impl Latency {
    pub fn of(tally: &Tally) -> Option<Latency> {
        (tally.answered() > 0).then(|| Latency {
            p50: tally.micros(0.5),
            p99: tally.micros(0.99),
            p999: tally.micros(0.999),
            max: tally.micros(1.0),
        })
    }
}

impl Row {
    pub fn per_second(&self, count: u64) -> f64 {
        count as f64 / (self.end - self.begin)
    }
}

impl Measured {
    pub fn per_second(&self) -> f64 {
        self.total.answered() as f64 / self.seconds
    }

    /// CPU microseconds for each operation.
    pub fn cost(&self, seconds: f64) -> f64 {
        seconds * 1e6 / (self.total.answered().max(1) as f64)
    }

    /// What was due or sent and has no answer.
    pub fn unanswered(&self) -> u64 {
        self.leftover.in_flight + self.leftover.not_sent
    }
}

/// Runs the plan in a closed loop, or with this rate in an open one.
///
/// # Errors
/// The cluster is not reachable, or the system refuses what is needed.
pub fn run(plan: &Plan, rate: Option<f64>) -> Result<Measured, String> {
    let leader = find_leader(&plan.addrs, plan.timeout)?;
    let (tallies, received) = unbounded();
    let origin = Instant::now();
    let orders = |thread: u32| Orders {
        addrs: plan.addrs.clone(),
        leader,
        lanes: share(plan.connections, thread, plan.threads) as usize,
        pipeline: plan.pipeline as usize,
        has_sessions: plan.has_sessions,
        timeout: plan.timeout,
        origin,
        interval_ends_ns: interval_ends(plan),
    };
    // Unique keys are new in each run, whatever the seed.
    let run_number = uuid::Uuid::new_v4().as_u64_pair().0;
    thread::scope(|scope| {
        let loads: Vec<_> = (0..plan.threads)
            .map(|thread| {
                let (orders, tallies) = (orders(thread), tallies.clone());
                scope.spawn(move || load(plan, rate, thread, run_number, orders, tallies))
            })
            .collect();
        drop(tallies);
        let gathered = gather(plan, origin, &received);
        let mut leftover = Leftover::default();
        for load in loads {
            let more = load.join().map_err(|_| "a loading thread has failed")??;
            leftover.in_flight += more.in_flight;
            leftover.not_sent += more.not_sent;
            leftover.oldest_ns = leftover.oldest_ns.max(more.oldest_ns);
        }
        let (total, rows, costs) = gathered;
        Ok(Measured {
            rate,
            seconds: plan.measured.as_secs_f64(),
            total,
            rows,
            leftover,
            costs,
        })
    })
}

/// How many of `all` are those of thread `thread`.
fn share(all: u32, thread: u32, threads: u32) -> u32 {
    all / threads + u32::from(thread < all % threads)
}

/// When the warm-up and the intervals after it end; the last may be shorter.
fn interval_ends(plan: &Plan) -> Vec<u64> {
    let nanos = |duration: Duration| duration.as_nanos() as u64;
    let end = nanos(plan.warm_up + plan.measured);
    let mut ends = vec![nanos(plan.warm_up)];
    let mut next = nanos(plan.warm_up + plan.interval);
    while next < end {
        ends.push(next);
        next += nanos(plan.interval);
    }
    ends.push(end);
    ends
}

/// What one thread does.
fn load(
    plan: &Plan,
    rate: Option<f64>,
    thread: u32,
    run_number: u64,
    orders: Orders,
    tallies: Sender<(usize, Tally)>,
) -> Result<Leftover, String> {
    let (origin, end_ns) = (orders.origin, orders.end_ns());
    let seed = plan.seed.wrapping_add(u64::from(thread) << 32);
    let keys = Keys::new(plan.keys, run_number, thread, plan.threads);
    let workload = Workload::new(plan.mix.clone(), keys, plan.value_bytes.clone(), seed);
    let schedule = rate.map(|rate| Schedule::new(plan.arrivals, rate, thread, plan.threads, seed));
    let options = Options {
        seed,
        ..Options::default()
    };
    let mut event_loop = EventLoop::new(options).map_err(|e| e.to_string())?;
    thread::scope(|scope| {
        let paced = schedule.map(|schedule| {
            let doorbell = event_loop.doorbell();
            let pacer = Pacer::start(scope, schedule.clone(), origin, end_ns, doorbell);
            (schedule, pacer)
        });
        let mut load = Load::new(orders, workload, paced, tallies);
        event_loop.run(&mut load).map_err(|e| e.to_string())?;
        Ok(load.leftover())
    })
}

/// Takes what the threads have counted until the last interval of all has ended, and the
/// accounts where the measuring begins and ends.
fn gather(
    plan: &Plan,
    origin: Instant,
    received: &Receiver<(usize, Tally)>,
) -> (Tally, Vec<Row>, Costs) {
    let mut gatherer = Gatherer::new(plan);
    while let Ok((interval, tally)) = received.recv_deadline(origin + plan.warm_up) {
        gatherer.take(interval, tally);
    }
    let before = Accounts::take(&plan.addrs, &plan.pids);
    while !gatherer.is_complete() {
        let Ok((interval, tally)) = received.recv() else {
            break; // The threads have failed, and say why when they are joined.
        };
        gatherer.take(interval, tally);
    }
    let after = Accounts::take(&plan.addrs, &plan.pids);
    gatherer.progress.end();
    (gatherer.total, gatherer.rows, after.since(&before))
}

/// Puts together what the threads have counted in each interval.
struct Gatherer {
    threads: u32,
    ends: Vec<f64>,
    /// By interval: how many threads are in it.
    pending: BTreeMap<usize, (u32, Tally)>,
    total: Tally,
    rows: Vec<Row>,
    progress: Progress,
}

impl Gatherer {
    fn new(plan: &Plan) -> Gatherer {
        let warm_up = plan.warm_up.as_secs_f64();
        let ends = interval_ends(plan).into_iter();
        Gatherer {
            threads: plan.threads,
            ends: ends.map(|end| end as f64 / 1e9 - warm_up).collect(),
            pending: BTreeMap::new(),
            total: Tally::new(),
            rows: Vec::new(),
            progress: Progress::begin(plan.measured),
        }
    }

    fn is_complete(&self) -> bool {
        self.rows.len() + 1 == self.ends.len()
    }

    fn take(&mut self, interval: usize, tally: Tally) {
        let (count, sum) = match self.pending.remove(&interval) {
            Some((count, mut sum)) => {
                sum.add(&tally);
                (count + 1, sum)
            }
            None => (1, tally),
        };
        if count < self.threads {
            self.pending.insert(interval, (count, sum));
        } else if let Some(before) = interval.checked_sub(1) {
            let row = Row {
                begin: self.ends[before],
                end: self.ends[interval],
                answered: sum.answered(),
                errors: sum.errors(),
                latency: Latency::of(&sum),
            };
            self.total.add(&sum);
            self.rows.push(row);
            self.progress.show(&row, self.total.errors());
        }
    }
}

/// A line on the terminal while the run goes on; nothing if there is no terminal.
struct Progress {
    is_shown: bool,
    seconds: f64,
}

impl Progress {
    fn begin(measured: Duration) -> Progress {
        let progress = Progress {
            is_shown: io::stderr().is_terminal(),
            seconds: measured.as_secs_f64(),
        };
        progress.print("warming up …");
        progress
    }

    fn show(&self, row: &Row, errors: u64) {
        let latency = row.latency.map_or(String::new(), |latency| {
            format!("  p50 {:.0} µs  p99 {:.0} µs", latency.p50, latency.p99)
        });
        self.print(&format!(
            "{:.0} of {:.0} s: {:.0}/s{latency}  errors {errors}",
            row.end,
            self.seconds,
            row.per_second(row.answered),
        ));
    }

    fn end(&self) {
        self.print("");
    }

    /// In place of what was there.
    fn print(&self, text: &str) {
        if self.is_shown {
            let mut stderr = io::stderr();
            // The results matter; whether this can be printed does not.
            let _ = write!(stderr, "\r\x1b[K{text}").and_then(|()| stderr.flush());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_of_threads_make_up_the_whole() {
        for (all, threads) in [(1, 1), (7, 3), (64, 5), (3, 3)] {
            let shares: Vec<u32> = (0..threads).map(|t| share(all, t, threads)).collect();
            assert_eq!(shares.iter().sum::<u32>(), all, "{shares:?}");
            assert!(shares.iter().max().unwrap() - shares.iter().min().unwrap() <= 1);
        }
    }
}
