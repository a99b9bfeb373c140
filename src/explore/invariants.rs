//! What must hold in every state, seen from outside all nodes at once.
//!
//! 1. *Election Safety*: at most one leader a term (Raft paper §5.2, Figure 3), with the votes
//!    of a majority that are its own: given to it, not to another directory of its node.
//! 2. *Log Matching*: two logs that share an entry share all before it (§5.3).
//! 3. *Leader Completeness*: a leader has all that was committed in earlier terms (§5.4).
//! 4. *State Machine Safety*: what is committed stays what it is, for all nodes (§5.4.3); it is
//!    a leader that commits first.
//! 5. What a leader commits is on the disks of a majority, in a joint configuration of one of
//!    each half (§5.3, §6). Who votes is counted here anew, by directory.
//! 6. A disk that has what is committed keeps it (§5.3), unless its directory is lost.
//! 7. A read reflects all that was committed when it was asked (thesis §6.4).
//! 8. One vote a server and term: a vote on a disk does not change, and none is given that is
//!    not there (§5.2; held by `node.rs`).
//! 9. Of clusters with different births one at most takes clients' writes.
//!
//! All but the last are of one cluster each: logs that begin with different births share
//! nothing.
//!
//! Beside these, the core holds its own after each step ([`crate::raft`], `invariants.rs`), and
//! a panic is a finding. Only what a step may have changed is looked at.

use std::any::Any;

use std::collections::BTreeMap;

use crate::explore::node::{Disk, Event, Node, cluster_of, is_vote_for};
use crate::raft::{Configuration, Digest, Log, ReadId, ReadOutcome, Standing};
use crate::types::{Birth, Entry, EntryId, HardState, Index, Payload, Server, Term};

/// What is known of the past.
#[derive(Clone, Debug, Default)]
pub(super) struct History {
    clusters: BTreeMap<Birth, Past>,
    /// What was committed when a read was asked that is not answered.
    asked: Vec<(ReadId, Index)>,
    /// Directories that are gone: what they confirmed still counts.
    lost: Vec<Gone>,
}

/// What is known of one cluster.
#[derive(Clone, Debug, Default)]
struct Past {
    /// The committed log, each entry with the term in which it was committed.
    committed: Vec<(Entry, Term)>,
    leaders: Vec<(Term, Server)>,
}

/// What a directory held when it was lost.
#[derive(Clone, Debug)]
struct Gone {
    server: Server,
    hard_state: HardState,
    entries: Vec<EntryId>,
}

impl History {
    pub(super) fn digest(&self, into: &mut Digest) {
        let History {
            clusters,
            asked,
            lost,
        } = self;
        into.put((clusters.len(), asked));
        for (birth, Past { committed, leaders }) in clusters {
            into.put((birth, committed.len()));
            for (entry, term) in committed {
                into.entry(entry);
                into.put(term);
            }
            into.unordered(leaders, |digest, (term, leader)| {
                digest.put(term);
                digest.server(*leader);
            });
        }
        into.unordered(lost, |digest, gone| {
            let Gone {
                server,
                hard_state,
                entries,
            } = gone;
            digest.server(*server);
            digest.put((hard_state.term, entries));
            digest.maybe_server(hard_state.voted_for);
        });
    }

    fn of(&self, cluster: Birth) -> Past {
        self.clusters.get(&cluster).cloned().unwrap_or_default()
    }

    /// The directory of a server was lost.
    fn lose(&mut self, server: Server, disk: &Disk) {
        self.lost.push(Gone {
            server,
            hard_state: disk.hard_state,
            entries: disk.entries.iter().map(|entry| entry.id).collect(),
        });
    }
}

/// A step, as the invariants look at it.
pub(super) struct Seen<'a> {
    /// All nodes, after it.
    pub(super) nodes: &'a [&'a Node],
    /// Whose step it was.
    pub(super) place: usize,
    /// That node before it.
    pub(super) before: &'a Node,
    pub(super) event: &'a Event,
    pub(super) reads: &'a [ReadOutcome],
}

/// Whether a node's step may have touched what is held here.
pub(super) fn is_notable(before: &Node, after: &Node) -> bool {
    let (old, new) = (&before.raft, &after.raft);
    new.commit_index() > old.commit_index()
        || new.is_leader() && !old.is_leader()
        || new.log().last() != old.log().last()
        || !is_kept(before, after)
}

/// Whether all that was on the disk is still there.
fn is_kept(before: &Node, after: &Node) -> bool {
    let entries = &before.disk.entries;
    entries
        .last()
        .is_none_or(|last| after.disk.contains(last.id))
}

/// Holds the cluster to its promises after a step; returns what is known from now on.
///
/// # Errors
/// What does not hold.
pub(super) fn check(seen: &Seen, history: &History) -> Result<History, String> {
    let mut next = history.clone();
    let (before, after) = (seen.before, seen.nodes[seen.place]);
    let (raft, id) = (&after.raft, before.id());
    if *seen.event == (Event::Restart { lost: true }) {
        next.lose(before.server(), &before.disk);
        return Ok(next);
    }
    let Some(cluster) = cluster_of(raft) else {
        return Ok(next);
    };
    let mut past = history.of(cluster);
    if let Event::Read(read) = seen.event {
        let committed = Index(past.committed.len() as u64);
        next.asked.push((*read, committed));
    }
    if raft.is_leader() {
        let (term, own) = (raft.term(), raft.server());
        match past.leaders.iter().find(|(of, _)| *of == term) {
            Some((_, leader)) if *leader != own => {
                return Err(format!("two leaders in term {term}: {leader} and {own}"));
            }
            Some(_) => {}
            None => {
                past.leaders.push((term, own));
                check_election(seen, history)?;
            }
        }
    }
    check_kept(seen, &past)?;
    check_commit(seen, history, &mut past)?;
    check_writes(cluster, &past, history)?;
    for other in of_cluster(seen, cluster) {
        check_leader(other, &past)?;
        check_log_matching(raft.log(), other.raft.log())
            .map_err(|at| format!("{id} and {} share {at} and not all before it", other.id()))?;
    }
    next.clusters.insert(cluster, past);
    check_reads(seen, &mut next)?;
    Ok(next)
}

/// The nodes of one cluster.
fn of_cluster<'a>(seen: &'a Seen, cluster: Birth) -> impl Iterator<Item = &'a Node> {
    let nodes = seen.nodes.iter().copied();
    nodes.filter(move |node| cluster_of(&node.raft) == Some(cluster))
}

/// A read that is answered reflects what was committed when it was asked.
fn check_reads(seen: &Seen, next: &mut History) -> Result<(), String> {
    let id = seen.before.id();
    for outcome in seen.reads {
        let (ReadOutcome::Ready(read, _) | ReadOutcome::Lost(read)) = outcome;
        let at = next.asked.iter().position(|(asked, _)| asked == read);
        let Some((_, then)) = at.map(|at| next.asked.remove(at)) else {
            return Err(format!("{id} answers read r{} twice", read.0));
        };
        if let ReadOutcome::Ready(_, index) = outcome
            && *index < then
        {
            return Err(format!(
                "{id} answers a read from {index} on, and {then} was committed when it was asked"
            ));
        }
    }
    Ok(())
}

/// The configuration by which a node decides in a step; its first one if it founds.
fn deciding<'a>(seen: &'a Seen) -> &'a Configuration {
    match seen.before.raft.configuration() {
        before if before.is_empty() => seen.nodes[seen.place].raft.configuration(),
        before => before,
    }
}

/// A new leader has the votes of a majority. A disk that is in a later term says nothing of
/// the vote that it had, and a founder asks nobody.
fn check_election(seen: &Seen, history: &History) -> Result<(), String> {
    let leader = &seen.nodes[seen.place].raft;
    let (own, term) = (leader.server(), leader.term());
    if *seen.event == Event::Found {
        return Ok(());
    }
    let votes =
        |state: HardState| state.term > term || state.term == term && is_vote_for(state, own);
    let has_voted = |server: Server| {
        let mut gone = history.lost.iter().filter(|gone| is(gone.server, server));
        let mut nodes = seen.nodes.iter().filter(|node| is(node.server(), server));
        nodes.any(|node| votes(node.disk.hard_state)) || gone.any(|gone| votes(gone.hard_state))
    };
    for half in halves(deciding(seen)) {
        let have = half.iter().filter(|server| has_voted(**server)).count();
        if have * 2 <= half.len() {
            let voters = half.len();
            return Err(format!(
                "{own} leads term {term} with the votes of {have} of {voters} voters"
            ));
        }
    }
    Ok(())
}

/// Whether a directory is the one that a configuration names; below feature level 1 any of
/// the node is.
fn is(server: Server, named: Server) -> bool {
    server == named || Server::any(server.id) == named
}

/// What the node has committed is what anybody has, or new and on the disks of a majority.
fn check_commit(seen: &Seen, history: &History, past: &mut Past) -> Result<(), String> {
    let (raft, id) = (&seen.nodes[seen.place].raft, seen.before.id());
    let from = seen.before.raft.commit_index().0.min(raft.commit_index().0);
    for index in from + 1..=raft.commit_index().0 {
        let entry = raft.log().get(Index(index)).expect("it is in the log");
        match past.committed.get(index as usize - 1) {
            Some((known, _)) if known != entry => {
                let (a, b) = (known.id, entry.id);
                return Err(format!("{id} commits {b} where {a} is committed"));
            }
            Some(_) => {}
            // It may have stepped down in the same step.
            None if !seen.before.raft.is_leader() && !raft.is_leader() => {
                return Err(format!("{id} commits {} before any leader", entry.id));
            }
            None => {
                check_majority(seen, history, entry.id)?;
                let term = seen.before.raft.term();
                past.committed.push((entry.clone(), term));
            }
        }
    }
    Ok(())
}

/// Clients' writes are taken by one cluster.
fn check_writes(cluster: Birth, past: &Past, history: &History) -> Result<(), String> {
    let writes = |past: &Past| {
        let mut entries = past.committed.iter();
        entries.any(|(entry, _)| matches!(entry.payload, Payload::Command(_)))
    };
    let others = history
        .clusters
        .iter()
        .filter(|(birth, _)| **birth != cluster);
    match { others }.find(|(_, other)| writes(other)) {
        Some((other, _)) if writes(past) => Err(format!(
            "writes are committed in two clusters: {other} and {cluster}"
        )),
        _ => Ok(()),
    }
}

/// What is committed is not dropped from a disk.
fn check_kept(seen: &Seen, past: &Past) -> Result<(), String> {
    let (before, after) = (&seen.before.disk, &seen.nodes[seen.place].disk);
    let dropped = |entry: &Entry| before.contains(entry.id) && !after.contains(entry.id);
    match past.committed.iter().find(|(entry, _)| dropped(entry)) {
        Some((entry, _)) => {
            let id = seen.before.id();
            Err(format!(
                "{id} drops {} from its disk, which is committed",
                entry.id
            ))
        }
        None => Ok(()),
    }
}

/// The entry is on the disks of those who decide, by what the leader had before the step.
fn check_majority(seen: &Seen, history: &History, entry: EntryId) -> Result<(), String> {
    let cluster = cluster_of(&seen.nodes[seen.place].raft);
    let on_disk = |server: Server| {
        let mut gone = history.lost.iter().filter(|gone| is(gone.server, server));
        let mut nodes = seen
            .nodes
            .iter()
            .filter(|node| is(node.server(), server) && cluster_of(&node.raft) == cluster);
        nodes.any(|node| node.disk.contains(entry))
            || gone.any(|gone| gone.entries.contains(&entry))
    };
    for half in halves(deciding(seen)) {
        let have = half.iter().filter(|server| on_disk(**server)).count();
        if have * 2 <= half.len() {
            let (id, voters) = (seen.before.id(), half.len());
            return Err(format!(
                "{id} commits {entry}, which is on the disks of {have} of {voters} voters"
            ));
        }
    }
    Ok(())
}

/// The voters; of a joint configuration the new ones and the old ones.
fn halves(configuration: &Configuration) -> Vec<Vec<Server>> {
    let of = |standings: &[Standing]| -> Vec<Server> {
        let members = configuration.members();
        let voters = members.filter(|(_, member)| standings.contains(&member.standing));
        voters.map(|(server, _)| server).collect()
    };
    let new = of(&[Standing::Voter, Standing::Joining]);
    let old = of(&[Standing::Voter, Standing::Leaving, Standing::Demoted]);
    if configuration.is_joint() {
        vec![new, old]
    } else {
        vec![new]
    }
}

/// A leader has what was committed before its term.
fn check_leader(node: &Node, past: &Past) -> Result<(), String> {
    let of = node.raft.term();
    if !node.raft.is_leader() {
        return Ok(());
    }
    for (entry, term) in past.committed.iter().filter(|(_, term)| *term < of) {
        if !node.raft.log().contains(entry.id) {
            let (id, entry) = (node.id(), entry.id);
            return Err(format!(
                "{id} leads term {of} without {entry}, which was committed in term {term}"
            ));
        }
    }
    Ok(())
}

/// Fails with an entry that both have, though they differ before it.
fn check_log_matching(a: &Log, b: &Log) -> Result<(), EntryId> {
    let last = a.last().index.min(b.last().index).0;
    let mut shared = None;
    for index in (1..=last).rev().map(Index) {
        let (x, y) = (a.get(index), b.get(index));
        if x.map(|entry| entry.id) == y.map(|entry| entry.id) {
            shared = shared.or(x.map(|entry| entry.id));
        }
        match shared {
            Some(at) if x != y => return Err(at),
            _ => {}
        }
    }
    Ok(())
}

/// What a panic has said.
pub(super) fn words_of(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    let text = text.or(panic.downcast_ref::<String>().cloned());
    text.unwrap_or_else(|| "a panic without words".to_owned())
}
