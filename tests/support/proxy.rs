//! Links of a cluster on one machine that pass through this process, where they are delayed,
//! throttled, stalled or broken.
//!
//! Each node has a cluster file of its own, in which the others are at the addresses of proxies: one for
//! each pair and direction of dialling, so that a proxy knows both ends. Peer addresses are part of
//! the cluster's id, so each file makes another one; a proxy puts the id of the node that is dialled
//! into the introduction that passes through it, and touches nothing else.

use std::fmt::Write as _;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use bytes::Bytes;
use prost::Message;
use raftkv::config::{Cluster, Member};
use raftkv::pb::{HelloRequest, RaftRpcData};
use raftkv::types::NodeId;

use super::links::Links;
use super::wire::{HEADER_BYTES, call_frame, header};

/// How often those who wait look whether something has changed.
const LOOK: Duration = Duration::from_millis(10);
/// How much is passed on at a time.
const PIECE_BYTES: usize = 16 << 10;
/// Whoever takes nothing for so long loses the connection.
const WRITE_TIMEOUT: Duration = Duration::from_secs(5);
/// An introduction is shorter.
const HELLO_BYTES_MAX: u32 = 4 << 10;

/// What one link does with what passes through it.
#[derive(Debug, Default)]
struct Control {
    /// What the one who dialled sends stays where it is; what is answered, likewise.
    stall_there: AtomicBool,
    stall_back: AtomicBool,
    /// Before each piece is passed on.
    delay_ms: AtomicU64,
    /// 0: as fast as it comes.
    bytes_per_second: AtomicU64,
    /// Connections of an earlier generation are ended.
    generation: AtomicU64,
    /// No connection is taken any more.
    over: AtomicBool,
}

/// A listener that connects whoever comes with the node behind it.
#[derive(Debug)]
struct Proxy {
    address: SocketAddr,
    control: Arc<Control>,
    listener: Option<JoinHandle<()>>,
}

/// The proxies of a cluster. All end when dropped.
#[derive(Debug)]
pub struct Proxies {
    nodes: usize,
    /// Of node `from` to node `to` at `from * nodes + to`; none to itself.
    peers: Vec<Option<Proxy>>,
    /// Of the clients.
    clients: Vec<Proxy>,
    files: Vec<String>,
}

impl Proxies {
    /// Proxies before nodes that listen on these addresses.
    pub fn start(peers: &[SocketAddr], clients: &[SocketAddr]) -> Proxies {
        let nodes = peers.len();
        let listen = || TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
        let at = |listener: &TcpListener| listener.local_addr().expect("it is bound");
        let outside: Vec<TcpListener> = clients.iter().map(|_| listen()).collect();
        let between: Vec<TcpListener> = (0..nodes * nodes).map(|_| listen()).collect();
        // As one node sees it: itself where it listens, the others behind their proxies.
        let seen_by = |own: usize| {
            let member = |id: usize| Member {
                priority: 0,
                id: NodeId(id as u64),
                peer: if id == own {
                    peers[id]
                } else {
                    at(&between[own * nodes + id])
                },
                client: if id == own {
                    clients[id]
                } else {
                    at(&outside[id])
                },
            };
            (0..nodes).map(member).collect()
        };
        let clusters: Vec<Vec<Member>> = (0..nodes).map(seen_by).collect();
        let ids: Vec<u64> = clusters
            .iter()
            .map(|members| {
                Cluster::new(members.clone())
                    .expect("it is one")
                    .cluster_id()
            })
            .collect();
        let peers = between.into_iter().enumerate().map(|(link, listener)| {
            let (from, to) = (link / nodes, link % nodes);
            (from != to).then(|| Proxy::start(listener, peers[to], Some(ids[to])))
        });
        let outside = outside.into_iter().zip(clients);
        Proxies {
            nodes,
            peers: peers.collect(),
            clients: outside
                .map(|(listener, to)| Proxy::start(listener, *to, None))
                .collect(),
            files: clusters.iter().map(|members| file(members)).collect(),
        }
    }

    /// The cluster file of a node.
    pub fn file(&self, node: usize) -> &str {
        &self.files[node]
    }

    /// Where clients reach the nodes.
    pub fn clients(&self) -> Vec<SocketAddr> {
        self.clients.iter().map(|proxy| proxy.address).collect()
    }

    fn between(&self) -> impl Iterator<Item = (usize, usize, &Control)> {
        let nodes = self.nodes;
        let there = self.peers.iter().enumerate();
        there.filter_map(move |(link, proxy)| {
            Some((link / nodes, link % nodes, &*proxy.as_ref()?.control))
        })
    }

    fn all(&self) -> impl Iterator<Item = &Control> {
        let between = self.between().map(|(_, _, control)| control);
        between.chain(self.clients.iter().map(|proxy| &*proxy.control))
    }

    /// Delays each piece between nodes by so much.
    pub fn delay(&self, delay: Duration) {
        let delay = u64::try_from(delay.as_millis()).expect("a short time");
        self.between().for_each(|(_, _, control)| {
            // ORDERING: here and below, flags that stand for themselves.
            control.delay_ms.store(delay, Ordering::Relaxed);
        });
    }

    /// Lets no more than this through between two nodes in a second, each way.
    pub fn throttle(&self, bytes_per_second: u64) {
        self.between().for_each(|(_, _, control)| {
            control
                .bytes_per_second
                .store(bytes_per_second, Ordering::Relaxed);
        });
    }

    /// Ends all connections between nodes. They may be made anew at once.
    pub fn break_connections(&self) {
        self.between().for_each(|(_, _, control)| {
            control.generation.fetch_add(1, Ordering::Relaxed);
        });
    }
}

impl Links for Proxies {
    fn lose(&mut self, from: usize, to: usize) {
        for (dialler, dialled, control) in self.between() {
            if (dialler, dialled) == (from, to) {
                control.stall_there.store(true, Ordering::Relaxed);
            } else if (dialler, dialled) == (to, from) {
                control.stall_back.store(true, Ordering::Relaxed);
            }
        }
    }

    fn cut_off(&mut self, node: usize) {
        for other in (0..self.nodes).filter(|other| *other != node) {
            self.lose(node, other);
            self.lose(other, node);
        }
        let control = &self.clients[node].control;
        control.stall_there.store(true, Ordering::Relaxed);
        control.stall_back.store(true, Ordering::Relaxed);
    }

    fn heal(&mut self) {
        for control in self.all() {
            control.stall_there.store(false, Ordering::Relaxed);
            control.stall_back.store(false, Ordering::Relaxed);
            control.delay_ms.store(0, Ordering::Relaxed);
            control.bytes_per_second.store(0, Ordering::Relaxed);
        }
    }
}

impl Drop for Proxies {
    fn drop(&mut self) {
        for proxy in self.peers.iter_mut().flatten().chain(&mut self.clients) {
            proxy.control.over.store(true, Ordering::Relaxed);
            if let Some(listener) = proxy.listener.take() {
                // It has said what went wrong with it, if something did.
                let _ = listener.join();
            }
        }
    }
}

impl Proxy {
    fn start(listener: TcpListener, to: SocketAddr, cluster_id: Option<u64>) -> Proxy {
        listener.set_nonblocking(true).expect("a listener");
        let address = listener.local_addr().expect("it is bound");
        let control = Arc::new(Control::default());
        let its_own = Arc::clone(&control);
        let listen = move || take_connections(&listener, to, cluster_id, &its_own);
        Proxy {
            address,
            control,
            listener: Some(thread::spawn(listen)),
        }
    }
}

fn take_connections(
    listener: &TcpListener,
    to: SocketAddr,
    cluster_id: Option<u64>,
    control: &Arc<Control>,
) {
    let mut running: Vec<JoinHandle<()>> = Vec::new();
    while !control.over.load(Ordering::Relaxed) {
        running.retain(|thread| !thread.is_finished());
        match listener.accept() {
            Ok((dialler, _)) => {
                let control = Arc::clone(control);
                running.push(thread::spawn(move || {
                    // An end of either side, or nobody behind: both ends are closed.
                    let _ = connect(dialler, to, cluster_id, &control);
                }));
            }
            Err(_) => thread::sleep(LOOK), // Nobody is there, mostly.
        }
    }
    for thread in running {
        let _ = thread.join();
    }
}

fn connect(
    mut dialler: TcpStream,
    to: SocketAddr,
    cluster_id: Option<u64>,
    control: &Control,
) -> io::Result<()> {
    dialler.set_nonblocking(false)?;
    let mut dialled = TcpStream::connect(to)?;
    for end in [&dialler, &dialled] {
        end.set_nodelay(true)?;
        end.set_read_timeout(Some(LOOK))?;
        end.set_write_timeout(Some(WRITE_TIMEOUT))?;
    }
    let generation = control.generation.load(Ordering::Relaxed);
    let over = || {
        control.over.load(Ordering::Relaxed)
            || control.generation.load(Ordering::Relaxed) != generation
    };
    if let Some(cluster_id) = cluster_id {
        let frame = read_introduction(&mut dialler, cluster_id, &over)?;
        wait_while(&control.stall_there, &over);
        dialled.write_all(&frame)?;
    }
    let (mut answers, mut asker) = (dialled.try_clone()?, dialler.try_clone()?);
    thread::scope(|scope| {
        scope.spawn(|| {
            pass(
                &mut dialler,
                &mut dialled,
                control,
                &control.stall_there,
                &over,
            )
        });
        pass(
            &mut answers,
            &mut asker,
            control,
            &control.stall_back,
            &over,
        );
    });
    Ok(())
}

/// The introduction, with the id of the cluster as the other side knows it.
fn read_introduction(
    dialler: &mut TcpStream,
    cluster_id: u64,
    over: &dyn Fn() -> bool,
) -> io::Result<Vec<u8>> {
    let mut start = [0; HEADER_BYTES];
    read_all(dialler, &mut start, over)?;
    let total = u32::from_be_bytes(start[8..12].try_into().expect("four bytes"));
    assert!(
        total < HELLO_BYTES_MAX && start == header(total),
        "nodes frame what they say"
    );
    let mut body = vec![0; total as usize - HEADER_BYTES];
    read_all(dialler, &mut body, over)?;
    let envelope = RaftRpcData::decode(Bytes::from(body)).expect("an envelope");
    assert_eq!(
        envelope.method_name, "Hello",
        "nodes introduce themselves first"
    );
    let mut hello = HelloRequest::decode(envelope.payload).expect("an introduction");
    hello.cluster_id = cluster_id;
    Ok(call_frame(
        &envelope.service_name,
        &envelope.method_name,
        envelope.sequence_id,
        hello.encode_to_vec(),
    ))
}

/// The time that a link stands still is what this is about.
fn wait_while(stalled: &AtomicBool, over: &dyn Fn() -> bool) {
    while stalled.load(Ordering::Relaxed) && !over() {
        thread::sleep(LOOK);
    }
}

fn read_all(from: &mut TcpStream, buffer: &mut [u8], over: &dyn Fn() -> bool) -> io::Result<()> {
    let mut got = 0;
    while got < buffer.len() {
        match read_some(from, &mut buffer[got..], over)? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            more => got += more,
        }
    }
    Ok(())
}

/// Reads what comes next; nothing if that is the end of it.
fn read_some(
    from: &mut TcpStream,
    buffer: &mut [u8],
    over: &dyn Fn() -> bool,
) -> io::Result<usize> {
    while !over() {
        match from.read(buffer) {
            Err(e)
                if matches!(
                    e.kind(),
                    io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted
                ) => {}
            result => return result,
        }
    }
    Ok(0)
}

/// Passes on what comes until either side is gone; then both are.
fn pass(
    from: &mut TcpStream,
    to: &mut TcpStream,
    control: &Control,
    stalled: &AtomicBool,
    over: &dyn Fn() -> bool,
) {
    let mut piece = vec![0; PIECE_BYTES];
    while let Ok(got @ 1..) = read_some(from, &mut piece, over) {
        let delay = control.delay_ms.load(Ordering::Relaxed);
        let rate = control.bytes_per_second.load(Ordering::Relaxed);
        // The time that the link takes is what this is about.
        thread::sleep(Duration::from_millis(delay));
        if let Some(pause) = (got as u64 * 1_000_000).checked_div(rate) {
            thread::sleep(Duration::from_micros(pause));
        }
        wait_while(stalled, over);
        if over() || to.write_all(&piece[..got]).is_err() {
            break;
        }
    }
    // They may be closed by now.
    let _ = from.shutdown(Shutdown::Both);
    let _ = to.shutdown(Shutdown::Both);
}

/// The cluster file with these members.
fn file(members: &[Member]) -> String {
    let mut text = String::new();
    for Member {
        id, peer, client, ..
    } in members
    {
        let id = id.0;
        writeln!(
            text,
            "[[node]]\nid = {id}\npeer = \"{peer}\"\nclient = \"{client}\"\n"
        )
        .expect("writing to a string");
    }
    text
}
