//! What makes a repeated write harmless: the answers of earlier writes.
//!
//! Part of the replicated state and of snapshots. All of it is bounded, and what
//! is forgotten is forgotten by log position alone, so that replicas agree.
//!
//! - *Implicit*: (client, sequence) → answer, for [`SessionLimits::implicit_window`]
//!   entries of the log. The original's client makes a new uuid for each command,
//!   so these are many and tiny: see `implicit`.
//! - *Explicit*: opened through the log, with a window of answers above what the
//!   client has acknowledged (thesis §6.3, "linearizable semantics").

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::command::{ClientId, Identity};
use super::implicit::{ImplicitHash, ImplicitSessions};
use super::outcome::Outcome;
use crate::limits;
use crate::mutation::mutated;

pub(super) use super::implicit::ImplicitRecord;

/// How much is remembered. All replicas must use the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SessionLimits {
    /// How many entries of the log an implicit session is remembered for; at most
    /// 2^31, so that the positions in its index stay unambiguous.
    pub implicit_window: u64,
    /// Explicit sessions in all; the longest idle makes room.
    pub sessions_max: usize,
    /// How many entries an explicit session outlives its last write.
    pub idle_entries: u64,
    /// Answers that an explicit session keeps from `acked_below` on; at most 65,535.
    pub window: usize,
}

impl Default for SessionLimits {
    fn default() -> SessionLimits {
        SessionLimits {
            implicit_window: limits::IMPLICIT_SESSION_WINDOW,
            sessions_max: limits::SESSIONS_MAX,
            idle_entries: limits::SESSION_IDLE_ENTRIES,
            window: limits::SESSION_WINDOW,
        }
    }
}

/// One explicit session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ExplicitSession {
    pub(super) client: ClientId,
    /// The log index of the last entry that named it.
    pub(super) last_used: u64,
    /// Answers below are dropped.
    pub(super) acked_below: u64,
    /// The codes of the answers from `acked_below` on; 0 where none is known yet,
    /// never at the end.
    pub(super) answers: VecDeque<u8>,
}

impl ExplicitSession {
    fn acknowledge(&mut self, acked_below: u64) {
        if acked_below <= self.acked_below {
            return;
        }
        let dropped = usize::try_from(acked_below - self.acked_below).unwrap_or(usize::MAX);
        self.answers.drain(..dropped.min(self.answers.len()));
        self.acked_below = acked_below;
    }
}

/// A write that is to be applied, until its answer is recorded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Admitted {
    identity: Identity,
    /// Of an implicit identity.
    hash: Option<ImplicitHash>,
}

/// Whether a write is to be applied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Admission {
    /// It was not seen before.
    Apply(Admitted),
    /// This is its answer, and nothing is to be done.
    Answer(Outcome),
}

/// The session table.
#[derive(Debug)]
pub(super) struct Sessions {
    limits: SessionLimits,
    implicit: ImplicitSessions,
    explicit: BTreeMap<u64, ExplicitSession>,
    /// (`last_used`, id) of each explicit session: the longest idle first.
    idle_order: BTreeSet<(u64, u64)>,
}

/// A session table as it was, for a snapshot.
#[derive(Debug)]
pub(super) struct SessionsImage {
    pub(super) implicit: Vec<ImplicitRecord>,
    pub(super) explicit: Vec<(u64, ExplicitSession)>,
}

impl Sessions {
    pub(super) fn new(limits: SessionLimits) -> Sessions {
        assert!(limits.implicit_window <= 1 << 31, "positions fit the index");
        assert!(
            limits.window <= usize::from(u16::MAX),
            "windows fit the file format"
        );
        Sessions {
            limits,
            implicit: ImplicitSessions::new(),
            explicit: BTreeMap::new(),
            idle_order: BTreeSet::new(),
        }
    }

    pub(super) fn limits(&self) -> SessionLimits {
        self.limits
    }

    /// The number of explicit sessions.
    pub(super) fn explicit_count(&self) -> usize {
        self.explicit.len()
    }

    /// The number of implicit sessions that are remembered.
    pub(super) fn implicit_count(&self) -> usize {
        self.implicit.len()
    }

    /// Forgets what is too old for the entry at `index`; called for every entry.
    pub(super) fn expire(&mut self, index: u64) {
        while let Some(oldest) = self.implicit.front() {
            if oldest.index().saturating_add(self.limits.implicit_window) > index {
                break;
            }
            self.implicit.drop_front();
        }
        while let Some(&(last_used, id)) = self.idle_order.first() {
            if last_used.saturating_add(self.limits.idle_entries) > index {
                break;
            }
            self.idle_order.pop_first();
            self.explicit.remove(&id);
        }
    }

    /// Opens an explicit session by the entry at `index`, which names it.
    pub(super) fn open(&mut self, client: ClientId, index: u64) -> u64 {
        if self.explicit.len() >= self.limits.sessions_max
            && let Some((_, id)) = self.idle_order.pop_first()
        {
            self.explicit.remove(&id);
        }
        let session = ExplicitSession {
            client,
            last_used: index,
            acked_below: 1,
            answers: VecDeque::new(),
        };
        let before = self.explicit.insert(index, session);
        assert!(before.is_none(), "entry {index} opened one session");
        self.idle_order.insert((index, index));
        index
    }

    /// Whether the write of the entry at `index` is new.
    pub(super) fn admit(&mut self, identity: Identity, index: u64) -> Admission {
        let mut admitted = Admitted {
            identity,
            hash: None,
        };
        match identity {
            Identity::None => {}
            Identity::Implicit { client, sequence } => {
                let hash = self.implicit.hash(client, sequence);
                if let Some(record) = self.implicit.find(hash, client, sequence)
                    && !mutated!(AppliedTwice)
                {
                    return Admission::Answer(known_outcome(record.code()));
                }
                admitted.hash = Some(hash);
            }
            Identity::Session {
                session,
                sequence,
                acked_below,
            } => {
                if let Some(answer) = self.admit_explicit(session, sequence, acked_below, index) {
                    return Admission::Answer(answer);
                }
            }
        }
        Admission::Apply(admitted)
    }

    /// The answer of a write that is not to be applied.
    fn admit_explicit(
        &mut self,
        id: u64,
        sequence: u64,
        acked: u64,
        index: u64,
    ) -> Option<Outcome> {
        let Some(session) = self.explicit.get_mut(&id) else {
            return Some(Outcome::SessionExpired);
        };
        self.idle_order.remove(&(session.last_used, id));
        self.idle_order.insert((index, id));
        session.last_used = index;
        session.acknowledge(acked);
        let Some(above) = sequence.checked_sub(session.acked_below) else {
            return Some(Outcome::SessionStale);
        };
        let place = usize::try_from(above).unwrap_or(usize::MAX);
        if place >= self.limits.window {
            return Some(Outcome::SessionWindowFull);
        }
        match session.answers.get(place) {
            None | Some(0) => None,
            Some(&code) => Some(known_outcome(code)),
        }
    }

    /// Remembers the answer of a write that [`Sessions::admit`] let through.
    pub(super) fn record(&mut self, write: Admitted, index: u64, outcome: Outcome) {
        let code = outcome.to_code().expect("writes have outcomes with a code");
        match write.identity {
            Identity::None => {}
            Identity::Implicit { client, sequence } => {
                let hash = write.hash.expect("it was looked for when it was admitted");
                let record = ImplicitRecord::new(client, sequence, index, code);
                self.implicit.push(hash, record);
            }
            Identity::Session {
                session, sequence, ..
            } => {
                let session = self
                    .explicit
                    .get_mut(&session)
                    .expect("the session was there when the write was admitted");
                let place = usize::try_from(sequence - session.acked_below)
                    .expect("the place was checked when the write was admitted");
                if session.answers.len() <= place {
                    session.answers.resize(place + 1, 0);
                }
                session.answers[place] = code;
            }
        }
    }

    /// The table as it is.
    pub(super) fn image(&self) -> SessionsImage {
        SessionsImage {
            implicit: self.implicit.iter().copied().collect(),
            explicit: self
                .explicit
                .iter()
                .map(|(&id, session)| (id, session.clone()))
                .collect(),
        }
    }

    /// Takes over a record of a snapshot of the state at `applied`.
    pub(super) fn restore_implicit(
        &mut self,
        record: ImplicitRecord,
        applied: u64,
    ) -> Result<(), &'static str> {
        if Outcome::from_code(record.code()).is_none() {
            return Err("implicit session with an unknown outcome");
        }
        if record.index() > applied {
            return Err("implicit session from behind the snapshot's entry");
        }
        if record.index().saturating_add(self.limits.implicit_window) <= applied {
            return Err("implicit session that should have expired");
        }
        if self
            .implicit
            .back()
            .is_some_and(|last| last.index() >= record.index())
        {
            return Err("implicit sessions out of log order");
        }
        let (client, sequence) = (record.client(), record.sequence());
        let hash = self.implicit.hash(client, sequence);
        if self.implicit.find(hash, client, sequence).is_some() {
            return Err("implicit session twice");
        }
        self.implicit.push(hash, record);
        Ok(())
    }

    /// Takes over a session of a snapshot of the state at `applied`.
    pub(super) fn restore_explicit(
        &mut self,
        id: u64,
        session: ExplicitSession,
        applied: u64,
    ) -> Result<(), &'static str> {
        if self.explicit.len() >= self.limits.sessions_max {
            return Err("more sessions than there may be");
        }
        if id > session.last_used || session.last_used > applied {
            return Err("session used before it was opened or behind the snapshot's entry");
        }
        if session.last_used.saturating_add(self.limits.idle_entries) <= applied {
            return Err("session that should have expired");
        }
        if session.acked_below == 0
            || session.answers.len() > self.limits.window
            || session.answers.back() == Some(&0)
        {
            return Err("session with an impossible window");
        }
        let known = |&code: &u8| code == 0 || Outcome::from_code(code).is_some();
        if !session.answers.iter().all(known) {
            return Err("session with an unknown outcome");
        }
        if self
            .explicit
            .last_key_value()
            .is_some_and(|(&last, _)| last >= id)
        {
            return Err("sessions out of order");
        }
        self.idle_order.insert((session.last_used, id));
        self.explicit.insert(id, session);
        Ok(())
    }

    /// Panics if the table contradicts itself.
    #[cfg(test)]
    pub(super) fn check(&self) {
        for record in self.implicit.iter() {
            let (client, sequence) = (record.client(), record.sequence());
            let hash = self.implicit.hash(client, sequence);
            assert_eq!(self.implicit.find(hash, client, sequence), Some(record));
        }
        assert_eq!(self.explicit.len(), self.idle_order.len());
        for (&id, session) in &self.explicit {
            assert!(self.idle_order.contains(&(session.last_used, id)));
            assert!(session.answers.len() <= self.limits.window);
            assert_ne!(session.answers.back(), Some(&0));
        }
    }
}

fn known_outcome(code: u8) -> Outcome {
    Outcome::from_code(code).expect("only known outcomes are remembered")
}

#[cfg(test)]
mod tests;
