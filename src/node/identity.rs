//! Introductions, the founding of a cluster, and what a node keeps of both.
//!
//! The first message on a connection between nodes is a [`Hello`]; nothing counts before
//! its reply. Both state [`Facts`] about the node and its directory: its incarnation, the
//! cluster it belongs to, and whether it is new. They hold for as long as the connection
//! does: when a node's birth changes, its connections end, and all are introduced anew.
//!
//! *Founding.* A directory that is new belongs to no cluster. One of the first members
//! founds it ([`Raft::found`](crate::raft::Raft::found)) when the rule that it was started
//! with says so ([`Founding`]); all others adopt the cluster whose leader sends them its
//! first entry. Nobody founds while a connected peer already belongs to a cluster, and
//! nobody adopts while its peers name two.
//!
//! *The file `meta`* names the birth, and whether the directory was ever a voter. It
//! follows the log: it is written when the entry that says so is committed and on disk.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bytes::Bytes;
use log::{error, info, warn};

use crate::config::Founding;
use crate::disk::{AddressOverride, Disk, FileId, Meta};
use crate::node::core::Node;
use crate::node::members::Addresses;
use crate::node::requests::Caller;
use crate::raft::quorum::majority;
use crate::raft::{Introduction, Member};
use crate::time::Time;
use crate::types::{Birth, Incarnation, Index, NodeId, Server, Term};

/// The version of the messages between nodes. Nodes of different versions refuse each
/// other.
pub const PROTOCOL_VERSION: u32 = 1;
/// In a cluster that a majority founds, nodes other than the lowest first member wait so
/// long for it.
const FOUNDING_GRACE: Duration = Duration::from_secs(1);

/// Facts about a node and its data directory, stated in each introduction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Facts {
    /// The directory's incarnation.
    pub incarnation: Incarnation,
    /// The cluster that it belongs to; [`Birth::NONE`] if none, or below feature level 1.
    pub birth: Birth,
    /// The directory is empty, belongs to no cluster, and does not take the place of a
    /// damaged one.
    pub is_new: bool,
    /// A configuration has named the directory a voter.
    pub was_voter: bool,
    /// Below feature level 1: it takes part in elections.
    pub established: bool,
    /// The highest feature level that the node supports.
    pub level: u16,
    /// The addresses at which the node is reached, empty from nodes of the version before.
    pub addresses: Addresses,
}

/// The introduction of a node: the first message on a connection that it made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hello {
    /// A hash of the first members that the node was told. Compared only where neither side
    /// has a birth.
    pub cluster_id: u64,
    /// The node.
    pub from: NodeId,
    /// The node that it wants to talk to.
    pub to: NodeId,
    /// See [`PROTOCOL_VERSION`].
    pub version: u32,
    /// The node and its directory.
    pub facts: Facts,
}

/// The answer to a [`Hello`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HelloReply {
    /// The node that introduced itself.
    pub to: NodeId,
    /// The reason why the connection is refused, if it is.
    pub refused: Option<String>,
    /// For nodes of the version before: the caller has to catch up before it votes.
    pub lost_directory: bool,
    /// The answering node's term.
    pub term: Term,
    /// The answering node and its directory.
    pub facts: Facts,
}

/// See the module's docs.
#[derive(Debug)]
pub(super) struct Identity {
    /// What is on disk.
    meta: Meta,
    /// What is being written.
    writing: Option<Meta>,
    /// The version of the configuration, and whether it was on disk, that `meta` was last
    /// held against.
    kept: Option<(u64, bool)>,
    /// Peers by their replies on the connections that this node made.
    peers: BTreeMap<NodeId, Facts>,
    /// The cluster that each peer last named.
    births: BTreeMap<NodeId, Birth>,
    /// Peers that refuse this node, or that it refuses, and why.
    refusals: BTreeMap<NodeId, String>,
    /// Nodes whose addresses in the log were held against the cluster file in this run.
    overridden: BTreeSet<NodeId>,
    /// Since when the conditions of the founding have been met.
    ready_since: Option<Time>,
    /// What was last said about the wait.
    told: String,
}

impl Identity {
    pub(super) fn new(meta: Meta) -> Identity {
        Identity {
            meta,
            writing: None,
            kept: None,
            peers: BTreeMap::new(),
            births: BTreeMap::new(),
            refusals: BTreeMap::new(),
            overridden: BTreeSet::new(),
            ready_since: None,
            told: String::new(),
        }
    }

    pub(super) fn meta(&self) -> &Meta {
        &self.meta
    }

    /// Whether clients may write: the cluster's name is on the disk of the node that takes
    /// the first entry of theirs. Below feature level 1 there is none.
    pub(super) fn is_founded(&self) -> bool {
        self.meta.birth != Birth::NONE || self.meta.version == 1
    }

    /// The clusters that peers name, if there are two.
    fn two_births(&self) -> Option<String> {
        let births: BTreeSet<Birth> = self.births.values().copied().collect();
        (births.len() > 1).then(|| {
            let named = self
                .births
                .iter()
                .map(|(id, birth)| format!("{birth} by {id}"));
            let named: Vec<String> = named.collect();
            format!(
                "peers belong to different clusters, adopt neither: {}",
                named.join(", ")
            )
        })
    }

    pub(super) fn next_deadline(&self) -> Time {
        self.ready_since
            .map_or(Time::NEVER, |since| since + FOUNDING_GRACE)
    }
}

impl<D: Disk> Node<D> {
    /// How this node introduces itself to `to`.
    #[must_use]
    pub fn hello(&self, to: NodeId) -> Hello {
        Hello {
            cluster_id: self.config.cluster_id,
            from: self.config.id,
            to,
            version: PROTOCOL_VERSION,
            facts: self.facts(),
        }
    }

    fn facts(&self) -> Facts {
        let meta = &self.identity.meta;
        Facts {
            incarnation: Incarnation(meta.incarnation),
            birth: meta.birth,
            is_new: self.is_new(),
            was_voter: meta.was_voter,
            established: self.raft.configuration().level() == 0 && self.raft.may_vote(),
            level: self.config.level,
            addresses: self.config.addresses.clone(),
        }
    }

    /// The cluster that this node belongs to, as its disk has it.
    #[must_use]
    pub fn birth(&self) -> Birth {
        self.identity.meta.birth
    }

    /// Whether nothing has happened in this directory, nor in one before it that was damaged.
    #[must_use]
    pub fn is_new(&self) -> bool {
        let meta = &self.identity.meta;
        meta.birth == Birth::NONE && meta.replaces.is_none() && self.raft.is_new()
    }

    /// The reason why a peer is refused, if it is.
    fn refusal(&self, facts: &Facts, cluster_id: Option<u64>) -> Option<String> {
        let births = (self.identity.meta.birth, facts.birth);
        let level = self.raft.configuration().level();
        if births.0 != births.1 && births.0 != Birth::NONE && births.1 != Birth::NONE {
            Some(format!(
                "its directory belongs to cluster {}, this one to cluster {}: they share nothing; check the addresses, \
                 or start the node that is wrong with an empty data directory",
                births.1, births.0
            ))
        } else if facts.level < level {
            Some(format!(
                "it supports feature level {}, and the cluster is at {level}: start a newer program",
                facts.level
            ))
        } else if births == (Birth::NONE, Birth::NONE)
            && cluster_id.is_some_and(|id| id != self.config.cluster_id)
        {
            let id = cluster_id.unwrap_or_default();
            Some(format!(
                "cluster {id:016x} is not {:016x}: the cluster files differ",
                self.config.cluster_id
            ))
        } else {
            None
        }
    }

    /// A peer introduces itself on a connection that it made.
    pub(super) fn on_hello(&mut self, caller: Caller, hello: &Hello) {
        let Hello {
            from,
            to,
            version,
            ref facts,
            cluster_id,
        } = *hello;
        let refused = if to != self.config.id {
            Some(format!("this is {}, not {to}", self.config.id))
        } else if from == to {
            Some(format!("{from} is this node itself"))
        } else if version != PROTOCOL_VERSION {
            Some(format!(
                "protocol version {version} is not {PROTOCOL_VERSION}"
            ))
        } else {
            self.refusal(facts, Some(cluster_id))
        };
        let reply = HelloReply {
            to: from,
            // Below feature level 1 nobody else keeps a list of who was met before, so a
            // node of the version before always catches up before it votes.
            lost_directory: !facts.established && facts.level == 0,
            term: self.raft.term(),
            facts: self.facts(),
            refused,
        };
        match &reply.refused {
            Some(reason) if from != to && to == self.config.id => {
                self.identity
                    .refusals
                    .insert(from, format!("refuses {from}: {reason}"));
            }
            Some(_) => {}
            None => {
                self.note_birth(from, facts.birth);
                self.note_addresses(from, facts);
            }
        }
        self.out.hellos.push((caller, reply));
    }

    /// A peer answers on a connection that this node made.
    pub(super) fn on_hello_reply(&mut self, now: Time, from: NodeId, reply: HelloReply) {
        let facts = reply.facts;
        if let Some(reason) = reply.refused.or_else(|| self.refusal(&facts, None)) {
            warn!(target: "Raft", "refused by peer: peer={from} reason={reason}");
            self.identity
                .refusals
                .insert(from, format!("refused by {from}: {reason}"));
            return;
        }
        self.identity.refusals.remove(&from);
        self.note_birth(from, facts.birth);
        let introduction = Introduction {
            incarnation: facts.incarnation,
            level: facts.level,
            established: facts.established,
            was_voter: facts.was_voter,
        };
        let members = self.raft.configuration();
        let server = Server {
            id: from,
            incarnation: facts.incarnation,
        };
        if members.level() > 0
            && members.contains_id(from)
            && !members.contains(server)
            && facts.was_voter
        {
            warn!(target: "Raft", "directory was a voter and is a member no more: server={server}; start the node with --rejoin");
        }
        self.identity.peers.insert(from, facts);
        self.raft.introduce(now, from, introduction);
        self.found_if_due(now);
    }

    /// The connection that this node made to a peer has ended.
    pub(super) fn forget_peer(&mut self, peer: NodeId) {
        self.identity.peers.remove(&peer);
        self.raft.forget_introduction(peer);
    }

    fn note_birth(&mut self, peer: NodeId, birth: Birth) {
        if birth == Birth::NONE {
            self.identity.births.remove(&peer);
        } else {
            self.identity.births.insert(peer, birth);
        }
    }

    /// Whether a message may be taken in: not while it could bind a new directory to one of
    /// two clusters.
    pub(super) fn may_hear(&self) -> bool {
        !self.raft.configuration().is_empty()
            || self.identity.births.len() < 2
            || self.identity.two_births().is_none()
    }

    /// Founds the cluster of the first members in this new directory: by the operator's word.
    ///
    /// # Panics
    /// If this node is not one of them, or its directory is not new.
    pub fn found(&mut self, now: Time) {
        assert!(self.is_new(), "a cluster is founded in a new directory");
        let first_members = self.config.first_members.clone();
        self.raft.found(now, &first_members);
    }

    /// Founds the cluster if the rule of [`Founding`] says so.
    pub(super) fn found_if_due(&mut self, now: Time) {
        if self.config.founding == Founding::Never || !self.is_new() {
            self.identity.ready_since = None;
            return;
        }
        let first: Vec<NodeId> = self
            .config
            .first_members
            .members()
            .map(|(s, _)| s.id)
            .collect();
        let own = self.config.id;
        let peers = &self.identity.peers;
        let is_new = |id: &NodeId| *id == own || peers.get(id).is_some_and(|facts| facts.is_new);
        let new = first.iter().filter(|id| is_new(id)).count();
        let enough = match self.config.founding {
            Founding::AllFirstMembers => first.len(),
            Founding::Majority => majority(first.len()),
            Founding::Never => unreachable!("looked at above"),
        };
        let is_lowest = first.iter().find(|id| is_new(id)) == Some(&own);
        let is_ready = is_lowest && new >= enough && peers.values().all(|facts| facts.is_new);
        if !is_ready || first.len() == 1 {
            self.identity.ready_since = None;
            return;
        }
        let since = *self.identity.ready_since.get_or_insert(now);
        if first.first() == Some(&own) || now >= since + FOUNDING_GRACE {
            self.identity.ready_since = None;
            self.found(now);
        }
    }

    /// What the operator has to know about this node's place in a cluster; empty if all is
    /// well.
    #[must_use]
    pub fn notice(&self) -> String {
        let waits = self.raft.configuration().is_empty();
        let refusals: Vec<&str> = self
            .identity
            .refusals
            .values()
            .map(String::as_str)
            .collect();
        let refusals = refusals.join("; ");
        let configuration = self.raft.configuration();
        if !waits && configuration.is_founding() {
            let voters = self.raft.quorum().voters().len();
            let pending = configuration.pending().map(|(id, _)| id.0.to_string());
            let pending: Vec<String> = pending.collect();
            let text = format!(
                "the cluster is being founded: {voters} of {} first members vote, waiting for {}",
                self.config.first_members.len(),
                pending.join(", ")
            );
            return match refusals.is_empty() {
                true => text,
                false => format!("{text}; {refusals}"),
            };
        }
        if !waits {
            return refusals;
        }
        if let Some(conflict) = self.identity.two_births() {
            return conflict;
        }
        let first = &self.config.first_members;
        if !first.contains_id(self.config.id) {
            return "waiting to be added: raft_client members add".to_owned();
        }
        let ids = |have: bool| -> String {
            let known = |id: NodeId| {
                id == self.config.id
                    || self
                        .identity
                        .peers
                        .get(&id)
                        .is_some_and(|facts| facts.is_new)
            };
            let ids = first
                .members()
                .map(|(s, _)| s.id)
                .filter(|id| known(*id) == have);
            let ids: Vec<String> = ids.map(|id| id.0.to_string()).collect();
            if ids.is_empty() {
                "none".to_owned()
            } else {
                ids.join(", ")
            }
        };
        let mut text = if self.identity.births.is_empty() {
            format!(
                "waiting to be founded: have {}; missing {} (start them all with new directories, or found the cluster \
                 with fewer: raft_example N --cluster FILE --found)",
                ids(true),
                ids(false)
            )
        } else {
            "waiting for the leader of the cluster to send its log".to_owned()
        };
        if self.identity.meta.replaces.is_some() {
            text +=
                "; this directory takes the place of a damaged one (--rejoin) and founds nothing";
        }
        match refusals.is_empty() {
            true => text,
            false => format!("{text}; {refusals}"),
        }
    }

    /// Writes into the log what the operator has to know, when that has changed.
    pub(super) fn tell_notice(&mut self) {
        let configuration = self.raft.configuration();
        if configuration.is_empty()
            || configuration.is_founding()
            || !self.identity.refusals.is_empty()
            || !self.identity.told.is_empty()
        {
            let notice = self.notice();
            if notice != self.identity.told {
                if !notice.is_empty() {
                    info!(target: "Raft", "{notice}");
                }
                self.identity.told = notice;
            }
        }
    }

    /// Brings `meta` up to what the committed log on this disk says.
    pub(super) fn keep_identity(&mut self) {
        if self.identity.writing.is_some() || !self.ledger.wal.is_open() {
            return;
        }
        let (raft, meta) = (&self.raft, &self.identity.meta);
        let durable = raft.commit_index().min(raft.log().stable());
        let is_durable = durable >= raft.configuration_index() && durable > Index::ZERO;
        let state = (raft.configuration_version(), is_durable);
        if self.identity.kept == Some(state) {
            return;
        }
        self.identity.kept = Some(state);
        let configuration = raft.configuration_at(durable.max(raft.log().base().index));
        let mut next = meta.clone();
        let configuration = configuration.clone();
        let may_vote = raft.may_vote();
        if self.config.addresses_from_file {
            self.override_addresses(&mut next.overrides);
        }
        if self.config.read_lease {
            let length = self.config.election_timeout.0.as_millis();
            next.promised_ms = next
                .promised_ms
                .max(u64::try_from(length).unwrap_or(u64::MAX));
        }
        if configuration.level() > 0 {
            if next.birth != Birth::NONE && next.birth != configuration.birth() {
                error!(target: "Raft", "the log is of another cluster than `meta` says: log={} meta={}", configuration.birth(), next.birth);
            }
            next.birth = configuration.birth();
            next.was_voter |= may_vote;
            next.overrides.retain(|o| {
                let of_id = configuration.members_of(o.id);
                let mut known = of_id.map(|(_, m)| (m.peer.as_str(), m.client.as_str()));
                known.any(|(peer, client)| (peer, client) == (&o.replaced.0, &o.replaced.1))
            });
        }
        if next != self.identity.meta {
            self.write_meta(next);
        }
    }

    /// Takes the addresses of the cluster file in the place of those in the log, for each
    /// node once, when the log first names it: see
    /// [`NodeConfig::addresses_from_file`](super::NodeConfig::addresses_from_file).
    fn override_addresses(&mut self, overrides: &mut Vec<AddressOverride>) {
        let first = &self.config.first_members;
        let pair = |m: &Member| (m.peer.clone(), m.client.clone());
        for (server, member) in self.raft.configuration().members() {
            let id = server.id;
            if !self.identity.overridden.insert(id) {
                continue;
            }
            let file = first.members_of(id).next().map(|(_, m)| pair(m));
            let replaced = pair(member);
            overrides.retain(|over| over.id != id);
            if let Some(addresses) = file.filter(|file| *file != replaced) {
                overrides.push(AddressOverride {
                    id,
                    addresses,
                    replaced,
                });
            }
        }
    }

    fn write_meta(&mut self, mut next: Meta) {
        // A directory of the version before stays one until its cluster is at level 1.
        if next.birth != Birth::NONE {
            next.version = 2;
        }
        let text = Bytes::from(next.encode());
        self.identity.writing = Some(next);
        self.disk.create_file(FileId::MetaDraft);
        self.disk.append_file(FileId::MetaDraft, text);
        self.disk.finish_file(FileId::MetaDraft, FileId::Meta);
    }

    /// `meta` is on disk.
    pub(super) fn meta_finished(&mut self) {
        let Some(meta) = self.identity.writing.take() else {
            return;
        };
        let before = std::mem::replace(&mut self.identity.meta, meta);
        self.identity.kept = None;
        if before.promised_ms < self.identity.meta.promised_ms {
            self.raft.allow_promises();
        }
        if before.overrides != self.identity.meta.overrides {
            self.operators.told_again();
        }
        if before.birth != self.identity.meta.birth {
            info!(target: "Raft", "belong to cluster: birth={}", self.identity.meta.birth);
            // Introductions named another: all are introduced anew.
            self.out.reintroduce = true;
            for peer in std::mem::take(&mut self.identity.peers).into_keys() {
                self.raft.forget_introduction(peer);
            }
        }
    }
}

/// Whether a node of the version before took part in elections, by its file `peers`; `None`
/// if the file is damaged or of a newer version.
#[must_use]
pub fn was_established(file: &[u8]) -> Option<bool> {
    let (body, crc) = file.split_at_checked(file.len().checked_sub(4)?)?;
    let is_intact = crc32fast::hash(body).to_le_bytes() == crc;
    match body {
        [1, established, ..] if is_intact => Some(*established != 0),
        _ => None,
    }
}
