//! One TCP connection: what it received and what it has to send. It does not know
//! the loop it lives in; `io.rs` and `event_loop.rs` drive it.
//!
//! An idle one holds no buffers. mio reports edges, so that each connection remembers
//! whether its socket still has something to read (`readable`) or takes something
//! (`writable`).

use std::collections::VecDeque;
use std::io::{self, ErrorKind, IoSlice, Read, Write};
use std::net::{Shutdown, SocketAddr};
use std::time::Instant;

use bytes::Bytes;
use mio::net::TcpStream;

use super::acceptor::Permit;
use super::connector::ConnectorId;
use super::frame::{FrameDecoder, FrameError};
use super::timer_queue::TimerId;
use crate::limits::OUTPUT_HIGH_WATER_BYTES;
use crate::mem::Buffer;
use crate::mutation::mutated;

/// Small frames share an output buffer up to this size.
const OUTPUT_BUFFER_BYTES: usize = 16 << 10;
/// The room that such a buffer begins with.
const OUTPUT_FIRST_BYTES: usize = 4 << 10;
/// A queue that had room for more chunks than this is given back when it is empty.
const IDLE_CHUNKS_MAX: usize = 8;
/// How many buffers one `writev` takes.
const WRITEV_BUFFERS: usize = 64;

/// Names a connection of one event loop, for ever: a key is used again, but with
/// another generation, so that what belongs to a connection that is gone cannot reach
/// the one that took its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConnectionId {
    /// Its place in the loop's slab.
    pub key: u32,
    /// Which of the connections that had this place; never 0.
    pub generation: u32,
}

/// Why a connection ended.
#[derive(Debug, thiserror::Error)]
pub enum CloseReason {
    /// The peer ended the stream, and got what was left for it.
    #[error("closed by the peer")]
    PeerClosed,
    /// The peer ended the stream within a frame.
    #[error("closed by the peer within a frame")]
    PeerClosedWithinFrame,
    /// We closed it, and it took all that was left for it.
    #[error("closed")]
    Closed,
    /// We aborted it.
    #[error("aborted")]
    Aborted,
    /// We closed it, and it did not take what was left for it in time.
    #[error("closed, but not all could be sent in time")]
    LingerExpired,
    /// The peer sent something that is not a frame.
    #[error("{0}")]
    Frame(#[from] FrameError),
    /// All connections together hold too much of frames that are not complete, and this
    /// one most.
    #[error("too much is held of frames that are not complete")]
    NoRoom,
    /// All connections together have too much to take, and this one most.
    #[error("too much waits to be taken")]
    Unread,
    /// The socket failed.
    #[error("{0}")]
    Io(#[from] io::Error),
}

/// Where a connection is in its life; a closed one is no longer in the slab.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// The connect has not been answered.
    Connecting,
    /// Both ways.
    Open,
    /// The peer has ended its stream; ours goes on until the handler closes.
    ReadClosed,
    /// No more frames are taken; what is queued is sent.
    Closing,
    /// All is sent and our stream ended. What still comes is read and dropped until
    /// the peer ends its stream too: closing a socket with unread input resets the
    /// connection, and may destroy what the peer has not yet read.
    Draining,
}

/// How a connection came about.
#[derive(Debug)]
pub(super) enum Origin {
    /// By a listener, within the budget.
    Accepted {
        _permit: Permit,
    },
    Dialled(ConnectorId),
}

/// What one read from the socket gave.
#[derive(Debug)]
pub(super) enum Received {
    /// So many bytes, at the front of the shared input.
    Input(usize),
    /// So many bytes, straight into the body of a large frame.
    Body(usize),
    /// Nothing for now.
    Nothing,
    /// The end of the stream.
    End,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Connection {
    pub(super) id: ConnectionId,
    pub(super) stream: TcpStream,
    pub(super) peer: SocketAddr,
    pub(super) origin: Origin,
    pub(super) state: State,
    pub(super) decoder: FrameDecoder,
    /// Input that was read but not looked at before reading was paused.
    pub(super) stash: Bytes,
    pub(super) output: Output,
    /// The socket may have input.
    pub(super) readable: bool,
    /// The peer has ended its stream: a short read is not the last one.
    pub(super) end_announced: bool,
    pub(super) writable: bool,
    /// The handler wants no frames for now.
    pub(super) paused: bool,
    /// Too much output waits; see [`OUTPUT_HIGH_WATER_BYTES`].
    pub(super) throttled: bool,
    pub(super) in_ready_list: bool,
    pub(super) in_flush_list: bool,
    /// What it holds of frames that are not complete, as the loop has counted it.
    pub(super) partial_bytes: usize,
    /// What waits to be written, as the loop has counted it; 0 for a dialled one.
    pub(super) output_bytes: usize,
    /// The end of the peer's stream has been read.
    pub(super) peer_ended: bool,
    /// It came within a frame.
    pub(super) cut_frame: bool,
    /// Ends a connect or a close that takes too long.
    pub(super) deadline: Option<TimerId>,
    /// Since when it has been open.
    pub(super) since: Instant,
}

impl Connection {
    pub(super) fn new(
        id: ConnectionId,
        stream: TcpStream,
        peer: SocketAddr,
        origin: Origin,
        state: State,
        now: Instant,
    ) -> Connection {
        Connection {
            id,
            stream,
            peer,
            origin,
            state,
            decoder: FrameDecoder::default(),
            stash: Bytes::new(),
            output: Output::default(),
            readable: false,
            end_announced: false,
            // A new socket has room, but for one that is not connected yet.
            writable: state == State::Open,
            paused: false,
            throttled: false,
            in_ready_list: false,
            in_flush_list: false,
            partial_bytes: 0,
            output_bytes: 0,
            peer_ended: false,
            cut_frame: false,
            deadline: None,
            since: now,
        }
    }

    /// Whether frames may be taken from it now.
    pub(super) fn takes_frames(&self) -> bool {
        matches!(self.state, State::Open | State::ReadClosed) && !self.paused && !self.throttled
    }

    /// Whether there is something to do for the ready list.
    pub(super) fn is_ready(&self) -> bool {
        match self.state {
            State::Connecting | State::Closing => false,
            State::Draining => self.readable,
            State::Open | State::ReadClosed => {
                self.takes_frames() && (self.readable || !self.stash.is_empty())
            }
        }
    }

    /// Whether what is sent to it now has a chance to arrive.
    pub(super) fn takes_output(&self) -> bool {
        matches!(self.state, State::Open | State::ReadClosed)
    }

    /// One read: into the body of a large frame that is being received, or else into
    /// `input`.
    pub(super) fn receive(&mut self, input: &mut [u8]) -> io::Result<Received> {
        let direct = self.decoder.space();
        let is_direct = direct.is_some();
        let room = direct.unwrap_or(input);
        let len = room.len();
        let read = loop {
            match self.stream.read(room) {
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                result => break result,
            }
        };
        match read {
            Ok(0) => {
                self.readable = false;
                self.peer_ended = true;
                self.cut_frame = self.decoder.is_within_frame();
                Ok(Received::End)
            }
            Ok(read) => {
                // Less than asked for: the socket is empty, and the next byte is an edge.
                // The end of the stream that came with these bytes is none.
                self.readable = read == len || self.end_announced;
                if is_direct {
                    self.decoder.advance(read);
                    return Ok(Received::Body(read));
                }
                Ok(Received::Input(read))
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                self.readable = false;
                Ok(Received::Nothing)
            }
            Err(error) => Err(error),
        }
    }

    /// Writes until all is written or the socket takes no more, and decides whether to
    /// go on reading. Returns whether reading goes on that had stopped.
    pub(super) fn flush(&mut self) -> io::Result<bool> {
        while self.writable && !self.output.is_empty() {
            self.writable = self.output.write_to(&mut self.stream)?;
        }
        if self.throttled && self.output.queued_bytes() < OUTPUT_HIGH_WATER_BYTES / 2 {
            self.throttled = false;
            return Ok(true);
        }
        Ok(false)
    }

    /// Call after queueing output. Who asks and does not take the answers is read no
    /// further. Where we are the one who asks, there is nothing to be gained by not
    /// reading the answers.
    pub(super) fn throttle(&mut self) {
        let is_asking = matches!(self.origin, Origin::Accepted { .. });
        if is_asking && self.output.queued_bytes() > OUTPUT_HIGH_WATER_BYTES {
            self.throttled = true;
        }
    }

    /// Why the connection ends that the peer has ended.
    pub(super) fn end_reason(&self) -> CloseReason {
        if self.cut_frame {
            CloseReason::PeerClosedWithinFrame
        } else {
            CloseReason::PeerClosed
        }
    }

    /// Ends our stream, after all is written.
    pub(super) fn end_output(&mut self) -> io::Result<()> {
        self.stream.shutdown(Shutdown::Write)
    }
}

/// What waits to be written, in order.
#[derive(Debug, Default)]
pub(super) struct Output {
    chunks: VecDeque<Chunk>,
    /// How much of the first chunk has been written.
    written: usize,
    queued_bytes: usize,
}

#[derive(Debug)]
enum Chunk {
    /// Frames that were encoded here; more may be added to the last one.
    Own(Buffer),
    /// Bytes that others may hold too.
    Shared(Bytes),
}

impl Chunk {
    fn bytes(&self) -> &[u8] {
        match self {
            Chunk::Own(buffer) => buffer,
            Chunk::Shared(bytes) => bytes,
        }
    }
}

impl Output {
    pub(super) fn is_empty(&self) -> bool {
        self.chunks.is_empty()
    }

    pub(super) fn queued_bytes(&self) -> usize {
        self.queued_bytes
    }

    /// Queues bytes without copying them, unless there are few.
    pub(super) fn push(&mut self, bytes: Bytes) {
        const COPY_BYTES_MAX: usize = 1 << 10;
        if bytes.len() <= COPY_BYTES_MAX {
            self.write_with(|buffer| buffer.extend_from_slice(&bytes));
            return;
        }
        self.queued_bytes += bytes.len();
        self.chunks.push_back(Chunk::Shared(bytes));
    }

    /// Lets `write` append to the last buffer.
    pub(super) fn write_with(&mut self, write: impl FnOnce(&mut Buffer)) {
        let has_room = matches!(
            self.chunks.back(),
            Some(Chunk::Own(buffer)) if buffer.len() < OUTPUT_BUFFER_BYTES
        );
        if !has_room {
            self.chunks
                .push_back(Chunk::Own(Buffer::with_capacity(OUTPUT_FIRST_BYTES)));
        }
        if mutated!(PartialWriteForgotten) && self.chunks.len() == 1 {
            self.written = 0;
        }
        let Some(Chunk::Own(buffer)) = self.chunks.back_mut() else {
            unreachable!("the last chunk has room");
        };
        let before = buffer.len();
        write(buffer);
        let added = buffer.len().checked_sub(before);
        self.queued_bytes += added.expect("writers only append");
        if buffer.is_empty() {
            self.chunks.pop_back();
        }
    }

    /// One `send`, or one `writev` where it takes several buffers: for a single one that
    /// is the dearer call. Returns whether the socket may take more.
    fn write_to(&mut self, stream: &mut impl Write) -> io::Result<bool> {
        if let [only] = self.chunks.as_slices().0
            && self.chunks.len() == 1
        {
            let bytes = &only.bytes()[self.written..];
            let offered = bytes.len();
            let result = stream.write(bytes);
            return self.wrote(result, offered);
        }
        let mut slices = [IoSlice::new(&[]); WRITEV_BUFFERS];
        let mut count = 0;
        let mut offered = 0;
        let mut skip = self.written;
        for (slice, chunk) in slices.iter_mut().zip(&self.chunks) {
            let bytes = &chunk.bytes()[std::mem::take(&mut skip)..];
            *slice = IoSlice::new(bytes);
            offered += bytes.len();
            count += 1;
        }
        let result = stream.write_vectored(&slices[..count]);
        self.wrote(result, offered)
    }

    fn wrote(&mut self, result: io::Result<usize>, offered: usize) -> io::Result<bool> {
        match result {
            Ok(0) => Err(ErrorKind::WriteZero.into()),
            Ok(written) => {
                self.consume(written);
                // A socket that took less is full, and says so when it no longer is.
                Ok(written == offered)
            }
            Err(error) => match error.kind() {
                ErrorKind::WouldBlock => Ok(false),
                ErrorKind::Interrupted => Ok(true),
                _ => Err(error),
            },
        }
    }

    fn consume(&mut self, bytes: usize) {
        self.queued_bytes -= bytes;
        self.written += bytes;
        while let Some(first) = self.chunks.front() {
            let len = first.bytes().len();
            if self.written < len {
                return;
            }
            self.written -= len;
            self.chunks.pop_front();
        }
        assert_eq!(self.written, 0, "more was written than queued");
        // An idle connection keeps next to nothing.
        if self.chunks.capacity() > IDLE_CHUNKS_MAX {
            self.chunks = VecDeque::new();
        }
    }
}

#[cfg(test)]
mod tests;
