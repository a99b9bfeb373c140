//! The search for an order of operations on several keys that hang together.
//!
//! The same search as in [`super::search`], over the contents of all keys at once. It knows
//! operations that depend on a key and change it (compare-and-set) and such that do so with
//! several keys (batches, scans), so fewer of its short cuts are right here:
//!
//! - What changes nothing and fits is placed at once.
//! - Of operations with the same conditions and the same effects, the one that returned first
//!   goes first.
//! - Values of a key that no answer depends on are all the same value.
//! - A value does not leave its key while reads of it are to come and no write of it is.
//! - What the moments alone rule out for one key, whatever the others hold, is not searched
//!   for; see [`Zone`](super::search::Zone).
//! - An operation without an answer that changes one key is placed only where an operation that
//!   may be next needs another content of that key: placed earlier, it could be moved there, or
//!   left out. One that changes several keys is placed only where an operation that may be next
//!   has to do with one of them: it may be needed for the others.

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap, HashSet};

use bytes::Bytes;

use super::Operation;
use super::meaning::{Needs, Numbered, Part, answered, unanswered};
use super::search::{
    self, ABSENT, Answer, Effect, FIRST_READ, Needs as KeyNeeds, Pending as KeyPending, State,
    UNREAD,
};
use super::unplaced::Unplaced;

/// The part of the steps that the search for a simple order may take.
const SIMPLE_PART: u64 = 4;

/// An operation with an answer.
#[derive(Debug)]
struct Known {
    invoked_ns: u64,
    returned_ns: u64,
    parts: Vec<Numbered>,
    changes: bool,
    urgency_ns: u64,
}

/// An operation without an answer, which has its effect if all its parts fit.
#[derive(Debug)]
struct Pending {
    invoked_ns: u64,
    parts: Vec<Numbered>,
    used: bool,
    /// An earlier one with the same parts, which is used first.
    twin: Option<usize>,
}

#[derive(Clone, Copy, Debug)]
enum Move {
    Known(usize),
    Pending(usize),
}

/// A configuration that was entered, and what of it is still to be tried.
struct Frame {
    /// The reads that were placed on entering.
    reads: Vec<usize>,
    /// What to try, last first.
    moves: Vec<Move>,
    /// The contents that the moves start from.
    state: Box<[State]>,
    /// What is being tried.
    tried: Option<Move>,
}

/// Keys that hang together, their operations, and how far the search has come with them.
pub(super) struct Joint {
    /// By invocation.
    known: Vec<Known>,
    pending: Vec<Pending>,
    /// There is no order, as is seen without a search.
    impossible: bool,
    /// An operation without an answer is placed only if it lets one with an answer through.
    is_simple: bool,
    /// By key.
    state: Box<[State]>,
    unplaced: Unplaced,
    /// Per value: its reads and its writes that are not placed.
    reads_left: Vec<u32>,
    writes_left: Vec<u32>,
}

impl Joint {
    /// Takes what happened up to and with `until_ns` of operations sorted by invocation: those that
    /// returned later are without an answer, those that began later are left out.
    pub(super) fn new(keys: &[Bytes], operations: &[&Operation], until_ns: u64) -> Joint {
        let keys: BTreeMap<&Bytes, usize> = keys.iter().zip(0..).collect();
        let mut known = Vec::new();
        let mut pending = Vec::new();
        for &operation in operations.iter().filter(|o| o.invoked_ns <= until_ns) {
            let answer = operation.returned.as_ref();
            match answer.filter(|(at, _)| *at <= until_ns) {
                Some((at, outcome)) => {
                    known.push((operation, *at, answered(operation, outcome, &keys)));
                }
                None => pending.push((operation, unanswered(operation, &keys))),
            }
        }
        pending.retain(|(_, parts)| !parts.is_empty());
        let all_parts = || {
            let of_known = known.iter().flat_map(|(_, _, parts)| parts);
            of_known.chain(pending.iter().flat_map(|(_, parts)| parts))
        };
        let mut numbers: HashMap<(usize, &Bytes), State> = HashMap::new();
        for part in all_parts() {
            if let Some(value) = part.needs.value() {
                let number = FIRST_READ + u32::try_from(numbers.len()).expect("fewer values");
                numbers.entry((part.key, *value)).or_insert(number);
            }
        }
        let number = |part: &Part<&Bytes>| {
            let of = |value| numbers.get(&(part.key, value)).copied().unwrap_or(UNREAD);
            Part {
                key: part.key,
                needs: part.needs.map(of),
                leaves: part.leaves.map(|value| value.map(of)),
            }
        };
        let numbered = |parts: &[Part<&Bytes>]| parts.iter().map(number).collect::<Vec<_>>();
        let known = known.iter().map(|(operation, returned_ns, parts)| Known {
            invoked_ns: operation.invoked_ns,
            returned_ns: *returned_ns,
            changes: parts.iter().any(|part| part.leaves.is_some()),
            parts: numbered(parts),
            urgency_ns: 0,
        });
        let mut effects: Vec<Pending> = Vec::new();
        for (operation, parts) in &pending {
            let parts = numbered(parts);
            let twin = effects.iter().rposition(|other| other.parts == parts);
            effects.push(Pending {
                invoked_ns: operation.invoked_ns,
                parts,
                used: false,
                twin,
            });
        }
        let values = numbers.len() + FIRST_READ as usize;
        Joint::with(known.collect(), effects, keys.len(), values)
    }

    fn with(mut known: Vec<Known>, pending: Vec<Pending>, keys: usize, values: usize) -> Joint {
        let impossible = weigh(&mut known, &pending, keys);
        let mut reads_left = vec![0; values];
        let mut writes_left = vec![0; values];
        for part in known.iter().flat_map(|operation| &operation.parts) {
            if let Needs::Exactly(value) = part.needs {
                reads_left[value as usize] += 1;
            }
        }
        let of_known = known.iter().flat_map(|operation| &operation.parts);
        let of_pending = pending.iter().flat_map(|operation| &operation.parts);
        for value in of_known.chain(of_pending).filter_map(Part::leaves) {
            writes_left[value as usize] += 1;
        }
        Joint {
            impossible,
            is_simple: false,
            pending,
            state: vec![ABSENT; keys].into(),
            unplaced: Unplaced::new(known.len()),
            reads_left,
            writes_left,
            known,
        }
    }

    /// Looks for an order, entering at most `steps_max` configurations, of which there are many
    /// where there are many operations without an answer. Most orders need few of these, for
    /// what the next answers say: such orders are looked for first.
    pub(super) fn search(
        keys: &[Bytes],
        operations: &[&Operation],
        until_ns: u64,
        steps_max: u64,
    ) -> Answer {
        let mut simple = Joint::new(keys, operations, until_ns);
        simple.is_simple = true;
        let steps_of_simple = (steps_max / SIMPLE_PART).max(1);
        match simple.search_with(steps_of_simple) {
            Answer::Order => Answer::Order,
            Answer::NoOrder | Answer::GaveUp => {
                Joint::new(keys, operations, until_ns).search_with(steps_max)
            }
        }
    }

    fn search_with(mut self, steps_max: u64) -> Answer {
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
                state: self.state.clone(),
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
                self.undo(tried, &frame.state);
            }
            while let Some(next) = frame.moves.pop() {
                if self.apply(next) {
                    frame.tried = Some(next);
                    return true;
                }
                self.undo(next, &frame.state);
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

    fn fit(&self, parts: &[Numbered]) -> bool {
        parts
            .iter()
            .all(|part| part.needs.fits(self.state[part.key]))
    }

    fn place_reads(&mut self) -> Vec<usize> {
        let mut reads = Vec::new();
        loop {
            let before = reads.len();
            let first_return = self.first_return();
            let mut at = self.unplaced.first();
            while at < self.known.len() && self.known[at].invoked_ns <= first_return {
                if !self.known[at].changes && self.fit(&self.known[at].parts) {
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
            let same = kinds
                .iter_mut()
                .find(|k| self.known[**k].parts == this.parts);
            match same {
                Some(other) if self.known[*other].returned_ns <= this.returned_ns => {}
                Some(other) => *other = at,
                None => kinds.push(at),
            }
            at = self.unplaced.after(at);
        }
        let mut moves: Vec<(u64, Move)> = Vec::new();
        for &known in &kinds {
            if self.fit(&self.known[known].parts) {
                moves.push((self.known[known].urgency_ns, Move::Known(known)));
            }
        }
        let wanted = self.wanted_keys(first_return, &kinds);
        for (at, pending) in self.pending.iter().enumerate() {
            let is_wanted = if self.is_simple {
                self.helps(pending, &kinds)
            } else {
                pending.parts.iter().any(|part| wanted[part.key])
            };
            if is_wanted && self.is_ready(pending, first_return) && self.fit(&pending.parts) {
                moves.push((self.urgency_of(pending, &kinds), Move::Pending(at)));
            }
        }
        moves.sort_by_key(|(urgency_ns, _)| Reverse(*urgency_ns));
        moves.into_iter().map(|(_, step)| step).collect()
    }

    /// Which keys an operation without an answer has to change to be of use: those that one of
    /// `kinds` needs with another content, and all that may matter to operations without an
    /// answer that change several keys, if one of these has to do with one of `kinds`.
    fn wanted_keys(&self, first_return: u64, kinds: &[usize]) -> Vec<bool> {
        let mut touched = vec![false; self.state.len()];
        let mut wanted = vec![false; self.state.len()];
        for part in kinds.iter().flat_map(|&k| &self.known[k].parts) {
            touched[part.key] = true;
            wanted[part.key] |= !part.needs.fits(self.state[part.key]);
        }
        let mut left: Vec<&Pending> = self.pending.iter().collect();
        left.retain(|p| p.parts.len() > 1 && self.is_ready(p, first_return));
        loop {
            let before = left.len();
            left.retain(|pending| {
                let is_near = pending.parts.iter().any(|part| touched[part.key]);
                if is_near {
                    for part in &pending.parts {
                        touched[part.key] = true;
                        wanted[part.key] = true;
                    }
                }
                !is_near
            });
            if left.len() == before {
                return wanted;
            }
        }
    }

    /// Whether it gives one of `kinds` a content that it needs and does not have.
    fn helps(&self, pending: &Pending, kinds: &[usize]) -> bool {
        kinds
            .iter()
            .flat_map(|&k| &self.known[k].parts)
            .any(|part| {
                let effect = pending.parts.iter().find(|effect| effect.key == part.key);
                let leaves = effect.and_then(Part::leaves);
                !part.needs.fits(self.state[part.key]) && leaves.is_some_and(|v| part.needs.fits(v))
            })
    }

    /// Whether it is not used yet, and may be as far as its invocation goes.
    fn is_ready(&self, pending: &Pending, first_return: u64) -> bool {
        !pending.used
            && pending.invoked_ns <= first_return
            && pending.twin.is_none_or(|twin| self.pending[twin].used)
    }

    /// As that of the operation that needs just what it leaves, else least of all.
    fn urgency_of(&self, pending: &Pending, kinds: &[usize]) -> u64 {
        let leaves = |part: &Numbered| {
            let effect = pending.parts.iter().find(|effect| effect.key == part.key);
            effect.and_then(Part::leaves)
        };
        let helped = kinds.iter().map(|&k| &self.known[k]).filter(|known| {
            known.parts.iter().any(
                |part| matches!(part.needs, Needs::Exactly(value) if leaves(part) == Some(value)),
            )
        });
        helped
            .map(|known| known.urgency_ns)
            .min()
            .unwrap_or(u64::MAX)
    }

    /// Does a move; false if it led to a dead end, and has to be undone.
    fn apply(&mut self, step: Move) -> bool {
        let parts = match step {
            Move::Known(at) => {
                self.place(at);
                &self.known[at].parts
            }
            Move::Pending(at) => {
                self.pending[at].used = true;
                let parts = &self.pending[at].parts;
                for value in parts.iter().filter_map(Part::leaves) {
                    self.writes_left[value as usize] -= 1;
                }
                parts
            }
        };
        let mut is_alive = true;
        for part in parts {
            if let Some(leaves) = part.leaves() {
                let left = std::mem::replace(&mut self.state[part.key], leaves);
                is_alive &= left < FIRST_READ
                    || left == leaves
                    || self.reads_left[left as usize] == 0
                    || self.writes_left[left as usize] > 0;
            }
        }
        is_alive
    }

    fn undo(&mut self, step: Move, state: &[State]) {
        match step {
            Move::Known(at) => self.unplace(at),
            Move::Pending(at) => {
                self.pending[at].used = false;
                for value in self.pending[at].parts.iter().filter_map(Part::leaves) {
                    self.writes_left[value as usize] += 1;
                }
            }
        }
        self.state.copy_from_slice(state);
    }

    fn place(&mut self, at: usize) {
        self.unplaced.place(at);
        for part in &self.known[at].parts {
            if let Needs::Exactly(value) = part.needs {
                self.reads_left[value as usize] -= 1;
            }
            if let Some(value) = part.leaves() {
                self.writes_left[value as usize] -= 1;
            }
        }
    }

    /// See [`Unplaced::unplace`].
    fn unplace(&mut self, at: usize) {
        self.unplaced.unplace(at);
        for part in &self.known[at].parts {
            if let Needs::Exactly(value) = part.needs {
                self.reads_left[value as usize] += 1;
            }
            if let Some(value) = part.leaves() {
                self.writes_left[value as usize] += 1;
            }
        }
    }

    /// The configuration as a word sequence that no other one has: the contents, what is
    /// placed, which operations without an answer are used.
    fn configuration(&mut self) -> Box<[u64]> {
        let mut configuration = Vec::with_capacity(self.state.len() + 6);
        configuration.extend(self.state.iter().map(|state| u64::from(*state)));
        self.unplaced.push_words(&mut configuration);
        for pending in self.pending.chunks(64) {
            let bits = pending.iter().rev().map(|p| u64::from(p.used));
            configuration.push(bits.fold(0, |word, bit| word << 1 | bit));
        }
        configuration.into_boxed_slice()
    }
}

/// What happened to one key, whatever happened to the others.
#[derive(Default)]
struct Alone {
    /// With the place of the operation that it is a part of. One that reads the key and
    /// changes it counts as a read and a write right behind it.
    known: Vec<(usize, search::Known)>,
    /// When it was invoked and what it leaves.
    pending: Vec<(u64, State)>,
}

/// Looks at each key by itself: gives the operations their urgency, and says whether what
/// happened to a key is impossible.
fn weigh(known: &mut [Known], pending: &[Pending], keys: usize) -> bool {
    let mut by_key: Vec<Alone> = (0..keys).map(|_| Alone::default()).collect();
    for (at, operation) in known.iter().enumerate() {
        for part in &operation.parts {
            by_key[part.key].add(at, operation, part);
        }
    }
    for operation in pending {
        for part in &operation.parts {
            let leaves = part.leaves().map(|leaves| (operation.invoked_ns, leaves));
            by_key[part.key].pending.extend(leaves);
        }
    }
    let mut impossible = false;
    for alone in by_key {
        impossible |= alone.weigh(known);
    }
    for operation in known.iter_mut().filter(|o| o.urgency_ns == 0) {
        operation.urgency_ns = operation.returned_ns;
    }
    impossible
}

impl Alone {
    fn add(&mut self, at: usize, operation: &Known, part: &Numbered) {
        let needs = match part.needs {
            Needs::Exactly(value) => KeyNeeds::Exactly(value),
            Needs::Absent => KeyNeeds::Absent,
            Needs::Present | Needs::PresentBut(_) => KeyNeeds::Present,
            Needs::Anything | Needs::Not(_) => KeyNeeds::Anything,
        };
        let half = |needs, leaves| search::Known {
            invoked_ns: operation.invoked_ns,
            returned_ns: operation.returned_ns,
            needs,
            leaves,
            urgency_ns: 0,
        };
        self.known.push((at, half(needs, None)));
        if let Some(leaves) = part.leaves() {
            let half = half(KeyNeeds::Anything, Some(leaves));
            self.known.push((at, half));
        }
    }

    fn weigh(mut self, known: &mut [Known]) -> bool {
        let values = self.renumber();
        let of_key: Vec<search::Known> = self.known.iter().map(|(_, part)| *part).collect();
        let mut effects: BTreeMap<Effect, KeyPending> = BTreeMap::new();
        for (invoked_ns, leaves) in self.pending {
            let effect = match leaves {
                ABSENT => Effect::Remove,
                value => Effect::Update(value),
            };
            effects
                .entry(effect)
                .or_default()
                .invoked_ns
                .push(invoked_ns);
        }
        let zones = search::zones(&of_key, &effects, values);
        for (at, part) in &self.known {
            if let Some(value) = part.value() {
                let urgency_ns = &mut known[*at].urgency_ns;
                *urgency_ns = zones[value as usize].end_ns().max(*urgency_ns);
            }
        }
        search::contradict(&of_key, &zones)
    }

    /// Numbers the values that were read anew, and all others as such that nobody has read.
    /// Returns the bound of the numbers.
    fn renumber(&mut self) -> usize {
        let mut numbers: BTreeMap<State, State> = BTreeMap::new();
        for (_, part) in &self.known {
            if let KeyNeeds::Exactly(value) = part.needs {
                let number = FIRST_READ + u32::try_from(numbers.len()).expect("fewer values");
                numbers.entry(value).or_insert(number);
            }
        }
        let number = |value: &mut State| {
            if *value != ABSENT {
                *value = numbers.get(value).copied().unwrap_or(UNREAD);
            }
        };
        for (_, part) in &mut self.known {
            if let KeyNeeds::Exactly(value) = &mut part.needs {
                number(value);
            }
            part.leaves.iter_mut().for_each(number);
        }
        for (_, leaves) in &mut self.pending {
            number(leaves);
        }
        numbers.len() + FIRST_READ as usize
    }
}
