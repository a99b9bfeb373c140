//! A request in its encoding, written by hand: prost's message would have to own the
//! name of the client and share key and value, once for every call. The bytes are those
//! of prost's encoding of `pb::KvOperationRequest`, which the tests compare.

use bytes::BufMut;
use prost::encoding::encoded_len_varint;

use super::{Identity, Operation};
use crate::mem::Buffer;
use crate::net::wire::{field_len, put_field, put_varint};
use crate::pb::OperationType;

/// The keys of the fields.
const KEY_TYPE: u8 = 0x08;
const KEY_META: u8 = 0x12;
const KEY_KEY: u8 = 0x1a;
const KEY_VALUE: u8 = 0x22;
/// Field 16, whose key has two bytes.
const KEY_SESSION: [u8; 2] = [0x82, 0x01];
/// The first field of `Meta`.
const KEY_UUID: u8 = 0x0a;
/// The first of the three fields of `Session`, and how far it is from one to the next.
const KEY_SESSION_ID: u8 = 0x08;
const KEY_STEP: u8 = 0x08;

/// What a request says, borrowed.
pub(super) struct RequestParts<'a> {
    kind: OperationType,
    key: &'a [u8],
    value: &'a [u8],
    name: Name<'a>,
}

enum Name<'a> {
    Uuid(&'a str),
    Session([u64; 3]),
}

impl<'a> RequestParts<'a> {
    #[inline]
    pub(super) fn new(operation: &'a Operation, identity: &'a Identity) -> RequestParts<'a> {
        let (kind, key, value): (_, &[u8], &[u8]) = match operation {
            Operation::Put { key, value } => (OperationType::Put, key, value),
            Operation::Update { key, value } => (OperationType::Update, key, value),
            Operation::Get { key } => (OperationType::Get, key, &[]),
            Operation::Remove { key } => (OperationType::Delete, key, &[]),
            Operation::OpenSession => (OperationType::OpenSession, &[], &[]),
        };
        let name = match identity {
            Identity::Uuid(uuid) => Name::Uuid(uuid),
            &Identity::Session {
                id,
                sequence,
                acked_below,
            } => Name::Session([id, sequence, acked_below]),
        };
        RequestParts {
            kind,
            key,
            value,
            name,
        }
    }

    #[inline]
    pub(super) fn encoded_len(&self) -> usize {
        let kind = if self.kind as i32 == 0 { 0 } else { 2 };
        let name = match self.name {
            Name::Uuid(uuid) => {
                let meta = field_len(uuid.as_bytes());
                1 + encoded_len_varint(meta as u64) + meta
            }
            Name::Session(words) => 2 + 1 + session_len(words),
        };
        kind + name + field_len(self.key) + field_len(self.value)
    }

    #[inline]
    pub(super) fn encode(&self, out: &mut Buffer) {
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
        if let Name::Session(words) = self.name {
            out.put_slice(&KEY_SESSION);
            // Three numbers have less than 128 bytes.
            out.put_u8(session_len(words) as u8);
            let mut key = KEY_SESSION_ID;
            for word in words {
                if word != 0 {
                    out.put_u8(key);
                    put_varint(out, word);
                }
                key += KEY_STEP;
            }
        }
    }
}

#[inline]
fn session_len(words: [u64; 3]) -> usize {
    let fields = words.into_iter().filter(|word| *word != 0);
    fields.map(|word| 1 + encoded_len_varint(word)).sum()
}
