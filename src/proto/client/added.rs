//! The operations that the original does not have: compare-and-set, batches, scans. They
//! go through prost's messages, in and out.

use super::{ClientError, RequestFields, at_most, check_key_and_value, error, identity, response};
use crate::kv::{Command, Operations, WriteOp};
use crate::limits;
use crate::mem::Buffer;
use crate::node::{Page, Request, Scan};
use crate::pb;
use crate::pb::OperationType;
use crate::pb::kv_operation_response::{Data, StatusCode};

/// Whether [`understand`] is to be asked.
#[inline]
pub(super) fn is_added(operation: OperationType) -> bool {
    operation as i32 >= OperationType::CompareAndSet as i32
}

/// Understands an operation of which [`is_added`] says so.
#[cold]
pub(super) fn understand(
    operation: OperationType,
    request: &RequestFields<'_>,
    whole: Option<&pb::KvOperationRequest>,
    sequence: u64,
) -> Result<Request, ClientError> {
    if operation == OperationType::Scan {
        let scan = whole.and_then(|whole| whole.scan.as_ref());
        let anywhere = whole.is_some_and(|whole| whole.follower_read);
        return understand_scan(request.key, scan, anywhere);
    }
    let identity = identity(request.session, request.uuid, sequence)?;
    if operation == OperationType::Batch {
        let operations = whole.map_or(&[][..], |whole| &whole.operations);
        let mut ops = Vec::with_capacity(operations.len().min(limits::BATCH_OPERATIONS_MAX));
        for (at, operation) in (1..).zip(operations) {
            let op = understand_in_batch(operation);
            ops.push(op.map_err(|error| {
                let error = Box::new(error);
                ClientError::InBatch { at, error }
            })?);
        }
        let operations = Operations::encode(&ops)?;
        let grows = ops.iter().any(WriteOp::grows);
        let command = Command::Batch {
            identity,
            operations,
        };
        let command = command.encode();
        return Ok(Request::Write { command, grows });
    }
    let comparison = whole.and_then(|whole| whole.comparison.as_ref());
    let op = compare_and_set(request.key, request.value, comparison)?;
    let grows = op.grows();
    let command = Command::Write { identity, op };
    let bytes = command.encoded_len();
    at_most("compare-and-set", bytes, limits::COMMAND_BYTES_MAX)?;
    let mut out = Buffer::with_capacity(bytes);
    command.encode_into(&mut out);
    let command = out.freeze();
    Ok(Request::Write { command, grows })
}

fn compare_and_set<'a>(
    key: &'a [u8],
    value: &'a [u8],
    comparison: Option<&'a pb::Comparison>,
) -> Result<WriteOp<&'a [u8]>, ClientError> {
    let comparison = comparison.ok_or(ClientError::NoComparison)?;
    check_key_and_value(key, value)?;
    let expected = comparison.expected.as_deref();
    let expected_bytes = expected.map_or(0, <[u8]>::len);
    at_most("expected value", expected_bytes, limits::VALUE_BYTES_MAX)?;
    let new = (!comparison.remove).then_some(value);
    Ok(WriteOp::Cas { key, expected, new })
}

fn understand_in_batch(operation: &pb::BatchOperation) -> Result<WriteOp<&[u8]>, ClientError> {
    let (key, value) = (&operation.key[..], &operation.value[..]);
    check_key_and_value(key, value)?;
    Ok(match OperationType::try_from(operation.r#type) {
        Ok(OperationType::Put) => WriteOp::Put { key, value },
        Ok(OperationType::Update) => WriteOp::Update { key, value },
        Ok(OperationType::Delete) => WriteOp::Remove { key },
        Ok(OperationType::CompareAndSet) => {
            compare_and_set(key, value, operation.comparison.as_ref())?
        }
        _ => return Err(ClientError::NotInBatch(operation.r#type)),
    })
}

fn understand_scan(
    from: &[u8],
    scan: Option<&pb::Scan>,
    anywhere: bool,
) -> Result<Request, ClientError> {
    let none = pb::Scan::default();
    let scan = scan.unwrap_or(&none);
    let (prefix, until) = (&scan.prefix[..], &scan.until[..]);
    at_most("key", from.len(), limits::KEY_BYTES_MAX)?;
    at_most("key", until.len(), limits::KEY_BYTES_MAX)?;
    at_most("prefix", prefix.len(), limits::KEY_BYTES_MAX)?;
    let end = (!until.is_empty()).then(|| until.to_vec());
    let end = match (end, behind_prefix(prefix)) {
        (Some(end), Some(behind)) => Some(end.min(behind)),
        (end, behind) => end.or(behind),
    };
    let bounded = |wanted: u32, max: usize| match wanted {
        0 => max,
        wanted => max.min(usize::try_from(wanted).unwrap_or(usize::MAX)),
    };
    Ok(Request::Scan(Box::new(Scan {
        from: from.max(prefix).to_vec().into(),
        until: end.map(Into::into),
        entries_max: bounded(scan.entries_max, limits::SCAN_ENTRIES_MAX),
        bytes_max: bounded(scan.bytes_max, limits::SCAN_BYTES_MAX),
        anywhere,
    })))
}

/// The first of the keys behind all that begin with `prefix`, `None` if there is none.
fn behind_prefix(prefix: &[u8]) -> Option<Vec<u8>> {
    let last = prefix.iter().rposition(|byte| *byte < u8::MAX)?;
    let mut behind = prefix[..=last].to_vec();
    behind[last] += 1;
    Some(behind)
}

pub(super) fn encode_page(page: &Page) -> pb::KvOperationResponse {
    let entry = |(key, value)| pb::Entry { key, value };
    let page = pb::Page {
        entries: page.entries().map(entry).collect(),
        next_key: page.next().cloned().unwrap_or_default(),
    };
    pb::KvOperationResponse {
        page: Some(Box::new(page)),
        ..response(StatusCode::Success, None)
    }
}

/// `at` is the operation's place, from 0 on.
pub(super) fn batch_failed(at: u8) -> pb::KvOperationResponse {
    let failed = u32::from(at) + 1;
    let reason = format!("operation {failed} of the batch cannot be carried out, so none was");
    pb::KvOperationResponse {
        failed_operation: failed,
        data: Some(Data::Reason(reason)),
        ..error(pb::ErrorCode::BatchFailed, "")
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use proptest::prelude::*;
    use prost::Message;

    use super::super::tests::{put, understood};
    use super::*;
    use crate::kv::Identity;

    fn comparison(expected: Option<&'static [u8]>, remove: bool) -> Option<pb::Comparison> {
        let expected = expected.map(Bytes::from_static);
        Some(pb::Comparison { expected, remove })
    }

    fn compare_and_set(comparison: Option<pb::Comparison>) -> pb::KvOperationRequest {
        pb::KvOperationRequest {
            r#type: OperationType::CompareAndSet.into(),
            meta: None,
            comparison,
            ..put(b"k", b"new")
        }
    }

    fn command_of(request: &pb::KvOperationRequest) -> (Command, bool) {
        match understood(request, 1) {
            Ok(Request::Write { command, grows }) => (Command::decode(&command).unwrap(), grows),
            other => panic!("{other:?}"),
        }
    }

    fn scan_of(key: &'static [u8], scan: Option<pb::Scan>) -> Scan {
        let request = pb::KvOperationRequest {
            r#type: OperationType::Scan.into(),
            key: Bytes::from_static(key),
            scan,
            ..Default::default()
        };
        match understood(&request, 1) {
            Ok(Request::Scan(scan)) => *scan,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_comparison_tells_an_absent_key_from_an_empty_value_and_a_removal_from_one() {
        let op = |expected: Option<&'static [u8]>, new: Option<&'static [u8]>| Command::Write {
            identity: Identity::None,
            op: WriteOp::Cas {
                key: Bytes::from_static(b"k"),
                expected: expected.map(Bytes::from_static),
                new: new.map(Bytes::from_static),
            },
        };
        for expected in [None, Some(&b""[..]), Some(&b"old"[..])] {
            let sets = command_of(&compare_and_set(comparison(expected, false)));
            assert_eq!(sets, (op(expected, Some(b"new")), true));
            let removes = command_of(&compare_and_set(comparison(expected, true)));
            assert_eq!(removes, (op(expected, None), false));
        }
        assert_eq!(
            understood(&compare_and_set(None), 1),
            Err(ClientError::NoComparison.to_string())
        );
        // Without any added field it takes the short way.
        let bare = pb::KvOperationRequest {
            r#type: OperationType::CompareAndSet.into(),
            ..put(b"k", b"new")
        };
        assert!(RequestFields::read_usual(&bare.encode_to_vec()).is_some());
        assert_eq!(
            understood(&bare, 1),
            Err(ClientError::NoComparison.to_string())
        );
    }

    #[test]
    fn a_compare_and_set_that_would_not_fit_an_entry_is_refused() {
        let half = limits::VALUE_BYTES_MAX / 2;
        let request = |bytes: usize| {
            let comparison = Some(pb::Comparison {
                expected: Some(vec![0; bytes].into()),
                remove: false,
            });
            let mut request = compare_and_set(comparison);
            request.value = vec![0; half].into();
            understood(&request, 1)
        };
        assert!(request(half).is_ok());
        let long = half + limits::KEY_BYTES_MAX + limits::COMMAND_OVERHEAD_BYTES;
        let error = request(long).map(drop).unwrap_err();
        assert!(error.starts_with("compare-and-set of 84542"), "{error}");
        let error = request(limits::VALUE_BYTES_MAX + 1).map(drop).unwrap_err();
        assert!(error.starts_with("expected value of 8388609"), "{error}");
    }

    fn batch(operations: Vec<pb::BatchOperation>) -> pb::KvOperationRequest {
        pb::KvOperationRequest {
            r#type: OperationType::Batch.into(),
            operations,
            ..Default::default()
        }
    }

    fn in_batch(kind: OperationType, key: &'static [u8]) -> pb::BatchOperation {
        pb::BatchOperation {
            r#type: kind.into(),
            key: Bytes::from_static(key),
            value: Bytes::from_static(b"v"),
            comparison: None,
        }
    }

    #[test]
    fn a_batch_becomes_the_command_that_its_operations_say() {
        let mut cas = in_batch(OperationType::CompareAndSet, b"d");
        cas.comparison = comparison(Some(b"old"), false);
        let request = batch(vec![
            in_batch(OperationType::Put, b"b"),
            in_batch(OperationType::Update, b"a"),
            in_batch(OperationType::Delete, b"c"),
            cas,
        ]);
        let (key, value) = (|key: &'static [u8]| key, &b"v"[..]);
        let ops = [
            WriteOp::Put {
                key: key(b"b"),
                value,
            },
            WriteOp::Update {
                key: key(b"a"),
                value,
            },
            WriteOp::Remove { key: key(b"c") },
            WriteOp::Cas {
                key: key(b"d"),
                expected: Some(b"old"),
                new: Some(value),
            },
        ];
        let operations = Operations::encode(&ops).unwrap();
        let identity = Identity::None;
        let command = Command::Batch {
            identity,
            operations,
        };
        assert_eq!(command_of(&request), (command, true));
        let removes = batch(vec![in_batch(OperationType::Delete, b"c")]);
        assert!(!command_of(&removes).1, "it needs no room");
    }

    #[test]
    fn a_batch_that_is_wrong_is_refused_with_what_is_wrong_in_which_operation() {
        let refused = |operations| understood(&batch(operations), 1).map(drop).unwrap_err();
        let put = |key| in_batch(OperationType::Put, key);
        assert_eq!(
            refused(vec![put(b"a"), put(b"")]),
            "operation 2 of the batch: empty key"
        );
        assert_eq!(
            refused(vec![in_batch(OperationType::Get, b"a")]),
            "operation 1 of the batch: operation 3 cannot be part of a batch"
        );
        assert_eq!(
            refused(vec![in_batch(OperationType::CompareAndSet, b"a")]),
            "operation 1 of the batch: a compare-and-set needs a comparison"
        );
        assert_eq!(
            refused(vec![put(b"a"), put(b"b"), put(b"a")]),
            "two operations of the batch have the same key"
        );
        assert_eq!(
            refused(Vec::new()),
            "batch of 0 operations, 1 to 128 are allowed"
        );
        assert_eq!(
            refused(vec![put(b"a"); 129]),
            "batch of 129 operations, 1 to 128 are allowed"
        );
    }

    #[test]
    fn a_scan_is_bounded_whatever_it_asks_for() {
        let scan = scan_of(b"", None);
        assert_eq!(
            (scan.entries_max, scan.bytes_max),
            (limits::SCAN_ENTRIES_MAX, limits::SCAN_BYTES_MAX)
        );
        assert_eq!((&scan.from[..], scan.until), (&b""[..], None));
        let wanted = |entries_max, bytes_max| {
            let scan = pb::Scan {
                entries_max,
                bytes_max,
                ..Default::default()
            };
            let scan = scan_of(b"a", Some(scan));
            (scan.entries_max, scan.bytes_max)
        };
        assert_eq!(wanted(7, 8), (7, 8));
        assert_eq!(
            wanted(u32::MAX, u32::MAX),
            (limits::SCAN_ENTRIES_MAX, limits::SCAN_BYTES_MAX)
        );
    }

    proptest! {
        #[test]
        fn a_scan_covers_the_keys_with_its_prefix_between_its_ends(
            key in prop::collection::vec(prop_oneof![0..3_u8, 254..=255_u8], 1..4),
            from in prop::collection::vec(prop_oneof![0..3_u8, 254..=255_u8], 0..4),
            until in prop::collection::vec(prop_oneof![0..3_u8, 254..=255_u8], 0..4),
            prefix in prop::collection::vec(prop_oneof![0..3_u8, 254..=255_u8], 0..3),
        ) {
            let wanted = key.starts_with(&prefix)
                && key >= from
                && (until.is_empty() || key < until);
            let scan = pb::Scan {
                until: until.into(),
                prefix: prefix.into(),
                ..Default::default()
            };
            let Ok(Request::Scan(scan)) = understand_scan(&from, Some(&scan), false) else {
                panic!("a scan");
            };
            let covered = key >= scan.from && scan.until.is_none_or(|until| key < until);
            prop_assert_eq!(covered, wanted);
        }
    }
}
