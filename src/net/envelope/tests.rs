use proptest::prelude::*;

use super::*;
use crate::pb;

const CAPTURED_PUT: &str = "
    0a1b2c3d4e5f6a7b00000072367bbfd3
    0a124b564f7065726174696f6e53657276696365120745786563757465190100000000000000
    25300000002d3265da7a
    323012260a2430303131323233332d343435352d343637372d383839392d616162626363646465656666
    1a02776b22027776";
const CAPTURED_ANSWER: &str = "
    0a1b2c3d4e5f6a7b000000455b877fcb
    0a124b564f7065726174696f6e53657276696365120745786563757465190100000000000000
    25030000002d3bd46d9c
    320308c901";
const CAPTURED_REDIRECT: &str = "
    0a1b2c3d4e5f6a7b000000550b9e2854
    0a124b564f7065726174696f6e53657276696365120745786563757465190100000000000000
    25130000002d95470361
    321308ae02220e3132372e302e302e313a34333939";

fn bytes_of(hex: &str) -> Vec<u8> {
    let digits: Vec<u32> = hex.chars().filter_map(|c| c.to_digit(16)).collect();
    digits.chunks(2).map(|d| (d[0] << 4 | d[1]) as u8).collect()
}

fn encode(service: &str, method: &str, sequence: u64, payload: &impl Message) -> Vec<u8> {
    let mut out = Buffer::default();
    encode_call(&mut out, service, method, sequence, payload);
    out.to_vec()
}

fn encode_with_prost(service: &str, method: &str, sequence: u64, payload: &[u8]) -> Vec<u8> {
    let data = pb::RaftRpcData {
        service_name: service.to_owned(),
        method_name: method.to_owned(),
        sequence_id: sequence,
        payload_size: payload.len() as u32,
        payload_checksum: crc32fast::hash(payload),
        payload: payload.to_vec().into(),
        ..Default::default()
    };
    let mut frame = frame::header(data.encoded_len()).to_vec();
    data.encode(&mut frame).unwrap();
    frame
}

fn head<'a>(service: &'a str, method: &'a str, sequence: u64) -> Head<'a> {
    let ends = Ends::default();
    Head {
        service,
        method,
        sequence,
        ends,
    }
}

#[test]
fn the_directories_at_both_ends_arrive_and_older_nodes_skip_them() {
    let ends = Ends {
        to: 0x1122,
        from: u64::MAX,
    };
    let message = pb::KvOperationRequest {
        key: Bytes::from_static(b"k"),
        ..Default::default()
    };
    let mut out = Buffer::default();
    encode_peer_call(
        &mut out,
        Head {
            ends,
            ..head("S", "M", 7)
        },
        &message,
    );
    let envelope = decode_envelope(body_of(&out)).unwrap();
    assert_eq!((envelope.ends, envelope.sequence), (ends, 7));
    let data = pb::RaftRpcData::decode(body_of(&out)).unwrap();
    assert_eq!(
        (data.to_incarnation, data.from_incarnation),
        (0x1122, u64::MAX)
    );
    assert_eq!(data.payload, envelope.payload);
}

fn body_of(frame: &[u8]) -> Bytes {
    Bytes::copy_from_slice(&frame[frame::HEADER_BYTES..])
}

/// The frame's parts, whatever they are: `encode_call` would refuse wrong ones.
fn data(payload: &[u8], size: u32, checksum: u32) -> Bytes {
    let data = pb::RaftRpcData {
        service_name: "S".to_owned(),
        method_name: "M".to_owned(),
        sequence_id: 7,
        payload_size: size,
        payload_checksum: checksum,
        payload: payload.to_vec().into(),
        ..Default::default()
    };
    data.encode_to_vec().into()
}

fn assert_named(error: &EnvelopeError) {
    let expected = Envelope {
        service: Bytes::from_static(b"S"),
        method: Bytes::from_static(b"M"),
        sequence: 7,
        payload: Bytes::new(),
        ends: Ends::default(),
    };
    assert_eq!(*error.envelope, expected);
}

#[test]
fn a_put_is_the_captured_one_byte_for_byte() {
    let request = pb::KvOperationRequest {
        r#type: pb::OperationType::Put as i32,
        meta: Some(pb::Meta {
            uuid: "00112233-4455-4677-8899-aabbccddeeff".to_owned(),
        }),
        key: Bytes::from_static(b"wk"),
        value: Bytes::from_static(b"wv"),
        ..Default::default()
    };
    let captured = bytes_of(CAPTURED_PUT);
    assert_eq!(captured.len(), 114);
    assert_eq!(
        encode("KVOperationService", "Execute", 1, &request),
        captured
    );
    let envelope = decode_envelope(body_of(&captured)).unwrap();
    assert_eq!(&envelope.service[..], b"KVOperationService");
    assert_eq!(&envelope.method[..], b"Execute");
    assert_eq!(envelope.sequence, 1);
    let decoded = pb::KvOperationRequest::decode(envelope.payload).unwrap();
    assert_eq!(decoded, request);
}

#[test]
fn answers_are_the_captured_ones_byte_for_byte() {
    use pb::kv_operation_response::{Data, StatusCode};
    let created = pb::KvOperationResponse {
        status_code: StatusCode::Created as i32,
        ..Default::default()
    };
    let redirect = pb::KvOperationResponse {
        status_code: StatusCode::Redirect as i32,
        data: Some(Data::Address("127.0.0.1:4399".to_owned())),
        ..Default::default()
    };
    for (response, captured) in [(created, CAPTURED_ANSWER), (redirect, CAPTURED_REDIRECT)] {
        let captured = bytes_of(captured);
        assert_eq!(
            encode("KVOperationService", "Execute", 1, &response),
            captured
        );
        let envelope = decode_envelope(body_of(&captured)).unwrap();
        let decoded = pb::KvOperationResponse::decode(envelope.payload).unwrap();
        assert_eq!(decoded, response);
    }
}

#[test]
fn a_payload_is_a_slice_of_the_frame_and_no_copy() {
    let body = body_of(&bytes_of(CAPTURED_PUT));
    let range = body.as_ptr_range();
    let payload = decode_envelope(body.clone()).unwrap().payload;
    assert!(range.contains(&payload.as_ptr()));
}

#[test]
fn a_wrong_size_and_a_wrong_checksum_are_told_apart_and_the_caller_is_known() {
    let checksum = crc32fast::hash(b"abc");
    let error = decode_envelope(data(b"abc", 4, checksum)).unwrap_err();
    assert_eq!(
        error.kind,
        EnvelopeErrorKind::PayloadSize {
            announced: 4,
            actual: 3
        }
    );
    assert_named(&error);
    let error = decode_envelope(data(b"abc", 3, checksum ^ 1)).unwrap_err();
    assert_eq!(
        error.kind,
        EnvelopeErrorKind::PayloadChecksum {
            announced: checksum ^ 1,
            computed: checksum
        }
    );
    assert_named(&error);
}

#[test]
fn a_body_that_is_cut_is_undecodable_and_the_caller_is_known_if_it_was_read() {
    let body = data(b"abc", 3, crc32fast::hash(b"abc"));
    let error = decode_envelope(body.slice(..body.len() - 1)).unwrap_err();
    assert_eq!(error.kind, EnvelopeErrorKind::Undecodable);
    assert_named(&error);
}

#[test]
fn a_name_that_is_not_utf_8_is_undecodable() {
    let body = Bytes::from_static(&[0x0a, 1, 0xff]);
    let error = decode_envelope(body).unwrap_err();
    assert_eq!(error.kind, EnvelopeErrorKind::Undecodable);
}

#[test]
fn an_empty_body_is_an_envelope_that_names_nothing() {
    assert_eq!(decode_envelope(Bytes::new()), Ok(Envelope::default()));
}

#[test]
fn a_checksum_of_zero_is_written_and_means_the_same() {
    // The four bytes whose CRC-32 is zero, as the string of a message.
    let zero: &[u8] = &[0x9d, 0x0a, 0xd9, 0x6d];
    assert_eq!(crc32fast::hash(zero), 0);
    let mut out = Buffer::default();
    encode_call_prefix(&mut out, head("S", "M", 7), zero.len(), 0);
    out.extend_from_slice(zero);
    assert_eq!(parse_total(&out), out.len());
    let body = body_of(&out);
    let decoded = pb::RaftRpcData::decode(body.clone()).unwrap();
    assert_eq!(&decoded.payload[..], zero);
    assert_eq!(&decode_envelope(body).unwrap().payload[..], zero);
}

fn parse_total(frame: &[u8]) -> usize {
    let header = frame.first_chunk().unwrap();
    frame::parse_header(header).unwrap() + frame::HEADER_BYTES
}

const EXECUTE: Method = Method::new("KVOperationService", "Execute");

proptest! {
    #[test]
    fn a_call_of_a_method_is_that_of_its_names(
        sequence in prop_oneof![Just(0), any::<u64>()],
        payload in prop::collection::vec(any::<u8>(), 0..300),
    ) {
        let expected = encode_with_prost(EXECUTE.service(), EXECUTE.name(), sequence, &payload);
        let mut out = Buffer::from(&b"before"[..]);
        EXECUTE.encode_call_with(&mut out, sequence, payload.len(), |out| {
            out.extend_from_slice(&payload);
        });
        prop_assert_eq!(&out[6..], &expected[..]);
        let body = &expected[frame::HEADER_BYTES..];
        let envelope = EXECUTE.read_envelope(body);
        prop_assert!(EXECUTE.is_of(&envelope.unwrap()));
        prop_assert_eq!(envelope, read_envelope(body));
    }

    #[test]
    fn what_a_method_reads_is_what_anyone_reads(
        at in any::<prop::sample::Index>(),
        flip in any::<u8>(),
        cut in 0..3_usize,
    ) {
        let frame = bytes_of(CAPTURED_PUT);
        let mut body = frame[frame::HEADER_BYTES..frame.len() - cut].to_vec();
        let at = at.index(body.len());
        body[at] ^= flip;
        let mut fields = Fields::default();
        let mut rest = &body[..];
        // Field by field, without the short ways.
        let mut whole = true;
        while whole && !rest.is_empty() {
            // A field that is cut off may have taken all that was left.
            whole = fields.read_field(&mut rest).is_some();
        }
        let expected = if whole { fields.check().ok() } else { None };
        prop_assert_eq!(EXECUTE.read_envelope(&body).ok(), expected);
        prop_assert_eq!(read_envelope(&body).ok(), expected);
    }

    #[test]
    fn every_call_is_encoded_as_prost_does_and_reads_back(
        service in "[a-zA-Zü]{0,20}",
        method in "[a-zA-Z]{0,20}",
        sequence in prop_oneof![Just(0), any::<u64>()],
        value in prop::collection::vec(any::<u8>(), 0..300),
        before in prop::collection::vec(any::<u8>(), 0..10),
    ) {
        let message = pb::KvOperationRequest { value: value.into(), ..Default::default() };
        let payload = message.encode_to_vec();
        let expected = encode_with_prost(&service, &method, sequence, &payload);

        let mut out = Buffer::default();
        out.extend_from_slice(&before);
        encode_call(&mut out, &service, &method, sequence, &message);
        prop_assert_eq!(&out[..before.len()], &before[..]);
        prop_assert_eq!(&out[before.len()..], &expected[..]);

        let mut in_parts = Buffer::default();
        let checksum = crc32fast::hash(&payload);
        encode_call_prefix(&mut in_parts, head(&service, &method, sequence), payload.len(), checksum);
        in_parts.extend_from_slice(&payload);
        prop_assert_eq!(&in_parts[..], &expected[..]);

        let envelope = decode_envelope(body_of(&expected)).unwrap();
        prop_assert_eq!(&envelope.service[..], service.as_bytes());
        prop_assert_eq!(&envelope.method[..], method.as_bytes());
        prop_assert_eq!(envelope.sequence, sequence);
        prop_assert_eq!(&envelope.payload[..], &payload[..]);
    }

    #[test]
    fn what_prost_accepts_and_refuses_is_accepted_and_refused_here(
        bytes in prop::collection::vec(any::<u8>(), 0..60),
    ) {
        let ours = decode_envelope(bytes.clone().into());
        match pb::RaftRpcData::decode(&bytes[..]) {
            Err(_) => prop_assert_eq!(ours.unwrap_err().kind, EnvelopeErrorKind::Undecodable),
            Ok(data) => match ours {
                Ok(envelope) => {
                    prop_assert_eq!(envelope.payload, data.payload);
                    prop_assert_eq!(envelope.sequence, data.sequence_id);
                }
                Err(error) => prop_assert_ne!(error.kind, EnvelopeErrorKind::Undecodable),
            },
        }
    }

    #[test]
    fn a_damaged_envelope_never_panics_and_never_passes_another_payload(
        at in 0..98_usize, flip in 1..=255_u8,
    ) {
        let mut body = body_of(&bytes_of(CAPTURED_PUT)).to_vec();
        let payload = decode_envelope(body.clone().into()).unwrap().payload;
        body[at] ^= flip;
        if let Ok(envelope) = decode_envelope(body.into()) {
            prop_assert_eq!(envelope.payload, payload);
        }
    }
}
