//! The search for an order of one key's operations.
//!
//! Wing and Gong's search with Lowe's memoisation, as in the checker porcupine: take an
//! operation that may be next (no other one has returned before it was invoked) and whose
//! answer fits the state, go on from there, and come back if that leads nowhere. A *configuration*,
//! the set of operations that are placed and the state they lead to, is entered once.
//!
//! What makes it fast beyond that, none of which loses an order:
//!
//! - What reads and fits is placed at once: it changes nothing, so no order gets lost.
//! - Of operations with the same condition and the same effect, the one that returned first
//!   goes first: two that stand the other way round could be exchanged.
//! - Values that nobody read are all the same value.
//! - What the moments alone rule out is not searched for; see [`Zone`].
//! - A value does not leave the register while reads of it are to come and no write of it is.
//! - An operation without an answer is placed only right before one that needs it. Placed earlier,
//!   it could be moved there, or left out: nothing in between depends on it.

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap, HashSet};

use bytes::Bytes;

use super::unplaced::Unplaced;
use super::{Action, Operation, Outcome};

/// What the search found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// There is an order.
    Order,
    /// There is none.
    NoOrder,
    /// It took too many steps.
    GaveUp,
}

/// The content of a register: a value's number, or one of the two below.
pub(super) type State = u32;
/// The key is absent.
pub(super) const ABSENT: State = 0;
/// Any value that was never read.
pub(super) const UNREAD: State = 1;
/// The first value that was read.
pub(super) const FIRST_READ: State = 2;

/// Which states an answer fits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Needs {
    Anything,
    Absent,
    Present,
    Exactly(State),
}

impl Needs {
    fn fits(self, state: State) -> bool {
        match self {
            Needs::Anything => true,
            Needs::Absent => state == ABSENT,
            Needs::Present => state != ABSENT,
            Needs::Exactly(value) => state == value,
        }
    }
}

/// An operation with an answer.
#[derive(Clone, Copy, Debug)]
pub(super) struct Known {
    pub(super) invoked_ns: u64,
    pub(super) returned_ns: u64,
    pub(super) needs: Needs,
    /// What it leaves behind; `None` if it changes nothing.
    pub(super) leaves: Option<State>,
    /// What may be next is tried in this order; see [`Zone`].
    pub(super) urgency_ns: u64,
}

impl Known {
    /// The value that it reads or writes, if somebody read it.
    pub(super) fn value(&self) -> Option<State> {
        let value = match (self.needs, self.leaves) {
            (Needs::Exactly(value), _) => Some(value),
            (_, leaves) => leaves,
        };
        value.filter(|v| *v >= FIRST_READ)
    }
}

/// What an operation without an answer would do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Effect {
    Remove,
    Put(State),
    Update(State),
}

/// Operations without an answer and with the same effect. They are used in the order of their
/// invocations: one that began earlier may stand wherever a later one may.
#[derive(Debug, Default)]
pub(super) struct Pending {
    pub(super) invoked_ns: Vec<u64>,
    used: usize,
}

/// A step forward: up to two operations without an answer, then one with.
#[derive(Clone, Copy, Debug)]
struct Move {
    before: [Option<Effect>; 2],
    known: usize,
}

/// A configuration that was entered, and what of it is still to be tried.
#[derive(Debug)]
struct Frame {
    /// The reads that were placed on entering.
    reads: Vec<usize>,
    /// What to try, last first.
    moves: Vec<Move>,
    /// The state that the moves start from.
    state: State,
    /// What is being tried.
    tried: Option<Move>,
}

/// One key's operations, and how far the search has come with them.
pub(super) struct Register {
    /// By invocation.
    known: Vec<Known>,
    /// There is no order, as is seen without a search.
    impossible: bool,
    pending: BTreeMap<Effect, Pending>,
    state: State,
    /// Those of `known` that are not placed.
    unplaced: Unplaced,
    /// Per value: its reads and its writes that are not placed.
    reads_left: Vec<u32>,
    writes_left: Vec<u32>,
}

impl Register {
    /// Takes what happened up to and with `until_ns` of operations sorted by invocation: those that
    /// returned later are without an answer, those that began later are left out.
    pub(super) fn new(operations: &[&Operation], until_ns: u64) -> Register {
        let mut values: HashMap<&Bytes, State> = HashMap::new();
        for operation in operations {
            if let Some((at, Outcome::Found(value))) = &operation.returned
                && *at <= until_ns
            {
                let number = FIRST_READ + u32::try_from(values.len()).expect("fewer values");
                values.entry(value).or_insert(number);
            }
        }
        let number = |value: &Bytes| values.get(value).copied().unwrap_or(UNREAD);
        let mut known = Vec::new();
        let mut pending: BTreeMap<Effect, Pending> = BTreeMap::new();
        for operation in operations.iter().filter(|o| o.invoked_ns <= until_ns) {
            let answer = operation
                .returned
                .as_ref()
                .filter(|(at, _)| *at <= until_ns);
            if let Some((returned_ns, outcome)) = answer {
                let (needs, leaves) = meaning(&operation.action, outcome, number);
                known.push(Known {
                    invoked_ns: operation.invoked_ns,
                    returned_ns: *returned_ns,
                    needs,
                    leaves,
                    urgency_ns: *returned_ns,
                });
            } else {
                let effect = match &operation.action {
                    Action::Put(value) => Effect::Put(number(value)),
                    Action::Update(value) => Effect::Update(number(value)),
                    Action::Remove => Effect::Remove,
                    Action::Get => continue,
                    Action::Cas { .. } | Action::Batch(_) | Action::Scan { .. } => {
                        unreachable!("these are judged jointly")
                    }
                };
                let same = pending.entry(effect).or_default();
                same.invoked_ns.push(operation.invoked_ns);
            }
        }
        let values = values.len() + FIRST_READ as usize;
        let zones = zones(&known, &pending, values);
        for operation in &mut known {
            if let Some(value) = operation.value() {
                operation.urgency_ns = zones[value as usize].end_ns();
            }
        }
        Register {
            impossible: contradict(&known, &zones),
            ..Register::with(known, pending, values)
        }
    }

    fn with(known: Vec<Known>, pending: BTreeMap<Effect, Pending>, values: usize) -> Register {
        let mut reads_left = vec![0; values];
        let mut writes_left = vec![0; values];
        for operation in &known {
            if let Needs::Exactly(value) = operation.needs {
                reads_left[value as usize] += 1;
            }
            if let Some(value) = operation.leaves {
                writes_left[value as usize] += 1;
            }
        }
        for (effect, same) in &pending {
            if let Effect::Put(value) | Effect::Update(value) = *effect {
                writes_left[value as usize] +=
                    u32::try_from(same.invoked_ns.len()).expect("fewer operations");
            }
        }
        Register {
            impossible: false,
            pending,
            state: ABSENT,
            unplaced: Unplaced::new(known.len()),
            reads_left,
            writes_left,
            known,
        }
    }

    /// Looks for an order, entering at most `steps_max` configurations.
    pub(super) fn search(mut self, steps_max: u64) -> Answer {
        if self.impossible {
            return Answer::NoOrder;
        }
        let mut entered: HashSet<Box<[u64]>> = HashSet::new();
        let mut path: Vec<Frame> = Vec::new();
        let mut steps = 0;
        loop {
            let reads = self.place_reads();
            if self.unplaced.is_empty() {
                return Answer::Order;
            }
            let moves = if entered.insert(self.configuration()) {
                steps += 1;
                self.moves()
            } else {
                Vec::new()
            };
            if steps > steps_max {
                return Answer::GaveUp;
            }
            path.push(Frame {
                reads,
                moves,
                state: self.state,
                tried: None,
            });
            if !self.advance(&mut path) {
                return Answer::NoOrder;
            }
        }
    }

    /// Takes the next move that is left, of the last configuration that has one.
    fn advance(&mut self, path: &mut Vec<Frame>) -> bool {
        while let Some(frame) = path.last_mut() {
            if let Some(tried) = frame.tried.take() {
                self.undo(tried, frame.state);
            }
            while let Some(next) = frame.moves.pop() {
                if self.apply(next) {
                    frame.tried = Some(next);
                    return true;
                }
                self.undo(next, frame.state);
            }
            let frame = path.pop().expect("there is a last one");
            for &read in frame.reads.iter().rev() {
                self.unplace(read);
            }
        }
        false
    }

    /// The first return among the operations that are not placed: what was invoked after it cannot
    /// be next.
    fn first_return(&self) -> u64 {
        let mut first = u64::MAX;
        let mut at = self.unplaced.first();
        while at < self.known.len() && self.known[at].invoked_ns <= first {
            first = first.min(self.known[at].returned_ns);
            at = self.unplaced.after(at);
        }
        first
    }

    fn place_reads(&mut self) -> Vec<usize> {
        let mut reads = Vec::new();
        loop {
            let before = reads.len();
            let first_return = self.first_return();
            let mut at = self.unplaced.first();
            while at < self.known.len() && self.known[at].invoked_ns <= first_return {
                let operation = self.known[at];
                if operation.leaves.is_none() && operation.needs.fits(self.state) {
                    self.place(at);
                    reads.push(at);
                }
                at = self.unplaced.after(at);
            }
            if reads.len() == before {
                return reads;
            }
        }
    }

    /// What can be done from here, the most promising last.
    fn moves(&self) -> Vec<Move> {
        let first_return = self.first_return();
        let mut kinds: Vec<usize> = Vec::new();
        let mut at = self.unplaced.first();
        while at < self.known.len() && self.known[at].invoked_ns <= first_return {
            let this = &self.known[at];
            let same = kinds.iter_mut().find(|k| {
                let other = &self.known[**k];
                (other.needs, other.leaves) == (this.needs, this.leaves)
            });
            match same {
                Some(other) if self.known[*other].returned_ns <= this.returned_ns => {}
                Some(other) => *other = at,
                None => kinds.push(at),
            }
            at = self.unplaced.after(at);
        }
        // A read that only an operation without an answer explains is tried in its turn; to use one
        // up for anything else is the last resort.
        let last_resort = |k: usize| {
            let Known { needs, .. } = self.known[k];
            !needs.fits(self.state) && !matches!(needs, Needs::Exactly(_))
        };
        kinds.sort_by_key(|&k| Reverse((last_resort(k), self.known[k].urgency_ns)));
        let mut moves = Vec::new();
        for &known in &kinds {
            if self.known[known].needs.fits(self.state) {
                let before = [None, None];
                moves.push(Move { before, known });
            } else {
                self.moves_with_pending(known, first_return, &mut moves);
            }
        }
        moves
    }

    /// How operations without an answer can lead to a state that `known` needs.
    fn moves_with_pending(&self, known: usize, first_return: u64, moves: &mut Vec<Move>) {
        let usable = |effect: Effect| {
            let same = self.pending.get(&effect)?;
            let invoked_ns = *same.invoked_ns.get(same.used)?;
            (invoked_ns <= first_return).then_some(effect)
        };
        let mut push = |first, second| {
            let before = [first, second];
            moves.push(Move { before, known });
        };
        match self.known[known].needs {
            Needs::Anything => {}
            Needs::Absent => {
                if let Some(remove) = usable(Effect::Remove) {
                    push(Some(remove), None);
                }
            }
            Needs::Present => {
                for effect in self.pending.keys().filter(|e| **e != Effect::Remove) {
                    if let Some(write) = usable(*effect) {
                        push(Some(write), None);
                    }
                }
            }
            Needs::Exactly(value) => {
                if let Some(update) = usable(Effect::Update(value)) {
                    push(Some(update), None);
                }
                if let Some(put) = usable(Effect::Put(value)) {
                    if self.state == ABSENT {
                        push(Some(put), None);
                    } else if let Some(remove) = usable(Effect::Remove) {
                        push(Some(remove), Some(put));
                    }
                }
            }
        }
    }

    /// Does a move; false if it led to a dead end, and has to be undone.
    fn apply(&mut self, step: Move) -> bool {
        let mut left = [self.state; 3];
        for (at, effect) in step.before.into_iter().enumerate() {
            if let Some(effect) = effect {
                let same = self.pending.get_mut(&effect).expect("it was usable");
                same.used += 1;
                self.state = match effect {
                    Effect::Remove => ABSENT,
                    Effect::Put(value) | Effect::Update(value) => {
                        self.writes_left[value as usize] -= 1;
                        value
                    }
                };
            }
            left[at + 1] = self.state;
        }
        self.place(step.known);
        if let Some(leaves) = self.known[step.known].leaves {
            self.state = leaves;
        }
        left.into_iter().all(|value| {
            value < FIRST_READ
                || value == self.state
                || self.reads_left[value as usize] == 0
                || self.writes_left[value as usize] > 0
        })
    }

    fn undo(&mut self, step: Move, state: State) {
        self.unplace(step.known);
        for effect in step.before.into_iter().flatten() {
            let same = self.pending.get_mut(&effect).expect("it was used");
            same.used -= 1;
            if let Effect::Put(value) | Effect::Update(value) = effect {
                self.writes_left[value as usize] += 1;
            }
        }
        self.state = state;
    }

    fn place(&mut self, at: usize) {
        self.unplaced.place(at);
        if let Needs::Exactly(value) = self.known[at].needs {
            self.reads_left[value as usize] -= 1;
        }
        if let Some(value) = self.known[at].leaves {
            self.writes_left[value as usize] -= 1;
        }
    }

    /// See [`Unplaced::unplace`].
    fn unplace(&mut self, at: usize) {
        self.unplaced.unplace(at);
        if let Needs::Exactly(value) = self.known[at].needs {
            self.reads_left[value as usize] += 1;
        }
        if let Some(value) = self.known[at].leaves {
            self.writes_left[value as usize] += 1;
        }
    }

    /// The configuration as a word sequence that no other one has: the state, what is placed,
    /// how many of each effect are used.
    fn configuration(&mut self) -> Box<[u64]> {
        let mut configuration = Vec::with_capacity(self.pending.len() + 6);
        configuration.push(u64::from(self.state));
        self.unplaced.push_words(&mut configuration);
        configuration.extend(self.pending.values().map(|p| p.used as u64));
        configuration.into_boxed_slice()
    }
}

/// Which states the answer fits, and what the operation leaves behind.
fn meaning(
    action: &Action,
    outcome: &Outcome,
    number: impl Fn(&Bytes) -> State,
) -> (Needs, Option<State>) {
    match (action, outcome) {
        (Action::Put(value), Outcome::Created) => (Needs::Absent, Some(number(value))),
        (Action::Put(_), _) => (Needs::Present, None),
        (Action::Update(value), _) => (Needs::Anything, Some(number(value))),
        (Action::Remove, Outcome::Removed) => (Needs::Present, Some(ABSENT)),
        (Action::Remove | Action::Get, Outcome::Found(value)) => {
            (Needs::Exactly(number(value)), None)
        }
        (Action::Remove | Action::Get, _) => (Needs::Absent, None),
        (Action::Cas { .. } | Action::Batch(_) | Action::Scan { .. }, _) => {
            unreachable!("these are judged jointly")
        }
    }
}

/// What a value's write and its reads say together about when the register holds it.
///
/// If the value was written once and the first return comes before the last invocation, the register
/// holds it from the one to the other, and nothing else then; else all of them fit into any one moment
/// between the two (Gibbons and Korach, *Testing shared memories*, 1997). What such zones contradict
/// needs no search, which would have to try everything. And if there is an order, it is found soon by
/// taking the values in the order of the later of the two moments, for so they get out of each
/// other's way.
#[derive(Clone, Copy, Debug)]
pub(super) struct Zone {
    first_return_ns: u64,
    last_invocation_ns: u64,
    /// The latest invocation of a write of the value.
    written_ns: u64,
    writes: u32,
}

impl Zone {
    /// When the value may be gone.
    pub(super) fn end_ns(&self) -> u64 {
        self.first_return_ns.max(self.last_invocation_ns)
    }
}

pub(super) fn zones(
    known: &[Known],
    pending: &BTreeMap<Effect, Pending>,
    values: usize,
) -> Vec<Zone> {
    let empty = Zone {
        first_return_ns: u64::MAX,
        last_invocation_ns: 0,
        written_ns: 0,
        writes: 0,
    };
    let mut zones = vec![empty; values];
    for operation in known {
        if let Some(value) = operation.value() {
            let zone = &mut zones[value as usize];
            zone.first_return_ns = zone.first_return_ns.min(operation.returned_ns);
            zone.last_invocation_ns = zone.last_invocation_ns.max(operation.invoked_ns);
            if operation.leaves.is_some() {
                zone.written_ns = zone.written_ns.max(operation.invoked_ns);
                zone.writes += 1;
            }
        }
    }
    for (effect, same) in pending {
        if let Effect::Put(value) | Effect::Update(value) = *effect
            && value >= FIRST_READ
        {
            let zone = &mut zones[value as usize];
            for &invoked_ns in &same.invoked_ns {
                zone.last_invocation_ns = zone.last_invocation_ns.max(invoked_ns);
                zone.written_ns = zone.written_ns.max(invoked_ns);
                zone.writes += 1;
            }
        }
    }
    zones
}

/// Whether the values' zones rule out that there is an order.
pub(super) fn contradict(known: &[Known], zones: &[Zone]) -> bool {
    let read = zones.iter().enumerate().skip(FIRST_READ as usize);
    let mut held: Vec<(State, Zone)> = Vec::new();
    for (value, zone) in read.clone() {
        let too_early = zone.writes == 1 && zone.first_return_ns < zone.written_ns;
        if zone.writes == 0 || too_early {
            return true;
        }
        if zone.writes == 1 && zone.first_return_ns < zone.last_invocation_ns {
            held.push((State::try_from(value).expect("fewer values"), *zone));
        }
    }
    held.sort_by_key(|(_, zone)| zone.first_return_ns);
    let overlap = |pair: &[(State, Zone)]| pair[1].1.first_return_ns < pair[0].1.last_invocation_ns;
    if held.windows(2).any(overlap) {
        return true;
    }
    // The value that is held all the time between these two moments, and a little beyond.
    let held_around = |from_ns: u64, to_ns: u64| {
        let after = held.partition_point(|(_, zone)| zone.first_return_ns < from_ns);
        let (value, zone) = held[..after].last()?;
        (to_ns < zone.last_invocation_ns).then_some(*value)
    };
    let moment_taken = read.clone().any(|(value, zone)| {
        let other = held_around(zone.last_invocation_ns, zone.first_return_ns);
        zone.writes == 1 && other.is_some_and(|o| o as usize != value)
    });
    moment_taken
        || known.iter().any(|operation| {
            held_around(operation.invoked_ns, operation.returned_ns).is_some_and(|value| {
                !operation.needs.fits(value) || operation.leaves.is_some_and(|l| l != value)
            })
        })
}
