//! What must hold after each step, seen from outside all nodes at once.
//!
//! References are to the Raft paper and, where it says so, to Ongaro's thesis or to
//! `docs/ARCHITECTURE.md`. Looked at after each step of a node:
//!
//! 1. *Election Safety*: at most one leader a term (§5.2, Figure 3).
//! 2. *Leader Append-Only*: a leader never drops an entry (§5.3).
//! 3. *Log Matching*: entries with the same index and term, in whatever log, are the same
//!    and have the same entry before them (§5.3).
//! 4. *Leader Completeness*: a leader has all that was committed in earlier terms (§5.4).
//! 5. *State Machine Safety*: all nodes commit the same entry at an index (§5.4.3).
//! 6. What is committed first is committed by a leader, up to an entry of its own term,
//!    which a majority has on disk, in a joint configuration one of each half (§5.3, §5.4.2,
//!    §6; the leader counts by its disk: thesis §10.2.1).
//! 7. Term, commit index and applied index never go back in a life, and a committed entry is
//!    never dropped (Figure 2).
//! 8. Applied is committed, committed is in the log, and so is what is on disk (Figure 2).
//! 9. A log begins behind a committed entry, and so a snapshot ends with one (§7).
//! 10. Below feature level 1, only an established directory leads.
//! 11. What a leader has sent and not heard of, and what it holds that is not committed, is
//!     bounded ("Bounds"); so is what waits for a disk, unless a leader's hangs.
//! 12. At the same applied index the state is the same (§5.3), every 16 entries and in the end.
//! 13. Who belongs to the cluster is, up to the same commit index, the same for all: what the
//!     log says, also where a snapshot stands in its place (§6, §7).
//!
//! When a node sends something (`promises.rs`):
//!
//! 14. One vote a server and term, over restarts too; below feature level 1 only by an
//!     established directory (§5.2).
//! 15. Nobody speaks of a term, votes, or confirms entries or a snapshot that a power failure at
//!     this very moment could undo: tried on a copy of the disk (Figure 2, "persistent state"; "The
//!     durability rule").
//! 16. A confirmation covers no more than what is on the node's disk (§5.3).
//! 17. Nobody is told of a commit that has not happened, or of a snapshot that does not end
//!     with a committed entry (§5.3, §7).
//!
//! When a node comes back:
//!
//! 18. Its term and its vote are those it has spoken of (§5.1, §5.2).
//! 19. It has every entry that its disk had confirmed, and none that nobody ever made (§5.3).
//!
//! When a client is answered:
//!
//! 20. A read reflects all that was committed anywhere when it was asked (thesis §6.4).
//! 21. A write that is acknowledged is in the committed log (§8).
//!
//! In the end all stores are the same byte for byte, and what clients saw is linearizable.

use std::collections::{BTreeMap, BTreeSet};

use crate::disk::SimDisk;
use crate::limits;
use crate::mutation::mutated;
use crate::node::Node;
use crate::raft::{Configuration, ProgressState, Raft, check_log};
use crate::sim::mirror::{Change, Mirror, payload_checksum};
use crate::sim::promises::Asked;
use crate::types::{Entry, EntryId, Index, NodeId, Payload, Server, Term};

/// States are compared at each multiple of this.
const COMPARE_EVERY: u64 = 16;

/// What is known of a node.
#[derive(Clone, Debug, Default)]
pub(super) struct Watched {
    pub(super) log: Mirror,
    /// Up to where its log was on its disk.
    pub(super) durable: Index,
    term: Term,
    commit: Index,
    applied: Index,
    /// The version of its members that was looked at.
    members: Option<u64>,
    /// Where the configuration stands that it went by after its last step.
    configuration: Index,
    /// The term that it leads.
    leads: Option<Term>,
    /// Its votes, its own for itself included, as far as it has spoken of them.
    pub(super) votes: BTreeMap<Term, Server>,
    /// The latest term that it has spoken of.
    pub(super) spoken: Term,
}

/// An entry that some log has had.
#[derive(Clone, Copy, Debug)]
struct Known {
    term: Term,
    checksum: u32,
    /// The term of the entry before it.
    before: Term,
}

/// What is known of the cluster's past.
#[derive(Debug, Default)]
pub(super) struct Checker {
    pub(super) nodes: Vec<Watched>,
    /// Servers as they were when their directories were lost: a leader may still count what
    /// these had confirmed.
    ghosts: Vec<(Server, Watched)>,
    /// The server that each node is.
    pub(super) servers: Vec<Server>,
    leaders: BTreeMap<Term, Server>,
    /// Every entry that was ever in a log, by index, from 1 on.
    known: Vec<Vec<Known>>,
    /// The committed log, from index 1 on: each entry and the checksum of its payload.
    pub(super) committed: Vec<(EntryId, u32)>,
    /// In which term it was committed up to where, both ascending.
    commits: Vec<(Term, Index)>,
    /// The checksums of what was committed.
    pub(super) commands: BTreeSet<u32>,
    /// The checksum of the state machine at each applied index that was looked at.
    states: BTreeMap<Index, u32>,
    members_changed: bool,
    /// The members by the committed log: where they changed, and their checksum. The first
    /// are those that the cluster began with.
    members: Vec<(Index, u32)>,
    /// What each client asked last.
    pub(super) asked: BTreeMap<usize, Asked>,
}

impl Checker {
    pub(super) fn new(nodes: u64) -> Checker {
        Checker {
            nodes: (0..nodes).map(|_| Watched::default()).collect(),
            servers: (0..nodes).map(|id| Server::any(NodeId(id))).collect(),
            ..Checker::default()
        }
    }

    /// A node has done something. Returns whether it leads since then.
    pub(super) fn after_step(&mut self, node: &Node<SimDisk>) -> bool {
        let raft = node.raft();
        self.follow_log(raft);
        let leads = self.check_leader(raft);
        self.check_committed(raft);
        self.check_members(raft);
        self.check_positions(node);
        self.check_bounds(raft);
        self.nodes[raft.id().0 as usize].configuration = raft.configuration_index();
        leads
    }

    /// Takes in what is new in a log, and holds it against all other logs.
    fn follow_log(&mut self, raft: &Raft) {
        let (id, log) = (raft.id(), raft.log());
        let watched = &mut self.nodes[id.0 as usize];
        if let Some(Change { from, dropped }) = watched.log.follow(log) {
            if dropped {
                assert!(
                    from > watched.commit,
                    "{id} drops entries from {from} on, and {} is committed",
                    watched.commit
                );
                let leads = raft.is_leader() && watched.leads == Some(raft.term());
                assert!(!leads, "{id} leads and drops entries from {from} on");
            }
            for entry in log.range(from, log.last().index) {
                self.add_entry(id, entry);
            }
        }
        self.nodes[id.0 as usize].durable = log.stable();
    }

    fn add_entry(&mut self, id: NodeId, entry: &Entry) {
        let EntryId { term, index } = entry.id;
        self.members_changed |= matches!(entry.payload, Payload::Config(_));
        let checksum = payload_checksum(&entry.payload);
        let log = &mut self.nodes[id.0 as usize].log;
        let before = log.term_at(index.prev()).expect("there is no gap");
        log.push(term, checksum, entry.size_bytes());
        let at = index.0 as usize - 1;
        if at >= self.known.len() {
            self.known.resize_with(at + 1, Vec::new);
        }
        // A founder whose first entry was lost before it was on its disk has told nobody of
        // it, and founds again.
        if index == Index(1) && self.committed.is_empty() {
            self.known[at].retain(|known| known.term != term || known.checksum == checksum);
        }
        let known = self.known[at].iter().find(|known| known.term == term);
        if let Some(known) = known {
            assert!(
                (known.checksum, known.before) == (checksum, before),
                "{id} has another entry {}, or another one before it: {checksum:08x} behind \
                 term {before}, {known:?}",
                entry.id
            );
        } else {
            self.known[at].push(Known {
                term,
                checksum,
                before,
            });
        }
    }

    /// Returns whether the node leads since this step.
    fn check_leader(&mut self, raft: &Raft) -> bool {
        let (id, term) = (raft.id(), raft.term());
        let leads = raft.is_leader().then_some(term);
        let before = std::mem::replace(&mut self.nodes[id.0 as usize].leads, leads);
        if leads.is_none() || leads == before {
            return false;
        }
        let leader = *self.leaders.entry(term).or_insert(raft.server());
        assert_eq!(leader, raft.server(), "two leaders in term {term}");
        let may_lead = raft.configuration().level() > 0 || raft.may_vote();
        assert!(may_lead, "{id} leads and may not even vote");
        let earlier = self.commits.partition_point(|(in_term, _)| *in_term < term);
        if let Some((_, upto)) = self.commits[..earlier].last() {
            let (last, _) = self.committed[upto.0 as usize - 1];
            assert!(
                self.nodes[id.0 as usize].log.has(last),
                "leader {id} of term {term} lacks the committed entry {last}"
            );
        }
        true
    }

    /// Holds what a node has committed since it was last looked at against what others have.
    fn check_committed(&mut self, raft: &Raft) {
        let (id, commit) = (raft.id(), raft.commit_index());
        let watched = &self.nodes[id.0 as usize];
        if commit == watched.commit {
            return;
        }
        assert!(
            commit > watched.commit,
            "the commit index of {id} went back"
        );
        let known = Index(self.committed.len() as u64);
        let mut index = watched.commit;
        while index < commit {
            index = index.next();
            let seen = watched.log.get(index);
            let own = seen.map(|seen| {
                (
                    EntryId {
                        term: seen.term,
                        index,
                    },
                    seen.checksum,
                )
            });
            match (self.committed.get(index.0 as usize - 1), own) {
                (Some(known), Some(own)) => {
                    assert_eq!(*known, own, "{id} committed another entry");
                }
                (None, Some(own)) => {
                    self.committed.push(own);
                    self.commands.insert(own.1);
                    let entry = raft.log().get(index);
                    if entry.is_some_and(|entry| matches!(entry.payload, Payload::Config(_))) {
                        self.members.push((index, own.1));
                    }
                }
                (Some(_), None) => {} // It came with a snapshot.
                (None, None) => panic!("entry {index} was compacted before anyone committed it"),
            }
        }
        self.nodes[id.0 as usize].commit = commit;
        if commit > known {
            self.check_new_commit(raft);
        }
    }

    /// A node is the first to commit: the last of it is its own, and on a majority's disks.
    fn check_new_commit(&mut self, raft: &Raft) {
        let (id, term) = (raft.id(), raft.term());
        let (last, _) = *self.committed.last().expect("there is a new one");
        // A server that is no voter any more leads until that is committed, and in that step no
        // more.
        // The next change may have begun in the same step.
        let before = self.nodes[id.0 as usize].configuration;
        let before = raft.configuration_at(before.max(raft.log().base().index));
        let configuration = raft.configuration();
        let quorum = configuration.quorum();
        assert!(
            raft.is_leader() || !quorum.contains(configuration.counted(raft.server())),
            "{id} commits {last} first and does not lead"
        );
        assert_eq!(last.term, term, "{id} commits an entry of an earlier term");
        let on_disk = |watched: &Watched| watched.durable >= last.index && watched.log.has(last);
        let ghosts = self.ghosts.iter().map(|(server, ghost)| (server, ghost));
        let holders = self.servers.iter().zip(&self.nodes).chain(ghosts);
        let holders = holders.filter(|(_, watched)| on_disk(watched));
        let holders: Vec<Server> = holders.map(|(server, _)| *server).collect();
        // Each configuration counts servers in its own way, by its level.
        let is_held = |by: &Configuration| {
            let counted: Vec<Server> = holders.iter().map(|held| by.counted(*held)).collect();
            by.quorum().is_met(|voter| counted.contains(&voter))
        };
        assert!(
            is_held(configuration) || is_held(before),
            "{id} commits {last}, which is on the disks of {holders:?} alone: {quorum:?}"
        );
        for (at, other) in self.nodes.iter().enumerate() {
            assert!(
                other.leads.is_none_or(|leads| leads <= term) || other.log.has(last),
                "n{at} leads a later term without {last}, which {id} commits in {term}"
            );
        }
        self.commits.push((term, last.index));
    }

    /// Holds the members as a node has them against the committed log, when they are new.
    fn check_members(&mut self, raft: &Raft) {
        let watched = &mut self.nodes[raft.id().0 as usize];
        let version = Some(raft.configuration_version());
        if std::mem::replace(&mut watched.members, version) == version {
            return;
        }
        let commit = raft.commit_index();
        let configuration = raft.configuration_at(commit);
        if configuration.is_empty() {
            return; // A new directory, which knows of no cluster yet.
        }
        let bytes = configuration.encode();
        let own = crc32fast::hash(&bytes) | 1;
        if self.members.is_empty() {
            self.members.push((Index::ZERO, own));
        }
        let known = self.members.iter().rfind(|(at, _)| *at <= commit);
        let (at, known) = *known.expect("the first are from the beginning");
        assert_eq!(
            own,
            known,
            "{} has other members than those of entry {at}",
            raft.id()
        );
    }

    fn check_positions(&mut self, node: &Node<SimDisk>) {
        let (raft, applied) = (node.raft(), node.applied());
        let (id, log) = (raft.id(), raft.log());
        let watched = &mut self.nodes[id.0 as usize];
        assert!(raft.term() >= watched.term, "the term of {id} went back");
        watched.term = raft.term();
        assert!(
            applied <= raft.commit_index() && raft.commit_index() <= log.last().index,
            "{id} has applied {applied}, committed {}, and its log ends at {}",
            raft.commit_index(),
            log.last()
        );
        assert!(
            log.base().index <= applied && log.stable() <= log.last().index,
            "{id} has applied {applied}, and its log begins behind {}",
            log.base()
        );
        if applied != watched.applied {
            assert!(
                applied > watched.applied,
                "the applied index of {id} went back"
            );
            watched.applied = applied;
            let position = node.machine().applied();
            self.assert_committed(position, "applied");
            self.assert_committed(log.base(), "compacted");
            // That bug is for the nodes themselves to find.
            if applied.0.is_multiple_of(COMPARE_EVERY) && !mutated!(AppliedDifferently) {
                self.check_state(node);
            }
        }
    }

    pub(super) fn assert_committed(&self, id: EntryId, what: &str) {
        let Some(at) = (id.index.0 as usize).checked_sub(1) else {
            return;
        };
        let committed = self.committed.get(at).map(|(committed, _)| *committed);
        assert_eq!(committed, Some(id), "{what} and not committed");
    }

    fn check_bounds(&self, raft: &Raft) {
        let (log, last) = (
            &self.nodes[raft.id().0 as usize].log,
            raft.log().last().index,
        );
        let base = log.base().index;
        // Mostly the whole log is shorter than what may be on its way.
        if log.bytes_between(base, last) <= limits::INFLIGHT_BYTES_MAX as u64 {
            return;
        }
        let Some(followers) = raft.followers() else {
            return;
        };
        let uncommitted = log.bytes_between(raft.commit_index(), last);
        assert!(
            uncommitted <= (limits::UNCOMMITTED_BYTES_MAX + limits::COMMAND_BYTES_MAX) as u64,
            "{uncommitted} bytes are not committed"
        );
        for (id, progress) in followers {
            let from = progress.match_index.max(base);
            let sent = log.bytes_between(from, progress.next_index.prev().max(from));
            assert!(
                progress.state != ProgressState::Replicate
                    || sent
                        <= (limits::INFLIGHT_BYTES_MAX + limits::APPEND_BYTES_MAX) as u64
                            + limits::COMMAND_BYTES_MAX as u64,
                "{sent} bytes are on their way to {id}"
            );
        }
    }

    /// Forgets what only one life of a node has, and looks at the log that it came back with.
    pub(super) fn begin_life(&mut self, node: &Node<SimDisk>) {
        let (raft, id) = (node.raft(), node.raft().id());
        check_log(raft.log());
        for entry in raft
            .log()
            .range(raft.log().first_index(), raft.log().last().index)
        {
            let known = self.known.get(entry.id.index.0 as usize - 1);
            let made = known.is_some_and(|at| at.iter().any(|k| k.term == entry.id.term));
            assert!(made, "{id} comes back with {}, which nobody made", entry.id);
        }
        let watched = &mut self.nodes[id.0 as usize];
        self.servers[id.0 as usize] = raft.server();
        watched.log = Mirror::default();
        watched.term = raft.term();
        watched.commit = Index::ZERO;
        watched.applied = Index::ZERO;
        watched.members = None;
        watched.leads = None;
        self.after_step(node);
    }

    /// A node has lost its directory, and with it all that it promised.
    pub(super) fn forget(&mut self, id: NodeId) {
        let watched = std::mem::take(&mut self.nodes[id.0 as usize]);
        self.ghosts.push((self.servers[id.0 as usize], watched));
    }

    /// The state of a node is that of all others at the same applied index.
    pub(super) fn check_state(&mut self, node: &Node<SimDisk>) {
        let (id, applied) = (node.raft().id(), node.applied());
        let checksum = node.machine().checksum();
        let known = *self.states.entry(applied).or_insert(checksum);
        assert!(
            known == checksum,
            "all nodes have the same state at {applied}: the first there had {known:08x}, {id} has \
             {checksum:08x}"
        );
    }

    /// Looks at a whole log, entry by entry.
    pub(super) fn check_whole(&self, node: &Node<SimDisk>) {
        let log = node.raft().log();
        check_log(log);
        for entry in log.range(log.first_index(), node.raft().commit_index()) {
            let own = (entry.id, payload_checksum(&entry.payload));
            let committed = self.committed[entry.id.index.0 as usize - 1];
            assert_eq!(committed, own, "{} has another entry", node.raft().id());
        }
    }

    /// Whether any log has ever had a change of the members.
    pub(super) fn members_changed(&self) -> bool {
        self.members_changed
    }

    /// Up to where entries were committed.
    pub(super) fn committed(&self) -> Index {
        Index(self.committed.len() as u64)
    }

    /// How many terms had a leader.
    pub(super) fn leaders(&self) -> u64 {
        self.leaders.len() as u64
    }
}
