use proptest::prelude::*;

use crate::kv::command::{ClientId, Command, Identity};
use crate::kv::restore::{Restore, SnapshotError, verify};
use crate::kv::state_machine::tests::{TINY, put, restore, snapshot, step, write};
use crate::kv::{Outcome, SessionLimits, StateMachine};
use crate::types::{EntryId, Payload};

use super::*;

/// A state with something in each part.
fn small_state() -> StateMachine {
    let mut state = StateMachine::new(TINY);
    let open = Command::OpenSession {
        client: ClientId(5),
    };
    step(&mut state, &Payload::Command(open.encode()));
    let session = Identity::Session {
        session: 1,
        sequence: 2,
        acked_below: 1,
    };
    assert_eq!(
        step(&mut state, &write(session, put("a", "1"))),
        Outcome::Created
    );
    let implicit = Identity::Implicit {
        client: ClientId(6),
        sequence: 1,
    };
    step(&mut state, &write(implicit, put("a", "2")));
    step(&mut state, &write(Identity::None, put("bb", "")));
    state
}

#[test]
fn every_changed_byte_and_every_cut_is_found() {
    let file = snapshot(&mut small_state(), 10);
    verify(&file, TINY).expect("sound as it is");
    for at in 0..file.len() {
        for change in [1, 0x80, 0xFF] {
            let mut bad = file.clone();
            bad[at] ^= change;
            let result = verify(&bad, TINY);
            assert!(result.is_err(), "byte {at} changed: {result:?}");
        }
        assert!(verify(&file[..at], TINY).is_err(), "cut at {at}");
    }
    let mut longer = file.clone();
    longer.push(0);
    assert!(verify(&longer, TINY).is_err(), "a byte more");
}

#[test]
fn the_largest_entries_and_a_full_block_of_small_ones_come_back() {
    let mut state = StateMachine::default();
    let value = "v".repeat(limits::VALUE_BYTES_MAX);
    let key = "k".repeat(limits::KEY_BYTES_MAX);
    for n in 0..50 {
        step(
            &mut state,
            &write(Identity::None, put(&format!("{n:02}"), "small")),
        );
    }
    let outcome = step(&mut state, &write(Identity::None, put(&key, &value)));
    assert_eq!(outcome, Outcome::Created);
    step(&mut state, &write(Identity::None, put("l", &value)));
    let file = snapshot(&mut state, usize::MAX);
    let restored = restore(&file, SessionLimits::default());
    assert_eq!(restored.checksum(), state.checksum());
    assert_eq!(restored.get_ref(key.as_bytes()), Some(value.as_bytes()));
}

#[test]
fn errors_say_where() {
    let file = snapshot(&mut small_state(), 1 << 10);
    let header_bytes = HEADER_FIXED_BYTES + b"members".len() + CRC_BYTES;
    let mut bad = file.clone();
    bad[header_bytes + BLOCK_FIXED_BYTES] ^= 1;
    let error = SnapshotError::Corrupt {
        offset_bytes: header_bytes as u64,
        reason: "checksum does not match",
    };
    let mut restore = Restore::new(TINY);
    assert_eq!(restore.feed(&bad), Err(error));
    assert_eq!(restore.feed(&file), Err(error), "it stays");
    assert_eq!(restore.finish().map(|_| ()), Err(error));
    let cut = SnapshotError::Truncated { offset_bytes: 50 };
    assert_eq!(verify(&file[..50], TINY), Err(cut));
    // A version that is not under the checksum is damage.
    let header_error = || SnapshotError::Corrupt {
        offset_bytes: 0,
        reason: "checksum does not match",
    };
    let mut newer = file;
    newer[8] = 2;
    assert_eq!(verify(&newer, TINY).map(|_| ()), Err(header_error()));
    let configuration_bytes = u32::from_le_bytes(newer[28..32].try_into().unwrap()) as usize;
    let end = 32 + configuration_bytes;
    let crc = crc32fast::hash(&newer[..end]).to_le_bytes();
    newer[end..end + 4].copy_from_slice(&crc);
    assert_eq!(
        verify(&newer, TINY),
        Err(SnapshotError::Version { found: 2 })
    );
}

#[test]
fn lengths_beyond_the_limits_are_refused_before_anything_is_read_for_them() {
    let file = snapshot(&mut small_state(), 1 << 10);
    let header_bytes = HEADER_FIXED_BYTES + b"members".len() + CRC_BYTES;
    let mut bad = file[..header_bytes].to_vec();
    bad.push(KIND_ENTRIES);
    bad.extend_from_slice(&1u32.to_le_bytes());
    bad.extend_from_slice(&u32::MAX.to_le_bytes());
    assert!(matches!(
        verify(&bad, TINY),
        Err(SnapshotError::Corrupt {
            reason: "block longer than any",
            ..
        })
    ));
}

/// A file with one block whose checksums are right.
fn forged(kind: u8, fill: impl FnOnce(&mut Block)) -> Vec<u8> {
    let mut writer = SnapshotWriter::default();
    let mut file = writer.header(EntryId::new(1, 100), b"").to_vec();
    let mut block = Block::new(kind, 100);
    fill(&mut block);
    file.extend_from_slice(&writer.block(block));
    file
}

#[test]
fn well_formed_nonsense_is_refused() {
    let reason = |file: Vec<u8>| match verify(&file, SessionLimits::default()) {
        Err(SnapshotError::Corrupt { reason, .. }) => reason,
        other => panic!("{other:?}"),
    };
    let record = |client, index, code| ImplicitRecord::new(ClientId(client), 1, index, code);
    let implicit = |records: &[ImplicitRecord]| {
        let records = records.to_vec();
        forged(KIND_IMPLICIT, move |block| {
            records
                .iter()
                .for_each(|record| block.push_implicit(record));
        })
    };
    assert_eq!(reason(forged(KIND_ENTRIES, |_| {})), "empty block");
    let twice = forged(KIND_ENTRIES, |block| {
        block.push_entry(b"k", b"");
        block.push_entry(b"k", b"");
    });
    assert_eq!(reason(twice), "keys out of order");
    let empty_key = forged(KIND_ENTRIES, |block| block.push_entry(b"", b"v"));
    assert_eq!(reason(empty_key), "key of an impossible length");
    assert_eq!(
        reason(implicit(&[record(1, 9, 99)])),
        "implicit session with an unknown outcome"
    );
    assert_eq!(
        reason(implicit(&[record(1, 101, 1)])),
        "implicit session from behind the snapshot's entry"
    );
    assert_eq!(
        reason(implicit(&[record(1, 9, 1), record(2, 9, 1)])),
        "implicit sessions out of log order"
    );
    assert_eq!(
        reason(implicit(&[record(1, 9, 1), record(1, 10, 1)])),
        "implicit session twice"
    );
    let session = |acked_below, answers: &[u8]| ExplicitSession {
        client: ClientId(1),
        last_used: 50,
        acked_below,
        answers: answers.to_vec().into(),
    };
    let stale = session(1, &[1, 0]);
    assert_eq!(
        reason(forged(KIND_EXPLICIT, |block| block.push_explicit(3, &stale))),
        "session with an impossible window"
    );
    let early = session(1, &[1]);
    assert_eq!(
        reason(forged(KIND_EXPLICIT, |block| block.push_explicit(51, &early))),
        "session used before it was opened or behind the snapshot's entry"
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn random_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..200), is_begun in any::<bool>()) {
        let mut file = Vec::new();
        if is_begun {
            file.extend_from_slice(&SnapshotWriter::default().header(EntryId::new(1, 1), b""));
        }
        file.extend_from_slice(&bytes);
        prop_assert!(verify(&file, TINY).is_err());
    }

    #[test]
    fn random_blocks_with_right_checksums_never_panic(
        kind in 1u8..4,
        records in 0u32..4,
        body in prop::collection::vec(prop_oneof![Just(0u8), 1u8..9, any::<u8>()], 0..120),
    ) {
        let file = forged(kind, |block| {
            block.records = records;
            block.buffer.extend_from_slice(&body);
        });
        prop_assert!(verify(&file, TINY).is_err());
    }

    #[test]
    fn the_pieces_that_it_arrives_in_do_not_matter(cuts in prop::collection::vec(1usize..50, 1..20)) {
        let mut state = small_state();
        let file = snapshot(&mut state, 30);
        let mut pieces = Restore::new(TINY);
        let mut rest = &file[..];
        for cut in cuts.iter().cycle() {
            let (piece, behind) = rest.split_at(rest.len().min(*cut));
            pieces.feed(piece).expect("sound");
            rest = behind;
            if rest.is_empty() {
                break;
            }
        }
        let info = pieces.info().expect("whole");
        prop_assert_eq!(info.checksum, crc32fast::hash(&file));
        prop_assert_eq!(info.total_bytes, file.len() as u64);
        prop_assert_eq!((info.keys, info.data_bytes), (2, 4));
        let (restored, _) = pieces.finish().expect("whole");
        prop_assert_eq!(restored.checksum(), state.checksum());
        prop_assert_eq!(restore(&file, TINY).checksum(), state.checksum());
    }
}
