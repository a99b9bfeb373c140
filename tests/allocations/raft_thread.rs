//! What the raft thread of a leader does for puts and gets: three nodes driven by hand, with
//! disks that forget all, so that what the leader's own calls allocate can be counted.

use std::collections::VecDeque;
use std::io;
use std::time::Duration;

use bytes::Bytes;
use raftkv::config::Founding;
use raftkv::disk::{Disk, DiskEvent, FileId, FileInfo, Meta, SegmentId, SegmentInfo, SyncToken};
use raftkv::kv::{ClientId, Command, Identity, Outcome, SessionLimits, WriteOp};
use raftkv::mem::{self, Buffer};
use raftkv::node::{
    APPLY_ENTRIES_MAX, Addresses, Answer, Caller, Node, NodeConfig, Outputs, Request,
};
use raftkv::raft::{Configuration, LEVEL_MAX};
use raftkv::time::Time;
use raftkv::types::NodeId;

use crate::ALLOCATIONS;

const NODES: u64 = 3;
/// Clients that wait at a time.
const BATCH: u64 = 32;
const KEYS: u64 = 2_000;
/// The bytes of the log between two snapshots: several are taken on the way.
const SNAPSHOT_LOG_BYTES: u64 = 256 << 10;

/// Does at once what it is asked for, and keeps nothing.
#[derive(Default)]
struct NullDisk {
    events: VecDeque<DiskEvent>,
    token: SyncToken,
    appended: u64,
}

impl Disk for NullDisk {
    fn create_segment(&mut self, id: SegmentId, _len: u64, _recycle: Option<SegmentId>) {
        self.events.push_back(DiskEvent::SegmentReady(id));
    }

    fn reopen_segment(&mut self, id: SegmentId, _: u64) {
        self.events.push_back(DiskEvent::SegmentReady(id));
    }

    fn store(&mut self, _id: SegmentId, _offset: u64, _data: Buffer) {}

    fn sync(&mut self) -> SyncToken {
        self.token.0 += 1;
        self.events.push_back(DiskEvent::Synced(self.token));
        self.token
    }

    fn remove_segment(&mut self, _id: SegmentId) {}

    fn create_file(&mut self, _id: FileId) {
        self.appended = 0;
    }

    fn append_file(&mut self, id: FileId, data: Bytes) {
        self.appended += data.len() as u64;
        let len = self.appended;
        self.events.push_back(DiskEvent::FileAppended { id, len });
    }

    fn finish_file(&mut self, _id: FileId, final_id: FileId) {
        self.events.push_back(DiskEvent::FileFinished(final_id));
    }

    fn read_file(&mut self, id: FileId, offset: u64, _len: usize) {
        let data = Bytes::new();
        self.events
            .push_back(DiskEvent::FileRead { id, offset, data });
    }

    fn remove_file(&mut self, _id: FileId) {}

    fn segments(&mut self) -> io::Result<Vec<SegmentInfo>> {
        Ok(Vec::new())
    }

    fn files(&mut self) -> io::Result<Vec<FileInfo>> {
        Ok(Vec::new())
    }

    fn recover_segment(&mut self, _: SegmentId, _: u64, _: &mut [u8]) -> io::Result<usize> {
        unreachable!("there is nothing to recover")
    }

    fn recover_file(&mut self, _: FileId, _: u64, _: &mut [u8]) -> io::Result<usize> {
        unreachable!("there is nothing to recover")
    }
}

fn open(id: u64, snapshot_log_bytes: u64) -> Node<NullDisk> {
    let config = NodeConfig {
        id: NodeId(id),
        first_members: Configuration::of_voters(
            (0..NODES).map(|id| (NodeId(id), 0, format!("p{id}"), format!("c{id}"))),
        ),
        read_lease: false,
        disk_patience: Duration::from_secs(2),
        cluster_id: 1,
        founding: Founding::AllFirstMembers,
        level: LEVEL_MAX,
        addresses: Addresses::default(),
        addresses_from_file: false,
        meta: Meta::new(NodeId(id), 1, id + 1),
        election_timeout: (Duration::from_millis(150), Duration::from_millis(300)),
        heartbeat: Duration::from_millis(50),
        seed: id,
        segment_bytes: 16 << 20,
        first_segment_bytes: 1 << 20,
        snapshot_log_bytes,
        snapshot_tail_bytes: 16 << 10,
        snapshot_hold_bytes: 1 << 20,
        snapshot_send_bytes_per_sec: 0,
        snapshot_write_bytes_per_sec: 0,
        disk_give_up: None,
        state_check_entries: 256,
        apply_entries_max: APPLY_ENTRIES_MAX,
        memory_limit: None,
        session_limits: SessionLimits {
            implicit_window: 1_000,
            ..SessionLimits::default()
        },
    };
    let (node, _) = Node::open(config, NullDisk::default(), Time::ZERO).expect("an empty disk");
    node
}

struct Cluster {
    nodes: Vec<Node<NullDisk>>,
    now: Time,
    /// What the calls of node 0, the leader, have allocated.
    allocated: u64,
    answered: Vec<(Caller, Answer)>,
}

impl Cluster {
    fn start(snapshot_log_bytes: u64) -> Cluster {
        let mut cluster = Cluster {
            nodes: (0..NODES).map(|id| open(id, snapshot_log_bytes)).collect(),
            now: Time::ZERO,
            allocated: 0,
            answered: Vec::new(),
        };
        cluster.run(10);
        for _ in 0..5_000 {
            let anew = |node: &mut Node<NullDisk>| std::mem::take(&mut node.outputs().reintroduce);
            if cluster.nodes.iter_mut().any(anew) || cluster.now == Time::ZERO {
                cluster.introduce();
            }
            let raft = cluster.nodes[0].raft();
            let voters = raft.quorum().voters().len() as u64;
            if raft.is_leader() && voters == NODES && !raft.change_is_pending() {
                cluster.run(10);
                return cluster;
            }
            cluster.now += Duration::from_millis(1);
            cluster.run(1);
        }
        panic!("node 0 does not lead");
    }

    /// All introduce themselves to each other.
    fn introduce(&mut self) {
        for (from, to) in (0..NODES).flat_map(|a| (0..NODES).map(move |b| (a, b))) {
            if from != to {
                let hello = self.nodes[from as usize].hello(NodeId(to));
                let caller = Caller {
                    reactor: 0,
                    connection: from,
                    sequence: 0,
                };
                self.call(to, |node, _| node.handle_hello(caller, &hello));
                self.run(5);
            }
        }
    }

    /// Everything that happens in a node goes through here, so that it is counted.
    fn call(&mut self, id: u64, act: impl FnOnce(&mut Node<NullDisk>, Time)) {
        let before = ALLOCATIONS.get();
        act(&mut self.nodes[id as usize], self.now);
        if id == 0 {
            self.allocated += ALLOCATIONS.get() - before;
        }
    }

    /// So many rounds in which each node takes its mail and is flushed.
    fn run(&mut self, rounds: usize) {
        for _ in 0..rounds {
            for id in 0..NODES {
                while let Some(event) = self.nodes[id as usize].disk().events.pop_front() {
                    self.call(id, |node, now| node.handle_disk(now, event));
                }
                self.call(id, |node, now| {
                    if now >= node.next_deadline(now) {
                        node.tick(now);
                    }
                    node.flush(now);
                });
                self.deliver(id);
            }
        }
    }

    fn deliver(&mut self, from: u64) {
        let Outputs {
            messages,
            answers,
            hellos,
            members: _,
            reintroduce: _,
        } = self.nodes[from as usize].outputs();
        // The node keeps its room.
        let (mut mail, mut replies) = (Vec::new(), Vec::new());
        mail.append(messages);
        replies.append(hellos);
        self.answered.append(answers);
        for message in mail {
            let to = message.to.id.0;
            self.call(to, |node, now| node.handle_peer(now, message));
        }
        for (_, reply) in replies {
            let to = reply.to.0;
            self.call(to, |node, now| {
                node.handle_hello_reply(now, NodeId(from), reply);
            });
        }
    }

    /// Lets clients ask for something, each once, and returns what the leader allocated for it.
    fn ask(&mut self, requests: Vec<Request>) -> u64 {
        self.allocated = 0;
        self.answered.clear();
        let asked = requests.len();
        for (sequence, request) in requests.into_iter().enumerate() {
            let caller = Caller {
                reactor: 0,
                connection: 1,
                sequence: sequence as u64,
            };
            self.call(0, |node, now| node.handle_client(now, caller, request));
        }
        for _ in 0..100 {
            self.now += Duration::from_micros(100);
            self.run(1);
            if self.answered.len() == asked {
                return self.allocated;
            }
        }
        panic!("{} of {asked} answered", self.answered.len());
    }
}

fn key(number: u64) -> Bytes {
    Bytes::from(format!("{:016}", number % KEYS))
}

fn updates(round: u64) -> Vec<Request> {
    let update = |n| {
        let sequence = round * BATCH + n;
        let command = Command::Write {
            identity: Identity::Implicit {
                client: ClientId(u128::from(sequence)),
                sequence,
            },
            op: WriteOp::Update {
                key: key(sequence * 7),
                value: Bytes::from(vec![round as u8; 100]),
            },
        };
        Request::Write {
            command: command.encode(),
            grows: true,
        }
    };
    (0..BATCH).map(update).collect()
}

fn gets(round: u64) -> Vec<Request> {
    let get = |n| Request::Get {
        anywhere: false,
        key: key(round * BATCH + n),
    };
    (0..BATCH).map(get).collect()
}

#[test]
fn the_leaders_raft_thread_allocates_nothing_for_puts_and_gets() {
    // Without snapshots, whose blocks are handed to another thread; see below.
    let mut cluster = Cluster::start(1 << 40);
    for round in 0..500 {
        cluster.ask(updates(round));
        cluster.ask(gets(round));
    }
    let mapped_before = mem::stats().mapped_bytes;
    // The log in memory, which no snapshot shortens here, doubles its room now and then.
    let (mut growths, mut puts) = (0, 0);
    for round in 500..900 {
        let allocated = cluster.ask(updates(round));
        growths += u64::from(allocated > 0);
        puts += allocated;
        let done = |(_, answer): &(_, Answer)| *answer == Answer::Applied(Outcome::Created);
        assert!(cluster.answered.iter().all(done));
    }
    assert!(
        growths <= 1 && puts <= 1,
        "{puts} allocations in {growths} of 400 batches of puts"
    );
    for round in 0..400 {
        assert_eq!(cluster.ask(gets(round)), 0, "by gets");
        let found = |(_, answer): &(_, Answer)| matches!(answer, Answer::Value(Some(_)));
        assert!(cluster.answered.iter().all(found));
    }
    let mapped = mem::stats().mapped_bytes - mapped_before;
    assert!(
        mapped <= 4 << 20,
        "the pool grew by {mapped} bytes, for the log"
    );
}

#[test]
fn with_snapshots_the_log_keeps_its_room_and_only_their_blocks_are_allocated() {
    let mut cluster = Cluster::start(SNAPSHOT_LOG_BYTES);
    for round in 0..1_000 {
        cluster.ask(updates(round));
    }
    let taken = |cluster: &Cluster| cluster.nodes[0].status(cluster.now).snapshot_index;
    let (before, mut allocated) = (taken(&cluster), 0);
    for round in 1_000..2_000 {
        allocated += cluster.ask(updates(round));
    }
    assert!(taken(&cluster) > before, "snapshots were taken meanwhile");
    // A block of a snapshot, its session table, what keys ahead of the walk held that change
    // meanwhile, and its bookkeeping; nothing for each put. Here a snapshot follows the other.
    let puts = 1_000 * BATCH;
    assert!(
        allocated * 4 < puts,
        "{allocated} allocations for {puts} puts"
    );
}
