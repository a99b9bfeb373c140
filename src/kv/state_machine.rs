//! The state machine: store, sessions and position, moved together by the log.
//!
//! [`StateMachine::apply`] is the only way to change it, one entry after the
//! other. The same entries give the same state, byte for byte, on every replica
//! and whether or not it came by way of a snapshot.

use std::ops::Bound;

use bytes::Bytes;

use super::batch::Operations;
use super::command::{Command, WriteOp};
use super::digest;
use super::outcome::Outcome;
use super::sessions::{Admission, SessionLimits, Sessions};
use super::skiplist::{SkipList, charge_bytes};
use super::snapshot::{
    CONFIGURATION_BYTES_MAX, SnapshotStep, encode_entry, encode_explicit, encode_implicit,
};
use super::walk::Walk;
use crate::mutation::mutated;
use crate::types::{EntryId, Payload};

/// How much a store may hold, as [`charge_bytes`] counts.
///
/// Handles reach 64 GiB of small entries. Writes are refused well before, for two
/// reasons: holes between entries need room too, and the refusal must depend on
/// the entries alone, since replicas lay out their memory differently. What
/// [`charge_bytes`] charges is more than an entry takes on average.
pub const STORE_BYTES_MAX: u64 = 48 << 30;

/// The replicated state.
#[derive(Debug)]
pub struct StateMachine {
    store: SkipList,
    store_bytes_max: u64,
    sessions: Sessions,
    applied: EntryId,
    walk: Option<Walk>,
}

impl Default for StateMachine {
    fn default() -> StateMachine {
        StateMachine::new(SessionLimits::default())
    }
}

impl StateMachine {
    /// The state before the first entry.
    #[must_use]
    pub fn new(limits: SessionLimits) -> StateMachine {
        StateMachine {
            store: SkipList::new(),
            store_bytes_max: STORE_BYTES_MAX,
            sessions: Sessions::new(limits),
            applied: EntryId::ZERO,
            walk: None,
        }
    }

    pub(super) fn from_parts(
        store: SkipList,
        sessions: Sessions,
        applied: EntryId,
    ) -> StateMachine {
        StateMachine {
            store,
            store_bytes_max: STORE_BYTES_MAX,
            sessions,
            applied,
            walk: None,
        }
    }

    /// Sets how much the store may hold, instead of [`STORE_BYTES_MAX`], at most.
    /// All replicas must use the same.
    pub fn set_store_bytes_max(&mut self, store_bytes_max: u64) {
        self.store_bytes_max = store_bytes_max.min(STORE_BYTES_MAX);
    }

    /// Applies the entry that follows the last one.
    ///
    /// # Panics
    /// If it does not follow: then our own order of things is broken, and going on
    /// would spread it.
    pub fn apply(&mut self, id: EntryId, payload: &Payload) -> Outcome {
        let applied = self.applied;
        assert_eq!(
            id.index,
            applied.index.next(),
            "entry {id} follows {applied}"
        );
        assert!(id.term >= applied.term, "term went back: {applied} -> {id}");
        self.sessions.expire(id.index.0);
        let outcome = match payload {
            Payload::Noop | Payload::Config(_) => Outcome::Noop,
            Payload::Command(bytes) => match Command::read(bytes) {
                Ok(command) => self.execute(id, &command),
                Err(_) => Outcome::Malformed,
            },
        };
        self.applied = id;
        outcome
    }

    fn execute(&mut self, id: EntryId, command: &Command<&[u8]>) -> Outcome {
        let index = id.index.0;
        let identity = match *command {
            Command::OpenSession { client } => {
                return Outcome::SessionOpened(self.sessions.open(client, index));
            }
            Command::Write { identity, .. } | Command::Batch { identity, .. } => identity,
        };
        match self.sessions.admit(identity, index) {
            Admission::Answer(outcome) => outcome,
            Admission::Apply(write) => {
                let outcome = match command {
                    Command::Write { op, .. } => self.carry_out(op),
                    Command::Batch { operations, .. } => self.batch(*operations),
                    Command::OpenSession { .. } => unreachable!("handled above"),
                };
                self.sessions.record(write, index, outcome);
                outcome
            }
        }
    }

    /// The only place that changes the store: what it calls is compiled into it.
    #[inline(never)]
    fn carry_out(&mut self, op: &WriteOp<&[u8]>) -> Outcome {
        match *op {
            WriteOp::Put { key, value } => self.put(key, value),
            WriteOp::Update { key, value } => self.update(key, value),
            WriteOp::Remove { key } => self.remove(key),
            WriteOp::Cas { key, expected, new } => self.compare_and_set(key, expected, new),
        }
    }

    fn put(&mut self, key: &[u8], value: &[u8]) -> Outcome {
        if !self.has_room_for(key, value) {
            return match self.store.get(key) {
                Some(_) => Outcome::KeyExists,
                None => Outcome::NoRoom,
            };
        }
        if !self.store.insert_new(key, value) {
            return Outcome::KeyExists;
        }
        // The key was not there, so the image needs no look at the store before.
        self.save_image(key, None);
        Outcome::Created
    }

    fn update(&mut self, key: &[u8], value: &[u8]) -> Outcome {
        if !self.has_room_for(key, value) {
            let freed = self.store.get(key).map_or(0, |old| charge_bytes(key, old));
            let charged = self.store.charged_bytes() - freed + charge_bytes(key, value);
            if charged > self.store_bytes_max {
                return Outcome::NoRoom;
            }
        }
        self.save_current(key);
        self.store.upsert(key, value);
        Outcome::Created
    }

    fn remove(&mut self, key: &[u8]) -> Outcome {
        self.save_current(key);
        if self.store.remove(key) {
            Outcome::Removed
        } else {
            Outcome::NotFound
        }
    }

    #[cold]
    fn compare_and_set(
        &mut self,
        key: &[u8],
        expected: Option<&[u8]>,
        new: Option<&[u8]>,
    ) -> Outcome {
        let current = self.store.get(key);
        if current != expected {
            return match current {
                Some(_) => Outcome::Mismatch,
                None => Outcome::NotFound,
            };
        }
        match (expected, new) {
            (_, Some(value)) => self.carry_out(&WriteOp::Update { key, value }),
            (Some(_), None) => self.carry_out(&WriteOp::Remove { key }),
            // It was expected to be gone, and is.
            (None, None) => Outcome::Removed,
        }
    }

    /// Looks first whether all of it can be done, then does it.
    #[cold]
    fn batch(&mut self, operations: Operations<&[u8]>) -> Outcome {
        let mut charged = self.store.charged_bytes();
        for (at, op) in operations.iter().enumerate() {
            let key = *op.key();
            let current = self.store.get(key);
            if !op.fits(current) {
                let at = u8::try_from(at).expect("a batch has fewer operations");
                return Outcome::BatchFailed(at);
            }
            // No key occurs twice, so each is taken off once.
            charged -= current.map_or(0, |value| charge_bytes(key, value));
            charged += op.leaves().map_or(0, |value| charge_bytes(key, value));
        }
        if charged > self.store_bytes_max {
            return Outcome::NoRoom;
        }
        // There is room for the whole, though perhaps not for each operation after those
        // before it.
        let store_bytes_max = std::mem::replace(&mut self.store_bytes_max, u64::MAX);
        for op in operations.iter() {
            let key = *op.key();
            self.carry_out(&match op.leaves() {
                Some(value) => WriteOp::Update { key, value },
                None => WriteOp::Remove { key },
            });
        }
        self.store_bytes_max = store_bytes_max;
        Outcome::Created
    }

    /// Whether the entry fits even if it is new.
    fn has_room_for(&self, key: &[u8], value: &[u8]) -> bool {
        self.store.charged_bytes() + charge_bytes(key, value) <= self.store_bytes_max
    }

    /// Saves what a snapshot that is being taken needs of `key` before it changes.
    fn save_current(&mut self, key: &[u8]) {
        if let Some(walk) = self.walk.as_mut().filter(|walk| walk.needs_image(key)) {
            walk.save_image(key, self.store.get(key));
            self.abandon_if_over_cap();
        }
    }

    fn save_image(&mut self, key: &[u8], value: Option<&[u8]>) {
        if let Some(walk) = self.walk.as_mut().filter(|walk| walk.needs_image(key)) {
            walk.save_image(key, value);
            self.abandon_if_over_cap();
        }
    }

    fn abandon_if_over_cap(&mut self) {
        if self.walk.as_ref().is_some_and(Walk::is_over_hard_cap) {
            self.walk = None;
        }
    }

    /// The value of `key`.
    #[must_use]
    pub fn get_ref(&self, key: &[u8]) -> Option<&[u8]> {
        self.store.get(key)
    }

    /// Keys and values in key order, from `from` on.
    pub fn range_from<'a>(
        &'a self,
        from: Bound<&'a [u8]>,
    ) -> impl Iterator<Item = (&'a [u8], &'a [u8])> {
        self.store.range_from(from)
    }

    /// The number of keys.
    #[must_use]
    pub fn len(&self) -> usize {
        self.store.len()
    }

    /// Whether there are no keys.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.store.is_empty()
    }

    /// The bytes of all keys and values.
    #[must_use]
    pub fn data_bytes(&self) -> u64 {
        self.store.data_bytes()
    }

    /// What the entries of the store take of memory, in bytes, without what is free in its
    /// slabs.
    #[must_use]
    pub fn live_bytes(&self) -> u64 {
        self.store.live_bytes()
    }

    /// What the store takes of memory, in bytes.
    #[must_use]
    pub fn memory_bytes(&self) -> u64 {
        self.store.memory_bytes()
    }

    /// The number of explicit sessions.
    #[must_use]
    pub fn session_count(&self) -> usize {
        self.sessions.explicit_count()
    }

    /// The number of implicit sessions that are remembered.
    #[must_use]
    pub fn implicit_session_count(&self) -> usize {
        self.sessions.implicit_count()
    }

    /// The last entry that was applied.
    #[must_use]
    pub fn applied(&self) -> EntryId {
        self.applied
    }

    /// How much is remembered of sessions.
    #[must_use]
    pub fn session_limits(&self) -> SessionLimits {
        self.sessions.limits()
    }

    /// A hash of position, keys and values, and of how many sessions there are: equal on
    /// replicas that applied the same entries, at hardly any cost. Part of what nodes say to
    /// each other: made in another way, it needs another field there.
    #[must_use]
    pub fn state_hash(&self) -> u64 {
        let numbers = [
            self.applied.index.0,
            self.applied.term.0,
            self.store.len() as u64,
            self.sessions.explicit_count() as u64,
            self.sessions.implicit_count() as u64,
        ];
        let mix = |hash, number| digest::fold(hash ^ number, digest::MIX);
        numbers.into_iter().fold(self.store.digest(), mix)
    }

    /// A CRC-32 over position, sessions, and keys and values in order: equal on
    /// replicas that applied the same entries. Walks over everything, so for tests
    /// and the simulator.
    #[must_use]
    pub fn checksum(&self) -> u32 {
        let mut crc = crc32fast::Hasher::new();
        crc.update(&self.applied.term.0.to_le_bytes());
        crc.update(&self.applied.index.0.to_le_bytes());
        let sessions = self.sessions.image();
        for number in [sessions.implicit.len(), sessions.explicit.len(), self.len()] {
            crc.update(&(number as u64).to_le_bytes());
        }
        for record in &sessions.implicit {
            encode_implicit(record, |bytes| crc.update(bytes));
        }
        for (id, session) in &sessions.explicit {
            encode_explicit(*id, session, |bytes| crc.update(bytes));
        }
        for (key, value) in self.store.iter() {
            encode_entry(key, value, |bytes| crc.update(bytes));
        }
        crc.finalize()
    }

    /// Begins a snapshot of the state as it is now; `configuration` goes into it
    /// unread. From `image_bytes_max` bytes of before-images on there is
    /// [`StateMachine::snapshot_pressure`].
    ///
    /// # Panics
    /// If one is being taken already, or the configuration is longer than
    /// [`CONFIGURATION_BYTES_MAX`].
    pub fn begin_snapshot(&mut self, configuration: Bytes, image_bytes_max: usize) {
        assert!(self.walk.is_none(), "one snapshot is taken at a time");
        assert!(configuration.len() <= CONFIGURATION_BYTES_MAX);
        let sessions = if mutated!(SnapshotWithoutSessions) {
            Sessions::new(self.sessions.limits()).image()
        } else {
            self.sessions.image()
        };
        self.walk = Some(Walk::new(
            self.applied,
            configuration,
            sessions,
            image_bytes_max,
        ));
    }

    /// Whether a snapshot is being taken.
    #[must_use]
    pub fn snapshot_underway(&self) -> bool {
        self.walk.is_some()
    }

    /// The next bytes of the snapshot: about `budget_bytes` (at most 1 MiB) and one
    /// record more.
    pub fn snapshot_next(&mut self, budget_bytes: usize) -> SnapshotStep {
        let Some(walk) = &mut self.walk else {
            return SnapshotStep::Abandoned;
        };
        let step = walk.next(&self.store, budget_bytes);
        if matches!(step, SnapshotStep::Done { .. }) {
            self.walk = None;
        }
        step
    }

    /// Whether [`StateMachine::snapshot_next`] is to be called before more is
    /// applied. At twice the cap and one entry of the largest size the snapshot is
    /// given up.
    #[must_use]
    pub fn snapshot_pressure(&self) -> bool {
        self.walk.as_ref().is_some_and(Walk::pressure)
    }

    /// Gives up the snapshot that is being taken, if one is.
    pub fn abort_snapshot(&mut self) {
        self.walk = None;
    }

    /// Panics if the state contradicts itself.
    #[cfg(test)]
    pub(super) fn check(&self) {
        self.store.check();
        self.sessions.check();
    }
}

#[cfg(test)]
pub(super) mod tests;
