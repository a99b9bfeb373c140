//! Small pieces of a node's work, each by itself, to be timed (`perf/benches/`) and to have
//! its instructions counted (`perf/instructions/`). Nothing in them is random: the same
//! work is done in every run.

mod codec;
mod mailbox;
mod pool;
mod raft_step;
mod skiplist;
pub mod wal;

/// What is measured of one piece.
pub struct Workload {
    /// The group, and the piece: `codec/encode put`.
    pub name: &'static str,
    /// What is moved by one operation, in bytes, if that is what counts.
    pub bytes: Option<u64>,
    /// Makes what is needed; the function that comes back does the operation so often.
    pub prepare: fn() -> Box<dyn FnMut(u64)>,
    /// How often the operation is done to count its instructions. What has to be made
    /// anew now and then (a chunk, a segment) comes often enough in it to count in full.
    pub count: u64,
}

impl Workload {
    const fn new(name: &'static str, count: u64, prepare: fn() -> Box<dyn FnMut(u64)>) -> Workload {
        Workload {
            name,
            bytes: None,
            prepare,
            count,
        }
    }

    const fn bytes(self, bytes: u64) -> Workload {
        Workload {
            bytes: Some(bytes),
            ..self
        }
    }
}

/// All of them, group by group.
#[must_use]
pub fn all() -> Vec<Workload> {
    let mut all = Vec::new();
    all.extend(codec::WORKLOADS);
    all.extend(mailbox::WORKLOADS);
    all.extend(pool::WORKLOADS);
    all.extend(skiplist::WORKLOADS);
    all.extend(wal::WORKLOADS);
    all.extend(raft_step::WORKLOADS);
    all
}

/// Does `operation` so often, with nothing of it optimised away.
fn repeated<T>(mut operation: impl FnMut() -> T + 'static) -> Box<dyn FnMut(u64)> {
    Box::new(move |times| {
        for _ in 0..times {
            std::hint::black_box(operation());
        }
    })
}

/// A sequence of numbers that look random, the same in every run (Marsaglia's xorshift).
struct Numbers(u64);

impl Numbers {
    const fn new() -> Numbers {
        Numbers(0x9E37_79B9_7F4A_7C15)
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % bound
    }
}
