//! What clients ask and are told: `proto/kv_operation.proto` ↔ [`Request`], [`Answer`].
//!
//! Every write of every client goes through here, so the way of a usual one is short:
//! [`decode_call`] reads the body of a frame where it lies in the input, and copies key
//! and value once, into the command; [`encode_answer_frame`] writes the answer where it
//! is sent from. What is unusual goes through prost's messages.

mod added;
mod command_buffer;
mod fields;
#[cfg(test)]
mod tests;

use bytes::BufMut;
use prost::Message as _;
use prost::encoding::encoded_len_varint;

use self::fields::RequestFields;
use crate::kv::{ClientId, Command, DecodeError, Identity, Outcome, WriteOp};
use crate::limits;
use crate::mem::Buffer;
use crate::net::envelope::{EnvelopeRef, EnvelopeRefError, Method, encode_call};
use crate::net::wire::put_varint;
use crate::node::{Answer, Request};
use crate::pb;
use crate::pb::kv_operation_response::{Data, StatusCode};
use crate::proto::operator::{OPERATOR_SERVICE, decode_operator, refused_operator};
use crate::proto::{EXECUTE, KV_SERVICE, STATUS_GET, STATUS_SERVICE};
use crate::types::NodeId;

pub use self::command_buffer::CommandBuffer;

const KV_EXECUTE: Method = Method::new(KV_SERVICE, EXECUTE);
const STATUS: Method = Method::new(STATUS_SERVICE, STATUS_GET);

/// Why a request is not one. The reason goes to the client.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ClientError {
    /// Not a protobuf message of this type.
    #[error("undecodable request: {0}")]
    Undecodable(#[from] prost::DecodeError),
    /// There is no such operation.
    #[error("unknown operation {0}")]
    UnknownOperation(i32),
    /// An empty key.
    #[error("empty key")]
    EmptyKey,
    /// Something is too long.
    #[error("{what} of {bytes} bytes is over the limit of {max}")]
    TooLong {
        /// What.
        what: &'static str,
        /// How long it is.
        bytes: usize,
        /// How long it may be.
        max: usize,
    },
    /// A compare-and-set that does not say what it compares with.
    #[error("a compare-and-set needs a comparison")]
    NoComparison,
    /// Something else than a write of one key in a batch.
    #[error("operation {0} cannot be part of a batch")]
    NotInBatch(i32),
    /// What is wrong with an operation of a batch.
    #[error("operation {at} of the batch: {error}")]
    InBatch {
        /// Which, from 1 on.
        at: usize,
        /// What is wrong with it.
        error: Box<ClientError>,
    },
    /// All parts are right, but not the whole.
    #[error("{0}")]
    Command(#[from] DecodeError),
    /// A session without the numbers that it needs.
    #[error("a session needs an id and a sequence from 1 on, not below acked_below")]
    Session,
}

/// A call of a client, understood.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Call {
    /// Chosen by the client; the answer repeats it.
    pub sequence: u64,
    /// What it asks for.
    pub request: Request,
}

/// A call that is none: whom [`encode_refusal_frame`] tells what.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal<'a> {
    /// The service, method and sequence id as far as they could be read.
    pub call: EnvelopeRef<'a>,
    /// What is wrong.
    pub reason: String,
}

/// Understands the body of a frame that a client sent. The command of a write, and the
/// key of a read, are copied out of it, into `commands`.
///
/// # Errors
/// What is wrong, to be answered; nothing was done. The connection can go on.
pub fn decode_call<'a>(body: &'a [u8], commands: &mut CommandBuffer) -> Result<Call, Refusal<'a>> {
    let call = KV_EXECUTE
        .read_envelope(body)
        .map_err(|EnvelopeRefError { kind, envelope }| Refusal {
            call: envelope,
            reason: kind.to_string(),
        })?;
    let refused = |reason| Refusal { call, reason };
    let request = if KV_EXECUTE.is_of(&call) {
        read_request(call.payload, call.sequence, commands)
            .map_err(|error| refused(error.to_string()))?
    } else if STATUS.is_of(&call) {
        Request::Status
    } else if let Some(request) = decode_operator(&call) {
        request.map_err(refused)?
    } else {
        return Err(refused("unknown service or method".to_owned()));
    };
    Ok(Call {
        sequence: call.sequence,
        request,
    })
}

fn read_request(
    payload: &[u8],
    sequence: u64,
    commands: &mut CommandBuffer,
) -> Result<Request, ClientError> {
    if let Some(fields) = RequestFields::read_usual(payload) {
        return understand(&fields, None, sequence, commands);
    }
    let request = pb::KvOperationRequest::decode(payload)?;
    let fields = RequestFields::of(&request);
    understand(&fields, Some(&request), sequence, commands)
}

/// `whole` has the fields that usual requests do not have, if there may be some.
fn understand(
    request: &RequestFields<'_>,
    whole: Option<&pb::KvOperationRequest>,
    sequence: u64,
    commands: &mut CommandBuffer,
) -> Result<Request, ClientError> {
    let Ok(operation) = pb::OperationType::try_from(request.operation) else {
        return Err(ClientError::UnknownOperation(request.operation));
    };
    at_most("uuid", request.uuid.len(), limits::UUID_BYTES_MAX)?;
    if operation == pb::OperationType::OpenSession {
        let client = ClientId::from_text(request.uuid);
        return Ok(write(&Command::OpenSession { client }, true, commands));
    }
    let (key, value) = (request.key, request.value);
    if added::is_added(operation) {
        return added::understand(operation, request, whole, sequence);
    }
    check_key_and_value(key, value)?;
    let op = match operation {
        pb::OperationType::Get => {
            let key = commands.key(key);
            let anywhere = whole.is_some_and(|whole| whole.follower_read);
            return Ok(Request::Get { key, anywhere });
        }
        pb::OperationType::Put => WriteOp::Put { key, value },
        pb::OperationType::Update => WriteOp::Update { key, value },
        pb::OperationType::Delete => WriteOp::Remove { key },
        _ => unreachable!("handled above"),
    };
    let identity = identity(request.session, request.uuid, sequence)?;
    let grows = op.grows();
    Ok(write(&Command::Write { identity, op }, grows, commands))
}

#[inline(always)]
fn check_key_and_value(key: &[u8], value: &[u8]) -> Result<(), ClientError> {
    if key.is_empty() {
        return Err(ClientError::EmptyKey);
    }
    at_most("key", key.len(), limits::KEY_BYTES_MAX)?;
    at_most("value", value.len(), limits::VALUE_BYTES_MAX)
}

fn write(command: &Command<&[u8]>, grows: bool, commands: &mut CommandBuffer) -> Request {
    Request::Write {
        command: commands.command(command),
        grows,
    }
}

fn at_most(what: &'static str, bytes: usize, max: usize) -> Result<(), ClientError> {
    if bytes > max {
        Err(ClientError::TooLong { what, bytes, max })
    } else {
        Ok(())
    }
}

#[inline(always)]
fn identity(
    session: Option<pb::Session>,
    uuid: &[u8],
    sequence: u64,
) -> Result<Identity, ClientError> {
    match session {
        Some(pb::Session {
            id,
            sequence,
            acked_below,
        }) => {
            if id == 0 || sequence == 0 || sequence < acked_below {
                return Err(ClientError::Session);
            }
            Ok(Identity::Session {
                session: id,
                sequence,
                acked_below,
            })
        }
        None if uuid.is_empty() => Ok(Identity::None),
        None => Ok(Identity::Implicit {
            client: ClientId::from_text(uuid),
            sequence,
        }),
    }
}

/// Appends the frame of an answer to `out`. `address_of` knows where a node listens for
/// clients.
///
/// # Panics
/// For [`Answer::Status`], [`Answer::Operator`] and [`Answer::Backup`], which have
/// messages of their own.
pub fn encode_answer_frame(
    out: &mut Buffer,
    sequence: u64,
    answer: &Answer,
    address_of: impl Fn(NodeId) -> Option<String>,
) {
    match answer {
        Answer::Applied(Outcome::Created | Outcome::Removed) => {
            encode_status_only(out, sequence, StatusCode::Created);
        }
        Answer::Applied(Outcome::NotFound) | Answer::Value(None) => {
            encode_status_only(out, sequence, StatusCode::NotFound);
        }
        Answer::Value(Some(value)) => encode_value(out, sequence, value),
        Answer::Page(page) => {
            let response = added::encode_page(page);
            encode_call(out, KV_SERVICE, EXECUTE, sequence, &response);
        }
        answer => {
            let response = encode_answer(answer.clone(), address_of);
            encode_call(out, KV_SERVICE, EXECUTE, sequence, &response);
        }
    }
}

/// The keys of the fields that usual answers have.
const KEY_STATUS: u8 = 0x08;
const KEY_PAYLOAD: u8 = 0x1a;

/// A status as a varint of two bytes, which they all are.
const fn status_bytes(status: StatusCode) -> [u8; 3] {
    let code = status as u32;
    assert!(code >= 1 << 7 && code < 1 << 14, "two bytes");
    [KEY_STATUS, code as u8 | 0x80, (code >> 7) as u8]
}

#[inline]
fn encode_status_only(out: &mut Buffer, sequence: u64, status: StatusCode) {
    let payload = status_bytes(status);
    KV_EXECUTE.encode_call_with(out, sequence, payload.len(), |out| {
        out.put_slice(&payload);
    });
}

#[inline]
fn encode_value(out: &mut Buffer, sequence: u64, value: &[u8]) {
    let len = value.len() as u64;
    let payload_bytes = 3 + 1 + encoded_len_varint(len) + value.len();
    KV_EXECUTE.encode_call_with(out, sequence, payload_bytes, |out| {
        out.put_slice(&status_bytes(StatusCode::Success));
        out.put_u8(KEY_PAYLOAD);
        put_varint(out, len);
        out.put_slice(value);
    });
}

/// The longest service or method that an answer repeats. No known one is that long, and
/// an answer with one that nearly fills a frame would not fit into one.
const NAME_BYTES_MAX: usize = 256;

/// Appends the frame that tells a client why its call is refused. It names the service
/// and method of the call, as far as they could be read.
pub fn encode_refusal_frame(out: &mut Buffer, refusal: &Refusal<'_>) {
    fn name<'a>(name: &'a [u8], default: &'a str) -> &'a str {
        match std::str::from_utf8(name) {
            Ok(text) if (1..=NAME_BYTES_MAX).contains(&text.len()) => text,
            _ => default,
        }
    }
    let Refusal { call, reason } = refusal;
    let (service, method) = (name(call.service, KV_SERVICE), name(call.method, EXECUTE));
    if service == OPERATOR_SERVICE {
        let refused = refused_operator(reason);
        return encode_call(out, service, method, call.sequence, &refused);
    }
    encode_call(out, service, method, call.sequence, &bad_request(reason));
}

/// What a client is told. `address_of` knows where a node listens for clients.
///
/// # Panics
/// For [`Answer::Status`], [`Answer::Operator`] and [`Answer::Backup`], which have
/// messages of their own.
#[must_use]
pub fn encode_answer(
    answer: Answer,
    address_of: impl Fn(NodeId) -> Option<String>,
) -> pb::KvOperationResponse {
    use pb::ErrorCode as Code;
    match answer {
        Answer::Applied(outcome) => encode_outcome(outcome),
        Answer::Value(Some(value)) => {
            response(StatusCode::Success, Some(Data::Payload(value.freeze())))
        }
        Answer::Value(None) => response(StatusCode::NotFound, None),
        Answer::Page(page) => added::encode_page(&page),
        Answer::Redirect(leader) => match address_of(leader) {
            Some(address) => response(StatusCode::Redirect, Some(Data::Address(address))),
            None => error(Code::NoLeader, "no leader"),
        },
        Answer::NoLeader => error(Code::NoLeader, "no leader"),
        Answer::Founding => error(Code::NoLeader, "no leader: the cluster is being founded"),
        Answer::OutcomeUnknown => error(
            Code::OutcomeUnknown,
            "outcome unknown, retry with the same session",
        ),
        Answer::Busy => error(Code::Busy, "busy, too much is waiting"),
        Answer::StoreFull => error(
            Code::MemoryLimit,
            "store full, the memory limit of a node is reached; remove keys or raise --memory-limit",
        ),
        Answer::NoSpace => error(Code::NoSpace, "no space left on the leader's disk"),
        Answer::Status(_) | Answer::Change(_) | Answer::HandOver(_) | Answer::Backup(_) => {
            unreachable!("they have messages of their own")
        }
    }
}

fn encode_outcome(outcome: Outcome) -> pb::KvOperationResponse {
    use pb::ErrorCode as Code;
    match outcome {
        Outcome::Created | Outcome::Removed => response(StatusCode::Created, None),
        Outcome::NotFound => response(StatusCode::NotFound, None),
        Outcome::KeyExists => error(Code::KeyExists, "key already exists"),
        Outcome::NoRoom => error(Code::StoreFull, "the store has reached its largest size"),
        Outcome::Mismatch => error(
            Code::ValueMismatch,
            "the key holds another value than expected",
        ),
        Outcome::BatchFailed(at) => added::batch_failed(at),
        Outcome::SessionOpened(id) => pb::KvOperationResponse {
            session_id: id,
            ..response(StatusCode::Created, None)
        },
        Outcome::SessionExpired => error(
            Code::SessionExpired,
            "session expired: open a new one; what was not answered stays unknown",
        ),
        Outcome::SessionWindowFull => error(
            Code::Busy,
            "busy, too many writes of the session are not acknowledged",
        ),
        Outcome::SessionStale => bad_request("the session has acknowledged this write already"),
        Outcome::Malformed | Outcome::Noop => {
            error(Code::InvalidRequest, "the command was not understood")
        }
    }
}

fn response(status: StatusCode, data: Option<Data>) -> pb::KvOperationResponse {
    pb::KvOperationResponse {
        status_code: status.into(),
        data,
        ..Default::default()
    }
}

fn error(code: pb::ErrorCode, reason: &str) -> pb::KvOperationResponse {
    pb::KvOperationResponse {
        error_code: code.into(),
        ..response(
            StatusCode::InternalError,
            Some(Data::Reason(reason.to_owned())),
        )
    }
}

/// What a client is told whose request is not one.
#[must_use]
pub fn bad_request(reason: &str) -> pb::KvOperationResponse {
    pb::KvOperationResponse {
        error_code: pb::ErrorCode::InvalidRequest.into(),
        ..response(
            StatusCode::BadRequest,
            Some(Data::Reason(reason.to_owned())),
        )
    }
}
