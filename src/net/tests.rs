//! The loop against real sockets on the loopback.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crossbeam_channel as channel;

use super::frame::Body;
use super::*;
use crate::limits::OUTPUT_HIGH_WATER_BYTES;
use crate::mailbox;

/// Long enough that only a fault lets it pass.
const PATIENCE: Duration = Duration::from_secs(20);

fn any_port() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 0))
}

type Command = Box<dyn FnOnce(&mut Io, &mut Echo) + Send>;

/// What the handler was told, for the test to look at.
#[derive(Debug)]
enum Told {
    Accepted(ConnectionId),
    Connected(ConnectorId, ConnectionId),
    ConnectFailed(Option<Duration>),
    Frame(ConnectionId),
    ReadClosed,
    Closed(ConnectionId, CloseReason),
    Timer(TimerId),
}

/// Sends each frame back, and tells the test what happens.
struct Echo {
    commands: mailbox::Receiver<Command>,
    told: channel::Sender<Told>,
    echoes: bool,
    closes_on_end: bool,
}

impl Echo {
    fn tell(&self, told: Told) {
        // A test that has seen enough no longer listens.
        let _ = self.told.send(told);
    }
}

impl Handler for Echo {
    fn on_accept(&mut self, _: &mut Io, _: ListenerId, connection: ConnectionId, _: SocketAddr) {
        self.tell(Told::Accepted(connection));
    }

    fn on_connected(&mut self, _: &mut Io, connector: ConnectorId, connection: ConnectionId) {
        self.tell(Told::Connected(connector, connection));
    }

    fn on_connect_failed(
        &mut self,
        _: &mut Io,
        _: ConnectorId,
        _: &std::io::Error,
        retry_in: Option<Duration>,
    ) {
        self.tell(Told::ConnectFailed(retry_in));
    }

    fn on_frame(&mut self, io: &mut Io, connection: ConnectionId, body: Body<'_>) {
        self.tell(Told::Frame(connection));
        if self.echoes {
            io.send_with(connection, |out| {
                out.extend_from_slice(&frame::header(body.len()));
            });
            assert!(io.send(connection, body.into_bytes()));
        }
    }

    fn on_read_closed(&mut self, io: &mut Io, connection: ConnectionId) {
        self.tell(Told::ReadClosed);
        if self.closes_on_end {
            io.close(connection);
        }
    }

    fn on_close(&mut self, io: &mut Io, connection: ConnectionId, reason: CloseReason) {
        assert!(!io.is_open(connection));
        self.tell(Told::Closed(connection, reason));
    }

    fn on_timer(&mut self, _: &mut Io, timer: TimerId) {
        self.tell(Told::Timer(timer));
    }

    fn on_wake(&mut self, io: &mut Io) {
        while let Some(command) = self.commands.try_recv() {
            command(io, self);
        }
    }
}

/// A loop in a thread of its own.
struct Reactor {
    addr: SocketAddr,
    commands: mailbox::Sender<Command>,
    told: channel::Receiver<Told>,
    thread: Option<JoinHandle<()>>,
}

impl Reactor {
    fn start() -> Reactor {
        Reactor::start_at(any_port(), Sharing::Exclusive, Options::default())
    }

    fn start_at(addr: SocketAddr, sharing: Sharing, options: Options) -> Reactor {
        let mut event_loop = EventLoop::new(options).unwrap();
        let listener = event_loop.io().listen(addr, sharing).unwrap();
        let addr = event_loop.io().listener_addr(listener).unwrap();
        let (commands, receiver) = mailbox::channel(64, event_loop.doorbell());
        let (sender, told) = channel::unbounded();
        let thread = thread::spawn(move || {
            let mut handler = Echo {
                commands: receiver,
                told: sender,
                echoes: true,
                closes_on_end: true,
            };
            event_loop.run(&mut handler).unwrap();
        });
        Reactor {
            addr,
            commands,
            told,
            thread: Some(thread),
        }
    }

    /// Runs `command` in the loop's thread and waits for what it returns.
    fn ask<R: Send + 'static>(
        &self,
        command: impl FnOnce(&mut Io, &mut Echo) -> R + Send + 'static,
    ) -> R {
        let (answer, answered) = channel::bounded(1);
        let command: Command = Box::new(move |io, handler| {
            answer.send(command(io, handler)).unwrap();
        });
        assert!(self.commands.try_send(command).is_ok());
        answered.recv_timeout(PATIENCE).expect("the loop is woken")
    }

    /// Waits until the handler is told something that `wanted` knows.
    fn wait_for<R>(&self, mut wanted: impl FnMut(Told) -> Option<R>) -> R {
        loop {
            let told = self.told.recv_timeout(PATIENCE).expect("told in time");
            if let Some(found) = wanted(told) {
                return found;
            }
        }
    }

    fn connect(&self) -> (TcpStream, ConnectionId) {
        let stream = client(self.addr);
        let id = self.wait_for(|told| match told {
            Told::Accepted(id) => Some(id),
            _ => None,
        });
        (stream, id)
    }

    fn wait_for_close(&self) -> CloseReason {
        self.wait_for(|told| match told {
            Told::Closed(_, reason) => Some(reason),
            _ => None,
        })
    }
}

impl Drop for Reactor {
    fn drop(&mut self) {
        let stop: Command = Box::new(|io, _| io.stop());
        // A loop that has failed is gone already, and its thread says why.
        let _ = self.commands.try_send(stop);
        let ended = self.thread.take().expect("joined once").join();
        if !thread::panicking() {
            ended.expect("the loop ends well");
        }
    }
}

fn client(addr: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(addr).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.set_write_timeout(Some(PATIENCE)).unwrap();
    stream.set_nodelay(true).unwrap();
    stream
}

fn frame_of(body: &[u8]) -> Vec<u8> {
    let mut bytes = frame::header(body.len()).to_vec();
    bytes.extend_from_slice(body);
    bytes
}

fn read_frame(stream: &mut TcpStream) -> Vec<u8> {
    let mut header = [0; frame::HEADER_BYTES];
    stream.read_exact(&mut header).unwrap();
    let mut body = vec![0; frame::parse_header(&header).unwrap()];
    stream.read_exact(&mut body).unwrap();
    body
}

fn pattern(bytes: usize, seed: u8) -> Vec<u8> {
    (0..bytes)
        .map(|i| (i as u8).wrapping_mul(31) ^ seed)
        .collect()
}

#[test]
fn many_frames_over_many_connections_come_back_from_two_reactors_on_one_port() {
    const CONNECTIONS: usize = 16;
    const FRAMES: usize = 200;
    let first = Reactor::start_at(any_port(), Sharing::Shared, Options::default());
    let second = Reactor::start_at(first.addr, Sharing::Shared, Options::default());
    let threads: Vec<_> = (0..CONNECTIONS)
        .map(|n| {
            let mut stream = client(first.addr);
            thread::spawn(move || {
                let bodies: Vec<_> = (0..FRAMES)
                    .map(|i| pattern((i * 37) % 3_000, n as u8 ^ i as u8))
                    .collect();
                let frames: Vec<u8> = bodies.iter().flat_map(|body| frame_of(body)).collect();
                stream.write_all(&frames).unwrap();
                for body in bodies {
                    assert_eq!(read_frame(&mut stream), body);
                }
            })
        })
        .collect();
    for thread in threads {
        thread.join().unwrap();
    }
    let accepted = |reactor: &Reactor| {
        let told: Vec<_> = reactor.told.try_iter().collect();
        told.iter()
            .filter(|t| matches!(t, Told::Accepted(_)))
            .count()
    };
    assert_eq!(accepted(&first) + accepted(&second), CONNECTIONS);
}

#[test]
fn a_slow_trickle_of_single_bytes_is_understood() {
    let reactor = Reactor::start();
    let (mut stream, _) = reactor.connect();
    let body = pattern(40, 3);
    for byte in frame_of(&body) {
        stream.write_all(&[byte]).unwrap();
    }
    assert_eq!(read_frame(&mut stream), body);
}

#[test]
fn a_bad_header_closes_its_connection_and_no_other() {
    let reactor = Reactor::start();
    let (mut good, _) = reactor.connect();
    let with = |at: usize, bytes: &[u8]| {
        let mut header = frame::header(10);
        header[at..][..bytes.len()].copy_from_slice(bytes);
        header
    };
    for (header, expected) in [
        (with(0, b"GET / HT"), "wrong magic"),
        (with(8, &[0, 0, 0, 3]), "frame length"),
        (with(8, &[0xff; 4]), "frame length"),
        (with(12, &[0; 4]), "header checksum"),
    ] {
        let (mut bad, bad_id) = reactor.connect();
        // The header alone: it is judged without waiting for a body.
        bad.write_all(&header).unwrap();
        let (id, reason) = reactor.wait_for(|told| match told {
            Told::Closed(id, reason) => Some((id, reason)),
            _ => None,
        });
        assert_eq!(id, bad_id);
        assert!(reason.to_string().starts_with(expected), "{reason}");
        assert_eq!(bad.read(&mut [0; 1]).unwrap_or(0), 0);
        good.write_all(&frame_of(b"still here")).unwrap();
        assert_eq!(read_frame(&mut good), b"still here");
    }
}

#[test]
fn a_frame_before_a_bad_one_is_seen() {
    let reactor = Reactor::start();
    let (mut stream, id) = reactor.connect();
    let mut bytes = frame_of(b"good");
    bytes.extend_from_slice(&[0xee; 16]);
    stream.write_all(&bytes).unwrap();
    let mut frames = 0;
    reactor.wait_for(|told| match told {
        Told::Frame(..) => {
            frames += 1;
            None
        }
        Told::Closed(closed, CloseReason::Frame(_)) => (closed == id).then_some(()),
        _ => None,
    });
    assert_eq!(frames, 1);
}

#[test]
fn a_half_closed_connection_still_gets_all_its_answers() {
    const FRAMES: usize = 100;
    let reactor = Reactor::start();
    let (mut stream, _) = reactor.connect();
    let frames = frame_of(&pattern(1_000, 1)).repeat(FRAMES);
    stream.write_all(&frames).unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    let mut answers = Vec::new();
    stream.read_to_end(&mut answers).unwrap();
    assert_eq!(answers, frames);
    assert!(matches!(reactor.wait_for_close(), CloseReason::PeerClosed));
}

#[test]
fn an_answer_that_comes_long_after_the_half_close_is_sent() {
    let reactor = Reactor::start();
    reactor.ask(|_, handler| {
        handler.echoes = false;
        handler.closes_on_end = false;
    });
    let (mut stream, id) = reactor.connect();
    stream.write_all(&frame_of(b"question")).unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    reactor.wait_for(|told| matches!(told, Told::ReadClosed).then_some(()));
    reactor.ask(move |io, _| {
        assert!(io.send(id, frame_of(b"answer").into()));
        io.close(id);
    });
    assert_eq!(read_frame(&mut stream), b"answer");
    assert_eq!(stream.read(&mut [0; 1]).unwrap(), 0);
    assert!(matches!(reactor.wait_for_close(), CloseReason::PeerClosed));
}

#[test]
fn a_stream_that_ends_within_a_frame_says_so() {
    let reactor = Reactor::start();
    let (mut stream, _) = reactor.connect();
    stream.write_all(&frame_of(b"whole")[..18]).unwrap();
    drop(stream);
    let reason = reactor.wait_for_close();
    assert!(matches!(reason, CloseReason::PeerClosedWithinFrame));
}

#[test]
fn big_frames_go_both_ways() {
    let reactor = Reactor::start();
    let (mut stream, _) = reactor.connect();
    let body = pattern(8 << 20, 5);
    let mut writer = stream.try_clone().unwrap();
    let frame = frame_of(&body);
    let thread = thread::spawn(move || {
        writer.write_all(&frame).unwrap();
        writer.write_all(&frame_of(b"behind it")).unwrap();
    });
    assert!(
        read_frame(&mut stream) == body,
        "the body came back as sent"
    );
    assert_eq!(read_frame(&mut stream), b"behind it");
    thread.join().unwrap();
}

#[test]
fn a_client_that_does_not_read_its_answers_is_not_read_until_it_does() {
    const BODY: usize = 100_000;
    const FRAMES: usize = 400;
    let reactor = Reactor::start();
    let (stream, id) = reactor.connect();
    let mut writer = stream.try_clone().unwrap();
    let body = pattern(BODY, 9);
    let frame = frame_of(&body);
    let thread = thread::spawn(move || {
        for _ in 0..FRAMES {
            writer.write_all(&frame).unwrap();
        }
    });
    // Until what is queued no longer changes: kernel buffers are full on both ways.
    let mut queued = 0;
    loop {
        let now = reactor.ask(move |io, _| io.queued_bytes(id));
        if now > OUTPUT_HIGH_WATER_BYTES && now == queued {
            break;
        }
        queued = now;
        thread::sleep(Duration::from_millis(2));
    }
    assert!(queued <= OUTPUT_HIGH_WATER_BYTES + BODY + frame::HEADER_BYTES);
    let seen = reactor
        .told
        .try_iter()
        .filter(|t| matches!(t, Told::Frame(..)));
    assert!(seen.count() < FRAMES, "reading has stopped");
    let mut stream = stream;
    for _ in 0..FRAMES {
        assert!(read_frame(&mut stream) == body, "an answer as it was sent");
    }
    thread.join().unwrap();
}

#[test]
fn a_paused_connection_gives_no_frames_until_it_is_resumed() {
    let reactor = Reactor::start();
    let (mut stream, id) = reactor.connect();
    let (mut other, _) = reactor.connect();
    reactor.ask(move |io, _| io.pause_reading(id));
    stream.write_all(&frame_of(b"waits")).unwrap();
    other.write_all(&frame_of(b"does not")).unwrap();
    assert_eq!(read_frame(&mut other), b"does not");
    let frames: Vec<_> = reactor.told.try_iter().collect();
    let of_paused = |told: &Told| matches!(told, Told::Frame(from) if *from == id);
    assert!(!frames.iter().any(of_paused));
    reactor.ask(move |io, _| io.resume_reading(id));
    assert_eq!(read_frame(&mut stream), b"waits");
}

/// Takes one frame, then pauses until the next mail.
struct OneAtATime {
    paused: Vec<ConnectionId>,
    frames: usize,
    taken_while_paused: usize,
}

impl Handler for OneAtATime {
    fn on_frame(&mut self, io: &mut Io, connection: ConnectionId, _: Body<'_>) {
        self.frames += 1;
        if self.paused.contains(&connection) {
            self.taken_while_paused += 1;
        }
        self.paused.push(connection);
        io.pause_reading(connection);
    }

    fn on_wake(&mut self, io: &mut Io) {
        for connection in self.paused.drain(..) {
            io.resume_reading(connection);
        }
    }

    fn on_close(&mut self, io: &mut Io, _: ConnectionId, _: CloseReason) {
        io.stop();
    }
}

#[test]
fn a_pause_holds_within_a_read_and_loses_nothing_of_it() {
    let mut event_loop = EventLoop::new(Options::default()).unwrap();
    let listener = event_loop
        .io()
        .listen(any_port(), Sharing::Exclusive)
        .unwrap();
    let mut stream = client(event_loop.io().listener_addr(listener).unwrap());
    stream
        .write_all(&frame_of(b"one of many").repeat(500))
        .unwrap();
    drop(stream);
    let mut handler = OneAtATime {
        paused: Vec::new(),
        frames: 0,
        taken_while_paused: 0,
    };
    event_loop.run(&mut handler).unwrap();
    assert_eq!((handler.frames, handler.taken_while_paused), (500, 0));
}

#[test]
fn an_id_of_a_connection_that_is_gone_names_nothing() {
    let reactor = Reactor::start();
    let (stream, old) = reactor.connect();
    drop(stream);
    reactor.wait_for_close();
    let (mut stream, new) = reactor.connect();
    assert_eq!(old.key, new.key, "the place is used again");
    assert_ne!(old, new);
    reactor.ask(move |io, _| {
        assert!(!io.is_open(old));
        assert!(!io.send(old, frame_of(b"stale").into()));
        assert!(!io.send_with(old, |_| unreachable!("nobody takes it")));
        io.pause_reading(old);
        io.close(old);
        io.abort(old);
    });
    stream.write_all(&frame_of(b"unharmed")).unwrap();
    assert_eq!(read_frame(&mut stream), b"unharmed");
}

#[test]
fn a_connection_that_we_close_gets_what_was_queued_though_it_still_sends() {
    let reactor = Reactor::start();
    let (mut stream, id) = reactor.connect();
    let last = pattern(1 << 20, 4);
    let answer = frame_of(&last);
    reactor.ask(move |io, _| {
        io.send(id, answer.into());
        io.close(id);
    });
    // Unread input at the close would reset the connection and destroy the answer.
    stream.write_all(&frame_of(b"too late")).unwrap();
    assert!(read_frame(&mut stream) == last, "the answer in whole");
    assert_eq!(stream.read(&mut [0; 1]).unwrap(), 0);
    drop(stream);
    assert!(matches!(reactor.wait_for_close(), CloseReason::Closed));
}

#[test]
fn an_aborted_connection_ends_at_once_and_the_handler_is_told() {
    let reactor = Reactor::start();
    let (mut stream, id) = reactor.connect();
    reactor.ask(move |io, _| io.abort(id));
    assert!(matches!(reactor.wait_for_close(), CloseReason::Aborted));
    assert_eq!(stream.read(&mut [0; 1]).unwrap_or(0), 0);
}

#[test]
fn a_connector_tries_until_somebody_listens_and_again_when_the_connection_has_ended() {
    let reserved = TcpListener::bind(any_port()).unwrap();
    let addr = reserved.local_addr().unwrap();
    drop(reserved);
    let reactor = Reactor::start();
    let connector = reactor.ask(move |io, _| io.connect(addr));
    for _ in 0..3 {
        let retry_in = reactor.wait_for(|told| match told {
            Told::ConnectFailed(retry_in) => Some(retry_in),
            _ => None,
        });
        assert!(retry_in.is_some());
    }
    let listener = TcpListener::bind(addr).unwrap();
    reactor.ask(move |io, _| io.reset_backoff(connector));
    let connected = |reactor: &Reactor| {
        reactor.wait_for(|told| match told {
            Told::Connected(by, id) => Some((by, id)),
            _ => None,
        })
    };
    let (by, first) = connected(&reactor);
    assert_eq!(by, connector);
    let (mut stream, _) = listener.accept().unwrap();
    reactor.ask(move |io, _| io.send(first, frame_of(b"hello").into()));
    assert_eq!(read_frame(&mut stream), b"hello");
    drop(stream);
    let (_, second) = connected(&reactor);
    assert_ne!(first, second);
    // Its other end was never accepted, and is reset with the listener.
    reactor.ask(move |io, _| io.disconnect(connector));
    drop(listener);
    reactor.wait_for_close();
    reactor.ask(move |io, _| assert!(!io.is_open(second)));
}

#[test]
fn a_peer_that_vanishes_is_noticed_by_what_it_does_not_acknowledge() {
    let listener = TcpListener::bind(any_port()).unwrap();
    let addr = listener.local_addr().unwrap();
    let reactor = Reactor::start();
    let (_stream, accepted) = reactor.connect();
    reactor.ask(move |io, _| io.connect(addr));
    let dialled = reactor.wait_for(|told| match told {
        Told::Connected(_, id) => Some(id),
        _ => None,
    });
    for (id, is_dialled) in [(dialled, true), (accepted, false)] {
        let (unacknowledged, probes) = reactor.ask(move |io, _| {
            let socket = socket2::SockRef::from(&io.get(id).unwrap().stream);
            (
                socket.tcp_user_timeout().unwrap(),
                socket.keepalive().unwrap(),
            )
        });
        // A client may take its answers as slowly as it likes.
        assert_eq!(unacknowledged.is_some(), is_dialled);
        assert!(probes);
    }
}

#[test]
fn more_connections_than_the_budget_allows_are_told_and_closed_and_room_is_used_again() {
    let budget = ConnectionBudget::with_farewell(2, bytes::Bytes::from_static(b"full"));
    let options = Options {
        budget: budget.clone(),
        ..Options::default()
    };
    let reactor = Reactor::start_at(any_port(), Sharing::Exclusive, options);
    let (first, _) = reactor.connect();
    let (mut second, _) = reactor.connect();
    let mut third = client(reactor.addr);
    let mut told = Vec::new();
    third.read_to_end(&mut told).unwrap();
    assert_eq!(told, b"full");
    second.write_all(&frame_of(b"unharmed")).unwrap();
    assert_eq!(read_frame(&mut second), b"unharmed");
    drop(first);
    reactor.wait_for_close();
    let (mut fourth, _) = reactor.connect();
    fourth.write_all(&frame_of(b"welcome")).unwrap();
    assert_eq!(read_frame(&mut fourth), b"welcome");
    assert_eq!(budget.open(), 2);
}

#[test]
fn timers_expire_in_order_and_a_cancelled_one_does_not() {
    let reactor = Reactor::start();
    let (late, early) = reactor.ask(|io, _| {
        let late = io.set_timer(io.now() + Duration::from_millis(8));
        let cancelled = io.set_timer(io.now() + Duration::from_millis(2));
        let early = io.set_timer(io.now() + Duration::from_millis(4));
        io.cancel_timer(cancelled);
        (late, early)
    });
    let next = || {
        reactor.wait_for(|told| match told {
            Told::Timer(timer) => Some(timer),
            _ => None,
        })
    };
    assert_eq!(next(), early);
    assert_eq!(next(), late);
}

#[test]
fn an_idle_loop_is_woken_by_mail_from_other_threads_every_time() {
    let reactor = Reactor::start();
    for round in 0..500 {
        assert_eq!(reactor.ask(move |_, _| round), round);
    }
}

#[test]
fn the_limit_on_open_files_is_what_is_allowed() {
    let limit = raise_fd_limit().unwrap();
    let allowed = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    assert_eq!(limit, allowed.maximum);
}

#[test]
fn a_client_that_does_not_take_its_last_answer_is_dropped_in_time() {
    let reactor = Reactor::start();
    let (_stream, id) = reactor.connect();
    reactor.ask(move |io, _| {
        // More than the kernel's buffers take.
        io.send(id, vec![0; 64 << 20].into());
        io.close_within(id, Duration::from_millis(5));
    });
    assert!(matches!(
        reactor.wait_for_close(),
        CloseReason::LingerExpired
    ));
}

#[test]
fn the_connection_that_holds_most_of_an_unfinished_frame_goes_when_there_is_too_much() {
    let options = Options {
        partial_bytes_max: 1 << 20,
        ..Options::default()
    };
    let reactor = Reactor::start_at(any_port(), Sharing::Exclusive, options);
    let (mut small, _) = reactor.connect();
    small.write_all(&frame_of(b"unfinished")[..20]).unwrap();
    let large = frame_of(&vec![0; 700 << 10]);
    let (mut first, _) = reactor.connect();
    first.write_all(&large[..large.len() - 1]).unwrap();
    let (mut second, _) = reactor.connect();
    // It may be closed in the middle of it.
    let _ = second.write_all(&large[..large.len() - 1]);
    assert!(matches!(reactor.wait_for_close(), CloseReason::NoRoom));
    small.write_all(&frame_of(b"unfinished")[20..]).unwrap();
    assert_eq!(read_frame(&mut small), b"unfinished");
}

/// Runs a test of this file in a process of its own, for what concerns a whole process.
/// Returns whether this is that process.
fn is_alone(test: &str) -> bool {
    const ALONE: &str = "RAFTKV_TEST_ALONE";
    if std::env::var_os(ALONE).is_some() {
        return true;
    }
    let output = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", &format!("net::tests::{test}"), "--nocapture"])
        .env(ALONE, "1")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}");
    assert!(said.contains("1 passed"), "{said}");
    false
}

#[test]
fn without_file_descriptors_clients_are_turned_away_and_served_again_later() {
    if !is_alone("without_file_descriptors_clients_are_turned_away_and_served_again_later") {
        return;
    }
    let reactor = Reactor::start();
    let (mut early, _) = reactor.connect();
    let mut limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    limit.current = Some(64);
    rustix::process::setrlimit(rustix::process::Resource::Nofile, limit).unwrap();
    let mut hoard: Vec<_> = std::iter::from_fn(|| std::fs::File::open("/dev/null").ok()).collect();
    hoard.pop();
    let mut turned_away = client(reactor.addr);
    assert_eq!(turned_away.read(&mut [0; 1]).unwrap_or(0), 0);
    early.write_all(&frame_of(b"still served")).unwrap();
    assert_eq!(read_frame(&mut early), b"still served");
    drop(hoard);
    let (mut late, _) = reactor.connect();
    late.write_all(&frame_of(b"served again")).unwrap();
    assert_eq!(read_frame(&mut late), b"served again");
}

#[test]
fn the_end_of_a_connection_is_told_before_another_has_its_place() {
    let reactor = Reactor::start();
    let (_first, old) = reactor.connect();
    let addr = reactor.addr;
    // In the loop's thread, behind what this round tells.
    let _second = reactor.ask(move |io, _| {
        io.abort(old);
        TcpStream::connect(addr).expect("a connection")
    });
    let mut ended = false;
    reactor.wait_for(|told| match told {
        Told::Closed(id, _) if id == old => {
            ended = true;
            None
        }
        Told::Accepted(new) => {
            assert_eq!(new.key, old.key, "the place is used again");
            assert!(ended);
            Some(())
        }
        _ => None,
    });
}
