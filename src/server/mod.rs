//! The server: one raft thread, one event loop a core for the rest, the threads of the
//! disk, and the mailboxes between them.
//!
//! | file | thread |
//! |---|---|
//! | `raft_thread.rs` | owns the node: all Raft state, the store, the requests |
//! | `reactor.rs` | an event loop; `clients.rs` on each, `peers.rs` on the first |
//! | `cores.rs` | how they get their time, and on which core |
//! | `mail.rs` | what they say to each other, and how much of it may wait |
//!
//! [`Server::start`] does all that can fail, in the thread of the caller, so that what
//! goes wrong is one clear line; after it, only local I/O ends a server.

mod clients;
mod cores;
mod mail;
mod peers;
mod raft_thread;
mod reactor;
mod strangers;

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use log::{debug, info, warn};
use rand::TryRng;
use rand::rngs::SysRng;

use crate::config::{Cluster, Founding, Member, Tuning, default_memory_limit};
use crate::disk::{DataDir, DiskEvent, FileDisk};
use crate::kv::SessionLimits;
use crate::limits;
use crate::mailbox::{self, Doorbell, Sender, TrySendError};
use crate::mem::Buffer;
use crate::net::{self, ConnectionBudget, ConnectionMap, EventLoop, Sharing};
use crate::node::{APPLY_ENTRIES_MAX, Addresses, Answer, Node, NodeConfig};
use crate::proto;
use crate::raft::{Configuration, LEVEL_MAX};
use crate::server::clients::Clients;
use crate::server::cores::{Cores, interrupt_nobody};
use crate::server::mail::{
    Control, DISK_MAIL_MAX, FromClient, FromPeer, Inbox, Load, MEMBER_MAIL_MAX, Outbox,
    PEER_MAIL_MAX,
};
use crate::server::peers::{Connected, Peers};
use crate::server::raft_thread::{Clock, RaftThread};
use crate::server::reactor::Reactor;
use crate::server::strangers::Strangers;
use crate::types::{Birth, NodeId};

pub use raft_thread::Ending;

/// The segment that each start opens: small, so that it is there at once.
const FIRST_SEGMENT_BYTES: u64 = 1 << 20;

/// What a server is started with.
#[derive(Clone, Debug)]
pub struct ServerOptions {
    /// Which member this is.
    pub id: NodeId,
    /// The first members.
    pub cluster: Cluster,
    /// Where it listens.
    pub member: Member,
    /// What can be tuned.
    pub tuning: Tuning,
    /// Where `raftnode_N/` is.
    pub data_dir: PathBuf,
    /// Whether a damaged directory is moved aside, and the node catches up from its peers.
    pub rejoin: bool,
    /// When a new directory founds the cluster by itself.
    pub founding: Founding,
    /// Whether nodes are reached at the addresses of `cluster`, whatever the log says, until
    /// the log has others.
    pub addresses_from_file: bool,
}

/// Why a server does not start. Nothing was damaged.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Someone else listens there.
    #[error("cannot listen on {addr}: {source}")]
    Listen {
        /// Where.
        addr: SocketAddr,
        /// Why not.
        source: io::Error,
    },
    /// The data directory.
    #[error(transparent)]
    Directory(#[from] crate::disk::OpenError),
    /// What is in the data directory.
    #[error("{path}: {source}")]
    Recovery {
        /// The directory.
        path: String,
        /// What is wrong with it.
        source: crate::node::OpenError,
    },
    /// A cluster is founded in a new directory.
    #[error(
        "{path}: has data in it; --found is for a new directory, once in the life of a cluster: start the node without it"
    )]
    NotNew {
        /// The directory.
        path: PathBuf,
    },
    /// The system is out of something.
    #[error("{what}: {source}")]
    System {
        /// What was tried.
        what: &'static str,
        /// Why it failed.
        source: io::Error,
    },
}

impl StartError {
    /// Whether the data directory is damaged, so that `--rejoin` is of help.
    fn is_damage(&self) -> bool {
        match self {
            StartError::Directory(error) => error.is_damage(),
            StartError::Recovery { source, .. } => source.is_damage(),
            StartError::Listen { .. } | StartError::NotNew { .. } | StartError::System { .. } => {
                false
            }
        }
    }
}

/// A running server.
pub struct Server {
    control: Sender<Control>,
    stop_reactors: Vec<Sender<()>>,
    raft: JoinHandle<Ending>,
    reactors: Vec<JoinHandle<io::Result<()>>>,
}

/// Tells a server to stop, from any thread.
#[derive(Clone)]
pub struct StopHandle {
    control: Sender<Control>,
}

impl StopHandle {
    /// Asks the server to stop. Once is enough.
    pub fn stop(&self) {
        // Full means that it has been asked already; gone, that it has stopped.
        let _ = self.control.try_send(Control::Stop);
    }
}

/// Stops the server when dropped: a node that lacks a reactor is of no use, and its
/// peers and clients should not wait for it.
struct EndsServer(Sender<Control>);

impl Drop for EndsServer {
    fn drop(&mut self) {
        // Gone is the raft thread when the reactor ends as it should.
        let _ = self.0.try_send(Control::Stop);
    }
}

/// The event loops and where they listen, before their threads run.
struct Listening {
    loops: Vec<EventLoop>,
    peer_listener: net::ListenerId,
    strangers: Strangers,
}

impl Server {
    /// Starts a node: listens, takes possession of the data directory, recovers, runs.
    ///
    /// # Errors
    /// See [`StartError`].
    pub fn start(options: ServerOptions) -> Result<Server, StartError> {
        let seed = SysRng
            .try_next_u64()
            .map_err(|e| system("draw a random seed")(io::Error::other(e)))?;
        let room = descriptors(options.tuning.reactors)?;
        let member = options.member;
        let reactors = options.tuning.reactors;
        interrupt_nobody();
        let listening = listen(&member, reactors, seed, room)?;
        let (lanes, inbox, doorbell) = inbox(reactors);
        let clock = Clock::start();
        let node = recover(&options, seed, clock, &lanes.disk)?;
        let cores = if options.tuning.pin_cores {
            Cores::allowed().map_err(system("ask which cores are allowed"))?
        } else {
            Cores::default()
        };
        let (reactors, stop_reactors, outbox) =
            start_reactors(&options, listening, &lanes, &cores)?;
        debug!(target: "RaftRpc", "rpc server start at: {}", member.peer);
        debug!(target: "RaftRpc", "kv server start at: {}", member.client);
        let raft_thread = RaftThread {
            node,
            inbox,
            outbox,
            doorbell,
            clock,
            taken_bytes: vec![0; options.tuning.reactors],
        };
        let disk_give_up = options.tuning.disk_give_up;
        // Behind the reactors, so that with one reactor fewer than cores each has its own.
        let core = cores.of(options.tuning.reactors);
        let raft = std::thread::Builder::new()
            .name("raft".to_owned())
            .spawn(move || {
                core.pin();
                run_raft(raft_thread, disk_give_up)
            })
            .map_err(system("start the raft thread"))?;
        Ok(Server {
            control: lanes.control,
            stop_reactors,
            raft,
            reactors,
        })
    }

    /// What stops it.
    #[must_use]
    pub fn stop_handle(&self) -> StopHandle {
        StopHandle {
            control: self.control.clone(),
        }
    }

    /// Waits until the server has stopped, by [`StopHandle::stop`] or because it can't
    /// go on; returns why it can't.
    ///
    /// # Errors
    /// The reason, for the operator.
    pub fn wait(self) -> Result<(), String> {
        let ending = self.raft.join().unwrap_or_else(|_| {
            Ending::Failed("the raft thread has found its own state broken, see above".to_owned())
        });
        for stop in &self.stop_reactors {
            let _ = stop.try_send(());
        }
        for reactor in self.reactors {
            match reactor.join() {
                Ok(Ok(())) => {}
                Ok(Err(error)) => return Err(format!("a reactor has failed: {error}")),
                Err(_) => return Err("a reactor has panicked, see above".to_owned()),
            }
        }
        match ending {
            Ending::Stopped => Ok(()),
            Ending::Failed(why) | Ending::DiskHangs(why) => Err(why),
        }
    }
}

/// Founds the cluster in a new data directory, on disk, and returns: see `--found`.
///
/// # Errors
/// See [`StartError`]; [`StartError::NotNew`] if the directory has anything in it.
pub fn found(options: &ServerOptions) -> Result<Birth, StartError> {
    let seed = SysRng
        .try_next_u64()
        .map_err(|e| system("draw a random seed")(io::Error::other(e)))?;
    let clock = Clock::start();
    let (events, mail) = crossbeam_channel::unbounded();
    let sink = Arc::new(move |event| drop(events.send(event)));
    let mut node = open_node(options, seed, clock, sink)?;
    if !node.is_new() {
        let path = options.data_dir.join(format!("raftnode_{}", options.id.0));
        return Err(StartError::NotNew { path });
    }
    node.found(clock.now());
    loop {
        node.flush(clock.now());
        if let Some(why) = node.failure() {
            return Err(system("found the cluster")(io::Error::other(
                why.to_owned(),
            )));
        }
        if node.birth() != Birth::NONE {
            node.seal();
            return Ok(node.birth());
        }
        // The disk's threads answer or fail; they end with the node.
        if let Ok(event) = mail.recv() {
            node.handle_disk(clock.now(), event);
        }
    }
}

fn system(what: &'static str) -> impl Fn(io::Error) -> StartError {
    move |source| StartError::System { what, source }
}

/// The ends of the raft thread's lanes that the other threads hold.
struct Lanes {
    control: Sender<Control>,
    disk: Sender<DiskEvent>,
    peers: Sender<FromPeer>,
    clients: Sender<FromClient>,
    /// The requests that each reactor has with the raft thread.
    requests: Vec<Arc<Load>>,
}

fn inbox(reactors: usize) -> (Lanes, Inbox, Arc<Doorbell>) {
    let doorbell = Arc::new(Doorbell::for_thread());
    let (control, control_mail) = mailbox::channel(4, doorbell.clone());
    let (disk, disk_mail) = mailbox::channel(DISK_MAIL_MAX, doorbell.clone());
    let (peers, peer_mail) = mailbox::channel(PEER_MAIL_MAX, doorbell.clone());
    let room = limits::REQUESTS_IN_FLIGHT_MAX * reactors;
    let (clients, client_mail) = mailbox::channel(room, doorbell.clone());
    let requests: Vec<Arc<Load>> = (0..reactors).map(|_| Arc::default()).collect();
    let inbox = Inbox {
        control: control_mail,
        disk: disk_mail,
        peers: peer_mail,
        clients: client_mail,
        requests: requests.clone(),
    };
    let lanes = Lanes {
        control,
        disk,
        peers,
        clients,
        requests,
    };
    (lanes, inbox, doorbell)
}

/// Takes possession of the data directory and puts the node together from it. A damaged
/// one is moved aside if the operator has said so; one that is intact is used, so that a
/// command line that says so again does no harm.
fn recover(
    options: &ServerOptions,
    seed: u64,
    clock: Clock,
    lane: &Sender<DiskEvent>,
) -> Result<Node<FileDisk>, StartError> {
    let cluster_id = options.cluster.cluster_id();
    match open_node(options, seed, clock, disk_sink(lane.clone())) {
        Err(error) if options.rejoin && error.is_damage() => {
            let aside = DataDir::set_aside(&options.data_dir, options.id, cluster_id)?;
            warn!(target: "RaftClerk", "rejoin: data moved aside: to={} reason={error}", aside.display());
            open_node(options, seed, clock, disk_sink(lane.clone()))
        }
        result => result,
    }
}

fn open_node(
    options: &ServerOptions,
    seed: u64,
    clock: Clock,
    sink: Arc<dyn Fn(DiskEvent) + Send + Sync>,
) -> Result<Node<FileDisk>, StartError> {
    let cluster_id = options.cluster.cluster_id();
    let directory = DataDir::open(&options.data_dir, options.id, cluster_id)?;
    let path = directory.path().display().to_string();
    let meta = directory.meta();
    info!(target: "RaftClerk", "data directory: path={path} incarnation={:016x} birth={} rejoins={}", meta.incarnation, meta.birth, meta.replaces.is_some());
    let config = node_config(&directory, options, seed);
    let disk = FileDisk::open(directory, sink).map_err(system("start the threads of the disk"))?;
    let (node, summary) = Node::open(config, disk, clock.now())
        .map_err(|source| StartError::Recovery { path, source })?;
    info!(target: "RaftClerk", "recovered: term={} snapshot={} entries={} torn={}", node.raft().term(), summary.snapshot, summary.entries, summary.torn);
    Ok(node)
}

type Reactors = (Vec<JoinHandle<io::Result<()>>>, Vec<Sender<()>>, Outbox);

fn start_reactors(
    options: &ServerOptions,
    listening: Listening,
    lanes: &Lanes,
    cores: &Cores,
) -> Result<Reactors, StartError> {
    let connected = Arc::new(Connected::default());
    let (to_peers, mail) = mailbox::channel(PEER_MAIL_MAX, listening.loops[0].doorbell());
    let mut peers = Some(Peers::new(
        options.id,
        listening.peer_listener,
        connected.clone(),
        lanes.peers.clone(),
        mail,
    ));
    let load = Arc::new(Load::default());
    let mut strangers = listening.strangers;
    let (mut clients, mut stops, mut threads) = (vec![], vec![], vec![]);
    for (number, mut event_loop) in listening.loops.into_iter().enumerate() {
        let bell = event_loop.doorbell();
        let room = limits::REQUESTS_IN_FLIGHT_MAX + MEMBER_MAIL_MAX;
        let (to_client, answers) = mailbox::channel(room, bell.clone());
        let (stop, stop_mail) = mailbox::channel(1, bell);
        clients.push(to_client);
        stops.push(stop);
        let mut reactor = Reactor {
            clients: Clients::new(
                number as u32,
                connected.clone(),
                (lanes.clients.clone(), lanes.requests[number].clone()),
                (answers, load.clone()),
            ),
            peers: peers.take(),
            strangers: std::mem::take(&mut strangers),
            kinds: ConnectionMap::default(),
            probes: reactor::probe_limit(),
            stop: stop_mail,
        };
        let end = EndsServer(lanes.control.clone());
        let core = cores.of(number);
        let thread = std::thread::Builder::new()
            .name(format!("reactor-{number}"))
            .spawn(move || {
                let _end = end;
                core.pin();
                event_loop.run(&mut reactor)
            })
            .map_err(system("start a reactor"))?;
        threads.push(thread);
    }
    let outbox = Outbox {
        clients,
        answers: load,
        peers: to_peers,
        to_ring: vec![false; options.tuning.reactors],
    };
    Ok((threads, stops, outbox))
}

fn run_raft(thread: RaftThread<FileDisk>, disk_give_up: Option<Duration>) -> Ending {
    let (ending, disk) = thread.run();
    if matches!(ending, Ending::DiskHangs(_)) {
        // To end its threads would be to wait for them.
        std::mem::forget(disk);
        return ending;
    }
    // Whatever was promised is on disk; what is left to write may as well be, if the disk
    // takes it.
    let (done, ended) = crossbeam_channel::bounded(1);
    let end = std::thread::Builder::new()
        .name("disk-end".to_owned())
        .spawn(move || {
            drop(disk);
            // Whoever waited may have gone.
            let _ = done.send(());
        });
    let ended = match (end, disk_give_up) {
        // Without a thread the disk was dropped on the spot.
        (Err(_), _) => true,
        (Ok(thread), None) => thread.join().is_ok(),
        (Ok(_), Some(limit)) => ended.recv_timeout(limit).is_ok(),
    };
    if !ended {
        warn!(target: "RaftClerk", "the disk hangs: what was not promised to anybody is left unwritten");
    }
    ending
}

/// How many clients and strangers may be connected: as many as leave descriptors for the
/// disk and the members.
fn descriptors(reactors: usize) -> Result<(usize, usize), StartError> {
    let what = "raise the limit on open files";
    let limit = net::raise_fd_limit().map_err(system(what))?;
    let limit = limit.map_or(usize::MAX, |n| usize::try_from(n).unwrap_or(usize::MAX));
    let of_loops = reactors * limits::REACTOR_DESCRIPTORS;
    let needed = limits::DESCRIPTORS_MIN + of_loops;
    if limit < needed {
        let reason = format!("it is {limit}, a node needs {needed} (ulimit -n, LimitNOFILE)");
        return Err(system(what)(io::Error::other(reason)));
    }
    let room = limits::connections_within(limit - of_loops);
    info!(target: "RaftClerk", "open files: limit={limit} clients={} strangers={}", room.0, room.1);
    Ok(room)
}

fn listen(
    member: &Member,
    reactors: usize,
    seed: u64,
    (clients, strangers): (usize, usize),
) -> Result<Listening, StartError> {
    let (peer, client) = (member.peer, member.client);
    let at = |addr| move |source| StartError::Listen { addr, source };
    let mut busy = Buffer::default();
    proto::encode_answer_frame(&mut busy, 0, &Answer::Busy, |_| None);
    let budget = ConnectionBudget::with_farewell(clients, busy.freeze());
    let mut loops = Vec::new();
    for number in 0..reactors {
        let options = net::Options {
            seed: seed.wrapping_add(number as u64),
            budget: budget.clone(),
            ..net::Options::default()
        };
        loops.push(EventLoop::new(options).map_err(system("make an event loop"))?);
    }
    // The peer port is not shared: it guards the client port, which is, against a
    // second process that would get a part of our clients unnoticed.
    // And it has a budget of its own: clients, however many, keep no peer out.
    let peer_budget = ConnectionBudget::new(strangers + limits::MEMBER_DESCRIPTORS / 2);
    let peer_listener = loops[0]
        .io()
        .listen_within(peer, Sharing::Exclusive, peer_budget)
        .map_err(at(peer))?;
    net::probe_port(client).map_err(at(client))?;
    for event_loop in &mut loops {
        event_loop
            .io()
            .listen(client, Sharing::Shared)
            .map_err(at(client))?;
    }
    Ok(Listening {
        loops,
        peer_listener,
        strangers: Strangers::new(strangers),
    })
}

fn node_config(directory: &DataDir, options: &ServerOptions, seed: u64) -> NodeConfig {
    let (cluster, tuning) = (&options.cluster, &options.tuning);
    NodeConfig {
        id: options.id,
        first_members: first_members(cluster),
        read_lease: tuning.read_lease,
        disk_patience: tuning.disk_patience,
        disk_give_up: tuning.disk_give_up,
        cluster_id: cluster.cluster_id(),
        founding: options.founding,
        level: LEVEL_MAX,
        addresses: Addresses {
            peer: options.member.peer.to_string(),
            client: options.member.client.to_string(),
        },
        addresses_from_file: options.addresses_from_file,
        meta: directory.meta().clone(),
        election_timeout: (tuning.election_timeout_min, tuning.election_timeout_max),
        heartbeat: tuning.heartbeat,
        seed,
        segment_bytes: tuning.segment_bytes,
        first_segment_bytes: FIRST_SEGMENT_BYTES.min(tuning.segment_bytes),
        snapshot_log_bytes: tuning.snapshot_log_bytes,
        snapshot_tail_bytes: tuning.snapshot_tail_bytes,
        snapshot_hold_bytes: tuning.snapshot_hold_bytes,
        snapshot_write_bytes_per_sec: tuning.snapshot_write_bytes_per_sec,
        snapshot_send_bytes_per_sec: tuning.snapshot_send_bytes_per_sec,
        state_check_entries: limits::STATE_CHECK_ENTRIES,
        apply_entries_max: APPLY_ENTRIES_MAX,
        memory_limit: memory_limit(options),
        session_limits: SessionLimits::default(),
    }
}

/// The memory limit: as it was given, where 0 is none, or what the machine suggests.
fn memory_limit(options: &ServerOptions) -> Option<u64> {
    let limit = match options.tuning.memory_limit {
        Some(given) => Some(given).filter(|given| *given > 0),
        None => default_memory_limit(&options.cluster, &options.member),
    };
    let shown = limit.map_or("none".to_owned(), |limit| limit.to_string());
    info!(target: "RaftClerk", "memory limit: bytes={shown}");
    limit
}

fn first_members(cluster: &Cluster) -> Configuration {
    Configuration::of_voters(cluster.members().iter().map(|member| {
        let (peer, client) = (member.peer.to_string(), member.client.to_string());
        (member.id, member.priority, peer, client)
    }))
}

/// How the threads of the disk reach the raft thread. The lane has room for more than
/// can be on its way; should it be full all the same, the disk waits.
fn disk_sink(lane: Sender<DiskEvent>) -> Arc<dyn Fn(DiskEvent) + Send + Sync> {
    Arc::new(move |mut event| {
        while let Err(TrySendError::Full(again)) = lane.try_send(event) {
            event = again;
            std::thread::yield_now();
        }
    })
}
