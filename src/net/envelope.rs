//! The body of a frame: protobuf `WW.RaftRpcData`, a payload with the service and
//! method it is for, a sequence id, and its size and checksum.
//!
//! Written and read by hand, so that a message goes from the struct to the output
//! buffer in one pass, and from the input buffer to the struct as slices. The bytes
//! are those of prost's encoding of `pb::RaftRpcData`, which the tests compare.

use bytes::{Buf, Bytes};
use prost::Message;
use prost::encoding::{
    DecodeContext, WireType, decode_key, decode_varint, encode_varint, encoded_len_varint,
    skip_field,
};

use super::frame;
use crate::mem::Buffer;

const SERVICE_NAME: u32 = 1;
const METHOD_NAME: u32 = 2;
const SEQUENCE_ID: u32 = 3;
const PAYLOAD_SIZE: u32 = 4;
const PAYLOAD_CHECKSUM: u32 = 5;
const PAYLOAD: u32 = 6;

/// A call or its answer: what a frame carries.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Envelope {
    /// The service, in UTF-8.
    pub service: Bytes,
    /// The method of the service, in UTF-8.
    pub method: Bytes,
    /// Chosen by the caller; the answer repeats it.
    pub sequence: u64,
    /// The message, a slice of the frame; its checksum was right.
    pub payload: Bytes,
}

/// What is wrong with a body whose frame was right. The connection can go on.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{kind}")]
pub struct EnvelopeError {
    /// What is wrong.
    pub kind: EnvelopeErrorKind,
    /// The service, method and sequence id as far as they could be read, so that the
    /// caller can be told; the payload is empty.
    pub envelope: Envelope,
}

/// The kinds of [`EnvelopeError`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EnvelopeErrorKind {
    /// Not a protobuf message of this type.
    #[error("undecodable body")]
    Undecodable,
    /// `payload_size` is not the size of the payload.
    #[error("payload size {announced} should be {actual}")]
    PayloadSize {
        /// What the envelope says.
        announced: u32,
        /// What came.
        actual: usize,
    },
    /// `payload_checksum` is not the checksum of the payload.
    #[error("payload checksum {announced:08x} should be {computed:08x}")]
    PayloadChecksum {
        /// What the envelope says.
        announced: u32,
        /// What the payload gives.
        computed: u32,
    },
}

/// Appends a whole frame to `out`: header, envelope, and `payload` in its encoding.
///
/// # Panics
/// If the frame would be longer than the limit, or `payload` encodes to another
/// length than it says.
pub fn encode_call(
    out: &mut Buffer,
    service: &str,
    method: &str,
    sequence: u64,
    payload: &impl Message,
) {
    let payload_bytes = payload.encoded_len();
    let prefix_bytes = prefix_len(service, method, sequence, payload_bytes);
    let start = out.len();
    let end = start + frame::HEADER_BYTES + prefix_bytes + payload_bytes;
    let payload_start = end - payload_bytes;
    frame::extend_with_zeros(out, end);
    let mut room = &mut out[payload_start..];
    payload
        .encode(&mut room)
        .expect("there is room for what encoded_len said");
    assert!(room.is_empty(), "encoded_len said more than was encoded");
    let checksum = crc32fast::hash(&out[payload_start..]);
    write_prefix(
        &mut out[start..payload_start],
        (service, method, sequence),
        payload_bytes,
        checksum,
    );
}

/// Appends to `out` what goes before a payload of `payload_bytes` with the CRC-32
/// `payload_checksum`: header and envelope. The payload itself has to follow on the
/// connection. For payloads that are encoded once and sent to many.
///
/// # Panics
/// If the frame would be longer than the limit.
pub fn encode_call_prefix(
    out: &mut Buffer,
    service: &str,
    method: &str,
    sequence: u64,
    payload_bytes: usize,
    payload_checksum: u32,
) {
    let start = out.len();
    let prefix_bytes = prefix_len(service, method, sequence, payload_bytes);
    frame::extend_with_zeros(out, start + frame::HEADER_BYTES + prefix_bytes);
    write_prefix(
        &mut out[start..],
        (service, method, sequence),
        payload_bytes,
        payload_checksum,
    );
}

/// The length of the envelope without header and payload. As in proto3, a field with
/// its default value is left out; but for the checksum of a payload, whose length has
/// to be known before the checksum is: in one of 2^32 it is written though it is zero,
/// which means the same.
fn prefix_len(service: &str, method: &str, sequence: u64, payload_bytes: usize) -> usize {
    let delimited = |len: usize| match len {
        0 => 0,
        len => 1 + encoded_len_varint(len as u64) + len,
    };
    let mut len = delimited(service.len()) + delimited(method.len());
    if sequence != 0 {
        len += 1 + 8;
    }
    if payload_bytes > 0 {
        len += 2 * (1 + 4) + 1 + encoded_len_varint(payload_bytes as u64);
    }
    len
}

/// Fills `room`, which is as long as header and envelope prefix are.
fn write_prefix(
    room: &mut [u8],
    (service, method, sequence): (&str, &str, u64),
    payload_bytes: usize,
    payload_checksum: u32,
) {
    use bytes::BufMut;
    let prefix_bytes = room.len() - frame::HEADER_BYTES;
    let mut out = room;
    out.put_slice(&frame::header(prefix_bytes + payload_bytes));
    for (tag, text) in [(SERVICE_NAME, service), (METHOD_NAME, method)] {
        if !text.is_empty() {
            out.put_u8(key(tag, WireType::LengthDelimited));
            encode_varint(text.len() as u64, &mut out);
            out.put_slice(text.as_bytes());
        }
    }
    if sequence != 0 {
        out.put_u8(key(SEQUENCE_ID, WireType::SixtyFourBit));
        out.put_u64_le(sequence);
    }
    if payload_bytes > 0 {
        out.put_u8(key(PAYLOAD_SIZE, WireType::ThirtyTwoBit));
        // A frame is shorter than 2^32 bytes: `header` has asserted it.
        out.put_u32_le(payload_bytes as u32);
        out.put_u8(key(PAYLOAD_CHECKSUM, WireType::ThirtyTwoBit));
        out.put_u32_le(payload_checksum);
        out.put_u8(key(PAYLOAD, WireType::LengthDelimited));
        encode_varint(payload_bytes as u64, &mut out);
    }
    assert!(out.is_empty(), "prefix_len and write_prefix agree");
}

const fn key(tag: u32, wire_type: WireType) -> u8 {
    ((tag << 3) | wire_type as u32) as u8
}

/// Reads the body of a frame. Nothing is copied: the fields are slices of `body`.
/// Unknown fields are skipped, and of a repeated field the last counts.
///
/// # Errors
/// [`EnvelopeError`], with as much as could be read.
pub fn decode_envelope(mut body: Bytes) -> Result<Envelope, EnvelopeError> {
    let mut envelope = Envelope::default();
    let (mut size, mut checksum) = (0, 0);
    while body.has_remaining() {
        if read_field(&mut body, &mut envelope, &mut size, &mut checksum).is_none() {
            return refuse(EnvelopeErrorKind::Undecodable, envelope);
        }
    }
    let actual = envelope.payload.len();
    if size as usize != actual {
        let announced = size;
        return refuse(
            EnvelopeErrorKind::PayloadSize { announced, actual },
            envelope,
        );
    }
    let computed = crc32fast::hash(&envelope.payload);
    if checksum != computed {
        let announced = checksum;
        return refuse(
            EnvelopeErrorKind::PayloadChecksum {
                announced,
                computed,
            },
            envelope,
        );
    }
    Ok(envelope)
}

fn refuse(kind: EnvelopeErrorKind, mut envelope: Envelope) -> Result<Envelope, EnvelopeError> {
    envelope.payload = Bytes::new();
    Err(EnvelopeError { kind, envelope })
}

/// `None` if there is no such field.
fn read_field(
    body: &mut Bytes,
    envelope: &mut Envelope,
    size: &mut u32,
    checksum: &mut u32,
) -> Option<()> {
    let (tag, wire_type) = decode_key(body).ok()?;
    match (tag, wire_type) {
        (SERVICE_NAME, WireType::LengthDelimited) => envelope.service = read_text(body)?,
        (METHOD_NAME, WireType::LengthDelimited) => envelope.method = read_text(body)?,
        (SEQUENCE_ID, WireType::SixtyFourBit) => envelope.sequence = body.try_get_u64_le().ok()?,
        (PAYLOAD_SIZE, WireType::ThirtyTwoBit) => *size = body.try_get_u32_le().ok()?,
        (PAYLOAD_CHECKSUM, WireType::ThirtyTwoBit) => *checksum = body.try_get_u32_le().ok()?,
        (PAYLOAD, WireType::LengthDelimited) => envelope.payload = read_bytes(body)?,
        (SERVICE_NAME..=PAYLOAD, _) => return None,
        _ => skip_field(wire_type, tag, body, DecodeContext::default()).ok()?,
    }
    Some(())
}

fn read_bytes(body: &mut Bytes) -> Option<Bytes> {
    let len = usize::try_from(decode_varint(body).ok()?).ok()?;
    (len <= body.len()).then(|| body.split_to(len))
}

fn read_text(body: &mut Bytes) -> Option<Bytes> {
    read_bytes(body).filter(|text| std::str::from_utf8(text).is_ok())
}

#[cfg(test)]
mod tests;
