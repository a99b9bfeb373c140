//! The entries of an AppendEntries: shared by the messages that carry the same ones, so
//! that they are gathered once, and encoded once, for all followers.

use std::collections::VecDeque;
use std::ops::Deref;
use std::sync::Arc;

use crate::types::{Entry, Index};

/// Contiguous entries of the log.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Entries(Arc<Vec<Entry>>);

impl Entries {
    /// Whether both share the same memory, and so are the same entries.
    #[must_use]
    pub fn is_shared_with(&self, other: &Entries) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    /// The entries by themselves; copied if others share them.
    #[must_use]
    pub fn into_vec(self) -> Vec<Entry> {
        Arc::unwrap_or_clone(self.0)
    }
}

impl Deref for Entries {
    type Target = [Entry];

    fn deref(&self) -> &[Entry] {
        &self.0
    }
}

impl From<Vec<Entry>> for Entries {
    fn from(entries: Vec<Entry>) -> Entries {
        Entries(Arc::new(entries))
    }
}

impl FromIterator<Entry> for Entries {
    fn from_iter<I: IntoIterator<Item = Entry>>(entries: I) -> Entries {
        Entries::from(Vec::from_iter(entries))
    }
}

/// How many that were sent are remembered.
const SENT_MAX: usize = 8;
/// Larger ones are not kept for long: they would hold memory that the log has given back.
const KEPT_BYTES_MAX: usize = 64 << 10;

/// What a leader has sent lately: to be sent to the next follower too, and to be filled
/// anew when all messages with it are gone, so that steady work allocates nothing.
#[derive(Clone, Debug, Default)]
pub(super) struct Sent(VecDeque<Entries>);

impl Sent {
    /// The entries of `batch`, in memory that may be shared.
    pub(super) fn share<'a>(
        &mut self,
        batch: impl DoubleEndedIterator<Item = &'a Entry> + Clone,
    ) -> Entries {
        let ends = (batch.clone().next(), batch.clone().next_back());
        let (Some(first), Some(last)) = ends else {
            return Entries::default();
        };
        // One leader's entries with the same names are the same.
        let is_same = |sent: &&Entries| {
            sent.first().map(|e| e.id) == Some(first.id)
                && sent.last().map(|e| e.id) == Some(last.id)
        };
        if let Some(same) = self.0.back().filter(is_same) {
            return same.clone();
        }
        let mut entries = self.reuse();
        let room = Arc::get_mut(&mut entries.0).expect("nobody else has it");
        room.clear();
        room.extend(batch.cloned());
        self.0.push_back(entries.clone());
        entries
    }

    /// One that no message has any more, or a new one.
    fn reuse(&mut self) -> Entries {
        let unused = |sent: &mut Entries| Arc::get_mut(&mut sent.0).is_some();
        if let Some(at) = self.0.iter_mut().position(unused) {
            return self.0.remove(at).expect("it was found there");
        }
        if self.0.len() == SENT_MAX {
            self.0.pop_front();
        }
        Entries::default()
    }

    /// Lets go of what is large, once all followers have been served.
    pub(super) fn trim(&mut self) {
        let bytes = |sent: &Entries| sent.iter().map(Entry::size_bytes).sum::<usize>();
        self.0.retain(|sent| bytes(sent) <= KEPT_BYTES_MAX);
    }

    /// Lets go of entries up to `upto`, which the log gives back.
    pub(super) fn forget(&mut self, upto: Index) {
        self.0
            .retain(|sent| sent.last().is_none_or(|last| last.id.index > upto));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{EntryId, Payload};

    fn batch(from: u64, to: u64) -> Vec<Entry> {
        let entry = |index| Entry {
            id: EntryId::new(1, index),
            payload: Payload::Noop,
        };
        (from..=to).map(entry).collect()
    }

    #[test]
    fn the_same_batch_is_shared_and_another_is_not() {
        let mut sent = Sent::default();
        let first = sent.share(batch(1, 3).iter());
        assert!(sent.share(batch(1, 3).iter()).is_shared_with(&first));
        let longer = sent.share(batch(1, 4).iter());
        assert!(!longer.is_shared_with(&first));
        assert_eq!(*longer, *batch(1, 4));
        assert_eq!(*first, *batch(1, 3), "what is on its way stays as it is");
    }

    #[test]
    fn memory_is_used_again_once_no_message_has_it() {
        let mut sent = Sent::default();
        let first = sent.share(batch(1, 100).iter());
        let place = first.as_ptr();
        drop(first);
        assert_eq!(sent.share(batch(101, 150).iter()).as_ptr(), place);
        let mut held: Vec<Entries> = (0..20u64).map(|n| sent.share(batch(n, n).iter())).collect();
        assert!(sent.0.len() <= SENT_MAX);
        assert_eq!(*held.remove(0), *batch(0, 0));
    }

    #[test]
    fn what_is_large_is_not_held_though_something_small_came_after_it() {
        let mut sent = Sent::default();
        let large = Entry {
            id: EntryId::new(1, 1),
            payload: Payload::Command(vec![0; KEPT_BYTES_MAX].into()),
        };
        drop(sent.share([large].iter()));
        drop(sent.share(batch(2, 3).iter()));
        sent.trim();
        assert_eq!(sent.0.len(), 1);
        assert_eq!(*sent.0[0], *batch(2, 3));
    }

    #[test]
    fn what_the_log_gives_back_is_not_held() {
        let mut sent = Sent::default();
        drop(sent.share(batch(1, 3).iter()));
        drop(sent.share(batch(4, 6).iter()));
        sent.forget(Index(3));
        assert!(sent.0.iter().all(|entries| entries[0].id.index > Index(3)));
    }
}
