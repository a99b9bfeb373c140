//! Calls of one method, as most calls are: what is the same in all of them is put
//! together at compile time.

use bytes::BufMut;
use prost::encoding::{WireType, encoded_len_varint};

use super::{
    CHECKSUM_AT, EnvelopeRef, EnvelopeRefError, FIXED_BYTES, Fields, METHOD_NAME, SERVICE_NAME,
    encode_call_with, fixed_fields, key, read_envelope,
};
use crate::mem::Buffer;
use crate::net::frame::{self, HEADER_BYTES};
use crate::net::wire::put_varint;

/// The longest names, with their keys and lengths.
const NAMES_BYTES_MAX: usize = 40;

/// A method of a service.
#[derive(Clone, Copy, Debug)]
pub struct Method {
    service: &'static str,
    method: &'static str,
    /// The fields of both names.
    names: [u8; NAMES_BYTES_MAX],
    names_bytes: usize,
}

impl Method {
    /// The method of this name.
    ///
    /// # Panics
    /// Where a name is empty or not in ASCII, or both are too long.
    #[must_use]
    pub const fn new(service: &'static str, method: &'static str) -> Method {
        let names_bytes = 2 + service.len() + 2 + method.len();
        assert!(service.is_ascii() && method.is_ascii(), "names in ASCII");
        assert!(!service.is_empty() && !method.is_empty(), "not empty");
        assert!(names_bytes <= NAMES_BYTES_MAX, "short names");
        let mut names = [0; NAMES_BYTES_MAX];
        let behind = put_name(&mut names, 0, SERVICE_NAME, service.as_bytes());
        put_name(&mut names, behind, METHOD_NAME, method.as_bytes());
        Method {
            service,
            method,
            names,
            names_bytes,
        }
    }

    /// The service.
    #[must_use]
    pub const fn service(&self) -> &'static str {
        self.service
    }

    /// The method's name within the service.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        self.method
    }

    /// Whether the call is one of this method.
    #[must_use]
    pub fn is_of(&self, call: &EnvelopeRef<'_>) -> bool {
        call.service == self.service.as_bytes() && call.method == self.method.as_bytes()
    }

    /// As [`encode_call_with`].
    ///
    /// # Panics
    /// If the frame would be longer than the limit, or `write` appends another number of
    /// bytes.
    #[inline]
    pub fn encode_call_with(
        &self,
        out: &mut Buffer,
        sequence: u64,
        payload_bytes: usize,
        write: impl FnOnce(&mut Buffer),
    ) {
        if sequence == 0 || payload_bytes == 0 {
            // Fields are left out then.
            let (service, method) = (self.service, self.method);
            return encode_call_with(out, service, method, sequence, payload_bytes, write);
        }
        let len = payload_bytes as u64;
        let prefix_bytes = self.names_bytes + FIXED_BYTES + encoded_len_varint(len);
        let fixed_start = out.len() + HEADER_BYTES + self.names_bytes;
        out.reserve(HEADER_BYTES + prefix_bytes + payload_bytes);
        out.put_slice(&frame::header(prefix_bytes + payload_bytes));
        out.put_slice(&self.names[..self.names_bytes]);
        // The checksum is filled in when there is something to check.
        out.put_slice(&fixed_fields(sequence, payload_bytes as u32, 0));
        put_varint(out, len);
        let payload_start = out.len();
        write(out);
        let written = out.len() - payload_start;
        assert_eq!(
            written, payload_bytes,
            "the payload is as long as announced"
        );
        let checksum = crc32fast::hash(&out[payload_start..]);
        out[fixed_start + CHECKSUM_AT..][..4].copy_from_slice(&checksum.to_le_bytes());
    }

    /// As [`read_envelope`], and quicker if it is a call of this method.
    ///
    /// # Errors
    /// As [`read_envelope`].
    #[inline]
    pub fn read_envelope<'a>(
        &self,
        body: &'a [u8],
    ) -> Result<EnvelopeRef<'a>, EnvelopeRefError<'a>> {
        match self.read_usual(body) {
            Some(fields) => fields.check(),
            None => read_envelope(body),
        }
    }

    #[inline]
    fn read_usual<'a>(&self, body: &'a [u8]) -> Option<Fields<'a>> {
        let rest = body.strip_prefix(&self.names[..self.names_bytes])?;
        let names = EnvelopeRef {
            service: self.service.as_bytes(),
            method: self.method.as_bytes(),
            ..EnvelopeRef::default()
        };
        Fields::read_usual_behind(rest, names)
    }
}

/// Appends the field of a name that is shorter than 128 bytes; returns where it ends.
const fn put_name(names: &mut [u8], start: usize, tag: u32, name: &[u8]) -> usize {
    names[start] = key(tag, WireType::LengthDelimited);
    names[start + 1] = name.len() as u8;
    let mut at = 0;
    while at < name.len() {
        names[start + 2 + at] = name[at];
        at += 1;
    }
    start + 2 + at
}
