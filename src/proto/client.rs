//! What clients ask and are told: `proto/kv_operation.proto` ↔ [`Request`], [`Answer`].

use bytes::Bytes;
use prost::Message as _;

use crate::kv::{ClientId, Command, Identity, Outcome, WriteOp};
use crate::limits;
use crate::node::{Answer, Request};
use crate::pb;
use crate::pb::kv_operation_response::{Data, StatusCode};
use crate::types::NodeId;

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
    /// A session without the numbers that it needs.
    #[error("a session needs an id and a sequence from 1 on, not below acked_below")]
    Session,
}

/// Understands what a client asks for. `sequence` is that of the call: together with the
/// client's uuid it tells a repeated write from a new one.
///
/// # Errors
/// What is wrong with it; nothing was done.
pub fn decode_request(payload: Bytes, sequence: u64) -> Result<Request, ClientError> {
    let request = pb::KvOperationRequest::decode(payload)?;
    let Ok(operation) = pb::OperationType::try_from(request.r#type) else {
        return Err(ClientError::UnknownOperation(request.r#type));
    };
    let uuid = request.meta.map(|meta| meta.uuid).unwrap_or_default();
    at_most("uuid", uuid.len(), limits::UUID_BYTES_MAX)?;
    if operation == pb::OperationType::OpenSession {
        let command = Command::OpenSession {
            client: ClientId::from_text(&uuid),
        };
        return Ok(Request::Write {
            command: command.encode(),
            grows: true,
        });
    }
    let (key, value) = (request.key, request.value);
    if key.is_empty() {
        return Err(ClientError::EmptyKey);
    }
    at_most("key", key.len(), limits::KEY_BYTES_MAX)?;
    at_most("value", value.len(), limits::VALUE_BYTES_MAX)?;
    let op = match operation {
        // A key of its own: a slice would keep all of what came alive while it waits.
        pb::OperationType::Get => {
            let key = Bytes::copy_from_slice(&key);
            return Ok(Request::Get { key });
        }
        pb::OperationType::Put => WriteOp::Put { key, value },
        pb::OperationType::Update => WriteOp::Update { key, value },
        pb::OperationType::Delete => WriteOp::Remove { key },
        pb::OperationType::OpenSession => unreachable!("handled above"),
    };
    let identity = identity(request.session, &uuid, sequence)?;
    let grows = !matches!(op, WriteOp::Remove { .. });
    Ok(Request::Write {
        command: Command::Write { identity, op }.encode(),
        grows,
    })
}

fn at_most(what: &'static str, bytes: usize, max: usize) -> Result<(), ClientError> {
    if bytes > max {
        Err(ClientError::TooLong { what, bytes, max })
    } else {
        Ok(())
    }
}

fn identity(
    session: Option<pb::Session>,
    uuid: &str,
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

/// What a client is told. `address_of` knows where a node listens for clients.
///
/// # Panics
/// For [`Answer::Status`], which has a message of its own.
#[must_use]
pub fn encode_answer(
    answer: Answer,
    address_of: impl Fn(NodeId) -> Option<String>,
) -> pb::KvOperationResponse {
    use pb::ErrorCode as Code;
    match answer {
        Answer::Applied(outcome) => encode_outcome(outcome),
        Answer::Value(Some(value)) => response(StatusCode::Success, Some(Data::Payload(value))),
        Answer::Value(None) => response(StatusCode::NotFound, None),
        Answer::Redirect(leader) => match address_of(leader) {
            Some(address) => response(StatusCode::Redirect, Some(Data::Address(address))),
            None => error(Code::NoLeader, "no leader"),
        },
        Answer::NoLeader => error(Code::NoLeader, "no leader"),
        Answer::OutcomeUnknown => error(
            Code::OutcomeUnknown,
            "outcome unknown, retry with the same session",
        ),
        Answer::Busy => error(Code::Busy, "busy, too much is waiting"),
        Answer::NoSpace => error(Code::NoSpace, "no space left on the leader's disk"),
        Answer::Status(_) => unreachable!("status has a message of its own"),
    }
}

fn encode_outcome(outcome: Outcome) -> pb::KvOperationResponse {
    use pb::ErrorCode as Code;
    match outcome {
        Outcome::Created | Outcome::Removed => response(StatusCode::Created, None),
        Outcome::NotFound => response(StatusCode::NotFound, None),
        Outcome::KeyExists => error(Code::KeyExists, "key already exists"),
        Outcome::NoRoom => error(Code::StoreFull, "the store has reached its largest size"),
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

#[cfg(test)]
mod tests {
    use super::*;

    fn request(operation: i32, key: &[u8], value: usize) -> Result<Request, ClientError> {
        let request = pb::KvOperationRequest {
            r#type: operation,
            key: Bytes::copy_from_slice(key),
            value: vec![0; value].into(),
            ..Default::default()
        };
        decode_request(request.encode_to_vec().into(), 1)
    }

    #[test]
    fn requests_over_a_limit_are_refused_with_the_limit() {
        let key = vec![b'k'; limits::KEY_BYTES_MAX + 1];
        let error = request(0, &key, 0).unwrap_err().to_string();
        assert_eq!(error, "key of 65537 bytes is over the limit of 65536");
        let error = request(1, b"k", limits::VALUE_BYTES_MAX + 1)
            .unwrap_err()
            .to_string();
        assert_eq!(error, "value of 8388609 bytes is over the limit of 8388608");
        assert!(request(1, &key[1..], limits::VALUE_BYTES_MAX).is_ok());
        assert_eq!(request(3, b"", 0), Err(ClientError::EmptyKey));
        assert_eq!(request(9, b"k", 0), Err(ClientError::UnknownOperation(9)));
    }

    #[test]
    fn only_a_duplicate_put_has_a_reason_that_says_exists() {
        let answers = [
            Answer::Applied(Outcome::KeyExists),
            Answer::Applied(Outcome::NoRoom),
            Answer::Applied(Outcome::SessionExpired),
            Answer::Applied(Outcome::SessionWindowFull),
            Answer::Applied(Outcome::SessionStale),
            Answer::Applied(Outcome::Malformed),
            Answer::NoLeader,
            Answer::OutcomeUnknown,
            Answer::Busy,
            Answer::NoSpace,
        ];
        for answer in answers {
            let duplicate = answer == Answer::Applied(Outcome::KeyExists);
            let encoded = encode_answer(answer, |_| None);
            let Some(Data::Reason(reason)) = encoded.data else {
                panic!("an error has a reason")
            };
            assert_eq!(reason.contains("exists"), duplicate, "{reason}");
        }
    }

    #[test]
    fn answers_are_the_bytes_that_the_original_sends() {
        let bytes =
            |answer| encode_answer(answer, |_| Some("127.0.0.1:4399".into())).encode_to_vec();
        assert_eq!(bytes(Answer::Applied(Outcome::Created)), b"\x08\xc9\x01");
        assert_eq!(bytes(Answer::Applied(Outcome::Removed)), b"\x08\xc9\x01");
        assert_eq!(bytes(Answer::Applied(Outcome::NotFound)), b"\x08\x94\x03");
        assert_eq!(bytes(Answer::Value(None)), b"\x08\x94\x03");
        assert_eq!(
            bytes(Answer::Value(Some("wv".into()))),
            b"\x08\xc8\x01\x1a\x02wv"
        );
        assert_eq!(
            bytes(Answer::Value(Some(Bytes::new()))),
            b"\x08\xc8\x01\x1a\x00"
        );
        assert_eq!(
            bytes(Answer::Redirect(NodeId(1))),
            b"\x08\xae\x02\x22\x0e127.0.0.1:4399"
        );
    }
}
