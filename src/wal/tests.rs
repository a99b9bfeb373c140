//! The log against a model, on a disk that loses what a real one may lose.

use bytes::Bytes;
use proptest::prelude::*;

use super::record::{Position, Salt, scan};
use super::recovery;
use super::segment::{HEADER_BYTES, HeaderPage, SegmentHeader};
use super::{Batch, BatchSeq, Recovered, Wal, WalError, WalOptions, summarize_segment};
use crate::disk::{Disk, DiskEvent, SegmentId, SimDisk};
use crate::mem::Buffer;
use crate::types::{Entry, EntryId, HardState, Index, NodeId, Payload, Server, Term};

pub(super) const OPTIONS: WalOptions = WalOptions {
    node: NodeId(3),
    cluster_id: 77,
    incarnation: 0x5eed,
    segment_bytes: 24 << 10,
    first_segment_bytes: 16 << 10,
};

/// SplitMix64: a stream of numbers from one.
pub(super) struct Rng(pub(super) u64);

impl Rng {
    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(super) fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }
}

/// What recovery must find after some record.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct State {
    pub(super) hard_state: HardState,
    pub(super) mark: EntryId,
    pub(super) entries: Vec<Entry>,
}

impl State {
    pub(super) fn of(recovered: &Recovered) -> State {
        State {
            hard_state: recovered.hard_state,
            mark: recovered.snapshot_mark,
            entries: recovered.entries.clone(),
        }
    }

    pub(super) fn last(&self) -> Index {
        Index(self.mark.index.0 + self.entries.len() as u64)
    }

    pub(super) fn truncate(&mut self, from: Index) {
        self.entries.retain(|entry| entry.id.index < from);
    }

    pub(super) fn set_mark(&mut self, mark: EntryId) {
        let holds = self.mark == mark || self.entries.iter().any(|entry| entry.id == mark);
        if holds {
            self.entries.retain(|entry| entry.id.index > mark.index);
        } else {
            self.entries.clear();
        }
        self.mark = mark;
    }

    /// What each record of a batch makes of this state, in the order of the records.
    pub(super) fn after_records_of(&self, batch: Batch<'_>) -> Vec<State> {
        let mut states = Vec::new();
        let mut state = self.clone();
        if let Some(hard_state) = batch.hard_state {
            state.hard_state = hard_state;
            states.push(state.clone());
        }
        if let Some(from) = batch.truncate_from {
            state.truncate(from);
            states.push(state.clone());
        }
        if let Some(mark) = batch.snapshot_mark {
            state.set_mark(mark);
            states.push(state.clone());
        }
        for entry in batch.entries {
            state.entries.push(entry.clone());
            states.push(state.clone());
        }
        states
    }
}

pub(super) fn entry(term: u64, index: u64, bytes: usize) -> Entry {
    let data = Bytes::from(vec![(term ^ index) as u8; bytes]);
    let payload = match index % 7 {
        0 => Payload::Noop,
        1 => Payload::Config(data),
        _ => Payload::Command(data),
    };
    Entry {
        id: EntryId::new(term, index),
        payload,
    }
}

/// A log, its disk, and every state that it may be found in.
struct World {
    disk: SimDisk,
    wal: Wal,
    /// After each record since the last recovery, with the number of its batch.
    states: Vec<(u64, State)>,
}

impl World {
    fn new() -> World {
        let mut disk = SimDisk::new();
        let (wal, recovered) = Wal::recover(&mut disk, OPTIONS).expect("an empty disk");
        assert_eq!(State::of(&recovered), State::default());
        World {
            disk,
            wal,
            states: vec![(1, State::default())],
        }
    }

    fn state(&self) -> &State {
        &self.states.last().expect("never empty").1
    }

    fn deliver(&mut self, event: Option<DiskEvent>) {
        if let Some(event) = event {
            let before = self.wal.durable();
            let progress = self.wal.on_event(&mut self.disk, &event).expect("no fault");
            assert!(self.wal.durable() >= before);
            assert_eq!(
                progress.durable.is_some(),
                self.wal.durable() > before,
                "progress tells whether the watermark moved"
            );
        }
    }

    fn settle(&mut self) {
        while let Some(event) = self.disk.step() {
            self.deliver(Some(event));
        }
    }

    fn append(&mut self, batch: Batch<'_>) -> BatchSeq {
        let seq = self.wal.append(&mut self.disk, batch);
        let records = self.state().after_records_of(batch);
        let numbered = records.into_iter().map(|state| (seq.0, state));
        self.states.extend(numbered);
        seq
    }

    fn append_entries(&mut self, count: u64, bytes: usize) -> BatchSeq {
        let first = self.state().last().0 + 1;
        let term = self.state().hard_state.term.0.max(1);
        let entries: Vec<Entry> = (first..first + count)
            .map(|index| entry(term, index, bytes))
            .collect();
        self.append(Batch {
            entries: &entries,
            ..Batch::default()
        })
    }

    fn append_random(&mut self, rng: &mut Rng) {
        let state = self.state().clone();
        let mut hard_state = None;
        let mut term = state.hard_state.term;
        if rng.below(4) == 0 {
            term = Term(term.0 + rng.below(2));
            let voted_for = (rng.below(2) == 0).then(|| Server::new(rng.below(7), rng.below(2)));
            hard_state = Some(HardState { term, voted_for });
        }
        let mut model = state.clone();
        let mut truncate_from = None;
        if rng.below(5) == 0 {
            let from = Index(state.mark.index.0 + 1 + rng.below(state.entries.len() as u64 + 2));
            model.truncate(from);
            truncate_from = Some(from);
        }
        let mut snapshot_mark = None;
        if rng.below(5) == 0 {
            let index = model.mark.index.0 + rng.below(model.entries.len() as u64 + 1);
            let held = model.entries.iter().find(|entry| entry.id.index.0 == index);
            let mark = match (held, rng.below(8)) {
                // Installed: ahead of the log, or in conflict with it.
                (_, 0) => EntryId::new(term.0 + 1, model.last().0 + 1 + rng.below(5)),
                (Some(held), 1) => EntryId::new(held.id.term.0 + 1, index),
                (Some(held), _) => held.id,
                (None, _) => model.mark,
            };
            model.set_mark(mark);
            snapshot_mark = Some(mark);
        }
        let count = rng.below(6);
        let last_term = model
            .entries
            .last()
            .map_or(model.mark.term, |last| last.id.term);
        let first = model.last().0 + 1;
        let entries: Vec<Entry> = (first..first + count)
            .map(|index| {
                let bytes = if rng.below(8) == 0 { 6000 } else { 300 };
                entry(term.0.max(last_term.0), index, rng.below(bytes) as usize)
            })
            .collect();
        self.append(Batch {
            hard_state,
            truncate_from,
            snapshot_mark,
            entries: &entries,
        });
    }

    /// The states that a crash may leave now.
    fn allowed(&self) -> Vec<&State> {
        let durable = self.wal.durable().0.max(1);
        let first = self.states.iter().rposition(|(seq, _)| *seq <= durable);
        let first = first.expect("the first state is of the opening");
        self.states[first..]
            .iter()
            .map(|(_, state)| state)
            .collect()
    }

    fn crash(&mut self, coin: &mut dyn FnMut() -> u64) {
        self.disk.crash(coin);
        let (wal, recovered) = Wal::recover(&mut self.disk, OPTIONS)
            .unwrap_or_else(|error| panic!("a crash is not damage: {error}"));
        let found = State::of(&recovered);
        assert!(
            self.allowed().contains(&&found),
            "durable {:?} of {:?}; found {found:?}",
            self.wal.durable(),
            self.wal.appended()
        );
        self.wal = wal;
        self.states = vec![(1, found)];
    }

    fn recover(&mut self) -> Result<Recovered, WalError> {
        recovery::recover(&mut self.disk, &OPTIONS).map(|(recovered, _)| recovered)
    }
}

fn run(steps: &[u8], seed: u64) -> World {
    let mut world = World::new();
    let mut rng = Rng(seed);
    for step in steps {
        match step % 16 {
            0..=5 => world.append_random(&mut rng),
            6..=8 => {
                let event = world.disk.complete_syncs(1 + rng.below(3) as usize);
                world.deliver(event);
            }
            9..=11 => {
                let event = world.disk.step_background();
                world.deliver(event);
            }
            12 => {
                let keep_from = Index(world.state().last().0.saturating_sub(rng.below(9)));
                world.wal.compact(&mut world.disk, keep_from);
            }
            13 => world.settle(),
            14 => {
                let full = rng.below(3) == 0;
                world.disk.set_no_space(full);
                if !full {
                    world.wal.retry_space(&mut world.disk);
                }
            }
            // A killed process, or a power failure.
            _ if rng.below(4) == 0 => world.crash(&mut || 1),
            _ => world.crash(&mut || rng.next()),
        }
    }
    world
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 400,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn a_crash_keeps_all_that_is_durable_and_nothing_that_was_not_appended(
        steps in prop::collection::vec(any::<u8>(), 0..250),
        seed in any::<u64>(),
    ) {
        let mut world = run(&steps, seed);
        let mut rng = Rng(!seed);
        for _ in 0..3 {
            world.crash(&mut || rng.next());
        }
        // A log that went through all that still works.
        world.disk.set_no_space(false);
        world.wal.retry_space(&mut world.disk);
        let seq = world.append_entries(3, 100);
        world.settle();
        prop_assert_eq!(world.wal.durable(), seq);
        prop_assert!(world.wal.is_open());
        let found = State::of(&world.recover().expect("not damaged"));
        prop_assert_eq!(&found, world.state());
    }

    #[test]
    fn damage_below_the_durable_mark_is_refused_and_above_it_is_cut(
        steps in prop::collection::vec(any::<u8>(), 0..150),
        seed in any::<u64>(),
    ) {
        let mut world = run(&steps, seed);
        let mut rng = Rng(!seed);
        world.disk.set_no_space(false);
        world.wal.retry_space(&mut world.disk);
        for _ in 0..3 {
            world.append_random(&mut rng);
            world.settle();
        }
        world.crash(&mut || 1);
        let (_, tail) = recovery::recover(&mut world.disk, &OPTIONS).expect("whole");
        let mark = tail.mark.expect("batches carry marks");
        // A word at a segment's end vouches for all of it, and for the header of the next.
        let newest = tail.live.last().map(|newest| newest.info.id);
        let is_header = |at: Position| Some(at.segment) == newest && at.offset < HEADER_BYTES as u64;
        let vouched: Vec<SegmentId> = tail.live.iter().map(|live| live.info).filter(|info| {
            let mut bytes = vec![0; info.len as usize];
            world.disk.recover_segment(info.id, 0, &mut bytes).expect("a segment");
            let salt = Salt::new(OPTIONS.incarnation, info.id);
            scan(&bytes, HEADER_BYTES, salt).any(|(_, header)| header.mark.segment > info.id)
        }).map(|info| info.id).collect();
        prop_assume!(!tail.live.is_empty());
        for _ in 0..20 {
            let segment = tail.live[rng.below(tail.live.len() as u64) as usize];
            let at = Position { segment: segment.info.id, offset: rng.below(segment.end) };
            let mask = 1 << rng.below(8);
            world.disk.damage_segment(at.segment, at.offset, mask);
            match world.recover() {
                Err(WalError::Corrupt { reason: recovery::SEGMENT_MISSING, .. }) => {}
                Err(WalError::Corrupt { segment, offset_bytes, .. }) => {
                    let is_vouched = at < mark || is_header(at) || vouched.contains(&at.segment);
                    prop_assert!(is_vouched, "{at:?} is not below {mark:?}");
                    let told = Position { segment, offset: offset_bytes };
                    prop_assert!(told <= at, "{told:?} is told, {at:?} is damaged");
                }
                Err(other) => prop_assert!(false, "{at:?}: {other}"),
                Ok(_) => prop_assert!(at >= mark, "{at:?} is below {mark:?}, unnoticed"),
            }
            world.disk.damage_segment(at.segment, at.offset, mask);
        }
    }

    #[test]
    fn any_bytes_can_be_read_as_a_segment(
        mut bytes in prop::collection::vec(any::<u8>(), 0..6000),
        flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
        real in any::<bool>(),
    ) {
        if real {
            bytes = segment_bytes();
            for (at, mask) in flips {
                let at = at.index(bytes.len());
                bytes[at] ^= mask;
            }
        }
        let summary = summarize_segment(&bytes, SegmentId(1), OPTIONS.incarnation);
        prop_assert!(summary.end <= bytes.len().max(HEADER_BYTES) as u64);
    }
}

fn segment_bytes() -> Vec<u8> {
    let mut world = World::new();
    world.settle();
    world.append_entries(5, 100);
    world.settle();
    let mut bytes = vec![0; 16 << 10];
    world
        .disk
        .recover_segment(SegmentId(1), 0, &mut bytes)
        .expect("it exists");
    bytes
}

#[test]
fn the_first_batch_is_durable_only_after_its_sync() {
    let mut world = World::new();
    let seq = world.append(Batch {
        hard_state: Some(HardState {
            term: Term(1),
            voted_for: Some(Server::new(3, 8)),
        }),
        ..Batch::default()
    });
    assert_eq!((seq, world.wal.durable()), (BatchSeq(2), BatchSeq(0)));
    let ready = world.disk.step_background();
    assert_eq!(ready, Some(DiskEvent::SegmentReady(SegmentId(1))));
    world.deliver(ready);
    assert!(!world.wal.is_open());
    world.settle();
    assert_eq!(world.wal.durable(), seq);
    world.crash(&mut || 0);
    assert_eq!(world.state().hard_state.voted_for, Some(Server::new(3, 8)));
}

#[test]
fn a_batch_larger_than_a_segment_is_split_and_durable_with_its_last_part() {
    let mut world = World::new();
    world.settle();
    assert_eq!(world.wal.waits_at(), None);
    let seq = world.append_entries(40, 2000);
    let mut waits = vec![world.wal.waits_at()];
    while let Some(event) = world.disk.step() {
        assert!(world.wal.durable() < seq);
        world.deliver(Some(event));
        waits.push(world.wal.waits_at());
        if world.wal.waiting() > 0 {
            assert!(world.wal.durable() < seq);
        }
        if world.wal.durable() == seq {
            break;
        }
    }
    assert_eq!(world.wal.durable(), seq);
    let segments = world.wal.counters().segments;
    assert!(segments >= 4, "{segments} segments for 80,000 bytes");
    // A disk that is slow is told from one that hangs by what is durable of the batch.
    waits.dedup();
    assert!(waits.len() >= 4 && waits.is_sorted(), "{waits:?}");
    world.crash(&mut || 0);
    assert_eq!(world.state().entries.len(), 40);
}

#[test]
fn an_entry_larger_than_a_segment_gets_one_of_its_own_size() {
    let mut world = World::new();
    world.settle();
    world.append_entries(8, 100);
    world.append_entries(1, 100_000);
    let seq = world.append_entries(8, 100);
    world.settle();
    assert_eq!(world.wal.durable(), seq);
    assert_eq!(world.wal.waiting(), 0);
    world.crash(&mut || 0);
    assert_eq!(world.state().entries.len(), 17);
}

#[test]
fn compaction_keeps_what_the_snapshot_does_not_hold_and_recycles_the_rest() {
    let mut world = World::new();
    world.settle();
    for _ in 0..60 {
        world.append_entries(4, 500);
        world.settle();
    }
    let before = world.wal.bytes_in_log();
    let files = world.disk.segments().expect("a list").len();
    // Without a durable mark nothing may go.
    world.wal.compact(&mut world.disk, Index(200));
    assert_eq!(world.wal.bytes_in_log(), before);
    let mark = EntryId::new(1, 200);
    world.append(Batch {
        snapshot_mark: Some(mark),
        ..Batch::default()
    });
    world.settle();
    assert!(world.wal.bytes_in_log() < before / 3);
    // What is kept to be recycled is no part of the log, though it is there: behind a gap.
    let kept: Vec<u64> = world
        .disk
        .segments()
        .expect("a list")
        .iter()
        .map(|info| info.id.0)
        .collect();
    assert!(kept.len() < files, "{kept:?}");
    let gap = kept.windows(2).filter(|pair| pair[0] + 1 != pair[1]);
    assert_eq!(gap.count(), 1, "{kept:?}");
    for _ in 0..60 {
        world.append_entries(4, 500);
        world.settle();
    }
    let left = world.disk.segments().expect("a list").len();
    assert!(
        left <= files + 2,
        "{left}: what was kept is used, {files} before"
    );
    world.crash(&mut || 1);
    assert_eq!(world.state().mark, mark);
    assert_eq!(world.state().entries.len(), 280);
}

#[test]
fn a_recycled_segment_never_brings_old_records_back() {
    let mut world = World::new();
    world.settle();
    let mut rng = Rng(1);
    for round in 1..40 {
        for _ in 0..5 {
            world.append_entries(4, 700);
            world.settle();
        }
        let last = world.state().last();
        world.append(Batch {
            snapshot_mark: Some(EntryId::new(1, last.0)),
            ..Batch::default()
        });
        world.wal.compact(&mut world.disk, last.next());
        world.settle();
        let files = world.disk.segments().expect("a list").len();
        assert!(files <= 5, "round {round}: {files} segments");
        let report = world.recover().expect("not damaged").report;
        assert_eq!(report.torn, None, "old records are not even a torn tail");
        // Every crash finds a state of now: `crash` checks it.
        if round % 3 == 0 {
            world.append_entries(2, 900);
            world.crash(&mut || rng.next());
            world.settle();
        }
    }
}

#[test]
fn without_room_for_a_segment_batches_wait_and_go_on_when_there_is_some() {
    let mut world = World::new();
    world.settle();
    world.disk.set_no_space(true);
    while !world.wal.stalled_for_space() {
        world.append_entries(1, 1000);
        world.settle();
    }
    assert_eq!(world.wal.durable(), world.wal.appended(), "half is left");
    let seq = world.append_entries(20, 1000);
    world.settle();
    assert!(world.wal.durable() < seq);
    assert_eq!(world.wal.waiting(), 1);
    world.wal.retry_space(&mut world.disk);
    world.settle();
    assert!(world.wal.stalled_for_space());
    world.disk.set_no_space(false);
    world.wal.retry_space(&mut world.disk);
    assert!(!world.wal.stalled_for_space());
    world.settle();
    assert_eq!(world.wal.durable(), seq);
}

#[test]
fn a_failed_sync_is_an_error_and_its_batch_is_not_durable() {
    let mut world = World::new();
    world.settle();
    let durable = world.wal.durable();
    world.disk.fail_next_sync();
    world.append_entries(1, 10);
    let event = world.disk.step().expect("an answer");
    let error = world.wal.on_event(&mut world.disk, &event).unwrap_err();
    assert!(matches!(error, WalError::Disk { .. }), "{error}");
    assert_eq!(world.wal.durable(), durable);
}

#[test]
fn a_segment_of_another_owner_is_refused() {
    let mut world = World::new();
    world.settle();
    let others = [
        WalOptions {
            node: NodeId(4),
            ..OPTIONS
        },
        WalOptions {
            cluster_id: 78,
            ..OPTIONS
        },
        WalOptions {
            incarnation: 1,
            ..OPTIONS
        },
    ];
    for options in others {
        let error = Wal::recover(&mut world.disk, options).unwrap_err();
        assert!(matches!(error, WalError::Foreign { .. }), "{error}");
        assert!(!world.disk.pending(), "nothing may be changed");
    }
}

#[test]
fn a_segment_of_a_newer_format_is_refused() {
    let mut world = World::new();
    world.settle();
    let mut page = vec![0; HEADER_BYTES];
    world
        .disk
        .recover_segment(SegmentId(1), 0, &mut page)
        .expect("it exists");
    assert!(matches!(SegmentHeader::decode(&page), HeaderPage::Valid(_)));
    page[8] = 2;
    let mut crc = crc32fast::Hasher::new();
    crc.update(&page[..12]);
    crc.update(&page[16..]);
    page[12..16].copy_from_slice(&crc.finalize().to_le_bytes());
    world.disk.store(SegmentId(1), 0, Buffer::from(&page[..]));
    world.disk.crash(&mut || 1);
    let error = world.recover().unwrap_err();
    assert!(matches!(error, WalError::Unsupported { .. }), "{error}");
}

#[test]
fn a_segment_missing_from_the_middle_is_refused() {
    let mut world = World::new();
    world.settle();
    for _ in 0..40 {
        world.append_entries(4, 500);
        world.settle();
    }
    let ids: Vec<SegmentId> = world
        .disk
        .segments()
        .expect("a list")
        .iter()
        .map(|info| info.id)
        .collect();
    assert!(ids.len() > 4);
    world.disk.remove_segment(ids[1]);
    world.settle();
    let error = world.recover().unwrap_err();
    let WalError::Corrupt {
        segment, reason, ..
    } = error
    else {
        panic!("{error}");
    };
    assert_eq!((segment, reason), (ids[1], recovery::SEGMENT_MISSING));
}

#[test]
fn repeated_and_missing_entries_are_refused() {
    for (second, reason) in [(2, "an entry is repeated"), (4, "entries are missing")] {
        let mut world = World::new();
        world.settle();
        world.append_entries(2, 10);
        // A defect that the writer's own assertion would stop.
        world.wal.accepted.last = Index(second - 1);
        let wrong = [entry(1, second, 10)];
        let batch = Batch {
            entries: &wrong,
            ..Batch::default()
        };
        world.wal.append(&mut world.disk, batch);
        world.settle();
        let WalError::Corrupt { reason: told, .. } = world.recover().unwrap_err() else {
            panic!("it is damage");
        };
        assert_eq!(told, reason);
    }
}

#[test]
fn an_installed_snapshot_restarts_the_log_even_where_its_index_is_held() {
    let mut world = World::new();
    world.settle();
    world.append_entries(10, 50);
    world.append(Batch {
        snapshot_mark: Some(EntryId::new(2, 6)),
        ..Batch::default()
    });
    assert_eq!(world.state().last(), Index(6));
    let next = [entry(2, 7, 5)];
    world.append(Batch {
        entries: &next,
        ..Batch::default()
    });
    world.settle();
    world.crash(&mut || 0);
    assert_eq!(world.state().mark, EntryId::new(2, 6));
    assert_eq!(world.state().entries, next);
}

#[test]
fn a_sync_in_flight_does_not_hold_up_the_next_append() {
    let mut world = World::new();
    world.settle();
    let first = world.append_entries(1, 10);
    let second = world.append_entries(1, 10);
    assert_eq!(world.disk.pending_syncs(), 2);
    let event = world.disk.complete_syncs(1);
    world.deliver(event);
    assert_eq!(world.wal.durable(), first);
    let third = world.append_entries(1, 10);
    let event = world.disk.complete_syncs(2);
    world.deliver(event);
    assert_eq!(world.wal.durable(), third);
    assert!(third > second);
}

#[test]
fn a_torn_write_is_cut_off_and_told() {
    let mut world = World::new();
    world.settle();
    world.append_entries(2, 100);
    world.settle();
    let whole = world.wal.bytes_in_log();
    let lost = entry(1, 3, 9000);
    let batch = Batch {
        entries: std::slice::from_ref(&lost),
        ..Batch::default()
    };
    world.wal.append(&mut world.disk, batch);
    // The first page of the batch survives, those behind it do not.
    // (The first question is about the next segment, which is not made.)
    let mut asked = 0;
    world.disk.crash(&mut || {
        asked += 1;
        u64::from(asked <= 2)
    });
    let recovered = world.recover().expect("a crash is not damage");
    assert_eq!(recovered.entries.len(), 2);
    let torn = recovered.report.torn.expect("it is told");
    assert_eq!(torn.at.offset, HEADER_BYTES as u64 + whole);
    assert_eq!(torn.reason, "the checksum of a record is wrong");
}

#[test]
fn a_segment_that_was_cut_short_is_refused() {
    let mut world = World::new();
    world.settle();
    let id = SegmentId(1);
    let mut bytes = vec![0; 8192];
    let read = world.disk.recover_segment(id, 0, &mut bytes);
    assert_eq!(read.expect("it exists"), 8192);
    world.disk = SimDisk::new();
    world.disk.create_segment(id, 8192, None);
    assert_eq!(world.disk.step(), Some(DiskEvent::SegmentReady(id)));
    world.disk.store(id, 0, Buffer::from(&bytes[..]));
    world.disk.crash(&mut || 1);
    let error = world.recover().unwrap_err();
    let WalError::Corrupt { offset_bytes, .. } = error else {
        panic!("{error}");
    };
    assert_eq!(offset_bytes, 8192);
}

#[test]
fn restarting_again_and_again_does_not_grow_the_log() {
    let mut world = World::new();
    world.settle();
    world.append_entries(3, 10);
    world.settle();
    let mut rng = Rng(5);
    for _ in 0..30 {
        world.crash(&mut || rng.next());
        if rng.below(2) == 0 {
            world.settle();
        }
    }
    world.settle();
    assert!(world.wal.is_open());
    assert_eq!(world.state().entries.len(), 3);
    assert!(world.disk.segments().expect("a list").len() <= 3);
}

#[test]
fn an_error_says_which_file_where_and_what_to_do() {
    let error = WalError::Corrupt {
        segment: SegmentId(0x2a),
        offset_bytes: 4136,
        reason: "the checksum of a record is wrong",
        advice: super::ADVICE,
    };
    let text = error.to_string();
    for part in ["000000000000002a.wal", "offset 4136", "restore"] {
        assert!(text.contains(part), "{text}");
    }
}
