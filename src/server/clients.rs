//! The clients of one reactor: requests in, answers out, and no more of them at a time
//! than there is room for.
//!
//! The room for an answer is reserved when its request is let in: a reactor has at
//! most [`limits::REQUESTS_IN_FLIGHT_MAX`] requests with the raft thread, which is what
//! its lane for answers holds. At the limit, at one for the bytes of requests, and at one
//! for each connection no more is read, so that TCP pushes back at the client; peers have
//! lanes of their own. A client that does not take its answers is read no further either
//! (see [`Io`]), and of what it has asked for before, values are not queued without end.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use log::debug;

use crate::limits;
use crate::mailbox::{Receiver, Sender, TrySendError};
use crate::net::{ConnectionId, ConnectionMap, Io};
use crate::node::{Answer, BackupAnswer, Caller, OperatorAnswer, Request, Status};
use crate::proto::{self, Call, CommandBuffer, Refusal};
use crate::server::mail::{FromClient, Load, ToClient, connection_number, connection_of};
use crate::server::peers::Connected;
use crate::types::NodeId;

/// What the answers hold that one round takes over, in bytes, and what is counted for one
/// beside its value.
const ANSWER_BYTES_PER_ROUND: usize = 1 << 20;
const ANSWER_OVERHEAD_BYTES: usize = 256;

pub(super) struct Clients {
    /// Which reactor this is.
    reactor: u32,
    /// Where clients find the nodes.
    addresses: Arc<BTreeMap<NodeId, SocketAddr>>,
    connected: Arc<Connected>,
    started: Instant,
    /// Where commands and keys are put together.
    commands: CommandBuffer,
    to_raft: Sender<FromClient>,
    /// What waits in `to_raft`, of this reactor.
    request_load: Arc<Load>,
    answers: Receiver<ToClient>,
    /// The values that wait in `answers`, of all reactors.
    answer_load: Arc<Load>,
    /// Requests with the raft thread, over all connections.
    in_flight: usize,
    connections: ConnectionMap<Client>,
    /// Connections that are closed, and how many of their requests are still to be
    /// answered: others may have their places among `connections` by then.
    gone: HashMap<ConnectionId, usize>,
    /// Connections that are not read from because the reactor is at a limit.
    held_back: VecDeque<ConnectionId>,
    /// What the raft thread is to be told of connections that are clogged or no longer.
    notes: VecDeque<(ConnectionId, bool)>,
    /// Whether something was sent that the raft thread has not been rung for.
    unrung: bool,
}

/// A connection with requests in flight, or one that is not read from.
#[derive(Debug, Default)]
struct Client {
    in_flight: usize,
    paused: bool,
    /// It is among those who wait for room in the reactor.
    held_back: bool,
    /// The raft thread knows that it does not take its answers.
    clogged: bool,
    /// It will send no more, and gets what it still waits for.
    read_closed: bool,
}

impl Clients {
    pub(super) fn new(
        reactor: u32,
        connected: Arc<Connected>,
        (to_raft, request_load): (Sender<FromClient>, Arc<Load>),
        (answers, answer_load): (Receiver<ToClient>, Arc<Load>),
    ) -> Clients {
        Clients {
            reactor,
            addresses: Arc::default(),
            connected,
            started: Instant::now(),
            commands: CommandBuffer::new(),
            to_raft,
            request_load,
            answers,
            answer_load,
            in_flight: 0,
            connections: ConnectionMap::default(),
            gone: HashMap::new(),
            held_back: VecDeque::new(),
            notes: VecDeque::new(),
            unrung: false,
        }
    }

    pub(super) fn on_frame(&mut self, io: &mut Io, connection: ConnectionId, body: &[u8]) {
        match proto::decode_call(body, &mut self.commands) {
            Ok(Call { sequence, request }) => self.admit(io, connection, sequence, request),
            Err(refusal) => refuse(io, connection, &refusal),
        }
    }

    fn admit(&mut self, io: &mut Io, connection: ConnectionId, sequence: u64, request: Request) {
        let caller = Caller {
            reactor: self.reactor,
            connection: connection_number(connection),
            sequence,
        };
        if self.is_full() {
            // Of another connection that was read in the same round.
            refuse_busy(io, connection, sequence);
            return self.hold_back(io, connection);
        }
        let bytes = request.size_bytes();
        self.request_load.add(bytes);
        self.note_clogged(connection, false);
        let mail = FromClient::Request(caller, request);
        match self.to_raft.try_send_quiet(mail) {
            Ok(()) => {}
            Err(TrySendError::Full(_)) => {
                self.request_load.sub(bytes);
                return refuse_busy(io, connection, sequence);
            }
            Err(TrySendError::Disconnected(_)) => {
                // The raft thread has ended: another node is a better place to ask.
                self.request_load.sub(bytes);
                return io.abort(connection);
            }
        }
        self.unrung = true;
        self.in_flight += 1;
        let client = self.connections.entry(connection);
        client.in_flight += 1;
        if client.in_flight >= limits::CONNECTION_REQUESTS_MAX {
            client.paused = true;
            io.pause_reading(connection);
        } else if self.is_full() {
            self.hold_back(io, connection);
        }
    }

    /// Whether no more may be with the raft thread. Then there is an answer to come.
    fn is_full(&self) -> bool {
        self.in_flight >= limits::REQUESTS_IN_FLIGHT_MAX
            || self.request_load.get() >= limits::REQUEST_BYTES_MAX
    }

    fn hold_back(&mut self, io: &mut Io, connection: ConnectionId) {
        let client = self.connections.entry(connection);
        (client.paused, client.held_back) = (true, true);
        io.pause_reading(connection);
        self.held_back.push_back(connection);
    }

    /// Sends the answers that wait in the mailbox, a round's worth of them.
    pub(super) fn send_answers(&mut self, io: &mut Io) {
        let mut left = ANSWER_BYTES_PER_ROUND;
        let mut taken_bytes = 0;
        while let Some(mail) = self.answers.try_recv() {
            let (caller, answer) = match mail {
                ToClient::Answer { caller, answer } => (caller, answer),
                ToClient::Members(addresses) => {
                    self.addresses = addresses;
                    continue;
                }
            };
            let bytes = answer.value_bytes();
            left = left.saturating_sub(ANSWER_OVERHEAD_BYTES + bytes);
            taken_bytes += bytes;
            let connection = connection_of(caller.connection);
            self.in_flight -= 1;
            self.send_answer(io, connection, caller.sequence, answer);
            self.settle(io, connection);
            if !self.is_full()
                && let Some(next) = self.held_back.pop_front()
            {
                self.resume(io, next);
            }
            if left == 0 {
                // The raft thread may be as quick: sockets and peers get their turn.
                io.wake_again();
                break;
            }
        }
        if taken_bytes > 0 && self.answer_load.sub(taken_bytes) >= limits::ANSWER_BYTES_MAX {
            // The raft thread waits for room.
            self.unrung = true;
        }
        // Who was resumed may have nothing to ask, and no answer come that resumes the next.
        if self.in_flight == 0 {
            for connection in std::mem::take(&mut self.held_back) {
                self.resume(io, connection);
            }
        }
    }

    /// Tells the raft thread whether the connection has too much to take. Once it is read
    /// from again, it has taken most of it.
    fn note_clogged(&mut self, connection: ConnectionId, clogged: bool) {
        let Some(client) = self.connections.get_mut(connection) else {
            return;
        };
        if std::mem::replace(&mut client.clogged, clogged) != clogged {
            self.notes.push_back((connection, clogged));
            self.send_notes();
        }
    }

    fn send_notes(&mut self) {
        while let Some((connection, clogged)) = self.notes.pop_front() {
            let note = FromClient::Clogged {
                reactor: self.reactor,
                connection: connection_number(connection),
                clogged,
            };
            if let Err(TrySendError::Full(_)) = self.to_raft.try_send_quiet(note) {
                // In the next round, which comes: all those requests are answered.
                return self.notes.push_front((connection, clogged));
            }
            self.unrung = true;
        }
    }

    fn send_answer(&mut self, io: &mut Io, to: ConnectionId, sequence: u64, answer: Answer) {
        match answer {
            Answer::Status(status) => self.send_status(io, to, sequence, &status),
            Answer::Change(answer) => {
                self.send_operator(io, to, sequence, proto::CHANGE_MEMBERS, answer);
            }
            Answer::HandOver(answer) => {
                self.send_operator(io, to, sequence, proto::TRANSFER_LEADERSHIP, answer);
            }
            Answer::Backup(answer) => send_backup(io, to, sequence, answer),
            answer => self.send_result(io, to, sequence, &answer),
        }
    }

    fn send_status(&self, io: &mut Io, to: ConnectionId, sequence: u64, status: &Status) {
        let uptime_ms = u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX);
        let status = proto::encode_status(status, |id| self.connected.get(id), uptime_ms);
        let (service, method) = (proto::STATUS_SERVICE, proto::STATUS_GET);
        io.send_call(to, service, method, sequence, &status);
    }

    fn send_operator(
        &self,
        io: &mut Io,
        to: ConnectionId,
        sequence: u64,
        method: &str,
        answer: OperatorAnswer,
    ) {
        let response = proto::encode_operator_answer(answer, |id| self.address(id));
        io.send_call(to, proto::OPERATOR_SERVICE, method, sequence, &response);
    }

    fn send_result(&mut self, io: &mut Io, to: ConnectionId, sequence: u64, answer: &Answer) {
        // Who has so much to take, and asks for more, has to take it first.
        if is_clogged(io, to) && answer.value_bytes() > 0 {
            self.note_clogged(to, true);
            return refuse_busy(io, to, sequence);
        }
        io.send_with(to, |out| {
            proto::encode_answer_frame(out, sequence, answer, |id| self.address(id));
        });
    }

    /// Where clients find a node.
    fn address(&self, id: NodeId) -> Option<String> {
        self.addresses.get(&id).map(SocketAddr::to_string)
    }

    /// A request of this connection has been answered.
    fn settle(&mut self, io: &mut Io, connection: ConnectionId) {
        let Some(client) = self.connections.get_mut(connection) else {
            return self.settle_gone(connection);
        };
        client.in_flight -= 1;
        if client.in_flight == 0 && client.read_closed {
            io.close(connection);
        }
        let has_room = client.in_flight < limits::CONNECTION_REQUESTS_MAX / 2;
        if client.paused && !client.held_back && has_room {
            self.resume(io, connection);
        }
    }

    fn resume(&mut self, io: &mut Io, connection: ConnectionId) {
        let Some(client) = self.connections.get_mut(connection) else {
            return;
        };
        client.held_back = false;
        if client.paused && client.in_flight < limits::CONNECTION_REQUESTS_MAX {
            client.paused = false;
            io.resume_reading(connection);
        }
    }

    pub(super) fn on_read_closed(&mut self, io: &mut Io, connection: ConnectionId) {
        match self.connections.get_mut(connection) {
            Some(client) if client.in_flight > 0 => client.read_closed = true,
            _ => io.close(connection),
        }
    }

    fn settle_gone(&mut self, connection: ConnectionId) {
        let Entry::Occupied(mut left) = self.gone.entry(connection) else {
            return;
        };
        *left.get_mut() -= 1;
        if *left.get() == 0 {
            left.remove();
            self.notes.push_back((connection, false));
            self.send_notes();
        }
    }

    pub(super) fn on_close(&mut self, connection: ConnectionId) {
        let Some(client) = self.connections.remove(connection) else {
            return;
        };
        // Its answers will come, count as answered, and go nowhere; values are not even
        // looked up for it.
        let is_waiting = client.in_flight > 0;
        if is_waiting {
            self.gone.insert(connection, client.in_flight);
        }
        if client.clogged != is_waiting {
            self.notes.push_back((connection, is_waiting));
            self.send_notes();
        }
    }

    /// Wakes the raft thread, once for all requests of the round.
    pub(super) fn ring(&mut self) {
        self.send_notes();
        if std::mem::take(&mut self.unrung) {
            self.to_raft.ring();
        }
    }
}

/// Whether the connection has so much to take that it gets no more values.
fn is_clogged(io: &Io, connection: ConnectionId) -> bool {
    io.queued_bytes(connection) >= limits::CONNECTION_OUTPUT_BYTES_MAX
}

fn send_backup(io: &mut Io, to: ConnectionId, sequence: u64, answer: BackupAnswer) {
    let answer = match answer {
        BackupAnswer::Piece { .. } if is_clogged(io, to) => BackupAnswer::Declined {
            reason: "too many answers wait to be taken".to_owned(),
            again: true,
        },
        answer => answer,
    };
    let (method, response) = proto::encode_backup_answer(answer);
    io.send_call(to, proto::OPERATOR_SERVICE, method, sequence, &response);
}

fn refuse_busy(io: &mut Io, connection: ConnectionId, sequence: u64) {
    io.send_with(connection, |out| {
        proto::encode_answer_frame(out, sequence, &Answer::Busy, |_| None);
    });
}

/// Answers what is no request. The connection stays open: its frames are right.
fn refuse(io: &mut Io, connection: ConnectionId, refusal: &Refusal<'_>) {
    if let Some(dropped) = io.admit_log("bad request") {
        debug!(target: "RaftClerk", "bad request: reason={}{dropped}", refusal.reason);
    }
    io.send_with(connection, |out| {
        proto::encode_refusal_frame(out, refusal);
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mailbox::{Doorbell, channel};
    use crate::net::{EventLoop, Options};

    #[test]
    fn who_is_gone_is_forgotten_though_another_has_its_place() {
        let (to_raft, mail) = channel(64, Arc::new(Doorbell::for_thread()));
        let (to_client, answers) = channel(64, Arc::new(Doorbell::for_thread()));
        let mut clients = Clients::new(
            0,
            Arc::default(),
            (to_raft, Arc::default()),
            (answers, Arc::default()),
        );
        let mut event_loop = EventLoop::new(Options::default()).expect("a loop");
        let io = event_loop.io();
        let id = |generation| ConnectionId { key: 5, generation };
        clients.admit(io, id(1), 1, Request::Status);
        clients.on_close(id(1));
        clients.admit(io, id(2), 1, Request::Status);
        let caller = Caller {
            reactor: 0,
            connection: connection_number(id(1)),
            sequence: 1,
        };
        let answer = ToClient::Answer {
            caller,
            answer: Answer::NoLeader,
        };
        assert!(to_client.try_send(answer).is_ok());
        clients.send_answers(io);
        let mut notes = Vec::new();
        while let Some(mail) = mail.try_recv() {
            if let FromClient::Clogged { clogged, .. } = mail {
                notes.push(clogged);
            }
        }
        assert_eq!(notes, [true, false]);
        assert!(clients.gone.is_empty() && clients.connections.get(id(2)).is_some());
    }
}
