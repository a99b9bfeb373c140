use proptest::prelude::*;

use super::*;
use crate::net::frame::{HEADER_BYTES, parse_header};
use crate::pb::{Entry, KvOperationRequest, Meta, Session};

const PUT_REQUEST: &str = "0a1b2c3d4e5f6a7b00000072367bbfd3\
    0a124b564f7065726174696f6e53657276696365120745786563757465190100\
    00000000000025300000002d3265da7a323012260a2430303131323233332d34\
    3435352d343637372d383839392d6161626263636464656566661a02776b2202\
    7776";
const CREATED: &str = "0a1b2c3d4e5f6a7b000000455b877fcb\
    0a124b564f7065726174696f6e53657276696365120745786563757465190100\
    00000000000025030000002d3bd46d9c320308c901";
const REDIRECT: &str = "0a1b2c3d4e5f6a7b000000550b9e2854\
    0a124b564f7065726174696f6e53657276696365120745786563757465190100\
    00000000000025130000002d95470361321308ae02220e3132372e302e302e31\
    3a34333939";

fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text.bytes().filter(u8::is_ascii_hexdigit).collect();
    let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap();
    digits.chunks(2).map(byte).collect()
}

fn get() -> Operation {
    Operation::Get { key: "k".into() }
}

fn put() -> Operation {
    Operation::Put {
        key: "wk".into(),
        value: "wv".into(),
    }
}

/// The reply in a captured frame.
fn reply(frame: &str) -> Reply {
    let frame = hex(frame);
    let header = frame[..HEADER_BYTES].try_into().unwrap();
    assert_eq!(parse_header(&header), Ok(frame.len() - HEADER_BYTES));
    decode_reply(Bytes::copy_from_slice(&frame[HEADER_BYTES..])).unwrap()
}

fn answer(operation: &Operation, payload: &str) -> Result<Answer, &'static str> {
    decode_answer(operation, hex(payload).into())
}

#[test]
fn a_put_has_the_bytes_that_the_original_sends() {
    let mut frame = Buffer::default();
    let uuid = "00112233-4455-4677-8899-aabbccddeeff";
    // The original leaves out `type` because PUT is 0, as protobuf does.
    encode_operation(&mut frame, 1, &put(), &Identity::Uuid(uuid.into()));
    assert_eq!(frame.to_vec(), hex(PUT_REQUEST));
}

#[test]
fn answers_of_the_original_are_understood() {
    let created = reply(CREATED);
    assert_eq!(created.sequence_id, 1);
    assert_eq!(
        decode_answer(&put(), created.payload),
        Ok(Answer::Outcome(Outcome::Done))
    );
    assert_eq!(
        decode_answer(&put(), reply(REDIRECT).payload),
        Ok(Answer::Redirect("127.0.0.1:4399".parse().unwrap()))
    );
    assert_eq!(
        answer(&get(), "08c8011a027776"),
        Ok(Answer::Outcome(Outcome::Value("wv".into())))
    );
    assert_eq!(
        answer(&get(), "089403"),
        Ok(Answer::Outcome(Outcome::NotFound))
    );
    assert_eq!(
        answer(&put(), "08f403"),
        Ok(Answer::Refused(ClientError::Refused {
            status: 500,
            code: 0,
            reason: String::new()
        }))
    );
}

#[test]
fn an_answer_that_does_not_fit_the_request_is_not_believed() {
    // A get is not "created", a put has no value, a put is never "not found".
    assert!(answer(&get(), "08c901").is_err());
    assert!(answer(&put(), "08c8011a027776").is_err());
    assert!(answer(&put(), "089403").is_err());
    assert!(answer(&Operation::OpenSession, "08c901").is_err());
    assert!(answer(&put(), "").is_err());
    assert!(answer(&put(), "08ae02").is_err());
}

#[test]
fn error_codes_decide_what_is_retried() {
    let refused = |code: ErrorCode| {
        let response = KvOperationResponse {
            status_code: StatusCode::InternalError as i32,
            error_code: code as i32,
            data: Some(Data::Reason("why".into())),
            ..KvOperationResponse::default()
        };
        decode_answer(&put(), response.encode_to_vec().into()).unwrap()
    };
    let why = || "why".to_string();
    assert_eq!(refused(ErrorCode::NoLeader), Answer::NoLeader(why()));
    assert_eq!(refused(ErrorCode::Busy), Answer::Busy(why()));
    assert_eq!(refused(ErrorCode::OutcomeUnknown), Answer::Unknown(why()));
    assert_eq!(
        refused(ErrorCode::KeyExists),
        Answer::Refused(ClientError::KeyExists)
    );
    assert_eq!(
        refused(ErrorCode::MemoryLimit),
        Answer::Refused(ClientError::NoSpace { reason: why() })
    );
    assert_eq!(
        refused(ErrorCode::NoSpace),
        Answer::Refused(ClientError::NoSpace { reason: why() })
    );
    assert_eq!(
        refused(ErrorCode::InvalidRequest),
        Answer::Refused(ClientError::BadRequest { reason: why() })
    );
    assert_eq!(
        refused(ErrorCode::SessionExpired),
        Answer::Refused(ClientError::SessionExpired {
            outcome_unknown: false
        })
    );
}

#[test]
fn limits_are_checked_before_anything_is_sent() {
    let update = |key: usize, value: usize| {
        Operation::Update {
            key: vec![b'k'; key].into(),
            value: vec![b'v'; value].into(),
        }
        .check()
        .is_ok()
    };
    assert!(update(1, 0) && update(KEY_BYTES_MAX, VALUE_BYTES_MAX));
    assert!(!update(0, 1) && !update(KEY_BYTES_MAX + 1, 0) && !update(1, VALUE_BYTES_MAX + 1));
}

fn compare_and_set(expected: usize, new: usize) -> Operation {
    Operation::CompareAndSet {
        key: "k".into(),
        expected: Some(vec![0; expected].into()),
        new: Some(vec![0; new].into()),
    }
}

fn removes(keys: &[&'static str]) -> Operation {
    let remove = |key: &&'static str| WriteOp::Remove {
        key: Bytes::from_static(key.as_bytes()),
    };
    Operation::Batch(keys.iter().map(remove).collect())
}

#[test]
fn limits_of_added_operations_are_checked_before_anything_is_sent() {
    let reason = |operation: &Operation| match operation.check() {
        Err(ClientError::BadRequest { reason }) => reason,
        other => panic!("{other:?}"),
    };
    assert_eq!(compare_and_set(VALUE_BYTES_MAX, 1).check(), Ok(()));
    assert_eq!(
        reason(&compare_and_set(VALUE_BYTES_MAX, KEY_BYTES_MAX)),
        "key and values have 8454145 bytes, 8454144 are allowed"
    );
    assert_eq!(
        reason(&compare_and_set(VALUE_BYTES_MAX + 1, 0)),
        "the expected value has 8388609 bytes, 8388608 are allowed"
    );
    assert_eq!(removes(&["a", "b"]).check(), Ok(()));
    assert_eq!(
        reason(&removes(&["a", "b", "a"])),
        "two operations of the batch have the same key"
    );
    assert_eq!(
        reason(&removes(&[])),
        "batch of 0 operations, 1 to 128 are allowed"
    );
    let range = Range {
        prefix: vec![0; KEY_BYTES_MAX + 1].into(),
        ..Range::default()
    };
    assert_eq!(
        reason(&Operation::Scan(range)),
        "the prefix has 65537 bytes, 65536 are allowed"
    );
}

#[test]
fn answers_to_added_operations_are_told_apart() {
    let response = |status: StatusCode, error_code: ErrorCode| KvOperationResponse {
        status_code: status.into(),
        error_code: error_code.into(),
        ..KvOperationResponse::default()
    };
    let cas = compare_and_set(1, 1);
    let answer = |operation: &Operation, response: KvOperationResponse| {
        decode_answer(operation, response.encode_to_vec().into())
    };
    let created = response(StatusCode::Created, ErrorCode::None);
    for operation in [&cas, &removes(&["a"])] {
        assert_eq!(
            answer(operation, created.clone()),
            Ok(Answer::Outcome(Outcome::Done))
        );
    }
    let not_found = response(StatusCode::NotFound, ErrorCode::None);
    assert_eq!(
        answer(&cas, not_found.clone()),
        Ok(Answer::Outcome(Outcome::NotFound))
    );
    assert!(
        answer(&removes(&["a"]), not_found).is_err(),
        "a batch fails otherwise"
    );
    assert_eq!(
        answer(
            &cas,
            response(StatusCode::InternalError, ErrorCode::ValueMismatch)
        ),
        Ok(Answer::Refused(ClientError::Mismatch))
    );
    let mut failed = response(StatusCode::InternalError, ErrorCode::BatchFailed);
    failed.failed_operation = 3;
    assert_eq!(
        answer(&removes(&["a"]), failed),
        Ok(Answer::Refused(ClientError::BatchFailed { operation: 2 }))
    );
    let mut page = response(StatusCode::Success, ErrorCode::None);
    let entry = |key: &'static str| Entry {
        key: key.into(),
        value: "v".into(),
    };
    assert!(answer(&Operation::Scan(Range::default()), page.clone()).is_err());
    page.page = Some(Box::new(crate::pb::Page {
        entries: vec![entry("a"), entry("b")],
        next_key: "c".into(),
    }));
    let expected = Page {
        entries: vec![("a".into(), "v".into()), ("b".into(), "v".into())],
        next: Some("c".into()),
    };
    assert_eq!(
        answer(&Operation::Scan(Range::default()), page),
        Ok(Answer::Outcome(Outcome::Page(expected)))
    );
}

proptest! {
    #[test]
    fn a_request_is_encoded_as_prost_does(
        kind in 0..5_usize,
        key in proptest::collection::vec(any::<u8>(), 0..200),
        value in proptest::collection::vec(any::<u8>(), 0..200),
        uuid in "[a-zü]{0,150}",
        session in proptest::option::of(any::<[u64; 3]>()),
        small in any::<bool>(),
    ) {
        let (key, value) = (Bytes::from(key), Bytes::from(value));
        let operations = [
            Operation::Put { key: key.clone(), value: value.clone() },
            Operation::Update { key: key.clone(), value: value.clone() },
            Operation::Remove { key: key.clone() },
            Operation::Get { key: key.clone() },
            Operation::OpenSession,
        ];
        let session = session.map(|words| words.map(|word| if small { word % 3 } else { word }));
        let identity = match session {
            None => Identity::Uuid(uuid.clone()),
            Some([id, sequence, acked_below]) => Identity::Session { id, sequence, acked_below },
        };
        let request = KvOperationRequest {
            r#type: [0, 1, 2, 3, 16][kind],
            meta: session.is_none().then_some(Meta { uuid }),
            key: if kind < 4 { key } else { Bytes::new() },
            value: if kind < 2 { value } else { Bytes::new() },
            session: session.map(|[id, sequence, acked_below]| Session { id, sequence, acked_below }),
            ..Default::default()
        };
        let (mut out, mut expected) = (Buffer::new(), Buffer::new());
        encode_operation(&mut out, 7, &operations[kind], &identity);
        let (service, method) = ("KVOperationService", "Execute");
        encode_call(&mut expected, service, method, 7, &request);
        prop_assert_eq!(&out[..], &expected[..]);
    }

    #[test]
    fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let bytes = Bytes::from(bytes);
        let _ = decode_reply(bytes.clone());
        let _ = decode_answer(&get(), bytes.clone());
        let _ = decode_answer(&put(), bytes.clone());
        let _ = decode_status(bytes.clone());
        if let Some(header) = bytes.first_chunk() {
            let _ = parse_header(header);
        }
    }

    /// The names of service and method say nothing in an answer, and have no checksum:
    /// they, 29 bytes behind the header, are left out.
    #[test]
    fn a_flipped_bit_is_noticed(bit in 0..(CREATED_BYTES - 29) * 8) {
        let mut frame = hex(CREATED);
        let byte = if bit / 8 < HEADER_BYTES { bit / 8 } else { bit / 8 + 29 };
        frame[byte] ^= 1 << (bit % 8);
        let header = frame[..HEADER_BYTES].try_into().unwrap();
        let intact = parse_header(&header).is_ok()
            && decode_reply(Bytes::copy_from_slice(&frame[HEADER_BYTES..]))
                .is_ok_and(|reply| reply.sequence_id == 1
                    && decode_answer(&put(), reply.payload) == Ok(Answer::Outcome(Outcome::Done)));
        prop_assert!(!intact);
    }
}

const CREATED_BYTES: usize = 69;
