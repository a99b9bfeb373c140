//! Frames: where one message ends and the next begins on a byte stream. No I/O.
//!
//! | bytes | field |
//! |---|---|
//! | 0–7 | magic, big-endian |
//! | 8–11 | total length, header and body, u32 big-endian |
//! | 12–15 | CRC-32 (IEEE) over magic and length *as little-endian integers*, big-endian |
//!
//! The body is a protobuf envelope: see `envelope.rs`. A header is judged as soon as
//! its 16 bytes are there, so that garbage never makes us wait for, or make room
//! for, a body.

use std::ops::Deref;

use bytes::Bytes;

use crate::limits::FRAME_BYTES_MAX;
use crate::mem::Buffer;

/// What every frame begins with.
pub const MAGIC: u64 = 0x0A1B_2C3D_4E5F_6A7B;
/// The length of a header.
pub const HEADER_BYTES: usize = 16;

/// Room for the first bytes of a body that has not arrived in whole. More is made as
/// they come, by doubling: a length that was only announced costs nothing.
const FIRST_ROOM_BYTES: usize = 4 << 10;
/// From so many missing bytes on a body is read from the socket straight into its
/// place, so much at a time at most.
const DIRECT_BYTES_MIN: usize = 16 << 10;
const DIRECT_BYTES_MAX: usize = 256 << 10;

static ZEROS: [u8; 4 << 10] = [0; 4 << 10];

/// The stream is not, or no longer, one of frames: nothing behind this can be
/// understood, and the connection has to be closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// It does not begin with [`MAGIC`].
    #[error("wrong magic {0:#018x}")]
    Magic(u64),
    /// Shorter than a header, or longer than [`FRAME_BYTES_MAX`].
    #[error("frame length {0} is not between {HEADER_BYTES} and {FRAME_BYTES_MAX}")]
    Length(u32),
    /// The checksum of the header is wrong.
    #[error("header checksum {received:08x} should be {computed:08x}")]
    HeaderChecksum {
        /// What the header says.
        received: u32,
        /// What its magic and length give.
        computed: u32,
    },
}

/// The header of a frame with a body of `body_bytes`.
///
/// # Panics
/// If the frame would be longer than [`FRAME_BYTES_MAX`].
#[must_use]
#[inline]
pub fn header(body_bytes: usize) -> [u8; HEADER_BYTES] {
    assert!(
        body_bytes <= FRAME_BYTES_MAX - HEADER_BYTES,
        "a frame is bounded where its content is made"
    );
    let total = (HEADER_BYTES + body_bytes) as u32;
    let mut header = [0; HEADER_BYTES];
    header[..8].copy_from_slice(&MAGIC.to_be_bytes());
    header[8..12].copy_from_slice(&total.to_be_bytes());
    header[12..].copy_from_slice(&checksum(total).to_be_bytes());
    header
}

/// Checks a header and returns how many bytes of body follow it.
///
/// # Errors
/// [`FrameError`]; the magic is judged before the length, the length before the
/// checksum.
#[inline]
pub fn parse_header(header: &[u8; HEADER_BYTES]) -> Result<usize, FrameError> {
    let [magic @ .., _, _, _, _, _, _, _, _] = *header;
    let [.., l0, l1, l2, l3, c0, c1, c2, c3] = *header;
    let magic = u64::from_be_bytes(magic);
    let total = u32::from_be_bytes([l0, l1, l2, l3]);
    let received = u32::from_be_bytes([c0, c1, c2, c3]);
    if magic != MAGIC {
        return Err(FrameError::Magic(magic));
    }
    if !(HEADER_BYTES..=FRAME_BYTES_MAX).contains(&(total as usize)) {
        return Err(FrameError::Length(total));
    }
    let computed = checksum(total);
    if received != computed {
        return Err(FrameError::HeaderChecksum { received, computed });
    }
    Ok(total as usize - HEADER_BYTES)
}

/// The CRC-32 of the magic, before its last inversion: what every header's checksum
/// continues from.
const MAGIC_STATE: u32 = {
    let bytes = MAGIC.to_le_bytes();
    let (mut state, mut at) = (!0, 0);
    while at < bytes.len() {
        state = crc_byte(state ^ bytes[at] as u32) ^ (state >> 8);
        at += 1;
    }
    state
};

/// What each byte of a word adds to the CRC-32 of four bytes ("slicing by 4").
static CRC_OF_WORD: [[u32; 256]; 4] = {
    let mut tables = [[0; 256]; 4];
    let mut byte = 0;
    while byte < 256 {
        let mut crc = crc_byte(byte as u32);
        let mut place = 4;
        while place > 0 {
            place -= 1;
            tables[place][byte] = crc;
            crc = crc_byte(crc) ^ (crc >> 8);
        }
        byte += 1;
    }
    tables
};

/// The CRC-32 step for the lowest byte of `word`, bit by bit.
const fn crc_byte(word: u32) -> u32 {
    let (mut crc, mut bit) = (word & 0xFF, 0);
    while bit < 8 {
        crc = (crc >> 1) ^ (0xEDB8_8320 * (crc & 1));
        bit += 1;
    }
    crc
}

/// Only the length varies: the eight bytes before it are reckoned with at compile time.
#[inline]
fn checksum(total: u32) -> u32 {
    let word = (MAGIC_STATE ^ total).to_le_bytes();
    let mut crc = 0;
    for (table, byte) in CRC_OF_WORD.iter().zip(word) {
        crc ^= table[usize::from(byte)];
    }
    !crc
}

/// The body of a frame, as [`FrameDecoder::next_body`] finds it.
#[derive(Debug, PartialEq, Eq)]
pub enum Body<'a> {
    /// It lay in the input in whole.
    Borrowed(&'a [u8]),
    /// It was gathered from several reads.
    Gathered(Bytes),
}

impl Body<'_> {
    /// A body that outlives the input: a borrowed one is copied, once, into a buffer
    /// of its own. A slice of the shared input would be cheaper still, but would keep
    /// all of it alive for as long as one small entry of the log lives.
    #[must_use]
    pub fn into_bytes(self) -> Bytes {
        match self {
            Body::Borrowed(body) => copy(body),
            Body::Gathered(body) => body,
        }
    }
}

impl Deref for Body<'_> {
    type Target = [u8];

    #[inline]
    fn deref(&self) -> &[u8] {
        match self {
            Body::Borrowed(body) => body,
            Body::Gathered(body) => body,
        }
    }
}

/// Cuts a byte stream into the bodies of its frames.
///
/// A body that lies in the input in whole is borrowed from it. One that does not is
/// gathered in a buffer that grows with what arrives; its larger part is read from
/// the socket straight into place, by [`FrameDecoder::space`].
#[derive(Debug, Default)]
pub struct FrameDecoder {
    header: [u8; HEADER_BYTES],
    header_bytes: usize,
    body: Option<PartialBody>,
}

/// A body of which some bytes have come.
#[derive(Debug)]
struct PartialBody {
    /// Longer than `filled` where space was handed out and not used.
    buffer: Buffer,
    capacity: usize,
    filled: usize,
    total: usize,
}

impl FrameDecoder {
    /// As [`FrameDecoder::next_body`], with a body that outlives the input.
    ///
    /// # Errors
    /// [`FrameError`]; the decoder is of no use after it.
    pub fn decode(&mut self, input: &mut &[u8]) -> Result<Option<Bytes>, FrameError> {
        Ok(self.next_body(input)?.map(Body::into_bytes))
    }

    /// Takes bytes from the front of `input`, as many as one frame needs, and returns
    /// its body if it is complete. `None` means that all of `input` was taken and more
    /// is needed.
    ///
    /// # Errors
    /// [`FrameError`]; the decoder is of no use after it.
    #[inline]
    pub fn next_body<'a>(&mut self, input: &mut &'a [u8]) -> Result<Option<Body<'a>>, FrameError> {
        if self.body.is_none() {
            let Some(total) = self.take_header(input)? else {
                return Ok(None);
            };
            if input.len() >= total {
                let (body, rest) = input.split_at(total);
                *input = rest;
                return Ok(Some(Body::Borrowed(body)));
            }
            self.body = Some(PartialBody::new(total));
        }
        Ok(self.gather(input).map(Body::Gathered))
    }

    /// Adds to the body that has begun, and returns it if that completes it.
    fn gather(&mut self, input: &mut &[u8]) -> Option<Bytes> {
        let body = self.body.as_mut().expect("a header was taken");
        let (now, rest) = input.split_at(input.len().min(body.total - body.filled));
        body.append(now);
        *input = rest;
        if body.filled < body.total {
            return None;
        }
        let body = self.body.take().expect("it was filled just now");
        assert_eq!(
            body.buffer.len(),
            body.total,
            "no space lies behind the body"
        );
        Some(body.buffer.freeze())
    }

    /// Where the next bytes of the socket may be read to directly: some of the missing
    /// part of a large body. Tell [`FrameDecoder::advance`] how many came, then call
    /// [`FrameDecoder::decode`] with no input.
    pub fn space(&mut self) -> Option<&mut [u8]> {
        let body = self.body.as_mut()?;
        let missing = body.total - body.filled;
        if missing < DIRECT_BYTES_MIN {
            return None;
        }
        Some(body.space(missing.min(DIRECT_BYTES_MAX)))
    }

    /// `bytes` were written to the front of the last [`FrameDecoder::space`].
    ///
    /// # Panics
    /// If there was less space.
    pub fn advance(&mut self, bytes: usize) {
        let body = self.body.as_mut().expect("space was given");
        body.filled += bytes;
        assert!(
            body.filled <= body.buffer.len() && body.filled <= body.total,
            "more bytes than there was space"
        );
    }

    /// Whether part of a frame has come: the end of the stream would cut it.
    #[must_use]
    pub fn is_within_frame(&self) -> bool {
        self.header_bytes > 0 || self.body.is_some()
    }

    /// How much memory the part of a body that has come takes.
    #[must_use]
    pub fn room_bytes(&self) -> usize {
        self.body.as_ref().map_or(0, |body| body.capacity)
    }

    #[inline]
    fn take_header(&mut self, input: &mut &[u8]) -> Result<Option<usize>, FrameError> {
        // The usual case: nothing has to be put together.
        if self.header_bytes == 0
            && let Some((header, rest)) = input.split_first_chunk()
        {
            *input = rest;
            return parse_header(header).map(Some);
        }
        let (now, rest) = input.split_at(input.len().min(HEADER_BYTES - self.header_bytes));
        self.header[self.header_bytes..][..now.len()].copy_from_slice(now);
        self.header_bytes += now.len();
        *input = rest;
        if self.header_bytes < HEADER_BYTES {
            return Ok(None);
        }
        self.header_bytes = 0;
        parse_header(&self.header).map(Some)
    }
}

impl PartialBody {
    fn new(total: usize) -> PartialBody {
        PartialBody {
            buffer: Buffer::default(),
            capacity: 0,
            filled: 0,
            total,
        }
    }

    /// Makes sure that `bytes` more fit without the buffer growing by itself: it would
    /// not know that there is an end to the frame.
    fn reserve(&mut self, bytes: usize) {
        let needed = self.filled + bytes;
        if needed <= self.capacity {
            return;
        }
        let doubled = needed.max(self.capacity * 2).max(FIRST_ROOM_BYTES);
        self.capacity = doubled.min(self.total);
        let mut larger = Buffer::with_capacity(self.capacity);
        larger.extend_from_slice(&self.buffer[..self.filled]);
        self.buffer = larger;
    }

    fn append(&mut self, bytes: &[u8]) {
        self.reserve(bytes.len());
        let unused = self.buffer.len() - self.filled;
        let (over, behind) = bytes.split_at(bytes.len().min(unused));
        self.buffer[self.filled..][..over.len()].copy_from_slice(over);
        self.buffer.extend_from_slice(behind);
        self.filled += bytes.len();
    }

    fn space(&mut self, bytes: usize) -> &mut [u8] {
        // Room that there is already is filled before there is made more.
        self.reserve(DIRECT_BYTES_MIN);
        let end = self.total.min(self.capacity).min(self.filled + bytes);
        extend_with_zeros(&mut self.buffer, end);
        &mut self.buffer[self.filled..end]
    }
}

/// Makes `buffer` at least `len` bytes long.
fn extend_with_zeros(buffer: &mut Buffer, len: usize) {
    while buffer.len() < len {
        let missing = (len - buffer.len()).min(ZEROS.len());
        buffer.extend_from_slice(&ZEROS[..missing]);
    }
}

fn copy(body: &[u8]) -> Bytes {
    if body.is_empty() {
        return Bytes::new();
    }
    let mut buffer = Buffer::with_capacity(body.len());
    buffer.extend_from_slice(body);
    buffer.freeze()
}

#[cfg(test)]
mod tests;
