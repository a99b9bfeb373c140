//! The reactor: sockets on one side, frames on the other. It knows bytes, frames and
//! envelopes, and nothing of Raft.
//!
//! Shaped after muduo: one loop per thread, and one small type per concern.
//!
//! | file | type | concern |
//! |---|---|---|
//! | `event_loop.rs` | [`EventLoop`], [`Handler`] | waits for sockets, timers and mail; calls the handler |
//! | `io.rs` | [`Io`] | what a handler may do: send, close, listen, dial, set timers |
//! | `acceptor.rs` | `Acceptor` | listeners, lack of file descriptors, the cap on connections |
//! | `connector.rs` | `Connector` | one connection kept to a peer: back-off, what is worth a retry |
//! | `connection.rs` | `Connection` | one socket: partial input, queued output, half-close |
//! | `connection_map.rs` | [`ConnectionMap`] | what a handler keeps for each connection |
//! | `frame.rs` | [`frame::FrameDecoder`] | where messages begin and end; no I/O |
//! | `envelope.rs` | [`envelope::Envelope`] | service, method, sequence id, payload; no I/O |
//! | `wire.rs` | – | varints and fields of messages that are written by hand |
//! | `timer_queue.rs` | [`timer_queue::TimerQueue`] | timers in order |
//! | `rate_limit.rs` | [`rate_limit::RateLimit`] | log lines about bad input |
//!
//! A connection is named by a [`ConnectionId`], never by a reference that outlives a
//! call: the handler and the connections are two separate values, and a handler that
//! names a connection which is gone does nothing. Start with [`Handler`].

mod acceptor;
mod connection;
mod connection_map;
mod connector;
pub mod envelope;
mod event_loop;
pub mod frame;
mod io;
pub mod rate_limit;
#[cfg(all(test, not(loom)))]
mod tests;
pub mod timer_queue;
pub mod wire;

pub use acceptor::{ConnectionBudget, ListenerId, Sharing, probe_port, raise_fd_limit};
pub use connection::{CloseReason, ConnectionId};
pub use connection_map::ConnectionMap;
pub use connector::ConnectorId;
pub use event_loop::{EventLoop, Handler, Options};
pub use io::Io;
pub use timer_queue::TimerId;
