//! Requests from borrowed parts, written without an allocation for each: for programs
//! that send many.

use bytes::BufMut;
use prost::encoding::encoded_len_varint;

use crate::client::protocol::{Identity, Operation};
use crate::mem::Buffer;
use crate::net::envelope::Method;
use crate::net::wire::{field_len, put_field, put_varint};
use crate::pb::OperationType;

const KV_EXECUTE: Method = Method::new("KVOperationService", "Execute");

// The keys of the fields of `KVOperationRequest`, and of `Meta` and `Session` in it.
const KEY_TYPE: u8 = 0x08;
const KEY_META: u8 = 0x12;
const KEY_KEY: u8 = 0x1a;
const KEY_VALUE: u8 = 0x22;
/// Field 16, whose key has two bytes.
const KEY_SESSION: [u8; 2] = [0x82, 0x01];
const KEY_UUID: u8 = 0x0a;
/// The first of the three fields of `Session`, and how far it is from one to the next.
const KEY_SESSION_ID: u8 = 0x08;
const KEY_STEP: u8 = 0x08;

/// An [`Operation`] under its name, borrowed: one of those that the original has, or the
/// opening of a session. Must be one that passes [`Operation::check`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request<'a> {
    /// What is asked for.
    pub kind: OperationType,
    /// Empty if a session is to be opened.
    pub key: &'a [u8],
    /// Empty but for a put or an update.
    pub value: &'a [u8],
    /// As [`Identity`].
    pub name: Name<'a>,
}

/// A borrowed [`Identity`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Name<'a> {
    /// As [`Identity::Uuid`].
    Uuid(&'a str),
    /// As [`Identity::Session`].
    Session {
        /// As answered when it was opened.
        id: u64,
        /// From 1 on, one for each write.
        sequence: u64,
        /// No write below this number will be sent again.
        acked_below: u64,
    },
}

impl<'a> Request<'a> {
    /// The request for `operation`, [`None`] if it is one that needs more than a key and a
    /// value.
    #[must_use]
    pub fn new(operation: &'a Operation, identity: &'a Identity) -> Option<Request<'a>> {
        let (key, value): (&[u8], &[u8]) = match operation {
            Operation::Put { key, value } | Operation::Update { key, value } => (key, value),
            Operation::Get { key } | Operation::Remove { key } => (key, &[]),
            Operation::OpenSession => (&[], &[]),
            Operation::CompareAndSet { .. } | Operation::Batch(_) | Operation::Scan(_) => {
                return None;
            }
        };
        let name = match identity {
            Identity::Uuid(uuid) => Name::Uuid(uuid),
            &Identity::Session {
                id,
                sequence,
                acked_below,
            } => Name::Session {
                id,
                sequence,
                acked_below,
            },
        };
        Some(Request {
            kind: operation.kind(),
            key,
            value,
            name,
        })
    }
}

impl Request<'_> {
    /// Appends a frame with the request. Each call has a sequence id of its own, the same
    /// when it is repeated; a write that is named by a uuid is named by both together.
    #[inline]
    pub fn encode_call(&self, out: &mut Buffer, sequence_id: u64) {
        KV_EXECUTE.encode_call_with(out, sequence_id, self.encoded_len(), |out| self.encode(out));
    }

    fn encoded_len(&self) -> usize {
        let kind = if self.kind as i32 == 0 { 0 } else { 2 };
        let name = match self.name {
            Name::Uuid(uuid) => {
                let meta = field_len(uuid.as_bytes());
                1 + encoded_len_varint(meta as u64) + meta
            }
            Name::Session { .. } => 2 + 1 + session_len(self.name.numbers()),
        };
        kind + name + field_len(self.key) + field_len(self.value)
    }

    /// The bytes of prost's encoding of `pb::KvOperationRequest`, which the tests compare:
    /// fields in order, those with their default value left out.
    fn encode(&self, out: &mut Buffer) {
        if self.kind as i32 != 0 {
            // Below 128, all of them.
            out.put_slice(&[KEY_TYPE, self.kind as u8]);
        }
        if let Name::Uuid(uuid) = self.name {
            out.put_u8(KEY_META);
            put_varint(out, field_len(uuid.as_bytes()) as u64);
            put_field(out, KEY_UUID, uuid.as_bytes());
        }
        put_field(out, KEY_KEY, self.key);
        put_field(out, KEY_VALUE, self.value);
        if let Name::Session { .. } = self.name {
            let numbers = self.name.numbers();
            out.put_slice(&KEY_SESSION);
            // Three numbers have less than 128 bytes.
            out.put_u8(session_len(numbers) as u8);
            let mut key = KEY_SESSION_ID;
            for number in numbers {
                if number != 0 {
                    out.put_u8(key);
                    put_varint(out, number);
                }
                key += KEY_STEP;
            }
        }
    }
}

impl Name<'_> {
    fn numbers(self) -> [u64; 3] {
        match self {
            Name::Uuid(_) => [0; 3],
            Name::Session {
                id,
                sequence,
                acked_below,
            } => [id, sequence, acked_below],
        }
    }
}

fn session_len(numbers: [u64; 3]) -> usize {
    let fields = numbers.into_iter().filter(|number| *number != 0);
    fields.map(|number| 1 + encoded_len_varint(number)).sum()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use prost::Message;

    use super::*;
    use crate::net::envelope::encode_call;
    use crate::pb::{KvOperationRequest, Meta, Session};

    /// The same through the generated messages.
    fn reference(sequence_id: u64, request: &Request<'_>) -> Vec<u8> {
        let (meta, session) = match request.name {
            Name::Uuid(uuid) => (Some(Meta { uuid: uuid.into() }), None),
            Name::Session {
                id,
                sequence,
                acked_below,
            } => {
                let session = Session {
                    id,
                    sequence,
                    acked_below,
                };
                (None, Some(session))
            }
        };
        let message = KvOperationRequest {
            r#type: request.kind as i32,
            meta,
            key: request.key.to_vec().into(),
            value: request.value.to_vec().into(),
            session,
            ..Default::default()
        };
        let mut out = Buffer::default();
        encode_call(
            &mut out,
            KV_EXECUTE.service(),
            KV_EXECUTE.name(),
            sequence_id,
            &message,
        );
        assert_eq!(
            KvOperationRequest::decode(&message.encode_to_vec()[..]),
            Ok(message)
        );
        out.to_vec()
    }

    proptest! {
        #[test]
        fn a_request_has_the_bytes_of_its_generated_message(
            kind in prop::sample::select(vec![
                OperationType::Put,
                OperationType::Update,
                OperationType::Delete,
                OperationType::Get,
                OperationType::OpenSession,
            ]),
            key in prop::collection::vec(any::<u8>(), 0..200),
            value in prop::collection::vec(any::<u8>(), 0..200),
            uuid in "[a-f0-9-]{0,200}",
            numbers in prop::option::of(prop::array::uniform3(prop_oneof![0..3_u64, any::<u64>()])),
            sequence_id in any::<u64>(),
        ) {
            let name = match numbers {
                None => Name::Uuid(&uuid),
                Some([id, sequence, acked_below]) => Name::Session { id, sequence, acked_below },
            };
            let request = Request { kind, key: &key, value: &value, name };
            let mut out = Buffer::default();
            request.encode_call(&mut out, sequence_id);
            prop_assert_eq!(out.to_vec(), reference(sequence_id, &request));
        }
    }
}
