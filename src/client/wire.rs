//! Frames and envelopes, as DESIGN has them; the functions of `net` in small.

use bytes::Bytes;
use prost::Message;

use crate::limits::FRAME_BYTES_MAX;
use crate::mem::Buffer;
use crate::pb::RaftRpcData;

/// Magic, total length, checksum of the two.
pub(super) const HEADER_BYTES: usize = 16;
const MAGIC: u64 = 0x0A1B_2C3D_4E5F_6A7B;

/// Appends a whole frame with one call or answer in it.
pub(super) fn encode_call(
    out: &mut Buffer,
    service: &str,
    method: &str,
    sequence: u64,
    payload: &impl Message,
) {
    let payload = Bytes::from(payload.encode_to_vec());
    let body = RaftRpcData {
        service_name: service.into(),
        method_name: method.into(),
        sequence_id: sequence,
        payload_size: u32::try_from(payload.len()).expect("requests are checked before"),
        payload_checksum: crc32fast::hash(&payload),
        payload,
    }
    .encode_to_vec();
    let total = u32::try_from(HEADER_BYTES + body.len()).expect("requests are checked before");
    out.extend_from_slice(&MAGIC.to_be_bytes());
    out.extend_from_slice(&total.to_be_bytes());
    out.extend_from_slice(&header_checksum(total).to_be_bytes());
    out.extend_from_slice(&body);
}

/// How long the body behind this header is, in bytes.
pub(super) fn decode_header(header: &[u8; HEADER_BYTES]) -> Result<usize, &'static str> {
    let word = |at: usize| u32::from_be_bytes(header[at..at + 4].try_into().expect("four bytes"));
    if header[..8] != MAGIC.to_be_bytes() {
        return Err("wrong magic");
    }
    let total = word(8);
    if word(12) != header_checksum(total) {
        return Err("wrong header checksum");
    }
    match total as usize {
        total if total < HEADER_BYTES => Err("a frame shorter than its header"),
        total if total > FRAME_BYTES_MAX => Err("a frame over the limit"),
        total => Ok(total - HEADER_BYTES),
    }
}

/// Takes the body of a frame apart; the payload is a slice of it.
pub(super) fn decode_envelope(body: Bytes) -> Result<RaftRpcData, &'static str> {
    let envelope = RaftRpcData::decode(body).map_err(|_| "an undecodable envelope")?;
    if envelope.payload_size as usize != envelope.payload.len() {
        return Err("a wrong payload size");
    }
    if envelope.payload_checksum != crc32fast::hash(&envelope.payload) {
        return Err("a wrong payload checksum");
    }
    Ok(envelope)
}

/// Over the little-endian bytes, though the fields travel big-endian.
fn header_checksum(total: u32) -> u32 {
    let mut bytes = [0; 12];
    bytes[..8].copy_from_slice(&MAGIC.to_le_bytes());
    bytes[8..].copy_from_slice(&total.to_le_bytes());
    crc32fast::hash(&bytes)
}
