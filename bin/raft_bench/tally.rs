//! What is counted: answers with their latencies, and what went wrong, by kind.

use hdrhistogram::Histogram;

/// Latencies are told apart from this on: a microsecond.
const LATENCY_NS_MIN: u64 = 1_000;
/// Longer latencies count as this: ten minutes.
const LATENCY_NS_MAX: u64 = 600_000_000_000;
/// The decimal digits of a latency that are kept.
const LATENCY_DIGITS: u8 = 3;

/// Why an operation has failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorKind {
    /// The node does not lead; it has named another one.
    Redirected,
    /// The node knows no leader.
    NoLeader,
    /// The leader has too much to do.
    Busy,
    /// The disk of the leader is full.
    NoSpace,
    /// The key of a put exists.
    KeyExists,
    /// The session is not known any more.
    SessionExpired,
    /// Leadership was lost meanwhile: it may have been done.
    OutcomeUnknown,
    /// Refused for another reason.
    Refused,
    /// The connection ended meanwhile: it may have been done.
    ConnectionLost,
    /// No answer came in time: it may have been done.
    TimedOut,
    /// The answer was not understood.
    BadAnswer,
}

impl ErrorKind {
    pub const ALL: [ErrorKind; 11] = [
        ErrorKind::Redirected,
        ErrorKind::NoLeader,
        ErrorKind::Busy,
        ErrorKind::NoSpace,
        ErrorKind::KeyExists,
        ErrorKind::SessionExpired,
        ErrorKind::OutcomeUnknown,
        ErrorKind::Refused,
        ErrorKind::ConnectionLost,
        ErrorKind::TimedOut,
        ErrorKind::BadAnswer,
    ];

    /// For people; programs get it with underscores.
    pub fn name(self) -> &'static str {
        match self {
            ErrorKind::Redirected => "redirected",
            ErrorKind::NoLeader => "no leader",
            ErrorKind::Busy => "busy",
            ErrorKind::NoSpace => "no space",
            ErrorKind::KeyExists => "key exists",
            ErrorKind::SessionExpired => "session expired",
            ErrorKind::OutcomeUnknown => "outcome unknown",
            ErrorKind::Refused => "refused",
            ErrorKind::ConnectionLost => "connection lost",
            ErrorKind::TimedOut => "timed out",
            ErrorKind::BadAnswer => "bad answer",
        }
    }
}

/// What happened in a stretch of time.
#[derive(Clone, Debug)]
pub struct Tally {
    /// One latency for each operation that was answered and not refused, in nanoseconds.
    pub latency_ns: Histogram<u64>,
    /// Those among them that found no such key.
    pub not_found: u64,
    /// By [`ErrorKind`], in the order of [`ErrorKind::ALL`].
    errors: [u64; ErrorKind::ALL.len()],
    /// Connections that could not be made. Nothing was asked for on them.
    pub connects_failed: u64,
}

impl Tally {
    pub fn new() -> Tally {
        let latency_ns = Histogram::new_with_bounds(LATENCY_NS_MIN, LATENCY_NS_MAX, LATENCY_DIGITS);
        Tally {
            latency_ns: latency_ns.expect("the bounds are right"),
            not_found: 0,
            errors: [0; ErrorKind::ALL.len()],
            connects_failed: 0,
        }
    }

    pub fn fail(&mut self, kind: ErrorKind) {
        self.errors[kind as usize] += 1;
    }

    /// Operations that were answered and not refused.
    pub fn answered(&self) -> u64 {
        self.latency_ns.len()
    }

    /// Operations that failed, of all kinds.
    pub fn errors(&self) -> u64 {
        self.errors.iter().sum()
    }

    /// The kinds of errors that there were.
    pub fn errors_by_kind(&self) -> impl Iterator<Item = (ErrorKind, u64)> {
        let counts = ErrorKind::ALL.into_iter().zip(self.errors);
        counts.filter(|(_, count)| *count > 0)
    }

    pub fn add(&mut self, other: &Tally) {
        let same_bounds = self.latency_ns.add(&other.latency_ns);
        same_bounds.expect("all tallies have the same bounds");
        self.not_found += other.not_found;
        for (count, more) in self.errors.iter_mut().zip(other.errors) {
            *count += more;
        }
        self.connects_failed += other.connects_failed;
    }

    /// The latency that this part of the operations stayed within, in microseconds.
    pub fn micros(&self, quantile: f64) -> f64 {
        self.latency_ns.value_at_quantile(quantile) as f64 / 1e3
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_are_counted_in_their_own_places_and_added_up() {
        let mut tally = Tally::new();
        for (times, kind) in ErrorKind::ALL.into_iter().enumerate() {
            for _ in 0..times {
                tally.fail(kind);
            }
        }
        let mut sum = tally.clone();
        sum.add(&tally);
        let counts: Vec<(ErrorKind, u64)> = sum.errors_by_kind().collect();
        let expected: Vec<(ErrorKind, u64)> = ErrorKind::ALL
            .into_iter()
            .zip((0..).step_by(2))
            .skip(1)
            .collect();
        assert_eq!(counts, expected);
        assert_eq!(sum.errors(), 110);
    }

    #[test]
    fn a_latency_keeps_three_digits_up_to_minutes() {
        let mut tally = Tally::new();
        for micros in [7_u64, 1_234, 400_000_000] {
            tally.latency_ns.clear();
            tally.latency_ns.saturating_record(micros * 1_000);
            let kept = tally.micros(0.5);
            let error = kept - micros as f64;
            let bound = (micros as f64 / 1e3).max(1.0);
            assert!((0.0..=bound).contains(&error), "{micros}: {kept}");
        }
    }
}
