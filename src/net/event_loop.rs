//! The loop: waits for sockets, timers and mail, and tells the handler.
//!
//! One round is: poll; what the sockets say; timers; input, a fair share for each
//! connection; mail; the end of the round, at which everything queued is written. The
//! handler is not part of the loop but handed to [`EventLoop::run`], and gets the
//! loop's other half, [`Io`], with every call, so that neither needs to point to the
//! other.

use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use mio::event::Event;
use mio::{Events, Poll, Waker};

use super::acceptor::{Accepted, ConnectionBudget, ListenerId};
use super::connection::{CloseReason, ConnectionId, Origin, Received, State};
use super::connector::{self, ConnectorId, Phase};
use super::frame::Body;
use super::io::{Alarm, Io, Notice, WAKER, connection_id};
use super::timer_queue::TimerId;
use crate::limits::{CONNECTIONS_MAX, FRAME_BYTES_MAX};
use crate::mailbox::Doorbell;

/// How many events one poll fetches.
const EVENTS: usize = 1_024;
/// What one connection may receive in a round, so that it cannot starve the others.
const INPUT_BYTES_PER_ROUND: usize = 256 << 10;
/// How many connections one listener may accept in a round.
const ACCEPTS_PER_ROUND: usize = 256;
/// How long to accept nothing after the system has run out of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What the loop calls. Each method may use [`Io`] freely: nothing of it calls back.
///
/// Of a connection a handler hears, in this order: [`Handler::on_accept`] or
/// [`Handler::on_connected`] once, [`Handler::on_frame`] any number of times,
/// [`Handler::on_read_closed`] at most once, [`Handler::on_close`] once; the last also
/// when the handler itself has closed or aborted it.
pub trait Handler {
    /// The loop begins.
    fn on_start(&mut self, io: &mut Io) {
        let _ = io;
    }

    /// A connection came in.
    fn on_accept(
        &mut self,
        io: &mut Io,
        listener: ListenerId,
        connection: ConnectionId,
        peer: SocketAddr,
    ) {
        let _ = (io, listener, connection, peer);
    }

    /// A connector is connected.
    fn on_connected(&mut self, io: &mut Io, connector: ConnectorId, connection: ConnectionId) {
        let _ = (io, connector, connection);
    }

    /// A connector has failed. It tries again after `retry_in`; with `None` only once
    /// [`Io::reset_backoff`] is called, as time alone will not heal it.
    fn on_connect_failed(
        &mut self,
        io: &mut Io,
        connector: ConnectorId,
        error: &io::Error,
        retry_in: Option<Duration>,
    ) {
        let _ = (io, connector, error, retry_in);
    }

    /// A frame has come; `body` is what follows its header, and may be empty. Where it
    /// can, it lies in the loop's input still.
    fn on_frame(&mut self, io: &mut Io, connection: ConnectionId, body: Body<'_>);

    /// The peer has ended its stream, and may still read: a handler that owes it
    /// answers calls [`Io::close`] once it has sent them. Closes at once if not
    /// implemented.
    fn on_read_closed(&mut self, io: &mut Io, connection: ConnectionId) {
        io.close(connection);
    }

    /// The connection is gone; its id is of no use any more.
    fn on_close(&mut self, io: &mut Io, connection: ConnectionId, reason: CloseReason) {
        let _ = (io, connection, reason);
    }

    /// A timer that the handler has set has expired.
    fn on_timer(&mut self, io: &mut Io, timer: TimerId) {
        let _ = (io, timer);
    }

    /// Drain the mailboxes of this loop's doorbell, or call [`Io::wake_again`] if some
    /// mail is left. Called in every round, whether there is mail or not.
    fn on_wake(&mut self, io: &mut Io) {
        let _ = io;
    }

    /// All that was there to do has been done: send what was gathered. Called once or
    /// twice in every round, each time after [`Handler::on_wake`].
    fn on_round_end(&mut self, io: &mut Io) {
        let _ = io;
    }
}

/// What a loop is made with.
#[derive(Clone, Debug)]
pub struct Options {
    /// For the jitter of connectors.
    pub seed: u64,
    /// Bounds the accepted connections; to be shared by the loops of a node.
    pub budget: Arc<ConnectionBudget>,
    /// What the connections of the loop may hold together of frames that are not
    /// complete; when it is more, the one that holds most is closed. Frames that arrive
    /// in one read do not count, so that nobody can lock these out.
    pub partial_bytes_max: usize,
    /// What may wait to be written to the accepted connections of the loop together;
    /// when it is more, the one that has most to take is closed.
    pub output_bytes_max: usize,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            seed: 0,
            budget: ConnectionBudget::new(CONNECTIONS_MAX),
            partial_bytes_max: 16 * FRAME_BYTES_MAX,
            output_bytes_max: 16 * FRAME_BYTES_MAX,
        }
    }
}

/// See the module. Made by whoever starts the thread, so that listening fails there,
/// and then run in it.
#[derive(Debug)]
pub struct EventLoop {
    poll: Poll,
    events: Events,
    io: Io,
}

impl EventLoop {
    /// A loop with no sockets.
    ///
    /// # Errors
    /// What the system says to a new epoll instance.
    pub fn new(options: Options) -> io::Result<EventLoop> {
        let poll = Poll::new()?;
        let registry = poll.registry().try_clone()?;
        let doorbell = Arc::new(Doorbell::for_reactor(Waker::new(&registry, WAKER)?));
        Ok(EventLoop {
            poll,
            events: Events::with_capacity(EVENTS),
            io: Io::new(registry, doorbell, options),
        })
    }

    /// What wakes this loop: make the mailboxes with it that the handler drains.
    #[must_use]
    pub fn doorbell(&self) -> Arc<Doorbell> {
        self.io.doorbell()
    }

    /// For what is to be set up before the loop runs, listeners above all.
    pub fn io(&mut self) -> &mut Io {
        self.io.now = Instant::now();
        &mut self.io
    }

    /// Runs until the handler calls [`Io::stop`].
    ///
    /// # Errors
    /// What the system says to the poll; this is the end of the loop.
    pub fn run<H: Handler>(&mut self, handler: &mut H) -> io::Result<()> {
        let io = &mut self.io;
        io.now = Instant::now();
        // Awake: senders need not ring.
        io.doorbell.hush();
        handler.on_start(io);
        end_round(io, handler);
        while !io.stopping {
            let mut sleeps = false;
            if !io.is_busy() {
                // From here on senders ring. What they sent before is seen now.
                io.doorbell.acknowledge();
                end_round(io, handler);
                sleeps = true;
            }
            match self.poll.poll(&mut self.events, poll_timeout(io)) {
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                result => result?,
            }
            if sleeps {
                io.doorbell.hush();
            }
            io.now = Instant::now();
            round(io, &self.events, handler);
            end_round(io, handler);
        }
        Ok(())
    }
}

fn poll_timeout(io: &Io) -> Option<Duration> {
    if io.is_busy() {
        return Some(Duration::ZERO);
    }
    let deadline = io.timers.next_deadline()?;
    Some(deadline.saturating_duration_since(Instant::now()))
}

fn round<H: Handler>(io: &mut Io, events: &Events, handler: &mut H) {
    for event in events {
        on_event(io, handler, event);
    }
    // The place of a connection that is gone may go to the next one that is accepted: its
    // end is told before.
    notify(io, handler);
    for listener in 0..io.acceptors.len() {
        accept(io, handler, ListenerId(listener as u32));
    }
    expire_timers(io, handler);
    let mut ready = std::mem::take(&mut io.ready);
    for id in ready.drain(..) {
        read(io, handler, id);
    }
    // Its room is used again.
    ready.append(&mut io.ready);
    io.ready = ready;
}

fn end_round<H: Handler>(io: &mut Io, handler: &mut H) {
    notify(io, handler);
    io.wake_again = false;
    handler.on_wake(io);
    handler.on_round_end(io);
    io.flush_all();
}

/// Tells the handler what has happened. What its answers cause is told in the next
/// round, so that this ends.
fn notify<H: Handler>(io: &mut Io, handler: &mut H) {
    for _ in 0..io.notices.len() {
        match io.notices.pop_front().expect("nobody else takes them") {
            Notice::Closed(id, reason) => handler.on_close(io, id, reason),
            Notice::ConnectFailed(connector, error, retry_in) => {
                handler.on_connect_failed(io, connector, &error, retry_in);
            }
        }
    }
}

fn on_event<H: Handler>(io: &mut Io, handler: &mut H, event: &Event) {
    let token = event.token();
    if token == WAKER {
        return; // There may be mail, as in every round.
    }
    let id = connection_id(token);
    if id.generation == 0 {
        io.acceptors[token.0 - 1].readable = true;
        return;
    }
    let Some(connection) = io.get_mut(id) else {
        return; // Closed in this very round.
    };
    if connection.state == State::Connecting {
        finish_connect(io, handler, id);
    }
    let Some(connection) = io.get_mut(id) else {
        return;
    };
    if event.is_readable() || event.is_read_closed() || event.is_error() {
        connection.readable = true;
        connection.end_announced |= event.is_read_closed() || event.is_error();
        io.mark_ready(id);
    }
    if event.is_writable() || event.is_write_closed() || event.is_error() {
        let connection = io.get_mut(id).expect("nothing removes it here");
        connection.writable = connection.state != State::Connecting;
        if !connection.output.is_empty() {
            io.mark_flush(id);
        }
    }
}

fn finish_connect<H: Handler>(io: &mut Io, handler: &mut H, id: ConnectionId) {
    let now = io.now;
    let connection = io.get_mut(id).expect("the caller has looked");
    match connector::outcome(&connection.stream) {
        Err(error) if error.kind() == ErrorKind::WouldBlock => {}
        Err(error) => io.remove(id, error.into()),
        Ok(()) => {
            let Origin::Dialled(connector) = connection.origin else {
                unreachable!("only dialled connections connect");
            };
            connection.state = State::Open;
            connection.writable = true;
            connection.since = now;
            if let Some(timer) = connection.deadline.take() {
                io.timers.cancel(timer);
            }
            handler.on_connected(io, connector, id);
        }
    }
}

fn accept<H: Handler>(io: &mut Io, handler: &mut H, listener: ListenerId) {
    for _ in 0..ACCEPTS_PER_ROUND {
        let acceptor = &mut io.acceptors[listener.0 as usize];
        if !acceptor.readable || acceptor.paused {
            return;
        }
        match acceptor.accept() {
            Accepted::Nothing => return,
            Accepted::Connection(stream, peer, permit) => {
                let origin = Origin::Accepted { _permit: permit };
                match io.insert(stream, peer, origin, State::Open) {
                    Ok(id) => handler.on_accept(io, listener, id, peer),
                    Err(error) => {
                        if let Some(dropped) = io.admit_log("register") {
                            log::warn!("connection dropped: peer={peer} error={error}{dropped}");
                        }
                    }
                }
            }
            Accepted::OverBudget(peer) => {
                if let Some(dropped) = io.admit_log("over budget") {
                    log::warn!("connection refused, too many are open: peer={peer}{dropped}");
                }
            }
            Accepted::Exhausted(error) => {
                acceptor.paused = true;
                let deadline = io.now + ACCEPT_PAUSE;
                io.timers.set(deadline, Alarm::AcceptAgain(listener));
                if let Some(dropped) = io.admit_log("accept") {
                    log::warn!("accepting pauses: error={error}{dropped}");
                }
            }
        }
    }
}

fn expire_timers<H: Handler>(io: &mut Io, handler: &mut H) {
    // A timer set for now by the handler of another one waits for the next round.
    for _ in 0..io.timers.len() {
        let Some((timer, alarm)) = io.timers.pop_expired(io.now) else {
            return;
        };
        match alarm {
            Alarm::Handler => handler.on_timer(io, timer),
            Alarm::AcceptAgain(listener) => {
                let acceptor = &mut io.acceptors[listener.0 as usize];
                acceptor.paused = false;
            }
            Alarm::Dial(connector) => {
                io.connectors[connector.0 as usize].phase = Phase::Idle;
                io.dial(connector);
            }
            Alarm::Overdue(id) => {
                let Some(connection) = io.get_mut(id) else {
                    continue;
                };
                connection.deadline = None;
                let reason = match connection.state {
                    State::Connecting => io::Error::from(ErrorKind::TimedOut).into(),
                    State::Draining => CloseReason::Closed,
                    _ => CloseReason::LingerExpired,
                };
                io.remove(id, reason);
            }
        }
    }
}

/// Reads from a connection until there is nothing more, it takes no more, or it has
/// had its share.
fn read<H: Handler>(io: &mut Io, handler: &mut H, id: ConnectionId) {
    let Some(connection) = io.get_mut(id) else {
        return;
    };
    connection.in_ready_list = false;
    let mut input = std::mem::take(&mut io.input);
    let mut share = INPUT_BYTES_PER_ROUND;
    while let Some(connection) = io.get_mut(id) {
        if !connection.is_ready() {
            break;
        }
        if share == 0 {
            io.mark_ready(id);
            break;
        }
        let stash = std::mem::take(&mut connection.stash);
        if !stash.is_empty() {
            share = share.saturating_sub(stash.len());
            deliver(io, handler, id, &stash, Some(&stash));
            continue;
        }
        match connection.receive(&mut input) {
            Ok(Received::Nothing) => break,
            Ok(Received::Input(read)) => {
                share = share.saturating_sub(read);
                deliver(io, handler, id, &input[..read], None);
            }
            Ok(Received::Body(read)) => {
                share = share.saturating_sub(read);
                deliver(io, handler, id, &[], None);
            }
            Ok(Received::End) => end_of_stream(io, handler, id),
            Err(error) => io.remove(id, error.into()),
        }
    }
    io.input = input;
    io.account(id);
}

/// Hands the frames of `input` to the handler. If it wants no more on the way, the rest
/// is kept: as a slice of `owner`, if that is where `input` lies.
fn deliver<H: Handler>(
    io: &mut Io,
    handler: &mut H,
    id: ConnectionId,
    mut input: &[u8],
    owner: Option<&Bytes>,
) {
    while let Some(connection) = io.get_mut(id) {
        if !connection.takes_output() {
            return; // It is being closed, and what it sends no longer counts.
        }
        if !connection.takes_frames() {
            connection.stash = match owner {
                _ if input.is_empty() => Bytes::new(),
                Some(owner) => owner.slice_ref(input),
                None => Bytes::copy_from_slice(input),
            };
            return;
        }
        match connection.decoder.next_body(&mut input) {
            Ok(Some(body)) => handler.on_frame(io, id, body),
            Ok(None) => return,
            Err(error) => return io.remove(id, error.into()),
        }
    }
}

fn end_of_stream<H: Handler>(io: &mut Io, handler: &mut H, id: ConnectionId) {
    let connection = io.get_mut(id).expect("it was read from just now");
    match connection.state {
        State::Draining => io.remove(id, CloseReason::Closed),
        State::Open => {
            connection.state = State::ReadClosed;
            handler.on_read_closed(io, id);
        }
        // Told already, and read again to see whether there is an error as well.
        _ => {}
    }
}
