//! What a run is like. Everything is drawn from the seed, so that each run has a mix of
//! its own: many faults, few, or none of a kind.

use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use crate::kv::SessionLimits;
use crate::node::APPLY_ENTRIES_MAX;
use crate::sim::faults::Fault;

/// How often things go wrong, and how large everything is.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    /// Nodes that there are, members or not.
    pub(super) nodes: u64,
    /// Of these, from 0 on, so many are the first members.
    pub(super) first_members: u64,
    /// Whether leaders read by a lease.
    pub(super) read_lease: bool,
    /// How long a disk may make no progress until that costs the leadership.
    pub(super) disk_patience: Duration,
    pub(super) disk_give_up: Option<Duration>,
    pub(super) clients: u64,
    pub(super) keys: u64,
    /// Whether clients compare and set, batch and scan, beside what the original knows.
    pub(super) has_joint_operations: bool,
    /// The run begins with a cluster of the version before, which is upgraded node by node.
    pub(super) begins_older: bool,
    /// How long faults go on.
    pub(super) turmoil: Duration,
    /// Mean time between faults; none at all if it is zero.
    pub(super) fault_every: Duration,
    /// How often each kind of fault is drawn, against the others.
    pub(super) weights: [u32; Fault::ALL.len()],
    /// What becomes of the nodes outside the core when faults stop there.
    pub(super) rest: Rest,
    /// Probabilities, in 1/1000: that a message is lost, comes twice, overtakes others.
    pub(super) loss: u32,
    pub(super) repeat: u32,
    pub(super) overtake: u32,
    /// Mean one-way delay of a message.
    pub(super) delay: Duration,
    /// How much faster or slower than the simulation clocks run at most, in 1/1,000,000.
    pub(super) drift_ppm: i64,
    /// Mean time of a sync or another operation of the disk.
    pub(super) disk_delay: Duration,
    /// Mean time between two operations of one client.
    pub(super) think: Duration,
    pub(super) snapshot_log_bytes: u64,
    pub(super) snapshot_tail_bytes: u64,
    pub(super) segment_bytes: u64,
    pub(super) value_bytes_max: usize,
    pub(super) session_limits: SessionLimits,
    /// Maximum number of entries that a node applies at once.
    pub(super) apply_entries_max: usize,
}

/// What becomes of the nodes outside the core when faults stop there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Rest {
    /// There are none: faults stop everywhere.
    Calm,
    /// They are down.
    Down,
    /// They run, and nothing passes between them and the core.
    Cut,
    /// They run and are heard, and hear nothing from the core.
    Deaf,
}

impl Plan {
    pub(super) fn draw(seed: u64) -> Plan {
        let mut rng = StdRng::seed_from_u64(seed ^ 0x5eed_0000);
        let mut pick = |values: &[u64]| values[rng.random_range(0..values.len())];
        let snapshot_log_bytes = pick(&[1 << 10, 4 << 10, 16 << 10, 64 << 10, 1 << 30]);
        // Now and then values so large that a snapshot takes several messages, and an
        // entry a segment of its own.
        let large = pick(&[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]) == 1;
        let mut plan = Plan {
            nodes: pick(&[1, 2, 3, 3, 3, 5, 5, 7]),
            first_members: 0,
            read_lease: false,
            disk_patience: Duration::ZERO,
            disk_give_up: None,
            clients: pick(&[1, 3, 6, 10]),
            keys: pick(&[1, 3, 8]),
            // Not drawn, so that seeds without them show the runs that they showed before.
            has_joint_operations: seed % 4 != 1,
            begins_older: seed % 8 == 3,
            turmoil: Duration::from_millis(pick(&[3_000, 6_000, 12_000])),
            fault_every: Duration::from_millis(pick(&[0, 200, 300, 800, 2_000])),
            weights: Fault::ALL.map(|_| pick(&[0, 0, 1, 2, 6]) as u32),
            rest: [Rest::Calm, Rest::Down, Rest::Cut, Rest::Deaf][pick(&[0, 1, 2, 3]) as usize],
            loss: pick(&[0, 0, 50, 300]) as u32,
            repeat: pick(&[0, 0, 100, 500]) as u32,
            overtake: pick(&[0, 20, 1_000]) as u32,
            delay: Duration::from_micros(pick(&[100, 1_000, 5_000, 20_000, 100_000])),
            drift_ppm: pick(&[0, 100, 10_000]) as i64,
            disk_delay: Duration::from_micros(pick(&[100, 500, 2_000, 10_000])),
            think: Duration::from_millis(pick(&[1, 10, 50])),
            snapshot_log_bytes,
            snapshot_tail_bytes: pick(&[0, 1 << 10, 8 << 10]).min(snapshot_log_bytes / 2),
            segment_bytes: pick(&[16 << 10, 64 << 10, 256 << 10]),
            value_bytes_max: pick(&[16, 200, 6_000]) as usize,
            session_limits: SessionLimits {
                sessions_max: pick(&[2, 4, 1_000]) as usize,
                window: pick(&[1, 4, 100]) as usize,
                ..SessionLimits::default()
            },
            apply_entries_max: APPLY_ENTRIES_MAX,
        };
        plan.first_members = plan.nodes - pick(&[0, 0, 1, 2]).min(plan.nodes - 1);
        plan.read_lease = pick(&[0, 0, 1]) == 1;
        plan.disk_patience = Duration::from_millis(pick(&[600, 2_000]));
        plan.disk_give_up = (seed % 4 == 2).then_some(plan.disk_patience * 2);
        // Within these bounds any figure is as likely as another.
        plan.loss = rng.random_range(0..=plan.loss);
        plan.repeat = rng.random_range(0..=plan.repeat);
        plan.delay = plan.delay.mul_f64(rng.random_range(0.3..=1.0));
        if large {
            plan.keys = 8;
            plan.clients = plan.clients.min(3);
            plan.value_bytes_max = 120_000;
            plan.think = Duration::from_millis(50);
        }
        if plan.weights.iter().all(|weight| *weight == 0) {
            plan.weights = Fault::ALL.map(|_| 1);
        }
        // The last: all else is as it was drawn before this was.
        let slice = rng.random_range(0..12);
        if slice < 3 {
            plan.apply_entries_max = slice + 1;
        }
        plan
    }
}
