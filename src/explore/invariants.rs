//! What must hold in every state, seen from outside all nodes at once.
//!
//! 1. *Election Safety*: at most one leader a term (Raft paper §5.2, Figure 3).
//! 2. *Log Matching*: two logs that share an entry share all before it (§5.3).
//! 3. *Leader Completeness*: a leader has all that was committed in earlier terms (§5.4).
//! 4. *State Machine Safety*: what is committed stays what it is, for all nodes (§5.4.3); it is
//!    a leader that commits first.
//! 5. What a leader commits is on the disks of a majority, in a joint configuration of one of
//!    each half (§5.3, §6). Who votes is counted here anew.
//! 6. A disk that has what is committed keeps it (§5.3), unless its directory is lost.
//! 7. A read reflects all that was committed when it was asked (thesis §6.4).
//! 8. One vote a server and term: a vote on a disk does not change, and none is given that is
//!    not there (§5.2; held by `node.rs`).
//!
//! Beside these, the core holds its own after each step ([`crate::raft`], `invariants.rs`), and
//! a panic is a finding. Only what a step may have changed is looked at.

use std::any::Any;

use crate::explore::node::{Event, Node};
use crate::raft::{Configuration, Digest, Log, ReadId, ReadOutcome, Standing};
use crate::types::{Entry, EntryId, Index, NodeId, Term};

/// What is known of the past.
#[derive(Clone, Debug, Default)]
pub(super) struct History {
    /// The committed log, each entry with the term in which it was committed.
    committed: Vec<(Entry, Term)>,
    leaders: Vec<(Term, NodeId)>,
    /// What was committed when a read was asked that is not answered.
    asked: Vec<(ReadId, Index)>,
    /// Servers whose directories are gone: a leader may still count what they confirmed.
    lost: Vec<NodeId>,
}

impl History {
    pub(super) fn digest(&self, into: &mut Digest) {
        let History {
            committed,
            leaders,
            asked,
            lost,
        } = self;
        into.put((committed.len(), asked));
        for (entry, term) in committed {
            into.entry(entry);
            into.put(term);
        }
        into.unordered(leaders, |digest, (term, leader)| {
            digest.put(term);
            digest.node(*leader);
        });
        into.unordered(lost, |digest, id| digest.node(*id));
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
    let committed = Index(history.committed.len() as u64);
    let (raft, id) = (&seen.nodes[seen.place].raft, seen.before.id());
    match seen.event {
        Event::Read(read) => next.asked.push((*read, committed)),
        Event::Restart { lost: true } => next.lost.push(id),
        _ => {}
    }
    if raft.is_leader() {
        let term = raft.term();
        match next.leaders.iter().find(|(of, _)| *of == term) {
            Some((_, leader)) if *leader != id => {
                return Err(format!("two leaders in term {term}: {leader} and {id}"));
            }
            Some(_) => {}
            None => next.leaders.push((term, id)),
        }
    }
    check_kept(seen, history)?;
    check_commit(seen, &mut next)?;
    check_leaders(seen, &next)?;
    for (place, other) in seen.nodes.iter().enumerate() {
        if place != seen.place {
            check_log_matching(raft.log(), other.raft.log()).map_err(|at| {
                format!("{id} and {} share {at} and not all before it", other.id())
            })?;
        }
    }
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
    Ok(next)
}

/// What the node has committed is what anybody has, or new and on the disks of a majority.
fn check_commit(seen: &Seen, history: &mut History) -> Result<(), String> {
    let (raft, id) = (&seen.nodes[seen.place].raft, seen.before.id());
    let from = seen.before.raft.commit_index().0.min(raft.commit_index().0);
    for index in from + 1..=raft.commit_index().0 {
        let entry = raft.log().get(Index(index)).expect("it is in the log");
        match history.committed.get(index as usize - 1) {
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
                history
                    .committed
                    .push((entry.clone(), seen.before.raft.term()));
            }
        }
    }
    Ok(())
}

/// What is committed is not dropped from a disk.
fn check_kept(seen: &Seen, history: &History) -> Result<(), String> {
    if *seen.event == (Event::Restart { lost: true }) {
        return Ok(());
    }
    let (before, after) = (&seen.before.disk, &seen.nodes[seen.place].disk);
    let dropped = |entry: &Entry| before.contains(entry.id) && !after.contains(entry.id);
    match history.committed.iter().find(|(entry, _)| dropped(entry)) {
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
    let on_disk = |id: NodeId| {
        let node = seen.nodes.iter().find(|node| node.id() == id);
        history.lost.contains(&id) || node.is_some_and(|node| node.disk.contains(entry))
    };
    for half in halves(seen.before.raft.configuration()) {
        let have = half.iter().filter(|id| on_disk(**id)).count();
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
fn halves(configuration: &Configuration) -> Vec<Vec<NodeId>> {
    let of = |standings: &[Standing]| -> Vec<NodeId> {
        let members = configuration.members();
        let voters = members.filter(|(_, member)| standings.contains(&member.standing));
        voters.map(|(id, _)| id).collect()
    };
    let new = of(&[Standing::Voter, Standing::Joining]);
    let old = of(&[Standing::Voter, Standing::Leaving, Standing::Demoted]);
    if configuration.is_joint() {
        vec![new, old]
    } else {
        vec![new]
    }
}

/// All leaders have what was committed before their terms.
fn check_leaders(seen: &Seen, history: &History) -> Result<(), String> {
    for node in seen.nodes.iter().filter(|node| node.raft.is_leader()) {
        let of = node.raft.term();
        let earlier = history.committed.iter().filter(|(_, term)| *term < of);
        for (entry, term) in earlier {
            if !node.raft.log().contains(entry.id) {
                let (id, entry) = (node.id(), entry.id);
                return Err(format!(
                    "{id} leads term {of} without {entry}, which was committed in term {term}"
                ));
            }
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
