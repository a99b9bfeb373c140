//! A cluster in memory: nodes with disks of their own, and the messages between
//! them, none of which moves unless it is told to.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::show;
use crate::raft::{
    Body, Config, Configuration, Introduction, Log, Message, Raft, ReadId, ReadOutcome, Ready,
    RoleName, SnapshotChunk, SnapshotMeta, Write, check_log,
};
use crate::time::Time;
use crate::types::{Birth, Entry, EntryId, HardState, Incarnation, Index, NodeId, Server, Term};

/// The birth of every cluster here.
pub(super) const BIRTH: Birth = Birth(7);

/// What of a node outlives a crash.
#[derive(Debug, Default)]
pub(super) struct Disk {
    pub(super) hard_state: HardState,
    /// The last entry that the snapshot file contains.
    pub(super) snapshot: EntryId,
    /// The members that it names.
    pub(super) members: Option<Configuration>,
    /// The log file begins behind this entry.
    pub(super) base: EntryId,
    pub(super) entries: Vec<Entry>,
}

impl Disk {
    fn apply(&mut self, batch: &Batch) {
        if let Some(state) = batch.write.hard_state {
            self.hard_state = state;
        }
        if let Some(base) = batch.write.reset_to {
            self.base = base;
            self.entries.clear();
        }
        if let Some(from) = batch.write.truncate_from {
            let keep = from.prev().0.checked_sub(self.base.index.0);
            self.entries
                .truncate(keep.expect("the file holds what is truncated") as usize);
        }
        for entry in &batch.entries {
            let last = self.entries.last().map_or(self.base, |e| e.id);
            assert_eq!(entry.id.index, last.index.next(), "a gap in the log file");
            self.entries.push(entry.clone());
        }
    }

    /// The log that a restart finds: what follows the snapshot, where the file goes on
    /// from it, else nothing.
    fn recover(&mut self) -> Log {
        let at = self
            .entries
            .iter()
            .position(|entry| entry.id == self.snapshot);
        if let Some(at) = at {
            self.entries.drain(..=at);
        } else if self.base != self.snapshot {
            self.entries.clear();
        }
        self.base = self.snapshot;
        // As `node` has it: a snapshot can be on disk before its term is.
        if self.snapshot.term > self.hard_state.term {
            self.hard_state = HardState {
                term: self.snapshot.term,
                voted_for: None,
            };
        }
        Log::restore(self.base, self.entries.clone())
    }
}

/// One write on its way to the disk, and what waits for it.
#[derive(Debug)]
struct Batch {
    write: Write,
    entries: Vec<Entry>,
    /// The last index that this batch makes durable, as far as later ones have left it.
    last: Index,
    waiting: Vec<Message>,
}

/// One node.
pub(super) struct Node {
    pub(super) config: Config,
    /// `None` while it is down.
    pub(super) raft: Option<Raft>,
    pub(super) disk: Disk,
    pending: VecDeque<Batch>,
    seen: Seen,
}

#[derive(Clone, Copy)]
struct Seen {
    term: Term,
    role: RoleName,
    leader: Option<NodeId>,
    commit: Index,
}

impl Seen {
    fn of(raft: &Raft) -> Seen {
        Seen {
            term: raft.term(),
            role: raft.role(),
            leader: raft.leader(),
            commit: raft.commit_index(),
        }
    }
}

/// A snapshot in one piece, of nothing but the members.
pub(super) fn whole_snapshot(last: EntryId, members: &Configuration) -> SnapshotChunk {
    SnapshotChunk {
        snapshot: SnapshotMeta {
            last,
            checksum: 0,
            total_bytes: 1,
        },
        offset: 0,
        data: members.encode(),
    }
}

/// All nodes, what is on its way between them, and what must never be contradicted.
pub(super) struct Cluster {
    pub(super) now: Time,
    /// Whether writes are durable at once.
    pub(super) autosync: bool,
    /// Whether the clock stands still, but for ticks: see [`Raft::forget_time`].
    pub(super) timeless: bool,
    pub(super) nodes: BTreeMap<NodeId, Node>,
    pub(super) pool: Vec<Message>,
    pub(super) cut: BTreeSet<(NodeId, NodeId)>,
    /// One line for each effect.
    pub(super) out: Vec<String>,
    /// Each committed entry with the term in which it was first seen so.
    pub(super) committed: BTreeMap<Index, (Entry, Term)>,
    leaders: BTreeMap<Term, NodeId>,
    /// What was sent since it was last counted, by kind; entries are counted as such.
    pub(super) sent: BTreeMap<&'static str, u64>,
    rng: StdRng,
    /// What was committed when each read was asked for.
    asked: BTreeMap<ReadId, Index>,
}

/// What a cluster starts from; see [`Cluster::new`].
#[derive(Default)]
pub(super) struct Start {
    /// The ids of nodes that are not among the first members.
    pub(super) spare: u64,
    /// Who of the first members is preferred.
    pub(super) preferred: Option<NodeId>,
    /// Whether leaders read by a lease.
    pub(super) lease: bool,
    /// Whether the clock stands still, as for an explorer.
    pub(super) timeless: bool,
    pub(super) first: u64,
    pub(super) nodes: u64,
    /// The feature level.
    pub(super) level: u64,
    /// Whether all directories are new.
    pub(super) unborn: bool,
    pub(super) term: u64,
    pub(super) seed: u64,
}

impl Cluster {
    pub(super) fn new(start: &Start) -> Cluster {
        let ids = start.first..start.first + start.nodes;
        let first_members = Configuration::of_voters(ids.clone().map(|id| {
            let priority = u8::from(start.preferred == Some(NodeId(id)));
            (NodeId(id), priority, format!("p{id}"), format!("c{id}"))
        }));
        // Scripts begin with a cluster that has been founded, unless they say otherwise.
        let members = match start.level {
            0 => first_members.clone(),
            _ => first_members.upgraded(BIRTH, |_| Incarnation(1)),
        };
        let mut cluster = Cluster {
            // An explorer's nodes have been up for longer than any of them waits.
            now: Time::from_millis(if start.timeless { 100_000 } else { 1 }),
            autosync: true,
            timeless: start.timeless,
            nodes: BTreeMap::new(),
            pool: Vec::new(),
            cut: BTreeSet::new(),
            out: Vec::new(),
            committed: BTreeMap::new(),
            leaders: BTreeMap::new(),
            sent: BTreeMap::new(),
            rng: StdRng::seed_from_u64(start.seed),
            asked: BTreeMap::new(),
        };
        for id in (ids.start..ids.end + start.spare).map(NodeId) {
            let config = Config {
                server: Server {
                    id,
                    incarnation: Incarnation(1),
                },
                configuration: match start.unborn {
                    true => Configuration::default(),
                    false => members.clone(),
                },
                first_members: match start.unborn {
                    true => first_members.clone(),
                    false => members.clone(),
                },
                election_timeout: (Duration::from_millis(150), Duration::from_millis(300)),
                heartbeat: Duration::from_millis(50),
                seed: start.seed * 100 + id.0,
                established: start.level == 0,
                read_lease: start.lease,
                promised: Duration::from_millis(if start.lease { 150 } else { 0 }),
                disk_patience: Duration::from_secs(2),
            };
            let mut disk = Disk::default();
            if ids.contains(&id.0) {
                disk.hard_state.term = Term(start.term);
            }
            cluster.boot(config, disk);
        }
        cluster
    }

    pub(super) fn ids(&self) -> Vec<NodeId> {
        self.nodes.keys().copied().collect()
    }

    pub(super) fn raft(&self, id: NodeId) -> Option<&Raft> {
        self.nodes[&id].raft.as_ref()
    }

    pub(super) fn node(&mut self, id: NodeId) -> &mut Node {
        self.nodes.get_mut(&id).expect("a node of the cluster")
    }

    fn boot(&mut self, config: Config, mut disk: Disk) {
        let log = disk.recover();
        check_log(&log);
        let mut config_now = config.clone();
        if let Some(members) = &disk.members {
            config_now.configuration = members.clone();
        }
        let mut raft = Raft::new(config_now, disk.hard_state, log, self.now);
        if self.timeless {
            raft.forget_time(self.now);
        }
        let id = raft.id();
        let node = Node {
            seen: Seen::of(&raft),
            disk,
            pending: VecDeque::new(),
            raft: Some(raft),
            config,
        };
        self.nodes.insert(id, node);
    }

    /// A node as it is now, with its directory.
    pub(super) fn server(&self, id: NodeId) -> Server {
        self.nodes[&id].config.server
    }

    /// A peer introduces itself to a node, on a new connection.
    pub(super) fn introduce(&mut self, at: NodeId, peer: NodeId, was_voter: bool) {
        let config = &self.nodes[&peer].config;
        let introduction = Introduction {
            incarnation: config.server.incarnation,
            level: 1,
            established: config.established,
            was_voter,
        };
        self.act(at, |raft, now| raft.introduce(now, peer, introduction));
    }

    /// Loses all that is not on the disk.
    pub(super) fn crash(&mut self, id: NodeId) {
        let node = self.node(id);
        node.raft = None;
        node.pending.clear();
    }

    /// Starts again from the disk; from an empty one if it `lost` its directory.
    pub(super) fn restart(&mut self, id: NodeId, lost: bool) {
        self.crash(id);
        let node = self.nodes.remove(&id).expect("a node of the cluster");
        let mut config = node.config;
        config.seed += 1000;
        if lost {
            config.server.incarnation.0 += 1;
            config.established = false;
            config.configuration = Configuration::default();
        }
        let disk = if lost { Disk::default() } else { node.disk };
        self.boot(config, disk);
    }

    /// Starts again from a disk of the script's making.
    pub(super) fn restore(&mut self, id: NodeId, disk: Disk) {
        let node = self.nodes.remove(&id).expect("a node of the cluster");
        self.boot(node.config, disk);
    }

    /// The members that a node was told at its first start.
    pub(super) fn first_members(&self, id: NodeId) -> &Configuration {
        &self.nodes[&id].config.configuration
    }

    /// Does something to a node that is up, and carries out what comes of it.
    pub(super) fn act<T>(&mut self, id: NodeId, f: impl FnOnce(&mut Raft, Time) -> T) -> Option<T> {
        let now = self.now;
        let result = f(self.node(id).raft.as_mut()?, now);
        self.carry_out(id);
        self.forget_time(id);
        Some(result)
    }

    /// Asks for a read, of a leader or of anyone.
    pub(super) fn read(&mut self, id: NodeId, read: ReadId, anywhere: bool) {
        self.read_all(id, &[read], anywhere);
    }

    /// Asks for reads that come in together.
    pub(super) fn read_all(&mut self, id: NodeId, reads: &[ReadId], anywhere: bool) {
        let committed = self.committed.keys().next_back().copied();
        let committed = committed.unwrap_or_default();
        self.asked
            .extend(reads.iter().map(|read| (*read, committed)));
        self.act(id, |raft, _| {
            reads.iter().for_each(|read| match anywhere {
                true => raft.read_anywhere(*read),
                false => raft.read(*read),
            });
        });
    }

    /// Who leads the latest term that has a leader.
    pub(super) fn leader(&self) -> Option<NodeId> {
        let up = self.nodes.values().filter_map(|n| n.raft.as_ref());
        let leaders = up.filter(|raft| raft.is_leader());
        leaders.max_by_key(|raft| raft.term()).map(Raft::id)
    }

    pub(super) fn tick(&mut self, id: NodeId) {
        self.act(id, |raft, now| raft.tick(now));
    }

    fn forget_time(&mut self, id: NodeId) {
        let now = self.now;
        if let (true, Some(raft)) = (self.timeless, self.node(id).raft.as_mut()) {
            raft.forget_time(now);
        }
    }

    /// Ticks a node so much later; where the clock stands still it does so for all others.
    pub(super) fn tick_later(&mut self, id: NodeId, late: Duration) {
        let before = self.now;
        self.now += late;
        if !self.timeless {
            return self.tick(id);
        }
        let later = self.now;
        if let Some(raft) = self.node(id).raft.as_mut() {
            raft.tick(later);
            self.carry_out(id);
        }
        self.now = before;
        self.forget_time(id);
    }

    /// Takes the clock to where the node's timer has run out, and ticks it.
    pub(super) fn time_out(&mut self, id: NodeId) {
        if let Some(raft) = self.raft(id) {
            let due = raft.next_deadline();
            if due != Time::NEVER {
                self.now = self.now.max(due);
            }
            self.tick(id);
        }
    }

    /// Hands a message to its node, if that is up.
    pub(super) fn deliver(&mut self, message: Message) {
        self.act(message.to.id, |raft, now| raft.step(now, message));
    }

    /// Delivers the message at `at`.
    pub(super) fn deliver_at(&mut self, at: usize) {
        let message = self.pool.remove(at);
        self.deliver(message);
    }

    /// Delivers until nothing is on its way.
    pub(super) fn settle(&mut self) {
        for _ in 0..20_000 {
            if self.pool.is_empty() {
                return;
            }
            self.deliver_at(0);
        }
        let last = self.out.len().saturating_sub(30);
        panic!("messages without end: {:#?}", &self.out[last..]);
    }

    /// Delivers until nothing is on its way, in any order, but for what is lost: so many
    /// messages in a hundred. As many arrive twice.
    fn settle_lossy(&mut self, loss: u64) {
        for _ in 0..20_000 {
            if self.pool.is_empty() {
                return;
            }
            let at = self.rng.random_range(0..self.pool.len());
            let message = self.pool.swap_remove(at);
            if self.rng.random_range(0..100) < loss {
                continue;
            }
            if self.rng.random_range(0..100) < loss {
                self.deliver(message.clone());
            }
            self.deliver(message);
        }
        panic!("messages without end: {}", self.pool.len());
    }

    /// Lets time pass on a network that takes none, and loses so many messages in a
    /// hundred; with 0 it is perfect.
    pub(super) fn run(&mut self, time: Duration, loss: u64) {
        let end = self.now + time;
        loop {
            if loss == 0 {
                self.settle();
            } else {
                self.settle_lossy(loss);
            }
            let up = self.nodes.values().filter_map(|n| n.raft.as_ref());
            let next = up.map(|raft| (raft.next_deadline(), raft.id())).min();
            match next {
                Some((due, id)) if due <= end => {
                    self.now = self.now.max(due);
                    self.tick(id);
                }
                _ => break,
            }
        }
        self.now = end;
    }

    /// The driver: what `node` does with a ready value, on this disk.
    fn carry_out(&mut self, id: NodeId) {
        loop {
            let now = self.now;
            let node = self.nodes.get_mut(&id).expect("a node of the cluster");
            let Some(raft) = node.raft.as_mut() else {
                return;
            };
            let Ready {
                write,
                messages,
                promises,
                reads,
                snapshots_wanted,
                chunks,
                chunk_replies,
            } = raft.take_ready(now);
            let entries = raft.unwritten().to_vec();
            let last = raft.log().last().index;
            self.observe(id);
            for read in reads {
                self.out.push(match read {
                    ReadOutcome::Ready(read, index) => {
                        let then = self.asked.get(&read).copied().unwrap_or_default();
                        assert!(
                            index >= then,
                            "{id}: a stale read: {index} is before {then}"
                        );
                        format!("{id} read r{} ready at {index}", read.0)
                    }
                    ReadOutcome::Lost(read) => format!("{id} read r{} lost", read.0),
                });
            }
            for to in snapshots_wanted {
                let to = show::server(to);
                self.out.push(format!("{id} wants a snapshot for {to}"));
            }
            for (from, snapshot, next) in chunk_replies {
                let last = snapshot.last;
                let from = show::server(from);
                self.out
                    .push(format!("{id} hears {from} wants {last} from byte {next}"));
            }
            self.store(id, write, entries, last, messages, promises);
            let mut more = !chunks.is_empty();
            for (message, chunk) in chunks {
                self.install(id, &message, &chunk);
            }
            while self.autosync && self.sync_one(id) {
                more = true;
            }
            if !more {
                return;
            }
        }
    }

    /// Queues a write with what waits for it, and sends what need not wait.
    fn store(
        &mut self,
        id: NodeId,
        write: Write,
        entries: Vec<Entry>,
        last: Index,
        messages: Vec<Message>,
        promises: Vec<Message>,
    ) {
        let manual = !self.autosync;
        let node = self.node(id);
        // What the disk confirms later is only what this write leaves of it.
        let keep = write.truncate_from.map(Index::prev);
        let keep = keep.or(write.reset_to.map(|base| base.index));
        if let Some(keep) = keep {
            for batch in &mut node.pending {
                batch.last = batch.last.min(keep);
            }
        }
        let mut lines = Vec::new();
        let batch = Batch {
            write,
            entries,
            last,
            waiting: Vec::new(),
        };
        let cuts = batch.write.truncate_from.is_some() || batch.write.reset_to.is_some();
        if batch.write != Write::default() || !batch.entries.is_empty() {
            if manual || cuts {
                lines.push(format!(
                    "{id} writes{}",
                    show::write(&batch.write, &batch.entries)
                ));
            }
            node.pending.push_back(batch);
        }
        let term_waits = node
            .pending
            .iter_mut()
            .rev()
            .find(|batch| batch.write.hard_state.is_some());
        let mut now = Vec::new();
        match term_waits {
            Some(batch) => batch.waiting.extend(messages),
            None => now.extend(messages),
        }
        match node.pending.back_mut() {
            Some(batch) => batch.waiting.extend(promises),
            None => now.extend(promises),
        }
        self.out.append(&mut lines);
        now.into_iter().for_each(|message| self.send(message));
    }

    /// The oldest write of a node reaches the disk; returns whether there was one.
    fn sync_one(&mut self, id: NodeId) -> bool {
        let now = self.now;
        let node = self.node(id);
        let Some(batch) = node.pending.pop_front() else {
            return false;
        };
        node.disk.apply(&batch);
        if let Some(raft) = node.raft.as_mut() {
            raft.persisted(now, batch.write.hard_state, batch.last);
        }
        batch.waiting.into_iter().for_each(|m| self.send(m));
        true
    }

    /// Up to `count` writes of a node reach the disk.
    pub(super) fn sync(&mut self, id: NodeId, count: usize) {
        for _ in 0..count {
            if !self.sync_one(id) {
                break;
            }
            self.carry_out(id);
        }
        self.forget_time(id);
    }

    pub(super) fn pending(&self, id: NodeId) -> usize {
        self.nodes[&id].pending.len()
    }

    fn send(&mut self, message: Message) {
        let cut = self.cut.contains(&(message.from.id, message.to.id));
        *self.sent.entry(show::kind(&message.body)).or_default() += 1;
        if let Body::Append { entries, .. } = &message.body {
            *self.sent.entry("entries").or_default() += entries.len() as u64;
        }
        let mark = if cut { " (cut off)" } else { "" };
        self.out.push(format!("{}{mark}", show::message(&message)));
        if !cut {
            self.pool.push(message);
        }
    }

    /// Takes in a whole snapshot that came in one piece.
    fn install(&mut self, id: NodeId, message: &Message, chunk: &SnapshotChunk) {
        let now = self.now;
        let (snapshot, node) = (chunk.snapshot, self.node(id));
        let raft = node.raft.as_mut().expect("it has just been heard");
        let members = Configuration::decode(&chunk.data).expect("the members");
        if raft.install_snapshot(now, snapshot.last, members.clone()) {
            node.disk.snapshot = snapshot.last;
            node.disk.members = Some(members);
            self.out
                .push(format!("{id} installs snapshot {}", snapshot.last));
        }
        let raft = self.node(id).raft.as_mut().expect("it is up");
        raft.answer_snapshot(message, snapshot, snapshot.total_bytes, true);
    }

    /// Sends a node's snapshot to another, if it waits for one.
    pub(super) fn send_snapshot(&mut self, from: NodeId, to: NodeId) {
        let node = &self.nodes[&from];
        let members = node.disk.members.as_ref();
        let chunk = whole_snapshot(
            node.disk.snapshot,
            members.unwrap_or(&node.config.configuration),
        );
        let followers = self
            .raft(from)
            .and_then(Raft::followers)
            .into_iter()
            .flatten();
        let waits = followers
            .map(|(server, _)| *server)
            .filter(|server| server.id == to);
        for server in waits.collect::<Vec<_>>() {
            let chunk = chunk.clone();
            self.act(from, |raft, _| raft.send_snapshot_chunk(server, chunk));
        }
    }

    /// Makes a snapshot of what is committed up to `upto`, and forgets the log before.
    pub(super) fn compact(&mut self, id: NodeId, upto: Index) {
        let Some(raft) = self.raft(id) else { return };
        if upto <= raft.log().base().index {
            return;
        }
        let term = raft.log().term_at(upto).expect("it is in the log");
        let members = raft.configuration_at(upto).clone();
        let disk = &mut self.node(id).disk;
        disk.snapshot = EntryId { term, index: upto };
        disk.members = Some(members);
        self.act(id, |raft, _| raft.compact(upto));
    }

    /// Says what has changed in a node, and holds it against all that was seen before.
    fn observe(&mut self, id: NodeId) {
        let node = &self.nodes[&id];
        let raft = node.raft.as_ref().expect("it is up");
        let (old, new) = (node.seen, Seen::of(raft));
        let mut lines = Vec::new();
        if (old.term, old.role) != (new.term, new.role) {
            lines.push(show::change((old.term, old.role), (new.term, new.role), id));
        }
        if new.leader != old.leader && new.role == RoleName::Follower {
            match new.leader {
                Some(leader) => lines.push(format!("{id} follows {leader}")),
                None => lines.push(format!("{id} knows no leader")),
            }
        }
        if new.commit > old.commit {
            let from = old.commit.max(raft.log().base().index).next();
            let entries = raft.log().range(from, new.commit);
            for entry in entries.clone() {
                let known = self
                    .committed
                    .entry(entry.id.index)
                    .or_insert_with(|| (entry.clone(), new.term));
                assert_eq!(&known.0, entry, "{id}: two entries committed at one index");
            }
            let list = show::entries(entries);
            lines.push(format!("{id} commits up to {} {list}", new.commit));
        }
        if new.role == RoleName::Leader {
            let leader = *self.leaders.entry(new.term).or_insert(id);
            assert_eq!(leader, id, "two leaders in term {}", new.term);
            if old.role != RoleName::Leader {
                for (index, (entry, term)) in &self.committed {
                    assert!(
                        *term >= new.term
                            || *index <= raft.log().base().index
                            || raft.log().contains(entry.id),
                        "the new leader {id} of {} lacks committed {}",
                        new.term,
                        entry.id
                    );
                }
            }
        }
        check_log(raft.log());
        self.out.append(&mut lines);
        self.node(id).seen = new;
    }

    /// Two logs that share an entry share all before it (paper §5.3).
    pub(super) fn check_log_matching(&self) {
        let up: Vec<&Raft> = self
            .nodes
            .values()
            .filter_map(|n| n.raft.as_ref())
            .collect();
        for (i, a) in up.iter().enumerate() {
            for b in &up[i + 1..] {
                let first = a.log().first_index().max(b.log().first_index());
                let last = a.log().last().index.min(b.log().last().index);
                let mut shared = false;
                for index in (first.0..=last.0).rev().map(Index) {
                    let (x, y) = (a.log().get(index), b.log().get(index));
                    shared |= x.map(|e| e.id) == y.map(|e| e.id);
                    assert!(!shared || x == y, "logs part before {index}");
                }
            }
        }
    }
}
