//! Decides whether a history of operations on a key-value store is linearizable.
//!
//! A history is linearizable if each operation can be given a moment between its
//! invocation and its return such that, carried out one after the other at these
//! moments, they answer what the clients were answered (Herlihy and Wing, 1990).
//! Keys do not influence each other, so each key is judged alone (*locality*, ibid.), but for
//! those that batches and scans touch together: these are judged jointly.
//!
//! [`check`] is where to begin; the search for the moments is in the `search` module for a
//! single key with the original's operations, in `joint` for all else.
//!
//! What a client never learned is part of a history: an operation without an answer may take
//! effect at any moment after its invocation, or never. What was refused (a redirect, no
//! leader, busy) had no effect and is left out.

mod joint;
mod meaning;
mod parts;
mod search;
mod unplaced;

use std::fmt;

use bytes::Bytes;

use joint::Joint;
use parts::Part;
use search::{Answer, Register};

/// How many steps [`check`] should be allowed for keys that hang together if there is no reason for
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
    /// Sets the key to `new`, or removes it, if it holds what is expected: a value, or none.
    Cas {
        /// What it must hold.
        expected: Option<Bytes>,
        /// What it holds then.
        new: Option<Bytes>,
    },
    /// Does all of these, or none, each to a key of its own. Puts, updates, removes and
    /// compare-and-sets alone.
    Batch(Vec<(Bytes, Action)>),
    /// Reads all keys from the operation's key on.
    Scan {
        /// The key before which it ends, if it does.
        until: Option<Bytes>,
    },
}

/// What a client was answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// To a put, an update or a compare-and-set: the value is there now. To a batch: all is
    /// done.
    Created,
    /// To a put: the key was there, nothing changed.
    KeyExists,
    /// To a remove, or a compare-and-set that removes: the key is gone.
    Removed,
    /// To a remove, a get, or a compare-and-set that expected a value: the key was absent.
    NotFound,
    /// To a compare-and-set: the key was there with another content, nothing changed.
    Mismatch,
    /// To a batch: the operation at this place could not be done, those before it could, and
    /// nothing changed.
    BatchFailed(usize),
    /// To a get: the value.
    Found(Bytes),
    /// To a scan: all keys there were, and their values, in the order of the keys.
    Entries(Vec<(Bytes, Bytes)>),
}

/// One operation of one client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Operation {
    /// Who asked; only shown, never judged.
    pub client: u64,
    /// The key; of a batch that of any of its operations, of a scan the first that it covers.
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
    /// The operations can be put into an order.
    Linearizable,
    /// Those of a key, or of keys that hang together, cannot.
    NotLinearizable(Box<Violation>),
    /// The search was given up: neither an order nor its absence is shown. A test has
    /// to take it for a failure.
    Unknown {
        /// The keys whose operations were too many to be judged.
        keys: Vec<Bytes>,
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
            Verdict::Unknown { keys, steps } => write!(
                f,
                "undecided: {} took more than {steps} steps; \
                 use more keys or fewer clients a key, keep time-outs rare, or allow more steps",
                Keys(keys)
            ),
        }
    }
}

/// The shortest part of a history that no order explains.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// Whose operations they are.
    pub keys: Vec<Bytes>,
    /// The operations of the keys that began before [`Violation::until_ns`], by invocation,
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
            "not linearizable: {}: no order explains {} first {} operations, up to {}",
            Keys(&self.keys),
            if self.keys.len() == 1 { "its" } else { "their" },
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
                write!(f, "  {mark} {operation}")?;
                match operation.action {
                    Action::Batch(_) | Action::Scan { .. } => writeln!(f)?,
                    _ if self.keys.len() == 1 => writeln!(f)?,
                    _ => writeln!(f, "  (key \"{}\")", shown(&operation.key))?,
                }
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
            Action::Scan { until } => {
                write!(f, "scan \"{}\"..", shown(&self.key))?;
                if let Some(until) = until {
                    write!(f, "\"{}\"", shown(until))?;
                }
            }
            action => action.fmt(f)?,
        }
        match &self.returned {
            Some((_, Outcome::Created)) => write!(f, " -> created"),
            Some((_, Outcome::KeyExists)) => write!(f, " -> key exists"),
            Some((_, Outcome::Removed)) => write!(f, " -> removed"),
            Some((_, Outcome::NotFound)) => write!(f, " -> not found"),
            Some((_, Outcome::Mismatch)) => write!(f, " -> mismatch"),
            Some((_, Outcome::BatchFailed(at))) => write!(f, " -> failed at {at}"),
            Some((_, Outcome::Found(value))) => write!(f, " -> \"{}\"", shown(value)),
            Some((_, Outcome::Entries(entries))) => {
                write!(f, " ->")?;
                entries.iter().try_for_each(|(key, value)| {
                    write!(f, " \"{}\": \"{}\"", shown(key), shown(value))
                })
            }
            None => write!(f, " -> no answer"),
        }
    }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let or_absent = |value: &Option<Bytes>| match value {
            Some(value) => format!("\"{}\"", shown(value)),
            None => "absent".to_owned(),
        };
        match self {
            Action::Put(value) => write!(f, "put \"{}\"", shown(value)),
            Action::Update(value) => write!(f, "update \"{}\"", shown(value)),
            Action::Remove => write!(f, "remove"),
            Action::Get => write!(f, "get"),
            Action::Cas { expected, new } => {
                write!(f, "cas {} to {}", or_absent(expected), or_absent(new))
            }
            Action::Batch(operations) => {
                write!(f, "batch")?;
                operations
                    .iter()
                    .try_for_each(|(key, action)| write!(f, " [\"{}\" {action}]", shown(key)))
            }
            Action::Scan { .. } => write!(f, "scan"),
        }
    }
}

/// `key "a"`, or `keys "a", "b"`.
struct Keys<'a>(&'a [Bytes]);

impl fmt::Display for Keys<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<String> = self.0.iter().map(|k| format!("\"{}\"", shown(k))).collect();
        let what = if names.len() == 1 { "key" } else { "keys" };
        write!(f, "{what} {}", names.join(", "))
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

fn shown(bytes: impl AsRef<[u8]>) -> String {
    let bytes = bytes.as_ref();
    let cut = &bytes[..bytes.len().min(SHOWN_BYTES_MAX)];
    let more = if cut.len() < bytes.len() { "…" } else { "" };
    format!("{}{more}", cut.escape_ascii())
}

/// Judges a history, keys that hang together at a time, in their order, with at most
/// `steps_max` steps for each.
///
/// Operations may come in any order. Two events at the same moment count as concurrent.
///
/// # Panics
/// If an answer does not belong to its operation (a get that was answered with
/// [`Outcome::Created`]), or came before its invocation: the recorder is wrong then.
#[must_use]
pub fn check(history: &[Operation], steps_max: u64) -> Verdict {
    for operation in history {
        validate(operation);
    }
    for part in parts::of(history) {
        match part.search(u64::MAX, steps_max) {
            Answer::Order => {}
            Answer::NoOrder => {
                let violation = shortest_violation(&part, steps_max);
                return Verdict::NotLinearizable(Box::new(violation));
            }
            Answer::GaveUp => {
                return Verdict::Unknown {
                    keys: part.keys,
                    steps: steps_max,
                };
            }
        }
    }
    Verdict::Linearizable
}

impl Operation {
    /// Whether a scan reads this key.
    fn covers(&self, key: &Bytes) -> bool {
        match &self.action {
            Action::Scan { until } => {
                *key >= self.key && until.as_ref().is_none_or(|until| key < until)
            }
            _ => false,
        }
    }
}

impl Part<'_> {
    /// Looks for an order of what happened up to and with `until_ns`.
    fn search(&self, until_ns: u64, steps_max: u64) -> Answer {
        if self.is_plain() {
            Register::new(&self.operations, until_ns).search(steps_max)
        } else {
            Joint::search(&self.keys, &self.operations, until_ns, steps_max)
        }
    }
}

fn validate(operation: &Operation) {
    let Some((returned_ns, outcome)) = &operation.returned else {
        return;
    };
    assert!(
        *returned_ns >= operation.invoked_ns,
        "returned before it was invoked: {operation}"
    );
    let belongs = match &operation.action {
        Action::Put(_) => matches!(outcome, Outcome::Created | Outcome::KeyExists),
        Action::Update(_) => matches!(outcome, Outcome::Created),
        Action::Remove => matches!(outcome, Outcome::Removed | Outcome::NotFound),
        Action::Get => matches!(outcome, Outcome::Found(_) | Outcome::NotFound),
        Action::Cas { expected, new } => match outcome {
            Outcome::Created => new.is_some(),
            Outcome::Removed => new.is_none(),
            Outcome::NotFound => expected.is_some(),
            outcome => *outcome == Outcome::Mismatch,
        },
        Action::Batch(operations) => match outcome {
            Outcome::BatchFailed(at) => operations
                .get(*at)
                .is_some_and(|(_, action)| !matches!(action, Action::Update(_))),
            outcome => *outcome == Outcome::Created,
        },
        Action::Scan { .. } => match outcome {
            Outcome::Entries(entries) => {
                entries.iter().all(|(key, _)| operation.covers(key))
                    && entries.is_sorted_by(|a, b| a.0 < b.0)
            }
            _ => false,
        },
    };
    assert!(
        belongs,
        "the answer does not belong to the operation: {operation}"
    );
}

/// Narrows a history without an order down to its shortest such prefix, which is found by
/// halving: what holds for a history holds for its prefixes.
fn shortest_violation(part: &Part<'_>, steps_max: u64) -> Violation {
    let operations = &part.operations;
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
        match part.search(returns[middle], steps_max) {
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
        .filter(|o| {
            let is_read = matches!(o.action, Action::Get | Action::Scan { .. });
            o.returned.is_some() || !is_read
        })
        .collect();
    let culprit = prefix
        .iter()
        .position(|o| o.returned.as_ref().is_some_and(|(at, _)| *at == until_ns))
        .expect("the prefix ends with a return");
    Violation {
        keys: part.keys.clone(),
        prefix,
        until_ns,
        culprit,
    }
}

#[cfg(test)]
mod tests;
