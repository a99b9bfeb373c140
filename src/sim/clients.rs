//! Simulated clients: each does one operation after the other, follows redirects, sends
//! again what was not answered, under the same name, and writes down what it saw.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use rand::RngExt;
use rand::rngs::StdRng;

use crate::kv::{ClientId, Command, Identity, Operations, Outcome, WriteOp};
use crate::limits;
use crate::node::{Answer, Page, Request, Scan};
use crate::sim::linearizability::{Action, Operation, Outcome as Seen};
use crate::sim::plan::Plan;
use crate::time::Time;

/// An operation is given up after this long, and its outcome stays unknown.
const PATIENCE: Duration = Duration::from_secs(3);

/// Keys that batches and scans touch together: more of them, with all that happens to each,
/// take a checker too long to judge.
const GROUP_KEYS: u64 = 3;
/// Entries of a scan's page: fewer than a group has, so that some scans end early.
const PAGE_ENTRIES_MAX: usize = 2;

/// One client.
#[derive(Debug)]
pub(super) struct Client {
    number: u64,
    next_sequence: u64,
    session: Option<Session>,
    current: Option<Current>,
    /// What it read last of a key: what it expects when it compares.
    seen: BTreeMap<Bytes, Option<Bytes>>,
    /// Counts what was sent, so that a late answer is not taken for the current one.
    attempt: u64,
    /// Whom it asks next.
    pub(super) target: u64,
}

#[derive(Debug)]
struct Session {
    id: u64,
    next_sequence: u64,
}

#[derive(Debug)]
struct Current {
    request: Request,
    /// What goes into the history; none for the opening of a session.
    operation: Option<Operation>,
    invoked: Time,
    /// Whether an attempt may have been applied.
    uncertain: bool,
    /// Whether it can be sent again without being applied twice.
    repeatable: bool,
}

/// What a client does after an answer or a time-out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// Think, then do the next operation.
    Rest,
    /// Send the same again, after a moment.
    Again,
    /// The answer was to an earlier attempt.
    Ignore,
}

impl Client {
    pub(super) fn new(number: u64) -> Client {
        Client {
            number,
            next_sequence: 1,
            session: None,
            current: None,
            seen: BTreeMap::new(),
            attempt: 0,
            target: 0,
        }
    }

    /// Whether it waits for an answer.
    pub(super) fn is_busy(&self) -> bool {
        self.current.is_some()
    }

    /// Begins an operation.
    pub(super) fn begin(&mut self, now: Time, plan: &Plan, rng: &mut StdRng) {
        let client = ClientId(u128::from(self.number) + 1);
        if rng.random_range(0..40) == 0 {
            self.session = None;
            let request = Request::Write {
                command: Command::OpenSession { client }.encode(),
                grows: true,
            };
            self.current = Some(Current {
                request,
                operation: None,
                invoked: now,
                uncertain: false,
                repeatable: false,
            });
            return;
        }
        let number = rng.random_range(0..plan.keys);
        let value = self.value(plan, rng);
        let kinds = if plan.has_joint_operations { 14 } else { 10 };
        let (key, action) = match rng.random_range(0..kinds) {
            0..2 => (key(number), Action::Put(value)),
            2..5 => (key(number), Action::Update(value)),
            5 => (key(number), Action::Remove),
            6..10 => (key(number), Action::Get),
            10 => (key(number), self.comparison(&key(number), value, rng)),
            11 => self.batch(number, plan, rng),
            _ => {
                let last = number - number % GROUP_KEYS + GROUP_KEYS;
                let until = Some(key(last));
                (key(last - GROUP_KEYS), Action::Scan { until })
            }
        };
        let (identity, request) = self.request(client, &key, &action, rng);
        let operation = Operation {
            client: self.number,
            key,
            action,
            invoked_ns: now.as_nanos(),
            returned: None,
        };
        let is_read = !matches!(request, Request::Write { .. });
        self.current = Some(Current {
            request,
            operation: Some(operation),
            invoked: now,
            uncertain: false,
            repeatable: identity != Identity::None || is_read,
        });
    }

    /// A value that nobody else writes.
    fn value(&self, plan: &Plan, rng: &mut StdRng) -> Bytes {
        let mut value = format!("c{}-{}-", self.number, self.next_sequence).into_bytes();
        value.resize(
            value.len().max(rng.random_range(0..plan.value_bytes_max)),
            b'.',
        );
        Bytes::from(value)
    }

    /// Compares with what was read last, so that it is right now and then.
    fn comparison(&self, key: &Bytes, value: Bytes, rng: &mut StdRng) -> Action {
        let expected = self.seen.get(key).cloned().flatten();
        let new = (rng.random_range(0..4) > 0).then_some(value);
        Action::Cas { expected, new }
    }

    /// Two or three operations on keys of one group, or one if there are no more keys.
    fn batch(&self, number: u64, plan: &Plan, rng: &mut StdRng) -> (Bytes, Action) {
        let first = number - number % GROUP_KEYS;
        let group = GROUP_KEYS.min(plan.keys - first);
        let count = group.min(rng.random_range(2..=GROUP_KEYS));
        let begin = rng.random_range(0..group);
        let operations = (0..count).map(|n| {
            let key = key(first + (begin + n) % group);
            let value = self.value(plan, rng);
            let value = Bytes::from([&value[..], format!("-{n}").as_bytes()].concat());
            let action = match rng.random_range(0..8) {
                0 => Action::Put(value),
                1..5 => Action::Update(value),
                5 => Action::Remove,
                _ => self.comparison(&key, value, rng),
            };
            (key, action)
        });
        (key(number), Action::Batch(operations.collect()))
    }

    fn request(
        &mut self,
        client: ClientId,
        key: &Bytes,
        action: &Action,
        rng: &mut StdRng,
    ) -> (Identity, Request) {
        let identity = self.identity(client, rng);
        let request = match action {
            Action::Get => Request::Get {
                key: key.clone(),
                anywhere: rng.random_range(0..3) == 0,
            },
            Action::Scan { until } => Request::Scan(Box::new(Scan {
                from: key.clone(),
                until: until.clone(),
                entries_max: rng.random_range(PAGE_ENTRIES_MAX..=2 * PAGE_ENTRIES_MAX),
                bytes_max: limits::SCAN_BYTES_MAX,
                anywhere: rng.random_range(0..3) == 0,
            })),
            Action::Batch(actions) => {
                let ops: Vec<WriteOp> = actions.iter().map(|(k, a)| write_op(k, a)).collect();
                let operations = Operations::encode(&ops).expect("few, of different keys");
                Request::Write {
                    grows: ops.iter().any(WriteOp::grows),
                    command: Command::Batch {
                        identity,
                        operations,
                    }
                    .encode(),
                }
            }
            action => {
                let op = write_op(key, action);
                Request::Write {
                    grows: op.grows(),
                    command: Command::Write { identity, op }.encode(),
                }
            }
        };
        (identity, request)
    }

    fn identity(&mut self, client: ClientId, rng: &mut StdRng) -> Identity {
        let sequence = self.next_sequence;
        self.next_sequence += 1;
        match &mut self.session {
            Some(session) => {
                let sequence = session.next_sequence;
                session.next_sequence += 1;
                Identity::Session {
                    session: session.id,
                    sequence,
                    acked_below: sequence,
                }
            }
            None if rng.random_range(0..10) == 0 => Identity::None,
            None => Identity::Implicit { client, sequence },
        }
    }

    /// How often anything was sent.
    pub(super) fn attempts(&self) -> u64 {
        self.attempt
    }

    /// Whether the last attempt was this one, and what it was about is not decided.
    pub(super) fn waits_for(&self, attempt: u64) -> bool {
        self.attempt == attempt && self.current.is_some()
    }

    /// What is sent now, and as which attempt.
    pub(super) fn attempt(&mut self) -> Option<(u64, Request)> {
        let current = self.current.as_ref()?;
        self.attempt += 1;
        Some((self.attempt, current.request.clone()))
    }

    /// No answer came in time.
    pub(super) fn time_out(
        &mut self,
        now: Time,
        attempt: u64,
        nodes: u64,
        rng: &mut StdRng,
        history: &mut Vec<Operation>,
    ) -> Next {
        if attempt != self.attempt || self.current.is_none() {
            return Next::Ignore;
        }
        self.target = rng.random_range(0..nodes);
        self.unanswered(now, history)
    }

    /// An attempt may have been applied: sends it again if that is safe.
    fn unanswered(&mut self, now: Time, history: &mut Vec<Operation>) -> Next {
        let Some(current) = &mut self.current else {
            return Next::Ignore;
        };
        current.uncertain = true;
        if current.repeatable && now < current.invoked + PATIENCE {
            return Next::Again;
        }
        self.give_up(history);
        Next::Rest
    }

    /// Ends the operation without knowing what came of it.
    fn give_up(&mut self, history: &mut Vec<Operation>) {
        let Some(current) = self.current.take() else {
            return;
        };
        if current.uncertain {
            history.extend(current.operation);
            // What was given up is never sent again; the session has a hole there,
            // which its next write's `acked_below` closes.
        }
    }

    /// An answer came.
    pub(super) fn take_answer(
        &mut self,
        now: Time,
        attempt: u64,
        answer: Answer,
        nodes: u64,
        rng: &mut StdRng,
        history: &mut Vec<Operation>,
    ) -> Next {
        if attempt != self.attempt {
            return Next::Ignore;
        }
        let Some(current) = &mut self.current else {
            return Next::Ignore;
        };
        let seen = match answer {
            Answer::Redirect(leader) => {
                self.target = leader.0;
                return Next::Again;
            }
            Answer::NoLeader
            | Answer::Founding
            | Answer::Busy
            | Answer::NoSpace
            | Answer::StoreFull => {
                self.target = rng.random_range(0..nodes);
                if now >= current.invoked + PATIENCE {
                    self.give_up(history);
                    return Next::Rest;
                }
                return Next::Again;
            }
            Answer::OutcomeUnknown => return self.unanswered(now, history),
            Answer::Value(value) => {
                value.map_or(Seen::NotFound, |value| Seen::Found(value.freeze()))
            }
            Answer::Page(page) => {
                let operation = current.operation.as_mut().expect("a scan is one");
                end_early(operation, &page);
                Seen::Entries(page.entries().collect())
            }
            Answer::Applied(outcome) => match outcome {
                Outcome::Created => Seen::Created,
                Outcome::Removed => Seen::Removed,
                Outcome::KeyExists => Seen::KeyExists,
                Outcome::NotFound => Seen::NotFound,
                Outcome::Mismatch => Seen::Mismatch,
                Outcome::BatchFailed(at) => Seen::BatchFailed(usize::from(at)),
                Outcome::SessionOpened(id) => {
                    self.session = Some(Session {
                        id,
                        next_sequence: 1,
                    });
                    self.current = None;
                    return Next::Rest;
                }
                Outcome::SessionExpired => {
                    // Nothing of it will ever be applied again; an attempt before may
                    // have been.
                    self.session = None;
                    self.give_up(history);
                    return Next::Rest;
                }
                outcome => panic!("client {} was answered {outcome:?}", self.number),
            },
            Answer::Status(_) | Answer::Change(_) | Answer::HandOver(_) | Answer::Backup(_) => {
                unreachable!("nobody asks for it here")
            }
        };
        let current = self.current.take().expect("there is one");
        if let Some(mut operation) = current.operation {
            self.note(&operation.key, &seen);
            operation.returned = Some((now.as_nanos(), seen));
            history.push(operation);
        }
        Next::Rest
    }

    /// Remembers what was read.
    fn note(&mut self, key: &Bytes, seen: &Seen) {
        match seen {
            Seen::Found(value) => {
                self.seen.insert(key.clone(), Some(value.clone()));
            }
            Seen::NotFound => {
                self.seen.insert(key.clone(), None);
            }
            Seen::Entries(entries) => {
                let some = entries.iter().map(|(k, v)| (k.clone(), Some(v.clone())));
                self.seen.extend(some);
            }
            _ => {}
        }
    }

    /// The run is over: what is still on its way stays unknown.
    pub(super) fn finish(mut self, history: &mut Vec<Operation>) {
        if let Some(current) = &mut self.current {
            current.uncertain = true;
        }
        self.give_up(history);
    }
}

fn key(number: u64) -> Bytes {
    Bytes::from(format!("key-{number}"))
}

fn write_op(key: &Bytes, action: &Action) -> WriteOp {
    let key = key.clone();
    match action {
        Action::Put(value) => WriteOp::Put {
            key,
            value: value.clone(),
        },
        Action::Update(value) => WriteOp::Update {
            key,
            value: value.clone(),
        },
        Action::Remove => WriteOp::Remove { key },
        Action::Cas { expected, new } => WriteOp::Cas {
            key,
            expected: expected.clone(),
            new: new.clone(),
        },
        Action::Get | Action::Batch(_) | Action::Scan { .. } => {
            unreachable!("{action:?} is not a write of one key")
        }
    }
}

/// A page that is not the last says nothing of the keys behind it.
fn end_early(operation: &mut Operation, page: &Page) {
    if let (Action::Scan { until }, Some(next)) = (&mut operation.action, page.next()) {
        *until = Some(next.clone());
    }
}
