//! Damage of every kind to a log of several segments: what was acknowledged is found, or
//! the log does not open and says which file, where, and what to do.

use super::recovery;
use super::segment::HEADER_BYTES;
use super::tests::{OPTIONS, Rng, State, entry};
use super::{Batch, Wal, WalError, WalOptions};
use crate::disk::{SegmentId, SimDisk};
use crate::types::{Entry, EntryId, HardState, Index, NodeId, Server, Term};

const SECTOR_BYTES: usize = 512;
const SMALL: WalOptions = WalOptions {
    segment_bytes: 16 << 10,
    ..OPTIONS
};

/// A log at rest.
struct Damaged {
    disk: SimDisk,
    /// What may be found: all, or all but the last batch or two. What is before them is
    /// vouched for by a batch that begins in another sector.
    allowed: Vec<State>,
    /// Where the last two begin.
    tail: (SegmentId, usize),
    whole: State,
    /// The segments, oldest first, and where their batches end.
    segments: Vec<(SegmentId, usize)>,
    tried: u64,
    refused: u64,
}

fn settle(disk: &mut SimDisk, wal: &mut Wal) {
    while let Some(event) = disk.step() {
        wal.on_event(disk, &event).expect("no fault");
    }
}

impl Damaged {
    /// A log that was rolled, truncated, compacted, recycled and started twice.
    fn new() -> Damaged {
        let mut disk = SimDisk::default();
        let (mut wal, _) = Wal::recover(&mut disk, SMALL).expect("an empty disk");
        let (mut last, mut term) = (0, 1);
        let mut append = |wal: &mut Wal, disk: &mut SimDisk, count: u64, bytes| {
            let entries: Vec<Entry> = (last + 1..=last + count)
                .map(|index| entry(term, index, bytes))
                .collect();
            last += count;
            let hard_state = (last % 5 == 0).then(|| {
                term += 1;
                HardState {
                    term: Term(term),
                    voted_for: Some(Server::new(1, 0)),
                }
            });
            let batch = Batch {
                hard_state,
                entries: &entries,
                ..Batch::default()
            };
            wal.append(disk, batch);
            settle(disk, wal);
        };
        for _ in 0..20 {
            append(&mut wal, &mut disk, 3, 700);
        }
        let snapshot = (Index(40), wal.accepted.term_at(Index(40)));
        let mark = EntryId::new(snapshot.1.expect("held").0, snapshot.0.0);
        wal.append(
            &mut disk,
            Batch {
                snapshot_mark: Some(mark),
                ..Batch::default()
            },
        );
        settle(&mut disk, &mut wal);
        wal.compact(&mut disk, mark.index.next());
        for _ in 0..6 {
            append(&mut wal, &mut disk, 2, 900);
        }
        let (mut wal, _) = Wal::recover(&mut disk, SMALL).expect("undamaged");
        settle(&mut disk, &mut wal);
        for _ in 0..7 {
            append(&mut wal, &mut disk, 3, 500);
        }
        let mut allowed = Vec::new();
        let (found, tail) = recovery::recover(&mut disk, &SMALL).expect("undamaged");
        allowed.push(State::of(&found));
        let newest = tail.live.last().expect("a segment");
        let before_last = (newest.info.id, newest.end as usize);
        for bytes in [1500, 40] {
            append(&mut wal, &mut disk, 1, bytes);
            let (found, _) = recovery::recover(&mut disk, &SMALL).expect("undamaged");
            allowed.push(State::of(&found));
        }
        let (whole, tail) = recovery::recover(&mut disk, &SMALL).expect("undamaged");
        let live = tail.live.iter();
        let segments: Vec<_> = live.map(|live| (live.info.id, live.end as usize)).collect();
        assert!(segments.len() >= 4, "several segments: {segments:?}");
        Damaged {
            disk,
            allowed,
            tail: before_last,
            whole: State::of(&whole),
            segments,
            tried: 0,
            refused: 0,
        }
    }

    fn bytes(&mut self, id: SegmentId) -> &mut Vec<u8> {
        self.disk.segment_mut(id).expect("it exists")
    }

    /// Reads the log as it is now: all that was acknowledged, or a refusal that helps.
    fn judge(&mut self, what: &dyn std::fmt::Debug) {
        self.tried += 1;
        match recovery::recover(&mut self.disk, &SMALL) {
            Ok((found, _)) => {
                let found = State::of(&found);
                assert!(
                    self.allowed.contains(&found),
                    "{what:?}: lost without a word"
                );
            }
            Err(error) => {
                self.refused += 1;
                let text = error.to_string();
                assert!(
                    error.is_damage() && text.contains(".wal") && text.contains("--rejoin"),
                    "{what:?}: {text}"
                );
                assert!(
                    !matches!(error, WalError::Corrupt { .. }) || text.contains("offset"),
                    "{what:?}: {text}"
                );
            }
        }
    }

    /// Flips bits of one byte, judges, and flips them back.
    fn flip(&mut self, id: SegmentId, at: usize, mask: u8) {
        self.bytes(id)[at] ^= mask;
        self.judge(&("flip", id, at, mask));
        self.bytes(id)[at] ^= mask;
    }

    /// Puts other bytes into a place, judges, and puts back what was there.
    fn replace(&mut self, what: &str, id: SegmentId, at: usize, with: &[u8]) {
        let bytes = &mut self.bytes(id)[at..at + with.len()];
        let old = bytes.to_vec();
        bytes.copy_from_slice(with);
        self.judge(&(what, id, at));
        self.bytes(id)[at..at + old.len()].copy_from_slice(&old);
    }

    fn sector(&mut self, (id, at): (SegmentId, usize)) -> Vec<u8> {
        self.bytes(id)[at..at + SECTOR_BYTES].to_vec()
    }

    /// The sectors that hold anything.
    fn sectors(&self) -> Vec<(SegmentId, usize)> {
        let used = self.segments.iter();
        used.flat_map(|(id, end)| {
            let headers = [0];
            let batches = (HEADER_BYTES..*end).step_by(SECTOR_BYTES);
            headers.into_iter().chain(batches).map(|at| (*id, at))
        })
        .collect()
    }
}

#[test]
fn a_segment_cut_at_any_byte_is_refused_or_loses_nothing() {
    let mut log = Damaged::new();
    for (id, end) in log.segments.clone() {
        let whole = log.bytes(id).clone();
        for len in (0..whole.len()).rev() {
            // Behind the batches of a segment there is nothing but zeros.
            if len < end + 64 || len % 64 == 0 {
                log.bytes(id).truncate(len);
                log.judge(&("cut", id, len));
            }
        }
        *log.bytes(id) = whole;
    }
    assert_eq!(log.refused, log.tried, "a file that is cut short is told");
}

#[test]
fn a_flipped_bit_of_any_header_or_record_is_refused_or_loses_nothing() {
    let mut log = Damaged::new();
    let magic = 0x4C57_5752_u32.to_le_bytes();
    for (id, end) in log.segments.clone() {
        for at in 0..104 {
            (0..8).for_each(|bit| log.flip(id, at, 1 << bit));
        }
        for at in (104..HEADER_BYTES).step_by(8) {
            log.flip(id, at, 1 << (at / 8 % 8));
        }
        let batches: Vec<usize> = (HEADER_BYTES..end)
            .step_by(8)
            .filter(|at| log.bytes(id)[*at..].starts_with(&magic))
            .collect();
        assert!(!batches.is_empty());
        for batch in batches {
            for at in batch..batch + 40 {
                (0..8).for_each(|bit| log.flip(id, at, 1 << bit));
            }
        }
    }
    let mut rng = Rng(3);
    for _ in 0..4_000 {
        let (id, end) = log.segments[rng.below(log.segments.len() as u64) as usize];
        let at = HEADER_BYTES + rng.below((end - HEADER_BYTES) as u64) as usize;
        log.flip(id, at, 1 << rng.below(8));
    }
    assert!(
        log.refused * 10 > log.tried * 8,
        "most of it is vouched for"
    );
}

#[test]
fn sectors_zeroed_swapped_or_misdirected_are_refused_or_lose_nothing() {
    let mut log = Damaged::new();
    let sectors = log.sectors();
    for (id, at) in &sectors {
        log.replace("zeroed", *id, *at, &[0; SECTOR_BYTES]);
    }
    let mut rng = Rng(4);
    for _ in 0..3_000 {
        let mut pick = || sectors[rng.below(sectors.len() as u64) as usize];
        let (one, other) = (pick(), pick());
        let (first, second) = (log.sector(one), log.sector(other));
        // Two sectors at the end take what was written there and the word for it.
        let at_end =
            |(id, at): (SegmentId, usize)| id == log.tail.0 && at + SECTOR_BYTES > log.tail.1;
        if first == second || (at_end(one) && at_end(other)) {
            continue;
        }
        log.replace("misdirected", other.0, other.1, &first);
        log.bytes(one.0)[one.1..one.1 + SECTOR_BYTES].copy_from_slice(&second);
        log.replace("swapped", other.0, other.1, &first);
        log.bytes(one.0)[one.1..one.1 + SECTOR_BYTES].copy_from_slice(&first);
    }
    assert_eq!(
        State::of(
            &recovery::recover(&mut log.disk, &SMALL)
                .expect("put back")
                .0
        ),
        log.whole
    );
    assert!(log.refused * 10 > log.tried * 8);
}

#[test]
fn segments_that_are_missing_are_named() {
    let log = Damaged::new();
    let ids: Vec<SegmentId> = log.segments.iter().map(|(id, _)| *id).collect();
    let all = log.disk.segment_images();
    for (n, one) in ids.iter().enumerate() {
        for other in &ids[n..] {
            let left = all.clone().into_iter();
            let left = left.filter(|(id, _)| id != one && id != other);
            let mut disk = SimDisk::of(left, []);
            match recovery::recover(&mut disk, &SMALL) {
                // A segment of which the snapshot holds all may be gone.
                Ok((found, _)) => assert_eq!(State::of(&found), log.whole),
                Err(WalError::Corrupt {
                    segment, reason, ..
                }) => {
                    assert!(
                        segment == *one || segment == *other,
                        "{segment:?}: {reason}"
                    );
                    assert!(reason.starts_with("the segment is missing"), "{reason}");
                }
                Err(other) => panic!("{other}"),
            }
        }
    }
    let oldest_gone = SimDisk::of(all.into_iter().filter(|(id, _)| *id != ids[1]), []);
    recovery::recover(&mut { oldest_gone }, &SMALL).expect_err("one in the middle is needed");
}

#[test]
fn segments_that_are_repeated_or_in_the_place_of_another_lose_nothing() {
    let mut log = Damaged::new();
    let all = log.disk.segment_images();
    let last = *all.keys().next_back().expect("not empty");
    for (from, bytes) in &all {
        // Under the name of every other, and under names that are free.
        let places = all.keys().copied();
        let free = [SegmentId(last.0 + 1), SegmentId(last.0 + 7)];
        for to in places.chain(free).filter(|to| to != from) {
            let mut images = all.clone();
            images.insert(to, bytes.clone());
            log.disk = SimDisk::of(images, []);
            log.judge(&("copied", from, to));
        }
    }
    assert!(log.tried > 20);
}

#[test]
fn segments_of_another_node_or_of_an_older_run_are_refused_or_lose_nothing() {
    let mut log = Damaged::new();
    let all = log.disk.segment_images();
    for other in [
        WalOptions {
            node: NodeId(4),
            ..SMALL
        },
        WalOptions {
            incarnation: 9,
            ..SMALL
        },
    ] {
        let mut disk = SimDisk::default();
        let (mut wal, _) = Wal::recover(&mut disk, other).expect("an empty disk");
        settle(&mut disk, &mut wal);
        let foreign = disk.segment_images().pop_first().expect("a segment").1;
        for to in (1..12).map(SegmentId) {
            let mut images = all.clone();
            images.insert(to, foreign.clone());
            log.disk = SimDisk::of(images, []);
            let before = log.refused;
            log.judge(&("foreign", to));
            assert_eq!(log.refused, before + 1, "it is not taken for a spare");
        }
    }
    // As it was when it was half full: a write that the disk has lost.
    let newest = log.segments.len() - 1;
    let older: Vec<_> = log.segments[..newest].to_vec();
    for (id, end) in older {
        for keep in (HEADER_BYTES..end).step_by(1 << 10) {
            let mut images = all.clone();
            images.get_mut(&id).expect("it exists")[keep..].fill(0);
            log.disk = SimDisk::of(images, []);
            log.judge(&("older", id, keep));
        }
    }
}

#[test]
fn a_log_that_was_sealed_vouches_for_its_last_batch() {
    let mut log = Damaged::new();
    let (mut wal, _) = Wal::recover(&mut log.disk, SMALL).expect("undamaged");
    settle(&mut log.disk, &mut wal);
    wal.seal(&mut log.disk);
    assert!(!log.disk.pending());
    let last = entry(log.whole.hard_state.term.0, log.whole.last().0 + 1, 100);
    let batch = Batch {
        entries: std::slice::from_ref(&last),
        ..Batch::default()
    };
    wal.append(&mut log.disk, batch);
    settle(&mut log.disk, &mut wal);
    let before = wal.bytes_in_log();
    wal.seal(&mut log.disk);
    wal.seal(&mut log.disk);
    settle(&mut log.disk, &mut wal);
    assert_eq!(wal.bytes_in_log(), before + 40, "sealed once");
    wal.seal(&mut log.disk);
    let (found, tail) = recovery::recover(&mut log.disk, &SMALL).expect("undamaged");
    let newest = tail.live.last().expect("a segment");
    log.whole = State::of(&found);
    log.allowed = vec![log.whole.clone()];
    assert_eq!(log.whole.entries.last(), Some(&last));
    let (id, sealed) = (newest.info.id, newest.end as usize - 40);
    for at in HEADER_BYTES..sealed {
        log.flip(id, at, 1 << (at % 8));
    }
    assert_eq!(log.refused, log.tried, "all of it is vouched for");
    // The seal itself may go.
    (sealed..sealed + 40).for_each(|at| log.flip(id, at, 1));
}
