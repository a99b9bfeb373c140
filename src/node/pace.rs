//! Spreads work that can wait over time, so that what cannot wait is not disturbed.

use std::time::Duration;

use crate::time::Time;

/// When the next piece of work may be done, at so many bytes a second.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Pace {
    free: Time,
}

impl Pace {
    /// From when on the next piece may be done.
    pub(super) fn free(self) -> Time {
        self.free
    }

    /// A piece of so many bytes is done now. A rate of 0 is no limit.
    pub(super) fn take(&mut self, now: Time, bytes: u64, bytes_per_sec: u64) {
        self.free = now + time_for(bytes, bytes_per_sec);
    }
}

/// How long so many bytes take at this rate; none if it is 0.
fn time_for(bytes: u64, bytes_per_sec: u64) -> Duration {
    let nanos = (bytes * 1_000_000_000).checked_div(bytes_per_sec);
    Duration::from_nanos(nanos.unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_take_as_long_as_the_rate_says_and_no_time_without_one() {
        assert_eq!(time_for(1 << 20, 4 << 20), Duration::from_millis(250));
        assert_eq!(time_for(1, 1 << 30), Duration::ZERO);
        assert_eq!(time_for(256 << 10, 0), Duration::ZERO);
    }
}
