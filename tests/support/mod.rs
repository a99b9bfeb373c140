//! The harness of the tests that run real processes.
//!
//! - [`wire`]: a small blocking client that knows the wire format and nothing of the project's own
//!   client, so that it tests what is on the wire; bytes can be sent and read raw.
//! - [`cluster`]: real `raft_example` processes on free loopback ports in a directory of their own,
//!   which can be killed, paused and restarted one by one.
//! - [`workload`]: concurrent clients that record what they saw while somebody does that.
//! - [`links`]: what can be done to the links between nodes, in network [`namespaces`] or through
//!   a [`proxy`].
//!
//! Nothing here sleeps for luck: [`eventually`] waits for a condition and fails at a deadline.
#![allow(dead_code, reason = "each test program uses a part of it")]

pub mod cluster;
pub mod links;
pub mod namespaces;
pub mod ports;
pub mod proxy;
pub mod wire;
pub mod workload;

use std::time::{Duration, Instant};

/// Between two looks at a condition.
const POLL: Duration = Duration::from_millis(5);

/// Calls `look` until it answers, at least every few milliseconds.
///
/// # Panics
/// If it has not answered after `limit`; `what` says what was waited for.
pub fn eventually<T>(what: &str, limit: Duration, mut look: impl FnMut() -> Option<T>) -> T {
    let begin = Instant::now();
    loop {
        if let Some(answer) = look() {
            return answer;
        }
        assert!(begin.elapsed() < limit, "waited {limit:?} in vain: {what}");
        std::thread::sleep(POLL);
    }
}

/// A count from the environment, or the small one that keeps `cargo test` short. The names and the
/// full counts are in `scripts/soak.sh`.
pub fn count(variable: &str, default: u64) -> u64 {
    match std::env::var(variable) {
        Ok(text) => text
            .parse()
            .unwrap_or_else(|_| panic!("{variable} is not a number: {text}")),
        Err(_) => default,
    }
}

/// The middle one.
pub fn median<T: Copy + Ord>(values: &[T]) -> T {
    let mut sorted = values.to_vec();
    sorted.sort_unstable();
    sorted[sorted.len() / 2]
}

/// A line that `scripts/soak.sh` puts into its table.
pub fn figure(what: &str, value: impl std::fmt::Display) {
    println!("figure: {what}: {value}");
}

/// A small generator of numbers (SplitMix64), so that a run is named by its seed.
#[derive(Clone, Debug)]
pub struct Random(pub u64);

impl Random {
    /// A number below `bound`, which is not 0.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (mixed ^ (mixed >> 31)) % bound
    }

    /// The seed of `RAFTKV_SEED`, or one that differs from run to run; it is printed.
    pub fn from_environment() -> Random {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        let drawn = now.map_or(0, |t| t.as_nanos() as u64 % 1_000_000);
        let seed = count("RAFTKV_SEED", drawn);
        println!("seed: RAFTKV_SEED={seed}");
        Random(seed)
    }
}
