//! The operations of a batch: several changes, applied all or none.
//!
//! Their bytes are a part of the command's (see [`super::command`]), and as much of a
//! contract:
//!
//! | field | bytes | |
//! |---|---|---|
//! | count | 2 | 1 to [`limits::BATCH_OPERATIONS_MAX`] |
//! | *each:* opcode | 1 | 2 put, 3 update, 4 remove, 5 compare and set |
//! | *each:* key and values | | as in a command of its own |
//!
//! No key occurs twice. So each condition speaks of the state before the batch, and the
//! order of the operations says only which of several that fail is named.

use bytes::{BufMut, Bytes, BytesMut};

use super::codec::Reader;
use super::command::{DecodeError, WriteOp};
use crate::limits;

/// Count and identity are within what a command may add to its content.
const COUNT_BYTES: usize = 2;

/// The operations of a batch, encoded, and known to be right. `B` as for [`WriteOp`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Operations<B = Bytes>(B);

impl Operations {
    /// Puts operations together.
    ///
    /// # Errors
    /// [`check`]'s.
    pub fn encode<B: AsRef<[u8]>>(operations: &[WriteOp<B>]) -> Result<Operations, DecodeError> {
        let len = check(operations)?;
        let mut out = BytesMut::with_capacity(len);
        out.put_u16_le(u16::try_from(operations.len()).expect("the count is within its limit"));
        for op in operations {
            out.put_u8(op.opcode());
            op.encode_fields(&mut out);
        }
        Ok(Operations(out.freeze()))
    }
}

/// Whether operations make a batch: their count and their length together, the length of each
/// key and value, no key twice. Returns how many bytes they are.
///
/// # Errors
/// What is wrong.
pub fn check<B: AsRef<[u8]>>(operations: &[WriteOp<B>]) -> Result<usize, DecodeError> {
    check_count(operations.len())?;
    for op in operations {
        let (key, values) = (op.key().as_ref(), op.values());
        if key.is_empty() || key.len() > limits::KEY_BYTES_MAX {
            return Err(DecodeError::KeyLength(key.len()));
        }
        let mut values = values.into_iter().flatten();
        if let Some(value) = values.find(|value| value.len() > limits::VALUE_BYTES_MAX) {
            return Err(DecodeError::ValueLength(value.len()));
        }
    }
    let operation_len = |op: &WriteOp<B>| 1 + op.fields_len();
    let len = COUNT_BYTES + operations.iter().map(operation_len).sum::<usize>();
    if len + limits::COMMAND_OVERHEAD_BYTES > limits::COMMAND_BYTES_MAX {
        return Err(DecodeError::CommandLength(
            len + limits::COMMAND_OVERHEAD_BYTES,
        ));
    }
    check_keys(operations.iter().map(|op| op.key().as_ref()))?;
    Ok(len)
}

fn check_count(count: usize) -> Result<(), DecodeError> {
    if (1..=limits::BATCH_OPERATIONS_MAX).contains(&count) {
        Ok(())
    } else {
        Err(DecodeError::OperationCount(count))
    }
}

/// Whether no key occurs twice among at most [`limits::BATCH_OPERATIONS_MAX`].
fn check_keys<'a>(keys: impl Iterator<Item = &'a [u8]>) -> Result<(), DecodeError> {
    let mut sorted = [&[][..]; limits::BATCH_OPERATIONS_MAX];
    let mut count = 0;
    for key in keys {
        sorted[count] = key;
        count += 1;
    }
    let sorted = &mut sorted[..count];
    sorted.sort_unstable();
    if sorted.windows(2).any(|pair| pair[0] == pair[1]) {
        return Err(DecodeError::RepeatedKey);
    }
    Ok(())
}

impl<'a> Operations<&'a [u8]> {
    /// Takes the operations that are all the rest of a command.
    pub(super) fn read(reader: &mut Reader<'a>) -> Result<Operations<&'a [u8]>, DecodeError> {
        let bytes = reader.rest();
        let operations = Operations(bytes);
        let count = reader.u16().ok_or(DecodeError::Truncated)?;
        check_count(usize::from(count))?;
        for _ in 0..count {
            let opcode = reader.u8().ok_or(DecodeError::Truncated)?;
            WriteOp::read_fields(opcode, reader)?;
        }
        if !reader.is_at_end() {
            return Err(DecodeError::TrailingBytes);
        }
        check_keys(operations.iter().map(|op| *op.key()))?;
        Ok(operations)
    }
}

impl<B> Operations<B> {
    pub(super) fn map<C>(self, convert: impl Fn(B) -> C) -> Operations<C> {
        Operations(convert(self.0))
    }
}

impl<B: AsRef<[u8]>> Operations<B> {
    pub(super) fn as_bytes(&self) -> &[u8] {
        self.0.as_ref()
    }

    /// The operations in their order.
    pub fn iter(&self) -> impl Iterator<Item = WriteOp<&[u8]>> {
        let mut reader = Reader::new(self.as_bytes());
        let count = reader.u16().expect("a checked batch has a count");
        (0..count).map(move |_| {
            let opcode = reader.u8().expect("a checked batch is whole");
            WriteOp::read_fields(opcode, &mut reader).expect("a checked batch is right")
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kv::{Command, Identity};

    fn removes(count: usize) -> Vec<WriteOp> {
        let key = |n: usize| Bytes::from(n.to_string());
        (0..count)
            .map(|n| WriteOp::Remove { key: key(n) })
            .collect()
    }

    fn update(key: &str, value_bytes: usize) -> WriteOp {
        WriteOp::Update {
            key: Bytes::copy_from_slice(key.as_bytes()),
            value: vec![b'v'; value_bytes].into(),
        }
    }

    #[test]
    fn a_batch_has_one_to_as_many_operations_as_are_allowed() {
        let max = limits::BATCH_OPERATIONS_MAX;
        for count in [1, max] {
            let operations = removes(count);
            let encoded = Operations::encode(&operations).unwrap();
            let keys = operations.iter().map(WriteOp::key);
            let removes = keys.map(|key| WriteOp::Remove { key: &key[..] });
            assert!(encoded.iter().eq(removes));
        }
        for count in [0, max + 1] {
            assert_eq!(
                Operations::encode(&removes(count)),
                Err(DecodeError::OperationCount(count))
            );
        }
        let decode = |bytes: &[u8]| Command::read(bytes).map(|_| ());
        assert_eq!(
            decode(&[1, 6, 0, 0, 0]),
            Err(DecodeError::OperationCount(0))
        );
        assert_eq!(
            decode(&[1, 6, 0, 129, 0]),
            Err(DecodeError::OperationCount(129))
        );
    }

    #[test]
    fn a_key_twice_in_a_batch_is_refused_where_it_is_made_and_where_it_is_read() {
        let twice = [update("a", 1), update("b", 1), update("a", 2)];
        assert_eq!(Operations::encode(&twice), Err(DecodeError::RepeatedKey));
        let remove = [4, 1, 0, 0, 0, b'k'];
        let bytes = [&[1, 6, 0, 2, 0][..], &remove, &remove].concat();
        assert_eq!(Command::read(&bytes), Err(DecodeError::RepeatedKey));
    }

    #[test]
    fn keys_and_values_of_a_batch_are_held_against_their_limits() {
        let key_bytes = limits::KEY_BYTES_MAX + 1;
        assert_eq!(check(&[update("", 1)]), Err(DecodeError::KeyLength(0)));
        assert_eq!(
            check(&[update(&"k".repeat(key_bytes), 1)]),
            Err(DecodeError::KeyLength(key_bytes))
        );
        let value_bytes = limits::VALUE_BYTES_MAX + 1;
        assert_eq!(
            check(&[update("k", value_bytes)]),
            Err(DecodeError::ValueLength(value_bytes))
        );
    }

    #[test]
    fn the_longest_batch_is_a_command_and_one_byte_more_is_refused() {
        let batch = |rest: usize| [update("a", limits::VALUE_BYTES_MAX), update("b", rest)];
        let fixed = check(&batch(0)).unwrap();
        let rest = limits::COMMAND_BYTES_MAX - limits::COMMAND_OVERHEAD_BYTES - fixed;
        let command = Command::Batch {
            identity: Identity::Session {
                session: 1,
                sequence: 1,
                acked_below: 1,
            },
            operations: Operations::encode(&batch(rest)).unwrap(),
        };
        assert!(command.encoded_len() <= limits::COMMAND_BYTES_MAX);
        assert_eq!(Command::decode(&command.encode()), Ok(command));
        assert_eq!(
            check(&batch(rest + 1)),
            Err(DecodeError::CommandLength(limits::COMMAND_BYTES_MAX + 1))
        );
    }
}
