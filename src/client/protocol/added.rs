//! The operations that the original does not have, by way of prost's messages.

use bytes::Bytes;

use super::{Identity, Operation, Page, check_key, check_length, check_value};
use crate::client::ClientError;
use crate::kv::{DecodeError, WriteOp, batch};
use crate::limits::{COMMAND_BYTES_MAX, COMMAND_OVERHEAD_BYTES, KEY_BYTES_MAX};
use crate::mem::Buffer;
use crate::net::envelope::encode_call;
use crate::pb::{
    self, BatchOperation, Comparison, Entry, KvOperationRequest, Meta, OperationType, Scan, Session,
};

/// As [`Operation::check`].
pub(super) fn check(operation: &Operation) -> Result<(), ClientError> {
    match operation {
        Operation::CompareAndSet { key, expected, new } => {
            let none = Bytes::new();
            let (expected, new) = (expected.as_ref(), new.as_ref());
            let (expected, new) = (expected.unwrap_or(&none), new.unwrap_or(&none));
            check_key(key)?;
            check_value("expected value", expected)?;
            check_value("new value", new)?;
            let bytes = key.len() + expected.len() + new.len();
            let max = COMMAND_BYTES_MAX - COMMAND_OVERHEAD_BYTES;
            if bytes > max {
                let reason = format!("key and values have {bytes} bytes, {max} are allowed");
                return Err(ClientError::BadRequest { reason });
            }
            Ok(())
        }
        Operation::Batch(operations) => match batch::check(operations) {
            Ok(_) => Ok(()),
            Err(error) => Err(refused(&error)),
        },
        Operation::Scan(range) => {
            check_length("first key", &range.from, KEY_BYTES_MAX)?;
            check_length("last key", &range.until, KEY_BYTES_MAX)?;
            check_length("prefix", &range.prefix, KEY_BYTES_MAX)
        }
        _ => Ok(()),
    }
}

fn refused(error: &DecodeError) -> ClientError {
    ClientError::BadRequest {
        reason: error.to_string(),
    }
}

/// Appends a frame with an operation that [`Request`](crate::client::request::Request) does
/// not know, or a read that a follower may answer.
pub(super) fn encode(
    out: &mut Buffer,
    sequence_id: u64,
    operation: &Operation,
    identity: &Identity,
    follower_read: bool,
) {
    let mut request = KvOperationRequest {
        r#type: operation.kind().into(),
        follower_read,
        ..Default::default()
    };
    match identity {
        Identity::Uuid(uuid) => request.meta = Some(Meta { uuid: uuid.clone() }),
        &Identity::Session {
            id,
            sequence,
            acked_below,
        } => {
            request.session = Some(Session {
                id,
                sequence,
                acked_below,
            });
        }
    }
    match operation {
        Operation::CompareAndSet { key, expected, new } => {
            request.key = key.clone();
            request.value = new.clone().unwrap_or_default();
            request.comparison = Some(comparison(expected.as_ref(), new.as_ref()));
        }
        Operation::Get { key } => request.key = key.clone(),
        Operation::Batch(operations) => {
            request.operations = operations.iter().map(in_batch).collect();
        }
        Operation::Scan(range) => {
            request.key = range.from.clone();
            request.scan = Some(Scan {
                until: range.until.clone(),
                prefix: range.prefix.clone(),
                entries_max: range.entries_max,
                bytes_max: range.bytes_max,
            });
        }
        _ => unreachable!("the short way knows all others"),
    }
    encode_call(out, "KVOperationService", "Execute", sequence_id, &request);
}

fn comparison(expected: Option<&Bytes>, new: Option<&Bytes>) -> Comparison {
    Comparison {
        expected: expected.cloned(),
        remove: new.is_none(),
    }
}

fn in_batch(op: &WriteOp) -> BatchOperation {
    let (kind, value, comparison) = match op {
        WriteOp::Put { value, .. } => (OperationType::Put, Some(value), None),
        WriteOp::Update { value, .. } => (OperationType::Update, Some(value), None),
        WriteOp::Remove { .. } => (OperationType::Delete, None, None),
        WriteOp::Cas { expected, new, .. } => (
            OperationType::CompareAndSet,
            new.as_ref(),
            Some(comparison(expected.as_ref(), new.as_ref())),
        ),
    };
    BatchOperation {
        r#type: kind.into(),
        key: op.key().clone(),
        value: value.cloned().unwrap_or_default(),
        comparison,
    }
}

/// What a node has scanned.
pub(super) fn page(page: pb::Page) -> Page {
    let entry = |Entry { key, value }| (key, value);
    Page {
        entries: page.entries.into_iter().map(entry).collect(),
        next: (!page.next_key.is_empty()).then_some(page.next_key),
    }
}
