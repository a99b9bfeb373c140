//! Reads of many keys in order: what is asked for, and the page that answers it.
//!
//! A page is of one state, that of the read's index. The next one is of a later state:
//! whoever reads on, page by page, sees each key once, and not all keys at one moment.

use std::ops::Bound;

use bytes::Bytes;

use crate::kv::StateMachine;
use crate::limits;
use crate::mem::Buffer;

/// The keys that are asked for, and how much of them at a time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scan {
    /// The first key; empty to begin with the first there is.
    pub from: Bytes,
    /// The key behind the last; `None` if there is no end.
    pub until: Option<Bytes>,
    /// Entries of a page; [`limits::SCAN_ENTRIES_MAX`] at most.
    pub entries_max: usize,
    /// Bytes of keys and values of a page, beside the entry that reaches it;
    /// [`limits::SCAN_BYTES_MAX`] at most.
    pub bytes_max: usize,
    /// As in [`Request::Get`](super::Request::Get).
    pub anywhere: bool,
}

/// A part of what a [`Scan`] asks for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Page {
    /// Keys and values, one behind the other.
    bytes: Bytes,
    /// The length of each key and of its value.
    lens: Vec<(usize, usize)>,
    next: Option<Bytes>,
}

impl Scan {
    /// What it holds, in bytes.
    #[must_use]
    pub fn size_bytes(&self) -> usize {
        self.from.len() + self.until.as_ref().map_or(0, Bytes::len)
    }

    /// Reads the first page.
    pub(super) fn read(&self, machine: &StateMachine) -> Page {
        let (mut bytes, mut page) = (Buffer::new(), Page::default());
        for (key, value) in machine.range_from(Bound::Included(&self.from)) {
            if self.until.as_ref().is_some_and(|until| key >= &until[..]) {
                break;
            }
            if page.lens.len() >= self.entries_max || bytes.len() >= self.bytes_max {
                page.next = Some(Bytes::copy_from_slice(key));
                break;
            }
            bytes.extend_from_slice(key);
            bytes.extend_from_slice(value);
            page.lens.push((key.len(), value.len()));
        }
        page.bytes = bytes.freeze();
        page
    }
}

impl Page {
    /// Keys and values in key order.
    pub fn entries(&self) -> impl ExactSizeIterator<Item = (Bytes, Bytes)> {
        let mut at = 0;
        self.lens.iter().map(move |&(key, value)| {
            let middle = at + key;
            let entry = (
                self.bytes.slice(at..middle),
                self.bytes.slice(middle..middle + value),
            );
            at = middle + value;
            entry
        })
    }

    /// The first key that was asked for and is not in it, if there is one: where the next
    /// page begins.
    #[must_use]
    pub fn next(&self) -> Option<&Bytes> {
        self.next.as_ref()
    }

    /// What it counts for among values on their way out, in bytes.
    #[must_use]
    pub fn size_bytes(&self) -> usize {
        let next = self.next.as_ref().map_or(0, Bytes::len);
        self.bytes.len() + self.lens.len() * limits::SCAN_ENTRY_OVERHEAD_BYTES + next
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::kv::{Command, Identity, WriteOp};
    use crate::types::{EntryId, Payload};

    fn store(entries: &[(Vec<u8>, Vec<u8>)]) -> StateMachine {
        let mut machine = StateMachine::default();
        for (index, (key, value)) in (1..).zip(entries) {
            let op = WriteOp::Update {
                key: Bytes::copy_from_slice(key),
                value: Bytes::copy_from_slice(value),
            };
            let identity = Identity::None;
            let command = Command::Write { identity, op }.encode();
            machine.apply(EntryId::new(1, index), &Payload::Command(command));
        }
        machine
    }

    fn entries(page: &Page) -> Vec<(Vec<u8>, Vec<u8>)> {
        page.entries()
            .map(|(k, v)| (k.to_vec(), v.to_vec()))
            .collect()
    }

    #[test]
    fn a_page_ends_with_the_entry_that_reaches_a_limit_and_says_where_to_go_on() {
        let machine = store(&[
            (b"a".to_vec(), vec![1; 9]),
            (b"b".to_vec(), vec![2; 20]),
            (b"c".to_vec(), vec![]),
        ]);
        let scan = |from: &'static [u8], entries_max, bytes_max| {
            let scan = Scan {
                anywhere: false,
                from: Bytes::from_static(from),
                until: None,
                entries_max,
                bytes_max,
            };
            let page = scan.read(&machine);
            (page.lens.len(), page.next.clone())
        };
        let some = |key: &'static [u8]| Some(Bytes::from_static(key));
        assert_eq!(scan(b"", 9, 99), (3, None));
        assert_eq!(scan(b"", 3, 99), (3, None));
        assert_eq!(scan(b"", 2, 99), (2, some(b"c")));
        assert_eq!(scan(b"", 9, 10), (1, some(b"b")));
        assert_eq!(scan(b"", 9, 11), (2, some(b"c")));
        assert_eq!(scan(b"b", 9, 1), (1, some(b"c")), "one entry in any case");
        assert_eq!(scan(b"bb", 9, 99), (1, None));
        assert_eq!(scan(b"d", 9, 99), (0, None));
    }

    #[test]
    fn a_page_counts_what_it_holds() {
        let machine = store(&[(b"key".to_vec(), vec![0; 10]), (b"next".to_vec(), vec![])]);
        let scan = Scan {
            anywhere: false,
            from: Bytes::new(),
            until: None,
            entries_max: 1,
            bytes_max: 1,
        };
        let expected = 3 + 10 + limits::SCAN_ENTRY_OVERHEAD_BYTES + 4;
        assert_eq!(scan.read(&machine).size_bytes(), expected);
        assert_eq!(Page::default().size_bytes(), 0);
    }

    proptest! {
        #[test]
        fn pages_put_together_are_the_range_of_the_store(
            by_key in prop::collection::btree_map(
                prop::collection::vec(0..4_u8, 1..4),
                prop::collection::vec(any::<u8>(), 0..6),
                0..40,
            ),
            from in prop::collection::vec(0..4_u8, 0..4),
            until in prop::option::of(prop::collection::vec(0..4_u8, 0..4)),
            (entries_max, bytes_max) in (1..9_usize, 1..30_usize),
        ) {
            let all: Vec<_> = by_key.into_iter().collect();
            let machine = store(&all);
            let mut scan = Scan {
                anywhere: false,
                from: from.clone().into(),
                until: until.clone().map(Bytes::from),
                entries_max,
                bytes_max,
            };
            let mut seen = Vec::new();
            loop {
                let page = scan.read(&machine);
                prop_assert!(page.lens.len() <= entries_max);
                seen.extend(entries(&page));
                match page.next() {
                    Some(next) => scan.from = next.clone(),
                    None => break,
                }
            }
            let is_in = |key: &Vec<u8>| *key >= from && until.as_ref().is_none_or(|u| key < u);
            let expected: Vec<_> = all.into_iter().filter(|(key, _)| is_in(key)).collect();
            prop_assert_eq!(seen, expected);
        }
    }
}
