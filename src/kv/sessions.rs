//! What makes a repeated write harmless: the answers of earlier writes.
//!
//! Part of the replicated state and of snapshots. All of it is bounded, and what
//! is forgotten is forgotten by log position alone, so that replicas agree.
//!
//! - *Implicit*: (client, sequence) → answer, for [`SessionLimits::implicit_window`]
//!   entries of the log. The original's client makes a new uuid for each command,
//!   so these are many and tiny: 32 bytes in log order, found through a hash index
//!   whose order nobody sees.
//! - *Explicit*: opened through the log, with a window of answers above what the
//!   client has acknowledged (thesis §6.3, "linearizable semantics").

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::hash::{BuildHasher, RandomState};

use hashbrown::HashTable;

use super::command::{ClientId, Identity};
use super::outcome::Outcome;
use crate::limits;

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

/// The answer of one implicit session.
///
/// Four words, because there are [`SessionLimits::implicit_window`] of them: the
/// last holds the log index above the outcome's code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ImplicitRecord {
    client: [u64; 2],
    sequence: u64,
    index_and_code: u64,
}

impl ImplicitRecord {
    pub(super) fn new(client: ClientId, sequence: u64, index: u64, code: u8) -> ImplicitRecord {
        assert!(index < 1 << 56, "log index {index} leaves room for a code");
        ImplicitRecord {
            client: [(client.0 >> 64) as u64, client.0 as u64],
            sequence,
            index_and_code: index << 8 | u64::from(code),
        }
    }

    pub(super) fn client(&self) -> ClientId {
        ClientId(u128::from(self.client[0]) << 64 | u128::from(self.client[1]))
    }

    pub(super) fn sequence(&self) -> u64 {
        self.sequence
    }

    /// Where in the log the write was applied.
    pub(super) fn index(&self) -> u64 {
        self.index_and_code >> 8
    }

    /// See [`Outcome::to_code`].
    pub(super) fn code(&self) -> u8 {
        self.index_and_code as u8
    }

    fn key(&self) -> (u128, u64) {
        (self.client().0, self.sequence)
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

/// Whether a write is to be applied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Admission {
    /// It was not seen before.
    Apply,
    /// This is its answer, and nothing is to be done.
    Answer(Outcome),
}

/// The session table.
#[derive(Debug)]
pub(super) struct Sessions {
    limits: SessionLimits,
    /// In log order.
    implicit: VecDeque<ImplicitRecord>,
    /// How many records have left `implicit` at the front, modulo 2^32.
    implicit_dropped: u32,
    /// Numbers of records: their place in `implicit` plus `implicit_dropped`.
    implicit_index: HashTable<u32>,
    hasher: RandomState,
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
            implicit: VecDeque::new(),
            implicit_dropped: 0,
            implicit_index: HashTable::new(),
            hasher: RandomState::new(),
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
        while let Some(oldest) = self.implicit.front().copied() {
            if oldest.index().saturating_add(self.limits.implicit_window) > index {
                break;
            }
            let (number, hash) = (self.implicit_dropped, self.hash(oldest.key()));
            self.implicit_index
                .find_entry(hash, |&found| found == number)
                .expect("every record is in the index")
                .remove();
            self.implicit.pop_front();
            self.implicit_dropped = self.implicit_dropped.wrapping_add(1);
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
        match identity {
            Identity::None => Admission::Apply,
            Identity::Implicit { client, sequence } => {
                match self.find_implicit((client.0, sequence)) {
                    None => Admission::Apply,
                    Some(record) => Admission::Answer(known_outcome(record.code())),
                }
            }
            Identity::Session {
                session,
                sequence,
                acked_below,
            } => self.admit_explicit(session, sequence, acked_below, index),
        }
    }

    fn admit_explicit(&mut self, id: u64, sequence: u64, acked: u64, index: u64) -> Admission {
        let Some(session) = self.explicit.get_mut(&id) else {
            return Admission::Answer(Outcome::SessionExpired);
        };
        self.idle_order.remove(&(session.last_used, id));
        self.idle_order.insert((index, id));
        session.last_used = index;
        session.acknowledge(acked);
        let Some(above) = sequence.checked_sub(session.acked_below) else {
            return Admission::Answer(Outcome::SessionStale);
        };
        let place = usize::try_from(above).unwrap_or(usize::MAX);
        if place >= self.limits.window {
            return Admission::Answer(Outcome::SessionWindowFull);
        }
        match session.answers.get(place) {
            None | Some(0) => Admission::Apply,
            Some(&code) => Admission::Answer(known_outcome(code)),
        }
    }

    /// Remembers the answer of a write that [`Sessions::admit`] let through.
    pub(super) fn record(&mut self, identity: Identity, index: u64, outcome: Outcome) {
        let code = outcome.to_code().expect("writes have outcomes with a code");
        match identity {
            Identity::None => {}
            Identity::Implicit { client, sequence } => {
                self.push_implicit(ImplicitRecord::new(client, sequence, index, code));
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
        if self.find_implicit(record.key()).is_some() {
            return Err("implicit session twice");
        }
        self.push_implicit(record);
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

    fn push_implicit(&mut self, record: ImplicitRecord) {
        let place = u32::try_from(self.implicit.len()).expect("the window fits the index");
        let number = self.implicit_dropped.wrapping_add(place);
        let hash = self.hash(record.key());
        self.implicit.push_back(record);
        let (records, hasher, dropped) = (&self.implicit, &self.hasher, self.implicit_dropped);
        self.implicit_index.insert_unique(hash, number, |&number| {
            hasher.hash_one(records[number.wrapping_sub(dropped) as usize].key())
        });
    }

    fn find_implicit(&self, key: (u128, u64)) -> Option<&ImplicitRecord> {
        let record_of =
            |number: u32| &self.implicit[number.wrapping_sub(self.implicit_dropped) as usize];
        self.implicit_index
            .find(self.hash(key), |&number| record_of(number).key() == key)
            .map(|&number| record_of(number))
    }

    fn hash(&self, key: (u128, u64)) -> u64 {
        self.hasher.hash_one(key)
    }

    /// Panics if the table contradicts itself.
    #[cfg(test)]
    pub(super) fn check(&self) {
        assert_eq!(self.implicit.len(), self.implicit_index.len());
        for record in &self.implicit {
            assert_eq!(self.find_implicit(record.key()), Some(record));
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
