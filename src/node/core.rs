//! What comes in, what goes out, and the order in which a batch is carried out.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use log::error;

use crate::config::Founding;
use crate::disk::{Disk, DiskEvent, FileId, Meta};
use crate::kv::{SessionLimits, StateMachine};
use crate::limits;
use crate::mutation::mutated;
use crate::node::backup::Backups;
use crate::node::disk_watch::DiskWatch;
use crate::node::durability::Ledger;
use crate::node::identity::Identity;
use crate::node::install::Install;
use crate::node::members::{Addresses, Operators};
use crate::node::memory::Memory;
use crate::node::removal::Removal;
use crate::node::requests::{Answer, Caller, Requests};
use crate::node::snapshots::Snapshots;
use crate::node::space::Space;
use crate::node::state_check::{Said, StateCheck};
use crate::node::status::Ticks;
use crate::node::transfer::Transfers;
use crate::node::{Hello, HelloReply};
use crate::raft::{Configuration, Message, Raft};
use crate::time::Time;
use crate::types::{EntryId, Index, NodeId, Payload, Term};

/// What a node is told at its start.
#[derive(Clone, Debug)]
pub struct NodeConfig {
    /// This node.
    pub id: NodeId,
    /// The first members of the cluster, who found it. What the log or a snapshot says is
    /// newer.
    pub first_members: Configuration,
    /// A hash of the first members.
    pub cluster_id: u64,
    /// When this node founds the cluster.
    pub founding: Founding,
    /// The highest feature level that this node supports:
    /// [`LEVEL_MAX`](crate::raft::LEVEL_MAX), or less in tests of an upgrade.
    pub level: u16,
    /// The addresses at which this node is reached.
    pub addresses: Addresses,
    /// Whether nodes are reached at the addresses of `first_members`, whatever the log says,
    /// until the log has others.
    pub addresses_from_file: bool,
    /// The description of the data directory. What the disk has of it is newer.
    pub meta: Meta,
    /// An election begins after a time drawn from this range.
    pub election_timeout: (Duration, Duration),
    /// How often a leader says that it is there.
    pub heartbeat: Duration,
    /// Whether a leader answers reads on the strength of a lease.
    pub read_lease: bool,
    /// A disk that has made no progress for so long costs a leader its leadership.
    pub disk_patience: Duration,
    /// A disk that has made no progress for so long ends the node, if there is a limit.
    pub disk_give_up: Option<Duration>,
    /// Seeds all random choices.
    pub seed: u64,
    /// The length of a log segment, in bytes.
    pub segment_bytes: u64,
    /// The length of the segment that each start opens, in bytes.
    pub first_segment_bytes: u64,
    /// A snapshot is taken when the log since the last one is longer than this and
    /// than the last snapshot, in bytes.
    pub snapshot_log_bytes: u64,
    /// How much of the log behind a snapshot stays for followers that are a little
    /// behind, in bytes.
    pub snapshot_tail_bytes: u64,
    /// How much of the log stays for a follower that is being sent a snapshot, in bytes.
    pub snapshot_hold_bytes: u64,
    /// So many bytes a second of the data are walked over for a snapshot, or twice as many as are
    /// applied, if that is more; 0: as many as the disk takes.
    pub snapshot_write_bytes_per_sec: u64,
    /// So many bytes a second are sent of snapshots, to all followers together; 0: as many
    /// as they take.
    pub snapshot_send_bytes_per_sec: u64,
    /// The state is hashed after each so many entries, a power of two, and compared with
    /// that of other nodes; the same on all nodes.
    pub state_check_entries: u64,
    /// Maximum number of entries that one flush applies; [`APPLY_ENTRIES_MAX`] outside of tests.
    pub apply_entries_max: usize,
    /// Memory above which writes that grow the store are refused, in bytes, if there is a
    /// limit.
    pub memory_limit: Option<u64>,
    /// Bounds of the session table; the same on all nodes.
    pub session_limits: SessionLimits,
}

/// What leaves the node. The driver drains it after each flush.
#[derive(Debug, Default)]
pub struct Outputs {
    /// Messages to peers.
    pub messages: Vec<Message>,
    /// Answers to clients.
    pub answers: Vec<(Caller, Answer)>,
    /// Answers to peers that introduced themselves.
    pub hellos: Vec<(Caller, HelloReply)>,
    /// The nodes that this one talks to from now on, if that has changed.
    pub members: Option<BTreeMap<NodeId, Addresses>>,
    /// All connections between nodes are to end: what this node said of itself when it
    /// introduced itself has changed.
    pub reintroduce: bool,
}

/// The most entries, and the most bytes of them, that one flush of a running node applies, so
/// that heartbeats go out in time while a long log is caught up with.
pub const APPLY_ENTRIES_MAX: usize = 8_192;
const APPLY_BYTES_MAX: usize = 16 << 20;

/// What a node with a known bug applies in place of `payload`.
fn skip_some(id: EntryId, payload: &Payload) -> Payload {
    if id.index.0.is_multiple_of(7) {
        Payload::Noop
    } else {
        payload.clone()
    }
}

/// One member of the cluster. See the module's docs.
pub struct Node<D: Disk> {
    pub(super) config: NodeConfig,
    pub(super) raft: Raft,
    pub(super) ledger: Ledger,
    pub(super) disk: D,
    pub(super) machine: StateMachine,
    pub(super) requests: Requests,
    pub(super) snapshots: Snapshots,
    pub(super) transfers: Transfers,
    pub(super) backups: Backups,
    pub(super) install: Install,
    pub(super) identity: Identity,
    pub(super) operators: Operators,
    pub(super) removal: Removal,
    pub(super) ticks: Ticks,
    pub(super) state_check: StateCheck,
    pub(super) space: Space,
    pub(super) memory: Memory,
    pub(super) disk_watch: DiskWatch,
    pub(super) out: Outputs,
    /// The term that this node leads, as far as its clients have been told.
    leading: Option<Term>,
    failure: Option<String>,
}

/// What [`Node::open`](super::recovery) puts together.
pub(super) struct Parts<D: Disk> {
    pub(super) config: NodeConfig,
    pub(super) raft: Raft,
    pub(super) ledger: Ledger,
    pub(super) disk: D,
    pub(super) machine: StateMachine,
    pub(super) snapshots: Snapshots,
    pub(super) install: Install,
    pub(super) identity: Identity,
}

impl<D: Disk> Node<D> {
    pub(super) fn assemble(parts: Parts<D>) -> Node<D> {
        let Parts {
            config,
            raft,
            ledger,
            disk,
            machine,
            snapshots,
            install,
            identity,
        } = parts;
        Node {
            state_check: StateCheck::new(config.state_check_entries),
            config,
            raft,
            ledger,
            disk,
            machine,
            requests: Requests::default(),
            snapshots,
            transfers: Transfers::default(),
            backups: Backups::default(),
            install,
            identity,
            operators: Operators::default(),
            removal: Removal::default(),
            ticks: Ticks::default(),
            space: Space::default(),
            memory: Memory::default(),
            disk_watch: DiskWatch::default(),
            out: Outputs::default(),
            leading: None,
            failure: None,
        }
    }

    /// Takes in a message of a peer that has introduced itself.
    pub fn handle_peer(&mut self, now: Time, message: Message) {
        if self.failure.is_none() && self.may_hear() {
            let (from, term, said) = (message.from, message.term, Said::of(&message));
            self.raft.step(now, message);
            if let Some(said) = said {
                self.compare_states(from, term, &said);
            }
        }
    }

    /// A peer introduces itself on a new connection.
    pub fn handle_hello(&mut self, caller: Caller, hello: &Hello) {
        if self.failure.is_none() {
            self.on_hello(caller, hello);
        }
    }

    /// A peer answers our introduction.
    pub fn handle_hello_reply(&mut self, now: Time, from: NodeId, reply: HelloReply) {
        if self.failure.is_none() {
            self.on_hello_reply(now, from, reply);
        }
    }

    /// The connection to a peer was made anew: what was on its way may be lost.
    pub fn handle_reconnect(&mut self, peer: NodeId) {
        self.raft.peer_unreachable(peer);
    }

    /// A peer has closed its connection, or its system says that nobody is there.
    pub fn handle_disconnect(&mut self, peer: NodeId) {
        self.forget_peer(peer);
        if self.raft.leader() == Some(peer) {
            self.raft.forget_leader();
        }
    }

    /// Takes in what became of something the disk was asked for.
    pub fn handle_disk(&mut self, now: Time, event: DiskEvent) {
        if self.failure.is_some() {
            return;
        }
        if let DiskEvent::Failed { what, error } = &event {
            return self.fail(format!("{what}: {error}"));
        }
        let progress = match self.ledger.wal.on_event(&mut self.disk, &event) {
            Ok(progress) => progress,
            Err(error) => return self.fail(error.to_string()),
        };
        if progress.durable.is_some() {
            self.ledger
                .confirm(now, &mut self.raft, &mut self.out.messages);
        }
        match event {
            DiskEvent::FileAppended { id, len } => self.file_appended(id, len),
            DiskEvent::FileFinished(id) => self.file_finished(now, id),
            DiskEvent::FileNoSpace(id) => self.file_no_space(id),
            DiskEvent::FileRead { id, offset, data } => self.file_read(id, offset, &data),
            DiskEvent::SegmentReady(_)
            | DiskEvent::SegmentNoSpace(_)
            | DiskEvent::Synced(_)
            | DiskEvent::Failed { .. } => {}
        }
    }

    /// Lets time pass. To be called after what has come in was handed over, so that a
    /// process that was paused looks at its mail before it thinks itself alone.
    pub fn tick(&mut self, now: Time) {
        if self.failure.is_none() {
            self.ticks.note(now, self.raft.next_deadline());
            self.raft.tick(now);
            self.tick_transfers(now);
            if self.backups.expire(now) {
                self.snapshots.forget_soon();
            }
            self.ask_for_space(now);
            self.found_if_due(now);
        }
    }

    /// When [`Node::tick`] and [`Node::flush`] are due.
    #[must_use]
    pub fn next_deadline(&self, now: Time) -> Time {
        let applied = self.applied();
        if applied < self.raft.commit_index() || self.requests.has_read_to_serve(applied) {
            return now;
        }
        self.raft
            .next_deadline()
            .min(self.transfers.next_deadline())
            .min(self.snapshots.next_deadline(now, &self.machine))
            .min(self.backups.next_deadline())
            .min(self.stop_deadline())
            .min(self.identity.next_deadline())
            .min(self.space.next_deadline())
            .min(self.disk_watch.next_deadline())
            .min(self.removal.next_deadline())
    }

    /// Carries out all that the batch of inputs since the last flush asks for.
    pub fn flush(&mut self, now: Time) {
        if self.failure.is_some() {
            return;
        }
        let (last, waiting) = (self.ledger.sync_time(), self.ledger.waiting_since(now));
        self.raft.note_disk(now, last, waiting);
        self.carry_out(now);
        self.look_for_space(now);
        self.look_at_memory(now);
        self.watch_disk(now);
        if self.failure.is_some() {
            return;
        }
        self.forget();
        self.apply(now);
        if self.failure.is_some() {
            return;
        }
        self.notice_leadership();
        self.answer_operators();
        self.serve_reads();
        self.advance_snapshot(now);
        self.keep_identity();
        self.tell_notice();
        self.tell_members(now);
        self.watch_removal(now);
    }

    fn file_appended(&mut self, id: FileId, len: u64) {
        if let FileId::SnapshotDraft(last) = id {
            self.draft_appended(last, len);
        }
    }

    fn file_finished(&mut self, now: Time, id: FileId) {
        match id {
            FileId::Snapshot(last) if self.snapshots.is_taking(last) => self.draft_finished(last),
            FileId::Snapshot(last) => self.incoming_finished(now, last),
            FileId::Meta => self.meta_finished(),
            FileId::SnapshotDraft(_)
            | FileId::SnapshotIncoming { .. }
            | FileId::MetaDraft
            | FileId::Peers => {}
        }
    }

    fn file_no_space(&mut self, id: FileId) {
        match id {
            FileId::SnapshotDraft(last) => self.draft_no_space(last),
            FileId::SnapshotIncoming { .. } => self.incoming_no_space(id),
            // A few bytes, without which nobody can be answered: as good as a failure.
            FileId::MetaDraft => self.fail("no space left on the disk for `meta`".to_owned()),
            FileId::Snapshot(_) | FileId::Meta | FileId::Peers => {}
        }
    }

    fn file_read(&mut self, id: FileId, offset: u64, data: &Bytes) {
        match id {
            FileId::Snapshot(last) => {
                self.backup_read(last, offset, data);
                self.chunk_read(last, offset, data);
            }
            FileId::SnapshotIncoming { .. } => self.incoming_read(id, offset, data),
            FileId::SnapshotDraft(_) | FileId::Meta | FileId::MetaDraft | FileId::Peers => {}
        }
    }

    /// Applies what is committed, a bounded slice of it at a time, and answers those
    /// who wait for it.
    fn apply(&mut self, now: Time) {
        let (mut entries, mut bytes) = (0, 0);
        while self.applied() < self.raft.commit_index() {
            if entries >= self.config.apply_entries_max || bytes >= APPLY_BYTES_MAX {
                break;
            }
            if self.machine.snapshot_pressure() {
                self.walk(now);
                if self.machine.snapshot_pressure() {
                    break;
                }
            }
            let index = self.applied().next();
            let entry = self
                .raft
                .log()
                .get(index)
                .expect("committed entries stay until applied");
            let id = entry.id;
            let differently = mutated!(AppliedDifferently) && self.config.id.0 == 1;
            let outcome = if differently && !self.raft.is_leader() {
                self.machine.apply(id, &skip_some(id, &entry.payload))
            } else {
                self.machine.apply(id, &entry.payload)
            };
            entries += 1;
            bytes += entry.size_bytes();
            self.snapshots.count(entry.size_bytes());
            self.requests.applied(id, outcome, &mut self.out.answers);
            if self.state_check.is_due(index) {
                self.hash_state(index);
                if self.failure.is_some() {
                    break;
                }
            }
        }
    }

    /// Tells clients when leadership was lost: what they wait for may or may not happen.
    fn notice_leadership(&mut self) {
        let leads = self.raft.is_leader().then(|| self.raft.term());
        if leads != self.leading {
            if self.leading.is_some() {
                self.requests.leadership_lost(&mut self.out.answers);
                self.transfers.clear();
            }
            self.leading = leads;
        }
    }

    /// What goes out since the driver last took it.
    pub fn outputs(&mut self) -> &mut Outputs {
        &mut self.out
    }

    /// The disk.
    pub fn disk(&mut self) -> &mut D {
        &mut self.disk
    }

    /// Gives the disk back; the node is gone. For drivers that crash it.
    #[must_use]
    pub fn into_disk(self) -> D {
        self.disk
    }

    /// The consensus core, for looking at.
    #[must_use]
    pub fn raft(&self) -> &Raft {
        &self.raft
    }

    /// The state machine, for looking at.
    #[must_use]
    pub fn machine(&self) -> &StateMachine {
        &self.machine
    }

    /// Up to where entries have been applied.
    #[must_use]
    pub fn applied(&self) -> Index {
        self.machine.applied().index
    }

    /// Why the node has stopped: it does and answers nothing any more.
    #[must_use]
    pub fn failure(&self) -> Option<&str> {
        self.failure.as_deref()
    }

    /// Local I/O has failed: stops before anything is promised that may not be so.
    pub(super) fn fail(&mut self, why: String) {
        error!(target: "Raft", "stop: {why}");
        self.out = Outputs::default();
        self.failure = Some(why);
    }
}

const _: () = assert!(
    APPLY_BYTES_MAX >= limits::COMMAND_BYTES_MAX,
    "a slice takes any entry"
);
