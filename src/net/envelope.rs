//! The body of a frame: protobuf `WW.RaftRpcData`, a payload with the service and
//! method it is for, a sequence id, and its size and checksum.
//!
//! Written and read by hand, so that a message goes from the struct to the output
//! buffer in one pass, and from the input buffer to the struct as slices. The bytes
//! are those of prost's encoding of `pb::RaftRpcData`, which the tests compare.
//! [`read_envelope`] borrows from the frame; [`decode_envelope`] shares a frame that
//! has a buffer of its own.

use bytes::{Buf, BufMut, Bytes};
use prost::Message;
use prost::encoding::{
    DecodeContext, WireType, decode_key, decode_varint, encode_key, encoded_len_varint, skip_field,
};

mod method;

use super::frame;
use super::wire::{put_field, put_varint, take_varint};
use crate::mem::Buffer;

pub use method::Method;

const SERVICE_NAME: u32 = 1;
const METHOD_NAME: u32 = 2;
const SEQUENCE_ID: u32 = 3;
const PAYLOAD_SIZE: u32 = 4;
const PAYLOAD_CHECKSUM: u32 = 5;
const PAYLOAD: u32 = 6;
const TO_INCARNATION: u32 = 16;
const FROM_INCARNATION: u32 = 17;

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
    /// The data directories at both ends; 0 where they are not named.
    pub ends: Ends,
}

/// The data directories between which nodes exchange a message, by their incarnations.
/// 0 names none: so it is on client ports, and at nodes of the version before.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ends {
    /// The directory that is addressed.
    pub to: u64,
    /// The sender's.
    pub from: u64,
}

/// What is wrong with a body whose frame was right. The connection can go on.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{kind}")]
pub struct EnvelopeError {
    /// What is wrong.
    pub kind: EnvelopeErrorKind,
    /// The service, method and sequence id as far as they could be read, so that the
    /// caller can be told; the payload is empty.
    pub envelope: Box<Envelope>,
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

/// [`Envelope`], borrowed from the frame that it came in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EnvelopeRef<'a> {
    /// The service, in UTF-8.
    pub service: &'a [u8],
    /// The method of the service, in UTF-8.
    pub method: &'a [u8],
    /// Chosen by the caller; the answer repeats it.
    pub sequence: u64,
    /// The message; its checksum was right.
    pub payload: &'a [u8],
    /// See [`Envelope::ends`].
    pub ends: Ends,
}

/// The fields of an envelope that stand before its payload.
#[derive(Clone, Copy, Debug)]
pub struct Head<'a> {
    /// See [`Envelope::service`].
    pub service: &'a str,
    /// See [`Envelope::method`].
    pub method: &'a str,
    /// See [`Envelope::sequence`].
    pub sequence: u64,
    /// See [`Envelope::ends`].
    pub ends: Ends,
}

/// [`EnvelopeError`], borrowed from the frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{kind}")]
pub struct EnvelopeRefError<'a> {
    /// What is wrong.
    pub kind: EnvelopeErrorKind,
    /// What could be read, without the payload.
    pub envelope: EnvelopeRef<'a>,
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
    encode_call_with(out, service, method, sequence, payload_bytes, |out| {
        payload.encode(out).expect("a buffer grows");
    });
}

/// As [`encode_call`], between nodes.
///
/// # Panics
/// As [`encode_call`].
pub fn encode_peer_call(out: &mut Buffer, head: Head<'_>, payload: &impl Message) {
    let payload_bytes = payload.encoded_len();
    encode_with(out, head, payload_bytes, |out| {
        payload.encode(out).expect("a buffer grows");
    });
}

/// Appends a whole frame to `out`, as [`encode_call`] does, with the `payload_bytes`
/// that `write` appends for its payload.
///
/// # Panics
/// If the frame would be longer than the limit, or `write` appends another number of
/// bytes.
#[inline]
pub fn encode_call_with(
    out: &mut Buffer,
    service: &str,
    method: &str,
    sequence: u64,
    payload_bytes: usize,
    write: impl FnOnce(&mut Buffer),
) {
    let head = Head {
        service,
        method,
        sequence,
        ends: Ends::default(),
    };
    encode_with(out, head, payload_bytes, write);
}

#[inline]
fn encode_with(
    out: &mut Buffer,
    head: Head<'_>,
    payload_bytes: usize,
    write: impl FnOnce(&mut Buffer),
) {
    let prefix_bytes = prefix_len(&head, payload_bytes);
    let end = out.len() + frame::HEADER_BYTES + prefix_bytes + payload_bytes;
    let payload_start = end - payload_bytes;
    // At once: growing step by step would copy what is written already.
    out.reserve(end - out.len());
    put_prefix(out, &head, payload_bytes, 0);
    assert_eq!(out.len(), payload_start, "the prefix is as long as planned");
    write(out);
    assert_eq!(out.len(), end, "the payload is as long as announced");
    if payload_bytes > 0 {
        let checksum = crc32fast::hash(&out[payload_start..]);
        let after = 1 + encoded_len_varint(payload_bytes as u64);
        let at = payload_start - after - 4;
        out[at..at + 4].copy_from_slice(&checksum.to_le_bytes());
    }
}

/// Appends to `out` what goes before a payload of `payload_bytes` with the CRC-32
/// `payload_checksum`: header and envelope. The payload itself has to follow on the
/// connection. For payloads that are encoded once and sent to many.
///
/// # Panics
/// If the frame would be longer than the limit.
pub fn encode_call_prefix(
    out: &mut Buffer,
    head: Head<'_>,
    payload_bytes: usize,
    payload_checksum: u32,
) {
    put_prefix(out, &head, payload_bytes, payload_checksum);
}

/// The length of the envelope without header and payload. As in proto3, a field with
/// its default value is left out; but for the checksum of a payload, whose length has
/// to be known before the checksum is: in one of 2^32 it is written though it is zero,
/// which means the same.
#[inline]
fn prefix_len(head: &Head<'_>, payload_bytes: usize) -> usize {
    let delimited = |len: usize| match len {
        0 => 0,
        len => 1 + encoded_len_varint(len as u64) + len,
    };
    let mut len = delimited(head.service.len()) + delimited(head.method.len());
    if head.sequence != 0 {
        len += 1 + 8;
    }
    len += head.ends.fields().filter(|(_, n)| *n != 0).count() * (2 + 8);
    if payload_bytes > 0 {
        len += 2 * (1 + 4) + 1 + encoded_len_varint(payload_bytes as u64);
    }
    len
}

#[inline]
fn put_prefix(out: &mut Buffer, head: &Head<'_>, payload_bytes: usize, payload_checksum: u32) {
    let prefix_bytes = prefix_len(head, payload_bytes);
    out.put_slice(&frame::header(prefix_bytes + payload_bytes));
    for (tag, text) in [(SERVICE_NAME, head.service), (METHOD_NAME, head.method)] {
        put_field(out, key(tag, WireType::LengthDelimited), text.as_bytes());
    }
    if head.sequence != 0 {
        out.put_u8(key(SEQUENCE_ID, WireType::SixtyFourBit));
        out.put_u64_le(head.sequence);
    }
    for (tag, incarnation) in head.ends.fields() {
        if incarnation != 0 {
            encode_key(tag, WireType::SixtyFourBit, out);
            out.put_u64_le(incarnation);
        }
    }
    if payload_bytes > 0 {
        out.put_u8(key(PAYLOAD_SIZE, WireType::ThirtyTwoBit));
        // A frame is shorter than 2^32 bytes: `header` has asserted it.
        out.put_u32_le(payload_bytes as u32);
        out.put_u8(key(PAYLOAD_CHECKSUM, WireType::ThirtyTwoBit));
        out.put_u32_le(payload_checksum);
        out.put_u8(key(PAYLOAD, WireType::LengthDelimited));
        put_varint(out, payload_bytes as u64);
    }
}

impl Ends {
    fn fields(self) -> impl Iterator<Item = (u32, u64)> {
        [(TO_INCARNATION, self.to), (FROM_INCARNATION, self.from)].into_iter()
    }
}

const fn key(tag: u32, wire_type: WireType) -> u8 {
    ((tag << 3) | wire_type as u32) as u8
}

/// Reads the body of a frame, whose fields become slices of it.
///
/// # Errors
/// As [`read_envelope`].
pub fn decode_envelope(body: Bytes) -> Result<Envelope, EnvelopeError> {
    let owned = |envelope: EnvelopeRef<'_>| Envelope {
        service: body.slice_ref(envelope.service),
        method: body.slice_ref(envelope.method),
        sequence: envelope.sequence,
        payload: body.slice_ref(envelope.payload),
        ends: envelope.ends,
    };
    match read_envelope(&body) {
        Ok(envelope) => Ok(owned(envelope)),
        Err(EnvelopeRefError { kind, envelope }) => Err(EnvelopeError {
            kind,
            envelope: Box::new(owned(envelope)),
        }),
    }
}

/// Reads the body of a frame. Nothing is copied. Unknown fields are skipped, and of a
/// repeated field the last counts.
///
/// # Errors
/// [`EnvelopeRefError`], with as much as could be read.
#[inline]
pub fn read_envelope(body: &[u8]) -> Result<EnvelopeRef<'_>, EnvelopeRefError<'_>> {
    let fields = match Fields::read_usual(body) {
        Some(fields) => fields,
        None => Fields::read(body)?,
    };
    fields.check()
}

/// An envelope as it was read, nothing checked yet.
#[derive(Clone, Copy, Default)]
struct Fields<'a> {
    envelope: EnvelopeRef<'a>,
    size: u32,
    checksum: u32,
}

impl<'a> Fields<'a> {
    /// The envelope as everyone writes it: each field once, in order, short names.
    /// `None` for any other, which may be right all the same.
    #[inline]
    fn read_usual(body: &'a [u8]) -> Option<Fields<'a>> {
        let mut rest = body;
        let service = usual_name(&mut rest, SERVICE_NAME)?;
        let method = usual_name(&mut rest, METHOD_NAME)?;
        let names = EnvelopeRef {
            service,
            method,
            ..EnvelopeRef::default()
        };
        Fields::read_usual_behind(rest, names)
    }

    /// What stands behind the names in such an envelope.
    #[inline]
    fn read_usual_behind(rest: &'a [u8], names: EnvelopeRef<'a>) -> Option<Fields<'a>> {
        let (fixed, mut payload) = rest.split_first_chunk::<FIXED_BYTES>()?;
        let [k3, s0, s1, s2, s3, s4, s5, s6, s7, fixed @ ..] = *fixed;
        let [k4, z0, z1, z2, z3, k5, c0, c1, c2, c3, k6] = fixed;
        let len = take_varint(&mut payload)?;
        if [k3, k4, k5, k6] != USUAL_KEYS || len != payload.len() as u64 {
            return None;
        }
        Some(Fields {
            envelope: EnvelopeRef {
                sequence: u64::from_le_bytes([s0, s1, s2, s3, s4, s5, s6, s7]),
                payload,
                ..names
            },
            size: u32::from_le_bytes([z0, z1, z2, z3]),
            checksum: u32::from_le_bytes([c0, c1, c2, c3]),
        })
    }

    /// Any envelope.
    fn read(mut body: &'a [u8]) -> Result<Fields<'a>, EnvelopeRefError<'a>> {
        let mut fields = Fields::default();
        while !body.is_empty() {
            if fields.read_field(&mut body).is_none() {
                return Err(fields.refused(EnvelopeErrorKind::Undecodable));
            }
        }
        Ok(fields)
    }

    /// `None` if there is no such field.
    fn read_field(&mut self, body: &mut &'a [u8]) -> Option<()> {
        let (tag, wire_type) = decode_key(body).ok()?;
        let envelope = &mut self.envelope;
        match (tag, wire_type) {
            (SERVICE_NAME, WireType::LengthDelimited) => envelope.service = read_text(body)?,
            (METHOD_NAME, WireType::LengthDelimited) => envelope.method = read_text(body)?,
            (SEQUENCE_ID, WireType::SixtyFourBit) => {
                envelope.sequence = body.try_get_u64_le().ok()?;
            }
            (PAYLOAD_SIZE, WireType::ThirtyTwoBit) => self.size = body.try_get_u32_le().ok()?,
            (PAYLOAD_CHECKSUM, WireType::ThirtyTwoBit) => {
                self.checksum = body.try_get_u32_le().ok()?;
            }
            (PAYLOAD, WireType::LengthDelimited) => envelope.payload = read_bytes(body)?,
            (TO_INCARNATION, WireType::SixtyFourBit) => {
                envelope.ends.to = body.try_get_u64_le().ok()?;
            }
            (FROM_INCARNATION, WireType::SixtyFourBit) => {
                envelope.ends.from = body.try_get_u64_le().ok()?;
            }
            (SERVICE_NAME..=PAYLOAD | TO_INCARNATION | FROM_INCARNATION, _) => return None,
            _ => skip_field(wire_type, tag, body, DecodeContext::default()).ok()?,
        }
        Some(())
    }

    #[inline]
    fn check(self) -> Result<EnvelopeRef<'a>, EnvelopeRefError<'a>> {
        let actual = self.envelope.payload.len();
        if self.size as usize != actual {
            let announced = self.size;
            return Err(self.refused(EnvelopeErrorKind::PayloadSize { announced, actual }));
        }
        let computed = crc32fast::hash(self.envelope.payload);
        if self.checksum != computed {
            let announced = self.checksum;
            return Err(self.refused(EnvelopeErrorKind::PayloadChecksum {
                announced,
                computed,
            }));
        }
        Ok(self.envelope)
    }

    #[cold]
    fn refused(self, kind: EnvelopeErrorKind) -> EnvelopeRefError<'a> {
        EnvelopeRefError {
            kind,
            envelope: EnvelopeRef {
                payload: &[],
                ..self.envelope
            },
        }
    }
}

/// The keys of sequence id, payload size, checksum and payload.
const USUAL_KEYS: [u8; 4] = [
    key(SEQUENCE_ID, WireType::SixtyFourBit),
    key(PAYLOAD_SIZE, WireType::ThirtyTwoBit),
    key(PAYLOAD_CHECKSUM, WireType::ThirtyTwoBit),
    key(PAYLOAD, WireType::LengthDelimited),
];

/// From the key of the sequence id to that of the payload.
const FIXED_BYTES: usize = 1 + 8 + 1 + 4 + 1 + 4 + 1;
/// Where in them the checksum is.
const CHECKSUM_AT: usize = FIXED_BYTES - 1 - 4;

/// These fields, none of them left out.
#[inline]
fn fixed_fields(sequence: u64, payload_bytes: u32, payload_checksum: u32) -> [u8; FIXED_BYTES] {
    let [k3, k4, k5, k6] = USUAL_KEYS;
    let [s0, s1, s2, s3, s4, s5, s6, s7] = sequence.to_le_bytes();
    let [z0, z1, z2, z3] = payload_bytes.to_le_bytes();
    let [c0, c1, c2, c3] = payload_checksum.to_le_bytes();
    [
        k3, s0, s1, s2, s3, s4, s5, s6, s7, k4, z0, z1, z2, z3, k5, c0, c1, c2, c3, k6,
    ]
}

/// A name in ASCII of less than 128 bytes, if it comes next.
#[inline]
fn usual_name<'a>(rest: &mut &'a [u8], tag: u32) -> Option<&'a [u8]> {
    let [k, len @ 0..0x80, behind @ ..] = *rest else {
        return None;
    };
    let (name, behind) = behind.split_at_checked(usize::from(*len))?;
    *rest = behind;
    (*k == key(tag, WireType::LengthDelimited) && name.is_ascii()).then_some(name)
}

fn read_bytes<'a>(body: &mut &'a [u8]) -> Option<&'a [u8]> {
    let len = usize::try_from(decode_varint(body).ok()?).ok()?;
    let (bytes, rest) = body.split_at_checked(len)?;
    *body = rest;
    Some(bytes)
}

fn read_text<'a>(body: &mut &'a [u8]) -> Option<&'a [u8]> {
    read_bytes(body).filter(|text| std::str::from_utf8(text).is_ok())
}

#[cfg(test)]
mod tests;
