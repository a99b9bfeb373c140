//! One node's clock: it starts anywhere, and runs a little fast or slow.

use crate::time::Time;

const MILLION: u64 = 1_000_000;

/// See the module.
#[derive(Clone, Copy, Debug)]
pub(super) struct Clock {
    /// Since when it has been running at this rate, in the time of the simulation.
    since: Time,
    /// What it showed then.
    showed: Time,
    /// Its own nanoseconds in a millisecond of the simulation.
    rate: u64,
}

impl Clock {
    /// A clock that shows `showed` now; it gains so many parts in a million.
    pub(super) fn new(now: Time, showed: Time, gain_ppm: i64) -> Clock {
        Clock {
            since: now,
            showed,
            rate: MILLION.saturating_add_signed(gain_ppm),
        }
    }

    /// What it shows at a moment of the simulation.
    pub(super) fn shows(&self, at: Time) -> Time {
        let elapsed = at.as_nanos().saturating_sub(self.since.as_nanos());
        Time::from_nanos(self.showed.as_nanos() + elapsed * self.rate / MILLION)
    }

    /// The first moment of the simulation at which it shows `local`, or later.
    pub(super) fn moment(&self, local: Time) -> Time {
        if local == Time::NEVER {
            return Time::NEVER;
        }
        let to_go = local.as_nanos().saturating_sub(self.showed.as_nanos());
        Time::from_nanos(self.since.as_nanos() + (to_go * MILLION).div_ceil(self.rate))
    }

    /// From now on it gains so many parts in a million. It never jumps.
    pub(super) fn retune(&mut self, now: Time, gain_ppm: i64) {
        *self = Clock::new(now, self.shows(now), gain_ppm);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_deadline_of_a_clock_is_never_early_and_at_most_a_moment_late() {
        for gain in [-10_000, -1, 0, 1, 37, 10_000] {
            let clock = Clock::new(Time::from_millis(7), Time::from_millis(3_000), gain);
            for local in [3_000_000_000, 3_000_000_001, 3_777_777_777, 9_999_999_999] {
                let at = clock.moment(Time::from_nanos(local));
                let shown = clock.shows(at).as_nanos();
                assert!(shown >= local && shown <= local + 2, "{gain}: {shown}");
            }
        }
    }

    #[test]
    fn a_clock_that_changes_its_rate_does_not_jump() {
        let mut clock = Clock::new(Time::ZERO, Time::from_millis(5), 10_000);
        let now = Time::from_millis(1_000);
        let shown = clock.shows(now);
        clock.retune(now, -10_000);
        assert_eq!(clock.shows(now), shown);
        assert_eq!(
            clock
                .shows(Time::from_millis(2_000))
                .since(shown)
                .as_micros(),
            990_000
        );
    }
}
