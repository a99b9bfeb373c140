use bytes::Bytes;
use proptest::prelude::*;

use super::*;
use crate::mem::Buffer;
use crate::net::envelope::read_envelope;
use crate::net::frame;

/// What the server understands of a call with this payload, or the reason that it gives.
pub(super) fn understood(
    request: &pb::KvOperationRequest,
    sequence: u64,
) -> Result<Request, String> {
    let body = body_of(request, sequence);
    match decode_call(&body, &mut CommandBuffer::new()) {
        Ok(call) => {
            assert_eq!(call.sequence, sequence);
            Ok(call.request)
        }
        Err(refusal) => Err(refusal.reason),
    }
}

fn request(operation: i32, key: &[u8], value: usize) -> Result<Request, String> {
    let request = pb::KvOperationRequest {
        r#type: operation,
        key: Bytes::copy_from_slice(key),
        value: vec![0; value].into(),
        ..Default::default()
    };
    understood(&request, 1)
}

#[test]
fn requests_over_a_limit_are_refused_with_the_limit() {
    let key = vec![b'k'; limits::KEY_BYTES_MAX + 1];
    let error = request(0, &key, 0).unwrap_err();
    assert_eq!(error, "key of 65537 bytes is over the limit of 65536");
    let error = request(1, b"k", limits::VALUE_BYTES_MAX + 1).unwrap_err();
    assert_eq!(error, "value of 8388609 bytes is over the limit of 8388608");
    assert!(request(1, &key[1..], limits::VALUE_BYTES_MAX).is_ok());
    assert_eq!(request(3, b"", 0), Err("empty key".to_owned()));
    assert_eq!(request(9, b"k", 0), Err("unknown operation 9".to_owned()));
}

#[test]
fn only_a_duplicate_put_has_a_reason_that_says_exists() {
    let answers = [
        Answer::Applied(Outcome::KeyExists),
        Answer::Applied(Outcome::NoRoom),
        Answer::Applied(Outcome::SessionExpired),
        Answer::Applied(Outcome::SessionWindowFull),
        Answer::Applied(Outcome::SessionStale),
        Answer::Applied(Outcome::Malformed),
        Answer::Applied(Outcome::Mismatch),
        Answer::Applied(Outcome::BatchFailed(3)),
        Answer::NoLeader,
        Answer::OutcomeUnknown,
        Answer::Busy,
        Answer::NoSpace,
        Answer::StoreFull,
    ];
    for answer in answers {
        let duplicate = answer == Answer::Applied(Outcome::KeyExists);
        let encoded = encode_answer(answer, |_| None);
        let Some(Data::Reason(reason)) = encoded.data else {
            panic!("an error has a reason")
        };
        assert_eq!(reason.contains("exists"), duplicate, "{reason}");
    }
}

#[test]
fn answers_are_the_bytes_that_the_original_sends() {
    let bytes = |answer| encode_answer(answer, |_| Some("127.0.0.1:4399".into())).encode_to_vec();
    assert_eq!(bytes(Answer::Applied(Outcome::Created)), b"\x08\xc9\x01");
    assert_eq!(bytes(Answer::Applied(Outcome::Removed)), b"\x08\xc9\x01");
    assert_eq!(bytes(Answer::Applied(Outcome::NotFound)), b"\x08\x94\x03");
    assert_eq!(bytes(Answer::Value(None)), b"\x08\x94\x03");
    assert_eq!(
        bytes(Answer::Value(Some(Buffer::from(&b"wv"[..])))),
        b"\x08\xc8\x01\x1a\x02wv"
    );
    assert_eq!(
        bytes(Answer::Value(Some(Buffer::new()))),
        b"\x08\xc8\x01\x1a\x00"
    );
    assert_eq!(
        bytes(Answer::Redirect(NodeId(1))),
        b"\x08\xae\x02\x22\x0e127.0.0.1:4399"
    );
}

const UUID: &str = "00112233-4455-6677-8899-aabbccddeeff";

/// The body of the frame that carries `request`.
fn body_of(request: &pb::KvOperationRequest, sequence: u64) -> Bytes {
    let mut out = Buffer::new();
    encode_call(&mut out, KV_SERVICE, EXECUTE, sequence, request);
    out.freeze().slice(frame::HEADER_BYTES..)
}

pub(super) fn put(key: &[u8], value: &[u8]) -> pb::KvOperationRequest {
    pb::KvOperationRequest {
        meta: Some(pb::Meta { uuid: UUID.into() }),
        key: Bytes::copy_from_slice(key),
        value: Bytes::copy_from_slice(value),
        ..Default::default()
    }
}

/// What a response is on the wire, by way of prost.
fn frame_of(response: &pb::KvOperationResponse, sequence: u64) -> Vec<u8> {
    let mut out = Buffer::new();
    encode_call(&mut out, KV_SERVICE, EXECUTE, sequence, response);
    out.to_vec()
}

#[test]
fn a_call_becomes_the_command_that_its_fields_say() {
    let mut commands = CommandBuffer::new();
    let body = body_of(&put(b"key", b"value"), 7);
    let call = decode_call(&body, &mut commands).unwrap();
    let expected = Command::Write {
        identity: Identity::Implicit {
            client: ClientId::from_text(UUID),
            sequence: 7,
        },
        op: WriteOp::Put {
            key: Bytes::from_static(b"key"),
            value: Bytes::from_static(b"value"),
        },
    };
    let command = expected.encode();
    let grows = true;
    let request = Request::Write { command, grows };
    assert_eq!(
        call,
        Call {
            sequence: 7,
            request
        }
    );
}

#[test]
fn commands_of_many_calls_share_memory_and_keep_their_bytes() {
    let mut commands = CommandBuffer::new();
    let value_of = |n: usize| vec![n as u8; n % 700 * (1 + n % 13)];
    let calls: Vec<Call> = (0..500)
        .map(|n| decode_call(&body_of(&put(b"k", &value_of(n)), n as u64), &mut commands).unwrap())
        .collect();
    for (n, call) in calls.into_iter().enumerate() {
        let Request::Write { command, .. } = call.request else {
            panic!("a put is a write");
        };
        let Ok(Command::Write { op, .. }) = Command::read(&command) else {
            panic!("it was encoded just now");
        };
        let (key, value) = (&b"k"[..], &value_of(n)[..]);
        assert_eq!(op, WriteOp::Put { key, value });
    }
}

#[test]
fn a_read_holds_its_key_alone() {
    let mut commands = CommandBuffer::new();
    let get = |key: &[u8]| pb::KvOperationRequest {
        r#type: pb::OperationType::Get.into(),
        ..put(key, b"")
    };
    for key in [&b"k"[..], &[b'k'; 20_000]] {
        let body = body_of(&get(key), 1);
        let call = decode_call(&body, &mut commands).unwrap();
        let key = Bytes::copy_from_slice(key);
        let anywhere = false;
        assert_eq!(call.request, Request::Get { key, anywhere });
    }
}

#[test]
fn a_refused_call_is_answered_under_the_names_that_it_used() {
    let refused = |service: &str, method: &str, reason: &str| {
        let mut out = Buffer::new();
        encode_call(&mut out, service, method, 9, &put(b"", b""));
        let refusal = decode_call(&out[frame::HEADER_BYTES..], &mut CommandBuffer::new())
            .map(|_| ())
            .unwrap_err();
        assert_eq!(refusal.reason, reason);
        let mut answer = Buffer::new();
        encode_refusal_frame(&mut answer, &refusal);
        let envelope = read_envelope(&answer[frame::HEADER_BYTES..]).unwrap();
        let response = pb::KvOperationResponse::decode(envelope.payload).unwrap();
        assert_eq!(response, bad_request(reason));
        assert_eq!(envelope.sequence, 9);
        [envelope.service, envelope.method].map(|name| String::from_utf8(name.into()).unwrap())
    };
    assert_eq!(
        refused(KV_SERVICE, EXECUTE, "empty key"),
        [KV_SERVICE, EXECUTE]
    );
    let unknown = "unknown service or method";
    assert_eq!(refused("S", "M", unknown), ["S", "M"]);
    assert_eq!(refused("", "M", unknown), [KV_SERVICE, "M"]);
    // Repeated in the answer, this one would not fit a frame any more.
    let long = "s".repeat(limits::FRAME_BYTES_MAX - 200);
    assert_eq!(refused(&long, "M", unknown), [KV_SERVICE, "M"]);
}

#[test]
fn answers_are_framed_as_prost_would() {
    let large = Bytes::from(vec![7; 70_000]);
    let answers = [
        Answer::Applied(Outcome::Created),
        Answer::Applied(Outcome::Removed),
        Answer::Applied(Outcome::NotFound),
        Answer::Applied(Outcome::KeyExists),
        Answer::Applied(Outcome::SessionOpened(1 << 40)),
        Answer::Applied(Outcome::Mismatch),
        Answer::Applied(Outcome::BatchFailed(127)),
        Answer::Page(Box::default()),
        Answer::Value(None),
        Answer::Value(Some(Buffer::new())),
        Answer::Value(Some(Buffer::from(&b"value"[..]))),
        Answer::Value(Some(Buffer::from(&large[..]))),
        Answer::Redirect(NodeId(1)),
        Answer::NoLeader,
        Answer::Busy,
    ];
    let address_of = |_| Some("127.0.0.1:4399".to_owned());
    for answer in answers {
        for sequence in [0, 1, u64::MAX] {
            let mut out = Buffer::from(&b"before"[..]);
            encode_answer_frame(&mut out, sequence, &answer, address_of);
            let expected = frame_of(&encode_answer(answer.clone(), address_of), sequence);
            assert_eq!(out[6..], expected, "{answer:?}");
        }
    }
}

/// A request with any of the fields, some of them as no client writes them.
fn any_request() -> impl Strategy<Value = pb::KvOperationRequest> {
    let uuid = prop_oneof!["[a-zü]{0,20}", Just(UUID.to_owned())];
    let session = (any::<u64>(), any::<u64>(), any::<u64>());
    (
        prop_oneof![Just(0), Just(1), Just(3), Just(16), any::<i32>()],
        prop::option::of(uuid.prop_map(|uuid| pb::Meta { uuid })),
        prop::collection::vec(any::<u8>(), 0..40),
        prop::collection::vec(any::<u8>(), 0..200),
        prop::option::of(session.prop_map(|(id, sequence, acked_below)| pb::Session {
            id,
            sequence,
            acked_below,
        })),
    )
        .prop_map(
            |(operation, meta, key, value, session)| pb::KvOperationRequest {
                r#type: operation,
                meta,
                key: key.into(),
                value: value.into(),
                session,
                ..Default::default()
            },
        )
}

/// Holds what is read by hand against what prost reads.
fn assert_read_as_by_prost(payload: &[u8]) {
    if let Some(fields) = RequestFields::read_usual(payload) {
        let decoded = pb::KvOperationRequest::decode(payload).expect("read by hand");
        assert_eq!(fields, RequestFields::of(&decoded));
    }
}

proptest! {
    #[test]
    fn what_is_encoded_is_read_by_hand(request in any_request()) {
        let payload = request.encode_to_vec();
        assert_read_as_by_prost(&payload);
        // Only the longest varints are left to prost.
        let is_long = |word: u64| word >= 1 << 63;
        let session = request.session.unwrap_or_default();
        let words = [session.id, session.sequence, session.acked_below];
        if request.r#type >= 0 && !words.into_iter().any(is_long) {
            let fields = RequestFields::read_usual(&payload);
            prop_assert_eq!(fields, Some(RequestFields::of(&request)));
        }
    }

    #[test]
    fn what_is_changed_cut_or_put_together_is_read_as_by_prost(
        (first, second) in (any_request(), any_request()),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
        end in any::<prop::sample::Index>(),
    ) {
        let mut payload = first.encode_to_vec();
        payload.extend_from_slice(&second.encode_to_vec());
        if payload.is_empty() {
            return Ok(());
        }
        assert_read_as_by_prost(&payload);
        for (at, byte) in changes {
            let at = at.index(payload.len());
            payload[at] = byte;
            assert_read_as_by_prost(&payload);
        }
        assert_read_as_by_prost(&payload[..end.index(payload.len())]);
    }

    #[test]
    fn any_bytes_are_read_as_by_prost(
        first in prop::sample::select(vec![0x08_u8, 0x12, 0x1a, 0x22, 0x82, 0x0a]),
        rest in prop::collection::vec(prop_oneof![0..40_u8, any::<u8>()], 0..40),
    ) {
        let mut payload = vec![first];
        payload.extend_from_slice(&rest);
        assert_read_as_by_prost(&payload);
    }

    #[test]
    fn a_call_is_understood_alike_by_hand_and_by_prost(
        request in any_request(), sequence in any::<u64>()
    ) {
        let payload = request.encode_to_vec();
        let by_hand = RequestFields::read_usual(&payload)
            .map(|fields| understand(&fields, None, sequence, &mut CommandBuffer::new()));
        let decoded = pb::KvOperationRequest::decode(&payload[..]).expect("encoded just now");
        let fields = RequestFields::of(&decoded);
        let by_prost = understand(&fields, Some(&decoded), sequence, &mut CommandBuffer::new());
        if let Some(by_hand) = by_hand {
            prop_assert_eq!(&by_hand, &by_prost);
        }
        let reason = by_prost.map_err(|error| error.to_string());
        prop_assert_eq!(understood(&request, sequence), reason);
    }
}
