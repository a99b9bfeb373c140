//! What operations and their answers say of the contents of keys.

use std::collections::{BTreeMap, HashMap};

use bytes::Bytes;

use super::search::{ABSENT, State};
use super::{Action, Operation, Outcome};

/// Which contents of a key an answer fits. `V` names a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Needs<V> {
    Anything,
    Absent,
    Present,
    Exactly(V),
    /// Absent, or another value.
    Not(V),
    /// Another value.
    PresentBut(V),
}

impl Needs<State> {
    pub(super) fn fits(self, state: State) -> bool {
        match self {
            Needs::Anything => true,
            Needs::Absent => state == ABSENT,
            Needs::Present => state != ABSENT,
            Needs::Exactly(value) => state == value,
            Needs::Not(value) => state != value,
            Needs::PresentBut(value) => state != ABSENT && state != value,
        }
    }
}

impl<V> Needs<V> {
    pub(super) fn value(&self) -> Option<&V> {
        match self {
            Needs::Exactly(value) | Needs::Not(value) | Needs::PresentBut(value) => Some(value),
            Needs::Anything | Needs::Absent | Needs::Present => None,
        }
    }

    pub(super) fn map<W>(self, convert: impl Fn(V) -> W) -> Needs<W> {
        match self {
            Needs::Anything => Needs::Anything,
            Needs::Absent => Needs::Absent,
            Needs::Present => Needs::Present,
            Needs::Exactly(value) => Needs::Exactly(convert(value)),
            Needs::Not(value) => Needs::Not(convert(value)),
            Needs::PresentBut(value) => Needs::PresentBut(convert(value)),
        }
    }
}

/// What an operation has to do with one key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Part<V> {
    pub(super) key: usize,
    pub(super) needs: Needs<V>,
    /// What it leaves behind, `Some(None)` if that is nothing; `None` if it changes nothing.
    pub(super) leaves: Option<Option<V>>,
}

/// A part by the numbers of its values.
pub(super) type Numbered = Part<State>;

impl Numbered {
    pub(super) fn leaves(&self) -> Option<State> {
        self.leaves.map(|value| value.unwrap_or(ABSENT))
    }
}

/// Which contents let an action through, and what it leaves.
fn success(action: &Action) -> (Needs<&Bytes>, Option<Option<&Bytes>>) {
    match action {
        Action::Put(value) => (Needs::Absent, Some(Some(value))),
        Action::Update(value) => (Needs::Anything, Some(Some(value))),
        Action::Remove => (Needs::Present, Some(None)),
        Action::Cas { expected, new } => {
            let needs = expected.as_ref().map_or(Needs::Absent, Needs::Exactly);
            (needs, (expected != new).then_some(new.as_ref()))
        }
        Action::Get | Action::Batch(_) | Action::Scan { .. } => (Needs::Anything, None),
    }
}

/// Which contents do not let an action through.
fn failure(action: &Action) -> Needs<&Bytes> {
    match action {
        Action::Put(_) | Action::Cas { expected: None, .. } => Needs::Present,
        Action::Remove => Needs::Absent,
        Action::Cas {
            expected: Some(value),
            ..
        } => Needs::Not(value),
        Action::Update(_) | Action::Get | Action::Batch(_) | Action::Scan { .. } => {
            unreachable!("{action:?} does not fail")
        }
    }
}

/// What an operation with this answer has to do with the keys.
pub(super) fn answered<'a>(
    operation: &'a Operation,
    outcome: &'a Outcome,
    keys: &BTreeMap<&'a Bytes, usize>,
) -> Vec<Part<&'a Bytes>> {
    let part = |key: &Bytes, (needs, leaves)| {
        let key = keys[key];
        Part { key, needs, leaves }
    };
    let of_one = |what| vec![part(&operation.key, what)];
    match (&operation.action, outcome) {
        (Action::Batch(operations), Outcome::BatchFailed(failed)) => {
            let passed = operations[..*failed].iter();
            let mut parts: Vec<_> = passed
                .map(|(key, action)| part(key, (success(action).0, None)))
                .collect();
            let (key, action) = &operations[*failed];
            parts.push(part(key, (failure(action), None)));
            parts
        }
        (Action::Batch(_), _) => unanswered(operation, keys),
        (Action::Scan { .. }, Outcome::Entries(entries)) => {
            let found: HashMap<&Bytes, &Bytes> = entries.iter().map(|(k, v)| (k, v)).collect();
            let covered = keys.iter().filter(|(key, _)| operation.covers(key));
            covered
                .map(|(key, _)| {
                    let needs = found.get(key).copied();
                    part(key, (needs.map_or(Needs::Absent, Needs::Exactly), None))
                })
                .collect()
        }
        (Action::Get, Outcome::Found(value)) => of_one((Needs::Exactly(value), None)),
        (_, Outcome::NotFound) => of_one((Needs::Absent, None)),
        (Action::Cas { expected, .. }, Outcome::Mismatch) => {
            let needs = expected.as_ref().map_or(Needs::Present, Needs::PresentBut);
            of_one((needs, None))
        }
        (action, Outcome::KeyExists) => of_one((failure(action), None)),
        (action, _) => of_one(success(action)),
    }
}

/// What an operation has to do with the keys if it takes effect; nothing if it only reads.
pub(super) fn unanswered<'a>(
    operation: &'a Operation,
    keys: &BTreeMap<&'a Bytes, usize>,
) -> Vec<Part<&'a Bytes>> {
    let part = |key: &Bytes, action| {
        let (needs, leaves) = success(action);
        let key = keys[key];
        Part { key, needs, leaves }
    };
    match &operation.action {
        Action::Get | Action::Scan { .. } => Vec::new(),
        Action::Batch(operations) => {
            let parts = operations.iter().map(|(key, action)| part(key, action));
            parts.collect()
        }
        action => vec![part(&operation.key, action)],
    }
}
