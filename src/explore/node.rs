//! One node: the real [`Raft`], the disk below it, and what is on its way to that disk.
//!
//! The only file that knows how a [`Raft`] begins, how messages are addressed, and how a
//! directory gets lost. The driver is that of the golden scripts, which follows
//! `node/durability.rs`: a message waits for the term, a promise for all that was written
//! before it.

use std::collections::VecDeque;
use std::time::Duration;

use bytes::Bytes;

use crate::raft::{
    Body, Change, Config, Configuration, Digest, Introduction, LEVEL_MAX, Log, Message, Raft,
    ReadId, ReadOutcome, Ready, Write, check_log,
};
use crate::time::Time;
use crate::types::{
    Birth, Entry, EntryId, HardState, Incarnation, Index, NodeId, Payload, Server, Term,
};

/// The moment of every step but ticks, which come a little later: see [`Raft::forget_time`].
pub(super) const NOW: Time = Time::from_millis(100_000);

/// The numbers that the questions of one life begin with are this far apart from the next
/// life's: a node draws them at its start.
const QUESTIONS_OF_A_LIFE: u64 = 1_000;

/// The cluster of every scenario that does not begin with its founding.
const BIRTH: Birth = Birth(7);

/// A data directory: what outlives a crash.
#[derive(Clone, Debug, Default)]
pub(super) struct Disk {
    pub(super) incarnation: Incarnation,
    pub(super) hard_state: HardState,
    pub(super) entries: Vec<Entry>,
    /// Whether it takes part in elections below feature level 1.
    pub(super) established: bool,
    /// Whether a committed configuration has named it a voter.
    pub(super) was_voter: bool,
    /// Members before its first entry, where it does not begin with the founding.
    pub(super) configuration: Configuration,
}

impl Disk {
    /// A directory that has just been made.
    fn new(incarnation: Incarnation) -> Disk {
        Disk {
            incarnation,
            ..Disk::default()
        }
    }

    /// The directory of a node of a scenario, before anything happens.
    pub(super) fn first(id: NodeId, first: &First) -> Disk {
        Disk {
            established: first.members.level() == 0 && !first.unborn,
            was_voter: !first.unborn && first.members.contains_id(id),
            configuration: match first.unborn {
                true => Configuration::default(),
                false => first.members.clone(),
            },
            ..Disk::new(Incarnation(1))
        }
    }

    /// Whether it has this entry.
    pub(super) fn contains(&self, id: EntryId) -> bool {
        let at = id.index.0.checked_sub(1).map(|at| at as usize);
        at.and_then(|at| self.entries.get(at))
            .is_some_and(|entry| entry.id == id)
    }

    fn apply(&mut self, batch: &Batch) {
        if let Some(state) = batch.write.hard_state {
            self.hard_state = state;
        }
        if let Some(from) = batch.write.truncate_from {
            self.entries.truncate(from.prev().0 as usize);
        }
        self.entries.extend(batch.entries.iter().cloned());
    }
}

/// One write on its way to the disk, and what waits for it.
#[derive(Clone, Debug)]
struct Batch {
    write: Write,
    entries: Vec<Entry>,
    /// The last index that this batch makes durable, as far as later ones have left it.
    last: Index,
    waiting: Vec<Message>,
}

/// What is done to a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Event {
    Deliver(Message),
    /// A tick so long after the last step.
    Tick(Duration),
    /// The oldest write reaches the disk.
    Sync,
    /// A crash, and a start from the disk or from an empty one. In between a node does
    /// nothing that a slow one does not do.
    Restart {
        lost: bool,
    },
    /// A new directory founds the cluster.
    Found,
    /// A peer introduces its directory on a new connection.
    Introduce(NodeId, Introduction),
    /// The connection to a peer ends.
    Disconnect(NodeId),
    /// A command of so many bytes, one at least.
    Propose {
        size: usize,
    },
    Read(ReadId),
    /// The leader's connection broke.
    ForgetLeader,
    Change(Vec<Change>),
    Transfer(NodeId),
    /// What was sent there is probably lost.
    Unreachable(NodeId),
}

/// What comes of a step beside the node's new state.
#[derive(Debug, Default)]
pub(super) struct Effects {
    pub(super) sent: Vec<Message>,
    pub(super) reads: Vec<ReadOutcome>,
    /// The core has turned the request down.
    pub(super) refused: bool,
}

/// The members that all nodes are told at their first start.
#[derive(Clone, Debug)]
pub(super) struct First {
    pub(super) members: Configuration,
    /// Whether they have not founded their cluster yet.
    pub(super) unborn: bool,
}

/// One node.
#[derive(Clone)]
pub(super) struct Node {
    pub(super) raft: Raft,
    pub(super) disk: Disk,
    pending: VecDeque<Batch>,
    first_members: Configuration,
    /// Counted where something is drawn: a life's questions go by other numbers than those of
    /// the one before it, and so do the births that it draws. Nothing else does.
    lives: Option<u64>,
}

impl Node {
    /// A node that starts from this disk; if it `draws`, its lives are told apart.
    pub(super) fn new(id: NodeId, first: &First, disk: Disk, draws: bool) -> Node {
        let first_members = first.members.clone();
        Node {
            raft: boot(id, &first_members, &disk, 0),
            disk,
            pending: VecDeque::new(),
            first_members,
            lives: draws.then_some(0),
        }
    }

    pub(super) fn id(&self) -> NodeId {
        self.raft.id()
    }

    pub(super) fn server(&self) -> Server {
        self.raft.server()
    }

    /// The facts that the node states when it introduces itself.
    pub(super) fn introduction(&self) -> Introduction {
        let Disk {
            incarnation,
            established,
            was_voter,
            ..
        } = self.disk;
        Introduction {
            incarnation,
            level: LEVEL_MAX,
            established,
            was_voter,
        }
    }

    pub(super) fn has_unsynced(&self) -> bool {
        !self.pending.is_empty()
    }

    /// Does something to the node and carries out what comes of it.
    ///
    /// # Errors
    /// A promise that was made without what it promises being on the disk.
    pub(super) fn step(&mut self, event: &Event, autosync: bool) -> Result<Effects, String> {
        let mut effects = Effects::default();
        let mut now = NOW;
        match event {
            Event::Deliver(message) => self.raft.step(now, message.clone()),
            Event::Tick(late) => {
                now += *late;
                self.raft.tick(now);
            }
            Event::Sync => self.sync_one(now, &mut effects)?,
            Event::Restart { lost } => self.restart(*lost),
            Event::Found => self.raft.found(now, &self.first_members),
            Event::Introduce(peer, introduction) => {
                self.raft.introduce(now, *peer, *introduction);
            }
            Event::Disconnect(peer) => self.raft.forget_introduction(*peer),
            Event::Propose { size } => {
                let mut bytes = b"x".to_vec();
                bytes.resize(bytes.len().max(*size), b'.');
                let payload = Payload::Command(Bytes::from(bytes));
                effects.refused = self.raft.propose(payload).is_err();
            }
            Event::Read(id) => self.raft.read_anywhere(*id),
            Event::ForgetLeader => self.raft.forget_leader(),
            Event::Change(changes) => {
                effects.refused = self.raft.propose_change(now, changes).is_err();
            }
            Event::Transfer(to) => {
                effects.refused = self.raft.transfer_leadership(now, *to).is_err();
            }
            Event::Unreachable(peer) => self.raft.peer_unreachable(*peer),
        }
        self.carry_out(now, &mut effects)?;
        while autosync && self.has_unsynced() {
            self.sync_one(now, &mut effects)?;
            self.carry_out(now, &mut effects)?;
        }
        check_log(self.raft.log());
        self.note_voter();
        self.raft.forget_time(NOW);
        Ok(effects)
    }

    /// The directory notes, as `node/identity.rs` does, once it has been a voter.
    fn note_voter(&mut self) {
        let on_disk = Index(self.disk.entries.len() as u64);
        let settled = self.raft.commit_index().min(on_disk);
        let configuration = self.raft.configuration_at(settled);
        self.disk.was_voter |=
            configuration.level() > 0 && configuration.quorum().contains(self.raft.server());
    }

    fn restart(&mut self, lost: bool) {
        self.lives = self.lives.map(|lives| lives + 1);
        self.pending.clear();
        if lost {
            self.disk = Disk::new(Incarnation(self.disk.incarnation.0 + 1));
        }
        let life = self.lives.unwrap_or_default();
        self.raft = boot(self.id(), &self.first_members, &self.disk, life);
    }

    /// What `node` does with a ready value, on this disk.
    fn carry_out(&mut self, now: Time, effects: &mut Effects) -> Result<(), String> {
        let Ready {
            write,
            messages,
            promises,
            reads,
            snapshots_wanted,
            chunks,
            chunk_replies,
        } = self.raft.take_ready(now);
        assert!(
            snapshots_wanted.is_empty() && chunks.is_empty() && chunk_replies.is_empty(),
            "nothing is compacted, so nobody needs a snapshot"
        );
        effects.reads.extend(reads);
        let entries = self.raft.unwritten().to_vec();
        // What the disk confirms later is only what this write leaves of it.
        if let Some(from) = write.truncate_from {
            for batch in &mut self.pending {
                batch.last = batch.last.min(from.prev());
            }
        }
        if write != Write::default() || !entries.is_empty() {
            self.pending.push_back(Batch {
                write,
                entries,
                last: self.raft.log().last().index,
                waiting: Vec::new(),
            });
        }
        let mut by_term = self.pending.iter_mut().rev();
        match by_term.find(|batch| batch.write.hard_state.is_some()) {
            Some(batch) => batch.waiting.extend(messages),
            None => self.send(messages, effects)?,
        }
        match self.pending.back_mut() {
            Some(batch) => batch.waiting.extend(promises),
            None => self.send(promises, effects)?,
        }
        Ok(())
    }

    fn sync_one(&mut self, now: Time, effects: &mut Effects) -> Result<(), String> {
        let Some(batch) = self.pending.pop_front() else {
            return Ok(());
        };
        let before = self.disk.hard_state;
        self.disk.apply(&batch);
        let after = self.disk.hard_state;
        let revoked = before.voted_for.is_some() && before.voted_for != after.voted_for;
        if before.term > after.term || before.term == after.term && revoked {
            return Err(format!(
                "{}: the vote of term {} on its disk changes",
                self.id(),
                before.term
            ));
        }
        self.raft.persisted(now, batch.write.hard_state, batch.last);
        self.send(batch.waiting, effects)
    }

    /// Messages leave: a vote that is given has to be on the disk.
    fn send(&self, messages: Vec<Message>, effects: &mut Effects) -> Result<(), String> {
        for message in messages {
            let on_disk = self.disk.hard_state;
            if matches!(message.body, Body::VoteReply { granted: true })
                && (on_disk.term < message.term
                    || on_disk.term == message.term && !is_vote_for(on_disk, message.to))
            {
                let (id, to, term) = (self.id(), message.to, message.term);
                return Err(format!(
                    "{id}: its vote of term {term} for {to} is not on its disk"
                ));
            }
            effects.sent.push(message);
        }
        Ok(())
    }

    /// Takes the node in, with the number of its lives: the next one's questions go by it.
    pub(super) fn digest(&self, into: &mut Digest) {
        let Node {
            raft,
            disk,
            pending,
            first_members: _, // The same for all.
            lives,
        } = self;
        into.raft(raft);
        let Disk {
            incarnation: _, // The server's.
            hard_state,
            entries,
            established: _, // The core is told.
            was_voter,
            configuration: _, // In the core's membership.
        } = disk;
        into.put((hard_state.term, was_voter));
        into.maybe_server(hard_state.voted_for);
        into.put((entries.len(), pending.len(), lives));
        entries.iter().for_each(|entry| into.entry(entry));
        for Batch {
            write,
            entries,
            last,
            waiting,
        } in pending
        {
            into.write(write);
            into.put((entries.len(), last, waiting.len()));
            entries.iter().for_each(|entry| into.entry(entry));
            // In which order messages leave together is the network's business.
            into.unordered(waiting, |digest, message| digest.message(message));
        }
    }
}

fn boot(id: NodeId, first_members: &Configuration, disk: &Disk, life: u64) -> Raft {
    let config = Config {
        server: Server {
            id,
            incarnation: disk.incarnation,
        },
        configuration: disk.configuration.clone(),
        first_members: first_members.clone(),
        election_timeout: (Duration::from_millis(150), Duration::from_millis(300)),
        heartbeat: Duration::from_millis(50),
        seed: 2 * QUESTIONS_OF_A_LIFE * life,
        established: disk.established,
        read_lease: false,
        promised: Duration::ZERO,
        disk_patience: Duration::from_secs(2),
    };
    let log = Log::restore(EntryId::ZERO, disk.entries.clone());
    let mut raft = Raft::new(config, disk.hard_state, log, NOW);
    raft.forget_time(NOW);
    raft
}

/// The members of a cluster of these voters, whose directories are their first ones.
pub(super) fn first_members(ids: impl Iterator<Item = NodeId>, level: u16, unborn: bool) -> First {
    let voters = ids.map(|id| (id, 0, format!("p{}", id.0), format!("c{}", id.0)));
    let voters = Configuration::of_voters(voters);
    let members = match level {
        0 => voters,
        _ if unborn => voters,
        _ => voters.upgraded(BIRTH, |_| Incarnation(1)),
    };
    First { members, unborn }
}

/// Whether this is a vote for `candidate`; below feature level 1 it is the node's.
pub(super) fn is_vote_for(state: HardState, candidate: Server) -> bool {
    let voted = state.voted_for;
    voted == Some(candidate) || voted == Some(Server::any(candidate.id))
}

/// The cluster that a node's log belongs to: the birth that it begins with. `None` while it
/// belongs to none. An upgrade leaves it what it was.
pub(super) fn cluster_of(raft: &Raft) -> Option<Birth> {
    let begin = [Index::ZERO, Index::ZERO.next()].map(|index| raft.configuration_at(index));
    let begin = begin.into_iter().find(|members| !members.is_empty());
    begin.map(Configuration::birth)
}

/// A change, as the golden scripts write it: `add:n4`, `promote:n4`, `demote:n2`, `remove:n3`.
///
/// # Panics
/// If it is none.
pub(super) fn change(word: &str) -> Change {
    let (kind, id) = word.split_once(":n").expect("add:n4");
    let id = NodeId(id.parse().expect("the number of a node"));
    match kind {
        "add" => Change::AddLearner {
            id,
            peer: format!("p{}", id.0),
            client: format!("c{}", id.0),
        },
        "promote" => Change::Promote(id),
        "demote" => Change::Demote(id),
        "remove" => Change::Remove(id),
        _ => panic!("not a change: {word}"),
    }
}

/// An entry that a node starts with: the golden scripts have the same.
pub(super) fn first_entry(id: EntryId) -> Entry {
    let name = format!("{}{}", (b'a' + id.term.0 as u8 - 1) as char, id.index);
    let payload = Payload::Command(Bytes::from(name));
    Entry { id, payload }
}

/// The place of the node that a message is for.
pub(super) fn receiver(message: &Message) -> usize {
    message.to.id.0 as usize - 1
}

/// From whom to whom a message goes, as the golden scripts write it.
pub(super) fn link(message: &Message) -> String {
    format!("{}->{}", message.from.id, message.to.id)
}

/// Whether `message` means nothing to its receiver any more, in this life or a later one: an
/// answer of a term that the receiver's disk is past, or to a question before an election
/// that the receiver's disk has behind it.
pub(super) fn is_stale(message: &Message, receiver: &Node) -> bool {
    let past = receiver.disk.hard_state.term;
    match message.body {
        Body::PreVoteReply { granted: true } => message.term <= past,
        _ => !message.body.is_request() && message.term < past,
    }
}

/// The term that a node's next campaign is for.
pub(super) fn next_term(node: &Node) -> Term {
    node.raft.term().next()
}
