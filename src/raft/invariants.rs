//! What must hold after each step, in release builds too, and of a log as a whole.
//!
//! These are evidence of our own broken safety; a node that finds one stops before
//! it does more harm. What a remote merely claims never ends up here.

use crate::raft::core::{Raft, Role};
use crate::raft::log::Log;
use crate::types::{HardState, Index, Server};

/// What a step starts from.
pub(super) struct Mark {
    hard_state: HardState,
    commit_index: Index,
    leads: bool,
    leader: Option<Server>,
    last: Index,
}

impl Mark {
    pub(super) fn of(raft: &Raft) -> Mark {
        Mark {
            hard_state: raft.hard_state,
            commit_index: raft.commit_index,
            leads: raft.is_leader(),
            leader: raft.leader,
            last: raft.log.last().index,
        }
    }

    /// Compares where a step has led with where it began.
    pub(super) fn check_step(self, raft: &Raft) {
        let (old, new) = (self.hard_state, raft.hard_state);
        assert!(
            new.term >= old.term,
            "term went back: {} -> {}",
            old.term,
            new.term
        );
        let same_term = new.term == old.term;
        if same_term && let Some(candidate) = old.voted_for {
            assert_eq!(
                new.voted_for,
                Some(candidate),
                "one vote a term: {}",
                new.term
            );
        }
        assert!(
            raft.commit_index >= self.commit_index,
            "commit index went back: {} -> {}",
            self.commit_index,
            raft.commit_index
        );
        assert!(
            raft.commit_index <= raft.log.last().index,
            "only what is in the log is committed"
        );
        assert!(
            raft.log.base().index <= raft.commit_index,
            "only committed entries are compacted"
        );
        assert!(
            raft.log.stable() <= raft.log.last().index,
            "what is on disk is in the log"
        );
        if same_term && self.leads && raft.is_leader() {
            assert!(
                raft.log.last().index >= self.last,
                "a leader only appends (§5.3)"
            );
        }
        if same_term && let (Some(before), Some(after)) = (self.leader, raft.leader) {
            assert_eq!(before, after, "one leader a term: {}", new.term);
        }
        if let Role::Leader(_) = raft.role {
            let vote = new.voted_for.map(|server| server.id);
            assert_eq!(vote, Some(raft.id()), "a leader has voted for itself");
        }
    }
}

/// Checks a log from one end to the other: for tests and the simulator.
///
/// # Panics
/// If it does not hold together.
pub fn check_log(log: &Log) {
    let mut before = log.base();
    for entry in log.range(log.first_index(), log.last().index) {
        assert_eq!(entry.id.index, before.index.next(), "no gap in a log");
        assert!(entry.id.term >= before.term, "terms never go back in a log");
        before = entry.id;
    }
    let bytes: usize = log
        .range(log.first_index(), log.last().index)
        .map(|e| e.size_bytes())
        .sum();
    assert_eq!(bytes, log.bytes(), "the log knows its size");
}
