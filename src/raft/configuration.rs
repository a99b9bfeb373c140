//! Members of the cluster, and how they change (thesis chapter 4; joint consensus: paper §6).
//!
//! A configuration is an entry of the log. A node goes by the latest one in its log,
//! committed or not: that is what makes two majorities that could decide different
//! things share a server. Where one member more or less votes, the new configuration
//! follows the old one directly; where more changes, a *joint* one stands in between, in
//! which both the old voters and the new ones must agree, each with a majority of their
//! own.
//!
//! Members are *servers*: a node and the incarnation of its data directory. A node that
//! lost its directory is another server, which holds neither the votes nor the entries of
//! the one before it, and becomes a member by a change like any other.
//!
//! The first entry of the log is the founder's: a configuration of itself alone, with the
//! *birth* that names the cluster and the other first members *pending*. They become
//! members by ordinary changes (`admission.rs`).
//!
//! Clusters of the version before have no founding entry. Their configurations are of
//! *feature level* 0: members are counted by node id, and what lies before the log are the
//! first members that each node was told at its start. `upgrade.rs` takes them to level 1.

mod change;
mod codec;

use std::collections::BTreeMap;

use crate::limits;
use crate::mutation::mutated;
use crate::raft::quorum::{Quorum, majority};
use crate::types::{Birth, Incarnation, NodeId, Server};

pub use self::change::{Change, ChangeError, Step};
pub use self::codec::ConfigurationError;

/// The highest feature level that this program knows. Below level 1 identity is not in
/// the log; see the module's docs.
pub const LEVEL_MAX: u16 = 1;

/// The part that a member has in decisions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Gets the log and does not vote.
    Learner,
    /// Votes.
    Voter,
    /// Votes among the new voters of a joint configuration, not among the old.
    Joining,
    /// Votes among the old ones and is gone afterwards.
    Leaving,
    /// Votes among the old ones and is a learner afterwards.
    Demoted,
    /// Does not vote yet; the leader makes it a voter once it has caught up.
    Entering,
}

impl Standing {
    const ALL: [Standing; 6] = [
        Standing::Learner,
        Standing::Voter,
        Standing::Joining,
        Standing::Leaving,
        Standing::Demoted,
        Standing::Entering,
    ];

    fn code(self) -> u8 {
        match self {
            Standing::Learner => 0,
            Standing::Voter => 1,
            Standing::Joining => 2,
            Standing::Leaving => 3,
            Standing::Demoted => 4,
            Standing::Entering => 5,
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
            Standing::Entering => "entering",
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
        matches!(
            self,
            Standing::Joining | Standing::Leaving | Standing::Demoted
        )
    }
}

/// One member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Its part in decisions.
    pub standing: Standing,
    /// Voters with the highest priority campaign before the others when there is no
    /// leader. A sitting leader keeps leading.
    pub priority: u8,
    /// Address for the other nodes, `ip:port`. Raft does not look at it.
    pub peer: String,
    /// Address for clients, `ip:port`.
    pub client: String,
}

/// The members of the cluster. See the module's docs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Configuration {
    level: u16,
    birth: Birth,
    /// The number of first members, until a majority of them votes; then 0.
    founding: u16,
    members: BTreeMap<Server, Member>,
    /// First members that have not been members yet.
    pending: BTreeMap<NodeId, Member>,
}

/// The longest address, in bytes.
const ADDRESS_BYTES_MAX: usize = u8::MAX as usize;

impl Configuration {
    /// A cluster of voters of feature level 0: id, priority, peer and client address.
    ///
    /// # Panics
    /// If it has no members, or too many.
    pub fn of_voters(
        members: impl IntoIterator<Item = (NodeId, u8, String, String)>,
    ) -> Configuration {
        let members: BTreeMap<Server, Member> = members
            .into_iter()
            .map(|(id, priority, peer, client)| {
                let standing = Standing::Voter;
                let member = Member {
                    standing,
                    priority,
                    peer,
                    client,
                };
                (Server::any(id), member)
            })
            .collect();
        assert!(
            (1..=limits::MEMBERS_MAX).contains(&members.len()),
            "a cluster has members, up to a limit"
        );
        Configuration {
            members,
            ..Configuration::default()
        }
    }

    /// The configuration with which `founder`, one of these first members, founds their
    /// cluster: it votes, the others are pending.
    ///
    /// # Panics
    /// If the founder is not among the first members.
    #[must_use]
    pub fn founding(&self, birth: Birth, founder: Server) -> Configuration {
        let mut pending: BTreeMap<NodeId, Member> =
            self.members().map(|(s, m)| (s.id, m.clone())).collect();
        let own = pending.remove(&founder.id);
        let own = own.expect("the founder is one of the first members");
        for member in pending.values_mut() {
            member.standing = Standing::Entering;
        }
        Configuration {
            level: LEVEL_MAX,
            birth,
            founding: u16::try_from(self.len()).expect("members are limited"),
            members: BTreeMap::from([(founder, own)]),
            pending,
        }
        .settled()
    }

    /// The same members at feature level 1, with this birth, each with the incarnation
    /// that `incarnation` names.
    #[must_use]
    pub fn upgraded(
        &self,
        birth: Birth,
        incarnation: impl Fn(NodeId) -> Incarnation,
    ) -> Configuration {
        let members = self.members.iter().map(|(server, member)| {
            let (id, incarnation) = (server.id, incarnation(server.id));
            (Server { id, incarnation }, member.clone())
        });
        Configuration {
            level: 1,
            birth,
            members: members.collect(),
            ..Configuration::default()
        }
    }

    /// The feature level; see [`LEVEL_MAX`].
    #[must_use]
    pub fn level(&self) -> u16 {
        self.level
    }

    /// The cluster's name; [`Birth::NONE`] below feature level 1.
    #[must_use]
    pub fn birth(&self) -> Birth {
        self.birth
    }

    /// Whether fewer than a majority of the first members vote yet. Clients' writes wait
    /// for them.
    #[must_use]
    pub fn is_founding(&self) -> bool {
        self.founding > 0
    }

    /// First members that have not been members yet.
    pub fn pending(&self) -> impl Iterator<Item = (NodeId, &Member)> {
        self.pending.iter().map(|(id, member)| (*id, member))
    }

    /// All members, in the order of their ids.
    pub fn members(&self) -> impl Iterator<Item = (Server, &Member)> {
        self.members
            .iter()
            .map(|(server, member)| (*server, member))
    }

    /// The members under one node id: two while one directory takes the place of another.
    pub fn members_of(&self, id: NodeId) -> impl Iterator<Item = (Server, &Member)> {
        let first = Server::any(id);
        let last = Server {
            id,
            incarnation: Incarnation(u64::MAX),
        };
        let range = self.members.range(first..=last);
        range.map(|(server, member)| (*server, member))
    }

    /// The number of members.
    #[must_use]
    pub fn len(&self) -> usize {
        self.members.len()
    }

    /// Whether there is no member: so it is before a node is founded or adopted.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    /// A member.
    #[must_use]
    pub fn get(&self, server: Server) -> Option<&Member> {
        self.members.get(&server)
    }

    /// Whether this server is a member, voting or not.
    #[must_use]
    pub fn contains(&self, server: Server) -> bool {
        self.members.contains_key(&server)
    }

    /// Whether a member has this node id.
    #[must_use]
    pub fn contains_id(&self, id: NodeId) -> bool {
        self.members_of(id).next().is_some()
    }

    /// The server as this configuration counts it: below feature level 1 by its node id
    /// alone.
    #[must_use]
    pub fn counted(&self, server: Server) -> Server {
        match self.level {
            0 => Server::any(server.id),
            _ => server,
        }
    }

    /// Whether old and new voters must agree, each by themselves.
    #[must_use]
    pub fn is_joint(&self) -> bool {
        self.members.values().any(|m| m.standing.is_joint())
    }

    /// The voters that decide.
    #[must_use]
    pub fn quorum(&self) -> Quorum {
        let voters = |votes: fn(Standing) -> bool| {
            let voters = self.members.iter().filter(|(_, m)| votes(m.standing));
            voters.map(|(server, _)| *server).collect()
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
    pub fn changed(&self, steps: &[Step]) -> Result<Configuration, ChangeError> {
        if steps.is_empty() {
            return Err(ChangeError::Nothing);
        }
        if self.is_joint() {
            return Err(ChangeError::InProgress);
        }
        let mut next = self.clone();
        for (at, step) in steps.iter().enumerate() {
            // Votes that change are counted by the last step of a server.
            if steps[..at].iter().any(|s| s.server() == step.server()) {
                return Err(ChangeError::Twice(step.server().id));
            }
            next.take(step)?;
        }
        if !next.members.values().any(|m| m.standing.votes_in_new()) {
            return Err(ChangeError::NoVoters);
        }
        if next.members.len() > limits::MEMBERS_MAX {
            return Err(ChangeError::TooMany);
        }
        if let Some(id) = next.two_votes() {
            return Err(ChangeError::AlreadyVoter(id));
        }
        let votes_changed = next.members.values().filter(|m| m.standing.is_joint());
        Ok(match votes_changed.count() {
            0 | 1 => next.left_joint(),
            _ => next,
        })
    }

    /// A node id that has two votes among the new voters.
    fn two_votes(&self) -> Option<NodeId> {
        let voters = self
            .members
            .iter()
            .filter(|(_, m)| m.standing.votes_in_new());
        let ids: Vec<NodeId> = voters.map(|(server, _)| server.id).collect();
        ids.windows(2)
            .find(|pair| pair[0] == pair[1])
            .map(|pair| pair[0])
    }

    /// One step, with what leaves or joins marked as in a joint configuration.
    fn take(&mut self, step: &Step) -> Result<(), ChangeError> {
        let server = match step {
            Step::Add(server, member) => return self.add(*server, member),
            Step::Forget(id) => {
                let pending = self.pending.remove(id);
                return pending.map(drop).ok_or(ChangeError::NotMember(*id));
            }
            Step::Promote(server) | Step::Demote(server) | Step::Remove(server) => *server,
            Step::Move { server, .. } => *server,
        };
        let id = server.id;
        if let Step::Move { peer, client, .. } = step {
            self.check_addresses(id, peer, client)?;
        }
        let Some(member) = self.members.get_mut(&server) else {
            return Err(ChangeError::NotMember(id));
        };
        let votes = member.standing == Standing::Voter;
        match step {
            Step::Promote(_) if votes => return Err(ChangeError::AlreadyVoter(id)),
            Step::Promote(_) => member.standing = Standing::Joining,
            Step::Demote(_) if votes => member.standing = Standing::Demoted,
            Step::Demote(_) if member.standing == Standing::Entering => {
                member.standing = Standing::Learner;
            }
            Step::Demote(_) => return Err(ChangeError::NotVoter(id)),
            Step::Remove(_) if votes => member.standing = Standing::Leaving,
            Step::Remove(_) => drop(self.members.remove(&server)),
            Step::Move { peer, client, .. } => {
                member.peer.clone_from(peer);
                member.client.clone_from(client);
            }
            Step::Add(..) | Step::Forget(_) => unreachable!("handled above"),
        }
        Ok(())
    }

    fn add(&mut self, server: Server, member: &Member) -> Result<(), ChangeError> {
        if self.contains(server) {
            return Err(ChangeError::AlreadyMember(server.id));
        }
        self.check_addresses(server.id, &member.peer, &member.client)?;
        self.pending.remove(&server.id);
        self.members.insert(server, member.clone());
        Ok(())
    }

    /// No other node has one of these addresses.
    fn check_addresses(&self, id: NodeId, peer: &str, client: &str) -> Result<(), ChangeError> {
        assert!(
            peer.len() <= ADDRESS_BYTES_MAX && client.len() <= ADDRESS_BYTES_MAX,
            "addresses are checked where they come in"
        );
        let taken = |m: &Member| {
            [&m.peer, &m.client]
                .iter()
                .any(|known| *known == peer || *known == client)
        };
        let members = self.members.iter().map(|(server, m)| (server.id, m));
        let mut all = members.chain(self.pending.iter().map(|(id, m)| (*id, m)));
        match all.find(|(other, member)| *other != id && taken(member)) {
            Some((other, _)) => Err(ChangeError::AddressInUse(other)),
            None => Ok(()),
        }
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
                Standing::Entering => Standing::Entering,
                Standing::Leaving => unreachable!("just left"),
            };
        }
        next.settled()
    }

    /// Ends the founding once a majority of the first members votes, without those that an
    /// operator has removed or demoted meanwhile. It stays ended, whoever is removed later.
    fn settled(mut self) -> Configuration {
        let count = |standing| {
            self.members
                .values()
                .filter(|m| m.standing == standing)
                .count()
        };
        let voters = count(Standing::Voter);
        let left = voters + count(Standing::Entering) + self.pending.len();
        if voters >= majority(left.min(usize::from(self.founding))) {
            self.founding = 0;
        }
        self
    }
}

#[cfg(test)]
mod tests;
