//! The store with 100,000 keys of 16 bytes and values of 100, and what it costs to apply
//! an entry to it.

use bytes::Bytes;
use raftkv::kv::skiplist::SkipList;
use raftkv::kv::{ClientId, Command, Identity, Outcome, SessionLimits, StateMachine, WriteOp};
use raftkv::types::{EntryId, Payload};

use super::{Numbers, Workload, repeated};

const KEYS: u64 = 100_000;
const VALUE: [u8; 100] = [b'v'; 100];

pub(super) const WORKLOADS: [Workload; 5] = [
    Workload::new("skiplist/get", 2_000, get),
    Workload::new("skiplist/overwrite", 2_000, overwrite),
    Workload::new("skiplist/insert and remove", 1_000, insert_and_remove),
    Workload::new("skiplist/apply update", 2_000, apply),
    Workload::new("skiplist/encode and read command", 2_000, command),
];

fn key(n: u64) -> Bytes {
    Bytes::from(format!("key-{n:012}"))
}

fn filled() -> SkipList {
    let mut store = SkipList::new();
    for n in 0..KEYS {
        store.insert_new(&key(n), &VALUE);
    }
    store
}

/// Keys in an order without locality.
fn some_keys() -> Vec<Bytes> {
    let mut numbers = Numbers::new();
    (0..4_096).map(|_| key(numbers.below(KEYS))).collect()
}

fn get() -> Box<dyn FnMut(u64)> {
    let (store, keys, mut at) = (filled(), some_keys(), 0);
    repeated(move || {
        at = (at + 1) % keys.len();
        store.get(&keys[at]).map(<[u8]>::len)
    })
}

fn overwrite() -> Box<dyn FnMut(u64)> {
    let (mut store, keys, mut at) = (filled(), some_keys(), 0);
    repeated(move || {
        at = (at + 1) % keys.len();
        store.upsert(&keys[at], &VALUE)
    })
}

fn insert_and_remove() -> Box<dyn FnMut(u64)> {
    let (mut store, keys, mut at) = (filled(), some_keys(), 0);
    repeated(move || {
        at = (at + 1) % keys.len();
        assert!(store.remove(&keys[at]));
        store.insert_new(&keys[at], &VALUE)
    })
}

/// A command to overwrite, of a session, is encoded and applied.
fn apply() -> Box<dyn FnMut(u64)> {
    let mut state = StateMachine::new(SessionLimits::default());
    let mut index = 0;
    let mut apply = move |command: &Command| {
        index += 1;
        let payload = Payload::Command(command.encode());
        state.apply(EntryId::new(1, index), &payload)
    };
    let open = Command::OpenSession {
        client: ClientId(1),
    };
    assert_eq!(apply(&open), Outcome::SessionOpened(1));
    for n in 0..KEYS {
        apply(&update(key(n), Identity::None));
    }
    let (keys, mut sequence) = (some_keys(), 0);
    repeated(move || {
        sequence += 1;
        let identity = Identity::Session {
            session: 1,
            sequence,
            acked_below: sequence,
        };
        let key = &keys[sequence as usize % keys.len()];
        apply(&update(key.clone(), identity))
    })
}

fn update(key: Bytes, identity: Identity) -> Command {
    let op = WriteOp::Update {
        key,
        value: Bytes::from_static(&VALUE),
    };
    Command::Write { identity, op }
}

fn command() -> Box<dyn FnMut(u64)> {
    let identity = Identity::Session {
        session: 1,
        sequence: 2,
        acked_below: 2,
    };
    let update = update(key(42), identity);
    repeated(move || {
        let bytes = std::hint::black_box(&update).encode();
        Command::read(&bytes).is_ok()
    })
}
