//! Requests and answers as values: nothing here does I/O or looks at a clock.
//!
//! A program with an event loop of its own encodes an [`Operation`] into a buffer
//! with [`encode_operation`], finds frames in what it receives, and understands
//! them with [`decode_reply`] and [`decode_answer`].

mod added;

use std::net::SocketAddr;

use bytes::Bytes;
use prost::Message;

use crate::client::ClientError;
use crate::client::request::Request;
use crate::kv::WriteOp;
use crate::limits::{KEY_BYTES_MAX, VALUE_BYTES_MAX};
use crate::mem::Buffer;
use crate::net::envelope::{EnvelopeError, decode_envelope, encode_call};
use crate::pb::kv_operation_response::{Data, StatusCode};
use crate::pb::{ErrorCode, KvOperationResponse, OperationType, StatusRequest, StatusResponse};

const STATUS_SERVICE: &str = "StatusService";
const STATUS_METHOD: &str = "Get";

/// What a client asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Inserts; the key must be new.
    Put {
        /// Not empty.
        key: Bytes,
        /// May be empty.
        value: Bytes,
    },
    /// Inserts or overwrites.
    Update {
        /// Not empty.
        key: Bytes,
        /// May be empty.
        value: Bytes,
    },
    /// Reads, linearizably.
    Get {
        /// Not empty.
        key: Bytes,
    },
    /// Removes.
    Remove {
        /// Not empty.
        key: Bytes,
    },
    /// Sets a key, or removes it, if it holds what is expected.
    CompareAndSet {
        /// Not empty.
        key: Bytes,
        /// What it must hold; [`None`] if it must not exist.
        expected: Option<Bytes>,
        /// What it holds then; [`None`] to remove it.
        new: Option<Bytes>,
    },
    /// Carries out all of these, or none: up to
    /// [`BATCH_OPERATIONS_MAX`](crate::limits::BATCH_OPERATIONS_MAX), no key twice, and
    /// together at most [`COMMAND_BYTES_MAX`](crate::limits::COMMAND_BYTES_MAX) long.
    Batch(Vec<WriteOp>),
    /// Reads many keys in order, linearizably.
    Scan(Range),
    /// Opens an explicit session.
    OpenSession,
}

/// Which keys a scan reads. What is left empty, or 0, does not narrow it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Range {
    /// From this key on.
    pub from: Bytes,
    /// Up to this key, which is not read itself.
    pub until: Bytes,
    /// Only keys that begin with this.
    pub prefix: Bytes,
    /// So many entries at a time; a node gives
    /// [`SCAN_ENTRIES_MAX`](crate::limits::SCAN_ENTRIES_MAX) at most.
    pub entries_max: u32,
    /// So many bytes of keys and values at a time, but one entry in any case; a node gives
    /// [`SCAN_BYTES_MAX`](crate::limits::SCAN_BYTES_MAX) and one entry at most.
    pub bytes_max: u32,
}

/// A part of a [`Range`], as it was at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Page {
    /// Keys and values in key order.
    pub entries: Vec<(Bytes, Bytes)>,
    /// The first key of the range that is not among them: [`Range::from`] of the next page,
    /// which is of a later moment. [`None`] if there was none.
    pub next: Option<Bytes>,
}

impl Operation {
    /// What it is called on the wire.
    #[must_use]
    pub fn kind(&self) -> OperationType {
        match self {
            Operation::Put { .. } => OperationType::Put,
            Operation::Update { .. } => OperationType::Update,
            Operation::Get { .. } => OperationType::Get,
            Operation::Remove { .. } => OperationType::Delete,
            Operation::CompareAndSet { .. } => OperationType::CompareAndSet,
            Operation::Batch(_) => OperationType::Batch,
            Operation::Scan(_) => OperationType::Scan,
            Operation::OpenSession => OperationType::OpenSession,
        }
    }

    /// Whether it changes data, so that it matters whether it was applied. A session
    /// that was opened in vain is forgotten in time.
    #[must_use]
    pub fn is_write(&self) -> bool {
        is_write(self.kind())
    }

    /// Whether a node would take it.
    ///
    /// # Errors
    ///
    /// [`ClientError::BadRequest`] with the reason.
    pub fn check(&self) -> Result<(), ClientError> {
        let (key, value): (&[u8], &[u8]) = match self {
            Operation::Put { key, value } | Operation::Update { key, value } => (key, value),
            Operation::Get { key } | Operation::Remove { key } => (key, &[]),
            Operation::OpenSession => return Ok(()),
            Operation::CompareAndSet { .. } | Operation::Batch(_) | Operation::Scan(_) => {
                return added::check(self);
            }
        };
        check_key(key)?;
        check_value("value", value)
    }
}

fn check_key(key: &[u8]) -> Result<(), ClientError> {
    if key.is_empty() {
        return Err(ClientError::BadRequest {
            reason: "the key is empty".into(),
        });
    }
    check_length("key", key, KEY_BYTES_MAX)
}

fn check_value(what: &str, value: &[u8]) -> Result<(), ClientError> {
    check_length(what, value, VALUE_BYTES_MAX)
}

fn check_length(what: &str, bytes: &[u8], max: usize) -> Result<(), ClientError> {
    if bytes.len() <= max {
        return Ok(());
    }
    let reason = format!("the {what} has {} bytes, {max} are allowed", bytes.len());
    Err(ClientError::BadRequest { reason })
}

/// Under which name a request is sent, so that it is applied once however often it
/// is sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Identity {
    /// An implicit session: the uuid, together with the sequence id of the call.
    Uuid(String),
    /// A number in an explicit session.
    Session {
        /// As answered to [`Operation::OpenSession`].
        id: u64,
        /// From 1 on, one for each write.
        sequence: u64,
        /// No write below this number will be sent again.
        acked_below: u64,
    },
}

/// What a request came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The write is applied, and durable on a quorum.
    Done,
    /// A get found this.
    Value(Bytes),
    /// A get found nothing; a remove, or a compare-and-set that expected a value, did not
    /// find the key.
    NotFound,
    /// A scan found these.
    Page(Page),
    /// The session is open under this id.
    Session(u64),
}

/// What a node answers.
#[derive(Debug, PartialEq, Eq)]
pub enum Answer {
    /// It is decided.
    Outcome(Outcome),
    /// Not the leader; nothing was done. Ask there.
    Redirect(SocketAddr),
    /// No leader is known there; nothing was done. Ask another node, or later.
    NoLeader(String),
    /// The leader has too much to do; nothing was done. Ask it later.
    Busy(String),
    /// It may have been applied; ask again under the same name.
    Unknown(String),
    /// It is decided that it will not be done.
    Refused(ClientError),
}

/// An answer of a node, not yet looked into.
#[derive(Clone, Debug)]
pub struct Reply {
    /// The sequence id of the call that it answers.
    pub sequence_id: u64,
    /// For [`decode_answer`] or [`decode_status`].
    pub payload: Bytes,
}

/// Appends a frame with `operation`. Each call has a sequence id of its own, the
/// same when it is repeated; a write without an [`Identity`] of its own is named by
/// (uuid, sequence id). `operation` must have passed [`Operation::check`].
///
/// A program that sends many makes a [`Request`] of its own parts.
pub fn encode_operation(
    out: &mut Buffer,
    sequence_id: u64,
    operation: &Operation,
    identity: &Identity,
) {
    match Request::new(operation, identity) {
        Some(request) => request.encode_call(out, sequence_id),
        None => added::encode(out, sequence_id, operation, identity, false),
    }
}

/// As [`encode_operation`], for a get or a scan: a node that does not lead answers it
/// itself, as recently as the leader would, instead of a redirect.
pub fn encode_follower_read(
    out: &mut Buffer,
    sequence_id: u64,
    operation: &Operation,
    identity: &Identity,
) {
    added::encode(out, sequence_id, operation, identity, true);
}

/// Appends a frame that asks a node for its status.
pub fn encode_status(out: &mut Buffer, sequence_id: u64) {
    let request = StatusRequest {};
    encode_call(out, STATUS_SERVICE, STATUS_METHOD, sequence_id, &request);
}

/// Takes the body of a frame, behind its header, for an answer.
///
/// # Errors
///
/// It is none: what is wrong with it. The connection is of no more use.
pub fn decode_reply(body: Bytes) -> Result<Reply, EnvelopeError> {
    let envelope = decode_envelope(body)?;
    Ok(Reply {
        sequence_id: envelope.sequence,
        payload: envelope.payload,
    })
}

/// The status CREATED and nothing else: what almost every write is answered.
const CREATED: [u8; 3] = [0x08, 0xc9, 0x01];

fn is_write(kind: OperationType) -> bool {
    match kind {
        OperationType::Put
        | OperationType::Update
        | OperationType::Delete
        | OperationType::CompareAndSet
        | OperationType::Batch => true,
        OperationType::Get | OperationType::Scan | OperationType::OpenSession => false,
    }
}

/// Understands the answer to `operation`.
///
/// # Errors
///
/// It makes no sense; whether something was done is not known.
pub fn decode_answer(operation: &Operation, payload: Bytes) -> Result<Answer, &'static str> {
    decode_answer_to(operation.kind(), payload)
}

/// Understands the answer to an operation of this kind: all that has to be known of it.
///
/// # Errors
///
/// As [`decode_answer`].
pub fn decode_answer_to(kind: OperationType, payload: Bytes) -> Result<Answer, &'static str> {
    if payload[..] == CREATED && is_write(kind) {
        return Ok(Answer::Outcome(Outcome::Done));
    }
    let response = KvOperationResponse::decode(payload).map_err(|_| "an undecodable answer")?;
    let status = StatusCode::try_from(response.status_code).map_err(|_| "an unknown status")?;
    Ok(match (status, kind) {
        (StatusCode::Success, OperationType::Get) => Answer::Outcome(match response.data {
            Some(Data::Payload(value)) => Outcome::Value(value),
            _ => Outcome::Value(Bytes::new()),
        }),
        (StatusCode::Success, OperationType::Scan) => match response.page {
            Some(page) => Answer::Outcome(Outcome::Page(added::page(*page))),
            None => return Err("a scan without a page"),
        },
        (StatusCode::Created | StatusCode::Success, OperationType::OpenSession) => {
            match response.session_id {
                0 => return Err("a session without an id"),
                id => Answer::Outcome(Outcome::Session(id)),
            }
        }
        (StatusCode::Created, kind) if is_write(kind) => Answer::Outcome(Outcome::Done),
        (
            StatusCode::NotFound,
            OperationType::Get | OperationType::Delete | OperationType::CompareAndSet,
        ) => Answer::Outcome(Outcome::NotFound),
        (StatusCode::Redirect, _) => match response.data {
            Some(Data::Address(address)) => {
                Answer::Redirect(address.parse().map_err(|_| "a redirect to no address")?)
            }
            _ => return Err("a redirect to nowhere"),
        },
        (StatusCode::BadRequest | StatusCode::InternalError, _) => refusal(status, response),
        _ => return Err("a status that does not answer the request"),
    })
}

fn refusal(status: StatusCode, response: KvOperationResponse) -> Answer {
    let reason = match response.data {
        Some(Data::Reason(reason)) => reason,
        _ => String::new(),
    };
    match ErrorCode::try_from(response.error_code) {
        Ok(ErrorCode::NoLeader) => Answer::NoLeader(reason),
        Ok(ErrorCode::Busy) => Answer::Busy(reason),
        Ok(ErrorCode::OutcomeUnknown) => Answer::Unknown(reason),
        Ok(ErrorCode::KeyExists) => Answer::Refused(ClientError::KeyExists),
        Ok(ErrorCode::ValueMismatch) => Answer::Refused(ClientError::Mismatch),
        Ok(ErrorCode::BatchFailed) if response.failed_operation > 0 => {
            let operation = response.failed_operation as usize - 1;
            Answer::Refused(ClientError::BatchFailed { operation })
        }
        Ok(ErrorCode::NoSpace | ErrorCode::MemoryLimit) => {
            Answer::Refused(ClientError::NoSpace { reason })
        }
        Ok(ErrorCode::SessionExpired) => Answer::Refused(ClientError::SessionExpired {
            outcome_unknown: false,
        }),
        Ok(ErrorCode::InvalidRequest) => Answer::Refused(ClientError::BadRequest { reason }),
        Ok(ErrorCode::None) if status == StatusCode::BadRequest => {
            Answer::Refused(ClientError::BadRequest { reason })
        }
        Ok(ErrorCode::None) => Answer::Refused(ClientError::refused(status, reason)),
        Ok(ErrorCode::StoreFull | ErrorCode::BatchFailed) | Err(_) => {
            Answer::Refused(ClientError::Refused {
                status: status as i32,
                code: response.error_code,
                reason,
            })
        }
    }
}

/// Understands the answer to a question for the status.
///
/// # Errors
///
/// It makes no sense, as that of a server without this service.
pub fn decode_status(payload: Bytes) -> Result<StatusResponse, &'static str> {
    StatusResponse::decode(payload).map_err(|_| "an undecodable status")
}

#[cfg(test)]
mod tests;
