//! What can become of a call, and whether it may be repeated.

use std::fmt;
use std::net::SocketAddr;

use crate::pb;

/// What one try at one address ended with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attempt {
    /// Where.
    pub addr: SocketAddr,
    /// With what.
    pub reason: String,
}

/// Why a call has no result. Each variant says whether the call may be repeated.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum ClientError {
    /// An address does not resolve, or there is none. Final.
    #[error("bad address `{addr}`: {reason}")]
    BadAddress {
        /// As given.
        addr: String,
        /// What is wrong.
        reason: String,
    },
    /// No node could be spoken to; nothing was done. Safe to repeat.
    #[error("cluster not reachable: {}", Tried(tried))]
    Unreachable {
        /// The last try at each address.
        tried: Vec<Attempt>,
    },
    /// Nodes were spoken to, but none did it in time; nothing was done: it was a
    /// read, or every node said that it refused. Safe to repeat.
    #[error("timed out: {}", Tried(tried))]
    Timeout {
        /// The last try at each address.
        tried: Vec<Attempt>,
    },
    /// The write may have been applied, or may still be. Safe to repeat with
    /// [`Client::resolve`](crate::client::Client::resolve) only, which sends it under
    /// the same name again; as a new call it might be applied twice.
    #[error(
        "outcome unknown, the write may or may not be applied: {}",
        Tried(tried)
    )]
    OutcomeUnknown {
        /// The last try at each address.
        tried: Vec<Attempt>,
    },
    /// The node is not the leader, and redirects are not followed; nothing was done.
    /// Safe to repeat at `leader`.
    #[error("not leader, redirected to: {leader}")]
    Redirected {
        /// The leader's client address.
        leader: SocketAddr,
    },
    /// A put of a key that exists; nothing was done. Repeating gives the same.
    #[error("key already exists")]
    KeyExists,
    /// A compare-and-set of a key that holds another value than expected, or one where none
    /// was expected; nothing was done. Repeating gives the same until somebody changes it.
    #[error("the key holds another value than expected")]
    Mismatch,
    /// An operation of a batch could not be carried out: a put of a key that exists, a remove
    /// of one that does not, a compare-and-set that found something else. So none was done.
    #[error("operation {} of the batch cannot be carried out, so none was", .operation + 1)]
    BatchFailed {
        /// The first such operation, from 0 on.
        operation: usize,
    },
    /// The request itself is wrong; nothing was done. Final.
    #[error("bad request: {reason}")]
    BadRequest {
        /// What is wrong with it.
        reason: String,
    },
    /// The disk of the leader is full, or the memory limit of a node is reached; nothing was
    /// done. Safe to repeat later.
    #[error("no space: {reason}")]
    NoSpace {
        /// What the node says.
        reason: String,
    },
    /// The session has expired, and nothing of it will ever be done. Open a new one.
    #[error("session expired{}", if *outcome_unknown { ", and the outcome of the write is unknown" } else { "" })]
    SessionExpired {
        /// Whether an earlier try of this very write may have been applied: then
        /// nobody will ever tell, and only reading helps.
        outcome_unknown: bool,
    },
    /// The node refused for a reason that this library does not know: a newer or an
    /// older server. Not safe to repeat: whether something was done is unknown.
    #[error("refused with status {status}, code {code}: {reason}")]
    Refused {
        /// The status code of the answer.
        status: i32,
        /// The error code of the answer, 0 if it has none (the original server).
        code: i32,
        /// What the node says; may be empty.
        reason: String,
    },
    /// [`Client::resolve`](crate::client::Client::resolve), but no write is of unknown
    /// outcome. Final.
    #[error("there is no write of unknown outcome")]
    NothingToResolve,
}

impl ClientError {
    /// Whether the very same call may be made again without a risk: nothing was done.
    #[must_use]
    pub fn is_safe_to_retry(&self) -> bool {
        match self {
            ClientError::Unreachable { .. }
            | ClientError::Timeout { .. }
            | ClientError::Redirected { .. }
            | ClientError::NoSpace { .. } => true,
            ClientError::BadAddress { .. }
            | ClientError::OutcomeUnknown { .. }
            | ClientError::KeyExists
            | ClientError::Mismatch
            | ClientError::BatchFailed { .. }
            | ClientError::BadRequest { .. }
            | ClientError::SessionExpired { .. }
            | ClientError::Refused { .. }
            | ClientError::NothingToResolve => false,
        }
    }

    /// The original server says nothing but `INTERNAL_ERROR` for a duplicate put.
    pub(super) fn refused(status: pb::kv_operation_response::StatusCode, reason: String) -> Self {
        ClientError::Refused {
            status: status as i32,
            code: 0,
            reason,
        }
    }
}

/// `127.0.0.1:1: connection refused; 127.0.0.1:2: …`
struct Tried<'a>(&'a [Attempt]);

impl fmt::Display for Tried<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return f.write_str("no time left to try");
        }
        for (n, attempt) in self.0.iter().enumerate() {
            let separator = if n == 0 { "tried " } else { "; " };
            write!(f, "{separator}{}: {}", attempt.addr, attempt.reason)?;
        }
        Ok(())
    }
}
