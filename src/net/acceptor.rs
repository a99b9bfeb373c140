//! Listens, and accepts until nothing waits, as far as file descriptors and the cap
//! on connections allow.

use std::fs::File;
use std::io::{self, ErrorKind, Write as _};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use mio::net::{TcpListener, TcpStream};
use rustix::io::Errno;
use rustix::process::{Resource, getrlimit, setrlimit};
use socket2::{Domain, Protocol, Socket, Type};

const BACKLOG: i32 = 1_024;

/// Names a listener of one event loop.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ListenerId(pub(super) u32);

/// Whether other sockets may listen on the same port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sharing {
    /// No: binding fails if anyone listens there, whatever their options, so that a
    /// second process cannot take part in this port unnoticed.
    Exclusive,
    /// Yes, if they all say so (`SO_REUSEPORT`): the kernel deals the connections out
    /// among them. See [`probe_port`].
    Shared,
}

/// How many accepted connections there may be, over all event loops of a node.
#[derive(Debug)]
pub struct ConnectionBudget {
    open: AtomicUsize,
    max: usize,
    /// What is said to those who find it used up.
    farewell: Bytes,
}

impl ConnectionBudget {
    /// A budget of `max` connections, to be shared by event loops.
    #[must_use]
    pub fn new(max: usize) -> Arc<ConnectionBudget> {
        ConnectionBudget::with_farewell(max, Bytes::new())
    }

    /// A budget whose connections beyond `max` are sent `farewell`, as far as the system
    /// takes it at once, and closed.
    #[must_use]
    pub fn with_farewell(max: usize, farewell: Bytes) -> Arc<ConnectionBudget> {
        Arc::new(ConnectionBudget {
            open: AtomicUsize::new(0),
            max,
            farewell,
        })
    }

    /// How many connections are open.
    #[must_use]
    pub fn open(&self) -> usize {
        // ORDERING: a count that protects no other memory.
        self.open.load(Ordering::Relaxed)
    }

    fn try_acquire(self: &Arc<ConnectionBudget>) -> Option<Permit> {
        // ORDERING: relaxed suffices, as the count protects no other memory.
        let taken = self.open.fetch_add(1, Ordering::Relaxed);
        let permit = Permit(self.clone());
        // The permit gives back on drop what was taken too much.
        (taken < self.max).then_some(permit)
    }
}

/// One connection's share of the budget.
#[derive(Debug)]
pub(super) struct Permit(Arc<ConnectionBudget>);

impl Drop for Permit {
    fn drop(&mut self) {
        // ORDERING: relaxed suffices, as the count protects no other memory.
        self.0.open.fetch_sub(1, Ordering::Relaxed);
    }
}

/// What one try to accept gave.
#[derive(Debug)]
pub(super) enum Accepted {
    Connection(TcpStream, SocketAddr, Permit),
    /// One more than the budget allows; it has been closed.
    OverBudget(SocketAddr),
    /// Nobody waits.
    Nothing,
    /// The system lacks file descriptors or memory: try again a little later.
    Exhausted(io::Error),
}

#[derive(Debug)]
pub(super) struct Acceptor {
    pub(super) listener: TcpListener,
    /// Someone may wait.
    pub(super) readable: bool,
    /// Until a timer expires.
    pub(super) paused: bool,
    /// A file descriptor to give up when there is no other: it accepts, and so closes,
    /// a connection that would otherwise wait in the queue with its peer none the wiser.
    reserve: Option<File>,
    budget: Arc<ConnectionBudget>,
}

impl Acceptor {
    pub(super) fn bind(
        addr: SocketAddr,
        sharing: Sharing,
        budget: Arc<ConnectionBudget>,
    ) -> io::Result<Acceptor> {
        let socket = bound_socket(addr, sharing)?;
        socket.listen(BACKLOG)?;
        socket.set_nonblocking(true)?;
        Ok(Acceptor {
            listener: TcpListener::from_std(socket.into()),
            readable: false,
            paused: false,
            reserve: Some(open_reserve()?),
            budget,
        })
    }

    pub(super) fn accept(&mut self) -> Accepted {
        loop {
            match self.listener.accept() {
                Ok((mut stream, peer)) => {
                    let Some(permit) = self.budget.try_acquire() else {
                        // It is closed either way: who does not get it learns as much.
                        let _ = stream.write(&self.budget.farewell);
                        return Accepted::OverBudget(peer);
                    };
                    return Accepted::Connection(stream, peer, permit);
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    self.readable = false;
                    return Accepted::Nothing;
                }
                // Accept reports what happened to the connection before it was accepted.
                Err(error) if concerns_one_connection(&error) => {}
                Err(error) => {
                    self.shed_one();
                    return Accepted::Exhausted(error);
                }
            }
        }
    }

    fn shed_one(&mut self) {
        if self.reserve.take().is_some() {
            drop(self.listener.accept());
        }
        self.reserve = open_reserve().ok();
    }
}

fn open_reserve() -> io::Result<File> {
    File::open("/dev/null")
}

/// See accept(2), "Error handling".
fn concerns_one_connection(error: &io::Error) -> bool {
    let Some(errno) = Errno::from_io_error(error) else {
        return false;
    };
    matches!(
        errno,
        Errno::INTR
            | Errno::CONNABORTED
            | Errno::PROTO
            | Errno::NETDOWN
            | Errno::NOPROTOOPT
            | Errno::HOSTDOWN
            | Errno::HOSTUNREACH
            | Errno::OPNOTSUPP
            | Errno::NETUNREACH
            | Errno::PERM
    )
}

fn bound_socket(addr: SocketAddr, sharing: Sharing) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(addr), Type::STREAM, Some(Protocol::TCP))?;
    // A restart must not wait for the old connections' TIME_WAIT.
    socket.set_reuse_address(true)?;
    if sharing == Sharing::Shared {
        socket.set_reuse_port(true)?;
    }
    socket.bind(&addr.into())?;
    Ok(socket)
}

/// Whether nobody listens on `addr`, not even with `SO_REUSEPORT`: to be asked before
/// the first [`Sharing::Shared`] listener, which a foreign one would not hinder.
///
/// # Errors
/// `AddrInUse` if somebody does; else why `addr` cannot be bound.
pub fn probe_port(addr: SocketAddr) -> io::Result<()> {
    bound_socket(addr, Sharing::Exclusive).map(drop)
}

/// Raises the limit on open files to what is allowed, and returns it (`None`: there is
/// no limit).
///
/// # Errors
/// What the system says.
pub fn raise_fd_limit() -> io::Result<Option<u64>> {
    let mut limit = getrlimit(Resource::Nofile);
    if limit.current != limit.maximum {
        limit.current = limit.maximum;
        setrlimit(Resource::Nofile, limit)?;
    }
    Ok(limit.current)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn any_port() -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], 0))
    }

    #[test]
    fn a_shared_port_takes_a_second_listener_and_an_exclusive_one_does_not() {
        let budget = ConnectionBudget::new(1);
        for (sharing, second_is_welcome) in [(Sharing::Shared, true), (Sharing::Exclusive, false)] {
            let first = Acceptor::bind(any_port(), sharing, budget.clone()).unwrap();
            let addr = first.listener.local_addr().unwrap();
            let second = Acceptor::bind(addr, Sharing::Shared, budget.clone());
            assert_eq!(second.is_ok(), second_is_welcome, "{sharing:?}");
        }
    }

    #[test]
    fn a_probe_finds_a_listener_that_shares_its_port() {
        let budget = ConnectionBudget::new(1);
        let acceptor = Acceptor::bind(any_port(), Sharing::Shared, budget).unwrap();
        let addr = acceptor.listener.local_addr().unwrap();
        let error = probe_port(addr).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::AddrInUse);
        drop(acceptor);
        probe_port(addr).expect("nobody listens any more");
    }

    #[test]
    fn a_budget_is_given_back_when_a_connection_ends() {
        let budget = ConnectionBudget::new(1);
        let first = budget.try_acquire();
        assert!(first.is_some());
        assert!(budget.try_acquire().is_none());
        assert_eq!(budget.open(), 1);
        drop(first);
        assert!(budget.try_acquire().is_some());
        assert_eq!(budget.open(), 0);
    }
}
