//! Promises of followers, and the lease of a leader that rests on them (thesis §6.4.1).

use std::time::Duration;

use crate::mutation::mutated;
use crate::raft::core::Raft;
use crate::raft::leader::Leader;
use crate::time::Time;

impl Raft {
    /// The length of this node's promises is on its disk: they may be given from now on.
    pub fn allow_promises(&mut self) {
        self.may_promise = self.config.read_lease;
    }

    /// Promises to help nobody else to leadership for a while; returns for how long.
    pub(super) fn promise_lease(&mut self, now: Time) -> Duration {
        if !self.may_promise {
            return Duration::ZERO;
        }
        let length = self.config.election_timeout.0;
        if !mutated!(LeaseNotHonoured) {
            self.lease_promise = self.lease_promise.max(now + length);
            self.has_promised = true;
        }
        length
    }

    /// Counts a promise that was given since the last ready value from `now`, when its answer
    /// leaves. The heartbeat may have been taken in by a clock that was read before it was
    /// sent, and the promise has to outlast the lease, which counts from then.
    pub(super) fn date_promise(&mut self, now: Time) {
        if std::mem::take(&mut self.has_promised) && !mutated!(PromiseByOldClock) {
            self.lease_promise = self.lease_promise.max(now + self.config.election_timeout.0);
        }
    }

    /// Until when no other leader can exist: a quorum has promised to help nobody else to
    /// leadership before then. Each promise has its own length, which its answer states.
    pub(super) fn lease_end(&self, leader: &Leader) -> Time {
        if !self.config.read_lease || leader.lease_void {
            return Time::ZERO;
        }
        let who = (self.membership.quorum(), self.own());
        let until = leader.reached(who, Time::NEVER.as_nanos(), |p| p.lease.as_nanos());
        Time::from_nanos(until)
    }
}
