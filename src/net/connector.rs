//! Keeps one connection to an address: dials, and dials again after a failure or after
//! the connection has ended, with a back-off.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use mio::net::TcpStream;
use rand::RngExt;
use rand::rngs::StdRng;
use rustix::io::Errno;

use super::connection::ConnectionId;
use super::timer_queue::TimerId;

/// The wait before the second try. Peers restart quickly.
const BACKOFF_MIN: Duration = Duration::from_millis(10);
/// The longest wait between two tries.
const BACKOFF_MAX: Duration = Duration::from_millis(500);
/// How long a connect may take.
pub(super) const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// Names a connector of one event loop.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConnectorId(pub(super) u32);

/// What a connector is about to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// Nothing: it was stopped, or its last failure is none that time heals.
    Idle,
    /// To dial when the timer expires.
    Waiting(TimerId),
    /// Dialling, or connected.
    Busy(ConnectionId),
}

#[derive(Debug)]
pub(super) struct Connector {
    pub(super) addr: SocketAddr,
    pub(super) phase: Phase,
    pub(super) backoff: Backoff,
}

impl Connector {
    pub(super) fn new(addr: SocketAddr) -> Connector {
        Connector {
            addr,
            phase: Phase::Idle,
            backoff: Backoff::default(),
        }
    }
}

/// Waits that double from [`BACKOFF_MIN`] to [`BACKOFF_MAX`], each with jitter, so that
/// nodes which lost each other at one moment do not dial each other at one moment.
#[derive(Debug)]
pub(super) struct Backoff {
    next: Duration,
}

impl Default for Backoff {
    fn default() -> Backoff {
        Backoff { next: BACKOFF_MIN }
    }
}

impl Backoff {
    /// How long to wait now: between half and all of what it is the turn of.
    pub(super) fn next(&mut self, rng: &mut StdRng) -> Duration {
        let ceiling = self.next;
        self.next = (ceiling * 2).min(BACKOFF_MAX);
        rng.random_range(ceiling / 2..=ceiling)
    }

    pub(super) fn reset(&mut self) {
        self.next = BACKOFF_MIN;
    }
}

/// Whether a connect that failed so may work another time. What only a firewall or a
/// route forbids may (`EINVAL` is what a blackhole route says); what no peer can change
/// does not.
pub(super) fn is_worth_a_retry(error: &io::Error) -> bool {
    let Some(errno) = Errno::from_io_error(error) else {
        // Of our own making: a time-out, a connection to ourselves.
        return true;
    };
    !matches!(
        errno,
        Errno::ACCESS
            | Errno::AFNOSUPPORT
            | Errno::PROTONOSUPPORT
            | Errno::PROTOTYPE
            | Errno::BADF
            | Errno::FAULT
            | Errno::NOTSOCK
            | Errno::ISCONN
            | Errno::ALREADY
    )
}

/// Whether a connect succeeded, asked when its socket has become writable.
///
/// A port that nobody listens on, within the range of ephemeral ports, may be given
/// to our own end: the socket is then connected to itself.
///
/// # Errors
/// Why it did not. `WouldBlock`: it has not been decided.
pub(super) fn outcome(stream: &TcpStream) -> io::Result<()> {
    if let Some(error) = stream.take_error()? {
        return Err(error);
    }
    let peer = match stream.peer_addr() {
        Err(error) if Errno::from_io_error(&error) == Some(Errno::NOTCONN) => {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        peer => peer?,
    };
    if stream.local_addr()? == peer {
        return Err(io::Error::new(
            io::ErrorKind::ConnectionRefused,
            "connected to itself, as nobody listens there",
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, SocketAddrV4};

    use rand::SeedableRng;
    use socket2::{Domain, Socket, Type};

    use super::*;

    #[test]
    fn waits_double_up_to_the_cap_with_jitter_and_begin_anew_after_a_reset() {
        let mut rng = StdRng::seed_from_u64(1);
        let mut backoff = Backoff::default();
        for ceiling_ms in [10, 20, 40, 80, 160, 320, 500, 500] {
            let ceiling = Duration::from_millis(ceiling_ms);
            let wait = backoff.next(&mut rng);
            assert!(ceiling / 2 <= wait && wait <= ceiling, "{wait:?}");
        }
        backoff.reset();
        assert!(backoff.next(&mut rng) <= BACKOFF_MIN);
    }

    #[test]
    fn only_what_no_peer_can_change_ends_the_tries() {
        let error = |errno: Errno| io::Error::from(errno);
        for errno in [
            Errno::CONNREFUSED,
            Errno::TIMEDOUT,
            Errno::HOSTUNREACH,
            Errno::NETUNREACH,
            Errno::ADDRNOTAVAIL,
            Errno::AGAIN,
            Errno::CONNRESET,
            Errno::MFILE,
            Errno::PERM,
            Errno::INVAL,
        ] {
            assert!(is_worth_a_retry(&error(errno)), "{errno:?}");
        }
        for errno in [Errno::ACCESS, Errno::AFNOSUPPORT, Errno::BADF] {
            assert!(!is_worth_a_retry(&error(errno)), "{errno:?}");
        }
    }

    #[test]
    fn a_connection_to_itself_is_a_failure() {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        let any = SocketAddr::V4(SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0));
        socket.bind(&any.into()).unwrap();
        socket.connect(&socket.local_addr().unwrap()).unwrap();
        socket.set_nonblocking(true).unwrap();
        let error = outcome(&TcpStream::from_std(socket.into())).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
        assert!(is_worth_a_retry(&error));
    }
}
