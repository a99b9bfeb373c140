//! What a run is like. Everything is drawn from the seed, so that each run has a mix of
//! its own: many faults, few, or none of a kind.

use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use crate::kv::SessionLimits;

/// How often things go wrong, and how large everything is.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    pub(super) nodes: u64,
    pub(super) clients: u64,
    pub(super) keys: u64,
    /// Whether clients compare and set, batch and scan, beside what the original knows.
    pub(super) has_joint_operations: bool,
    /// How long faults go on.
    pub(super) turmoil: Duration,
    /// Mean time between faults; none at all if it is zero.
    pub(super) fault_every: Duration,
    /// Probabilities, in 1/1000.
    pub(super) loss: u32,
    pub(super) repeat: u32,
    /// Mean one-way delay of a message.
    pub(super) delay: Duration,
    /// Mean time of a sync or another operation of the disk.
    pub(super) disk_delay: Duration,
    /// Mean time between two operations of one client.
    pub(super) think: Duration,
    pub(super) snapshot_log_bytes: u64,
    pub(super) snapshot_tail_bytes: u64,
    pub(super) segment_bytes: u64,
    pub(super) value_bytes_max: usize,
    pub(super) session_limits: SessionLimits,
}

impl Plan {
    pub(super) fn draw(seed: u64) -> Plan {
        let mut rng = StdRng::seed_from_u64(seed ^ 0x5eed_0000);
        let mut pick = |values: &[u64]| values[rng.random_range(0..values.len())];
        let snapshot_log_bytes = pick(&[4 << 10, 16 << 10, 64 << 10, 1 << 30]);
        Plan {
            nodes: pick(&[1, 2, 3, 3, 3, 5, 5, 7]),
            clients: pick(&[1, 3, 6, 10]),
            keys: pick(&[1, 3, 8]),
            // Not drawn, so that seeds without them show the runs that they showed before.
            has_joint_operations: seed % 4 != 1,
            turmoil: Duration::from_millis(pick(&[3_000, 6_000, 12_000])),
            fault_every: Duration::from_millis(pick(&[0, 300, 800, 2_000])),
            loss: pick(&[0, 0, 20, 100, 300]) as u32,
            repeat: pick(&[0, 0, 50, 300]) as u32,
            delay: Duration::from_micros(pick(&[100, 1_000, 5_000, 20_000])),
            disk_delay: Duration::from_micros(pick(&[100, 500, 2_000, 10_000])),
            think: Duration::from_millis(pick(&[1, 10, 50])),
            snapshot_log_bytes,
            snapshot_tail_bytes: pick(&[0, 1 << 10, 8 << 10]).min(snapshot_log_bytes / 2),
            segment_bytes: pick(&[64 << 10, 256 << 10]),
            value_bytes_max: pick(&[16, 200, 3_000]) as usize,
            session_limits: SessionLimits {
                sessions_max: pick(&[2, 4, 1_000]) as usize,
                window: pick(&[1, 4, 100]) as usize,
                ..SessionLimits::default()
            },
        }
    }
}
