//! Steady work asks nobody for memory, once the store, the session table and the log are as
//! large as they stay: neither the global allocator nor, through the pool, the system. Here the
//! state machine by itself; in `raft_thread.rs` all that the raft thread does for a put and a get.

mod raft_thread;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use bytes::Bytes;
use raftkv::kv::{ClientId, Command, Identity, Outcome, SessionLimits, StateMachine, WriteOp};
use raftkv::mem;
use raftkv::types::{Payload, Term};

/// The system's allocator, which counts what each thread asks for.
struct Counting;

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

// SAFETY: the system's allocator does all of it; counting allocates nothing, since the
// counter is initialised at compile time and has no destructor.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.set(ALLOCATIONS.get() + 1);
        // SAFETY: as promised by the caller.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: as promised by the caller.
        unsafe { System.dealloc(block, layout) };
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, bytes: usize) -> *mut u8 {
        ALLOCATIONS.set(ALLOCATIONS.get() + 1);
        // SAFETY: as promised by the caller.
        unsafe { System.realloc(block, layout, bytes) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const KEYS: u64 = 20_000;
const LIMITS: SessionLimits = SessionLimits {
    implicit_window: 5_000,
    sessions_max: 16,
    idle_entries: 1_000_000,
    window: 64,
};

fn key(number: u64) -> [u8; 16] {
    let mut key = *b"key/00000000....";
    key[4..12].copy_from_slice(&number.wrapping_mul(0x9E37_79B9_7F4A_7C15).to_be_bytes());
    key
}

/// What the log would hand over: bytes that are shared already.
fn entry(op: WriteOp, sequence: u64) -> Payload {
    let identity = Identity::Implicit {
        client: ClientId(u128::from(sequence) << 64),
        sequence,
    };
    let mut buffer = mem::Buffer::new();
    buffer.extend_from_slice(&Command::Write { identity, op }.encode());
    Payload::Command(buffer.freeze())
}

/// For each key, by turns and in an order of its own in each round: an update, a put that
/// finds its key taken, or a remove and a put.
fn entries(round: u64) -> Vec<(Payload, Outcome)> {
    let mut entries = Vec::new();
    for number in 0..KEYS {
        let number = (number * 7_919 + round) % KEYS;
        let sequence = (round * KEYS + number) * 2;
        let key = Bytes::copy_from_slice(&key(number));
        let value = Bytes::from(vec![round as u8; 100]);
        match (number + round) % 3 {
            0 => {
                let update = WriteOp::Update { key, value };
                entries.push((entry(update, sequence), Outcome::Created));
            }
            1 => {
                let put = WriteOp::Put { key, value };
                entries.push((entry(put, sequence), Outcome::KeyExists));
            }
            _ => {
                let remove = WriteOp::Remove { key: key.clone() };
                entries.push((entry(remove, sequence), Outcome::Removed));
                let put = WriteOp::Put { key, value };
                entries.push((entry(put, sequence + 1), Outcome::Created));
            }
        }
    }
    entries
}

fn apply(machine: &mut StateMachine, entry: &Payload) -> Outcome {
    let mut id = machine.applied();
    id.index = id.index.next();
    id.term = Term(1);
    machine.apply(id, entry)
}

#[test]
fn writes_allocate_nothing_once_the_store_is_as_large_as_it_stays() {
    let mut machine = StateMachine::new(LIMITS);
    for number in 0..KEYS {
        let update = WriteOp::Update {
            key: Bytes::copy_from_slice(&key(number)),
            value: Bytes::from_static(&[0; 100]),
        };
        apply(&mut machine, &entry(update, number));
    }
    for (entry, outcome) in entries(1) {
        assert_eq!(apply(&mut machine, &entry), outcome);
    }
    let entries = entries(2);
    let keys: Vec<[u8; 16]> = (0..KEYS).map(key).collect();

    let (before, mapped_before) = (ALLOCATIONS.get(), mem::stats().mapped_bytes);
    for (entry, outcome) in &entries {
        assert_eq!(apply(&mut machine, entry), *outcome);
    }
    assert_eq!(ALLOCATIONS.get() - before, 0, "by writes");
    let found = keys.iter().filter(|key| machine.get_ref(*key).is_some());
    assert_eq!(found.count() as u64, KEYS);
    assert_eq!(ALLOCATIONS.get() - before, 0, "by looking at values");
    assert_eq!(mem::stats().mapped_bytes, mapped_before, "by the pool");
}
