//! Who belongs to the cluster, and how that changes (thesis chapter 4; joint
//! consensus: paper §6).
//!
//! A configuration is an entry of the log. A node goes by the latest one in its log,
//! committed or not: that is what makes two majorities that could decide different
//! things share a node. Where one member more or less votes, the new configuration
//! follows the old one directly; where more changes, a *joint* one stands in between, in
//! which both the old voters and the new ones must agree, each with a majority of their
//! own.
//!
//! What lies before the log is in the snapshot; what lies before the first snapshot
//! are the first members, which each node was told at its start and which the cluster's
//! id is a hash of. There is no other source.

use std::collections::{BTreeMap, BTreeSet};

use bytes::{Buf, BufMut, Bytes, BytesMut};

use crate::limits;
use crate::mutation::mutated;
use crate::raft::quorum::Quorum;
use crate::types::NodeId;

/// What a member's word counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It gets the log and does not vote.
    Learner,
    /// It votes.
    Voter,
    /// It votes among the new voters of a joint configuration, not among the old.
    Joining,
    /// It votes among the old ones and is gone afterwards.
    Leaving,
    /// It votes among the old ones and is a learner afterwards.
    Demoted,
}

impl Standing {
    const ALL: [Standing; 5] = [
        Standing::Learner,
        Standing::Voter,
        Standing::Joining,
        Standing::Leaving,
        Standing::Demoted,
    ];

    fn code(self) -> u8 {
        match self {
            Standing::Learner => 0,
            Standing::Voter => 1,
            Standing::Joining => 2,
            Standing::Leaving => 3,
            Standing::Demoted => 4,
        }
    }

    /// As `status` prints it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Standing::Learner => "learner",
            Standing::Voter => "voter",
            Standing::Joining => "joining",
            Standing::Leaving => "leaving",
            Standing::Demoted => "demoted",
        }
    }

    fn votes_in_new(self) -> bool {
        matches!(self, Standing::Voter | Standing::Joining)
            || mutated!(LearnerCounts) && self == Standing::Learner
    }

    fn votes_in_old(self) -> bool {
        matches!(
            self,
            Standing::Voter | Standing::Leaving | Standing::Demoted
        )
    }

    fn is_joint(self) -> bool {
        !matches!(self, Standing::Learner | Standing::Voter)
    }
}

/// One member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// What its word counts.
    pub standing: Standing,
    /// The voters with the highest priority step up before the others when there is no
    /// leader. Nobody is deposed for it.
    pub priority: u8,
    /// Where the other nodes reach it, `ip:port`; nothing that Raft looks at.
    pub peer: String,
    /// Where clients reach it, `ip:port`.
    pub client: String,
}

/// A step from one configuration to the next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// A new member, which does not vote yet.
    AddLearner {
        /// An id that no member has.
        id: NodeId,
        /// See [`Member::peer`].
        peer: String,
        /// See [`Member::client`].
        client: String,
    },
    /// A learner votes from now on.
    Promote(NodeId),
    /// A voter does not vote any more, and stays as a learner.
    Demote(NodeId),
    /// A member is one no more.
    Remove(NodeId),
}

impl Change {
    /// Whom it is about.
    #[must_use]
    pub fn id(&self) -> NodeId {
        match self {
            Change::AddLearner { id, .. }
            | Change::Promote(id)
            | Change::Demote(id)
            | Change::Remove(id) => *id,
        }
    }
}

/// Why a configuration does not change. Nothing was done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ChangeError {
    /// This node does not lead.
    #[error("not the leader")]
    NotLeader,
    /// The leader has not committed an entry of its term yet, hands over its leadership,
    /// or too much waits to be committed. Try again.
    #[error("the leader is busy, try again")]
    Busy,
    /// One change at a time.
    #[error("another change of the members is under way, try again when it is done")]
    InProgress,
    /// Nothing was asked for.
    #[error("there is nothing to change")]
    Nothing,
    /// A node is named twice.
    #[error("{0} is named twice")]
    Twice(NodeId),
    /// A member already.
    #[error("{0} is a member already")]
    AlreadyMember(NodeId),
    /// Another member has that address.
    #[error("{0} has that address already")]
    AddressInUse(NodeId),
    /// Not a member.
    #[error("{0} is not a member")]
    NotMember(NodeId),
    /// It votes already.
    #[error("{0} votes already")]
    AlreadyVoter(NodeId),
    /// It does not vote.
    #[error("{0} does not vote")]
    NotVoter(NodeId),
    /// They would have to commit the change, and every later one.
    #[error("a majority of the voters that there would be does not answer")]
    NotReached,
    /// Somebody has to vote.
    #[error("the last voter has to stay")]
    NoVoters,
    /// There are enough.
    #[error("a cluster has at most {max} members", max = limits::MEMBERS_MAX)]
    TooMany,
    /// It would hold up the cluster: try again when its log is nearly the leader's.
    #[error("{id} has not caught up: it lacks {behind} entries")]
    NotCaughtUp {
        /// The learner.
        id: NodeId,
        /// How many entries it lacks.
        behind: u64,
    },
}

/// The bytes are no configuration that is known here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a configuration of a known version")]
pub struct ConfigurationError;

/// Who belongs to the cluster. See the module's docs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Configuration {
    members: BTreeMap<NodeId, Member>,
}

/// The longest address, in bytes.
const ADDRESS_BYTES_MAX: usize = u8::MAX as usize;
const VERSION: u8 = 1;

impl Configuration {
    /// A cluster of voters.
    ///
    /// # Panics
    /// If it has no members, or too many.
    pub fn of_voters(
        members: impl IntoIterator<Item = (NodeId, u8, String, String)>,
    ) -> Configuration {
        let members: BTreeMap<NodeId, Member> = members
            .into_iter()
            .map(|(id, priority, peer, client)| {
                let standing = Standing::Voter;
                let member = Member {
                    standing,
                    priority,
                    peer,
                    client,
                };
                (id, member)
            })
            .collect();
        assert!(
            (1..=limits::MEMBERS_MAX).contains(&members.len()),
            "a cluster has members, up to a limit"
        );
        Configuration { members }
    }

    /// All members, in the order of their ids.
    pub fn members(&self) -> impl Iterator<Item = (NodeId, &Member)> {
        self.members.iter().map(|(id, member)| (*id, member))
    }

    /// How many members there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.members.len()
    }

    /// Whether there is no member: never so once a cluster has begun.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    /// A member.
    #[must_use]
    pub fn get(&self, id: NodeId) -> Option<&Member> {
        self.members.get(&id)
    }

    /// Whether it is one, voting or not.
    #[must_use]
    pub fn contains(&self, id: NodeId) -> bool {
        self.members.contains_key(&id)
    }

    /// Whether old and new voters must agree, each by themselves.
    #[must_use]
    pub fn is_joint(&self) -> bool {
        self.members.values().any(|m| m.standing.is_joint())
    }

    /// Who decides.
    #[must_use]
    pub fn quorum(&self) -> Quorum {
        let voters = |votes: fn(Standing) -> bool| {
            let voters = self.members.iter().filter(|(_, m)| votes(m.standing));
            voters.map(|(id, _)| *id).collect()
        };
        let old = if self.is_joint() && !mutated!(JointAsSimple) {
            voters(Standing::votes_in_old)
        } else {
            Vec::new()
        };
        Quorum::new(voters(Standing::votes_in_new), old)
    }

    /// The configuration that comes next: joint, where more than one vote changes.
    ///
    /// # Errors
    /// See [`ChangeError`].
    pub fn changed(&self, changes: &[Change]) -> Result<Configuration, ChangeError> {
        if changes.is_empty() {
            return Err(ChangeError::Nothing);
        }
        if self.is_joint() {
            return Err(ChangeError::InProgress);
        }
        let mut named = BTreeSet::new();
        let mut next = self.clone();
        for change in changes {
            if !named.insert(change.id()) {
                return Err(ChangeError::Twice(change.id()));
            }
            next.step(change)?;
        }
        if !next.members.values().any(|m| m.standing.votes_in_new()) {
            return Err(ChangeError::NoVoters);
        }
        if next.members.len() > limits::MEMBERS_MAX {
            return Err(ChangeError::TooMany);
        }
        let votes_changed = next.members.values().filter(|m| m.standing.is_joint());
        Ok(match votes_changed.count() {
            0 | 1 => next.left_joint(),
            _ => next,
        })
    }

    /// One change, with what leaves or joins marked as in a joint configuration.
    fn step(&mut self, change: &Change) -> Result<(), ChangeError> {
        if let Change::AddLearner { id, peer, client } = change {
            return self.add(*id, peer, client);
        }
        let id = change.id();
        let Some(member) = self.members.get_mut(&id) else {
            return Err(ChangeError::NotMember(id));
        };
        let votes = member.standing == Standing::Voter;
        match change {
            Change::Promote(_) if votes => return Err(ChangeError::AlreadyVoter(id)),
            Change::Promote(_) => member.standing = Standing::Joining,
            Change::Demote(_) if votes => member.standing = Standing::Demoted,
            Change::Demote(_) => return Err(ChangeError::NotVoter(id)),
            Change::Remove(_) if votes => member.standing = Standing::Leaving,
            Change::Remove(_) => drop(self.members.remove(&id)),
            Change::AddLearner { .. } => unreachable!("handled above"),
        }
        Ok(())
    }

    fn add(&mut self, id: NodeId, peer: &str, client: &str) -> Result<(), ChangeError> {
        if self.contains(id) {
            return Err(ChangeError::AlreadyMember(id));
        }
        let taken = |m: &Member| {
            [&m.peer, &m.client]
                .iter()
                .any(|known| *known == peer || *known == client)
        };
        if let Some((other, _)) = self.members.iter().find(|(_, member)| taken(member)) {
            return Err(ChangeError::AddressInUse(*other));
        }
        assert!(
            peer.len() <= ADDRESS_BYTES_MAX && client.len() <= ADDRESS_BYTES_MAX,
            "addresses are checked where they come in"
        );
        let member = Member {
            standing: Standing::Learner,
            priority: 0,
            peer: peer.to_owned(),
            client: client.to_owned(),
        };
        self.members.insert(id, member);
        Ok(())
    }

    /// The configuration behind a joint one: the new voters alone.
    #[must_use]
    pub fn left_joint(&self) -> Configuration {
        let mut next = self.clone();
        next.members.retain(|_, m| m.standing != Standing::Leaving);
        for member in next.members.values_mut() {
            member.standing = match member.standing {
                Standing::Joining | Standing::Voter => Standing::Voter,
                Standing::Demoted | Standing::Learner => Standing::Learner,
                Standing::Leaving => unreachable!("just left"),
            };
        }
        next
    }

    /// The bytes of a configuration, in the log and in snapshots: version u8 = 1, count
    /// u16, and for each member id u64, standing u8, priority u8, and two addresses, each
    /// a length u8 and its bytes; all little-endian.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let of_one = |m: &Member| 8 + 2 + 2 + m.peer.len() + m.client.len();
        let bytes = 3 + self.members.values().map(of_one).sum::<usize>();
        let mut out = BytesMut::with_capacity(bytes);
        out.put_u8(VERSION);
        out.put_u16_le(u16::try_from(self.members.len()).expect("members are limited"));
        for (id, member) in &self.members {
            out.put_u64_le(id.0);
            out.put_u8(member.standing.code());
            out.put_u8(member.priority);
            for address in [&member.peer, &member.client] {
                out.put_u8(u8::try_from(address.len()).expect("addresses are limited"));
                out.put_slice(address.as_bytes());
            }
        }
        out.freeze()
    }

    /// Reads what [`Configuration::encode`] wrote.
    ///
    /// # Errors
    /// If it did not.
    pub fn decode(bytes: &[u8]) -> Result<Configuration, ConfigurationError> {
        Configuration::read(bytes)
            .filter(|c| (1..=limits::MEMBERS_MAX).contains(&c.len()))
            .filter(|c| c.members.values().any(|m| m.standing.votes_in_new()))
            .ok_or(ConfigurationError)
    }

    fn read(mut bytes: &[u8]) -> Option<Configuration> {
        if bytes.try_get_u8().ok()? != VERSION {
            return None;
        }
        let count = bytes.try_get_u16_le().ok()?;
        let mut members = BTreeMap::new();
        for _ in 0..count {
            let id = NodeId(bytes.try_get_u64_le().ok()?);
            let code = bytes.try_get_u8().ok()?;
            let standing = Standing::ALL.into_iter().find(|s| s.code() == code)?;
            let priority = bytes.try_get_u8().ok()?;
            let mut address = || {
                let len = usize::from(bytes.try_get_u8().ok()?);
                let (text, rest) = bytes.split_at_checked(len)?;
                bytes = rest;
                String::from_utf8(text.to_vec()).ok()
            };
            let (peer, client) = (address()?, address()?);
            let member = Member {
                standing,
                priority,
                peer,
                client,
            };
            if members.insert(id, member).is_some() {
                return None;
            }
        }
        bytes.is_empty().then_some(Configuration { members })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn voters(ids: std::ops::Range<u64>) -> Configuration {
        Configuration::of_voters(ids.map(|id| {
            let (peer, client) = (format!("p{id}"), format!("c{id}"));
            (NodeId(id), (id == 0).into(), peer, client)
        }))
    }

    fn learner(id: u64) -> Change {
        Change::AddLearner {
            id: NodeId(id),
            peer: format!("p{id}"),
            client: format!("c{id}"),
        }
    }

    fn any_change() -> impl Strategy<Value = Change> {
        (0u64..6, 0u8..4).prop_map(|(id, kind)| match kind {
            0 => learner(id),
            1 => Change::Promote(NodeId(id)),
            2 => Change::Demote(NodeId(id)),
            _ => Change::Remove(NodeId(id)),
        })
    }

    /// All majorities of these voters, by brute force.
    fn majorities(voters: &BTreeSet<u64>) -> Vec<BTreeSet<u64>> {
        let all: Vec<u64> = voters.iter().copied().collect();
        (0..1u32 << all.len())
            .map(|bits| {
                let chosen = all.iter().enumerate().filter(|(i, _)| bits >> i & 1 == 1);
                chosen.map(|(_, id)| *id).collect::<BTreeSet<u64>>()
            })
            .filter(|chosen| chosen.len() * 2 > all.len())
            .collect()
    }

    /// All sets of nodes that decide by themselves.
    fn quorums(configuration: &Configuration) -> Vec<BTreeSet<u64>> {
        let half = |votes: fn(Standing) -> bool| {
            let voters = configuration.members().filter(|(_, m)| votes(m.standing));
            majorities(&voters.map(|(id, _)| id.0).collect())
        };
        let new = half(Standing::votes_in_new);
        if !configuration.is_joint() {
            return new;
        }
        let old = half(Standing::votes_in_old);
        new.iter()
            .flat_map(|a| old.iter().map(move |b| a | b))
            .collect()
    }

    proptest! {
        /// The reason why a change is safe: whoever decides by the old configuration and
        /// whoever decides by the next one share a node.
        #[test]
        fn quorums_of_a_configuration_and_of_the_next_always_share_a_node(
            count in 1u64..5,
            steps in prop::collection::vec(prop::collection::vec(any_change(), 1..4), 1..6),
        ) {
            let mut now = voters(0..count);
            for changes in steps {
                let Ok(next) = now.changed(&changes) else { continue };
                for next in [next.clone(), next.left_joint()].windows(2) {
                    for (a, b) in [(&now, &next[0]), (&next[0], &next[1])] {
                        for x in quorums(a) {
                            for y in quorums(b) {
                                prop_assert!(!x.is_disjoint(&y), "{x:?} {y:?}");
                            }
                        }
                    }
                }
                now = next.left_joint();
            }
        }

        #[test]
        fn decoding_gives_back_what_was_encoded_and_refuses_every_cut(
            count in 1u64..5,
            changes in prop::collection::vec(any_change(), 1..4),
        ) {
            let first = voters(0..count);
            let configuration = first.changed(&changes).unwrap_or(first);
            let bytes = configuration.encode();
            prop_assert_eq!(Configuration::decode(&bytes), Ok(configuration));
            for len in 0..bytes.len() {
                prop_assert_eq!(Configuration::decode(&bytes[..len]), Err(ConfigurationError));
            }
            let longer = [&bytes[..], &[0]].concat();
            prop_assert_eq!(Configuration::decode(&longer), Err(ConfigurationError));
        }
    }

    #[test]
    fn one_vote_more_or_less_needs_no_joint_configuration_and_two_do() {
        let three = voters(0..3);
        assert!(
            !three
                .changed(&[Change::Remove(NodeId(2))])
                .unwrap()
                .is_joint()
        );
        let with_learner = three.changed(&[learner(3)]).unwrap();
        assert!(!with_learner.is_joint());
        let promoted = with_learner.changed(&[Change::Promote(NodeId(3))]).unwrap();
        assert_eq!(
            promoted.quorum(),
            Quorum::new((0..4).map(NodeId).collect(), vec![])
        );
        let replace = [Change::Promote(NodeId(3)), Change::Remove(NodeId(0))];
        let joint = with_learner.changed(&replace).unwrap();
        assert!(joint.is_joint());
        assert_eq!(
            joint.quorum(),
            Quorum::new((1..4).map(NodeId).collect(), (0..3).map(NodeId).collect())
        );
        let after = joint.left_joint();
        assert!(!after.is_joint() && !after.contains(NodeId(0)));
    }

    #[test]
    fn changes_that_make_no_sense_say_why() {
        let three = voters(0..3);
        let id = NodeId;
        for (changes, error) in [
            (vec![], ChangeError::Nothing),
            (vec![learner(1)], ChangeError::AlreadyMember(id(1))),
            (
                vec![Change::Promote(id(1))],
                ChangeError::AlreadyVoter(id(1)),
            ),
            (vec![Change::Promote(id(9))], ChangeError::NotMember(id(9))),
            (vec![Change::Remove(id(9))], ChangeError::NotMember(id(9))),
            (
                vec![Change::Remove(id(1)), Change::Demote(id(1))],
                ChangeError::Twice(id(1)),
            ),
            (
                (0..3).map(|n| Change::Remove(id(n))).collect(),
                ChangeError::NoVoters,
            ),
            (
                vec![Change::AddLearner {
                    id: id(9),
                    peer: "p1".to_owned(),
                    client: "c9".to_owned(),
                }],
                ChangeError::AddressInUse(id(1)),
            ),
        ] {
            assert_eq!(three.changed(&changes), Err(error), "{changes:?}");
        }
        let joint = [Change::Remove(id(0)), Change::Remove(id(1))];
        let joint = three.changed(&joint).unwrap();
        assert_eq!(joint.changed(&[learner(7)]), Err(ChangeError::InProgress));
    }
}
