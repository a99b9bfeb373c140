//! Which keys of a history hang together, and whose operations they are.

use std::collections::BTreeMap;
use std::ops::Bound;

use bytes::Bytes;

use super::{Action, Operation, Outcome};

/// Keys that hang together through batches and scans, or one alone.
pub(super) struct Part<'a> {
    /// In their order.
    pub(super) keys: Vec<Bytes>,
    /// By invocation.
    pub(super) operations: Vec<&'a Operation>,
}

impl Part<'_> {
    /// Whether it is a single key with the operations of the original alone.
    pub(super) fn is_plain(&self) -> bool {
        let is_plain = |operation: &&Operation| match operation.action {
            Action::Put(_) | Action::Update(_) | Action::Remove | Action::Get => true,
            Action::Cas { .. } | Action::Batch(_) | Action::Scan { .. } => false,
        };
        self.keys.len() == 1 && self.operations.iter().all(is_plain)
    }
}

/// Takes a history apart, in the order of the first key of each part. A scan that covers no
/// key that anybody wrote or saw says nothing, and is in none.
pub(super) fn of(history: &[Operation]) -> Vec<Part<'_>> {
    let mut numbers: BTreeMap<&Bytes, usize> = BTreeMap::new();
    for operation in history {
        for key in named_keys(operation) {
            numbers.insert(key, 0);
        }
    }
    for (number, place) in numbers.values_mut().enumerate() {
        *place = number;
    }
    // Each key leads to a smaller one of its part, the smallest to itself.
    let mut smaller: Vec<usize> = (0..numbers.len()).collect();
    for operation in history {
        let mut touched = touched_keys(operation, &numbers);
        if let Some(first) = touched.next() {
            touched.for_each(|other| join(&mut smaller, first, other));
        }
    }
    let mut parts: BTreeMap<usize, Part<'_>> = BTreeMap::new();
    for (key, number) in &numbers {
        let part = parts.entry(smallest(&mut smaller, *number));
        let part = part.or_insert_with(|| Part {
            keys: Vec::new(),
            operations: Vec::new(),
        });
        part.keys.push((*key).clone());
    }
    for operation in history {
        let first = touched_keys(operation, &numbers).next();
        if let Some(first) = first {
            let part = parts.get_mut(&smallest(&mut smaller, first));
            part.expect("each key is in a part")
                .operations
                .push(operation);
        }
    }
    let mut parts: Vec<Part<'_>> = parts.into_values().collect();
    for part in &mut parts {
        part.operations.sort_by_key(|o| o.invoked_ns);
    }
    parts
}

/// The keys that an operation names, or its answer.
fn named_keys(operation: &Operation) -> Vec<&Bytes> {
    match (&operation.action, &operation.returned) {
        (Action::Batch(operations), _) => operations.iter().map(|(key, _)| key).collect(),
        (Action::Scan { .. }, Some((_, Outcome::Entries(entries)))) => {
            entries.iter().map(|(key, _)| key).collect()
        }
        (Action::Scan { .. }, _) => Vec::new(),
        _ => vec![&operation.key],
    }
}

/// The numbers of the keys that an operation has to do with.
fn touched_keys<'a>(
    operation: &'a Operation,
    numbers: &'a BTreeMap<&'a Bytes, usize>,
) -> Box<dyn Iterator<Item = usize> + 'a> {
    match &operation.action {
        Action::Batch(operations) => Box::new(operations.iter().map(|(key, _)| numbers[key])),
        Action::Scan { until } => {
            let until = match until {
                Some(until) if *until <= operation.key => return Box::new(std::iter::empty()),
                Some(until) => Bound::Excluded(until),
                None => Bound::Unbounded,
            };
            let covered = numbers.range::<Bytes, _>((Bound::Included(&operation.key), until));
            Box::new(covered.map(|(_, number)| *number))
        }
        _ => Box::new(std::iter::once(numbers[&operation.key])),
    }
}

fn smallest(smaller: &mut [usize], mut key: usize) -> usize {
    while smaller[key] != key {
        smaller[key] = smaller[smaller[key]];
        key = smaller[key];
    }
    key
}

fn join(smaller: &mut [usize], one: usize, other: usize) {
    let (one, other) = (smallest(smaller, one), smallest(smaller, other));
    smaller[one.max(other)] = one.min(other);
}
