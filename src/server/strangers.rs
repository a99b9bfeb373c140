//! Connections to the peer port on which no member has introduced itself yet.
//!
//! Members introduce themselves with their first message. A stranger may say nothing for ever,
//! so the oldest stranger gives way once there are too many: strangers, however many, take no
//! descriptor from the disk or from a member.

use std::collections::VecDeque;

use crate::net::ConnectionId;

#[derive(Debug, Default)]
pub(super) struct Strangers {
    /// In the order of their arrival; among them those that have since introduced themselves
    /// or closed.
    waiting: VecDeque<ConnectionId>,
    max: usize,
}

impl Strangers {
    pub(super) fn new(max: usize) -> Strangers {
        let waiting = VecDeque::new();
        Strangers { waiting, max }
    }

    /// Takes in a connection that was just accepted; `is_settled` tells which of the earlier
    /// ones have introduced themselves or closed. Returns the stranger that has to go.
    pub(super) fn admit(
        &mut self,
        connection: ConnectionId,
        is_settled: impl Fn(ConnectionId) -> bool,
    ) -> Option<ConnectionId> {
        self.waiting.push_back(connection);
        if self.waiting.len() <= self.max {
            return None;
        }
        self.waiting.retain(|id| !is_settled(*id));
        (self.waiting.len() > self.max)
            .then(|| self.waiting.pop_front())
            .flatten()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::mail::connection_of;

    #[test]
    fn the_oldest_stranger_gives_way_and_no_member_does() {
        let [member, a, b, c, d] = [1, 2, 3, 4, 5].map(connection_of);
        let mut strangers = Strangers::new(2);
        assert_eq!(strangers.admit(member, |_| false), None);
        assert_eq!(strangers.admit(a, |_| false), None);
        let is_settled = |id| id == member;
        assert_eq!(strangers.admit(b, is_settled), None);
        assert_eq!(strangers.admit(c, is_settled), Some(a));
        assert_eq!(strangers.admit(d, is_settled), Some(b));
    }
}
