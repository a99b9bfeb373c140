//! What the pool gives back to the system, by the system's own account. A program of its own,
//! because it looks at the whole process.

#![cfg(not(mem_passthrough))]

use std::fs;
use std::thread;

use allocator_api2::vec::Vec as PoolVec;
use raftkv::mem::{self, Pool};

const MIB: usize = 1 << 20;
/// What the pool keeps without being told to trim (32 MiB of free spans), and what is free
/// in spans that are not.
const IDLE_BYTES_MAX: usize = 48 * MIB;

/// What the process holds that is in no file, in bytes.
fn anonymous_bytes() -> usize {
    let status = fs::read_to_string("/proc/self/status").expect("Linux tells");
    let line = status.lines().find(|line| line.starts_with("RssAnon:"));
    let kib = line.and_then(|line| line.split_whitespace().nth(1));
    let kib: usize = kib.and_then(|kib| kib.parse().ok()).expect("a figure");
    kib * 1024
}

fn block(bytes: usize) -> PoolVec<u8, Pool> {
    let mut block = PoolVec::with_capacity_in(bytes, Pool);
    block.resize(bytes, 7);
    block
}

#[test]
fn memory_that_is_freed_goes_back_to_the_system() {
    const HELD: usize = 256 * MIB;
    for (name, bytes) in [("large", 3 * MIB), ("medium", 20_000), ("small", 200)] {
        let mut blocks: Vec<Option<PoolVec<u8, Pool>>> = Vec::new();
        blocks.resize_with(HELD / bytes, || None);
        let before = anonymous_bytes();
        let held = || anonymous_bytes().saturating_sub(before);
        blocks.fill_with(|| Some(block(bytes)));
        assert!(
            held() >= HELD - 8 * MIB,
            "{name} blocks are there: {}",
            held()
        );
        thread::scope(|scope| {
            // By another thread, and in another order than they were made in.
            scope.spawn(|| {
                blocks.iter_mut().step_by(2).for_each(|block| *block = None);
                blocks.iter_mut().for_each(|block| *block = None);
            });
        });
        let by_itself = held();
        assert!(
            by_itself <= IDLE_BYTES_MAX,
            "{name} blocks go by themselves: {by_itself}"
        );
        mem::trim();
        let trimmed = held();
        assert!(
            trimmed <= 4 * MIB,
            "and the rest of {name} ones when told: {trimmed}"
        );
    }
}
