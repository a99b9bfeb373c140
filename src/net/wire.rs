//! Pieces of the protobuf encoding for messages that are written and read by hand, since
//! every request passes there. What is unusual is left to prost by those who use them.

use bytes::BufMut;
use prost::encoding::{encode_varint, encoded_len_varint};

use crate::mem::Buffer;

/// Appends a varint.
#[inline]
pub fn put_varint(out: &mut Buffer, value: u64) {
    if value < 1 << 7 {
        out.put_u8(value as u8);
    } else if value < 1 << 14 {
        out.put_slice(&[value as u8 | 0x80, (value >> 7) as u8]);
    } else {
        encode_varint(value, out);
    }
}

/// How long a field with a key of one byte is; one without content is left out.
#[inline]
#[must_use]
pub fn field_len(content: &[u8]) -> usize {
    match content.len() {
        0 => 0,
        len => 1 + encoded_len_varint(len as u64) + len,
    }
}

/// Appends a field with a key of one byte, if it has content.
#[inline]
pub fn put_field(out: &mut Buffer, key: u8, content: &[u8]) {
    if !content.is_empty() {
        out.put_u8(key);
        put_varint(out, content.len() as u64);
        out.put_slice(content);
    }
}

/// Takes a varint of up to nine bytes: a tenth would need a look at what overflows.
#[inline]
pub fn take_varint(rest: &mut &[u8]) -> Option<u64> {
    match **rest {
        [low @ 0..0x80, ..] => {
            *rest = &rest[1..];
            Some(low.into())
        }
        [low, high @ 0..0x80, ..] => {
            *rest = &rest[2..];
            Some(u64::from(low & 0x7f) | u64::from(high) << 7)
        }
        _ => take_long_varint(rest),
    }
}

fn take_long_varint(rest: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for (at, byte) in rest.iter().take(9).enumerate() {
        value |= u64::from(byte & 0x7f) << (7 * at);
        if *byte < 0x80 {
            *rest = &rest[at + 1..];
            return Some(value);
        }
    }
    None
}

/// Takes a length and so many bytes.
#[inline]
pub fn take_delimited<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let len = usize::try_from(take_varint(rest)?).ok()?;
    let (content, behind) = rest.split_at_checked(len)?;
    *rest = behind;
    Some(content)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use prost::encoding::decode_varint;

    use super::*;

    proptest! {
        #[test]
        fn varints_are_those_of_prost(value in any::<u64>(), shift in 0..64_u32) {
            let value = value >> shift;
            let (mut ours, mut theirs) = (Buffer::new(), Vec::new());
            put_varint(&mut ours, value);
            encode_varint(value, &mut theirs);
            prop_assert_eq!(&ours[..], &theirs[..]);
            let mut rest = &ours[..];
            let taken = take_varint(&mut rest);
            prop_assert_eq!(taken, (value < 1 << 63).then_some(value));
            prop_assert!(taken.is_none() || rest.is_empty());
        }

        #[test]
        fn what_is_taken_is_what_prost_takes(bytes in prop::collection::vec(any::<u8>(), 0..14)) {
            let (mut ours, mut theirs) = (&bytes[..], &bytes[..]);
            if let Some(value) = take_varint(&mut ours) {
                prop_assert_eq!(decode_varint(&mut theirs).ok(), Some(value));
                prop_assert_eq!(ours, theirs);
            }
            let mut rest = &bytes[..];
            if let Some(content) = take_delimited(&mut rest) {
                prop_assert!(bytes.ends_with(&[content, rest].concat()));
            }
        }

        #[test]
        fn a_field_is_as_long_as_it_is_said_to_be(content in prop::collection::vec(any::<u8>(), 0..300)) {
            let mut out = Buffer::new();
            put_field(&mut out, 0x1a, &content);
            prop_assert_eq!(out.len(), field_len(&content));
        }
    }
}
