//! What a handler may do: the loop's connections, listeners, connectors and timers.
//!
//! Everything here only queues: bytes are written at the end of the round, with one
//! `writev` per connection, and no method calls back into the handler. What happens as
//! a consequence (a connection closed, a connect failed) is reported by the loop, later.

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use mio::net::TcpStream;
use mio::{Interest, Registry, Token};
use prost::Message;
use rand::SeedableRng;
use rand::rngs::StdRng;
use slab::Slab;
use socket2::{SockRef, TcpKeepalive};

use super::acceptor::{Acceptor, ConnectionBudget, ListenerId, Sharing};
use super::connection::{CloseReason, Connection, ConnectionId, Origin, State};
use super::connector::{CONNECT_TIMEOUT, Connector, ConnectorId, Phase, is_worth_a_retry};
use super::envelope::encode_call;
use super::event_loop::Options;
use super::frame::{FrameDecoder, FrameError};
use super::rate_limit::{Dropped, RateLimit};
use super::timer_queue::{TimerId, TimerQueue};
use crate::mailbox::Doorbell;
use crate::mem::Buffer;

/// How long a connection that was closed may take to accept what is left for it.
const LINGER: Duration = Duration::from_secs(2);
/// A dialled connection that lasted so long starts the back-off anew.
const STABLE_AFTER: Duration = Duration::from_secs(1);
/// How long a connection is silent before the first probe, how long it is from one
/// probe to the next, and how many go unanswered before it ends.
const PROBE_AFTER: Duration = Duration::from_secs(60);
const PROBE_INTERVAL: Duration = Duration::from_secs(10);
const PROBES: u32 = 3;
/// How long a dialled connection may leave unacknowledged what we sent.
const UNACKNOWLEDGED_MAX: Duration = Duration::from_secs(3);
/// Log lines a second about one kind of bad input, per loop.
const LOG_LINES_PER_SECOND: u32 = 5;
/// What one read from a socket takes at most, unless it goes straight into a body.
const INPUT_BYTES: usize = 64 << 10;

pub(super) const WAKER: Token = Token(0);
const _: () = assert!(usize::BITS == 64, "a token holds key and generation");

/// What a timer of the loop is for.
#[derive(Debug)]
pub(super) enum Alarm {
    Handler,
    AcceptAgain(ListenerId),
    Dial(ConnectorId),
    /// A connect or a close has taken too long.
    Overdue(ConnectionId),
}

/// What the handler has yet to be told.
#[derive(Debug)]
pub(super) enum Notice {
    Closed(ConnectionId, CloseReason),
    ConnectFailed(ConnectorId, io::Error, Option<Duration>),
}

/// See the module.
#[derive(Debug)]
pub struct Io {
    pub(super) registry: Registry,
    pub(super) doorbell: Arc<Doorbell>,
    pub(super) now: Instant,
    pub(super) connections: Slab<Connection>,
    last_generation: u32,
    /// What all connections hold of frames that are not complete.
    partial_bytes: usize,
    partial_bytes_max: usize,
    /// What waits to be written to all accepted connections.
    output_bytes: usize,
    output_bytes_max: usize,
    pub(super) acceptors: Vec<Acceptor>,
    pub(super) connectors: Vec<Connector>,
    pub(super) timers: TimerQueue<Alarm>,
    /// Connections that may have input which they may take.
    pub(super) ready: Vec<ConnectionId>,
    /// Connections to flush at the end of the round.
    flush: Vec<ConnectionId>,
    pub(super) notices: VecDeque<Notice>,
    /// Where sockets are read to; shared by all connections.
    pub(super) input: Box<[u8]>,
    log_limit: RateLimit,
    budget: Arc<ConnectionBudget>,
    rng: StdRng,
    pub(super) wake_again: bool,
    pub(super) stopping: bool,
}

impl Io {
    pub(super) fn new(registry: Registry, doorbell: Arc<Doorbell>, options: Options) -> Io {
        Io {
            registry,
            doorbell,
            now: Instant::now(),
            connections: Slab::new(),
            last_generation: 0,
            partial_bytes: 0,
            partial_bytes_max: options.partial_bytes_max,
            output_bytes: 0,
            output_bytes_max: options.output_bytes_max,
            acceptors: Vec::new(),
            connectors: Vec::new(),
            timers: TimerQueue::default(),
            ready: Vec::new(),
            flush: Vec::new(),
            notices: VecDeque::new(),
            input: vec![0; INPUT_BYTES].into_boxed_slice(),
            log_limit: RateLimit::new(LOG_LINES_PER_SECOND),
            budget: options.budget,
            rng: StdRng::seed_from_u64(options.seed),
            wake_again: false,
            stopping: false,
        }
    }

    /// The time at which this round began.
    #[must_use]
    pub fn now(&self) -> Instant {
        self.now
    }

    /// What wakes this loop: for the mailboxes that its handler drains.
    #[must_use]
    pub fn doorbell(&self) -> Arc<Doorbell> {
        self.doorbell.clone()
    }

    /// Runs another round at once: for a handler that did not drain all of its mail.
    pub fn wake_again(&mut self) {
        self.wake_again = true;
    }

    /// Ends the loop with this round. What is queued gets one try.
    pub fn stop(&mut self) {
        self.stopping = true;
    }

    /// Whether a line about `reason` may be logged now: see [`RateLimit::admit`].
    pub fn admit_log(&mut self, reason: &'static str) -> Option<Dropped> {
        self.log_limit.admit(reason, self.now)
    }

    /// Sets a timer; [`super::Handler::on_timer`] is called once it has expired.
    pub fn set_timer(&mut self, deadline: Instant) -> TimerId {
        self.timers.set(deadline, Alarm::Handler)
    }

    /// Takes a timer back. Nothing happens if it has expired.
    pub fn cancel_timer(&mut self, timer: TimerId) {
        self.timers.cancel(timer);
    }

    /// Listens on `addr`; port 0 means any that is free.
    ///
    /// # Errors
    /// What the system says: `AddrInUse` above all.
    pub fn listen(&mut self, addr: SocketAddr, sharing: Sharing) -> io::Result<ListenerId> {
        self.listen_within(addr, sharing, self.budget.clone())
    }

    /// As [`Io::listen`], with a budget of its own.
    ///
    /// # Errors
    /// As [`Io::listen`].
    pub fn listen_within(
        &mut self,
        addr: SocketAddr,
        sharing: Sharing,
        budget: Arc<ConnectionBudget>,
    ) -> io::Result<ListenerId> {
        let mut acceptor = Acceptor::bind(addr, sharing, budget)?;
        let id = ListenerId(self.acceptors.len() as u32);
        let token = Token(1 + self.acceptors.len());
        self.registry
            .register(&mut acceptor.listener, token, Interest::READABLE)?;
        self.acceptors.push(acceptor);
        Ok(id)
    }

    /// Where a listener listens.
    ///
    /// # Errors
    /// What the system says.
    pub fn listener_addr(&self, listener: ListenerId) -> io::Result<SocketAddr> {
        self.acceptors[listener.0 as usize].listener.local_addr()
    }

    /// Whether there is such a connection, and it takes output.
    #[must_use]
    pub fn is_open(&self, connection: ConnectionId) -> bool {
        self.get(connection).is_some_and(Connection::takes_output)
    }

    /// How many connections there are, in whatever state.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.connections.len()
    }

    /// The address of the other end.
    #[must_use]
    pub fn peer_addr(&self, connection: ConnectionId) -> Option<SocketAddr> {
        self.get(connection).map(|connection| connection.peer)
    }

    /// How many bytes wait to be written to a connection; 0 if it is gone.
    #[must_use]
    pub fn queued_bytes(&self, connection: ConnectionId) -> usize {
        self.get(connection)
            .map_or(0, |connection| connection.output.queued_bytes())
    }

    /// Queues a whole frame, or a part of one whose rest follows. It is not copied,
    /// unless it is small. Returns whether the connection takes it.
    pub fn send(&mut self, connection: ConnectionId, bytes: Bytes) -> bool {
        self.send_to(connection, |connection| connection.output.push(bytes))
    }

    /// Encodes a frame into the output of a connection. Returns whether it takes it.
    ///
    /// # Panics
    /// As [`encode_call`].
    pub fn send_call(
        &mut self,
        connection: ConnectionId,
        service: &str,
        method: &str,
        sequence: u64,
        payload: &impl Message,
    ) -> bool {
        self.send_with(connection, |buffer| {
            encode_call(buffer, service, method, sequence, payload);
        })
    }

    /// Lets `write` append to the output of a connection. It is not called if the
    /// connection takes no output. Returns whether it was.
    pub fn send_with(&mut self, connection: ConnectionId, write: impl FnOnce(&mut Buffer)) -> bool {
        self.send_to(connection, |connection| connection.output.write_with(write))
    }

    fn send_to(&mut self, id: ConnectionId, queue: impl FnOnce(&mut Connection)) -> bool {
        let Some(connection) = self.get_mut(id) else {
            return false;
        };
        if !connection.takes_output() {
            return false;
        }
        queue(connection);
        connection.throttle();
        self.mark_flush(id);
        self.account_output(id);
        true
    }

    /// Stops taking frames from a connection, at once and until resumed: TCP pushes
    /// back at its peer.
    pub fn pause_reading(&mut self, connection: ConnectionId) {
        if let Some(connection) = self.get_mut(connection) {
            connection.paused = true;
        }
    }

    /// Takes frames from a connection again.
    pub fn resume_reading(&mut self, connection: ConnectionId) {
        if let Some(found) = self.get_mut(connection) {
            found.paused = false;
            self.mark_ready(connection);
        }
    }

    /// Takes no more frames from a connection, sends what is queued, and ends it; after
    /// two seconds in any case. A dialled one is dialled again.
    pub fn close(&mut self, connection: ConnectionId) {
        self.close_within(connection, LINGER);
    }

    /// As [`Io::close`], with another limit on how long it may take.
    pub fn close_within(&mut self, connection: ConnectionId, linger: Duration) {
        let deadline = self.now + linger;
        let Some(found) = self.get_mut(connection) else {
            return;
        };
        if !found.takes_output() {
            return;
        }
        found.state = State::Closing;
        found.decoder = FrameDecoder::default();
        found.stash = Bytes::new();
        let timer = self.timers.set(deadline, Alarm::Overdue(connection));
        self.get_mut(connection).expect("it was found").deadline = Some(timer);
        self.mark_flush(connection);
    }

    /// Ends a connection at once; what is queued is lost. A dialled one is dialled again.
    pub fn abort(&mut self, connection: ConnectionId) {
        self.remove(connection, CloseReason::Aborted);
    }

    /// Keeps a connection to `addr` from now on: dials now, and again after failures and
    /// after the connection has ended.
    pub fn connect(&mut self, addr: SocketAddr) -> ConnectorId {
        let id = ConnectorId(self.connectors.len() as u32);
        self.connectors.push(Connector::new(addr));
        self.dial(id);
        id
    }

    /// The peer is known to be there: dials now if a try is due later, or if the
    /// connector had given up, and begins the back-off anew.
    pub fn reset_backoff(&mut self, connector: ConnectorId) {
        let found = &mut self.connectors[connector.0 as usize];
        found.backoff.reset();
        match found.phase {
            Phase::Busy(_) => {}
            Phase::Idle => self.dial(connector),
            Phase::Waiting(timer) => {
                self.timers.cancel(timer);
                self.dial(connector);
            }
        }
    }

    /// Keeps the connection no longer; one that there is, is closed.
    pub fn disconnect(&mut self, connector: ConnectorId) {
        let found = &mut self.connectors[connector.0 as usize];
        match std::mem::replace(&mut found.phase, Phase::Idle) {
            Phase::Idle => {}
            Phase::Waiting(timer) => drop(self.timers.cancel(timer)),
            Phase::Busy(id) if self.is_open(id) => self.close(id),
            Phase::Busy(id) => self.remove(id, CloseReason::Aborted),
        }
    }

    pub(super) fn dial(&mut self, connector: ConnectorId) {
        let addr = self.connectors[connector.0 as usize].addr;
        let origin = Origin::Dialled(connector);
        let opened = TcpStream::connect(addr)
            .and_then(|stream| self.insert(stream, addr, origin, State::Connecting));
        match opened {
            Ok(id) => {
                let deadline = self.now + CONNECT_TIMEOUT;
                let timer = self.timers.set(deadline, Alarm::Overdue(id));
                self.get_mut(id).expect("it is new").deadline = Some(timer);
                self.connectors[connector.0 as usize].phase = Phase::Busy(id);
            }
            Err(error) => self.connect_failed(connector, error),
        }
    }

    /// Plans the next try, if there is to be one.
    pub(super) fn connect_failed(&mut self, connector: ConnectorId, error: io::Error) {
        let retry_in = is_worth_a_retry(&error).then(|| self.dial_later(connector));
        if retry_in.is_none() {
            self.connectors[connector.0 as usize].phase = Phase::Idle;
        }
        self.notices
            .push_back(Notice::ConnectFailed(connector, error, retry_in));
    }

    fn dial_later(&mut self, connector: ConnectorId) -> Duration {
        let found = &mut self.connectors[connector.0 as usize];
        let wait = found.backoff.next(&mut self.rng);
        let timer = self.timers.set(self.now + wait, Alarm::Dial(connector));
        found.phase = Phase::Waiting(timer);
        wait
    }

    pub(super) fn get(&self, id: ConnectionId) -> Option<&Connection> {
        let connection = self.connections.get(id.key as usize)?;
        (connection.id == id).then_some(connection)
    }

    pub(super) fn get_mut(&mut self, id: ConnectionId) -> Option<&mut Connection> {
        let connection = self.connections.get_mut(id.key as usize)?;
        (connection.id == id).then_some(connection)
    }

    /// Registers a socket for both directions, once for all: edges cost no more calls.
    pub(super) fn insert(
        &mut self,
        mut stream: TcpStream,
        peer: SocketAddr,
        origin: Origin,
        state: State,
    ) -> io::Result<ConnectionId> {
        let entry = self.connections.vacant_entry();
        self.last_generation = self.last_generation.wrapping_add(1).max(1);
        let id = ConnectionId {
            key: u32::try_from(entry.key()).expect("file descriptors are fewer"),
            generation: self.last_generation,
        };
        configure(&stream, &origin)?;
        self.registry.register(
            &mut stream,
            token(id),
            Interest::READABLE | Interest::WRITABLE,
        )?;
        entry.insert(Connection::new(id, stream, peer, origin, state, self.now));
        Ok(id)
    }

    /// Drops a connection and its socket; the handler is told later, unless it has never
    /// heard of it.
    pub(super) fn remove(&mut self, id: ConnectionId, reason: CloseReason) {
        if self.get(id).is_none() {
            return;
        }
        let connection = self.connections.remove(id.key as usize);
        if let Some(timer) = connection.deadline {
            self.timers.cancel(timer);
        }
        self.partial_bytes -= connection.partial_bytes;
        self.output_bytes -= connection.output_bytes;
        self.log_bad_input(connection.peer, &reason);
        match connection.origin {
            Origin::Dialled(connector) if self.phase(connector) == Phase::Busy(id) => {
                if connection.state == State::Connecting {
                    let error = match reason {
                        CloseReason::Io(error) => error,
                        reason => io::Error::other(reason),
                    };
                    return self.connect_failed(connector, error);
                }
                if self.now.saturating_duration_since(connection.since) >= STABLE_AFTER {
                    self.connectors[connector.0 as usize].backoff.reset();
                }
                self.dial_later(connector);
            }
            Origin::Dialled(_) | Origin::Accepted { .. } => {}
        }
        if connection.state != State::Connecting {
            self.notices.push_back(Notice::Closed(id, reason));
        }
    }

    fn phase(&self, connector: ConnectorId) -> Phase {
        self.connectors[connector.0 as usize].phase
    }

    fn log_bad_input(&mut self, peer: SocketAddr, reason: &CloseReason) {
        let kind = match reason {
            CloseReason::Frame(FrameError::Magic(_)) => "magic",
            CloseReason::Frame(FrameError::Length(_)) => "length",
            CloseReason::Frame(FrameError::HeaderChecksum { .. }) => "header checksum",
            CloseReason::NoRoom => "no room",
            CloseReason::Unread => "unread",
            _ => return,
        };
        if let Some(dropped) = self.admit_log(kind) {
            log::warn!("connection closed: peer={peer} reason={reason}{dropped}");
        }
    }

    /// Keeps count of what a connection holds of frames that are not complete. If that
    /// is too much over all connections, the one that holds most has to go.
    pub(super) fn account(&mut self, id: ConnectionId) {
        let Some(connection) = self.get_mut(id) else {
            return;
        };
        let before = connection.partial_bytes;
        let after = connection.decoder.room_bytes();
        connection.partial_bytes = after;
        self.partial_bytes = self.partial_bytes - before + after;
        if after > before && self.partial_bytes > self.partial_bytes_max {
            let connections = self.connections.iter().map(|(_, connection)| connection);
            let largest = connections.max_by_key(|connection| connection.partial_bytes);
            let largest = largest.expect("there is one at least").id;
            self.remove(largest, CloseReason::NoRoom);
        }
    }

    /// Keeps count of what waits to be written to those who ask. If that is too much over
    /// all of them, the one that has most to take has to go.
    fn account_output(&mut self, id: ConnectionId) {
        let Some(connection) = self.get_mut(id) else {
            return;
        };
        if !matches!(connection.origin, Origin::Accepted { .. }) {
            return;
        }
        let before = connection.output_bytes;
        let after = connection.output.queued_bytes();
        connection.output_bytes = after;
        self.output_bytes = self.output_bytes - before + after;
        if after > before && self.output_bytes > self.output_bytes_max {
            let connections = self.connections.iter().map(|(_, connection)| connection);
            let largest = connections.max_by_key(|connection| connection.output_bytes);
            let largest = largest.expect("there is one at least").id;
            self.remove(largest, CloseReason::Unread);
        }
    }

    /// Puts a connection on the ready list, if there is anything to do for it.
    pub(super) fn mark_ready(&mut self, id: ConnectionId) {
        let Some(connection) = self.get_mut(id) else {
            return;
        };
        if connection.is_ready() && !connection.in_ready_list {
            connection.in_ready_list = true;
            self.ready.push(id);
        }
    }

    pub(super) fn mark_flush(&mut self, id: ConnectionId) {
        let Some(connection) = self.get_mut(id) else {
            return;
        };
        if !connection.in_flush_list {
            connection.in_flush_list = true;
            self.flush.push(id);
        }
    }

    /// Whether something is to be done without waiting for anything.
    pub(super) fn is_busy(&self) -> bool {
        self.wake_again
            || self.stopping
            || !self.ready.is_empty()
            || !self.flush.is_empty()
            || !self.notices.is_empty()
            || self.acceptors.iter().any(|a| a.readable && !a.paused)
    }

    pub(super) fn flush_all(&mut self) {
        let mut list = std::mem::take(&mut self.flush);
        for id in list.drain(..) {
            self.flush_one(id);
        }
        // Its room is used again.
        list.append(&mut self.flush);
        self.flush = list;
    }

    fn flush_one(&mut self, id: ConnectionId) {
        let Some(connection) = self.get_mut(id) else {
            return;
        };
        connection.in_flush_list = false;
        match connection.flush() {
            Err(error) => return self.remove(id, error.into()),
            Ok(false) => {}
            Ok(true) => self.mark_ready(id),
        }
        self.account_output(id);
        let connection = self.get_mut(id).expect("only an error removes it");
        if connection.state != State::Closing || !connection.output.is_empty() {
            return;
        }
        if connection.peer_ended {
            let reason = connection.end_reason();
            return self.remove(id, reason);
        }
        match connection.end_output() {
            Err(error) => self.remove(id, error.into()),
            Ok(()) => {
                connection.state = State::Draining;
                self.mark_ready(id);
            }
        }
    }
}

/// Frames are whole messages: nothing is gained by waiting for more (`TCP_NODELAY`).
///
/// A host that vanished without a word is noticed by probes. Where we are the one who
/// asks, also by what it does not acknowledge: TCP's own back-off would otherwise go on
/// sleeping, for up to two minutes, after a partition has healed, when a new dial
/// would get through at once.
fn configure(stream: &TcpStream, origin: &Origin) -> io::Result<()> {
    let socket = SockRef::from(stream);
    socket.set_tcp_nodelay(true)?;
    let probes = TcpKeepalive::new()
        .with_time(PROBE_AFTER)
        .with_interval(PROBE_INTERVAL)
        .with_retries(PROBES);
    socket.set_tcp_keepalive(&probes)?;
    if let Origin::Dialled(_) = origin {
        socket.set_tcp_user_timeout(Some(UNACKNOWLEDGED_MAX))?;
    }
    Ok(())
}

pub(super) fn token(id: ConnectionId) -> Token {
    // Generations are never 0: the tokens below 2^32 are those of waker and listeners.
    Token((id.generation as usize) << 32 | id.key as usize)
}

pub(super) fn connection_id(token: Token) -> ConnectionId {
    ConnectionId {
        key: token.0 as u32,
        generation: (token.0 >> 32) as u32,
    }
}
