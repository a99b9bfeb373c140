//! The peers, on the first reactor: one dialled connection to each for what we ask, and
//! one from each for what it asks. Nothing counts before the introduction.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use log::{debug, info, warn};

use crate::limits;
use crate::mailbox::{Receiver, Sender};
use crate::net::envelope::{Envelope, decode_envelope};
use crate::net::{ConnectionId, ConnectionMap, ConnectorId, Io, ListenerId};
use crate::node::{Caller, Facts, Hello, HelloReply};
use crate::proto::{self, AppendEncoder, Link};
use crate::raft::{Body, Message};
use crate::server::mail::{FromPeer, ToPeer, connection_number, connection_of};
use crate::types::{NodeId, Server};

/// Which peers are connected, for the status of other reactors.
#[derive(Debug, Default)]
pub(super) struct Connected(Mutex<BTreeSet<NodeId>>);

impl Connected {
    fn ids(&self) -> MutexGuard<'_, BTreeSet<NodeId>> {
        // A set of ids is as good after a panic as before.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set(&self, id: NodeId, connected: bool) {
        if connected {
            self.ids().insert(id);
        } else {
            self.ids().remove(&id);
        }
    }

    pub(super) fn get(&self, id: u64) -> bool {
        self.ids().contains(&NodeId(id))
    }
}

pub(super) struct Peers {
    id: NodeId,
    pub(super) listener: ListenerId,
    connected: Arc<Connected>,
    to_raft: Sender<FromPeer>,
    mail: Receiver<ToPeer>,
    /// What we have dialled.
    outgoing: BTreeMap<NodeId, Outgoing>,
    /// Peers that have introduced themselves, by their connections.
    introduced: ConnectionMap<Link>,
    /// The connection to which answers for each of them go.
    incoming: BTreeMap<Server, ConnectionId>,
    /// Introductions that the raft thread has not judged yet.
    asked: ConnectionMap<Link>,
    next_sequence: u64,
    appends: AppendEncoder,
    unrung: bool,
}

struct Outgoing {
    connector: ConnectorId,
    address: SocketAddr,
    connection: Option<ConnectionId>,
    /// Whether the peer has accepted our introduction on this connection.
    ready: bool,
    /// The peer, as it has introduced itself on this connection.
    link: Option<Link>,
}

impl Peers {
    pub(super) fn new(
        id: NodeId,
        listener: ListenerId,
        connected: Arc<Connected>,
        to_raft: Sender<FromPeer>,
        mail: Receiver<ToPeer>,
    ) -> Peers {
        Peers {
            id,
            listener,
            connected,
            to_raft,
            mail,
            outgoing: BTreeMap::new(),
            introduced: ConnectionMap::default(),
            asked: ConnectionMap::default(),
            incoming: BTreeMap::new(),
            next_sequence: 1,
            appends: AppendEncoder::default(),
            unrung: false,
        }
    }

    /// Dials whom this node talks to, and no longer whom it does not.
    fn set_members(&mut self, io: &mut Io, mut members: BTreeMap<NodeId, SocketAddr>) {
        members.remove(&self.id);
        let stays = |id: &NodeId, old: &Outgoing| members.get(id) == Some(&old.address);
        let gone: Vec<NodeId> = self
            .outgoing
            .iter()
            .filter(|(id, old)| !stays(id, old))
            .map(|(id, _)| *id)
            .collect();
        for id in gone {
            if let Some(old) = self.outgoing.remove(&id) {
                io.disconnect(old.connector);
                self.connected.set(id, false);
            }
        }
        for (id, address) in members {
            self.outgoing.entry(id).or_insert_with(|| Outgoing {
                connector: io.connect(address),
                address,
                connection: None,
                ready: false,
                link: None,
            });
        }
    }

    /// Whether a member has introduced itself on this connection.
    pub(super) fn has_introduced(&self, connection: ConnectionId) -> bool {
        self.introduced.get(connection).is_some()
    }

    /// Whom `connector` dials.
    pub(super) fn dialled(&self, connector: ConnectorId) -> Option<NodeId> {
        self.outgoing
            .iter()
            .find(|(_, out)| out.connector == connector)
            .map(|(id, _)| *id)
    }

    pub(super) fn connected(&mut self, connector: ConnectorId, connection: ConnectionId) {
        let Some(peer) = self.dialled(connector) else {
            return;
        };
        if let Some(outgoing) = self.outgoing.get_mut(&peer) {
            outgoing.connection = Some(connection);
            outgoing.ready = false;
            outgoing.link = None;
            self.forward(FromPeer::Connected(peer));
        }
    }

    pub(super) fn on_close(&mut self, connection: ConnectionId) {
        self.asked.remove(connection);
        if let Some(Link { peer, .. }) = self.introduced.remove(connection)
            && self.incoming.get(&peer) == Some(&connection)
        {
            self.incoming.remove(&peer);
        }
        let mut outgoing = self.outgoing.iter_mut();
        if let Some((peer, outgoing)) = outgoing.find(|(_, out)| out.connection == Some(connection))
        {
            let peer = *peer;
            outgoing.connection = None;
            outgoing.ready = false;
            self.connected.set(peer, false);
            info!(target: "RaftRpc", "peer disconnected: peer={peer}");
            self.forward(FromPeer::Disconnected(peer));
        }
    }

    /// Hands mail to the raft thread. A full lane loses it, as a network would.
    fn forward(&mut self, mail: FromPeer) {
        self.unrung = true;
        let _ = self.to_raft.try_send_quiet(mail);
    }

    /// A frame on a connection that a peer has dialled: a request.
    pub(super) fn on_request(&mut self, io: &mut Io, connection: ConnectionId, body: Bytes) {
        let Some(envelope) = open(io, connection, body) else {
            return;
        };
        if envelope.method == proto::HELLO.as_bytes() {
            let caller = Caller {
                reactor: 0,
                connection: connection_number(connection),
                sequence: envelope.sequence,
            };
            match proto::decode_hello(envelope.payload) {
                Ok(hello) => self.take_hello(io, caller, hello),
                Err(error) => shut_out(io, connection, &error.to_string()),
            }
            return;
        }
        let Some(link) = self.introduced.get(connection) else {
            return shut_out(io, connection, "it has not introduced itself");
        };
        match proto::decode_peer_request(link, &envelope) {
            Ok(message) => self.forward(FromPeer::Message(message)),
            Err(error) => shut_out(io, connection, &error.to_string()),
        }
    }

    fn take_hello(&mut self, io: &mut Io, caller: Caller, hello: Hello) {
        if let Some(outgoing) = self.outgoing.get_mut(&hello.from) {
            // Whoever dials us can be dialled: no use in waiting out a back-off.
            io.reset_backoff(outgoing.connector);
        }
        let connection = connection_of(caller.connection);
        // Counts once the raft thread has accepted it; see `send_hello_reply`.
        self.introduced.remove(connection);
        self.asked
            .insert(connection, self.link(hello.from, &hello.facts));
        self.forward(FromPeer::Hello(caller, hello));
    }

    fn link(&self, peer: NodeId, facts: &Facts) -> Link {
        Link {
            peer: Server {
                id: peer,
                incarnation: facts.incarnation,
            },
            birth: facts.birth,
            own: self.id,
        }
    }

    /// A frame on a connection that we have dialled: an answer.
    pub(super) fn on_reply(&mut self, io: &mut Io, connection: ConnectionId, body: Bytes) {
        let Some(envelope) = open(io, connection, body) else {
            return;
        };
        let known = self
            .outgoing
            .iter()
            .find(|(_, out)| out.connection == Some(connection));
        let Some((&from, outgoing)) = known else {
            return io.abort(connection);
        };
        if envelope.method == proto::HELLO.as_bytes() {
            match proto::decode_hello_reply(self.id, envelope.payload) {
                Ok(reply) => self.take_hello_reply(io, connection, from, reply),
                Err(error) => shut_out(io, connection, &error.to_string()),
            }
            return;
        }
        let Some(link) = &outgoing.link else {
            return shut_out(io, connection, "it answers before it was introduced");
        };
        match proto::decode_reply(link, &envelope) {
            Ok(message) => self.forward(FromPeer::Message(message)),
            Err(error) => shut_out(io, connection, &error.to_string()),
        }
    }

    fn take_hello_reply(
        &mut self,
        io: &mut Io,
        connection: ConnectionId,
        from: NodeId,
        reply: HelloReply,
    ) {
        let link = self.link(from, &reply.facts);
        if let Some(outgoing) = self.outgoing.get_mut(&from) {
            outgoing.link = Some(link);
            outgoing.ready = reply.refused.is_none();
        }
        if reply.refused.is_none() {
            info!(target: "RaftRpc", "peer connected: peer={}", link.peer);
            self.connected.set(from, true);
        } else {
            // It says why, and the operator has to look: no storm of tries.
            io.close(connection);
        }
        self.forward(FromPeer::HelloReply(from, reply));
    }

    /// Ends all connections to peers: they are made and introduced anew.
    fn reintroduce(&mut self, io: &mut Io) {
        let dialled = self.outgoing.values().filter_map(|out| out.connection);
        let all: Vec<ConnectionId> = dialled.chain(self.incoming.values().copied()).collect();
        for connection in all {
            io.abort(connection);
        }
        for outgoing in self.outgoing.values() {
            io.reset_backoff(outgoing.connector);
        }
    }

    /// Sends what the raft thread has for peers.
    pub(super) fn send_messages(&mut self, io: &mut Io) {
        while let Some(mail) = self.mail.try_recv() {
            match mail {
                ToPeer::Message(message) => self.send_message(io, message),
                ToPeer::Hello(hello) => {
                    let outgoing = self.outgoing.get(&hello.to);
                    if let Some(connection) = outgoing.and_then(|out| out.connection) {
                        let sequence = self.next_sequence;
                        self.next_sequence += 1;
                        io.send_with(connection, |out| proto::encode_hello(out, &hello, sequence));
                    }
                }
                ToPeer::HelloReply(caller, reply) => self.send_hello_reply(io, caller, &reply),
                ToPeer::Members(members) => self.set_members(io, members),
                ToPeer::Reintroduce => self.reintroduce(io),
            }
        }
        self.appends.forget();
    }

    /// A message to a peer that is not there is lost: Raft sends again.
    fn send_message(&mut self, io: &mut Io, mut message: Message) {
        let (connection, sequence) = if message.body.is_request() {
            self.next_sequence += 1;
            let outgoing = self
                .outgoing
                .get(&message.to.id)
                .filter(|outgoing| outgoing.ready);
            if let Some(link) = outgoing.and_then(|outgoing| outgoing.link) {
                message.address(link.peer.incarnation);
            }
            (
                outgoing.and_then(|outgoing| outgoing.connection),
                self.next_sequence,
            )
        } else {
            (self.incoming.get(&message.to).copied(), message.call)
        };
        let Some(connection) = connection else { return };
        if io.queued_bytes(connection) > PEER_OUTPUT_BYTES_MAX {
            if let Some(dropped) = io.admit_log("peer too slow") {
                warn!(target: "RaftRpc", "peer takes too little, messages are dropped: peer={}{dropped}", message.to);
            }
            return;
        }
        if !matches!(message.body, Body::Append { .. }) {
            io.send_with(connection, |out| {
                proto::encode_message(out, &message, sequence);
            });
            return;
        }
        let mut payload = None;
        io.send_with(connection, |out| {
            payload = self.appends.encode(out, &message, sequence);
        });
        if let Some(payload) = payload {
            io.send(connection, payload);
        }
    }

    fn send_hello_reply(&mut self, io: &mut Io, caller: Caller, reply: &HelloReply) {
        let connection = connection_of(caller.connection);
        let sent = io.send_with(connection, |out| {
            proto::encode_hello_reply(out, reply, caller.sequence)
        });
        if let Some(reason) = &reply.refused {
            if let Some(dropped) = io.admit_log("peer refused") {
                warn!(target: "RaftRpc", "introduction refused: reason={reason}{dropped}");
            }
            io.close(connection);
        } else if sent && let Some(link) = self.asked.remove(connection) {
            self.introduced.insert(connection, link);
            self.incoming.insert(link.peer, connection);
        }
    }

    /// Wakes the raft thread, once for all messages of the round.
    pub(super) fn ring(&mut self) {
        if std::mem::take(&mut self.unrung) {
            self.to_raft.ring();
        }
    }
}

/// Bytes that may wait for one peer: what the leader's window admits, twice over.
const PEER_OUTPUT_BYTES_MAX: usize = 2 * (limits::INFLIGHT_BYTES_MAX + limits::FRAME_BYTES_MAX);

/// Opens the envelope of a peer's frame; one that can't be opened ends the connection.
fn open(io: &mut Io, connection: ConnectionId, body: Bytes) -> Option<Envelope> {
    match decode_envelope(body) {
        Ok(envelope) if envelope.service == proto::RAFT_SERVICE.as_bytes() => Some(envelope),
        Ok(_) => {
            shut_out(io, connection, "unknown service");
            None
        }
        Err(error) => {
            shut_out(io, connection, &error.to_string());
            None
        }
    }
}

/// Ends a connection on which something came that no peer sends.
fn shut_out(io: &mut Io, connection: ConnectionId, reason: &str) {
    if let Some(dropped) = io.admit_log("peer shut out") {
        let addr = io.peer_addr(connection);
        debug!(target: "RaftRpc", "connection on the peer port closed: addr={addr:?} reason={reason}{dropped}");
    }
    io.close(connection);
}
