//! The replicated command and its bytes in the log.
//!
//! The bytes are a contract: they lie in logs on disks and go between nodes of
//! different builds. All numbers are little-endian:
//!
//! | field | bytes | |
//! |---|---|---|
//! | version | 1 | 1 |
//! | opcode | 1 | 1 open session, 2 put, 3 update, 4 remove, 5 compare and set, 6 batch; others are free for later operations |
//! | *open session:* client | 16 | |
//! | *writes:* identity | 1 | 0 none, 1 implicit, 2 session |
//! | *implicit:* client, sequence | 16 + 8 | |
//! | *session:* session, sequence, acked below | 8 + 8 + 8 | |
//! | *writes but a batch:* key length, key | 4 + n | 1 to [`limits::KEY_BYTES_MAX`] |
//! | *put, update:* value length, value | 4 + n | up to [`limits::VALUE_BYTES_MAX`] |
//! | *compare and set:* expected value | 1, or 1 + 4 + n | 0 if the key is to be absent; else 1, length, value |
//! | *compare and set:* new value | 1, or 1 + 4 + n | 0 if the key is to be removed; else 1, length, value |
//! | *batch:* the operations | | see [`super::batch`] |
//!
//! Nothing may follow, and the whole is at most [`limits::COMMAND_BYTES_MAX`] long. What does not decode is answered with
//! [`Outcome::Malformed`](super::Outcome::Malformed), by every replica alike.

use bytes::{BufMut, Bytes};
use uuid::Uuid;

use super::batch::Operations;
use super::codec::Reader;
use crate::limits;
use crate::mem::Buffer;

const VERSION: u8 = 1;

const OP_OPEN_SESSION: u8 = 1;
const OP_PUT: u8 = 2;
const OP_UPDATE: u8 = 3;
const OP_REMOVE: u8 = 4;
const OP_CAS: u8 = 5;
const OP_BATCH: u8 = 6;

const IDENTITY_NONE: u8 = 0;
const IDENTITY_IMPLICIT: u8 = 1;
const IDENTITY_SESSION: u8 = 2;

/// Version, opcode, the longest identity, and the lengths of a compare-and-set.
const FIXED_BYTES_MAX: usize = 2 + 1 + 24 + 4 + 5 + 5;

const _: () = assert!(
    FIXED_BYTES_MAX <= limits::COMMAND_OVERHEAD_BYTES,
    "a command costs no more than the log and the frames reckon with"
);

/// The space of names in which client texts that are no UUIDs are hashed.
const CLIENT_NAMESPACE: Uuid = Uuid::from_u128(0x57d3_9f0e_6a41_4c1b_8f5e_2b90_7c6d_1a34);

/// Names a client: 128 bits, whatever text it calls itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClientId(pub u128);

impl ClientId {
    /// The id for the text of a request. A hyphenated UUID of 36 characters stands
    /// for its own bits; any other text for a hash of it (UUID version 5, RFC 9562
    /// §5.5), so that two texts meet only by an accident of 122 bits.
    #[must_use]
    pub fn from_text(text: impl AsRef<[u8]>) -> ClientId {
        let text = text.as_ref();
        let canonical = (text.len() == 36)
            .then(|| Uuid::try_parse_ascii(text).ok())
            .flatten();
        let uuid = canonical.unwrap_or_else(|| Uuid::new_v5(&CLIENT_NAMESPACE, text));
        ClientId(uuid.as_u128())
    }
}

/// What tells a repeated write from a new one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Identity {
    /// Nothing: each arrival is a write of its own.
    None,
    /// The client's text and the number of the call; remembered for a stated
    /// stretch of the log.
    Implicit {
        /// Who writes.
        client: ClientId,
        /// The call's number.
        sequence: u64,
    },
    /// A write of a session that was opened through the log.
    Session {
        /// The session's id: the log index of the entry that opened it.
        session: u64,
        /// The write's number within it, from 1 on.
        sequence: u64,
        /// The client has the answers of all writes below this number.
        acked_below: u64,
    },
}

/// A change of the store. `B` is how it holds key and value: bytes of its own, or
/// borrowed from a request or an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WriteOp<B = Bytes> {
    /// Inserts; the key must be new.
    Put {
        /// 1 to [`limits::KEY_BYTES_MAX`] bytes.
        key: B,
        /// Up to [`limits::VALUE_BYTES_MAX`] bytes.
        value: B,
    },
    /// Inserts or overwrites.
    Update {
        /// 1 to [`limits::KEY_BYTES_MAX`] bytes.
        key: B,
        /// Up to [`limits::VALUE_BYTES_MAX`] bytes.
        value: B,
    },
    /// Removes; the key must exist.
    Remove {
        /// 1 to [`limits::KEY_BYTES_MAX`] bytes.
        key: B,
    },
    /// Compare and set: changes the key if it holds what is expected. With all that belongs
    /// to it at most [`limits::COMMAND_BYTES_MAX`] long.
    Cas {
        /// 1 to [`limits::KEY_BYTES_MAX`] bytes.
        key: B,
        /// What the key must hold; `None` if it must not exist.
        expected: Option<B>,
        /// What it holds then; `None` to remove it.
        new: Option<B>,
    },
}

impl<B> WriteOp<B> {
    /// The key that it changes.
    #[must_use]
    pub fn key(&self) -> &B {
        match self {
            WriteOp::Put { key, .. }
            | WriteOp::Update { key, .. }
            | WriteOp::Remove { key }
            | WriteOp::Cas { key, .. } => key,
        }
    }

    /// Whether it leaves a value, so that the store may grow.
    #[must_use]
    pub fn grows(&self) -> bool {
        !matches!(
            self,
            WriteOp::Remove { .. } | WriteOp::Cas { new: None, .. }
        )
    }

    fn map<C>(self, convert: impl Fn(B) -> C) -> WriteOp<C> {
        match self {
            WriteOp::Put { key, value } => WriteOp::Put {
                key: convert(key),
                value: convert(value),
            },
            WriteOp::Update { key, value } => WriteOp::Update {
                key: convert(key),
                value: convert(value),
            },
            WriteOp::Remove { key } => WriteOp::Remove { key: convert(key) },
            WriteOp::Cas { key, expected, new } => WriteOp::Cas {
                key: convert(key),
                expected: expected.map(&convert),
                new: new.map(&convert),
            },
        }
    }
}

impl<B: AsRef<[u8]>> WriteOp<B> {
    /// The values that it carries.
    pub(super) fn values(&self) -> [Option<&[u8]>; 2] {
        match self {
            WriteOp::Put { value, .. } | WriteOp::Update { value, .. } => {
                [Some(value.as_ref()), None]
            }
            WriteOp::Remove { .. } => [None, None],
            WriteOp::Cas { expected, new, .. } => {
                [expected, new].map(|value| value.as_ref().map(AsRef::as_ref))
            }
        }
    }

    /// How many bytes [`WriteOp::encode_fields`] appends.
    #[inline(always)]
    pub(super) fn fields_len(&self) -> usize {
        let optional = |value: &Option<B>| value.as_ref().map_or(1, |v| 5 + v.as_ref().len());
        let key = 4 + self.key().as_ref().len();
        match self {
            WriteOp::Put { value, .. } | WriteOp::Update { value, .. } => {
                key + 4 + value.as_ref().len()
            }
            WriteOp::Remove { .. } => key,
            WriteOp::Cas { expected, new, .. } => key + optional(expected) + optional(new),
        }
    }

    #[inline(always)]
    pub(super) fn opcode(&self) -> u8 {
        match self {
            WriteOp::Put { .. } => OP_PUT,
            WriteOp::Update { .. } => OP_UPDATE,
            WriteOp::Remove { .. } => OP_REMOVE,
            WriteOp::Cas { .. } => OP_CAS,
        }
    }

    /// Appends key and values.
    #[inline(always)]
    pub(super) fn encode_fields(&self, out: &mut impl BufMut) {
        put_bytes(out, self.key().as_ref());
        match self {
            WriteOp::Put { value, .. } | WriteOp::Update { value, .. } => {
                put_bytes(out, value.as_ref());
            }
            WriteOp::Remove { .. } => {}
            WriteOp::Cas { expected, new, .. } => {
                for value in [expected, new] {
                    out.put_u8(u8::from(value.is_some()));
                    if let Some(value) = value {
                        put_bytes(out, value.as_ref());
                    }
                }
            }
        }
    }
}

impl<'a> WriteOp<&'a [u8]> {
    /// Reads key and values of an operation with this opcode.
    #[inline(always)]
    pub(super) fn read_fields(
        opcode: u8,
        reader: &mut Reader<'a>,
    ) -> Result<WriteOp<&'a [u8]>, DecodeError> {
        let key = decode_key(reader)?;
        Ok(match opcode {
            OP_PUT => WriteOp::Put {
                key,
                value: decode_value(reader)?,
            },
            OP_UPDATE => WriteOp::Update {
                key,
                value: decode_value(reader)?,
            },
            OP_REMOVE => WriteOp::Remove { key },
            OP_CAS => WriteOp::Cas {
                key,
                expected: decode_optional(reader)?,
                new: decode_optional(reader)?,
            },
            _ => return Err(DecodeError::Opcode(opcode)),
        })
    }

    /// Whether the store lets it through when the key holds `current`.
    pub(super) fn fits(&self, current: Option<&[u8]>) -> bool {
        match *self {
            WriteOp::Put { .. } => current.is_none(),
            WriteOp::Update { .. } => true,
            WriteOp::Remove { .. } => current.is_some(),
            WriteOp::Cas { expected, .. } => current == expected,
        }
    }

    /// What the key holds once it was let through.
    pub(super) fn leaves(&self) -> Option<&'a [u8]> {
        match *self {
            WriteOp::Put { value, .. } | WriteOp::Update { value, .. } => Some(value),
            WriteOp::Remove { .. } => None,
            WriteOp::Cas { new, .. } => new,
        }
    }
}

/// What a log entry asks the state machine to do. `B` as for [`WriteOp`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command<B = Bytes> {
    /// Opens an explicit session.
    OpenSession {
        /// Who asked.
        client: ClientId,
    },
    /// Changes the store, once for each identity.
    Write {
        /// What tells it from its own repetition.
        identity: Identity,
        /// The change.
        op: WriteOp<B>,
    },
    /// Changes several keys, all of them or none, once for each identity.
    Batch {
        /// What tells it from its own repetition.
        identity: Identity,
        /// The changes.
        operations: Operations<B>,
    },
}

/// Why bytes are not a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// Written by a newer build, or not a command at all.
    #[error("unknown command version {0}")]
    Version(u8),
    /// The operation is not known here.
    #[error("unknown command opcode {0}")]
    Opcode(u8),
    /// The identity's kind is not known here.
    #[error("unknown identity kind {0}")]
    Identity(u8),
    /// The key is empty or too long.
    #[error("key of {0} bytes")]
    KeyLength(usize),
    /// The value is too long.
    #[error("value of {0} bytes")]
    ValueLength(usize),
    /// Neither that a value is there nor that it is not.
    #[error("unknown presence {0} of a value")]
    Presence(u8),
    /// Too long for an entry of the log.
    #[error("command of {0} bytes, {max} are allowed", max = limits::COMMAND_BYTES_MAX)]
    CommandLength(usize),
    /// A batch of no operations, or of too many.
    #[error("batch of {0} operations, 1 to {max} are allowed", max = limits::BATCH_OPERATIONS_MAX)]
    OperationCount(usize),
    /// Two operations of a batch have the same key.
    #[error("two operations of the batch have the same key")]
    RepeatedKey,
    /// The bytes end too early.
    #[error("command ends too early")]
    Truncated,
    /// Bytes follow the command.
    #[error("bytes behind the command")]
    TrailingBytes,
}

impl<B: AsRef<[u8]>> Command<B> {
    /// How many bytes [`Command::encode_into`] appends: at most
    /// [`limits::COMMAND_OVERHEAD_BYTES`] more than key and values have, if it is no batch.
    #[must_use]
    #[inline(always)]
    pub fn encoded_len(&self) -> usize {
        match self {
            Command::OpenSession { .. } => 2 + 16,
            Command::Write { identity, op } => 2 + identity.encoded_len() + op.fields_len(),
            Command::Batch {
                identity,
                operations,
            } => 2 + identity.encoded_len() + operations.as_bytes().len(),
        }
    }

    /// Appends the command's bytes to `out`.
    #[inline(always)]
    pub fn encode_into(&self, out: &mut impl BufMut) {
        match self {
            Command::OpenSession { client } => {
                out.put_slice(&[VERSION, OP_OPEN_SESSION]);
                out.put_u128_le(client.0);
            }
            Command::Write { identity, op } => {
                put_write_head(out, op.opcode(), identity);
                op.encode_fields(out);
            }
            Command::Batch {
                identity,
                operations,
            } => {
                put_write_head(out, OP_BATCH, identity);
                out.put_slice(operations.as_bytes());
            }
        }
    }
}

impl Command {
    /// The command's bytes: at most [`limits::COMMAND_OVERHEAD_BYTES`] more than
    /// its key and values, if it is no batch.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let mut buffer = Buffer::with_capacity(self.encoded_len());
        self.encode_into(&mut buffer);
        buffer.freeze()
    }

    /// Reads a command; its key and value share the memory of `bytes`.
    ///
    /// # Errors
    /// Whatever is not exactly one command of a known version within the limits.
    pub fn decode(bytes: &Bytes) -> Result<Command, DecodeError> {
        Ok(match Command::read(bytes)? {
            Command::OpenSession { client } => Command::OpenSession { client },
            Command::Write { identity, op } => Command::Write {
                identity,
                op: op.map(|part| bytes.slice_ref(part)),
            },
            Command::Batch {
                identity,
                operations,
            } => Command::Batch {
                identity,
                operations: operations.map(|part| bytes.slice_ref(part)),
            },
        })
    }
}

impl<'a> Command<&'a [u8]> {
    /// Reads a command, borrowing its key and value.
    ///
    /// # Errors
    /// As [`Command::decode`].
    #[inline(always)]
    pub fn read(bytes: &'a [u8]) -> Result<Command<&'a [u8]>, DecodeError> {
        let mut reader = Reader::new(bytes);
        let version = reader.u8().ok_or(DecodeError::Truncated)?;
        if version != VERSION {
            return Err(DecodeError::Version(version));
        }
        let opcode = reader.u8().ok_or(DecodeError::Truncated)?;
        let command = match opcode {
            OP_OPEN_SESSION => Command::OpenSession {
                client: ClientId(reader.u128().ok_or(DecodeError::Truncated)?),
            },
            OP_PUT | OP_UPDATE | OP_REMOVE => Command::Write {
                identity: decode_identity(&mut reader)?,
                op: WriteOp::read_fields(opcode, &mut reader)?,
            },
            OP_CAS | OP_BATCH => read_added(opcode, bytes.len(), &mut reader)?,
            _ => return Err(DecodeError::Opcode(opcode)),
        };
        if !reader.is_at_end() {
            return Err(DecodeError::TrailingBytes);
        }
        Ok(command)
    }
}

/// Reads what follows the opcode of a command that may be too long though its parts are not.
#[cold]
fn read_added<'a>(
    opcode: u8,
    command_bytes: usize,
    reader: &mut Reader<'a>,
) -> Result<Command<&'a [u8]>, DecodeError> {
    if command_bytes > limits::COMMAND_BYTES_MAX {
        return Err(DecodeError::CommandLength(command_bytes));
    }
    let identity = decode_identity(reader)?;
    Ok(match opcode {
        OP_BATCH => Command::Batch {
            identity,
            operations: Operations::read(reader)?,
        },
        _ => Command::Write {
            identity,
            op: WriteOp::read_fields(opcode, reader)?,
        },
    })
}

impl Identity {
    #[inline]
    fn encoded_len(&self) -> usize {
        match self {
            Identity::None => 1,
            Identity::Implicit { .. } | Identity::Session { .. } => 1 + 24,
        }
    }
}

/// A length and so many bytes.
#[inline]
fn put_bytes(out: &mut impl BufMut, bytes: &[u8]) {
    let len = u32::try_from(bytes.len()).expect("keys and values are within the limits");
    out.put_u32_le(len);
    out.put_slice(bytes);
}

/// What stands before the key, in one piece: small steps cost more than their bytes.
#[inline]
fn put_write_head(out: &mut impl BufMut, opcode: u8, identity: &Identity) {
    let mut head = [0; 3 + 24];
    head[..2].copy_from_slice(&[VERSION, opcode]);
    match *identity {
        Identity::None => {
            head[2] = IDENTITY_NONE;
            out.put_slice(&head[..3]);
            return;
        }
        Identity::Implicit { client, sequence } => {
            head[2] = IDENTITY_IMPLICIT;
            head[3..19].copy_from_slice(&client.0.to_le_bytes());
            head[19..].copy_from_slice(&sequence.to_le_bytes());
        }
        Identity::Session {
            session,
            sequence,
            acked_below,
        } => {
            head[2] = IDENTITY_SESSION;
            head[3..11].copy_from_slice(&session.to_le_bytes());
            head[11..19].copy_from_slice(&sequence.to_le_bytes());
            head[19..].copy_from_slice(&acked_below.to_le_bytes());
        }
    }
    out.put_slice(&head);
}

fn decode_identity(reader: &mut Reader<'_>) -> Result<Identity, DecodeError> {
    let kind = reader.u8().ok_or(DecodeError::Truncated)?;
    let identity = match kind {
        IDENTITY_NONE => Some(Identity::None),
        IDENTITY_IMPLICIT => read_implicit(reader),
        IDENTITY_SESSION => read_session(reader),
        _ => return Err(DecodeError::Identity(kind)),
    };
    identity.ok_or(DecodeError::Truncated)
}

fn read_implicit(reader: &mut Reader<'_>) -> Option<Identity> {
    Some(Identity::Implicit {
        client: ClientId(reader.u128()?),
        sequence: reader.u64()?,
    })
}

fn read_session(reader: &mut Reader<'_>) -> Option<Identity> {
    Some(Identity::Session {
        session: reader.u64()?,
        sequence: reader.u64()?,
        acked_below: reader.u64()?,
    })
}

fn decode_key<'a>(reader: &mut Reader<'a>) -> Result<&'a [u8], DecodeError> {
    let len = reader.len32().ok_or(DecodeError::Truncated)?;
    if len == 0 || len > limits::KEY_BYTES_MAX {
        return Err(DecodeError::KeyLength(len));
    }
    reader.take(len).ok_or(DecodeError::Truncated)
}

fn decode_value<'a>(reader: &mut Reader<'a>) -> Result<&'a [u8], DecodeError> {
    let len = reader.len32().ok_or(DecodeError::Truncated)?;
    if len > limits::VALUE_BYTES_MAX {
        return Err(DecodeError::ValueLength(len));
    }
    reader.take(len).ok_or(DecodeError::Truncated)
}

fn decode_optional<'a>(reader: &mut Reader<'a>) -> Result<Option<&'a [u8]>, DecodeError> {
    match reader.u8().ok_or(DecodeError::Truncated)? {
        0 => Ok(None),
        1 => decode_value(reader).map(Some),
        other => Err(DecodeError::Presence(other)),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn identity() -> impl Strategy<Value = Identity> {
        prop_oneof![
            Just(Identity::None),
            any::<(u128, u64)>().prop_map(|(client, sequence)| Identity::Implicit {
                client: ClientId(client),
                sequence
            }),
            any::<(u64, u64, u64)>().prop_map(|(session, sequence, acked_below)| {
                Identity::Session {
                    session,
                    sequence,
                    acked_below,
                }
            }),
        ]
    }

    fn command() -> impl Strategy<Value = Command> {
        let key = || prop::collection::vec(any::<u8>(), 1..40).prop_map(Bytes::from);
        let value = || prop::collection::vec(any::<u8>(), 0..80).prop_map(Bytes::from);
        let op = prop_oneof![
            (key(), value()).prop_map(|(key, value)| WriteOp::Put { key, value }),
            (key(), value()).prop_map(|(key, value)| WriteOp::Update { key, value }),
            key().prop_map(|key| WriteOp::Remove { key }),
            (key(), prop::option::of(value()), prop::option::of(value()))
                .prop_map(|(key, expected, new)| WriteOp::Cas { key, expected, new }),
        ];
        let batch = prop::collection::btree_map(key(), op.clone(), 1..6).prop_map(|by_key| {
            let operations = by_key.into_iter().map(|(key, op)| with_key(op, key));
            Operations::encode(&operations.collect::<Vec<_>>()).expect("each key once")
        });
        prop_oneof![
            (identity(), batch).prop_map(|(identity, operations)| Command::Batch {
                identity,
                operations
            }),
            any::<u128>().prop_map(|client| Command::OpenSession {
                client: ClientId(client)
            }),
            (identity(), op).prop_map(|(identity, op)| Command::Write { identity, op }),
        ]
    }

    fn with_key(op: WriteOp, key: Bytes) -> WriteOp {
        match op {
            WriteOp::Put { value, .. } => WriteOp::Put { key, value },
            WriteOp::Update { value, .. } => WriteOp::Update { key, value },
            WriteOp::Remove { .. } => WriteOp::Remove { key },
            WriteOp::Cas { expected, new, .. } => WriteOp::Cas { key, expected, new },
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(128))]

        #[test]
        fn decoding_gives_back_what_was_encoded(command in command()) {
            let bytes = command.encode();
            prop_assert_eq!(bytes.len(), command.encoded_len());
            if let Command::Write { op, .. } = &command {
                let value_bytes = match op {
                    WriteOp::Put { value, .. } | WriteOp::Update { value, .. } => value.len(),
                    WriteOp::Remove { .. } => 0,
                    WriteOp::Cas { expected, new, .. } => {
                        [expected, new].into_iter().flatten().map(Bytes::len).sum()
                    }
                };
                let payload_bytes = op.key().len() + value_bytes;
                prop_assert!(bytes.len() <= payload_bytes + limits::COMMAND_OVERHEAD_BYTES);
            }
            prop_assert_eq!(Command::decode(&bytes), Ok(command));
        }

        #[test]
        fn every_cut_and_every_trailing_byte_is_refused(command in command()) {
            let bytes = command.encode();
            for len in 0..bytes.len() {
                prop_assert!(Command::decode(&bytes.slice(..len)).is_err());
            }
            let mut longer = bytes.to_vec();
            longer.push(0);
            prop_assert_eq!(
                Command::decode(&Bytes::from(longer)),
                Err(DecodeError::TrailingBytes)
            );
        }

        #[test]
        fn random_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..64), op in 0u8..8) {
            let _ = Command::decode(&Bytes::from(bytes.clone()));
            let mut plausible = vec![VERSION, op];
            plausible.extend_from_slice(&bytes);
            let _ = Command::decode(&Bytes::from(plausible));
        }
    }

    #[test]
    fn the_bytes_of_version_1_never_change() {
        let command = Command::Write {
            identity: Identity::Session {
                session: 7,
                sequence: 0x0102,
                acked_below: 3,
            },
            op: WriteOp::Put {
                key: Bytes::from_static(b"k"),
                value: Bytes::from_static(b"vv"),
            },
        };
        let expected = [
            1, 2, 2, 7, 0, 0, 0, 0, 0, 0, 0, 2, 1, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0, 1, 0,
            0, 0, b'k', 2, 0, 0, 0, b'v', b'v',
        ];
        assert_eq!(command.encode().as_ref(), expected);
    }

    #[test]
    fn the_bytes_of_compare_and_set_and_of_batches_never_change() {
        let cas = |expected: Option<&'static [u8]>, new: Option<&'static [u8]>| WriteOp::Cas {
            key: &b"k"[..],
            expected,
            new,
        };
        let bytes = |op| {
            let identity = Identity::None;
            let mut out = Vec::new();
            Command::Write { identity, op }.encode_into(&mut out);
            out
        };
        let expected = [
            1, 5, 0, 1, 0, 0, 0, b'k', 1, 1, 0, 0, 0, b'a', 1, 0, 0, 0, 0,
        ];
        assert_eq!(bytes(cas(Some(b"a"), Some(b""))), expected);
        assert_eq!(bytes(cas(None, None)), [1, 5, 0, 1, 0, 0, 0, b'k', 0, 0]);
        let remove = WriteOp::Remove { key: &b"l"[..] };
        let batch = Command::Batch {
            identity: Identity::None,
            operations: Operations::encode(&[cas(None, None), remove]).unwrap(),
        };
        let expected = [
            1, 6, 0, 2, 0, 5, 1, 0, 0, 0, b'k', 0, 0, 4, 1, 0, 0, 0, b'l',
        ];
        assert_eq!(batch.encode().as_ref(), expected);
    }

    #[test]
    fn the_longest_compare_and_set_is_read_and_one_byte_more_is_not() {
        let command = |new: usize| {
            let op = WriteOp::Cas {
                key: vec![b'k'; limits::KEY_BYTES_MAX],
                expected: Some(vec![b'e'; limits::VALUE_BYTES_MAX / 2]),
                new: Some(vec![b'n'; new]),
            };
            let mut out = Vec::new();
            let identity = Identity::None;
            Command::Write { identity, op }.encode_into(&mut out);
            out
        };
        let fixed = command(0).len();
        let longest = command(limits::COMMAND_BYTES_MAX - fixed);
        assert!(Command::read(&longest).is_ok());
        let longer = command(limits::COMMAND_BYTES_MAX - fixed + 1);
        assert_eq!(
            Command::read(&longer),
            Err(DecodeError::CommandLength(limits::COMMAND_BYTES_MAX + 1))
        );
    }

    #[test]
    fn unknown_versions_opcodes_and_lengths_are_told_apart() {
        let decode = |bytes: &[u8]| Command::decode(&Bytes::copy_from_slice(bytes));
        assert_eq!(decode(&[]), Err(DecodeError::Truncated));
        assert_eq!(decode(&[2, 1]), Err(DecodeError::Version(2)));
        assert_eq!(decode(&[1, 99]), Err(DecodeError::Opcode(99)));
        assert_eq!(decode(&[1, 4, 9]), Err(DecodeError::Identity(9)));
        assert_eq!(
            decode(&[1, 4, 0, 0, 0, 0, 0]),
            Err(DecodeError::KeyLength(0))
        );
        assert_eq!(
            decode(&[1, 4, 0, 1, 0, 1, 0]),
            Err(DecodeError::KeyLength(0x1_0001))
        );
        assert_eq!(
            decode(&[1, 5, 0, 1, 0, 0, 0, b'k', 2]),
            Err(DecodeError::Presence(2))
        );
        assert_eq!(
            decode(&[1, 2, 0, 1, 0, 0, 0, b'k', 1, 0, 0x80, 0]),
            Err(DecodeError::ValueLength(0x80_0001))
        );
    }

    #[test]
    fn a_decoded_value_shares_the_memory_of_the_entry() {
        let value = Bytes::from(vec![5; 1000]);
        let bytes = Command::Write {
            identity: Identity::None,
            op: WriteOp::Update {
                key: Bytes::from_static(b"key"),
                value,
            },
        }
        .encode();
        let Ok(Command::Write {
            op: WriteOp::Update { value, .. },
            ..
        }) = Command::decode(&bytes)
        else {
            panic!("decodes as encoded");
        };
        assert!(bytes.as_ptr_range().contains(&value.as_ptr()));
    }

    #[test]
    fn a_uuid_stands_for_itself_and_any_other_text_for_its_hash() {
        let text = "01234567-89ab-cdef-0123-456789abcdef";
        let bits = 0x0123_4567_89ab_cdef_0123_4567_89ab_cdef;
        assert_eq!(ClientId::from_text(text), ClientId(bits));
        let simple = ClientId::from_text("0123456789abcdef0123456789abcdef");
        assert_ne!(simple, ClientId(bits));
        assert_ne!(ClientId::from_text("alice"), ClientId::from_text("bob"));
        assert_eq!(ClientId::from_text("alice"), ClientId::from_text("alice"));
    }
}
