//! How a change of the members comes about: the configurations in the log, and what a
//! leader does with them (paper §6, thesis chapter 4).

use std::collections::VecDeque;

use log::info;

use crate::limits;
use crate::raft::config::Config;
use crate::raft::configuration::{Change, ChangeError, Configuration, Step};
use crate::raft::core::{Raft, Role, Transition};
use crate::raft::entries::Entries;
use crate::raft::leader::Leader;
use crate::raft::log::Log;
use crate::raft::message::Body;
use crate::raft::progress::{Progress, State};
use crate::raft::quorum::Quorum;
use crate::time::Time;
use crate::types::{Entry, EntryId, Index, NodeId, Payload, Server};

/// The configurations that the log holds, and the one that it begins with.
#[derive(Clone, Debug)]
pub(super) struct Membership {
    /// Each with the index of its entry, in the order of the log. The first is committed;
    /// the last counts.
    pub(super) list: VecDeque<(Index, Configuration)>,
    /// Of the last.
    pub(super) quorum: Quorum,
    /// The highest priority of a voter, if not all have the same.
    pub(super) highest: Option<u8>,
    /// How often the configuration that counts has changed.
    pub(super) version: u64,
    /// A leader may have something to do once the last is committed.
    pub(super) unsettled: bool,
}

impl Membership {
    /// The configurations of a log from the disk.
    pub(super) fn restore(log: &Log, config: &Config) -> Membership {
        let begin = log.get(Index::ZERO.next()).map(|first| &first.payload);
        let is_founded = match begin {
            Some(Payload::Config(bytes)) => {
                Configuration::decode(bytes).is_ok_and(|c| c.level() > 0)
            }
            _ => false,
        };
        let first = if config.configuration.is_empty() && begin.is_some() && !is_founded {
            config.first_members.clone()
        } else {
            config.configuration.clone()
        };
        let quorum = first.quorum();
        let mut membership = Membership {
            highest: highest_priority(&first, &quorum),
            quorum,
            version: 0,
            unsettled: true,
            list: VecDeque::from([(log.base().index, first)]),
        };
        for entry in log.range(log.first_index(), log.last().index) {
            membership.appended(entry);
        }
        membership
    }

    /// The one that counts.
    pub(super) fn current(&self) -> &Configuration {
        &self.last().1
    }

    /// Where it stands in the log.
    pub(super) fn index(&self) -> Index {
        self.last().0
    }

    fn last(&self) -> &(Index, Configuration) {
        self.list.back().expect("there is always one")
    }

    /// Changes with each change of [`Membership::current`].
    pub(super) fn version(&self) -> u64 {
        self.version
    }

    /// Who decides.
    pub(super) fn quorum(&self) -> &Quorum {
        &self.quorum
    }

    /// The one that counted at `index`.
    pub(super) fn at(&self, index: Index) -> &Configuration {
        let before = self.list.iter().rev().find(|(at, _)| *at <= index);
        &before.or(self.list.front()).expect("there is always one").1
    }

    /// An entry was appended; returns whether that changes the configuration.
    #[inline]
    pub(super) fn appended(&mut self, entry: &Entry) -> bool {
        match &entry.payload {
            Payload::Config(bytes) => self.appended_configuration(entry.id.index, bytes),
            _ => false,
        }
    }

    #[cold]
    fn appended_configuration(&mut self, index: Index, bytes: &[u8]) -> bool {
        let configuration =
            Configuration::decode(bytes).expect("configurations are checked where they come in");
        self.list.push_back((index, configuration));
        self.changed();
        true
    }

    /// Entries from `from` on are gone; returns whether that changes the configuration.
    pub(super) fn truncated(&mut self, from: Index) -> bool {
        let before = self.list.len();
        while self.list.len() > 1 && self.index() >= from {
            self.list.pop_back();
        }
        let fewer = self.list.len() < before;
        if fewer {
            self.changed();
        }
        fewer
    }

    fn changed(&mut self) {
        self.quorum = self.current().quorum();
        self.highest = highest_priority(self.current(), &self.quorum);
        self.version += 1;
        self.unsettled = true;
    }

    /// The log was replaced by a snapshot up to `last` with this configuration.
    pub(super) fn reset(&mut self, last: Index, configuration: Configuration) {
        self.list = VecDeque::from([(last, configuration)]);
        self.changed();
    }

    /// Entries up to and with `upto` are compacted: of those before it the last
    /// configuration is kept.
    pub(super) fn compact(&mut self, upto: Index) {
        while self.list.get(1).is_some_and(|(at, _)| *at <= upto) {
            self.list.pop_front();
        }
    }

    /// The place of `id` among the voters, in the order in which they should lead.
    pub(super) fn rank_of(&self, server: Server) -> usize {
        let key = |server: Server| {
            let member = self.current().get(server);
            (u8::MAX - member.map_or(0, |m| m.priority), server)
        };
        let own = key(server);
        let voters = self.quorum.voters();
        if !voters.contains(&server) {
            return voters.len();
        }
        voters.iter().filter(|voter| key(**voter) < own).count()
    }

    /// Whether `id` is among the voters of the highest priority; `None` if all have the
    /// same.
    pub(super) fn is_preferred(&self, server: Server) -> Option<bool> {
        let highest = self.highest?;
        let own = self
            .current()
            .get(server)
            .map_or(0, |member| member.priority);
        Some(own == highest)
    }
}

/// The highest priority of a voter, if not all have the same.
fn highest_priority(configuration: &Configuration, quorum: &Quorum) -> Option<u8> {
    let priority = |server: &Server| {
        configuration
            .get(*server)
            .map_or(0, |member| member.priority)
    };
    let voters = quorum.voters();
    let highest = voters.iter().map(priority).max()?;
    let differ = voters.iter().any(|voter| priority(voter) != highest);
    differ.then_some(highest)
}

impl Raft {
    /// Begins a change of the members, if this node leads. It is done when
    /// [`Raft::configuration`] is not joint and its index is committed; the leader goes on
    /// by itself from a joint configuration to the one behind it. The returned name is
    /// that of the first entry.
    ///
    /// # Errors
    /// See [`ChangeError`]; nothing was appended then.
    pub fn propose_change(
        &mut self,
        now: Time,
        changes: &[Change],
    ) -> Result<EntryId, ChangeError> {
        if !self.is_leader() {
            return Err(ChangeError::NotLeader);
        }
        let ids: Vec<NodeId> = changes.iter().map(Change::id).collect();
        if let Some(at) = (1..ids.len()).find(|at| ids[..*at].contains(&ids[*at])) {
            return Err(ChangeError::Twice(ids[at]));
        }
        let configuration = self.membership.current();
        let steps: Result<Vec<Step>, ChangeError> = changes
            .iter()
            .map(|change| configuration.resolve(change, self.incarnation_of(change.id())))
            .collect();
        self.propose_steps(now, &steps?)
    }

    /// As [`Raft::propose_change`], of servers.
    pub(super) fn propose_steps(
        &mut self,
        now: Time,
        steps: &[Step],
    ) -> Result<EntryId, ChangeError> {
        let Role::Leader(leader) = &self.role else {
            return Err(ChangeError::NotLeader);
        };
        // Before the first commit of its own term a leader may not know of a change that
        // an earlier one has committed (Ongaro, raft-dev 2015-07-10).
        if leader.transfer.is_some() || self.commit_index < leader.term_start {
            return Err(ChangeError::Busy);
        }
        if self.membership.index() > self.commit_index {
            return Err(ChangeError::InProgress);
        }
        let next = self.membership.current().changed(steps)?;
        for step in steps {
            if let Step::Promote(server) = step {
                let behind = self.behind(leader, *server);
                if behind.is_none_or(|entries| entries > limits::CAUGHT_UP_ENTRIES) {
                    let (id, behind) = (server.id, behind.unwrap_or(self.log.last().index.0));
                    return Err(ChangeError::NotCaughtUp { id, behind });
                }
            }
        }
        // A change that cannot be committed cannot be taken back either, so those who decide
        // from the moment the entry is there must have answered in this term, lately: a new
        // leader has not heard yet who is gone.
        let (_, patience) = self.config.election_timeout;
        let own = self.own();
        let answers = |server: Server| {
            let progress = leader.followers.get(&server);
            server == own || progress.is_some_and(|p| p.answers(now, patience))
        };
        if !(next.quorum().is_met(answers) && self.membership.quorum().is_met(answers)) {
            return Err(ChangeError::NotReached);
        }
        info!(target: "Raft", "change members: steps={steps:?} joint={}", next.is_joint());
        Ok(self.append_configuration(now, &next))
    }

    /// The number of entries that a follower lacks; `None` while it does not replicate.
    pub(super) fn behind(&self, leader: &Leader, server: Server) -> Option<u64> {
        let progress = leader.followers.get(&server)?;
        let replicates = progress.counts && progress.state == State::Replicate;
        replicates.then(|| {
            self.log
                .last()
                .index
                .0
                .saturating_sub(progress.match_index.0)
        })
    }

    /// Whether a change of the members has begun and is not done.
    #[must_use]
    pub fn change_is_pending(&self) -> bool {
        self.membership.index() > self.commit_index || self.membership.current().is_joint()
    }

    pub(super) fn append_configuration(&mut self, now: Time, next: &Configuration) -> EntryId {
        let id = self.append_own(Payload::Config(next.encode()));
        self.configuration_changed(now);
        id
    }

    /// The latest configuration in the log is another one than before.
    pub(super) fn configuration_changed(&mut self, now: Time) {
        let next = self.log.last().index.next();
        let own = self.own();
        if let Role::Leader(leader) = &mut self.role {
            for (id, _) in self.membership.current().members() {
                if id != own {
                    // Who is not known yet is asked where it stands.
                    let new = || Progress::new(now, next);
                    leader.followers.entry(id).or_insert_with(new);
                }
            }
            leader.list_followers();
            // Those who granted it may not be a majority any more.
            for progress in leader.followers.values_mut() {
                progress.lease = Time::ZERO;
            }
        } else if !self.may_campaign() {
            self.election_deadline = Time::NEVER;
            if !matches!(self.role, Role::Follower) {
                let follow = Transition::Follower(self.hard_state.term, self.leader);
                self.transition(now, follow);
            }
        } else if self.election_deadline == Time::NEVER {
            self.reset_election_timer(now);
        }
    }

    /// The leader's next step when a configuration is committed: from a joint one to the
    /// one behind it, and away from who is a member no more, itself perhaps among them
    /// (thesis §4.2.2).
    pub(super) fn advance_change(&mut self, now: Time) {
        let Role::Leader(leader) = &mut self.role else {
            return;
        };
        let committed = self.commit_index >= self.membership.index();
        if !committed || self.commit_index < leader.term_start {
            return;
        }
        let configuration = self.membership.current();
        if configuration.is_joint() {
            let next = configuration.left_joint();
            info!(target: "Raft", "leave the joint configuration");
            self.append_configuration(now, &next);
            return;
        }
        let own = configuration.counted(self.config.server);
        if leader.followers.len() > configuration.len() - usize::from(configuration.contains(own)) {
            self.let_go_of_removed();
        }
        self.membership.unsettled = false;
        if !self.membership.quorum().contains(own) {
            info!(target: "Raft", "no voter any more, step down: term={}", self.hard_state.term);
            if let Some(to) = self.successor(now) {
                self.send_timeout_now(to);
            }
            return self.transition(now, Transition::Follower(self.hard_state.term, None));
        }
        self.admit(now);
    }

    /// Serves those no more that are no members any more. Each is told, once, that this is
    /// committed: whoever has the entry and does not know that goes on campaigning. If
    /// this gets lost, voters that hear a leader do not listen to it (thesis §4.2.3).
    fn let_go_of_removed(&mut self) {
        let (commit, index) = (self.commit_index, self.membership.index());
        let Role::Leader(leader) = &mut self.role else {
            return;
        };
        let configuration = self.membership.current();
        let mut removed = Vec::new();
        leader.followers.retain(|id, progress| {
            let stays = configuration.contains(*id);
            if !stays && progress.next_index > index {
                removed.push(*id);
            }
            stays
        });
        leader.list_followers();
        let Some(term) = self.log.term_at(index) else {
            return;
        };
        for id in removed {
            let prev = EntryId { term, index };
            let entries = Entries::default();
            self.send(
                id,
                Body::Append {
                    prev,
                    entries,
                    commit,
                },
            );
        }
    }
}
