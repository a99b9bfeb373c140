//! What a majority is, and what it agrees on (paper §5.2, §5.4).

/// How many of `voters` nodes are a majority.
#[must_use]
pub fn majority(voters: usize) -> usize {
    voters / 2 + 1
}

/// The highest value that a majority has reached: of the values of all voters, the
/// one that a majority is at or above.
///
/// Reorders `reached`.
///
/// # Panics
/// If there are no voters.
pub fn reached_by_majority<T: Ord + Copy>(reached: &mut [T]) -> T {
    assert!(!reached.is_empty(), "a cluster has voters");
    let at = reached.len() - majority(reached.len());
    *reached.select_nth_unstable(at).1
}

/// The votes of an election.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    granted: Vec<crate::types::NodeId>,
    refused: Vec<crate::types::NodeId>,
}

/// How an election stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// A majority granted its vote.
    Won,
    /// A majority can no longer be reached.
    Lost,
    /// Neither, so far.
    Open,
}

impl Tally {
    /// Counts a vote. The first answer of a voter stands: an updated vote must never
    /// be counted as a second one.
    pub fn record(&mut self, voter: crate::types::NodeId, granted: bool) {
        if !self.granted.contains(&voter) && !self.refused.contains(&voter) {
            if granted {
                &mut self.granted
            } else {
                &mut self.refused
            }
            .push(voter);
        }
    }

    /// How many granted.
    #[must_use]
    pub fn granted(&self) -> usize {
        self.granted.len()
    }

    /// How it stands among `voters` nodes.
    #[must_use]
    pub fn verdict(&self, voters: usize) -> Verdict {
        if self.granted.len() >= majority(voters) {
            Verdict::Won
        } else if voters - self.refused.len() < majority(voters) {
            Verdict::Lost
        } else {
            Verdict::Open
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::NodeId;
    use proptest::prelude::*;

    #[test]
    fn two_majorities_of_the_same_cluster_always_share_a_node() {
        for voters in 1..=9 {
            assert!(2 * majority(voters) > voters);
            assert!(2 * (majority(voters) - 1) <= voters, "no more than needed");
        }
    }

    proptest! {
        #[test]
        fn the_committed_index_is_the_highest_that_brute_force_finds_on_a_majority(
            matched in proptest::collection::vec(0u64..12, 1..8),
        ) {
            let brute = (0..12)
                .rev()
                .find(|i| matched.iter().filter(|m| *m >= i).count() >= majority(matched.len()))
                .unwrap();
            prop_assert_eq!(reached_by_majority(&mut matched.clone()), brute);
        }

        #[test]
        fn an_election_is_won_or_lost_exactly_when_no_further_vote_can_change_it(
            voters in 1usize..8,
            answers in proptest::collection::vec((0u64..8, any::<bool>()), 0..16),
        ) {
            let mut tally = Tally::default();
            let mut first = std::collections::BTreeMap::new();
            for (voter, granted) in answers {
                let voter = voter % voters as u64;
                tally.record(NodeId(voter), granted);
                first.entry(voter).or_insert(granted);
            }
            let yes = first.values().filter(|g| **g).count();
            let no = first.len() - yes;
            let expected = if yes > voters / 2 {
                Verdict::Won
            } else if yes + (voters - yes - no) <= voters / 2 {
                Verdict::Lost
            } else {
                Verdict::Open
            };
            prop_assert_eq!(tally.verdict(voters), expected);
        }
    }
}
