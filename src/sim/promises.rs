//! What must hold of what nodes say, to each other and to clients, and of what they come
//! back with; the list is in `invariants.rs`.

use crate::disk::{Disk, FileId, SimDisk};
use crate::node::{Answer, Caller, Node, Request};
use crate::raft::{Accepted, Body, Message};
use crate::sim::invariants::Checker;
use crate::types::{EntryId, Index, Server};
use crate::wal::{Recovered, Wal, WalOptions};

/// Of so many indexes, the confirmations of one are tried on a copy of the disk.
const TRY_EVERY: u64 = 32;

/// What a client asked for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Asked {
    attempt: u64,
    /// Up to where entries were committed then.
    committed: Index,
    /// The checksum of the command; none for a read.
    command: Option<u32>,
}

/// Whether a vote on disk is the one that was given. Below feature level 1 it names the node
/// alone.
fn is_same(on_disk: Option<Server>, given: Option<Server>) -> bool {
    on_disk == given || on_disk == given.map(|server| Server::any(server.id))
}

impl Checker {
    /// A node says something to another. Returns whether what it says is to be tried: see
    /// [`Checker::check_survivor`].
    pub(super) fn check_message(&mut self, node: &Node<SimDisk>, message: &Message) -> bool {
        let Message { from, term, .. } = *message;
        let vote = match message.body {
            Body::Vote { .. } => Some(from),
            Body::VoteReply { granted: true } => Some(message.to),
            _ => None,
        };
        if let Some(candidate) = vote {
            let may_vote = node.raft().configuration().level() > 0 || node.raft().may_vote();
            assert!(may_vote, "{from} votes and may not");
            let votes = &mut self.nodes[from.id.0 as usize].votes;
            let first = *votes.entry(term).or_insert(candidate);
            assert_eq!(first, candidate, "{from} votes twice in term {term}");
        }
        self.check_content(message);
        // A pre-vote, and its granted answer, speak of a term that nobody is in.
        if matches!(
            message.body,
            Body::PreVote { .. } | Body::PreVoteReply { granted: true }
        ) {
            return false;
        }
        let watched = &mut self.nodes[from.id.0 as usize];
        let news = term > watched.spoken;
        watched.spoken = watched.spoken.max(term);
        let confirms = match message.body {
            Body::AppendReply(Ok(Accepted { match_index })) if term == node.raft().term() => {
                assert!(
                    watched.durable >= match_index,
                    "{from} confirms {match_index} and has {} on disk",
                    watched.durable
                );
                match_index.0.is_multiple_of(TRY_EVERY)
            }
            Body::SnapshotReply { installed, .. } => installed,
            _ => false,
        };
        news || vote.is_some() || confirms
    }

    /// What a message says of the committed log.
    fn check_content(&self, message: &Message) {
        match &message.body {
            Body::Append { commit, .. } | Body::Heartbeat { commit, .. } => assert!(
                *commit <= self.committed(),
                "{} tells of a commit up to {commit}",
                message.from
            ),
            Body::Snapshot(chunk) => self.assert_committed(chunk.snapshot.last, "in a snapshot"),
            _ => {}
        }
    }

    /// What is certain to be on a node's disk must bear out what it is about to say.
    pub(super) fn check_survivor(
        &self,
        message: &Message,
        mut survivor: SimDisk,
        options: WalOptions,
    ) {
        let Message { from, term, .. } = *message;
        let recovered = Wal::recover(&mut survivor, options);
        let (_, recovered) = recovered
            .unwrap_or_else(|error| panic!("{from} would not come back just now: {error}"));
        let Recovered {
            hard_state,
            snapshot_mark,
            entries,
            ..
        } = recovered;
        assert!(
            hard_state.term >= term,
            "{from} speaks of term {term}, and its disk has {}",
            hard_state.term
        );
        let files = survivor.files().expect("a list");
        let snapshots = files.iter().filter_map(|file| match file.id {
            FileId::Snapshot(last) => Some(last.index),
            _ => None,
        });
        let snapshot = snapshots.max().unwrap_or_default();
        assert!(
            snapshot >= snapshot_mark.index,
            "the log of {from} goes on behind {snapshot_mark}, and its snapshots end at {snapshot}"
        );
        if let Body::SnapshotReply {
            snapshot,
            installed: true,
            ..
        } = &message.body
        {
            let (last, upto) = (snapshot.last, snapshot_mark.index.0 + entries.len() as u64);
            assert!(
                Index(upto) >= last.index,
                "{from} has installed a snapshot up to {last}, and its disk ends at {upto}"
            );
        }
        let vote = match message.body {
            Body::Vote { .. } => Some(from),
            Body::VoteReply { granted: true } => Some(message.to),
            _ => None,
        };
        assert!(
            vote.is_none() || hard_state.term > term || is_same(hard_state.voted_for, vote),
            "{from} votes for {vote:?} in {term}, and its disk has {hard_state:?}"
        );
        if let Body::AppendReply(Ok(Accepted { match_index })) = message.body
            && let Some(own) = self.nodes[from.id.0 as usize].log.term_at(match_index)
            && match_index > snapshot_mark.index
        {
            let at = (match_index.0 - snapshot_mark.index.0) as usize - 1;
            let expected = EntryId {
                term: own,
                index: match_index,
            };
            assert_eq!(
                entries.get(at).map(|entry| entry.id),
                Some(expected),
                "{from} confirms what is not on its disk"
            );
        }
    }

    /// A node has come back from what its disk had.
    pub(super) fn check_restart(&mut self, node: &Node<SimDisk>) {
        let raft = node.raft();
        let (id, log) = (raft.id(), raft.log());
        let watched = &self.nodes[id.0 as usize];
        assert!(
            raft.term() >= watched.spoken,
            "{id} has spoken of term {} and comes back in {}",
            watched.spoken,
            raft.term()
        );
        if let Some(candidate) = watched.votes.get(&raft.term()) {
            assert!(
                is_same(raft.hard_state().voted_for, Some(*candidate)),
                "{id} has voted for {candidate} in term {} and comes back with {:?}",
                raft.term(),
                raft.hard_state().voted_for
            );
        }
        let index = watched.durable;
        if let Some(term) = watched.log.term_at(index) {
            let durable = EntryId { term, index };
            // A snapshot that was on disk just before the crash, of a later term than the entry:
            // it cannot stand in one log with it, and what a snapshot holds is committed.
            let is_replaced = log.base().index >= index || log.base().term > term;
            assert!(
                log.contains(durable) || is_replaced,
                "{id} has lost entry {durable}, which its disk had confirmed"
            );
        }
        self.begin_life(node);
    }

    /// A client asks for something.
    pub(super) fn asked(&mut self, client: usize, attempt: u64, request: &Request) {
        let asked = Asked {
            attempt,
            committed: self.committed(),
            command: match request {
                Request::Write { command, .. } => Some(crc32fast::hash(command) | 1),
                _ => None,
            },
        };
        self.asked.insert(client, asked);
    }

    /// A client is answered.
    pub(super) fn check_answer(&self, node: &Node<SimDisk>, caller: Caller, answer: &Answer) {
        let asked = self.asked.get(&(caller.reactor as usize));
        let Some(asked) = asked.filter(|asked| asked.attempt == caller.sequence) else {
            return; // To an earlier attempt.
        };
        let id = node.raft().id();
        match answer {
            Answer::Value(_) | Answer::Page(_) => assert!(
                node.applied() >= asked.committed,
                "{id} answers a read from {}, and {} was committed when it was asked",
                node.applied(),
                asked.committed
            ),
            Answer::Applied(outcome) => assert!(
                asked
                    .command
                    .is_some_and(|command| self.commands.contains(&command)),
                "{id} answers {outcome:?} to a write that is not committed"
            ),
            _ => {}
        }
    }
}
