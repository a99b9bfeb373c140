//! The fields of a client's request, borrowed from its payload.

use crate::net::wire::{take_delimited, take_varint};
use crate::pb;

/// What a client's request says, nothing checked yet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct RequestFields<'a> {
    pub(super) operation: i32,
    /// In UTF-8; empty if there is none.
    pub(super) uuid: &'a [u8],
    pub(super) key: &'a [u8],
    pub(super) value: &'a [u8],
    pub(super) session: Option<pb::Session>,
}

impl<'a> RequestFields<'a> {
    /// The fields of a request that prost has decoded.
    pub(super) fn of(request: &'a pb::KvOperationRequest) -> RequestFields<'a> {
        RequestFields {
            operation: request.r#type,
            uuid: request
                .meta
                .as_ref()
                .map_or(&[], |meta| meta.uuid.as_bytes()),
            key: &request.key,
            value: &request.value,
            session: request.session,
        }
    }

    /// Reads a request as clients write it: known fields alone, `meta` and `session` once
    /// at most.
    ///
    /// `None` for any other, right or wrong: prost then has the word on what it is. So
    /// all that must hold here is that what is read means what prost would read.
    #[inline]
    pub(super) fn read_usual(payload: &'a [u8]) -> Option<RequestFields<'a>> {
        let mut fields = RequestFields::default();
        let mut has_meta = false;
        let mut rest = payload;
        while let [key, behind @ ..] = rest {
            rest = behind;
            match key {
                // An enumeration is the lowest 32 bits, whatever else there is.
                0x08 => fields.operation = take_varint(&mut rest)? as i32,
                0x12 if !has_meta => {
                    has_meta = true;
                    fields.uuid = read_meta(take_delimited(&mut rest)?)?;
                }
                0x1a => fields.key = take_delimited(&mut rest)?,
                0x22 => fields.value = take_delimited(&mut rest)?,
                0x82 if fields.session.is_none() => {
                    rest = rest.strip_prefix(&[0x01])?;
                    fields.session = Some(read_session(take_delimited(&mut rest)?)?);
                }
                _ => return None,
            }
        }
        Some(fields)
    }
}

/// The uuid, which is all that there is.
#[inline]
fn read_meta(mut meta: &[u8]) -> Option<&[u8]> {
    let [key, rest @ ..] = meta else {
        return Some(&[]);
    };
    meta = rest;
    let uuid = take_delimited(&mut meta)?;
    let is_text = uuid.is_ascii() || std::str::from_utf8(uuid).is_ok();
    (*key == 0x0a && meta.is_empty() && is_text).then_some(uuid)
}

fn read_session(mut rest: &[u8]) -> Option<pb::Session> {
    let mut session = pb::Session::default();
    while let [key, behind @ ..] = rest {
        rest = behind;
        let field = match key {
            0x08 => &mut session.id,
            0x10 => &mut session.sequence,
            0x18 => &mut session.acked_below,
            _ => return None,
        };
        *field = take_varint(&mut rest)?;
    }
    Some(session)
}
