//! Changes of the members that the leader makes by itself.
//!
//! - *Pending* first members become voters as they come up: learners first, several at
//!   once, and one joint change for those that have caught up.
//! - A node that returns with a new data directory takes the place of its former self: it
//!   catches up as a learner, and (id, old) is exchanged for (id, new) by a joint change.
//!   The leader does so by itself only for a directory that was never a voter, and while
//!   the old one is silent. Everything else could be an operator's mistake, and is named.
//! - A cluster of feature level 0 goes to level 1 once all its members, learners too, have
//!   said on their present connections that they support it.
//!
//! Each is an entry of the log that a quorum decides like any other, so that it holds
//! whatever is lost, late or repeated on the way.

use std::collections::BTreeMap;

use log::{info, warn};

use crate::limits;
use crate::raft::configuration::{Member, Standing, Step};
use crate::raft::core::{Raft, Role};
use crate::raft::leader::Leader;
use crate::time::Time;
use crate::types::{Incarnation, NodeId, Server};

/// Facts that a peer states when it introduces itself on a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Introduction {
    /// Its data directory.
    pub incarnation: Incarnation,
    /// The highest feature level that it supports.
    pub level: u16,
    /// Below feature level 1: whether it takes part in elections.
    pub established: bool,
    /// Whether its directory has ever been a voter.
    pub was_voter: bool,
}

impl Raft {
    /// A peer has introduced itself on a connection that this node made.
    pub fn introduce(&mut self, now: Time, peer: NodeId, introduction: Introduction) {
        let before = self.introductions.insert(peer, introduction);
        let is_other = before.is_some_and(|b| b.incarnation != introduction.incarnation);
        if is_other && self.membership.current().level() == 0 {
            // Nothing that the directory before it confirmed counts any more.
            let next = self.log.last().index.next();
            if let Some(progress) = self.progress_mut(Server::any(peer)) {
                *progress = super::Progress::new(now, next);
            }
        }
        self.admit(now);
    }

    /// The connection to a peer has ended, and with it what the peer said on it.
    pub fn forget_introduction(&mut self, peer: NodeId) {
        self.introductions.remove(&peer);
    }

    /// The incarnation of a peer that is connected.
    pub(super) fn incarnation_of(&self, peer: NodeId) -> Option<Incarnation> {
        self.introductions.get(&peer).map(|i| i.incarnation)
    }

    /// Any message of a member shows that its directory is in use.
    pub(super) fn note_alive(&mut self, now: Time, from: Server) {
        if let Some(progress) = self.progress_mut(from) {
            progress.alive = now;
        }
    }

    /// Takes the next step, if this node leads and no other change is under way.
    pub(super) fn admit(&mut self, now: Time) {
        let Role::Leader(leader) = &self.role else {
            return;
        };
        let is_ready = leader.transfer.is_none() && self.commit_index >= leader.term_start;
        if !is_ready || self.change_is_pending() {
            return;
        }
        if self.membership.current().level() == 0 {
            return self.upgrade(now);
        }
        let mut steps = self.additions(leader, now);
        if steps.is_empty() {
            steps = self.promotions(leader, now);
        }
        // What is refused now, for want of a majority that answers, is tried again with the
        // next heartbeat.
        if !steps.is_empty()
            && let Err(error) = self.propose_steps(now, &steps)
        {
            log::debug!(target: "Raft", "admission waits: steps={steps:?} reason={error}");
        }
    }

    /// New members: pending ones, and directories that take the place of another.
    fn additions(&self, leader: &Leader, now: Time) -> Vec<Step> {
        let configuration = self.membership.current();
        let (_, patience) = self.config.election_timeout;
        let mut steps = Vec::new();
        for (id, introduction) in &self.introductions {
            let incarnation = introduction.incarnation;
            let server = Server {
                id: *id,
                incarnation,
            };
            if configuration.contains(server) || *id == self.config.server.id {
                continue;
            }
            let pending = configuration.pending().find(|(pending, _)| pending == id);
            if let Some((_, member)) = pending {
                if !introduction.was_voter {
                    steps.push(Step::Add(server, member.clone()));
                }
                continue;
            }
            let is_silent = |old: &Server| {
                let progress = leader.followers.get(old);
                progress.is_none_or(|p| p.alive + patience * 2 < now)
            };
            let mut of_id: Vec<(Server, &Member)> = configuration.members_of(*id).collect();
            // A directory that voted once and is named no more may have missed what its
            // successor has promised: the operator has to look.
            if introduction.was_voter || !of_id.iter().all(|(old, _)| is_silent(old)) {
                continue;
            }
            of_id.retain(|(old, member)| {
                let votes = member.standing == Standing::Voter;
                if !votes {
                    steps.push(Step::Remove(*old));
                    steps.push(Step::Add(server, (*member).clone()));
                }
                votes
            });
            let is_added = steps
                .iter()
                .any(|s| matches!(s, Step::Add(new, _) if *new == server));
            if let (Some((old, member)), false) = (of_id.first(), is_added) {
                warn!(target: "Raft", "a new data directory takes the place of the old one: old={old} new={server}");
                let standing = Standing::Entering;
                let member = Member {
                    standing,
                    ..(*member).clone()
                };
                steps.push(Step::Add(server, member));
            }
        }
        steps
    }

    /// Votes for those that have caught up. Those that are about to are waited for, so that
    /// one joint change serves all.
    fn promotions(&self, leader: &Leader, now: Time) -> Vec<Step> {
        let configuration = self.membership.current();
        let (patience, _) = self.config.election_timeout;
        let mut steps = Vec::new();
        for (server, member) in configuration.members() {
            if member.standing != Standing::Entering {
                continue;
            }
            let behind = self.behind(leader, server);
            if behind.is_some_and(|entries| entries <= limits::CAUGHT_UP_ENTRIES) {
                let of_id = configuration.members_of(server.id).map(|(old, _)| old);
                let old = of_id.filter(|old| *old != server);
                steps.push(Step::Promote(server));
                steps.extend(old.map(Step::Remove));
            } else if leader
                .followers
                .get(&server)
                .is_some_and(|p| p.began + patience > now && p.answers(now, patience))
            {
                return Vec::new();
            }
        }
        steps
    }

    /// Goes to feature level 1 if all members are connected and support it: the entry names
    /// their incarnations and a fresh birth. A voter that is not established votes for
    /// nobody by the rules of level 0, so it is named without an incarnation; its directory
    /// then takes that place like any new one.
    ///
    /// The entry is committed by the new counting, by which each voter is one directory that
    /// also counts by the old: a quorum of the new is one of the old.
    fn upgrade(&mut self, now: Time) {
        let configuration = self.membership.current();
        let own = self.config.server;
        let said = |id: NodeId| match id == own.id {
            true => Some((own.incarnation, true)),
            false => {
                let introduction = self.introductions.get(&id)?;
                let supports = introduction.level >= 1;
                supports.then_some((introduction.incarnation, introduction.established))
            }
        };
        if configuration.is_empty() || configuration.members().any(|(s, _)| said(s.id).is_none()) {
            return;
        }
        let named = |id: NodeId| {
            let (incarnation, established) = said(id).expect("all have said so");
            let member = configuration.get(Server::any(id)).expect("a member");
            match established || member.standing == Standing::Learner {
                true => incarnation,
                false => Incarnation::NONE,
            }
        };
        let incarnations: BTreeMap<NodeId, Incarnation> = configuration
            .members()
            .map(|(s, _)| (s.id, named(s.id)))
            .collect();
        let birth = self.draw_birth();
        let next = self
            .membership
            .current()
            .upgraded(birth, |id| incarnations[&id]);
        info!(target: "Raft", "all members support feature level 1: birth={birth}");
        self.append_configuration(now, &next);
    }
}
