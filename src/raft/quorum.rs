//! What a majority is, and what it agrees on (paper §5.2, §5.4; joint: §6).

use crate::limits;
use crate::types::Server;

/// How many of `voters` nodes are a majority.
#[must_use]
pub fn majority(voters: usize) -> usize {
    voters / 2 + 1
}

/// Who decides: the voters, and in a joint configuration the old ones too, each half
/// with a majority of its own (paper §6).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Quorum {
    new: Vec<Server>,
    /// Empty unless the configuration is joint.
    old: Vec<Server>,
}

impl Quorum {
    /// Of the voters `new`, and of the voters `old` too, if there are any. Without voters,
    /// as before a node is founded or adopted, nothing is ever decided.
    ///
    /// # Panics
    /// If there are more voters than [`limits::MEMBERS_MAX`].
    #[must_use]
    pub fn new(new: Vec<Server>, old: Vec<Server>) -> Quorum {
        assert!(new.len().max(old.len()) <= limits::MEMBERS_MAX);
        Quorum { new, old }
    }

    /// The voters; of a joint configuration the new ones.
    #[must_use]
    pub fn voters(&self) -> &[Server] {
        &self.new
    }

    /// Whether `id` votes, among the new voters or the old.
    #[must_use]
    pub fn contains(&self, id: Server) -> bool {
        self.new.contains(&id) || self.old.contains(&id)
    }

    /// All who vote, each once.
    pub fn all(&self) -> impl Iterator<Item = Server> {
        let only_old = self.old.iter().filter(|id| !self.new.contains(id));
        self.new.iter().chain(only_old).copied()
    }

    /// The highest value that a majority of each half has reached: of the values of its
    /// voters, the one that a majority is at or above.
    pub fn reached(&self, value: impl Fn(Server) -> u64) -> u64 {
        let new = reached_by_majority(&self.new, &value);
        if self.old.is_empty() {
            return new;
        }
        new.min(reached_by_majority(&self.old, &value))
    }

    /// How an election stands.
    #[must_use]
    pub fn verdict(&self, tally: &Tally) -> Verdict {
        let new = tally.verdict(&self.new);
        if self.old.is_empty() {
            return new;
        }
        match (new, tally.verdict(&self.old)) {
            (Verdict::Won, Verdict::Won) => Verdict::Won,
            (Verdict::Lost, _) | (_, Verdict::Lost) => Verdict::Lost,
            _ => Verdict::Open,
        }
    }

    /// Whether those who fulfil `condition` are a majority of each half.
    pub fn is_met(&self, condition: impl Fn(Server) -> bool) -> bool {
        self.reached(|id| u64::from(condition(id))) == 1
    }
}

fn reached_by_majority(voters: &[Server], value: impl Fn(Server) -> u64) -> u64 {
    if voters.is_empty() {
        return 0;
    }
    let mut values = [0; limits::MEMBERS_MAX];
    let values = &mut values[..voters.len()];
    for (place, voter) in values.iter_mut().zip(voters) {
        *place = value(*voter);
    }
    let at = voters.len() - majority(voters.len());
    *values.select_nth_unstable(at).1
}

/// The votes of an election.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    pub(super) granted: Vec<Server>,
    pub(super) refused: Vec<Server>,
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
    pub fn record(&mut self, voter: Server, granted: bool) {
        if !self.granted.contains(&voter) && !self.refused.contains(&voter) {
            if granted {
                &mut self.granted
            } else {
                &mut self.refused
            }
            .push(voter);
        }
    }

    /// How it stands among these voters; who is not among them does not count.
    fn verdict(&self, voters: &[Server]) -> Verdict {
        let of = |list: &[Server]| list.iter().filter(|id| voters.contains(id)).count();
        if of(&self.granted) >= majority(voters.len()) {
            Verdict::Won
        } else if voters.len() - of(&self.refused) < majority(voters.len()) {
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

    fn ids(list: &[u64]) -> Vec<Server> {
        list.iter().copied().map(NodeId).map(Server::any).collect()
    }

    /// Voters by brute force: any subset of eight nodes, not empty.
    fn half() -> impl Strategy<Value = Vec<u64>> {
        proptest::sample::subsequence((0u64..8).collect::<Vec<_>>(), 1..=8)
    }

    /// Nobody, for a configuration that is not joint, or a half.
    fn old_half() -> impl Strategy<Value = Vec<u64>> {
        prop_oneof![Just(Vec::new()), half()]
    }

    proptest! {
        #[test]
        fn the_committed_index_is_the_highest_that_brute_force_finds_on_majorities_of_both_halves(
            new in half(),
            old in old_half(),
            matched in proptest::collection::vec(0u64..12, 8),
        ) {
            let on_majority = |voters: &[u64], index: u64| {
                let have = voters.iter().filter(|v| matched[**v as usize] >= index).count();
                voters.is_empty() || 2 * have > voters.len()
            };
            let brute = (0..12)
                .rev()
                .find(|i| on_majority(&new, *i) && on_majority(&old, *i))
                .unwrap();
            let quorum = Quorum::new(ids(&new), ids(&old));
            prop_assert_eq!(quorum.reached(|server| matched[server.id.0 as usize]), brute);
        }

        #[test]
        fn an_election_is_won_or_lost_exactly_when_no_further_vote_can_change_it(
            new in half(),
            old in old_half(),
            answers in proptest::collection::vec((0u64..8, any::<bool>()), 0..16),
        ) {
            let mut tally = Tally::default();
            let mut first = std::collections::BTreeMap::new();
            for (voter, granted) in answers {
                tally.record(Server::any(NodeId(voter)), granted);
                first.entry(voter).or_insert(granted);
            }
            // Brute force: every way in which the others may still vote.
            let open: Vec<u64> = (0..8).filter(|v| !first.contains_key(v)).collect();
            let wins = |bits: u32| {
                let grants = |v: &u64| match open.iter().position(|o| o == v) {
                    Some(at) => bits >> at & 1 == 1,
                    None => first[v],
                };
                [&new, &old].iter().all(|half| {
                    half.is_empty() || 2 * half.iter().filter(|v| grants(v)).count() > half.len()
                })
            };
            let all: Vec<bool> = (0..1u32 << open.len()).map(wins).collect();
            let expected = match (all.contains(&true), all.contains(&false)) {
                (true, false) => Verdict::Won,
                (false, true) => Verdict::Lost,
                _ => Verdict::Open,
            };
            let quorum = Quorum::new(ids(&new), ids(&old));
            prop_assert_eq!(quorum.verdict(&tally), expected);
        }

        #[test]
        fn a_condition_is_met_when_both_halves_have_a_majority_for_it(
            new in half(),
            old in old_half(),
            yes in proptest::collection::vec(any::<bool>(), 8),
        ) {
            let majority_of = |half: &[u64]| {
                half.is_empty() || 2 * half.iter().filter(|v| yes[**v as usize]).count() > half.len()
            };
            let quorum = Quorum::new(ids(&new), ids(&old));
            prop_assert_eq!(
                quorum.is_met(|server| yes[server.id.0 as usize]),
                majority_of(&new) && majority_of(&old)
            );
        }
    }
}
