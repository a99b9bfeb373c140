//! Where the commands of a reactor's clients are put together.

use bytes::{BufMut, Bytes, BytesMut};

use crate::kv::Command;

/// What is allocated at a time. One small command that stays when those beside it were
/// refused holds all of it.
const CHUNK_BYTES: usize = 8 << 10;
/// What is longer gets memory of its own: it costs little beside the copy, and does not
/// leave a chunk unused behind it.
const SHARED_BYTES_MAX: usize = 1 << 10;

/// Memory for commands, which are slices of it, so that each costs a copy and not an
/// allocation, too.
///
/// A chunk is freed with the last command in it. They go to the log in about the order in
/// which they were made, and leave it in that order, so chunks come free one after the
/// other. Keys of reads are gone much earlier, and have chunks of their own, for they
/// would fill those of a few writes.
#[derive(Debug, Default)]
pub struct CommandBuffer {
    chunk_bytes: usize,
    commands: BytesMut,
    keys: BytesMut,
}

impl CommandBuffer {
    /// For the requests of many clients, one after the other.
    #[must_use]
    pub fn new() -> CommandBuffer {
        CommandBuffer {
            chunk_bytes: CHUNK_BYTES,
            ..CommandBuffer::default()
        }
    }

    /// The command's bytes, as [`Command::encode`] would make them.
    #[inline]
    pub(super) fn command(&mut self, command: &Command<&[u8]>) -> Bytes {
        let len = command.encoded_len();
        let chunk = room(&mut self.commands, self.chunk_bytes, len);
        match chunk {
            Some(chunk) => {
                command.encode_into(chunk);
                chunk.split().freeze()
            }
            None => {
                let mut own = BytesMut::with_capacity(len);
                command.encode_into(&mut own);
                own.freeze()
            }
        }
    }

    /// A copy of a key that is looked up.
    #[inline]
    pub(super) fn key(&mut self, key: &[u8]) -> Bytes {
        match room(&mut self.keys, self.chunk_bytes, key.len()) {
            Some(chunk) => {
                chunk.put_slice(key);
                chunk.split().freeze()
            }
            None => Bytes::copy_from_slice(key),
        }
    }
}

/// `chunk` with room for `len` bytes, if they are to share one.
#[inline]
fn room(chunk: &mut BytesMut, chunk_bytes: usize, len: usize) -> Option<&mut BytesMut> {
    if len > SHARED_BYTES_MAX.min(chunk_bytes) {
        return None;
    }
    if chunk.capacity() < len {
        // Not `reserve`: it would take the old chunk again if nobody holds a part of it
        // any more, but only after a look at memory that another thread writes to.
        *chunk = BytesMut::with_capacity(chunk_bytes);
    }
    Some(chunk)
}
