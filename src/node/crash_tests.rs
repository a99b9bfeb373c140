//! Every state that a power failure may leave of a node's directory, at every call that
//! its disk makes; and damage to what it holds at rest.

use std::collections::BTreeMap;
use std::io;
use std::time::Duration;

use bytes::Bytes;

use crate::config::Founding;
use crate::disk::trace::{Step, Trace};
use crate::disk::{
    Disk, FileDisk, FileId, FileInfo, Meta, SegmentId, SegmentInfo, SimDisk, SyncToken,
};
use crate::kv::{ClientId, Command, Identity, SessionLimits, WriteOp};
use crate::mem::Buffer;
use crate::mutation::{Mutation, is_found};
use crate::node::{
    APPLY_ENTRIES_MAX, Addresses, Answer, Caller, Facts, Node, NodeConfig, OpenError, Request,
};
use crate::raft::{Accepted, Body, Configuration, LEVEL_MAX, Message};
use crate::time::Time;
use crate::types::{Birth, EntryId, Incarnation, Index, NodeId, Payload, Server, Term};

/// How many states are tried after one call, all of them or drawn.
const STATES_MAX: usize = 24;
/// Of so many states one is also run for a while.
const GO_ON_EVERY: usize = 24;
const KEYS: u64 = 12;
/// The incarnation of node 0.
const INCARNATIONS: u64 = 11;

/// SplitMix64: a stream of numbers from one.
struct Rng(u64);

impl Rng {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }
}

fn config(id: u64, members: u64) -> NodeConfig {
    NodeConfig {
        snapshot_send_bytes_per_sec: 0,
        snapshot_write_bytes_per_sec: 0,
        disk_give_up: None,
        state_check_entries: 16,
        id: NodeId(id),
        first_members: Configuration::of_voters(
            (0..members).map(|id| (NodeId(id), 0, format!("p{id}"), format!("c{id}"))),
        ),
        cluster_id: 7,
        founding: Founding::AllFirstMembers,
        level: LEVEL_MAX,
        addresses: Addresses::default(),
        addresses_from_file: false,
        meta: Meta::new(NodeId(id), 7, INCARNATIONS + id),
        election_timeout: (Duration::from_millis(150), Duration::from_millis(300)),
        heartbeat: Duration::from_millis(50),
        read_lease: false,
        disk_patience: Duration::from_secs(2),
        seed: id,
        segment_bytes: 16 << 10,
        first_segment_bytes: 16 << 10,
        snapshot_log_bytes: 6 << 10,
        snapshot_tail_bytes: 1 << 10,
        snapshot_hold_bytes: 8 << 10,
        apply_entries_max: APPLY_ENTRIES_MAX,
        memory_limit: None,
        session_limits: SessionLimits::default(),
    }
}

fn write(number: u64) -> Request {
    let value = format!("{number:08} {}", "v".repeat(300));
    let command = Command::Write {
        identity: Identity::Implicit {
            client: ClientId(u128::from(number)),
            sequence: number,
        },
        op: WriteOp::Update {
            key: Bytes::from(format!("key {}", number % KEYS)),
            value: Bytes::from(value),
        },
    };
    Request::Write {
        command: command.encode(),
        grows: true,
    }
}

fn caller(sequence: u64) -> Caller {
    Caller {
        reactor: 0,
        connection: 0,
        sequence,
    }
}

/// What a node has said, and what it may be found with.
#[derive(Default)]
struct Promised {
    /// All up to here is committed, or confirmed to a leader.
    upto: Index,
    term: Term,
    votes: BTreeMap<Term, Server>,
    /// Every entry that it ever had.
    entries: BTreeMap<EntryId, Payload>,
    /// The checksum of the state behind each entry.
    states: BTreeMap<Index, u32>,
}

impl Promised {
    fn see<D: Disk>(&mut self, node: &Node<D>) {
        let log = node.raft().log();
        let mut index = log.last().index;
        while let Some(entry) = log.get(index)
            && self
                .entries
                .insert(entry.id, entry.payload.clone())
                .is_none()
        {
            index = index.prev();
        }
        self.see_state(node);
    }

    /// All nodes have the same behind the same entry, and a snapshot may come from another.
    fn see_state<D: Disk>(&mut self, node: &Node<D>) {
        let state = node.machine();
        self.states
            .entry(state.applied().index)
            .or_insert_with(|| state.checksum());
    }

    fn hear(&mut self, message: &Message) {
        match message.body {
            // They speak of a term that nobody is in.
            Body::PreVote { .. } | Body::PreVoteReply { .. } => return,
            Body::AppendReply(Ok(Accepted { match_index })) => {
                self.upto = self.upto.max(match_index);
            }
            Body::SnapshotReply {
                snapshot,
                installed: true,
                ..
            } => self.upto = self.upto.max(snapshot.last.index),
            Body::Vote { .. } => {
                self.votes.insert(message.term, message.from);
            }
            Body::VoteReply { granted: true } => {
                self.votes.insert(message.term, message.to);
            }
            _ => {}
        }
        self.term = self.term.max(message.term);
    }

    /// A node that came back has all that it had promised, and nothing else.
    fn check<D: Disk>(&self, node: &Node<D>) {
        let (raft, log) = (node.raft(), node.raft().log());
        assert!(
            log.last().index >= self.upto,
            "{} was promised, the log ends at {}",
            self.upto,
            log.last()
        );
        assert!(raft.term() >= self.term, "it has spoken of {}", self.term);
        if let Some(vote) = self.votes.get(&raft.term()) {
            assert_eq!(raft.hard_state().voted_for, Some(*vote));
        }
        for index in log.base().index.0 + 1..=log.last().index.0 {
            let entry = log.get(Index(index)).expect("no gap");
            assert_eq!(
                self.entries.get(&entry.id),
                Some(&entry.payload),
                "{} was never there",
                entry.id
            );
        }
        let state = node.machine();
        assert_eq!(
            self.states.get(&state.applied().index),
            Some(&state.checksum()),
            "the snapshot is of another state"
        );
    }
}

/// A node on a disk whose crashes are tried.
struct Tried {
    trace: Trace,
    node: Node<FileDisk>,
    config: NodeConfig,
    promised: Promised,
    rng: Rng,
    /// Whether crashes are tried now.
    tries: bool,
    tried: usize,
}

impl Tried {
    fn start(config: NodeConfig, seed: u64) -> Tried {
        let (trace, disk) = Trace::begin(seed % 2 == 1);
        let config = NodeConfig {
            meta: trace.meta(),
            ..config
        };
        let opened = Node::open(config.clone(), disk, Time::ZERO);
        let (node, _) = opened.expect("an empty disk");
        let mut promised = Promised::default();
        promised.see(&node);
        Tried {
            trace,
            node,
            config,
            promised,
            rng: Rng(seed),
            tries: true,
            tried: 0,
        }
    }

    /// A call of the disk and what may be left behind it; whether it had something to do.
    fn step_disk(&mut self, now: Time) -> bool {
        let rng = &mut self.rng;
        let step = self.trace.step(self.node.disk(), &mut || rng.next());
        match step {
            Some(Step::Call) if self.tries => self.try_crashes(),
            Some(Step::Call) => {}
            Some(Step::Event(event)) => self.node.handle_disk(now, event),
            None => return false,
        }
        true
    }

    /// The disk does all that it was asked for.
    fn rest(&mut self, now: Time) {
        self.node.flush(now);
        while self.step_disk(now) {
            self.node.flush(now);
        }
    }

    fn try_crashes(&mut self) {
        let (config, promised) = (&self.config, &self.promised);
        let (mut coin, mut number) = (Rng(self.rng.next()), 0);
        self.tried += self
            .trace
            .crash_states(STATES_MAX, &mut || coin.next(), |left| {
                number += 1;
                let (mut node, _) = Node::open(config.clone(), left, Time::ZERO)
                    .unwrap_or_else(|error| panic!("it does not come back: {error}"));
                promised.check(&node);
                if number % GO_ON_EVERY == 0 {
                    opens(&mut node);
                    promised.check(&node);
                }
            });
    }

    fn flush(&mut self, now: Time) {
        if now >= self.node.next_deadline(now) {
            self.node.tick(now);
        }
        self.node.flush(now);
        assert_eq!(self.node.failure(), None);
        self.promised.see(&self.node);
    }
}

/// Lets the disk do all that the start has asked for.
fn opens(node: &mut Node<SimDisk>) {
    node.flush(Time::ZERO);
    while let Some(event) = node.disk().step() {
        node.handle_disk(Time::ZERO, event);
        node.flush(Time::ZERO);
    }
    assert!(node.ledger.wal.is_open() && node.failure().is_none());
}

/// A cluster of one: takes `writes` writes, with snapshots, compaction and recycling.
fn alone(seed: u64, writes: u64, tries: bool) -> Tried {
    let mut tried = Tried {
        tries,
        ..Tried::start(config(0, 1), seed)
    };
    tried.node.found(Time::ZERO);
    let (mut now, mut asked, mut answered) = (Time::ZERO, 0, 0);
    while answered < writes {
        now += Duration::from_millis(1);
        let is_founded = tried.node.raft().is_leader() && tried.node.birth() != Birth::NONE;
        if is_founded && asked < writes && tried.rng.below(3) > 0 {
            asked += 1;
            tried.node.handle_client(now, caller(asked), write(asked));
        }
        for _ in 0..tried.rng.below(6) {
            tried.step_disk(now);
        }
        tried.flush(now);
        let answers = std::mem::take(&mut tried.node.outputs().answers);
        for (_, answer) in answers {
            assert!(matches!(answer, Answer::Applied(_)), "{answer:?}");
            answered += 1;
            tried.promised.upto = tried.node.machine.applied().index;
        }
        assert!(now < Time::from_millis(100_000), "{answered} of {writes}");
    }
    tried.rest(now);
    tried.trace.check_model(tried.node.disk());
    tried
}

#[test]
fn whatever_a_crash_leaves_of_a_node_alone_it_starts_with_all_it_has_answered() {
    let mut tried = 0;
    for seed in 0..10 {
        let node = alone(seed, 90, true);
        let status = node.node.status(Time::ZERO);
        assert!(status.snapshots_taken >= 3, "{}", status.snapshots_taken);
        tried += node.tried;
    }
    println!("figure: crash states of a node alone: {tried}");
    assert!(tried > 5_000, "{tried}");
}

/// Two nodes that are well and one whose crashes are tried.
struct Cluster {
    well: Vec<Node<SimDisk>>,
    tried: Tried,
    now: Time,
    cut_off: bool,
    answered: u64,
}

const TRIED: usize = 1;
const WELL: [usize; 2] = [0, 2];

impl Cluster {
    fn start(seed: u64) -> Cluster {
        let well = |id| {
            let opened = Node::open(config(id, 3), SimDisk::new(), Time::ZERO);
            opened.expect("an empty disk").0
        };
        let mut cluster = Cluster {
            well: WELL.iter().map(|id| well(*id as u64)).collect(),
            tried: Tried::start(config(TRIED as u64, 3), seed),
            now: Time::ZERO,
            cut_off: false,
            answered: 0,
        };
        (0..40).for_each(|_| cluster.round());
        cluster.introduce();
        cluster.run_until("all are voters of one cluster", |cluster| {
            let all = cluster.well.iter().map(|node| node.birth());
            let known = all.chain([cluster.tried.node.birth()]);
            known.into_iter().all(|birth| birth != Birth::NONE)
                && cluster.leader().is_some_and(|leader| {
                    leader.raft().configuration().pending().next().is_none()
                        && leader.raft().quorum().voters().len() == 3
                        && !leader.raft().change_is_pending()
                })
        });
        cluster
    }

    /// All introduce themselves to each other, on new connections.
    fn introduce(&mut self) {
        let all = [0, 1, 2].map(NodeId);
        for from in all {
            for to in all.into_iter().filter(|to| *to != from) {
                let hello = match from.0 as usize {
                    TRIED => self.tried.node.hello(to),
                    well => self.well[well / 2].hello(to),
                };
                match to.0 as usize {
                    TRIED => self.tried.node.handle_hello(caller(from.0), &hello),
                    well => self.well[well / 2].handle_hello(caller(from.0), &hello),
                }
            }
        }
    }

    fn leader(&mut self) -> Option<&mut Node<SimDisk>> {
        self.well.iter_mut().find(|node| node.raft().is_leader())
    }

    /// Each node does what is to do, and what it says arrives at once.
    fn round(&mut self) {
        self.now += Duration::from_millis(1);
        let now = self.now;
        for node in &mut self.well {
            while let Some(event) = node.disk().step() {
                node.handle_disk(now, event);
            }
            if now >= node.next_deadline(now) {
                node.tick(now);
            }
            node.flush(now);
            self.tried.promised.see_state(node);
        }
        for _ in 0..self.tried.rng.below(5) {
            self.tried.step_disk(now);
        }
        self.tried.flush(now);
        let said = std::mem::take(self.tried.node.outputs());
        said.messages
            .iter()
            .for_each(|m| self.tried.promised.hear(m));
        let (mut messages, mut hellos) = (said.messages, said.hellos);
        let mut anew = said.reintroduce;
        let own = messages.len();
        for node in &mut self.well {
            let said = std::mem::take(node.outputs());
            messages.extend(said.messages);
            hellos.extend(said.hellos);
            anew |= said.reintroduce;
            self.answered += said.answers.len() as u64;
        }
        for (number, message) in messages.into_iter().enumerate() {
            let involved = number < own || message.to.id.0 as usize == TRIED;
            if self.cut_off && involved {
                continue;
            }
            match message.to.id.0 as usize {
                TRIED => self.tried.node.handle_peer(now, message),
                well => self.well[well / 2].handle_peer(now, message),
            }
        }
        for (_, reply) in hellos {
            let incarnation = reply.facts.incarnation.0;
            let by = match incarnation == self.tried.config.meta.incarnation {
                true => NodeId(TRIED as u64),
                false => NodeId(incarnation - INCARNATIONS),
            };
            match reply.to.0 as usize {
                TRIED => self.tried.node.handle_hello_reply(now, by, reply),
                well => self.well[well / 2].handle_hello_reply(now, by, reply),
            }
        }
        if anew {
            self.introduce();
        }
    }

    fn run_until(&mut self, what: &str, mut done: impl FnMut(&mut Cluster) -> bool) {
        for _ in 0..20_000 {
            if done(self) {
                return;
            }
            self.round();
        }
        panic!("waited in vain: {what}");
    }

    /// So many writes, of which none waits for the tried node.
    fn write(&mut self, from: u64, count: u64) {
        for number in from..from + count {
            self.run_until("a leader that is well", |cluster| {
                cluster.leader().is_some()
            });
            let now = self.now;
            let leader = self.leader().expect("just seen");
            leader.handle_client(now, caller(number), write(number));
            self.round();
        }
        self.run_until("all writes are answered", |cluster| {
            cluster.answered >= from + count - 1
        });
    }

    fn is_level(&mut self) -> bool {
        let applied = self.tried.node.applied();
        self.leader()
            .is_some_and(|leader| leader.applied() == applied)
    }
}

/// Writes to a cluster of which one is cut off until only a snapshot brings it back.
fn follower(seed: u64) -> Cluster {
    let mut cluster = Cluster::start(seed);
    cluster.write(1, 25);
    cluster.cut_off = true;
    cluster.write(26, 60);
    cluster.cut_off = false;
    // The others lead on: it has nothing but a snapshot to come back by.
    cluster.run_until("the follower has caught up", Cluster::is_level);
    cluster.write(86, 30);
    cluster.run_until("the follower has all", Cluster::is_level);
    let status = cluster.tried.node.status(cluster.now);
    assert!(status.snapshots_installed >= 1);
    assert!(status.snapshots_taken >= 1);
    assert!(cluster.tried.promised.upto >= Index(115));
    cluster
}

#[test]
fn whatever_a_crash_leaves_of_a_follower_what_it_confirmed_voted_and_installed_is_there() {
    let tried: usize = (0..12).map(|seed| follower(seed).tried.tried).sum();
    println!("figure: crash states of a follower: {tried}");
    assert!(tried > 4_000, "{tried}");
}

#[test]
fn known_bugs_of_the_file_writer_are_found() {
    for bug in [Mutation::RenameNotSynced, Mutation::RenamedUnsynced] {
        let run = |seed| drop(alone(seed, 90, true));
        assert!(is_found(bug, 0..10, run), "{bug:?} in a node alone");
        let run = |seed| drop(follower(seed));
        assert!(is_found(bug, 0..12, run), "{bug:?} in a follower");
    }
}

/// Starts a node on what is left: with all it had promised, or a refusal that helps.
fn judge(node: &Tried, disk: &SimDisk, what: &dyn std::fmt::Debug) -> bool {
    let disk = SimDisk::of(disk.segment_images(), disk.file_images());
    judge_disk(node, disk, what)
}

fn judge_disk(node: &Tried, disk: SimDisk, what: &dyn std::fmt::Debug) -> bool {
    match Node::open(node.config.clone(), disk, Time::ZERO) {
        Ok((opened, _)) => {
            node.promised.check(&opened);
            true
        }
        Err(error) => {
            let text = error.to_string();
            assert!(
                error.is_damage() && text.contains("--rejoin"),
                "{what:?}: {text}"
            );
            false
        }
    }
}

#[test]
fn damaged_snapshots_are_passed_by_or_the_node_refuses() {
    let node = alone(3, 90, false);
    let mut disk = node.trace.cached();
    let files = disk.file_images();
    let ids: Vec<FileId> = files.keys().copied().collect();
    let snapshots: Vec<FileId> = ids
        .into_iter()
        .filter(|id| matches!(id, FileId::Snapshot(_)))
        .collect();
    assert_eq!(snapshots.len(), 2, "two are kept");
    let mut refused = 0;
    for id in &snapshots {
        let whole = files[id].clone();
        for len in (0..whole.len()).rev() {
            disk.file_mut(*id).expect("it exists").truncate(len);
            refused += usize::from(!judge(&node, &disk, &("cut", id, len)));
        }
        let file = disk.file_mut(*id).expect("it exists");
        file.clone_from(&whole);
        for (at, byte) in whole.iter().enumerate() {
            disk.file_mut(*id).expect("it exists")[at] ^= 1 << (at % 8);
            refused += usize::from(!judge(&node, &disk, &("flip", id, at)));
            disk.file_mut(*id).expect("it exists")[at] = *byte;
        }
    }
    assert!(
        refused > 1_000,
        "the log begins behind the newest: {refused}"
    );
    assert!(judge(&node, &disk, &"undamaged"));
}

#[test]
fn missing_logs_and_snapshots_are_told() {
    let node = alone(4, 90, false);
    let disk = node.trace.cached();
    let (segments, files) = (disk.segment_images(), disk.file_images());
    let without_log = SimDisk::of([], files.clone());
    assert!(!judge_disk(&node, without_log, &"no log"));
    let without_snapshots = SimDisk::of(segments.clone(), []);
    assert!(!judge_disk(&node, without_snapshots, &"no snapshots"));
    for gone in files.keys() {
        let left = files.clone().into_iter().filter(|(id, _)| id != gone);
        let disk = SimDisk::of(segments.clone(), left);
        let is_snapshot = |id: &&FileId| matches!(id, FileId::Snapshot(_));
        let newest = files.keys().rfind(is_snapshot) == Some(gone);
        assert_eq!(judge_disk(&node, disk, gone), !newest, "{gone:?}");
    }
}

/// A disk that may only be read.
struct ReadOnly(SimDisk);

const CHANGED: &str = "a refused start changes the disk";

impl Disk for ReadOnly {
    fn create_segment(&mut self, _: SegmentId, _: u64, _: Option<SegmentId>) {
        panic!("{CHANGED}")
    }
    fn reopen_segment(&mut self, _: SegmentId, _: u64) {
        panic!("{CHANGED}")
    }
    fn store(&mut self, _: SegmentId, _: u64, _: Buffer) {
        panic!("{CHANGED}")
    }
    fn sync(&mut self) -> SyncToken {
        panic!("{CHANGED}")
    }
    fn remove_segment(&mut self, _: SegmentId) {
        panic!("{CHANGED}")
    }
    fn create_file(&mut self, _: FileId) {
        panic!("{CHANGED}")
    }
    fn append_file(&mut self, _: FileId, _: Bytes) {
        panic!("{CHANGED}")
    }
    fn finish_file(&mut self, _: FileId, _: FileId) {
        panic!("{CHANGED}")
    }
    fn read_file(&mut self, _: FileId, _: u64, _: usize) {
        panic!("{CHANGED}")
    }
    fn remove_file(&mut self, _: FileId) {
        panic!("{CHANGED}")
    }
    fn segments(&mut self) -> io::Result<Vec<SegmentInfo>> {
        self.0.segments()
    }
    fn files(&mut self) -> io::Result<Vec<FileInfo>> {
        self.0.files()
    }
    fn recover_segment(&mut self, id: SegmentId, at: u64, buf: &mut [u8]) -> io::Result<usize> {
        self.0.recover_segment(id, at, buf)
    }
    fn recover_file(&mut self, id: FileId, at: u64, buf: &mut [u8]) -> io::Result<usize> {
        self.0.recover_file(id, at, buf)
    }
}

#[test]
fn a_refused_start_changes_nothing_on_the_disk() {
    let node = alone(4, 90, false);
    // What is missing shows only when the log has been read.
    let disk = ReadOnly(SimDisk::of(node.trace.cached().segment_images(), []));
    let refused = Node::open(node.config.clone(), disk, Time::ZERO).map(|_| ());
    let refused = refused.expect_err("the snapshots are gone");
    assert!(
        matches!(refused, OpenError::SnapshotMissing { .. }),
        "{refused}"
    );
}

#[test]
fn a_directory_that_takes_the_place_of_a_damaged_one_founds_nothing() {
    for rejoins in [false, true] {
        let mut config = config(0, 3);
        config.meta.replaces = rejoins.then_some(0);
        let opened = Node::open(config, SimDisk::new(), Time::ZERO);
        let mut node = opened.expect("an empty disk").0;
        for peer in [1, 2] {
            let reply = crate::node::HelloReply {
                to: NodeId(0),
                refused: None,
                lost_directory: false,
                term: Term(0),
                facts: Facts {
                    incarnation: Incarnation(INCARNATIONS + peer),
                    birth: Birth::NONE,
                    is_new: true,
                    was_voter: false,
                    established: false,
                    level: LEVEL_MAX,
                    addresses: Addresses::default(),
                },
            };
            node.handle_hello_reply(Time::ZERO, NodeId(peer), reply);
        }
        for _ in 0..10 {
            node.flush(Time::ZERO);
            while let Some(event) = node.disk().step() {
                node.handle_disk(Time::ZERO, event);
            }
        }
        assert_eq!(node.raft().is_leader(), !rejoins);
        assert_eq!(node.birth() != Birth::NONE, !rejoins);
    }
}
