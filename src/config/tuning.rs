//! What an operator may turn, with defaults that are right for most.

use std::num::NonZeroUsize;
use std::time::Duration;

use crate::config::ConfigError;
use crate::limits;

/// A slower snapshot, or a slower transfer of one, would hold back the log for longer than
/// it is kept.
const SNAPSHOT_RATE_MIN: u64 = 1 << 20;
/// The smallest segment that takes the largest entry.
const SEGMENT_BYTES_MIN: u64 = (limits::COMMAND_BYTES_MAX + limits::ENTRY_OVERHEAD_BYTES) as u64
    + limits::SEGMENT_OVERHEAD_BYTES;
/// Segments are written in full before use, so a larger one is a typing error.
const SEGMENT_BYTES_MAX: u64 = 1 << 30;
/// A segment is made of whole pages.
const SEGMENT_BYTES_STEP: u64 = 4096;
/// Less is used up by a few of the largest values.
const MEMORY_LIMIT_MIN: u64 = 32 << 20;
/// A cluster that needs a minute to notice a dead leader is not one.
const ELECTION_TIMEOUT_MAX: Duration = Duration::from_secs(60);
/// More event loops than this help on no machine.
const REACTORS_MAX: usize = 1024;

/// What can be tuned; [`Tuning::check`] holds for what [`crate::config`] hands out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tuning {
    /// A follower that hears nothing campaigns after a random time from here …
    pub election_timeout_min: Duration,
    /// … to here (paper §9.3). Default 150 to 300 ms.
    pub election_timeout_max: Duration,
    /// How often a leader with nothing to say says so. Default 50 ms.
    pub heartbeat: Duration,
    /// A snapshot is taken when the log since the last one is longer than this *and*
    /// than that snapshot, in bytes. Default 16 MiB.
    pub snapshot_log_bytes: u64,
    /// How much log stays behind a snapshot for followers that are a little late, in
    /// bytes. Default 4 MiB.
    pub snapshot_tail_bytes: u64,
    /// How much log is kept at most behind a snapshot that is being sent, in bytes.
    /// Default 64 MiB.
    pub snapshot_hold_bytes: u64,
    /// So many bytes a second of the data are walked over for a snapshot, or twice as many as are
    /// applied, if that is more; 0: as many as the disk takes. Default 8 MiB.
    pub snapshot_write_bytes_per_sec: u64,
    /// So many bytes a second are sent of snapshots, to all followers together; 0: as many
    /// as they take. Default 64 MiB.
    pub snapshot_send_bytes_per_sec: u64,
    /// One segment of the log, in bytes. Default [`limits::SEGMENT_BYTES`].
    pub segment_bytes: u64,
    /// Memory above which writes that grow the store are refused, in bytes; 0: no limit.
    /// Default: [`default_memory_limit`](crate::config::default_memory_limit).
    pub memory_limit: Option<u64>,
    /// Event loops. Default: one a core but the raft thread's, at least one.
    pub reactors: usize,
    /// Whether each event loop and the raft thread keep to one core. Off by default: it
    /// helps a node that has the machine for itself, and hurts where several share it.
    pub pin_cores: bool,
    /// Whether a leader answers reads by a lease instead of asking a majority for each
    /// batch of them: faster, and right as long as the clocks of the nodes run at the same
    /// rate within a tenth. The same on all nodes. Off by default.
    pub read_lease: bool,
    /// A disk that has made no progress for so long costs a leader its leadership. Default
    /// 2 s.
    pub disk_patience: Duration,
    /// A disk that has made no progress for so long ends the process; `None`: never. Default
    /// 30 s.
    pub disk_give_up: Option<Duration>,
}

impl Default for Tuning {
    fn default() -> Tuning {
        let cores = std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
        Tuning {
            election_timeout_min: Duration::from_millis(150),
            election_timeout_max: Duration::from_millis(300),
            heartbeat: Duration::from_millis(50),
            memory_limit: None,
            snapshot_log_bytes: 16 << 20,
            snapshot_tail_bytes: 4 << 20,
            snapshot_hold_bytes: 64 << 20,
            snapshot_write_bytes_per_sec: 8 << 20,
            snapshot_send_bytes_per_sec: 64 << 20,
            segment_bytes: limits::SEGMENT_BYTES,
            reactors: (cores - 1).max(1),
            pin_cores: false,
            read_lease: false,
            disk_patience: Duration::from_secs(2),
            disk_give_up: Some(Duration::from_secs(30)),
        }
    }
}

impl Tuning {
    /// Whether the values can be and fit each other.
    ///
    /// # Errors
    ///
    /// [`ConfigError::Tuning`], naming the value.
    pub fn check(&self) -> Result<(), ConfigError> {
        let (min, max) = (self.election_timeout_min, self.election_timeout_max);
        let wrong = if self.heartbeat.is_zero() {
            "heartbeat_ms: must be at least 1".into()
        } else if min >= max {
            format!(
                "election_timeout_ms: {}-{}: the second must be larger, a random time between them keeps votes from splitting",
                min.as_millis(),
                max.as_millis()
            )
        } else if max > ELECTION_TIMEOUT_MAX {
            format!(
                "election_timeout_ms: must be at most {}",
                ELECTION_TIMEOUT_MAX.as_millis()
            )
        } else if self.heartbeat * 2 > min {
            format!(
                "heartbeat_ms: {} is more than half of the shortest election timeout ({} ms): one lost heartbeat would start an election",
                self.heartbeat.as_millis(),
                min.as_millis()
            )
        } else if self.disk_patience < max {
            format!(
                "disk_patience_ms: {} is less than the longest election timeout ({} ms): a disk that is slow for a moment would cost the leadership",
                self.disk_patience.as_millis(),
                max.as_millis()
            )
        } else if let Some(give_up) = self.disk_give_up
            && give_up < self.disk_patience
        {
            format!(
                "disk_give_up_ms: {} is less than disk_patience_ms ({}): the process would end before another can lead; 0 for never",
                give_up.as_millis(),
                self.disk_patience.as_millis()
            )
        } else if !(SEGMENT_BYTES_MIN..=SEGMENT_BYTES_MAX).contains(&self.segment_bytes)
            || !self.segment_bytes.is_multiple_of(SEGMENT_BYTES_STEP)
        {
            format!(
                "segment_bytes: {}: must be a multiple of {SEGMENT_BYTES_STEP} from {} to {SEGMENT_BYTES_MAX}",
                self.segment_bytes,
                SEGMENT_BYTES_MIN.next_multiple_of(SEGMENT_BYTES_STEP)
            )
        } else if self.snapshot_log_bytes == 0 {
            "snapshot_log_bytes: must be at least 1".into()
        } else if self.snapshot_hold_bytes < self.snapshot_tail_bytes {
            format!(
                "snapshot_hold_bytes: {} is less than snapshot_tail_bytes, {}",
                self.snapshot_hold_bytes, self.snapshot_tail_bytes
            )
        } else if (1..SNAPSHOT_RATE_MIN).contains(&self.snapshot_write_bytes_per_sec) {
            format!(
                "snapshot_write_bytes_per_sec: must be at least {SNAPSHOT_RATE_MIN}, or 0 for no limit"
            )
        } else if (1..SNAPSHOT_RATE_MIN).contains(&self.snapshot_send_bytes_per_sec) {
            format!(
                "snapshot_send_bytes_per_sec: must be at least {SNAPSHOT_RATE_MIN}, or 0 for no limit"
            )
        } else if self
            .memory_limit
            .is_some_and(|limit| (1..MEMORY_LIMIT_MIN).contains(&limit))
        {
            format!("memory_limit: must be at least {MEMORY_LIMIT_MIN}, or 0 for no limit")
        } else if !(1..=REACTORS_MAX).contains(&self.reactors) {
            format!("reactors: must be from 1 to {REACTORS_MAX}")
        } else {
            return Ok(());
        };
        Err(ConfigError::Tuning(wrong))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(change: impl FnOnce(&mut Tuning)) -> String {
        let mut tuning = Tuning::default();
        change(&mut tuning);
        tuning.check().unwrap_err().to_string()
    }

    #[test]
    fn defaults_pass_the_check() {
        Tuning::default().check().unwrap();
        let without = Tuning {
            disk_give_up: None,
            ..Tuning::default()
        };
        without.check().unwrap();
    }

    #[test]
    fn each_refusal_names_its_value() {
        let ms = Duration::from_millis;
        assert!(refusal(|t| t.heartbeat = ms(0)).starts_with("heartbeat_ms"));
        assert!(refusal(|t| t.heartbeat = ms(76)).starts_with("heartbeat_ms"));
        assert!(refusal(|t| t.election_timeout_max = ms(150)).starts_with("election_timeout_ms"));
        assert!(
            refusal(|t| t.election_timeout_max = ms(60_001)).starts_with("election_timeout_ms")
        );
        assert!(refusal(|t| t.disk_patience = ms(299)).starts_with("disk_patience_ms"));
        assert!(refusal(|t| t.disk_give_up = Some(ms(1_999))).starts_with("disk_give_up_ms"));
        assert!(refusal(|t| t.segment_bytes += 1).starts_with("segment_bytes"));
        assert!(refusal(|t| t.segment_bytes = 4096).starts_with("segment_bytes"));
        assert!(refusal(|t| t.snapshot_log_bytes = 0).starts_with("snapshot_log_bytes"));
        assert!(refusal(|t| t.snapshot_hold_bytes = 1).starts_with("snapshot_hold_bytes"));
        let slow = refusal(|t| t.snapshot_send_bytes_per_sec = 1000);
        assert!(slow.starts_with("snapshot_send_bytes_per_sec"));
        let slow = refusal(|t| t.snapshot_write_bytes_per_sec = 1000);
        assert!(slow.starts_with("snapshot_write_bytes_per_sec"));
        assert!(refusal(|t| t.memory_limit = Some(1)).starts_with("memory_limit"));
        assert!(refusal(|t| t.reactors = 0).starts_with("reactors"));
    }
}
