//! What the records of the log say, one after the other.

use bytes::Bytes;

use super::record::{EntryKind, Record};
use crate::types::{Entry, EntryId, HardState, Index, Payload};

/// What the records say, as far as they were read.
#[derive(Debug, Default)]
pub(super) struct Replay {
    pub(super) hard_state: HardState,
    pub(super) mark: EntryId,
    /// The index before the first of `entries`; unknown while the log began in the
    /// middle and no entry was seen.
    pub(super) base: Option<Index>,
    pub(super) entries: Vec<Entry>,
}

impl Replay {
    fn last(&self) -> Option<Index> {
        Some(Index(self.base?.0 + self.entries.len() as u64))
    }

    /// Takes one record in; the error says why the log cannot hold it.
    pub(super) fn apply(&mut self, record: &Record<'_>) -> Result<(), &'static str> {
        match *record {
            Record::HardState(hard_state) => {
                if hard_state.term < self.hard_state.term {
                    return Err("the term goes back");
                }
                self.hard_state = hard_state;
            }
            Record::Truncate(from) => self.truncate(from)?,
            Record::SnapshotMark { id, restart } => self.snapshot_mark(id, restart)?,
            Record::Entry { id, kind, data } => {
                if id.index <= self.mark.index {
                    return Err("an entry that the snapshot holds already");
                }
                match self.last() {
                    None => self.base = Some(id.index.prev()),
                    Some(last) if id.index.prev() > last => return Err("entries are missing"),
                    Some(last) if id.index <= last => return Err("an entry is repeated"),
                    Some(_) => {}
                }
                let data = Bytes::copy_from_slice(data);
                let payload = match kind {
                    EntryKind::Noop => Payload::Noop,
                    EntryKind::Command => Payload::Command(data),
                    EntryKind::Config => Payload::Config(data),
                };
                self.entries.push(Entry { id, payload });
            }
        }
        Ok(())
    }

    fn truncate(&mut self, from: Index) -> Result<(), &'static str> {
        if from <= self.mark.index {
            return Err("a truncation of what the snapshot holds");
        }
        let Some(base) = self.base else {
            return Ok(());
        };
        let keep = from.prev().0.saturating_sub(base.0);
        self.entries
            .truncate(usize::try_from(keep).unwrap_or(usize::MAX));
        self.base = Some(base.min(from.prev()));
        Ok(())
    }

    fn snapshot_mark(&mut self, id: EntryId, restart: bool) -> Result<(), &'static str> {
        if id.index < self.mark.index || (id.index == self.mark.index && id != self.mark) {
            return Err("the snapshot mark goes back");
        }
        self.mark = id;
        if restart {
            self.entries.clear();
            self.base = Some(id.index);
            return Ok(());
        }
        // A log that began in the middle may begin behind an early mark.
        if let Some(base) = self.base
            && base < id.index
        {
            let drop = id.index.0 - base.0;
            if drop > self.entries.len() as u64 {
                return Err("a snapshot mark behind the end of the log");
            }
            self.entries.drain(..drop as usize);
            self.base = Some(id.index);
        }
        Ok(())
    }
}
