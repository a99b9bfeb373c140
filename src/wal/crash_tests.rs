//! Every state that a power failure may leave, at every call that the disk makes.

use super::segment::HEADER_BYTES;
use super::tests::{OPTIONS, Rng, State, entry};
use super::{Batch, Wal, WalError, recovery};
use crate::disk::trace::{Step, Trace};
use crate::disk::{DiskEvent, FileDisk, SegmentId, SimDisk};
use crate::mutation::{Mutation, is_found};
use crate::types::{Entry, EntryId, HardState, Index, Server, Term};

const SEEDS: u64 = 16;
/// How many states are tried after one call, all of them or drawn.
const STATES_MAX: usize = 128;
/// Of so many states one is also opened, and read again after that.
const GO_ON_EVERY: usize = 16;

/// A log at work, and every state that it may be found in.
struct Run {
    trace: Trace,
    /// There but for the moment in which it is killed.
    disk: Option<FileDisk>,
    wal: Wal,
    /// After each record since the last start, with the number of its batch.
    states: Vec<(u64, State)>,
    rng: Rng,
    tried: usize,
    torn: usize,
}

impl Run {
    fn start(seed: u64) -> Run {
        let (trace, mut disk) = Trace::begin(seed % 2 == 1);
        let (wal, _) = Wal::recover(&mut disk, OPTIONS).expect("an empty disk");
        Run {
            trace,
            disk: Some(disk),
            wal,
            states: vec![(1, State::default())],
            rng: Rng(seed),
            tried: 0,
            torn: 0,
        }
    }

    fn state(&self) -> &State {
        &self.states.last().expect("never empty").1
    }

    /// One call of a thread that has something to do; whether there was one. What may be
    /// left then is tried.
    fn step(&mut self) -> bool {
        let disk = self.disk.as_ref().expect("it runs");
        let rng = &mut self.rng;
        match self.trace.step(disk, &mut || rng.next()) {
            Some(Step::Call) => {
                self.try_crashes();
                loses_no_log(self.trace.cached());
            }
            Some(Step::Event(event)) => self.deliver(&event),
            None => return false,
        }
        true
    }

    fn deliver(&mut self, event: &DiskEvent) {
        let before = self.wal.durable();
        let disk = self.disk.as_mut().expect("it runs");
        let heard = self.wal.on_event(disk, event);
        heard.expect("no fault");
        if self.wal.durable() > before {
            // What is told as durable from here on has to be there.
            self.try_crashes();
        }
    }

    fn settle(&mut self) {
        while self.step() {}
    }

    fn some_steps(&mut self, up_to: u64) {
        for _ in 0..self.rng.below(up_to + 1) {
            self.step();
        }
    }

    fn try_crashes(&mut self) {
        let durable = self.wal.durable().0.max(1);
        let first = self.states.iter().rposition(|(seq, _)| *seq <= durable);
        let allowed = &self.states[first.expect("the first state is of the opening")..];
        let (rng, torn, tried) = (&mut self.rng, &mut self.torn, &mut self.tried);
        let mut number = 0;
        let mut coin = Rng(rng.next());
        *tried += self
            .trace
            .crash_states(STATES_MAX, &mut || coin.next(), |mut left| {
                number += 1;
                let (wal, found) = Wal::recover(&mut left, OPTIONS)
                    .unwrap_or_else(|error| panic!("a crash is not damage: {error}"));
                *torn += usize::from(found.report.torn.is_some());
                let found = State::of(&found);
                assert!(
                    allowed.iter().any(|(_, state)| *state == found),
                    "durable {durable}; allowed {allowed:?}; found {found:?}"
                );
                if number % GO_ON_EVERY == 0 {
                    goes_on(left, wal, found);
                }
            });
    }

    fn append(&mut self, batch: Batch<'_>) {
        let disk = self.disk.as_mut().expect("it runs");
        let seq = self.wal.append(disk, batch).0;
        let records = self.state().after_records_of(batch);
        self.states
            .extend(records.into_iter().map(|state| (seq, state)));
    }

    fn entries(&mut self, count: u64, bytes: usize) {
        let state = self.state();
        let (first, term) = (state.last().0 + 1, state.hard_state.term.0.max(1));
        let entries: Vec<Entry> = (first..first + count)
            .map(|index| entry(term, index, bytes))
            .collect();
        self.append(Batch {
            entries: &entries,
            ..Batch::default()
        });
    }

    /// A new term, a vote, and another tail.
    fn new_leader(&mut self) {
        let state = self.state();
        let term = Term(state.hard_state.term.0 + 1);
        let from = Index((state.last().0 - 1).max(state.mark.index.0 + 1));
        let entries = [entry(term.0, from.0, 200)];
        self.append(Batch {
            hard_state: Some(HardState {
                term,
                voted_for: Some(Server::new(term.0 % 3, term.0 % 2)),
            }),
            truncate_from: Some(from),
            entries: &entries,
            ..Batch::default()
        });
    }

    /// A snapshot of all but the last entries, or of more than there is.
    fn snapshot(&mut self, ahead: bool) {
        let state = self.state();
        let mark = match state.entries.iter().rev().nth(2) {
            Some(held) if !ahead => held.id,
            _ => EntryId::new(state.hard_state.term.0 + 1, state.last().0 + 4),
        };
        self.append(Batch {
            snapshot_mark: Some(mark),
            ..Batch::default()
        });
    }

    /// Lets go of what the last snapshot holds.
    fn compact(&mut self) {
        let keep_from = self.state().mark.index.next();
        let disk = self.disk.as_mut().expect("it runs");
        self.wal.compact(disk, keep_from);
    }

    /// The process is killed; the machine runs on.
    fn kill(&mut self) {
        let killed = self.disk.take().expect("it runs");
        let disk = self.disk.insert(self.trace.kill(killed));
        let (wal, found) = Wal::recover(disk, OPTIONS).expect("a kill is not damage");
        self.states = vec![(1, State::of(&found))];
        self.wal = wal;
    }
}

/// Damage to the opening of the newest segment is an error, or the log ends with the segment
/// before it. If that was let go too early, the log comes back empty and without an error.
fn loses_no_log(mut disk: SimDisk) {
    let (whole, tail) = recovery::recover(&mut disk, &OPTIONS).expect("undamaged");
    let ids = || tail.live.iter().map(|live| live.info.id);
    let (Some(newest), false) = (ids().next_back(), ids().any(|id| id == SegmentId(1))) else {
        return; // None was let go yet.
    };
    disk.segment_mut(newest).expect("it exists")[HEADER_BYTES] ^= 1;
    if let Ok((found, _)) = recovery::recover(&mut disk, &OPTIONS) {
        assert!(
            State::of(&found) != State::default() || State::of(&whole) == State::default(),
            "the whole log is in {newest:?}, and nothing vouches for that"
        );
    }
}

/// What was found is still there after the log was opened and has thrown away what is
/// no part of it.
fn goes_on(mut disk: SimDisk, mut wal: Wal, found: State) {
    while let Some(event) = disk.step() {
        wal.on_event(&mut disk, &event).expect("no fault");
    }
    assert!(wal.is_open());
    let (_, again) = Wal::recover(&mut disk, OPTIONS).expect("a start is not damage");
    assert_eq!(State::of(&again), found);
}

/// Rolls, truncates, compacts, recycles and restarts a log, with all crashes tried.
fn run(seed: u64) -> Run {
    let mut run = Run::start(seed);
    // A first start that is interrupted, too.
    run.some_steps(4);
    for round in 0..8 {
        for _ in 0..4 {
            let count = 1 + run.rng.below(4);
            run.entries(count, 900);
            run.some_steps(8);
        }
        match run.rng.below(3) {
            0 => run.new_leader(),
            1 => run.entries(1, 9_000),
            _ => run.settle(),
        }
        run.some_steps(5);
        run.snapshot(round % 3 == 2);
        if run.rng.below(2) == 0 {
            // Behind the mark a segment is begun, and is not on disk yet.
            run.some_steps(30);
            run.entries(1, 12_000);
        }
        run.compact();
        run.some_steps(30);
        if run.rng.below(4) == 0 {
            run.kill();
            run.some_steps(6);
        }
    }
    run.settle();
    assert!(run.wal.is_open());
    run.trace.check_model(run.disk.as_ref().expect("it runs"));
    run
}

#[test]
fn whatever_a_crash_leaves_at_any_call_what_was_durable_is_there_and_nothing_else() {
    let (mut tried, mut torn, mut recycled) = (0, 0, 0);
    for seed in 0..SEEDS {
        let run = run(seed);
        recycled += run.wal.counters().segments;
        (tried, torn) = (tried + run.tried, torn + run.torn);
    }
    println!("figure: crash states of the log: {tried}, torn: {torn}, segments: {recycled}");
    assert!(tried > 8_000 && torn > 500, "{tried} tried, {torn} torn");
}

#[test]
fn known_bugs_of_the_log_and_of_its_writer_are_found() {
    for bug in [
        Mutation::SegmentLetGoEarly,
        Mutation::NewestSegmentSyncedAlone,
    ] {
        assert!(is_found(bug, 0..SEEDS, |seed| drop(run(seed))), "{bug:?}");
    }
}

#[test]
fn a_disk_that_loses_a_sync_it_has_confirmed_is_noticed() {
    // The test above would notice a log that promises too early.
    let mut run = Run::start(1);
    run.settle();
    run.entries(2, 300);
    let promised = run.state().clone();
    let mut lost = 0;
    run.trace.crash_states(STATES_MAX, &mut || 0, |mut left| {
        match Wal::recover(&mut left, OPTIONS) {
            Ok((_, found)) => lost += usize::from(State::of(&found) != promised),
            Err(WalError::Corrupt { .. }) => lost += 1,
            Err(other) => panic!("{other}"),
        }
    });
    assert!(lost > 0, "what was not synced yet survives every crash");
}
