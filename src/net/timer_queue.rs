//! Timers in the order in which they expire.

use std::collections::BTreeMap;
use std::time::Instant;

/// Names a timer that was set; never used again for another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TimerId {
    // The deadline first: the order of the ids is the order of the queue, and an id
    // finds its timer without an index beside it.
    deadline: Instant,
    sequence: u64,
}

/// Timers, each with a `T` that says what it is for.
#[derive(Debug)]
pub struct TimerQueue<T> {
    timers: BTreeMap<TimerId, T>,
    next_sequence: u64,
}

impl<T> Default for TimerQueue<T> {
    fn default() -> TimerQueue<T> {
        TimerQueue {
            timers: BTreeMap::new(),
            next_sequence: 0,
        }
    }
}

impl<T> TimerQueue<T> {
    /// Sets a timer. Among equal deadlines the one that was set first expires first.
    pub fn set(&mut self, deadline: Instant, what: T) -> TimerId {
        let id = TimerId {
            deadline,
            sequence: self.next_sequence,
        };
        self.next_sequence += 1;
        self.timers.insert(id, what);
        id
    }

    /// Takes a timer back; `None` if it has expired or was cancelled before.
    pub fn cancel(&mut self, id: TimerId) -> Option<T> {
        self.timers.remove(&id)
    }

    /// When the next timer expires.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Instant> {
        self.timers.first_key_value().map(|(id, _)| id.deadline)
    }

    /// How many timers are set.
    #[must_use]
    pub fn len(&self) -> usize {
        self.timers.len()
    }

    /// Whether no timer is set.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.timers.is_empty()
    }

    /// Removes the first timer whose deadline is not after `now`.
    pub fn pop_expired(&mut self, now: Instant) -> Option<(TimerId, T)> {
        let first = self.timers.first_entry()?;
        (first.key().deadline <= now).then(|| first.remove_entry())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn timers_expire_in_the_order_of_their_deadlines_and_not_before() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut timers = TimerQueue::default();
        let late = timers.set(at(20), "late");
        let early = timers.set(at(10), "early");
        let second = timers.set(at(10), "second of the same moment");
        assert_eq!(timers.next_deadline(), Some(at(10)));
        assert_eq!(timers.pop_expired(at(9)), None);
        assert_eq!(timers.pop_expired(at(10)), Some((early, "early")));
        assert_eq!(
            timers.pop_expired(at(10)),
            Some((second, "second of the same moment"))
        );
        assert_eq!(timers.pop_expired(at(19)), None);
        assert_eq!(timers.pop_expired(at(30)), Some((late, "late")));
        assert_eq!(timers.next_deadline(), None);
    }

    #[test]
    fn a_cancelled_timer_does_not_expire_and_cannot_be_cancelled_twice() {
        let now = Instant::now();
        let mut timers = TimerQueue::default();
        let id = timers.set(now, 1);
        assert_eq!(timers.cancel(id), Some(1));
        assert_eq!(timers.cancel(id), None);
        assert_eq!(timers.pop_expired(now), None);
    }
}
