//! A reactor of the server: an event loop with clients, and on the first one the peers.
//!
//! It moves frames between sockets and the raft thread's inbox, and knows no Raft.

use std::net::SocketAddr;
use std::time::Duration;

use log::{debug, info};

use crate::net::frame::Body;
use crate::net::rate_limit::RateLimit;
use crate::net::{CloseReason, ConnectionId, ConnectionMap, ConnectorId, Handler, Io, ListenerId};
use crate::server::clients::Clients;
use crate::server::peers::Peers;
use crate::server::strangers::Strangers;

/// The handler of one event loop.
pub(super) struct Reactor {
    pub(super) clients: Clients,
    /// On the first reactor only.
    pub(super) peers: Option<Peers>,
    /// On the peer port.
    pub(super) strangers: Strangers,
    pub(super) kinds: ConnectionMap<Kind>,
    /// For lines about connections to the peer port that say nothing.
    pub(super) probes: RateLimit,
    pub(super) stop: crate::mailbox::Receiver<()>,
}

/// What a connection is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Client,
    /// Whoever has dialled our peer port and has said nothing yet.
    Stranger(SocketAddr),
    /// A peer that has dialled us.
    Incoming,
    /// A peer that we have dialled.
    Outgoing,
}

/// Health checks come for ever, and one line a minute says as much as all of them.
pub(super) fn probe_limit() -> RateLimit {
    RateLimit::within(Duration::from_secs(60), 1)
}

impl Reactor {
    /// One line at most for a connection that ended, and none where nothing is the matter.
    fn log_close(&mut self, io: &mut Io, kind: Option<Kind>, reason: &CloseReason) {
        match (kind, reason) {
            // The event loop has written a line about it.
            (_, CloseReason::Frame(_) | CloseReason::NoRoom | CloseReason::Unread) => {}
            (Some(Kind::Stranger(addr)), _) => {
                if let Some(dropped) = self.probes.admit("probe", io.now()) {
                    info!(target: "RaftRpc", "connection to the peer port closed without a word: addr={addr}{dropped}");
                }
            }
            (_, CloseReason::PeerClosed | CloseReason::Closed) => {}
            _ => {
                if let Some(dropped) = io.admit_log("connection closed") {
                    info!(target: "RaftRpc", "connection closed: kind={kind:?} reason={reason}{dropped}");
                }
            }
        }
    }
}

impl Handler for Reactor {
    fn on_accept(
        &mut self,
        io: &mut Io,
        listener: ListenerId,
        connection: ConnectionId,
        peer: SocketAddr,
    ) {
        let peers = self.peers.as_ref();
        let kind = match peers.filter(|peers| peers.listener == listener) {
            Some(peers) => {
                let is_known = |id| peers.has_introduced(id) || !io.is_open(id);
                if let Some(oldest) = self.strangers.admit(connection, is_known) {
                    io.abort(oldest);
                }
                Kind::Stranger(peer)
            }
            None => Kind::Client,
        };
        self.kinds.insert(connection, kind);
    }

    fn on_connected(&mut self, _io: &mut Io, connector: ConnectorId, connection: ConnectionId) {
        self.kinds.insert(connection, Kind::Outgoing);
        if let Some(peers) = &mut self.peers {
            peers.connected(connector, connection);
        }
    }

    fn on_connect_failed(
        &mut self,
        io: &mut Io,
        connector: ConnectorId,
        error: &std::io::Error,
        retry_in: Option<Duration>,
    ) {
        if let Some(dropped) = io.admit_log("connect failed") {
            let peers = self.peers.as_ref();
            let peer = peers.and_then(|peers| peers.dialled(connector));
            let peer = peer.map_or("-".to_owned(), |peer| peer.to_string());
            let retry = retry_in.map_or("never".to_owned(), |t| format!("{} ms", t.as_millis()));
            debug!(target: "RaftRpc", "cannot connect: peer={peer} error={error} retry_in={retry}{dropped}");
        }
    }

    fn on_frame(&mut self, io: &mut Io, connection: ConnectionId, body: Body<'_>) {
        match (self.kinds.get(connection), &mut self.peers) {
            (Some(Kind::Client), _) => self.clients.on_frame(io, connection, &body),
            (Some(kind @ (Kind::Incoming | Kind::Stranger(_))), Some(peers)) => {
                if *kind != Kind::Incoming {
                    self.kinds.insert(connection, Kind::Incoming);
                }
                peers.on_request(io, connection, body.into_bytes());
            }
            (Some(Kind::Outgoing), Some(peers)) => {
                peers.on_reply(io, connection, body.into_bytes());
            }
            _ => io.abort(connection),
        }
    }

    fn on_read_closed(&mut self, io: &mut Io, connection: ConnectionId) {
        match self.kinds.get(connection) {
            // It may still wait for answers.
            Some(Kind::Client) => self.clients.on_read_closed(io, connection),
            _ => io.close(connection),
        }
    }

    fn on_close(&mut self, io: &mut Io, connection: ConnectionId, reason: CloseReason) {
        let kind = self.kinds.remove(connection);
        self.log_close(io, kind, &reason);
        match (kind, &mut self.peers) {
            (Some(Kind::Client), _) => self.clients.on_close(connection),
            (Some(_), Some(peers)) => peers.on_close(connection),
            _ => {}
        }
    }

    fn on_wake(&mut self, io: &mut Io) {
        if self.stop.try_recv().is_some() {
            io.stop();
        }
        // Peers first: heartbeats do not wait behind the answers to clients.
        if let Some(peers) = &mut self.peers {
            peers.send_messages(io);
        }
        self.clients.send_answers(io);
    }

    fn on_round_end(&mut self, _io: &mut Io) {
        self.clients.ring();
        if let Some(peers) = &mut self.peers {
            peers.ring();
        }
    }
}
