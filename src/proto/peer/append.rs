//! AppendEntries, written by hand: the one message that carries all data. Its payload is
//! encoded once for all followers that are sent the same.

use bytes::{BufMut, Bytes};
use prost::encoding::{encode_varint, encoded_len_varint};

use super::{APPEND_ENTRIES, head};
use crate::mem::Buffer;
use crate::net::envelope::encode_call_prefix;
use crate::pb;
use crate::raft::{Body, Entries, Message};
use crate::types::{Entry, EntryId, Index, NodeId, Payload, Term};

/// Field keys of `WW.AppendEntriesRequest`, wire type included.
const TERM: u8 = 1 << 3;
const LEADER_ID: u8 = 2 << 3;
const PREV_LOG_INDEX: u8 = 3 << 3;
const PREV_LOG_TERM: u8 = 4 << 3;
const ENTRIES: u8 = 5 << 3 | 2;
const LEADER_COMMIT: u8 = 6 << 3;
/// Field keys of `WW.LogEntry`.
const ENTRY_INDEX: u8 = 1 << 3;
const ENTRY_TERM: u8 = 2 << 3;
const ENTRY_COMMAND: u8 = 3 << 3 | 2;
/// Number 16 takes two bytes.
const ENTRY_KIND: u64 = 16 << 3;

/// What an AppendEntries says, but for whom it goes to.
#[derive(Clone, Debug)]
struct Append<'a> {
    from: NodeId,
    term: Term,
    prev: EntryId,
    entries: &'a Entries,
    commit: Index,
}

/// One that was encoded, and its payload.
#[derive(Debug)]
struct Encoded {
    from: NodeId,
    term: Term,
    prev: EntryId,
    entries: Entries,
    commit: Index,
    payload: Bytes,
    checksum: u32,
}

/// Encodes AppendEntries for several followers. Remembers the last one.
#[derive(Debug, Default)]
pub struct AppendEncoder {
    last: Option<Encoded>,
}

impl AppendEncoder {
    /// The payload of `message`, with what goes before it in a frame appended to
    /// `prefix`; `None` if it is no AppendEntries.
    pub fn encode(
        &mut self,
        prefix: &mut Buffer,
        message: &Message,
        sequence: u64,
    ) -> Option<Bytes> {
        let Body::Append {
            prev,
            entries,
            commit,
        } = &message.body
        else {
            return None;
        };
        let append = Append {
            from: message.from.id,
            term: message.term,
            prev: *prev,
            entries,
            commit: *commit,
        };
        let encoded = match self.last.take() {
            Some(last) if last.is_of(&append) => last,
            _ => Encoded::new(&append),
        };
        let encoded = self.last.insert(encoded);
        let (bytes, checksum) = (encoded.payload.len(), encoded.checksum);
        let head = head(APPEND_ENTRIES, sequence, message);
        encode_call_prefix(prefix, head, bytes, checksum);
        Some(encoded.payload.clone())
    }

    /// Lets go of the last one: the next message differs.
    pub fn forget(&mut self) {
        self.last = None;
    }
}

impl Encoded {
    fn new(append: &Append<'_>) -> Encoded {
        let mut payload = Buffer::with_capacity(append.encoded_len());
        append.put(&mut payload);
        let checksum = crc32fast::hash(&payload);
        Encoded {
            from: append.from,
            term: append.term,
            prev: append.prev,
            entries: append.entries.clone(),
            commit: append.commit,
            payload: payload.freeze(),
            checksum,
        }
    }

    /// Entries that share their memory are the same without a look.
    fn is_of(&self, append: &Append<'_>) -> bool {
        (self.from, self.term, self.prev, self.commit)
            == (append.from, append.term, append.prev, append.commit)
            && self.entries.is_shared_with(append.entries)
    }
}

impl Append<'_> {
    fn numbers(&self) -> [(u8, u64); 4] {
        [
            (TERM, self.term.0),
            (LEADER_ID, self.from.0),
            (PREV_LOG_INDEX, self.prev.index.0),
            (PREV_LOG_TERM, self.prev.term.0),
        ]
    }

    fn encoded_len(&self) -> usize {
        let numbers = self
            .numbers()
            .iter()
            .map(|(_, n)| number_len(*n))
            .sum::<usize>();
        let entries = self.entries.iter().map(|entry| {
            let len = entry_len(entry);
            1 + encoded_len_varint(len as u64) + len
        });
        numbers + entries.sum::<usize>() + number_len(self.commit.0)
    }

    fn put(&self, out: &mut Buffer) {
        for (key, number) in self.numbers() {
            put_number(out, key, number);
        }
        for entry in self.entries.iter() {
            out.put_u8(ENTRIES);
            encode_varint(entry_len(entry) as u64, out);
            put_entry(out, entry);
        }
        put_number(out, LEADER_COMMIT, self.commit.0);
    }
}

/// The length of a field with `number`. As in proto3, a zero is left out. Numbers are
/// bounded where they come in, so that a signed one is encoded as it is.
fn number_len(number: u64) -> usize {
    match number {
        0 => 0,
        number => 1 + encoded_len_varint(number),
    }
}

fn put_number(out: &mut Buffer, key: u8, number: u64) {
    if number != 0 {
        out.put_u8(key);
        encode_varint(number, out);
    }
}

fn kind(entry: &Entry) -> u64 {
    let kind = match entry.payload {
        Payload::Noop => pb::EntryKind::Noop,
        Payload::Command(_) => pb::EntryKind::Command,
        Payload::Config(_) => pb::EntryKind::Config,
    };
    kind as u64
}

fn entry_len(entry: &Entry) -> usize {
    let command = match entry.payload.bytes().len() {
        0 => 0,
        len => 1 + encoded_len_varint(len as u64) + len,
    };
    let kind = match kind(entry) {
        0 => 0,
        kind => encoded_len_varint(ENTRY_KIND) + encoded_len_varint(kind),
    };
    number_len(entry.id.index.0) + number_len(entry.id.term.0) + command + kind
}

fn put_entry(out: &mut Buffer, entry: &Entry) {
    put_number(out, ENTRY_INDEX, entry.id.index.0);
    put_number(out, ENTRY_TERM, entry.id.term.0);
    let command = entry.payload.bytes();
    if !command.is_empty() {
        out.put_u8(ENTRY_COMMAND);
        encode_varint(command.len() as u64, out);
        out.put_slice(command);
    }
    let kind = kind(entry);
    if kind != 0 {
        encode_varint(ENTRY_KIND, out);
        encode_varint(kind, out);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use prost::Message as _;

    use super::*;
    use crate::types::{Birth, Server};

    fn entry() -> impl Strategy<Value = Entry> {
        let bytes = || proptest::collection::vec(any::<u8>(), 0..200).prop_map(Bytes::from);
        let payload = prop_oneof![
            Just(Payload::Noop),
            bytes().prop_map(Payload::Command),
            bytes().prop_map(Payload::Config),
        ];
        let id = (0u64..1 << 50, 0u64..1 << 50);
        (id, payload).prop_map(|((term, index), payload)| Entry {
            id: EntryId::new(term, index),
            payload,
        })
    }

    fn as_prost(append: &Append<'_>) -> pb::AppendEntriesRequest {
        let entries = append.entries.iter().map(|entry| pb::LogEntry {
            index: entry.id.index.0 as i64,
            term: entry.id.term.0 as i64,
            command: Bytes::copy_from_slice(entry.payload.bytes()),
            kind: kind(entry) as i32,
        });
        pb::AppendEntriesRequest {
            term: append.term.0 as i64,
            leader_id: append.from.0 as i64,
            prev_log_index: append.prev.index.0 as i64,
            prev_log_term: append.prev.term.0 as i64,
            entries: entries.collect(),
            leader_commit: append.commit.0 as i64,
            ..Default::default()
        }
    }

    proptest! {
        #[test]
        fn the_bytes_are_those_of_prost(
            entries in proptest::collection::vec(entry(), 0..6),
            numbers in any::<[u32; 5]>(),
        ) {
            let [from, term, prev_term, prev, commit] = numbers.map(|n| u64::from(n >> (n % 32)));
            let entries = Entries::from(entries);
            let append = Append {
                from: NodeId(from),
                term: Term(term),
                prev: EntryId::new(prev_term, prev),
                entries: &entries,
                commit: Index(commit),
            };
            let encoded = Encoded::new(&append);
            prop_assert_eq!(encoded.payload.len(), append.encoded_len());
            prop_assert_eq!(&encoded.payload[..], &as_prost(&append).encode_to_vec()[..]);
        }
    }

    #[test]
    fn followers_that_are_sent_the_same_share_a_payload_and_others_do_not() {
        let entries: Entries = [Entry {
            id: EntryId::new(2, 8),
            payload: Payload::Command(Bytes::from_static(b"command")),
        }]
        .into_iter()
        .collect();
        let to = |id, commit, entries: &Entries| Message {
            birth: Birth(1),
            from: Server::new(0, 1),
            to: Server::new(id, 1),
            term: Term(2),
            call: 0,
            lost_directory: false,
            body: Body::Append {
                prev: EntryId::new(2, 7),
                entries: entries.clone(),
                commit: Index(commit),
            },
        };
        let mut encoder = AppendEncoder::default();
        let mut payload = |message: &Message| {
            let mut prefix = Buffer::default();
            encoder
                .encode(&mut prefix, message, 1)
                .expect("one of entries")
        };
        let first = payload(&to(1, 7, &entries));
        let second = payload(&to(2, 7, &entries));
        assert_eq!(first.as_ptr(), second.as_ptr(), "encoded once");
        let later = payload(&to(2, 8, &entries));
        assert_ne!(first, later, "another commit index is another message");
        let equal: Entries = entries.iter().cloned().collect();
        let unshared = payload(&to(1, 8, &equal));
        assert_eq!(unshared, later, "encoded again, to the same bytes");
    }
}
