use proptest::prelude::*;

use super::*;
use crate::kv::{ClientId, Identity, Operations, Restore};
use crate::limits;

/// Small enough that everything expires and fills up within a few entries.
pub(in crate::kv) const TINY: SessionLimits = SessionLimits {
    implicit_window: 12,
    sessions_max: 3,
    idle_entries: 20,
    window: 4,
};

pub(in crate::kv) fn write(identity: Identity, op: WriteOp) -> Payload {
    Payload::Command(Command::Write { identity, op }.encode())
}

pub(in crate::kv) fn put(key: &str, value: &str) -> WriteOp {
    WriteOp::Put {
        key: Bytes::copy_from_slice(key.as_bytes()),
        value: Bytes::copy_from_slice(value.as_bytes()),
    }
}

pub(in crate::kv) fn update(key: &str, value: &str) -> WriteOp {
    WriteOp::Update {
        key: Bytes::copy_from_slice(key.as_bytes()),
        value: Bytes::copy_from_slice(value.as_bytes()),
    }
}

pub(in crate::kv) fn remove(key: &str) -> WriteOp {
    WriteOp::Remove {
        key: Bytes::copy_from_slice(key.as_bytes()),
    }
}

fn bytes(text: Option<&str>) -> Option<Bytes> {
    text.map(|text| Bytes::copy_from_slice(text.as_bytes()))
}

pub(in crate::kv) fn cas(key: &str, expected: Option<&str>, new: Option<&str>) -> WriteOp {
    WriteOp::Cas {
        key: Bytes::copy_from_slice(key.as_bytes()),
        expected: bytes(expected),
        new: bytes(new),
    }
}

pub(in crate::kv) fn batch(identity: Identity, ops: &[WriteOp]) -> Payload {
    let operations = Operations::encode(ops).expect("a right batch");
    let command = Command::Batch {
        identity,
        operations,
    };
    Payload::Command(command.encode())
}

/// Applies the next entry in term 1.
pub(in crate::kv) fn step(state: &mut StateMachine, payload: &Payload) -> Outcome {
    let index = state.applied().index.next();
    state.apply(EntryId::new(1, index.0), payload)
}

pub(in crate::kv) fn apply(state: &mut StateMachine, op: WriteOp) -> Outcome {
    step(state, &write(Identity::None, op))
}

pub(in crate::kv) fn snapshot(state: &mut StateMachine, budget_bytes: usize) -> Vec<u8> {
    state.begin_snapshot(Bytes::from_static(b"members"), 1 << 20);
    let mut file = Vec::new();
    loop {
        match state.snapshot_next(budget_bytes) {
            SnapshotStep::Chunk(chunk) => file.extend_from_slice(&chunk),
            SnapshotStep::Done {
                total_bytes,
                checksum,
            } => {
                assert_eq!(total_bytes, file.len() as u64);
                assert_eq!(checksum, crc32fast::hash(&file));
                return file;
            }
            SnapshotStep::Abandoned => panic!("nothing is written meanwhile"),
        }
    }
}

pub(in crate::kv) fn restore(file: &[u8], limits: SessionLimits) -> StateMachine {
    let mut restore = Restore::new(limits);
    restore.feed(file).expect("a sound snapshot");
    let (state, configuration) = restore.finish().expect("a whole snapshot");
    assert_eq!(configuration.as_ref(), b"members");
    state
}

/// Payloads of all kinds on few keys, clients and sessions, so that they meet.
pub(in crate::kv) fn payload() -> impl Strategy<Value = Payload> {
    let key = || (0u8..24).prop_map(|n| format!("key-{n:02}"));
    let value = || {
        prop_oneof![
            8 => (0usize..60).prop_map(|len| "v".repeat(len)),
            1 => (1_000usize..3_000).prop_map(|len| "w".repeat(len)),
        ]
    };
    let op = prop_oneof![
        (key(), value()).prop_map(|(key, value)| put(&key, &value)),
        (key(), value()).prop_map(|(key, value)| update(&key, &value)),
        key().prop_map(|key| remove(&key)),
        (key(), prop::option::of(value()), prop::option::of(value()))
            .prop_map(|(key, expected, new)| cas(&key, expected.as_deref(), new.as_deref())),
    ];
    let ops = prop::collection::vec(op.clone(), 1..5).prop_map(|mut ops| {
        ops.sort_by(|a, b| a.key().cmp(b.key()));
        ops.dedup_by(|a, b| a.key() == b.key());
        ops
    });
    let identity = prop_oneof![
        Just(Identity::None),
        (0u128..3, 0u64..6).prop_map(|(client, sequence)| Identity::Implicit {
            client: ClientId(client),
            sequence,
        }),
        (1u64..30, 0u64..9, 0u64..6).prop_map(|(session, sequence, acked_below)| {
            Identity::Session {
                session,
                sequence,
                acked_below,
            }
        }),
    ];
    prop_oneof![
        9 => (identity.clone(), op).prop_map(|(identity, op)| write(identity, op)),
        3 => (identity, ops).prop_map(|(identity, ops)| batch(identity, &ops)),
        2 => Just(Payload::Command(
            Command::OpenSession { client: ClientId(9) }.encode()
        )),
        1 => Just(Payload::Noop),
        1 => Just(Payload::Config(Bytes::from_static(b"later"))),
        1 => Just(Payload::Command(Bytes::from_static(b"garbage"))),
    ]
}

pub(in crate::kv) fn log() -> impl Strategy<Value = Vec<Payload>> {
    prop::collection::vec(payload(), 1..160)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn replicas_of_one_log_are_byte_identical_by_way_of_a_snapshot_too(
        log in log(),
        cut in 0usize..160,
        budget_bytes in 1usize..400,
    ) {
        let mut first = StateMachine::new(TINY);
        let mut second = StateMachine::new(TINY);
        for (at, payload) in log.iter().enumerate() {
            if at == cut {
                second = restore(&snapshot(&mut second, budget_bytes), TINY);
            }
            prop_assert_eq!(step(&mut first, payload), step(&mut second, payload));
            first.check();
            second.check();
        }
        prop_assert_eq!(first.checksum(), second.checksum());
        prop_assert_eq!(first.state_hash(), second.state_hash());
        prop_assert_eq!(snapshot(&mut first, 100), snapshot(&mut second, 100));
    }

    #[test]
    fn a_snapshot_beside_writes_is_the_state_of_its_beginning(
        before in log(),
        slices in prop::collection::vec((1usize..300, prop::collection::vec(payload(), 0..8)), 1..60),
    ) {
        let mut state = StateMachine::new(TINY);
        for payload in &before {
            step(&mut state, payload);
        }
        let (checksum, applied) = (state.checksum(), state.applied());
        let hash = state.state_hash();
        state.begin_snapshot(Bytes::from_static(b"members"), 1 << 20);
        let mut file = Vec::new();
        for (budget_bytes, writes) in slices.iter().cycle() {
            for payload in writes {
                step(&mut state, payload);
            }
            match state.snapshot_next(*budget_bytes) {
                SnapshotStep::Chunk(chunk) => file.extend_from_slice(&chunk),
                SnapshotStep::Done { .. } => break,
                SnapshotStep::Abandoned => prop_assert!(false, "the cap is far"),
            }
        }
        prop_assert!(!state.snapshot_underway());
        let restored = restore(&file, TINY);
        restored.check();
        prop_assert_eq!(restored.applied(), applied);
        prop_assert_eq!(restored.checksum(), checksum);
        prop_assert_eq!(restored.state_hash(), hash);
    }
}

#[test]
fn operations_answer_as_the_contract_says() {
    let mut state = StateMachine::default();
    assert_eq!(apply(&mut state, remove("k")), Outcome::NotFound);
    assert_eq!(apply(&mut state, put("k", "1")), Outcome::Created);
    assert_eq!(apply(&mut state, put("k", "2")), Outcome::KeyExists);
    assert_eq!(state.get_ref(b"k"), Some(&b"1"[..]));
    assert_eq!(apply(&mut state, update("k", "3")), Outcome::Created);
    assert_eq!(apply(&mut state, update("new", "")), Outcome::Created);
    assert_eq!(state.get_ref(b"k"), Some(b"3".as_slice()));
    assert_eq!(
        state.get_ref(b"new"),
        Some(b"".as_slice()),
        "an empty value is one"
    );
    assert_eq!((state.len(), state.data_bytes()), (2, 5));
    assert_eq!(apply(&mut state, remove("k")), Outcome::Removed);
    assert_eq!(state.get_ref(b"k"), None);
    assert_eq!(step(&mut state, &Payload::Noop), Outcome::Noop);
    let garbage = Payload::Command(Bytes::from_static(&[1, 77]));
    assert_eq!(step(&mut state, &garbage), Outcome::Malformed);
    assert_eq!(
        state.applied(),
        EntryId::new(1, 8),
        "every entry moves the position"
    );
}

#[test]
fn a_compare_and_set_changes_a_key_that_holds_what_it_expects_and_no_other() {
    let mut state = StateMachine::default();
    let (a, b) = (Some("a"), Some("b"));
    assert_eq!(apply(&mut state, cas("k", a, b)), Outcome::NotFound);
    assert_eq!(apply(&mut state, cas("k", a, None)), Outcome::NotFound);
    assert_eq!(apply(&mut state, cas("k", None, None)), Outcome::Removed);
    assert!(state.is_empty());
    assert_eq!(apply(&mut state, cas("k", None, a)), Outcome::Created);
    assert_eq!(apply(&mut state, cas("k", None, b)), Outcome::Mismatch);
    assert_eq!(apply(&mut state, cas("k", None, None)), Outcome::Mismatch);
    assert_eq!(apply(&mut state, cas("k", b, None)), Outcome::Mismatch);
    assert_eq!(apply(&mut state, cas("k", Some(""), b)), Outcome::Mismatch);
    assert_eq!(state.get_ref(b"k"), Some(&b"a"[..]));
    assert_eq!(apply(&mut state, cas("k", a, Some(""))), Outcome::Created);
    assert_eq!(state.get_ref(b"k"), Some(&b""[..]));
    assert_eq!(
        apply(&mut state, cas("k", Some(""), None)),
        Outcome::Removed
    );
    assert_eq!(state.get_ref(b"k"), None);
}

#[test]
fn a_batch_names_its_first_operation_that_fails_and_changes_nothing_then() {
    let mut state = StateMachine::default();
    apply(&mut state, put("a", "1"));
    let checksum_of_data = |state: &StateMachine| {
        let all = state.range_from(Bound::Unbounded);
        all.map(|(k, v)| (k.to_vec(), v.to_vec()))
            .collect::<Vec<_>>()
    };
    let before = checksum_of_data(&state);
    for (failing, at) in [
        (put("a", "2"), 2),
        (remove("c"), 2),
        (cas("a", None, None), 2),
        (cas("a", Some("2"), Some("3")), 2),
        (cas("c", Some("2"), Some("3")), 2),
    ] {
        let ops = [update("x", "1"), put("y", "1"), failing, remove("z")];
        let outcome = step(&mut state, &batch(Identity::None, &ops));
        assert_eq!(outcome, Outcome::BatchFailed(at));
        assert_eq!(checksum_of_data(&state), before);
    }
    let ops = [
        update("x", "1"),
        cas("a", Some("1"), Some("2")),
        put("y", ""),
        cas("z", None, None),
    ];
    let outcome = step(&mut state, &batch(Identity::None, &ops));
    assert_eq!(outcome, Outcome::Created);
    let entry = |key: &str, value: &str| (key.as_bytes().to_vec(), value.as_bytes().to_vec());
    let expected = [entry("a", "2"), entry("x", "1"), entry("y", "")];
    assert_eq!(checksum_of_data(&state), expected);
    let ops = [remove("x"), cas("y", Some(""), None)];
    let outcome = step(&mut state, &batch(Identity::None, &ops));
    assert_eq!((outcome, state.len()), (Outcome::Created, 1));
}

#[test]
fn a_batch_is_held_against_the_room_there_is_when_it_is_done() {
    let mut state = StateMachine::default();
    state.set_store_bytes_max(charge_bytes(b"a", &[0; 20]) * 2);
    let twenty = "x".repeat(20);
    let fill = [put("a", &twenty), put("b", &twenty)];
    let outcome = step(&mut state, &batch(Identity::None, &fill));
    assert_eq!(outcome, Outcome::Created);
    let too_much = [update("a", ""), put("c", ""), put("d", "")];
    let outcome = step(&mut state, &batch(Identity::None, &too_much));
    assert_eq!(outcome, Outcome::NoRoom);
    assert_eq!((state.len(), state.data_bytes()), (2, 42));
    let exchange = [put("c", &twenty), remove("a")];
    let outcome = step(&mut state, &batch(Identity::None, &exchange));
    assert_eq!(outcome, Outcome::Created);
    assert_eq!(
        apply(&mut state, cas("b", Some(&twenty), Some("y"))),
        Outcome::Created
    );
    let longer = "x".repeat(40);
    assert_eq!(
        apply(&mut state, cas("b", Some("y"), Some(&longer))),
        Outcome::NoRoom
    );
}

#[test]
fn a_value_that_is_other_a_key_more_and_an_entry_more_each_change_the_hash_of_the_state() {
    let mut state = StateMachine::new(TINY);
    let mut seen = std::collections::BTreeSet::from([state.state_hash()]);
    for op in [
        put("a", "1"),
        update("a", "2"),
        put("b", "1"),
        remove("b"),
        remove("b"),
    ] {
        apply(&mut state, op);
        assert!(seen.insert(state.state_hash()), "after {}", state.applied());
    }
    let mut other = StateMachine::new(TINY);
    for op in [
        put("a", "1"),
        update("a", "3"),
        put("b", "1"),
        remove("b"),
        remove("b"),
    ] {
        apply(&mut other, op);
    }
    assert_eq!(other.applied(), state.applied());
    assert_ne!(other.state_hash(), state.state_hash());
}

#[test]
fn a_get_of_a_missing_key_changes_nothing() {
    let state = StateMachine::default();
    let checksum = state.checksum();
    assert_eq!(state.get_ref(b"missing"), None);
    assert_eq!((state.len(), state.checksum()), (0, checksum));
}

#[test]
#[should_panic(expected = "follows")]
fn a_skipped_entry_is_not_applied() {
    StateMachine::default().apply(EntryId::new(1, 2), &Payload::Noop);
}

#[test]
#[should_panic(expected = "term went back")]
fn an_entry_of_an_older_term_is_not_applied() {
    let mut state = StateMachine::default();
    state.apply(EntryId::new(2, 1), &Payload::Noop);
    state.apply(EntryId::new(1, 2), &Payload::Noop);
}

#[test]
fn a_full_store_refuses_growth_only_and_takes_it_again_after_a_remove() {
    let mut state = StateMachine::default();
    state.set_store_bytes_max(charge_bytes(b"a", &[0; 20]) * 2);
    let twenty = "x".repeat(20);
    assert_eq!(apply(&mut state, put("a", &twenty)), Outcome::Created);
    assert_eq!(apply(&mut state, put("b", &twenty)), Outcome::Created);
    let identity = Identity::Implicit {
        client: ClientId(1),
        sequence: 1,
    };
    let refused = write(identity, put("c", ""));
    assert_eq!(step(&mut state, &refused), Outcome::NoRoom);
    assert_eq!(apply(&mut state, put("a", "")), Outcome::KeyExists);
    assert_eq!(
        apply(&mut state, update("a", &"x".repeat(21))),
        Outcome::NoRoom
    );
    assert_eq!(
        apply(&mut state, update("a", &"y".repeat(20))),
        Outcome::Created
    );
    assert_eq!(apply(&mut state, remove("b")), Outcome::Removed);
    assert_eq!(
        step(&mut state, &refused),
        Outcome::NoRoom,
        "that write is answered"
    );
    assert_eq!(apply(&mut state, put("c", "")), Outcome::Created);
}

#[test]
fn pressure_rises_with_before_images_and_falls_when_the_walk_goes_on() {
    let mut state = StateMachine::default();
    let value = "v".repeat(1_000);
    for n in 0..100 {
        apply(&mut state, put(&format!("{n:03}"), &value));
    }
    let checksum = state.checksum();
    state.begin_snapshot(Bytes::from_static(b"members"), 10_000);
    let mut file = Vec::new();
    let mut advanced = 0;
    for n in (0..100).rev() {
        while state.snapshot_pressure() {
            advanced += 1;
            if let SnapshotStep::Chunk(chunk) = state.snapshot_next(4_096) {
                file.extend_from_slice(&chunk);
            }
        }
        apply(&mut state, remove(&format!("{n:03}")));
    }
    assert!(advanced > 0, "100 KB of images went over a cap of 10 KB");
    while let SnapshotStep::Chunk(chunk) = state.snapshot_next(4_096) {
        file.extend_from_slice(&chunk);
    }
    assert_eq!(
        restore(&file, SessionLimits::default()).checksum(),
        checksum
    );
}

#[test]
fn a_walk_whose_owner_ignores_the_pressure_is_abandoned() {
    let mut state = StateMachine::default();
    let large = "v".repeat(limits::VALUE_BYTES_MAX);
    for n in 0..3 {
        apply(&mut state, put(&format!("{n}"), &large));
    }
    state.begin_snapshot(Bytes::new(), 1_000);
    apply(&mut state, remove("0"));
    assert!(state.snapshot_pressure() && state.snapshot_underway());
    apply(&mut state, update("1", ""));
    assert!(!state.snapshot_underway());
    assert_eq!(state.snapshot_next(1_000), SnapshotStep::Abandoned);
    state.begin_snapshot(Bytes::new(), 1_000);
    state.abort_snapshot();
    assert_eq!(state.snapshot_next(1_000), SnapshotStep::Abandoned);
}

#[test]
fn a_chunk_is_as_large_as_its_budget_and_one_record() {
    let mut state = StateMachine::default();
    for n in 0..200 {
        apply(&mut state, put(&format!("{n:03}"), &"v".repeat(89)));
    }
    state.begin_snapshot(Bytes::new(), 1_000);
    let mut chunks = 0;
    while let SnapshotStep::Chunk(chunk) = state.snapshot_next(1_000) {
        assert!(!chunk.is_empty() && chunk.len() <= 1_000 + 100 + 13);
        chunks += 1;
    }
    assert_eq!(chunks, 1 + 20 + 1);
}
