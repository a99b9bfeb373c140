//! Simulated clients: each does one operation after the other, follows redirects, sends
//! again what was not answered, under the same name, and writes down what it saw.

use std::time::Duration;

use bytes::Bytes;
use rand::RngExt;
use rand::rngs::StdRng;

use crate::kv::{ClientId, Command, Identity, Outcome, WriteOp};
use crate::node::{Answer, Request};
use crate::sim::linearizability::{Action, Operation, Outcome as Seen};
use crate::sim::plan::Plan;
use crate::time::Time;

/// An operation is given up after this long, and its outcome stays unknown.
const PATIENCE: Duration = Duration::from_secs(3);

/// One client.
#[derive(Debug)]
pub(super) struct Client {
    number: u64,
    next_sequence: u64,
    session: Option<Session>,
    current: Option<Current>,
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
        let key = Bytes::from(format!("key-{}", rng.random_range(0..plan.keys)));
        let mut value = format!("c{}-{}-", self.number, self.next_sequence).into_bytes();
        value.resize(
            value.len().max(rng.random_range(0..plan.value_bytes_max)),
            b'.',
        );
        let value = Bytes::from(value);
        let (action, op) = match rng.random_range(0..10) {
            0..2 => (
                Action::Put(value.clone()),
                Some(WriteOp::Put {
                    key: key.clone(),
                    value,
                }),
            ),
            2..5 => (
                Action::Update(value.clone()),
                Some(WriteOp::Update {
                    key: key.clone(),
                    value,
                }),
            ),
            5 => (Action::Remove, Some(WriteOp::Remove { key: key.clone() })),
            _ => (Action::Get, None),
        };
        let operation = Operation {
            client: self.number,
            key: key.clone(),
            action,
            invoked_ns: now.as_nanos(),
            returned: None,
        };
        let identity = self.identity(client, rng);
        let request = match op {
            Some(op) => Request::Write {
                grows: !matches!(op, WriteOp::Remove { .. }),
                command: Command::Write { identity, op }.encode(),
            },
            None => Request::Get { key },
        };
        let repeatable = identity != Identity::None || matches!(request, Request::Get { .. });
        self.current = Some(Current {
            request,
            operation: Some(operation),
            invoked: now,
            uncertain: false,
            repeatable,
        });
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
            Answer::NoLeader | Answer::Busy | Answer::NoSpace => {
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
            Answer::Applied(outcome) => match outcome {
                Outcome::Created => Seen::Created,
                Outcome::Removed => Seen::Removed,
                Outcome::KeyExists => Seen::KeyExists,
                Outcome::NotFound => Seen::NotFound,
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
            Answer::Status(_) | Answer::Operator(_) => {
                unreachable!("nobody asks for it here")
            }
        };
        let current = self.current.take().expect("there is one");
        if let Some(mut operation) = current.operation {
            operation.returned = Some((now.as_nanos(), seen));
            history.push(operation);
        }
        Next::Rest
    }

    /// The run is over: what is still on its way stays unknown.
    pub(super) fn finish(mut self, history: &mut Vec<Operation>) {
        if let Some(current) = &mut self.current {
            current.uncertain = true;
        }
        self.give_up(history);
    }
}
