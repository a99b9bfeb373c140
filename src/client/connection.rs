//! One blocking connection; everything on it has a deadline.

use std::fmt::Display;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use bytes::Bytes;

use crate::client::protocol::{Answer, Reply, decode_answer_to, decode_reply};
use crate::net::frame::{HEADER_BYTES, parse_header};
use crate::pb::OperationType;

/// What is taken from the socket at a time: a length that a stranger claims costs
/// no memory before its bytes are there.
const READ_BYTES: usize = 64 << 10;

/// Why an exchange failed.
#[derive(Debug)]
pub(super) struct Failure {
    /// Whether the request may have reached the node.
    pub(super) sent: bool,
    /// What happened.
    pub(super) reason: String,
}

/// A connection to one node, used by one call at a time.
pub(super) struct Connection {
    stream: TcpStream,
    addr: SocketAddr,
}

impl Connection {
    pub(super) fn open(addr: SocketAddr, deadline: Instant) -> io::Result<Connection> {
        let stream = TcpStream::connect_timeout(&addr, left(deadline)?)?;
        // Requests are whole frames: waiting for more bytes gains nothing.
        stream.set_nodelay(true)?;
        if stream.local_addr()? == addr {
            // A dial to a free local port can meet itself (simultaneous open).
            return Err(io::ErrorKind::ConnectionRefused.into());
        }
        Ok(Connection { stream, addr })
    }

    pub(super) fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Whether the node has left it open: the original closes after each answer.
    pub(super) fn is_open(&self) -> bool {
        let peek = || {
            self.stream.set_nonblocking(true)?;
            let peeked = self.stream.peek(&mut [0]);
            self.stream.set_nonblocking(false)?;
            peeked
        };
        // Bytes that nobody asked for are as bad as the end.
        peek().is_err_and(|e| e.kind() == io::ErrorKind::WouldBlock)
    }

    /// Sends a frame and waits for the answer to `sequence_id`. After a failure the
    /// connection is of no more use.
    pub(super) fn exchange(
        &mut self,
        frame: &[u8],
        sequence_id: u64,
        deadline: Instant,
    ) -> Result<Reply, Failure> {
        self.send(frame, deadline)?;
        let failure = |reason| Failure { sent: true, reason };
        let body = self.receive(deadline).map_err(failure)?;
        let reply = decode_reply(body).map_err(|why| failure(garbage(why)))?;
        if reply.sequence_id == 0 && sequence_id != 0 && is_busy(&reply) {
            // Said before any call was read: there are too many connections.
            let reason = "busy, too many connections".to_owned();
            return Err(Failure {
                sent: false,
                reason,
            });
        }
        if reply.sequence_id != sequence_id {
            return Err(failure(garbage("the answer to another call")));
        }
        Ok(reply)
    }

    fn send(&mut self, frame: &[u8], deadline: Instant) -> Result<(), Failure> {
        let mut written = 0;
        while written < frame.len() {
            let wrote = left(deadline).and_then(|left| {
                self.stream.set_write_timeout(Some(left))?;
                self.stream.write(&frame[written..])
            });
            match wrote {
                Ok(n) => written += n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                // A frame that is not complete is never carried out, and the last byte
                // is the last to leave.
                Err(e) => {
                    let (sent, reason) = (false, describe(&e));
                    return Err(Failure { sent, reason });
                }
            }
        }
        Ok(())
    }

    fn receive(&mut self, deadline: Instant) -> Result<Bytes, String> {
        let mut header = Vec::with_capacity(HEADER_BYTES);
        self.fill(&mut header, HEADER_BYTES, deadline)?;
        let header = header.try_into().expect("filled to its length");
        let length = parse_header(&header).map_err(garbage)?;
        let mut body = Vec::new();
        self.fill(&mut body, length, deadline)?;
        Ok(Bytes::from(body))
    }

    /// Reads until `to` has `length` bytes.
    fn fill(&mut self, to: &mut Vec<u8>, length: usize, deadline: Instant) -> Result<(), String> {
        while to.len() < length {
            let start = to.len();
            to.resize(length.min(start + READ_BYTES), 0);
            let read = left(deadline).and_then(|left| {
                self.stream.set_read_timeout(Some(left))?;
                self.stream.read(&mut to[start..])
            });
            to.truncate(start + *read.as_ref().unwrap_or(&0));
            match read {
                Ok(0) => return Err("closed before the answer".into()),
                Ok(_) => {}
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(describe(&e)),
            }
        }
        Ok(())
    }
}

fn is_busy(reply: &Reply) -> bool {
    let answer = decode_answer_to(OperationType::Get, reply.payload.clone());
    matches!(answer, Ok(Answer::Busy(_)))
}

/// What is left until then; never zero, which the system takes for "for ever".
fn left(deadline: Instant) -> io::Result<Duration> {
    let left = deadline.saturating_duration_since(Instant::now());
    if left.is_zero() {
        return Err(io::ErrorKind::TimedOut.into());
    }
    Ok(left.max(Duration::from_millis(1)))
}

/// In the words of a user.
pub(super) fn describe(e: &io::Error) -> String {
    match e.kind() {
        // What a socket with a time-out reports when it is over.
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => "no answer in time".into(),
        io::ErrorKind::ConnectionRefused => "connection refused".into(),
        io::ErrorKind::ConnectionReset => "connection reset".into(),
        io::ErrorKind::BrokenPipe => "connection closed".into(),
        _ => e.to_string(),
    }
}

fn garbage(why: impl Display) -> String {
    format!("not an answer of this protocol: {why}")
}
