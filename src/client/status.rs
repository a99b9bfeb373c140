//! The status of many nodes, asked at the same time.

use std::net::SocketAddr;
use std::thread;
use std::time::{Duration, Instant};

use crate::client::connection::{Connection, describe};
use crate::client::protocol::{decode_status, encode_status};
use crate::mem::Buffer;
use crate::pb::StatusResponse;

/// What one node says about itself, or why it says nothing.
#[derive(Clone, Debug, PartialEq)]
pub struct NodeStatus {
    /// Its client address.
    pub addr: SocketAddr,
    /// Its status, or the reason why there is none.
    pub status: Result<StatusResponse, String>,
}

/// Asks the nodes at these client addresses, each by a thread of its own; the
/// answers come in the order of `addrs`, all within `timeout`.
#[must_use]
pub fn status_of(addrs: &[SocketAddr], timeout: Duration) -> Vec<NodeStatus> {
    let deadline = Instant::now() + timeout;
    thread::scope(|scope| {
        let asked: Vec<_> = addrs
            .iter()
            .map(|&addr| {
                let asking =
                    thread::Builder::new().spawn_scoped(scope, move || ask(addr, deadline));
                (addr, asking)
            })
            .collect();
        asked
            .into_iter()
            .map(|(addr, asking)| {
                let status = match asking.map(thread::ScopedJoinHandle::join) {
                    Ok(Ok(status)) => status,
                    Ok(Err(_)) => Err("the asking thread panicked".into()),
                    Err(e) => Err(format!("no thread to ask: {e}")),
                };
                NodeStatus { addr, status }
            })
            .collect()
    })
}

fn ask(addr: SocketAddr, deadline: Instant) -> Result<StatusResponse, String> {
    const SEQUENCE_ID: u64 = 1;
    let mut frame = Buffer::default();
    encode_status(&mut frame, SEQUENCE_ID);
    let mut connection = Connection::open(addr, deadline).map_err(|e| describe(&e))?;
    let reply = connection
        .exchange(&frame, SEQUENCE_ID, deadline)
        .map_err(|failure| failure.reason)?;
    Ok(decode_status(reply.payload)?)
}
