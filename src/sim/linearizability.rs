//! Decides whether a history of operations on a key-value store is linearizable.
//!
//! A history is linearizable if each operation can be given a moment between its
//! invocation and its return such that, carried out one after the other at these
//! moments, they answer what the clients were answered (Herlihy and Wing, 1990).
//! Keys do not influence each other, so each key is judged alone (*locality*, ibid.).
//!
//! [`check`] is where to begin; the search for the moments is in the `search`
//! module. What a client never learned is part of a history: an operation without an
//! answer may take effect at any moment after its invocation, or never. What was
//! refused (a redirect, no leader, busy) had no effect and is left out.

mod search;

use std::collections::BTreeMap;
use std::fmt;

use bytes::Bytes;

use search::{Answer, Register};

/// How many steps [`check`] should be allowed for one key if there is no reason for
/// another number: seconds, and a few hundred MiB at worst.
pub const STEPS_MAX: u64 = 2_000_000;

/// How many lines a [`Violation`] prints at most.
const LINES_MAX: usize = 40;
/// How many bytes of a key or a value a line shows.
const SHOWN_BYTES_MAX: usize = 48;

/// What a client asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Inserts this value if the key is absent.
    Put(Bytes),
    /// Inserts or overwrites.
    Update(Bytes),
    /// Removes the key if it is there.
    Remove,
    /// Reads the value.
    Get,
}

/// What a client was answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// To a put or an update: the value is there now.
    Created,
    /// To a put: the key was there, nothing changed.
    KeyExists,
    /// To a remove: the key was there and is gone.
    Removed,
    /// To a remove or a get: the key was absent.
    NotFound,
    /// To a get: the value.
    Found(Bytes),
}

/// One operation of one client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Operation {
    /// Who asked; only shown, never judged.
    pub client: u64,
    /// The key.
    pub key: Bytes,
    /// What was asked for.
    pub action: Action,
    /// When it was sent, in nanoseconds on the one clock of the whole history.
    pub invoked_ns: u64,
    /// When the answer came, on the same clock, and what it said. `None` if it is not
    /// known whether the operation took effect or ever will.
    pub returned: Option<(u64, Outcome)>,
}

/// What [`check`] found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Every key's operations can be put into an order.
    Linearizable,
    /// The operations of a key cannot.
    NotLinearizable(Box<Violation>),
    /// The search was given up: neither an order nor its absence is shown. A test has
    /// to take it for a failure.
    Unknown {
        /// The key whose operations were too many to be judged.
        key: Bytes,
        /// How many steps were spent on it.
        steps: u64,
    },
}

impl Verdict {
    /// Panics with a readable report unless the history was linearizable.
    ///
    /// # Panics
    /// On [`Verdict::NotLinearizable`] and on [`Verdict::Unknown`].
    pub fn assert_linearizable(&self) {
        assert!(*self == Verdict::Linearizable, "{self}");
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Verdict::Linearizable => write!(f, "linearizable"),
            Verdict::NotLinearizable(violation) => violation.fmt(f),
            Verdict::Unknown { key, steps } => write!(
                f,
                "undecided: key \"{}\" took more than {steps} steps; \
                 use more keys or fewer clients a key, keep time-outs rare, or allow more steps",
                shown(key)
            ),
        }
    }
}

/// The shortest part of a history that no order explains.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// Whose operations they are.
    pub key: Bytes,
    /// The operations of the key that began before [`Violation::until_ns`], by invocation,
    /// as they stood then: of those that had not returned, writes are without an answer, and reads are
    /// left out.
    pub prefix: Vec<Operation>,
    /// When the history became impossible: up to any moment before it there is an order.
    pub until_ns: u64,
    /// Where in `prefix` the operation stands whose return made it impossible.
    pub culprit: usize,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "not linearizable: key \"{}\": no order explains its first {} operations, up to {}",
            shown(&self.key),
            self.prefix.len(),
            Millis(self.until_ns),
        )?;
        let left_out = self.prefix.len().saturating_sub(LINES_MAX);
        if left_out > 0 {
            writeln!(f, "    ({left_out} earlier operations)")?;
        }
        for (at, operation) in self.prefix.iter().enumerate() {
            // The culprit may have been invoked long before the last lines.
            if at >= left_out || at == self.culprit {
                let mark = if at == self.culprit { '>' } else { ' ' };
                writeln!(f, "  {mark} {operation}")?;
            }
        }
        Ok(())
    }
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "client {:<3} [{} .. ",
            self.client,
            Millis(self.invoked_ns)
        )?;
        match &self.returned {
            Some((at, _)) => write!(f, "{}]  ", Millis(*at))?,
            None => write!(f, "{:>14}]  ", "?")?,
        }
        match &self.action {
            Action::Put(value) => write!(f, "put \"{}\"", shown(value))?,
            Action::Update(value) => write!(f, "update \"{}\"", shown(value))?,
            Action::Remove => write!(f, "remove")?,
            Action::Get => write!(f, "get")?,
        }
        match &self.returned {
            Some((_, Outcome::Created)) => write!(f, " -> created"),
            Some((_, Outcome::KeyExists)) => write!(f, " -> key exists"),
            Some((_, Outcome::Removed)) => write!(f, " -> removed"),
            Some((_, Outcome::NotFound)) => write!(f, " -> not found"),
            Some((_, Outcome::Found(value))) => write!(f, " -> \"{}\"", shown(value)),
            None => write!(f, " -> no answer"),
        }
    }
}

/// Nanoseconds, shown as milliseconds.
struct Millis(u64);

impl fmt::Display for Millis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:>7}.{:03} ms",
            self.0 / 1_000_000,
            self.0 / 1_000 % 1_000
        )
    }
}

fn shown(bytes: &[u8]) -> String {
    let cut = &bytes[..bytes.len().min(SHOWN_BYTES_MAX)];
    let more = if cut.len() < bytes.len() { "…" } else { "" };
    format!("{}{more}", cut.escape_ascii())
}

/// Judges a history, key by key in their order, with at most `steps_max` steps for each.
///
/// Operations may come in any order. Two events at the same moment count as concurrent.
///
/// # Panics
/// If an answer does not belong to its operation (a get that was answered with
/// [`Outcome::Created`]), or came before its invocation: the recorder is wrong then.
#[must_use]
pub fn check(history: &[Operation], steps_max: u64) -> Verdict {
    let mut by_key: BTreeMap<&Bytes, Vec<&Operation>> = BTreeMap::new();
    for operation in history {
        validate(operation);
        by_key.entry(&operation.key).or_default().push(operation);
    }
    for (key, mut operations) in by_key {
        operations.sort_by_key(|o| o.invoked_ns);
        match Register::new(&operations, u64::MAX).search(steps_max) {
            Answer::Order => {}
            Answer::NoOrder => {
                let violation = shortest_violation(key, &operations, steps_max);
                return Verdict::NotLinearizable(Box::new(violation));
            }
            Answer::GaveUp => {
                return Verdict::Unknown {
                    key: key.clone(),
                    steps: steps_max,
                };
            }
        }
    }
    Verdict::Linearizable
}

fn validate(operation: &Operation) {
    let Some((returned_ns, outcome)) = &operation.returned else {
        return;
    };
    assert!(
        *returned_ns >= operation.invoked_ns,
        "returned before it was invoked: {operation}"
    );
    let belongs = match operation.action {
        Action::Put(_) => matches!(outcome, Outcome::Created | Outcome::KeyExists),
        Action::Update(_) => matches!(outcome, Outcome::Created),
        Action::Remove => matches!(outcome, Outcome::Removed | Outcome::NotFound),
        Action::Get => matches!(outcome, Outcome::Found(_) | Outcome::NotFound),
    };
    assert!(
        belongs,
        "the answer does not belong to the operation: {operation}"
    );
}

/// Narrows a history without an order down to its shortest such prefix, which is found by
/// halving: what holds for a history holds for its prefixes.
fn shortest_violation(key: &Bytes, operations: &[&Operation], steps_max: u64) -> Violation {
    let mut returns: Vec<u64> = operations
        .iter()
        .filter_map(|o| o.returned.as_ref().map(|(at, _)| *at))
        .collect();
    returns.sort_unstable();
    returns.dedup();
    // There is an order up to all returns before `low`, and none up to `high`.
    let (mut low, mut high) = (0, returns.len() - 1);
    while low < high {
        let middle = low.midpoint(high);
        match Register::new(operations, returns[middle]).search(steps_max) {
            Answer::NoOrder => high = middle,
            // Undecided is taken for an order: the prefix that is found is then perhaps not
            // the shortest, but still one without an order.
            Answer::Order | Answer::GaveUp => low = middle + 1,
        }
    }
    let until_ns = returns[high];
    let prefix: Vec<Operation> = operations
        .iter()
        .filter(|o| o.invoked_ns <= until_ns)
        .map(|&o| {
            let mut operation = o.clone();
            operation.returned.take_if(|(at, _)| *at > until_ns);
            operation
        })
        // A read without an answer says nothing.
        .filter(|o| o.returned.is_some() || o.action != Action::Get)
        .collect();
    let culprit = prefix
        .iter()
        .position(|o| o.returned.as_ref().is_some_and(|(at, _)| *at == until_ns))
        .expect("the prefix ends with a return");
    Violation {
        key: key.clone(),
        prefix,
        until_ns,
        culprit,
    }
}

#[cfg(test)]
mod tests;
