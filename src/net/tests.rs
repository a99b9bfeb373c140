//! The loop against real sockets on the loopback.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use bytes::Bytes;
use crossbeam_channel as channel;

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
    Frame(ConnectionId, usize),
    ReadClosed(ConnectionId),
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

    fn on_frame(&mut self, io: &mut Io, connection: ConnectionId, body: Bytes) {
        self.tell(Told::Frame(connection, body.len()));
        if self.echoes {
            io.send_with(connection, |out| {
                out.extend_from_slice(&frame::header(body.len()));
            });
            assert!(io.send(connection, body));
        }
    }

    fn on_read_closed(&mut self, io: &mut Io, connection: ConnectionId) {
        self.tell(Told::ReadClosed(connection));
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
