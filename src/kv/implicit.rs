//! The answers of implicit sessions: in log order, and found by what they answered.
//!
//! Every write brings one and lets an old one go, so this is on the way of every write,
//! and a table of a quarter of a million entries is a cache miss wherever it is
//! touched. Hence the index is one of chains, as the windows of compressors have
//! (RFC 1951 §4): a bucket names the newest record of its hash, each record the next
//! older one. Whoever follows a chain stops at the first record that has left the
//! window, since all behind it have, too. So to forget a record touches no index.

use std::collections::VecDeque;
use std::hash::{BuildHasher, RandomState};

use super::command::ClientId;

/// Of buckets at first; doubles with the records.
const BUCKETS_MIN: usize = 64;

/// The answer of one implicit session.
///
/// Four words, because there are so many of them: the last holds the log index above
/// the outcome's code.
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

    /// See [`Outcome::to_code`](super::Outcome::to_code).
    pub(super) fn code(&self) -> u8 {
        self.index_and_code as u8
    }
}

/// Names a record in a chain.
#[derive(Clone, Copy, Debug, Default)]
struct ChainLink {
    /// The record's place plus how many had been dropped, modulo 2^32.
    number: u32,
    /// Other bits of the hash than those that chose the bucket: a record with another
    /// tag is passed without a look at it.
    tag: u32,
}

/// The hash of a client and sequence number, keyed at random: clients choose both.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ImplicitHash(u64);

impl ImplicitHash {
    fn tag(self) -> u32 {
        (self.0 >> 32) as u32
    }
}

/// The records within the window.
#[derive(Debug)]
pub(super) struct ImplicitSessions {
    records: VecDeque<ImplicitRecord>,
    /// How many records have left at the front, modulo 2^32.
    dropped: u32,
    /// The newest record of each hash. A power of two, and as many as records or more.
    /// What is in a bucket without one is older than the window, or the link of zeros.
    newest: Box<[ChainLink]>,
    /// The next older record of the same bucket, for each record, at its number
    /// modulo the length, which is that of `newest`.
    older: Box<[ChainLink]>,
    hasher: RandomState,
}

impl ImplicitSessions {
    pub(super) fn new() -> ImplicitSessions {
        ImplicitSessions {
            records: VecDeque::new(),
            dropped: 0,
            newest: vec![ChainLink::default(); BUCKETS_MIN].into(),
            older: vec![ChainLink::default(); BUCKETS_MIN].into(),
            hasher: RandomState::new(),
        }
    }

    pub(super) fn len(&self) -> usize {
        self.records.len()
    }

    /// All records in log order.
    pub(super) fn iter(&self) -> impl Iterator<Item = &ImplicitRecord> {
        self.records.iter()
    }

    /// The oldest record.
    pub(super) fn front(&self) -> Option<&ImplicitRecord> {
        self.records.front()
    }

    /// The newest record.
    pub(super) fn back(&self) -> Option<&ImplicitRecord> {
        self.records.back()
    }

    /// Forgets the oldest record.
    pub(super) fn drop_front(&mut self) {
        self.records.pop_front();
        self.dropped = self.dropped.wrapping_add(1);
    }

    pub(super) fn hash(&self, client: ClientId, sequence: u64) -> ImplicitHash {
        ImplicitHash(self.hasher.hash_one((client.0, sequence)))
    }

    /// The record of a client's write.
    pub(super) fn find(
        &self,
        hash: ImplicitHash,
        client: ClientId,
        sequence: u64,
    ) -> Option<&ImplicitRecord> {
        let mut link = self.newest[self.bucket(hash)];
        let mut place = self.records.len();
        loop {
            // Chains lead from newer to older records; one that does not has ended, be it
            // at the link of zeros or because numbers have come round.
            let next = link.number.wrapping_sub(self.dropped) as usize;
            if next >= place {
                return None;
            }
            place = next;
            if link.tag == hash.tag() {
                let record = &self.records[place];
                if record.client() == client && record.sequence == sequence {
                    return Some(record);
                }
            }
            link = self.older[self.slot(link.number)];
        }
    }

    /// Adds the newest record, which has this hash.
    pub(super) fn push(&mut self, hash: ImplicitHash, record: ImplicitRecord) {
        if self.records.len() == self.newest.len() {
            self.grow();
        }
        self.records.push_back(record);
        self.enter(hash, self.records.len() - 1);
    }

    /// Enters the record at a place into the index, where it is the newest so far.
    fn enter(&mut self, hash: ImplicitHash, place: usize) {
        let place = u32::try_from(place).expect("the window fits the index");
        let number = self.dropped.wrapping_add(place);
        let (bucket, slot) = (self.bucket(hash), self.slot(number));
        let tag = hash.tag();
        self.older[slot] = std::mem::replace(&mut self.newest[bucket], ChainLink { number, tag });
    }

    fn grow(&mut self) {
        let buckets = 2 * self.newest.len();
        self.newest = vec![ChainLink::default(); buckets].into();
        self.older = vec![ChainLink::default(); buckets].into();
        for place in 0..self.records.len() {
            let record = self.records[place];
            self.enter(self.hash(record.client(), record.sequence), place);
        }
    }

    fn bucket(&self, hash: ImplicitHash) -> usize {
        hash.0 as usize & (self.newest.len() - 1)
    }

    fn slot(&self, number: u32) -> usize {
        number as usize & (self.older.len() - 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn push(sessions: &mut ImplicitSessions, number: u64) {
        let client = ClientId(u128::from(number % 7));
        let hash = sessions.hash(client, number);
        assert_eq!(sessions.find(hash, client, number), None);
        sessions.push(hash, ImplicitRecord::new(client, number, number, 1));
    }

    fn knows(sessions: &ImplicitSessions, number: u64) -> bool {
        let client = ClientId(u128::from(number % 7));
        let hash = sessions.hash(client, number);
        let found = sessions.find(hash, client, number);
        assert!(found.is_none_or(|record| record.index() == number));
        found.is_some()
    }

    #[test]
    fn exactly_the_records_of_the_window_are_found_while_numbers_come_round() {
        let mut sessions = ImplicitSessions::new();
        sessions.dropped = u32::MAX - 1_000;
        for number in 0..5_000_u64 {
            push(&mut sessions, number);
            while sessions.len() > 300 {
                sessions.drop_front();
            }
            let oldest = (number + 1).saturating_sub(300);
            if number % 97 == 0 {
                for other in number.saturating_sub(700)..number + 100 {
                    let is_in_window = (oldest..=number).contains(&other);
                    assert_eq!(knows(&sessions, other), is_in_window, "{other} at {number}");
                }
            }
        }
        assert_eq!(sessions.newest.len(), 512, "no more than the window needs");
    }

    #[test]
    fn records_of_one_bucket_and_tag_are_told_apart() {
        let mut sessions = ImplicitSessions::new();
        let hash = ImplicitHash(42);
        for number in 0..50 {
            sessions.push(hash, ImplicitRecord::new(ClientId(1), number, number, 1));
        }
        for _ in 0..20 {
            sessions.drop_front();
        }
        for number in 0..60 {
            let found = sessions.find(hash, ClientId(1), number).is_some();
            assert_eq!(found, (20..50).contains(&number));
        }
    }
}
