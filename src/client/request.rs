//! Requests from borrowed parts, written without an allocation for each: for programs
//! that send many.

use bytes::BufMut;
use prost::encoding::{WireType, encode_key, encode_varint, encoded_len_varint};

use crate::client::protocol::{Identity, KV_METHOD, KV_SERVICE, Operation};
use crate::mem::Buffer;
use crate::net::envelope::encode_call_prefix;
use crate::pb::OperationType;

// The fields of `KVOperationRequest`, and of `Meta` and `Session` in it.
const TYPE: u32 = 1;
const META: u32 = 2;
const KEY: u32 = 3;
const VALUE: u32 = 4;
const SESSION: u32 = 16;
const META_UUID: u32 = 1;
const SESSION_ID: u32 = 1;
const SESSION_SEQUENCE: u32 = 2;
const SESSION_ACKED_BELOW: u32 = 3;

/// An [`Operation`] under its name, borrowed. Must be one that passes
/// [`Operation::check`].
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
    /// The request for `operation`.
    #[must_use]
    pub fn new(operation: &'a Operation, identity: &'a Identity) -> Request<'a> {
        let (key, value): (&[u8], &[u8]) = match operation {
            Operation::Put { key, value } | Operation::Update { key, value } => (key, value),
            Operation::Get { key } | Operation::Remove { key } => (key, &[]),
            Operation::OpenSession => (&[], &[]),
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
        Request {
            kind: operation.kind(),
            key,
            value,
            name,
        }
    }
}

/// Writes requests; keeps the buffer that it needs for that.
#[derive(Debug, Default)]
pub struct RequestEncoder {
    /// The envelope begins with the length and the checksum of what follows, so that
    /// this is written first.
    payload: Buffer,
}

impl RequestEncoder {
    /// Appends a frame with `request`. Each call has a sequence id of its own, the same
    /// when it is repeated; a write that is named by a uuid is named by both together.
    pub fn encode(&mut self, out: &mut Buffer, sequence_id: u64, request: &Request<'_>) {
        self.payload.clear();
        write_payload(&mut self.payload, request);
        let checksum = crc32fast::hash(&self.payload);
        let bytes = self.payload.len();
        encode_call_prefix(out, KV_SERVICE, KV_METHOD, sequence_id, bytes, checksum);
        out.extend_from_slice(&self.payload);
    }
}

/// The bytes of prost's encoding of `pb::KvOperationRequest`, which the tests compare:
/// fields in order, those with their default value left out.
fn write_payload(out: &mut Buffer, request: &Request<'_>) {
    write_number(out, TYPE, request.kind as u64);
    if let Name::Uuid(uuid) = request.name {
        let len = match uuid.len() {
            0 => 0,
            len => 1 + encoded_len_varint(len as u64) + len,
        };
        write_length(out, META, len);
        write_bytes(out, META_UUID, uuid.as_bytes());
    }
    write_bytes(out, KEY, request.key);
    write_bytes(out, VALUE, request.value);
    if let Name::Session {
        id,
        sequence,
        acked_below,
    } = request.name
    {
        let fields = [
            (SESSION_ID, id),
            (SESSION_SEQUENCE, sequence),
            (SESSION_ACKED_BELOW, acked_below),
        ];
        let lens = fields.map(|(_, number)| match number {
            0 => 0,
            number => 1 + encoded_len_varint(number),
        });
        write_length(out, SESSION, lens.iter().sum());
        for (tag, number) in fields {
            write_number(out, tag, number);
        }
    }
}

fn write_number(out: &mut Buffer, tag: u32, number: u64) {
    if number != 0 {
        encode_key(tag, WireType::Varint, out);
        encode_varint(number, out);
    }
}

fn write_bytes(out: &mut Buffer, tag: u32, bytes: &[u8]) {
    if !bytes.is_empty() {
        write_length(out, tag, bytes.len());
        out.put_slice(bytes);
    }
}

fn write_length(out: &mut Buffer, tag: u32, len: usize) {
    encode_key(tag, WireType::LengthDelimited, out);
    encode_varint(len as u64, out);
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
        };
        let mut out = Buffer::default();
        encode_call(&mut out, KV_SERVICE, KV_METHOD, sequence_id, &message);
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
            let mut encoder = RequestEncoder::default();
            let mut out = Buffer::default();
            // Twice: what the first has left in the encoder is not in the second.
            for _ in 0..2 {
                out.clear();
                encoder.encode(&mut out, sequence_id, &request);
            }
            prop_assert_eq!(out.to_vec(), reference(sequence_id, &request));
        }
    }
}
