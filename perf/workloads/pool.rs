//! The pool's usual case, a block that is made and freed by one thread, and buffers.

use std::hint::black_box;

use allocator_api2::vec::Vec;
use raftkv::mem::{Buffer, Pool};

use super::{Workload, repeated};

pub(super) const WORKLOADS: [Workload; 4] = [
    Workload::new("pool/allocate and free 64 B", 10_000, || one_block(64)),
    Workload::new("pool/allocate and free 1 KiB", 10_000, || one_block(1_024)),
    Workload::new("pool/allocate and free 1000 of 64 B", 50, || blocks(1_000)),
    Workload::new("pool/buffer of 200 B, frozen", 5_000, buffer),
];

fn one_block(bytes: usize) -> Box<dyn FnMut(u64)> {
    repeated(move || drop(black_box(Vec::<u8, Pool>::with_capacity_in(bytes, Pool))))
}

/// More than a thread's cache keeps of the class at first: some come from below it.
fn blocks(count: usize) -> Box<dyn FnMut(u64)> {
    let mut held = std::vec::Vec::with_capacity(count);
    repeated(move || {
        held.extend((0..count).map(|_| Vec::<u8, Pool>::with_capacity_in(64, Pool)));
        held.clear();
    })
}

fn buffer() -> Box<dyn FnMut(u64)> {
    let part = [b'v'; 100];
    repeated(move || {
        let mut buffer = Buffer::with_capacity(200);
        buffer.extend_from_slice(black_box(&part));
        buffer.extend_from_slice(black_box(&part));
        buffer.freeze()
    })
}
