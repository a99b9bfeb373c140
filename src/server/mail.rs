//! What the threads of a server say to each other, and how much of it may wait.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use log::error;

use crate::disk::DiskEvent;
use crate::limits;
use crate::mailbox::{Receiver, Sender, TrySendError};
use crate::net::ConnectionId;
use crate::node::{Addresses, Answer, Caller, Hello, HelloReply, Request};
use crate::raft::Message;
use crate::types::NodeId;

/// How many bytes the messages of a lane hold, so that not only their number is bounded.
/// Added to by the sender before a message is there, taken from by the receiver.
#[derive(Debug, Default)]
pub(super) struct Load(AtomicUsize);

impl Load {
    pub(super) fn add(&self, bytes: usize) {
        if bytes == 0 {
            return;
        }
        // ORDERING: the lane publishes the messages; whoever waits for room is rung for,
        // and the doorbell orders what it reads here behind the `sub`.
        self.0.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Returns what it was before.
    pub(super) fn sub(&self, bytes: usize) -> usize {
        // ORDERING: as in `add`.
        self.0.fetch_sub(bytes, Ordering::Relaxed)
    }

    pub(super) fn get(&self) -> usize {
        // ORDERING: as in `add`.
        self.0.load(Ordering::Relaxed)
    }
}

/// From a reactor to the raft thread, of a client.
pub(super) enum FromClient {
    Request(Caller, Request),
    /// The connection has too much to take, or has taken it: see
    /// [`Node::refuse_reads`](crate::node::Node::refuse_reads).
    Clogged {
        reactor: u32,
        connection: u64,
        clogged: bool,
    },
}

/// From the reactor that has the peers to the raft thread.
pub(super) enum FromPeer {
    Message(Message),
    Hello(Caller, Hello),
    HelloReply(NodeId, HelloReply),
    /// The connection to this peer is made anew: introduce this node.
    Connected(NodeId),
    /// The connection to this peer has ended.
    Disconnected(NodeId),
}

/// To the reactor that has the peers.
pub(super) enum ToPeer {
    Message(Message),
    Hello(Hello),
    HelloReply(Caller, HelloReply),
    /// Whom this node talks to from now on.
    Members(BTreeMap<NodeId, SocketAddr>),
    /// Facts of an introduction have changed: all connections between nodes are to end.
    Reintroduce,
}

/// To a reactor.
pub(super) enum ToClient {
    /// For one of its clients.
    Answer { caller: Caller, answer: Answer },
    /// Where clients find the nodes from now on.
    Members(Arc<BTreeMap<NodeId, SocketAddr>>),
}

impl ToClient {
    fn value_bytes(&self) -> usize {
        match self {
            ToClient::Answer { answer, .. } => answer.value_bytes(),
            ToClient::Members(_) => 0,
        }
    }
}

/// What is in a reactor's lane beside answers: changes of the members.
pub(super) const MEMBER_MAIL_MAX: usize = 64;

/// What the raft thread is told to do, by whoever runs the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Control {
    Stop,
}

/// Messages of peers that wait for the raft thread; more are dropped, as a network
/// would: Raft sends again.
pub(super) const PEER_MAIL_MAX: usize = 16_384;
/// Completions that wait for the raft thread. There are never more than operations on
/// their way, and the disk waits when it has to.
pub(super) const DISK_MAIL_MAX: usize = 16_384;

/// The ends that the raft thread holds. All lanes have one doorbell; each has room of
/// its own, so that clients cannot starve peers, and nobody the disk.
pub(super) struct Inbox {
    pub(super) control: Receiver<Control>,
    pub(super) disk: Receiver<DiskEvent>,
    pub(super) peers: Receiver<FromPeer>,
    pub(super) clients: Receiver<FromClient>,
    /// What waits in `clients`, for each reactor.
    pub(super) requests: Vec<Arc<Load>>,
}

/// Where the raft thread sends to. The lane of a reactor has room for an answer to each
/// request that it may have in flight: it is reserved when the request is let in.
pub(super) struct Outbox {
    pub(super) clients: Vec<Sender<ToClient>>,
    /// The values that wait in `clients`.
    pub(super) answers: Arc<Load>,
    pub(super) peers: Sender<ToPeer>,
    /// Which reactors a batch has answers for.
    pub(super) to_ring: Vec<bool>,
}

impl Outbox {
    /// A full lane loses the message, as a network would: Raft sends again.
    pub(super) fn send_peer(&self, mail: ToPeer) {
        match self.peers.try_send_quiet(mail) {
            Err(TrySendError::Full(ToPeer::Hello(_) | ToPeer::HelloReply(..))) => {
                error!(target: "RaftRpc", "no room for an introduction; the peer dials again");
            }
            Err(TrySendError::Full(ToPeer::Members(_))) => {
                error!(target: "RaftRpc", "no room for a change of the members; restart this node");
            }
            _ => {}
        }
    }

    /// Tells all reactors who is a member now, by addresses that were checked when they
    /// came into the log.
    pub(super) fn send_members(&self, members: &BTreeMap<NodeId, Addresses>) {
        let addresses = |of: fn(&Addresses) -> &String| -> BTreeMap<NodeId, SocketAddr> {
            let known = members.iter();
            known
                .filter_map(|(id, addresses)| match of(addresses).parse() {
                    Ok(address) => Some((*id, address)),
                    Err(_) => {
                        error!(target: "RaftRpc", "not an ip:port: node={id} address={}", of(addresses));
                        None
                    }
                })
                .collect()
        };
        self.send_peer(ToPeer::Members(addresses(|a| &a.peer)));
        let clients = Arc::new(addresses(|a| &a.client));
        for reactor in &self.clients {
            if reactor
                .try_send(ToClient::Members(clients.clone()))
                .is_err()
            {
                error!(target: "RaftClerk", "no room for a change of the members; redirects may be wrong");
            }
        }
    }

    /// Sends answers, and wakes each reactor that gets some once.
    pub(super) fn send_answers(&mut self, answers: &mut Vec<(Caller, Answer)>) {
        let bytes = answers.iter().map(|(_, answer)| answer.value_bytes()).sum();
        self.answers.add(bytes);
        for (caller, answer) in answers.drain(..) {
            let reactor = caller.reactor as usize;
            self.to_ring[reactor] = true;
            match self.clients[reactor].try_send_quiet(ToClient::Answer { caller, answer }) {
                Ok(()) => {}
                // The reactor has ended, and the server is about to.
                Err(TrySendError::Disconnected(lost)) => {
                    self.answers.sub(lost.value_bytes());
                }
                Err(TrySendError::Full(lost)) => {
                    self.answers.sub(lost.value_bytes());
                    error!(target: "RaftClerk", "no room for an answer, though it was reserved");
                }
            }
        }
        for (client, to_ring) in self.clients.iter().zip(&mut self.to_ring) {
            if std::mem::take(to_ring) {
                client.ring();
            }
        }
    }
}

/// The connection as a number, for [`Caller`].
pub(super) fn connection_number(id: ConnectionId) -> u64 {
    u64::from(id.generation) << 32 | u64::from(id.key)
}

/// The number as a connection.
pub(super) fn connection_of(number: u64) -> ConnectionId {
    ConnectionId {
        key: number as u32,
        generation: (number >> 32) as u32,
    }
}

const _: () = assert!(limits::PEER_QUEUE_MAX <= PEER_MAIL_MAX);
