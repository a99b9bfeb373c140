//! A node that was removed from the cluster says so.
//!
//! Its log ends with the configuration that it is not part of, or somewhere behind it. A node
//! that is about to be added looks the same while it catches up from an older snapshot, but a
//! leader talks to it then.
//!
//! What is in the log alone may not be committed after a restart, and then the node would ask for
//! votes again. So a removed node takes a snapshot, in which its removal is committed.

use std::time::Duration;

use log::warn;

use crate::disk::Disk;
use crate::node::core::Node;
use crate::raft::Configuration;
use crate::time::Time;
use crate::types::Index;

/// How long after its start a node waits for a leader that adds it.
const PATIENCE: Duration = Duration::from_secs(3);

/// Whether this node was a member, and is none any more.
#[derive(Debug, Default)]
pub(super) struct Removal {
    /// A committed configuration had it since the start.
    was_member: bool,
    /// Since when it has been outside without a leader.
    outside_since: Option<Time>,
    noticed: bool,
}

/// Where a node stands by its own log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// In the committed configuration.
    Member,
    /// Only in a configuration that may not be committed.
    Joining,
    Outside,
}

impl Removal {
    /// Whether a member has nothing to notice as long as it stays one.
    fn is_settled(&self) -> bool {
        self.was_member && self.outside_since.is_none()
    }

    pub(super) fn is_noticed(&self) -> bool {
        self.noticed
    }

    /// When to look again.
    pub(super) fn next_deadline(&self) -> Time {
        match self.outside_since {
            Some(since) if !self.noticed => since + PATIENCE,
            _ => Time::NEVER,
        }
    }

    /// Takes in which configuration of the log has this node, and whether it hears a leader.
    /// Returns whether it is found to be removed just now.
    fn look(&mut self, now: Time, place: Place, is_led: bool) -> bool {
        if place != Place::Outside {
            *self = Removal {
                was_member: self.was_member || place == Place::Member,
                ..Removal::default()
            };
            return false;
        }
        if is_led && !self.was_member {
            self.outside_since = None;
            return false;
        }
        let since = *self.outside_since.get_or_insert(now);
        let is_removed = self.was_member || now.since(since) >= PATIENCE;
        is_removed && !std::mem::replace(&mut self.noticed, true)
    }
}

impl<D: Disk> Node<D> {
    /// Whether no snapshot has it yet that this node is removed.
    pub(super) fn removal_to_keep(&self) -> bool {
        let newest = self.snapshots.newest();
        let at = self.raft.configuration_index();
        self.removal.is_noticed()
            && newest.is_none_or(|snapshot| snapshot.last.index < at)
            && self.applied() >= at
            && !self.install.is_restoring()
    }

    /// Notices that this node is no member any more, once that is committed.
    pub(super) fn watch_removal(&mut self, now: Time) {
        let raft = &self.raft;
        let has_own = |configuration: &Configuration| {
            configuration.contains(configuration.counted(raft.server()))
        };
        let joining = has_own(raft.configuration());
        // A node without a log has never been told anything: it waits to be added.
        if joining && self.removal.is_settled() || raft.log().last().index == Index::ZERO {
            return;
        }
        let committed = raft.configuration_at(raft.commit_index());
        let place = match (has_own(committed), joining) {
            (true, _) => Place::Member,
            (false, true) => Place::Joining,
            (false, false) => Place::Outside,
        };
        // A directory that was never a voter may be on its way into the cluster.
        let may_enter = !self.removal.was_member && !self.identity.meta().was_voter;
        if place == Place::Outside && may_enter {
            return;
        }
        let is_led = raft.leader().is_some();
        if self.removal.look(now, place, is_led) {
            warn!(
                target: "Raft",
                "removed from the cluster: this node takes part in nothing any more, stop it"
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> Time {
        Time::ZERO + Duration::from_millis(ms)
    }

    #[test]
    fn a_member_that_is_removed_notices_once_and_forgets_it_when_it_is_added_again() {
        let mut removal = Removal::default();
        assert!(!removal.look(at(0), Place::Member, true));
        assert!(removal.look(at(1), Place::Outside, true));
        assert!(!removal.look(at(2), Place::Outside, false) && removal.is_noticed());
        assert!(!removal.look(at(3), Place::Member, false) && !removal.is_noticed());
        assert!(removal.look(at(4), Place::Outside, false));
    }

    #[test]
    fn a_removed_node_that_was_restarted_notices_when_no_leader_talks_to_it() {
        let mut removal = Removal::default();
        assert!(!removal.look(at(0), Place::Outside, false));
        assert_eq!(removal.next_deadline(), at(0) + PATIENCE);
        assert!(removal.look(at(0) + PATIENCE, Place::Outside, false));
        assert_eq!(removal.next_deadline(), Time::NEVER);
    }

    #[test]
    fn a_node_that_catches_up_before_it_is_added_is_not_removed() {
        let mut removal = Removal::default();
        assert!(!removal.look(at(0), Place::Outside, false));
        assert!(!removal.look(at(100), Place::Outside, true));
        assert!(!removal.look(at(60_000), Place::Joining, true));
        // An addition that never committed was none.
        assert!(!removal.look(at(60_001), Place::Outside, true));
        assert!(!removal.look(at(60_002), Place::Member, true) && !removal.is_noticed());
    }
}
